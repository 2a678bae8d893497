//! The files that images refer to: which are followed, and how they are opened.

use std::{
    collections::HashSet,
    ffi::OsStr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};

use crate::{
    error::OpenError,
    open::{Format, Options},
    storage::{Access, HostFile},
};

/// The most images in a chain.
const CHAIN_MAX: usize = 64;

/// A file that an image refers to.
pub(super) struct Reference<'a> {
    pub(super) image: &'a Path,
    /// What it is for the image.
    pub(super) what: &'static str,
    pub(super) name: &'a [u8],
}

/// Follows references, within what is allowed.
pub(super) struct References<'a> {
    options: &'a Options,
    /// Directories below which files may be, as the kernel names them.
    allowed: Vec<(OwnedFd, PathBuf)>,
    /// What was opened, so that no chain comes back to where it was.
    seen: HashSet<(u64, u64)>,
}

impl<'a> References<'a> {
    /// For the image in `file`.
    pub(super) fn new(file: &HostFile, options: &'a Options) -> Result<Self, OpenError> {
        let mut allowed = Vec::new();
        for directory in &options.allow_backing {
            let cannot = |cause| OpenError::Open { path: directory.clone(), cause };
            let path = directory.canonicalize().map_err(cannot)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd =
                openat(CWD, &path, flags, Mode::empty()).map_err(|error| cannot(error.into()))?;
            allowed.push((fd, path));
        }
        let path = file.path().to_owned();
        let own = identity(file).map_err(|error| OpenError::Open { path, cause: error.into() })?;
        Ok(Self { options, allowed, seen: HashSet::from([own]) })
    }

    /// Opens a file that an image refers to.
    pub(super) fn open(
        &mut self,
        reference: &Reference<'_>,
        access: Access,
    ) -> Result<HostFile, OpenError> {
        let referred = |cause| OpenError::Referred {
            image: reference.image.to_owned(),
            what: reference.what,
            cause: Box::new(cause),
        };
        let path = reference.path()?;
        let cannot = |cause| referred(OpenError::Open { path: path.clone(), cause });
        let real = path.canonicalize().map_err(cannot)?;
        let Some((directory, below)) = self
            .allowed
            .iter()
            .find_map(|(directory, allowed)| Some((directory, real.strip_prefix(allowed).ok()?)))
        else {
            return Err(OpenError::NotAllowed {
                image: reference.image.to_owned(),
                what: reference.what,
                name: reference.shown(),
                directory: real.parent().unwrap_or(&real).to_owned(),
            });
        };
        let place = openat2(
            directory,
            below,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
        )
        .map_err(|error| cannot(error.into()))?;
        let id = identity(&place).map_err(|error| cannot(error.into()))?;
        if !self.seen.insert(id) {
            return Err(reference.refused("and so the chain of images comes back to it"));
        }
        if self.seen.len() > CHAIN_MAX {
            return Err(reference.refused("and a chain of more than 64 files is not followed"));
        }
        HostFile::of(place, &path, access, self.options.direct).map_err(referred)
    }
}

impl Reference<'_> {
    /// The format of a backing file.
    pub(super) fn format(&self, said: Option<&[u8]>) -> Result<Format, OpenError> {
        match said {
            Some(b"raw") => Ok(Format::Raw),
            Some(b"qcow2") => Ok(Format::Qcow2),
            Some(other) => Err(self.refused(&format!(
                "whose format '{}' is not supported; convert it with `qemu-img convert`",
                String::from_utf8_lossy(other)
            ))),
            None => Err(self.refused(
                "but does not say its format; say it with `qemu-img rebase -u -F FORMAT -b FILE`",
            )),
        }
    }

    /// Where it is; names are relative to the directory of the image.
    fn path(&self) -> Result<PathBuf, OpenError> {
        let name = self.name.strip_prefix(b"file:").unwrap_or(self.name);
        let first = name.split(|&byte| byte == b'/').next().unwrap_or_default();
        if first.contains(&b':') {
            return Err(self
                .refused("which is not the name of a file; change it with `qemu-img rebase -u`"));
        }
        if name.is_empty() {
            return Err(self.refused("which is empty; change it with `qemu-img rebase -u`"));
        }
        Ok(self.image.parent().unwrap_or(Path::new("")).join(OsStr::from_bytes(name)))
    }

    /// Its name for messages.
    fn shown(&self) -> String {
        String::from_utf8_lossy(self.name).into_owned()
    }

    fn refused(&self, why: &str) -> OpenError {
        OpenError::Reference {
            image: self.image.to_owned(),
            what: self.what,
            name: self.shown(),
            why: why.to_owned(),
        }
    }
}

/// What tells two files from each other, whatever their names.
fn identity(file: &impl AsFd) -> rustix::io::Result<(u64, u64)> {
    let stat = fstat(file)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        // Many names, one device.
        FileType::BlockDevice => (stat.st_rdev, u64::MAX),
        _ => (stat.st_dev, stat.st_ino),
    })
}
