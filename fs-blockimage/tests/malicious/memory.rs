//! How much memory an image can make the server take.

use std::fs;

use fsrv_blockimage::{Disk, Options};

use crate::{
    image::*,
    lab::{Lab, in_lab},
};

/// What [the threat model](../../../docs/threat-model.md) names for one image.
const TABLES_MAX: u64 = 1 << 30;

/// The most memory that this process has had, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn the_largest_tables_fit_the_bound() {
    in_lab(async |lab: Lab| {
        // Each L1 entry has a table of its own, more than are cached.
        let mut image = Image::new(21);
        image.put64(SIZE, 160 << 39);
        image.put32(L1_ENTRIES, 4 << 20);
        image.put64(L1_OFFSET, 8 << 21);
        image.bytes.resize((8 << 21) + (32 << 20), 0);
        for nth in 0..160_u64 {
            image.put64((8 << 21) + 8 * nth as usize, (30 + nth) << 21 | COPIED);
        }
        lab.put("image", &image.bytes);
        drop(image);
        let file = fs::File::options().write(true).open(lab.path("image")).unwrap();
        file.set_len(200 << 21).unwrap();
        let disk = Disk::open(&lab.options("image")).await.unwrap();
        for nth in 0..160 {
            assert_eq!(lab.read(&disk, nth << 39, 512).await.unwrap(), [0; 512]);
        }
        assert!(peak() < TABLES_MAX, "{} MiB", peak() >> 20);
    });
}

#[test]
fn a_chain_that_could_take_more_is_refused() {
    in_lab(async |lab: Lab| {
        let mut base = Image::new(21);
        base.put32(L1_ENTRIES, 128);
        lab.put("0", &base.bytes);
        for nth in 1..8 {
            let mut image = base.clone();
            image.back(&format!("{}", nth - 1), Some("qcow2"));
            lab.put(&format!("{nth}"), &image.bytes);
        }
        let said = lab.refusal(&lab.options("7")).await;
        assert!(said.contains("memory"), "{said}");
        Disk::open(&Options { writable: true, ..lab.options("1") }).await.unwrap();
    });
}
