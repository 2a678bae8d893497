//! A filesystem that panics: its caller gets EIO, and everybody else goes on.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use fsrv::{
    Attributes, Context, Entry, Errno, Fh, FileSystem, Init, Limits, NodeId, Result, Session,
    abi::*, layer::ReadOnly, op::*, serve, testing::*, types::*,
};
use fsrv_transport::testing::Outcome;

/// Panics in what it is told to.
#[derive(Default)]
struct Panics {
    init: bool,
    destroyed: AtomicU64,
    forgotten: AtomicU64,
    released: AtomicU64,
    poisoned: Mutex<()>,
}

impl FileSystem for Panics {
    fn init(&self, _: &mut Init) {
        assert!(!self.init, "at the beginning");
    }

    fn destroy(&self) {
        self.destroyed.fetch_add(1, Ordering::SeqCst);
        panic!("at the end");
    }

    fn forget(&self, _: NodeId, nlookup: u64) {
        self.forgotten.fetch_add(nlookup, Ordering::SeqCst);
        panic!("while it forgets");
    }

    async fn lookup(&self, _: &Context, _: Lookup<'_>) -> Result<Entry> {
        Ok(Entry { nodeid: NodeId(2), ..Entry::negative(Duration::ZERO) })
    }

    /// At once.
    async fn getattr(&self, _: &Context, _: GetAttr) -> Result<Attributes> {
        let _held = self.poisoned.lock().unwrap();
        panic!("with a mutex in its hands");
    }

    /// After it has waited.
    async fn statfs(&self, cx: &Context, _: GetStatFs) -> Result<StatFs> {
        let _parked = cx.park()?;
        let mut waited = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        std::panic::panic_any(Bomb);
    }

    /// When its future goes.
    fn open(&self, _: &Context, _: Open) -> impl Future<Output = Result<Opened>> {
        let bomb = Bomb;
        async move {
            let _bomb = bomb;
            Ok(Opened { fh: Fh(7), flags: 0 })
        }
    }

    async fn create(&self, _: &Context, _: Create<'_>) -> Result<Created> {
        let entry = Entry { nodeid: NodeId(3), ..Entry::negative(Duration::ZERO) };
        Ok(Created { entry, opened: Opened { fh: Fh(8), flags: 0 } })
    }

    async fn release(&self, _: &Context, _: Release) -> Result<()> {
        self.released.fetch_add(1, Ordering::SeqCst);
        panic!("while it takes back");
    }

    async fn access(&self, cx: &Context, _: Access) -> Result<()> {
        cx.interrupted().await;
        Err(Errno::EINTR)
    }
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("when it goes");
    }
}

fn with<F: FileSystem>(session: &Session<F>, test: impl AsyncFnOnce(&TestClient)) {
    let client = TestClient::new();
    let served = serve(client.transport(1), session);
    let talk = async {
        test(&client).await;
        client.hang_up();
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { futures::join!(served, talk).0 }).unwrap();
    assert_eq!(client.violations(), [""; 0]);
    assert_eq!(session.in_flight(), []);
    assert_eq!(session.stats().in_flight, 0);
}

fn session() -> Session<Panics> {
    Session::new(Panics::default(), Limits::default())
}

fn getattr() -> Call {
    ask(3, NodeId(1)).arg(&fuse_getattr_in::default())
}

#[test]
fn a_method_that_panics_is_answered_eio_and_the_next_request_as_ever() {
    let session = session();
    with(&session, async |client| {
        client.init().await.unwrap();
        for _ in 0..3 {
            let open = ask(14, NodeId(1)).arg(&fuse_open_in::default());
            for call in [getattr(), ask(17, NodeId(1)), open] {
                assert_eq!(client.request(call).await.unwrap_err(), Errno::EIO);
            }
            client.lookup(NodeId::ROOT, "name").await.unwrap();
        }
    });
}

#[test]
fn a_layer_passes_on_that_what_is_below_panics() {
    let session = Session::new(ReadOnly(Boxed(Box::new(Panics::default()))), Limits::default());
    with(&session, async |client| {
        client.init().await.unwrap();
        assert_eq!(client.request(getattr()).await.unwrap_err(), Errno::EIO);
        client.lookup(NodeId::ROOT, "name").await.unwrap();
    });
}

#[test]
fn a_forget_that_panics_does_not_keep_the_others_of_its_batch() {
    let session = session();
    with(&session, async |client| {
        client.init().await.unwrap();
        let one = |nodeid, nlookup| fuse_forget_one { nodeid, nlookup };
        let batch = ask(42, NodeId(0)).arg(&fuse_batch_forget_in { count: 2, dummy: 0 });
        let batch = batch.arg(&one(2, 1)).arg(&one(3, 2));
        assert_eq!(client.send(batch).exchange.await, Outcome::Discarded);
        let forget = ask(2, NodeId(2)).arg(&fuse_forget_in { nlookup: 4 });
        assert_eq!(client.send(forget).exchange.await, Outcome::Discarded);
        client.lookup(NodeId::ROOT, "name").await.unwrap();
    });
    assert_eq!(session.fs().forgotten.load(Ordering::SeqCst), 7);
}

#[test]
fn what_a_reply_granted_that_was_not_taken_is_taken_back_through_panics() {
    let session = session();
    with(&session, async |client| {
        client.init().await.unwrap();
        let create = ask(35, NodeId(1)).arg(&fuse_create_in::default()).name("new");
        for call in [ask(1, NodeId(1)).name("name"), create] {
            let asked = client.send(call);
            asked.exchange.abandon();
            assert!(matches!(asked.exchange.await, Outcome::Refused(_)));
        }
        client.lookup(NodeId::ROOT, "name").await.unwrap();
    });
    let fs = session.fs();
    assert_eq!(fs.forgotten.load(Ordering::SeqCst), 2);
    assert_eq!(fs.released.load(Ordering::SeqCst), 1);
}

#[test]
fn a_client_whose_end_panics_has_ended_and_another_one_begins() {
    let session = session();
    with(&session, async |client| {
        client.init().await.unwrap();
        client.request(ask(38, NodeId(0))).await.unwrap();
        let early = client.request(ask(1, NodeId(1)).name("name")).await;
        assert_eq!(early.unwrap_err(), Errno::EIO, "nothing before INIT");
        client.init().await.unwrap();
        client.lookup(NodeId::ROOT, "name").await.unwrap();
    });
    assert_eq!(session.fs().destroyed.load(Ordering::SeqCst), 2);
}

#[test]
fn a_client_does_not_begin_when_init_panics() {
    let session = Session::new(Panics { init: true, ..Panics::default() }, Limits::default());
    with(&session, async |client| {
        assert_eq!(client.init().await.unwrap_err(), Errno::EIO);
        assert_eq!(client.request(ask(1, NodeId(1)).name("name")).await.unwrap_err(), Errno::EIO);
    });
    assert_eq!(session.fs().destroyed.load(Ordering::SeqCst), 0);
}

#[test]
fn a_client_begins_although_who_is_told_of_it_panics() {
    let session = session().on_begin(|_| panic!("in the embedder's hook"));
    with(&session, async |client| {
        client.init().await.unwrap();
        client.lookup(NodeId::ROOT, "name").await.unwrap();
    });
}

#[test]
fn requests_of_a_server_that_is_dropped_are_answered_eio() {
    let session = Arc::new(session());
    let client = TestClient::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let (theirs, transport) = (session.clone(), client.transport(2));
        let server = tokio::task::spawn_local(async move { serve(transport, &*theirs).await });
        client.init().await.unwrap();
        let waits = client.send(ask(34, NodeId(1)).arg(&fuse_access_in::default()));
        while session.in_flight().is_empty() {
            tokio::task::yield_now().await;
        }
        server.abort();
        assert_eq!(waits.reply().await.unwrap_err(), Errno::EIO);
    });
    assert_eq!(client.violations(), [""; 0]);
    assert_eq!(session.in_flight(), []);
    assert_eq!(session.stats().in_flight, 0);
    assert_eq!(session.fs().destroyed.load(Ordering::SeqCst), 1, "its last worker is gone");
}
