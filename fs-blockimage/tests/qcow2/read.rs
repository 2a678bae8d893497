//! What images of all kinds show.

use fsrv_blockimage::{Format, Options};

use crate::lab::{KIB, Lab, MIB, on_both_engines, open, same};

/// Something of everything: data, zeroes, parts of clusters, nothing.
fn fill(lab: &Lab, name: &str) {
    let commands = [
        "write -P 1 0 3k",
        "write -P 2 100k 200k",
        "write -P 3 1m 2m",
        "write -P 4 3000k 9k",
        "write -z 1200k 300k",
        "write -P 5 4190208 4096",
    ];
    lab.qemu_io(name, &commands);
}

async fn shows_what_qemu_does(lab: &Lab, name: &str) {
    let disk = lab.open(name).await;
    same(&lab.read_all(&disk).await, &lab.content(name));
    assert_eq!(lab.read(&disk, disk.len(), 10).await.unwrap(), b"");
    assert_eq!(lab.read(&disk, disk.len() - 3, 10).await.unwrap().len(), 3);
    drop(disk);
    let direct = Options { direct: true, ..lab.options(name) };
    match open(&direct).await {
        Ok(disk) => same(&lab.read_all(&disk).await, &lab.content(name)),
        Err(error) => assert!(error.to_string().contains("clusters are too small"), "{error}"),
    }
}

#[test]
fn both_versions_and_all_sizes_of_clusters_are_read() {
    on_both_engines(async |lab: Lab| {
        for options in [
            "compat=0.10",
            "compat=1.1",
            "cluster_size=512",
            "cluster_size=4096",
            "cluster_size=2M",
            "refcount_bits=1",
            "refcount_bits=64",
            "lazy_refcounts=on",
            "preallocation=metadata",
            "preallocation=full",
        ] {
            lab.create("image", &["-o", options], 4 * MIB);
            fill(&lab, "image");
            shows_what_qemu_does(&lab, "image").await;
        }
    });
}

#[test]
fn compressed_clusters_are_read() {
    on_both_engines(async |lab: Lab| {
        lab.create("plain", &[], 4 * MIB);
        fill(&lab, "plain");
        for options in ["cluster_size=512", "cluster_size=64k", "cluster_size=2M", "compat=0.10"] {
            let args = ["convert", "-c", "-f", "qcow2", "-O", "qcow2", "-o", options];
            lab.run("qemu-img", &[&args[..], &["plain", "image"]].concat());
            shows_what_qemu_does(&lab, "image").await;
            same(&lab.content("plain"), &lab.content("image"));
        }
    });
}

#[test]
fn a_chain_shows_the_uppermost_of_each_part() {
    on_both_engines(async |lab: Lab| {
        lab.create("plain", &[], 4 * MIB);
        fill(&lab, "plain");
        lab.run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", "plain", "raw"]);
        // A file that ends within a cluster.
        lab.run("truncate", &["-s", "3000001", "raw"]);
        lab.create("one", &["-F", "raw", "-b", "raw", "-o", "cluster_size=4k"], 3 * MIB);
        lab.qemu_io("one", &["write -P 6 10k 1k", "write -z 150k 20k", "write -P 7 2999k 1k"]);
        let convert = ["convert", "-c", "-f", "qcow2", "-O", "qcow2", "-B", "raw", "-F", "raw"];
        lab.run("qemu-img", &[&convert[..], &["one", "two"]].concat());
        lab.create("three", &["-F", "qcow2", "-b", "two", "-o", "compat=0.10"], 4 * MIB);
        lab.qemu_io("three", &["write -P 8 0 1k", "write -P 9 3500k 1k"]);
        for name in ["one", "two", "three"] {
            shows_what_qemu_does(&lab, name).await;
        }
    });
}

#[test]
fn data_in_a_file_of_its_own_is_read() {
    on_both_engines(async |lab: Lab| {
        lab.create("image", &["-o", "data_file=data"], 4 * MIB);
        fill(&lab, "image");
        shows_what_qemu_does(&lab, "image").await;
    });
}

#[test]
fn an_image_with_snapshots_shows_what_it_has_now() {
    on_both_engines(async |lab: Lab| {
        lab.create("image", &[], 4 * MIB);
        fill(&lab, "image");
        lab.run("qemu-img", &["snapshot", "-c", "before", "image"]);
        lab.qemu_io("image", &["write -P 9 100k 100k"]);
        shows_what_qemu_does(&lab, "image").await;
    });
}

#[test]
fn data_and_holes_are_found_in_the_map() {
    on_both_engines(async |lab: Lab| {
        lab.create("image", &[], 1 << 44);
        lab.qemu_io("image", &["write 128k 64k", "write 10m 64k", "write -z 10m 64k"]);
        lab.qemu_io("image", &["write -c 1t 64k"]);
        let disk = lab.open("image").await;
        assert_eq!(disk.next_data(0).await.unwrap(), Some(128 * KIB));
        assert_eq!(disk.next_data(130 * KIB).await.unwrap(), Some(130 * KIB));
        assert_eq!(disk.next_hole(130 * KIB).await.unwrap(), 192 * KIB);
        assert_eq!(disk.next_data(192 * KIB).await.unwrap(), Some(1 << 40));
        assert_eq!(disk.next_hole(1 << 40).await.unwrap(), (1 << 40) + 64 * KIB);
        assert_eq!(disk.next_data((1 << 40) + 64 * KIB).await.unwrap(), None);
        assert_eq!(disk.next_hole((1 << 44) - 1).await.unwrap(), (1 << 44) - 1);
    });
}

#[test]
fn the_format_is_found_when_nothing_is_written() {
    on_both_engines(async |lab: Lab| {
        lab.create("image", &[], 3 * MIB);
        let options = Options { format: None, ..lab.options("image") };
        let disk = open(&options).await.unwrap();
        assert_eq!(disk.len(), 3 * MIB);
        drop(disk);
        let raw = Options { format: Some(Format::Raw), ..options.clone() };
        let disk = open(&raw).await.unwrap();
        assert!(disk.len() < MIB);
        drop(disk);
        let writable = Options { writable: true, ..options };
        assert!(lab.refusal(&writable).await.contains("--format"));
    });
}
