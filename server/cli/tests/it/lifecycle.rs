//! How a server starts and ends.

use std::fs::{self, File};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use crate::mount::{Mount, is_mounted};
use crate::served::{FSRV, Served, directory, limited};

#[test]
fn start_line_says_what_is_served_where() {
    let served = Served::new(&["--workers", "1", "--io-engine", "threads", "--cache", "never"]);
    let start = format!(
        "serving {} at {}: fuse 7.",
        served.backing().display(),
        served.mounted().display()
    );

    fs::read_dir(served.mounted()).expect("a served directory").count();
    let log = served.mount.log().expect("a log");

    assert!(log.contains(&start), "no {start:?} in {log:?}");
    assert!(log.contains("threads") && log.contains("cache never"), "{log:?}");
}

#[test]
fn server_unmounts_on_sigint() {
    let mut served = Served::new(&[]);
    served.mount.signal(Signal::INT).expect("a running server");
    served.mount.ended().expect("a clean end");
}

#[test]
fn server_unmounts_on_sigterm() {
    Served::new(&[]).stop();
}

#[test]
fn server_ends_when_unmounted_from_outside() {
    let mut served = Served::new(&[]);
    unmount(served.mounted(), UnmountFlags::empty()).expect("an idle mount");
    served.mount.ended().expect("a clean end");
}

#[test]
fn busy_mount_is_detached_after_five_seconds() {
    let mut served = Served::new(&[]);
    let file = File::create(served.mounted().join("held")).expect("a file");
    let start = Instant::now();

    served.mount.signal(Signal::TERM).expect("a running server");
    served.mount.ended().expect("a clean end");

    assert!(start.elapsed() > Duration::from_secs(4), "ended after {:?}", start.elapsed());
    drop(file);
}

#[test]
fn second_signal_detaches_a_busy_mount_at_once() {
    let mut served = Served::new(&[]);
    let file = File::create(served.mounted().join("held")).expect("a file");
    let start = Instant::now();

    served.mount.signal(Signal::TERM).expect("a running server");
    std::thread::sleep(Duration::from_millis(300));
    served.mount.signal(Signal::TERM).expect("a waiting server");
    served.mount.ended().expect("a clean end");

    assert!(start.elapsed() < Duration::from_secs(3), "ended after {:?}", start.elapsed());
    drop(file);
}

#[test]
fn low_descriptor_limit_is_named_in_a_warning() {
    let place = directory();
    let limited = limited(place.path(), "--nofile=256:256");

    let served = Served::by(&limited, &[]);
    // An answer comes after all that is said at the start.
    fs::metadata(served.mounted()).expect("an answer");
    let log = served.mount.log().expect("a log");

    assert!(log.contains("256"), "no warning in {log:?}");
    served.stop();
}

/// Both ways to mount, and an image over a file.
#[test]
fn mount_point_whose_parent_was_renamed_is_unmounted_where_it_is() {
    let place = directory();
    let image = place.path().join("image");
    fs::write(&image, vec![7; 4096]).expect("an image");
    for serves_image in [false, true] {
        let (before, after) = (place.path().join("before"), place.path().join("after\nwards"));
        let point = before.join("point");
        if serves_image {
            fs::create_dir_all(&before).expect("a directory");
            fs::write(&point, "below").expect("a file to mount over");
        } else {
            fs::create_dir_all(&point).expect("a mount point");
        }
        let served = directory();
        let mount = if serves_image {
            Mount::start(&point, |command, point| {
                command.args([FSRV, "serve", "--fuse"]).arg(point);
                command.arg("--image").arg(&image).args(["--format", "raw"])
            })
        } else {
            Mount::serve(Path::new(FSRV), served.path(), &point, &[])
        };
        let mut mount = mount.expect("a mount");
        fs::rename(&before, &after).expect("a new name for the parent");
        mount.signal(Signal::TERM).expect("a running server");
        mount.ended().expect("a clean end");
        let [inside, above] = [after.join("point"), after.clone()].map(|path| {
            std::os::unix::fs::MetadataExt::dev(&fs::metadata(path).expect("no dead mount"))
        });
        assert_eq!(inside, above, "the mount point is none any more");
        fs::remove_dir_all(&after).expect("a directory without a mount");
    }
}

#[test]
fn a_server_whose_cpu_time_is_over_leaves_no_mount() {
    let place = directory();
    let limited = limited(place.path(), "--cpu=1:20");
    let mut served = Served::by(&limited, &["--cache", "never"]);
    let mounted = served.mounted().to_owned();
    let deadline = Instant::now() + Duration::from_secs(60);

    while is_mounted(&mounted).expect("a list of mounts") {
        assert!(Instant::now() < deadline, "the server goes on");
        // Each takes a little of it.
        for _ in 0..1000 {
            let _ = fs::metadata(mounted.join("nothing"));
        }
    }

    served.mount.ended().expect("a clean end");
    assert!(served.mount.log().expect("a log").contains("RLIMIT_CPU"));
}

#[test]
fn readonly_server_answers_every_change_with_erofs() {
    let served = Served::new(&["--readonly"]);
    fs::write(served.backing().join("file"), "before").expect("a file");
    let file = served.mounted().join("file");
    let other = served.mounted().join("other");
    let tmpfile = (OFlags::TMPFILE | OFlags::RDWR).bits() as i32;
    let mut options = File::options();

    let changes = [
        ("write", fs::write(&file, "after")),
        ("truncate", File::options().write(true).truncate(true).open(&file).map(drop)),
        ("create", File::create(&other).map(drop)),
        ("tmpfile", options.write(true).custom_flags(tmpfile).open(served.mounted()).map(drop)),
        ("mkdir", fs::create_dir(&other)),
        ("unlink", fs::remove_file(&file)),
        ("rename", fs::rename(&file, &other)),
        ("link", fs::hard_link(&file, &other)),
        ("symlink", std::os::unix::fs::symlink("file", &other)),
        ("chmod", fs::set_permissions(&file, fs::Permissions::from_mode(0o600))),
        ("chown", std::os::unix::fs::chown(&file, Some(1), Some(1))),
        ("setxattr", set_xattr(&file)),
    ];

    for (name, outcome) in changes {
        let errno = outcome.expect_err(name).raw_os_error();
        assert_eq!(errno, Some(Errno::ROFS.raw_os_error()), "{name}");
    }
    assert_eq!(fs::read_to_string(&file).expect("a readable file"), "before");
    served.stop();
}

fn set_xattr(file: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::setxattr(file, "user.colour", b"blue", rustix::fs::XattrFlags::empty())?)
}
