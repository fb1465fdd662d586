//! Whether an index is true to its source, both ways. A difference is looked at again before it is reported: on a busy source there are
//! always some that a worker is about to mend.

mod look;
mod part;
mod suspects;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::stream::{self, StreamExt as _};
use pinion_client::Lane;
use pinion_schemas::{From, Id, JobDefinition, StateIndex, Version};
use serde::Serialize;
use serde_json::json;

use self::look::{Finding, Look, Seen};
use self::part::Part;
use self::suspects::{Suspect, Suspects};
use super::Context;
use super::diff::{Counted, Example, count};
use super::enqueue::{EnqueueOptions, Ids, enqueue};
use super::state::{State, insist, unusable};
use crate::clock::now_ms;
use crate::elasticsearch::Walk;
use crate::ports::{ColumnRange, Keys, WhichKeys};

/// Ids that are asked for together.
const CHUNK: usize = 1_000;
/// Whole documents that are compared together: both sides of them are in memory, of up to a megabyte each.
const DOCUMENTS: usize = 250;
/// So many chunks at a time: one is asked for while another is compared.
const CHUNKS_AT_A_TIME: usize = 2;
/// With more differences than this it ends: that is no index to be verified, but one to be built.
const SUSPECTS_MAX: usize = 1_000_000;

/// How to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Another index than the job's alias; what is found there is not kept.
    pub index: Option<String>,
    /// Whether whole documents are compared, or only which there are.
    pub full: bool,
    /// The rows and documents to look at; none is all.
    pub range: Option<ColumnRange>,
    /// The part of their ids to look at, above 0, at most 1: a random sample.
    pub sample: f64,
    /// How long a difference may be one that a worker is about to mend.
    pub patience: Duration,
    /// Ids a second at the most.
    pub ids_per_second_max: Option<u32>,
    /// Whether to keep out of the way of live messages: one chunk at a time, and rests that are as long as it took.
    pub gentle: bool,
    /// Whether what is wrong is enqueued.
    pub repair: bool,
    /// Examples of each kind.
    pub examples_max: usize,
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum Event {
    /// About this many ids will be looked at.
    Expected(u64),
    /// So many more were.
    Looked(u64),
    /// So many differences are looked at again, until they are gone or have stood for long enough.
    Waiting(usize),
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Verified {
    /// The job.
    pub job: String,
    /// When it began, in milliseconds since 1970.
    pub started_at: u64,
    /// Whether whole documents were compared.
    pub full: bool,
    /// Which rows and documents were; none is all.
    pub range: Option<ColumnRange>,
    /// Ids of the source that were looked at.
    pub source_ids: u64,
    /// Documents of the index that were looked at.
    pub index_ids: u64,
    /// Rows without their document.
    pub missing: Counted,
    /// Documents without a row.
    pub orphaned: Counted,
    /// Documents that are not what the query gives.
    pub different: Counted,
    /// Rows that make no document.
    pub unwritable: Counted,
    /// Of all these, those whose version is one that no read has had yet: somebody else wrote them.
    pub from_the_future: u64,
    /// How many documents differ in a field; the places of arrays are left out.
    pub fields: std::collections::BTreeMap<String, u64>,
    /// Some of those that differ, with where.
    pub examples: Vec<Example>,
    /// Differences that were gone, or written anew, when they were looked at again.
    pub in_flight: u64,
    /// Of a sample: at most this part of all documents is wrong, with a confidence of 95 %.
    pub wrong_part_max: Option<f64>,
    /// What became of those versions, if all was to be repaired: whether the source's log is past all of them.
    pub passed: Option<bool>,
    /// Ids that were enqueued.
    pub repaired: u64,
    /// Why it ended early.
    pub stopped: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

impl Verified {
    /// Whether the index is true.
    pub fn is_true(&self) -> bool {
        self.wrong() == 0 && self.stopped.is_none()
    }

    /// All that are not as they should be.
    pub fn wrong(&self) -> u64 {
        self.kinds().into_iter().map(|(_, of_them)| of_them.count).sum()
    }

    /// What may be wrong, in a word, and what is.
    pub fn kinds(&self) -> [(&'static str, &Counted); 4] {
        [
            ("missing", &self.missing),
            ("orphaned", &self.orphaned),
            ("different", &self.different),
            ("unwritable", &self.unwritable),
        ]
    }
}

/// How long a worker has to mend a difference by itself: as long as the job may take.
pub fn patience(job: &JobDefinition) -> Duration {
    const UNTOLD_S: u64 = 30;
    Duration::from_secs(job.freshness_s_max.unwrap_or(UNTOLD_S))
}

/// Compares the job's index with its source. Writes nothing, unless it is to repair: then it enqueues, and workers mend.
///
/// # Errors
/// There is no such job, its keys can't be listed, or a server is away.
pub async fn verify(
    context: &Context,
    job: &str,
    options: &VerifyOptions,
    tell: &(dyn Fn(Event) + Sync),
) -> anyhow::Result<Verified> {
    let definition = context.definition(job)?;
    anyhow::ensure!(
        definition.from == From::Query,
        "the documents of {job} come from change events (from = \"event\"): there is no query to compare them with"
    );
    let other = options.index.clone().map(|index| JobDefinition { index, ..definition.clone() });
    let definition = other.as_ref().unwrap_or(definition);
    let source = context.source(definition)?;
    let part = insist(async || Part::of(context, definition, options.range.as_ref()).await).await?;
    let which = WhichKeys { after: None, range: options.range.clone() };
    let list = async || source.keys(definition, which.clone()).await.with_context(|| format!("job {job}"));
    let keys = insist(list).await?;
    tell(Event::Expected(part.documents().unwrap_or(keys.estimate())));
    let found = Verified {
        job: job.to_owned(),
        started_at: now_ms(),
        full: options.full,
        range: options.range.clone(),
        ..Verified::default()
    };
    let mut run = Run {
        look: Look { context, job: definition, full: options.full },
        options,
        part,
        tell,
        began: Instant::now(),
        went_on: Instant::now(),
        suspects: Suspects::new(options.patience),
        wrong: Vec::new(),
        future: None,
        found,
    };
    run.all(keys).await?;
    run.finish().await
}

/// A verification under way.
struct Run<'a> {
    look: Look<'a>,
    options: &'a VerifyOptions,
    part: Part,
    tell: &'a (dyn Fn(Event) + Sync),
    began: Instant,
    /// When the last chunk was done with, and the rest after it.
    went_on: Instant,
    suspects: Suspects,
    /// To be repaired.
    wrong: Vec<Id>,
    /// The highest version from the future, and the one that a read had at the time.
    future: Option<(Version, Version)>,
    found: Verified,
}

impl Run<'_> {
    /// Walks over the source's keys, then over the index's.
    async fn all(&mut self, mut keys: Box<dyn Keys + '_>) -> anyhow::Result<()> {
        loop {
            let page = insist(async || Ok(keys.page().await?)).await?;
            if page.is_empty() {
                break;
            }
            let look = self.look;
            let together = if look.full { DOCUMENTS } else { CHUNK };
            let chunks: Vec<Vec<Id>> = self.sampled(page).chunks(together).map(<[Id]>::to_vec).collect();
            let mut looked = stream::iter(chunks)
                .map(|ids| insist(async move || look.at_a_glance(ids.clone()).await))
                .buffer_unordered(if self.options.gentle { 1 } else { CHUNKS_AT_A_TIME });
            while let Some(chunk) = looked.next().await {
                let (count, doubtful) = chunk?;
                self.found.source_ids += count;
                self.took(count, doubtful).await?;
            }
            if self.found.stopped.is_some() {
                return Ok(());
            }
        }
        let (context, job) = (self.look.context, self.look.job);
        let unusable = |fault| unusable(&job.index, fault);
        let begin = async || Walk::begin(&context.elasticsearch, &job.index, job.key, CHUNK).await.map_err(unusable);
        let mut walk = insist(begin).await?;
        if let Some(query) = self.part.query() {
            walk.only(query);
        }
        while let Some(ids) = insist(async || walk.next().await.map_err(unusable)).await? {
            let ids = self.sampled(ids.into_iter().filter(|id| self.part.has(id)).collect());
            let present = insist(async || Ok(keys.present(&ids).await?)).await?;
            let present: std::collections::HashSet<Id> = present.into_iter().collect();
            let count = ids.len() as u64;
            self.found.index_ids += count;
            self.took(count, ids.into_iter().filter(|id| !present.contains(id)).collect()).await?;
            if self.found.stopped.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn sampled(&self, mut ids: Vec<Id>) -> Vec<Id> {
        if self.options.sample < 1.0 {
            ids.retain(|_| fastrand::f64() < self.options.sample);
        }
        ids
    }

    /// Takes note of a chunk that was looked at, and looks again at what it is time for.
    async fn took(&mut self, count: u64, doubtful: Vec<Id>) -> anyhow::Result<()> {
        self.suspects.add(doubtful);
        (self.tell)(Event::Looked(count));
        self.look_again().await?;
        if self.suspects.len() + self.wrong.len() > SUSPECTS_MAX {
            self.found.stopped = Some(format!(
                "more than {SUSPECTS_MAX} differences: enqueue all with `pinion enqueue {} --all`",
                self.found.job
            ));
        }
        self.rest().await;
        Ok(())
    }

    /// Waits for as long as the pace and gentleness ask for.
    async fn rest(&mut self) {
        let rest = if self.options.gentle { self.went_on.elapsed() } else { Duration::ZERO };
        let done = (self.found.source_ids + self.found.index_ids) as f64;
        let due = self.options.ids_per_second_max.map(|rate| Duration::from_secs_f64(done / f64::from(rate)));
        let early = due.unwrap_or_default().saturating_sub(self.began.elapsed());
        tokio::time::sleep(rest.max(early)).await;
        self.went_on = Instant::now();
    }

    /// Looks again at the suspects whose time has come.
    async fn look_again(&mut self) -> anyhow::Result<()> {
        while let Some(due) = self.suspects.due(DOCUMENTS) {
            let ids: Vec<Id> = due.iter().map(|suspect| suspect.id.clone()).collect();
            let look = self.look;
            for (suspect, seen) in due.into_iter().zip(insist(async || look.closely(ids.clone()).await).await?) {
                self.judge(suspect, seen);
            }
        }
        Ok(())
    }

    /// A difference stands if the index still holds what it held, or what is older than the first reading that showed the difference,
    /// when a worker should long have mended it.
    fn judge(&mut self, suspect: Suspect, seen: Seen) {
        if matches!(seen.finding, Finding::Equal) {
            self.found.in_flight += 1;
            return;
        }
        let Some(first) = suspect.first_read else {
            self.suspects.saw(suspect, seen.read);
            return;
        };
        let is_future = seen.held.is_some_and(|held| held > seen.read);
        let was_written_since = seen.held.is_some_and(|held| held >= first) && !is_future;
        if was_written_since && !matches!(seen.finding, Finding::Unwritable(_)) {
            self.found.in_flight += 1;
            return;
        }
        if !suspect.is_out_of_patience(self.options.patience) {
            self.suspects.wait(suspect);
            return;
        }
        self.report(seen, is_future);
    }

    fn report(&mut self, seen: Seen, is_future: bool) {
        if let Some(held) = seen.held.filter(|_| is_future) {
            self.future = Some(self.future.map_or((held, seen.read), |known| known.max((held, seen.read))));
        }
        let Self { found, options, wrong, .. } = self;
        let examples_max = options.examples_max;
        found.from_the_future += u64::from(is_future);
        match seen.finding {
            Finding::Equal => return,
            Finding::Missing => found.missing.add(&seen.id, examples_max),
            Finding::Orphaned => found.orphaned.add(&seen.id, examples_max),
            Finding::Unwritable(problem) => {
                tracing::warn!(job = found.job, id = %seen.id, problem, "the row makes no document");
                found.unwritable.add(&seen.id, examples_max);
                return;
            }
            Finding::Different(places) => {
                found.different.add(&seen.id, examples_max);
                count(&mut found.fields, &places);
                if found.examples.len() < examples_max {
                    found.examples.push(Example { id: seen.id.to_string(), differences: places });
                }
            }
        }
        wrong.push(seen.id);
    }

    /// Waits for the last suspects, repairs, and sums up.
    async fn finish(mut self) -> anyhow::Result<Verified> {
        while let Some(next) = self.suspects.next_due() {
            (self.tell)(Event::Waiting(self.suspects.len()));
            tokio::time::sleep_until(next.into()).await;
            self.look_again().await?;
        }
        if self.options.sample < 1.0 {
            let looked = self.found.source_ids.max(self.found.index_ids);
            self.found.wrong_part_max = Some(upper_bound(self.found.wrong(), looked));
        }
        if self.options.repair && !self.wrong.is_empty() {
            self.found.passed = match self.future {
                Some((held, read)) if held.generation() == read.generation() => {
                    // What is read after this has a newer version.
                    Some(self.look.context.source(self.look.job)?.pass(held.position()).await?)
                }
                Some(_) => Some(false),
                None => None,
            };
            let ids: Vec<String> = self.wrong.iter().map(Id::to_string).collect();
            let options = EnqueueOptions { lane: Lane::Low, ids_per_message: 100 };
            let enqueued = enqueue(self.look.context, &self.found.job, Ids::Given(&ids), options, &|_| {}).await?;
            self.found.repaired = enqueued.ids;
            self.found.stopped = self.found.stopped.or(enqueued.stopped);
        }
        self.found.seconds = self.began.elapsed().as_secs_f64();
        if self.options.index.is_none() {
            keep(self.look.context, &self.found).await?;
        }
        Ok(self.found)
    }
}

/// Keeps the result, for whoever asks later when the job was verified last.
async fn keep(context: &Context, found: &Verified) -> anyhow::Result<()> {
    let id = format!("{}@{}", found.job, found.started_at);
    let kept = json!({
        "job": found.job,
        "started_at": found.started_at,
        "full": found.full,
        "sampled": found.wrong_part_max.is_some() || found.range.is_some(),
        "looked": found.source_ids + found.index_ids,
        "wrong": found.wrong(),
        "result": found,
    });
    State::of(context, StateIndex::Verifications).merge(&id, &kept).await
}

/// The upper end of Wilson's interval for a part of which `wrong` of `looked` were seen, at 95 % on one side.
fn upper_bound(wrong: u64, looked: u64) -> f64 {
    const Z: f64 = 1.6449;
    if looked == 0 {
        return 1.0;
    }
    let (count, part) = (looked as f64, wrong as f64 / looked as f64);
    let square = Z * Z;
    let spread = Z * (part * (1.0 - part) / count + square / (4.0 * count * count)).sqrt();
    ((part + square / (2.0 * count) + spread) / (1.0 + square / count)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::upper_bound;

    #[test]
    fn a_sample_bounds_what_is_wrong() {
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-4, "{found}");
        close(upper_bound(0, 0), 1.0);
        // Near the rule of three, 3 / 1,000.
        close(upper_bound(0, 1_000), 0.0027);
        close(upper_bound(10, 1_000), 0.016657);
        close(upper_bound(5, 5), 1.0);
    }
}
