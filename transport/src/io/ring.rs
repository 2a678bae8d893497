//! One operation on the worker's io_uring. Only this file and `worker` name tokio-uring.

use std::{io, marker::PhantomData};

use io_uring::{cqueue, squeue};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

use super::engine;

/// Runs `entry` and gives `data` back with its result.
///
/// # Safety
/// Every address and descriptor in `entry` must be kept valid by `data`, wherever `data` is moved.
///
/// # Cancel safety
/// When the future is dropped, `data` stays alive in the driver until the kernel is done with it.
pub(super) async unsafe fn submit<D: Unpin + 'static>(
    data: D,
    entry: squeue::Entry,
) -> (io::Result<u32>, D) {
    engine::count_ring();
    UnsubmittedOneshot::new(data, WithData(PhantomData), entry).submit().await
}

struct WithData<D>(PhantomData<fn() -> D>);

impl<D> OneshotOutputTransform for WithData<D> {
    type Output = (io::Result<u32>, D);
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, completion: cqueue::Entry) -> Self::Output {
        let result = completion.result();
        let result = u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        (result, data)
    }
}
