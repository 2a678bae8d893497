//! What the tables say.

use std::time::{Duration, Instant};

use fsrv_blockimage::Zeroing;

use crate::{
    image::*,
    lab::{Lab, in_lab},
};

const BITS: u32 = 12;

/// An image with this change.
fn with(change: impl FnOnce(&mut Image)) -> Image {
    let mut image = Image::new(BITS);
    change(&mut image);
    image
}

/// A cluster as an entry has it.
fn own(cluster: u64) -> u64 {
    cluster << BITS | COPIED
}

#[test]
fn refcounts_that_would_have_metadata_overwritten_are_refused() {
    in_lab(async |lab: Lab| {
        let zero = |image: &mut Image, cluster: u64| {
            let at = image.at(REFBLOCK) + 2 * cluster as usize;
            image.bytes[at..at + 2].fill(0);
        };
        for cluster in [0, REFTABLE, REFBLOCK, L1, L2] {
            let image = with(|image| zero(image, cluster));
            lab.is_not_written(&image, "qemu-img check -r all").await;
        }
        let none = with(|image| image.reftable(0, 0));
        lab.is_not_written(&none, "qemu-img check -r all").await;
        let empty = with(|image| image.put32(REFTABLE_CLUSTERS, 0));
        lab.is_not_written(&empty, "refcount table").await;
    });
}

#[test]
fn tables_that_share_clusters_are_not_written() {
    in_lab(async |lab: Lab| {
        for cluster in [0_u64, REFTABLE, REFBLOCK, L1, L2] {
            if cluster != 0 {
                let block = with(|image| image.reftable(1, cluster << BITS));
                lab.is_not_written(&block, "qemu-img check -r all").await;
            }
            if cluster != 0 {
                let table = with(|image| {
                    image.put32(L1_ENTRIES, 2);
                    image.l1(1, own(cluster));
                });
                lab.is_not_written(&table, "qemu-img check -r all").await;
            }
        }
        for (offset, says) in [(L1_OFFSET, "L1 table"), (REFTABLE_OFFSET, "refcount table")] {
            let image = with(|image| image.put64(offset, 0));
            lab.put("image", &image.bytes);
            let options = fsrv_blockimage::Options { writable: true, ..lab.options("image") };
            let said = lab.refusal(&options).await;
            assert!(said.contains(says) || said.contains("entr"), "{said}");
        }
    });
}

#[test]
fn blocks_of_refcounts_outside_of_the_image_are_not_followed() {
    in_lab(async |lab: Lab| {
        for entry in [99 << BITS, 1 << 40, 1 << 56, (1 << 63) + (2 << BITS)] {
            let image = with(|image| image.reftable(1, entry));
            lab.is_not_written(&image, "qemu-img check -r all").await;
        }
        for entry in [1, 3 << 9, (REFBLOCK << BITS) + 512] {
            let image = with(|image| image.reftable(1, entry));
            lab.is_not_written(&image, "").await;
        }
    });
}

#[test]
fn full_refcounts_do_not_keep_a_write_for_ever() {
    in_lab(async |lab: Lab| {
        let image = with(|image| {
            let block = image.at(REFBLOCK)..image.at(REFBLOCK + 1);
            image.bytes[block].fill(0xff);
            (0..512).for_each(|index| image.reftable(index, REFBLOCK << BITS));
        });
        lab.is_not_written(&image, "qemu-img check -r all").await;
    });
}

#[test]
fn data_that_lies_on_metadata_is_neither_read_nor_written() {
    in_lab(async |lab: Lab| {
        for cluster in [0, REFTABLE, REFBLOCK, L1, L2] {
            // An entry of 0 is none at all.
            let entry = if cluster == 0 { 1 << 62 | 16 } else { own(cluster) };
            let image = with(|image| image.l2(5, entry));
            let disk = lab.open(&image.bytes, true).await;
            assert!(lab.write(&disk, 5 << BITS, &[7; 4096]).await.is_err(), "{cluster}");
            assert!(disk.zero(5 << BITS, 1 << BITS, Zeroing::Free).await.is_err(), "{cluster}");
            let _ = disk.flush().await;
            drop(disk);
            let after = std::fs::read(lab.path("image")).unwrap();
            for cluster in [0, REFTABLE, REFBLOCK, L1, L2] {
                let range = image.at(cluster)..image.at(cluster + 1);
                assert!(after[range.clone()] == image.bytes[range], "{cluster} is changed");
            }
        }
    });
}

#[test]
fn entries_that_are_not_valid_are_errors() {
    in_lab(async |lab: Lab| {
        for entry in [own(DATA) | 512, own(DATA) | 1 << 56, own(DATA) | 2, 1 << 63 | 1 << 62] {
            let image = with(|image| image.l2(5, entry));
            let disk = lab.open(&image.bytes, true).await;
            assert!(lab.read(&disk, 5 << BITS, 4096).await.is_err(), "{entry:#x}");
            assert!(lab.write(&disk, 5 << BITS, &[7; 4096]).await.is_err(), "{entry:#x}");
        }
        for entry in [own(L2) | 512, own(L2) | 1 << 56, own(L2) | 2] {
            let image = with(|image| image.l1(0, entry));
            lab.is_refused(&image.bytes, "").await;
        }
    });
}

#[test]
fn a_place_far_behind_the_end_makes_no_image_of_petabytes() {
    in_lab(async |lab: Lab| {
        for (bits, order) in [(9, 4), (21, 0)] {
            let mut image = Image::with_refcounts(bits, order);
            image.l2(5, ((1 << 56) - (1 << bits)) | COPIED);
            let disk = lab.open(&image.bytes, true).await;
            let _ = lab.write(&disk, 5 << bits, &vec![7; 2 << bits]).await;
            let _ = disk.flush().await;
            assert!(std::fs::metadata(lab.path("image")).unwrap().len() < 1 << 40);
        }
    });
}

#[test]
fn a_sparse_disk_of_exabytes_is_searched_in_no_time() {
    in_lab(async |lab: Lab| {
        let image = exabytes();
        lab.put("image", &image.bytes);
        let file = std::fs::File::options().write(true).open(lab.path("image")).unwrap();
        file.set_len(128 << 20).unwrap();
        let disk = fsrv_blockimage::Disk::open(&lab.options("image")).await.unwrap();
        let began = Instant::now();
        disk.next_data(8 << 21).await.unwrap();
        disk.next_hole(8 << 21).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    });
}

/// All L1 entries that there can be; each has the same table, in which nothing is.
fn exabytes() -> Image {
    const ENTRIES: u64 = 4 << 20;
    let mut image = Image::new(21);
    image.put64(SIZE, ENTRIES << 39);
    image.put32(L1_ENTRIES, ENTRIES as u32);
    let at = image.bytes.len();
    image.put64(L1_OFFSET, at as u64);
    let empty = (30 << 21 | COPIED).to_be_bytes();
    image.bytes.extend(empty.iter().cycle().take(8 * ENTRIES as usize));
    image
}

#[test]
fn data_does_not_lie_on_what_becomes_metadata() {
    in_lab(async |lab: Lab| {
        // What the second L1 entry is for. The first cluster that is free becomes the table for it, and the first table
        // says that there is data.
        let second = ((1 << BITS) / 8) << BITS;
        let image = with(|image| {
            let free = (image.bytes.len() >> BITS) as u64;
            image.put32(L1_ENTRIES, 2);
            image.put64(SIZE, 2 * second);
            image.l2(0, own(free));
        });
        for (is_loaded, is_flushed) in [(false, false), (false, true), (true, false), (true, true)]
        {
            let disk = lab.open(&image.bytes, true).await;
            if is_loaded {
                let _ = lab.read(&disk, 0, 512).await;
            }
            lab.write(&disk, second, &[1; 4096]).await.unwrap();
            if is_flushed {
                disk.flush().await.unwrap();
            }
            let refused = lab.write(&disk, 0, &[2; 4096]).await.unwrap_err().to_string();
            let says = if is_loaded { "where its metadata is" } else { "not valid" };
            assert!(refused.contains(says), "{refused}");
            disk.flush().await.unwrap();
            assert_eq!(lab.read(&disk, second, 4096).await.unwrap(), [1; 4096]);
        }
    });
}
