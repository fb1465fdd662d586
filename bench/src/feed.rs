//! The change feed catches up: a topic full of events, then workers until every event is done and every document settled.

use anyhow::{Context as _, Result, ensure};

use crate::kafka::TOPIC;
use crate::pinion::{Followed, Pinion, Setup};
use crate::servers::Servers;
use crate::whole_way::{self, Sending, WholeWayRun};
use crate::{Bench, IDS_PER_MESSAGE};

/// With fewer orders the feed, which takes up to 1,000 events together, would find an order twice among them.
const ORDERS_MIN: usize = 1_000;
/// The events' transactions are different as far as the primary has had so many.
const TRANSACTIONS_MAX: usize = 1_000_000;

/// The filled topic; each run reads it from its beginning.
pub(crate) struct Feed {
    events: usize,
    filled_per_second: f64,
}

/// What the feed needed, and what the queue needed for the same.
pub(crate) struct FeedRun {
    /// By the feed; its ids are events.
    pub(crate) way: WholeWayRun,
    /// The same ids in the same order, published before.
    pub(crate) queue: WholeWayRun,
}

impl Feed {
    /// Fills the topic.
    pub(crate) async fn fill(servers: &Servers, ids: &[i64], events: usize) -> Result<Self> {
        let kafka = servers.kafka.as_ref().context("--kafka is needed, or --feed-events 0")?;
        ensure!(
            ids.len() >= ORDERS_MIN,
            "the change feed is measured with {ORDERS_MIN} orders or more, or --feed-events 0"
        );
        let transactions = servers.ended_transactions(TRANSACTIONS_MAX).await?;
        let filled_per_second = kafka.fill(ids, events, &transactions).await?;
        eprintln!("{events} events are in the topic {TOPIC}, {filled_per_second:.0} a second");
        Ok(Self { events, filled_per_second })
    }

    /// Measures the queue, then the feed, each with an index that is empty at first.
    pub(crate) async fn run(&self, bench: &Bench<'_>, number: u32) -> Result<FeedRun> {
        let kafka = bench.servers.kafka.as_ref().context("the topic was filled")?;
        let ids: Vec<i64> = bench.ids.iter().copied().cycle().take(self.events).collect();
        let queue = whole_way::run(bench, &ids, Sending::Together(IDS_PER_MESSAGE)).await?;

        bench.fresh_index().await?;
        // A group that is new begins at the topic's beginning.
        let group = format!("bench-{number}");
        let followed = Followed { brokers: &kafka.brokers, topic: TOPIC, group: &group };
        let setup = Setup { feed: Some(&followed), ..Setup::new(&bench.options.elasticsearch) };
        let pinion = Pinion::new(bench.options, &bench.folder.path().join(&group), &setup)?;
        let way = whole_way::work_off(bench, &pinion, self.events).await?;
        let done = kafka.done(&group).await?;
        ensure!(done == self.events as i64, "the group {group} is done with {done} of {} events", self.events);
        Ok(FeedRun { way: WholeWayRun { published_per_second: self.filled_per_second, ..way }, queue })
    }
}
