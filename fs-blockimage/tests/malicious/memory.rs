//! How much memory an image can make the server take.

use std::{env, fs, process::Command};

use fsrv_blockimage::{Disk, Options};

use crate::{
    image::*,
    lab::{Lab, in_lab},
};

/// What [the threat model](../../../docs/threat-model.md) names for one image.
const TABLES_MAX: u64 = 1 << 30;

/// For each L2 table of an image that is to be written.
const A_TABLE: u64 = 128;

/// Set in a process that runs one test.
const ALONE: &str = "FSRV_TEST_ALONE";

/// Runs the test of this name in a process of its own: others take memory, too.
fn alone(name: &str, test: impl AsyncFnOnce(Lab) + Send + 'static) {
    if env::var_os(ALONE).is_some() {
        return in_lab(test);
    }
    let name = format!("memory::{name}");
    let mut process = Command::new(env::current_exe().unwrap());
    let output = process.args(["--exact", &name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{said}");
}

/// The most memory that this process has had, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn the_largest_tables_fit_the_bound() {
    alone("the_largest_tables_fit_the_bound", async |lab: Lab| {
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

#[test]
fn tables_in_holes_fit_the_bound() {
    alone("tables_in_holes_fit_the_bound", async |lab: Lab| {
        // Clusters: some of the image, the refcount table, its blocks, the L1 table, and L2 tables that take no space.
        const ENTRIES: u64 = 1 << 18;
        const BITS: u32 = 9;
        let blocks = (ENTRIES + (1 << 16)) >> 8;
        let table = (blocks * 8).div_ceil(1 << BITS);
        let first = [8, 8 + table, 8 + table + blocks];
        let tables = first[2] + ((ENTRIES * 8) >> BITS);
        let mut image = Image::new(BITS);
        image.put64(REFTABLE_OFFSET, first[0] << BITS);
        image.put32(REFTABLE_CLUSTERS, table as u32);
        image.put64(L1_OFFSET, first[2] << BITS);
        image.put32(L1_ENTRIES, ENTRIES as u32);
        image.put64(SIZE, ENTRIES << 15);
        image.bytes.resize((tables << BITS) as usize, 0);
        for nth in 0..blocks {
            let block = first[1] + nth;
            image.put64(((first[0] << BITS) + nth * 8) as usize, block << BITS);
            let at = (block << BITS) as usize;
            image.bytes[at..at + 512].as_chunks_mut().0.fill([0, 1]);
        }
        for nth in 0..ENTRIES {
            image.put64(((first[2] << BITS) + nth * 8) as usize, (tables + nth) << BITS | COPIED);
        }
        lab.put("image", &image.bytes);
        drop(image);
        let file = fs::File::options().write(true).open(lab.path("image")).unwrap();
        file.set_len((tables + ENTRIES) << BITS).unwrap();
        let before = peak();
        let disk = Disk::open(&Options { writable: true, ..lab.options("image") }).await.unwrap();
        lab.write(&disk, 1 << 30, &[1; 512]).await.unwrap();
        disk.flush().await.unwrap();
        let more = peak() - before;
        assert!(more < ENTRIES * A_TABLE, "{} bytes a table", more / ENTRIES);
    });
}
