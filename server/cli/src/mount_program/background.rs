//! The server that a mount program leaves behind.

use std::{fs::File, io::Write};

use anyhow::{Context, Result};

/// A server that was started by [`super::main`], which waits for it on its standard output.
pub(crate) struct Background {
    null: File,
}

impl Background {
    /// Leaves the session of the caller.
    ///
    /// # Errors
    /// When there is no `/dev/null`.
    pub(crate) fn begin() -> Result<Self> {
        // It fails in a process that leads a group already, which then has left before.
        let _ = rustix::process::setsid();
        let null = File::options().read(true).write(true).open("/dev/null");
        Ok(Self { null: null.context("cannot open /dev/null")? })
    }

    /// Lets the caller go, and its standard output and error.
    ///
    /// # Errors
    /// When they cannot be replaced.
    pub(crate) fn mounted(self) -> Result<()> {
        // A caller that is gone does not want to know.
        let _ = std::io::stdout().write_all(b"\n").and_then(|()| std::io::stdout().flush());
        rustix::stdio::dup2_stdout(&self.null).context("cannot leave standard output")?;
        rustix::stdio::dup2_stderr(&self.null).context("cannot leave standard error")?;
        Ok(())
    }
}
