//! Which images, and which files that they refer to, are opened.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, symlink},
    },
};

use fsrv_blockimage::Options;

use crate::lab::{Lab, MIB, on_both_engines, open};

/// Changes bytes of the header.
fn patch(lab: &Lab, name: &str, at: u64, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(lab.path(name)).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

async fn is_refused(lab: &Lab, name: &str, says: &[&str]) {
    for writable in [false, true] {
        let said = lab.refusal(&Options { writable, ..lab.options(name) }).await;
        assert!(said.contains(name), "{said}");
        for word in says {
            assert!(said.contains(word), "no {word} in: {said}");
        }
    }
}

#[test]
fn a_header_that_is_not_valid_is_refused() {
    on_both_engines(async |lab: Lab| {
        let cases: [(u64, &[u8], &str); 18] = [
            (0, b"QFI\0", "no qcow2 header"),
            (4, &[0, 0, 0, 4], "version 4"),
            (20, &[0, 0, 0, 8], "2^8 bytes"),
            (20, &[0, 0, 0, 22], "2^22 bytes"),
            (20, &[255; 4], "2^4294967295 bytes"),
            (24, &[0x7f, 255, 255, 255, 255, 255, 255, 255], "L1 table is too small"),
            (32, &[0, 0, 0, 1], "encrypted"),
            (36, &[255; 4], "entries"),
            (40, &[0, 0, 0, 0, 0, 0, 1, 0], "L1 table is at"),
            (48, &[255, 255, 255, 255, 255, 255, 0, 0], "refcount table is at"),
            (56, &[255; 4], "entries"),
            (79, &[8], "compression_type=zlib"),
            (79, &[16], "extended_l2=off"),
            (95, &[2], "data file"),
            (104, &[1], "compression"),
            (72, &[1], "0x100000000000000"),
            (96, &[0, 0, 0, 7], "2^7 bits"),
            (100, &[0, 0, 0, 96], "96 bytes"),
        ];
        for (at, bytes, says) in cases {
            lab.create("image", &[], MIB);
            patch(&lab, "image", at, bytes);
            is_refused(&lab, "image", &[says]).await;
        }
        fs::write(lab.path("image"), b"QFI\xfb").unwrap();
        is_refused(&lab, "image", &["no qcow2 header"]).await;
    });
}

#[test]
fn what_is_damaged_is_only_read() {
    on_both_engines(async |lab: Lab| {
        for (mark, says) in [(1, "not closed"), (2, "corrupt"), (3, "corrupt")] {
            lab.create("image", &[], MIB);
            lab.qemu_io("image", &["write -P 5 0 64k"]);
            patch(&lab, "image", 79, &[mark]);
            let before = fs::read(lab.path("image")).unwrap();
            let said = lab.refusal(&Options { writable: true, ..lab.options("image") }).await;
            assert!(said.contains(says) && said.contains("qemu-img check -r all"), "{said}");
            let disk = lab.open("image").await;
            assert_eq!(lab.read(&disk, 65_535, 2).await.unwrap(), [5, 0]);
            drop(disk);
            // Also where others are over it.
            lab.create("top", &["-u", "-F", "qcow2", "-b", "image"], MIB);
            let disk = lab.open_writable("top").await;
            lab.write(&disk, 0, &[6]).await.unwrap();
            assert_eq!(lab.read(&disk, 0, 2).await.unwrap(), [6, 5]);
            assert_eq!(fs::read(lab.path("image")).unwrap(), before);
        }
    });
}

#[test]
fn a_name_is_any_bytes() {
    on_both_engines(async |lab: Lab| {
        let name = OsStr::from_bytes(b"b\xff\xfe:k");
        fs::write(lab.dir().join(name), [7; 4096]).unwrap();
        lab.create("image", &["-u", "-F", "raw", "-b", "./backing"], MIB);
        let bytes = fs::read(lab.path("image")).unwrap();
        let at = bytes.windows(9).position(|nine| nine == b"./backing").unwrap() as u64;
        patch(&lab, "image", at, b"./b\xff\xfe:k");
        patch(&lab, "image", 19, &[7]);
        let disk = lab.open("image").await;
        assert_eq!(lab.read(&disk, 4095, 2).await.unwrap(), [7, 0]);
        drop(disk);
        let none = Options { allow_backing: Vec::new(), ..lab.options("image") };
        assert!(lab.refusal(&none).await.contains("--allow-backing /"));
        patch(&lab, "image", at + 3, &[0]);
        is_refused(&lab, "image", &["not valid"]).await;
    });
}

#[test]
fn a_table_of_names_that_is_cut_off_is_refused() {
    on_both_engines(async |lab: Lab| {
        lab.create("image", &[], MIB);
        let bytes = fs::read(lab.path("image")).unwrap();
        let at = bytes.windows(4).position(|four| four == [0x68, 0x03, 0xf8, 0x57]).unwrap();
        for len in [1_u8, 2, 3, 49] {
            patch(&lab, "image", at as u64 + 4, &[0, 0, 0, len]);
            is_refused(&lab, "image", &["feature names"]).await;
        }
    });
}

#[test]
fn only_what_lies_in_an_allowed_directory_is_followed() {
    on_both_engines(async |lab: Lab| {
        fs::create_dir(lab.path("allowed")).unwrap();
        fs::write(lab.path("outside"), [1; 4096]).unwrap();
        symlink(lab.path("outside"), lab.path("allowed/link")).unwrap();
        fs::write(lab.path("allowed/inside"), [2; 4096]).unwrap();
        let allowed = vec![lab.path("allowed")];
        for name in ["outside", "allowed/link", "allowed/../outside", "/etc/passwd"] {
            lab.create("image", &["-u", "-F", "raw", "-b", name], MIB);
            let options = Options { allow_backing: allowed.clone(), ..lab.options("image") };
            let said = lab.refusal(&options).await;
            assert!(said.contains(name) && said.contains("--allow-backing /"), "{said}");
        }
        lab.create("image", &["-u", "-F", "raw", "-b", "allowed/inside"], MIB);
        let options = Options { allow_backing: allowed, ..lab.options("image") };
        let disk = open(&options).await.unwrap();
        assert_eq!(lab.read(&disk, 4095, 2).await.unwrap(), [2, 0]);
        drop(disk);
        let none = Options { allow_backing: Vec::new(), ..options };
        assert!(lab.refusal(&none).await.contains("--allow-backing /"));
    });
}

#[test]
fn names_that_are_not_of_files_are_refused() {
    on_both_engines(async |lab: Lab| {
        for name in ["json:{\"driver\":\"raw\"}", "nbd://host/disk", "ssh:x", "fuse:a/b"] {
            lab.create("image", &["-u", "-F", "raw", "-b", name], MIB);
            is_refused(&lab, "image", &[name, "not the name of a file"]).await;
        }
        fs::write(lab.path("raw"), [1; 4096]).unwrap();
        lab.create("image", &["-u", "-F", "raw", "-b", "file:raw"], MIB);
        let disk = lab.open("image").await;
        assert_eq!(lab.read(&disk, 0, 1).await.unwrap(), [1]);
    });
}

#[test]
fn a_backing_file_has_a_format_that_is_known() {
    on_both_engines(async |lab: Lab| {
        fs::write(lab.path("raw"), [1; 4096]).unwrap();
        lab.create("image", &["-u", "-F", "raw", "-b", "raw"], MIB);
        lab.run("qemu-img", &["rebase", "-u", "-F", "vmdk", "-b", "raw", "image"]);
        is_refused(&lab, "image", &["'vmdk'", "qemu-img convert"]).await;
        let bytes = fs::read(lab.path("image")).unwrap();
        let at = bytes.windows(4).position(|four| four == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
        patch(&lab, "image", at as u64, &[1, 2, 3, 4]);
        is_refused(&lab, "image", &["does not say its format", "qemu-img rebase -u -F"]).await;
    });
}

#[test]
fn a_chain_that_comes_back_or_does_not_end_is_refused() {
    on_both_engines(async |lab: Lab| {
        lab.create("one", &["-u", "-F", "qcow2", "-b", "./one"], MIB);
        is_refused(&lab, "one", &["chain"]).await;
        lab.create("two", &["-u", "-F", "qcow2", "-b", "three"], MIB);
        lab.create("three", &["-u", "-F", "qcow2", "-b", "two"], MIB);
        is_refused(&lab, "two", &["chain"]).await;
        lab.create("0", &[], MIB);
        for number in 1..65 {
            let (name, below) = (number.to_string(), (number - 1).to_string());
            lab.create(&name, &["-u", "-F", "qcow2", "-b", &below], MIB);
        }
        let disk = lab.open("63").await;
        assert_eq!(lab.read(&disk, 5, 3).await.unwrap(), [0; 3]);
        drop(disk);
        is_refused(&lab, "64", &["chain"]).await;
    });
}

#[test]
fn what_is_missing_is_named() {
    on_both_engines(async |lab: Lab| {
        lab.create("image", &["-u", "-F", "raw", "-b", "missing"], MIB);
        is_refused(&lab, "image", &["missing", "No such file"]).await;
    });
}

#[test]
fn other_formats_are_named_and_not_taken_for_raw() {
    on_both_engines(async |lab: Lab| {
        let of = |name: &str| Options { format: None, ..lab.options(name) };
        for format in ["vmdk", "vdi", "vhdx", "vpc", "qed", "parallels", "qcow"] {
            lab.run("qemu-img", &["create", "-q", "-f", format, format, "4M"]);
            let said = lab.refusal(&of(format)).await;
            let convert = format!("`qemu-img convert -f {format} -O qcow2`");
            assert!(said.contains(&convert) && said.contains("--format raw"), "{said}");
            // Who says so gets the bytes.
            let raw = Options { format: Some(fsrv_blockimage::Format::Raw), ..of(format) };
            let disk = open(&raw).await.unwrap();
            assert_eq!(disk.len(), fs::metadata(lab.path(format)).unwrap().len());
        }
        for (name, beginning) in [
            ("vmdk", "# Disk DescriptorFile\nversion=1\n"),
            ("bochs", "Bochs Virtual HD Image\0"),
            ("cloop", "#!/bin/sh\n#V2.0 Format\nmodprobe cloop"),
        ] {
            fs::write(lab.path("image"), beginning).unwrap();
            let said = lab.refusal(&of("image")).await;
            assert!(said.contains(&format!("-f {name} ")), "{said}");
        }
        for raw in [&b""[..], b"Q", b"QFI", b"#!/bin/sh\n", b"VMDK"] {
            fs::write(lab.path("image"), raw).unwrap();
            let disk = open(&of("image")).await.unwrap();
            assert_eq!(disk.format(), fsrv_blockimage::Format::Raw);
        }
    });
}

/// Locks are of a node; the device is one.
#[test]
fn a_device_is_written_by_one_whatever_its_node() {
    on_both_engines(async |lab: Lab| {
        fs::write(lab.path("file"), vec![0; MIB as usize]).unwrap();
        let device = lab.run("losetup", &["-f", "--show", "file"]);
        let device = std::path::Path::new(device.trim());
        let number = rustix::fs::stat(device).unwrap().st_rdev;
        let block = rustix::fs::FileType::BlockDevice;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let node = lab.path("node");
        rustix::fs::mknodat(rustix::fs::CWD, &node, block, mode, number).unwrap();
        let options = |path: &std::path::Path, writable| Options {
            path: path.to_owned(),
            format: Some(fsrv_blockimage::Format::Raw),
            writable,
            ..lab.options("")
        };
        let disk = open(&options(device, true)).await.unwrap();
        let second = fsrv_blockimage::Disk::open(&options(&node, true)).await;
        let said = second.map(drop).unwrap_err().to_string();
        drop(disk);
        let reopened = open(&options(&node, true)).await.map(drop);
        let readers = [open(&options(&node, false)).await, open(&options(device, false)).await];
        lab.run("losetup", &["-d", device.to_str().unwrap()]);
        assert!(said.contains("in use") || said.contains("another process"), "{said}");
        reopened.unwrap();
        readers.into_iter().for_each(|reader| drop(reader.unwrap()));
    });
}
