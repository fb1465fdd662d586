//! Fan-outs: one changed row touches many documents. They are found page by page and published to their job's low lane,
//! so that nothing is held whole in memory and live changes go first. A budget bounds them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use pinion_schemas::{Id, WatchRule};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Feed;
use super::hold::Held;
use super::touch::FanOut;
use crate::elasticsearch::Method;
use crate::error::Fault;
use crate::pipeline::delivery::Receipt;
use crate::ports::{Destination, TouchedPage};
use crate::retry::Backoff;

/// Ids in a page at the most; with a small budget it is that of a second.
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

/// The budget: after a page, the next one waits until its ids have had their time.
struct Pace {
    ids_per_s_max: u32,
    next: Instant,
}

impl Pace {
    fn page(&self) -> usize {
        PAGE.min(self.ids_per_s_max as usize)
    }

    async fn wait(&self) {
        tokio::time::sleep_until(self.next).await;
    }

    fn spend(&mut self, ids: usize) {
        self.next = Instant::now() + Duration::from_secs_f64(ids as f64 / f64::from(self.ids_per_s_max));
    }
}

/// Looks up what is asked for until nobody asks any more. What comes in the meantime is taken together.
///
/// `stuck` is told what a fan-out waits for.
pub(super) async fn run(feed: Arc<Feed>, mut requests: mpsc::Receiver<Request>, stuck: watch::Sender<Option<String>>) {
    let mut pace = Pace { ids_per_s_max: feed.kafka.fan_out_ids_per_s_max, next: Instant::now() };
    let mut taken = Vec::new();
    while requests.recv_many(&mut taken, WAITING_MAX).await > 0 {
        let mut waiting: HashMap<FanOut, Waiting> = HashMap::new();
        for request in taken.drain(..) {
            let place = waiting.entry(request.wanted).or_default();
            place.keys.insert(request.key);
            place.held.join(request.held);
        }
        for (wanted, Waiting { keys, held }) in waiting {
            let keys: Vec<String> = keys.into_iter().collect();
            let mut after = None;
            let mut backoff = Backoff::for_server();
            loop {
                match page(&feed, wanted, &keys, after.as_ref(), held.sent_ms, &mut pace).await {
                    Ok(Some(last)) => after = Some(last),
                    Ok(None) => break,
                    Err(fault) => {
                        stuck.send_replace(Some(format!("a fan-out waits: {fault}")));
                        backoff.wait().await;
                    }
                }
            }
            stuck.send_replace(None);
            Receipt::settle_all(&held.receipts);
        }
    }
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
            pace.wait().await;
            // Fenced as a document's query is: it must not miss a row that the change brought.
            let mut reading = database.open(database.position().await?).await?;
            let page = TouchedPage { rule, keys, key: definition.key, after, limit: pace.page() };
            let ids = reading.touched(page).await?;
            reading.finish().await;
            (job, ids)
        }
        FanOut::All(job) => return publish_indexed(feed, job, sent_ms, pace).await.map(|()| None),
    };
    let last = if ids.len() == pace.page() { ids.last().cloned() } else { None };
    publish(feed, number, ids, sent_ms, pace).await?;
    Ok(last)
}

/// Publishes the ids of all documents that the job's index has.
async fn publish_indexed(feed: &Feed, number: usize, sent_ms: Option<u64>, pace: &mut Pace) -> Result<(), Fault> {
    let job = &feed.jobs[number];
    let opened = ask(feed, &format!("/{}/_pit?keep_alive=5m", job.index), None).await?;
    let mut query = json!({
        "size": pace.page(), "_source": false, "track_total_hits": false, "sort": ["_shard_doc"],
        "pit": {"id": opened["id"], "keep_alive": "5m"},
    });
    loop {
        pace.wait().await;
        let answer = ask(feed, "/_search", Some(&query)).await?;
        let hits = answer["hits"]["hits"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(last) = hits.last() else { return Ok(()) };
        query["search_after"] = last["sort"].clone();
        query["pit"]["id"] = answer["pit_id"].clone();
        // What is no id of the job's was not written by it.
        let ids = hits.iter().filter_map(|hit| job.key.id_from_text(hit["_id"].as_str()?).ok());
        publish(feed, number, ids.collect(), sent_ms, pace).await?;
    }
}

async fn publish(feed: &Feed, number: usize, ids: Vec<Id>, sent_ms: Option<u64>, pace: &mut Pace) -> Result<(), Fault> {
    pace.spend(ids.len());
    feed.publish(number, ids, Destination::Low, sent_ms, "fan_out").await
}

async fn ask(feed: &Feed, path: &str, body: Option<&Value>) -> Result<Value, Fault> {
    feed.elasticsearch.request(Method::Post, path, body).await?.success()
}
