//! Everything at a glance, whatever part is down: each part is asked by itself, for a short time.

mod feed;
mod queues;
mod rebuilds;
mod sources;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

pub use self::feed::Feed;
pub use self::queues::{Delay, JobQueues, Queue, Queues};
pub use self::rebuilds::Rebuilding;
pub use self::sources::{Replica, Source};
use super::Context;
use super::dead::{self, Counts, Filter};
use super::heartbeat::{Heartbeat, heartbeats};
use super::pause::{Hold, holds};
use crate::clock::now_ms;
use crate::status::JobState;

/// How long each part has to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A worker that is silent for longer was taken away, and is not told of any more.
const FORGOTTEN_MS: u64 = 24 * 3600 * 1000;

/// What is known of a part, or why nothing is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part<T> {
    /// It answered.
    Known(T),
    /// It did not, or not in time.
    Down(String),
}

impl<T> Part<T> {
    /// What is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(known) => Some(known),
            Self::Down(_) => None,
        }
    }

    /// Why nothing is known.
    pub fn down(&self) -> Option<&str> {
        match self {
            Self::Known(_) => None,
            Self::Down(error) => Some(error),
        }
    }
}

/// The state of everything.
#[derive(Debug, Serialize)]
pub struct Status {
    /// When it was asked, in milliseconds since 1970.
    pub at: u64,
    /// The queues of all jobs.
    pub queues: Part<Queues>,
    /// The workers that told something in the last day.
    pub workers: Part<Vec<Heartbeat>>,
    /// What operators have paused.
    pub paused: Part<Vec<Hold>>,
    /// The rebuilds of all jobs.
    pub rebuilds: Part<Vec<Rebuilding>>,
    /// The sources with their replicas.
    pub sources: Vec<Source>,
    /// The change feed, where one is configured.
    pub feed: Option<Part<Feed>>,
    /// The dead letters.
    pub dead_letters: Part<Counts>,
    /// What keeps anything from being worked off. Nothing: all is well.
    pub problems: Vec<String>,
}

/// Asks all parts at once.
pub async fn status(context: &Context) -> Status {
    let all = Filter::default();
    let (queues, workers, paused, rebuilds, sources, feed, dead_letters) = futures_util::join!(
        part(queues::queues(context)),
        part(workers(context)),
        part(holds(context)),
        part(rebuilds::rebuilds(context)),
        sources::sources(context),
        feed::feed(context),
        part(dead::count(context, &all))
    );
    let mut status =
        Status { at: now_ms(), queues, workers, paused, rebuilds, sources, feed, dead_letters, problems: Vec::new() };
    let jobs: Vec<&str> = context.jobs.iter().map(|job| job.name.as_str()).collect();
    let broken = context.jobs.iter().filter(|job| job.definition.is_none()).map(|job| job.name.as_str());
    status.problems =
        broken.map(|job| format!("the definition of {job} is wrong: `pinion check` says where")).collect();
    let found = problems(&status, &jobs);
    status.problems.extend(found);
    status
}

/// One part, asked for a short time.
async fn part<T>(asked: impl Future<Output = anyhow::Result<T>>) -> Part<T> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(known)) => Part::Known(known),
        Ok(Err(error)) => Part::Down(format!("{error:#}")),
        Err(_elapsed) => Part::Down(format!("no answer within {PATIENCE:?}")),
    }
}

async fn workers(context: &Context) -> anyhow::Result<Vec<Heartbeat>> {
    let mut workers = heartbeats(context).await?;
    let now_ms = now_ms();
    workers.retain(|worker| now_ms.saturating_sub(worker.last) < FORGOTTEN_MS);
    Ok(workers)
}

/// What keeps anything from being worked off.
fn problems(status: &Status, jobs: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    problems.extend(status.queues.down().map(|error| format!("queues: {error}")));
    // All of them are in Elasticsearch: one reason is told once.
    let mut state =
        [status.workers.down(), status.paused.down(), status.rebuilds.down(), status.dead_letters.down()].to_vec();
    state.dedup();
    problems.extend(state.into_iter().flatten().map(|error| format!("state: {error}")));
    problems.extend(status.sources.iter().flat_map(Source::problems));
    problems.extend(status.feed.iter().flat_map(feed::problems));
    if let Some(queues) = status.queues.known() {
        let missing: Vec<&str> = queues.missing().collect();
        match missing[..] {
            [] => {}
            [queue] => problems.push(format!("the queue {queue} is missing: run `pinion apply`")),
            [first, ..] => {
                problems.push(format!("{} queues are missing, as {first}: run `pinion apply`", missing.len()))
            }
        }
    }
    problems.extend(status.rebuilds.known().into_iter().flatten().filter_map(rebuilds::problem));
    for hold in status.paused.known().into_iter().flatten() {
        let reason = hold.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        problems.push(format!(
            "{} is paused by {}{reason}; `pinion resume {}`",
            hold.job,
            hold.by,
            shell_word(&hold.job)
        ));
    }
    if let Some(workers) = status.workers.known() {
        let live: Vec<&Heartbeat> = workers.iter().filter(|worker| worker.is_alive(status.at)).collect();
        let mut told = BTreeSet::new();
        for (worker, beat) in live.iter().flat_map(|worker| worker.jobs.iter().map(|beat| (&worker.worker, beat))) {
            let reason = beat.reason.as_deref().unwrap_or("no reason given");
            match beat.state {
                JobState::Broken => problems.push(format!("{} is broken on {worker}: {reason}", beat.job)),
                JobState::Waiting => problems.push(format!("{} waits on {worker}: {reason}", beat.job)),
                // Every worker hears that the feed is silent.
                JobState::Running if beat.reason.is_some() && told.insert((&beat.job, reason)) => {
                    problems.push(format!("{}: {reason}", beat.job));
                }
                JobState::Starting | JobState::Running | JobState::Paused | JobState::Stopped => {}
            }
        }
        let idle: Vec<&str> =
            jobs.iter().copied().filter(|job| !live.iter().any(|worker| worker.job(job).is_some())).collect();
        if !idle.is_empty() {
            problems.push(format!("no live worker has {}", idle.join(", ")));
        }
    }
    problems
}

/// A name as it is written in a shell.
fn shell_word(name: &str) -> String {
    if name.contains(' ') { format!("'{name}'") } else { name.to_owned() }
}
