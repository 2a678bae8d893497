//! The one loop.

use std::{io, rc::Rc, time::Duration};

use fsrv_transport::{Transport, io::Parker};
use tokio::time::{Instant, sleep_until};

use crate::{
    fs::FileSystem,
    session::{Local, Session},
    slots::Slots,
};

/// After so many requests the loop lets the runtime breathe: a loop that always has one ready would
/// never submit what others wait for.
const BUDGET: u32 = 64;

/// How long a worker keeps idle buffers.
const IDLE: Duration = Duration::from_secs(2);

/// Serves one transport until its client is gone, then lets what is in flight finish.
///
/// Several transports of one session are served by as many calls, each on its own worker: they share
/// the filesystem and the client.
///
/// # Errors
/// When the transport fails.
///
/// # Cancel safety
/// Not cancel safe: requests in flight are answered EIO when this is dropped, whatever comes of them.
pub async fn serve<T: Transport, F: FileSystem>(
    mut transport: T,
    session: &Session<F>,
) -> io::Result<()> {
    let local = session.enter(transport.notifier(), transport.depth(), transport.waiters());
    run(&mut transport, session, &local).await
}

async fn run<T: Transport, F: FileSystem>(
    transport: &mut T,
    session: &Session<F>,
    local: &Rc<Local>,
) -> io::Result<()> {
    let parker = Parker::new()?;
    let depth = transport.depth();
    let mut slots = Slots::new();
    let mut budget = BUDGET;
    let mut trim_at: Option<Instant> = None;
    let mut ended = None;
    loop {
        slots.run_woken();
        transport.flush();
        if slots.len() == 0
            && let Some(result) = ended
        {
            return result;
        }
        if budget == 0 || parker.is_due() {
            budget = BUDGET;
            parker.breathe().await?;
        }
        let is_full = slots.len() - local.parking.parked().min(slots.len()) >= depth;
        tokio::select! {
            biased;
            message = transport.recv(), if !is_full && ended.is_none() => match message {
                Ok(Some(message)) => {
                    budget -= 1;
                    trim_at.get_or_insert_with(|| Instant::now() + IDLE);
                    if let Some(request) = session.accept(local, message) {
                        let flight = local.flight(slots.next_place());
                        slots.start(session.run(local.clone(), flight, request));
                    }
                }
                end => {
                    // Nobody will unlock, or wait for, anything any more.
                    local.close();
                    ended = Some(end.map(drop));
                }
            },
            () = slots.woken() => budget = budget.saturating_sub(1),
            () = sleep_until(trim_at.unwrap_or_else(Instant::now)), if trim_at.is_some() => {
                trim_at = transport.trim().then(|| Instant::now() + IDLE);
            }
        }
    }
}
