//! Loading the index that a rebuild builds: all ids of the job go through its low lane, marked as going there only.

use std::sync::Arc;
use std::time::Duration;

use super::walk::{Pace, Place, Purpose, Walk};
use crate::clock::now_ms;
use crate::error::Fault;
use crate::metrics::job_label;
use crate::operations::rebuild::Kept;
use crate::pipeline::job::Job;
use crate::pipeline::runner::Surroundings;
use crate::pipeline::targets::{Phase, Rebuild};

/// How often it is looked whether there is something to load.
const LOOK: Duration = Duration::from_secs(1);
/// Ids that are handed over at a time.
const HAND: usize = 5_000;
/// Messages that may wait in the low lane: about a second's work, so that pausing is soon felt.
const WAITING_MAX: u32 = 100;

/// Loads, whenever there is a rebuild, until the worker ends.
pub(super) async fn run(job: Arc<Job>, surroundings: Surroundings) {
    let shutdown = surroundings.shutdown.clone();
    loop {
        let loading = async {
            tokio::time::sleep(LOOK).await;
            match job.lease.rebuild().filter(is_loading) {
                Some(rebuild) => load(&job, &surroundings, rebuild.started_at).await,
                None => Ok(()),
            }
        };
        let loaded = tokio::select! {
            biased;
            () = shutdown.asked() => return,
            loaded = loading => loaded,
        };
        if let Err(fault) = loaded {
            // It is gone on with from where it was.
            tracing::warn!(job = job.name(), %fault, "the loading of the new index was interrupted");
            job.gates_opened().await;
        }
    }
}

fn is_loading(rebuild: &Rebuild) -> bool {
    rebuild.phase == Phase::Loading && rebuild.failed.is_none()
}

async fn load(job: &Job, surroundings: &Surroundings, since: u64) -> Result<(), Fault> {
    // As fast as operators allow at the moment.
    let pace = |_: &Walk| match job.lease.rebuild().filter(is_loading) {
        Some(rebuild) if rebuild.started_at == since && rebuild.paused => Pace::Wait,
        Some(rebuild) if rebuild.started_at == since => {
            let each = rebuild.ids_per_s_max.map(|rate| Duration::from_secs(1) / rate.max(1));
            Pace::Each(each.unwrap_or_default())
        }
        _ => Pace::End,
    };
    let purpose = Purpose {
        document: Kept::walk_document(job.name()),
        load: true,
        hand: HAND,
        waiting_max: WAITING_MAX,
        walked: job.meters.all.rebuild_loaded.get_or_create(&job_label(job.name())).clone(),
        pace: &pace,
    };
    let next = |kept| next(kept, since, &job.settings.worker, now_ms());
    let Some(mut place) = Place::take(job, purpose, next).await? else { return Ok(()) };
    tracing::info!(job = job.name(), from = place.walk.last, "loading the new index");
    if place.go(surroundings).await? {
        tracing::info!(job = job.name(), ids = place.walk.ids, "all ids are on their way into the new index");
    }
    Ok(())
}

/// The walk of the rebuild that began at `since`, if it is this worker's turn.
fn next(kept: Option<Walk>, since: u64, worker: &str, now_ms: u64) -> Option<Walk> {
    match kept {
        Some(walk) if walk.started_at == since => {
            if walk.done {
                None
            } else {
                walk.taken_by(worker, now_ms)
            }
        }
        _ => Some(Walk::new(since, worker, now_ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rebuild_has_a_walk_of_its_own() {
        let first = next(None, 1_000, "a", 2_000).expect("nobody has walked");
        assert_eq!((first.started_at, first.at), (1_000, 2_000));
        let on_its_way = Walk { last: Some("7".to_owned()), ..first };
        assert_eq!(next(Some(on_its_way.clone()), 1_000, "b", 3_000), None);
        assert_eq!(next(Some(on_its_way.clone()), 1_000, "b", 20_000).expect("it is gone").last.as_deref(), Some("7"));
        assert_eq!(next(Some(Walk { done: true, ..on_its_way.clone() }), 1_000, "a", 20_000), None);
        assert_eq!(next(Some(on_its_way), 5_000, "b", 6_000).expect("another rebuild").last, None);
    }
}
