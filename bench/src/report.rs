//! The report: every figure with its spread over the runs, and its goal where it has one.

use std::fmt::Write as _;

use crate::cpu::CpuSeconds;
use crate::latency::LatencyRun;
use crate::metrics::{Histogram, Stages};
use crate::raw::{CONNECTIONS, RawRun};
use crate::table::{Goal, Table};
use crate::whole_way::WholeWayRun;
use crate::{documents::BODY_DOCUMENTS, options::Options};

/// Goals of the whole way, with one id a message and with many.
const RATIO_MIN: f64 = 0.40;
const WORKER_MICROSECONDS_MAX: f64 = 12.0;
/// The same goal for a machine of any speed: it was set where Elasticsearch needs 31 µs for a document of raw bulk.
const WORKER_TO_RAW_MAX: f64 = WORKER_MICROSECONDS_MAX / 31.0;
const WORKER_MEBIBYTES_MAX: f64 = 96.0;

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// What was measured in one run.
pub(crate) struct Run {
    /// Before, between and after the two whole ways.
    pub(crate) raw: [RawRun; 3],
    /// With one id a message.
    pub(crate) one: WholeWayRun,
    /// With many.
    pub(crate) many: WholeWayRun,
    pub(crate) latency: Option<LatencyRun>,
    /// How busy and fast the machine was when the run began.
    pub(crate) condition: String,
}

/// What the figures were measured on and with.
pub(crate) struct Surroundings {
    pub(crate) versions: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) documents: usize,
    /// In a bulk request, the action's line included.
    pub(crate) bytes_per_document: f64,
    pub(crate) warm_up_passes: u32,
    /// How busy and fast the machine was when all was done.
    pub(crate) condition: String,
}

/// The whole report as Markdown.
pub(crate) fn report(options: &Options, surroundings: &Surroundings, runs: &[Run], ids_per_message: usize) -> String {
    let mut text = heading(options, surroundings, runs);
    let section = |title: &str, table: Table| format!("\n## {title}\n\n{table}");
    text += &section(
        &format!("Raw Elasticsearch bulk: bodies of {BODY_DOCUMENTS} on {CONNECTIONS} connections"),
        raw_table(surroundings, runs),
    );
    let whole_way = |number, of: fn(&Run) -> &WholeWayRun| whole_way_table(surroundings, runs, number, of);
    text += &section("The whole way, one id a message", whole_way(0, |run| &run.one));
    text += &section(&format!("The whole way, {ids_per_message} ids a message"), whole_way(1, |run| &run.many));
    let latencies: Vec<&LatencyRun> = runs.iter().filter_map(|run| run.latency.as_ref()).collect();
    if !latencies.is_empty() {
        let title =
            format!("Latency of one worker at {} jobs/s for {} s", options.latency_rate, options.latency_seconds);
        text += &section(&title, latency_table(&latencies));
        text += &latency_note(&latencies);
    }
    text
}

fn heading(options: &Options, surroundings: &Surroundings, runs: &[Run]) -> String {
    let Surroundings { versions, processor, cores, documents, bytes_per_document, warm_up_passes, condition } =
        surroundings;
    let conditions: Vec<&str> = runs.iter().map(|run| run.condition.as_str()).collect();
    format!(
        "# Pinion's benchmark\n\n\
         - {versions}\n\
         - {cores} cores for everything ({processor})\n\
         - load average, and CPU time of a fixed computation, when each run began: {}; at the end: {condition}\n\
         - {documents} orders of {bytes_per_document:.0} bytes in a bulk request; {} run(s); {} worker process(es)\n\
         - Elasticsearch warmed by {warm_up_passes} passes; \"of raw bulk\" compares with the mean of the raw passes just before and after\n\
         - the goal is for the median\n",
        conditions.join("; "),
        options.runs,
        options.workers,
    )
}

fn raw_table(surroundings: &Surroundings, runs: &[Run]) -> Table {
    let raws: Vec<&RawRun> = runs.iter().flat_map(|run| &run.raw).collect();
    let each = |figure: &dyn Fn(&RawRun) -> f64| raws.iter().map(|raw| figure(raw)).collect::<Vec<f64>>();
    let per_100_000 = 100_000.0 / surroundings.documents as f64;
    let mut table = Table::default();
    table.row("documents/s", &each(&|raw| raw.documents_per_second), None);
    table.row("Elasticsearch's CPU, s per 100,000", &each(&|raw| raw.cpu.elasticsearch * per_100_000), None);
    table.row("the sender's CPU, s per 100,000", &each(&|raw| raw.cpu.bench * per_100_000), None);
    table.row("everything else, % of the machine", &each(&|raw| others(surroundings, &raw.cpu, raw.seconds)), None);
    table
}

fn whole_way_table(surroundings: &Surroundings, runs: &[Run], number: usize, of: fn(&Run) -> &WholeWayRun) -> Table {
    let each = |figure: &dyn Fn(&WholeWayRun) -> f64| runs.iter().map(|run| figure(of(run))).collect::<Vec<f64>>();
    let documents = surroundings.documents as f64;
    let per_100_000 = 100_000.0 / documents;
    let of_raw = |figure: fn(&WholeWayRun) -> f64, raw: fn(&RawRun) -> f64| -> Vec<f64> {
        let ratio = |run: &Run| 2.0 * figure(of(run)) / (raw(&run.raw[number]) + raw(&run.raw[number + 1]));
        runs.iter().map(ratio).collect()
    };
    let ratios = of_raw(|way| way.documents_per_second, |raw| raw.documents_per_second);
    let mut table = Table::default();
    table.row("documents/s", &each(&|way| way.documents_per_second), None);
    table.row("of raw bulk", &ratios, Some(Goal::AtLeast(RATIO_MIN)));
    let microseconds = each(&|way| way.cpu.workers / documents * 1e6);
    table.row("worker's CPU, µs a document", &microseconds, Some(Goal::AtMost(WORKER_MICROSECONDS_MAX)));
    let of_raw_cpu = of_raw(|way| way.cpu.workers, |raw| raw.cpu.elasticsearch);
    table.row("the same, of Elasticsearch's for raw bulk", &of_raw_cpu, Some(Goal::AtMost(WORKER_TO_RAW_MAX)));
    let mebibytes = each(&|way| way.memory_peak_bytes as f64 / MEBIBYTE);
    table.row("worker's peak memory, MiB", &mebibytes, Some(Goal::AtMost(WORKER_MEBIBYTES_MAX)));
    table.row("Elasticsearch's CPU, s per 100,000", &each(&|way| way.cpu.elasticsearch * per_100_000), None);
    table.row("PostgreSQL replica's CPU, s per 100,000", &each(&|way| way.cpu.replica * per_100_000), None);
    table.row("PostgreSQL primary's CPU, s per 100,000", &each(&|way| way.cpu.primary * per_100_000), None);
    table.row("RabbitMQ's CPU, s per 100,000", &each(&|way| way.cpu.rabbitmq * per_100_000), None);
    let allowed = each(&|way| surroundings.cores as f64 * documents / way.cpu.services());
    table.row("what the services' CPU alone would allow, documents/s", &allowed, None);
    stage_rows(&mut table, runs.iter().map(|run| &of(run).stages));
    table.row("published before with confirms, ids/s", &each(&|way| way.published_per_second), None);
    table.row("everything else, % of the machine", &each(&|way| others(surroundings, &way.cpu, way.seconds)), None);
    table
}

fn stage_rows<'a>(table: &mut Table, runs: impl Iterator<Item = &'a Stages>) {
    let runs: Vec<&Stages> = runs.collect();
    let mut means = |figure: &str, unit: f64, histogram: fn(&Stages) -> &Histogram| {
        table.row(figure, &runs.iter().map(|run| histogram(run).mean() * unit).collect::<Vec<f64>>(), None);
    };
    means("ids a batch, mean", 1.0, |stages| &stages.batch_ids);
    means("a batch's fence, ms, mean", 1000.0, |stages| &stages.fence_seconds);
    means("a batch's rows, ms, mean", 1000.0, |stages| &stages.fetch_seconds);
    means("a batch's bulk request, ms, mean", 1000.0, |stages| &stages.bulk_seconds);
}

/// What others took of the machine meanwhile, a hypervisor included: the figures are the worse for it.
fn others(surroundings: &Surroundings, cpu: &CpuSeconds, seconds: f64) -> f64 {
    (cpu.others() + cpu.stolen) / (seconds * surroundings.cores as f64) * 100.0
}

fn latency_table(runs: &[&LatencyRun]) -> Table {
    let each = |figure: &dyn Fn(&LatencyRun) -> f64| runs.iter().map(|run| figure(run)).collect::<Vec<f64>>();
    let milliseconds =
        |part: f64| each(&|run| run.seconds.quantile(part).map_or(f64::NAN, |found| found.value * 1000.0));
    let mut table = Table::default();
    table.row("p50, ms from message to settled document", &milliseconds(0.5), None);
    table.row("p99, ms", &milliseconds(0.99), None);
    table.row("highest, ms (upper bound of its bucket)", &milliseconds(1.0), None);
    stage_rows(&mut table, runs.iter().map(|run| &run.stages));
    table.row("sent, jobs/s", &each(&|run| run.sent_per_second), None);
    table.row("worker's CPU, µs a document", &each(&|run| run.worker_cpu_seconds * 1e6), None);
    table
}

/// How exact the quantiles are.
fn latency_note(runs: &[&LatencyRun]) -> String {
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
