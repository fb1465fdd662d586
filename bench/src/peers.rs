//! Peers that users would pick instead, run beside Pinion on the same services: `peers/peer.sh` starts them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::Bench;
use crate::cpu::{CpuSeconds, Services, tree_memory_peak_bytes};

/// The index that they write to.
const INDEX: &str = "bench-peer";
/// The queue of those that take ids from RabbitMQ.
const QUEUE: &str = "bench-peer";
/// All queues that peers have in RabbitMQ, Celery's being named in its tasks.py.
const QUEUES: [&str; 2] = [QUEUE, "bench-celery"];
/// How often their progress is looked at: each look costs Elasticsearch some CPU, which is counted.
const LOOK: Duration = Duration::from_millis(200);
/// Without any progress for so long it is given up.
const PATIENCE: Duration = Duration::from_secs(120);
const END_TIMEOUT: Duration = Duration::from_secs(15);

/// What is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// gearmand and two Node workers, a job and a query a document, bulk requests of 500: what Pinion replaces.
    Gearman,
    /// Celery on RabbitMQ, two processes, a task, a query and an index call a document.
    Celery,
    /// Bento on RabbitMQ, batches of 1,000.
    Bento,
    /// The same with Redpanda Connect, the program that CONNECT_BIN names.
    Connect,
    /// PGSync's first synchronisation: no queue.
    Pgsync,
}

/// Where a peer's jobs come from.
enum Jobs {
    /// RabbitMQ, put there by the bench.
    Queue,
    /// Put into its broker by itself.
    Itself,
    /// It reads the database.
    None,
}

impl Peer {
    /// As `peers/peer.sh` calls it.
    fn name(self) -> String {
        self.to_possible_value().expect("no peer is hidden").get_name().to_owned()
    }

    /// For the report.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Gearman => "Gearman, two Node workers",
            Self::Celery => "Celery, a task a document",
            Self::Bento => "Bento, batches of 1,000",
            Self::Connect => "Redpanda Connect, batches of 1,000",
            Self::Pgsync => "PGSync, first synchronisation",
        }
    }

    /// How many times as fast Pinion should be.
    pub(crate) fn goal(self) -> Option<f64> {
        match self {
            Self::Gearman => Some(8.0),
            Self::Connect => Some(3.0),
            Self::Celery | Self::Bento | Self::Pgsync => None,
        }
    }

    fn jobs(self) -> Jobs {
        match self {
            Self::Bento | Self::Connect => Jobs::Queue,
            Self::Gearman | Self::Celery => Jobs::Itself,
            Self::Pgsync => Jobs::None,
        }
    }

    fn has_own_broker(self) -> bool {
        matches!(self, Self::Gearman | Self::Pgsync)
    }

    /// Of those that would take minutes for all.
    fn documents_max(self) -> usize {
        if self == Self::Celery { 20_000 } else { usize::MAX }
    }
}

/// What a peer needed for its documents.
pub(crate) struct PeerRun {
    pub(crate) peer: Peer,
    pub(crate) documents: usize,
    /// From the first that are seen to the last.
    pub(crate) documents_per_second: f64,
    /// The peer's processes are the workers, and its broker stands for RabbitMQ where it has one of its own.
    pub(crate) cpu: CpuSeconds,
    /// How long the CPU was watched.
    pub(crate) seconds: f64,
    /// The most that its processes have had, added up.
    pub(crate) memory_peak_bytes: u64,
}

/// The scripts of the peers.
pub(crate) struct Peers<'a> {
    bench: &'a Bench<'a>,
    script: PathBuf,
}

impl<'a> Peers<'a> {
    /// Installs what was asked for and is not there yet.
    pub(crate) async fn install(bench: &'a Bench<'a>) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/peer.sh");
        let peers = Self { bench, script };
        for peer in &bench.options.peers {
            eprintln!("{}: install", peer.name());
            peers.run_script(*peer, &["install"]).await?;
        }
        Ok(peers)
    }

    /// Lets a peer index the orders.
    pub(crate) async fn run(&self, peer: Peer) -> Result<PeerRun> {
        let ran = self.index(peer).await;
        let cleaned = self.run_script(peer, &["clean"]).await;
        let run = ran.with_context(|| peer.name())?;
        cleaned.map(|()| run)
    }

    async fn index(&self, peer: Peer) -> Result<PeerRun> {
        let Bench { servers, services, .. } = self.bench;
        let documents = self.bench.ids.len().min(peer.documents_max());
        servers.elasticsearch.delete_indexes(&format!("{INDEX}*")).await?;
        let mut mapping = self.bench.mapping.clone();
        if peer == Peer::Pgsync {
            // It adds a field of its own.
            mapping["mappings"]["dynamic"] = json!(true);
        }
        servers.elasticsearch.create(INDEX, &mapping).await?;
        // What an earlier run of it left would be indexed too.
        for queue in QUEUES {
            servers.rabbitmq.delete(queue).await?;
        }
        let broker = if peer.has_own_broker() { Some(self.start(peer, "broker")?) } else { None };
        match peer.jobs() {
            Jobs::Queue => {
                servers.rabbitmq.create(QUEUE, None).await?;
                servers.rabbitmq.fill(QUEUE, self.bench.ids[..documents].iter().map(i64::to_string)).await?;
            }
            Jobs::Itself => self.run_script(peer, &["enqueue", &documents.to_string()]).await?,
            Jobs::None => {}
        }
        let services = match &broker {
            Some(broker) => Services { rabbitmq: broker.pid, ..*services },
            None => *services,
        };
        let before = services.read(&[])?;
        let began = Instant::now();
        let mut workers = self.start(peer, "work")?;
        let (documents_per_second, memory_peak_bytes) = self.watch(&mut workers, documents as u64).await?;
        let count = servers.elasticsearch.count(INDEX).await?;
        ensure!(count == documents as u64, "{count} documents are in the index of {documents} orders");
        let cpu = services.read(&[workers.pid])? - before;
        let seconds = began.elapsed().as_secs_f64();
        workers.end().await?;
        if let Some(broker) = broker {
            broker.end().await?;
        }
        Ok(PeerRun { peer, documents, documents_per_second, cpu, seconds, memory_peak_bytes })
    }

    /// Documents a second from the first that are seen to the last, and the most memory meanwhile.
    async fn watch(&self, workers: &mut Running, documents: u64) -> Result<(f64, u64)> {
        let mut looks = tokio::time::interval(LOOK);
        let (mut first, mut last) = (None, (0, Instant::now()));
        let mut memory_peak_bytes = 0;
        loop {
            looks.tick().await;
            memory_peak_bytes = memory_peak_bytes.max(tree_memory_peak_bytes(workers.pid)?);
            let indexed = self.bench.servers.elasticsearch.indexed(INDEX).await?;
            let now = Instant::now();
            if indexed > last.0 {
                last = (indexed, now);
                first.get_or_insert(last);
            }
            if let Some((some, since)) = first
                && indexed >= documents
            {
                ensure!(now > since, "{documents} documents are too few to be timed");
                return Ok(((documents - some) as f64 / (now - since).as_secs_f64(), memory_peak_bytes));
            }
            if let Some(status) = workers.process.try_wait()? {
                bail!("it ended with {status} at {indexed} of {documents} documents; its log is {}", workers.log());
            }
            ensure!(
                now - last.1 < PATIENCE,
                "only {indexed} of {documents} documents, and no more since {PATIENCE:?}; its log is {}",
                workers.log()
            );
        }
    }

    fn command(&self, peer: Peer, arguments: &[&str]) -> Command {
        let options = &self.bench.options;
        let mut command = Command::new(&self.script);
        command.arg(peer.name()).args(arguments).stdin(Stdio::null()).kill_on_drop(true).envs([
            ("INDEX", INDEX),
            ("RABBITMQ_URL", &options.rabbitmq),
            ("ELASTICSEARCH_URL", &options.elasticsearch),
            // Some clients ask for TLS unless they are told not to.
            ("REPLICA", &format!("{}?sslmode=disable", options.replica)),
        ]);
        command
    }

    async fn run_script(&self, peer: Peer, arguments: &[&str]) -> Result<()> {
        let output = self.command(peer, arguments).output().await.context("peer.sh")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "peer.sh {} {}: {}", peer.name(), arguments.join(" "), said.trim());
        Ok(())
    }

    fn start(&self, peer: Peer, verb: &str) -> Result<Running> {
        let log = std::env::temp_dir().join(format!("pinion-bench-{}-{verb}.log", peer.name()));
        let output = File::create(&log)?;
        let mut command = self.command(peer, &[verb]);
        // A group of its own, so that all of its processes can be ended together.
        command.stdout(output.try_clone()?).stderr(output).process_group(0);
        let process = command.spawn().context("peer.sh")?;
        let pid = process.id().context("it has just begun")?;
        Ok(Running { process, pid, log, ended: false })
    }
}

/// The processes of a peer, or of its broker.
struct Running {
    process: Child,
    pid: u32,
    log: PathBuf,
    /// In order; else all are killed when this is dropped.
    ended: bool,
}

impl Running {
    fn log(&self) -> std::path::Display<'_> {
        self.log.display()
    }

    async fn end(mut self) -> Result<()> {
        self.signal("TERM");
        if tokio::time::timeout(END_TIMEOUT, self.process.wait()).await.is_err() {
            self.signal("KILL");
            self.process.wait().await?;
        }
        self.ended = true;
        Ok(std::fs::remove_file(&self.log)?)
    }

    fn signal(&self, name: &str) {
        let group = format!("-{}", self.pid);
        let sent = std::process::Command::new("kill").args([&format!("-{name}"), "--", &group]).status();
        if !sent.is_ok_and(|status| status.success()) {
            eprintln!("the processes of group {} were gone", self.pid);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where the first of them has ended by itself, others may still run.
        if !self.ended {
            self.signal("KILL");
        }
    }
}
