//! Guaranteed age: all ids of a job with `age_s_max` go through its low lane, again and again, so that no row's document is older
//! than that, whatever went wrong outside.
//!
//! A walk takes half of that time and the next one begins when it is over, so each id comes at least once in all of it. One worker
//! walks; where it is, is kept in Elasticsearch, so that another one goes on if it ends.

use std::sync::Arc;
use std::time::Duration;

use pinion_schemas::{Id, Job as JobMessage, StateIndex};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use crate::clock::now_ms;
use crate::error::{Fault, Service};
use crate::metrics::job_label;
use crate::pipeline::job::Job;
use crate::pipeline::runner::Surroundings;
use crate::pipeline::source::Lane;
use crate::ports::{Destination, Envelope, Requeue};

/// How often it is looked whether a walk is to be begun or taken over, at the least.
const LOOK: Duration = Duration::from_secs(10);
/// How often a worker that walks says where it is.
const TELL: Duration = Duration::from_secs(1);
/// One that has not for so long is gone.
const GONE_MS: u64 = 60_000;
/// Before the low lane is looked at again, while something waits there.
const BUSY: Duration = Duration::from_millis(500);
/// Ids of a message.
const IDS: usize = 100;
/// A walk aims at a little less than its time: it may have to wait for others.
const HASTE: f64 = 0.9;

/// Where the walk of a job is: a document beside its hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The job.
    pub(crate) job: String,
    /// Its walk.
    pub(crate) walk: Walk,
}

/// A walk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Walk {
    /// When it began, in milliseconds since 1970.
    pub(crate) started_at: u64,
    /// Who walks.
    pub(crate) worker: String,
    /// When it was last there.
    pub(crate) at: u64,
    /// The last id that the broker has.
    pub(crate) last: Option<String>,
    /// Whether all of them are.
    pub(crate) done: bool,
}

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
    let Some(mut place) = Place::take(job, half).await? else { return Ok(()) };
    let began = Instant::now();
    let last = place.walk.last.as_deref().and_then(|last| job.definition.key.id_from_text(last).ok());
    let mut keys = job.database.keys(&job.definition, last).await?;
    let each = half.mul_f64(HASTE) / u32::try_from(keys.estimate().max(1)).unwrap_or(u32::MAX);
    let mut due = Instant::now();
    loop {
        let page = keys.page().await?;
        if page.is_empty() {
            break;
        }
        for ids in page.chunks(IDS) {
            while Instant::now() < due || !may_go_on(job, surroundings).await? {
                tokio::time::sleep(BUSY.min(due.saturating_duration_since(Instant::now()).max(BUSY / 50))).await;
                if !place.tell(job, None).await? {
                    return Ok(());
                }
            }
            publish(job, ids).await?;
            due = Instant::now().max(due) + each * u32::try_from(ids.len()).unwrap_or(u32::MAX);
            if !place.tell(job, ids.last()).await? {
                return Ok(());
            }
        }
    }
    place.walk.done = true;
    place.put(job).await?;
    job.meters.all.age_walk.get_or_create(&job_label(job.name())).set(now_ms() as f64 / 1000.0);
    let took = Duration::from_millis(now_ms().saturating_sub(place.walk.started_at));
    if took > half {
        tracing::warn!(job = job.name(), ?took, "a walk takes more than half of age_s_max: documents may become older");
    }
    tracing::debug!(job = job.name(), seconds = began.elapsed().as_secs(), "walked over all ids");
    Ok(())
}

/// Only while nobody has paused the job, and nothing waits in the low lane: whatever else is there comes first.
async fn may_go_on(job: &Job, surroundings: &Surroundings) -> Result<bool, Fault> {
    let is_paused = surroundings.controls.is_paused(job.name());
    Ok(!is_paused && !surroundings.source.waits(job, &[Lane::Low]).await?)
}

async fn publish(job: &Job, ids: &[Id]) -> Result<(), Fault> {
    let unusable = |error: String| Fault::Again { service: Service::Rabbitmq, reason: error };
    let message = JobMessage::many(job.name(), ids.iter().cloned());
    let message = Requeue {
        job: job.name().to_owned(),
        destination: Destination::Low,
        payload: message.to_bytes().map_err(|error| unusable(error.to_string()))?,
        envelope: Envelope::default(),
    };
    job.broker.requeue(vec![message]).await?;
    job.meters.all.age_walked.get_or_create(&job_label(job.name())).inc_by(ids.len() as u64);
    Ok(())
}

/// This worker's walk, and what it takes to replace what is kept of it.
struct Place {
    walk: Walk,
    seq_no: Option<(u64, u64)>,
    told: Instant,
}

impl Place {
    /// Begins a walk, or takes one over, if it is time and nobody else is faster.
    async fn take(job: &Job, half: Duration) -> Result<Option<Self>, Fault> {
        let (index, document) = place_of(job);
        let kept = job.index.state(&index, &document).await?;
        let seq_no = kept.as_ref().map(|kept| kept.seq_no);
        let kept: Option<Kept> = kept.and_then(|kept| serde_json::from_value(kept.source).ok());
        let Some(walk) = next(kept.map(|kept| kept.walk), half, &job.settings.worker, now_ms()) else {
            return Ok(None);
        };
        let mut place = Self { walk, seq_no, told: Instant::now() };
        Ok(place.put(job).await?.then_some(place))
    }

    /// Says where it is, but not too often; `false` when another worker has taken over.
    async fn tell(&mut self, job: &Job, last: Option<&Id>) -> Result<bool, Fault> {
        if let Some(last) = last {
            self.walk.last = Some(last.to_string());
        }
        if self.told.elapsed() < TELL { Ok(true) } else { self.put(job).await }
    }

    async fn put(&mut self, job: &Job) -> Result<bool, Fault> {
        let (index, document) = place_of(job);
        self.walk.at = now_ms();
        let kept = Kept { job: job.name().to_owned(), walk: self.walk.clone() };
        if !job.index.put_state(&index, &document, &json!(kept), self.seq_no).await? {
            return Ok(false);
        }
        self.seq_no = job.index.state(&index, &document).await?.map(|kept| kept.seq_no);
        self.told = Instant::now();
        Ok(true)
    }
}

fn place_of(job: &Job) -> (String, String) {
    // No job is called so.
    (job.settings.names.state_index(StateIndex::Jobs), format!("age:{}", job.name()))
}

/// The walk to be walked now, if there is one.
fn next(kept: Option<Walk>, half: Duration, worker: &str, now_ms: u64) -> Option<Walk> {
    let since = |then: u64| now_ms.saturating_sub(then);
    match kept {
        Some(walk) if walk.done && u128::from(since(walk.started_at)) < half.as_millis() => None,
        Some(walk) if !walk.done && since(walk.at) < GONE_MS && walk.worker != worker => None,
        Some(walk) if !walk.done => Some(Walk { worker: worker.to_owned(), at: now_ms, ..walk }),
        _ => Some(Walk { started_at: now_ms, worker: worker.to_owned(), at: now_ms, last: None, done: false }),
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
        assert_eq!(next(Some(on_its_way.clone()), half, "b", 5_000 + GONE_MS - 1), None);
        let taken = next(Some(on_its_way.clone()), half, "b", 5_000 + GONE_MS).expect("the other is gone");
        assert_eq!((taken.worker.as_str(), taken.last.as_deref(), taken.started_at), ("b", Some("7"), 1_000));
        // Its own, after a fault.
        assert_eq!(next(Some(on_its_way), half, "a", 5_001).expect("it goes on").last.as_deref(), Some("7"));
        let done = Walk { done: true, ..first };
        assert_eq!(next(Some(done.clone()), half, "a", 100_999), None);
        assert_eq!(next(Some(done), half, "a", 101_000).expect("it is time").started_at, 101_000);
    }
}
