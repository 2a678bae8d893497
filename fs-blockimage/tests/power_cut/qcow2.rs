//! qcow2 images: what is acknowledged is there, and the tables are sound.

use std::{fs, path::Path};

use fsrv_blockimage::{Disk, Format, HostOp, Options};
use tempfile::TempDir;

use crate::{
    cuts::{Image, Kind, Plan, Run, cut_power},
    faults::{fail, fill},
    qemu_img,
    seed::Seed,
    workload::{Workload, read_all},
};

/// One way to lay an image out.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Of `qemu-img create -o`.
    options: &'static str,
    /// What is in it, or below it, before.
    holds: Holds,
    len: usize,
    len_max: u64,
    /// How much of what is done is to zero something, in percent.
    zeroing: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holds {
    Data,
    Compressed,
    /// Data that a snapshot holds too.
    Snapshot,
    /// Nothing, over a backing file that is a little shorter.
    Backing,
}

/// What stresses an image most: clusters so small that an L2 table has 64 entries, more tables than imago's caches have
/// room for, and a refcount table and an L1 table that must grow.
const SMALL: Layout = Layout {
    options: "cluster_size=512",
    holds: Holds::Data,
    len: 6 << 20,
    len_max: 8 << 20,
    zeroing: 15,
};

const MEDIUM: Layout = Layout {
    options: "cluster_size=4k",
    holds: Holds::Data,
    len: 3 << 20,
    len_max: 4 << 20,
    zeroing: 15,
};

impl Kind for Layout {
    fn workload(&self, seed: u64) -> Workload {
        Workload {
            seed,
            tasks: 6,
            ops: 40,
            zeroing: self.zeroing,
            write_max: 256 << 10,
            len_max: self.len_max,
            // QEMU leaves out the rest.
            len_step: 512,
        }
    }

    fn create(&self, seed: u64) -> Image {
        // On a disk, where syncs take time in which others write.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("image");
        let mut content = content(self.len, seed);
        if self.holds == Holds::Backing {
            let backing = dir.path().join("backing");
            content[self.len - 100_000..].fill(0);
            fs::write(&backing, &content[..self.len - 100_000]).unwrap();
            qemu_img::create_over(&backing, &path, self.options, self.len);
        } else {
            let compressed = self.holds == Holds::Compressed;
            qemu_img::create(&path, self.options, &content, compressed);
        }
        if self.holds == Holds::Snapshot {
            qemu_img::snapshot(&path);
        }
        let options = Options {
            path,
            format: Some(Format::Qcow2),
            writable: true,
            direct: false,
            allow_backing: vec![dir.path().to_owned()],
        };
        Image { _dir: dir, options, content }
    }

    fn closed(&self, image: &Image) {
        // Not even clusters that nobody uses.
        assert_eq!(qemu_img::check(&image.options.path), Ok(0));
    }

    fn content(&self, image: &Image, left: Vec<u8>, seed: &mut Seed) -> Result<Vec<u8>, String> {
        let dir = scratch();
        let path = dir.path().join("image");
        fs::write(&path, left).unwrap();
        qemu_img::check(&path)?;
        if self.holds == Holds::Snapshot && seed.in_percent(20) {
            let kept = qemu_img::read(&path, Some("snapshot"))?;
            // It reads with the length that the image has now.
            let differs = kept.iter().zip(&image.content).position(|(one, other)| one != other);
            if kept.len() < image.content.len() || differs.is_some() {
                return Err(format!(
                    "the snapshot has {} bytes, and another {differs:?}",
                    kept.len()
                ));
            }
        }
        let content = qemu_img::read(&path, None)?;
        if seed.in_percent(20) {
            let own = read_own(&Options { path, writable: false, ..image.options.clone() })?;
            if own != content {
                return Err("it reads otherwise than with QEMU".into());
            }
        }
        Ok(content)
    }
}

fn read_own(options: &Options) -> Result<Vec<u8>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let disk = Disk::open(options).await.map_err(|error| error.to_string())?;
        read_all(&disk).await.map_err(|error| error.to_string())
    })
}

/// A directory for what is looked at once: in memory where there is room.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let in_memory = memory.is_dir().then(|| tempfile::tempdir_in(memory).ok()).flatten();
    in_memory.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

/// Pieces of data that can be compressed, and holes.
fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut seed = Seed::part(seed, u64::MAX);
    let mut content = vec![0; len];
    let mut at = 0;
    while at < len {
        let end = (at + seed.len(128 << 10) as usize).min(len);
        if seed.in_percent(50) {
            for sector in content[at..end].chunks_mut(512) {
                let word = seed.bytes(16);
                sector.iter_mut().zip(word.iter().cycle()).for_each(|(to, from)| *to = *from);
            }
        }
        at = end;
    }
    content
}

mod what_was_flushed_is_there_after_a_power_cut {
    use super::*;

    #[test]
    fn in_the_smallest_clusters() {
        cut_power(&SMALL, Plan::here());
    }

    /// What is freed, used again and given back to the host.
    fn while_freeing(options: &'static str, holds: Holds) {
        cut_power(&Layout { options, holds, zeroing: 45, ..MEDIUM }, Plan::here());
    }

    #[test]
    fn while_clusters_are_freed() {
        while_freeing("cluster_size=4k", Holds::Data);
    }

    #[test]
    fn while_clusters_are_freed_in_version_2() {
        while_freeing("compat=0.10,cluster_size=4k", Holds::Data);
    }

    #[test]
    fn while_clusters_are_freed_beside_a_snapshot() {
        while_freeing("cluster_size=4k", Holds::Snapshot);
    }

    #[test]
    fn while_clusters_are_freed_beside_a_snapshot_in_version_2() {
        sampled(Layout {
            options: "compat=0.10,cluster_size=4k",
            holds: Holds::Snapshot,
            zeroing: 45,
            ..MEDIUM
        });
    }

    fn sampled(layout: Layout) {
        cut_power(&layout, Plan::sample());
    }

    #[test]
    fn in_clusters_of_4_kib() {
        sampled(MEDIUM);
    }

    #[test]
    fn in_clusters_of_64_kib() {
        sampled(Layout { options: "cluster_size=64k", ..MEDIUM });
    }

    #[test]
    fn in_the_largest_clusters() {
        sampled(Layout { options: "cluster_size=2M", ..SMALL });
    }

    #[test]
    fn in_version_2() {
        sampled(Layout { options: "compat=0.10,cluster_size=4k", ..MEDIUM });
    }

    #[test]
    fn over_a_backing_file() {
        sampled(Layout { holds: Holds::Backing, ..MEDIUM });
    }

    #[test]
    fn beside_a_snapshot() {
        sampled(Layout { holds: Holds::Snapshot, ..MEDIUM });
    }

    #[test]
    fn beside_a_snapshot_in_the_smallest_clusters() {
        sampled(Layout { holds: Holds::Snapshot, ..SMALL });
    }

    #[test]
    fn over_compressed_clusters() {
        sampled(Layout { holds: Holds::Compressed, ..MEDIUM });
    }

    #[test]
    fn with_refcounts_of_1_bit() {
        sampled(Layout { options: "cluster_size=4k,refcount_bits=1", ..MEDIUM });
    }

    /// The refcount table grows several times.
    #[test]
    fn with_refcounts_of_64_bits() {
        sampled(Layout { options: "cluster_size=512,refcount_bits=64", ..SMALL });
    }

    #[test]
    fn in_allocated_clusters() {
        sampled(Layout { options: "cluster_size=4k,preallocation=full", ..MEDIUM });
    }

    /// All tables grow from one cluster on.
    #[test]
    fn in_an_image_that_grows() {
        let options = "cluster_size=512,refcount_bits=64";
        sampled(Layout { options, len: 64 << 10, len_max: 6 << 20, ..SMALL });
    }
}

#[test]
fn a_failing_host_is_reported_and_changes_nothing_else() {
    fail(&SMALL);
}

#[test]
fn a_full_host_is_reported_and_changes_nothing_else() {
    fill(&MEDIUM);
}

#[test]
fn syncs_that_do_not_reach_the_disk_are_found() {
    let mut run = Run::record(&SMALL, 0);
    run.log.host.retain(|op| op.op != HostOp::Sync);
    let found = (0..20).filter(|part| run.cut(&SMALL, part * run.log.now / 20).is_err());
    assert!(found.count() > 10);
}
