//! Guaranteed age: all ids of a job with `age_s_max` go through its low lane, again and again, so that no row's document is older
//! than that, whatever went wrong outside.
//!
//! A walk takes half of that time and the next one begins when it is over, so each id comes at least once in all of it.

use std::sync::Arc;
use std::time::Duration;

use super::walk::{Pace, Place, Purpose, Walk};
use crate::clock::now_ms;
use crate::error::Fault;
use crate::metrics::job_label;
use crate::pipeline::job::Job;
use crate::pipeline::runner::Surroundings;

/// How often it is looked whether a walk is to be begun or taken over, at the least.
const LOOK: Duration = Duration::from_secs(10);
/// A walk aims at a little less than its time: it may have to wait for others.
const HASTE: f64 = 0.9;

/// Walks, whenever it is time, until the worker ends.
pub(super) async fn run(job: Arc<Job>, surroundings: Surroundings) {
    let Some(age_s_max) = job.definition.age_s_max else { return };
    let half = Duration::from_secs(age_s_max) / 2;
    let shutdown = surroundings.shutdown.clone();
    loop {
        let walking = async {
            tokio::time::sleep(LOOK.min(half / 4)).await;
            walk(&job, &surroundings, half).await
        };
        let walked = tokio::select! {
            biased;
            () = shutdown.asked() => return,
            walked = walking => walked,
        };
        if let Err(fault) = walked {
            // It is gone on with from where it was.
            tracing::warn!(job = job.name(), %fault, "the walk for age_s_max was interrupted");
            job.gates_opened().await;
        }
    }
}

/// Walks if it is time, from where another one may have ended.
async fn walk(job: &Job, surroundings: &Surroundings, half: Duration) -> Result<(), Fault> {
    let pace = |walk: &Walk| Pace::Each(half.mul_f64(HASTE) / u32::try_from(walk.expected.max(1)).unwrap_or(u32::MAX));
    let purpose = Purpose {
        // No job is called so.
        document: format!("age:{}", job.name()),
        load: false,
        hand: 100,
        waiting_max: 0,
        walked: job.meters.all.age_walked.get_or_create(&job_label(job.name())).clone(),
        pace: &pace,
    };
    let next = |kept| next(kept, half, &job.settings.worker, now_ms());
    let Some(mut place) = Place::take(job, purpose, next).await? else { return Ok(()) };
    if !place.go(surroundings).await? {
        return Ok(());
    }
    job.meters.all.age_walk.get_or_create(&job_label(job.name())).set(now_ms() as f64 / 1000.0);
    let took = Duration::from_millis(now_ms().saturating_sub(place.walk.started_at));
    if took > half {
        tracing::warn!(job = job.name(), ?took, "a walk takes more than half of age_s_max: documents may become older");
    }
    tracing::debug!(job = job.name(), seconds = took.as_secs(), "walked over all ids");
    Ok(())
}

/// The walk to be walked now, if there is one.
fn next(kept: Option<Walk>, half: Duration, worker: &str, now_ms: u64) -> Option<Walk> {
    match kept {
        Some(walk) if walk.done => {
            let since = now_ms.saturating_sub(walk.started_at);
            (u128::from(since) >= half.as_millis()).then(|| Walk::new(now_ms, worker, now_ms))
        }
        Some(walk) => walk.taken_by(worker, now_ms),
        None => Some(Walk::new(now_ms, worker, now_ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_walks_and_another_goes_on_when_it_is_gone() {
        let half = Duration::from_secs(100);
        let first = next(None, half, "a", 1_000).expect("nobody has walked");
        assert_eq!((first.started_at, first.last.as_deref()), (1_000, None));
        let on_its_way = Walk { at: 5_000, last: Some("7".to_owned()), ..first.clone() };
        assert_eq!(next(Some(on_its_way.clone()), half, "b", 5_000 + 14_999), None);
        let taken = next(Some(on_its_way.clone()), half, "b", 5_000 + 15_000).expect("the other is gone");
        assert_eq!((taken.worker.as_str(), taken.last.as_deref(), taken.started_at), ("b", Some("7"), 1_000));
        // Its own, after a fault.
        assert_eq!(next(Some(on_its_way), half, "a", 5_001).expect("it goes on").last.as_deref(), Some("7"));
        let done = Walk { done: true, ..first };
        assert_eq!(next(Some(done.clone()), half, "a", 100_999), None);
        assert_eq!(next(Some(done), half, "a", 101_000).expect("it is time").started_at, 101_000);
    }
}
