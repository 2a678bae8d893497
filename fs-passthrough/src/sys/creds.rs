//! Whose rights a system call has.
//!
//! Permission is decided by the client's kernel. The caller's ids are set only while creating, so
//! that what is created is theirs; capabilities stay, because a request does not carry all groups.

use std::io;

use rustix::{
    fs::Mode,
    io::Errno,
    process::{Gid, Uid, umask},
    thread::{
        CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities,
        capabilities_secure_bits, set_capabilities, set_capabilities_secure_bits,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

/// Who creates something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The group of the parent directory when the caller is in it.
    pub(crate) group: Option<u32>,
}

impl Caller {
    pub(crate) fn of(cx: &fsrv::Context) -> Self {
        Self { uid: cx.uid, gid: cx.gid, group: cx.group }
    }

    /// Whether a thread of the server takes other ids to act for it.
    pub(crate) fn is_another(self) -> bool {
        SERVER.with(|server| server.acts_as_another(self))
    }

    /// Whether a file that is made with sgid in a directory with sgid, and whose group may execute it, keeps sgid. The
    /// group is `gid`, that of the directory. Root is taken to have CAP_FSETID.
    pub(crate) fn may_make_sgid(self, gid: u32) -> bool {
        self.uid == 0 || self.gid == gid || self.group == Some(gid)
    }
}

/// Prepares a worker's thread: what its pool threads inherit must be set before the first of them.
///
/// - A change of ids leaves the capabilities as they are (SECBIT_NO_SETUID_FIXUP).
/// - CAP_FSETID is not effective, so that the kernel drops suid and sgid on writes.
/// - CAP_SYS_RESOURCE is not effective: with it, all callers would get what a filesystem keeps for root, and more than their
///   quota.
/// - A thread that may act for others and needs no group for access has no supplementary ones: with them, a caller
///   would make files with sgid of a group that is the server's. Where they cannot be given up
///   (`/proc/self/setgroups` says `deny`), `Caller::may_make_sgid` is what is left.
///
/// # Errors
/// What the kernel answered.
pub fn prepare_worker() -> io::Result<()> {
    let sets = capabilities(None)?;
    if !can_change_ids(&sets) {
        return Ok(());
    }
    let bits = capabilities_secure_bits()?;
    if !bits.contains(CapabilitiesSecureBits::NO_SETUID_FIXUP) {
        set_capabilities_secure_bits(bits | CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    }
    if sets.effective.contains(CapabilitySet::DAC_OVERRIDE) {
        let _ = set_thread_groups(&[]);
    }
    let effective = sets.effective - (CapabilitySet::FSETID | CapabilitySet::SYS_RESOURCE);
    Ok(set_capabilities(None, CapabilitySets { effective, ..sets })?)
}

/// Runs `create` with the ids of `caller` and, where this thread has a umask of its own, with `mask`
/// as that. `create` gets the bits that it must leave out itself.
///
/// The ids never outlive the call, and it cannot wait: no guard is handed out.
///
/// # Errors
/// EINVAL for ids that do not exist; those of `create`.
pub(crate) fn with_credentials<T>(
    caller: Caller,
    mask: u32,
    create: impl FnOnce(u32) -> io::Result<T>,
) -> io::Result<T> {
    let _umask;
    let left = if fsrv_transport::io::owns_umask() {
        _umask = Umask::set(mask);
        0
    } else {
        mask
    };
    SERVER.with(|server| {
        if !server.acts_as_another(caller) {
            return create(left);
        }
        let _ids = Ids::set(server, caller)?;
        create(left)
    })
}

/// Whether this thread may act for others than the user that it runs as.
pub(crate) fn acts_for_others() -> bool {
    SERVER.with(|server| server.changes_ids)
}

/// Runs `change` with CAP_FSETID, where the server has it: suid and sgid stay.
pub(crate) fn keeping_suid<T>(change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    raising(CapabilitySet::FSETID, change)
}

/// Runs `change` with one capability more, where the server may have it.
pub(crate) fn raising<T>(
    capability: CapabilitySet,
    change: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let Ok(sets) = capabilities(None) else { return change() };
    if !sets.permitted.contains(capability) || sets.effective.contains(capability) {
        return change();
    }
    let effective = sets.effective | capability;
    set_capabilities(None, CapabilitySets { effective, ..sets })?;
    let _back = OnDrop(move || {
        if set_capabilities(None, sets).is_err() {
            std::process::abort();
        }
    });
    change()
}

/// What a thread of the server is when it acts for nobody.
struct Server {
    uid: u32,
    gid: u32,
    groups: Vec<Gid>,
    /// Whether it may act for others. An ordinary user's server serves that user.
    changes_ids: bool,
}

impl Server {
    fn acts_as_another(&self, caller: Caller) -> bool {
        self.changes_ids && (caller.uid, caller.gid) != (self.uid, self.gid)
    }
}

thread_local! {
    static SERVER: Server = Server {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: rustix::process::getgroups().unwrap_or_default(),
        changes_ids: capabilities(None).is_ok_and(|sets| can_change_ids(&sets)),
    };
}

fn can_change_ids(sets: &CapabilitySets) -> bool {
    sets.effective.contains(CapabilitySet::SETUID | CapabilitySet::SETGID)
}

/// The server's own ids come back when this drops. If they do not, the process must not go on.
struct Ids<'s> {
    server: &'s Server,
    groups_changed: bool,
}

impl<'s> Ids<'s> {
    fn set(server: &'s Server, caller: Caller) -> io::Result<Self> {
        if [Some(caller.uid), Some(caller.gid), caller.group].contains(&Some(u32::MAX)) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // From here on, dropping it restores whatever was changed.
        let mut ids = Self { server, groups_changed: false };
        let group = caller.group.filter(|&group| group != caller.gid).map(Gid::from_raw);
        if group.is_some() || !server.groups.is_empty() {
            ids.groups_changed = true;
            match set_thread_groups(group.as_slice()) {
                // Nobody's groups can be changed here.
                Err(Errno::PERM) => ids.groups_changed = false,
                done => done?,
            }
        }
        set_thread_res_gid(None, Gid::from_raw(caller.gid), None)?;
        set_thread_res_uid(None, Uid::from_raw(caller.uid), None)?;
        Ok(ids)
    }
}

impl Drop for Ids<'_> {
    fn drop(&mut self) {
        let server = self.server;
        let back = set_thread_res_uid(None, Uid::from_raw(server.uid), None)
            .and_then(|()| set_thread_res_gid(None, Gid::from_raw(server.gid), None))
            .and_then(|()| match self.groups_changed {
                true => set_thread_groups(&server.groups),
                false => Ok(()),
            });
        if back.is_err() {
            std::process::abort();
        }
    }
}

/// The umask of this thread, 0 again when this drops.
struct Umask(bool);

impl Umask {
    fn set(mask: u32) -> Self {
        let changed = mask != 0;
        if changed {
            umask(Mode::from_raw_mode(mask));
        }
        Self(changed)
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        if self.0 {
            umask(Mode::empty());
        }
    }
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::process::getgroups;

    use super::*;

    #[test]
    fn a_worker_gives_up_groups_of_its_own_thread_alone() {
        let embedding = thread::spawn(|| {
            let groups = [4242, 4243].map(Gid::from_raw);
            set_thread_groups(&groups).expect("this needs root");
            let worker = thread::spawn(|| {
                prepare_worker().unwrap();
                let effective = capabilities(None).unwrap().effective;
                assert!(!effective.intersects(CapabilitySet::FSETID | CapabilitySet::SYS_RESOURCE));
                thread::spawn(getgroups).join().unwrap()
            });
            (worker.join().unwrap(), getgroups())
        });
        let (worker, embedding) = embedding.join().unwrap();
        assert_eq!(worker, Ok(Vec::new()), "threads of the pool are started by a worker");
        assert_eq!(embedding.unwrap().len(), 2);
    }

    #[test]
    fn who_acts_for_a_caller_is_in_no_other_group() {
        let acting = thread::spawn(|| {
            set_thread_groups(&[0, 4242].map(Gid::from_raw)).expect("this needs root");
            let callers = [None, Some(7), Some(1000)]
                .map(|group| Caller { uid: 1000, gid: 1000, group })
                .map(|caller| with_credentials(caller, 0, |_| Ok(getgroups()?)).unwrap());
            (callers, getgroups().unwrap().len())
        });
        let (groups, left) = acting.join().unwrap();
        assert_eq!(groups, [vec![], vec![Gid::from_raw(7)], vec![]]);
        assert_eq!(left, 2);
    }
}
