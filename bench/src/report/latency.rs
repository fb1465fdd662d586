//! The latency of the live lane, alone and beside a full low lane.

use std::fmt::Write as _;

use super::{Latencies, stage_rows};
use crate::latency::LatencyRun;
use crate::table::{Goal, Table};

/// Goals of the latency, in milliseconds.
const P50_MAX: f64 = 15.0;
const P99_MAX: f64 = 100.0;
/// How much the low lane may raise the live one's p99.
pub(super) const LANES_MAX: f64 = 2.0;

pub(super) fn latency_table(runs: &[&LatencyRun]) -> Table {
    let each = |figure: &dyn Fn(&LatencyRun) -> f64| runs.iter().map(|run| figure(run)).collect::<Vec<f64>>();
    let mut table = Table::default();
    table.row(
        "p50, ms from message to settled document",
        &each(&|run| milliseconds(run, 0.5)),
        Some(Goal::AtMost(P50_MAX)),
    );
    table.row("p99, ms", &each(&|run| milliseconds(run, 0.99)), Some(Goal::AtMost(P99_MAX)));
    table.row("highest, ms (upper bound of its bucket)", &each(&|run| milliseconds(run, 1.0)), None);
    stage_rows(&mut table, runs.iter().map(|run| &run.stages));
    table.row("sent, jobs/s", &each(&|run| run.sent_per_second), None);
    table.row("worker's CPU, µs a document", &each(&|run| run.worker_cpu_seconds * 1e6), None);
    table
}

pub(super) fn lanes_table(runs: &[&Latencies]) -> Table {
    let each = |figure: &dyn Fn(&Latencies) -> f64| runs.iter().map(|run| figure(run)).collect::<Vec<f64>>();
    let mut table = Table::default();
    table.row("p50 of the live lane, ms", &each(&|run| milliseconds(&run.beside, 0.5)), None);
    table.row("p99 of the live lane, ms", &each(&|run| milliseconds(&run.beside, 0.99)), None);
    let times = each(&|run| milliseconds(&run.beside, 0.99) / milliseconds(&run.alone, 0.99));
    table.row("p99, times that without them", &times, Some(Goal::AtMost(LANES_MAX)));
    table.row("sent, jobs/s", &each(&|run| run.beside.sent_per_second), None);
    table.row("documents/s of the low lane", &each(&|run| run.beside.low_per_second), None);
    table.row("worker's CPU, µs a document of both lanes", &each(&|run| run.beside.worker_cpu_seconds * 1e6), None);
    table
}

fn milliseconds(run: &LatencyRun, part: f64) -> f64 {
    run.seconds.quantile(part).map_or(f64::NAN, |found| found.value * 1000.0)
}

/// How exact the quantiles are.
pub(super) fn latency_note(runs: &[&LatencyRun]) -> String {
    let mut text = "\nThe quantiles are interpolated within the buckets of the worker's histogram:\n".to_owned();
    for (number, run) in (1..).zip(runs) {
        let bucket = |part: f64| match run.seconds.quantile(part) {
            Some(found) => format!("{:.1} to {:.1} ms", found.lower * 1000.0, found.upper * 1000.0),
            None => "nothing".to_owned(),
        };
        writeln!(text, "- run {number}: p50 from {}, p99 from {}", bucket(0.5), bucket(0.99))
            .expect("writing to a String does not fail");
    }
    text
}
