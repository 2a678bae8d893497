//! A device that sends back what it gets, when it is told to.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{LocalSet, spawn_local},
};

use super::super::Device;
use crate::{
    transport::{Completion, Config, Message, Transport},
    virtqueue::{Prepared, QueueCompletion},
};

/// Precedes what is sent back.
pub(super) const HEADER: [u8; 16] = [0xee; 16];

pub(super) const QUEUES: u16 = 4;

/// Begins a message that is answered when the device is told to.
pub(super) const HELD: u8 = b'h';

/// Begins a message that is answered then, or when its queue stops.
pub(super) const PARKED: u8 = b'p';

pub(super) struct Echo {
    queues: mpsc::UnboundedSender<Prepared>,
    pub(super) release: watch::Sender<bool>,
    pub(super) resets: AtomicU32,
    pub(super) starts: Mutex<Vec<u16>>,
    /// It drops what it is to serve, as one whose worker has ended.
    pub(super) is_dead: AtomicBool,
    in_flight: Arc<AtomicU64>,
}

impl Echo {
    pub(super) fn new() -> Arc<Self> {
        let (queues, new) = mpsc::unbounded_channel();
        let (release, held) = watch::channel(false);
        let in_flight = Arc::<AtomicU64>::default();
        let worker = Worker { held, in_flight: in_flight.clone() };
        thread::spawn(move || worker.run(new));
        Arc::new(Self {
            queues,
            release,
            resets: AtomicU32::new(0),
            starts: Mutex::default(),
            is_dead: AtomicBool::new(false),
            in_flight,
        })
    }

    /// Waits until `count` messages are in flight.
    pub(super) fn wait_for_in_flight(&self, count: u64) {
        super::client::eventually(|| self.in_flight.load(Ordering::SeqCst) == count);
    }
}

impl Device for Echo {
    fn config_space(&self) -> Vec<u8> {
        (1..=40).collect()
    }

    fn queues_max(&self) -> u16 {
        QUEUES
    }

    fn protocol(&self) -> Config {
        Config { header_split: 80, reply_header: HEADER.len(), max_data: 1 << 20, depth: 1 }
    }

    fn poll(&self, _: u16) -> Duration {
        Duration::ZERO
    }

    fn serve(&self, index: u16, queue: Prepared) {
        self.starts.lock().unwrap().push(index);
        if self.is_dead.load(Ordering::SeqCst) {
            return;
        }
        self.queues.send(queue).unwrap_or_else(|_| panic!("the worker has ended"));
    }

    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }

    fn in_flight(&self) -> Vec<String> {
        vec![format!("{} messages", self.in_flight.load(Ordering::SeqCst))]
    }
}

#[derive(Clone)]
struct Worker {
    held: watch::Receiver<bool>,
    in_flight: Arc<AtomicU64>,
}

impl Worker {
    fn run(self, mut new: mpsc::UnboundedReceiver<Prepared>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = LocalSet::new();
        local.block_on(&runtime, async move {
            while let Some(queue) = new.recv().await {
                spawn_local(self.clone().serve(queue));
            }
        });
    }

    async fn serve(self, queue: Prepared) {
        let mut queue = queue.activate().unwrap();
        let (stopping, stopped) = watch::channel(false);
        let (done, mut answered) = mpsc::unbounded_channel();
        let taken = Rc::new(RefCell::new(0));
        loop {
            let message = tokio::select! {
                message = queue.recv() => message.unwrap(),
                Some(()) = answered.recv() => {
                    *taken.borrow_mut() -= 1;
                    queue.flush();
                    continue;
                }
            };
            let Some(message) = message else { break };
            *taken.borrow_mut() += 1;
            self.in_flight.fetch_add(1, Ordering::SeqCst);
            let (worker, stopped, done) = (self.clone(), stopped.clone(), done.clone());
            spawn_local(async move {
                worker.answer(message, stopped).await;
                done.send(()).unwrap();
            });
        }
        stopping.send(true).unwrap();
        for _ in 0..taken.take() {
            answered.recv().await;
        }
        queue.flush();
    }

    async fn answer(mut self, message: Message<QueueCompletion>, stopped: watch::Receiver<bool>) {
        let bytes = message.input.to_vec();
        match bytes.first() {
            Some(&HELD) => self.released().await,
            Some(&PARKED) => tokio::select! {
                () = self.released() => {}
                () = is_true(stopped) => {}
            },
            _ => {}
        }
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        // A chain without room is the client's fault.
        let _ = message.completion.reply(&HEADER, &bytes, None);
    }

    async fn released(&mut self) {
        is_true(self.held.clone()).await;
    }
}

async fn is_true(mut value: watch::Receiver<bool>) {
    // A sender that is gone says nothing any more.
    if value.wait_for(|&value| value).await.is_err() {
        std::future::pending().await
    }
}
