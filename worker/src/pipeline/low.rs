//! How a job's low lane keeps out of the way of live messages: what Elasticsearch and the database do for the one, the other waits for
//! there. So beside live messages its batches are small and few, and it rests after each, the longer the slower the servers are.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::job::Job;

/// A batch of the low lane beside live messages is this part of a full one: what a live one waits for is then over soon.
pub const LOW_PART: usize = 40;
/// It rests for so many times what a batch took,
const REST: f64 = 3.0;
/// but never longer.
const REST_AT_MOST: Duration = Duration::from_secs(1);
/// By this factor, up or down, a batch changes what is taken for usual: half of the batches are then faster, and single ones that
/// are held up for long say no more than others.
const STEP: f64 = 1.02;
/// How often it is looked whether live messages have ended.
const LOOK: Duration = Duration::from_millis(500);

/// When a job's low lane may go on.
#[derive(Debug, Default)]
pub struct Rests(Mutex<Pace>);

#[derive(Debug, Default)]
struct Pace {
    /// What a batch takes, in seconds: about the median.
    usual_s: Option<f64>,
    until: Option<Instant>,
}

impl Rests {
    /// A batch beside live messages took so long. The rest after it is longer by the square of how much slower than usual it was:
    /// servers that are busy with something else, such as a merge, are left to the live messages.
    pub fn took(&self, took: Duration) {
        let took_s = took.as_secs_f64();
        let mut pace = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let usual_s = pace.usual_s.unwrap_or(took_s);
        let slower = (took_s / usual_s.max(f64::EPSILON)).max(1.0);
        pace.usual_s = Some(if took_s > usual_s { usual_s * STEP } else { usual_s / STEP });
        pace.until = Some(Instant::now() + took.mul_f64(REST * slower * slower).min(REST_AT_MOST));
    }

    /// Waits until the next batch may go beside live messages, or these come no more.
    pub async fn over(&self, job: &Job, running: &mut watch::Receiver<usize>) {
        while *running.borrow_and_update() >= job.settings.low_in_flight_max && job.live.is_there() {
            let _ended_or_quiet = tokio::time::timeout(LOOK, running.changed()).await;
        }
        let until = self.0.lock().unwrap_or_else(PoisonError::into_inner).until;
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rest after a batch that took so many milliseconds.
    fn rest_ms(rests: &Rests, took_ms: u64) -> u128 {
        rests.took(Duration::from_millis(took_ms));
        let until = rests.0.lock().expect("no test panics with it").until;
        until.map_or(0, |until| (until - Instant::now()).as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn the_slower_the_servers_are_the_longer_it_rests() {
        let rests = Rests::default();
        assert_eq!(rest_ms(&rests, 40), 120, "the first one is what is usual");
        for _ in 0..200 {
            rest_ms(&rests, 50);
            rest_ms(&rests, 30);
        }
        assert_eq!(rest_ms(&rests, 30), 90, "faster than usual");
        let slow = rest_ms(&rests, 80);
        assert!((480..=1000).contains(&slow), "about twice as slow, so four times as long, but {slow} ms");
        assert_eq!(rest_ms(&rests, 400), 1000, "never longer than a second");
        let after = rest_ms(&rests, 40);
        assert!((120..=300).contains(&after), "one that was held up says no more than another, but {after} ms");
    }
}
