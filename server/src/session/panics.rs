//! Panics of a filesystem. One is the end of one request, not of its worker and all that it serves.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

/// Has the filesystem do `call`, which belongs to `operation`. `None` when it panicked.
// A filesystem is asked again after a panic: the trait says so.
pub(super) fn caught<T>(operation: &str, call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| report(operation, panic)).ok()
}

/// Waits for what the filesystem does in `operation`. `None` when it panicked.
pub(super) async fn caught_later<F: Future>(operation: &str, future: F) -> Option<F::Output> {
    let mut future = pin!(Some(future));
    poll_fn(|cx| {
        let polled = caught(operation, || {
            let running = future.as_mut().as_pin_mut().expect("polled until it ends");
            let polled = running.poll(cx);
            if polled.is_ready() {
                future.set(None);
            }
            polled
        });
        let Some(polled) = polled else {
            caught(operation, || future.set(None));
            return Poll::Ready(None);
        };
        polled.map(Some)
    })
    .await
}

fn report(operation: &str, panic: Box<dyn Any + Send>) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("without a text");
    tracing::error!(operation, "the filesystem panicked: {text}");
    // What it panicked with may panic when it is dropped.
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(another);
    }
}
