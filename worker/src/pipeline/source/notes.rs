//! What is kept of messages that were interrupted: one document a job, beside its hold.
//!
//! The broker tells that a message came back, not why: its worker may have died of it, or only lost a connection. Workers that live say so
//! here.

use std::future::Future;
use std::sync::Arc;

use pinion_schemas::StateIndex;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::alone::Interruption;
use super::suspects::Pardon;
use crate::error::{Fault, Service};
use crate::pipeline::job::Job;
use crate::retry::Backoff;

/// The document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupted {
    /// The job.
    pub job: String,
    /// Its messages that were interrupted while they were read alone.
    #[serde(default)]
    pub interrupted: Vec<Interruption>,
    /// Its suspects whose worker lost them, and lives.
    #[serde(default)]
    pub pardoned: Vec<Pardon>,
}

/// A job's document of interruptions.
#[derive(Clone)]
pub(super) struct Notes(Arc<Job>);

impl Notes {
    pub(super) fn of(job: Arc<Job>) -> Self {
        Self(job)
    }

    pub(super) fn job(&self) -> &Job {
        &self.0
    }

    /// What is noted now.
    pub(super) async fn read(&self) -> Result<Interrupted, Fault> {
        Ok(self.kept().await?.0)
    }

    /// Changes what is noted, through every fault.
    pub(super) async fn change<T>(&self, change: impl Fn(&mut Interrupted) -> T) -> T {
        let mut backoff = Backoff::for_server();
        loop {
            match self.try_to_change(&change).await {
                Ok(Some(changed)) => return changed,
                // Another worker was faster.
                Ok(None) => {}
                Err(fault) => {
                    tracing::warn!(job = self.0.name(), %fault, "an interrupted message waits to be noted");
                    backoff.wait().await;
                    self.0.gates_opened().await;
                }
            }
        }
    }

    async fn try_to_change<T>(&self, change: impl Fn(&mut Interrupted) -> T) -> Result<Option<T>, Fault> {
        let (mut state, expected) = self.kept().await?;
        let changed = change(&mut state);
        let (index, document) = self.place();
        Ok(self.0.index.put_state(&index, &document, &json!(state), expected).await?.then_some(changed))
    }

    /// The document, and what it takes to replace it.
    async fn kept(&self) -> Result<(Interrupted, Option<(u64, u64)>), Fault> {
        let (index, document) = self.place();
        let Some(kept) = self.0.index.state(&index, &document).await? else {
            return Ok((Interrupted { job: self.0.name().to_owned(), ..Interrupted::default() }, None));
        };
        let unread = |error| Fault::Again {
            service: Service::Elasticsearch,
            reason: format!("{document} in {index} can't be read: {error}"),
        };
        Ok((serde_json::from_value(kept.source).map_err(unread)?, Some(kept.seq_no)))
    }

    fn place(&self) -> (String, String) {
        // No job is called so.
        (self.0.settings.names.state_index(StateIndex::Jobs), format!("interrupted:{}", self.0.name()))
    }
}

/// Waits for a note at the end of a session, but not for long; it is made behind it then.
pub(super) async fn made(noting: impl Future<Output = ()> + Send + 'static) {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);
    if tokio::time::timeout(PATIENCE, tokio::spawn(noting)).await.is_err() {
        tracing::debug!("a note about interrupted messages is still to be made");
    }
}
