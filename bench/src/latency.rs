//! Latency at a steady rate: rows are changed and committed, then a message is sent for each, while somebody searches the index.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::stream;
use pinion_client::Publisher;
use pinion_schemas::{Job, Names};
use serde_json::json;
use sqlx::PgPool;
use tokio::task::JoinSet;

use crate::metrics::{Histogram, Metrics, Stages};
use crate::pinion::{INDEX, JOB, Workers};
use crate::servers::{Elasticsearch, NAMESPACE};
use crate::whole_way::{LOOK, PATIENCE, connect};
use crate::{Bench, IDS_PER_MESSAGE};

const END_TO_END: &str = "pinion_end_to_end_seconds";
const DOCUMENTS: &str = "pinion_documents_total";

/// So many different orders are changed, then the first one again.
const ORDERS_MAX: usize = 20_000;
/// Rows that are changed in one transaction, and then published: a machine of few cores would else be busy with commits.
const GROUP: usize = 10;
/// Sent before, and not counted: connections and prepared statements are made then, and Elasticsearch learns to overwrite.
const WARM_UP: Duration = Duration::from_secs(5);
/// How often the index is searched meanwhile: nobody waits for the documents of an index that nobody searches, and Elasticsearch
/// leaves them in memory then until they are a mountain.
const SEARCHES: Duration = Duration::from_secs(1);

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
    /// Documents a second that were not of live jobs.
    pub(crate) low_per_second: f64,
}

/// Sends jobs at the asked rate to one worker, on the index that is there, while so many other ids wait in the low lane.
pub(crate) async fn run(bench: &Bench<'_>, low_ids: usize) -> Result<LatencyRun> {
    let options = &bench.options;
    let low_queue = Names::new(NAMESPACE)?.low_queue(JOB);
    bench.servers.elasticsearch.merge(INDEX).await?;
    fill_low(bench, &low_queue, low_ids).await?;
    let sender = Sender::new(bench, options.latency_rate).await?;
    let workers = bench.pinion.work(1).await?;

    let warmed = sender.send(0, WARM_UP).await?;
    let before = timed_at_least(&workers, warmed).await?;
    let cpu_before = bench.services.read(&workers.pids())?;
    let began = Instant::now();
    let sent = sender.send(warmed, Duration::from_secs(options.latency_seconds.into())).await?;
    let sent_per_second = sent as f64 / began.elapsed().as_secs_f64();
    let after = timed_at_least(&workers, warmed + sent).await?;
    let seconds_watched = began.elapsed().as_secs_f64();
    let cpu = bench.services.read(&workers.pids())? - cpu_before;

    workers.end().await?;
    if low_ids > 0 {
        let left = bench.servers.rabbitmq.purge(&low_queue).await?;
        ensure!(left > 0, "{low_ids} ids in the low lane were done before the time was up");
    }
    bench.queue_is_empty().await?;
    let seconds = after.histogram(END_TO_END)?.since(&before.histogram(END_TO_END)?);
    let stages = Stages::between(&before, &after)?;
    let done = after.sum(DOCUMENTS, "") - before.sum(DOCUMENTS, "");
    let low_per_second = (done - seconds.count) / seconds_watched;
    Ok(LatencyRun { seconds, stages, sent_per_second, worker_cpu_seconds: cpu.workers / done, low_per_second })
}

/// Messages without a time of sending, so that the worker's histogram has the live ones alone.
async fn fill_low(bench: &Bench<'_>, queue: &str, ids: usize) -> Result<()> {
    let ids: Vec<i64> = bench.ids.iter().copied().cycle().take(ids).collect();
    let message = |ids: &[i64]| json!({"job_name": JOB, "ids": ids}).to_string();
    bench.servers.rabbitmq.fill(queue, ids.chunks(IDS_PER_MESSAGE).map(message)).await
}

/// The metrics once so many live jobs are settled.
async fn timed_at_least(workers: &Workers, jobs: usize) -> Result<Metrics> {
    let began = Instant::now();
    loop {
        let metrics = workers.metrics().await?;
        let timed = metrics.histogram(END_TO_END).map_or(0.0, |histogram| histogram.count);
        if timed >= jobs as f64 {
            return Ok(metrics);
        }
        ensure!(began.elapsed() < PATIENCE, "only {timed} of {jobs} jobs are settled{}", workers.last_words());
        tokio::time::sleep(LOOK).await;
    }
}

/// An application that changes rows and tells of it, at a steady rate, and an analyst who looks at what there is.
pub(crate) struct Sender<'a> {
    publisher: Publisher,
    writer: PgPool,
    ids: Arc<[i64]>,
    rate: u32,
    elasticsearch: &'a Elasticsearch,
}

impl<'a> Sender<'a> {
    /// One that sends so many jobs a second.
    pub(crate) async fn new(bench: &Bench<'a>, rate: u32) -> Result<Self> {
        let ids: Arc<[i64]> = bench.ids.iter().copied().take(ORDERS_MAX).collect();
        let servers = bench.servers;
        Ok(Self {
            publisher: connect(bench).await?,
            writer: servers.writer.clone(),
            ids,
            rate,
            elasticsearch: &servers.elasticsearch,
        })
    }

    /// Sends for so long, each group at its time whether or not those before it are done; how many jobs.
    pub(crate) async fn send(&self, first: usize, duration: Duration) -> Result<usize> {
        tokio::select! {
            sent = self.send_groups(first, duration) => sent,
            searched = self.search() => match searched? {},
        }
    }

    async fn search(&self) -> Result<Infallible> {
        let mut due = tokio::time::interval(SEARCHES);
        loop {
            due.tick().await;
            self.elasticsearch.orders_by_status(INDEX).await?;
        }
    }

    async fn send_groups(&self, first: usize, duration: Duration) -> Result<usize> {
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
