//! The client against virtiofsd, which must be in the path.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fsrv_frontend::abi::{Attr, ROOT, SetattrIn, setattr};
use fsrv_frontend::tree::{self, Shape};
use fsrv_frontend::{
    Caller, Cut, Entries, Form, Framing, Frontend, Mount, MountOptions, Socket, Wanted, hostile,
};
use tempfile::TempDir;

struct Server {
    child: Child,
    place: TempDir,
}

impl Server {
    fn start() -> Self {
        let place = TempDir::new().unwrap();
        std::fs::create_dir(place.path().join("shared")).unwrap();
        let child = Command::new("virtiofsd")
            .args(["--sandbox", "none", "--seccomp", "none", "--xattr"])
            .arg("--socket-path")
            .arg(place.path().join("socket"))
            .arg("--shared-dir")
            .arg(place.path().join("shared"))
            .stderr(Stdio::null())
            .spawn()
            .expect("virtiofsd is installed");
        Server { child, place }
    }

    /// A connection to which nothing was said. There can be one.
    fn connect(&self) -> Socket {
        Socket::connect_within(&self.place.path().join("socket"), Duration::from_secs(10)).unwrap()
    }

    fn shared(&self, name: &str) -> PathBuf {
        self.place.path().join("shared").join(name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mount(socket: Socket, options: &MountOptions) -> Mount {
    let mut mount = Mount::on_socket(socket, options).unwrap();
    assert_eq!(mount.init.major, 7);
    let caller = Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: std::process::id(),
    };
    mount.clients.iter_mut().for_each(|client| client.set_caller(caller));
    mount
}

#[test]
#[ignore = "needs virtiofsd"]
fn every_operation_does_on_the_host_what_it_says() {
    let server = Server::start();
    let mut mount = mount(server.connect(), &MountOptions::default());
    let client = mount.client();

    let (file, open) = client.create(ROOT, b"file", libc_rdwr(), 0o640).unwrap();
    assert_eq!(client.write(file.nodeid, open.fh, 5, b"hello").unwrap(), 5);
    client.fsync(file.nodeid, open.fh).unwrap();
    client.flush_file(file.nodeid, open.fh, 1).unwrap();
    assert_eq!(std::fs::read(server.shared("file")).unwrap(), b"\0\0\0\0\0hello");
    assert_eq!(client.read(file.nodeid, open.fh, 4, 100).unwrap(), b"\0hello");
    let Attr { size, mode, .. } = client.getattr(file.nodeid, Some(open.fh)).unwrap().attr;
    assert_eq!((size, mode), (10, 0o100640));
    let shorter = SetattrIn { valid: setattr::SIZE, size: 3, ..SetattrIn::default() };
    assert_eq!(client.setattr(file.nodeid, shorter).unwrap().attr.size, 3);

    client.release(file.nodeid, open.fh).unwrap();

    let dir = client.mkdir(ROOT, b"dir", 0o755).unwrap();
    client.rename((ROOT, b"file"), (dir.nodeid, b"moved")).unwrap();
    client.link(file.nodeid, ROOT, b"linked").unwrap();
    let symlink = client.symlink(ROOT, b"symlink", b"dir/moved").unwrap();
    assert_eq!(client.readlink(symlink.nodeid).unwrap(), b"dir/moved");
    client.setxattr(file.nodeid, b"user.name", b"value", 0).unwrap();
    assert_eq!(client.xattr_size(file.nodeid, b"user.name").unwrap(), 5);
    assert_eq!(client.getxattr(file.nodeid, b"user.name", 100).unwrap(), b"value");
    assert_eq!(client.listxattr(file.nodeid, 100).unwrap(), b"user.name\0");
    client.removexattr(file.nodeid, b"user.name").unwrap();
    assert_eq!(client.statfs(ROOT).unwrap().namelen, 255);

    let opened = client.opendir(ROOT).unwrap();
    let bytes = client.readdirplus(ROOT, opened.fh, 0, 4096).unwrap();
    let entries = Entries::new(&bytes);
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().name.to_vec()).collect();
    names.sort();
    assert_eq!(names, [&b"."[..], b"..", b"dir", b"linked", b"symlink"]);
    client.releasedir(ROOT, opened.fh).unwrap();

    assert_eq!(client.rmdir(ROOT, b"dir").unwrap_err().errno(), Some(39));
    client.unlink(dir.nodeid, b"moved").unwrap();
    client.rmdir(ROOT, b"dir").unwrap();
    assert_eq!(client.lookup(ROOT, b"dir").unwrap_err().errno(), Some(2));
    client.forget(file.nodeid, 2).unwrap();
    mount.unmount().unwrap();
}

#[test]
#[ignore = "needs virtiofsd"]
fn data_is_the_same_in_every_framing() {
    let server = Server::start();
    let content: Vec<u8> = (0..9999u32).map(|at| (at % 251) as u8).collect();
    let options = MountOptions { table_len: 600, ring_size: 1024, depth: 4, ..Default::default() };
    let mut mount = mount(server.connect(), &options);
    let client = mount.client();
    let (file, open) = client.create(ROOT, b"file", libc_rdwr(), 0o600).unwrap();
    for form in [Form::Chained, Form::Indirect] {
        for cut in [Cut::Parts, Cut::Joined, Cut::Every(39), Cut::Every(4096)] {
            for shift in [0, 1, 4095] {
                client.set_framing(Framing { cut, shift, pages: true }, form);
                client.write(file.nodeid, open.fh, 3, &content).unwrap();
                let read = client.read(file.nodeid, open.fh, 3, 20_000).unwrap();
                assert!(read == content, "{form:?} {cut:?} {shift}");
                client
                    .setattr(file.nodeid, SetattrIn { valid: setattr::SIZE, ..Default::default() })
                    .unwrap();
            }
        }
    }
    mount.unmount().unwrap();
}

#[test]
#[ignore = "needs virtiofsd"]
fn a_stopped_ring_goes_on_where_it_was() {
    let server = Server::start();
    let mut mount = mount(server.connect(), &MountOptions::default());
    for _ in 0..3 {
        for _ in 0..100 {
            mount.client().getattr(ROOT, None).unwrap();
        }
        let base = mount.frontend.stop_queue(1).unwrap();
        let Mount { frontend, clients, .. } = &mut mount;
        let queue = clients[0].queue();
        assert_eq!(base, queue.used_index());
        queue.bell_mut().renew().unwrap();
        frontend.start_queue(1, queue).unwrap();
    }
    mount.client().getattr(ROOT, None).unwrap();
}

#[test]
#[ignore = "needs virtiofsd"]
fn a_tree_is_verified_and_one_wrong_byte_found() {
    let server = Server::start();
    let shape = Shape::new(2000, 32 << 20);
    shape.make(&server.shared("")).unwrap();
    let options = MountOptions::default();
    let mut mount = mount(server.connect(), &options);
    assert_eq!(tree::verify(&mut mount.clients, &shape).unwrap().files, 2000);

    let victim = server.shared("d0/s3/f900");
    let mut bytes = std::fs::read(&victim).unwrap();
    let modified = std::fs::metadata(&victim).unwrap().modified().unwrap();
    bytes[17] ^= 1;
    std::fs::write(&victim, bytes).unwrap();
    std::fs::File::open(&victim).unwrap().set_modified(modified).unwrap();
    let error = tree::verify(&mut mount.clients, &shape).unwrap_err().to_string();
    assert!(error.contains("file 900 differs at byte 17"), "{error}");
}

#[test]
#[ignore = "needs virtiofsd"]
fn every_bad_chain_can_be_put_before_a_device() {
    for chain in hostile::bad_chains() {
        let server = Server::start();
        let mut mount = mount(server.connect(), &MountOptions::default());
        let client = mount.client();
        chain.put(client).unwrap();
        let outcome = client.queue().wait(Duration::from_millis(200));
        println!("{}: {outcome:?}", chain.name);
    }
}

#[test]
#[ignore = "needs virtiofsd"]
fn every_bad_message_can_be_sent() {
    let fd = std::fs::File::open("/dev/null").unwrap();
    for message in hostile::bad_messages() {
        let server = Server::start();
        let socket = server.connect();
        socket.set_limit(Duration::from_millis(20)).unwrap();
        let fds = vec![fd.as_fd(); message.fds];
        let sent = socket.send_raw(&message.bytes, &fds);
        println!("{}: {sent:?} {:?}", message.name, socket.receive());
    }
}

#[test]
#[ignore = "needs virtiofsd"]
fn a_connection_can_die_at_any_byte_of_its_set_up() {
    let mut mounts = 0;
    for bytes in (0..1200).step_by(97) {
        let server = Server::start();
        let socket = server.connect();
        socket.die_after(bytes);
        let mounted = Frontend::negotiate(socket, Wanted::default())
            .and_then(|frontend| Mount::on(frontend, &MountOptions::default()));
        mounts += u32::from(mounted.is_ok());
    }
    assert!((1..10).contains(&mounts), "{mounts} of 13 mounts were complete before their end");
}

fn libc_rdwr() -> u32 {
    rustix::fs::OFlags::RDWR.bits()
}
