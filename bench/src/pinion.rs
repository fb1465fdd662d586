//! The program that is measured, `pinion`, as processes of their own.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::cpu::memory_peak_bytes;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::servers::NAMESPACE;

/// The job that is measured; its folder's name.
pub(crate) const JOB: &str = "orders";
/// The alias of its index in a run.
pub(crate) const INDEX: &str = "bench-orders";

const START_TIMEOUT: Duration = Duration::from_secs(30);
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a worker's log an error shows.
const LOG_LINES: usize = 15;

/// The program with the configuration of a run.
pub(crate) struct Pinion {
    program: PathBuf,
    folder: PathBuf,
}

impl Pinion {
    /// Writes a configuration with the worker's defaults, and the jobs with indexes of their own, into `folder`.
    pub(crate) fn new(options: &Options, folder: &Path, setup: &Setup<'_>) -> Result<Self> {
        let program = match &options.pinion {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("pinion"),
        };
        ensure!(program.is_file(), "{} is missing: cargo build --release -p pinion-worker", program.display());
        for number in 0..setup.jobs {
            let job = folder.join("jobs").join(job_name(number));
            copy_job(&options.job, &job, &index_name(number))?;
            if let Some(bytes) = setup.document_bytes {
                let sql =
                    format!("SELECT o.id AS _id, repeat('x', {bytes}) AS text FROM orders o WHERE o.id = ANY(:ids)\n");
                std::fs::write(job.join("document.sql"), sql)?;
            }
        }
        let toml = format!(
            "namespace = {NAMESPACE:?}\nschemas = \"jobs\"\n\n[rabbitmq]\nurl = {:?}\n\n[elasticsearch]\nurls = [{:?}]\n\n\
             [sources.shop]\nkind = \"postgres\"\nprimary = {:?}\nreplicas = [{:?}]\ntopic_prefix = {NAMESPACE:?}\n{}\n[worker]\n{}",
            options.rabbitmq,
            setup.elasticsearch,
            options.primary,
            options.replica,
            setup.feed.map(Followed::toml).unwrap_or_default(),
            setup.worker
        );
        let pinion = Self { program, folder: folder.to_owned() };
        std::fs::write(pinion.config_file(), toml)?;
        Ok(pinion)
    }

    /// The configuration.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.join("pinion.toml")
    }

    /// `pinion apply`: makes queues and indexes.
    pub(crate) async fn apply(&self) -> Result<()> {
        self.run(&["apply"]).await.map(drop)
    }

    /// Runs a command to its end; what it printed.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<String> {
        let what = arguments.join(" ");
        let output = self.command(arguments).output().await.with_context(|| format!("pinion {what}"))?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?);
        }
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        bail!("pinion {what} failed ({}): {}", output.status, said.trim());
    }

    /// Starts `count` processes of `pinion work`; returns once their admin ports are known.
    pub(crate) async fn work(&self, count: u32) -> Result<Workers> {
        let mut workers = Workers { each: Vec::new(), http: reqwest::Client::new() };
        for number in 1..=count {
            let log = self.folder.join(format!("worker-{number}.log"));
            let mut command = self.command(&["work", "--listen", "127.0.0.1:0"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
            let process = command.spawn().with_context(|| format!("can't run {}", self.program.display()))?;
            let pid = process.id().context("the worker has just begun")?;
            workers.each.push(Worker { process, pid, log, admin: String::new() });
        }
        for worker in &mut workers.each {
            let found = timeout(START_TIMEOUT, worker.find_admin()).await;
            worker.admin = found
                .with_context(|| format!("the worker did not start in {START_TIMEOUT:?}{}", worker.last_words()))??;
        }
        Ok(workers)
    }

    /// A command of the program.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.config_file()).args(["--log", "info"]).args(arguments).kill_on_drop(true);
        command
    }
}

/// What a configuration is made of.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    /// Where bulk requests go.
    pub(crate) elasticsearch: &'a str,
    /// How many jobs there are, all with the same documents.
    pub(crate) jobs: usize,
    /// About the size of the documents, where they are not the job's own.
    pub(crate) document_bytes: Option<usize>,
    /// Lines of `[worker]`, where they are not the defaults.
    pub(crate) worker: &'a str,
    /// The change feed to follow.
    pub(crate) feed: Option<&'a Followed<'a>>,
}

impl<'a> Setup<'a> {
    /// One job, no change feed.
    pub(crate) fn new(elasticsearch: &'a str) -> Self {
        Self { elasticsearch, jobs: 1, document_bytes: None, worker: "", feed: None }
    }
}

/// A job's name, counted from 0.
pub(crate) fn job_name(number: usize) -> String {
    if number == 0 { JOB.to_owned() } else { format!("{JOB}-{number}") }
}

fn index_name(number: usize) -> String {
    if number == 0 { INDEX.to_owned() } else { format!("{INDEX}-{number}") }
}

/// The change feed that workers follow.
pub(crate) struct Followed<'a> {
    pub(crate) brokers: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) group: &'a str,
}

impl Followed<'_> {
    fn toml(&self) -> String {
        let Self { brokers, topic, group } = self;
        // No connector runs that could be missed.
        format!("\n[kafka]\nbrokers = [{brokers:?}]\ntopics = [{topic:?}]\ngroup = {group:?}\nsilence_s_max = 0\n")
    }
}

/// Running workers; killed when dropped.
pub(crate) struct Workers {
    each: Vec<Worker>,
    http: reqwest::Client,
}

struct Worker {
    process: Child,
    pid: u32,
    log: PathBuf,
    admin: String,
}

impl Workers {
    /// The processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.each.iter().map(|worker| worker.pid).collect()
    }

    /// The most memory that any one of them has had, in bytes.
    pub(crate) fn memory_peak_bytes(&self) -> Result<u64> {
        let peaks: Vec<u64> = self.each.iter().map(|worker| memory_peak_bytes(worker.pid)).collect::<Result<_>>()?;
        peaks.into_iter().max().context("at least one worker runs")
    }

    /// What all of them count together, now.
    pub(crate) async fn metrics(&self) -> Result<Metrics> {
        Ok(self.metrics_of_each().await?.into_iter().collect())
    }

    /// What each of them counts, now.
    pub(crate) async fn metrics_of_each(&self) -> Result<Vec<Metrics>> {
        let mut each = Vec::new();
        for worker in &self.each {
            let url = format!("http://{}/metrics", worker.admin);
            let text = async { self.http.get(url).send().await?.error_for_status()?.text().await }.await;
            each.push(Metrics::of(text.with_context(|| format!("a worker does not answer{}", worker.last_words()))?));
        }
        Ok(each)
    }

    /// The ends of their logs.
    pub(crate) fn last_words(&self) -> String {
        self.each.iter().map(Worker::last_words).collect()
    }

    /// Asks all of them to end in order, and waits for that.
    pub(crate) async fn end(mut self) -> Result<()> {
        for worker in &self.each {
            let sent = Command::new("kill").args(["-TERM", &worker.pid.to_string()]).status().await?;
            ensure!(sent.success(), "a worker is gone{}", worker.last_words());
        }
        for worker in &mut self.each {
            let ended = timeout(END_TIMEOUT, worker.process.wait()).await;
            let status =
                ended.with_context(|| format!("a worker did not end after SIGTERM{}", worker.last_words()))??;
            ensure!(status.success(), "a worker ended with {status}{}", worker.last_words());
        }
        Ok(())
    }
}

impl Worker {
    /// The address in the log line that carries `admin_addr`.
    async fn find_admin(&mut self) -> Result<String> {
        const LOOK: Duration = Duration::from_millis(5);
        loop {
            let log = std::fs::read_to_string(&self.log)?;
            let address =
                |line: &str| Some(serde_json::from_str::<Value>(line).ok()?.get("admin_addr")?.as_str()?.to_owned());
            if let Some(address) = log.lines().find_map(address) {
                return Ok(address);
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("the worker ended with {status}{}", self.last_words());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = log.lines().collect();
        let mut words = "; the end of its log:".to_owned();
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            write!(words, "\n  {line}").expect("writing to a String does not fail");
        }
        words
    }
}

/// Copies a job's folder, with another `index`.
fn copy_job(from: &Path, to: &Path, index: &str) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for file in ["job.toml", "document.sql", "mapping.json"] {
        let source = from.join(file);
        let text = std::fs::read_to_string(&source).with_context(|| source.display().to_string())?;
        let text = if file == "job.toml" { with_index(&text, index) } else { text };
        std::fs::write(to.join(file), text)?;
    }
    Ok(())
}

fn with_index(job_toml: &str, index: &str) -> String {
    let is_index = |line: &str| line.split_once('=').is_some_and(|(key, _)| key.trim() == "index");
    let ours = format!("index = {index:?}");
    job_toml.lines().flat_map(|line| [if is_index(line) { ours.as_str() } else { line }, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::with_index;

    #[test]
    fn a_copied_job_has_an_index_of_its_own() {
        let toml = "index = \"orders\" # the alias\nindexes = 1\n[[watch]]\n";
        assert_eq!(with_index(toml, "bench-orders"), "index = \"bench-orders\"\nindexes = 1\n[[watch]]\n");
    }
}
