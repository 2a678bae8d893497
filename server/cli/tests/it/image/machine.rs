//! An image for a virtual machine: a share with one file.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fsrv_frontend::abi::{Dirent, Opcode, ROOT, ReadIn, SetattrIn};
use fsrv_frontend::{Call, Client, Error, Mount, MountOptions, Payload, Socket};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use zerocopy::{FromBytes, IntoBytes};

use super::export::{FORMATS, Format, Image, KIB, MIB};
use crate::mount::wait;
use crate::served::FSRV;

const SOON: Duration = Duration::from_secs(10);

/// A server of one image. It is gone when the value is dropped.
struct Device {
    server: Child,
    socket: PathBuf,
}

impl Device {
    fn of(image: &Image, args: &[&str]) -> Self {
        let socket = image.at("socket");
        // A test that is killed runs no destructors; its server then gets the signal from the kernel.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(FSRV).args(["serve", "--vhost-user"]);
        command.arg(&socket).arg("--image").arg(image.path()).args(image.format_args()).args(args);
        let server = command.stdin(Stdio::null()).spawn().expect("setpriv runs");
        Self { server, socket }
    }

    fn mount(&self) -> Mount {
        let socket = Socket::connect_within(&self.socket, SOON).expect("a server that listens");
        Mount::on_socket(socket, &MountOptions::default()).expect("a mount")
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.server), Signal::TERM).expect("a running server");
        let status = wait(&mut self.server, SOON).expect("a child").expect("it ends");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The names in the root. A Linux guest too goes without OPENDIR where it is not there.
fn names(client: &mut Client) -> Vec<String> {
    let mut names = Vec::new();
    let mut offset = 0;
    loop {
        let bytes = read_root(client, offset);
        let mut rest = bytes.as_slice();
        if rest.is_empty() {
            break;
        }
        while let Ok((entry, behind)) = Dirent::read_from_prefix(rest) {
            let length = entry.namelen as usize;
            names.push(String::from_utf8_lossy(&behind[..length]).into_owned());
            rest = behind.get(length.next_multiple_of(8)..).unwrap_or_default();
            offset = entry.off;
        }
    }
    names.retain(|name| name != "." && name != "..");
    names
}

fn read_root(client: &mut Client, offset: u64) -> Vec<u8> {
    const SIZE: u32 = 4096;
    let args = ReadIn { offset, size: SIZE, ..ReadIn::default() };
    let done = client.call(&Call {
        op: Opcode::Readdir,
        node: ROOT,
        args: &[args.as_bytes()],
        payload: Payload::Receive(SIZE),
        reply: 0,
    });
    client.reply_bytes(&done.expect("entries"))
}

fn errno<T>(outcome: Result<T, Error>) -> Option<i32> {
    outcome.err().and_then(|error| error.errno())
}

#[test]
fn a_machine_sees_one_file_of_the_name_of_the_image() {
    for (args, name) in [(&[][..], "image"), (&["--name", "disk.raw"], "disk.raw")] {
        let image = Image::new(FORMATS[FORMATS.len() - 1], 3 * MIB);
        let device = Device::of(&image, args);
        let mut mount = device.mount();
        assert_eq!(names(mount.client()), [name]);
        let entry = mount.client().lookup(ROOT, name.as_bytes()).unwrap();
        assert_eq!((entry.attr.size, entry.attr.mode), (3 * MIB, 0o100_400));
        let missing = mount.client().lookup(ROOT, b"other");
        assert_eq!(errno(missing), Some(Errno::NOENT.raw_os_error()));
        mount.unmount().unwrap();
        device.stop();
    }
}

#[test]
fn a_machine_reads_and_writes_the_image() {
    for format in FORMATS {
        let image = Image::new(format, MIB);
        image.fill(0, 64 * KIB, 5);
        let device = Device::of(&image, &["--writable"]);
        let mut mount = device.mount();
        let client = mount.client();
        let node = client.lookup(ROOT, b"image").unwrap().nodeid;
        let open = client.open(node, libc::O_RDWR as u32).unwrap();
        assert_eq!(client.read(node, open.fh, 0, 4096).unwrap(), [5; 4096]);
        assert_eq!(client.write(node, open.fh, 128 * KIB, &[6; 8192]).unwrap(), 8192);
        assert_eq!(client.write(node, open.fh, MIB - 4096, &[7; 8192]).unwrap(), 4096);
        assert_eq!(client.read(node, open.fh, MIB - 4096, 8192).unwrap(), [7; 4096]);
        client.fsync(node, open.fh).unwrap();
        client.release(node, open.fh).unwrap();
        mount.unmount().unwrap();
        device.stop();
        image.is_consistent();
        image.is_filled(128 * KIB, 8192, 6);
        image.is_filled(MIB - 4096, 4096, 7);
    }
}

#[test]
fn a_machine_can_change_no_names() {
    let image = Image::new(Format::Raw, MIB);
    let device = Device::of(&image, &["--writable"]);
    let mut mount = device.mount();
    let client = mount.client();
    let node = client.lookup(ROOT, b"image").unwrap().nodeid;
    let write = (libc::O_RDWR | libc::O_CREAT) as u32;
    let refused = [
        errno(client.create(ROOT, b"new", write, 0o600)),
        errno(client.mkdir(ROOT, b"new", 0o700)),
        errno(client.mknod(ROOT, b"new", 0o100_600, 0)),
        errno(client.symlink(ROOT, b"new", b"image")),
        errno(client.link(node, ROOT, b"new")),
        errno(client.unlink(ROOT, b"image")),
        errno(client.rmdir(ROOT, b"image")),
        errno(client.rename((ROOT, b"image"), (ROOT, b"new"))),
    ];
    assert!(refused.iter().all(Option::is_some), "{refused:?}");
    assert_eq!(names(client), ["image"]);
    mount.unmount().unwrap();
    device.stop();
}

#[test]
fn a_machine_cannot_write_a_read_only_image() {
    let image = Image::new(Format::Raw, MIB);
    image.fill(0, MIB, 5);
    let device = Device::of(&image, &[]);
    let mut mount = device.mount();
    let client = mount.client();
    let node = client.lookup(ROOT, b"image").unwrap().nodeid;
    let opened = client.open(node, libc::O_RDWR as u32);
    assert_eq!(errno(opened), Some(Errno::ACCESS.raw_os_error()));
    let open = client.open(node, libc::O_RDONLY as u32).unwrap();
    let written = client.write(node, open.fh, 0, &[6; 4096]);
    assert_eq!(errno(written), Some(Errno::ACCESS.raw_os_error()));
    let size = SetattrIn { valid: 1 << 3, size: 0, ..SetattrIn::default() };
    assert_eq!(errno(client.setattr(node, size)), Some(Errno::ACCESS.raw_os_error()));
    mount.unmount().unwrap();
    device.stop();
    image.is_filled(0, MIB, 5);
}

#[test]
fn a_second_machine_comes_after_the_first() {
    let image = Image::new(FORMATS[FORMATS.len() - 1], MIB);
    let device = Device::of(&image, &["--writable"]);
    for byte in 1..=3_u8 {
        let mut mount = device.mount();
        let client = mount.client();
        let node = client.lookup(ROOT, b"image").unwrap().nodeid;
        let open = client.open(node, libc::O_RDWR as u32).unwrap();
        assert_eq!(client.read(node, open.fh, 0, 512).unwrap(), [byte - 1; 512]);
        client.write(node, open.fh, 0, &[byte; 512]).unwrap();
        // A machine that is switched off says nothing.
        drop(mount);
    }
    device.stop();
    image.is_consistent();
    image.is_filled(0, 512, 3);
}
