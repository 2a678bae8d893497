//! A request of the hot path allocates nothing, once the first ones have filled the pools.
//!
//! `cargo test --release --test allocations -- --nocapture` also tells the time of a request.
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::{Duration, Instant},
};

use fsrv::{
    Attr, Attributes, Context, Entry, FileSystem, Limits, NodeId, Result, Session, abi::*, op::*,
    serve, testing::*,
};
use fsrv_transport::{mem::Filled, testing::MemClient};

/// Requests before the count begins, and while it runs.
const WARM_UP: usize = 1_000;
const COUNTED: usize = 100_000;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Answers at once.
struct Instantly;

const TTL: Duration = Duration::from_secs(1);

impl FileSystem for Instantly {
    async fn lookup(&self, _: &Context, _: Lookup<'_>) -> Result<Entry> {
        Ok(Entry { nodeid: NodeId(2), ..Entry::negative(TTL) })
    }

    async fn getattr(&self, _: &Context, _: GetAttr) -> Result<Attributes> {
        Ok(Attributes { attr: Attr::default(), ttl: TTL })
    }

    async fn read(&self, _: &Context, mut op: Read) -> Result<Filled> {
        op.out.append(&[7; 4096]).map_err(|_| fsrv::Errno::EIO)?;
        Ok(op.out.finish())
    }

    async fn write(&self, _: &Context, op: Write) -> Result<u32> {
        Ok(u32::try_from(op.data.len()).unwrap_or(u32::MAX))
    }

    /// Waits once, as a request that goes to the ring.
    async fn statfs(&self, _: &Context, _: GetStatFs) -> Result<fsrv::types::StatFs> {
        let mut waited = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut waited, true) {
                return std::task::Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
        Ok(fsrv::types::StatFs::default())
    }
}

/// Sends `count` times `call`, `batch` at a time.
async fn send(client: &MemClient, call: &Call, batch: usize, count: usize) {
    let bytes = call.bytes(2);
    let mut sent = Vec::with_capacity(batch);
    for _ in 0..count / batch {
        sent.extend((0..batch).map(|_| client.send(&bytes, call.reply_room())));
        for exchange in sent.drain(..) {
            exchange.look(|reply| assert_eq!(header_of(reply).error, 0)).await;
        }
    }
}

fn assert_no_allocation(what: &str, call: &Call) {
    let (client, session) = (MemClient::new(), Session::new(Instantly, Limits::default()));
    let served = serve(client.transport(64), &session);
    let talk = async {
        let init = fuse_init_in { major: 7, minor: 45, ..Default::default() };
        send(&client, &ask(26, NodeId(0)).arg(&init), 1, 1).await;
        for batch in [1, 32] {
            send(&client, call, batch, WARM_UP).await;
            let (before, start) = (ALLOCATIONS.get(), Instant::now());
            send(&client, call, batch, COUNTED).await;
            let each = start.elapsed() / COUNTED as u32;
            // The bytes of the message and the list of those sent are the test's own.
            let allocations = ALLOCATIONS.get() - before;
            println!("{what}, {batch} at a time: {each:?} and {allocations} allocations in all");
            assert!(allocations < 16, "{what} allocates: {allocations} in {COUNTED}");
        }
        client.hang_up();
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { futures::join!(served, talk).0 }).unwrap();
}

#[test]
fn a_lookup_allocates_nothing() {
    assert_no_allocation("lookup", &ask(1, NodeId(1)).name("name"));
}

#[test]
fn a_getattr_allocates_nothing() {
    assert_no_allocation("getattr", &ask(3, NodeId(1)).arg(&fuse_getattr_in::default()));
}

#[test]
fn a_read_into_a_pooled_buffer_allocates_nothing() {
    let arg = fuse_read_in { size: 4096, ..Default::default() };
    assert_no_allocation("read of 4 KiB", &ask(15, NodeId(1)).arg(&arg).room(4096));
}

#[test]
fn a_write_allocates_nothing() {
    let arg = fuse_write_in { size: 4096, ..Default::default() };
    assert_no_allocation("write of 4 KiB", &ask(16, NodeId(1)).arg(&arg).data(&[7; 4096]));
}

#[test]
fn a_request_that_waits_allocates_nothing() {
    assert_no_allocation("statfs that waits once", &ask(17, NodeId(1)));
}
