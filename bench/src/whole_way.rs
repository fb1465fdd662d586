//! The whole way: a full queue, then workers until everything is in the index.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::stream;
use pinion_client::{Publisher, PublisherConfig};
use pinion_schemas::{Job, Names};

use crate::Bench;
use crate::cpu::CpuSeconds;
use crate::metrics::{Metrics, Stages};
use crate::pinion::{INDEX, JOB, Pinion, Workers};
use crate::servers::NAMESPACE;

/// How often the workers' metrics are read while they work.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// Without any progress for so long it is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Documents on their whole way.
pub(crate) struct WholeWayRun {
    /// Ids that were to be brought up to date; some more than once, where there are more than orders.
    pub(crate) ids: usize,
    /// Ids that were published in a second, with confirms, or events; not part of the rest.
    pub(crate) published_per_second: f64,
    /// Ids that were brought up to date in a second, from the first settled ones to the last.
    pub(crate) documents_per_second: f64,
    /// Documents that were written: fewer than ids where several came into one batch.
    pub(crate) written: f64,
    /// From before the workers were started until all was settled and the index refreshed.
    pub(crate) cpu: CpuSeconds,
    /// How long the CPU was watched.
    pub(crate) seconds: f64,
    /// The most memory of one worker.
    pub(crate) memory_peak_bytes: u64,
    /// How the batches fared.
    pub(crate) stages: Stages,
}

/// Queues `ids`, `ids_per_message` in each message, and times the workers.
pub(crate) async fn run(bench: &Bench<'_>, ids: &[i64], ids_per_message: usize) -> Result<WholeWayRun> {
    bench.fresh_index().await?;
    let published_per_second = publish(bench, JOB, ids, ids_per_message).await?;
    let way = work_off(bench, &bench.pinion, ids.len()).await?;
    Ok(WholeWayRun { published_per_second, ..way })
}

/// Times the workers of `pinion` until `ids` are settled that wait for them, and ends them.
pub(crate) async fn work_off(bench: &Bench<'_>, pinion: &Pinion, ids: usize) -> Result<WholeWayRun> {
    let before = bench.services.read(&[])?;
    let began = Instant::now();
    let workers = pinion.work(bench.options.workers).await?;
    let documents_per_second = time(&workers, ids as f64).await?;
    let metrics = all_done(&workers).await?;
    let verdict = |word: &str| metrics.sum("pinion_documents_total", &format!("verdict=\"{word}\""));
    let written = verdict("indexed");
    // Where an id comes more than once, a newer reading of it may be in the index already.
    let settled = written + verdict("superseded") + metrics.sum("pinion_coalesced_total", "");
    ensure!(settled == ids as f64, "only {settled} of {ids} ids were brought up to date{}", workers.last_words());
    let (count, orders) = (bench.servers.elasticsearch.count(INDEX).await?, bench.ids.len().min(ids));
    ensure!(count == orders as u64, "{count} documents are in the index of {orders} orders");
    let cpu = bench.services.read(&workers.pids())? - before;
    let seconds = began.elapsed().as_secs_f64();
    let memory_peak_bytes = workers.memory_peak_bytes()?;
    let stages = Stages::between(&Metrics::default(), &metrics)?;
    workers.end().await?;
    bench.queue_is_empty().await?;
    let published_per_second = 0.0;
    Ok(WholeWayRun {
        ids,
        published_per_second,
        documents_per_second,
        written,
        cpu,
        seconds,
        memory_peak_bytes,
        stages,
    })
}

/// Publishes with confirms, as applications do; ids a second.
pub(crate) async fn publish(bench: &Bench<'_>, job: &str, ids: &[i64], ids_per_message: usize) -> Result<f64> {
    let publisher = connect(bench).await?;
    let job = |ids: &[i64]| match ids {
        [id] => Job::new(job, *id),
        ids => Job::many(job, ids.iter().copied()),
    };
    let began = Instant::now();
    let report = publisher.publish_all(stream::iter(ids.chunks(ids_per_message).map(job))).await;
    let took = began.elapsed();
    if let Some((_, error)) = report.failed.first() {
        bail!("{} messages were not published: {error}", report.failed.len());
    }
    publisher.close().await;
    Ok(ids.len() as f64 / took.as_secs_f64())
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

/// The metrics once no event of a change feed is open: one is done a moment after its documents may be.
async fn all_done(workers: &Workers) -> Result<Metrics> {
    let began = Instant::now();
    loop {
        let metrics = workers.metrics().await?;
        if metrics.sum("pinion_feed_open", "") == 0.0 {
            return Ok(metrics);
        }
        ensure!(began.elapsed() < PATIENCE, "events are still not done{}", workers.last_words());
        tokio::time::sleep(LOOK).await;
    }
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
