//! The content of an image, whatever its format.

use std::io;
#[cfg(feature = "testing")]
use std::sync::Arc;

use fsrv::types::Timestamp;
use fsrv_transport::mem::{Filled, InBuf, OutBuf};

#[cfg(feature = "testing")]
use crate::storage::probe::Probe;
use crate::{
    error::OpenError,
    open::{Format, Options},
    probe,
    qcow2::Qcow2,
    raw::Raw,
    storage::{Access, HostFile, Seek},
};

/// An open image: its content as a client sees it.
///
/// Operations may run at once, on any workers; each is for some bytes what a disk does with them. What was written is
/// durable when a later [`Disk::flush`] has ended, not before.
#[derive(Debug)]
pub struct Disk {
    image: Image,
    is_writable: bool,
}

#[derive(Debug)]
enum Image {
    Raw(Box<Raw>),
    Qcow2(Box<Qcow2>),
}

/// What the host knows of an image's file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Bytes of space that it takes.
    pub allocated: u64,
    /// When it was read last.
    pub atime: Timestamp,
    /// When it was written last.
    pub mtime: Timestamp,
    /// When it was changed last in any way.
    pub ctime: Timestamp,
}

/// What happens to the space of a range that is to read as zeroes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zeroing {
    /// It may be given back to the host.
    Free,
    /// It stays allocated.
    Keep,
}

/// How the length of an image changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resize {
    /// To this many bytes.
    To(u64),
    /// To this many bytes, unless it has more.
    AtLeast(u64),
    /// The same, and what is new gets space.
    Allocate(u64),
}

impl Resize {
    /// The new length; `None` where nothing changes.
    pub(crate) fn from(self, old: u64) -> Option<u64> {
        let new = match self {
            Self::To(new) => new,
            Self::AtLeast(new) | Self::Allocate(new) => new.max(old),
        };
        (new != old).then_some(new)
    }

    pub(crate) fn allocates(self) -> bool {
        matches!(self, Self::Allocate(_))
    }
}

/// How much of `len` bytes at `offset` is inside an image of `size` bytes.
pub(crate) fn within(size: u64, offset: u64, len: usize) -> usize {
    let left = size.saturating_sub(offset);
    usize::try_from(left).map_or(len, |left| left.min(len))
}

/// Whether O_DIRECT that asks for `alignment` takes `len` bytes at `offset`.
pub(crate) fn is_aligned(alignment: u32, offset: u64, len: usize) -> bool {
    let alignment = u64::from(alignment);
    offset.is_multiple_of(alignment) && (len as u64).is_multiple_of(alignment)
}

/// Calls the same method of whatever format it is.
macro_rules! each {
    ($self:ident, $image:ident => $call:expr) => {
        match &$self.image {
            Image::Raw($image) => $call,
            Image::Qcow2($image) => $call,
        }
    };
}

impl Disk {
    /// Opens an image, and everything that it refers to: nothing is opened by a path later.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(options: &Options) -> Result<Self, OpenError> {
        Self::of(Self::file(options)?, options).await
    }

    /// As [`Disk::open`]; `probe` sees what changes the image's own file.
    #[cfg(feature = "testing")]
    pub async fn open_probed(options: &Options, probe: Arc<dyn Probe>) -> Result<Self, OpenError> {
        let mut file = Self::file(options)?;
        file.set_probe(probe);
        Self::of(file, options).await
    }

    fn file(options: &Options) -> Result<HostFile, OpenError> {
        if options.writable && options.format.is_none() {
            return Err(OpenError::FormatRequired { path: options.path.clone() });
        }
        let access = if options.writable { Access::Write } else { Access::Read };
        HostFile::open(&options.path, access, options.direct)
    }

    async fn of(file: HostFile, options: &Options) -> Result<Self, OpenError> {
        let cannot = |cause| OpenError::Open { path: options.path.clone(), cause };
        let format = match options.format {
            Some(format) => format,
            None => {
                let beginning = file.read_bytes(0, probe::LEN).await.map_err(cannot)?;
                probe::format(&beginning)
                    .map_err(|format| OpenError::Foreign { path: options.path.clone(), format })?
            }
        };
        let image = match format {
            Format::Raw => Image::Raw(Box::new(Raw::new(file).map_err(cannot)?)),
            Format::Qcow2 => Image::Qcow2(Box::new(Qcow2::open(file, options).await?)),
        };
        Ok(Self { image, is_writable: options.writable })
    }

    /// The format of the image.
    pub fn format(&self) -> Format {
        match &self.image {
            Image::Raw(_) => Format::Raw,
            Image::Qcow2(_) => Format::Qcow2,
        }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        each!(self, image => image.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it was opened to be changed.
    pub fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// What offsets and lengths of requests should be multiples of, in bytes. Others are slower, and right.
    pub fn alignment(&self) -> u32 {
        each!(self, image => image.alignment())
    }

    /// What the host knows of the image's file.
    ///
    /// # Errors
    /// What the host said.
    pub async fn stat(&self) -> io::Result<Stat> {
        each!(self, image => image.stat().await)
    }

    /// Reads from `offset` on: less than there is room for only where the image ends.
    ///
    /// # Errors
    /// What the host said.
    pub async fn read(&self, out: OutBuf, offset: u64) -> io::Result<Filled> {
        each!(self, image => image.read(out, offset).await)
    }

    /// Writes to `offset` as much as there is place for before the end of the image, and returns how much that was.
    ///
    /// # Errors
    /// What the host said; when the image is not writable, EBADF.
    pub async fn write(&self, data: InBuf, offset: u64) -> io::Result<usize> {
        self.writable()?;
        each!(self, image => image.write(data, offset).await)
    }

    /// Makes everything durable that was written, and what it takes to find it.
    ///
    /// # Errors
    /// What the host said: what was written since the last flush may or may not be there then.
    pub async fn flush(&self) -> io::Result<()> {
        if !self.is_writable {
            return Ok(());
        }
        each!(self, image => image.flush().await)
    }

    /// Gives the image `len` bytes; what is new reads as zeroes.
    ///
    /// # Errors
    /// What the host said.
    pub async fn set_len(&self, len: u64) -> io::Result<()> {
        self.resize(Resize::To(len)).await
    }

    /// Gives the image `len` bytes unless it has more; what is new reads as zeroes, and has space when `allocate` is set.
    ///
    /// # Errors
    /// What the host said.
    pub async fn grow(&self, len: u64, allocate: bool) -> io::Result<()> {
        self.resize(if allocate { Resize::Allocate(len) } else { Resize::AtLeast(len) }).await
    }

    /// Makes `offset..offset + len` read as zeroes, as far as it is inside.
    ///
    /// # Errors
    /// What the host said.
    pub async fn zero(&self, offset: u64, len: u64, how: Zeroing) -> io::Result<()> {
        self.writable()?;
        each!(self, image => image.zero(offset, len, how).await)
    }

    /// The first byte of data from `offset` on, by the image's own map; `None` when only holes follow.
    ///
    /// # Errors
    /// What the host said.
    pub async fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        each!(self, image => image.seek(offset, Seek::Data).await)
    }

    /// The first byte from `offset` on that is in a hole; the end of the image is one.
    ///
    /// # Errors
    /// What the host said.
    pub async fn next_hole(&self, offset: u64) -> io::Result<u64> {
        let len = self.len();
        let hole = each!(self, image => image.seek(offset, Seek::Hole).await)?;
        Ok(hole.unwrap_or(len).min(len))
    }

    async fn resize(&self, to: Resize) -> io::Result<()> {
        self.writable()?;
        each!(self, image => image.resize(to).await)
    }

    fn writable(&self) -> io::Result<()> {
        if self.is_writable { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EBADF)) }
    }
}
