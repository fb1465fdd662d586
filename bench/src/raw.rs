//! Elasticsearch's own speed: prepared bulk requests, nothing before them and nothing after.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::Bench;
use crate::cpu::CpuSeconds;

/// Requests in flight, each on a connection of its own.
pub(crate) const CONNECTIONS: usize = 4;

/// The index, made anew for each run.
const INDEX: &str = "bench-raw";

/// The node is warm when it has had the fewest of these documents, and this many passes, one after the other, did not need less of its
/// CPU than the best before them by more than the given part; or when it has had the most. Its CPU tells more than the speed,
/// which falls whenever the machine is busy with something else.
const WARM_UP_DOCUMENTS_MIN: usize = 600_000;
const WARM_UP_DOCUMENTS_MAX: usize = 2_000_000;
const STEADY_PASSES: u32 = 2;
const STEADY_WITHIN: f64 = 0.05;

/// One pass over all documents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawRun {
    pub(crate) documents_per_second: f64,
    pub(crate) cpu: CpuSeconds,
    /// How long the CPU was watched.
    pub(crate) seconds: f64,
}

/// Sends the documents again and again until the node is warm; how many passes that took.
pub(crate) async fn warm_up(bench: &Bench<'_>) -> Result<u32> {
    let mut best = f64::INFINITY;
    let mut steady = 0;
    let mut pass = 0;
    loop {
        pass += 1;
        let RawRun { documents_per_second, cpu, .. } = run(bench).await?;
        let microseconds = cpu.elasticsearch / bench.documents.count as f64 * 1e6;
        eprintln!(
            "warm-up {pass}: {documents_per_second:.0} documents/s, {microseconds:.0} µs of Elasticsearch's CPU a document"
        );
        steady = if microseconds > best * (1.0 - STEADY_WITHIN) { steady + 1 } else { 0 };
        best = best.min(microseconds);
        let sent = bench.documents.count * pass as usize;
        if sent >= WARM_UP_DOCUMENTS_MAX || (sent >= WARM_UP_DOCUMENTS_MIN && steady >= STEADY_PASSES) {
            return Ok(pass);
        }
    }
}

/// Sends all documents to a fresh index.
pub(crate) async fn run(bench: &Bench<'_>) -> Result<RawRun> {
    let elasticsearch = &bench.servers.elasticsearch;
    elasticsearch.delete_indexes(&format!("{INDEX}*")).await?;
    elasticsearch.create(INDEX, &bench.mapping).await?;
    let url: Arc<str> = format!("{}/{INDEX}/_bulk?filter_path=errors,items.*.error", elasticsearch.url()).into();
    let next = Arc::new(AtomicUsize::new(0));
    let before = bench.services.read(&[])?;
    let began = Instant::now();
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        connections.spawn(send(url.clone(), bench.documents.bodies.clone(), next.clone()));
    }
    while let Some(ended) = connections.join_next().await {
        ended??;
    }
    let sending = began.elapsed();
    let count = elasticsearch.count(INDEX).await?;
    let cpu = bench.services.read(&[])? - before;
    let seconds = began.elapsed().as_secs_f64();
    let documents = bench.documents.count;
    ensure!(count == documents as u64, "raw bulk: {count} documents arrived out of {documents}");
    elasticsearch.delete_indexes(&format!("{INDEX}*")).await?;
    Ok(RawRun { documents_per_second: documents as f64 / sending.as_secs_f64(), cpu, seconds })
}

/// Sends one body after the other on a connection of its own until there are none left.
async fn send(url: Arc<str>, bodies: Vec<Bytes>, next: Arc<AtomicUsize>) -> Result<()> {
    let http = reqwest::Client::builder().pool_max_idle_per_host(1).build()?;
    while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
        let request = http.post(&*url).header("content-type", "application/x-ndjson").body(body.clone());
        let response = request.send().await.context("Elasticsearch does not answer")?;
        let status = response.status();
        let answer = response.text().await?;
        ensure!(status == 200 && answer == r#"{"errors":false}"#, "raw bulk: {status} {answer}");
    }
    Ok(())
}
