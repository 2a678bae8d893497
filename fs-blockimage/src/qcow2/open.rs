//! Opens an image and all that it refers to.

use std::{io, path::Path, sync::Arc};

use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, qcow2, raw};
use tokio::sync::{Mutex, RwLock, Semaphore};

use super::{
    Changes, DECOMPRESSING, Qcow2,
    header::{Fault, Header},
    imago::Handle,
    layer::Layer,
    metadata::Metadata,
    references::{Reference, References},
};
use crate::{
    error::OpenError,
    joined::Joined,
    open::{Format, Options},
    storage::{Access, HostFile},
};

/// What O_DIRECT can ask of offsets.
const BLOCK: u64 = 4096;

/// The most memory that the tables of a chain may take, in bytes. imago caches as many of each image's as here.
const TABLES_MAX: u64 = 1 << 30;
const L2_CACHED: u64 = 128;
const REFBLOCKS_CACHED: u64 = 32;

/// An image of the chain that is not opened yet.
struct Link {
    file: Arc<HostFile>,
    /// `None` for a raw image.
    header: Option<Header>,
    data: Option<Arc<HostFile>>,
}

impl Qcow2 {
    /// Opens the image in `file`, and all that it refers to.
    pub(crate) async fn open(file: HostFile, options: &Options) -> Result<Self, OpenError> {
        let path = file.path().to_owned();
        let cannot = |cause| OpenError::Open { path: path.clone(), cause };
        let mut links = chain(file, options).await?;
        let tables: u64 = links.iter().map(Link::tables).sum();
        if tables > TABLES_MAX {
            let why = "the tables of its chain of images could take more than 1 GiB of memory; \
                       shorten it with `qemu-img rebase`";
            return Err(unusable(&path, why));
        }
        let alignment = links.iter().map(Link::alignment).max().unwrap_or(1);
        let top = links.remove(0);
        let mut backing = None;
        while let Some(link) = links.pop() {
            let path = link.file.path().to_owned();
            let opened = link.open(backing).await;
            backing = Some(Layer::from(
                opened.map_err(|cause| OpenError::Open { path: path.clone(), cause })?,
            ));
        }
        let Some(header) = top.header else { return Err(unusable(&path, "it is raw")) };
        let metadata = Arc::new(Metadata::new(top.file.clone(), &header));
        if options.writable {
            metadata.prepare(&header).await.map_err(|fault| refusal(&path, fault))?;
        }
        let backing_len = backing.as_ref().map_or(0, |backing| backing.size());
        let data = match &top.data {
            Some(data) => Handle::data(data.clone(), None),
            None => Handle::data(top.file, Some(metadata.clone())),
        };
        let format = open_layer(metadata.clone(), data, backing, options.writable);
        Ok(Self {
            format: format.await.map_err(cannot)?,
            data: top.data,
            version: header.version,
            is_raw: header.data_is_raw(),
            is_touched: (!options.writable || !metadata.has_claims()).into(),
            metadata,
            backing_len,
            alignment,
            flushes: Joined::default(),
            resizing: Mutex::default(),
            allocating: Mutex::new(Changes::default()),
            access: RwLock::default(),
            decompressing: Semaphore::new(DECOMPRESSING),
        })
    }
}

impl Link {
    fn alignment(&self) -> u32 {
        let data = self.data.as_ref().unwrap_or(&self.file);
        self.file.alignment().max(data.alignment())
    }

    /// Memory that its tables could take.
    fn tables(&self) -> u64 {
        self.header.as_ref().map_or(0, |header| {
            let cached =
                header.l1.entries.min(L2_CACHED) + header.reftable.entries.min(REFBLOCKS_CACHED);
            cached * header.cluster() + (header.l1.entries + header.reftable.entries) * 8
        })
    }

    /// Opens a backing image.
    async fn open(self, backing: Option<Layer>) -> io::Result<FormatAccess<Handle>> {
        let data = Handle::data(self.data.unwrap_or_else(|| self.file.clone()), None);
        let Some(header) = self.header else {
            return Ok(FormatAccess::new(raw::Raw::open_image(data, false).await?));
        };
        open_layer(Arc::new(Metadata::backing(self.file, &header)), data, backing, false).await
    }
}

/// imago's part. It has a handle of its own for data in any case, so that the other is for metadata alone.
pub(super) async fn open_layer(
    metadata: Arc<Metadata>,
    data: Handle,
    backing: Option<Layer>,
    writable: bool,
) -> io::Result<FormatAccess<Handle>> {
    let opened = qcow2::Qcow2::<Handle, Layer>::builder(Handle::metadata(metadata))
        .backing(backing)
        .data_file(Some(data))
        .write(writable)
        .open(DenyImplicitOpenGate::default())
        .await?;
    Ok(FormatAccess::new(opened))
}

/// The image in `file` and those below it, from the top to the bottom.
async fn chain(file: HostFile, options: &Options) -> Result<Vec<Link>, OpenError> {
    let mut references = References::new(&file, options)?;
    let mut links = Vec::new();
    let mut next = Some((file, Format::Qcow2));
    let mut access = if options.writable { Access::Write } else { Access::Read };
    while let Some((file, format)) = next.take() {
        let file = Arc::new(file);
        if format == Format::Raw {
            links.push(Link { file, header: None, data: None });
            break;
        }
        let header = read_header(&file, options).await?;
        if let Some(damage) = header.damage {
            if access == Access::Write {
                return Err(unusable(file.path(), damage));
            }
            tracing::warn!("{}: what is read may be wrong: {damage}", file.path().display());
        }
        let data = match &header.data_file {
            None => None,
            Some(None) => {
                return Err(unusable(file.path(), "it has a data file that it does not name"));
            }
            Some(Some(name)) => {
                let reference = Reference { image: file.path(), what: "data file", name };
                Some(Arc::new(references.open(&reference, access)?))
            }
        };
        // Only the image itself is changed.
        access = Access::Read;
        if let Some(name) = &header.backing {
            let reference = Reference { image: file.path(), what: "backing file", name };
            let format = reference.format(header.backing_format.as_deref())?;
            next = Some((references.open(&reference, access)?, format));
        }
        links.push(Link { file, header: Some(header), data });
    }
    Ok(links)
}

async fn read_header(file: &HostFile, options: &Options) -> Result<Header, OpenError> {
    let header = Header::read(file)
        .await
        .map_err(|cause| OpenError::Open { path: file.path().to_owned(), cause })?
        .map_err(|why| unusable(file.path(), &why))?;
    if options.direct && header.cluster() < BLOCK {
        let why = "its clusters are too small for --host-cache direct; use another --host-cache";
        return Err(unusable(file.path(), why));
    }
    Ok(header)
}

fn refusal(path: &Path, fault: Fault) -> OpenError {
    match fault {
        Fault::Host(cause) => OpenError::Open { path: path.to_owned(), cause },
        Fault::Image(why) => unusable(path, &why),
    }
}

fn unusable(path: &Path, why: &str) -> OpenError {
    OpenError::Unusable { path: path.to_owned(), format: "qcow2", why: why.to_owned() }
}
