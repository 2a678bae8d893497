//! Runs the loops of a session by hand, one turn at a time, and only when they were woken.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use fsrv::{Session, serve};
use fsrv_transport::testing::{MemClient, MemTransport};

use crate::{scripted::Scripted, seed::Seed};

/// More turns than any seed needs to come to rest.
const TURNS_MAX: usize = 20_000;

/// One call of [`serve`].
struct Server {
    future: Pin<Box<dyn Future<Output = io::Result<()>>>>,
    woken: Arc<Woken>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The servers that have not ended.
#[derive(Default)]
pub(crate) struct Servers(Vec<Server>);

impl Servers {
    pub(crate) fn start(&mut self, transport: MemTransport, session: Arc<Session<Scripted>>) {
        let serving = async move { serve(transport, &session).await };
        self.0.push(Server {
            // The test takes the turns, not Tokio.
            future: Box::pin(tokio::task::unconstrained(serving)),
            woken: Arc::new(Woken(AtomicBool::new(true))),
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Gives one server, of the seed's choice, a turn if it was woken.
    pub(crate) fn turn(&mut self, seed: &mut Seed) {
        if !self.0.is_empty() {
            let index = seed.below(self.0.len());
            self.poll(index);
        }
    }

    /// Gives turns until no server wants one.
    pub(crate) async fn run_to_rest(&mut self, seed: &mut Seed, fs: &Scripted) {
        for _ in 0..TURNS_MAX {
            let woken = |server: &Server| server.woken.0.load(Ordering::SeqCst);
            let ready: Vec<usize> =
                (0..self.0.len()).filter(|&index| woken(&self.0[index])).collect();
            match seed.pick(&ready) {
                Some(&index) => self.poll(index),
                None if self.waits_for_pool(fs) => {
                    tokio::time::sleep(std::time::Duration::from_micros(100)).await;
                }
                None => return,
            }
        }
        panic!("the servers never come to rest");
    }

    fn waits_for_pool(&self, fs: &Scripted) -> bool {
        fs.state().waiting.values().any(|&wait| wait == crate::scripted::Wait::Pool)
    }

    fn poll(&mut self, index: usize) {
        let Server { future, woken } = &mut self.0[index];
        if !woken.0.swap(false, Ordering::SeqCst) {
            return;
        }
        let waker = Waker::from(woken.clone());
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            // The test makes a transport fail with this error and no other.
            let expected = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
            assert!(result.as_ref().err().is_none_or(expected), "{result:?}");
            drop(self.0.swap_remove(index));
        }
    }
}

/// One queue of the client, and how many may be in flight on all its transports.
pub(crate) struct Queue {
    pub(crate) client: MemClient,
    pub(crate) depth: usize,
    pub(crate) depth_of_one: usize,
    pub(crate) is_open: bool,
}
