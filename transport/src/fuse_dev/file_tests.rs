//! Real mounts over a file. They need root, `/dev/fuse` and fusermount3.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind},
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, makedev, mknodat, open, statx},
    io::{Errno, read, write},
    mount::{UnmountFlags, mount_bind},
    thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use tempfile::TempDir;

use super::{
    mount::mount_by_program,
    options::Root,
    point::MountPoint,
    tests::{CONFIG, INIT, Moved, in_runtime, is_mounted, mount_line, opcode},
    *,
};
use crate::{mem::Pool, transport::Transport};

const CONTENT: &str = "below";

/// Names the file for the process that the tests start.
const FILE: &str = "FSRV_TEST_FILE";

/// A mount over a file. The fields are dropped in this order.
struct Exported {
    mount: Mount,
    device: Device,
    file: PathBuf,
    dir: TempDir,
}

impl Exported {
    fn new() -> Self {
        let (dir, file) = place();
        let (mount, device) = mount(&file, &options()).expect("a mount");
        Self { mount, device, file, dir }
    }

    fn by_program() -> Self {
        let (dir, file) = place();
        let point = MountPoint::open(&file, Root::File).unwrap();
        let (mount, device) = mount_by_program(point, &options()).expect("a mount");
        Self { mount, device, file, dir }
    }

    fn both_ways() -> [Self; 2] {
        [Self::new(), Self::by_program()]
    }

    /// Another name in the same directory.
    fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

#[test]
fn requests_for_a_file_arrive_until_the_mount_is_removed() {
    for exported in Exported::both_ways() {
        assert_eq!(exported.mount.path(), exported.file.canonicalize().unwrap());
        assert_eq!(root_type(&exported.file), FileType::RegularFile);
        in_runtime(async {
            let clone = exported.device.try_clone().unwrap();
            let mut transport = FuseTransport::new(clone, CONFIG, Pool::new()).unwrap();
            assert_eq!(opcode(transport.recv().await.unwrap().unwrap()), INIT);
            exported.mount.unmount().unwrap();
            assert!(transport.recv().await.unwrap().is_none());
        });
        assert!(!is_mounted(&exported.file));
        assert_eq!(fs::read_to_string(&exported.file).unwrap(), CONTENT);
    }
}

#[test]
fn clients_read_the_file_and_it_can_be_synced() {
    for Exported { mount, device, file, dir: _dir } in Exported::both_ways() {
        let server = thread::spawn(move || serve(&device));
        assert_eq!(fs::read_to_string(&file).unwrap(), "above");
        mount.sync().unwrap();
        mount.unmount().unwrap();
        server.join().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), CONTENT);
    }
}

#[test]
fn a_mount_over_a_file_whose_directory_was_renamed_is_found() {
    for exported in Exported::both_ways() {
        let moved = Moved::above(&exported.file);
        let file = moved.to.join("file");
        assert_eq!(fs::symlink_metadata(&exported.file).unwrap_err().kind(), ErrorKind::NotFound);
        exported.mount.unmount().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), CONTENT);
        // It may be mounted over again.
        let (again, _device) = mount(&file, &options()).unwrap();
        again.unmount().unwrap();
    }
}

#[test]
fn a_symbolic_link_is_followed_to_the_file() {
    let (dir, file) = place();
    let link = dir.path().join("link");
    symlink("file", &link).unwrap();
    let (mount, _device) = mount(&link, &options()).unwrap();
    assert_eq!(mount.path(), file.canonicalize().unwrap());
    assert!(is_mounted(&file));
    mount.unmount().unwrap();
    assert!(!is_mounted(&file));
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let (dir, file) = place();
    let [fifo, served] = ["fifo", "served"].map(|name| dir.path().join(name));
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
    fs::create_dir(&served).unwrap();
    let (_mount, _device) = mount(&served, &MountOptions::new("test")).unwrap();
    for path in [dir.path(), &served, &fifo, Path::new("/dev/null")] {
        let name = path.display();
        assert_eq!(
            refusal(path),
            format!(
                "cannot mount on {name}: '{name}' is not a regular file; mount over one, it may be \
                 empty"
            )
        );
    }
    let dangling = dir.path().join("dangling");
    symlink("none", &dangling).unwrap();
    for path in [dir.path().join("none"), file.join("none"), dangling] {
        let name = path.display();
        assert_eq!(
            refusal(&path),
            format!(
                "cannot mount on {name}: '{name}' is not a regular file, it does not exist; create \
                 it first, empty"
            )
        );
    }
}

#[test]
fn a_file_is_exported_once_whatever_path_leads_to_it() {
    let (dir, file) = place();
    let [hard, soft, bound, above] =
        ["hard", "soft", "bound", "above"].map(|name| dir.path().join(name));
    fs::hard_link(&file, &hard).unwrap();
    symlink(&file, &soft).unwrap();
    let _bound = Bound::new(&file, &bound);
    for by_program in [false, true] {
        let (mount, device) = if by_program {
            mount_by_program(MountPoint::open(&file, Root::File).unwrap(), &options()).unwrap()
        } else {
            mount(&file, &options()).unwrap()
        };
        let server = thread::spawn(move || serve(&device));
        let bound_above = Bound::new(&file, &above);
        for path in [&file, &soft, &hard, &bound, &above] {
            let said = refusal(path);
            let name = path.display();
            assert!(said.starts_with(&format!("cannot mount on {name}: '{name}' is")), "{said}");
            assert!(said.contains("already exported, by this path or another; end"), "{said}");
        }
        drop(bound_above);
        mount.unmount().unwrap();
        server.join().unwrap();
    }
    let (mount, _device) = mount(&hard, &options()).unwrap();
    assert!(refusal(&file).contains("already exported"));
    mount.unmount().unwrap();
}

#[test]
fn a_server_that_hangs_has_exported_its_file() {
    let exported = Exported::new();
    assert!(refusal(&exported.file).contains("already exported"));
}

#[test]
fn the_file_can_be_mounted_over_again_at_once() {
    type End = fn(&Mount);
    let ends: [End; 3] = [
        |mount| mount.unmount().unwrap(),
        |mount| mount.detach().unwrap(),
        |mount| mount.abort().unwrap(),
    ];
    for end in ends {
        for first in Exported::both_ways() {
            end(&first.mount);
            let (second, _device) = mount(&first.file, &options()).unwrap();
            // It is not the first one's any more.
            end(&first.mount);
            assert!(is_mounted(&first.file));
            drop(second);
            let (_third, _device) = mount(&first.file, &options()).unwrap();
        }
    }
}

#[test]
fn a_busy_file_stays_exported_until_it_is_detached() {
    for exported in Exported::both_ways() {
        let hard = exported.beside("hard");
        let held = open(&exported.file, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let busy = exported.mount.unmount().unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::ResourceBusy, "{busy}");
        assert!(is_mounted(&exported.file));
        assert!(refusal(&exported.file).contains("already exported"));
        exported.mount.detach().unwrap();
        assert!(!is_mounted(&exported.file));
        fs::hard_link(&exported.file, &hard).unwrap();
        let (_mount, _device) = mount(&hard, &options()).unwrap();
        drop(held);
    }
}

#[test]
fn a_file_that_somebody_else_unmounted_can_be_mounted_over() {
    let exported = Exported::new();
    rustix::mount::unmount(&exported.file, UnmountFlags::NOFOLLOW).unwrap();
    // Its server has not noticed yet.
    assert!(refusal(&exported.file).contains("already exported"));
    exported.mount.unmount().unwrap();
    let (_mount, _device) = mount(&exported.file, &options()).unwrap();
}

#[test]
fn the_death_of_a_server_frees_the_file() {
    let (dir, file) = place();
    let hard = dir.path().join("hard");
    fs::hard_link(&file, &hard).unwrap();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fuse_dev::file_tests::a_server", "--ignored", "--nocapture"])
        .env(FILE, &file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(server.stdout.take().unwrap());
    assert!(said.lines().any(|line| line.unwrap().contains("mounted")));
    let refused = [&file, &hard].map(|path| refusal(path));
    server.kill().unwrap();
    server.wait().unwrap();
    let dead = refusal(&file);
    rustix::mount::unmount(&file, UnmountFlags::DETACH).unwrap();
    assert!(refused.iter().all(|said| said.contains("already exported")), "{refused:?}");
    assert!(dead.contains("the server of the mount there is gone; remove it"), "{dead}");
    for path in [&file, &hard] {
        mount(path, &options()).unwrap();
    }
}

/// Not a test: the server that another one kills.
#[test]
#[ignore = "another test starts it"]
fn a_server() {
    let Some(file) = std::env::var_os(FILE) else { return };
    let (_mount, _device) = mount(Path::new(&file), &options()).unwrap();
    println!("mounted");
    // Until the test ends, whatever becomes of it.
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn children_have_no_part_in_the_lock() {
    let exported = Exported::new();
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let descriptors = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
    // It may close some meanwhile.
    let open: Vec<_> =
        descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect();
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(!open.contains(&exported.file.canonicalize().unwrap()), "{open:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_refused_with_the_way_out() {
    let (dir, file) = place();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o200)).unwrap();
    let said = as_nobody(|| refusal(&file));
    assert!(said.contains("cannot open it for reading, to lock it: Permission denied"), "{said}");
    assert!(said.ends_with("; let this user read it"), "{said}");
}

#[test]
fn options_reach_a_mount_over_a_file() {
    let (_dir, file) = place();
    let mut options = MountOptions::new("a,b").allow_other(true).over_file();
    assert!(options.set("ro"));
    let (_mount, _device) = mount(&file, &options).unwrap();
    let line = mount_line(&file).unwrap();
    for word in [" ro,", "fuse.fsrv a,b ro", "allow_other"] {
        assert!(line.contains(word), "{word} in {line}");
    }
}

#[test]
fn an_ordinary_user_mounts_over_a_file() {
    // Not every machine lets its users open /dev/fuse; in a namespace of its own it has to.
    let (_dir, file) = place();
    let output = Command::new("unshare")
        .arg("--mount")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "fuse_dev::file_tests::in_a_namespace", "--ignored", "--nocapture"])
        .env(FILE, &file)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("the user has mounted"), "{said}");
}

/// Not a test: what the one above does.
#[test]
#[ignore = "another test starts it"]
fn in_a_namespace() {
    let Some(file) = std::env::var_os(FILE).map(PathBuf::from) else { return };
    let dir = file.parent().unwrap();
    let (device, hard) = (dir.join("device"), dir.join("hard"));
    mknodat(CWD, &device, FileType::CharacterDevice, Mode::empty(), makedev(10, 229)).unwrap();
    fs::set_permissions(&device, fs::Permissions::from_mode(0o666)).unwrap();
    mount_bind(&device, "/dev/fuse").unwrap();
    fs::hard_link(&file, &hard).unwrap();
    for path in [dir, &file] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    as_nobody(|| mount_and_unmount(&file, &hard));
    // Not even root may look into the user's mount.
    let (mount, _device) = as_nobody(|| mount(&file, &options()).unwrap());
    let said = refusal(&file);
    assert!(said.contains("already exported"), "{said}");
    as_nobody(|| mount.unmount().unwrap());
    println!("the user has mounted");
}

fn mount_and_unmount(file: &Path, hard: &Path) {
    for end in [Mount::unmount, Mount::detach] {
        let (mount, device) = mount(file, &options()).unwrap();
        assert!(mount.needs_program());
        assert_eq!(root_type(file), FileType::RegularFile);
        let line = mount_line(file).unwrap();
        assert!(line.contains("fuse.fsrv") && line.contains("user_id=65534"), "{line}");
        let server = thread::spawn(move || serve(&device));
        for path in [file, hard] {
            assert!(refusal(path).contains("already exported"));
        }
        assert_eq!(fs::read_to_string(file).unwrap(), "above");
        end(&mount).unwrap();
        server.join().unwrap();
        assert!(!is_mounted(file));
    }
}

/// A file in a directory of its own.
fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, CONTENT).unwrap();
    (dir, file)
}

fn options() -> MountOptions {
    MountOptions::new("test").over_file()
}

fn refusal(path: &Path) -> String {
    mount(path, &options()).map(drop).unwrap_err().to_string()
}

/// The type of a mount's root, without asking its server.
fn root_type(path: &Path) -> FileType {
    let found = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE).unwrap();
    FileType::from_raw_mode(found.stx_mode.into())
}

/// A file that is visible at another path too.
struct Bound<'a>(&'a Path);

impl<'a> Bound<'a> {
    fn new(file: &Path, at: &'a Path) -> Self {
        fs::write(at, "").unwrap();
        mount_bind(file, at).unwrap();
        Self(at)
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0, UnmountFlags::DETACH).unwrap();
    }
}

const NOBODY: u32 = 65_534;

/// Runs `action` on a thread that belongs to an ordinary user.
fn as_nobody<T: Send>(action: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let acting = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
            action()
        });
        acting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

const GETATTR: u32 = 3;
const READ: u32 = 15;
/// FORGET, INTERRUPT and BATCH_FORGET.
const UNANSWERED: [u32; 3] = [2, 36, 42];

/// Serves a file of five bytes until it is unmounted.
fn serve(device: &Device) {
    let mut message = vec![0; 1 << 20];
    loop {
        match read(device, &mut message) {
            Ok(_) => {}
            Err(Errno::AGAIN) => {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            Err(error) => return assert_eq!(error, Errno::NODEV),
        }
        let word = |at: usize| u32::from_ne_bytes(message[at..at + 4].try_into().unwrap());
        let (error, body) = match word(4) {
            INIT => (0, words(64, &[(0, 7), (4, 31), (20, 4096)])),
            // Valid for no time; the size, the mode, the links.
            GETATTR => (0, words(104, &[(16, 1), (24, 5), (76, 0o100_644), (80, 1)])),
            READ => (0, b"above".to_vec()),
            code if UNANSWERED.contains(&code) => continue,
            _ => (-Errno::NOSYS.raw_os_error(), Vec::new()),
        };
        let len = u32::try_from(16 + body.len()).unwrap();
        let header = [&len.to_ne_bytes(), &error.to_ne_bytes(), &message[8..16]].concat();
        write(device, &[header, body].concat()).unwrap();
    }
}

/// `len` bytes, zero but for the words given with their offsets.
fn words(len: usize, set: &[(usize, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for &(at, word) in set {
        bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}
