//! The kernel refuses to take what is queued in a ring (EAGAIN, where it has no memory for it).

mod kernel;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use fsrv_transport::{
    io::{Cost, Engine, File, SyncKind, fsync},
    testing::with_uring,
    worker::Worker,
};
use tokio::time::timeout;

/// Long enough on a machine that has other things to do.
const LONG: Duration = Duration::from_secs(20);

fn with_ring(test: impl AsyncFnOnce(File) + Send + 'static) {
    with_uring(|| {
        let worker = Worker { name: "test".into(), cpu: None, engine: Engine::Uring };
        let fd = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let main = move || async move {
            test(File::new(fd.into(), Arc::new(Cost::quick())).unwrap()).await;
            Ok(())
        };
        worker.spawn(|| Ok(()), main).unwrap().join().unwrap().unwrap();
    });
}

#[test]
fn an_operation_that_is_not_taken_is_offered_again() {
    with_ring(async |file| {
        kernel::refuses_to_submit(3);
        // Nothing else wakes this worker meanwhile, as a timer would.
        fsync(&file, SyncKind::All).await.unwrap();
    });
}

#[test]
fn more_operations_than_the_queue_has_room_for_do_not_depend_on_the_kernel() {
    with_ring(async |file| {
        kernel::refuses_to_submit(2);
        // More than there are entries, before the runtime submits any.
        let mut all: Vec<_> = (0..3000).map(|_| Box::pin(fsync(&file, SyncKind::Data))).collect();
        let ended = poll_fn(|cx| {
            all.retain_mut(|one| match Pin::new(one).poll(cx) {
                Poll::Ready(result) => {
                    result.unwrap();
                    false
                }
                Poll::Pending => true,
            });
            if all.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        });
        timeout(LONG, ended).await.unwrap();
    });
}
