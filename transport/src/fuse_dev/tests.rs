//! Real mounts, with nobody who understands what the kernel asks. They need root and `/dev/fuse`.

use std::{
    fs,
    future::Future,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{Mode, OFlags, open};
use tempfile::TempDir;

use super::{
    mount::mount_by_program,
    options::Root,
    point::{MountId, MountPoint},
    *,
};
use crate::{
    mem::{PAGE, Pool},
    transport::{Config, Message, Transport},
};

pub(super) const CONFIG: Config =
    Config { header_split: 80, reply_header: 16, max_data: 1 << 20, depth: 4 };

/// The code of INIT, which a kernel sends first.
pub(super) const INIT: u32 = 26;

/// A mount, with the directory that it covers. The fields are dropped in this order.
struct Mounted {
    mount: Mount,
    device: Device,
    dir: TempDir,
}

impl Mounted {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mount, device) = mount(dir.path(), &MountOptions::new("test")).expect("a mount");
        Self { mount, device, dir }
    }

    fn by_program() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let point = MountPoint::open(dir.path(), Root::Directory).unwrap();
        let (mount, device) = mount_by_program(point, &MountOptions::new("a,b")).expect("a mount");
        Self { mount, device, dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn transport(&self) -> FuseTransport {
        FuseTransport::new(self.device.try_clone().unwrap(), CONFIG, Pool::new()).unwrap()
    }
}

#[test]
fn requests_arrive_until_the_mount_is_removed() {
    for mounted in [Mounted::new(), Mounted::by_program()] {
        in_runtime(async {
            let mut transport = mounted.transport();
            assert_eq!(opcode(transport.recv().await.unwrap().unwrap()), INIT);
            let removed = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                mounted.mount.unmount().unwrap();
            };
            let (end, ()) = tokio::join!(transport.recv(), removed);
            assert!(end.unwrap().is_none());
        });
        assert!(!is_mounted(mounted.path()));
    }
}

#[test]
fn the_data_of_a_message_begins_at_a_page() {
    let mounted = Mounted::new();
    in_runtime(async {
        let mut message = mounted.transport().recv().await.unwrap().unwrap();
        message.input.advance(CONFIG.header_split);
        assert!(message.input.slices().are_aligned(PAGE));
    });
}

#[test]
fn a_busy_mount_stays_and_can_be_detached() {
    for mounted in [Mounted::new(), Mounted::by_program()] {
        let inside = open(mounted.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let busy = mounted.mount.unmount().unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::ResourceBusy, "{busy}");
        assert!(is_mounted(mounted.path()));
        mounted.mount.detach().unwrap();
        assert!(!is_mounted(mounted.path()));
        drop(inside);
    }
}

#[test]
fn a_mount_that_took_our_place_is_left_alone() {
    let first = Mounted::new();
    rustix::mount::unmount(first.path(), rustix::mount::UnmountFlags::NOFOLLOW).unwrap();
    let (second, _device) = mount(first.path(), &MountOptions::new("test")).unwrap();
    first.mount.unmount().unwrap();
    first.mount.abort().unwrap();
    assert!(is_mounted(first.path()));
    second.unmount().unwrap();
}

/// Renames the directory above a mount point, and gives it back its name when dropped.
pub(super) struct Moved {
    from: PathBuf,
    pub(super) to: PathBuf,
}

impl Moved {
    pub(super) fn above(point: &Path) -> Self {
        let from = point.parent().unwrap().to_owned();
        let to = from.with_file_name("a new\nname \\ with # all");
        fs::rename(&from, &to).unwrap();
        Self { from, to }
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        fs::rename(&self.to, &self.from).unwrap();
    }
}

#[test]
fn a_mount_whose_parent_was_renamed_is_found() {
    for by_program in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("parent/point");
        fs::create_dir_all(&path).unwrap();
        let mut options = MountOptions::new("test");
        options.set("nosuid");
        let mount = || match by_program {
            false => super::mount(&path, &options).unwrap(),
            true => {
                let point = MountPoint::open(&path, Root::Directory).unwrap();
                mount_by_program(point, &options).unwrap()
            }
        };
        for end in [Mount::unmount, Mount::detach, Mount::abort] {
            let (mount, _device) = mount();
            let moved = Moved::above(&path);
            let inside = moved.to.join("point");
            assert!(is_mounted_anywhere(&inside));
            end(&mount).unwrap();
            assert!(!is_mounted_anywhere(&inside), "by_program: {by_program}");
            drop(moved);
        }
        let (mount, _device) = mount();
        let moved = Moved::above(&path);
        // Something else is where it was, and it is covered where it is.
        let tmpfs = |at: &Path| {
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("test", at, "tmpfs", flags, None).unwrap();
        };
        let off = |at: &Path| {
            rustix::mount::unmount(at, rustix::mount::UnmountFlags::NOFOLLOW).unwrap();
        };
        fs::create_dir_all(&path).unwrap();
        tmpfs(&path);
        tmpfs(&moved.to.join("point"));
        let covered = mount.unmount().unwrap_err();
        assert_eq!(covered.kind(), ErrorKind::ResourceBusy, "{covered}");
        off(&moved.to.join("point"));
        mount.unmount().unwrap();
        off(&path);
        fs::remove_dir_all(&moved.from).unwrap();
        assert!(!is_mounted_anywhere(&moved.to.join("point")));
    }
}

/// Whether `path` is a mount, told without the list of mounts.
fn is_mounted_anywhere(path: &Path) -> bool {
    let [here, above] = [path, path.parent().unwrap()].map(|path| MountId::at(path).unwrap());
    !here.is_same(&above)
}

#[test]
fn a_mount_that_another_one_covers_stays_busy() {
    let first = Mounted::new();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("test", first.path(), "tmpfs", flags, None).unwrap();
    let covered = first.mount.unmount().unwrap_err();
    rustix::mount::unmount(first.path(), rustix::mount::UnmountFlags::NOFOLLOW).unwrap();
    assert_eq!(covered.kind(), ErrorKind::ResourceBusy);
    first.mount.unmount().unwrap();
}

#[test]
fn dropping_a_mount_leaves_nothing() {
    let Mounted { mount, device, dir } = Mounted::new();
    drop(mount);
    assert!(!is_mounted(dir.path()));
    drop(device);
}

#[test]
fn a_place_that_cannot_be_mounted_on_is_named_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(
        refusal(&dir.path().join("none"))
            .ends_with("/none: No such file or directory; create it first")
    );
    assert!(refusal(&file).ends_with("/file: Not a directory"));
}

#[test]
fn a_mount_of_a_server_that_does_not_answer_is_refused() {
    let mounted = Mounted::new();
    assert!(refusal(mounted.path()).contains("it is a FUSE mount already"));
}

#[test]
fn a_mount_without_a_server_is_refused_with_the_way_out() {
    let Mounted { mount, device, dir } = Mounted::new();
    drop(device);
    let refusal = refusal(dir.path());
    assert!(refusal.contains("Transport endpoint is not connected"), "{refusal}");
    assert!(refusal.contains("fusermount3 -u"), "{refusal}");
    drop(mount);
}

#[test]
fn options_reach_the_mount() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = MountOptions::new("a,b").allow_other(true);
    for word in ["ro", "nosuid", "nodev", "noatime", "sync"] {
        assert!(options.set(word));
    }
    let (mount, _device) = super::mount(dir.path(), &options).unwrap();
    let line = mount_line(dir.path()).unwrap();
    for word in ["ro,nosuid,nodev,noatime", "fuse.fsrv a,b ro,sync", "allow_other"] {
        assert!(line.contains(word), "{word} in {line}");
    }
    mount.unmount().unwrap();
}

pub(super) fn in_runtime(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(test);
}

pub(super) fn opcode<C>(mut message: Message<C>) -> u32 {
    let mut head = [0; 8];
    message.input.take_front(&mut head).unwrap();
    u32::from_ne_bytes(head[4..].try_into().unwrap())
}

fn refusal(path: &Path) -> String {
    mount(path, &MountOptions::new("test")).map(drop).unwrap_err().to_string()
}

pub(super) fn is_mounted(path: &Path) -> bool {
    mount_line(path).is_some()
}

pub(super) fn mount_line(path: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(4).map(Path::new) == Some(path));
    line.map(str::to_owned)
}
