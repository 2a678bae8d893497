//! Reads and writes of a raw image that is in the page cache allocate nothing: a loop device over the export writes back
//! memory that may be needed for the allocation.
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fs,
    sync::Arc,
};

use fsrv::{Limits, NodeId, Session, abi::*, serve, testing::*};
use fsrv_blockimage::{BlockImage, Config, Disk, Format, Options, Owner, Place};
use fsrv_transport::testing::MemClient;

const WARM_UP: usize = 1_000;
const COUNTED: usize = 20_000;

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

async fn disk(dir: &std::path::Path) -> Arc<Disk> {
    let path = dir.join("raw");
    fs::write(&path, [1; 1 << 20]).unwrap();
    let options = Options {
        path,
        format: Some(Format::Raw),
        writable: true,
        direct: false,
        allow_backing: Vec::new(),
    };
    Arc::new(Disk::open(&options).await.unwrap())
}

fn assert_no_allocation(what: &str, call: &Call) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let owner = Owner::new(0, 0, true);
    let config = Config { place: Place::Root, growable: false, allow_other: false, owner };
    let image = BlockImage::new(runtime.block_on(disk(dir.path())), config);
    let (client, session) = (MemClient::new(), Session::new(image, Limits::default()));
    let served = serve(client.transport(64), &session);
    let talk = async {
        let init = fuse_init_in { major: 7, minor: 45, ..Default::default() };
        send(&client, &ask(26, NodeId(0)).arg(&init), 1, 1).await;
        for batch in [1, 32] {
            send(&client, call, batch, WARM_UP).await;
            let before = ALLOCATIONS.get();
            send(&client, call, batch, COUNTED).await;
            // The bytes of the message and the list of those sent are the test's own. When the machine is busy, a call that
            // took long sends a few others to the pool of threads, and they allocate.
            let allocations = ALLOCATIONS.get() - before;
            assert!(allocations < COUNTED / 20, "{what} allocates: {allocations} in {COUNTED}");
        }
        client.hang_up();
    };
    runtime.block_on(async { futures::join!(served, talk).0 }).unwrap();
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

#[test]
fn a_read_allocates_nothing() {
    let arg = fuse_read_in { size: 4096, offset: 8192, ..Default::default() };
    assert_no_allocation("read", &ask(15, NodeId(1)).arg(&arg).room(4096));
}

#[test]
fn a_write_allocates_nothing() {
    let arg = fuse_write_in { size: 4096, offset: 8192, ..Default::default() };
    assert_no_allocation("write", &ask(16, NodeId(1)).arg(&arg).data(&[7; 4096]));
}
