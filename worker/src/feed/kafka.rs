//! The events of the change feed, and how far they are done: a consumer group on Kafka.
//!
//! Offsets are stored up to the lowest event of a partition that is not done, and committed by the library: every few
//! seconds, when a partition is given away, and at the end.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, MessageStream, Rebalance, StreamConsumer};
use rdkafka::topic_partition_list::TopicPartitionList;
use tokio::sync::watch;

use crate::config;
use crate::pipeline::delivery::{Ledger, Receipt};

/// How soon a new topic is found.
const TOPICS_LOOK: Duration = Duration::from_secs(10);
/// How long the consumer may not ask for events, while a server is away, before its partitions are given to others.
const SILENCE_MAX: Duration = Duration::from_secs(30 * 60);
/// How long a worker that was killed keeps its partitions from the others.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// How long a broker has to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// What the library may fetch ahead, in KiB.
const FETCHED_KIB_MAX: u32 = 16 * 1024;

/// A member of the consumer group.
pub(super) struct Events {
    consumer: Arc<StreamConsumer<Partitions>>,
}

impl Events {
    /// Joins the group for the topics of the configuration.
    ///
    /// # Errors
    /// Something in the configuration that the library does not take.
    pub(super) fn join(kafka: &config::Kafka, worker: &str) -> Result<Self, String> {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", kafka.brokers.join(","))
            .set("group.id", &kafka.group)
            .set("client.id", format!("pinion-{worker}"))
            .set("enable.auto.commit", "true")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("allow.auto.create.topics", "false")
            .set("topic.metadata.refresh.interval.ms", TOPICS_LOOK.as_millis().to_string())
            .set("session.timeout.ms", GONE_AFTER.as_millis().to_string())
            .set("max.poll.interval.ms", SILENCE_MAX.as_millis().to_string())
            .set("queued.max.messages.kbytes", FETCHED_KIB_MAX.to_string())
            .set_log_level(RDKafkaLogLevel::Warning);
        let consumer: StreamConsumer<Partitions> =
            client.create_with_context(Partitions::default()).map_err(|error| format!("kafka: {error}"))?;
        let patterns: Vec<String> = kafka.topics.iter().map(|topic| pattern(topic)).collect();
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        consumer.subscribe(&patterns).map_err(|error| format!("kafka.topics: {error}"))?;
        Ok(Self { consumer: Arc::new(consumer) })
    }

    /// The events, as they come.
    pub(super) fn stream(&self) -> MessageStream<'_, Partitions> {
        self.consumer.stream()
    }

    /// Takes note of an event with so many parts that have to be done.
    pub(super) fn receive(&self, topic: &str, partition: i32, offset: i64, parts: u32) -> Receipt {
        let mut partitions = self.consumer.context().lock();
        let place = partitions.entry((topic.to_owned(), partition)).or_default();
        place.offsets.push_back(offset);
        place.ledger.receive(parts)
    }

    /// Tells the library what is done by now.
    pub(super) fn store(&self) {
        for ((topic, partition), place) in self.consumer.context().lock().iter_mut() {
            if let Some(offset) = place.done() {
                store(&*self.consumer, topic, *partition, offset);
            }
        }
    }

    /// Why no broker answers, if none does.
    pub(super) async fn trouble(&self) -> Option<String> {
        let consumer = self.consumer.clone();
        let asked = tokio::task::spawn_blocking(move || consumer.fetch_metadata(None, ANSWER_MAX)).await;
        match asked {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// How many events are not done, or wait for one that is not.
    pub(super) fn open(&self) -> usize {
        self.consumer.context().lock().values().map(|place| place.offsets.len()).sum()
    }
}

/// The names of all topics.
///
/// # Errors
/// No broker answers.
pub(crate) async fn topics(brokers: &[String]) -> Result<Vec<String>, String> {
    let brokers = brokers.join(",");
    let asked = tokio::task::spawn_blocking(move || {
        let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
        client.fetch_metadata(None, ANSWER_MAX)
    });
    let metadata = asked.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
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

fn store<C: ConsumerContext>(consumer: &impl rdkafka::consumer::Consumer<C>, topic: &str, partition: i32, offset: i64) {
    // The partition may just have been given to another worker, which then reads these events again.
    if let Err(error) = consumer.store_offset(topic, partition, offset) {
        tracing::debug!(%error, topic, partition, offset, "offset not stored");
    }
}

/// The assigned partitions.
#[derive(Default)]
pub(super) struct Partitions {
    places: Mutex<HashMap<(String, i32), Place>>,
}

/// One partition: the offsets of its events that are not done, the accounts' tags counted from 1.
struct Place {
    ledger: Arc<Ledger>,
    done: watch::Receiver<u64>,
    offsets: VecDeque<i64>,
    /// The tag of `offsets[0]`.
    first: u64,
}

impl Default for Place {
    fn default() -> Self {
        let ledger = Ledger::new(1);
        Self { done: ledger.acknowledgements(), ledger, offsets: VecDeque::new(), first: 1 }
    }
}

impl Place {
    /// The offset up to which everything is done, if it has risen.
    fn done(&mut self) -> Option<i64> {
        let done = *self.done.borrow_and_update();
        let mut last = None;
        while self.first <= done {
            last = self.offsets.pop_front();
            self.first += 1;
        }
        last
    }
}

impl Partitions {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, i32), Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets partitions, which are given away or begin anew; what is done of them is stored.
    fn forget(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let mut places = self.lock();
        for element in partitions.elements() {
            let key = (element.topic().to_owned(), element.partition());
            if let Some(offset) = places.remove(&key).and_then(|mut place| place.done()) {
                store(consumer, &key.0, key.1, offset);
            }
        }
    }
}

impl ClientContext for Partitions {}

impl ConsumerContext for Partitions {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(partitions) => self.forget(consumer, partitions),
            // An event that was on its way when its partition was given away may have opened it again.
            Rebalance::Assign(partitions) => {
                let mut places = self.lock();
                for element in partitions.elements() {
                    places.remove(&(element.topic().to_owned(), element.partition()));
                }
            }
            Rebalance::Error(error) => tracing::warn!(%error, "the feed's partitions could not be shared out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_they_are_written() {
        assert_eq!(pattern("shop.public.*"), "^shop\\.public\\..*$");
        assert_eq!(pattern("shop.public.order_items"), "^shop\\.public\\.order_items$");
    }

    #[test]
    fn events_that_touch_nothing_are_done_at_once() {
        let mut place = Place::default();
        for offset in [3, 5] {
            place.offsets.push_back(offset);
            let _nothing = place.ledger.receive(0);
        }
        assert_eq!(place.done(), Some(5));
    }

    proptest! {
        /// Never beyond an event that is not done, and up to the last one in the end.
        #[test]
        fn offsets_rise_to_the_lowest_that_is_not_done(
            gaps in proptest::collection::vec(1_i64..4, 1..40),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 1..80),
        ) {
            let mut place = Place::default();
            let offsets: Vec<i64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let receipts: Vec<Receipt> = offsets.iter().map(|offset| {
                place.offsets.push_back(*offset);
                place.ledger.receive(1)
            }).collect();
            let mut settled = vec![false; offsets.len()];
            let all = 0..offsets.len();
            let mut stored = 0;
            for number in order.iter().map(|index| index.index(offsets.len())).chain(all) {
                settled[number] = true;
                receipts[number].settle_message();
                stored = place.done().unwrap_or(stored);
                let prefix = settled.iter().take_while(|settled| **settled).count();
                prop_assert_eq!(stored, if prefix > 0 { offsets[prefix - 1] } else { 0 });
            }
            prop_assert!(place.offsets.is_empty());
        }
    }
}
