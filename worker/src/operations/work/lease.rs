//! Looking up which indexes the jobs write to, every few seconds, and telling all workers when the index beside can't be written to.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::elasticsearch::{Elasticsearch, Method};
use crate::error::Fault;
use crate::operations::rebuild::Kept;
use crate::pipeline::job::Job;
use crate::pipeline::targets::LEASE;
use crate::ports::Index as _;

/// Often enough that a slow answer, or one that does not come, costs nobody the lease.
const LOOK_EVERY: Duration = Duration::from_millis(1500);
/// One that takes longer is asked again.
const PATIENCE: Duration = Duration::from_secs(4);

/// Keeps the leases of a worker's jobs.
pub(super) struct Leases {
    elasticsearch: Arc<Elasticsearch>,
    /// The index that rebuilds are kept in.
    index: String,
    jobs: Vec<Arc<Job>>,
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    found: bool,
    #[serde(rename = "_source", default)]
    source: Value,
    #[serde(default)]
    error: Value,
}

impl Leases {
    /// Nothing is sent for these jobs until a look has succeeded.
    pub(super) async fn begin(elasticsearch: Arc<Elasticsearch>, index: String, jobs: Vec<Arc<Job>>) -> Self {
        let leases = Self { elasticsearch, index, jobs };
        for job in &leases.jobs {
            job.lease.begin();
        }
        leases.look_in_time().await;
        leases
    }

    /// Until it is aborted.
    pub(super) async fn run(self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look_in_time().await;
        }
    }

    async fn look_in_time(&self) {
        let trouble = match tokio::time::timeout(PATIENCE.min(LEASE), self.look()).await {
            Ok(Ok(())) => return,
            Ok(Err(Fault::Away { reason, .. })) => reason,
            Ok(Err(fault)) => fault.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::debug!(trouble, "which indexes the jobs write to is not known");
        for job in &self.jobs {
            job.lease.keep_trouble(&trouble);
        }
    }

    async fn look(&self) -> Result<(), Fault> {
        let looked_at = Instant::now();
        let ids: Vec<String> = self.jobs.iter().map(|job| Kept::document(job.name())).collect();
        // By their ids: a search would show what was written a while ago.
        let path = format!("/{}/_mget", self.index);
        let answer = self.elasticsearch.request(Method::Post, &path, Some(&json!({"ids": ids}))).await?.success()?;
        let found: Vec<Found> = serde_json::from_value(answer["docs"].clone()).unwrap_or_default();
        for (job, found) in self.jobs.iter().zip(found) {
            // Without the index there is no rebuild. Another error says nothing.
            let is_missing = found.error["type"] == "index_not_found_exception";
            if !found.error.is_null() && !is_missing {
                job.lease.keep_trouble(found.error["reason"].as_str().unwrap_or_default());
                continue;
            }
            let kept = found.found.then(|| serde_json::from_value::<Kept>(found.source));
            match kept.transpose() {
                Ok(kept) => job.lease.renew(looked_at, kept.map(|kept| kept.rebuild)),
                Err(error) => {
                    tracing::error!(job = job.name(), %error, "the state of the rebuild can't be read: another version?");
                    job.lease.keep_trouble(&format!("the state of the rebuild can't be read: {error}"));
                    continue;
                }
            }
            if let Some((index, reason)) = job.lease.failure() {
                self.tell_failure(job, &index, &reason).await?;
            }
        }
        Ok(())
    }

    /// Before any of the job's messages is acknowledged without having been written there.
    async fn tell_failure(&self, job: &Job, index: &str, reason: &str) -> Result<(), Fault> {
        let document = Kept::document(job.name());
        let Some(state) = self.elasticsearch.state(&self.index, &document).await? else { return Ok(()) };
        let Ok(mut kept) = serde_json::from_value::<Kept>(state.source) else { return Ok(()) };
        if kept.rebuild.failed.is_some() || kept.rebuild.beside() != index {
            return Ok(());
        }
        kept.rebuild.failed = Some(reason.to_owned());
        // Whoever was faster is looked at the next time.
        let told = self.elasticsearch.put_state(&self.index, &document, &json!(kept), Some(state.seq_no)).await?;
        if told {
            tracing::error!(job = job.name(), index, reason, "the rebuild is given up; the job goes on without it");
        }
        Ok(())
    }
}
