//! Panics of a filesystem. One is the end of one request, not of its worker and all that it serves.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

/// Has the filesystem do `call`, which belongs to `operation`. `None` when it panicked.
// A filesystem is asked again after a panic: the trait says so.
pub(super) fn caught<T>(operation: &str, call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| report(operation, panic)).ok()
}

/// What the filesystem does in `operation`. Resolves to `None` when it panicked.
///
/// The future stays where it is: one that is moved into another has its place in that twice.
pub(super) struct Caught<'f, F> {
    operation: &'static str,
    future: Pin<&'f mut Option<F>>,
}

impl<'f, F: Future> Caught<'f, F> {
    /// For `future`, which is there and not yet polled.
    pub(super) fn new(operation: &'static str, future: Pin<&'f mut Option<F>>) -> Self {
        Self { operation, future }
    }
}

impl<F: Future> Future for Caught<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let Self { operation, future } = self.get_mut();
        let polled = caught(operation, || {
            let polled = future.as_mut().as_pin_mut()?.poll(cx);
            if polled.is_ready() {
                future.set(None);
            }
            Some(polled)
        });
        let Some(polled) = polled.flatten() else {
            caught(operation, || future.set(None));
            return Poll::Ready(None);
        };
        polled.map(Some)
    }
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

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use fsrv_transport::testing::MemCompletion;

    use crate::{Attributes, Context, Errno, FileSystem, Result, op::GetAttr, session::Session};

    const LARGE: usize = 16 << 10;

    /// Has a method whose future is large.
    struct Large;

    impl FileSystem for Large {
        async fn getattr(&self, _: &Context, _: GetAttr) -> Result<Attributes> {
            let kept = [0u8; LARGE];
            tokio::task::yield_now().await;
            black_box(&kept);
            Err(Errno::EIO)
        }
    }

    /// Each request is moved to its place once: what it takes is copied.
    #[test]
    fn a_request_has_room_for_its_method_once() {
        fn size_of_result<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        let size = size_of_result(Session::<Large>::run::<MemCompletion>);
        assert!((LARGE..LARGE + LARGE / 2).contains(&size), "{size}");
    }
}
