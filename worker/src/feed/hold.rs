//! Touches that wait. A document that many rows share (a merchant with all of its orders) and a fan-out are published at the
//! next tick, and then not again before a window has passed: changed a thousand times in a second, they are built a few times.
//!
//! The window is a tenth of the job's `freshness_s_max`. Events whose touches wait are not done, so nothing is lost with the
//! worker: their offsets wait, too.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pinion_schemas::JobDefinition;

use super::touch::{FanOut, Touch};
use crate::pipeline::delivery::Receipt;

/// How often it is looked what may go.
pub(super) const TICK: Duration = Duration::from_millis(200);
/// The part of a job's `freshness_s_max` that waiting may take.
const PART: u32 = 10;
/// The longest window: offsets wait for it.
const WINDOW_MAX: Duration = Duration::from_secs(10);
/// The window of a job that does not say how fresh its documents must be.
const WINDOW: Duration = Duration::from_secs(1);
/// What waits, or is remembered, at the most; then all of it goes.
const WAITING_MAX: usize = 50_000;

/// What waits, and what went within the last window.
#[derive(Default)]
pub(super) struct Hold {
    places: HashMap<Touch, Place>,
    /// Receipts in all places.
    waiting: usize,
}

struct Place {
    /// Not again before.
    next: Instant,
    held: Option<Held>,
}

/// What waits in one place.
#[derive(Default)]
pub(super) struct Held {
    /// When the oldest change was committed.
    pub(super) sent_ms: Option<u64>,
    /// One of each event, to be settled when it is published.
    pub(super) receipts: Vec<Receipt>,
}

impl Held {
    /// Takes in what waits for the same.
    pub(super) fn join(&mut self, other: Self) {
        self.sent_ms = [self.sent_ms, other.sent_ms].into_iter().flatten().min();
        self.receipts.extend(other.receipts);
    }
}

impl Hold {
    /// Takes a touch, whose change must be visible.
    pub(super) fn add(&mut self, touch: Touch, sent_ms: Option<u64>, receipt: Receipt, now: Instant) {
        let held = self.places.entry(touch).or_insert(Place { next: now, held: None }).held.get_or_insert_default();
        held.join(Held { sent_ms, receipts: vec![receipt] });
        self.waiting += 1;
    }

    /// Takes back what waits for `touch`: it was published otherwise.
    pub(super) fn take(&mut self, touch: &Touch) -> Option<Held> {
        let held = self.places.get_mut(touch)?.held.take()?;
        self.waiting -= held.receipts.len();
        Some(held)
    }

    /// Puts back what could not go yet.
    pub(super) fn put_back(&mut self, touch: Touch, held: Held, now: Instant) {
        self.waiting += held.receipts.len();
        self.places.insert(touch, Place { next: now, held: Some(held) });
    }

    /// What may go now.
    pub(super) fn due(&mut self, jobs: &[JobDefinition], now: Instant) -> Vec<(Touch, Held)> {
        let full = self.waiting >= WAITING_MAX || self.places.len() >= WAITING_MAX;
        let mut due = Vec::new();
        self.places.retain(|touch, place| {
            if place.next > now && !full {
                return true;
            }
            let Some(held) = place.held.take() else { return false };
            due.push((touch.clone(), held));
            place.next = now + window(&jobs[touch.job()]);
            !full
        });
        self.waiting -= due.iter().map(|(_, held)| held.receipts.len()).sum::<usize>();
        due
    }
}

impl Touch {
    fn job(&self) -> usize {
        match self {
            Self::Own(job, _) | Self::Parent(job, _) => *job,
            Self::FanOut(FanOut::Rule { job, .. } | FanOut::All(job) | FanOut::AllAgain(job), _) => *job,
        }
    }
}

fn window(job: &JobDefinition) -> Duration {
    job.freshness_s_max.map_or(WINDOW, |freshness| (Duration::from_secs(freshness) / PART).min(WINDOW_MAX))
}

#[cfg(test)]
mod tests {
    use pinion_schemas::Id;

    use super::*;
    use crate::pipeline::delivery::Ledger;

    /// The example's jobs, by their names: customers, merchants (60 s each), orders (30 s).
    fn jobs() -> Vec<JobDefinition> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/shop");
        let loaded = pinion_schemas::load_jobs(&folder).expect("the shop's jobs");
        loaded.into_iter().filter_map(|job| job.definition).collect()
    }

    fn customer(id: i64) -> Touch {
        Touch::Parent(0, Id::Int(id))
    }

    #[test]
    fn a_hot_parent_goes_at_once_and_then_once_a_window() {
        let (jobs, ledger, start) = (jobs(), Ledger::new(1), Instant::now());
        let mut hold = Hold::default();
        let mut went = Vec::new();
        // Ten seconds of a change each millisecond, looked at every tick.
        for ms in 0..10_000 {
            let now = start + Duration::from_millis(ms);
            hold.add(customer(1), Some(ms), ledger.receive(1), now);
            if ms % 200 == 199 {
                went.extend(hold.due(&jobs, now).into_iter().map(|(_, held)| {
                    Receipt::settle_all(&held.receipts);
                    (ms, held.sent_ms, held.receipts.len())
                }));
            }
        }
        assert_eq!(went, [(199, Some(0), 200), (6_199, Some(200), 6_000)]);
        assert_eq!(hold.due(&jobs, start + Duration::from_millis(12_198)).len(), 0);
        for (_, held) in hold.due(&jobs, start + Duration::from_millis(12_200)) {
            Receipt::settle_all(&held.receipts);
        }
        assert!(ledger.is_settled());
        assert_eq!((hold.waiting, hold.places.len()), (0, 1));
        hold.due(&jobs, start + Duration::from_secs(20));
        assert_eq!(hold.places.len(), 0, "what is quiet is forgotten");
    }

    #[test]
    fn what_was_published_otherwise_waits_no_more() {
        let (jobs, ledger, now) = (jobs(), Ledger::new(1), Instant::now());
        let mut hold = Hold::default();
        hold.add(customer(1), None, ledger.receive(1), now);
        assert!(hold.take(&customer(2)).is_none());
        assert_eq!(hold.take(&customer(1)).map(|held| held.receipts.len()), Some(1));
        assert!(hold.take(&customer(1)).is_none());
        assert!(hold.due(&jobs, now).is_empty());
    }

    #[test]
    fn what_could_not_go_goes_at_the_next_tick() {
        let (jobs, ledger, now) = (jobs(), Ledger::new(1), Instant::now());
        let mut hold = Hold::default();
        hold.add(customer(1), None, ledger.receive(1), now);
        for (touch, held) in hold.due(&jobs, now) {
            hold.put_back(touch, held, now);
        }
        assert_eq!(hold.due(&jobs, now + TICK).len(), 1);
        assert_eq!(hold.waiting, 0);
    }

    #[test]
    fn a_full_hold_lets_everything_go() {
        let (jobs, ledger, now) = (jobs(), Ledger::new(1), Instant::now());
        let mut hold = Hold::default();
        let touches = i64::try_from(WAITING_MAX).expect("a small number");
        for id in 0..touches - 1 {
            hold.add(customer(id), None, ledger.receive(1), now);
        }
        assert_eq!(hold.due(&jobs, now).len(), WAITING_MAX - 1);
        hold.add(customer(0), None, ledger.receive(1), now);
        assert_eq!(hold.due(&jobs, now).len(), 0);
        hold.add(customer(touches), None, ledger.receive(1), now);
        assert_eq!(hold.due(&jobs, now).len(), 2);
        assert_eq!((hold.waiting, hold.places.len()), (0, 0));
    }

    #[test]
    fn the_window_follows_the_job_s_freshness() {
        let mut job = jobs().remove(0);
        for (freshness_s_max, expected_ms) in [(None, 1000), (Some(1), 100), (Some(30), 3000), (Some(3600), 10_000)] {
            job.freshness_s_max = freshness_s_max;
            assert_eq!(window(&job).as_millis(), expected_ms, "{freshness_s_max:?}");
        }
    }
}
