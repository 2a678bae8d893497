//! Names of directory entries.

use std::{ffi::CStr, fmt};

use crate::errno::{Errno, Result};

/// The longest name, in bytes.
pub const NAME_MAX: usize = 255;

/// A name: one path component that is not empty, `.` or `..`, has no `/` and no NUL, and has at most
/// [`NAME_MAX`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Name<'r>(&'r CStr);

impl<'r> Name<'r> {
    /// Checks `name`.
    ///
    /// # Errors
    /// ENAMETOOLONG when it is too long, EINVAL when it is no name.
    pub fn new(name: &'r CStr) -> Result<Self> {
        let bytes = name.to_bytes();
        if bytes.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
            return Err(Errno::EINVAL);
        }
        Ok(Self(name))
    }

    /// The name without its NUL.
    pub fn as_bytes(self) -> &'r [u8] {
        self.0.to_bytes()
    }

    /// The name for system calls.
    pub fn as_c_str(self) -> &'r CStr {
        self.0
    }

    /// A copy that owns its bytes without an allocation.
    pub fn to_buf(self) -> NameBuf {
        let mut bytes = [0; NAME_MAX + 1];
        let name = self.0.to_bytes_with_nul();
        bytes[..name.len()].copy_from_slice(name);
        NameBuf { bytes, len: name.len() }
    }
}

/// A [`Name`] that owns its bytes, inline.
#[derive(Clone)]
pub struct NameBuf {
    bytes: [u8; NAME_MAX + 1],
    /// With the NUL.
    len: usize,
}

impl NameBuf {
    /// The name.
    pub fn as_name(&self) -> Name<'_> {
        Name(self.as_c_str())
    }

    /// The name for system calls.
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.bytes[..self.len]).expect("copied with its NUL")
    }
}

impl fmt::Debug for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_c_str(), f)
    }
}

/// What LOOKUP may ask for: kernels look up `.` and `..` when the filesystem can be exported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookupName<'r> {
    /// The node itself, also when the client has forgotten it.
    Dot,
    /// Its parent; of the root, the root.
    DotDot,
    /// A child.
    Name(Name<'r>),
}

impl<'r> LookupName<'r> {
    /// Checks `name`.
    ///
    /// # Errors
    /// As [`Name::new`].
    pub fn new(name: &'r CStr) -> Result<Self> {
        match name.to_bytes() {
            b"." => Ok(Self::Dot),
            b".." => Ok(Self::DotDot),
            _ => Name::new(name).map(Self::Name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [c"", c".", c"..", c"/", c"a/b", c"../x", c"a/"] {
            assert_eq!(Name::new(bad).unwrap_err(), Errno::EINVAL, "{bad:?}");
        }
        let long = std::ffi::CString::new(vec![b'a'; NAME_MAX + 1]).unwrap();
        assert_eq!(Name::new(&long).unwrap_err(), Errno::ENAMETOOLONG);
    }

    #[test]
    fn a_name_survives_a_copy() {
        let longest = std::ffi::CString::new(vec![b'a'; NAME_MAX]).unwrap();
        for good in [c"a", c"...", c".hidden", c"\xff\n", &longest] {
            assert_eq!(Name::new(good).unwrap().to_buf().as_name().as_bytes(), good.to_bytes());
        }
    }
}
