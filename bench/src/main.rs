//! `pinion-bench`: measures Pinion's whole way against Elasticsearch's own speed. See README.md beside this folder.

mod cpu;
mod documents;
mod latency;
mod metrics;
mod options;
mod pinion;
mod raw;
mod report;
mod servers;
mod table;
mod whole_way;

use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser as _;
use pinion_schemas::Names;
use pinion_worker::config::Config;
use serde_json::Value;
use tempfile::TempDir;

use crate::cpu::Services;
use crate::documents::Documents;
use crate::options::Options;
use crate::pinion::{INDEX, JOB, Pinion};
use crate::raw::RawRun;
use crate::report::{Run, Surroundings};
use crate::servers::{NAMESPACE, Servers};
use crate::whole_way::WholeWayRun;

/// In the messages of the second whole way.
const IDS_PER_MESSAGE: usize = 100;

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
    /// Configuration, job and logs; removed at the end.
    _folder: TempDir,
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
    let report = measured?;
    println!("{report}");
    if let Some(file) = &options.markdown {
        std::fs::write(file, report).with_context(|| file.display().to_string())?;
    }
    cleaned
}

async fn measure(options: &Options, servers: &Servers) -> Result<String> {
    let versions = servers.versions().await?;
    let bench = Bench::prepare(options, servers).await?;
    let warm_up_passes = raw::warm_up(&bench).await?;
    let mut runs = Vec::new();
    for number in 1..=options.runs {
        runs.push(bench.run(number).await?);
    }
    let surroundings = Surroundings {
        versions,
        processor: cpu::processor(),
        cores: std::thread::available_parallelism()?.get(),
        documents: bench.documents.count,
        bytes_per_document: bench.documents.bytes() as f64 / bench.documents.count as f64,
        warm_up_passes,
        condition: cpu::condition()?,
    };
    Ok(report::report(options, &surroundings, &runs, IDS_PER_MESSAGE))
}

impl<'a> Bench<'a> {
    /// Reads the documents, and checks everything that can be checked before.
    async fn prepare(options: &'a Options, servers: &'a Servers) -> Result<Self> {
        let services = Services {
            elasticsearch: options.elasticsearch_pid,
            primary: options.primary_pid,
            replica: options.replica_pid,
            rabbitmq: options.rabbitmq_pid,
        };
        services.read(&[])?;
        let folder = tempfile::Builder::new().prefix("pinion-bench").tempdir()?;
        let pinion = Pinion::new(options, folder.path())?;
        let mapping = options.job.join("mapping.json");
        let mapping = serde_json::from_str(&std::fs::read_to_string(mapping)?).context("mapping.json")?;
        let ids = servers.ids().await?;
        // The fence keeps its generation in an index that this makes.
        pinion.apply().await?;
        let documents = Documents::prepare(Config::load(&pinion.config_file())?, &ids).await?;
        eprintln!("{} documents of {} MB are ready", documents.count, documents.bytes() / 1_000_000);
        Ok(Self { options, servers, services, pinion, mapping, ids, documents, _folder: folder })
    }

    /// Measures everything once, in turn.
    async fn run(&self, number: u32) -> Result<Run> {
        let told = |what: &str, speed: f64| eprintln!("run {number}: {what} {speed:.0} documents/s");
        let raw = async || -> Result<RawRun> {
            let raw = raw::run(self).await?;
            told("raw bulk", raw.documents_per_second);
            Ok(raw)
        };
        let whole_way = async |ids: usize| -> Result<WholeWayRun> {
            let way = whole_way::run(self, ids).await?;
            told(&format!("the whole way, {ids} id(s) a message,"), way.documents_per_second);
            Ok(way)
        };
        let condition = cpu::condition()?;
        let first = raw().await?;
        let one = whole_way(1).await?;
        let second = raw().await?;
        let many = whole_way(IDS_PER_MESSAGE).await?;
        let third = raw().await?;
        let latency = match self.options.latency_seconds {
            0 => None,
            _ => Some(latency::run(self).await?),
        };
        Ok(Run { raw: [first, second, third], one, many, latency, condition })
    }

    /// An empty index behind the job's alias.
    async fn fresh_index(&self) -> Result<()> {
        self.servers.elasticsearch.delete_indexes(&format!("{INDEX}*")).await?;
        self.pinion.apply().await
    }

    /// After the workers' end: everything that was published has been acknowledged.
    async fn queue_is_empty(&self) -> Result<()> {
        let names = Names::new(NAMESPACE)?;
        for queue in [names.queue(JOB), names.low_queue(JOB), names.suspects_queue(JOB)] {
            let left = self.servers.rabbitmq.ready(&queue).await?;
            ensure!(left == 0, "{left} messages are left in the queue {queue}");
        }
        Ok(())
    }
}
