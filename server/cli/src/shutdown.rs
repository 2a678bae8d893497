//! The end of a mount.

use std::{io, sync::Arc, time::Duration};

use fsrv_transport::{fuse_dev::Mount, io::Pool};
use tokio::time::{sleep, timeout};

use crate::signals::Signals;

/// How long processes may go on using a mount that is to go.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// How often they are asked.
const RETRY: Duration = Duration::from_millis(50);

/// How long writing back what the client has cached may take before a busy mount is detached.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// How a mount ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Nobody used it.
    Unmounted,
    /// Somebody did, and gets errors now.
    Detached,
}

/// Threads for unmounting, which may wait for the server, and for writing back.
pub(crate) const THREADS: usize = 2;

/// Unmounts, at the latest after five seconds or at the next signal by detaching. What waits does so on `threads`.
///
/// # Errors
/// When the mount is still there.
pub(crate) async fn unmount(
    mount: &Arc<Mount>,
    threads: &Pool,
    signals: &mut Signals,
) -> io::Result<End> {
    let why = tokio::select! {
        result = unmount_when_idle(mount, threads) => match result {
            Ok(()) => return Ok(End::Unmounted),
            Err(error) => error.to_string(),
        },
        () = signals.next() => "a second signal".to_owned(),
    };
    tracing::warn!("{} is detached lazily: {why}", mount.path().display());
    // Detaching waits for nobody when it also aborts the connection, which ends with us anyway.
    mount.abort()?;
    Ok(End::Detached)
}

/// # Errors
/// Why it could not be unmounted in time.
async fn unmount_when_idle(mount: &Arc<Mount>, threads: &Pool) -> io::Result<()> {
    let in_time = timeout(BUSY_LIMIT, async {
        let mut said = false;
        loop {
            // It may wait for the server, which may hang: on a thread that is left behind then.
            let why = match on_thread(mount, threads, Mount::unmount).await {
                Err(error) => match error.kind() {
                    io::ErrorKind::ResourceBusy => "is in use".to_owned(),
                    // fusermount3 cannot be started.
                    io::ErrorKind::WouldBlock => format!("is not unmounted yet: {error}"),
                    _ => return Err(error),
                },
                Ok(()) => return Ok(()),
            };
            if !std::mem::replace(&mut said, true) {
                let (path, limit) = (mount.path().display(), BUSY_LIMIT.as_secs());
                tracing::info!("{path} {why}; waiting {limit} s for it");
            }
            sleep(RETRY).await;
        }
    });
    match in_time.await {
        Ok(result) => result,
        Err(_) => {
            // Who holds the mount may not have called fsync yet.
            let _ = timeout(FLUSH_LIMIT, on_thread(mount, threads, Mount::sync)).await;
            Err(io::Error::new(io::ErrorKind::TimedOut, "processes still use it"))
        }
    }
}

async fn on_thread(
    mount: &Arc<Mount>,
    threads: &Pool,
    call: impl FnOnce(&Mount) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let mount = mount.clone();
    threads.run(move || call(&mount)).await?
}
