//! A device whose server may have no more threads.

use fsrv_frontend::abi::{FallocateIn, ROOT};

use super::device::Device;
use crate::no_threads::{ENGINES, Pids};

#[test]
fn a_device_that_can_have_no_more_threads_works_and_ends() {
    for engine in ENGINES {
        let pids = Pids::new(&format!("full-vm-{engine}"));
        let device = Device::new(&["--io-engine", engine]);
        pids.take(device.pid());
        pids.close();
        let mut mount = device.mount();
        let client = mount.client();
        for flags in [0, libc::O_DIRECT, libc::O_SYNC, libc::O_DSYNC] {
            let flags = (libc::O_RDWR | flags).cast_unsigned();
            let (made, open) = client.create(ROOT, b"made", flags, 0o644).unwrap();
            for block in 0..8 {
                let (offset, data) = (block * 4096, [block as u8; 4096]);
                assert_eq!(client.write(made.nodeid, open.fh, offset, &data).unwrap(), 4096);
                client.fsync(made.nodeid, open.fh).unwrap();
                let args = FallocateIn { fh: open.fh, offset, length: 4096, ..Default::default() };
                client.fallocate(made.nodeid, args).unwrap();
                assert_eq!(client.read(made.nodeid, open.fh, offset, 4096).unwrap(), data);
            }
            client.release(made.nodeid, open.fh).unwrap();
            client.unlink(ROOT, b"made").unwrap();
        }
        mount.unmount().unwrap();
        device.stop();
    }
}
