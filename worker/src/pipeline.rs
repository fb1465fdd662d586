//! The straight way of a batch, front to back: each stage is a file, each hop a type.
//!
//! source → [`batch`] → [`fence`] → [`fetch`] → [`build`] → [`bulk`] → [`settle`]

pub mod batch;
pub mod build;
pub mod bulk;
pub mod conflicts;
pub mod delivery;
pub mod fence;
pub mod fetch;
pub mod job;
pub mod low;
pub mod runner;
pub mod settle;
pub mod source;
pub mod speed;
pub mod targets;
pub mod verdict;

use tokio::sync::mpsc;

use self::batch::{Batch, Entry};
use self::delivery::Receipt;
use self::settle::Rest;
use crate::error::Fault;
use crate::limit::Place;
use crate::metrics::verdict_label;
use crate::planted::{Bug, planted};
use crate::retry::Backoff;

/// A batch that could not go on, with why; its entries are unsettled.
#[derive(Debug)]
pub struct Failed {
    /// What is to be done again.
    pub batch: Batch,
    /// Why.
    pub fault: Fault,
}

/// A job that can't go on, with a document that shows it.
#[derive(Debug, Clone)]
pub struct Broken {
    /// Why.
    pub reason: String,
    /// The document whose batch failed, to probe with.
    pub sample: Option<pinion_schemas::Id>,
}

/// The way of a batch.
async fn way(batch: Batch) -> Result<Rest, Failed> {
    let job = batch.job.clone();
    let route = match job.lease.route(batch.is_load()) {
        Ok(Some(route)) => route,
        Ok(None) => return Ok(settle::nothing_to_load(batch)),
        Err(fault) => return Err(Failed { batch, fault }),
    };
    let place = job.fetches.place().await;
    let fenced = fence::fence(batch).await?;
    let fetched = fetch::fetch(fenced, route).await?;
    drop(place);
    let built = build::build(fetched);
    if planted(Bug::AcknowledgedEarly) {
        Receipt::settle_all(built.batch.entries.iter().flat_map(Entry::receipts));
    }
    let outcome = bulk::bulk(built).await?;
    Ok(settle::settle(outcome).await)
}

/// Takes a batch along the way until all of it is settled, through every fault that is not the
/// job's; that one is reported to `broken` and ends it.
async fn run(batch: Batch, place: Place, broken: mpsc::Sender<Broken>) {
    let job = batch.job.clone();
    job.meters.batch_ids.observe(batch.entries.len() as f64);
    let mut place = Some(place);
    let mut waiting = vec![batch];
    let mut backoff = Backoff::for_server();
    while let Some(mut batch) = waiting.pop() {
        // What was not read yet is asked for in the size that has turned out to fit: what comes back beyond it is read for nothing.
        waiting.extend(batch.split_off(job.batch_size()));
        // A batch that has to wait gives its place away: others may be able to go on.
        let held = match place.take() {
            Some(place) => place,
            None => {
                job.gates_opened().await;
                job.batches.place().await
            }
        };
        let rest = way(batch).await.unwrap_or_else(|failed| Rest { unread: None, failed: Some(failed) });
        drop(held);
        waiting.extend(rest.unread);
        let Some(Failed { batch, fault }) = rest.failed else {
            job.set_hindrance(None);
            continue;
        };
        job.set_hindrance(Some(fault.to_string()));
        job.meters.all.retries.get_or_create(&verdict_label(job.name(), fault.label())).inc();
        match fault {
            Fault::Away { service, reason } => {
                for gate in job.gates.iter().filter(|gate| *gate.service() == service) {
                    gate.close(&reason);
                }
                waiting.push(batch);
                backoff.wait().await;
            }
            Fault::Again { .. } => {
                tracing::debug!(job = job.name(), fault = %fault, "again");
                waiting.push(batch);
                backoff.wait().await;
            }
            Fault::Job(reason) => {
                let sample = batch.entries.first().map(|entry| entry.id.clone());
                // Nobody listens any more when the job is being stopped anyway.
                let _stopped = broken.send(Broken { reason, sample }).await.is_err();
                return;
            }
            Fault::Documents(reason) => waiting.extend(isolate(batch, &reason).await),
        }
    }
}

/// Halves a batch that one of its documents spoils; the one that is alone is a dead letter.
async fn isolate(mut batch: Batch, reason: &str) -> Vec<Batch> {
    let half = batch.entries.len() / 2;
    if half > 0 {
        let rest = batch.split_off(half);
        return rest.into_iter().chain([batch]).collect();
    }
    let rest = settle::give_up(batch, "unreadable", reason).await;
    rest.failed.map(|failed| failed.batch).into_iter().collect()
}

/// Sends one document of a paused job along the way, to see whether the job works again.
///
/// # Errors
/// Why it does not.
async fn probe(job: &std::sync::Arc<job::Job>, id: pinion_schemas::Id) -> Result<(), String> {
    let batch = Batch { job: job.clone(), entries: vec![Entry::probe(id)] };
    match way(batch).await {
        Ok(Rest { failed: None, .. }) => Ok(()),
        Ok(Rest { failed: Some(failed), .. }) | Err(failed) => match failed.fault {
            // The trouble of one document is not the job's.
            Fault::Documents(_) => Ok(()),
            fault => Err(fault.to_string()),
        },
    }
}
