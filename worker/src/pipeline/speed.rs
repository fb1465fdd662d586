//! What a job has learned of its speed: a database that is slow, for a while or with this query, is asked for less at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How fast a job's rows are read.
#[derive(Debug)]
pub struct Speed {
    /// What a batch's read may take, in microseconds.
    read_us_max: usize,
    /// The moving mean of what a row takes, in microseconds, where reads take long.
    row_us: AtomicUsize,
    /// What messages taken ahead are divided by.
    ahead_divisor: AtomicUsize,
}

impl Speed {
    /// That of a job about which nothing is known. What takes longer than `limit` is cancelled, or too old to be sent.
    pub fn new(limit: Duration) -> Self {
        Self {
            // Rows differ, and a turn of the suspects, which has a few seconds, is to get something done.
            read_us_max: us(limit / 10),
            row_us: AtomicUsize::new(0),
            ahead_divisor: AtomicUsize::new(1),
        }
    }

    /// Of `ids`, those that can be read together in good time.
    pub fn readable(&self, ids: usize) -> usize {
        ids.min(self.read_us_max / self.row_us.load(Ordering::Relaxed).max(1)).max(1)
    }

    /// So many rows took so long to be read. Short reads say only that it does not take that long any more.
    pub fn took(&self, took: Duration, rows: usize) {
        let Some(seen) = us(took).checked_div(rows) else { return };
        let known = self.row_us.load(Ordering::Relaxed);
        if seen <= known {
            // Down slowly: what was too slow once is not tried again at once.
            self.row_us.store(known - (known - seen).div_ceil(4), Ordering::Relaxed);
        } else if us(took) > self.read_us_max / 2 {
            self.row_us.store(seen, Ordering::Relaxed);
        }
    }

    /// Of `messages`, those to take ahead.
    pub fn ahead(&self, messages: usize) -> u16 {
        u16::try_from((messages / self.ahead_divisor.load(Ordering::Relaxed)).max(1)).unwrap_or(u16::MAX)
    }

    /// Takes an eighth of that from now on: the job did not get done with what it had in the time that the broker gives.
    pub fn take_less(&self) {
        let less = |divisor: usize| Some(divisor.saturating_mul(8).min(1 << 16));
        let _before = self.ahead_divisor.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

fn us(duration: Duration) -> usize {
    usize::try_from(duration.as_micros()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn as_many_rows_as_can_be_read_in_a_tenth_of_the_limit() {
        let speed = Speed::new(LIMIT);
        speed.took(Duration::from_millis(20), 1);
        assert_eq!(speed.readable(1_000), 1_000, "a single row that took 20 ms, as short reads do");
        speed.took(2 * LIMIT, 1_000);
        assert_eq!(speed.readable(1_000), 50, "a thousand that were cancelled");
        speed.took(Duration::from_secs(10), 1);
        assert_eq!(speed.readable(1_000), 1, "one row that is slow by itself");
        let mut reads = 0;
        while speed.readable(1_000) < 1_000 {
            speed.took(Duration::from_millis(1), speed.readable(1_000));
            reads += 1;
        }
        assert!((10..60).contains(&reads), "fast again, but after {reads} reads");
    }

    #[test]
    fn a_job_that_was_too_slow_takes_less_ahead() {
        let speed = Speed::new(LIMIT);
        let ahead = std::iter::repeat_with(|| {
            let ahead = speed.ahead(13_000);
            speed.take_less();
            ahead
        });
        assert_eq!(ahead.take(6).collect::<Vec<_>>(), [13_000, 1_625, 203, 25, 3, 1]);
    }
}
