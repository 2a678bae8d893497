//! Waiting for other owners.

use std::cell::RefCell;

use fsrv::Errno;

use super::*;

/// Runs a request that has to wait, then `end`, and returns the request's result.
async fn waits_until(
    fixture: &Fixture,
    request: LockRequest,
    end: impl FnOnce(&Fixture),
) -> Result<()> {
    let (cx, _) = Context::for_testing(1);
    let mut wait = pin!(fixture.setlk(&cx, &request));
    assert!(poll(wait.as_mut()).is_pending());
    end(fixture);
    soon(wait).await
}

#[tokio::test]
async fn an_unlock_ends_a_wait() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    let unlock = |f: &Fixture| f.set(posix(A, UNLOCK, 5, 9)).unwrap();
    waits_until(&fixture, posix(B, WRITE, 5, 20), unlock).await.unwrap();
    assert_eq!(fixture.get(C, lock(READ, 5, 20)).pid, 2);
}

#[tokio::test]
async fn a_downgrade_ends_the_wait_of_a_reader() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    let downgrade = |f: &Fixture| f.set(posix(A, READ, 0, 9)).unwrap();
    waits_until(&fixture, posix(B, READ, 0, 9), downgrade).await.unwrap();
}

#[tokio::test]
async fn a_flush_and_a_release_end_a_wait() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    waits_until(&fixture, posix(B, WRITE, 0, 9), |f| f.flush(A)).await.unwrap();
    let release = |f: &Fixture| f.table.release_handle(NODE, Fh(B.0));
    waits_until(&fixture, posix(C, WRITE, 0, 9), release).await.unwrap();
    fixture.set(flock(A, WRITE)).unwrap();
    let release = |f: &Fixture| f.table.release_flock(NODE, A);
    waits_until(&fixture, flock(B, READ), release).await.unwrap();
    let release = |f: &Fixture| f.table.release_handle(NODE, Fh(B.0));
    waits_until(&fixture, flock(C, WRITE), release).await.unwrap();
}

#[tokio::test]
async fn an_interrupt_ends_a_wait_and_leaves_nothing_behind() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    let (cx, interrupt) = Context::for_testing(1);
    let request = posix(B, READ, 0, 9);
    let mut wait = pin!(fixture.setlk(&cx, &request));
    assert!(poll(wait.as_mut()).is_pending());
    assert_eq!(fixture.table.count(), 2);
    interrupt();
    assert_eq!(soon(wait).await, Err(Errno::EINTR));
    assert_eq!(fixture.table.count(), 1);
    fixture.flush(A);
    fixture.assert_clean();
}

#[tokio::test]
async fn an_upgrade_that_is_interrupted_leaves_the_lock_as_it_was() {
    let fixture = Fixture::new();
    fixture.set(posix(A, READ, 0, 9)).unwrap();
    fixture.set(posix(B, READ, 0, 9)).unwrap();
    let (cx, interrupt) = Context::for_testing(1);
    let request = posix(B, WRITE, 0, 9);
    let mut wait = pin!(fixture.setlk(&cx, &request));
    assert!(poll(wait.as_mut()).is_pending());
    interrupt();
    assert_eq!(soon(wait).await, Err(Errno::EINTR));
    fixture.flush(A);
    assert_eq!(fixture.get(A, lock(WRITE, 0, END)), FileLock { pid: 2, ..lock(READ, 0, 9) });
}

#[tokio::test]
async fn the_one_woken_hands_on_when_it_is_interrupted() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    let (first, interrupt) = Context::for_testing(1);
    let (second, _) = Context::for_testing(2);
    let requests = [posix(B, WRITE, 0, 9), posix(C, WRITE, 0, 9)];
    let mut first = pin!(fixture.setlk(&first, &requests[0]));
    let mut second = pin!(fixture.setlk(&second, &requests[1]));
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    fixture.flush(A);
    assert!(poll(second.as_mut()).is_pending(), "only the first is woken");
    interrupt();
    assert_eq!(soon(first).await, Err(Errno::EINTR));
    soon(second).await.unwrap();
}

#[tokio::test]
async fn a_wait_that_is_dropped_leaves_nothing_behind() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    let (cx, _) = Context::for_testing(1);
    let request = posix(B, WRITE, 0, 9);
    {
        let mut wait = pin!(fixture.setlk(&cx, &request));
        assert!(poll(wait.as_mut()).is_pending());
    }
    fixture.flush(A);
    fixture.assert_clean();
}

#[tokio::test]
async fn the_end_of_the_client_ends_waits_and_locks() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    fixture.set(flock(A, WRITE)).unwrap();
    for request in [posix(B, WRITE, 0, 9), flock(B, WRITE)] {
        let result = waits_until(&fixture, request, |f| {
            f.clear();
            f.set(posix(A, WRITE, 0, 9)).unwrap();
            f.set(flock(A, WRITE)).unwrap();
        });
        assert_eq!(result.await, Err(Errno::EINTR));
    }
    fixture.clear();
    fixture.assert_clean();
}

#[tokio::test]
async fn writers_go_in_the_order_in_which_they_came() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    let order = RefCell::new(Vec::new());
    let writer = async |owner| {
        let (cx, _) = Context::for_testing(1);
        let request = posix(owner, WRITE, 0, 9);
        fixture.setlk(&cx, &request).await.unwrap();
        order.borrow_mut().push(owner);
        tokio::task::yield_now().await;
        fixture.flush(owner);
    };
    soon(async { tokio::join!(writer(C), writer(B), writer(D), async { fixture.flush(A) }) }).await;
    assert_eq!(*order.borrow(), [C, B, D]);
    fixture.assert_clean();
}

#[tokio::test]
async fn readers_go_together() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    let barrier = tokio::sync::Barrier::new(3);
    let reader = async |owner| {
        let (cx, _) = Context::for_testing(1);
        let request = posix(owner, READ, 0, 9);
        fixture.setlk(&cx, &request).await.unwrap();
        barrier.wait().await;
    };
    soon(async { tokio::join!(reader(B), reader(C), reader(D), async { fixture.flush(A) }) }).await;
}

#[tokio::test]
async fn a_circle_over_two_files_is_a_deadlock() {
    let fixture = Fixture::new();
    let other = Fixture::new();
    let elsewhere = |owner| LockRequest { nodeid: NodeId(8), ..posix(owner, WRITE, 0, 0) };
    let (cx, _) = Context::for_testing(1);
    let open_other = other.opener();
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    now(fixture.table.setlk(&cx, &elsewhere(B), Host::Local, open_other.clone())).unwrap();
    let request = elsewhere(A);
    let mut wait = pin!(fixture.table.setlk(&cx, &request, Host::Local, open_other));
    assert!(poll(wait.as_mut()).is_pending());

    let (cx, _) = Context::for_testing(2);
    let request = posix(B, READ, 3, 3);
    assert_eq!(now(fixture.setlk(&cx, &request)), Err(Errno::EDEADLK));
    fixture.table.release_posix(NodeId(8), B);
    soon(wait).await.unwrap();
    fixture.clear();
    fixture.assert_clean();
}

#[tokio::test]
async fn two_readers_who_both_want_to_write_are_a_deadlock() {
    let fixture = Fixture::new();
    fixture.set(posix(A, READ, 0, 9)).unwrap();
    fixture.set(posix(B, READ, 0, 9)).unwrap();
    waits_until(&fixture, posix(A, WRITE, 0, 9), |f| {
        let (cx, _) = Context::for_testing(2);
        let request = posix(B, WRITE, 0, 9);
        assert_eq!(now(f.setlk(&cx, &request)), Err(Errno::EDEADLK));
        f.flush(B);
    })
    .await
    .unwrap();
}

/// B waits for A. C, a thread of which already waits for B, takes what B waits for as well: now B and
/// C wait for each other, although neither has asked since.
#[tokio::test]
async fn a_circle_that_a_grant_closes_is_a_deadlock() {
    let fixture = Fixture::new();
    fixture.set(posix(A, READ, 0, 0)).unwrap();
    fixture.set(posix(B, WRITE, 5, 5)).unwrap();
    let (cx_b, _) = Context::for_testing(1);
    let (cx_c, _) = Context::for_testing(2);
    let requests = [posix(B, WRITE, 0, 0), posix(C, WRITE, 5, 5)];
    let mut b = pin!(fixture.setlk(&cx_b, &requests[0]));
    let mut c = pin!(fixture.setlk(&cx_c, &requests[1]));
    assert!(poll(b.as_mut()).is_pending());
    assert!(poll(c.as_mut()).is_pending());
    fixture.set(posix(C, READ, 0, 0)).unwrap();
    assert_eq!(soon(b).await, Err(Errno::EDEADLK));
    fixture.flush(B);
    soon(c).await.unwrap();
}

#[tokio::test]
async fn one_who_was_told_to_go_on_is_no_part_of_a_circle() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 5, 5)).unwrap();
    fixture.set(posix(B, WRITE, 20, 20)).unwrap();
    let (cx_a, _) = Context::for_testing(1);
    let (cx_b, _) = Context::for_testing(2);
    let requests = [posix(A, WRITE, 20, 20), posix(B, WRITE, 5, 5)];
    let mut b = pin!(fixture.setlk(&cx_b, &requests[1]));
    assert!(poll(b.as_mut()).is_pending());
    fixture.set(posix(A, UNLOCK, 5, 5)).unwrap();
    let mut a = pin!(fixture.setlk(&cx_a, &requests[0]));
    assert!(poll(a.as_mut()).is_pending());
    soon(b).await.unwrap();
    fixture.flush(B);
    soon(a).await.unwrap();
}

#[tokio::test]
async fn two_readers_who_both_convert_a_flock_do_not_wait_for_each_other() {
    let fixture = Fixture::new();
    fixture.set(flock(A, READ)).unwrap();
    fixture.set(flock(B, READ)).unwrap();
    waits_until(&fixture, flock(A, WRITE), |f| {
        f.set(flock(B, WRITE)).unwrap();
        f.table.release_flock(NODE, B);
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn too_many_waiters_are_enolck() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    let (cx, _) = Context::for_testing(1);
    let _parked: Vec<_> = std::iter::from_fn(|| cx.park().ok()).collect();
    let request = posix(B, WRITE, 0, 9);
    assert_eq!(now(fixture.setlk(&cx, &request)), Err(Errno::ENOLCK));
    assert_eq!(fixture.table.count(), 1);
}
