//! The tables of what is measured once.

use super::latency::LANES_MAX;
use super::{ALLOWED_MIN, MEBIBYTE, Surroundings};
use crate::broker::BrokerRun;
use crate::cpu::CpuSeconds;
use crate::growth::{Grown, Grows, Growth, GrowthRun};
use crate::metrics::Histogram;
use crate::rebuild::{RebuildRun, Rebuilt, Verified};
use crate::table::{Goal, Table, median_of};
use crate::tuning::Curve;

/// Ids a second that a verification by ids looks at.
const VERIFIED_MIN: f64 = 50_000.0;
/// The most by the least of what should not depend on growth.
const STEADY_MAX: f64 = 1.10;

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

/// With the median of PGSync's first synchronisations, if there are some.
pub(super) fn rebuild_table(surroundings: &Surroundings, runs: &[RebuildRun], pgsync: Option<f64>) -> Table {
    let cores = surroundings.cores as f64;
    let rate = |rebuilt: &Rebuilt| rebuilt.ids / rebuilt.load_seconds;
    let allowed = |run: &RebuildRun| cores * run.quiet.ids / run.quiet.cpu.services();
    let p99 = |histogram: &Histogram| histogram.quantile(0.99).map_or(f64::NAN, |found| found.value * 1000.0);
    let [before, meanwhile] = [0, 1].map(|place| move |run: &RebuildRun| p99(&run.end_to_end[place]));
    let [by_ids, full] =
        [0, 1].map(|place| move |run: &RebuildRun| run.verified[place].looked / run.verified[place].seconds);
    let mut table = Table::default();
    let mut row = |figure: &str, value: &dyn Fn(&RebuildRun) -> f64, goal: Option<Goal>| {
        table.row(figure, &runs.iter().map(value).collect::<Vec<f64>>(), goal);
    };
    row("loaded with nothing else to do, documents/s", &|run| rate(&run.quiet), None);
    row("what the services' CPU alone would allow, documents/s", &allowed, None);
    row("of that", &|run| rate(&run.quiet) / allowed(run), Some(Goal::AtLeast(ALLOWED_MIN)));
    if let Some(pgsync) = pgsync {
        row("PGSync's first synchronisation beside it, documents/s", &|_| pgsync, None);
    }
    let mut loading = |who: &str, cpu: fn(&CpuSeconds) -> f64| {
        row(&format!("CPU of {who} meanwhile, µs a document"), &|run| cpu(&run.quiet.cpu) * 1e6 / run.quiet.ids, None);
    };
    loading("the worker", |cpu| cpu.workers);
    loading("Elasticsearch", |cpu| cpu.elasticsearch);
    loading("PostgreSQL", |cpu| cpu.primary + cpu.replica);
    loading("RabbitMQ", |cpu| cpu.rabbitmq);
    loading("the command and all else", |cpu| cpu.others() + cpu.bench);
    row("from the command until the alias has moved, s", &|run| run.quiet.seconds, None);
    row("loaded under live writes, documents/s", &|run| rate(&run.live), None);
    row("p99 of live jobs before, ms", &before, None);
    row("p99 of live jobs meanwhile, ms", &meanwhile, None);
    row("p99 meanwhile, times that before", &|run| meanwhile(run) / before(run), Some(Goal::AtMost(LANES_MAX)));
    row("verified by ids, rows and documents/s", &by_ids, Some(Goal::AtLeast(VERIFIED_MIN)));
    let mut verifying = |who: &str, seconds: fn(&Verified) -> f64| {
        let of_machine = |run: &RebuildRun| 100.0 * seconds(&run.verified[0]) / (run.verified[0].seconds * cores);
        row(&format!("of the machine meanwhile: {who}, %"), &of_machine, None);
    };
    verifying("Elasticsearch", |verified| verified.cpu.elasticsearch);
    verifying("PostgreSQL", |verified| verified.cpu.primary + verified.cpu.replica);
    verifying("the command and all else", |verified| verified.own_cpu_seconds);
    row("verified value by value, rows and documents/s", &full, None);
    table
}

/// Each case with medians; the workers' CPU with its spread, since it is what should stay the same.
pub(super) fn growth_table(growth: &Growth) -> Table {
    let mut table = Table::new(&[
        "case",
        "documents/s",
        "lowest",
        "highest",
        "CPU of the workers, µs a document",
        "lowest",
        "highest",
        "RabbitMQ",
        "PostgreSQL",
        "the sink",
        "ids a batch, mean",
        "documents timed",
        "peak memory of one worker, MiB",
    ]);
    for case in &growth.cases {
        let median = |figure: &dyn Fn(&GrowthRun) -> f64| median_of(case.runs.iter().map(figure).collect());
        let [slowest, rate, fastest] = spread(case, rate);
        let [least, cpu, most] = spread(case, worker_cpu);
        let service = |of: fn(&CpuSeconds) -> f64| median(&|run| of(&run.cpu) / run.documents * 1e6);
        let [rabbitmq, postgres, sink] =
            [service(|cpu| cpu.rabbitmq), service(|cpu| cpu.primary + cpu.replica), service(|cpu| cpu.bench)];
        let (ids, documents) = (median(&|run| run.stages.batch_ids.mean()), median(&|run| run.documents));
        let [_, _, mebibytes] = spread(case, |run| run.memory_peak_bytes as f64 / MEBIBYTE);
        let figures = [rate, slowest, fastest, cpu, least, most, rabbitmq, postgres, sink, ids, documents, mebibytes];
        table.line(&case.label, &figures);
    }
    table
}

/// What should be the same in all cases, and whether it is.
pub(super) fn growth_note(growth: &Growth) -> String {
    let (what, figure): (_, fn(&GrowthRun) -> f64) = match growth.what {
        Grows::Workers => ("the workers' CPU a document", worker_cpu),
        Grows::Queue | Grows::Messages => ("documents/s", rate),
        Grows::Documents | Grows::Jobs => return String::new(),
    };
    let medians = growth.cases.iter().map(|case| spread(case, figure)[1]);
    let (least, most) = medians.fold((f64::MAX, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    let goal = Goal::AtMost(STEADY_MAX).judge(most / least);
    format!("\n{what}, the most by the least of these medians: {:.2} (goal {goal})\n", most / least)
}

fn rate(run: &GrowthRun) -> f64 {
    run.documents / run.seconds
}

fn worker_cpu(run: &GrowthRun) -> f64 {
    run.cpu.workers / run.documents * 1e6
}

/// The lowest, the median and the highest.
fn spread(case: &Grown, figure: fn(&GrowthRun) -> f64) -> [f64; 3] {
    let values: Vec<f64> = case.runs.iter().map(figure).collect();
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(0.0, f64::max);
    [lowest, median_of(values), highest]
}
