//! The smallest filesystem: one file that can be read. It is served until the mount is removed:
//! `cargo run --example hello -- MOUNTPOINT`, then `cat MOUNTPOINT/hello` and `umount MOUNTPOINT`.

use std::{error::Error, path::Path, time::Duration};

use fsrv::{
    Attr, Attributes, Context, Entry, Errno, FileSystem, Limits, LookupName, NodeId, Result,
    Session, layer::ReadOnly, op, serve,
};
use fsrv_transport::{
    fuse_dev::{FuseTransport, MountOptions, mount},
    io::Engine,
    mem::{Filled, Pool},
    worker::Worker,
};

const TEXT: &[u8] = b"Hello, world!\n";
const FILE: NodeId = NodeId(2);
const TTL: Duration = Duration::from_secs(1);

/// The types of directory entries (`DT_` of `readdir(3)`).
const DIRECTORY: u8 = 4;
const REGULAR: u8 = 8;

struct Hello;

fn attr(nodeid: NodeId) -> Result<Attr> {
    let (mode, nlink, size) = match nodeid {
        NodeId::ROOT => (Attr::DIRECTORY | 0o555, 2, 0),
        FILE => (Attr::REGULAR | 0o444, 1, TEXT.len() as u64),
        _ => return Err(Errno::ESTALE),
    };
    Ok(Attr { ino: nodeid.0, mode, nlink, size, ..Attr::default() })
}

// What is left out is answered ENOSYS: the kernel then opens without asking.
impl FileSystem for Hello {
    async fn lookup(&self, _: &Context, op: op::Lookup<'_>) -> Result<Entry> {
        match op.name {
            LookupName::Name(name) if name.as_bytes() == b"hello" => {
                let attr = attr(FILE)?;
                Ok(Entry { nodeid: FILE, generation: 0, attr, entry_ttl: TTL, attr_ttl: TTL })
            }
            _ => Err(Errno::ENOENT),
        }
    }

    async fn getattr(&self, _: &Context, op: op::GetAttr) -> Result<Attributes> {
        Ok(Attributes { attr: attr(op.nodeid)?, ttl: TTL })
    }

    async fn read(&self, _: &Context, mut op: op::Read) -> Result<Filled> {
        let start = TEXT.len().min(op.offset as usize);
        let end = TEXT.len().min(start + op.out.remaining());
        op.out.append(&TEXT[start..end]).map_err(|_| Errno::EIO)?;
        Ok(op.out.finish())
    }

    async fn readdir(&self, _: &Context, mut op: op::ReadDir) -> Result<op::DirBuf> {
        let entries = [(1, DIRECTORY, "."), (1, DIRECTORY, ".."), (2, REGULAR, "hello")];
        // An entry's offset is where the next one begins.
        for (next, (ino, kind, name)) in (1..).zip(entries).skip(op.offset as usize) {
            if op.entries.push(ino, next, kind, name.as_bytes()).is_err() {
                break;
            }
        }
        Ok(op.entries)
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let mountpoint = std::env::args().nth(1).ok_or("usage: hello MOUNTPOINT")?;
    let (_mount, device) = mount(Path::new(&mountpoint), &MountOptions::new("hello"))?;
    let worker = Worker { name: "hello".into(), cpu: None, engine: Engine::Threads };
    let worker = worker.spawn(
        || Ok(()),
        || async {
            // The layer answers EROFS to what would change something.
            let session = Session::new(ReadOnly(Hello), Limits::default());
            let transport = FuseTransport::new(device, session.transport_config(), Pool::new())?;
            serve(transport, &session).await
        },
    )?;
    worker.join().map_err(|_| "the worker panicked")??;
    Ok(())
}
