//! Suid and sgid for a guest whose kernel is an old one, or none of ours.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use fsrv_frontend::abi::{AttrOut, CreateIn, EntryOut, MknodIn, Opcode, ROOT, SetattrIn, setattr};
use fsrv_frontend::{Call, Caller, Client, Entries, Payload};
use zerocopy::{FromBytes, IntoBytes};

use super::device::Device;

const S_IFREG: u32 = 0o100_000;
const KEPT_FOR_A_DAY: (u64, u32) = (86_400, 0);
const NOT_KEPT: (u64, u32) = (0, 0);

#[test]
fn attributes_with_suid_are_kept_by_no_guest() {
    let device = Device::new(&["--cache", "metadata"]);
    for (mode, times) in
        [(0o755, KEPT_FOR_A_DAY), (0o4755, NOT_KEPT), (0o2755, NOT_KEPT), (0o2644, NOT_KEPT)]
    {
        let mut mount = device.mount();
        let client = mount.client();
        let name = format!("{mode:o}");
        let node = client.mknod(ROOT, name.as_bytes(), S_IFREG | mode, 0).unwrap();
        let (created, open) = client.create(ROOT, b"created", 2, S_IFREG | mode).unwrap();
        let args = SetattrIn { valid: setattr::MODE, mode, ..SetattrIn::default() };
        let seen = [
            ("MKNOD", entry_times(node)),
            ("CREATE", entry_times(created)),
            ("LOOKUP", entry_times(client.lookup(ROOT, name.as_bytes()).unwrap())),
            ("LINK", entry_times(client.link(node.nodeid, ROOT, b"link").unwrap())),
            ("GETATTR", attr_times(client.getattr(node.nodeid, None).unwrap())),
            (
                "GETATTR of a handle",
                attr_times(client.getattr(created.nodeid, Some(open.fh)).unwrap()),
            ),
            ("SETATTR", attr_times(client.setattr(node.nodeid, args).unwrap())),
            ("READDIRPLUS", listed(client, name.as_bytes())),
            ("STATX", statx(client, node.nodeid)),
            ("TMPFILE", entry_times(unnamed(client, ROOT, mode))),
        ];
        for (operation, seen) in seen {
            assert_eq!(seen, times, "{operation} of {mode:o}");
        }
        for name in ["created", "link", &name] {
            client.unlink(ROOT, name.as_bytes()).unwrap();
        }
        mount.unmount().unwrap();
    }
    device.stop();
}

fn entry_times(entry: EntryOut) -> (u64, u32) {
    (entry.attr_valid, entry.attr_valid_nsec)
}

fn attr_times(attr: AttrOut) -> (u64, u32) {
    (attr.attr_valid, attr.attr_valid_nsec)
}

fn listed(client: &mut Client, name: &[u8]) -> (u64, u32) {
    let open = client.opendir(ROOT).unwrap();
    let bytes = client.readdirplus(ROOT, open.fh, 0, 8192).unwrap();
    client.releasedir(ROOT, open.fh).unwrap();
    let found = Entries::new(&bytes).map(Result::unwrap).find(|entry| entry.name == name);
    entry_times(found.unwrap().entry)
}

fn statx(client: &mut Client, node: u64) -> (u64, u32) {
    let done = client.call(&Call {
        op: Opcode::Statx,
        node,
        args: &[&[0; 24]],
        payload: Payload::None,
        reply: 288,
    });
    let bytes = client.reply_bytes(&done.unwrap());
    let nanoseconds = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
    (u64::from_le_bytes(bytes[..8].try_into().unwrap()), nanoseconds)
}

fn unnamed(client: &mut Client, dir: u64, mode: u32) -> EntryOut {
    let args = CreateIn { flags: 2, mode: S_IFREG | mode, ..CreateIn::default() };
    let done = client.call(&Call {
        op: Opcode::Tmpfile,
        node: dir,
        args: &[args.as_bytes()],
        payload: Payload::None,
        reply: size_of::<EntryOut>() as u32 + 16,
    });
    let done = done.unwrap();
    let bytes = client.reply_bytes(&done);
    EntryOut::read_from_prefix(&bytes).unwrap().0
}

const MEMBER: Caller = Caller { uid: 1000, gid: 1000, pid: 1 };

#[test]
fn who_is_not_in_the_group_of_a_directory_makes_nothing_with_its_sgid() {
    // CVE-2022-0358: the server's groups are not the caller's.
    let root = Caller { uid: 0, gid: 0, pid: 1 };
    let in_group = Caller { uid: 1000, gid: 0, pid: 1 };
    let device = Device::with_rights(&["--groups", "0,4242"], &[]);
    for group in [0, 4242] {
        let dir = device.shared(format!("dir{group}"));
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(0), Some(group)).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o2777)).unwrap();
    }
    let mut mount = device.mount();
    let client = mount.client();
    for (caller, group, kept) in [
        (MEMBER, 0, false),
        (MEMBER, 4242, false),
        (in_group, 0, true),
        (in_group, 4242, false),
        (root, 0, true),
        (root, 4242, true),
    ] {
        let dir = format!("dir{group}");
        client.set_caller(caller);
        let parent = client.lookup(ROOT, dir.as_bytes()).unwrap().nodeid;
        let mode = S_IFREG | 0o2777;
        let (created, _) = client.create(parent, b"created", 2, mode).unwrap();
        let node = client.mknod(parent, b"node", mode, 0).unwrap();
        let args = MknodIn { mode, umask: 0o010, ..MknodIn::default() };
        let masked = client.call(&Call {
            op: Opcode::Mknod,
            node: parent,
            args: &[args.as_bytes(), b"masked\0"],
            payload: Payload::None,
            reply: size_of::<EntryOut>() as u32,
        });
        let masked = masked.unwrap();
        let masked: EntryOut = client.reply(&masked).unwrap();
        let mark = client.mknod(parent, b"mark", S_IFREG | 0o2767, 0).unwrap();
        let sub = client.mkdir(parent, b"sub", 0o755).unwrap();
        let what = format!("by {}:{} in {dir}", caller.uid, caller.gid);
        for (name, entry, mode) in [
            ("created", created, if kept { 0o2777 } else { 0o777 }),
            ("node", node, if kept { 0o2777 } else { 0o777 }),
            ("masked", masked, if kept { 0o2767 } else { 0o767 }),
            ("mark", mark, 0o2767),
            ("sub", sub, 0o2755),
        ] {
            let host = fs::symlink_metadata(device.shared(&dir).join(name)).unwrap();
            let seen = (host.mode() & 0o7777, host.uid(), host.gid());
            assert_eq!(seen, (mode, caller.uid, group), "{name} {what}");
            assert_eq!(entry.attr.mode & 0o7777, mode, "{name} {what}");
        }
        let unnamed = unnamed(client, parent, 0o2777).attr.mode & 0o7777;
        assert_eq!(unnamed, if kept { 0o2777 } else { 0o777 }, "unnamed {what}");
        for name in ["created", "node", "masked", "mark"] {
            client.unlink(parent, name.as_bytes()).unwrap();
        }
        client.rmdir(parent, b"sub").unwrap();
        client.set_caller(root);
    }
    mount.unmount().unwrap();
    device.stop();
}

#[test]
fn a_server_that_cannot_give_its_groups_up_starts_and_says_so() {
    // With one mapped id, a user namespace denies setgroups.
    let rights = ["--groups", "0,4242", "unshare", "--user", "--map-root-user"];
    let device = Device::with_rights(&rights, &[]);
    assert!(device.log().contains("; keeps 2 supplementary groups"), "{}", device.log());
    let mut mount = device.mount();
    mount.client().create(ROOT, b"new", 2, S_IFREG | 0o644).unwrap();
    mount.unmount().unwrap();
    device.stop();
}
