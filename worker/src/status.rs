//! What each job is doing, for readiness, heartbeats and metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clock::now_ms;

/// The state of one job in one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Not yet consuming.
    Starting,
    /// Taking messages.
    Running,
    /// A server is away.
    Waiting,
    /// An operator paused it.
    Paused,
    /// Its definition, index or rights are broken; it is probed.
    Broken,
    /// The worker ends.
    Stopped,
}

/// A state with its reason and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// What the job is doing.
    pub state: JobState,
    /// Why, where it is not running; what is to be seen to, where it is.
    pub reason: Option<String>,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

/// The states of all jobs of this worker. Written by the jobs' runners, read by the admin port
/// and the heartbeat.
#[derive(Debug, Default)]
pub struct Statuses {
    jobs: Mutex<BTreeMap<String, JobStatus>>,
}

impl Statuses {
    /// Notes what `job` is doing now.
    pub fn set(&self, job: &str, state: JobState, reason: Option<String>) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let same = jobs.get(job).is_some_and(|status| status.state == state);
        let since_ms = if same { jobs[job].since_ms } else { now_ms() };
        jobs.insert(job.to_owned(), JobStatus { state, reason, since_ms });
    }

    /// All states.
    pub fn all(&self) -> BTreeMap<String, JobStatus> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
