//! The calls that tests of filesystems make most.

use zerocopy::FromBytes;

use super::{TestClient, ask};
use crate::{
    abi::*,
    errno::Result,
    types::{Fh, NodeId},
};

/// Everything that a kernel offers which this crate knows.
const ALL_FLAGS: u64 = u64::MAX;

/// The room for the data of one READDIR, in bytes.
const DIR_ROOM: u32 = 4096;

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// Its inode number.
    pub ino: u64,
    /// The offset that continues behind it.
    pub next: u64,
    /// The DT_ type.
    pub kind: u32,
    /// Its name.
    pub name: Vec<u8>,
}

impl TestClient {
    /// INIT as a kernel of 7.45 sends it, which offers every flag.
    ///
    /// # Errors
    /// The errno of the reply, as for all of these.
    pub async fn init(&self) -> Result<fuse_init_out> {
        self.init_with(FUSE_KERNEL_MINOR_VERSION, ALL_FLAGS).await
    }

    /// INIT of minor version `minor` that offers `flags`.
    pub async fn init_with(&self, minor: u32, flags: u64) -> Result<fuse_init_out> {
        let arg = fuse_init_in {
            major: FUSE_KERNEL_VERSION,
            minor,
            max_readahead: 128 << 10,
            // The low and the high half.
            flags: flags as u32,
            flags2: (flags >> 32) as u32,
            ..Default::default()
        };
        Ok(self.request(ask(26, NodeId(0)).arg(&arg)).await?.get())
    }

    /// LOOKUP.
    pub async fn lookup(&self, parent: NodeId, name: impl AsRef<[u8]>) -> Result<fuse_entry_out> {
        Ok(self.request(ask(1, parent).name(name)).await?.get())
    }

    /// FORGET. Nothing answers it.
    pub async fn forget(&self, nodeid: NodeId, nlookup: u64) {
        let asked = self.send(ask(2, nodeid).arg(&fuse_forget_in { nlookup }));
        asked.exchange.await;
    }

    /// GETATTR.
    pub async fn getattr(&self, nodeid: NodeId) -> Result<fuse_attr> {
        let call = ask(3, nodeid).arg(&fuse_getattr_in::default());
        Ok(self.request(call).await?.get::<fuse_attr_out>().attr)
    }

    /// SETATTR.
    pub async fn setattr(&self, nodeid: NodeId, arg: fuse_setattr_in) -> Result<fuse_attr> {
        Ok(self.request(ask(4, nodeid).arg(&arg)).await?.get::<fuse_attr_out>().attr)
    }

    /// MKDIR.
    pub async fn mkdir(&self, parent: NodeId, name: &str, mode: u32) -> Result<fuse_entry_out> {
        let arg = fuse_mkdir_in { mode, umask: 0 };
        Ok(self.request(ask(9, parent).arg(&arg).name(name)).await?.get())
    }

    /// UNLINK.
    pub async fn unlink(&self, parent: NodeId, name: &str) -> Result<()> {
        self.request(ask(10, parent).name(name)).await.map(drop)
    }

    /// RMDIR.
    pub async fn rmdir(&self, parent: NodeId, name: &str) -> Result<()> {
        self.request(ask(11, parent).name(name)).await.map(drop)
    }

    /// OPEN.
    pub async fn open(&self, nodeid: NodeId, flags: u32) -> Result<Fh> {
        let call = ask(14, nodeid).arg(&fuse_open_in { flags, open_flags: 0 });
        Ok(Fh(self.request(call).await?.get::<fuse_open_out>().fh))
    }

    /// CREATE.
    pub async fn create(
        &self,
        parent: NodeId,
        name: &str,
        flags: u32,
        mode: u32,
    ) -> Result<(fuse_entry_out, Fh)> {
        let call = ask(35, parent).arg(&fuse_create_in { flags, mode, umask: 0, open_flags: 0 });
        let created: fuse_create_out = self.request(call.name(name)).await?.get();
        Ok((created.entry, Fh(created.open.fh)))
    }

    /// READ.
    pub async fn read(&self, nodeid: NodeId, fh: Fh, offset: u64, size: u32) -> Result<Vec<u8>> {
        let arg = fuse_read_in { fh: fh.0, offset, size, ..Default::default() };
        Ok(self.request(ask(15, nodeid).arg(&arg).room(size as usize)).await?.0)
    }

    /// WRITE. Returns how much was written.
    pub async fn write(&self, nodeid: NodeId, fh: Fh, offset: u64, data: &[u8]) -> Result<u32> {
        let size = u32::try_from(data.len()).expect("a short write");
        let arg = fuse_write_in { fh: fh.0, offset, size, ..Default::default() };
        let reply = self.request(ask(16, nodeid).arg(&arg).data(data)).await?;
        Ok(reply.get::<fuse_write_out>().size)
    }

    /// RELEASE.
    pub async fn release(&self, nodeid: NodeId, fh: Fh) -> Result<()> {
        let arg = fuse_release_in { fh: fh.0, ..Default::default() };
        self.request(ask(18, nodeid).arg(&arg)).await.map(drop)
    }

    /// OPENDIR.
    pub async fn opendir(&self, nodeid: NodeId) -> Result<Fh> {
        let reply = self.request(ask(27, nodeid).arg(&fuse_open_in::default())).await?;
        Ok(Fh(reply.get::<fuse_open_out>().fh))
    }

    /// READDIR, one buffer of it.
    pub async fn readdir(&self, nodeid: NodeId, fh: Fh, offset: u64) -> Result<Vec<DirEntry>> {
        let reply = self.read_dir(28, nodeid, fh, offset).await?;
        let mut rest = &reply[..];
        Ok(std::iter::from_fn(|| next_entry(&mut rest)).collect())
    }

    /// READDIRPLUS, one buffer of it.
    pub async fn readdirplus(
        &self,
        nodeid: NodeId,
        fh: Fh,
        offset: u64,
    ) -> Result<Vec<(fuse_entry_out, DirEntry)>> {
        let reply = self.read_dir(44, nodeid, fh, offset).await?;
        let mut rest = &reply[..];
        Ok(std::iter::from_fn(|| {
            if rest.is_empty() {
                return None;
            }
            let (entry, behind) = fuse_entry_out::read_from_prefix(rest).expect("a whole record");
            rest = behind;
            next_entry(&mut rest).map(|dirent| (entry, dirent))
        })
        .collect())
    }

    async fn read_dir(&self, opcode: u32, nodeid: NodeId, fh: Fh, offset: u64) -> Result<Vec<u8>> {
        let arg = fuse_read_in { fh: fh.0, offset, size: DIR_ROOM, ..Default::default() };
        Ok(self.request(ask(opcode, nodeid).arg(&arg).room(DIR_ROOM as usize)).await?.0)
    }

    /// RELEASEDIR.
    pub async fn releasedir(&self, nodeid: NodeId, fh: Fh) -> Result<()> {
        let arg = fuse_release_in { fh: fh.0, ..Default::default() };
        self.request(ask(29, nodeid).arg(&arg)).await.map(drop)
    }
}

/// Records begin at multiples of eight bytes.
fn next_entry(rest: &mut &[u8]) -> Option<DirEntry> {
    if rest.is_empty() {
        return None;
    }
    let (head, behind) = fuse_dirent::read_from_prefix(rest).expect("a whole record");
    let len = head.namelen as usize;
    let name = behind[..len].to_vec();
    let padded = (size_of::<fuse_dirent>() + len).next_multiple_of(8) - size_of::<fuse_dirent>();
    *rest = &behind[padded..];
    Some(DirEntry { ino: head.ino, next: head.off, kind: head.r#type, name })
}
