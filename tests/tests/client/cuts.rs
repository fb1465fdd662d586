//! A connection may end at any moment of what is done on it.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::join_all;
use pinion_client::{Publisher, PublisherConfig};
use pinion_schemas::Job;
use pinion_tests::{Dice, Namespace, Proxy, Rabbit};
use tokio::time::{sleep, timeout};

use crate::client::declare;

const ROUNDS: i64 = 60;
/// More than a reconnection takes, and less than for ever.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn every_job_is_published_though_the_connection_ends_again_and_again() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let rabbit: &Rabbit = namespace.rabbit();
    let (names, _channel) = declare(rabbit, namespace.name(), &[]).await?;
    let port = reqwest::Url::parse(rabbit.url())?.port().context("a port")?;
    let proxy = Proxy::before(port).await?;
    let config = PublisherConfig::new(proxy.url(rabbit.url())?).namespace(names);
    let publisher = Publisher::connect(config).await?;
    let mut dice = Dice::new(7);
    for round in 0..ROUNDS {
        let jobs = (0..50).map(|id| {
            let publisher = publisher.clone();
            async move { publisher.publish(&Job::new("a", round * 50 + id)).await }
        });
        let cut = async {
            for _ in 0..3 {
                sleep(Duration::from_micros(dice.of(0..=30_000).unsigned_abs())).await;
                proxy.cut();
            }
        };
        let published = timeout(PATIENCE, async { tokio::join!(join_all(jobs), cut).0 }).await;
        for outcome in published.with_context(|| format!("round {round}"))? {
            outcome.with_context(|| format!("round {round}"))?;
        }
    }
    publisher.close().await;
    namespace.finish().await
}
