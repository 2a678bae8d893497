//! The configuration space (section 5.11.4).

use std::fmt;

/// The most bytes of a tag.
pub const TAG_MAX: usize = 36;

/// The name by which a guest mounts the filesystem.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag([u8; TAG_MAX]);

/// A tag that no guest could use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadTag {
    /// It has no bytes, or more than [`TAG_MAX`].
    #[error("a tag has 1 to 36 bytes, and this one has {0}")]
    Length(usize),
    /// It has a NUL byte, at which a guest would end it.
    #[error("a tag has no NUL byte")]
    Nul,
}

impl Tag {
    /// # Errors
    /// When no guest could mount it.
    pub fn new(tag: &str) -> Result<Self, BadTag> {
        if tag.is_empty() || tag.len() > TAG_MAX {
            return Err(BadTag::Length(tag.len()));
        }
        if tag.contains('\0') {
            return Err(BadTag::Nul);
        }
        let mut bytes = [0; TAG_MAX];
        bytes[..tag.len()].copy_from_slice(tag.as_bytes());
        Ok(Self(bytes))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.0.iter().position(|&byte| byte == 0).unwrap_or(TAG_MAX);
        f.write_str(&String::from_utf8_lossy(&self.0[..len]))
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({self})")
    }
}

/// What a guest reads of the device before it uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfigSpace {
    /// The tag.
    pub tag: Tag,
    /// How many request queues there are, the high-priority queue not counted.
    pub request_queues: u16,
}

impl ConfigSpace {
    /// Bytes: `tag`, `num_request_queues`.
    pub const LEN: usize = TAG_MAX + 4;

    /// As a guest reads it.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..TAG_MAX].copy_from_slice(&self.tag.0);
        bytes[TAG_MAX..].copy_from_slice(&u32::from(self.request_queues).to_le_bytes());
        bytes
    }

    /// Reads from byte `offset` on. What is behind the end reads as 0.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        let bytes = self.to_bytes();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let len = into.len().min(bytes.len() - start);
        into[..len].copy_from_slice(&bytes[start..][..len]);
        into[len..].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_1_to_36_bytes() {
        assert_eq!(Tag::new("share").unwrap().to_string(), "share");
        assert_eq!(Tag::new(&"x".repeat(36)).unwrap().to_string().len(), 36);
        assert_eq!(Tag::new(""), Err(BadTag::Length(0)));
        assert_eq!(Tag::new(&"x".repeat(37)), Err(BadTag::Length(37)));
        assert_eq!(Tag::new("a\0b"), Err(BadTag::Nul));
    }

    #[test]
    fn the_configuration_is_read_from_any_place() {
        let config = ConfigSpace { tag: Tag::new("share").unwrap(), request_queues: 3 };
        let mut bytes = [9; 44];
        config.read(0, &mut bytes);
        assert_eq!((&bytes[..6], &bytes[36..]), (&b"share\0"[..], &[3, 0, 0, 0, 0, 0, 0, 0][..]));
        let mut bytes = [9; 3];
        config.read(38, &mut bytes);
        assert_eq!(bytes, [0, 0, 0]);
        config.read(u64::MAX, &mut bytes);
        config.read(2, &mut bytes);
        assert_eq!(&bytes, b"are");
    }
}
