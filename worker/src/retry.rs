//! How long to wait before the next try.
//!
//! The only file that knows the `backoff` crate: it is no longer maintained (RUSTSEC-2025-0012),
//! so a swap has to touch nothing else.

use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// The part of a pause by which it varies, up and down.
const JITTER: f64 = 0.3;

/// Growing pauses with jitter, without an end: Pinion never gives up on a server.
#[derive(Debug)]
pub struct Backoff {
    policy: ExponentialBackoff,
}

impl Backoff {
    /// Pauses that begin near `first`, double, and stay near `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let policy = ExponentialBackoffBuilder::new()
            .with_initial_interval(first)
            .with_max_interval(longest)
            .with_multiplier(2.0)
            .with_randomization_factor(0.0)
            .with_max_elapsed_time(None)
            .build();
        Self { policy }
    }

    /// For a server that is away: 100 ms to 5 s.
    pub fn for_server() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }

    /// For a job that is broken until somebody mends it: 1 s to a minute.
    pub fn for_job() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(60))
    }

    /// The next pause. The jitter is added here, by a generator of each thread that a simulation can seed.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.policy.next_backoff().unwrap_or(self.policy.max_interval);
        pause.mul_f64(1.0 + JITTER * (2.0 * fastrand::f64() - 1.0))
    }

    /// Waits for the next pause.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_below_the_longest() {
        let longest = Duration::from_secs(5);
        let mut backoff = Backoff::new(Duration::from_millis(100), longest);
        let pauses: Vec<_> = (0..50).map(|_| backoff.next_pause()).collect();
        assert!(pauses[0] <= Duration::from_millis(130));
        assert!(pauses[49] >= longest.mul_f64(0.7));
        assert!(pauses.iter().all(|pause| *pause <= longest.mul_f64(1.3)));
    }
}
