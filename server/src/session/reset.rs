//! How one client ends and the next one begins: by INIT and DESTROY, which are a barrier over all
//! workers of the session.

use std::sync::atomic::Ordering;

use fsrv_transport::{Completion, mem::page_size};
use tokio::sync::{Mutex, Notify};

use super::{Local, Request, Session, caught, lock, parse};
use crate::{
    abi::*,
    errno::{Errno, Result},
    fs::FileSystem,
    init::{self, Init},
    notify::Client,
    op::{Answer, Encode, Opcode},
};

/// What ends and begins wait for.
#[derive(Default)]
pub(super) struct Reset {
    one_at_a_time: Mutex<()>,
    /// A request ended while the client does.
    request_ended: Notify,
}

impl<F: FileSystem> Session<F> {
    /// Does INIT or DESTROY.
    pub(super) async fn reset<C: Completion>(&self, local: &Local, request: Request<C>) {
        let _alone = self.reset.one_at_a_time.lock().await;
        let reply = if request.opcode == Opcode::Init {
            self.init(local, &request.args).await
        } else {
            self.end_client().await;
            Ok(().encode())
        };
        local.reuse_args(request.args);
        let _nothing_granted = request.completion.answer(reply);
    }

    async fn init(&self, local: &Local, args: &[u8]) -> Result<Answer> {
        let head: fuse_init_in_head = parse(args).ok_or(Errno::EINVAL)?;
        match head.major {
            FUSE_KERNEL_VERSION => {}
            newer if newer > FUSE_KERNEL_VERSION => return Ok(init::our_version().encode()),
            _ => return Err(Errno::EPROTO),
        }
        let flags2 = parse::<fuse_init_in>(args).map_or(0, |full| full.flags2);
        let client = local.notifier.clone().map(Client::new);
        let mut init = Init::new(head, flags2, self.limits, client)?;
        self.end_client().await;
        self.early.clear();
        caught("init", || self.fs.init(&mut init)).ok_or(Errno::EIO)?;
        self.setxattr_compat.store(!init.wants(FUSE_SETXATTR_EXT), Ordering::Relaxed);
        self.begun.store(true, Ordering::SeqCst);
        if let Some(on_begin) = &self.on_begin {
            // Who only wants to know of a client does not end it.
            caught("init", || on_begin(&init));
        }
        let minor = init.minor();
        tracing::debug!(minor, "a client began");
        // A kernel has our pages; a guest says nothing of its own.
        Ok(init.reply(page_size()).encode())
    }

    /// Ends the client, when there is one, after its last request: what a request is granted later
    /// would belong to nobody.
    async fn end_client(&self) {
        if !self.begun.swap(false, Ordering::SeqCst) {
            return;
        }
        for worker in lock(&self.workers).iter() {
            lock(&worker.flights).iter().for_each(|flight| flight.interrupt_current());
        }
        loop {
            let ended = self.reset.request_ended.notified();
            if lock(&self.workers).iter().all(|worker| worker.in_flight.load(Ordering::SeqCst) == 0)
            {
                break;
            }
            ended.await;
        }
        self.destroy();
    }

    /// Counts a request as in flight as long as the result lives.
    pub(super) fn enter_flight<'s>(&'s self, local: &'s Local) -> impl Drop + use<'s, F> {
        struct InFlight<'s, F: FileSystem>(&'s Session<F>, &'s Local);
        impl<F: FileSystem> Drop for InFlight<'_, F> {
            fn drop(&mut self) {
                self.1.shared.in_flight.fetch_sub(1, Ordering::SeqCst);
                if !self.0.begun.load(Ordering::SeqCst) {
                    self.0.reset.request_ended.notify_waiters();
                }
            }
        }
        local.shared.in_flight.fetch_add(1, Ordering::SeqCst);
        InFlight(self, local)
    }
}
