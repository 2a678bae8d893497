//! What an image may have besides its content, and what becomes of it.

use std::{fs, os::unix::fs::FileExt};

use fsrv_blockimage::{Options, Zeroing};

use crate::lab::{KIB, Lab, MIB, on_both_engines, same};

const EOPNOTSUPP: i32 = 95;

/// The autoclear features of an image.
fn autoclear(lab: &Lab) -> u64 {
    let mut bytes = [0; 8];
    fs::File::open(lab.path("image")).unwrap().read_exact_at(&mut bytes, 88).unwrap();
    u64::from_be_bytes(bytes)
}

/// Sets autoclear features that nobody knows.
fn set_unknown(lab: &Lab) {
    let file = fs::File::options().write(true).open(lab.path("image")).unwrap();
    file.write_all_at(&(autoclear(lab) | 1 << 40).to_be_bytes(), 88).unwrap();
}

/// With bitmaps that are enabled and disabled, and something that they know of.
fn create_with_bitmaps(lab: &Lab, options: &str) {
    lab.create("image", &["-o", options], 4 * MIB);
    for (name, more) in [("enabled", None), ("disabled", Some("--disable"))] {
        let args = ["bitmap", "--add", "-g", "64k"].into_iter().chain(more);
        let args: Vec<_> = args.chain(["image", name]).collect();
        lab.run("qemu-img", &args);
    }
    lab.qemu_io("image", &["write -P 5 1M 256k"]);
}

/// The flags of each bitmap, as `qemu-img info` tells them.
fn bitmaps(lab: &Lab) -> Vec<(String, Vec<String>)> {
    let said = lab.run("qemu-img", &["info", "-U", "--output=json", "image"]);
    let mut found = Vec::new();
    let mut flags = Vec::new();
    for line in said.lines().map(|line| line.trim().trim_end_matches(',')) {
        match line {
            "\"auto\"" | "\"in-use\"" => flags.push(line.trim_matches('"').to_owned()),
            "\"name\": \"enabled\"" | "\"name\": \"disabled\"" => {
                let name = line.rsplit('"').nth(1).unwrap().to_owned();
                found.push((name, std::mem::take(&mut flags)));
            }
            _ => {}
        }
    }
    found.sort();
    found
}

fn flags(enabled: &[&str], disabled: &[&str]) -> Vec<(String, Vec<String>)> {
    let own = |flags: &[&str]| flags.iter().map(|&flag| flag.to_owned()).collect();
    vec![("disabled".into(), own(disabled)), ("enabled".into(), own(enabled))]
}

#[test]
fn a_start_changes_nothing() {
    on_both_engines(async |lab: Lab| {
        create_with_bitmaps(&lab, "compat=1.1");
        set_unknown(&lab);
        let before = fs::read(lab.path("image")).unwrap();
        let disk = lab.open_writable("image").await;
        lab.read(&disk, 0, 4096).await.unwrap();
        disk.flush().await.unwrap();
        // Changes of nothing, and outside.
        lab.write(&disk, 4 * MIB, &[1]).await.unwrap();
        disk.zero(4 * MIB, MIB, Zeroing::Free).await.unwrap();
        disk.set_len(4 * MIB).await.unwrap();
        drop(disk);
        same(&fs::read(lab.path("image")).unwrap(), &before);
        // One that fails later, too.
        let file = fs::File::options().write(true).open(lab.path("image")).unwrap();
        file.write_all_at(&[255; 8], 40).unwrap();
        let before = fs::read(lab.path("image")).unwrap();
        lab.refusal(&Options { writable: true, ..lab.options("image") }).await;
        same(&fs::read(lab.path("image")).unwrap(), &before);
    });
}

#[test]
fn bitmaps_that_note_changes_are_marked_before_the_first_one() {
    on_both_engines(async |lab: Lab| {
        for options in ["compat=1.1", "cluster_size=512", "cluster_size=2M"] {
            create_with_bitmaps(&lab, options);
            set_unknown(&lab);
            assert_eq!(bitmaps(&lab), flags(&["auto"], &[]));
            let disk = lab.open_writable("image").await;
            lab.write(&disk, MIB, &[6; 4096]).await.unwrap();
            // Without a flush: the change may be in the file already.
            assert_eq!(autoclear(&lab), 1);
            assert_eq!(bitmaps(&lab), flags(&["in-use", "auto"], &[]), "{options}");
            disk.flush().await.unwrap();
            drop(disk);
            lab.check("image");
            assert_eq!(lab.content("image")[MIB as usize..][..4096], [6; 4096]);
            lab.run("qemu-img", &["bitmap", "--remove", "image", "enabled"]);
            lab.run("qemu-img", &["bitmap", "--add", "image", "enabled"]);
            assert_eq!(bitmaps(&lab), flags(&["auto"], &[]), "{options}");
            lab.check("image");
        }
    });
}

#[test]
fn all_bitmaps_are_marked_before_the_length_changes() {
    on_both_engines(async |lab: Lab| {
        for len in [MIB, 64 * MIB] {
            create_with_bitmaps(&lab, "compat=1.1");
            let disk = lab.open_writable("image").await;
            disk.set_len(len).await.unwrap();
            disk.flush().await.unwrap();
            drop(disk);
            assert_eq!(bitmaps(&lab), flags(&["in-use", "auto"], &["in-use"]));
            lab.check("image");
            lab.qemu_io("image", &["write -P 7 0 64k"]);
        }
    });
}

#[test]
fn a_data_file_that_is_to_be_raw_stays_so() {
    on_both_engines(async |lab: Lab| {
        lab.create("image", &["-o", "data_file=data,data_file_raw=on"], 4 * MIB);
        lab.qemu_io("image", &["write -P 5 0 4M"]);
        let is_raw = async |what: &str| {
            lab.check("image");
            same(&lab.content("image"), &fs::read(lab.path("data")).unwrap());
            let info = lab.run("qemu-img", &["info", "image"]);
            assert!(info.contains("data file raw: true"), "{what}: {info}");
        };
        for (what, how) in [("free", Zeroing::Free), ("keep", Zeroing::Keep)] {
            let disk = lab.open_writable("image").await;
            lab.write(&disk, 3 * KIB, &[6; 300_000]).await.unwrap();
            disk.zero(100_000, 400_000, how).await.unwrap();
            disk.zero(MIB, MIB, how).await.unwrap();
            lab.write(&disk, MIB + 64 * KIB, &[8; 5]).await.unwrap();
            disk.flush().await.unwrap();
            drop(disk);
            is_raw(what).await;
        }
        for len in [2 * MIB + 512, 3 * MIB, 64 * MIB, 512, 5 * MIB] {
            let disk = lab.open_writable("image").await;
            disk.set_len(len).await.unwrap();
            lab.write(&disk, len - 512, &[9; 512]).await.unwrap();
            disk.flush().await.unwrap();
            drop(disk);
            is_raw("length").await;
            assert_eq!(fs::metadata(lab.path("data")).unwrap().len(), len);
        }
        // What is behind the end of a longer file is not to be seen.
        fs::File::options().write(true).open(lab.path("data")).unwrap().set_len(6 * MIB).unwrap();
        let data = fs::File::options().write(true).open(lab.path("data")).unwrap();
        data.write_all_at(&[1; 4096], 5 * MIB).unwrap();
        let disk = lab.open_writable("image").await;
        disk.set_len(7 * MIB).await.unwrap();
        assert_eq!(lab.read(&disk, 5 * MIB, 4096).await.unwrap(), [0; 4096]);
        disk.flush().await.unwrap();
        drop(disk);
        is_raw("longer").await;
    });
}

#[test]
fn snapshots_that_do_not_know_their_length_keep_that_of_the_image() {
    on_both_engines(async |lab: Lab| {
        for (compat, is_refused) in [("compat=0.10", true), ("compat=1.1", false)] {
            lab.create("image", &["-o", compat], 4 * MIB);
            lab.qemu_io("image", &["write -P 5 0 4M"]);
            lab.run("qemu-img", &["snapshot", "-c", "before", "image"]);
            let disk = lab.open_writable("image").await;
            lab.write(&disk, 0, &[6; 4096]).await.unwrap();
            for (change, len) in [
                (disk.set_len(2 * MIB).await, 2 * MIB),
                (disk.set_len(64 * MIB).await, 64 * MIB),
                (disk.grow(65 * MIB, true).await, 65 * MIB),
            ] {
                let error = change.err().and_then(|error| error.raw_os_error());
                assert_eq!(error, is_refused.then_some(EOPNOTSUPP), "{compat} {len}");
            }
            disk.flush().await.unwrap();
            drop(disk);
            lab.check("image");
            lab.run("qemu-img", &["snapshot", "-a", "before", "image"]);
            lab.check("image");
            same(&lab.content("image"), &[5; 4 * MIB as usize]);
        }
    });
}

/// Changes bytes of the image.
fn patch(lab: &Lab, at: u64, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(lab.path("image")).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn what_is_not_known_is_kept_or_refused() {
    on_both_engines(async |lab: Lab| {
        lab.create("image", &["-o", "lazy_refcounts=on"], MIB);
        let bytes = fs::read(lab.path("image")).unwrap();
        let names = bytes.windows(4).position(|four| four == [0x68, 0x03, 0xf8, 0x57]).unwrap();
        // The names go to a longer header, behind an extension that nobody knows.
        let mut header = bytes[..4096].to_vec();
        header[100..104].copy_from_slice(&128_u32.to_be_bytes());
        header[80..88].copy_from_slice(&(1_u64 << 50 | 1).to_be_bytes());
        header[88..96].copy_from_slice(&1_u64.to_be_bytes());
        header[112..128].fill(0x5a);
        header[128..144].copy_from_slice(b"\x12\x34\x56\x78\0\0\0\x05hello\0\0\0");
        header[144..1024].copy_from_slice(&bytes[names..names + 880]);
        patch(&lab, 0, &header);
        lab.run("qemu-img", &["check", "-q", "image"]);
        let disk = lab.open_writable("image").await;
        lab.write(&disk, 0, &[5; 4096]).await.unwrap();
        disk.set_len(2 * MIB).await.unwrap();
        disk.flush().await.unwrap();
        drop(disk);
        let after = fs::read(lab.path("image")).unwrap();
        assert_eq!(autoclear(&lab), 0);
        assert_eq!(after[80..88], header[80..88], "compatible features");
        assert_eq!(after[96..4096], header[96..4096], "fields and extensions");
        lab.check("image");
        let refused = |says: &'static str| {
            let options = lab.options("image");
            let lab = &lab;
            async move {
                let said = lab.refusal(&options).await;
                assert!(said.contains(says), "{said}");
            }
        };
        patch(&lab, 128, &[0x05, 0x37, 0xbe, 0x77]);
        refused("encryption").await;
    });
}

#[test]
fn what_contradicts_itself_is_refused() {
    on_both_engines(async |lab: Lab| {
        fs::write(lab.path("raw"), [1; 4096]).unwrap();
        lab.create("image", &["-o", "data_file=data", "-u", "-F", "raw", "-b", "raw"], MIB);
        patch(&lab, 95, &[2]);
        assert!(lab.refusal(&lab.options("image")).await.contains("backing file"));
        lab.create("image", &["-o", "data_file=data"], MIB);
        patch(&lab, 60, &[0, 0, 0, 1]);
        assert!(lab.refusal(&lab.options("image")).await.contains("snapshots"));
        lab.create("image", &[], MIB);
        patch(&lab, 95, &[2]);
        assert!(lab.refusal(&lab.options("image")).await.contains("data file"));
    });
}

#[test]
fn a_size_within_a_sector_is_served_to_its_end() {
    on_both_engines(async |lab: Lab| {
        lab.create("image", &[], MIB);
        lab.qemu_io("image", &["write -P 5 0 1M"]);
        patch(&lab, 24, &(MIB - 100).to_be_bytes());
        let disk = lab.open_writable("image").await;
        assert_eq!(disk.len(), MIB - 100);
        let end = lab.read(&disk, MIB - 512, 512).await.unwrap();
        assert_eq!(end, [5; 412]);
        lab.write(&disk, MIB - 101, &[6, 6]).await.unwrap();
        assert_eq!(lab.read(&disk, MIB - 102, 512).await.unwrap(), [5, 6]);
        disk.flush().await.unwrap();
        drop(disk);
        lab.check("image");
    });
}
