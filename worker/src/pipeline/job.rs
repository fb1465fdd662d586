//! One job with everything that its batches need on their way.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pinion_schemas::{From, JobDefinition, Names, StateIndex};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::conflicts::Conflicts;
use super::speed::Speed;
use super::targets::Lease;
use crate::backlog::Backlog;
use crate::config::Config;
use crate::gate::Gate;
use crate::generation::Generations;
use crate::limit::{AdaptiveLimit, LiveTraffic, Share};
use crate::metrics::{Metrics, job_label, verdict_label};
use crate::ports::{Broker, Database, Index};

/// What a document is taken to weigh before one was seen: first batches are small, so that
/// a job of large documents doesn't begin with a huge read.
const FIRST_DOCUMENT_BYTES: usize = 16 * 1024;

/// A job as the pipeline sees it: its [`Parts`], and what it learns. Shared by all of its lanes and batches.
pub struct Job {
    parts: Parts,
    /// This job's metrics.
    pub meters: Meters,
    /// How many of its writes the index refuses for a newer version.
    pub conflicts: Conflicts,
    /// Which indexes it writes to.
    pub lease: Lease,
    /// The moving mean of a document's bytes in a bulk request.
    document_bytes: AtomicUsize,
    /// How fast its rows are read.
    pub speed: Speed,
    /// What keeps batches waiting; `None` once one got through. Written by batches, read by the runner.
    hindrance: Mutex<Option<String>>,
}

/// What a [`Job`] is made of.
pub struct Parts {
    /// What the job's folder says.
    pub definition: JobDefinition,
    /// Bounds and names from the configuration.
    pub settings: Settings,
    /// Where documents are read.
    pub database: Arc<dyn Database>,
    /// The generations of its source's versions.
    pub generations: Arc<Generations>,
    /// Where they go.
    pub index: Arc<dyn Index>,
    /// Where retries wait.
    pub broker: Arc<dyn Broker>,
    /// Batches on their way, this job's part of the worker's.
    pub batches: Share,
    /// Whether live messages come, to any job of the worker.
    pub live: Arc<LiveTraffic>,
    /// The full batches on their way, of all jobs of the worker.
    pub backlog: Backlog,
    /// Reads in flight, this job's part of its source's.
    pub fetches: Share,
    /// Bulk requests in flight, of all jobs.
    pub bulks: Arc<AdaptiveLimit>,
    /// The gates of the servers that this job needs.
    pub gates: Vec<Gate>,
}

impl Deref for Job {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// What a job takes from the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Names of exchange, queues and state indexes.
    pub names: Names,
    /// The index of dead letters.
    pub dead_letters: String,
    /// This worker's name, as dead letters and heartbeats show it.
    pub worker: Arc<str>,
    /// See [`crate::config::Worker::batch_max`].
    pub batch_max: usize,
    /// See [`crate::config::Worker::low_in_flight_max`].
    pub low_in_flight_max: usize,
    /// See [`crate::config::Worker::linger_ms_max`].
    pub linger: Duration,
    /// See [`crate::config::Worker::bulk_bytes_max`].
    pub bulk_bytes_max: usize,
    /// See [`crate::config::Worker::fetch_s_max`].
    pub fetch: Duration,
    /// See [`crate::config::Worker::document_age_s_max`].
    pub document_age: Duration,
    /// See [`crate::config::Worker::attempts_max`].
    pub attempts_max: u32,
    /// See [`crate::config::Worker::deliveries_max`].
    pub deliveries_max: u64,
    /// See [`crate::config::Worker::hold_s_max`].
    pub hold: Duration,
    /// How long after a delete its id is looked at again.
    pub second_look_s: u64,
}

impl Settings {
    /// The settings of `config` for the worker named `worker`.
    pub fn new(config: &Config, worker: Arc<str>) -> Self {
        let limits = &config.worker;
        Self {
            names: config.names.clone(),
            dead_letters: config.names.state_index(StateIndex::DeadLetters),
            worker,
            batch_max: limits.batch_max,
            low_in_flight_max: limits.low_in_flight_max,
            linger: Duration::from_millis(limits.linger_ms_max),
            bulk_bytes_max: limits.bulk_bytes_max,
            fetch: Duration::from_secs(limits.fetch_s_max),
            document_age: Duration::from_secs(limits.document_age_s_max),
            attempts_max: limits.attempts_max,
            deliveries_max: limits.deliveries_max,
            hold: Duration::from_secs(limits.hold_s_max),
            second_look_s: config.second_look_after().as_secs(),
        }
    }
}

/// The metrics that batches write, looked up once.
#[derive(Debug)]
pub struct Meters {
    /// All metrics, for the rare ones.
    pub all: Arc<Metrics>,
    /// See [`Metrics::messages`].
    pub accepted: Counter,
    /// See [`Metrics`].
    pub coalesced: Counter,
    /// See [`Metrics`].
    pub batch_ids: Histogram,
    /// See [`Metrics`].
    pub fence_seconds: Histogram,
    /// See [`Metrics`].
    pub fetch_seconds: Histogram,
    /// See [`Metrics`].
    pub bulk_seconds: Histogram,
    /// See [`Metrics`].
    pub end_to_end_seconds: Histogram,
}

impl Meters {
    /// The metrics of `job`.
    pub fn new(all: Arc<Metrics>, job: &str) -> Self {
        let label = job_label(job);
        let meters = all.clone();
        let all = &*all;
        Self {
            accepted: all.messages.get_or_create(&verdict_label(job, "accepted")).clone(),
            coalesced: all.coalesced.get_or_create(&label).clone(),
            batch_ids: all.batch_ids.get_or_create(&label).clone(),
            fence_seconds: all.fence_seconds.get_or_create(&label).clone(),
            fetch_seconds: all.fetch_seconds.get_or_create(&label).clone(),
            bulk_seconds: all.bulk_seconds.get_or_create(&label).clone(),
            end_to_end_seconds: all.end_to_end_seconds.get_or_create(&label).clone(),
            all: meters,
        }
    }
}

impl Job {
    /// A job of these parts, which counts in `metrics`.
    pub fn new(parts: Parts, metrics: Arc<Metrics>) -> Self {
        Self {
            meters: Meters::new(metrics, &parts.definition.name),
            lease: Lease::new(&parts.definition),
            speed: Speed::new(parts.settings.fetch.min(parts.settings.document_age)),
            parts,
            conflicts: Conflicts::default(),
            document_bytes: AtomicUsize::new(FIRST_DOCUMENT_BYTES),
            hindrance: Mutex::new(None),
        }
    }

    /// The job's name.
    pub fn name(&self) -> &str {
        &self.definition.name
    }

    /// What the state of its queue is told under. The state of a job from events is that of the events.
    pub fn queue_name(&self) -> Cow<'_, str> {
        match self.definition.from {
            From::Query => self.name().into(),
            From::Event => format!("{} (queue)", self.name()).into(),
        }
    }

    /// Ids in a batch now: the configured number, fewer under pushback, with large documents or with rows that take long.
    pub fn batch_size(&self) -> usize {
        let fitting = self.settings.bulk_bytes_max / self.document_bytes.load(Ordering::Relaxed).max(1);
        let readable = self.speed.readable(self.settings.batch_max);
        self.bulks.batch_size(readable).min(fitting).max(1)
    }

    /// What a bulk request of so many documents is taken to weigh: a little more than their mean says, since batches differ.
    pub fn bytes_of(&self, documents: usize) -> usize {
        let bytes = documents.saturating_mul(self.document_bytes.load(Ordering::Relaxed));
        bytes.saturating_add(bytes / 20).min(self.settings.bulk_bytes_max)
    }

    /// Learns what documents weigh, from `documents` that took `bytes`.
    pub fn learn_size(&self, bytes: usize, documents: usize) {
        let Some(seen) = bytes.checked_div(documents) else { return };
        let known = self.document_bytes.load(Ordering::Relaxed);
        // Up at once, down slowly: a request that is too large is read twice.
        let next = if seen > known { seen } else { known - (known - seen) / 4 };
        self.document_bytes.store(next, Ordering::Relaxed);
    }

    /// Waits until every server that the job needs is there.
    pub async fn gates_opened(&self) {
        for gate in &self.gates {
            gate.opened().await;
        }
    }

    /// The first server that is away, with the reason.
    pub fn away(&self) -> Option<String> {
        self.gates.iter().find_map(|gate| Some(format!("{} is away: {}", gate.service(), gate.reason()?)))
    }

    /// Notes what keeps a batch waiting, or that one got through.
    pub fn set_hindrance(&self, reason: Option<String>) {
        *self.hindrance.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// What keeps batches waiting.
    pub fn hindrance(&self) -> Option<String> {
        self.hindrance.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("name", &self.definition.name).finish_non_exhaustive()
    }
}
