//! Requests as bytes, and replies from bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    abi::*,
    errno::{Errno, Result},
    types::NodeId,
};

/// A request as it will go over the wire.
#[derive(Clone, Debug)]
pub struct Call {
    header: fuse_in_header,
    body: Vec<u8>,
    extensions: Vec<u8>,
    room: usize,
}

/// A request with the code `opcode`, without arguments.
pub fn ask(opcode: u32, nodeid: NodeId) -> Call {
    let header = fuse_in_header { opcode, nodeid: nodeid.0, ..Default::default() };
    Call { header, body: Vec::new(), extensions: Vec::new(), room: 0 }
}

impl Call {
    /// Adds a wire struct.
    #[must_use]
    pub fn arg<T: IntoBytes + Immutable>(self, arg: &T) -> Self {
        self.data(arg.as_bytes())
    }

    /// Adds a string and its NUL.
    #[must_use]
    pub fn name(self, name: impl AsRef<[u8]>) -> Self {
        self.data(name.as_ref()).data(&[0])
    }

    /// Adds bytes.
    #[must_use]
    pub fn data(mut self, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self
    }

    /// Leaves room for `room` bytes of reply data.
    #[must_use]
    pub fn room(mut self, room: usize) -> Self {
        self.room = room;
        self
    }

    /// Sets who asks.
    #[must_use]
    pub fn from(mut self, uid: u32, gid: u32, pid: u32) -> Self {
        self.header = fuse_in_header { uid, gid, pid, ..self.header };
        self
    }

    /// Adds the group of the parent directory, as FUSE_CREATE_SUPP_GROUP does for a creation.
    #[must_use]
    pub fn group(mut self, group: Option<u32>) -> Self {
        const CREATIONS: [u32; 5] = [6, 8, 9, 35, 51];
        if let Some(group) = group.filter(|_| CREATIONS.contains(&self.header.opcode)) {
            let words = [16, FUSE_EXT_GROUPS, 1, group];
            self.extensions.extend_from_slice(words.as_bytes());
        }
        self
    }

    /// The room left for reply data.
    pub fn reply_room(&self) -> usize {
        self.room
    }

    /// The message. Extensions follow the arguments without padding.
    pub fn bytes(&self, unique: u64) -> Vec<u8> {
        let body = [&self.body[..], &self.extensions].concat();
        let len = u32::try_from(size_of::<fuse_in_header>() + body.len()).expect("a short message");
        let total_extlen = u16::try_from(self.extensions.len() / 8).expect("few extensions");
        let header = fuse_in_header { len, unique, total_extlen, ..self.header };
        [header.as_bytes(), &body[..]].concat()
    }
}

/// The body of a reply without an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply(pub Vec<u8>);

impl Reply {
    /// Reads the reply to request `unique`.
    ///
    /// # Errors
    /// The errno of the reply.
    ///
    /// # Panics
    /// When its header is not what a kernel accepts.
    pub fn parse(unique: u64, bytes: Vec<u8>) -> Result<Self> {
        let header = header_of(&bytes);
        assert_eq!(header.len as usize, bytes.len(), "the length in the header of a reply");
        assert_eq!(header.unique, unique, "the request that a reply names");
        assert!((-511..=0).contains(&header.error), "error {}", header.error);
        let body = bytes[size_of::<fuse_out_header>()..].to_vec();
        if header.error == 0 {
            return Ok(Self(body));
        }
        assert!(body.is_empty(), "an error with a body");
        Err(Errno::new(-header.error))
    }

    /// The reply as one wire struct.
    ///
    /// # Panics
    /// When it has another length.
    pub fn get<T: FromBytes>(&self) -> T {
        T::read_from_bytes(&self.0).unwrap_or_else(|_| {
            panic!("a reply of {} bytes is no {}", self.0.len(), std::any::type_name::<T>())
        })
    }
}

/// The header of a reply.
///
/// # Panics
/// When the reply is shorter than that.
pub fn header_of(reply: &[u8]) -> fuse_out_header {
    fuse_out_header::read_from_prefix(reply).expect("a reply has a header").0
}
