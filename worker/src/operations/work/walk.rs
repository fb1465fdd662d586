//! Walks over all ids of a job, through its low lane. One worker walks; where it is, is kept in Elasticsearch, so that another one
//! goes on if it ends.

use std::time::Duration;

use pinion_schemas::{Id, Job as JobMessage, StateIndex};
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use crate::clock::now_ms;
use crate::error::{Fault, Service};
use crate::operations::Context;
use crate::operations::state::State;
use crate::pipeline::job::Job;
use crate::pipeline::runner::Surroundings;
use crate::pipeline::source::Lane;
use crate::ports::{Destination, Envelope, Keys, Requeue, WhichKeys};

/// How often a worker that walks says where it is.
const TELL: Duration = Duration::from_secs(1);
/// One that has not for so long is gone.
const GONE_MS: u64 = 15_000;
/// The longest pause of a walk that has something to hand over.
const BUSY: Duration = Duration::from_millis(500);
/// Before the low lane is looked at again, while enough waits there.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(50);
/// Ids of a message: as many as make it cheap to carry, and few enough that a worker's share of the queue is soon worked off.
const IDS: usize = 250;

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
    /// When it began, in milliseconds since 1970; that of a rebuild, when the rebuild did.
    pub(crate) started_at: u64,
    /// Who walks.
    pub(crate) worker: String,
    /// When it was last there.
    pub(crate) at: u64,
    /// The last id that the broker has.
    pub(crate) last: Option<String>,
    /// How many it has.
    #[serde(default)]
    pub(crate) ids: u64,
    /// About how many there are.
    #[serde(default)]
    pub(crate) expected: u64,
    /// Whether all of them are.
    pub(crate) done: bool,
}

/// How far the walk of this document is, for those who wait for it.
///
/// # Errors
/// Elasticsearch is away, or it can't be read.
pub(crate) async fn walked(context: &Context, document: &str) -> anyhow::Result<Option<Walk>> {
    let kept: Option<Kept> = State::of(context, StateIndex::Jobs).get(document).await?;
    Ok(kept.map(|kept| kept.walk))
}

impl Walk {
    /// One that has not begun.
    pub(super) fn new(started_at: u64, worker: &str, now_ms: u64) -> Self {
        Self { started_at, worker: worker.to_owned(), at: now_ms, last: None, ids: 0, expected: 0, done: false }
    }

    /// Goes on with one that is not done, unless somebody else walks.
    pub(super) fn taken_by(self, worker: &str, now_ms: u64) -> Option<Self> {
        let is_gone = now_ms.saturating_sub(self.at) >= GONE_MS;
        (is_gone || self.worker == worker).then(|| Self { worker: worker.to_owned(), at: now_ms, ..self })
    }
}

/// How fast to walk now.
pub(super) enum Pace {
    /// So long for each id.
    Each(Duration),
    /// Not at all for now.
    Wait,
    /// No further.
    End,
}

/// What a walk is for.
pub(super) struct Purpose<'a> {
    /// The document that tells where it is.
    pub(super) document: String,
    /// Whether its messages fill an index that is being built.
    pub(super) load: bool,
    /// Ids that are handed over at a time, where the pace allows it.
    pub(super) hand: usize,
    /// Messages that may wait in the low lane before more are added.
    pub(super) waiting_max: u32,
    /// Counts the ids.
    pub(super) walked: Counter,
    /// How fast.
    pub(super) pace: &'a (dyn Fn(&Walk) -> Pace + Sync),
}

impl Purpose<'_> {
    /// Ids to hand over now, when each takes so long: no more than the pace allows until it is looked at again.
    fn hand(&self, each: Duration) -> usize {
        let allowed = BUSY.as_nanos().checked_div(each.as_nanos()).unwrap_or(u128::MAX);
        usize::try_from(allowed).unwrap_or(usize::MAX).clamp(1, self.hand)
    }
}

/// This worker's walk, and what it takes to replace what is kept of it.
pub(super) struct Place<'a> {
    job: &'a Job,
    purpose: Purpose<'a>,
    pub(super) walk: Walk,
    seq_no: Option<(u64, u64)>,
    told: Instant,
}

impl<'a> Place<'a> {
    /// Begins a walk, or takes one over, as `next` decides by what is kept, if nobody else is faster.
    pub(super) async fn take(
        job: &'a Job,
        purpose: Purpose<'a>,
        next: impl FnOnce(Option<Walk>) -> Option<Walk>,
    ) -> Result<Option<Self>, Fault> {
        let index = job.settings.names.state_index(StateIndex::Jobs);
        let kept = job.index.state(&index, &purpose.document).await?;
        let seq_no = kept.as_ref().map(|kept| kept.seq_no);
        let kept: Option<Kept> = kept.and_then(|kept| serde_json::from_value(kept.source).ok());
        let Some(walk) = next(kept.map(|kept| kept.walk)) else { return Ok(None) };
        let mut place = Self { job, purpose, walk, seq_no, told: Instant::now() };
        Ok(place.put().await?.then_some(place))
    }

    /// Walks to the end; `false` if another worker has taken over, or it is to go no further.
    pub(super) async fn go(&mut self, surroundings: &Surroundings) -> Result<bool, Fault> {
        let job = self.job;
        let last = self.walk.last.as_deref().and_then(|last| job.definition.key.id_from_text(last).ok());
        let mut keys: Box<dyn Keys + '_> =
            job.database.keys(&job.definition, WhichKeys { after: last, range: None }).await?;
        self.walk.expected = self.walk.ids + keys.estimate();
        let mut due = Instant::now();
        loop {
            let page = keys.page().await?;
            if page.is_empty() {
                self.walk.done = true;
                return self.put().await;
            }
            let mut rest = &page[..];
            while !rest.is_empty() {
                let each = loop {
                    let wait = due.saturating_duration_since(Instant::now());
                    match (self.purpose.pace)(&self.walk) {
                        Pace::End => return Ok(false),
                        Pace::Each(each) if wait.is_zero() && self.has_room(surroundings).await? => break each,
                        Pace::Each(_) | Pace::Wait => {}
                    }
                    tokio::time::sleep(wait.clamp(LOOK_FOR_ROOM, BUSY)).await;
                    if !self.tell().await? {
                        return Ok(false);
                    }
                };
                let (ids, later) = rest.split_at(self.purpose.hand(each).min(rest.len()));
                self.publish(ids).await?;
                rest = later;
                due = Instant::now().max(due) + each * u32::try_from(ids.len()).unwrap_or(u32::MAX);
                self.walk.ids += ids.len() as u64;
                self.purpose.walked.inc_by(ids.len() as u64);
                self.walk.last = ids.last().map(Id::to_string);
                if !self.tell().await? {
                    return Ok(false);
                }
            }
        }
    }

    /// Only while nobody has paused the job, and not too much waits in the low lane: what else is there comes first.
    async fn has_room(&self, surroundings: &Surroundings) -> Result<bool, Fault> {
        let is_paused = surroundings.controls.is_paused(self.job.name());
        let waiting = surroundings.source.waiting(self.job, Lane::Low);
        Ok(!is_paused && waiting.await? <= self.purpose.waiting_max)
    }

    async fn publish(&self, ids: &[Id]) -> Result<(), Fault> {
        let unusable = |error: String| Fault::Again { service: Service::Rabbitmq, reason: error };
        let messages = ids.chunks(IDS).map(|ids| {
            let message = JobMessage::many(self.job.name(), ids.iter().cloned());
            Ok(Requeue {
                job: self.job.name().to_owned(),
                destination: Destination::Low,
                payload: message.to_bytes().map_err(|error| unusable(error.to_string()))?,
                envelope: Envelope { load: self.purpose.load, ..Envelope::default() },
            })
        });
        self.job.broker.requeue(messages.collect::<Result<_, Fault>>()?).await
    }

    /// Says where it is, but not too often; `false` when another worker has taken over.
    async fn tell(&mut self) -> Result<bool, Fault> {
        if self.told.elapsed() < TELL { Ok(true) } else { self.put().await }
    }

    async fn put(&mut self) -> Result<bool, Fault> {
        let (job, document) = (self.job, &self.purpose.document);
        let index = job.settings.names.state_index(StateIndex::Jobs);
        self.walk.at = now_ms();
        let kept = Kept { job: job.name().to_owned(), walk: self.walk.clone() };
        if !job.index.put_state(&index, document, &json!(kept), self.seq_no).await? {
            return Ok(false);
        }
        self.seq_no = job.index.state(&index, document).await?.map(|kept| kept.seq_no);
        self.told = Instant::now();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_handed_over_than_the_pace_allows() {
        let purpose = Purpose {
            document: String::new(),
            load: true,
            hand: 5_000,
            waiting_max: 1,
            walked: Counter::default(),
            pace: &|_| Pace::End,
        };
        let hands = [0, 20, 1_000, 60_000].map(|ms| purpose.hand(Duration::from_micros(ms * 10)));
        assert_eq!(hands, [5_000, 2_500, 50, 1], "ids, when each takes nothing, 0.2, 10 and 600 ms");
    }
}
