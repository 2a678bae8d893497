//! fs-verity: files whose content is checked against a digest (`<linux/fsverity.h>`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use rustix::ioctl::{Opcode, opcode};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::check;

/// `FS_IOC_ENABLE_VERITY` and `FS_IOC_MEASURE_VERITY`.
pub(crate) const ENABLE: Opcode = opcode::write::<EnableArg>(b'f', 133);
pub(crate) const MEASURE: Opcode = opcode::read_write::<DigestHead>(b'f', 134);

/// The kernel takes no longer ones (`FS_VERITY_MAX_SALT_SIZE`, `FS_VERITY_MAX_SIGNATURE_SIZE`).
const SALT_MAX: usize = 32;
const SIGNATURE_MAX: usize = 16128;

/// The longest digest is that of SHA-512.
const DIGEST_MAX: usize = 64;

/// `struct fsverity_enable_arg`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct EnableArg {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

/// What `struct fsverity_digest` begins with.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct DigestHead {
    algorithm: u16,
    size: u16,
}

/// What a caller gives to enable it, with the salt and the signature.
pub(crate) struct Enable {
    arg: EnableArg,
    salt: Vec<u8>,
    signature: Vec<u8>,
}

impl Enable {
    /// Reads what FUSE sends: the struct, whose addresses are the caller's, then salt and signature.
    /// `None` when it is not whole.
    pub(crate) fn read(input: &[u8]) -> Option<Self> {
        let (arg, rest) = EnableArg::read_from_prefix(input).ok()?;
        let (salt_size, signature_size) = (arg.salt_size as usize, arg.sig_size as usize);
        if salt_size > SALT_MAX || signature_size > SIGNATURE_MAX {
            return None;
        }
        let (salt, rest) = rest.split_at_checked(salt_size)?;
        let signature = rest.get(..signature_size)?;
        Some(Self { arg, salt: salt.to_vec(), signature: signature.to_vec() })
    }

    /// Has the kernel read all of `file` and protect it. It must be open for reading, and nowhere for writing.
    pub(crate) fn run(self, file: impl AsFd) -> io::Result<()> {
        let Self { mut arg, salt, signature } = self;
        arg.salt_ptr = salt.as_ptr().addr() as u64;
        arg.sig_ptr = signature.as_ptr().addr() as u64;
        // SAFETY: the command reads one `struct fsverity_enable_arg`, and as many bytes of `salt` and `signature` as it
        // says, which is as many as they have. All three live until it returns.
        let result =
            unsafe { libc::ioctl(file.as_fd().as_raw_fd(), ENABLE.into(), &raw const arg) };
        check(result.into()).map(drop)
    }
}

/// The digest of `file`, as `struct fsverity_digest`, in at most `room` bytes.
///
/// # Errors
/// ENODATA for a file that is not protected; EOVERFLOW when it needs more room.
pub(crate) fn measure(file: impl AsFd, room: usize) -> io::Result<Vec<u8>> {
    let head_len = size_of::<DigestHead>();
    let digest_len = room.saturating_sub(head_len).min(DIGEST_MAX);
    let mut digest = vec![0; head_len + digest_len];
    let head = DigestHead { algorithm: 0, size: digest_len as u16 };
    digest[..head_len].copy_from_slice(head.as_bytes());
    // SAFETY: the command reads and writes the head, and writes behind it as many bytes as that says at most, which is
    // as many as there are.
    let result =
        unsafe { libc::ioctl(file.as_fd().as_raw_fd(), MEASURE.into(), digest.as_mut_ptr()) };
    check(result.into())?;
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernel() {
        assert_eq!([ENABLE, MEASURE], [0x4080_6685, 0xc004_6686]);
    }

    #[test]
    fn salt_and_signature_follow_the_struct() {
        let arg = EnableArg { salt_size: 2, sig_size: 3, ..EnableArg::new_zeroed() };
        let input = [arg.as_bytes(), b"saSIG"].concat();
        let enable = Enable::read(&input).unwrap();
        assert_eq!((&*enable.salt, &*enable.signature), (&b"sa"[..], &b"SIG"[..]));
        assert!(Enable::read(&input[..input.len() - 1]).is_none());
        assert!(Enable::read(&input[..100]).is_none());
    }

    #[test]
    fn sizes_that_lie_are_refused() {
        for (salt_size, sig_size) in [(u32::MAX, 0), (33, 0), (0, u32::MAX), (0, 16129)] {
            let arg = EnableArg { salt_size, sig_size, ..EnableArg::new_zeroed() };
            assert!(Enable::read(&[arg.as_bytes(), &[0; 20000]].concat()).is_none());
        }
    }
}
