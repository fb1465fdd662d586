//! The tables of what is measured once.

use super::latency::LANES_MAX;
use super::{ALLOWED_MIN, MEBIBYTE, Surroundings};
use crate::broker::BrokerRun;
use crate::growth::{Growth, GrowthRun};
use crate::metrics::Histogram;
use crate::rebuild::{RebuildRun, Rebuilt, Verified};
use crate::table::{Goal, Table};
use crate::tuning::Curve;

/// Ids a second that a verification by ids looks at.
const VERIFIED_MIN: f64 = 50_000.0;

pub(super) fn curve_table(curve: &Curve) -> Table {
    let mut table = Table::new(&[
        "value",
        "documents/s",
        "worker's CPU, µs a document",
        "RabbitMQ's CPU, s per 100,000",
        "worker's peak memory, MiB",
    ]);
    for point in &curve.points {
        let mebibytes = point.memory_peak_bytes as f64 / MEBIBYTE;
        let figures =
            [point.documents_per_second, point.worker_cpu_a_document, point.rabbitmq_cpu_per_100_000, mebibytes];
        table.line(&point.value.to_string(), &figures);
    }
    table
}

pub(super) fn broker_table(runs: &[BrokerRun]) -> Table {
    let mut table = Table::new(&["queue", "ids/s", "RabbitMQ's CPU, s per 100,000 ids", "the client's CPU, µs an id"]);
    for BrokerRun { label, ids_per_second, rabbitmq_cpu_per_100_000, client_cpu_an_id } in runs {
        table.line(label, &[*ids_per_second, *rabbitmq_cpu_per_100_000, *client_cpu_an_id]);
    }
    table
}

/// One measurement a row, so lowest, median and highest are the same; with the median of PGSync's first synchronisations, if there are some.
pub(super) fn rebuild_table(surroundings: &Surroundings, run: &RebuildRun, pgsync: Option<f64>) -> Table {
    let RebuildRun { quiet, verified: [by_ids, full], live, end_to_end: [before, during] } = run;
    let rate = |rebuilt: &Rebuilt| rebuilt.ids / rebuilt.load_seconds;
    let allowed = surroundings.cores as f64 * quiet.ids / quiet.cpu.services();
    let p99 = |histogram: &Histogram| histogram.quantile(0.99).map_or(f64::NAN, |found| found.value * 1000.0);
    let of_machine =
        |seconds: f64, verified: &Verified| 100.0 * seconds / (verified.seconds * surroundings.cores as f64);
    let mut table = Table::default();
    let mut row = |figure: &str, value: f64, goal: Option<Goal>| table.row(figure, &[value], goal);
    row("loaded with nothing else to do, documents/s", rate(quiet), None);
    row("what the services' CPU alone would allow, documents/s", allowed, None);
    row("of that", rate(quiet) / allowed, Some(Goal::AtLeast(ALLOWED_MIN)));
    if let Some(pgsync) = pgsync {
        row("PGSync's first synchronisation beside it, documents/s", pgsync, None);
    }
    row("worker's CPU, µs a document", quiet.cpu.workers * 1e6 / quiet.ids, None);
    row("from the command until the alias has moved, s", quiet.seconds, None);
    row("loaded under live writes, documents/s", rate(live), None);
    row("p99 of live jobs before, ms", p99(before), None);
    row("p99 of live jobs meanwhile, ms", p99(during), None);
    row("p99 meanwhile, times that before", p99(during) / p99(before), Some(Goal::AtMost(LANES_MAX)));
    row("verified by ids, rows and documents/s", by_ids.looked / by_ids.seconds, Some(Goal::AtLeast(VERIFIED_MIN)));
    row("of the machine meanwhile: Elasticsearch, %", of_machine(by_ids.cpu.elasticsearch, by_ids), None);
    row("PostgreSQL, %", of_machine(by_ids.cpu.primary + by_ids.cpu.replica, by_ids), None);
    row("the command and all else, %", of_machine(by_ids.own_cpu_seconds, by_ids), None);
    row("verified value by value, rows and documents/s", full.looked / full.seconds, None);
    table
}

pub(super) fn growth_table(growth: &Growth) -> Table {
    let mut table = Table::new(&[
        "case",
        "documents timed",
        "documents/s",
        "CPU of the workers, µs a document",
        "peak memory of one, MiB",
    ]);
    for GrowthRun { label, documents, documents_per_second, worker_cpu_a_document, memory_peak_bytes } in &growth.runs {
        let mebibytes = *memory_peak_bytes as f64 / MEBIBYTE;
        table.line(label, &[*documents, *documents_per_second, *worker_cpu_a_document, mebibytes]);
    }
    table
}
