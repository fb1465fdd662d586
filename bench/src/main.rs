//! `pinion-bench`: measures Pinion's whole way against Elasticsearch's own speed. See README.md beside this folder.

mod broker;
mod cpu;
mod documents;
mod event;
mod feed;
mod growth;
mod kafka;
mod latency;
mod metrics;
mod options;
mod peers;
mod pinion;
mod plot;
mod raw;
mod rebuild;
mod report;
mod servers;
mod sink;
mod table;
mod tuning;
mod warm_up;
mod whole_way;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser as _;
use pinion_schemas::Names;
use pinion_worker::config::Config;
use serde_json::Value;
use tempfile::TempDir;

use crate::cpu::Services;
use crate::documents::Documents;
use crate::feed::Feed;
use crate::options::Options;
use crate::peers::Peers;
use crate::pinion::{INDEX, JOB, Pinion, Setup};
use crate::raw::RawRun;
use crate::report::{Beside, Latencies, Once, Run, Surroundings};
use crate::servers::{NAMESPACE, Servers};
use crate::whole_way::{Sending, WholeWayRun};

/// In the messages of the third whole way.
const IDS_PER_MESSAGE: usize = 100;

/// Ids that wait in the low lane while the latency of the live one is measured again: as many as a rebuild or a large fan-out has.
const LOW_IDS: usize = 1_000_000;

/// What every measurement needs.
struct Bench<'a> {
    options: &'a Options,
    servers: &'a Servers,
    services: Services,
    pinion: Pinion,
    /// The job's `mapping.json`.
    mapping: Value,
    /// All orders.
    ids: Vec<i64>,
    documents: Documents,
    /// The filled topic, where the change feed is measured.
    feed: Option<Feed>,
    /// Configuration, job and logs; removed at the end.
    folder: TempDir,
}

#[tokio::main]
async fn main() -> ExitCode {
    match bench(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pinion-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, removes what that made, and prints the report.
async fn bench(options: &Options) -> Result<()> {
    let servers = Servers::connect(options).await?;
    // An earlier run may have been killed.
    servers.clean().await?;
    let measured = tokio::select! {
        measured = measure(options, &servers) => measured,
        signal = tokio::signal::ctrl_c() => Err(signal.map_or_else(Into::into, |()| anyhow!("interrupted"))),
    };
    let cleaned = servers.clean().await;
    println!("{}", measured?);
    cleaned
}

/// Measures everything; the report. Its file is written whenever a part is done: what comes later may fail.
async fn measure(options: &Options, servers: &Servers) -> Result<String> {
    let versions = servers.versions(options.kafka_version.as_deref()).await?;
    let bench = Bench::prepare(options, servers).await?;
    let peers = Peers::install(&bench).await?;
    let warm_up = warm_up::run(&bench).await?;
    let mut runs = Vec::new();
    for number in 1..=options.runs {
        runs.push(bench.run(&peers, number).await?);
    }
    let mut surroundings = Surroundings {
        versions,
        processor: cpu::processor(),
        cores: std::thread::available_parallelism()?.get(),
        documents: bench.documents.count,
        bytes_per_document: bench.documents.bytes() as f64 / bench.documents.count as f64,
        warm_up,
        condition: String::new(),
    };
    let mut once = Once::default();
    let mut told = |once: &Once| -> Result<String> {
        surroundings.condition = cpu::condition()?;
        let report = report::report(options, &surroundings, &runs, once, IDS_PER_MESSAGE);
        if let Some(file) = &options.markdown {
            let write =
                |file: &Path, text: &str| std::fs::write(file, text).with_context(|| file.display().to_string());
            write(file, &report)?;
            write(&file.with_extension("svg"), &report::picture(options, &runs, IDS_PER_MESSAGE))?;
            if !once.tuning.is_empty() {
                write(&file.with_extension("tuning.svg"), &report::curves_picture(&once.tuning))?;
            }
        }
        Ok(report)
    };
    told(&once)?;
    if options.rebuild {
        for _ in 0..options.runs {
            once.rebuild.push(rebuild::run(&bench).await?);
            told(&once)?;
        }
    }
    if options.tuning {
        once.broker = broker::run(&bench).await?;
        once.tuning = tuning::run(&bench).await?;
        told(&once)?;
    }
    once.growth = growth::run(&bench).await?;
    told(&once)
}

impl<'a> Bench<'a> {
    /// Reads the documents, and checks everything that can be checked before.
    async fn prepare(options: &'a Options, servers: &'a Servers) -> Result<Self> {
        let services = Services {
            elasticsearch: options.elasticsearch_pid,
            primary: options.primary_pid,
            replica: options.replica_pid,
            rabbitmq: options.rabbitmq_pid,
            kafka: options.kafka_pid,
        };
        services.read(&[])?;
        let folder = tempfile::Builder::new().prefix("pinion-bench").tempdir()?;
        let pinion = Pinion::new(options, folder.path(), &Setup::new(&options.elasticsearch))?;
        let mapping = options.job.join("mapping.json");
        let mapping = serde_json::from_str(&std::fs::read_to_string(mapping)?).context("mapping.json")?;
        let ids = servers.ids().await?;
        // The fence keeps its generation in an index that this makes.
        pinion.apply().await?;
        let documents = Documents::prepare(Config::load(&pinion.config_file())?, &ids).await?;
        eprintln!("{} documents of {} MB are ready", documents.count, documents.bytes() / 1_000_000);
        let feed = match options.feed_events {
            0 => None,
            events => Some(Feed::fill(servers, &ids, events).await?),
        };
        Ok(Self { options, servers, services, pinion, mapping, ids, documents, feed, folder })
    }

    /// Measures everything once, in turn.
    async fn run(&self, peers: &Peers<'_>, number: u32) -> Result<Run> {
        let told = |what: &str, speed: f64| eprintln!("run {number}: {what} {speed:.0} documents/s");
        let raw = async || -> Result<RawRun> {
            let raw = raw::run(self).await?;
            told("raw bulk", raw.documents_per_second);
            Ok(raw)
        };
        let whole_way = async |sending: Sending| -> Result<WholeWayRun> {
            let way = whole_way::run(self, &self.ids, sending).await?;
            told(&format!("the whole way, {:.1} id(s) a message,", way.ids_per_message), way.documents_per_second);
            Ok(way)
        };
        let condition = cpu::condition()?;
        let first = raw().await?;
        let one = whole_way(Sending::Together(1)).await?;
        let second = raw().await?;
        let called = whole_way(Sending::Called).await?;
        let third = raw().await?;
        let many = whole_way(Sending::Together(IDS_PER_MESSAGE)).await?;
        let fourth = raw().await?;
        let feed = match &self.feed {
            None => None,
            Some(feed) => {
                let run = feed.run(self, number).await?;
                told("the change feed,", run.way.documents_per_second);
                Some((run, raw().await?))
            }
        };
        let latency = match self.options.latency_seconds {
            0 => None,
            _ => Some(Latencies { alone: latency::run(self, 0).await?, beside: latency::run(self, LOW_IDS).await? }),
        };
        let mut beside = Vec::new();
        if !self.options.peers.is_empty() {
            let mut before = raw().await?;
            for peer in &self.options.peers {
                let run = peers.run(*peer).await?;
                told(&format!("{},", peer.title()), run.documents_per_second);
                let after = raw().await?;
                beside.push(Beside { run, raw: [before, after] });
                before = after;
            }
        }
        Ok(Run { raw: [first, second, third, fourth], one, called, many, feed, latency, peers: beside, condition })
    }

    /// An empty index behind the job's alias.
    async fn fresh_index(&self) -> Result<()> {
        self.servers.elasticsearch.delete_indexes(&format!("{INDEX}*")).await?;
        self.pinion.apply().await
    }

    /// After the workers' end: everything that was published has been acknowledged.
    async fn queue_is_empty(&self) -> Result<()> {
        let names = Names::new(NAMESPACE)?;
        for queue in [names.queue(JOB), names.low_queue(JOB), names.suspects_queue(JOB), names.alone_queue(JOB)] {
            let left = self.servers.rabbitmq.ready(&queue).await?;
            ensure!(left == 0, "{left} messages are left in the queue {queue}");
        }
        Ok(())
    }
}
