//! Fan-outs: one changed row touches many documents. They are found page by page and published to their job's low lane,
//! so that nothing is held whole in memory and live changes go first. A budget bounds them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pinion_schemas::{Id, WatchRule};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Feed;
use super::hold::Held;
use super::touch::FanOut;
use crate::elasticsearch::Walk;
use crate::error::Fault;
use crate::pipeline::delivery::Receipt;
use crate::ports::{Destination, TouchedPage};
use crate::retry::Backoff;

/// Ids that are looked up together.
const PAGE: usize = 10_000;
/// How many may wait here; others wait in the [`hold`](super::hold).
pub(super) const WAITING_MAX: usize = 1000;

/// A changed row whose documents are to be found.
pub(super) struct Request {
    pub(super) wanted: FanOut,
    /// The row's key, as JSON; empty where all documents are wanted.
    pub(super) key: String,
    /// Its events, to be settled when the documents are published.
    pub(super) held: Held,
}

#[derive(Default)]
struct Waiting {
    keys: BTreeSet<String>,
    held: Held,
}

/// The budget: after some ids, the next ones wait until those have had their time.
struct Pace {
    ids_per_s_max: u32,
    next: Instant,
}

impl Pace {
    /// Ids that may go together: those of a second.
    fn step(&self) -> usize {
        self.ids_per_s_max as usize
    }

    async fn wait_for(&mut self, ids: usize) {
        tokio::time::sleep_until(self.next).await;
        self.next = Instant::now() + Duration::from_secs_f64(ids as f64 / f64::from(self.ids_per_s_max));
    }
}

/// Truncated tables are looked at twice: what was read before the truncation may arrive after the first look.
#[derive(Default)]
struct SecondLooks(VecDeque<(Instant, Request)>);

impl SecondLooks {
    /// The next one, when it is due.
    async fn due(&mut self) -> Request {
        match self.0.front() {
            Some((at, _)) => tokio::time::sleep_until(*at).await,
            None => std::future::pending().await,
        }
        self.0.pop_front().expect("it was there, and only this takes it").1
    }
}

/// Looks up what is asked for until nobody asks any more. What comes in the meantime is taken together.
///
/// `stuck` is told what a fan-out waits for.
pub(super) async fn run(feed: Arc<Feed>, mut requests: mpsc::Receiver<Request>, stuck: watch::Sender<Option<String>>) {
    let mut pace = Pace { ids_per_s_max: feed.kafka().fan_out_ids_per_s_max, next: Instant::now() };
    let mut second_looks = SecondLooks::default();
    let mut taken = Vec::new();
    loop {
        tokio::select! {
            count = requests.recv_many(&mut taken, WAITING_MAX) => if count == 0 { return },
            request = second_looks.due() => taken.push(request),
        }
        let mut waiting: HashMap<FanOut, Waiting> = HashMap::new();
        for request in taken.drain(..) {
            let place = waiting.entry(request.wanted).or_default();
            place.keys.insert(request.key);
            place.held.join(request.held);
        }
        for (wanted, Waiting { keys, held }) in waiting {
            let keys: Vec<String> = keys.into_iter().collect();
            insist(&feed, wanted, &keys, held.sent_ms, &mut pace, &stuck).await;
            if let FanOut::All(job) = wanted {
                let at = Instant::now() + feed.config.second_look_after();
                second_looks.0.push_back((at, Request { wanted: FanOut::AllAgain(job), key: String::new(), held }));
            } else {
                Receipt::settle_all(&held.receipts);
            }
        }
    }
}

/// Publishes all pages of a fan-out, however often that has to be tried.
async fn insist(
    feed: &Feed,
    wanted: FanOut,
    keys: &[String],
    sent_ms: Option<u64>,
    pace: &mut Pace,
    stuck: &watch::Sender<Option<String>>,
) {
    let mut after = None;
    let mut backoff = Backoff::for_server();
    loop {
        match page(feed, wanted, keys, after.as_ref(), sent_ms, pace).await {
            Ok(Some(last)) => after = Some(last),
            Ok(None) => break,
            Err(fault) => {
                stuck.send_replace(Some(format!("a fan-out waits: {fault}")));
                backoff.wait().await;
            }
        }
    }
    stuck.send_replace(None);
}

/// Publishes a page of documents; where the next one begins, if there is one.
async fn page(
    feed: &Feed,
    wanted: FanOut,
    keys: &[String],
    after: Option<&Id>,
    sent_ms: Option<u64>,
    pace: &mut Pace,
) -> Result<Option<Id>, Fault> {
    let (number, ids) = match wanted {
        FanOut::Rule { job, watch } => {
            let definition = &feed.jobs[job];
            let WatchRule::Sql(rule) = &definition.watch[watch].rule else { return Ok(None) };
            let database = &feed.sources[&definition.source];
            // Fenced as a document's query is: it must not miss a row that the change brought.
            let mut reading = database.open(database.position().await?).await?;
            let ids = reading.touched(TouchedPage { rule, keys, key: definition.key, after, limit: PAGE }).await?;
            reading.finish().await;
            (job, ids)
        }
        FanOut::All(job) | FanOut::AllAgain(job) => {
            return publish_indexed(feed, job, sent_ms, pace).await.map(|()| None);
        }
    };
    let last = if ids.len() == PAGE { ids.last().cloned() } else { None };
    for ids in ids.chunks(pace.step()) {
        pace.wait_for(ids.len()).await;
        feed.publish(number, ids.to_vec(), Destination::Low, sent_ms, "fan_out").await?;
    }
    Ok(last)
}

/// Publishes the ids of all documents that the job's index has, found by a search or not yet.
async fn publish_indexed(feed: &Feed, number: usize, sent_ms: Option<u64>, pace: &mut Pace) -> Result<(), Fault> {
    let job = &feed.jobs[number];
    let mut walk = Walk::begin(&feed.elasticsearch, &job.index, job.key, PAGE.min(pace.step())).await?;
    while let Some(ids) = walk.next().await? {
        pace.wait_for(ids.len()).await;
        feed.publish(number, ids, Destination::Low, sent_ms, "fan_out").await?;
    }
    Ok(())
}
