//! Compressed clusters.

use fsrv_blockimage::Zeroing;

use crate::{
    image::*,
    lab::{Lab, in_lab},
};

const BITS: u32 = 16;

/// A cluster whose data copies what was before its beginning: whatever is in the buffer.
fn image() -> Image {
    let mut image = Image::new(BITS);
    image.compress(1, &before_the_beginning(1 << BITS));
    image
}

#[test]
fn memory_of_the_server_does_not_come_out() {
    in_lab(async |lab: Lab| {
        let disk = lab.open(&image().bytes, false).await;
        assert!(lab.read(&disk, (1 << BITS) + 4096, 4096).await.is_err());
        assert!(lab.read(&disk, 1 << BITS, 1 << BITS).await.is_err());
        assert!(lab.read(&disk, 1 << BITS, 2 << BITS).await.is_err());
    });
}

#[test]
fn memory_of_the_server_does_not_get_into_the_image() {
    in_lab(async |lab: Lab| {
        let disk = lab.open(&image().bytes, true).await;
        assert!(lab.write(&disk, (1 << BITS) + 100, &[0; 8]).await.is_err());
        assert!(disk.zero((1 << BITS) + 100, 8, Zeroing::Keep).await.is_err());
        assert!(lab.read(&disk, 1 << BITS, 1 << BITS).await.is_err());
    });
}

#[test]
fn memory_does_not_come_out_by_way_of_a_backing_file() {
    in_lab(async |lab: Lab| {
        lab.put("base", &image().bytes);
        for bits in [12, 16] {
            let mut over = Image::new(bits);
            over.back("base", Some("qcow2"));
            let index = (1 << BITS) >> bits;
            over.l2(index, 0);
            let disk = lab.open(&over.bytes, true).await;
            let at = 1 << BITS;
            assert!(lab.read(&disk, at, 4096).await.is_err());
            assert!(lab.write(&disk, at + 100, &[0; 8]).await.is_err());
            assert!(disk.zero(at + 100, 8, Zeroing::Keep).await.is_err());
            let len = (disk.len() - at).min(1 << BITS) as usize;
            assert_eq!(lab.write(&disk, at, &vec![1; len]).await.unwrap(), len);
        }
    });
}

#[test]
fn data_that_is_no_data_is_an_error() {
    in_lab(async |lab: Lab| {
        for bits in [9, 16, 21] {
            let cluster = 1_usize << bits;
            let good = Image::new(bits);
            let short = repeated(1, cluster - 258);
            let garbage = [0xff; 64];
            for data in [&short[..], &garbage[..], &[]] {
                let mut image = good.clone();
                image.compress(1, &[data, &[0; 1]].concat());
                let disk = lab.open(&image.bytes, true).await;
                assert!(lab.read(&disk, 1 << bits, 512).await.is_err());
                assert!(lab.write(&disk, (1 << bits) + 1, &[1; 8]).await.is_err());
                assert_eq!(lab.write(&disk, 1 << bits, &vec![1; cluster]).await.unwrap(), cluster);
            }
        }
    });
}

#[test]
fn data_behind_the_end_is_an_error() {
    in_lab(async |lab: Lab| {
        let good = Image::new(BITS);
        for at in [good.bytes.len() as u64, 1 << 40, (1 << 54) - 512] {
            let mut image = good.clone();
            image.l2(1, image.compressed_entry(at, 255));
            let disk = lab.open(&image.bytes, false).await;
            assert!(lab.read(&disk, 1 << BITS, 512).await.is_err());
        }
    });
}

#[test]
fn what_does_not_end_ends_with_the_cluster() {
    in_lab(async |lab: Lab| {
        let mut image = Image::new(BITS);
        image.compress(1, &repeated(9, 8 << BITS));
        let disk = lab.open(&image.bytes, true).await;
        let read = lab.read(&disk, 1 << BITS, 2 << BITS).await.unwrap();
        assert_eq!(read[..1 << BITS], vec![9; 1 << BITS]);
        assert_eq!(read[1 << BITS..], vec![0; 1 << BITS]);
    });
}
