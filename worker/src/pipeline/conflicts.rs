//! How many of a job's writes the index refuses because it holds a newer version.
//!
//! One alone is harmless: a newer read was faster. When most writes are refused, the index stands still, and no single
//! write shows it: a generation is wrong, somebody else writes to the index, or events are read again.

use std::sync::{Mutex, PoisonError};

use super::build::Action;
use super::job::Job;
use super::verdict::Verdict;
use crate::metrics::job_label;

/// About so many of the last writes are looked at: an older half counts half as much.
const WRITES_LOOKED_AT: u64 = 1000;
/// Fewer writes say nothing.
const WRITES_MIN: u64 = 100;
/// The share at which it is abnormal.
const ABNORMAL_AT: f64 = 0.25;
/// The share below which it is normal again.
const NORMAL_BELOW: f64 = 0.1;

/// The conflicts of one job. Written by its batches.
#[derive(Debug, Default)]
pub struct Conflicts(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    writes: u64,
    conflicts: u64,
    abnormal: bool,
}

/// What the share of conflicts is now.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    share: f64,
    abnormal: bool,
    changed: bool,
}

impl Conflicts {
    /// Counts the verdicts of one request. When their share becomes abnormal, or normal again, it is said once.
    pub fn count(&self, job: &Job, verdicts: &[(Action, Verdict)]) {
        let conflicts = verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Conflict(_))).count();
        let seen = self.add(verdicts.len() as u64, conflicts as u64);
        let (job, metrics) = (job.name(), &job.meters.all);
        metrics.conflict_share.get_or_create(&job_label(job)).set(seen.share);
        metrics.conflicts_abnormal.get_or_create(&job_label(job)).set(i64::from(seen.abnormal));
        let percent = (seen.share * 100.0).round();
        match (seen.changed, seen.abnormal) {
            (true, true) => tracing::warn!(
                job,
                percent,
                "an abnormal share of writes is refused, the index holds newer versions: a generation is wrong, somebody \
                 else writes to the index, or events are read again"
            ),
            (true, false) => tracing::info!(job, percent, "the share of refused writes is normal again"),
            (false, _) => {}
        }
    }

    fn add(&self, writes: u64, conflicts: u64) -> Seen {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        window.writes += writes;
        window.conflicts += conflicts;
        let share = if window.writes == 0 { 0.0 } else { window.conflicts as f64 / window.writes as f64 };
        let was_abnormal = window.abnormal;
        if window.writes >= WRITES_MIN {
            window.abnormal = share >= if was_abnormal { NORMAL_BELOW } else { ABNORMAL_AT };
        }
        while window.writes >= WRITES_LOOKED_AT {
            window.writes /= 2;
            window.conflicts /= 2;
        }
        Seen { share, abnormal: window.abnormal, changed: window.abnormal != was_abnormal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said after each of these requests: (writes, conflicts) and whether that is abnormal.
    fn check(requests: &[(u64, u64, bool)]) {
        let conflicts = Conflicts::default();
        let mut before = false;
        for (place, &(writes, refused, abnormal)) in requests.iter().enumerate() {
            let seen = conflicts.add(writes, refused);
            assert_eq!((seen.abnormal, seen.changed), (abnormal, abnormal != before), "request {place}: {seen:?}");
            before = abnormal;
        }
    }

    #[test]
    fn few_writes_and_a_few_conflicts_say_nothing() {
        check(&[(0, 0, false), (99, 99, false)]);
        check(&[(1000, 0, false), (200, 100, false), (1000, 100, false)]);
    }

    #[test]
    fn it_is_abnormal_once_and_normal_once() {
        check(&[(60, 60, false), (60, 60, true), (60, 60, true), (1000, 0, true), (1000, 0, false), (1000, 0, false)]);
    }

    /// Between the two limits nothing changes, so a share that hovers there does not fill the log.
    #[test]
    fn between_the_limits_it_stays_what_it_was() {
        check(&[
            (100, 20, false),
            (100, 20, false),
            (100, 80, true),
            (100, 0, true),
            (1000, 50, true),
            (1000, 0, false),
        ]);
    }

    #[test]
    fn an_index_that_froze_after_millions_of_writes_shows_soon() {
        let conflicts = Conflicts::default();
        for _ in 0..1000 {
            assert!(!conflicts.add(1000, 0).abnormal);
        }
        assert!(conflicts.add(400, 400).abnormal);
    }
}
