//! The operations, one call each.

use zerocopy::{FromBytes, IntoBytes};

use super::{Call, Client, Done, Payload};
use crate::abi::{
    AttrOut, CreateIn, EntryOut, FallocateIn, FileLock, FlushIn, FsyncIn, GETATTR_FH, GetattrIn,
    GetxattrIn, GetxattrOut, InitIn, InitOut, LinkIn, LkIn, LseekIn, MkdirIn, MknodIn, Opcode,
    OpenIn, OpenOut, ReadIn, ReleaseIn, Rename2In, RenameIn, SetattrIn, SetxattrIn, StatfsOut,
    WriteIn, WriteOut,
};
use crate::error::Result;

/// As a name goes over the wire.
fn nul(name: &[u8]) -> Vec<u8> {
    [name, b"\0"].concat()
}

impl Client {
    /// INIT, which everything else follows.
    pub fn init(&mut self, flags: u32, minor: u32) -> Result<InitOut> {
        let args = InitIn { major: 7, minor, max_readahead: 1 << 17, flags, ..InitIn::default() };
        self.ask(Opcode::Init, 0, &[args.as_bytes()])
    }

    /// DESTROY, after which only INIT may follow.
    pub fn destroy(&mut self) -> Result<()> {
        self.order(Opcode::Destroy, 0, &[])
    }

    /// LOOKUP.
    pub fn lookup(&mut self, parent: u64, name: &[u8]) -> Result<EntryOut> {
        self.ask(Opcode::Lookup, parent, &[&nul(name)])
    }

    /// LOOKUP, one name after the other. The directories on the way are forgotten.
    pub fn resolve(&mut self, path: &[&[u8]]) -> Result<EntryOut> {
        let mut entry = EntryOut { nodeid: crate::abi::ROOT, ..EntryOut::default() };
        for (at, name) in path.iter().enumerate() {
            let next = self.lookup(entry.nodeid, name);
            if at > 0 {
                self.forget(entry.nodeid, 1)?;
            }
            entry = next?;
        }
        Ok(entry)
    }

    /// GETATTR, of an open file if there is one.
    pub fn getattr(&mut self, node: u64, fh: Option<u64>) -> Result<AttrOut> {
        let getattr_flags = fh.map_or(0, |_| GETATTR_FH);
        let args = GetattrIn { getattr_flags, dummy: 0, fh: fh.unwrap_or(0) };
        self.ask(Opcode::Getattr, node, &[args.as_bytes()])
    }

    /// SETATTR of the fields that `args.valid` names.
    pub fn setattr(&mut self, node: u64, args: SetattrIn) -> Result<AttrOut> {
        self.ask(Opcode::Setattr, node, &[args.as_bytes()])
    }

    /// OPEN.
    pub fn open(&mut self, node: u64, flags: u32) -> Result<OpenOut> {
        self.ask(Opcode::Open, node, &[OpenIn { flags, open_flags: 0 }.as_bytes()])
    }

    /// CREATE.
    pub fn create(
        &mut self,
        parent: u64,
        name: &[u8],
        flags: u32,
        mode: u32,
    ) -> Result<(EntryOut, OpenOut)> {
        #[derive(FromBytes)]
        #[repr(C)]
        struct Created {
            entry: EntryOut,
            open: OpenOut,
        }
        let args = CreateIn { flags, mode, ..CreateIn::default() };
        let reply: Created = self.ask(Opcode::Create, parent, &[args.as_bytes(), &nul(name)])?;
        Ok((reply.entry, reply.open))
    }

    /// READ, as a new vector.
    pub fn read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        let args = ReadIn { fh, offset, size, ..ReadIn::default() };
        self.fetch(Opcode::Read, node, &[args.as_bytes()], size)
    }

    /// WRITE. The answer is how many bytes were written.
    pub fn write(&mut self, node: u64, fh: u64, offset: u64, data: &[u8]) -> Result<u32> {
        let args = WriteIn { fh, offset, size: data.len() as u32, ..WriteIn::default() };
        let done = self.call(&Call {
            op: Opcode::Write,
            node,
            args: &[args.as_bytes()],
            payload: Payload::Send(data),
            reply: size_of::<WriteOut>() as u32,
        })?;
        Ok(self.reply::<WriteOut>(&done)?.size)
    }

    /// RELEASE, of a file.
    pub fn release(&mut self, node: u64, fh: u64) -> Result<()> {
        let args = ReleaseIn { fh, ..ReleaseIn::default() };
        self.order(Opcode::Release, node, &[args.as_bytes()])
    }

    /// FLUSH, as at a close.
    pub fn flush_file(&mut self, node: u64, fh: u64, lock_owner: u64) -> Result<()> {
        let args = FlushIn { fh, lock_owner, ..FlushIn::default() };
        self.order(Opcode::Flush, node, &[args.as_bytes()])
    }

    /// FSYNC.
    pub fn fsync(&mut self, node: u64, fh: u64) -> Result<()> {
        let args = FsyncIn { fh, ..FsyncIn::default() };
        self.order(Opcode::Fsync, node, &[args.as_bytes()])
    }

    /// FALLOCATE.
    pub fn fallocate(&mut self, node: u64, args: FallocateIn) -> Result<()> {
        self.order(Opcode::Fallocate, node, &[args.as_bytes()])
    }

    /// LSEEK, to find data and holes.
    pub fn lseek(&mut self, node: u64, fh: u64, offset: u64, whence: u32) -> Result<u64> {
        let args = LseekIn { fh, offset, whence, padding: 0 };
        self.ask(Opcode::Lseek, node, &[args.as_bytes()])
    }

    /// MKNOD.
    pub fn mknod(&mut self, parent: u64, name: &[u8], mode: u32, rdev: u32) -> Result<EntryOut> {
        let args = MknodIn { mode, rdev, ..MknodIn::default() };
        self.ask(Opcode::Mknod, parent, &[args.as_bytes(), &nul(name)])
    }

    /// MKDIR.
    pub fn mkdir(&mut self, parent: u64, name: &[u8], mode: u32) -> Result<EntryOut> {
        let args = MkdirIn { mode, umask: 0 };
        self.ask(Opcode::Mkdir, parent, &[args.as_bytes(), &nul(name)])
    }

    /// UNLINK.
    pub fn unlink(&mut self, parent: u64, name: &[u8]) -> Result<()> {
        self.order(Opcode::Unlink, parent, &[&nul(name)])
    }

    /// RMDIR.
    pub fn rmdir(&mut self, parent: u64, name: &[u8]) -> Result<()> {
        self.order(Opcode::Rmdir, parent, &[&nul(name)])
    }

    /// RENAME.
    pub fn rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8])) -> Result<()> {
        let args = RenameIn { newdir: to.0 };
        self.order(Opcode::Rename, from.0, &[args.as_bytes(), &nul(from.1), &nul(to.1)])
    }

    /// RENAME2, with flags.
    pub fn rename2(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), flags: u32) -> Result<()> {
        let args = Rename2In { newdir: to.0, flags, padding: 0 };
        self.order(Opcode::Rename2, from.0, &[args.as_bytes(), &nul(from.1), &nul(to.1)])
    }

    /// LINK.
    pub fn link(&mut self, node: u64, parent: u64, name: &[u8]) -> Result<EntryOut> {
        let args = LinkIn { oldnodeid: node };
        self.ask(Opcode::Link, parent, &[args.as_bytes(), &nul(name)])
    }

    /// SYMLINK.
    pub fn symlink(&mut self, parent: u64, name: &[u8], target: &[u8]) -> Result<EntryOut> {
        self.ask(Opcode::Symlink, parent, &[&nul(name), &nul(target)])
    }

    /// READLINK.
    pub fn readlink(&mut self, node: u64) -> Result<Vec<u8>> {
        self.fetch(Opcode::Readlink, node, &[], 4096)
    }

    /// OPENDIR.
    pub fn opendir(&mut self, node: u64) -> Result<OpenOut> {
        self.ask(Opcode::Opendir, node, &[OpenIn::default().as_bytes()])
    }

    /// READDIRPLUS, from an offset on. An empty answer is the end; [`Entries`](super::Entries) goes through another.
    pub fn readdirplus(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        let args = ReadIn { fh, offset, size, ..ReadIn::default() };
        self.fetch(Opcode::Readdirplus, node, &[args.as_bytes()], size)
    }

    /// RELEASEDIR.
    pub fn releasedir(&mut self, node: u64, fh: u64) -> Result<()> {
        let args = ReleaseIn { fh, ..ReleaseIn::default() };
        self.order(Opcode::Releasedir, node, &[args.as_bytes()])
    }

    /// STATFS.
    pub fn statfs(&mut self, node: u64) -> Result<StatfsOut> {
        self.ask(Opcode::Statfs, node, &[])
    }

    /// SETXATTR.
    pub fn setxattr(&mut self, node: u64, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let args = SetxattrIn { size: value.len() as u32, flags };
        self.order(Opcode::Setxattr, node, &[args.as_bytes(), &nul(name), value])
    }

    /// GETXATTR, into at most `size` bytes.
    pub fn getxattr(&mut self, node: u64, name: &[u8], size: u32) -> Result<Vec<u8>> {
        let args = GetxattrIn { size, padding: 0 };
        self.fetch(Opcode::Getxattr, node, &[args.as_bytes(), &nul(name)], size)
    }

    /// GETXATTR for the size alone.
    pub fn xattr_size(&mut self, node: u64, name: &[u8]) -> Result<u32> {
        let args = GetxattrIn::default();
        let reply: GetxattrOut =
            self.ask(Opcode::Getxattr, node, &[args.as_bytes(), &nul(name)])?;
        Ok(reply.size)
    }

    /// LISTXATTR, into at most `size` bytes.
    pub fn listxattr(&mut self, node: u64, size: u32) -> Result<Vec<u8>> {
        let args = GetxattrIn { size, padding: 0 };
        self.fetch(Opcode::Listxattr, node, &[args.as_bytes()], size)
    }

    /// REMOVEXATTR.
    pub fn removexattr(&mut self, node: u64, name: &[u8]) -> Result<()> {
        self.order(Opcode::Removexattr, node, &[&nul(name)])
    }

    /// SETLK.
    pub fn setlk(&mut self, node: u64, lock: LkIn) -> Result<()> {
        self.order(Opcode::Setlk, node, &[lock.as_bytes()])
    }

    /// SETLKW, waiting here until it is granted.
    pub fn setlkw(&mut self, node: u64, lock: LkIn) -> Result<()> {
        self.order(Opcode::Setlkw, node, &[lock.as_bytes()])
    }

    /// SETLKW, without waiting here: the answer comes with `tag`.
    pub fn submit_setlkw(&mut self, node: u64, lock: LkIn, tag: u64) -> Result<()> {
        let args: &[&[u8]] = &[lock.as_bytes()];
        self.submit(&Call { op: Opcode::Setlkw, node, args, ..Call::default() }, tag)?;
        self.flush()
    }

    /// GETLK.
    pub fn getlk(&mut self, node: u64, lock: LkIn) -> Result<FileLock> {
        self.ask(Opcode::Getlk, node, &[lock.as_bytes()])
    }

    /// A request whose reply has no arguments.
    fn order(&mut self, op: Opcode, node: u64, args: &[&[u8]]) -> Result<()> {
        self.call(&Call { op, node, args, ..Call::default() }).map(drop)
    }

    /// A request whose reply is a struct.
    fn ask<T: FromBytes + Sized>(&mut self, op: Opcode, node: u64, args: &[&[u8]]) -> Result<T> {
        let reply = size_of::<T>() as u32;
        let done = self.call(&Call { op, node, args, reply, payload: Payload::None })?;
        self.reply(&done)
    }

    /// A request whose reply is bytes.
    fn fetch(&mut self, op: Opcode, node: u64, args: &[&[u8]], size: u32) -> Result<Vec<u8>> {
        let payload = Payload::Receive(size);
        let done = self.call(&Call { op, node, args, payload, reply: 0 })?;
        Ok(self.reply_bytes(&done))
    }

    /// All that is behind a reply's header.
    pub fn reply_bytes(&self, done: &Done) -> Vec<u8> {
        let mut bytes = vec![0; done.len as usize];
        self.read_reply(done, 0, &mut bytes);
        bytes
    }
}

/// A lock request on a range, by `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
pub fn lock(fh: u64, owner: u64, range: std::ops::RangeInclusive<u64>, kind: u32) -> LkIn {
    let lk = FileLock { start: *range.start(), end: *range.end(), kind, pid: owner as u32 };
    LkIn { fh, owner, lk, lk_flags: 0, padding: 0 }
}
