//! A directory as what is served.

use anyhow::{Context, Result};
use fsrv_passthrough::{Config, Passthrough};

use crate::{
    args::{Handles, Serve},
    containment,
    limits::Need,
    share::Share,
};

/// A directory, open.
pub(super) struct Directory {
    share: Share,
    config: Config,
}

impl Directory {
    pub(super) fn new(args: &Serve, share: Share, max_descriptors: u64) -> Self {
        let config = Config {
            cache: args.cache.policy(),
            attr_timeout: args.attr_timeout,
            entry_timeout: args.entry_timeout,
            negative_timeout: args.negative_timeout,
            writeback: args.writeback,
            allow_direct_io: args.allow_direct_io,
            inode_file_handles: args.inode_file_handles.choice(),
            max_descriptors,
        };
        Self { share, config }
    }

    /// The directory as a client sees it that knows nothing of it yet.
    pub(super) fn filesystem(&self) -> Result<Passthrough> {
        let cannot = || format!("cannot serve {}", self.share.path.display());
        let root = self.share.root.try_clone().with_context(cannot)?;
        Passthrough::new(root, self.config.clone()).with_context(cannot)
    }
}

/// What descriptors are needed for.
pub(super) fn need(args: &Serve) -> Need {
    let by_handle = args.inode_file_handles != Handles::Never && containment::can_open_by_handle();
    if by_handle { Need::OpenFiles } else { Need::KnownFiles }
}

/// How it is served, for the start line.
pub(super) fn manner(args: &Serve) -> String {
    format!("cache {}{}", args.cache.name(), if args.readonly { ", read-only" } else { "" })
}
