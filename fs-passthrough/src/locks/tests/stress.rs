//! Many threads on few bytes.

use std::sync::atomic::{AtomicU64, Ordering};

use fsrv::Errno;

use super::*;

const THREADS: u64 = 4;
const ROUNDS: u64 = 400;

/// A thread's rounds: takes a lock, finds itself alone, drops it. Every few rounds it loses patience
/// and interrupts itself. Returns how often it had the lock.
async fn rounds(fixture: &Fixture, inside: &AtomicU64, owner: LockOwner, style: Style) -> u64 {
    let mut granted = 0;
    for round in 0..ROUNDS {
        let request = match style {
            Style::Posix => posix(owner, WRITE, round % 3, 10 + owner.0),
            Style::Flock => flock(owner, WRITE),
        };
        let (cx, interrupt) = Context::for_testing(round + 1);
        let impatience = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(if round % 7 == 0 { 1 } else { 60_000 }))
                .await;
            interrupt();
        });
        match fixture.setlk(&cx, &request).await {
            Ok(()) => {
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "not alone");
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                granted += 1;
                match (style, round % 2) {
                    (Style::Flock, _) => fixture.table.release_flock(NODE, owner),
                    (Style::Posix, 0) => fixture.flush(owner),
                    (Style::Posix, _) => fixture.set(posix(owner, UNLOCK, 0, END)).unwrap(),
                }
            }
            Err(error) => assert_eq!(error, Errno::EINTR),
        }
        impatience.abort();
    }
    granted
}

fn run(style: Style) {
    let fixture = Fixture::new();
    let inside = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for owner in (1..=THREADS).map(LockOwner) {
            let (fixture, inside) = (&fixture, &inside);
            scope.spawn(move || {
                let mut builder = tokio::runtime::Builder::new_current_thread();
                let runtime = builder.enable_time().build().unwrap();
                let all = rounds(fixture, inside, owner, style);
                let granted = runtime.block_on(soon(all));
                assert!(granted >= ROUNDS / 2, "{granted}");
            });
        }
    });
    fixture.assert_clean();
}

#[test]
fn threads_exclude_each_other_by_posix_locks() {
    run(Style::Posix);
}

#[test]
fn threads_exclude_each_other_by_flock() {
    run(Style::Flock);
}
