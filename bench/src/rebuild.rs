//! `pinion rebuild` and `pinion verify` of the index that is there, first with nothing else to do, then under live writes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cpu::CpuSeconds;
use crate::latency::Sender;
use crate::metrics::{Histogram, Metrics};
use crate::pinion::{INDEX, JOB, Workers};
use crate::whole_way::{self, LOOK, Sending};
use crate::{Bench, IDS_PER_MESSAGE};

const END_TO_END: &str = "pinion_end_to_end_seconds";
/// Changes a second while the index is rebuilt under live writes.
const LIVE_RATE: u32 = 500;
/// How long the same is measured before, with nothing else to do.
const BEFORE: Duration = Duration::from_secs(20);
const DOCUMENTS: &str = "pinion_documents_total";
/// How long all of them may take to be loaded.
const PATIENCE: Duration = Duration::from_secs(900);

/// An index that was rebuilt.
pub(crate) struct Rebuilt {
    /// Documents that were loaded, from the first ones that were seen to be to the last.
    pub(crate) ids: f64,
    /// Meanwhile.
    pub(crate) load_seconds: f64,
    /// Of services and workers, from the first of them until the new index is refreshed: as the whole way's is counted.
    pub(crate) cpu: CpuSeconds,
    /// From the command's beginning until the alias had moved.
    pub(crate) seconds: f64,
}

/// An index that was compared with its source.
pub(crate) struct Verified {
    /// Rows and documents, both counted.
    pub(crate) looked: f64,
    pub(crate) seconds: f64,
    pub(crate) cpu: CpuSeconds,
    /// Which the command itself did.
    pub(crate) own_cpu_seconds: f64,
}

/// All of it.
pub(crate) struct RebuildRun {
    /// With nothing else to do.
    pub(crate) quiet: Rebuilt,
    /// By ids, and value by value.
    pub(crate) verified: [Verified; 2],
    /// Under live writes.
    pub(crate) live: Rebuilt,
    /// Of the live writes, in seconds: before, and while the index was rebuilt.
    pub(crate) end_to_end: [Histogram; 2],
}

/// Rebuilds the index, which holds all orders, and verifies it.
pub(crate) async fn run(bench: &Bench<'_>) -> Result<RebuildRun> {
    bench.filled_index().await?;
    let workers = bench.pinion.work(1).await?;
    eprintln!("rebuild, with nothing else to do");
    let quiet = rebuilt(bench, &workers).await?;
    let mut verified = Vec::new();
    for more in [&[][..], &["--full"]] {
        eprintln!("verify {}", more.join(" "));
        verified.push(verify(bench, &workers, more).await?);
    }
    eprintln!("rebuild, under {LIVE_RATE} changes a second");
    bench.servers.elasticsearch.merge(INDEX).await?;
    let sender = Sender::new(bench, LIVE_RATE).await?;
    let sent = sender.send(0, BEFORE).await?;
    let first = settled(&workers, sent).await?;
    let sent = sent + sender.send(sent, BEFORE).await?;
    let second = settled(&workers, sent).await?;
    let (end, ended) = tokio::sync::watch::channel(false);
    let live = async {
        let rebuilt = rebuilt(bench, &workers).await;
        end.send_replace(true);
        rebuilt
    };
    let send = async {
        let mut more = 0;
        while !*ended.borrow() {
            more += sender.send(sent + more, Duration::from_secs(1)).await?;
        }
        anyhow::Ok(more)
    };
    let (live, more) = tokio::try_join!(live, send)?;
    let third = settled(&workers, sent + more).await?;
    workers.end().await?;
    let verified = <[Verified; 2]>::try_from(verified).ok().context("two verifications")?;
    Ok(RebuildRun { quiet, verified, live, end_to_end: [second.since(&first), third.since(&second)] })
}

/// The histogram of live jobs once so many are settled.
async fn settled(workers: &Workers, jobs: usize) -> Result<Histogram> {
    loop {
        let metrics = workers.metrics().await?;
        match metrics.histogram(END_TO_END) {
            Ok(histogram) if histogram.count >= jobs as f64 => return Ok(histogram),
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Calls the command, and times the loading by what the workers count.
async fn rebuilt(bench: &Bench<'_>, workers: &Workers) -> Result<Rebuilt> {
    let began = Instant::now();
    let loaded = async {
        let before = loaded(&workers.metrics().await?);
        let first = loaded_at_least(workers, before + 1.0).await?;
        let cpu = bench.services.read(&workers.pids())?;
        let last = loaded_at_least(workers, before + bench.ids.len() as f64).await?;
        let (count, orders) = (bench.servers.elasticsearch.count(&format!("{INDEX}*")).await?, bench.ids.len());
        ensure!(count == 2 * orders as u64, "{count} documents are in two indexes of {orders} orders");
        anyhow::Ok(Rebuilt {
            ids: last.1 - first.1,
            load_seconds: (last.0 - first.0).as_secs_f64(),
            cpu: bench.services.read(&workers.pids())? - cpu,
            seconds: 0.0,
        })
    };
    let command = async {
        bench.pinion.run(&["rebuild", JOB, "--json"]).await?;
        Ok(began.elapsed().as_secs_f64())
    };
    let (loaded, seconds) = tokio::try_join!(loaded, command)?;
    bench.pinion.run(&["rebuild", JOB, "--finish"]).await?;
    Ok(Rebuilt { seconds, ..loaded })
}

/// Documents that were written into the new index, or that live writes were faster with.
fn loaded(metrics: &Metrics) -> f64 {
    ["loaded", "superseded"].iter().map(|verdict| metrics.sum(DOCUMENTS, &format!("verdict=\"{verdict}\""))).sum()
}

/// Waits until so many are loaded: when that was, and how many then were.
async fn loaded_at_least(workers: &Workers, documents: f64) -> Result<(Instant, f64)> {
    let began = Instant::now();
    loop {
        let loaded = loaded(&workers.metrics().await?);
        if loaded >= documents {
            return Ok((Instant::now(), loaded));
        }
        ensure!(began.elapsed() < PATIENCE, "only {loaded} documents were loaded{}", workers.last_words());
        tokio::time::sleep(whole_way::until_next_look(began, loaded, documents)).await;
    }
}

async fn verify(bench: &Bench<'_>, workers: &Workers, more: &[&str]) -> Result<Verified> {
    let before = bench.services.read(&workers.pids())?;
    let arguments: Vec<&str> = ["verify", JOB, "--json"].iter().chain(more).copied().collect();
    let output = bench.pinion.run(&arguments).await?;
    let cpu = bench.services.read(&workers.pids())? - before;
    let told: Value = serde_json::from_str(&output).with_context(|| output.clone())?;
    let number = |name: &str| told[name].as_f64().with_context(|| format!("{name} in {told}"));
    Ok(Verified {
        looked: number("source_ids")? + number("index_ids")?,
        seconds: number("seconds")?,
        // The command runs by itself: what nobody else has done is its own.
        own_cpu_seconds: cpu.others(),
        cpu,
    })
}

impl Bench<'_> {
    /// The index with all orders in it.
    async fn filled_index(&self) -> Result<()> {
        if self.servers.elasticsearch.count(INDEX).await.unwrap_or_default() != self.ids.len() as u64 {
            whole_way::run(self, &self.ids, Sending::Together(IDS_PER_MESSAGE)).await?;
        }
        Ok(())
    }
}
