//! What an image refers to.

use std::{fs, os::unix::net::UnixListener};

use fsrv_blockimage::{Disk, Options};
use rustix::fs::{CWD, Mode, mkfifoat};

use crate::{
    image::*,
    lab::{Lab, in_lab},
};

fn backed(name: &str, format: Option<&str>) -> Vec<u8> {
    let mut image = Image::new(12);
    image.back(name, format);
    image.l2(3, 0);
    image.bytes
}

#[test]
fn files_that_nobody_allowed_are_not_opened() {
    in_lab(async |lab: Lab| {
        let outside = ["/etc/shadow", "/etc/passwd", "/proc/self/mem", "/dev/zero", "/dev/sda"];
        for name in outside.into_iter().chain(["../../../../../../../../../../etc/shadow"]) {
            for format in ["raw", "qcow2"] {
                lab.put("image", &backed(name, Some(format)));
                let said = lab.refusal(&lab.options("image")).await;
                let is_there = fs::metadata(lab.path(name)).is_ok();
                assert!(said.contains("--allow-backing") || !is_there, "{said}");
            }
        }
        lab.put("beside", &[1; 4096]);
        lab.put("image", &backed("beside", Some("raw")));
        let none = Options { allow_backing: Vec::new(), ..lab.options("image") };
        assert!(lab.refusal(&none).await.contains("--allow-backing"));
        Disk::open(&lab.options("image")).await.unwrap();
    });
}

#[test]
fn names_that_are_no_files_are_refused() {
    in_lab(async |lab: Lab| {
        let json = "json:{\"driver\":\"file\",\"filename\":\"/etc/shadow\"}";
        for name in [json, "nbd://host/disk", "nbd:unix:/run/x", "host_device:/dev/sda", "fat:rw:."]
        {
            lab.is_refused(&backed(name, Some("raw")), "not the name of a file").await;
        }
        lab.is_refused(&backed("a\0b", Some("raw")), "not valid").await;
        for format in ["vmdk", "host_device", "RAW", ""] {
            lab.put("base", &[1; 4096]);
            lab.is_refused(&backed("base", Some(format)), "format").await;
        }
        lab.is_refused(&backed("base", None), "format").await;
    });
}

#[test]
fn only_files_are_opened() {
    in_lab(async |lab: Lab| {
        fs::create_dir(lab.path("directory")).unwrap();
        mkfifoat(CWD, lab.path("pipe"), Mode::RWXU).unwrap();
        let _socket = UnixListener::bind(lab.path("socket")).unwrap();
        let cases = [("directory", "a directory"), ("pipe", "a pipe"), ("socket", "a socket")];
        for (name, says) in cases {
            lab.is_refused(&backed(name, Some("raw")), says).await;
            let said = lab.refusal(&lab.options(name)).await;
            assert!(said.contains(says), "{said}");
        }
        lab.is_refused(&backed("missing", Some("raw")), "No such file").await;
    });
}

#[test]
fn a_chain_that_comes_back_is_refused() {
    in_lab(async |lab: Lab| {
        lab.is_refused(&backed("image", Some("qcow2")), "comes back").await;
        lab.is_refused(&backed("./../image/../image", Some("qcow2")), "").await;
        lab.put("other", &backed("image", Some("qcow2")));
        lab.is_refused(&backed("other", Some("qcow2")), "comes back").await;
        fs::hard_link(lab.path("image"), lab.path("again")).unwrap();
        lab.put("other", &backed("again", Some("qcow2")));
        fs::write(lab.path("image"), backed("other", Some("qcow2"))).unwrap();
        assert!(lab.refusal(&lab.options("image")).await.contains("comes back"));
    });
}

#[test]
fn a_chain_without_end_is_refused() {
    in_lab(async |lab: Lab| {
        for depth in 0..100 {
            lab.put(&format!("{depth}"), &backed(&format!("{}", depth + 1), Some("qcow2")));
        }
        lab.put("100", &Image::new(12).bytes);
        assert!(lab.refusal(&lab.options("0")).await.contains("64"));
        let disk = Disk::open(&lab.options("50")).await.unwrap();
        assert_eq!(lab.read(&disk, 3 << 12, 4096).await.unwrap(), [0; 4096]);
    });
}

#[test]
fn a_data_file_is_held_to_the_same() {
    in_lab(async |lab: Lab| {
        let with = |name: Option<&str>| {
            let mut image = Image::new(12);
            image.put64(INCOMPATIBLE, 1 << 2);
            if let Some(name) = name {
                image.extend(DATA_FILE, name.as_bytes());
            }
            image.bytes
        };
        lab.is_refused(&with(None), "data file").await;
        lab.is_refused(&with(Some("/etc/passwd")), "--allow-backing").await;
        lab.is_refused(&with(Some("image")), "comes back").await;
        lab.is_refused(&with(Some("nbd://host/disk")), "not the name of a file").await;
    });
}
