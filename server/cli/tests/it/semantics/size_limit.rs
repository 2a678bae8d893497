//! A server whose files may not grow past a limit (RLIMIT_FSIZE).

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, copy_file_range, fallocate};
use rustix::process::Resource;

use super::{CORNERS, sys};
use crate::served::Served;

const LIMIT: u64 = 1 << 20;

/// What O_DIRECT takes.
#[repr(align(4096))]
struct Page([u8; 4096]);

const PAGE: Page = Page([b'x'; 4096]);

#[test]
fn what_grows_past_the_limit_is_efbig_and_the_server_goes_on() {
    for corner in CORNERS {
        let served = Served::new(&[corner, &["--allow-direct-io"]].concat());
        served.mount.limit(Resource::Fsize, LIMIT).unwrap();
        fs::write(served.backing().join("from"), [b'x'; 8192]).unwrap();
        let path = served.mounted().join("file");
        File::create(&path).unwrap();
        // A signal that waits for its thread must not be there the second time.
        for round in 0..2 {
            for (name, result) in grow(&path) {
                let errno = result.expect_err(name).raw_os_error();
                assert_eq!(errno, Some(libc::EFBIG), "{name} with {corner:?}, round {round}");
            }
        }
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&PAGE.0, LIMIT - 4096).unwrap();
        file.sync_all().unwrap();
        drop(file);
        assert_eq!(fs::metadata(served.backing().join("file")).unwrap().size(), LIMIT);
        served.stop();
    }
}

/// Every way to let the file at `path` grow past the limit.
fn grow(path: &Path) -> [(&'static str, io::Result<()>); 6] {
    let file = File::options().write(true).open(path).unwrap();
    let mut direct = File::options();
    let direct = direct.write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path).unwrap();
    let from = File::open(path.with_file_name("from")).unwrap();
    let (mut start, mut end) = (0, LIMIT + 4096);
    let copied = copy_file_range(&from, Some(&mut start), &file, Some(&mut end), 4096);
    let none = FallocateFlags::empty();
    let name = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    [
        ("write", file.write_all_at(&PAGE.0, LIMIT)),
        ("O_DIRECT write", direct.write_all_at(&PAGE.0, LIMIT)),
        ("ftruncate", file.set_len(LIMIT + 1)),
        ("truncate", sys::truncate(&name, LIMIT as i64 + 1)),
        ("fallocate", fallocate(&file, none, LIMIT, 4096).map_err(Into::into)),
        ("copy_file_range", copied.map(drop).map_err(Into::into)),
    ]
}
