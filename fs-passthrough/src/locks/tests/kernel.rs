//! The same locks by the table and by the kernel: the answers and what is locked must be equal.

use std::os::fd::AsFd;

use fsrv::Errno;
use proptest::prelude::*;
use rustix::fs::FlockOperation;

use super::*;
use crate::sys::lock::ofd_setlk;

/// Few enough bytes that locks meet all the time. The last is the end of the file.
const BYTES: u64 = 9;
const OWNERS: u64 = 3;

#[derive(Clone, Debug)]
enum Step {
    Set(LockRequest),
    /// FLUSH, or a RELEASE of the owner's handle.
    Flush(LockOwner),
    Release(LockOwner),
}

fn byte(at: u64) -> u64 {
    if at + 1 == BYTES { END } else { at }
}

fn owner() -> impl Strategy<Value = LockOwner> {
    (1..=OWNERS).prop_map(LockOwner)
}

fn kind() -> impl Strategy<Value = LockKind> {
    prop_oneof![Just(READ), Just(WRITE), Just(UNLOCK)]
}

fn posix_steps() -> impl Strategy<Value = Vec<Step>> {
    let set = (owner(), kind(), 0..BYTES, 0..BYTES)
        .prop_map(|(owner, kind, a, b)| posix(owner, kind, byte(a.min(b)), byte(a.max(b))));
    let step = prop_oneof![
        20 => set.prop_map(Step::Set),
        1 => owner().prop_map(Step::Flush),
        1 => owner().prop_map(Step::Release),
    ];
    prop::collection::vec(step, 1..40)
}

fn flock_steps() -> impl Strategy<Value = Vec<Step>> {
    let set = (owner(), kind()).prop_map(|(owner, kind)| flock(owner, kind));
    let step = prop_oneof![
        10 => set.prop_map(Step::Set),
        1 => owner().prop_map(Step::Flush),
        1 => owner().prop_map(Step::Release),
    ];
    prop::collection::vec(step, 1..40)
}

/// The owners as the kernel knows them: an open file each, and that of a stranger.
struct Kernel {
    fixture: Fixture,
    owners: Vec<OwnedFd>,
}

impl Kernel {
    fn new() -> Self {
        let fixture = Fixture::new();
        let owners = (0..=OWNERS).map(|_| fixture.open().unwrap()).collect();
        Self { fixture, owners }
    }

    fn of(&self, owner: LockOwner) -> &OwnedFd {
        &self.owners[usize::try_from(owner.0).unwrap()]
    }

    fn posix(&self, owner: LockOwner, lock: FileLock) -> Result<()> {
        Ok(ofd_setlk(self.of(owner).as_fd(), &lock)?)
    }

    fn flock(&self, owner: LockOwner, kind: LockKind) -> Result<()> {
        flock_on(self.of(owner), kind)
    }
}

fn flock_on(file: &OwnedFd, kind: LockKind) -> Result<()> {
    let operation = match kind {
        LockKind::Read => FlockOperation::NonBlockingLockShared,
        LockKind::Write => FlockOperation::NonBlockingLockExclusive,
        LockKind::Unlock => FlockOperation::NonBlockingUnlock,
    };
    Ok(rustix::fs::flock(file, operation).map_err(io::Error::from)?)
}

fn check_posix(steps: Vec<Step>) {
    let (kernel, fixture) = (Kernel::new(), Fixture::new());
    for step in steps {
        match step {
            Step::Set(request) => {
                let expected = kernel.posix(request.owner, request.lock);
                assert_eq!(fixture.set(request), expected, "{request:?}");
            }
            Step::Flush(owner) => {
                kernel.posix(owner, lock(UNLOCK, 0, END)).unwrap();
                fixture.flush(owner);
            }
            Step::Release(owner) => {
                kernel.posix(owner, lock(UNLOCK, 0, END)).unwrap();
                fixture.table.release_handle(NODE, Fh(owner.0));
            }
        }
        for owner in (1..=OWNERS).map(LockOwner) {
            for (at, kind) in (0..BYTES).flat_map(|at| [(at, READ), (at, WRITE)]) {
                let probe = lock(kind, byte(at), byte(at));
                let expected = ofd_getlk(kernel.of(owner).as_fd(), &probe).unwrap();
                let found = fixture.get(owner, probe).kind != UNLOCK;
                assert_eq!(found, expected.is_some(), "{owner:?} {probe:?}");
            }
        }
        for (at, kind) in (0..BYTES).flat_map(|at| [(at, READ), (at, WRITE)]) {
            let probe = lock(kind, byte(at), byte(at));
            let (found, expected) = (fixture.on_host(probe), kernel.fixture.on_host(probe));
            assert_eq!(found.is_some(), expected.is_some(), "on the host: {probe:?}");
        }
    }
    fixture.clear();
    fixture.assert_clean();
}

fn check_flock(steps: Vec<Step>) {
    let (kernel, fixture) = (Kernel::new(), Fixture::new());
    for step in steps {
        match step {
            Step::Set(request) => {
                let expected = kernel.flock(request.owner, request.lock.kind);
                assert_eq!(fixture.set(request), expected, "{request:?}");
            }
            Step::Flush(owner) => {
                kernel.flock(owner, UNLOCK).unwrap();
                fixture.table.release_flock(NODE, owner);
            }
            Step::Release(owner) => {
                kernel.flock(owner, UNLOCK).unwrap();
                fixture.table.release_handle(NODE, Fh(owner.0));
            }
        }
        for kind in [READ, WRITE] {
            let stranger = fixture.open().unwrap();
            let expected = kernel.flock(LockOwner(0), kind);
            assert_eq!(flock_on(&stranger, kind), expected, "on the host: {kind:?}");
            kernel.flock(LockOwner(0), UNLOCK).unwrap();
            flock_on(&stranger, UNLOCK).unwrap();
        }
    }
    fixture.clear();
    flock_on(&fixture.open().unwrap(), WRITE).unwrap();
    fixture.assert_clean();
}

proptest! {
    #[test]
    fn posix_locks_are_as_the_kernel_has_them(steps in posix_steps()) {
        check_posix(steps);
    }

    #[test]
    fn flocks_are_as_the_kernel_has_them(steps in flock_steps()) {
        check_flock(steps);
    }
}

#[test]
fn a_lock_that_ends_before_it_begins_is_invalid() {
    let file = Fixture::new().open().unwrap();
    for lock in [lock(READ, 5, 4), lock(READ, END + 1, END + 1), lock(READ, 0, u64::MAX)] {
        let result = ofd_setlk(file.as_fd(), &lock).map_err(Errno::from);
        assert_eq!(result, Err(Errno::EINVAL));
    }
}
