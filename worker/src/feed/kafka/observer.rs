//! What the brokers know of the topics and of the group, asked without being a member of it; and moving the group back.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Serialize;

use super::{ANSWER_MAX, Key, client, matches};
use crate::config;

/// What is fetched of a partition to see its first event, in bytes; a larger event comes whole.
const PEEK_BYTES_MAX: u32 = 16 * 1024;

/// A client that is no member of the group.
#[derive(Clone)]
pub(crate) struct Observer {
    consumer: Arc<BaseConsumer>,
    /// The topics of the feed.
    patterns: Arc<[String]>,
    only: Option<Arc<str>>,
}

/// How far a partition is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionOffsets {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The first event that is not done; none where the group has done nothing of it yet.
    pub position: Option<i64>,
    /// The first event that Kafka still has.
    pub begin: i64,
    /// Where the next event will be.
    pub end: i64,
    /// Events that are not done.
    pub lag: u64,
    /// When Kafka got the first of them, in milliseconds since 1970; none where there is none, or it did not come in time.
    pub oldest_at: Option<u64>,
    /// Events that Kafka removed, after its topic's retention, before they were done.
    pub lost: u64,
}

/// To where the group is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To the first event that Kafka still has.
    Start,
    /// To the first event that Kafka got at this time or later, in milliseconds since 1970.
    Time(u64),
}

/// A partition whose events come again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The first event that is not done.
    pub from: i64,
    /// The first one that comes again.
    pub to: i64,
}

impl Move {
    /// How many events come again, at the most: markers of transactions and what was compacted are counted, too.
    pub fn events(&self) -> u64 {
        self.from.abs_diff(self.to)
    }
}

/// What came of moving the group.
pub(crate) enum Attempt {
    /// It was moved.
    Moved(Vec<Move>),
    /// It has members, so the brokers refused.
    Busy,
}

impl Observer {
    /// A client for these topics, of them only those like `only`; connects when it is asked something.
    ///
    /// # Errors
    /// Something in the configuration that the library does not take.
    pub(crate) fn new(kafka: &config::Kafka, patterns: Vec<String>, only: Option<&str>) -> Result<Self, String> {
        let consumer: BaseConsumer = client(kafka)
            .set("enable.auto.commit", "false")
            .set("fetch.message.max.bytes", PEEK_BYTES_MAX.to_string())
            .set("queued.min.messages", "1")
            .create()
            .map_err(|error| format!("kafka: {error}"))?;
        Ok(Self { consumer: Arc::new(consumer), patterns: patterns.into(), only: only.map(Arc::from) })
    }

    /// Asks away from the threads that other work shares: the library waits for its answers.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Self) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T, String> {
        let this = self.clone();
        let asked = tokio::task::spawn_blocking(move || question(&this)).await;
        asked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Where the next event of each partition will be.
    ///
    /// # Errors
    /// The brokers do not answer.
    pub(crate) async fn ends(&self) -> Result<BTreeMap<Key, i64>, String> {
        self.ask(|this| this.listed(&this.partitions()?, Offset::End)).await
    }

    /// How far each partition is done; `peek` is how long may be waited for the first events that are not.
    ///
    /// # Errors
    /// The brokers do not answer.
    pub(crate) async fn offsets(&self, peek: Duration) -> Result<Vec<PartitionOffsets>, String> {
        self.ask(move |this| {
            let mut offsets = this.positions()?;
            this.peek(&mut offsets, peek)?;
            Ok(offsets)
        })
        .await
    }

    /// What moving the group back to `target` would do. A partition that is there already, or before, is left as it is.
    ///
    /// # Errors
    /// The brokers do not answer.
    pub(crate) async fn moves(&self, target: Target) -> Result<Vec<Move>, String> {
        self.ask(move |this| this.moves_now(target)).await
    }

    /// Moves the group back to `target`. The brokers take this of a stranger only while the group has no members.
    ///
    /// # Errors
    /// The brokers do not answer, or refuse for another reason.
    pub(crate) async fn rewind(&self, target: Target) -> Result<Attempt, String> {
        self.ask(move |this| {
            let moves = this.moves_now(target)?;
            if moves.is_empty() {
                return Ok(Attempt::Moved(moves));
            }
            let mut offsets = TopicPartitionList::new();
            for Move { topic, partition, to, .. } in &moves {
                offsets.add_partition_offset(topic, *partition, Offset::Offset(*to))?;
            }
            match this.consumer.commit(&offsets, CommitMode::Sync) {
                Ok(()) => Ok(Attempt::Moved(moves)),
                Err(KafkaError::ConsumerCommit(
                    RDKafkaErrorCode::UnknownMemberId
                    | RDKafkaErrorCode::IllegalGeneration
                    | RDKafkaErrorCode::RebalanceInProgress,
                )) => Ok(Attempt::Busy),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// The partitions of all topics of the feed.
    fn partitions(&self) -> KafkaResult<Vec<Key>> {
        let metadata = self.consumer.fetch_metadata(None, ANSWER_MAX)?;
        let is_wanted = |topic: &str| self.only.as_deref().is_none_or(|only| matches(only, topic));
        let wanted = |topic: &str| is_wanted(topic) && self.patterns.iter().any(|pattern| matches(pattern, topic));
        let topics = metadata.topics().iter().filter(|topic| wanted(topic.name()));
        let of_topic = |topic: &rdkafka::metadata::MetadataTopic| -> Vec<Key> {
            topic.partitions().iter().map(|partition| (topic.name().to_owned(), partition.id())).collect()
        };
        Ok(topics.flat_map(of_topic).collect())
    }

    /// The offsets that the brokers list for each partition: the first ones, the next ones, or those of a time. None of a
    /// time where no event came since.
    fn listed(&self, partitions: &[Key], wanted: Offset) -> KafkaResult<BTreeMap<Key, i64>> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut question = TopicPartitionList::with_capacity(partitions.len());
        for (topic, partition) in partitions {
            // `Beginning` and `End` have the numbers that the protocol has for them in the place of a time.
            question.add_partition_offset(topic, *partition, wanted)?;
        }
        numbers(&self.consumer.offsets_for_times(question, ANSWER_MAX)?)
    }

    fn committed(&self, partitions: &[Key]) -> KafkaResult<BTreeMap<Key, i64>> {
        let mut question = TopicPartitionList::with_capacity(partitions.len());
        for (topic, partition) in partitions {
            question.add_partition(topic, *partition);
        }
        numbers(&self.consumer.committed_offsets(question, ANSWER_MAX)?)
    }

    fn positions(&self) -> KafkaResult<Vec<PartitionOffsets>> {
        let partitions = self.partitions()?;
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let committed = self.committed(&partitions)?;
        let begins = self.listed(&partitions, Offset::Beginning)?;
        // Last, so that nothing is done that is not there yet.
        let ends = self.listed(&partitions, Offset::End)?;
        let offsets = ends.into_iter().map(|(key, end)| {
            let begin = begins.get(&key).copied().unwrap_or_default();
            let position = committed.get(&key).copied();
            let (topic, partition) = key;
            let lag = end.saturating_sub(position.unwrap_or(begin).max(begin)).max(0).cast_unsigned();
            let lost = position.map_or(0, |position| begin.saturating_sub(position).max(0).cast_unsigned());
            PartitionOffsets { topic, partition, position, begin, end, lag, oldest_at: None, lost }
        });
        Ok(offsets.collect())
    }

    /// Looks when Kafka got the first events that are not done.
    fn peek(&self, offsets: &mut [PartitionOffsets], patience: Duration) -> KafkaResult<()> {
        let deadline = Instant::now() + patience;
        let mut assignment = TopicPartitionList::new();
        let mut wanted: HashSet<Key> = HashSet::new();
        for place in offsets.iter().filter(|place| place.lag > 0) {
            let first = Offset::Offset(place.position.unwrap_or(place.begin).max(place.begin));
            assignment.add_partition_offset(&place.topic, place.partition, first)?;
            wanted.insert((place.topic.clone(), place.partition));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        self.consumer.assign(&assignment)?;
        while !wanted.is_empty() && Instant::now() < deadline {
            // An error is another partition's, or passes.
            let Some(Ok(event)) = self.consumer.poll(deadline.saturating_duration_since(Instant::now())) else {
                continue;
            };
            let key = (event.topic().to_owned(), event.partition());
            let at_ms = event.timestamp().to_millis().and_then(|ms| u64::try_from(ms).ok());
            if wanted.remove(&key) {
                let place = offsets.iter_mut().find(|place| place.topic == key.0 && place.partition == key.1);
                place.into_iter().for_each(|place| place.oldest_at = at_ms);
                let mut seen = TopicPartitionList::new();
                seen.add_partition(&key.0, key.1);
                self.consumer.pause(&seen)?;
            }
        }
        self.consumer.unassign()
    }

    fn moves_now(&self, target: Target) -> KafkaResult<Vec<Move>> {
        let offsets = self.positions()?;
        let keys: Vec<Key> = offsets.iter().map(|place| (place.topic.clone(), place.partition)).collect();
        let since = match target {
            Target::Start => BTreeMap::new(),
            Target::Time(ms) => self.listed(&keys, Offset::Offset(i64::try_from(ms).unwrap_or(i64::MAX)))?,
        };
        Ok(offsets.into_iter().filter_map(|place| back(target, &since, place)).collect())
    }
}

/// The way back of one partition; none where it is there already, or before.
fn back(target: Target, since: &BTreeMap<Key, i64>, place: PartitionOffsets) -> Option<Move> {
    let PartitionOffsets { topic, partition, position, begin, end, .. } = place;
    let key = (topic, partition);
    let to = match target {
        Target::Start => begin,
        Target::Time(_) => since.get(&key).copied().unwrap_or(end).max(begin),
    };
    // What the group has done nothing of comes from its beginning anyway.
    let from = position.filter(|position| *position > to)?;
    Some(Move { topic: key.0, partition, from, to })
}

/// The offsets of a list that are numbers.
fn numbers(list: &TopicPartitionList) -> KafkaResult<BTreeMap<Key, i64>> {
    let mut numbers = BTreeMap::new();
    for element in list.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            numbers.insert((element.topic().to_owned(), element.partition()), offset);
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_only_ever_moved_back() {
        let place = |position: Option<i64>| PartitionOffsets {
            topic: "t".to_owned(),
            partition: 0,
            position,
            begin: 10,
            end: 50,
            lag: 0,
            oldest_at: None,
            lost: 0,
        };
        let to = |target, at: Option<i64>, position| {
            let since = at.map(|at| (("t".to_owned(), 0), at)).into_iter().collect();
            back(target, &since, place(position)).map(|moved| (moved.to, moved.events()))
        };
        let time = Target::Time(7);
        assert_eq!(to(Target::Start, None, Some(50)), Some((10, 40)));
        assert_eq!(to(Target::Start, None, Some(10)), None);
        assert_eq!(to(Target::Start, None, None), None);
        assert_eq!(to(time, Some(30), Some(50)), Some((30, 20)));
        assert_eq!(to(time, Some(30), Some(20)), None, "it would pass over events");
        assert_eq!(to(time, None, Some(50)), None, "nothing came since");
        assert_eq!(to(time, Some(2), Some(50)), Some((10, 40)));
        assert_eq!(to(time, Some(30), None), None);
    }
}
