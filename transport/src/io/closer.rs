//! What keeps a CPU busy for long, beside everything else: freeing large files.

use std::{
    io,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rustix::process::setpriority_process;
use tokio::sync::oneshot;

use super::{
    engine,
    pool::{on_pool, settle_new_thread},
};

/// Runs `call`, which is known to keep a CPU busy for long, on a thread of its own that lets others go first: on its CPU
/// there may be a worker, or who waits for one.
///
/// # Errors
/// Only when `call` panicked, or there is neither a thread nor a pool.
///
/// # Cancel safety
/// When the future is dropped, the call still runs to its end.
pub async fn aside<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let call = Arc::new(Mutex::new(Some(call)));
    let take = |call: &Mutex<Option<_>>| call.lock().ok().and_then(|mut call| call.take());
    let (done, result) = oneshot::channel();
    let theirs = call.clone();
    let thread = thread::Builder::new().name("fsrv-aside".into()).spawn(move || {
        settle_new_thread();
        let _ = setpriority_process(None, ASIDE);
        // A thread starts on the CPU of who started it. When one wakes, the kernel looks for an idle CPU.
        thread::sleep(MOMENT);
        if let Some(call) = take(&theirs) {
            // Who asked may be gone.
            let _ = done.send(call());
        }
    });
    if thread.is_err()
        && let Some(call) = take(&call)
    {
        return on_pool(call).await;
    }
    engine::count_pool();
    result.await.map_err(io::Error::other)
}

/// The nice value of a thread that lets others go first. Beside a CPU that others want it still gets a tenth: a
/// journal or a lock of the host may wait for it.
const ASIDE: i32 = 10;

const MOMENT: Duration = Duration::from_micros(20);
