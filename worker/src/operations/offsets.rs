//! How far the change feed is, and letting it begin again from an earlier time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use pinion_schemas::From;
use serde::Serialize;

use super::Context;
use super::pause::{LOOK_EVERY, followed, hold, holds, operator};
use crate::event_job;
use crate::feed::{self, Attempt, Observer};
pub use crate::feed::{Move, PartitionOffsets, Target};

/// How long the workers may take to leave the group: a killed one is a member for 10 s more, and each looks for operators'
/// wishes every two seconds and finishes nothing that takes long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Why the feed is paused meanwhile.
const REWINDING: &str = "it is being rewound";

/// Whose offsets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Which<'a> {
    /// Those of a job from events, which follows its table by itself; none: the change feed's.
    pub job: Option<&'a str>,
    /// Only topics like this one; `*` stands for any text.
    pub topics: Option<&'a str>,
}

/// A feed's partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FeedPartition {
    /// The source that it is of; none where no source has such a prefix.
    pub source: Option<String>,
    /// How far it is.
    #[serde(flatten)]
    pub offsets: PartitionOffsets,
}

/// What moving the feed back did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rewound {
    /// The partitions whose events come again.
    pub moves: Vec<Move>,
    /// Whether workers had to let go of the feed for it.
    pub workers_paused: bool,
    /// Workers that have not taken it up again.
    pub late: Vec<String>,
}

/// How far each partition is, by topic. `peek` is how long
/// may be waited for the first events that are not done, which tell their age.
///
/// # Errors
/// No change feed is configured, or the brokers do not answer.
pub async fn offsets(context: &Context, which: Which<'_>, peek: Duration) -> anyhow::Result<Vec<FeedPartition>> {
    let offsets = observer(context, which)?.offsets(peek).await.map_err(|error| away(context, &error))?;
    let partition = |offsets: PartitionOffsets| FeedPartition {
        source: context.config.source_of(&offsets.topic).map(str::to_owned),
        offsets,
    };
    Ok(offsets.into_iter().map(partition).collect())
}

/// What [`rewind`] would do now.
///
/// # Errors
/// No change feed is configured, or the brokers do not answer.
pub async fn would_rewind(context: &Context, which: Which<'_>, target: Target) -> anyhow::Result<Vec<Move>> {
    observer(context, which)?.moves(target).await.map_err(|error| away(context, &error))
}

/// Moves the feed back to `target`. Kafka takes that only while nobody follows the feed: where workers do, they are asked to
/// let go of it, and take it up again from there. A partition that is not that far yet is left as it is.
///
/// # Errors
/// No change feed is configured, the brokers or Elasticsearch do not answer, or the group keeps members for longer than
/// [`PATIENCE`].
pub async fn rewind(context: &Context, which: Which<'_>, target: Target) -> anyhow::Result<Rewound> {
    let observer = observer(context, which)?;
    let name = which.job.unwrap_or(feed::NAME);
    let attempt = async || observer.rewind(target).await.map_err(|error| away(context, &error));
    if let Attempt::Moved(moves) = attempt().await? {
        return Ok(Rewound { moves, ..Rewound::default() });
    }
    let by = operator();
    let holds = holds(context).await.context("the workers can't be asked to let go of the feed")?;
    // Somebody's pause stays; that of a rewind which was killed does not.
    let is_paused = holds.iter().any(|hold| hold.job == name && hold.reason.as_deref() != Some(REWINDING));
    if !is_paused {
        hold(context, name, true, &by, Some(REWINDING)).await?;
    }
    let moved = tokio::select! {
        moved = until_moved(attempt) => moved,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted: the feed is where it was")),
    };
    let mut rewound = Rewound { workers_paused: true, ..Rewound::default() };
    if !is_paused {
        hold(context, name, false, &by, None)
            .await
            .with_context(|| format!("it is still paused: `pinion resume '{name}'`"))?;
        let followed = followed(context, name, false, PATIENCE).await?;
        rewound.late = followed.late.into_iter().map(|late| late.worker).collect();
    }
    rewound.moves = moved?;
    Ok(rewound)
}

/// Tries until the group has no members.
async fn until_moved(attempt: impl AsyncFn() -> anyhow::Result<Attempt>) -> anyhow::Result<Vec<Move>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await? {
            Attempt::Moved(moves) => return Ok(moves),
            Attempt::Busy if Instant::now() > deadline => anyhow::bail!(
                "the consumer group still has members after {} s, so the feed is where it was; is anybody else in it?",
                PATIENCE.as_secs()
            ),
            Attempt::Busy => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

fn observer(context: &Context, which: Which<'_>) -> anyhow::Result<Observer> {
    let config = &context.config;
    let file = config.file.display();
    let kafka = config.kafka.as_ref().ok_or_else(|| anyhow!("{file} has no [kafka]: there is no feed"))?;
    let Some(job) = which.job else {
        return Observer::new(kafka, config.feed_topics(), which.topics).map_err(anyhow::Error::msg);
    };
    let definition = context.definition(job)?;
    anyhow::ensure!(
        definition.from == From::Event,
        "{job} is not a job with from = \"event\": its events are those of the change feed, without --job"
    );
    let (kafka, topic) = event_job::followed(kafka, config.topic_prefix(&definition.source), definition)
        .map_err(|error| anyhow!("{job}: {error}"))?;
    Observer::new(&kafka, vec![topic], which.topics).map_err(anyhow::Error::msg)
}

fn away(context: &Context, error: &str) -> anyhow::Error {
    let brokers = context.config.kafka.as_ref().map(|kafka| kafka.brokers.join(", ")).unwrap_or_default();
    anyhow!("Kafka at {brokers}: {error}")
}
