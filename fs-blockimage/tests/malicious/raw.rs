//! Raw images: whatever is in them is their content.

use fsrv_blockimage::{Disk, Format, Options};

use crate::{
    image::Image,
    lab::{Lab, in_lab},
};

#[test]
fn an_image_of_any_length_is_served() {
    in_lab(async |lab: Lab| {
        for len in [0, 1, 511] {
            lab.put("image", &vec![3; len]);
            for (format, writable) in [(None, false), (Some(Format::Raw), true)] {
                let options = Options { format, writable, ..lab.options("image") };
                let disk = Disk::open(&options).await.unwrap();
                assert_eq!(disk.len(), len as u64);
                assert_eq!(lab.read(&disk, 0, 4096).await.unwrap(), vec![3; len]);
                assert!(lab.read(&disk, 1 << 62, 4096).await.unwrap().is_empty());
                if writable {
                    assert_eq!(lab.write(&disk, 0, &[4; 4096]).await.unwrap(), len);
                }
            }
        }
    });
}

#[test]
fn a_raw_image_stays_one_when_a_client_writes_another_format() {
    in_lab(async |lab: Lab| {
        let mut evil = Image::new(12);
        evil.back("/etc/shadow", Some("raw"));
        lab.put("image", &vec![0; evil.bytes.len()]);
        let raw = Options { format: Some(Format::Raw), writable: true, ..lab.options("image") };
        let disk = Disk::open(&raw).await.unwrap();
        lab.write(&disk, 0, &evil.bytes).await.unwrap();
        assert_eq!(lab.read(&disk, 0, evil.bytes.len()).await.unwrap(), evil.bytes);
        drop(disk);
        let disk = Disk::open(&raw).await.unwrap();
        assert_eq!(disk.len(), evil.bytes.len() as u64);
        drop(disk);
        let guess = Options { format: None, ..raw };
        assert!(lab.refusal(&guess).await.contains("--format"));
    });
}

#[test]
fn cutting_off_much_runs_on_another_thread() {
    in_lab(async |lab: Lab| {
        lab.put("image", &vec![3; 17 << 20]);
        let raw = Options { format: Some(Format::Raw), writable: true, ..lab.options("image") };
        let disk = Disk::open(&raw).await.unwrap();
        let counters = fsrv_transport::io::counters();
        let before = counters.pool();

        disk.set_len(1).await.unwrap();

        assert_eq!(counters.pool(), before + 1);
        assert_eq!(disk.len(), 1);
    });
}
