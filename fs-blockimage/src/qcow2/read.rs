//! Reads, and looks at the map.

use std::{
    io,
    time::{Duration, Instant},
};

use fsrv_transport::mem::{Filled, OutBuf};
use imago::Mapping;

use super::{Qcow2, imago::Handle};
use crate::{
    disk::is_aligned,
    storage::{HostFile, Seek, Way},
};

/// How long one call looks for data or a hole.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a walk through the map keeps others waiting: one step takes up to a millisecond, when tables are large.
const TURN: Duration = Duration::from_millis(1);

/// How often the map may be asked again for the same place.
const IN_VAIN_MAX: u32 = 16;

impl Qcow2 {
    pub(crate) async fn read(&self, out: OutBuf, offset: u64) -> io::Result<Filled> {
        let _shared = self.access.read().await;
        let len = self.within(offset, out.remaining());
        // Parts of what is aligned are so in the file and in memory.
        let way = if self.is_aligned(offset, len) { Way::Data } else { Way::Cached };
        Ok(self.read_extents(out, offset, len, way).await?.finish())
    }

    /// Reads `len` bytes from `offset` on, wherever they are.
    pub(super) async fn read_extents(
        &self,
        mut out: OutBuf,
        offset: u64,
        len: usize,
        way: Way,
    ) -> io::Result<OutBuf> {
        let (mut done, mut in_vain) = (0, 0);
        while done < len {
            let before = out.len();
            out = self.read_extent(out, offset + done as u64, len - done, way).await?;
            match out.len() - before {
                // The map has changed meanwhile; that of a hostile image may say different things for ever.
                0 if in_vain == IN_VAIN_MAX => {
                    return Err(io::Error::other("its map contradicts itself"));
                }
                0 => in_vain += 1,
                read => (done, in_vain) = (done + read, 0),
            }
        }
        Ok(out)
    }

    /// Reads from `offset` on, up to `len` bytes that are in one place.
    async fn read_extent(
        &self,
        mut out: OutBuf,
        offset: u64,
        len: usize,
        way: Way,
    ) -> io::Result<OutBuf> {
        let (mapping, found) = self.format.get_mapping(offset, len as u64).await?;
        let len = usize::try_from(found).map_or(len, |found| found.min(len));
        match mapping {
            Mapping::Raw { storage, offset, .. } => {
                read_host(storage.file(), out, len, offset, way).await
            }
            Mapping::Special { layer, offset, .. } => {
                self.read_compressed(out, layer, offset, len).await
            }
            Mapping::Zero { .. } => {
                out.append_zeroes(len).map_err(io::Error::other)?;
                Ok(out)
            }
            _ => Err(io::Error::other("its map has no such place")),
        }
    }

    pub(crate) async fn seek(&self, offset: u64, what: Seek) -> io::Result<Option<u64>> {
        let len = self.len();
        let mut at = offset;
        let mut pace = Pace::default();
        let began = Instant::now();
        while at < len {
            let _shared = self.access.read().await;
            let (mapping, found) = self.format.get_mapping(at, len - at).await?;
            if is_data(&mapping) == (what == Seek::Data) {
                return Ok(Some(at));
            }
            at += found.max(1);
            pace.step().await;
            if began.elapsed() > PATIENCE {
                // What nobody has looked at may be data.
                return Ok((what == Seek::Data && at < len).then_some(at));
            }
        }
        Ok(None)
    }
}

/// Whether there is something that takes space.
pub(super) fn is_data(mapping: &Mapping<'_, Handle>) -> bool {
    !matches!(mapping, Mapping::Zero { .. } | Mapping::Eof { .. })
}

/// Lets others run between the steps of what may take long.
pub(super) struct Pace(Instant);

impl Default for Pace {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Pace {
    pub(super) async fn step(&mut self) {
        if self.0.elapsed() > TURN {
            tokio::task::yield_now().await;
            self.0 = Instant::now();
        }
    }
}

/// Reads `len` bytes; behind the end of the file there are zeroes.
async fn read_host(
    file: &HostFile,
    mut out: OutBuf,
    len: usize,
    offset: u64,
    way: Way,
) -> io::Result<OutBuf> {
    let mut done = 0;
    while done < len {
        let (at, left) = (offset + done as u64, len - done);
        let way = if is_aligned(file.alignment(), at, left) { way } else { Way::Cached };
        let before = out.len();
        out = file.read(out, left, at, way).await?;
        // Less than all is an error that the next call meets, or the end.
        match out.len() - before {
            0 => {
                out.append_zeroes(left).map_err(io::Error::other)?;
                break;
            }
            read => done += read,
        }
    }
    Ok(out)
}
