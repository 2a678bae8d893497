//! Compressed clusters.
//!
//! They are not decompressed by imago: it lets compressed data refer to bytes before its beginning, which are those of
//! memory that it has not filled.

use std::io;

use fsrv_transport::mem::{OutBuf, Pool};
use imago::{FormatAccess, Mapping};
use miniz_oxide::inflate::{
    TINFLStatus,
    core::{
        DecompressorOxide, decompress, inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
    },
};

use super::{
    Metadata, Qcow2,
    imago::Handle,
    layout::{self, COMPRESSED},
};
use crate::storage::Way;

/// Where the data of a compressed cluster is.
struct Place {
    offset: u64,
    /// There is no more of it; there may be less.
    len: usize,
}

impl Metadata {
    /// Where the data of a compressed cluster is; `None` when the cluster is not compressed any more.
    async fn compressed_at(&self, guest: u64) -> io::Result<Option<Place>> {
        let per_table = self.cluster() / 8;
        let index = guest / self.cluster();
        let l1 = self.layout().l1;
        let table = self.number(l1.offset + index / per_table * 8).await? & layout::OFFSET;
        let entry = self.number(table + index % per_table * 8).await?;
        if table == 0 || entry & COMPRESSED == 0 {
            return Ok(None);
        }
        Ok(Some(Place::of(entry, self.cluster().ilog2())))
    }

    async fn number(&self, offset: u64) -> io::Result<u64> {
        let bytes = self.view(offset, 8).await?;
        Ok(layout::number(&bytes, 0).unwrap_or_default())
    }
}

impl Place {
    fn of(entry: u64, cluster_bits: u32) -> Self {
        let range = layout::compressed(entry, cluster_bits);
        // Two clusters at the most.
        Self { offset: range.start, len: (range.end - range.start) as usize }
    }
}

impl Qcow2 {
    /// Reads `len` bytes of compressed clusters at most, and some at least unless they are not compressed any more.
    pub(super) async fn read_compressed(
        &self,
        mut out: OutBuf,
        layer: &FormatAccess<Handle>,
        offset: u64,
        len: usize,
    ) -> io::Result<OutBuf> {
        let files = layer.inner().collect_storage_dependencies();
        // What is behind comes first, then the layer's own.
        let [.., metadata, data] = &files[..] else {
            return Err(io::Error::other("a raw image has compressed data"));
        };
        let Some(metadata) = metadata.as_metadata() else {
            return Err(io::Error::other("a raw image has compressed data"));
        };
        let _turn = self.decompressing.acquire().await.map_err(io::Error::other)?;
        let Some(place) = metadata.compressed_at(offset).await? else { return Ok(out) };
        let packed = data.file().read_bytes(place.offset, place.len).await?;
        let cluster = decompressed(&packed, metadata.cluster() as usize)?;
        let inside = (offset & (metadata.cluster() - 1)) as usize;
        let now = len.min(cluster.len() - inside);
        out.append(&cluster[inside..inside + now]).map_err(io::Error::other)?;
        Ok(out)
    }

    /// Whether something of the cluster at `start` is compressed, in whatever layer.
    pub(super) async fn is_compressed(&self, start: u64) -> io::Result<bool> {
        let end = start + self.metadata.cluster();
        let mut at = start;
        while at < end {
            let (mapping, found) = self.format.get_mapping(at, end - at).await?;
            if let Mapping::Special { .. } = mapping {
                return Ok(true);
            }
            at += found.max(1);
        }
        Ok(false)
    }

    /// Changes a part of the cluster at `start`, and gives it a place in this image.
    pub(super) async fn replace_cluster(
        &self,
        start: u64,
        change: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let len = self.metadata.cluster() as usize;
        let out = OutBuf::new(&Pool::new(), len);
        let out = self.read_extents(out, start, len, Way::Cached).await?;
        let mut cluster = out.finish().as_host_bytes().to_vec();
        change(&mut cluster)?;
        let mapping = self.prepare(start, len as u64).await?;
        let offset = mapping.offset();
        let file = mapping.storage().file_to_write(offset, len as u64)?;
        file.write_bytes(offset, &cluster).await?;
        self.written(offset + len as u64);
        self.format.commit_data_mapping(mapping).await
    }
}

/// The cluster of `len` bytes that is in `packed`, which may have more behind it.
fn decompressed(packed: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let mut cluster = vec![0; len];
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let mut state = Box::<DecompressorOxide>::default();
    let (status, _, filled) = decompress(&mut state, packed, &mut cluster, 0, flags);
    let is_whole = matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput);
    if !is_whole || filled < len {
        return Err(io::Error::other("a compressed cluster is not valid"));
    }
    Ok(cluster)
}
