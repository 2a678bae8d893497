//! What an image has besides its content, which a client must not reach.

use fsrv_blockimage::{Options, Zeroing};

use crate::{
    image::*,
    lab::{Lab, in_lab},
};

const BITS: u32 = 12;

/// Clusters behind those that every image has.
const TABLE: u64 = 7;
const TABLE_L1: u64 = 8;
const TABLE_L2: u64 = 9;
const END: u64 = 10;

/// An image with three more clusters.
fn larger() -> Image {
    let mut image = Image::new(BITS);
    image.bytes.resize(image.at(END), 0);
    (TABLE..END).for_each(|cluster| image.count_one(cluster));
    image
}

/// An image with a snapshot that has tables, and nothing else.
fn with_snapshot(change: impl FnOnce(&mut Image, usize)) -> Image {
    let mut image = larger();
    image.put32(SNAPSHOTS, 1);
    image.put64(SNAPSHOTS_OFFSET, TABLE << BITS);
    let at = image.at(TABLE);
    image.put64(at, TABLE_L1 << BITS);
    image.put32(at + 8, 1);
    image.put32(at + 12, 1 << 16 | 1);
    image.put32(at + 36, 16);
    image.put64(at + 48, GUEST_CLUSTERS << BITS);
    image.put64(image.at(TABLE_L1), TABLE_L2 << BITS);
    change(&mut image, at);
    image
}

/// An image with a bitmap: its directory, its table, and its only cluster.
fn with_bitmap(change: impl FnOnce(&mut Image, usize)) -> Image {
    let mut image = larger();
    let mut extension = [0; 24];
    extension[3] = 1;
    extension[15] = 32;
    extension[16..].copy_from_slice(&(TABLE << BITS).to_be_bytes());
    image.extend(BITMAPS, &extension);
    image.put64(AUTOCLEAR, 1);
    let at = image.at(TABLE);
    image.put64(at, TABLE_L1 << BITS);
    image.put32(at + 8, 1);
    image.put32(at + 12, 2);
    image.put32(at + 16, 1 << 24 | 16 << 16 | 1);
    image.bytes[at + 24] = b'b';
    image.put64(image.at(TABLE_L1), TABLE_L2 << BITS);
    change(&mut image, at);
    image
}

#[test]
fn what_snapshots_and_bitmaps_have_is_not_overwritten() {
    in_lab(async |lab: Lab| {
        for make in [with_snapshot as fn(fn(&mut Image, usize)) -> Image, with_bitmap] {
            let image = make(|_, _| {});
            let disk = lab.open(&image.bytes, true).await;
            assert_eq!(lab.write(&disk, 6 << BITS, &[7; 4096]).await.unwrap(), 4096);
            disk.flush().await.unwrap();
            drop(disk);
            for cluster in [TABLE, TABLE_L1, TABLE_L2] {
                for entry in [cluster << BITS | COPIED, image.compressed_entry(cluster << BITS, 0)]
                {
                    let mut image = image.clone();
                    image.l2(5, entry);
                    let disk = lab.open(&image.bytes, true).await;
                    assert!(lab.write(&disk, 5 << BITS, &[7; 4096]).await.is_err(), "{cluster}");
                    assert!(disk.zero(5 << BITS, 1 << BITS, Zeroing::Free).await.is_err());
                    let _ = disk.flush().await;
                    drop(disk);
                    let after = std::fs::read(lab.path("image")).unwrap();
                    let same =
                        |range: std::ops::Range<usize>| after[range.clone()] == image.bytes[range];
                    // The flags of the bitmap say that it does not hold any more.
                    let flags = image.at(TABLE) + 15;
                    assert!(same(image.at(TABLE)..flags), "{cluster}");
                    assert!(same(flags + 1..image.at(END)), "{cluster}");
                }
            }
        }
    });
}

#[test]
fn snapshots_that_are_not_valid_are_not_written() {
    const REPAIR: &str = "qemu-img check -r all";
    type Change = fn(&mut Image, usize);
    let cases: [(Change, &str); 12] = [
        (|image, _| image.put64(SNAPSHOTS_OFFSET, 512), REPAIR),
        (|image, _| image.put64(SNAPSHOTS_OFFSET, END << BITS), REPAIR),
        (|image, _| image.put64(SNAPSHOTS_OFFSET, u64::MAX - 4095), REPAIR),
        (|image, _| image.put64(SNAPSHOTS_OFFSET, L2 << BITS), ""),
        (|image, _| image.put32(SNAPSHOTS, u32::MAX), "65536"),
        (|image, _| image.put32(SNAPSHOTS, 60_000), ""),
        (|image, at| image.put64(at, (TABLE_L1 << BITS) + 8), REPAIR),
        (|image, at| image.put64(at, END << BITS), REPAIR),
        (|image, at| image.put64(at, DATA << BITS | 1 << 63), REPAIR),
        (|image, at| image.put32(at + 8, u32::MAX), REPAIR),
        (|image, at| image.put32(at + 36, 1025), REPAIR),
        // It has what the image says to have alone.
        (|image, _| image.put64(image.at(TABLE_L1), L2 << BITS), REPAIR),
    ];
    in_lab(async move |lab: Lab| {
        lab.open(&with_snapshot(|_, _| {}).bytes, true).await;
        for (change, says) in cases {
            lab.is_not_written(&with_snapshot(change), says).await;
        }
        let uncounted = with_snapshot(|image, _| {
            let at = image.at(REFBLOCK) + 2 * TABLE_L2 as usize;
            image.bytes[at..at + 2].fill(0);
        });
        lab.is_not_written(&uncounted, REPAIR).await;
    });
}

#[test]
fn bitmaps_that_are_not_valid_are_not_written() {
    const REMOVE: &str = "qemu-img bitmap --remove";
    type Change = fn(&mut Image, usize);
    let cases: [(Change, &str); 11] = [
        (|image, _| image.put32(EXTENSIONS + 8, 0), REMOVE),
        (|image, _| image.put32(EXTENSIONS + 8, 2), REMOVE),
        (|image, _| image.put32(EXTENSIONS + 8, 70_000), REMOVE),
        (|image, _| image.put64(EXTENSIONS + 16, 31), REMOVE),
        (|image, _| image.put64(EXTENSIONS + 16, 1 << 40), REMOVE),
        (|image, _| image.put64(EXTENSIONS + 24, (TABLE << BITS) + 8), "check -r"),
        (|image, at| image.put64(at, END << BITS), "check -r"),
        (|image, at| image.put32(at + 8, u32::MAX), REMOVE),
        (|image, at| image.put32(at + 12, 8), REMOVE),
        (|image, at| image.put32(at + 20, u32::MAX), REMOVE),
        (|image, _| image.put64(image.at(TABLE_L1), L2 << BITS), "check -r"),
    ];
    in_lab(async move |lab: Lab| {
        lab.open(&with_bitmap(|_, _| {}).bytes, true).await;
        for (change, says) in cases {
            lab.is_not_written(&with_bitmap(change), says).await;
        }
    });
}

/// What nobody says to hold is not looked at, and stays as it is.
#[test]
fn bitmaps_that_do_not_hold_are_not_looked_at() {
    in_lab(async |lab: Lab| {
        let image = with_bitmap(|image, at| {
            image.put64(AUTOCLEAR, 0);
            image.put32(at + 8, u32::MAX);
        });
        let disk = lab.open(&image.bytes, true).await;
        assert_eq!(lab.write(&disk, 6 << BITS, &[7; 4096]).await.unwrap(), 4096);
        disk.flush().await.unwrap();
        drop(disk);
        let after = std::fs::read(lab.path("image")).unwrap();
        let kept = image.at(TABLE)..image.at(END);
        assert!(after[kept.clone()] == image.bytes[kept]);
    });
}

#[test]
fn very_many_snapshots_take_no_time() {
    in_lab(async |lab: Lab| {
        let mut image = with_snapshot(|_, _| {});
        image.put32(SNAPSHOTS, 65_536);
        let entry = image.bytes[image.at(TABLE)..image.at(TABLE) + 64].to_vec();
        let at = image.bytes.len().next_multiple_of(4096);
        image.put64(SNAPSHOTS_OFFSET, at as u64);
        (0..65_536).for_each(|_| image.bytes.extend(&entry));
        lab.put("image", &image.bytes);
        let began = std::time::Instant::now();
        let options = Options { writable: true, ..lab.options("image") };
        // All of them have the same table.
        assert!(lab.refusal(&options).await.contains("qemu-img check -r all"));
        assert!(began.elapsed().as_secs() < 20, "it took {:?}", began.elapsed());
    });
}
