//! What the header says.

use crate::{
    image::*,
    lab::{Lab, in_lab},
};

#[test]
fn the_image_that_is_made_wrong_is_right_otherwise() {
    in_lab(async |lab: Lab| {
        for (bits, order) in [(9, 0), (9, 6), (12, 3), (16, 4), (21, 4)] {
            let image = Image::with_refcounts(bits, order);
            let disk = lab.open(&image.bytes, true).await;
            let cluster = image.cluster();
            assert_eq!(disk.len(), GUEST_CLUSTERS << bits);
            let mut content = lab.read(&disk, 0, 4 * cluster).await.unwrap();
            assert_eq!(content.split_off(2 * cluster), vec![0; 2 * cluster]);
            assert_eq!(content.split_off(cluster), vec![COMPRESSED_BYTE; cluster]);
            assert_eq!(content, vec![DATA_BYTE; cluster]);
            for nth in 0..4 {
                assert_eq!(lab.write(&disk, (nth << bits) + 1, &[1; 8]).await.unwrap(), 8);
            }
            disk.flush().await.unwrap();
            drop(disk);
            let checked = std::process::Command::new("qemu-img")
                .args(["check", "-f", "qcow2"])
                .arg(lab.path("image"))
                .output()
                .unwrap();
            assert!(checked.status.success(), "{checked:?}");
        }
    });
}

#[test]
fn a_header_that_says_what_cannot_be_is_refused() {
    in_lab(async |lab: Lab| {
        let cases: [(usize, u32, &str); 16] = [
            (0, 0, "no qcow2 header"),
            (VERSION, 1, "version 1"),
            (VERSION, 4, "version 4"),
            (CLUSTER_BITS, 8, "2^8 bytes"),
            (CLUSTER_BITS, 22, "2^22 bytes"),
            (CLUSTER_BITS, u32::MAX, "2^4294967295 bytes"),
            (CRYPT, 1, "encrypted"),
            (CRYPT, 2, "encrypted"),
            (SIZE, 1 << 31, "L1 table is too small"),
            (L1_ENTRIES, 1 << 31, "L1 table has 2147483648 entries"),
            (L1_OFFSET, 1 << 31, "L1 table is at"),
            (L1_OFFSET + 4, 512, "L1 table is at"),
            (REFTABLE_OFFSET + 4, 512, "refcount table is at"),
            (REFTABLE_CLUSTERS, u32::MAX, "refcount table has"),
            (REFCOUNT_ORDER, 7, "2^7 bits"),
            (HEADER_LEN, 96, "96 bytes"),
        ];
        for (at, value, says) in cases {
            let mut image = Image::new(16);
            image.put32(at, value);
            lab.is_refused(&image.bytes, says).await;
        }
    });
}

#[test]
fn features_that_are_not_understood_are_named() {
    in_lab(async |lab: Lab| {
        let cases: [(u64, &str); 4] = [
            (1 << 3, "compression"),
            (1 << 4, "extended L2"),
            (1 << 5, "0x20"),
            (1 << 63, "0x8000000000000000"),
        ];
        for (features, says) in cases {
            let mut image = Image::new(16);
            image.put64(INCOMPATIBLE, features);
            // It must not be touched, though imago would clear these.
            image.put64(AUTOCLEAR, u64::MAX);
            lab.is_refused(&image.bytes, says).await;
        }
    });
}

#[test]
fn what_is_damaged_is_not_written() {
    in_lab(async |lab: Lab| {
        for (features, says) in [(1, "not closed"), (1 << 1, "corrupt"), (3, "corrupt")] {
            let mut image = Image::new(16);
            image.put64(INCOMPATIBLE, features);
            image.put64(AUTOCLEAR, !2);
            lab.is_not_written(&image, says).await;
        }
    });
}

#[test]
fn extensions_that_are_cut_off_are_refused() {
    in_lab(async |lab: Lab| {
        for len in [1, 2, 47, 49] {
            let mut image = Image::new(9);
            image.extend(FEATURE_NAMES, &vec![0; len]);
            lab.is_refused(&image.bytes, "feature names").await;
        }
        for len in [512 - EXTENSIONS as u32, 1 << 20, u32::MAX] {
            let mut image = Image::new(9);
            image.put32(EXTENSIONS, 7);
            image.put32(EXTENSIONS + 4, len);
            lab.is_refused(&image.bytes, "extensions").await;
        }
        let mut endless = Image::new(9);
        for at in (EXTENSIONS..512).step_by(8) {
            endless.put32(at, 7);
        }
        lab.is_refused(&endless.bytes, "extensions").await;
    });
}

#[test]
fn very_many_extensions_take_no_time() {
    in_lab(async |lab: Lab| {
        let mut image = Image::new(21);
        for at in (EXTENSIONS..(2 << 20) - 16).step_by(8) {
            image.put32(at, 7);
        }
        let began = std::time::Instant::now();
        lab.put("image", &image.bytes);
        let _ = fsrv_blockimage::Disk::open(&lab.options("image")).await;
        assert!(began.elapsed().as_secs() < 5, "it took {:?}", began.elapsed());
    });
}

#[test]
fn an_image_that_is_cut_off_in_its_metadata_is_refused() {
    in_lab(async |lab: Lab| {
        let image = Image::new(9);
        for len in [0, 1, 4, 71, 72, 103] {
            lab.is_refused(&image.bytes[..len], "no qcow2 header").await;
        }
        for cluster in [REFTABLE, REFBLOCK, L1, L2] {
            for len in [image.at(cluster), image.at(cluster) + 8] {
                let mut cut = image.clone();
                cut.bytes.truncate(len);
                lab.put("image", &cut.bytes);
                let options = lab.options("image");
                let writable = fsrv_blockimage::Options { writable: true, ..options };
                let said = lab.refusal(&writable).await;
                assert!(said.contains("behind its end"), "at {len}: {said}");
            }
        }
    });
}

#[test]
fn what_is_in_messages_does_not_reach_the_terminal() {
    in_lab(async |lab: Lab| {
        for name in ["a\nb", "\x1b[2Jb", "\u{202e}b"] {
            let mut image = Image::new(9);
            image.back(name, Some("raw"));
            lab.put("image", &image.bytes);
            lab.refusal(&lab.options("image")).await;
            let mut image = Image::new(9);
            image.back("x", Some(name));
            lab.put("image", &image.bytes);
            lab.refusal(&lab.options("image")).await;
        }
    });
}
