//! Jobs with `from = "event"`: flat documents of change events, with no read of a row.
//!
//! Such a job follows its table's topic in a consumer group of its own, so that whatever holds it up holds up nobody else:
//! events → [`sort`] → [`write`](mod@write), one bulk request after the other → offsets. Order is kept, by waiting in place; and a version
//! that rises with every change of a row makes what is repeated lose.

mod decimal;
mod document;
mod geometry;
#[cfg(test)]
mod recorded_tests;
mod sort;
mod truncate;
mod value;
mod write;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use pinion_schemas::JobDefinition;

use self::sort::{Sorter, Step};
use self::write::Writer;
use crate::config;
use crate::elasticsearch::Elasticsearch;
use crate::feed::Registry;
use crate::feed::format::texts;
use crate::feed::kafka::Events;
use crate::metrics::verdict_label;
use crate::pipeline::job::Job;
use crate::pipeline::runner::Surroundings;
use crate::retry::Backoff;
use crate::status::JobState;

/// Events that are taken together at the most.
const ROUND: usize = 1000;
/// How often what is done is told to Kafka while no events come.
const STORE_EVERY: Duration = Duration::from_millis(500);

/// What a job from events follows: the brokers with its own consumer group, and its table's topic.
///
/// # Errors
/// The job does not watch one table by its key.
pub fn followed(
    kafka: &config::Kafka,
    topic_prefix: &str,
    definition: &JobDefinition,
) -> Result<(config::Kafka, String), String> {
    let (table, _) = definition.event_table().ok_or("from = \"event\" needs one [[watch]] with `key`")?;
    let kafka = config::Kafka { group: format!("{}.{}", kafka.group, definition.name), ..kafka.clone() };
    Ok((kafka, format!("{topic_prefix}.{table}")))
}

/// A job from events, in one worker.
pub struct EventJob {
    /// The job.
    pub job: Arc<Job>,
    /// Where its topic is; `None` where no feed is configured.
    pub kafka: Option<config::Kafka>,
    /// What the source's topics begin with.
    pub topic_prefix: String,
    /// For the documents of a truncated table.
    pub elasticsearch: Arc<Elasticsearch>,
}

/// Takes events until the worker ends. What is not done then comes again.
pub async fn run(event_job: EventJob, surroundings: Surroundings) {
    let name = event_job.job.name().to_owned();
    let paused = event_job.job.meters.all.paused.clone();
    let tell = |state: JobState, reason| {
        for (verdict, on) in [("operator", state == JobState::Paused), ("broken", state == JobState::Broken)] {
            paused.get_or_create(&verdict_label(&name, verdict)).set(i64::from(on));
        }
        surroundings.statuses.set(&name, state, reason);
    };
    let mut backoff = Backoff::for_job();
    let mut told = String::new();
    loop {
        if surroundings.controls.is_paused(&name) {
            tell(JobState::Paused, Some("paused by an operator: `pinion resume` lets it go on".to_owned()));
            tokio::select! {
                () = surroundings.shutdown.asked() => break,
                () = surroundings.controls.resumed(&name) => {}
            }
        }
        let ended = tokio::select! {
            ended = event_job.follow(&surroundings, &tell) => ended,
            () = surroundings.shutdown.asked() => break,
        };
        let Err(reason) = ended else { continue };
        if told != reason {
            tracing::error!(job = name, reason, "job paused: it can't go on");
            told.clone_from(&reason);
        }
        tell(JobState::Broken, Some(reason));
        tokio::select! {
            () = surroundings.shutdown.asked() => break,
            () = backoff.wait() => {}
        }
    }
    tell(JobState::Stopped, None);
}

impl EventJob {
    /// Joins the job's group and takes events until an operator pauses the job.
    ///
    /// # Errors
    /// Something is wrong that waiting does not mend.
    async fn follow(
        &self,
        surroundings: &Surroundings,
        tell: &(impl Fn(JobState, Option<String>) + Sync),
    ) -> Result<(), String> {
        let kafka = self.kafka.as_ref().ok_or("from = \"event\" needs the change feed: [kafka] is missing")?;
        let (kafka, topic) = followed(kafka, &self.topic_prefix, &self.job.definition)?;
        let topics = [topic];
        let registry = kafka.registry.as_ref().map(Registry::new).transpose()?;
        let events = Leaving(Some(Events::join(&kafka, &topics, &self.job.settings.worker)?));
        tokio::select! {
            ended = self.take(events.events(), registry.as_ref(), tell) => ended,
            () = surroundings.controls.paused(self.job.name()) => Ok(()),
        }
    }

    async fn take(
        &self,
        events: &Events,
        registry: Option<&Registry>,
        tell: &(impl Fn(JobState, Option<String>) + Sync),
    ) -> Result<(), String> {
        let mut sorter = Sorter::new(&self.job)?;
        let writer = Writer { job: &self.job, elasticsearch: &self.elasticsearch, tell };
        let mut rounds = std::pin::pin!(events.stream().ready_chunks(ROUND));
        let mut ticks = tokio::time::interval(STORE_EVERY);
        let mut trouble = None;
        loop {
            tokio::select! {
                round = rounds.next() => {
                    let Some(messages) = round else { return Err("the consumer has ended".to_owned()) };
                    let (taken, errors): (Vec<_>, Vec<_>) = messages.into_iter().partition(Result::is_ok);
                    trouble = errors.into_iter().find_map(Result::err).map(|error| format!("Kafka: {error}"));
                    let taken: Vec<_> = taken.into_iter().filter_map(Result::ok).collect();
                    let texts = texts(|reason| tell(JobState::Waiting, Some(reason)), registry, &taken).await?;
                    for step in sorter.sort(events, &texts)? {
                        match step {
                            Step::Write(writes) => writer.write(writes).await,
                            Step::Truncate(position, receipt) => writer.truncate(position, &receipt).await,
                            Step::Dead(letter, receipt) => writer.dead(*letter, [&receipt]).await,
                        }
                    }
                }
                _ = ticks.tick() => {
                    if trouble.is_some() {
                        trouble = events.trouble().await.map(|error| format!("Kafka: {error}"));
                    }
                }
            }
            tell(if trouble.is_some() { JobState::Waiting } else { JobState::Running }, trouble.clone());
            events.store();
        }
    }
}

/// Leaves the group when it is dropped, with what is done told: that waits for the broker, so not here.
struct Leaving(Option<Events>);

impl Leaving {
    fn events(&self) -> &Events {
        self.0.as_ref().expect("there until it is dropped")
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some(events) = self.0.take() else { return };
        events.store();
        let left = tokio::task::spawn_blocking(move || drop(events));
        tracing::trace!(?left, "leaving the group");
    }
}
