//! Fewer wake-ups while there is a backlog, by the rule of network cards that moderate their interrupts (`rx-usecs` of ethtool(8)).
//!
//! PostgreSQL sends rows 8 KB at a time, RabbitMQ messages as they come, and to be woken for each costs a thread more than what it
//! then does. While full batches are on their way, nobody waits for a single answer: a thread that has nothing to do sleeps before
//! it listens again, and finds all that has come meanwhile. It sleeps for a part of what the rows of a batch take: the slower they come,
//! as where other workers share the database, the less often it is woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// A thread sleeps for one part in so many of the time that a batch's rows took.
const PART: u32 = 20;
/// Enough for several sends of PostgreSQL.
const SLEEP_MIN: Duration = Duration::from_millis(1);
/// However slow the database is: a worker still notices its other work soon.
const SLEEP_MAX: Duration = Duration::from_millis(10);
/// Rows that take less come in so few pieces that there is nothing to gain, and soon enough to be missed.
const BYTES_MIN: usize = 64 << 10;

/// The full batches that a worker has on their way.
#[derive(Debug, Default, Clone)]
pub struct Backlog(Arc<Counts>);

/// Only hints: nothing else is read by them.
#[derive(Debug, Default)]
struct Counts {
    full_batches: AtomicUsize,
    /// Microseconds that the rows of a batch took last.
    rows_us: AtomicU64,
}

/// A full batch on its way, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct FullBatch(Arc<Counts>);

impl Backlog {
    /// Counts a full batch of about so many bytes, unless these are few.
    pub fn full_batch(&self, bytes: usize) -> Option<FullBatch> {
        (bytes >= BYTES_MIN).then(|| {
            self.0.full_batches.fetch_add(1, Ordering::Relaxed);
            FullBatch(self.0.clone())
        })
    }

    /// The rows of a batch took so long.
    pub fn rows_took(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.rows_us.store(us, Ordering::Relaxed);
    }

    /// For a thread of the runtime that has nothing to do (`on_thread_park` of tokio). Blocks it for a moment while there is a backlog.
    pub fn moderate(&self) {
        if let Some(sleep) = self.sleep() {
            std::thread::sleep(sleep);
        }
    }

    /// How long to sleep, while there is a backlog.
    fn sleep(&self) -> Option<Duration> {
        let rows = Duration::from_micros(self.0.rows_us.load(Ordering::Relaxed));
        (self.0.full_batches.load(Ordering::Relaxed) > 0).then(|| (rows / PART).clamp(SLEEP_MIN, SLEEP_MAX))
    }
}

impl Drop for FullBatch {
    fn drop(&mut self) {
        self.0.full_batches.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_backlog_until_the_last_full_batch_is_done() {
        let backlog = Backlog::default();
        assert_eq!(backlog.sleep(), None);
        assert!(backlog.full_batch(BYTES_MIN - 1).is_none());
        let batches = [backlog.full_batch(BYTES_MIN), backlog.full_batch(BYTES_MIN)];
        for batch in batches {
            assert_eq!(backlog.sleep(), Some(SLEEP_MIN));
            drop(batch);
        }
        assert_eq!(backlog.sleep(), None);
    }

    #[test]
    fn the_longer_the_rows_take_the_longer_is_the_sleep() {
        let backlog = Backlog::default();
        let _batch = backlog.full_batch(BYTES_MIN);
        for (rows_ms, sleep_ms) in [(5, 1), (60, 3), (200, 10), (60_000, 10)] {
            backlog.rows_took(Duration::from_millis(rows_ms));
            assert_eq!(backlog.sleep(), Some(Duration::from_millis(sleep_ms)), "{rows_ms} ms");
        }
    }
}
