//! The files of a listening socket: the socket itself, and the lock beside it.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FlockOperation, Mode, OFlags, Stat, flock, fstat, openat, statat, unlinkat,
    },
    io::Errno,
};

use super::error::ListenError;

/// A file that goes when this is dropped, unless another one has its name by then.
pub(super) struct OwnFile {
    /// Held because the path may lead elsewhere later, where the process is contained.
    directory: OwnedFd,
    name: OsString,
    id: (u64, u64),
}

impl OwnFile {
    /// The file that is at `path` now.
    pub(super) fn find(path: &Path) -> Result<Self, ListenError> {
        let name = path.file_name().ok_or_else(|| ListenError::NoName { path: path.into() })?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let found = || -> rustix::io::Result<Self> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = openat(CWD, parent, flags, Mode::empty())?;
            let id = id(&statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?);
            Ok(Self { directory, name: name.into(), id })
        };
        let what = "look at";
        found().map_err(|error| ListenError::Path { what, path: path.into(), cause: error.into() })
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        let found = statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|stat| id(&stat) == self.id) {
            // A contained process may not be allowed to; the next server replaces it.
            let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// The right to serve a socket: a locked file with the process's number, as virtiofsd has it.
pub(super) struct PidLock {
    // It goes while it is locked: whoever opened it meanwhile sees that it is gone.
    _own: OwnFile,
    _file: File,
}

impl PidLock {
    pub(super) fn take(socket: &Path) -> Result<Self, ListenError> {
        let mut path = OsString::from(socket);
        path.push(".pid");
        let path = PathBuf::from(path);
        let failed = |what| {
            let path = path.clone();
            move |cause: io::Error| ListenError::Path { what, path, cause }
        };
        let mut file = loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|error| failed("open")(error.into()))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(in_use(socket, file.into())),
                Err(error) => return Err(failed("lock")(error.into())),
            }
            // Whoever had the lock may have removed the file in the meantime.
            let ours = fstat(&file).map_err(|error| failed("look at")(error.into()))?;
            let named = statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW);
            if named.is_ok_and(|named| id(&named) == id(&ours)) {
                break File::from(file);
            }
        };
        let own = OwnFile::find(&path)?;
        file.set_len(0).map_err(failed("write"))?;
        writeln!(file, "{}", std::process::id()).map_err(failed("write"))?;
        Ok(Self { _own: own, _file: file })
    }
}

fn in_use(socket: &Path, file: File) -> ListenError {
    let mut pid = String::new();
    // Only for people: it may be unreadable or not yet written.
    let _ = file.take(16).read_to_string(&mut pid);
    let server = match pid.trim().parse::<u32>() {
        Ok(pid) => format!("process {pid}"),
        Err(_) => "another process".into(),
    };
    ListenError::InUse { path: socket.into(), server }
}

fn id(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}
