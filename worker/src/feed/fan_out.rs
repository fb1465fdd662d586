//! Fan-outs: one changed row touches many documents. They are found page by page and published to their job's low lane,
//! so that nothing is held whole in memory and live changes go first.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use pinion_schemas::{Id, WatchRule};
use tokio::sync::{mpsc, watch};

use super::Feed;
use super::touch::FanOut;
use crate::error::Fault;
use crate::pipeline::delivery::Receipt;
use crate::ports::{Destination, TouchedPage};
use crate::retry::Backoff;

/// Ids in a page.
pub(super) const PAGE: usize = 10_000;
/// How many may wait; then the feed waits too.
pub(super) const WAITING_MAX: usize = 10_000;

/// A changed row whose documents are to be found.
pub(super) struct Request {
    pub(super) wanted: FanOut,
    /// The row's key, as JSON; empty where all documents are wanted.
    pub(super) key: String,
    pub(super) sent_ms: Option<u64>,
    /// To be settled when they are published.
    pub(super) receipt: Receipt,
}

#[derive(Default)]
struct Waiting {
    keys: BTreeSet<String>,
    sent_ms: Option<u64>,
    receipts: Vec<Receipt>,
}

/// Looks up what is asked for until nobody asks any more. What comes in the meantime is taken together: a row that is
/// changed a thousand times in a second fans out a few times.
///
/// `stuck` is told what a fan-out waits for.
pub(super) async fn run(feed: Arc<Feed>, mut requests: mpsc::Receiver<Request>, stuck: watch::Sender<Option<String>>) {
    let mut taken = Vec::new();
    while requests.recv_many(&mut taken, WAITING_MAX).await > 0 {
        let mut waiting: HashMap<FanOut, Waiting> = HashMap::new();
        for request in taken.drain(..) {
            let place = waiting.entry(request.wanted).or_default();
            place.keys.insert(request.key);
            place.sent_ms = [place.sent_ms, request.sent_ms].into_iter().flatten().min();
            place.receipts.push(request.receipt);
        }
        for (wanted, waiting) in waiting {
            let keys: Vec<String> = waiting.keys.into_iter().collect();
            let mut after = None;
            let mut backoff = Backoff::for_server();
            loop {
                match page(&feed, wanted, &keys, after.as_ref(), waiting.sent_ms).await {
                    Ok(Some(last)) => after = Some(last),
                    Ok(None) => break,
                    Err(fault) => {
                        stuck.send_replace(Some(format!("a fan-out waits: {fault}")));
                        backoff.wait().await;
                    }
                }
            }
            stuck.send_replace(None);
            Receipt::settle_all(&waiting.receipts);
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
        FanOut::All(job) => return feed.publish_indexed(job, sent_ms).await.map(|()| None),
    };
    let last = if ids.len() == PAGE { ids.last().cloned() } else { None };
    feed.publish(number, ids, Destination::Low, sent_ms).await?;
    Ok(last)
}
