//! A disk that stops answering: a FUSE mount in the served directory whose server, this process, stops.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use fsrv::op::{GetAttr, Lookup, Open, Read};
use fsrv::{
    Attr, Attributes, Context, Entry, Errno, Fh, FileSystem, LookupName, NodeId, Opened, Result,
    abi,
};
use fsrv_transport::io::Engine;
use fsrv_transport::mem::Filled;
use std::time::Duration;

use crate::semantics::embedded::Embedded;

/// The name of the only file.
pub(super) const FILE: &[u8] = b"slow";

/// Whether reads are answered.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    waiting: usize,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| state.is_closed).unwrap());
    }

    fn set(&self, is_closed: bool) {
        self.state.lock().unwrap().is_closed = is_closed;
        self.changed.notify_all();
    }

    fn wait_for_somebody(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| state.waiting == 0).unwrap());
    }
}

/// Everything is a file, and a closed gate stops its only worker in a read.
struct Slow(Arc<Gate>);

const NODE: NodeId = NodeId(2);

fn attr(nodeid: NodeId) -> Attr {
    let mode = if nodeid == NodeId::ROOT { 0o040_777 } else { 0o100_666 };
    Attr { ino: nodeid.0, mode, nlink: 1, size: 4096, blksize: 4096, ..Attr::default() }
}

impl FileSystem for Slow {
    async fn lookup(&self, _: &Context, op: Lookup<'_>) -> Result<Entry> {
        let LookupName::Name(name) = op.name else { return Err(Errno::ESTALE) };
        if name.as_c_str().to_bytes() != FILE {
            return Err(Errno::ENOENT);
        }
        let ttl = Duration::from_secs(1000);
        Ok(Entry { nodeid: NODE, generation: 0, attr: attr(NODE), entry_ttl: ttl, attr_ttl: ttl })
    }

    async fn getattr(&self, _: &Context, op: GetAttr) -> Result<Attributes> {
        Ok(Attributes { attr: attr(op.nodeid), ttl: Duration::from_secs(1000) })
    }

    async fn open(&self, _: &Context, _: Open) -> Result<Opened> {
        Ok(Opened { fh: Fh(0), flags: abi::FOPEN_DIRECT_IO })
    }

    async fn read(&self, _: &Context, op: Read) -> Result<Filled> {
        self.0.pass();
        Ok(op.out.finish())
    }
}

/// The mount. When it drops, everything is answered.
pub(super) struct Stuck {
    gate: Arc<Gate>,
    file: PathBuf,
    reader: Option<JoinHandle<()>>,
    _mount: Embedded<Slow>,
}

impl Stuck {
    /// Mounts at `point`, which is made. Everything is answered.
    pub(super) fn at(point: &Path) -> Self {
        fs::create_dir(point).expect("a mount point");
        let gate = Arc::<Gate>::default();
        let mount = Embedded::serve(Slow(gate.clone()), point, Engine::Threads, 1);
        let file = point.join(str::from_utf8(FILE).unwrap());
        // The kernel learns that it need not tell of a close, which could not be killed.
        drop(File::open(&file).expect("a file"));
        Self { gate, file, reader: None, _mount: mount }
    }

    /// Nothing is answered from now on. What is asked for stays with the kernel, so that a process that
    /// waits for it can be killed.
    pub(super) fn stop(&mut self) {
        let file = File::open(&self.file).expect("a file");
        self.gate.set(true);
        self.reader = Some(thread::spawn(move || {
            // This one keeps the only worker. It ends when the mount does, whatever it gets.
            let _ = file.read_at(&mut [0; 16], 0);
        }));
        self.gate.wait_for_somebody();
    }

    /// Everything is answered again.
    pub(super) fn go_on(&mut self) {
        self.gate.set(false);
        if let Some(reader) = self.reader.take() {
            reader.join().expect("a reader");
        }
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.gate.set(false);
        if let Some(reader) = self.reader.take() {
            // The test has failed already if this does.
            let _ = reader.join();
        }
    }
}
