//! The whole way: a full queue, then workers until everything is in the index.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::stream;
use pinion_client::{Publisher, PublisherConfig};
use pinion_schemas::{Job, Names};

use crate::Bench;
use crate::cpu::CpuSeconds;
use crate::metrics::{Metrics, Stages};
use crate::pinion::{INDEX, JOB, Workers};
use crate::servers::NAMESPACE;

/// How often the workers' metrics are read while they work.
const LOOK: Duration = Duration::from_millis(50);
/// Without any progress for so long it is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// All documents on their whole way, once.
pub(crate) struct WholeWayRun {
    /// Documents published in a second, with confirms; not part of the rest.
    pub(crate) published_per_second: f64,
    /// From the first settled documents to the last.
    pub(crate) documents_per_second: f64,
    /// From before the workers were started until all was settled and the index refreshed.
    pub(crate) cpu: CpuSeconds,
    /// How long the CPU was watched.
    pub(crate) seconds: f64,
    /// The most memory of one worker.
    pub(crate) memory_peak_bytes: u64,
    /// How the batches fared.
    pub(crate) stages: Stages,
}

/// Queues all documents, `ids_per_message` in each message, and times the workers.
pub(crate) async fn run(bench: &Bench<'_>, ids_per_message: usize) -> Result<WholeWayRun> {
    bench.fresh_index().await?;
    let published_per_second = publish(bench, ids_per_message).await?;
    let before = bench.services.read(&[])?;
    let began = Instant::now();
    let workers = bench.pinion.work(bench.options.workers).await?;
    let documents = bench.ids.len();
    let documents_per_second = time(&workers, documents as f64).await?;
    let metrics = workers.metrics().await?;
    let indexed = metrics.sum("pinion_documents_total", "verdict=\"indexed\"");
    ensure!(
        indexed == documents as f64,
        "only {indexed} of {documents} documents were indexed{}",
        workers.last_words()
    );
    let count = bench.servers.elasticsearch.count(INDEX).await?;
    ensure!(count == documents as u64, "{count} documents are in the index, {documents} orders in the table");
    let cpu = bench.services.read(&workers.pids())? - before;
    let seconds = began.elapsed().as_secs_f64();
    let memory_peak_bytes = workers.memory_peak_bytes()?;
    let stages = Stages::between(&Metrics::default(), &metrics)?;
    workers.end().await?;
    bench.queue_is_empty().await?;
    Ok(WholeWayRun { published_per_second, documents_per_second, cpu, seconds, memory_peak_bytes, stages })
}

/// Publishes with confirms, as applications do; documents a second.
async fn publish(bench: &Bench<'_>, ids_per_message: usize) -> Result<f64> {
    let publisher = connect(bench).await?;
    let job = |ids: &[i64]| match ids {
        [id] => Job::new(JOB, *id),
        ids => Job::many(JOB, ids.iter().copied()),
    };
    let began = Instant::now();
    let report = publisher.publish_all(stream::iter(bench.ids.chunks(ids_per_message).map(job))).await;
    let took = began.elapsed();
    if let Some((_, error)) = report.failed.first() {
        bail!("{} messages were not published: {error}", report.failed.len());
    }
    publisher.close().await;
    Ok(bench.ids.len() as f64 / took.as_secs_f64())
}

/// A publisher of the run's namespace.
pub(crate) async fn connect(bench: &Bench<'_>) -> Result<Publisher> {
    let config = PublisherConfig::new(bench.options.rabbitmq.clone());
    Ok(Publisher::connect(config.namespace(Names::new(NAMESPACE)?).connection_name("pinion-bench")).await?)
}

/// Documents a second from the first settled ones that are seen to the last.
async fn time(workers: &Workers, documents: f64) -> Result<f64> {
    let (first_at, first, _) = settled_at_least(workers, 1.0).await?;
    let (last_at, _, _) = settled_at_least(workers, documents).await?;
    ensure!(last_at > first_at, "{documents} documents are too few to be timed");
    Ok((documents - first) / (last_at - first_at).as_secs_f64())
}

/// Waits until so many documents are settled; when that was seen, how many then were, and all metrics.
pub(crate) async fn settled_at_least(workers: &Workers, documents: f64) -> Result<(Instant, f64, Metrics)> {
    let mut looks = tokio::time::interval(LOOK);
    let (mut last, mut last_at) = (0.0, Instant::now());
    loop {
        looks.tick().await;
        let metrics = workers.metrics().await.context("while the workers work")?;
        // An id that joined an earlier delivery of itself is settled with it.
        let settled = metrics.sum("pinion_documents_total", "") + metrics.sum("pinion_coalesced_total", "");
        if settled >= documents {
            return Ok((Instant::now(), settled, metrics));
        }
        if settled > last {
            (last, last_at) = (settled, Instant::now());
        }
        let waited = last_at.elapsed();
        ensure!(
            waited < PATIENCE,
            "only {settled} of {documents} documents are settled, and no more since {waited:?}{}",
            workers.last_words()
        );
    }
}
