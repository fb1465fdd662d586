//! The workers, as their heartbeats tell of them.

use pinion_schemas::StateIndex;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Context;
use super::state::{State, insist};
use crate::clock::now_ms;
use crate::elasticsearch::Method;
use crate::status::JobState;

/// A worker that told nothing for so long is not counted on: twice its heartbeat's interval, and some.
pub const ALIVE_MS: u64 = 15_000;

/// What a worker told last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Its name: host, process and start.
    pub worker: String,
    /// Its version.
    pub version: String,
    /// Its admin port.
    pub admin: String,
    /// When it started, in milliseconds since 1970, by its clock.
    pub started: u64,
    /// When it told this, likewise.
    pub last: u64,
    /// How many bulk requests it allows itself now.
    pub bulk_limit: u64,
    /// How many were in flight.
    pub bulks_in_flight: u64,
    /// Its jobs.
    pub jobs: Vec<JobBeat>,
}

/// A job of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobBeat {
    /// Its name.
    pub job: String,
    /// What it is doing.
    pub state: JobState,
    /// Why, where it is not running; what is to be seen to, where it is.
    pub reason: Option<String>,
    /// Since when, in milliseconds since 1970.
    pub since: u64,
    /// A digest of what makes its documents there.
    #[serde(default)]
    pub definition: Option<String>,
}

impl Heartbeat {
    /// Whether the worker told this recently.
    pub fn is_alive(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.last) <= ALIVE_MS
    }

    /// What it told of `job`, where it has it.
    pub fn job(&self, job: &str) -> Option<&JobBeat> {
        self.jobs.iter().find(|beat| beat.job == job)
    }
}

/// The heartbeats of all workers, silent ones included, by their names.
///
/// # Errors
/// Elasticsearch is away, or the index is missing.
pub async fn heartbeats(context: &Context) -> anyhow::Result<Vec<Heartbeat>> {
    let mut heartbeats: Vec<Heartbeat> = State::of(context, StateIndex::Workers).all(json!({"match_all": {}})).await?;
    heartbeats.sort_by(|left, right| left.worker.cmp(&right.worker));
    Ok(heartbeats)
}

/// The workers that live and run `job`, those that have just begun included, and without those that have just ended.
///
/// # Errors
/// Elasticsearch is away for long, or the index is missing.
pub(super) async fn running(context: &Context, job: &str) -> anyhow::Result<Vec<Heartbeat>> {
    let now = now_ms();
    let seen = async || {
        State::of(context, StateIndex::Workers).request(Method::Post, "/_refresh", None).await?;
        heartbeats(context).await
    };
    let runs = |beat: &JobBeat| !matches!(beat.state, JobState::Stopped);
    let alive = insist(seen).await?.into_iter().filter(|worker| worker.is_alive(now));
    Ok(alive.filter(|worker| worker.job(job).is_some_and(runs)).collect())
}
