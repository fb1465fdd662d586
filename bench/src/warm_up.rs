//! A cold node is several times slower: what is not counted, before anything is.

use anyhow::Result;

use crate::whole_way::{self, Sending};
use crate::{Bench, IDS_PER_MESSAGE, raw};

/// The node is warm for a kind of pass when it has had the fewest of its documents, and this many passes, one after the other, did not
/// need less of its CPU than the best before them by more than the given part; or when it has had the most. Its CPU tells more than the
/// speed, which falls whenever the machine is busy with something else.
const DOCUMENTS_MAX: usize = 2_000_000;
const RAW_DOCUMENTS_MIN: usize = 600_000;
const STEADY_PASSES: u32 = 2;
const STEADY_WITHIN: f64 = 0.05;

/// Passes that were not counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WarmUp {
    pub(crate) raw: u32,
    pub(crate) whole_way: u32,
}

/// Warms the node by raw passes, and by passes of the whole way: what only the worker asks for, versions of its own and everything around
/// them, is cold after the raw ones, and cost Elasticsearch half as much again.
pub(crate) async fn run(bench: &Bench<'_>) -> Result<WarmUp> {
    let raw = until_steady(bench, "raw bulk", RAW_DOCUMENTS_MIN, async || {
        let run = raw::run(bench).await?;
        Ok((run.documents_per_second, run.cpu.elasticsearch))
    });
    let raw = raw.await?;
    let whole_way = until_steady(bench, "the whole way", 0, async || {
        let run = whole_way::run(bench, &bench.ids, Sending::Together(IDS_PER_MESSAGE)).await?;
        Ok((run.documents_per_second, run.cpu.elasticsearch))
    });
    Ok(WarmUp { raw, whole_way: whole_way.await? })
}

/// Repeats a pass, which tells documents a second and the seconds of Elasticsearch's CPU; how many there were.
async fn until_steady(
    bench: &Bench<'_>,
    what: &str,
    documents_min: usize,
    pass: impl AsyncFn() -> Result<(f64, f64)>,
) -> Result<u32> {
    let mut best = f64::INFINITY;
    let mut steady = 0;
    let mut passes = 0;
    loop {
        passes += 1;
        let (documents_per_second, cpu_seconds) = pass().await?;
        let microseconds = cpu_seconds / bench.documents.count as f64 * 1e6;
        eprintln!(
            "warm-up, {what} {passes}: {documents_per_second:.0} documents/s, {microseconds:.0} µs of Elasticsearch's CPU a document"
        );
        steady = if microseconds > best * (1.0 - STEADY_WITHIN) { steady + 1 } else { 0 };
        best = best.min(microseconds);
        let sent = bench.documents.count * passes as usize;
        if sent >= DOCUMENTS_MAX || (sent >= documents_min && steady >= STEADY_PASSES) {
            return Ok(passes);
        }
    }
}
