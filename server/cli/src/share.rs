//! The directory to serve, opened before anything is mounted.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags, fstat, open};

/// An open directory and where it was.
pub(crate) struct Share {
    pub(crate) root: OwnedFd,
    pub(crate) path: PathBuf,
}

impl Share {
    /// # Errors
    /// When `dir` cannot be opened, or is not a directory.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let cannot = || format!("cannot serve {}", dir.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(dir, flags, Mode::empty()).map_err(io::Error::from);
        let root = root.with_context(cannot)?;
        let path = fs::canonicalize(dir).with_context(cannot)?;
        Ok(Self { root, path })
    }

    /// Refuses a mount point with which the server would meet its own mount: it would wait for
    /// itself. The directory itself is none: what is below it was opened before.
    ///
    /// # Errors
    /// When one lies inside the other.
    pub(crate) fn refuse_overlap(&self, mount_point: &Path) -> Result<()> {
        // Whatever is wrong with the mount point, mounting tells it better.
        let Ok(mount_point) = fs::canonicalize(mount_point) else { return Ok(()) };
        let shared = fstat(self.root.as_fd()).map_err(io::Error::from)?;
        // By inode, so that a bind mount of the directory is recognised too.
        let is_shared = |path: &Path| {
            fs::metadata(path)
                .is_ok_and(|found| (found.dev(), found.ino()) == (shared.st_dev, shared.st_ino))
        };
        if mount_point.ancestors().skip(1).any(is_shared) {
            bail!(
                "cannot mount on {}: it is inside the shared directory {}, and the server would \
                 wait for itself; choose a mount point outside",
                mount_point.display(),
                self.path.display()
            );
        }
        if self.path != mount_point && self.path.starts_with(&mount_point) {
            bail!(
                "cannot mount on {}: the shared directory {} is inside it, and the mount would \
                 hide it; choose a mount point outside",
                mount_point.display(),
                self.path.display()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_beside_the_directory_or_on_it_is_accepted() {
        let place = place();
        let share = Share::open(&place.path().join("a")).unwrap();
        share.refuse_overlap(&place.path().join("ab")).unwrap();
        share.refuse_overlap(&place.path().join("a")).unwrap();
    }

    #[test]
    fn one_inside_the_other_is_refused() {
        let place = place();
        for (dir, mount_point) in [("a", "a/b"), ("a/b", "a"), ("", "ab")] {
            let share = Share::open(&place.path().join(dir)).unwrap();
            let refusal = share.refuse_overlap(&place.path().join(mount_point)).unwrap_err();
            assert!(refusal.to_string().contains("inside"), "{refusal}");
        }
    }

    fn place() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("a/b")).unwrap();
        fs::create_dir(place.path().join("ab")).unwrap();
        place
    }
}
