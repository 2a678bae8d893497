//! The entries of a READDIRPLUS reply.

use zerocopy::FromBytes;

use crate::abi::{Dirent, EntryOut};
use crate::error::{Error, Result};

/// One entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// What a LOOKUP would have answered; node id 0 if there was none.
    pub entry: EntryOut,
    /// Inode, place and kind.
    pub dirent: Dirent,
    /// The name, without NUL.
    pub name: &'a [u8],
}

/// Goes through a reply.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Entries<'a> {
    /// The bytes of a reply.
    pub fn new(bytes: &'a [u8]) -> Self {
        Entries { rest: bytes }
    }

    fn parse(&mut self) -> Option<Entry<'a>> {
        let (entry, rest) = EntryOut::read_from_prefix(self.rest).ok()?;
        let (dirent, rest) = Dirent::read_from_prefix(rest).ok()?;
        let length = dirent.namelen as usize;
        let name = rest.get(..length)?;
        self.rest = rest.get(length.next_multiple_of(8)..)?;
        Some(Entry { entry, dirent, name })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = self.parse();
        if entry.is_none() {
            self.rest = &[];
        }
        Some(entry.ok_or_else(|| Error::Protocol("a directory entry is cut".into())))
    }
}
