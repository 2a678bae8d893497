//! Images in a directory, and what `qemu-img` says of them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use fsrv_blockimage::{Disk, Format, OpenError, Options};
use fsrv_transport::{
    io::Engine,
    mem::{InBuf, OutBuf, Pool},
    testing::engines,
    worker::Worker,
};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;

/// A directory for one test.
pub(crate) struct Lab {
    dir: tempfile::TempDir,
    pool: Pool,
}

impl Lab {
    pub(crate) fn new() -> Self {
        // Beside the build, which is on a disk: tmpfs knows no O_DIRECT everywhere.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { dir, pool: Pool::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a program in the directory; it has to succeed.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(program).args(args).current_dir(self.dir()).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes an image; `size` may be left out with a backing file.
    pub(crate) fn create(&self, name: &str, options: &[&str], size: u64) {
        let size = size.to_string();
        let args = [&["create", "-q", "-f", "qcow2"], options, &[name, &size]].concat();
        self.run("qemu-img", &args);
    }

    /// Has `qemu-io` do what `commands` say.
    pub(crate) fn qemu_io(&self, name: &str, commands: &[&str]) {
        let mut args = vec!["-f", "qcow2"];
        commands.iter().for_each(|command| args.extend(["-c", command]));
        args.push(name);
        let said = self.run("qemu-io", &args);
        assert!(!said.contains("failed"), "{said}");
    }

    /// The content as `qemu-img` sees it.
    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let raw = format!("{name}.content");
        self.run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", name, &raw]);
        let content = fs::read(self.path(&raw)).unwrap();
        fs::remove_file(self.path(&raw)).unwrap();
        content
    }

    /// There is nothing wrong with the image, not even clusters that nobody uses.
    pub(crate) fn check(&self, name: &str) {
        self.run("qemu-img", &["check", "-q", "-f", "qcow2", name]);
    }

    pub(crate) fn options(&self, name: &str) -> Options {
        Options {
            path: self.path(name),
            format: Some(Format::Qcow2),
            writable: false,
            direct: false,
            allow_backing: vec![self.dir().to_owned()],
        }
    }

    pub(crate) async fn open(&self, name: &str) -> Disk {
        open(&self.options(name)).await.unwrap()
    }

    pub(crate) async fn open_writable(&self, name: &str) -> Disk {
        open(&Options { writable: true, ..self.options(name) }).await.unwrap()
    }

    /// Why an image is not opened.
    pub(crate) async fn refusal(&self, options: &Options) -> String {
        let error: OpenError = open(options).await.unwrap_err();
        let said = error.to_string();
        assert!(!said.contains('\n'), "{said}");
        said
    }

    pub(crate) async fn read(&self, disk: &Disk, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        read(disk, &self.pool, offset, len).await
    }

    pub(crate) async fn write(&self, disk: &Disk, offset: u64, data: &[u8]) -> io::Result<usize> {
        disk.write(InBuf::copied(&self.pool, data), offset).await
    }

    /// All that a client sees.
    pub(crate) async fn read_all(&self, disk: &Disk) -> Vec<u8> {
        let mut all = Vec::new();
        while (all.len() as u64) < disk.len() {
            // Parts that are no multiples of anything.
            let part = self.read(disk, all.len() as u64, 777_777).await.unwrap();
            assert!(!part.is_empty());
            all.extend(part);
        }
        all
    }
}

/// Opens an image. A program that another test has just started has a copy of each descriptor until it runs, and with it
/// the locks of a disk that is closed.
pub(crate) async fn open(options: &Options) -> Result<Disk, OpenError> {
    let mut opened = Disk::open(options).await;
    for _ in 0..500 {
        if !matches!(opened, Err(OpenError::InUse { .. })) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        opened = Disk::open(options).await;
    }
    opened
}

pub(crate) async fn read(disk: &Disk, pool: &Pool, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let filled = disk.read(OutBuf::new(pool, len), offset).await?;
    Ok(filled.as_host_bytes().to_vec())
}

pub(crate) fn same(one: &[u8], other: &[u8]) {
    assert_eq!(one.len(), other.len());
    if let Some(at) = one.iter().zip(other).position(|(one, other)| one != other) {
        panic!("different at {at:#x}: {:#x} and {:#x}", one[at], other[at]);
    }
}

/// Runs `test` on a worker of each engine.
pub(crate) fn on_both_engines(test: impl AsyncFn(Lab) + Copy + Send + 'static) {
    for engine in engines() {
        let thread = worker(engine, move || async move { test(Lab::new()).await });
        thread.join().unwrap_or_else(|_| panic!("with {engine}")).unwrap();
    }
}

/// Runs `main` on a worker.
pub(crate) fn worker<F: Future<Output = ()>>(
    engine: Engine,
    main: impl FnOnce() -> F + Send + 'static,
) -> JoinHandle<io::Result<()>> {
    let worker = Worker { name: "test".into(), cpu: None, engine };
    let main = move || async move {
        main().await;
        Ok(())
    };
    worker.spawn(|| Ok(()), main).unwrap()
}

/// The same on workers at once, each with its number.
pub(crate) fn on_workers<F: Future<Output = ()>>(
    engine: Engine,
    count: usize,
    disk: &Arc<Disk>,
    main: impl Fn(Arc<Disk>, usize) -> F + Copy + Send + 'static,
) {
    let start = |number| {
        let disk = disk.clone();
        worker(engine, move || main(disk, number))
    };
    let workers: Vec<_> = (0..count).map(start).collect();
    for worker in workers {
        worker.join().unwrap().unwrap();
    }
}
