//! Every metric of the worker, in base units. No ids in labels.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// A gauge of a share, from 0 to 1.
pub type Share = Gauge<f64, AtomicU64>;

/// A gauge of seconds.
pub type Seconds = Gauge<f64, AtomicU64>;

/// The label of a metric kept for each job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JobLabel {
    /// The job's name.
    pub job: String,
}

/// The labels of a metric kept for each job and verdict (or reason).
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VerdictLabel {
    /// The job's name.
    pub job: String,
    /// One of a fixed set of words.
    pub verdict: &'static str,
}

/// The labels of the change feed's events.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FeedLabel {
    /// The table with its schema, or the topic of an event of no table.
    pub table: String,
    /// What happened, or what was wrong: one of a fixed set of words.
    pub operation: &'static str,
}

/// The label of a metric kept for each topic of the change feed: one for each table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FeedTopicLabel {
    /// The topic's name.
    pub topic: String,
}

/// The labels of a partition of the change feed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FeedPartitionLabel {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
}

/// The label of the counts of partitions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FeedStateLabel {
    /// One of a fixed set of words.
    pub state: &'static str,
}

/// The label of a metric kept for each source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabel {
    /// The source's name in the configuration.
    pub source: String,
}

/// All metrics and the registry that prints them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Messages received, by job and by what the source made of them
    /// (`accepted`, `undecodable`, `suspect`, `alone`, `moved`).
    pub messages: Family<VerdictLabel, Counter>,
    /// Documents settled, by job and verdict.
    pub documents: Family<VerdictLabel, Counter>,
    /// Ids that joined another delivery of the same id in their batch.
    pub coalesced: Family<JobLabel, Counter>,
    /// Batches that were run again, by job and fault.
    pub retries: Family<VerdictLabel, Counter>,
    /// Documents whose index holds a version that no read could have had yet.
    pub versions_from_the_future: Family<JobLabel, Counter>,
    /// The share of a job's last writes, about a thousand, that its index refused for a newer version.
    pub conflict_share: Family<JobLabel, Share>,
    /// 1 while that share is abnormal: see [`crate::pipeline::conflicts`].
    pub conflicts_abnormal: Family<JobLabel, Gauge>,
    /// Positions in messages (`after`) that were beyond the primary or not a position.
    pub after_ignored: Family<JobLabel, Counter>,
    /// 1 while a job is paused, by whom or what (`operator`, `broken`).
    pub paused: Family<VerdictLabel, Gauge>,
    /// Age of the oldest unsettled message that this worker holds.
    pub oldest_unsettled: Family<JobLabel, Seconds>,
    /// Events of the change feed, by table and operation.
    pub feed_events: Family<FeedLabel, Counter>,
    /// Ids that the feed published, by job and by what touched them: the document's own row (`row`), one of many that it is
    /// made of (`parent`), a query or a truncated table (`fan_out`).
    pub feed_published: Family<VerdictLabel, Counter>,
    /// The age of the oldest event that is not done, by topic, of this worker's partitions.
    pub feed_lag: Family<FeedTopicLabel, Seconds>,
    /// Events that are not done, likewise.
    pub feed_lag_events: Family<FeedTopicLabel, Gauge>,
    /// The first offset that is not done, by topic and partition.
    pub feed_position: Family<FeedPartitionLabel, Gauge>,
    /// Partitions of the feed's topics (`configured`), of this worker (`assigned`), and those of them that move or are at their
    /// end (`healthy`).
    pub feed_partitions: Family<FeedStateLabel, Gauge>,
    /// 1 while a source changes and nothing comes of it.
    pub feed_silent: Family<SourceLabel, Gauge>,
    /// From a change's commit to its jobs being on the broker.
    pub feed_publish_seconds: Histogram,
    /// Events that this worker has taken and that are not done, or wait for one that is not.
    pub feed_open: Gauge,
    /// Rows that were compared with their documents.
    pub verified: Family<JobLabel, Counter>,
    /// What the last verification found, by job and kind (`missing`, `orphaned`, `different`, `unwritable`).
    pub verify_wrong: Family<VerdictLabel, Gauge>,
    /// When the last verification of all documents of a job ended, in seconds since 1970.
    pub verify_full: Family<JobLabel, Seconds>,
    /// Ids that walks for `age_s_max` have enqueued.
    pub age_walked: Family<JobLabel, Counter>,
    /// Ids that rebuilds have enqueued.
    pub rebuild_loaded: Family<JobLabel, Counter>,
    /// When the last walk over all ids of a job ended, in seconds since 1970.
    pub age_walk: Family<JobLabel, Seconds>,
    /// Places of the adaptive limit.
    pub limit: Gauge,
    /// Bulk requests in flight.
    pub bulks_in_flight: Gauge,
    /// Ids a batch.
    pub batch_ids: Family<JobLabel, Histogram>,
    /// From the fence's position being asked to a server that shows it.
    pub fence_seconds: Family<JobLabel, Histogram>,
    /// From the query's start to its last row.
    pub fetch_seconds: Family<JobLabel, Histogram>,
    /// A bulk request's round trip.
    pub bulk_seconds: Family<JobLabel, Histogram>,
    /// From the message's `sent_ms` (or `timestamp`) to the settled document.
    pub end_to_end_seconds: Family<JobLabel, Histogram>,
}

/// 1 ms to about 2 minutes.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 1.8, 20))
}

fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 14))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("pinion"),
            messages: Family::default(),
            documents: Family::default(),
            coalesced: Family::default(),
            retries: Family::default(),
            versions_from_the_future: Family::default(),
            conflict_share: Family::default(),
            conflicts_abnormal: Family::default(),
            after_ignored: Family::default(),
            paused: Family::default(),
            oldest_unsettled: Family::default(),
            feed_events: Family::default(),
            feed_published: Family::default(),
            feed_lag: Family::default(),
            feed_lag_events: Family::default(),
            feed_position: Family::default(),
            feed_partitions: Family::default(),
            feed_silent: Family::default(),
            feed_publish_seconds: seconds(),
            feed_open: Gauge::default(),
            verified: Family::default(),
            verify_wrong: Family::default(),
            verify_full: Family::default(),
            age_walked: Family::default(),
            rebuild_loaded: Family::default(),
            age_walk: Family::default(),
            limit: Gauge::default(),
            bulks_in_flight: Gauge::default(),
            batch_ids: Family::new_with_constructor(sizes),
            fence_seconds: Family::new_with_constructor(seconds),
            fetch_seconds: Family::new_with_constructor(seconds),
            bulk_seconds: Family::new_with_constructor(seconds),
            end_to_end_seconds: Family::new_with_constructor(seconds),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("messages", "Messages received", self.messages.clone());
        registry.register("documents", "Documents settled, by verdict", self.documents.clone());
        registry.register("coalesced", "Ids that joined another delivery of their batch", self.coalesced.clone());
        registry.register("retries", "Batches run again, by fault", self.retries.clone());
        registry.register(
            "versions_from_the_future",
            "Documents whose index holds a version that no read could have had yet",
            self.versions_from_the_future.clone(),
        );
        let share = "Share of a job's last writes that its index refused for a newer version";
        registry.register("conflict_share", share, self.conflict_share.clone());
        let abnormal = "1 while that share is abnormal: the index may stand still";
        registry.register("conflicts_abnormal", abnormal, self.conflicts_abnormal.clone());
        registry.register("after_ignored", "Positions in messages that were ignored", self.after_ignored.clone());
        registry.register("paused", "1 while a job is paused, by whom", self.paused.clone());
        registry.register_with_unit(
            "oldest_unsettled",
            "Age of the oldest unsettled message",
            Unit::Seconds,
            self.oldest_unsettled.clone(),
        );
        self.register_feed();
        let registry = &mut self.registry;
        registry.register("verified", "Rows compared with their documents by `[verify]`", self.verified.clone());
        registry.register("verify_wrong", "What `[verify]` found last, by kind", self.verify_wrong.clone());
        let full = "When `[verify]` was last done with all documents of a job, as a Unix timestamp";
        registry.register_with_unit("verify_full_timestamp", full, Unit::Seconds, self.verify_full.clone());
        registry.register("rebuild_loaded", "Ids that rebuilds have enqueued", self.rebuild_loaded.clone());
        registry.register("age_walked", "Ids that walks for age_s_max have enqueued", self.age_walked.clone());
        let walk = "When the last walk over all ids of a job ended, as a Unix timestamp";
        registry.register_with_unit("age_walk_timestamp", walk, Unit::Seconds, self.age_walk.clone());
        registry.register("bulk_limit", "Places of the adaptive limit", self.limit.clone());
        registry.register("bulks_in_flight", "Bulk requests in flight", self.bulks_in_flight.clone());
        registry.register("batch_ids", "Ids a batch", self.batch_ids.clone());
        let timed = [
            ("fence", "Wait for a server that shows the fence", &self.fence_seconds),
            ("fetch", "Reading a batch's rows", &self.fetch_seconds),
            ("bulk", "A bulk request's round trip", &self.bulk_seconds),
            ("end_to_end", "From the message's sending to the settled document", &self.end_to_end_seconds),
        ];
        for (name, help, family) in timed {
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
        }
    }

    fn register_feed(&mut self) {
        let registry = &mut self.registry;
        registry.register("feed_events", "Events of the change feed", self.feed_events.clone());
        let published = "Ids that the feed published, by what touched them";
        registry.register("feed_published", published, self.feed_published.clone());
        registry.register("feed_open", "Events that are taken and not done", self.feed_open.clone());
        registry.register("feed_lag_events", "Events that are not done, by topic", self.feed_lag_events.clone());
        let age = "Age of the oldest event that is not done, by topic";
        registry.register_with_unit("feed_lag", age, Unit::Seconds, self.feed_lag.clone());
        registry.register("feed_position", "First offset that is not done", self.feed_position.clone());
        let partitions = "Partitions of the feed: configured, assigned to this worker, healthy of those";
        registry.register("feed_partitions", partitions, self.feed_partitions.clone());
        registry.register("feed_silent", "1 while a source changes and nothing comes of it", self.feed_silent.clone());
        let publish = "From a change's commit to its jobs being on the broker, without fan-outs";
        registry.register_with_unit("feed_publish", publish, Unit::Seconds, self.feed_publish_seconds.clone());
    }

    /// The count of partitions in a state.
    pub fn feed_partitions(&self, state: &'static str) -> Gauge {
        self.feed_partitions.get_or_create(&FeedStateLabel { state }).clone()
    }

    /// Whether a source is silent.
    pub fn feed_silent(&self, source: &str) -> Gauge {
        self.feed_silent.get_or_create(&SourceLabel { source: source.to_owned() }).clone()
    }

    /// The text that Prometheus reads (OpenMetrics).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a String does not fail");
        text
    }
}

/// The labels of `job`.
pub fn job_label(job: &str) -> JobLabel {
    JobLabel { job: job.to_owned() }
}

/// The labels of `job` and `verdict`.
pub fn verdict_label(job: &str, verdict: &'static str) -> VerdictLabel {
    VerdictLabel { job: job.to_owned(), verdict }
}

/// The labels of a partition of a topic.
pub fn feed_partition_label((topic, partition): &(String, i32)) -> FeedPartitionLabel {
    FeedPartitionLabel { topic: topic.clone(), partition: *partition }
}
