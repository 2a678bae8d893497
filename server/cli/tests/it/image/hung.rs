//! An image on a host filesystem that hangs keeps no thread from others.

use std::fs;
use std::time::Duration;

use fsrv_blockimage::{Disk, Format, Options};
use fsrv_transport::mem::{InBuf, OutBuf, Pool};
use tokio::time::timeout;

use crate::hung::{Slow, within};
use crate::served::directory;

const LEN: usize = 64 << 10;

/// Long enough for whatever asks nobody.
const MOMENT: Duration = Duration::from_millis(300);

#[test]
fn whatever_asks_a_host_that_hangs_waits_on_another_thread() {
    let (source, point) = (directory(), directory());
    fs::write(source.path().join("image"), vec![7; LEN]).unwrap();
    let slow = Slow::at(source.path(), point.path());
    let options = Options {
        path: point.path().join("image"),
        writable: true,
        direct: false,
        format: Some(Format::Raw),
        allow_backing: Vec::new(),
    };
    let slow = within(Duration::from_secs(20), "what waits for nobody", move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async move {
            let disk = Disk::open(&options).await.unwrap();
            let pool = Pool::new();
            slow.stop();
            // The host's kernel remembers attributes for a second.
            tokio::time::sleep(4 * MOMENT).await;
            let out = || OutBuf::new(&pool, LEN);
            assert!(timeout(MOMENT, disk.stat()).await.is_err(), "stat");
            assert!(timeout(MOMENT, disk.read(out(), 0)).await.is_err(), "read");
            assert!(timeout(MOMENT, disk.write(InBuf::copied(&pool, b"new"), 0)).await.is_err());
            assert!(timeout(MOMENT, disk.flush()).await.is_err(), "flush");
            assert!(timeout(MOMENT, disk.set_len(1)).await.is_err(), "set_len");
            assert!(timeout(MOMENT, disk.next_data(0)).await.is_err(), "next_data");
            slow.go_on();
            assert!(disk.stat().await.unwrap().allocated > 0);
            assert!(!disk.read(out(), 0).await.unwrap().is_empty());
            slow.stop();
            drop(disk);
            slow
        })
    });
    drop(slow);
}
