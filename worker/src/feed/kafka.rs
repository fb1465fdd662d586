//! The events of the change feed, and how far they are done: a consumer group on Kafka.
//!
//! Offsets are stored up to the lowest event of a partition that is not done, and committed by the library: every few
//! seconds, when a partition is given away, and at the end.

mod observer;
mod partitions;

use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, MessageStream, StreamConsumer};

pub(crate) use self::observer::{Attempt, Observer};
pub use self::observer::{Move, PartitionOffsets, Target};
pub(crate) use self::partitions::Key;
pub(crate) use self::partitions::{Partitions, Standing};
use super::format::Text;
use crate::config;
use crate::pipeline::delivery::Receipt;

/// How soon a new topic is found.
const TOPICS_LOOK: Duration = Duration::from_secs(10);
/// How long the consumer may not ask for events, while a server is away, before its partitions are given to others.
const SILENCE_MAX: Duration = Duration::from_secs(30 * 60);
/// How long a worker that was killed keeps its partitions from the others. The library's own threads send the heartbeats,
/// whatever the worker waits for, so the default of 45 s would only make documents old. Less would take a network's stutter
/// for a death, which costs that its events are taken twice.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// A third of it, as Kafka advises: two may be lost.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(3);
/// How often the library tells how far it has fetched.
const STATISTICS_EVERY: Duration = Duration::from_secs(2);
/// How long a broker has to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// What the library may fetch ahead, in KiB.
const FETCHED_KIB_MAX: u32 = 4 * 1024;
/// How long it then waits before it fetches again. Its default, a second, would be longer than what it has fetched lasts.
const FETCH_PAUSE: Duration = Duration::from_millis(5);

/// A member of the consumer group.
pub(crate) struct Events {
    consumer: Arc<StreamConsumer<Partitions>>,
}

impl Events {
    /// Joins the group for these topics, `*` stands for any text.
    ///
    /// # Errors
    /// Something in the configuration that the library does not take.
    pub(crate) fn join(kafka: &config::Kafka, topics: &[String], worker: &str) -> Result<Self, String> {
        let consumer: StreamConsumer<Partitions> = client(kafka)
            .set("client.id", format!("pinion-{worker}"))
            .set("enable.auto.commit", "true")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("topic.metadata.refresh.interval.ms", TOPICS_LOOK.as_millis().to_string())
            .set("max.poll.interval.ms", SILENCE_MAX.as_millis().to_string())
            .set("session.timeout.ms", GONE_AFTER.as_millis().to_string())
            .set("heartbeat.interval.ms", HEARTBEAT_EVERY.as_millis().to_string())
            .set("statistics.interval.ms", STATISTICS_EVERY.as_millis().to_string())
            .set("queued.max.messages.kbytes", FETCHED_KIB_MAX.to_string())
            .set("fetch.queue.backoff.ms", FETCH_PAUSE.as_millis().to_string())
            .create_with_context(Partitions::default())
            .map_err(|error| format!("kafka: {error}"))?;
        let patterns: Vec<String> = topics.iter().map(|topic| pattern(topic)).collect();
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        consumer.subscribe(&patterns).map_err(|error| format!("kafka.topics: {error}"))?;
        Ok(Self { consumer: Arc::new(consumer) })
    }

    /// The events, as they come.
    pub(crate) fn stream(&self) -> MessageStream<'_, Partitions> {
        self.consumer.stream()
    }

    /// The partitions of this member.
    pub(crate) fn partitions(&self) -> Arc<Partitions> {
        self.consumer.context().clone()
    }

    /// Takes note of an event with so many parts that have to be done.
    pub(crate) fn receive(&self, text: &Text<'_>, parts: u32) -> Receipt {
        let key = (text.topic.to_owned(), text.partition);
        self.consumer.context().receive(key, text.offset, text.at_ms, parts)
    }

    /// Tells the library what is done by now.
    pub(crate) fn store(&self) {
        self.consumer.context().store(&*self.consumer);
    }

    /// Why no broker answers, if none does.
    pub(crate) async fn trouble(&self) -> Option<String> {
        let consumer = self.consumer.clone();
        let asked = tokio::task::spawn_blocking(move || consumer.fetch_metadata(None, ANSWER_MAX)).await;
        match asked {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// How many events are not done, or wait for one that is not.
    pub(crate) fn open(&self) -> usize {
        self.consumer.context().open()
    }
}

/// The names of all topics.
///
/// # Errors
/// No broker answers.
pub(crate) async fn topics(kafka: &config::Kafka) -> Result<Vec<String>, String> {
    let client = client(kafka);
    let asked = tokio::task::spawn_blocking(move || {
        let client: BaseConsumer = client.create()?;
        client.fetch_metadata(None, ANSWER_MAX)
    });
    let metadata = asked.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
}

/// What every client of the brokers has in common.
fn client(kafka: &config::Kafka) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", kafka.brokers.join(","))
        .set("group.id", &kafka.group)
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Warning);
    client
}

/// `shop.public.*` as the library's regular expression.
fn pattern(topic: &str) -> String {
    let mut pattern = "^".to_owned();
    for character in topic.chars() {
        match character {
            '*' => pattern.push_str(".*"),
            character if character.is_alphanumeric() || "_-".contains(character) => pattern.push(character),
            character => pattern.extend(['\\', character]),
        }
    }
    pattern + "$"
}

/// Whether a topic is one of those that a pattern such as `shop.public.*` means.
fn matches(pattern: &str, topic: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == topic };
    let Some(rest) = topic.strip_prefix(before) else { return false };
    let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    ends.into_iter().any(|at| matches(after, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_they_are_written() {
        assert_eq!(pattern("shop.public.*"), "^shop\\.public\\..*$");
        assert_eq!(pattern("shop.public.order_items"), "^shop\\.public\\.order_items$");
        let cases = [
            ("shop.public.orders", "shop.public.orders", true),
            ("shop.public.orders", "shop.public.orders2", false),
            ("shop.public.*", "shop.public.orders", true),
            ("shop.public.*", "shop.publicorders", false),
            ("*.orders", "shop.public.orders", true),
            ("*order*s*", "shop.public.order_items", true),
            ("*order*s", "shop.public.order_items2", false),
            ("*", "", true),
        ];
        for (pattern, topic, expected) in cases {
            assert_eq!(matches(pattern, topic), expected, "{pattern} {topic}");
        }
    }
}
