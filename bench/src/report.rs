//! The report: every figure with its spread over the runs, and its goal where it has one.

mod latency;
mod once;

use self::latency::{lanes_table, latency_note, latency_table};
use self::once::{broker_table, curve_table, growth_note, growth_table, rebuild_table};
use crate::broker::BrokerRun;
use crate::cpu::CpuSeconds;
use crate::feed::FeedRun;
use crate::growth::Growth;
use crate::latency::LatencyRun;
use crate::metrics::{Histogram, Stages};
use crate::peers::{Peer, PeerRun};
use crate::plot::{self, Bar};
use crate::raw::{CONNECTIONS, RawRun};
use crate::rebuild::RebuildRun;
use crate::table::{Goal, Table, median_of};
use crate::tuning::Curve;
use crate::warm_up::WarmUp;
use crate::whole_way::WholeWayRun;
use crate::{LOW_IDS, documents::BODY_DOCUMENTS, options::Options};

/// Goals of the whole way.
const RATIO_MIN: f64 = 0.55;
/// With one id a message, and with many.
const WORKER_MICROSECONDS_MAX: [f64; 2] = [8.0, 4.0];
const WORKER_MEBIBYTES_MAX: f64 = 64.0;
const REPLICA_SECONDS_MAX: f64 = 1.3;
/// Of the rate that the services' CPU alone would allow.
const ALLOWED_MIN: f64 = 0.90;
/// Goals of CPU time were set where Elasticsearch needs 3.1 s for 100,000 documents of raw bulk; as parts of that they hold for a machine
/// of any speed.
const RAW_SECONDS: f64 = 3.1;

/// Of the queue path's rate for the same ids.
const FEED_TO_QUEUE_MIN: f64 = 0.60;

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// What was measured in one run.
pub(crate) struct Run {
    /// Before, between and after the three whole ways.
    pub(crate) raw: [RawRun; 4],
    /// With one id a message.
    pub(crate) one: WholeWayRun,
    /// With as many as the client puts together of calls for one each.
    pub(crate) called: WholeWayRun,
    /// With many.
    pub(crate) many: WholeWayRun,
    /// With the raw pass after it.
    pub(crate) feed: Option<(FeedRun, RawRun)>,
    pub(crate) latency: Option<Latencies>,
    pub(crate) peers: Vec<Beside>,
    /// How busy and fast the machine was when the run began.
    pub(crate) condition: String,
}

impl Run {
    fn one(&self) -> Measured<'_> {
        Measured { way: &self.one, raw: [&self.raw[0], &self.raw[1]] }
    }

    fn called(&self) -> Measured<'_> {
        Measured { way: &self.called, raw: [&self.raw[1], &self.raw[2]] }
    }

    fn many(&self) -> Measured<'_> {
        Measured { way: &self.many, raw: [&self.raw[2], &self.raw[3]] }
    }

    fn peers_of(&self, peer: Peer) -> impl Iterator<Item = &Beside> {
        self.peers.iter().filter(move |beside| beside.run.peer == peer)
    }
}

/// Of the live lane.
pub(crate) struct Latencies {
    /// With nothing else to do.
    pub(crate) alone: LatencyRun,
    /// While the low lane is full.
    pub(crate) beside: LatencyRun,
}

/// A peer, and the raw passes just before and after it.
pub(crate) struct Beside {
    pub(crate) run: PeerRun,
    pub(crate) raw: [RawRun; 2],
}

impl Beside {
    fn of_raw(&self) -> f64 {
        2.0 * self.run.documents_per_second / self.raw.iter().map(|raw| raw.documents_per_second).sum::<f64>()
    }
}

/// What is measured after the runs; empty where it was not.
#[derive(Default)]
pub(crate) struct Once {
    /// One for each run: they come after all of these.
    pub(crate) rebuild: Vec<RebuildRun>,
    pub(crate) broker: Vec<BrokerRun>,
    pub(crate) tuning: Vec<Curve>,
    pub(crate) growth: Vec<Growth>,
}

/// What the figures were measured on and with.
pub(crate) struct Surroundings {
    pub(crate) versions: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) documents: usize,
    /// In a bulk request, the action's line included.
    pub(crate) bytes_per_document: f64,
    pub(crate) warm_up: WarmUp,
    /// How busy and fast the machine was when all was done.
    pub(crate) condition: String,
}

/// The whole report as Markdown.
pub(crate) fn report(
    options: &Options,
    surroundings: &Surroundings,
    runs: &[Run],
    once: &Once,
    ids_per_message: usize,
) -> String {
    let mut text = heading(options, surroundings, runs);
    let section = |title: &str, table: Table| format!("\n## {title}\n\n{table}");
    text += &section(
        &format!("Raw Elasticsearch bulk: bodies of {BODY_DOCUMENTS} on {CONNECTIONS} connections"),
        raw_table(surroundings, runs),
    );
    let whole_way = |of: fn(&Run) -> Measured<'_>, microseconds_max| {
        whole_way_table(surroundings, &runs.iter().map(of).collect::<Vec<_>>(), microseconds_max)
    };
    let [with_one, with_many] = WORKER_MICROSECONDS_MAX;
    text += &section("The whole way, one id a message", whole_way(Run::one, with_one));
    text += &section("The whole way, one id a call", whole_way(Run::called, with_one));
    text += &section(&format!("The whole way, {ids_per_message} ids a message"), whole_way(Run::many, with_many));
    let feeds: Vec<FeedMeasured<'_>> = runs.iter().filter_map(FeedMeasured::of).collect();
    if !feeds.is_empty() {
        let title = format!("The change feed catches up with {} events", options.feed_events);
        text += &section(&title, feed_table(surroundings, &feeds));
    }
    let latencies: Vec<&Latencies> = runs.iter().filter_map(|run| run.latency.as_ref()).collect();
    if !latencies.is_empty() {
        let title =
            format!("Latency of one worker at {} jobs/s for {} s", options.latency_rate, options.latency_seconds);
        let alone: Vec<&LatencyRun> = latencies.iter().map(|run| &run.alone).collect();
        text += &section(&title, latency_table(&alone));
        text += &latency_note(&alone);
        text += &section(&format!("The same, while {LOW_IDS} ids wait in the low lane"), lanes_table(&latencies));
    }
    if !once.rebuild.is_empty() {
        let speeds =
            runs.iter().flat_map(|run| run.peers_of(Peer::Pgsync)).map(|beside| beside.run.documents_per_second);
        let pgsync = Some(speeds.collect()).filter(|speeds: &Vec<f64>| !speeds.is_empty()).map(median_of);
        text += &section("Rebuild and verify", rebuild_table(surroundings, &once.rebuild, pgsync));
    }
    if !once.broker.is_empty() {
        text += &section("RabbitMQ alone, read by a client that only acknowledges", broker_table(&once.broker));
    }
    for curve in &once.tuning {
        text += &section(&format!("The whole way by {}", curve.setting), curve_table(curve));
    }
    for growth in &once.growth {
        text += &section(&format!("Growth into a null sink: {}", growth.what.title()), growth_table(growth));
        text += &growth_note(growth);
    }
    for peer in &options.peers {
        text += &section(&format!("Beside it: {}", peer.title()), peer_table(surroundings, runs, *peer));
    }
    text
}

/// The report's picture: medians of what each way reaches of raw bulk.
pub(crate) fn picture(options: &Options, runs: &[Run], ids_per_message: usize) -> String {
    let of_runs = |figure: &dyn Fn(&Run) -> f64| median_of(runs.iter().map(figure).collect());
    let bar = |name: String, ratio: f64, ours: bool| Bar { name, length: ratio, figure: format!("{ratio:.2}"), ours };
    let ours = |name: String, way: fn(&Run) -> Measured<'_>| bar(name, of_runs(&|run| way(run).speed_of_raw()), true);
    let mut bars = vec![
        bar("Elasticsearch alone, prepared bodies".to_owned(), 1.0, false),
        ours(format!("Pinion, {ids_per_message} ids a message"), Run::many),
        ours("Pinion, one id a call".to_owned(), Run::called),
        ours("Pinion, one id a message".to_owned(), Run::one),
    ];
    bars.extend(options.peers.iter().map(|peer| {
        let ratios = runs.iter().flat_map(|run| run.peers_of(*peer)).map(|beside| beside.of_raw()).collect();
        bar(peer.title().to_owned(), median_of(ratios), false)
    }));
    plot::svg("Documents a second, of raw Elasticsearch bulk in the same minutes", &bars)
}

/// The picture of the curves: documents a second by each setting's value, the defaults marked.
pub(crate) fn curves_picture(curves: &[Curve]) -> String {
    let bars = curves.iter().flat_map(|curve| {
        curve.points.iter().map(|point| Bar {
            name: format!("{} = {}", curve.setting, point.value),
            length: point.documents_per_second,
            figure: format!("{:.0}", point.documents_per_second),
            ours: point.value == curve.default,
        })
    });
    plot::svg("Documents a second by the settings that matter most; the defaults are marked", &bars.collect::<Vec<_>>())
}

fn heading(options: &Options, surroundings: &Surroundings, runs: &[Run]) -> String {
    let Surroundings { versions, processor, cores, documents, bytes_per_document, warm_up, condition } = surroundings;
    let conditions: Vec<&str> = runs.iter().map(|run| run.condition.as_str()).collect();
    format!(
        "# Pinion's benchmark\n\n\
         - {versions}\n\
         - {cores} cores for everything ({processor})\n\
         - load average, and CPU time of a fixed computation, when each run began: {}; at the end: {condition}\n\
         - {documents} orders of {bytes_per_document:.0} bytes in a bulk request; {} run(s); {} worker process(es)\n\
         - Elasticsearch warmed by {} raw passes and {} of the whole way; \"of raw bulk\" compares with the mean of the raw passes just before and after\n\
         - the goal is for the median\n",
        conditions.join("; "),
        options.runs,
        options.workers,
        warm_up.raw,
        warm_up.whole_way,
    )
}

fn raw_table(surroundings: &Surroundings, runs: &[Run]) -> Table {
    let after_feed = |run: &'_ Run| run.feed.as_ref().map(|(_, raw)| *raw);
    let raws: Vec<RawRun> = runs.iter().flat_map(|run| run.raw.into_iter().chain(after_feed(run))).collect();
    let each = |figure: &dyn Fn(&RawRun) -> f64| raws.iter().map(figure).collect::<Vec<f64>>();
    let per_100_000 = 100_000.0 / surroundings.documents as f64;
    let mut table = Table::default();
    table.row("documents/s", &each(&|raw| raw.documents_per_second), None);
    table.row("Elasticsearch's CPU, s per 100,000", &each(&|raw| raw.cpu.elasticsearch * per_100_000), None);
    table.row("the sender's CPU, s per 100,000", &each(&|raw| raw.cpu.bench * per_100_000), None);
    table.row("everything else, % of the machine", &each(&|raw| others(surroundings, &raw.cpu, raw.seconds)), None);
    table
}

/// A whole way, and the raw passes just before and after it.
struct Measured<'a> {
    way: &'a WholeWayRun,
    raw: [&'a RawRun; 2],
}

impl Measured<'_> {
    /// What the way makes of its figure, as a part of the raw passes' mean.
    fn of_raw(&self, way: f64, raw: fn(&RawRun) -> f64) -> f64 {
        2.0 * way / self.raw.into_iter().map(raw).sum::<f64>()
    }

    /// Its documents a second, as a part of theirs.
    fn speed_of_raw(&self) -> f64 {
        self.of_raw(self.way.documents_per_second, |raw| raw.documents_per_second)
    }

    /// The CPU of a service for so many ids.
    fn per_100_000(&self, seconds: fn(&CpuSeconds) -> f64) -> f64 {
        seconds(&self.way.cpu) * 100_000.0 / self.way.ids as f64
    }

    /// Ids a second that the services' CPU would leave to a worker that needed none.
    fn allowed(&self, surroundings: &Surroundings) -> f64 {
        surroundings.cores as f64 * self.way.ids as f64 / self.way.cpu.services()
    }

    fn worker_microseconds(&self) -> f64 {
        self.way.cpu.workers / self.way.ids as f64 * 1e6
    }
}

fn whole_way_table(surroundings: &Surroundings, runs: &[Measured<'_>], microseconds_max: f64) -> Table {
    let each = |figure: &dyn Fn(&Measured<'_>) -> f64| runs.iter().map(figure).collect::<Vec<f64>>();
    let mut table = Table::default();
    table.row("documents/s", &each(&|run| run.way.documents_per_second), None);
    table.row("of raw bulk", &each(&|run| run.speed_of_raw()), Some(Goal::AtLeast(RATIO_MIN)));
    let of_allowed = each(&|run| run.way.documents_per_second / run.allowed(surroundings));
    table.row("of what the services' CPU alone would allow", &of_allowed, Some(Goal::AtLeast(ALLOWED_MIN)));
    let microseconds = each(&|run| run.worker_microseconds());
    table.row("worker's CPU, µs a document", &microseconds, Some(Goal::AtMost(microseconds_max)));
    let of_raw_cpu = each(&|run| run.of_raw(run.way.cpu.workers, |raw| raw.cpu.elasticsearch));
    let of_raw_max = microseconds_max / 10.0 / RAW_SECONDS;
    table.row("the same, of Elasticsearch's for raw bulk", &of_raw_cpu, Some(Goal::AtMost(of_raw_max)));
    let replica = each(&|run| run.of_raw(run.way.cpu.replica, |raw| raw.cpu.elasticsearch));
    let replica_max = REPLICA_SECONDS_MAX / RAW_SECONDS;
    table.row("PostgreSQL replica's CPU, of the same", &replica, Some(Goal::AtMost(replica_max)));
    service_rows(&mut table, surroundings, runs, "documents");
    table.row("ids a message", &each(&|run| run.way.ids_per_message), None);
    table.row("published before with confirms, ids/s", &each(&|run| run.way.published_per_second), None);
    table.row("everything else, % of the machine", &each(&|run| others_of(surroundings, run)), None);
    table
}

/// Memory, the services' CPU, and the stages.
fn service_rows(table: &mut Table, surroundings: &Surroundings, runs: &[Measured<'_>], what: &str) {
    let each = |figure: &dyn Fn(&Measured<'_>) -> f64| runs.iter().map(figure).collect::<Vec<f64>>();
    let mebibytes = each(&|run| run.way.memory_peak_bytes as f64 / MEBIBYTE);
    table.row("worker's peak memory, MiB", &mebibytes, Some(Goal::AtMost(WORKER_MEBIBYTES_MAX)));
    let mut service = |name: &str, seconds: fn(&CpuSeconds) -> f64| {
        table.row(&format!("{name}'s CPU, s per 100,000"), &each(&|run| run.per_100_000(seconds)), None);
    };
    service("Elasticsearch", |cpu| cpu.elasticsearch);
    service("PostgreSQL replica", |cpu| cpu.replica);
    service("PostgreSQL primary", |cpu| cpu.primary);
    service("RabbitMQ", |cpu| cpu.rabbitmq);
    if runs.iter().any(|run| run.way.cpu.kafka > 0.0) {
        service("Kafka", |cpu| cpu.kafka);
    }
    let allowed = each(&|run| run.allowed(surroundings));
    table.row(&format!("what the services' CPU alone would allow, {what}/s"), &allowed, None);
    stage_rows(table, runs.iter().map(|run| &run.way.stages));
}

fn others_of(surroundings: &Surroundings, run: &Measured<'_>) -> f64 {
    others(surroundings, &run.way.cpu, run.way.seconds)
}

/// A peer, with Pinion's whole ways for comparison: each as a part of the raw passes beside it, since speeds differ from minute to minute.
/// The goal is for jobs that are sent as the peers' are: a call of the client for each.
fn peer_table(surroundings: &Surroundings, runs: &[Run], peer: Peer) -> Table {
    let each = |figure: &dyn Fn(&Run, &Beside) -> f64| -> Vec<f64> {
        runs.iter()
            .flat_map(|run| run.peers_of(peer).map(move |beside| (run, beside)))
            .map(|(run, beside)| figure(run, beside))
            .collect()
    };
    let per_100_000 = |seconds: fn(&CpuSeconds) -> f64| {
        each(&|_, beside| seconds(&beside.run.cpu) * 100_000.0 / beside.run.documents as f64)
    };
    let mut table = Table::default();
    table.row("documents", &each(&|_, beside| beside.run.documents as f64), None);
    table.row("documents/s", &each(&|_, beside| beside.run.documents_per_second), None);
    table.row("of raw bulk", &each(&|_, beside| beside.of_raw()), None);
    let mut times = |sent: &str, way: fn(&Run) -> Measured<'_>, goal| {
        let times = each(&|run, beside| way(run).speed_of_raw() / beside.of_raw());
        table.row(&format!("Pinion with one id a {sent}, times as fast"), &times, goal);
    };
    times("call", Run::called, peer.goal().map(Goal::AtLeast));
    times("message", Run::one, None);
    table.row("its CPU, s per 100,000", &per_100_000(|cpu| cpu.workers), None);
    table.row("its peak memory, MiB", &each(&|_, beside| beside.run.memory_peak_bytes as f64 / MEBIBYTE), None);
    table.row("Elasticsearch's CPU, s per 100,000", &per_100_000(|cpu| cpu.elasticsearch), None);
    table.row("PostgreSQL's CPU, s per 100,000", &per_100_000(|cpu| cpu.primary + cpu.replica), None);
    table.row("its broker's CPU, s per 100,000", &per_100_000(|cpu| cpu.rabbitmq), None);
    let others = each(&|_, beside| others(surroundings, &beside.run.cpu, beside.run.seconds));
    table.row("everything else, % of the machine", &others, None);
    table
}

/// The feed, and what it is compared with.
struct FeedMeasured<'a> {
    feed: Measured<'a>,
    /// The same ids, by queue.
    queue: Measured<'a>,
    /// Each id once, by queue.
    once: &'a WholeWayRun,
}

impl<'a> FeedMeasured<'a> {
    fn of(run: &'a Run) -> Option<Self> {
        let (FeedRun { way, queue }, after) = run.feed.as_ref()?;
        let raw = [&run.raw[3], after];
        Some(Self { feed: Measured { way, raw }, queue: Measured { way: queue, raw }, once: &run.many })
    }
}

fn feed_table(surroundings: &Surroundings, runs: &[FeedMeasured<'_>]) -> Table {
    let each = |figure: &dyn Fn(&FeedMeasured<'_>) -> f64| runs.iter().map(figure).collect::<Vec<f64>>();
    let speed = |way: &WholeWayRun| way.documents_per_second;
    let mut table = Table::default();
    table.row("events/s", &each(&|run| speed(run.feed.way)), None);
    table.row("documents written, of an event", &each(&|run| run.feed.way.written / run.feed.way.ids as f64), None);
    table.row("the same ids by queue, ids/s", &each(&|run| speed(run.queue.way)), None);
    let of_queue = each(&|run| speed(run.feed.way) / speed(run.queue.way));
    table.row("of the queue path's rate", &of_queue, Some(Goal::AtLeast(FEED_TO_QUEUE_MIN)));
    let of_once = each(&|run| speed(run.feed.way) / speed(run.once));
    table.row("of the queue path's rate with each id once", &of_once, None);
    let of_raw = each(&|run| run.feed.of_raw(speed(run.feed.way), |raw| raw.documents_per_second));
    table.row("of raw bulk", &of_raw, None);
    table.row("worker's CPU, µs an event", &each(&|run| run.feed.worker_microseconds()), None);
    table.row("by queue, µs an id", &each(&|run| run.queue.worker_microseconds()), None);
    let all = |cpu: &CpuSeconds| cpu.services() + cpu.workers;
    table.row("CPU of worker and services, s per 100,000", &each(&|run| run.feed.per_100_000(all)), None);
    table.row("by queue, s per 100,000", &each(&|run| run.queue.per_100_000(all)), None);
    let feeds: Vec<Measured<'_>> = runs.iter().map(|run| Measured { way: run.feed.way, raw: run.feed.raw }).collect();
    service_rows(&mut table, surroundings, &feeds, "events");
    table.row("put into the topic before, events/s", &each(&|run| run.feed.way.published_per_second), None);
    table.row("everything else, % of the machine", &each(&|run| others_of(surroundings, &run.feed)), None);
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
