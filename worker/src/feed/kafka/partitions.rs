//! The partitions that this member of the group has, and how far each of them is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionList;
use tokio::sync::watch;

use crate::pipeline::delivery::{Ledger, Receipt};

/// A topic and the number of a partition.
pub(crate) type Key = (String, i32);

/// The partitions that were given to this member.
#[derive(Default)]
pub(crate) struct Partitions {
    places: Mutex<HashMap<Key, Place>>,
}

/// One partition: the events that are not done, the accounts' tags counted from 1.
struct Place {
    ledger: Arc<Ledger>,
    done: watch::Receiver<u64>,
    /// Offsets, and when Kafka got the events, in milliseconds since 1970.
    open: VecDeque<(i64, u64)>,
    /// The tag of `open[0]`.
    first: u64,
    /// The last event that is done with all before it.
    last: Option<(i64, u64)>,
    /// Up to where the library has fetched, and handed over everything.
    drained_to: Option<i64>,
    /// Not so where an event came after its partition was given away.
    is_assigned: bool,
}

/// How far an assigned partition is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) key: Key,
    /// The first event that is not done; not known before the first one has come.
    pub(crate) position: Option<i64>,
    /// When Kafka got the oldest event that was taken and is not done, in milliseconds since 1970.
    pub(crate) open_since_ms: Option<u64>,
    /// When Kafka got the last event that is done, likewise.
    pub(crate) last_ms: Option<u64>,
    /// Where nothing is open: everything below this offset was fetched. A transaction's marker is no event but takes an offset,
    /// so this may be more than the position.
    pub(crate) drained_to: Option<i64>,
}

impl Default for Place {
    fn default() -> Self {
        let ledger = Ledger::new(1);
        Self {
            done: ledger.acknowledgements(),
            ledger,
            open: VecDeque::new(),
            first: 1,
            last: None,
            drained_to: None,
            is_assigned: false,
        }
    }
}

impl Place {
    fn receive(&mut self, offset: i64, at_ms: u64, parts: u32) -> Receipt {
        self.open.push_back((offset, at_ms));
        self.ledger.receive(parts)
    }

    /// The offset up to which everything is done, if it has risen.
    fn done(&mut self) -> Option<i64> {
        let done = *self.done.borrow_and_update();
        let before = self.first;
        while self.first <= done {
            self.last = self.open.pop_front().or(self.last);
            self.first += 1;
        }
        self.last.filter(|_| self.first > before).map(|(offset, _)| offset)
    }

    fn standing(&self, key: &Key) -> Standing {
        let first_open = self.open.front();
        Standing {
            key: key.clone(),
            position: self.last.map(|(offset, _)| offset + 1).or(first_open.map(|(offset, _)| *offset)),
            open_since_ms: first_open.map(|(_, at_ms)| *at_ms),
            last_ms: self.last.map(|(_, at_ms)| at_ms),
            drained_to: self.drained_to.filter(|_| first_open.is_none()),
        }
    }
}

impl Partitions {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an event that Kafka got at `at_ms`, with so many parts that have to be done.
    pub(super) fn receive(&self, key: Key, offset: i64, at_ms: u64, parts: u32) -> Receipt {
        self.lock().entry(key).or_default().receive(offset, at_ms, parts)
    }

    /// Tells the library what is done by now.
    pub(super) fn store<C: ConsumerContext>(&self, consumer: &impl Consumer<C>) {
        for (key, place) in self.lock().iter_mut() {
            if let Some(offset) = place.done() {
                store(consumer, key, offset);
            }
        }
    }

    /// How many events are not done, or wait for one that is not.
    pub(super) fn open(&self) -> usize {
        self.lock().values().map(|place| place.open.len()).sum()
    }

    /// How far each assigned partition is.
    pub(crate) fn standings(&self) -> Vec<Standing> {
        let places = self.lock();
        places.iter().filter(|(_, place)| place.is_assigned).map(|(key, place)| place.standing(key)).collect()
    }

    /// Forgets partitions that are given away; what is done of them is stored.
    fn forget(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let mut places = self.lock();
        for key in keys(partitions) {
            if let Some(offset) = places.remove(&key).and_then(|mut place| place.done()) {
                store(consumer, &key, offset);
            }
        }
    }

    /// Begins partitions anew. An event that was on its way when its partition was given away may have opened it before.
    fn begin(&self, partitions: &TopicPartitionList) {
        let mut places = self.lock();
        places.extend(keys(partitions).map(|key| (key, Place { is_assigned: true, ..Place::default() })));
    }
}

fn keys(partitions: &TopicPartitionList) -> impl Iterator<Item = Key> {
    partitions.elements().into_iter().map(|element| (element.topic().to_owned(), element.partition()))
}

fn store<C: ConsumerContext>(consumer: &impl Consumer<C>, (topic, partition): &Key, offset: i64) {
    // The partition may just have been given to another worker, which then reads these events again.
    if let Err(error) = consumer.store_offset(topic, *partition, offset) {
        tracing::debug!(%error, topic, partition, offset, "offset not stored");
    }
}

impl ClientContext for Partitions {
    fn stats(&self, statistics: Statistics) {
        let mut places = self.lock();
        for (name, topic) in statistics.topics {
            for (number, partition) in topic.partitions {
                if let Some(place) = places.get_mut(&(name.clone(), number)) {
                    let has_fetched = partition.fetchq_cnt == 0 && partition.next_offset >= 0;
                    place.drained_to = has_fetched.then_some(partition.next_offset);
                }
            }
        }
    }
}

impl ConsumerContext for Partitions {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(partitions) => self.forget(consumer, partitions),
            Rebalance::Assign(partitions) => self.begin(partitions),
            Rebalance::Error(error) => tracing::warn!(%error, "the feed's partitions could not be shared out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn events_that_touch_nothing_are_done_at_once() {
        let mut place = Place::default();
        for offset in [3, 5] {
            let _nothing = place.receive(offset, 7, 0);
        }
        assert_eq!(place.done(), Some(5));
        assert_eq!(place.done(), None);
    }

    #[test]
    fn a_place_tells_how_far_it_is() {
        let mut place = Place { drained_to: Some(9), ..Place::default() };
        let key = ("t".to_owned(), 0);
        assert_eq!((place.standing(&key).position, place.standing(&key).drained_to), (None, Some(9)));
        let receipts = [place.receive(3, 100, 1), place.receive(5, 200, 1)];
        let begun = place.standing(&key);
        assert_eq!((begun.position, begun.open_since_ms, begun.drained_to), (Some(3), Some(100), None));
        Receipt::settle_all(&receipts[..1]);
        assert_eq!(place.done(), Some(3));
        let half = place.standing(&key);
        assert_eq!((half.position, half.open_since_ms, half.last_ms), (Some(4), Some(200), Some(100)));
        Receipt::settle_all(&receipts[1..]);
        assert_eq!(place.done(), Some(5));
        let done = place.standing(&key);
        assert_eq!((done.position, done.open_since_ms, done.drained_to), (Some(6), None, Some(9)));
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
            let receipts: Vec<Receipt> = offsets.iter().map(|offset| place.receive(*offset, 0, 1)).collect();
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
            prop_assert!(place.open.is_empty());
        }
    }
}
