//! Requests that wait for a client, and what is counted meanwhile.

use std::{sync::Mutex, task::Waker};

use fsrv::{
    Context, Errno, FileSystem, Limits, NodeId, Result, Session, abi::*, op::*, serve, testing::*,
    types::*,
};
use fsrv_transport::{io::Cost, testing::MemClient};

/// One lock, and requests that wait for it.
#[derive(Default)]
struct OneLock(Mutex<(bool, Vec<Waker>)>);

impl FileSystem for OneLock {
    async fn setlk(&self, cx: &Context, op: SetLk) -> Result<()> {
        if op.lock.kind == LockKind::Unlock {
            let mut lock = self.0.lock().unwrap();
            lock.0 = false;
            lock.1.drain(..).for_each(Waker::wake);
            return Ok(());
        }
        let mut parked = None;
        std::future::poll_fn(|task| {
            let mut lock = self.0.lock().unwrap();
            if !std::mem::replace(&mut lock.0, true) {
                return std::task::Poll::Ready(Ok(()));
            }
            if parked.is_none() {
                match cx.park() {
                    Ok(ticket) => parked = Some(ticket),
                    Err(errno) => return std::task::Poll::Ready(Err(errno)),
                }
            }
            lock.1.push(task.waker().clone());
            std::task::Poll::Pending
        })
        .await
    }

    async fn flush(&self, _: &Context, _: Flush) -> Result<()> {
        let cost = std::sync::Arc::new(Cost::quick());
        Ok(fsrv_transport::io::run(&cost, || ()).await?)
    }
}

fn setlk(r#type: u32) -> Call {
    let lk = fuse_file_lock { start: 0, end: 9, r#type, pid: 1 };
    ask(if r#type == 2 { 32 } else { 33 }, NodeId(1)).arg(&fuse_lk_in { lk, ..Default::default() })
}

fn run(depth: usize, test: impl AsyncFnOnce(&TestClient, &Session<OneLock>)) {
    let (client, session) =
        (TestClient::new(), Session::new(OneLock::default(), Limits::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let served = serve(client.transport(depth), &session);
    let test = async {
        client.init().await.unwrap();
        test(&client, &session).await;
        client.stop();
    };
    runtime.block_on(async { futures::join!(served, test).0 }).unwrap();
}

#[test]
fn an_unlock_is_received_behind_more_waiters_than_the_transport_is_deep() {
    run(2, async |client, session| {
        client.request(setlk(1)).await.unwrap();
        let waiters: Vec<_> = (0..50).map(|_| client.send(setlk(1))).collect();
        for waiter in waiters {
            client.request(setlk(2)).await.unwrap();
            waiter.reply().await.unwrap();
        }
        assert_eq!(session.stats().in_flight, 0);
    });
}

#[test]
fn a_waiter_too_many_has_no_lock() {
    run(2, async |client, _| {
        client.request(setlk(1)).await.unwrap();
        let waiters: Vec<_> = (0..1024).map(|_| client.send(setlk(1))).collect();
        assert_eq!(client.request(setlk(1)).await.unwrap_err(), Errno::ENOLCK);
        for waiter in waiters {
            client.request(setlk(2)).await.unwrap();
            waiter.reply().await.unwrap();
        }
    });
}

#[test]
fn two_transports_on_one_thread_count_their_file_operations_once() {
    let session = Session::new(OneLock::default(), Limits::default());
    let clients = [MemClient::new(), MemClient::new()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let [first, second] = clients.each_ref().map(|client| serve(client.transport(2), &session));
    let test = async {
        let init = fuse_init_in { major: 7, minor: 45, ..Default::default() };
        clients[0].send(&ask(26, NodeId(0)).arg(&init).bytes(2), 0).await;
        for client in &clients {
            let flush = ask(25, NodeId(1)).arg(&fuse_flush_in::default());
            client.send(&flush.bytes(4), 0).await;
        }
        assert_eq!(session.stats().inline, 2);
        clients.iter().for_each(MemClient::hang_up);
    };
    let (first, second, ()) = runtime.block_on(async { futures::join!(first, second, test) });
    first.and(second).unwrap();
    assert_eq!(session.stats().inline, 2);
}
