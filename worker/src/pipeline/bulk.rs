//! The bulk request: sent within the adaptive limit, and only while it is fresh.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Failed;
use super::build::Built;
use super::job::Job;
use super::verdict::{Verdict, verdict};
use crate::error::{Fault, Service};
use crate::limit::{BulkPlace as Place, Signal};
use crate::planted::{Bug, planted};
use crate::ports::{BulkAnswer, BulkItem};

/// What Elasticsearch said to each action.
#[derive(Debug)]
pub struct Outcome {
    /// The requests; their bodies are gone, so that they can't be sent twice.
    pub built: Built,
    /// An item for each action of the first, in order.
    pub items: Vec<BulkItem>,
    /// Those of the index beside, where it was written to.
    pub beside: Vec<BulkItem>,
}

/// Sends the requests.
pub async fn bulk(mut built: Built) -> Result<Outcome, Failed> {
    let body = std::mem::take(&mut built.first.body);
    let besides = built.beside.as_mut().map(|request| std::mem::take(&mut request.body));
    let besides = besides.unwrap_or_else(|| body.clone());
    if body.is_empty() && besides.is_empty() {
        return Ok(Outcome { built, items: Vec::new(), beside: Vec::new() });
    }
    let job = built.batch.job.clone();
    let place = job.bulks.place().await;
    if let Err(fault) = may_be_sent(&job, &built) {
        return Err(Failed { batch: built.batch, fault });
    }
    let mut answer = send_all(&job, place, &built, &body, &besides).await;
    while planted(Bug::StaleBody) && answer.is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        answer = send_all(&job, job.bulks.place().await, &built, &body, &besides).await;
    }
    match answer {
        Ok((items, beside)) => Ok(Outcome { built, items, beside }),
        Err(fault) => Err(Failed { batch: built.batch, fault }),
    }
}

/// Only what is fresh, and goes to the indexes that it was read for.
fn may_be_sent(job: &Job, built: &Built) -> Result<(), Fault> {
    if built.read_at.elapsed() > job.settings.document_age && !planted(Bug::StaleBody) {
        let reason = "the documents waited too long to be sent and are read again".to_owned();
        return Err(Fault::Again { service: Service::Elasticsearch, reason });
    }
    job.lease.confirm(&built.route)
}

/// Sends to the index beside first, where there is one: who finds the alias moved to it sees nothing older than before.
async fn send_all(
    job: &Job,
    place: Place,
    built: &Built,
    first: &Bytes,
    beside: &Bytes,
) -> Result<(Vec<BulkItem>, Vec<BulkItem>), Fault> {
    let request =
        Request { index: &built.route.first().index, body: first.clone(), actions: built.first.actions.len() };
    let Some(target) = built.route.beside() else {
        return Ok((send(job, place, request).await?, Vec::new()));
    };
    let actions = built.beside.as_ref().unwrap_or(&built.first).actions.len();
    let other = Request { index: &target.index, body: beside.clone(), actions };
    let others = answer(job, other).await.and_then(all_taken);
    if others.is_err() {
        place.done(Signal::Pushback);
        return Ok((Vec::new(), others?));
    }
    let items = answer(job, request).await;
    place.done(if is_pushback(&items) || is_pushback(&others) { Signal::Pushback } else { Signal::Accepted });
    Ok((items?, others?))
}

/// A bulk request on its way.
#[derive(Debug)]
pub struct Request<'a> {
    /// Where to.
    pub index: &'a str,
    /// NDJSON.
    pub body: Bytes,
    /// So many actions.
    pub actions: usize,
}

/// Sends a request from its place in the adaptive limit, which learns how it went.
///
/// # Errors
/// The request as a whole was not taken.
pub async fn send(job: &Job, place: Place, request: Request<'_>) -> Result<Vec<BulkItem>, Fault> {
    let answer = answer(job, request).await;
    place.done(if is_pushback(&answer) { Signal::Pushback } else { Signal::Accepted });
    answer
}

async fn answer(job: &Job, request: Request<'_>) -> BulkAnswer {
    let Request { index, body, actions } = request;
    if actions == 0 {
        return Ok(Vec::new());
    }
    let _in_flight = InFlight::count(&job.meters.all.bulks_in_flight);
    let sent_at = Instant::now();
    let answer = job.index.bulk(index, body, actions).await;
    job.meters.bulk_seconds.observe(sent_at.elapsed().as_secs_f64());
    answer
}

/// What the index beside is too busy for, the alias does not get before it.
fn all_taken(items: Vec<BulkItem>) -> BulkAnswer {
    let busy = items.iter().filter(|item| item.error.is_some()).find_map(|item| match verdict(item, false) {
        Verdict::Again(reason) => Some(reason),
        Verdict::Failed(error) => Some(error.reason),
        _ => None,
    });
    match busy {
        Some(reason) => Err(Fault::Again { service: Service::Elasticsearch, reason }),
        None => Ok(items),
    }
}

fn is_pushback(answer: &BulkAnswer) -> bool {
    match answer {
        Ok(items) => items.iter().any(|item| item.status == 429),
        Err(fault) => matches!(fault, Fault::Away { .. } | Fault::Again { .. }),
    }
}

/// Counts a request while it is in flight, cancelled or not.
struct InFlight<'a>(&'a prometheus_client::metrics::gauge::Gauge);

impl<'a> InFlight<'a> {
    fn count(gauge: &'a prometheus_client::metrics::gauge::Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
