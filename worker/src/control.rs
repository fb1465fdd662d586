//! What operators ask of all workers: pausing and resuming jobs.

use std::collections::BTreeSet;

use tokio::sync::watch;

/// The jobs that operators have paused. Written by the poller of the state index, read by the
/// jobs' runners.
#[derive(Debug, Clone)]
pub struct Controls {
    paused: watch::Sender<BTreeSet<String>>,
}

impl Default for Controls {
    fn default() -> Self {
        Self { paused: watch::Sender::new(BTreeSet::new()) }
    }
}

impl Controls {
    /// Replaces the set of paused jobs.
    pub fn set(&self, paused: BTreeSet<String>) {
        self.paused.send_if_modified(|present| {
            let changed = *present != paused;
            *present = paused;
            changed
        });
    }

    /// Whether `job` is paused.
    pub fn is_paused(&self, job: &str) -> bool {
        self.paused.borrow().contains(job)
    }

    /// Waits until `job` is paused.
    pub async fn paused(&self, job: &str) {
        self.wait(|paused| paused.contains(job)).await;
    }

    /// Waits until `job` is not paused.
    pub async fn resumed(&self, job: &str) {
        self.wait(|paused| !paused.contains(job)).await;
    }

    async fn wait(&self, condition: impl Fn(&BTreeSet<String>) -> bool) {
        let mut paused = self.paused.subscribe();
        // The sender lives in self, so the wait can't fail.
        let _closed = paused.wait_for(|paused| condition(paused)).await.is_err();
    }
}
