//! Latency at a steady rate: rows are changed and committed, then a message is sent for each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::stream;
use pinion_client::Publisher;
use pinion_schemas::Job;
use sqlx::PgPool;
use tokio::task::JoinSet;

use crate::Bench;
use crate::metrics::{Histogram, Stages};
use crate::pinion::JOB;
use crate::whole_way::{connect, settled_at_least};

/// So many different orders are changed, then the first one again.
const ORDERS_MAX: usize = 20_000;
/// Rows that are changed in one transaction, and then published: a machine of few cores would else be busy with commits.
const GROUP: usize = 10;
/// Sent before, and not counted: connections and prepared statements are made then, and Elasticsearch learns to overwrite.
const WARM_UP: Duration = Duration::from_secs(5);

/// One worker under a steady load.
pub(crate) struct LatencyRun {
    /// From a message's sending to its settled document, in seconds.
    pub(crate) seconds: Histogram,
    /// What the time went into.
    pub(crate) stages: Stages,
    /// Jobs a second that were in fact sent.
    pub(crate) sent_per_second: f64,
    /// The worker's CPU seconds for each document.
    pub(crate) worker_cpu_seconds: f64,
}

/// Sends jobs at the asked rate to one worker, on the index that is there.
pub(crate) async fn run(bench: &Bench<'_>) -> Result<LatencyRun> {
    let options = &bench.options;
    let publisher = connect(bench).await?;
    let workers = bench.pinion.work(1).await?;
    let ids: Arc<[i64]> = bench.ids.iter().copied().take(ORDERS_MAX).collect();
    let sender = Sender { publisher, writer: bench.servers.writer.clone(), ids, rate: options.latency_rate };

    let warmed = sender.send(0, WARM_UP).await?;
    let (_, _, before) = settled_at_least(&workers, warmed as f64).await?;
    let cpu_before = bench.services.read(&workers.pids())?;
    let began = Instant::now();
    let sent = sender.send(warmed, Duration::from_secs(options.latency_seconds.into())).await?;
    let sent_per_second = sent as f64 / began.elapsed().as_secs_f64();
    let (_, _, after) = settled_at_least(&workers, (warmed + sent) as f64).await?;
    let cpu = bench.services.read(&workers.pids())? - cpu_before;

    workers.end().await?;
    bench.queue_is_empty().await?;
    let name = "pinion_end_to_end_seconds";
    let seconds = after.histogram(name)?.since(&before.histogram(name)?);
    let stages = Stages::between(&before, &after)?;
    Ok(LatencyRun { seconds, stages, sent_per_second, worker_cpu_seconds: cpu.workers / sent as f64 })
}

struct Sender {
    publisher: Publisher,
    writer: PgPool,
    ids: Arc<[i64]>,
    rate: u32,
}

impl Sender {
    /// Sends for so long, each group at its time whether or not those before it are done; how many jobs.
    async fn send(&self, first: usize, duration: Duration) -> Result<usize> {
        let count = (duration.as_secs_f64() * f64::from(self.rate)) as usize;
        let began = tokio::time::Instant::now();
        let mut groups = JoinSet::new();
        for start in (0..count).step_by(GROUP) {
            tokio::time::sleep_until(began + Duration::from_secs(1) * start as u32 / self.rate).await;
            let group = start..count.min(start + GROUP);
            let ids: Vec<i64> = group.map(|number| self.ids[(first + number) % self.ids.len()]).collect();
            groups.spawn(change_and_publish(self.writer.clone(), self.publisher.clone(), ids));
        }
        while let Some(ended) = groups.join_next().await {
            ended??;
        }
        Ok(count)
    }
}

async fn change_and_publish(writer: PgPool, publisher: Publisher, ids: Vec<i64>) -> Result<()> {
    // An order's last change does not lie before its placing, and some of the shop's are placed in the future of some clocks.
    let change = sqlx::query("UPDATE orders SET updated_at = greatest(now(), placed_at) WHERE id = ANY($1)").bind(&ids);
    change.execute(&writer).await.context("orders can't be changed")?;
    let report = publisher.publish_all(stream::iter(ids.into_iter().map(|id| Job::new(JOB, id)))).await;
    match report.failed.into_iter().next() {
        Some((_, error)) => Err(error).context("a job can't be published"),
        None => Ok(()),
    }
}
