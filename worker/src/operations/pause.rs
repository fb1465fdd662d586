//! Pausing and resuming a job on all workers.

use std::time::{Duration, Instant};

use pinion_schemas::StateIndex;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::heartbeat::{Heartbeat, heartbeats};
use super::state::State;
use super::{Context, host};
use crate::clock::now_ms;
use crate::feed;
use crate::status::JobState;

/// How often the workers' heartbeats are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// An operator's last word on a job, kept for all workers, which look for it every two seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The job.
    pub job: String,
    /// Whether it is paused.
    pub paused: bool,
    /// Who said so.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
    /// When, in milliseconds since 1970.
    pub at: u64,
}

/// How the workers followed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Followed {
    /// Workers that do as was asked.
    pub done: Vec<Follower>,
    /// Workers that did not in time.
    pub late: Vec<Follower>,
}

/// What a worker told of the job last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Follower {
    /// The worker's name.
    pub worker: String,
    /// What the job is doing there.
    pub state: JobState,
    /// Why, where it is not running.
    pub reason: Option<String>,
}

/// Pauses or resumes `job`, which may be the change feed; returns what held before.
///
/// # Errors
/// There is no such job, or the wish can't be kept.
pub async fn hold(
    context: &Context,
    job: &str,
    paused: bool,
    by: &str,
    reason: Option<&str>,
) -> anyhow::Result<Option<Hold>> {
    if job != feed::NAME || context.config.kafka.is_none() {
        context.job(job)?;
    }
    let state = State::of(context, StateIndex::Jobs);
    // Read first: to write into a missing index would make one with a guessed mapping.
    let before = state.get(job).await?;
    let hold = Hold { job: job.to_owned(), paused, by: by.to_owned(), reason: reason.map(str::to_owned), at: now_ms() };
    state.merge(job, &json!(hold)).await?;
    Ok(before)
}

/// The jobs that operators have paused.
///
/// # Errors
/// Elasticsearch is away, or the index is missing.
pub async fn holds(context: &Context) -> anyhow::Result<Vec<Hold>> {
    let mut holds: Vec<Hold> = State::of(context, StateIndex::Jobs).all(json!({"term": {"paused": true}})).await?;
    holds.sort_by(|left, right| left.job.cmp(&right.job));
    Ok(holds)
}

/// Waits until every live worker that has `job` tells that it follows, for `patience` at the most.
///
/// # Errors
/// The heartbeats can't be read.
pub async fn followed(context: &Context, job: &str, paused: bool, patience: Duration) -> anyhow::Result<Followed> {
    let deadline = Instant::now() + patience;
    loop {
        let followed = sorted(heartbeats(context).await?, job, paused, now_ms());
        if followed.late.is_empty() || Instant::now() >= deadline {
            return Ok(followed);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn sorted(heartbeats: Vec<Heartbeat>, job: &str, paused: bool, now_ms: u64) -> Followed {
    let mut followed = Followed::default();
    for heartbeat in heartbeats.into_iter().filter(|heartbeat| heartbeat.is_alive(now_ms)) {
        let Some(beat) = heartbeat.job(job) else { continue };
        // A broken job takes nothing either; once it is mended, it stays paused.
        let holds = matches!(beat.state, JobState::Paused | JobState::Broken | JobState::Stopped);
        let done = if paused { holds } else { beat.state != JobState::Paused };
        let place = if done { &mut followed.done } else { &mut followed.late };
        place.push(Follower {
            worker: heartbeat.worker.clone(),
            state: beat.state.clone(),
            reason: beat.reason.clone(),
        });
    }
    followed
}

/// Who runs this command: `user@host`.
pub fn operator() -> String {
    let user =
        ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    format!("{}@{}", user.as_deref().unwrap_or("somebody"), host())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::heartbeat::{ALIVE_MS, JobBeat};

    fn heartbeat(worker: &str, last: u64, state: JobState) -> Heartbeat {
        let beat = JobBeat { job: "orders".to_owned(), state, reason: None, since: 0, definition: None };
        Heartbeat {
            worker: worker.to_owned(),
            version: String::new(),
            admin: String::new(),
            started: 0,
            last,
            bulk_limit: 1,
            bulks_in_flight: 0,
            jobs: vec![beat],
        }
    }

    #[test]
    fn only_live_workers_with_the_job_are_waited_for() {
        let now_ms = 100_000;
        let beats = || {
            vec![
                heartbeat("paused", now_ms - 1000, JobState::Paused),
                heartbeat("running", now_ms, JobState::Running),
                heartbeat("silent", now_ms - ALIVE_MS - 1, JobState::Running),
                // Its clock goes ahead.
                heartbeat("broken", now_ms + 5000, JobState::Broken),
            ]
        };
        let names = |list: &[Follower]| list.iter().map(|follower| follower.worker.clone()).collect::<Vec<_>>();
        let pausing = sorted(beats(), "orders", true, now_ms);
        assert_eq!(
            (names(&pausing.done), names(&pausing.late)),
            (vec!["paused".into(), "broken".into()], vec!["running".into()])
        );
        let resuming = sorted(beats(), "orders", false, now_ms);
        assert_eq!(
            (names(&resuming.done), names(&resuming.late)),
            (vec!["running".into(), "broken".into()], vec!["paused".into()])
        );
        assert_eq!(sorted(beats(), "customers", true, now_ms), Followed::default());
    }
}
