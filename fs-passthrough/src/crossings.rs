//! Which names are mount points, and of which mounts.

use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    sync::{Arc, Mutex, Weak},
};

use fsrv::NodeId;

use crate::{mount::Mount, mutex::lock};

/// The most mount points remembered. One that is not is found again.
const MAX: usize = 1024;

/// Mount points that were met. What is remembered is only what is likely there: it decides which threads look.
#[derive(Default)]
pub(crate) struct Crossings(Mutex<HashMap<(NodeId, CString), Weak<Mount>>>);

impl Crossings {
    pub(crate) fn get(&self, dir: NodeId, name: &CStr) -> Option<Arc<Mount>> {
        lock(&self.0).get(&(dir, name.to_owned())).and_then(Weak::upgrade)
    }

    pub(crate) fn insert(&self, dir: NodeId, name: &CStr, mount: &Arc<Mount>) {
        let mut known = lock(&self.0);
        if known.len() == MAX {
            known.clear();
        }
        known.insert((dir, name.to_owned()), Arc::downgrade(mount));
    }

    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }
}
