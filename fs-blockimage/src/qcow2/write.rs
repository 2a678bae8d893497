//! Writes.

use std::io;

use fsrv_transport::mem::InBuf;
use imago::Mapping;
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};

use super::Qcow2;
use crate::storage::{HostFile, Way};

/// With whom a write goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Company {
    /// With all others.
    Others,
    /// Alone: it shares blocks with others that go past the page cache, through which it goes.
    Nobody,
}

/// A part of [`Qcow2::access`], held.
#[expect(dead_code, reason = "it is held")]
enum Held<'a> {
    Part(RwLockReadGuard<'a, ()>),
    All(RwLockWriteGuard<'a, ()>),
}

/// What came of a part of a write: how much was written, and the bytes behind it.
type Step = io::Result<(usize, InBuf)>;

impl Qcow2 {
    pub(crate) async fn write(&self, mut data: InBuf, offset: u64) -> io::Result<usize> {
        let len = self.within(offset, data.len());
        if len > 0 {
            self.touch().await?;
        }
        let company = if self.is_aligned(offset, len) { Company::Others } else { Company::Nobody };
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            match self.write_some(data, at, len - done, company).await {
                Ok((0, _)) => break,
                Ok((written, rest)) => (done, data) = (done + written, rest),
                // What was written so far is the answer; the next write meets the error again.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes from `at` on, up to `len` bytes that are in one place.
    async fn write_some(&self, data: InBuf, at: u64, len: usize, company: Company) -> Step {
        match self.write_in_place(data, at, len, company).await? {
            Ok(step) => Ok(step),
            Err(data) => {
                self.changing(async || {
                    let _held = self.hold(company).await;
                    self.write_to_new(data, at, len, way(company)).await
                })
                .await
            }
        }
    }

    /// Writes where the image has a place for it; gives the bytes back where it has none.
    async fn write_in_place(
        &self,
        data: InBuf,
        at: u64,
        len: usize,
        company: Company,
    ) -> io::Result<Result<(usize, InBuf), InBuf>> {
        let _held = self.hold(company).await;
        match self.format.get_mapping(at, len as u64).await? {
            (Mapping::Raw { storage, offset, writable: true, .. }, found) => {
                let len = usize::try_from(found).map_or(len, |found| found.min(len));
                let file = storage.file_to_write(offset, len as u64)?;
                file.write(data, len, offset, way(company)).await.map(Ok)
            }
            _ => Ok(Err(data)),
        }
    }

    /// Gives the image a place for what is written, writes it there, and then shows it.
    async fn write_to_new(&self, mut data: InBuf, at: u64, len: usize, way: Way) -> Step {
        let cluster = self.metadata.cluster();
        let inside = (at & (cluster - 1)) as usize;
        let mut len = len;
        if inside != 0 || len < cluster as usize {
            len = len.min(cluster as usize - inside);
            if self.is_compressed(at - inside as u64).await? {
                let change = |bytes: &mut [u8]| {
                    data.take_front(&mut bytes[inside..inside + len]).map_err(io::Error::other)
                };
                self.replace_cluster(at - inside as u64, change).await?;
                return Ok((len, data));
            }
        } else {
            len &= !(cluster as usize - 1);
        }
        let mapping = self.prepare(at, len as u64).await?;
        let len = usize::try_from(mapping.length()).map_or(len, |found| found.min(len));
        let offset = mapping.offset();
        let file = mapping.storage().file_to_write(offset, len as u64)?;
        let rest = write_all(file, data, len, offset, way).await?;
        self.written(offset + len as u64);
        self.format.commit_data_mapping(mapping).await?;
        Ok((len, rest))
    }

    /// Notes that there is data up to `end` of the file.
    pub(super) fn written(&self, end: u64) {
        if self.data.is_none() {
            self.metadata.reach(end);
        }
    }

    async fn hold(&self, company: Company) -> Held<'_> {
        match company {
            Company::Others => Held::Part(self.access.read().await),
            Company::Nobody => Held::All(self.access.write().await),
        }
    }
}

fn way(company: Company) -> Way {
    match company {
        Company::Others => Way::Data,
        Company::Nobody => Way::Cached,
    }
}

async fn write_all(
    file: &HostFile,
    mut data: InBuf,
    len: usize,
    offset: u64,
    way: Way,
) -> io::Result<InBuf> {
    let mut done = 0;
    while done < len {
        let written;
        (written, data) = file.write(data, len - done, offset + done as u64, way).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done += written;
    }
    Ok(data)
}
