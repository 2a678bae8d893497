//! Directory entries in the layout that clients read.

use fsrv_transport::mem::{Filled, NoSpace, OutBuf};
use zerocopy::IntoBytes;

use crate::{
    abi::{fuse_dirent, fuse_direntplus, fuse_entry_out},
    name::NAME_MAX,
    types::{Entry, NodeId},
};

/// Takes the entries of READDIR.
pub struct DirBuf(OutBuf);

impl DirBuf {
    pub(super) fn new(out: OutBuf) -> Self {
        Self(out)
    }

    /// Adds an entry. `next` is the offset that continues behind it, `kind` is the DT_ type.
    ///
    /// # Errors
    /// [`NoSpace`] when it does not fit: reply without it.
    pub fn push(&mut self, ino: u64, next: u64, kind: u8, name: &[u8]) -> Result<(), NoSpace> {
        let dirent = dirent(ino, next, kind, name)?;
        append_record(&mut self.0, dirent.as_bytes(), name)
    }

    /// Whether there is no entry yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the entries lie in memory of the client, which must not be answered as long as they may be written.
    pub fn is_in_client(&self) -> bool {
        self.0.is_in_client()
    }

    pub(crate) fn finish(self) -> Filled {
        self.0.finish()
    }
}

/// Takes the entries of READDIRPLUS.
pub struct DirPlusBuf {
    out: OutBuf,
    /// Each counts as one lookup.
    granted: Vec<NodeId>,
}

impl DirPlusBuf {
    pub(super) fn new(out: OutBuf) -> Self {
        Self { out, granted: Vec::new() }
    }

    /// Whether an entry with a name of `len` bytes still fits. Ask before looking it up: a lookup is
    /// counted when it is made.
    pub fn fits(&self, len: usize) -> bool {
        record_len(size_of::<fuse_direntplus>(), len) <= self.out.remaining()
    }

    /// Adds an entry with what its lookup found; `None` for `.` and `..` and for what could not be
    /// looked up, which the client then does itself.
    ///
    /// # Errors
    /// [`NoSpace`] when it does not fit: reply without it.
    pub fn push(
        &mut self,
        ino: u64,
        next: u64,
        kind: u8,
        name: &[u8],
        entry: Option<&Entry>,
    ) -> Result<(), NoSpace> {
        let entry_out = entry.map_or_else(fuse_entry_out::default, |entry| entry.to_abi());
        let record = fuse_direntplus { entry_out, dirent: dirent(ino, next, kind, name)? };
        append_record(&mut self.out, record.as_bytes(), name)?;
        self.granted.extend(entry.map(|entry| entry.nodeid).filter(|node| node.0 != 0));
        Ok(())
    }

    /// Whether there is no entry yet.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// The nodes that were looked up: each is a lookup to take back when this is not the reply after all.
    pub fn granted(&self) -> &[NodeId] {
        &self.granted
    }

    /// Whether the entries lie in memory of the client, which must not be answered as long as they may be written.
    pub fn is_in_client(&self) -> bool {
        self.out.is_in_client()
    }

    pub(crate) fn finish(self) -> (Filled, Vec<NodeId>) {
        (self.out.finish(), self.granted)
    }
}

fn dirent(ino: u64, off: u64, kind: u8, name: &[u8]) -> Result<fuse_dirent, NoSpace> {
    if name.len() > NAME_MAX {
        return Err(NoSpace);
    }
    let namelen = u32::try_from(name.len()).map_err(|_| NoSpace)?;
    Ok(fuse_dirent { ino, off, namelen, r#type: kind.into() })
}

/// Records begin at multiples of eight bytes.
fn record_len(head: usize, name: usize) -> usize {
    (head + name).next_multiple_of(8)
}

fn append_record(out: &mut OutBuf, head: &[u8], name: &[u8]) -> Result<(), NoSpace> {
    let padding = record_len(head.len(), name.len()) - head.len() - name.len();
    if head.len() + name.len() + padding > out.remaining() {
        return Err(NoSpace);
    }
    out.append(head)?;
    out.append(name)?;
    out.append(&[0; 8][..padding])
}
