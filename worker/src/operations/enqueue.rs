//! Publishing ids by hand: some, those of a list, or all that the source has.

mod feed;

use std::time::Instant;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use pinion_client::{Lane, PublishError, Publisher};
use pinion_schemas::{From, Id, Job};
use serde::Serialize;
use tokio::io::AsyncBufRead;
use tokio::sync::Notify;

use self::feed::{Chunk, Feed};
use super::Context;
use crate::broker::publisher_config;
use crate::ports::ColumnRange;

/// At most this many ids that were not confirmed are named; the others are counted.
pub const UNCONFIRMED_NAMED_MAX: usize = 10_000;

/// Where the ids come from.
pub enum Ids<'a> {
    /// These. If one is of another type than the job's key, nothing is sent.
    Given(&'a [String]),
    /// One a line. A line that is no id is told and left out; empty lines are nothing.
    Lines(&'a mut (dyn AsyncBufRead + Send + Unpin)),
    /// All that the job's query selects from, or those of a range.
    All(Option<ColumnRange>),
}

/// How to enqueue.
#[derive(Debug, Clone, Copy)]
pub struct EnqueueOptions {
    /// Which of the job's queues.
    pub lane: Lane,
    /// Ids in one message, 1 or more.
    pub ids_per_message: usize,
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum Event {
    /// About this many ids will come.
    Expected(u64),
    /// A line, counted from 1, is no id of this job.
    BadLine(u64, String),
    /// The broker has so many more ids.
    Confirmed(u64),
}

/// What became of it.
#[derive(Debug, Default, Serialize)]
pub struct Enqueued {
    /// The job.
    pub job: String,
    /// Ids that the broker confirmed.
    pub ids: u64,
    /// In so many messages.
    pub messages: u64,
    /// How long it took.
    pub seconds: f64,
    /// Lines that were no ids.
    pub bad_lines: u64,
    /// Ids that were sent and not confirmed; the broker may have them all the same.
    pub unconfirmed: u64,
    /// The first of them.
    pub unconfirmed_ids: Vec<String>,
    /// Why it ended before the last id.
    pub stopped: Option<String>,
}

impl Enqueued {
    /// Whether the broker has every id.
    pub fn is_complete(&self) -> bool {
        self.bad_lines == 0 && self.unconfirmed == 0 && self.stopped.is_none()
    }
}

/// Publishes the ids to the job's queue. At the first failure no more are sent; what is on its way is waited for.
///
/// # Errors
/// Nothing was sent: no such job, a given id that is none, no connection to the broker, keys that can't be listed.
pub async fn enqueue<'a>(
    context: &'a Context,
    job: &str,
    ids: Ids<'a>,
    options: EnqueueOptions,
    tell: &'a (dyn Fn(Event) + Sync),
) -> anyhow::Result<Enqueued> {
    let definition = context.definition(job)?;
    anyhow::ensure!(
        definition.from == From::Query,
        "the documents of {job} come from change events (from = \"event\"), it takes no ids: they come again with a snapshot of \
         the connector, or when its feed is read from the start"
    );
    let feed = Feed::open(context.source(definition)?, definition, ids, tell).await?;
    // What was asked for is sent, and counted.
    let config = publisher_config(&context.config, "pinion enqueue").ids_joined_max(1);
    let publisher = Publisher::connect(config).await.context("[rabbitmq]")?;
    let mut enqueued = Enqueued { job: job.to_owned(), ..Enqueued::default() };
    let started_at = Instant::now();
    publish(&publisher.lane(options.lane), feed, options.ids_per_message, tell, &mut enqueued).await;
    publisher.close().await;
    enqueued.seconds = started_at.elapsed().as_secs_f64();
    Ok(enqueued)
}

async fn publish(
    publisher: &Publisher,
    feed: Feed<'_>,
    ids_per_message: usize,
    tell: &(dyn Fn(Event) + Sync),
    enqueued: &mut Enqueued,
) {
    let job = enqueued.job.clone();
    let stop = &Notify::new();
    let chunks = unfold(feed, |mut feed| async move {
        tokio::select! {
            biased;
            () = stop.notified() => None,
            chunk = feed.chunk(ids_per_message) => match chunk {
                Ok(chunk) if chunk.ids.is_empty() && chunk.bad_lines == 0 => None,
                chunk => Some((chunk, feed)),
            },
        }
    });
    let outcomes = chunks
        .map(|chunk: anyhow::Result<Chunk>| async {
            let chunk = chunk.map_err(|error| format!("{error:#}"))?;
            let published = match message(&job, &chunk.ids) {
                Some(message) => publisher.publish(&message).await,
                None => Ok(()),
            };
            Ok::<_, String>((chunk, published))
        })
        .buffer_unordered(in_flight_max(ids_per_message));
    let mut outcomes = std::pin::pin!(outcomes);
    while let Some(outcome) = outcomes.next().await {
        let failure = match outcome {
            Ok((chunk, published)) => {
                enqueued.bad_lines += chunk.bad_lines;
                enqueued.count(chunk.ids, published, tell)
            }
            Err(error) => Some(error),
        };
        if let Some(failure) = failure {
            stop.notify_one();
            enqueued.stopped.get_or_insert(failure);
        }
    }
}

impl Enqueued {
    /// Counts the ids of a message; why, if the broker did not confirm it.
    fn count(
        &mut self,
        ids: Vec<Id>,
        published: Result<(), PublishError>,
        tell: &(dyn Fn(Event) + Sync),
    ) -> Option<String> {
        let count = ids.len() as u64;
        match published {
            Ok(()) => {
                self.ids += count;
                self.messages += u64::from(count > 0);
                tell(Event::Confirmed(count));
                None
            }
            Err(error) => {
                self.unconfirmed += count;
                let room = UNCONFIRMED_NAMED_MAX - self.unconfirmed_ids.len();
                self.unconfirmed_ids.extend(ids.iter().take(room).map(Id::to_string));
                Some(error.to_string())
            }
        }
    }
}

fn message(job: &str, ids: &[Id]) -> Option<Job> {
    match ids {
        [] => None,
        [id] => Some(Job::new(job, id.clone())),
        ids => Some(Job::many(job, ids.iter().cloned())),
    }
}

/// Messages on their way at the most: fewer if they are large.
fn in_flight_max(ids_per_message: usize) -> usize {
    (100_000 / ids_per_message.max(1)).clamp(64, 5_000)
}
