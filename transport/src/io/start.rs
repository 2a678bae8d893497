//! How threads and processes are started, and what is said when that is refused.

use std::{
    io,
    thread::{self, JoinHandle},
};

/// Starts a thread with a `name` of at most 15 bytes.
///
/// # Errors
/// When it cannot be had. One that meets a limit says which ones there are.
pub fn start_thread<T: Send + 'static>(
    name: impl Into<String>,
    main: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.into()).spawn(main).map_err(name_limits)
}

/// Adds to the error of a thread or process that could not be started which limits there are.
pub fn name_limits(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::WouldBlock {
        return error;
    }
    let way_out = "raise `ulimit -u`, or pids.max of the cgroup (TasksMax= of a systemd unit)";
    io::Error::new(error.kind(), format!("no more threads or processes: {error}; {way_out}"))
}
