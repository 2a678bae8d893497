//! Locks without waiting.

use fsrv::Errno;

use super::*;

#[test]
fn a_write_lock_keeps_others_out_and_a_read_lock_only_writers() {
    let fixture = Fixture::new();
    fixture.set(posix(A, READ, 0, 9)).unwrap();
    fixture.set(posix(B, READ, 5, 14)).unwrap();
    assert_eq!(fixture.set(posix(B, WRITE, 5, 14)), Err(Errno::EAGAIN));
    fixture.set(posix(B, WRITE, 10, 14)).unwrap();
    assert_eq!(fixture.set(posix(A, READ, 14, END)), Err(Errno::EAGAIN));
    fixture.flush(A);
    fixture.flush(B);
    fixture.assert_clean();
}

#[test]
fn an_upgrade_that_fails_leaves_the_lock_as_it_was() {
    let fixture = Fixture::new();
    fixture.set(posix(A, READ, 0, 9)).unwrap();
    fixture.set(posix(B, READ, 0, 9)).unwrap();
    assert_eq!(fixture.set(posix(A, WRITE, 0, 9)), Err(Errno::EAGAIN));
    fixture.flush(B);
    let found = fixture.get(C, lock(WRITE, 0, END));
    assert_eq!(found, FileLock { start: 0, end: 9, kind: READ, pid: 1 });
    assert!(fixture.is_locked_on_host());
}

#[test]
fn getlk_tells_which_lock_is_in_the_way_and_whose() {
    let fixture = Fixture::new();
    fixture.set(posix(B, READ, 20, END)).unwrap();
    fixture.set(posix(A, WRITE, 5, 9)).unwrap();
    let found = fixture.get(C, lock(WRITE, 0, END));
    assert_eq!(found, FileLock { start: 5, end: 9, kind: WRITE, pid: 1 });
    let found = fixture.get(C, lock(WRITE, 10, END));
    assert_eq!(found, FileLock { start: 20, end: END, kind: READ, pid: 2 });
    assert_eq!(fixture.get(C, lock(READ, 10, END)).kind, UNLOCK);
    assert_eq!(fixture.get(A, lock(WRITE, 0, 19)).kind, UNLOCK);
    assert_eq!(fixture.table.count(), 2);
}

#[test]
fn getlk_of_an_unlock_finds_the_own_lock() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 5, 9)).unwrap();
    assert_eq!(fixture.get(A, lock(UNLOCK, 0, END)).kind, WRITE);
    assert_eq!(fixture.get(B, lock(UNLOCK, 0, END)).kind, UNLOCK);
}

#[test]
fn getlk_leaves_nothing_behind() {
    let fixture = Fixture::new();
    assert_eq!(fixture.get(A, lock(WRITE, 0, END)).kind, UNLOCK);
    fixture.assert_clean();
}

#[test]
fn the_last_unlock_leaves_nothing_behind() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    fixture.set(posix(A, UNLOCK, 2, 3)).unwrap();
    assert_eq!(fixture.table.count(), 2);
    fixture.set(posix(A, UNLOCK, 0, END)).unwrap();
    fixture.assert_clean();
}

#[test]
fn an_unlock_of_nothing_opens_no_file() {
    let fixture = Fixture::new();
    let (cx, _) = Context::for_testing(1);
    for request in [posix(A, UNLOCK, 0, END), flock(A, UNLOCK)] {
        let open = || -> io::Result<OwnedFd> { panic!("opened") };
        now(fixture.table.setlk(&cx, &request, Host::Local, open)).unwrap();
    }
    fixture.assert_clean();
}

#[test]
fn a_flush_ends_the_locks_of_its_owner_only() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    fixture.set(posix(B, WRITE, 10, 19)).unwrap();
    fixture.set(flock(A, WRITE)).unwrap();
    fixture.flush(A);
    assert_eq!(fixture.table.count(), 2);
    fixture.set(posix(C, WRITE, 0, 9)).unwrap();
    assert_eq!(fixture.set(posix(C, WRITE, 10, 19)), Err(Errno::EAGAIN));
    assert_eq!(fixture.set(flock(C, READ)), Err(Errno::EAGAIN));
}

#[test]
fn the_release_of_a_handle_ends_what_was_locked_by_it() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 0, 9)).unwrap();
    fixture.set(flock(A, WRITE)).unwrap();
    fixture.set(posix(B, WRITE, 10, 19)).unwrap();
    fixture.table.release_handle(NODE, Fh(A.0));
    assert_eq!(fixture.table.count(), 1);
    fixture.table.release_handle(NODE, Fh(B.0));
    fixture.assert_clean();
}

#[test]
fn an_owner_is_known_by_the_process_and_the_handle_that_locked_last() {
    let fixture = Fixture::new();
    let first = posix(A, WRITE, 0, 9);
    fixture.set(first).unwrap();
    let lock_of_9 = FileLock { pid: 9, ..first.lock };
    fixture.set(LockRequest { fh: Fh(9), lock: lock_of_9, ..first }).unwrap();
    fixture.set(LockRequest { lock: lock(UNLOCK, 0, 1), ..first }).unwrap();
    assert_eq!(fixture.get(B, first.lock).pid, 9);
    fixture.table.release_handle(NODE, first.fh);
    assert_eq!(fixture.table.count(), 1);
    fixture.table.release_handle(NODE, Fh(9));
    fixture.assert_clean();
}

#[test]
fn posix_locks_and_flocks_do_not_see_each_other() {
    let fixture = Fixture::new();
    fixture.set(posix(A, WRITE, 0, END)).unwrap();
    fixture.set(flock(B, WRITE)).unwrap();
    assert_eq!(fixture.set(flock(A, READ)), Err(Errno::EAGAIN));
    fixture.table.release_flock(NODE, B);
    fixture.set(flock(A, READ)).unwrap();
}

#[test]
fn a_conversion_of_a_flock_that_fails_gives_it_up() {
    let fixture = Fixture::new();
    fixture.set(flock(A, READ)).unwrap();
    fixture.set(flock(B, READ)).unwrap();
    assert_eq!(fixture.set(flock(A, WRITE)), Err(Errno::EAGAIN));
    fixture.set(flock(B, WRITE)).unwrap();
}

#[test]
fn too_many_locks_are_enolck_until_some_are_dropped() {
    let fixture = Fixture::with_table(LockTable::with_limit(3));
    for at in [0, 10, 20] {
        fixture.set(posix(A, WRITE, at, at)).unwrap();
    }
    assert_eq!(fixture.set(posix(A, WRITE, 30, 30)), Err(Errno::ENOLCK));
    assert_eq!(fixture.set(posix(B, WRITE, 30, 30)), Err(Errno::ENOLCK));
    assert_eq!(fixture.set(flock(A, WRITE)), Err(Errno::ENOLCK));
    // It joins two ranges.
    fixture.set(posix(A, WRITE, 0, 15)).unwrap();
    fixture.set(flock(A, WRITE)).unwrap();
    assert_eq!(fixture.set(posix(A, UNLOCK, 5, 5)), Err(Errno::ENOLCK));
    assert_eq!(fixture.table.count(), 3);
    fixture.clear();
    fixture.assert_clean();
}

#[test]
fn a_file_that_cannot_be_opened_gives_its_error() {
    let fixture = Fixture::new();
    let (cx, _) = Context::for_testing(1);
    let request = posix(A, WRITE, 0, END);
    let open = || Err::<OwnedFd, _>(io::Error::from_raw_os_error(libc::EMFILE));
    assert_eq!(now(fixture.table.setlk(&cx, &request, Host::Local, open)), Err(Errno::ENFILE));
    fixture.assert_clean();
}

#[test]
fn a_write_lock_by_a_descriptor_for_reading_is_ebadf_and_not_held() {
    let fixture = Fixture::new();
    let (cx, _) = Context::for_testing(1);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = fixture.file.path().to_owned();
    let open =
        move || -> io::Result<OwnedFd> { Ok(rustix::fs::open(&path, flags, Mode::empty())?) };
    let request = posix(A, WRITE, 0, END);
    assert_eq!(
        now(fixture.table.setlk(&cx, &request, Host::Local, open.clone())),
        Err(Errno::EBADF)
    );
    fixture.assert_clean();
    let request = posix(A, READ, 0, END);
    now(fixture.table.setlk(&cx, &request, Host::Local, open.clone())).unwrap();
    now(fixture.table.setlk(&cx, &flock(A, WRITE), Host::Local, open)).unwrap();
}
