//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::growth::Grows;
use crate::peers::Peer;

/// Measures Pinion's whole way from queue to index against Elasticsearch's own speed, in one run.
///
/// `bench/run.sh` starts the services, fills the database and calls this program with the addresses and processes; call that.
#[derive(Debug, Parser)]
#[command(name = "pinion-bench", max_term_width = 100)]
pub(crate) struct Options {
    /// Repetitions; each measures everything once, in turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,
    /// Processes of `pinion work` that share the queue. The latency is measured with one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) workers: u32,
    /// How long jobs are sent at a steady rate to measure the latency; 0 leaves that out.
    #[arg(long, default_value_t = 20)]
    pub(crate) latency_seconds: u32,
    /// Jobs a second while the latency is measured.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) latency_rate: u32,
    /// Change events that the feed catches up with; 0 leaves that out, and Kafka is not needed then.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub(crate) feed_events: usize,
    /// Near the end measure, as often as there are runs, `pinion rebuild` and `pinion verify`, with and without live writes.
    #[arg(long)]
    pub(crate) rebuild: bool,
    /// Near the end measure, once, RabbitMQ alone and the curves of the settings that matter most.
    #[arg(long)]
    pub(crate) tuning: bool,
    /// At the end measure, as often as there are runs, how the workers grow; or only in some ways, as in
    /// `--growth=workers,queue`. `messages` is left out unless it is named: to fill its queue takes minutes.
    #[arg(long, value_enum, value_delimiter = ',', require_equals = true, num_args = 0..,
        default_missing_values = ["workers", "queue", "documents", "jobs"])]
    pub(crate) growth: Vec<Grows>,
    /// What is run beside Pinion, one after the other.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) peers: Vec<Peer>,
    /// Write the report to this file too, and its pictures beside it, as .svg, whenever a part is done.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// The program to measure; the one beside this program when not given.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) pinion: Option<PathBuf>,
    /// The folder of the job: job.toml, document.sql, mapping.json.
    #[arg(long, value_name = "FOLDER", default_value = "schemas/shop/orders")]
    pub(crate) job: PathBuf,

    /// RabbitMQ, for AMQP clients.
    #[arg(long, value_name = "URL")]
    pub(crate) rabbitmq: String,
    /// RabbitMQ's management API; its user is `guest` with the password `guest`.
    #[arg(long, value_name = "URL")]
    pub(crate) management: String,
    /// Elasticsearch.
    #[arg(long, value_name = "URL")]
    pub(crate) elasticsearch: String,
    /// Kafka's brokers.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) kafka: Option<String>,
    /// Which Kafka that is, since it does not tell.
    #[arg(long, value_name = "VERSION")]
    pub(crate) kafka_version: Option<String>,
    /// The filled database on the primary, as the worker reads it.
    #[arg(long, value_name = "URL")]
    pub(crate) primary: String,
    /// The same on the replica.
    #[arg(long, value_name = "URL")]
    pub(crate) replica: String,
    /// The same on the primary, as a role that may change rows.
    #[arg(long, value_name = "URL")]
    pub(crate) writer: String,

    /// Elasticsearch's process.
    #[arg(long, value_name = "PID")]
    pub(crate) elasticsearch_pid: u32,
    /// RabbitMQ's process.
    #[arg(long, value_name = "PID")]
    pub(crate) rabbitmq_pid: u32,
    /// Kafka's process.
    #[arg(long, value_name = "PID")]
    pub(crate) kafka_pid: Option<u32>,
    /// The primary's first process.
    #[arg(long, value_name = "PID")]
    pub(crate) primary_pid: u32,
    /// The replica's first process.
    #[arg(long, value_name = "PID")]
    pub(crate) replica_pid: u32,
}
