//! The bulk request: sent within the adaptive limit, and only while it is fresh.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Failed;
use super::build::Built;
use super::job::Job;
use crate::error::{Fault, Service};
use crate::limit::{BulkPlace as Place, Signal};
use crate::planted::{Bug, planted};
use crate::ports::BulkItem;

/// What Elasticsearch said to each action of the request.
#[derive(Debug)]
pub struct Outcome {
    /// The request; its body is gone, so that it can't be sent twice.
    pub built: Built,
    /// An item for each action, in order.
    pub items: Vec<BulkItem>,
}

/// Sends the request.
pub async fn bulk(mut built: Built) -> Result<Outcome, Failed> {
    let body = std::mem::take(&mut built.body);
    if built.actions.is_empty() {
        return Ok(Outcome { built, items: Vec::new() });
    }
    let job = built.batch.job.clone();
    let place = job.bulks.place().await;
    if built.read_at.elapsed() > job.settings.document_age && !planted(Bug::StaleBody) {
        let reason = "the documents waited too long to be sent and are read again".to_owned();
        let fault = Fault::Again { service: Service::Elasticsearch, reason };
        return Err(Failed { batch: built.batch, fault });
    }
    let mut answer = send(&job, place, body.clone(), built.actions.len()).await;
    while planted(Bug::StaleBody) && answer.is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        answer = send(&job, job.bulks.place().await, body.clone(), built.actions.len()).await;
    }
    match answer {
        Ok(items) => Ok(Outcome { built, items }),
        Err(fault) => Err(Failed { batch: built.batch, fault }),
    }
}

/// Sends a request of so many actions from its place in the adaptive limit, which learns how it went.
///
/// # Errors
/// The request as a whole was not taken.
pub async fn send(job: &Job, place: Place, body: Bytes, actions: usize) -> Result<Vec<BulkItem>, Fault> {
    let _in_flight = InFlight::count(&job.meters.all.bulks_in_flight);
    let sent_at = Instant::now();
    let answer = job.index.bulk(&job.definition.index, body, actions).await;
    job.meters.bulk_seconds.observe(sent_at.elapsed().as_secs_f64());
    let pushback = match &answer {
        Ok(items) => items.iter().any(|item| item.status == 429),
        Err(fault) => matches!(fault, Fault::Away { .. } | Fault::Again { .. }),
    };
    place.done(if pushback { Signal::Pushback } else { Signal::Accepted });
    answer
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
