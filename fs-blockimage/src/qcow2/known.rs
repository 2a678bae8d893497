//! What the file has where metadata was written last.
//!
//! A commit writes the sectors that have changed. Those that it wrote before it has at hand, and need not read them back.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Bytes of metadata that are kept, at the most: 16 of the largest clusters.
const KEPT_MAX: usize = 32 << 20;

/// Clusters of metadata as the file has them. Those are known that were written last.
#[derive(Debug, Default)]
pub(super) struct Known {
    clusters: BTreeMap<u64, Arc<Vec<u8>>>,
    /// Some may be known no more.
    order: VecDeque<u64>,
}

impl Known {
    pub(super) fn get(&self, at: u64) -> Option<Arc<Vec<u8>>> {
        self.clusters.get(&at).cloned()
    }

    /// The file has this at `at`.
    pub(super) fn insert(&mut self, at: u64, cluster: Arc<Vec<u8>>) {
        let most = (KEPT_MAX / cluster.len().max(1)).max(1);
        if self.clusters.insert(at, cluster).is_none() {
            self.order.push_back(at);
        }
        while self.order.len() > most {
            let first = self.order.pop_front();
            first.and_then(|first| self.clusters.remove(&first));
        }
    }

    /// What is at `at` is not metadata any more, or not known.
    pub(super) fn remove(&mut self, at: u64) {
        if self.clusters.remove(&at).is_some() {
            self.order.retain(|&other| other != at);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_known() {
        let mut known = Known::default();
        let cluster = |byte: u8| Arc::new(vec![byte; 2 << 20]);
        for number in 0..20 {
            known.insert(number, cluster(number as u8));
        }
        assert_eq!((known.get(3), known.get(19).unwrap()[0]), (None, 19));
        known.insert(19, cluster(7));
        assert_eq!(known.get(19).unwrap()[0], 7);
        known.remove(19);
        known.remove(3);
        assert_eq!(known.get(19), None);
        known.clear();
        assert_eq!(known.get(18), None);
    }
}
