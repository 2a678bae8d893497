//! One operation on the worker's io_uring. Only this file and `worker` name tokio-uring.

use std::{future::Future, io, marker::PhantomData};

use io_uring::{cqueue, squeue};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

use super::engine;

/// Entries of a worker's submission queue, and the most operations that it has in flight: whatever of them the kernel has
/// not taken yet, there is room, so that tokio-uring never has to submit when one more is queued. It panics where the
/// kernel refuses that (EAGAIN).
pub(crate) const ENTRIES: u32 = 1024;

/// Whether one more operation has room in the ring.
pub(super) fn has_room() -> bool {
    engine::in_ring() < ENTRIES
}

/// Whether the kernel found no thread for an operation that it makes on one. Nothing of it was done.
pub(super) fn is_refused<T>(result: &io::Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ECANCELED))
}

/// Queues `entry`, and gives `data` back with its result.
///
/// # Safety
/// Every address and descriptor in `entry` must be kept valid by `data`, wherever `data` is moved.
///
/// # Cancel safety
/// When the future is dropped, `data` stays alive in the driver until the kernel is done with it.
pub(super) unsafe fn submit<D: Unpin + 'static>(
    data: D,
    entry: squeue::Entry,
) -> impl Future<Output = (io::Result<u32>, D)> {
    debug_assert!(has_room());
    let data = (data, InRing::new());
    UnsubmittedOneshot::new(data, WithData(PhantomData), entry).submit()
}

/// An operation in flight, until its completion is seen.
struct InRing;

impl InRing {
    fn new() -> Self {
        engine::count_ring();
        Self
    }
}

impl Drop for InRing {
    fn drop(&mut self) {
        engine::out_of_ring();
    }
}

struct WithData<D>(PhantomData<fn() -> D>);

impl<D> OneshotOutputTransform for WithData<D> {
    type Output = (io::Result<u32>, D);
    type StoredData = (D, InRing);

    fn transform_oneshot_output(
        self,
        (data, _in_ring): Self::StoredData,
        completion: cqueue::Entry,
    ) -> Self::Output {
        let result = completion.result();
        let result = u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        (result, data)
    }
}
