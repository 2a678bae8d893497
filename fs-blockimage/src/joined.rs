//! Work that one does for all who wait for it.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::sync::Mutex;

/// Work that serves everybody who asked before it began: those who come while it runs wait, and one of them does it
/// for all of them.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    /// How often it was begun.
    begun: AtomicU64,
    /// Held by who does it: the number of the last one that succeeded.
    done: Mutex<u64>,
}

impl Joined {
    /// # Errors
    /// Those of `work`, to who did it; the others do it again.
    pub(crate) async fn join(&self, work: impl AsyncFnOnce() -> io::Result<()>) -> io::Result<()> {
        let before = self.begun.load(Ordering::Acquire);
        let mut done = self.done.lock().await;
        if *done > before {
            return Ok(());
        }
        let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        work().await?;
        *done = number;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::future::join_all;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn one_works_for_all_who_came_before_it_began() {
        run(async {
            let (joined, count) = (Joined::default(), Cell::new(0));
            let work = async || {
                count.set(count.get() + 1);
                tokio::task::yield_now().await;
                Ok(())
            };
            // The first is alone; all others come while it runs.
            let results = join_all((0..16).map(|_| joined.join(work))).await;
            assert!(results.iter().all(Result::is_ok));
            assert_eq!(count.get(), 2);
            joined.join(work).await.unwrap();
            assert_eq!(count.get(), 3);
        });
    }

    #[test]
    fn an_error_is_nobody_elses_success() {
        run(async {
            let joined = Joined::default();
            let fails = async || {
                tokio::task::yield_now().await;
                Err(io::Error::other("it fails"))
            };
            let results = join_all((0..4).map(|_| joined.join(fails))).await;
            assert!(results.iter().all(Result::is_err));
        });
    }
}
