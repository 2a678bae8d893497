//! What is written, and what `qemu-img` finds then.

use std::{fs, os::unix::fs::MetadataExt, sync::Arc};

use fsrv_blockimage::{Options, Zeroing};
use fsrv_transport::{
    mem::{InBuf, Pool},
    testing::engines,
};

use crate::lab::{KIB, Lab, MIB, on_both_engines, on_workers, open, read, same};

const SIZE: u64 = 4 * MIB;

/// Numbers without a pattern, always the same ones.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Makes an image of a kind, with something in it.
fn create(lab: &Lab, kind: &str) {
    let fill = ["write -P 1 0 3k", "write -P 2 100k 200k", "write -P 3 1m 2m", "write -z 2m 200k"];
    match kind {
        "backing" => {
            lab.create("base", &[], SIZE - 100_000);
            lab.qemu_io("base", &fill);
            lab.create("image", &["-F", "qcow2", "-b", "base"], SIZE);
        }
        "backing 0.10" => {
            lab.create("base", &[], SIZE - 100_000);
            lab.qemu_io("base", &fill);
            lab.create("image", &["-F", "qcow2", "-b", "base", "-o", "compat=0.10"], SIZE);
        }
        "compressed" => {
            lab.create("base", &[], SIZE);
            lab.qemu_io("base", &fill);
            let args = ["convert", "-c", "-f", "qcow2", "-O", "qcow2", "base", "image"];
            lab.run("qemu-img", &args);
        }
        "snapshot" => {
            lab.create("image", &[], SIZE);
            lab.qemu_io("image", &fill);
            lab.run("qemu-img", &["snapshot", "-c", "before", "image"]);
        }
        options => {
            lab.create("image", &["-o", options], SIZE);
            lab.qemu_io("image", &fill);
        }
    }
}

const KINDS: [&str; 12] = [
    "compat=1.1",
    "compat=0.10",
    "cluster_size=512",
    "cluster_size=512,refcount_bits=64",
    "cluster_size=2M",
    "refcount_bits=1",
    "preallocation=metadata",
    "data_file=data",
    "backing",
    "backing 0.10",
    "compressed",
    "snapshot",
];

/// Does all sorts of things to the image, and to a copy in memory.
async fn disturb(lab: &Lab, options: &Options, seed: u64) {
    let mut random = Random(seed);
    let disk = open(options).await.unwrap();
    let mut model = lab.read_all(&disk).await;
    for round in 1..=100_u8 {
        let size = model.len() as u64;
        let offset = random.below(size);
        let len = match random.below(3) {
            0 => random.below(1000) + 1,
            1 => random.below(100_000) + 1,
            _ => (random.below(16) + 1) * 4 * KIB,
        };
        let offset = if random.below(2) == 0 { offset & !4095 } else { offset };
        let end = (offset + len).min(size);
        let range = offset as usize..end as usize;
        match random.below(16) {
            0..9 => {
                let written = lab.write(&disk, offset, &vec![round; len as usize]).await.unwrap();
                assert_eq!(written, range.len());
                model[range].fill(round);
            }
            9 => {
                disk.zero(offset, len, Zeroing::Free).await.unwrap();
                model[range].fill(0);
            }
            10 => {
                disk.zero(offset, len * 10, Zeroing::Free).await.unwrap();
                let end = (offset + len * 10).min(size) as usize;
                model[offset as usize..end].fill(0);
            }
            11 => {
                disk.zero(offset, len, Zeroing::Keep).await.unwrap();
                model[range].fill(0);
            }
            12 => disk.flush().await.unwrap(),
            13 => {
                let new = (size - random.below(size / 4)) & !511;
                disk.set_len(new).await.unwrap();
                model.truncate(new as usize);
            }
            14 => {
                let new = (size + random.below(300_000)).min(SIZE + 4 * MIB);
                disk.grow(new, random.below(2) == 0).await.unwrap();
                model.resize(model.len().max(new as usize), 0);
            }
            _ => {
                let len = range.len();
                same(&lab.read(&disk, offset, len).await.unwrap(), &model[range]);
            }
        }
        assert_eq!(disk.len(), model.len() as u64);
    }
    same(&lab.read_all(&disk).await, &model);
    disk.flush().await.unwrap();
    drop(disk);
    lab.check("image");
    model.resize(model.len().next_multiple_of(512), 0);
    same(&lab.content("image"), &model);
}

#[test]
fn an_image_of_any_kind_is_what_was_written() {
    on_both_engines(async |lab: Lab| {
        for kind in KINDS {
            for seed in 1..=2 {
                create(&lab, kind);
                let options = Options { writable: true, ..lab.options("image") };
                println!("{kind}, {seed}");
                disturb(&lab, &options, seed * 7919).await;
                let options = Options { direct: true, ..options };
                if !kind.contains("=512") {
                    disturb(&lab, &options, seed * 104_729).await;
                }
            }
        }
    });
}

#[test]
fn a_length_is_a_number_of_sectors() {
    on_both_engines(async |lab: Lab| {
        lab.create("image", &[], MIB);
        let disk = lab.open_writable("image").await;
        let refused = disk.set_len(MIB + 1).await.unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(22));
        // Who appends counts in bytes.
        for len in [MIB + 1, MIB + 100] {
            disk.grow(len, false).await.unwrap();
            assert_eq!(disk.len(), len);
            disk.set_len(len).await.unwrap();
        }
        lab.write(&disk, MIB + 99, &[5, 5]).await.unwrap();
        let huge = disk.grow(u64::MAX, false).await.unwrap_err();
        assert_eq!(huge.raw_os_error(), Some(27));
        disk.flush().await.unwrap();
        drop(disk);
        lab.check("image");
        let content = lab.content("image");
        assert_eq!((content.len() as u64, content[MIB as usize + 99]), (MIB + 512, 5));
        assert_eq!(content[MIB as usize + 100..], [0; 412]);
    });
}

/// tmpfs knows no ZERO_RANGE.
#[test]
fn a_range_that_is_zeroed_in_memory_does_not_fill_it() {
    on_both_engines(async |_| {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("raw");
        fs::File::create(&path).unwrap().set_len(256 * MIB).unwrap();
        let options = Options {
            path: path.clone(),
            format: Some(fsrv_blockimage::Format::Raw),
            writable: true,
            direct: false,
            allow_backing: Vec::new(),
        };
        let disk = open(&options).await.unwrap();
        let pool = Pool::new();
        disk.write(InBuf::copied(&pool, &[1; 4096]), MIB).await.unwrap();
        disk.zero(0, 256 * MIB, Zeroing::Keep).await.unwrap();
        assert_eq!(read(&disk, &pool, MIB, 4096).await.unwrap(), [0; 4096]);
        assert!(fs::metadata(&path).unwrap().blocks() < 2048);
    });
}

#[test]
fn a_snapshot_keeps_what_it_has() {
    on_both_engines(async |lab: Lab| {
        create(&lab, "snapshot");
        let before = lab.content("image");
        let disk = lab.open_writable("image").await;
        lab.write(&disk, 0, &[9; 3 * MIB as usize]).await.unwrap();
        disk.zero(3 * MIB, MIB, Zeroing::Free).await.unwrap();
        disk.flush().await.unwrap();
        drop(disk);
        lab.check("image");
        lab.run("qemu-img", &["snapshot", "-a", "before", "image"]);
        lab.check("image");
        same(&lab.content("image"), &before);
    });
}

#[test]
fn workers_write_a_thin_image_at_once() {
    const WORKERS: usize = 4;
    for engine in engines() {
        for (options, direct) in [("cluster_size=4k", false), ("cluster_size=64k", true)] {
            let lab = Lab::new();
            lab.create("image", &["-o", options], 64 * MIB);
            let options = Options { writable: true, direct, ..lab.options("image") };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let disk = Arc::new(runtime.unwrap().block_on(open(&options)).unwrap());
            on_workers(engine, WORKERS, &disk, async |disk, number| {
                let pool = Pool::new();
                let mut random = Random(number as u64 + 1);
                for round in 0..200 {
                    // Each has every fourth block; they share clusters.
                    let block = random.below(16 << 10) & !3 | number as u64;
                    let data = InBuf::copied(&pool, &[number as u8 + 1; 4096]);
                    assert_eq!(disk.write(data, block * 4096).await.unwrap(), 4096);
                    if round % 50 == 17 {
                        disk.flush().await.unwrap();
                    }
                    let seen = read(&disk, &pool, block * 4096, 4096).await.unwrap();
                    assert_eq!(seen, [number as u8 + 1; 4096]);
                    if round % 20 == 19 {
                        disk.zero(block * 4096, 4096, Zeroing::Free).await.unwrap();
                    }
                }
                disk.flush().await.unwrap();
            });
            drop(disk);
            lab.check("image");
            let content = lab.content("image");
            for (block, bytes) in content.chunks(4096).enumerate() {
                let byte = bytes[0];
                assert!(byte == 0 || usize::from(byte) == block % WORKERS + 1, "{block}: {byte}");
                assert!(bytes.iter().all(|&other| other == byte), "{block}");
            }
        }
    }
}

#[test]
fn what_is_discarded_gives_its_space_back() {
    on_both_engines(async |lab: Lab| {
        for options in ["compat=1.1", "compat=0.10", "data_file=data"] {
            lab.create("image", &["-o", options], 16 * MIB);
            let disk = lab.open_writable("image").await;
            lab.write(&disk, 0, &[1; 8 * MIB as usize]).await.unwrap();
            disk.flush().await.unwrap();
            let before = disk.stat().await.unwrap().allocated;
            disk.zero(MIB, 6 * MIB, Zeroing::Free).await.unwrap();
            disk.flush().await.unwrap();
            assert!(disk.stat().await.unwrap().allocated <= before - 5 * MIB, "{options}");
            disk.set_len(MIB).await.unwrap();
            assert!(disk.stat().await.unwrap().allocated <= before - 6 * MIB, "{options}");
            drop(disk);
        }
    });
}

#[test]
fn an_empty_disk_of_any_size_is_discarded_and_shrunk_at_once() {
    on_both_engines(async |lab: Lab| {
        lab.create("image", &[], 1 << 50);
        let disk = lab.open_writable("image").await;
        disk.zero(0, 1 << 50, Zeroing::Free).await.unwrap();
        disk.zero(0, 1 << 50, Zeroing::Keep).await.unwrap();
        lab.write(&disk, 1 << 49, &[1; 4096]).await.unwrap();
        disk.set_len(1 << 40).await.unwrap();
        disk.set_len(1 << 50).await.unwrap();
        assert_eq!(lab.read(&disk, 1 << 49, 4096).await.unwrap(), [0; 4096]);
        disk.flush().await.unwrap();
        drop(disk);
        lab.check("image");
        assert!(fs::metadata(lab.path("image")).unwrap().blocks() * 512 < 20 * MIB);
    });
}

#[test]
fn an_image_grows_beyond_its_tables() {
    on_both_engines(async |lab: Lab| {
        lab.create("image", &["-o", "cluster_size=512"], 64 * KIB);
        let disk = lab.open_writable("image").await;
        for size in [MIB, 64 * MIB, 4096 * MIB] {
            disk.grow(size, false).await.unwrap();
            lab.write(&disk, size - 4096, &[7; 4096]).await.unwrap();
        }
        let seen = lab.read(&disk, MIB - 4097, 4098).await.unwrap();
        assert_eq!((seen[0], &seen[1..4097], seen[4097]), (0, &[7; 4096][..], 0));
        let huge = disk.grow(1 << 60, false).await.unwrap_err();
        assert_eq!(huge.raw_os_error(), Some(27));
        disk.flush().await.unwrap();
        drop(disk);
        lab.check("image");
        lab.run("qemu-io", &["-f", "qcow2", "-c", "read -P 7 4194300k 4k", "image"]);
    });
}

#[test]
fn what_a_map_relies_on_is_checked_before_it_is_changed() {
    use std::os::unix::fs::FileExt;
    on_both_engines(async |lab: Lab| {
        for (table, says) in [(40, "L1 entry"), (48, "refcount table")] {
            lab.create("image", &["-o", "preallocation=metadata,cluster_size=512"], MIB);
            let file = fs::File::options().read(true).write(true).open(lab.path("image")).unwrap();
            let mut number = [0; 8];
            file.read_exact_at(&mut number, table).unwrap();
            let at = u64::from_be_bytes(number);
            file.read_exact_at(&mut number, at).unwrap();
            file.write_all_at(&number, at + 8).unwrap();
            let options = Options { writable: true, ..lab.options("image") };
            let said = lab.refusal(&options).await;
            assert!(said.contains(says) && said.contains("qemu-img check"), "{said}");
        }
    });
}

/// What the image's file is for the host: its length, and what it takes.
fn size(lab: &Lab) -> (u64, u64) {
    let meta = fs::metadata(lab.path("image")).unwrap();
    (meta.len(), meta.blocks() * 512)
}

/// Each kind of images whose clusters are freed.
const FREEING: [&str; 6] = [
    "compat=1.1",
    "compat=0.10",
    "cluster_size=512",
    "compat=0.10,cluster_size=512",
    "cluster_size=2M",
    "refcount_bits=1",
];

#[test]
fn what_is_discarded_is_used_again() {
    on_both_engines(async |lab: Lab| {
        for options in FREEING {
            lab.create("image", &["-o", options], 64 * MIB);
            let disk = lab.open_writable("image").await;
            for round in 0..7 {
                let at = round * 8 * MIB;
                lab.write(&disk, at, &[1; 2 * MIB as usize]).await.unwrap();
                if round % 3 != 2 {
                    disk.flush().await.unwrap();
                }
                if round % 2 == 0 {
                    // Zeroes that keep their space, which a hole then frees.
                    disk.zero(at, 2 * MIB, Zeroing::Keep).await.unwrap();
                }
                disk.zero(at, 2 * MIB, Zeroing::Free).await.unwrap();
                if round % 3 != 0 {
                    disk.flush().await.unwrap();
                }
            }
            disk.flush().await.unwrap();
            let (len, allocated) = size(&lab);
            let more = if options.contains("=2M") { 8 * MIB } else { 0 };
            assert!(len < 5 * MIB + more, "{options}: {len}");
            // What is smaller than a block of the host is not given back.
            let most = if options.contains("=512") { 4 * MIB } else { MIB };
            assert!(allocated < most + more, "{options}: {allocated}");
            drop(disk);
            lab.check("image");
            assert!(lab.content("image").iter().all(|&byte| byte == 0));
        }
    });
}

#[test]
fn what_is_cut_off_is_used_again() {
    on_both_engines(async |lab: Lab| {
        for options in FREEING {
            lab.create("image", &["-o", options], 8 * MIB);
            let disk = lab.open_writable("image").await;
            for round in 0..3 {
                lab.write(&disk, 4 * MIB, &[1; 4 * MIB as usize]).await.unwrap();
                if round % 2 == 0 {
                    disk.zero(4 * MIB, 4 * MIB, Zeroing::Keep).await.unwrap();
                }
                disk.set_len(4 * MIB).await.unwrap();
                let (_, allocated) = size(&lab);
                // Tables of two clusters.
                let more = if options.contains("=2M") { 8 * MIB } else { 0 };
                assert!(allocated < MIB + more, "{options}: {allocated}");
                disk.set_len(8 * MIB).await.unwrap();
                assert_eq!(lab.read(&disk, 6 * MIB, 4096).await.unwrap(), [0; 4096]);
            }
            disk.flush().await.unwrap();
            assert!(size(&lab).0 < 16 * MIB, "{options}: {:?}", size(&lab));
            drop(disk);
            lab.check("image");
        }
    });
}

#[test]
fn random_writes_and_trims_stay_small() {
    on_both_engines(async |lab: Lab| {
        for options in ["cluster_size=64k", "cluster_size=4k", "compat=0.10,cluster_size=4k"] {
            lab.create("image", &["-o", options], 1024 * MIB);
            let disk = lab.open_writable("image").await;
            let mut random = Random(7);
            for _ in 0..300 {
                let at = random.below(16_000) * 64 * KIB;
                lab.write(&disk, at + random.below(8) * 4 * KIB, &[1; 4096]).await.unwrap();
                disk.zero(at, 64 * KIB, Zeroing::Free).await.unwrap();
            }
            disk.flush().await.unwrap();
            let (len, allocated) = size(&lab);
            assert!(len < 3 * MIB + 300 * 16 * KIB && allocated < 3 * MIB, "{len} {allocated}");
            drop(disk);
            lab.check("image");
        }
    });
}

/// As QEMU does it: zeroes are written, for a hole would show what is below.
#[test]
fn version_2_over_a_backing_file_frees_nothing_that_is_seen() {
    on_both_engines(async |lab: Lab| {
        lab.create("base", &[], 8 * MIB);
        lab.qemu_io("base", &["write -P 5 0 8M"]);
        lab.create("image", &["-F", "qcow2", "-b", "base", "-o", "compat=0.10"], 8 * MIB);
        let disk = lab.open_writable("image").await;
        lab.write(&disk, 0, &[1; 4 * MIB as usize]).await.unwrap();
        disk.zero(MIB, 5 * MIB, Zeroing::Free).await.unwrap();
        assert_eq!(lab.read(&disk, MIB, 4096).await.unwrap(), [0; 4096]);
        disk.set_len(2 * MIB).await.unwrap();
        disk.set_len(8 * MIB).await.unwrap();
        disk.flush().await.unwrap();
        drop(disk);
        lab.check("image");
        let mut expected = vec![0; 8 * MIB as usize];
        expected[..MIB as usize].fill(1);
        same(&lab.content("image"), &expected);
    });
}

/// The refcount table moves several times while tables are copied from a snapshot.
#[test]
fn nothing_is_leaked_beside_a_snapshot_in_small_clusters() {
    on_both_engines(async |lab: Lab| {
        for options in ["cluster_size=512,refcount_bits=64"] {
            lab.create("image", &["-o", options], 12 * MIB);
            lab.qemu_io("image", &["write -P 5 0 512k", "write -P 5 6M 512k"]);
            lab.run("qemu-img", &["snapshot", "-c", "before", "image"]);
            let disk = lab.open_writable("image").await;
            let mut random = Random(11);
            for round in 0..150_u64 {
                let at = random.below(12 * 1024 - 40) * KIB;
                let len = 16 * KIB as usize;
                lab.write(&disk, at, &vec![round as u8 | 1; len]).await.unwrap();
                if round % 7 == 0 {
                    disk.zero(at + 4 * KIB, 32 * KIB, Zeroing::Free).await.unwrap();
                }
                if round % 40 == 39 {
                    disk.flush().await.unwrap();
                }
            }
            disk.flush().await.unwrap();
            drop(disk);
            lab.check("image");
            lab.run("qemu-img", &["snapshot", "-a", "before", "image"]);
            lab.check("image");
            let mut expected = vec![0; 12 * MIB as usize];
            expected[..512 << 10].fill(5);
            expected[6 << 20..13 << 19].fill(5);
            same(&lab.content("image"), &expected);
            // What only the snapshot had is free with it.
            lab.run("qemu-img", &["snapshot", "-d", "before", "image"]);
            lab.check("image");
        }
    });
}

/// Bytes that this process has read.
fn bytes_read() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let read = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    read.unwrap().parse().unwrap()
}

#[test]
fn a_flush_does_not_read_its_tables_back() {
    on_both_engines(async |lab: Lab| {
        lab.create("image", &["-o", "cluster_size=2M"], 1024 * MIB);
        let disk = lab.open_writable("image").await;
        lab.write(&disk, 0, &[1; 4096]).await.unwrap();
        disk.flush().await.unwrap();
        let before = bytes_read();
        for round in 1..40 {
            lab.write(&disk, round * 4 * MIB, &[1; 4096]).await.unwrap();
            disk.flush().await.unwrap();
        }
        // Two blocks of 2 MiB each time would be 160 MiB.
        let read = bytes_read() - before;
        assert!(read < 16 * MIB, "{read}");
        drop(disk);
        lab.check("image");
    });
}

/// Counts syncs.
#[derive(Default)]
struct Syncs(std::sync::atomic::AtomicU64);

impl fsrv_blockimage::Probe for Syncs {
    fn before(&self, op: &fsrv_blockimage::HostOp) -> std::io::Result<u64> {
        if *op == fsrv_blockimage::HostOp::Sync {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(0)
    }

    fn after(&self, _: u64, _: bool) {}
}

#[test]
fn flushes_at_once_share_their_syncs() {
    const WRITERS: u64 = 16;
    const ROUNDS: u64 = 8;
    on_both_engines(async |lab: Lab| {
        for format in [fsrv_blockimage::Format::Raw, fsrv_blockimage::Format::Qcow2] {
            lab.create("image", &[], 1024 * MIB);
            if format == fsrv_blockimage::Format::Raw {
                fs::File::create(lab.path("image")).unwrap().set_len(1024 * MIB).unwrap();
            }
            let options = Options { writable: true, format: Some(format), ..lab.options("image") };
            let syncs = Arc::new(Syncs::default());
            let disk = fsrv_blockimage::Disk::open_probed(&options, syncs.clone()).await.unwrap();
            let writer = async |number: u64| {
                let pool = Pool::new();
                for round in 0..ROUNDS {
                    let at = (round * WRITERS + number) * 4 * MIB;
                    let data = InBuf::copied(&pool, &[number as u8 + 1; 4096]);
                    disk.write(data, at).await.unwrap();
                    disk.flush().await.unwrap();
                }
            };
            futures::future::join_all((0..WRITERS).map(writer)).await;
            let syncs = syncs.0.load(std::sync::atomic::Ordering::Relaxed);
            // Each for itself: 128, and with tables 256.
            assert!(syncs <= WRITERS * ROUNDS / 2, "{format}: {syncs}");
            assert_eq!(lab.read(&disk, (WRITERS + 3) * 4 * MIB, 1).await.unwrap(), [4]);
        }
    });
}
