//! The bytes of one request, consumed from the front, and those of one reply.

use std::ffi::CStr;

use fsrv_transport::mem::{InBuf, OutBuf};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    abi::{FUSE_EXT_GROUPS, FUSE_MAX_NR_SECCTX, fuse_ext_header, fuse_in_header, fuse_supp_groups},
    errno::{Errno, Result},
    name::Name,
};

/// The arguments of one request: a private copy, since a client may change its memory at any time.
pub(crate) struct Args<'r> {
    bytes: &'r [u8],
    data: Option<InBuf>,
    out: Option<OutBuf>,
}

impl<'r> Args<'r> {
    pub(crate) fn new(bytes: &'r [u8], data: InBuf, out: OutBuf) -> Self {
        Self { bytes, data: Some(data), out: Some(out) }
    }

    /// The next wire struct.
    pub(crate) fn get<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T> {
        let (value, rest) = T::read_from_prefix(self.bytes).map_err(|_| Errno::EINVAL)?;
        self.bytes = rest;
        Ok(value)
    }

    /// The next `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'r [u8]> {
        let (bytes, rest) = self.bytes.split_at_checked(len).ok_or(Errno::EINVAL)?;
        self.bytes = rest;
        Ok(bytes)
    }

    /// The next string, with its NUL.
    pub(crate) fn c_str(&mut self) -> Result<&'r CStr> {
        let string = CStr::from_bytes_until_nul(self.bytes).map_err(|_| Errno::EINVAL)?;
        self.bytes = &self.bytes[string.to_bytes_with_nul().len()..];
        Ok(string)
    }

    /// The next name.
    pub(crate) fn name(&mut self) -> Result<Name<'r>> {
        Name::new(self.c_str()?)
    }

    /// The string that the arguments end with: its NUL is their last byte.
    pub(crate) fn last_c_str(&mut self) -> Result<&'r CStr> {
        CStr::from_bytes_with_nul(std::mem::take(&mut self.bytes)).map_err(|_| Errno::EINVAL)
    }

    /// The name that the arguments end with.
    pub(crate) fn last_name(&mut self) -> Result<Name<'r>> {
        Name::new(self.last_c_str()?)
    }

    /// The data, which must be `size` bytes.
    pub(crate) fn data(&mut self, size: u32) -> Result<InBuf> {
        self.data.take().filter(|data| data.len() == size as usize).ok_or(Errno::EINVAL)
    }

    /// Room for `size` bytes of reply data.
    pub(crate) fn out(&mut self, size: u32) -> Result<OutBuf> {
        let out = self.out.take().ok_or(Errno::EINVAL)?;
        let size = size as usize;
        if out.remaining() < size { Err(Errno::EINVAL) } else { Ok(out.limited(size)) }
    }

    /// Room for as much reply data as the client left.
    pub(crate) fn all_out(&mut self) -> Result<OutBuf> {
        self.out.take().ok_or(Errno::EINVAL)
    }
}

/// What a client adds behind the arguments of a request (`fuse_ext_header`).
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// The group of the parent directory, when the caller is in it.
    pub(crate) group: Option<u32>,
}

impl Extensions {
    /// Cuts the extensions off the end of `args` and reads them.
    pub(crate) fn split_off<'r>(
        header: &fuse_in_header,
        args: &'r [u8],
    ) -> Result<(&'r [u8], Self)> {
        let len = usize::from(header.total_extlen) * 8;
        let split = args.len().checked_sub(len).ok_or(Errno::EINVAL)?;
        let (args, mut bytes) = args.split_at(split);
        let mut extensions = Self::default();
        while !bytes.is_empty() {
            let (head, _) = fuse_ext_header::read_from_prefix(bytes).map_err(|_| Errno::EINVAL)?;
            let size = head.size as usize;
            if size < size_of::<fuse_ext_header>() || !size.is_multiple_of(8) || size > bytes.len()
            {
                return Err(Errno::EINVAL);
            }
            let (extension, rest) = bytes.split_at(size);
            match head.r#type {
                FUSE_EXT_GROUPS => extensions.group = group(extension)?,
                // Security contexts are not asked for in INIT.
                0..=FUSE_MAX_NR_SECCTX => return Err(Errno::EINVAL),
                _ => {}
            }
            bytes = rest;
        }
        Ok((args, extensions))
    }
}

/// The kernel sends at most one group.
fn group(extension: &[u8]) -> Result<Option<u32>> {
    let body = &extension[size_of::<fuse_ext_header>()..];
    let (head, list) = fuse_supp_groups::read_from_prefix(body).map_err(|_| Errno::EINVAL)?;
    match head.nr_groups {
        0 => Ok(None),
        1 => u32::read_from_prefix(list).map(|(group, _)| Some(group)).map_err(|_| Errno::EINVAL),
        _ => Err(Errno::EINVAL),
    }
}

/// The part of a reply that has a fixed layout, without an allocation.
#[derive(Clone)]
pub(crate) struct Fixed {
    bytes: [u8; Self::MAX],
    len: usize,
}

impl Fixed {
    /// The longest: `fuse_statx_out`.
    const MAX: usize = 288;

    pub(crate) fn empty() -> Self {
        Self { bytes: [0; Self::MAX], len: 0 }
    }

    /// `value`, which is at most 288 bytes long: checked when compiled.
    pub(crate) fn new<T: IntoBytes + Immutable>(value: &T) -> Self {
        const { assert!(size_of::<T>() <= Self::MAX) };
        let mut fixed = Self::empty();
        fixed.bytes[..size_of::<T>()].copy_from_slice(value.as_bytes());
        fixed.len = size_of::<T>();
        fixed
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
