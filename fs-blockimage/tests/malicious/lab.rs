//! Images in a directory of a test.

use std::{fs, io, path::PathBuf};

use fsrv_blockimage::{Disk, Format, Options};
use fsrv_transport::mem::{InBuf, OutBuf, Pool};

use crate::{
    image::Image,
    script::{check_message, on_worker},
};

/// A directory, and what is done with images in it.
pub(crate) struct Lab {
    dir: tempfile::TempDir,
    pool: Pool,
}

/// Runs `test` on a worker, with a directory of its own.
pub(crate) fn in_lab(test: impl AsyncFnOnce(Lab) + Send + 'static) {
    on_worker(|| async move {
        // Beside the build, which is on a disk.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        test(Lab { dir, pool: Pool::new() }).await;
    });
}

impl Lab {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// All of the directory may be referred to.
    pub(crate) fn options(&self, name: &str) -> Options {
        Options {
            path: self.path(name),
            format: Some(Format::Qcow2),
            writable: false,
            direct: false,
            allow_backing: vec![self.dir.path().to_owned()],
        }
    }

    pub(crate) async fn open(&self, bytes: &[u8], writable: bool) -> Disk {
        self.put("image", bytes);
        Disk::open(&Options { writable, ..self.options("image") }).await.unwrap()
    }

    /// What is said of an image that is refused. It stays as it is.
    pub(crate) async fn refusal(&self, options: &Options) -> String {
        let content = || options.path.is_file().then(|| fs::read(&options.path).unwrap());
        let before = content();
        let Err(error) = Disk::open(options).await else { panic!("it is opened: {options:?}") };
        check_message(&error);
        assert!(content() == before, "it was changed: {error}");
        error.to_string()
    }

    /// It is not opened to be read, nor to be written.
    pub(crate) async fn is_refused(&self, bytes: &[u8], says: &str) {
        self.put("image", bytes);
        for writable in [false, true] {
            let said = self.refusal(&Options { writable, ..self.options("image") }).await;
            assert!(said.contains(says), "no {says:?} in {said:?}");
        }
    }

    /// It can be read, but is not opened to be written.
    pub(crate) async fn is_not_written(&self, image: &Image, says: &str) {
        self.open(&image.bytes, false).await;
        let said = self.refusal(&Options { writable: true, ..self.options("image") }).await;
        assert!(said.contains(says), "no {says:?} in {said:?}");
    }

    pub(crate) async fn read(&self, disk: &Disk, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let read = disk.read(OutBuf::new(&self.pool, len), at).await?;
        Ok(read.as_host_bytes().to_vec())
    }

    pub(crate) async fn write(&self, disk: &Disk, at: u64, bytes: &[u8]) -> io::Result<usize> {
        disk.write(InBuf::copied(&self.pool, bytes), at).await
    }
}
