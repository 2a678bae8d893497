//! Serves a directory on a mount point with the passthrough filesystem of fuse-backend-rs: synchronous, several threads.
//! It ends when the mount is removed.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::api::{Vfs, VfsOptions};
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};
use fuse_backend_rs::transport::{FuseChannel, FuseSession};
use rustix::process::{Resource, getrlimit, setrlimit};

/// Long enough for no entry to expire during a measurement.
const TIMEOUT: Duration = Duration::from_secs(24 * 3600);

#[derive(Parser)]
struct Args {
    /// Directory to serve
    dir: PathBuf,
    /// Mount point
    mountpoint: PathBuf,
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// never, metadata, auto or always
    #[arg(long, default_value = "always")]
    cache: String,
    /// Let the kernel gather writes (safe for one client only)
    #[arg(long)]
    writeback: bool,
    /// Answer OPEN with ENOSYS, so that the kernel opens files without the server
    #[arg(long)]
    no_open: bool,
    /// Refer to inodes by file handle, not by open descriptor
    #[arg(long)]
    file_handles: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    raise_descriptor_limit()?;
    let server = Arc::new(Server::new(Arc::new(filesystem(&args)?)));

    let mut session = FuseSession::new(&args.mountpoint, "peer-fbrs", "", false)?;
    session.mount().with_context(|| format!("cannot mount on {}", args.mountpoint.display()))?;
    let threads = (0..args.threads)
        .map(|_| {
            let channel = session.new_channel()?;
            let server = Arc::clone(&server);
            Ok(thread::spawn(move || serve(&server, channel)))
        })
        .collect::<Result<Vec<_>>>()?;
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a service thread panicked"))?;
    }
    Ok(())
}

fn filesystem(args: &Args) -> Result<Vfs> {
    let config = Config {
        root_dir: args.dir.to_str().context("the directory's name is not UTF-8")?.to_owned(),
        cache_policy: args.cache.parse::<CachePolicy>().map_err(|message| anyhow!(message))?,
        attr_timeout: TIMEOUT,
        entry_timeout: TIMEOUT,
        writeback: args.writeback,
        no_open: args.no_open,
        inode_file_handles: args.file_handles,
        // Its buffers are not aligned for the host's O_DIRECT: every such read would fail.
        allow_direct_io: false,
        do_import: false,
        ..Config::default()
    };
    let passthrough = PassthroughFs::<()>::new(config)?;
    passthrough.import()?;

    // Without Vfs the filesystem asks the kernel for neither large writes nor parallel directory operations.
    let vfs = Vfs::new(VfsOptions {
        no_open: args.no_open,
        no_opendir: false,
        no_writeback: !args.writeback,
        ..VfsOptions::default()
    });
    vfs.mount(Box::new(passthrough), "/")
        .map_err(|error| anyhow!("cannot mount the filesystem at /: {error:?}"))?;
    Ok(vfs)
}

/// Answers requests until the mount is gone.
fn serve(server: &Server<Arc<Vfs>>, mut channel: FuseChannel) {
    while let Ok(Some((reader, writer))) = channel.get_request() {
        // A request that fails is the client's; the next one may not.
        let _ = server.handle_message(reader, writer.into(), None, None);
    }
}

fn raise_descriptor_limit() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the descriptor limit")
}
