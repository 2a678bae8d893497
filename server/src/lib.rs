//! An async server framework for FUSE and virtio-fs.
//!
//! One loop ([`serve`]) takes messages from any transport, turns each into a future, and runs it
//! against an async [`FileSystem`]. Requests are decoded once into types ([`op`]), and a filesystem
//! returns its answer: it never sees a wire header, a unique id to echo or a reply channel.
//!
//! A filesystem implements the methods it needs. This one has a single file that can be read; what it
//! leaves out is answered ENOSYS, after which a kernel opens without asking. It is served here to a
//! client in memory (module and feature `testing`); `examples/hello.rs` serves the same one at a mount
//! point, and `examples/mount.rs` a directory with one worker a CPU.
//!
//! ```
//! use std::time::Duration;
//!
//! use fsrv::{
//!     Attr, Attributes, Context, Entry, Errno, Fh, FileSystem, Limits, LookupName, NodeId, Result,
//!     Session, op, serve, testing::TestClient,
//! };
//! use fsrv_transport::mem::Filled;
//!
//! const TEXT: &[u8] = b"Hello, world!\n";
//! const FILE: NodeId = NodeId(2);
//! const TTL: Duration = Duration::from_secs(1);
//!
//! struct Hello;
//!
//! fn attr(nodeid: NodeId) -> Result<Attr> {
//!     let (mode, nlink, size) = match nodeid {
//!         NodeId::ROOT => (Attr::DIRECTORY | 0o555, 2, 0),
//!         FILE => (Attr::REGULAR | 0o444, 1, TEXT.len() as u64),
//!         _ => return Err(Errno::ESTALE),
//!     };
//!     Ok(Attr { ino: nodeid.0, mode, nlink, size, ..Attr::default() })
//! }
//!
//! impl FileSystem for Hello {
//!     async fn lookup(&self, _: &Context, op: op::Lookup<'_>) -> Result<Entry> {
//!         match op.name {
//!             LookupName::Name(name) if name.as_bytes() == b"hello" => {
//!                 let attr = attr(FILE)?;
//!                 Ok(Entry { nodeid: FILE, generation: 0, attr, entry_ttl: TTL, attr_ttl: TTL })
//!             }
//!             _ => Err(Errno::ENOENT),
//!         }
//!     }
//!
//!     async fn getattr(&self, _: &Context, op: op::GetAttr) -> Result<Attributes> {
//!         Ok(Attributes { attr: attr(op.nodeid)?, ttl: TTL })
//!     }
//!
//!     async fn read(&self, _: &Context, mut op: op::Read) -> Result<Filled> {
//!         let start = TEXT.len().min(op.offset as usize);
//!         let end = TEXT.len().min(start + op.out.remaining());
//!         op.out.append(&TEXT[start..end]).map_err(|_| Errno::EIO)?;
//!         Ok(op.out.finish())
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let session = Session::new(Hello, Limits::default());
//! let client = TestClient::new();
//! let server = serve(client.transport(16), &session);
//! let test = async {
//!     client.init().await.unwrap();
//!     let file = client.lookup(NodeId::ROOT, "hello").await.unwrap();
//!     assert_eq!(file.attr.size, 14);
//!     assert_eq!(client.read(FILE, Fh(0), 7, 4096).await.unwrap(), b"world!\n");
//!     client.hang_up();
//! };
//! futures::join!(server, test).0.unwrap();
//! # });
//! ```

pub mod abi;
mod context;
mod errno;
mod fs;
mod init;
pub mod layer;
#[cfg(test)]
mod model;
mod name;
pub mod notify;
pub mod op;
mod serve;
mod session;
mod slots;
mod stats;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;
pub mod virtio_fs;

pub use context::{Context, Parked};
pub use errno::{Errno, Result};
pub use fs::{FileSystem, Stats};
pub use init::{Init, Limits};
pub use name::{LookupName, NAME_MAX, Name, NameBuf};
pub use serve::serve;
pub use session::Session;
pub use stats::SessionStats;
pub use types::{Attr, Attributes, Entry, Fh, NodeId, Opened};
