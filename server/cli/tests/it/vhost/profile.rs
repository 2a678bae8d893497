//! A container's rules for system calls: what they refuse a server.
//!
//! Those of Docker and containerd, for a container without capabilities of its own and for one with CAP_SYS_ADMIN, and
//! older ones, which refuse what was not known when they were made.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::thread;

use fsrv_frontend::abi::ROOT;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use super::device::{CONTENT, Device, fsrv, place, reads_file};
use crate::mount::is_mounted;
use crate::served::{Served, directory};

/// What no container may, whatever it is given short of everything.
const NEVER: [i64; 16] = [
    libc::SYS_add_key,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_request_key,
    libc::SYS_swapon,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// What takes CAP_SYS_ADMIN.
const ADMIN: [i64; 14] = [
    libc::SYS_bpf,
    libc::SYS_fanotify_init,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_quotactl,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
];

/// Whoever asks is to take the older call.
const UNKNOWN: [i64; 1] = [libc::SYS_clone3];

/// Runs `test` on a thread for which, and for whose children, `calls` fail with `errno`.
fn refused(rules: &[(&[i64], i32)], test: impl FnOnce() + Send + 'static) {
    let filters: Vec<BpfProgram> =
        rules.iter().map(|(calls, errno)| filter(calls, *errno)).collect();
    // A filter belongs to a thread, and stays: other tests have their own.
    let thread = thread::spawn(move || {
        filters.iter().for_each(|filter| apply_filter(filter).unwrap());
        test();
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn filter(calls: &[i64], errno: i32) -> BpfProgram {
    let calls: BTreeMap<_, _> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(errno.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    SeccompFilter::new(calls, SeccompAction::Allow, refuse, arch).unwrap().try_into().unwrap()
}

#[test]
fn a_device_is_served_in_a_container_without_capabilities_of_its_own() {
    let rules: [(&[i64], i32); 3] =
        [(&NEVER, libc::EPERM), (&ADMIN, libc::EPERM), (&UNKNOWN, libc::ENOSYS)];
    refused(&rules, || {
        let device = Device::new(&[]);
        assert!(device.log().contains("file I/O by threads: no io_uring here"), "{}", device.log());
        let mut mount = device.mount();
        reads_file(&mut mount);

        let client = mount.client();
        let dir = client.mkdir(ROOT, b"dir", 0o777).unwrap().nodeid;
        let (file, open) = client.create(dir, b"made", libc::O_RDWR as u32, 0o100_666).unwrap();
        client.write(file.nodeid, open.fh, 0, CONTENT).unwrap();
        client.fsync(file.nodeid, open.fh).unwrap();
        client.setxattr(file.nodeid, b"user.colour", b"blue", 0).unwrap();
        client.rename((dir, b"made"), (ROOT, b"moved")).unwrap();
        client.symlink(ROOT, b"link", b"moved").unwrap();
        client.release(file.nodeid, open.fh).unwrap();
        mount.unmount().unwrap();

        assert_eq!(fs::read(device.shared("link")).unwrap(), CONTENT);
        let mode = |name| fs::metadata(device.shared(name)).unwrap().permissions().mode();
        assert_eq!((mode("moved"), mode("dir")), (0o100_666, 0o040_777));
        device.stop();
    });
}

#[test]
fn a_mount_point_is_served_in_a_container_that_may_mount() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        refused(&[(&NEVER, errno), (&UNKNOWN, libc::ENOSYS)], || {
            let served = Served::new(&[]);
            let dir = served.mounted();
            fs::write(dir.join("file"), "content").unwrap();
            // An answer comes after all that is said at the start.
            let log = served.mount.log().unwrap();
            assert!(log.contains("file I/O by threads: no io_uring here"), "{log}");
            fs::hard_link(dir.join("file"), dir.join("other")).unwrap();
            fs::remove_file(dir.join("file")).unwrap();
            assert_eq!(fs::read(served.backing().join("other")).unwrap(), b"content");
            let log = served.mount.log().unwrap();
            assert!(log.contains("file I/O by threads: no io_uring here"), "{log}");
            served.stop();
        });
    }
}

#[test]
fn a_mount_that_is_refused_is_one_clear_line() {
    refused(&[(&ADMIN, libc::EPERM), (&NEVER, libc::EPERM)], || {
        let (dir, mountpoint) = (directory(), directory());
        let said = fails(&["--fuse", mountpoint.path().to_str().unwrap()], dir.path());
        assert!(said.contains("cannot mount on") && said.contains("not permitted"), "{said}");
        assert!(!is_mounted(mountpoint.path()).unwrap());
    });
}

#[test]
fn what_nothing_is_served_without_is_named_at_start() {
    for (name, call) in [("openat2", libc::SYS_openat2), ("statx", libc::SYS_statx)] {
        for errno in [libc::EPERM, libc::ENOSYS] {
            refused(&[(&[call], errno)], move || {
                let place = place();
                let socket = place.path().join("socket").display().to_string();
                let said = fails(&["--vhost-user", &socket], &place.path().join("shared"));
                assert!(said.contains(name) && said.contains("seccomp"), "{said}");
                assert!(!place.path().join("socket").exists());
                let mountpoint = directory();
                let point = mountpoint.path().to_str().unwrap();
                let said = fails(&["--fuse", point], &place.path().join("shared"));
                assert!(said.contains(name) && said.contains("seccomp"), "{said}");
            });
        }
    }
}

/// Calls that are newer than others which do the same. The last four are setxattrat and its like, of Linux 6.13.
const NEWER: [i64; 7] =
    [libc::SYS_faccessat2, libc::SYS_fchmodat2, libc::SYS_close_range, 463, 464, 465, 466];

#[test]
fn what_can_be_done_without_is_not_missed() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        refused(&[(&NEWER, errno)], || {
            let device = Device::new(&[]);
            let mut mount = device.mount();
            reads_file(&mut mount);
            let client = mount.client();
            let file = client.lookup(ROOT, b"file").unwrap().nodeid;
            client.setxattr(file, b"user.colour", b"blue", 0).unwrap();
            client.setxattr(file, b"user.other", b"", 0).unwrap();
            assert_eq!(client.getxattr(file, b"user.colour", 100).unwrap(), b"blue");
            assert_eq!(client.xattr_size(file, b"user.colour").unwrap(), 4);
            client.removexattr(file, b"user.other").unwrap();
            assert_eq!(client.listxattr(file, 100).unwrap(), b"user.colour\0");
            mount.unmount().unwrap();
            device.stop();
        });
    }
}

/// What the server says in its one line.
fn fails(place: &[&str], dir: &std::path::Path) -> String {
    // A server that starts all the same must not keep the test waiting.
    let mut command = Command::new("timeout");
    command.args(["--kill-after=2", "10"]).arg(fsrv()).arg("serve").args(place);
    let Output { status, stderr, .. } = command.arg("--dir").arg(dir).output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}
