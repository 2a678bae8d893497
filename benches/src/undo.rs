//! What a run changed outside itself (mounts, processes, settings), undone on every way out: return, error, panic, signal.

use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Runs its action when dropped, or when a signal ends the run.
#[must_use]
pub(crate) struct Undo(u64);

type Action = Box<dyn FnOnce() + Send>;

struct Actions {
    next: u64,
    pending: Vec<(u64, Action)>,
    /// A signal came: nothing may be left behind from here on.
    closed: bool,
}

static ACTIONS: Mutex<Actions> =
    Mutex::new(Actions { next: 0, pending: Vec::new(), closed: false });

impl Undo {
    pub(crate) fn new(action: impl FnOnce() + Send + 'static) -> Self {
        let mut actions = lock();
        if actions.closed {
            drop(actions);
            action();
            wait_for_exit();
        }
        let id = actions.next;
        actions.next += 1;
        actions.pending.push((id, Box::new(action)));
        Undo(id)
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let action = {
            let mut actions = lock();
            if actions.closed {
                drop(actions);
                wait_for_exit();
            }
            let at = actions.pending.iter().position(|(id, _)| *id == self.0);
            at.map(|at| actions.pending.remove(at).1)
        };
        if let Some(action) = action {
            action();
        }
    }
}

/// From here on SIGINT, SIGTERM and SIGHUP undo everything, newest first, and exit.
pub(crate) fn on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot watch for signals")?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(guard);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => (),
                _ = terminate.recv() => (),
                _ = hangup.recv() => (),
            }
        });
        undo_all();
        std::process::exit(130);
    });
    Ok(())
}

fn undo_all() {
    let pending = {
        let mut actions = lock();
        actions.closed = true;
        std::mem::take(&mut actions.pending)
    };
    for (_, action) in pending.into_iter().rev() {
        action();
    }
}

fn lock() -> std::sync::MutexGuard<'static, Actions> {
    // Each critical section leaves the list whole, so a panic elsewhere does not spoil it.
    ACTIONS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn wait_for_exit() -> ! {
    loop {
        thread::park();
    }
}
