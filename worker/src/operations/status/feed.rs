//! How far the change feed is, asked of Kafka.

use std::time::Duration;

use serde::Serialize;

use super::{Part, part};
use crate::operations::Context;
use crate::operations::offsets::{FeedPartition, Which, offsets};

/// How long may be waited for the oldest events: part of the time that each part has.
const PEEK_MAX: Duration = Duration::from_secs(1);

/// The change feed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Feed {
    /// Events that are not done.
    pub lag: u64,
    /// When Kafka got the oldest of them, in milliseconds since 1970.
    pub oldest_at: Option<u64>,
    /// Its partitions.
    pub partitions: Vec<FeedPartition>,
}

/// Asks for all partitions, where a feed is configured.
pub(super) async fn feed(context: &Context) -> Option<Part<Feed>> {
    context.config.kafka.as_ref()?;
    let asked = async {
        let partitions = offsets(context, Which::default(), PEEK_MAX).await?;
        Ok(Feed {
            lag: partitions.iter().map(|partition| partition.offsets.lag).sum(),
            oldest_at: partitions.iter().filter_map(|partition| partition.offsets.oldest_at).min(),
            partitions,
        })
    };
    Some(part(asked).await)
}

/// What does not answer, and what is lost. That it stands still or is silent, the workers tell.
pub(super) fn problems(feed: &Part<Feed>) -> Vec<String> {
    let mut problems: Vec<String> = feed.down().map(|error| format!("change feed: {error}")).into_iter().collect();
    let partitions = feed.known().into_iter().flat_map(|feed| &feed.partitions);
    for offsets in partitions.map(|partition| &partition.offsets).filter(|offsets| offsets.lost > 0) {
        let (topic, partition, lost) = (&offsets.topic, offsets.partition, offsets.lost);
        problems.push(format!("{topic} partition {partition}: Kafka removed {lost} events before they were done"));
    }
    problems
}
