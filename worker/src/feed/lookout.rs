//! Whether the feed moves: what is behind, which partitions stand still, and which sources are silent though they change.
//!
//! It asks the brokers and the databases by itself, so it sees a feed that has stopped as well as one that runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Feed;
use super::kafka::{Key, Observer, Partitions, Standing};
use crate::clock::now_ms;
use crate::metrics::{FeedTopicLabel, Metrics, feed_partition_label};
use crate::ports::Position;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What it saw last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sight {
    /// Partitions of this worker that stand still, though there are events for them.
    pub(super) stalled: Option<String>,
    /// Sources that change while nothing comes of them.
    pub(super) silent: Option<String>,
}

/// Looks until it is aborted, and takes its metrics away then.
pub(super) async fn run(feed: Arc<Feed>, observer: Observer, partitions: Arc<Partitions>, sight: watch::Sender<Sight>) {
    let mut lookout = Lookout::new(feed);
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let seen = lookout.look(&observer, &partitions).await;
        sight.send_if_modified(|last| {
            let changed = *last != seen;
            *last = seen;
            changed
        });
    }
}

struct Lookout {
    feed: Arc<Feed>,
    /// As they were known last: where the brokers are away, what was behind stays behind.
    ends: BTreeMap<Key, i64>,
    progress: HashMap<Key, Progress>,
    /// By the source's name.
    silences: BTreeMap<String, Silence>,
    shown: Shown,
}

impl Lookout {
    fn new(feed: Arc<Feed>) -> Self {
        let shown = Shown { metrics: feed.metrics.clone(), topics: BTreeSet::new(), places: BTreeSet::new() };
        Self { feed, ends: BTreeMap::new(), progress: HashMap::new(), silences: BTreeMap::new(), shown }
    }

    async fn look(&mut self, observer: &Observer, partitions: &Partitions) -> Sight {
        match observer.ends().await {
            Ok(ends) => {
                self.ends = ends;
                self.listen().await;
            }
            Err(error) => {
                // Nobody can hear anything now: silence is counted anew.
                tracing::debug!(error, "where the topics end is not known");
                self.silences.retain(|_, silence| silence.is_silent);
            }
        }
        let standings = partitions.standings();
        let (now, at_ms) = (Instant::now(), now_ms());
        self.progress.retain(|key, _| standings.iter().any(|standing| standing.key == *key));
        let stall_max = Duration::from_secs(self.feed.kafka().stall_s_max);
        let mut lags = Vec::new();
        let mut stalled = Vec::new();
        for standing in &standings {
            let progress = self.progress.entry(standing.key.clone()).or_insert_with(|| Progress::new(now));
            let lag = progress.lag(standing, self.ends.get(&standing.key).copied(), now, at_ms);
            let still = now.saturating_duration_since(progress.moved_at);
            if lag.events > 0 && still > stall_max {
                let (topic, partition) = &standing.key;
                stalled.push(format!("{topic} partition {partition}"));
            }
            lags.push((standing, lag));
        }
        self.shown.tell(&lags, self.ends.len(), stalled.len());
        Sight { stalled: stall_reason(&stalled, stall_max), silent: self.silent() }
    }

    /// Hears which sources have told something since the last look.
    async fn listen(&mut self) {
        let max = Duration::from_secs(self.feed.kafka().silence_s_max);
        if max.is_zero() {
            return;
        }
        for name in self.feed.config.feed_sources() {
            let Some(database) = self.feed.sources.get(name) else { continue };
            let of_source = self.ends.iter().filter(|((topic, _), _)| self.feed.config.source_of(topic) == Some(name));
            let heard = of_source.map(|(_, end)| *end).sum();
            // A source that does not answer is told of by whoever needs it.
            let position = database.position().await.ok();
            let now = Instant::now();
            let silence = self.silences.entry(name.to_owned()).or_insert_with(|| Silence::new(now));
            let was_silent = silence.is_silent;
            silence.hear(heard, position, now, max);
            if silence.is_silent && !was_silent {
                tracing::error!(source = name, silence_s_max = max.as_secs(), "{}", silence_reason(&[name], max));
            } else if was_silent && !silence.is_silent {
                tracing::info!(source = name, "the feed is not silent any more");
            }
            self.shown.silent(name, silence.is_silent);
        }
    }

    fn silent(&self) -> Option<String> {
        let silent = self.silences.iter().filter(|(_, silence)| silence.is_silent);
        let names: Vec<&str> = silent.map(|(name, _)| name.as_str()).collect();
        let max = Duration::from_secs(self.feed.kafka().silence_s_max);
        (!names.is_empty()).then(|| silence_reason(&names, max))
    }
}

fn silence_reason(sources: &[&str], max: Duration) -> String {
    format!(
        "silent: neither an event nor a heartbeat of {} for more than {} s, while the database's log goes on; does the connector run?",
        sources.join(", "),
        max.as_secs()
    )
}

fn stall_reason(stalled: &[String], max: Duration) -> Option<String> {
    let first = stalled.first()?;
    let more = match stalled.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!("stands still for more than {} s, with events to take: {first}{more}", max.as_secs()))
}

/// How a partition moves.
#[derive(Debug, PartialEq, Eq)]
struct Progress {
    position: Option<i64>,
    /// When its position rose last, or it was at its end.
    moved_at: Instant,
    at_end: Option<Instant>,
}

/// What is behind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Lag {
    events: u64,
    /// The age of the oldest event that is not done.
    age: Duration,
}

impl Progress {
    fn new(now: Instant) -> Self {
        Self { position: None, moved_at: now, at_end: None }
    }

    /// Takes note of how far the partition is, and tells what is behind.
    fn lag(&mut self, standing: &Standing, end: Option<i64>, now: Instant, at_ms: u64) -> Lag {
        let Some(end) = end else { return Lag::default() };
        let position = standing.position.or(standing.drained_to);
        let is_at_end = standing.drained_to.is_some_and(|drained_to| drained_to >= end);
        if is_at_end || position.is_some_and(|position| position >= end) {
            *self = Self { position, moved_at: now, at_end: Some(now) };
            return Lag::default();
        }
        if self.position != position {
            (self.position, self.moved_at) = (position, now);
        }
        let age = |then_ms| Duration::from_millis(at_ms.saturating_sub(then_ms));
        let age = match (standing.open_since_ms, standing.last_ms, self.at_end) {
            (Some(open_since_ms), ..) => age(open_since_ms),
            // What comes next is younger than what came last, and came after the partition was at its end.
            (None, last_ms, at_end) => {
                let since_end = at_end.map(|then| now.saturating_duration_since(then));
                last_ms.map(age).into_iter().chain(since_end).min().unwrap_or_default()
            }
        };
        let events = position.map_or(1, |position| end.saturating_sub(position).max(0).cast_unsigned());
        Lag { events, age }
    }
}

/// How long nothing was heard of a source.
#[derive(Debug)]
struct Silence {
    /// The sum of the ends of its partitions: each event raises it.
    heard: i64,
    since: Instant,
    /// Where the database was then.
    position: Option<Position>,
    is_silent: bool,
}

impl Silence {
    fn new(now: Instant) -> Self {
        Self { heard: -1, since: now, position: None, is_silent: false }
    }

    fn hear(&mut self, heard: i64, position: Option<Position>, now: Instant, max: Duration) {
        if heard != self.heard {
            *self = Self { heard, since: now, position, is_silent: false };
            return;
        }
        self.position = self.position.take().or_else(|| position.clone());
        let known = self.position.as_ref();
        let moves = position.is_some_and(|position| !known.is_some_and(|known| known.is_same_place(&position)));
        // Once it is silent, only an event ends that: a database at rest proves nothing.
        self.is_silent |= moves && now.saturating_duration_since(self.since) > max;
    }
}

/// The metrics, of which those of partitions that were given away go.
struct Shown {
    metrics: Arc<Metrics>,
    topics: BTreeSet<String>,
    places: BTreeSet<Key>,
}

impl Shown {
    fn tell(&mut self, lags: &[(&Standing, Lag)], configured: usize, stalled: usize) {
        let metrics = &self.metrics;
        let mut topics: BTreeMap<String, Lag> = BTreeMap::new();
        let mut places = BTreeSet::new();
        for (standing, lag) in lags {
            let topic = topics.entry(standing.key.0.clone()).or_default();
            *topic = Lag { events: topic.events + lag.events, age: topic.age.max(lag.age) };
            if let Some(position) = standing.position {
                metrics.feed_position.get_or_create(&feed_partition_label(&standing.key)).set(position);
                places.insert(standing.key.clone());
            }
        }
        for (topic, lag) in &topics {
            let label = FeedTopicLabel { topic: topic.clone() };
            metrics.feed_lag_events.get_or_create(&label).set(i64::try_from(lag.events).unwrap_or(i64::MAX));
            metrics.feed_lag.get_or_create(&label).set(lag.age.as_secs_f64());
        }
        let counts = [("configured", configured), ("assigned", lags.len()), ("healthy", lags.len() - stalled)];
        for (partitions, count) in counts {
            metrics.feed_partitions(partitions).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.keep(&topics.into_keys().collect(), &places);
        self.places = places;
    }

    fn keep(&mut self, topics: &BTreeSet<String>, places: &BTreeSet<Key>) {
        for topic in self.topics.difference(topics) {
            let label = FeedTopicLabel { topic: topic.clone() };
            self.metrics.feed_lag_events.remove(&label);
            self.metrics.feed_lag.remove(&label);
        }
        for place in self.places.difference(places) {
            self.metrics.feed_position.remove(&feed_partition_label(place));
        }
        self.topics = topics.clone();
    }

    fn silent(&self, source: &str, is_silent: bool) {
        self.metrics.feed_silent(source).set(i64::from(is_silent));
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.keep(&BTreeSet::new(), &BTreeSet::new());
        self.metrics.feed_partitions.clear();
        self.metrics.feed_silent.clear();
    }
}

#[cfg(test)]
#[path = "lookout_tests.rs"]
mod tests;
