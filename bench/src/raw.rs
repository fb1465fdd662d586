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

/// One pass over all documents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawRun {
    pub(crate) documents_per_second: f64,
    pub(crate) cpu: CpuSeconds,
    /// How long the CPU was watched.
    pub(crate) seconds: f64,
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
