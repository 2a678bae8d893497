//! What the server can no longer do once it serves.
//!
//! Called on the main thread before there is any other: what a thread gives up, threads that it
//! starts never have.

use std::fmt;

use anyhow::{Context, Result};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{getgroups, umask};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, capabilities_secure_bits,
    capability_is_in_bounding_set, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits, set_no_new_privs, set_thread_groups,
};

/// What serving a directory for many users takes.
const FOR_DIRECTORY: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// Each with its lock. A worker that takes a user's id keeps its capabilities, and a program that
/// this process would start gets none.
const SECURE_BITS: CapabilitiesSecureBits = CapabilitiesSecureBits::NO_ROOT
    .union(CapabilitiesSecureBits::NO_ROOT_LOCKED)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED);

/// What is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Serving {
    /// A directory, for many users.
    Directory,
    /// An image: everything is open already.
    Image,
}

/// What has to be done later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Later {
    /// Nothing but serving.
    Serve,
    /// Unmounting, which takes SYS_ADMIN. With it, attributes in `trusted.*` work too.
    Unmount,
    /// Unmounting by fusermount3, a program with more rights.
    RunUnmount,
}

/// What is permitted, and not effective: it is raised around the one call that needs it.
const RAISED: CapabilitySet = CapabilitySet::LINUX_IMMUTABLE;

/// The capabilities that it takes.
fn needed(serving: Serving, later: Later) -> CapabilitySet {
    let to_serve = match (serving, later) {
        // At a mount point, `chattr +i` is for who is root on this host. A guest's root is not.
        (Serving::Directory, Later::Unmount) => FOR_DIRECTORY.union(RAISED),
        (Serving::Directory, _) => FOR_DIRECTORY,
        (Serving::Image, _) => CapabilitySet::empty(),
    };
    match later {
        Later::Serve => to_serve,
        Later::Unmount | Later::RunUnmount => to_serve.union(CapabilitySet::SYS_ADMIN),
    }
}

/// What was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Containment {
    no_new_privs: bool,
    capabilities: CapabilitySet,
    /// Supplementary groups that are left.
    groups: usize,
}

/// Whether this process may open files by handle.
pub(crate) fn can_open_by_handle() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::DAC_READ_SEARCH))
}

/// Gives up what serving does not take, and leaves the working directory.
///
/// # Errors
/// When the kernel refuses to take something away.
pub(crate) fn apply(serving: Serving, later: Later) -> Result<Containment> {
    let needed = needed(serving, later);
    let sets = capabilities(None).context("cannot read the capabilities")?;
    let groups = give_up_groups(sets.effective).context("cannot give up the groups")?;
    if sets.effective.contains(CapabilitySet::SETPCAP) {
        bound(needed).context("cannot reduce the bounding set of capabilities")?;
        let bits = capabilities_secure_bits()? | SECURE_BITS;
        set_capabilities_secure_bits(bits).context("cannot set the secure bits")?;
    }
    let kept = sets.permitted & needed;
    let inheritable = CapabilitySet::empty();
    let effective = kept - RAISED;
    set_capabilities(None, CapabilitySets { effective, permitted: kept, inheritable })
        .context("cannot drop capabilities")?;
    // In many containers a worker may not have one of its own, and the process's is applied to what it creates.
    umask(Mode::empty());
    let no_new_privs = later != Later::RunUnmount;
    if no_new_privs {
        set_no_new_privs(true).context("cannot set no_new_privs")?;
    }
    std::env::set_current_dir("/").context("cannot leave the working directory")?;
    Ok(Containment { no_new_privs, capabilities: kept, groups })
}

/// Takes from this thread, which only tries something, what serving will not have, as far as io_uring asks for it:
/// IPC_LOCK, SYS_ADMIN.
///
/// # Errors
/// When the kernel refuses to take something away.
pub(crate) fn apply_to_probe(later: Later) -> std::io::Result<()> {
    let sets = capabilities(None)?;
    let effective = sets.effective & needed(Serving::Directory, later);
    Ok(set_capabilities(None, CapabilitySets { effective, ..sets })?)
}

/// Gives up the supplementary groups, unless the files are reached through them. Returns how many are left.
fn give_up_groups(effective: CapabilitySet) -> rustix::io::Result<usize> {
    if effective.contains(CapabilitySet::SETGID | CapabilitySet::DAC_OVERRIDE) {
        match set_thread_groups(&[]) {
            // Not in this user namespace (`/proc/self/setgroups` says `deny`).
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(getgroups()?.len())
}

/// Takes what is not needed out of the bounding set.
fn bound(needed: CapabilitySet) -> rustix::io::Result<()> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        // The kernel knows no capability from here on.
        let Ok(is_there) = capability_is_in_bounding_set(one) else { break };
        if is_there && !needed.contains(one) {
            remove_capability_from_bounding_set(one)?;
        }
    }
    Ok(())
}

impl fmt::Display for Containment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("contained by ")?;
        if self.no_new_privs {
            f.write_str("no_new_privs, ")?;
        }
        match self.capabilities.bits().count_ones() {
            0 => f.write_str("no capabilities")?,
            1 => f.write_str("1 capability")?,
            n => write!(f, "{n} capabilities")?,
        }
        if self.capabilities.contains(CapabilitySet::SYS_ADMIN) {
            f.write_str(" (sys_admin to unmount)")?;
        }
        match self.groups {
            0 => f.write_str(", no supplementary groups")?,
            1 => f.write_str("; keeps 1 supplementary group")?,
            n => write!(f, "; keeps {n} supplementary groups")?,
        }
        if !self.no_new_privs {
            f.write_str("; fusermount3 has to unmount, so no no_new_privs")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::thread::{Gid, no_new_privs};

    use super::*;

    #[test]
    fn what_is_not_needed_is_gone_for_the_thread_and_its_children() {
        // A thread of its own: the other tests keep what they have.
        for (serving, later, count) in [
            (Serving::Directory, Later::Unmount, "11 capabilities (sys"),
            (Serving::Directory, Later::Serve, "9 capabilities"),
            (Serving::Image, Later::Unmount, "1 capability (sys"),
            (Serving::Image, Later::Serve, "no capabilities"),
        ] {
            let contained = thread::spawn(move || {
                set_thread_groups(&[4242, 4243].map(Gid::from_raw)).expect("this needs root");
                let contained = apply(serving, later).expect("this needs root");
                let look = move || {
                    assert_eq!(getgroups(), Ok(Vec::new()));
                    (contained, capabilities(None).unwrap(), no_new_privs().unwrap())
                };
                thread::spawn(look).join().unwrap()
            });
            let (contained, sets, no_new_privs) = contained.join().unwrap();
            let needed = needed(serving, later);
            assert!(needed.contains(sets.permitted) && sets.inheritable.is_empty());
            assert!(!sets.effective.intersects(RAISED));
            let is_directory = serving == Serving::Directory;
            assert_eq!(sets.effective.contains(CapabilitySet::SETFCAP), is_directory);
            assert!(no_new_privs);
            let said = contained.to_string();
            assert!(said.starts_with(&format!("contained by no_new_privs, {count}")), "{said}");
            assert!(said.ends_with(", no supplementary groups"), "{said}");
        }
    }

    #[test]
    fn groups_through_which_the_files_are_reached_are_kept() {
        let kept = thread::spawn(|| {
            set_thread_groups(&[4242, 4243].map(Gid::from_raw)).expect("this needs root");
            let no_override = capabilities(None).unwrap().permitted - CapabilitySet::DAC_OVERRIDE;
            let (effective, inheritable) = (no_override, CapabilitySet::empty());
            let sets = CapabilitySets { effective, permitted: no_override, inheritable };
            set_capabilities(None, sets).unwrap();
            let contained = apply(Serving::Directory, Later::Serve).unwrap();
            (contained.to_string(), getgroups().unwrap().len())
        });
        let (said, groups) = kept.join().unwrap();
        assert_eq!(groups, 2);
        assert!(said.ends_with("8 capabilities; keeps 2 supplementary groups"), "{said}");
    }

    #[test]
    fn what_could_not_be_given_up_is_said() {
        let capabilities = CapabilitySet::empty();
        let said = Containment { no_new_privs: false, capabilities, groups: 2 }.to_string();
        assert_eq!(
            said,
            "contained by no capabilities; keeps 2 supplementary groups; fusermount3 has to unmount, so no \
             no_new_privs"
        );
    }
}
