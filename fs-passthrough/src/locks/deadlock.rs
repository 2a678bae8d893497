//! Who waits for whom.

use std::collections::{HashMap, HashSet};

use fsrv::types::LockOwner;

use super::WaitId;

/// The most owners noted for one wait: a circle through a further one is not found, and its waits end
/// by a signal. Many waits for many holders would else fill our memory.
const HOLDERS_MAX: usize = 64;

/// The owners that wait for POSIX locks of others, over all inodes.
#[derive(Default)]
pub(super) struct WaitGraph {
    /// An owner's waits: threads of one process wait side by side.
    waits: HashMap<LockOwner, Vec<Wait>>,
}

struct Wait {
    id: WaitId,
    holders: Vec<LockOwner>,
}

impl WaitGraph {
    /// Notes that wait `id` of `owner` is for `holders`, and tells whether one of those waits, by
    /// however many steps, for `owner`: then none of them would ever go on.
    ///
    /// Like Linux this takes an owner that waits for one that does nothing else, although another
    /// thread of it might unlock.
    pub(super) fn wait(
        &mut self,
        id: WaitId,
        owner: LockOwner,
        mut holders: Vec<LockOwner>,
    ) -> bool {
        holders.truncate(HOLDERS_MAX);
        holders.shrink_to_fit();
        let waits = self.waits.entry(owner).or_default();
        match waits.iter_mut().find(|wait| wait.id == id) {
            Some(wait) => wait.holders = holders,
            None => waits.push(Wait { id, holders }),
        }
        self.leads_back(id, owner)
    }

    /// Wait `id` of `owner` is over.
    pub(super) fn end(&mut self, id: WaitId, owner: LockOwner) {
        let Some(waits) = self.waits.get_mut(&owner) else { return };
        waits.retain(|wait| wait.id != id);
        if waits.is_empty() {
            self.waits.remove(&owner);
        }
    }

    /// The owners that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> impl Iterator<Item = LockOwner> {
        self.waits.keys().copied()
    }

    fn leads_back(&self, id: WaitId, owner: LockOwner) -> bool {
        let waits_of = |owner| self.waits.get(&owner).into_iter().flatten();
        let mut seen = HashSet::new();
        let mut open: Vec<LockOwner> = waits_of(owner)
            .filter(|wait| wait.id == id)
            .flat_map(|wait| wait.holders.iter().copied())
            .collect();
        while let Some(holder) = open.pop() {
            if holder == owner {
                return true;
            }
            if seen.insert(holder) {
                open.extend(waits_of(holder).flat_map(|wait| wait.holders.iter().copied()));
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LockOwner = LockOwner(1);
    const B: LockOwner = LockOwner(2);
    const C: LockOwner = LockOwner(3);

    #[test]
    fn a_circle_is_found_by_the_one_who_closes_it() {
        let mut graph = WaitGraph::default();
        assert!(!graph.wait(WaitId(1), A, vec![B]));
        assert!(!graph.wait(WaitId(2), B, vec![C]));
        assert!(graph.wait(WaitId(3), C, vec![A]));
        graph.end(WaitId(2), B);
        graph.end(WaitId(3), C);
        assert!(!graph.wait(WaitId(4), C, vec![A]));
    }

    #[test]
    fn two_ways_to_one_holder_are_no_circle() {
        let mut graph = WaitGraph::default();
        assert!(!graph.wait(WaitId(1), A, vec![C]));
        assert!(!graph.wait(WaitId(2), B, vec![A, C]));
    }

    #[test]
    fn nothing_stays_when_all_waits_end() {
        let mut graph = WaitGraph::default();
        graph.wait(WaitId(1), A, vec![B]);
        graph.wait(WaitId(2), A, vec![C]);
        graph.end(WaitId(1), A);
        graph.end(WaitId(2), A);
        assert_eq!(graph.waiting().count(), 0);
    }
}
