//! The whole way: a full queue, then workers until everything is in the index.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::ready;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use pinion_client::{Publisher, PublisherConfig};
use pinion_schemas::{Job, Names};
use tokio::task::JoinSet;

use crate::Bench;
use crate::cpu::CpuSeconds;
use crate::metrics::{Metrics, Stages};
use crate::pinion::{INDEX, JOB, Pinion, Workers};
use crate::servers::NAMESPACE;

/// How often the workers' metrics are read when their beginning or end is near; seldom in between, since a worker's CPU pays for it.
pub(crate) const LOOK: Duration = Duration::from_millis(25);
const LOOK_SELDOM: Duration = Duration::from_secs(1);
/// Without any progress for so long it is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Processes of an application, each with a publisher, and the calls that each has under way: 64 requests are answered at a time.
const PUBLISHERS: usize = 4;
const CALLS_OF_A_PUBLISHER: usize = 16;

/// How ids come into the queue.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sending {
    /// So many in each message.
    Together(usize),
    /// Each by a call of its own, from several publishers, with several calls under way in each: the client puts together what waits.
    Called,
}

/// Documents on their whole way.
pub(crate) struct WholeWayRun {
    /// Ids that were to be brought up to date; some more than once, where there are more than orders.
    pub(crate) ids: usize,
    /// Ids that were published in a second, with confirms, or events; not part of the rest.
    pub(crate) published_per_second: f64,
    /// Ids in a message, on average; 0 for a change feed.
    pub(crate) ids_per_message: f64,
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

/// Queues `ids`, and times the workers.
pub(crate) async fn run(bench: &Bench<'_>, ids: &[i64], sending: Sending) -> Result<WholeWayRun> {
    bench.fresh_index().await?;
    let published_per_second = send(bench, JOB, ids, sending).await?;
    let messages = bench.servers.rabbitmq.ready(&Names::new(NAMESPACE)?.queue(JOB)).await?;
    let ids_per_message = ids.len() as f64 / f64::from(messages);
    let way = work_off(bench, &bench.pinion, ids.len()).await?;
    Ok(WholeWayRun { published_per_second, ids_per_message, ..way })
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
    Ok(WholeWayRun {
        ids,
        published_per_second: 0.0,
        ids_per_message: 0.0,
        documents_per_second,
        written,
        cpu,
        seconds,
        memory_peak_bytes,
        stages,
    })
}

/// Publishes with confirms; ids a second.
pub(crate) async fn send(bench: &Bench<'_>, job: &str, ids: &[i64], sending: Sending) -> Result<f64> {
    match sending {
        Sending::Together(ids_per_message) => publish(bench, job, ids, ids_per_message).await,
        Sending::Called => call(bench, job, ids).await,
    }
}

/// Publishes so many ids in each message; ids a second.
async fn publish(bench: &Bench<'_>, job: &str, ids: &[i64], ids_per_message: usize) -> Result<f64> {
    let publisher = Publisher::connect(config(bench)?.ids_joined_max(1)).await?;
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

/// Publishes as applications do, a call for each id that returns with its confirm; ids a second.
async fn call(bench: &Bench<'_>, job: &str, ids: &[i64]) -> Result<f64> {
    let mut publishers = Vec::new();
    for _ in 0..PUBLISHERS {
        publishers.push(connect(bench).await?);
    }
    let began = Instant::now();
    let mut processes = JoinSet::new();
    for (publisher, ids) in publishers.iter().zip(ids.chunks(ids.len().div_ceil(PUBLISHERS))) {
        let (publisher, ids, job) = (publisher.clone(), ids.to_vec(), job.to_owned());
        processes.spawn(async move {
            let (publisher, job) = (&publisher, job.as_str());
            let calls = stream::iter(ids).map(|id| async move { publisher.publish(&Job::new(job, id)).await });
            calls.buffer_unordered(CALLS_OF_A_PUBLISHER).try_for_each(|()| ready(Ok(()))).await
        });
    }
    while let Some(published) = processes.join_next().await {
        published?.context("a job was not published")?;
    }
    let took = began.elapsed();
    for publisher in publishers {
        publisher.close().await;
    }
    Ok(ids.len() as f64 / took.as_secs_f64())
}

/// A publisher of the run's namespace.
pub(crate) async fn connect(bench: &Bench<'_>) -> Result<Publisher> {
    Ok(Publisher::connect(config(bench)?).await?)
}

fn config(bench: &Bench<'_>) -> Result<PublisherConfig> {
    let config = PublisherConfig::new(bench.options.rabbitmq.clone());
    Ok(config.namespace(Names::new(NAMESPACE)?).connection_name("pinion-bench"))
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

/// Ids that are settled. One that joined an earlier delivery of itself is settled with it.
pub(crate) fn settled(metrics: &Metrics) -> f64 {
    metrics.sum("pinion_documents_total", "") + metrics.sum("pinion_coalesced_total", "")
}

/// How long not to look, after so many documents out of all: half of what the others take, if they take as long.
pub(crate) fn until_next_look(began: Instant, done: f64, all: f64) -> Duration {
    if done == 0.0 {
        // Any moment now.
        return LOOK;
    }
    let rest = began.elapsed().mul_f64((all - done).max(0.0) / done);
    (rest / 2).clamp(LOOK, LOOK_SELDOM)
}

/// Waits until so many documents are settled; when that was seen, how many then were, and all metrics.
pub(crate) async fn settled_at_least(workers: &Workers, documents: f64) -> Result<(Instant, f64, Metrics)> {
    let began = Instant::now();
    let (mut last, mut last_at) = (0.0, began);
    loop {
        let metrics = workers.metrics().await.context("while the workers work")?;
        let settled = settled(&metrics);
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
        tokio::time::sleep(until_next_look(began, settled, documents)).await;
    }
}
