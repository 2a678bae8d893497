//! Ordinary users.

use std::thread;

use rustix::fs::Mode;
use rustix::process::umask;
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::sys;

/// Who does something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: &'static [u32],
    pub(crate) umask: u32,
}

pub(crate) const ROOT: User = User { uid: 0, gid: 0, groups: &[], umask: 0o022 };
pub(crate) const NOBODY: User = User { uid: 65_534, gid: 65_534, groups: &[], umask: 0o022 };

/// A group that only supplementary members have.
pub(crate) const STAFF: u32 = 4242;
pub(crate) const MEMBER: User = User { uid: 4001, gid: 4001, groups: &[STAFF], umask: 0o022 };

impl User {
    /// Runs `action` as this user, on a thread of its own with ids, groups and umask of its own.
    pub(crate) fn does<T: Send>(self, action: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let acting = scope.spawn(|| {
                self.enter().expect("these tests run as root");
                action()
            });
            acting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn enter(self) -> rustix::io::Result<()> {
        sys::own_umask()?;
        umask(Mode::from_raw_mode(self.umask));
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)
    }
}
