//! Suid and sgid for a guest whose kernel is an old one, or none of ours.

use fsrv_frontend::abi::{AttrOut, CreateIn, EntryOut, Opcode, ROOT, SetattrIn, setattr};
use fsrv_frontend::{Call, Client, Entries, Payload};
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
            ("TMPFILE", unnamed(client, mode)),
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

fn unnamed(client: &mut Client, mode: u32) -> (u64, u32) {
    let args = CreateIn { flags: 2, mode: S_IFREG | mode, ..CreateIn::default() };
    let done = client.call(&Call {
        op: Opcode::Tmpfile,
        node: ROOT,
        args: &[args.as_bytes()],
        payload: Payload::None,
        reply: size_of::<EntryOut>() as u32 + 16,
    });
    let done = done.unwrap();
    let bytes = client.reply_bytes(&done);
    entry_times(EntryOut::read_from_prefix(&bytes).unwrap().0)
}
