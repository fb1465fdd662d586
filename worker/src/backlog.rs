//! Fewer wake-ups while there is a backlog, by the rule of network cards that moderate their interrupts (`rx-usecs` of ethtool(8)).
//!
//! PostgreSQL sends rows 8 KB at a time, RabbitMQ messages as they come, and to be woken for each costs a thread more than what it
//! then does. While full batches are on their way, nobody waits for a single answer: a thread that has nothing to do sleeps before
//! it listens again, and finds all that has come meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a thread sleeps: little beside the 20 ms and more that a full batch takes, and enough for several sends of PostgreSQL.
const SLEEP: Duration = Duration::from_millis(1);
/// Rows that take less come in so few pieces that there is nothing to gain, and soon enough to be missed.
const BYTES_MIN: usize = 64 << 10;

/// The full batches that a worker has on their way.
#[derive(Debug, Default, Clone)]
pub struct Backlog(Arc<AtomicUsize>);

/// A full batch on its way, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct FullBatch(Arc<AtomicUsize>);

impl Backlog {
    /// Counts a full batch of about so many bytes, unless these are few.
    pub fn full_batch(&self, bytes: usize) -> Option<FullBatch> {
        (bytes >= BYTES_MIN).then(|| {
            // Only a hint: nothing else is read by it.
            self.0.fetch_add(1, Ordering::Relaxed);
            FullBatch(self.0.clone())
        })
    }

    /// Whether there is one.
    fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// For a thread of the runtime that has nothing to do (`on_thread_park` of tokio). Blocks it for a moment while there is a backlog.
    pub fn moderate(&self) {
        if self.is_there() {
            std::thread::sleep(SLEEP);
        }
    }
}

impl Drop for FullBatch {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_backlog_until_the_last_full_batch_is_done() {
        let backlog = Backlog::default();
        assert!(!backlog.is_there());
        assert!(backlog.full_batch(BYTES_MIN - 1).is_none());
        let batches = [backlog.full_batch(BYTES_MIN), backlog.full_batch(BYTES_MIN)];
        for batch in batches {
            assert!(backlog.is_there());
            drop(batch);
        }
        assert!(!backlog.is_there());
    }
}
