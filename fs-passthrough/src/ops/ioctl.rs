//! Device control: the flags of files and fs-verity, and nothing else.

use std::io;

use fsrv::{
    Context, Errno, Result,
    op::{Ioctl, Ioctled},
};
use fsrv_transport::{io::File, mem::OutBuf};
use rustix::thread::CapabilitySet;
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    filesystem::Passthrough,
    sys::{
        creds::raising,
        file_flags::{self, GET_FLAGS, GET_XFLAGS, SET_FLAGS, SET_XFLAGS, Xflags},
        verity::{self, Enable},
    },
};

/// What is asked for.
enum Command {
    Get,
    Set(u32),
    GetExtended,
    SetExtended(Xflags),
    EnableVerity(Enable),
    /// In so many bytes.
    MeasureVerity(usize),
}

/// What the caller gets.
enum Flags {
    Nothing,
    Plain(u32),
    Extended(Xflags),
    Digest(Vec<u8>),
}

pub(crate) async fn ioctl(fs: &Passthrough, cx: &Context, op: Ioctl<'_>) -> Result<Ioctled> {
    let command = Command::read(&op)?;
    let handle = fs.shared().handle(op.nodeid, op.fh)?;
    // The client's kernel has checked the caller's capability; a request does not carry it, and root is taken to have it.
    let is_root = cx.uid == 0;
    let inode = handle.inode.clone();
    if let Command::EnableVerity(enable) = command {
        // It reads the whole file.
        fs.run_long(cx, &inode, move |_| enable.run(&handle.file)).await?;
        return Flags::Nothing.reply(op.out);
    }
    let flags = fs
        .run(cx, &inode, move |_| {
            let run = || command.run(&handle.file);
            if is_root { raising(CapabilitySet::LINUX_IMMUTABLE, run) } else { run() }
        })
        .await?;
    flags.reply(op.out)
}

impl Command {
    /// # Errors
    /// ENOTTY for all that are not about flags; EINVAL for an argument that is too short.
    fn read(op: &Ioctl<'_>) -> Result<Self> {
        match op.cmd {
            GET_FLAGS => Ok(Self::Get),
            GET_XFLAGS => Ok(Self::GetExtended),
            SET_FLAGS => Ok(Self::Set(argument(op.input)?)),
            SET_XFLAGS => Ok(Self::SetExtended(argument(op.input)?)),
            verity::ENABLE => Enable::read(op.input).map(Self::EnableVerity).ok_or(Errno::EINVAL),
            verity::MEASURE => Ok(Self::MeasureVerity(op.out.remaining())),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn run(self, file: &File) -> io::Result<Flags> {
        match self {
            Self::Get => file_flags::get(file).map(Flags::Plain),
            Self::GetExtended => file_flags::get_extended(file).map(Flags::Extended),
            Self::Set(flags) => file_flags::set(file, flags).map(|()| Flags::Nothing),
            Self::SetExtended(flags) => {
                file_flags::set_extended(file, flags).map(|()| Flags::Nothing)
            }
            Self::EnableVerity(enable) => enable.run(file).map(|()| Flags::Nothing),
            Self::MeasureVerity(room) => verity::measure(file, room).map(Flags::Digest),
        }
    }
}

fn argument<T: FromBytes>(bytes: &[u8]) -> Result<T> {
    T::read_from_prefix(bytes).map(|(value, _)| value).map_err(|_| Errno::EINVAL)
}

impl Flags {
    fn reply(&self, mut out: OutBuf) -> Result<Ioctled> {
        let bytes = match self {
            Self::Nothing => &[],
            Self::Plain(flags) => flags.as_bytes(),
            Self::Extended(flags) => flags.as_bytes(),
            Self::Digest(digest) => digest,
        };
        out.append(bytes).map_err(|_| Errno::EINVAL)?;
        Ok(Ioctled { result: 0, data: out.finish() })
    }
}
