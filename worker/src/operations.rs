//! What can be done with Pinion: one API behind the commands, the console and the tests.

pub mod apply;
pub mod check;
pub mod dead;
pub mod diff;
pub mod difference;
mod documents;
pub mod enqueue;
pub mod explain;
pub mod heartbeat;
pub mod indexes;
pub mod init;
pub mod offsets;
pub mod pause;
pub mod plan;
pub mod rebuild;
mod state;
pub mod status;
pub mod topology;
pub mod verify;
pub mod work;

use std::collections::BTreeMap;
use std::sync::Arc;

use pinion_schemas::{JobDefinition, LoadedJob, StateIndex, load_jobs};

use crate::config::{Config, SourceKind};
use crate::elasticsearch::Elasticsearch;
use crate::ports::Database;
use crate::source::Source;

/// The configuration with clients of its servers. Nothing is connected before it is needed.
pub struct Context {
    /// The configuration.
    pub config: Config,
    /// The cluster.
    pub elasticsearch: Arc<Elasticsearch>,
    /// The databases by the names of their sources.
    pub sources: BTreeMap<String, Source>,
    /// The job folders, broken ones included.
    pub jobs: Vec<LoadedJob>,
}

impl Context {
    /// Reads the job folders and makes the clients.
    ///
    /// # Errors
    /// The folder of job folders, an address or a certificate authority can't be read.
    pub fn open(config: Config) -> anyhow::Result<Self> {
        let mut jobs = load_jobs(&config.schemas)?;
        for definition in jobs.iter_mut().filter_map(|job| job.definition.as_mut()) {
            if config.sources.get(&definition.source).is_some_and(|source| source.kind != SourceKind::Postgres) {
                definition.ask_by_list();
            }
        }
        let elasticsearch = Elasticsearch::new(&config.elasticsearch).map_err(anyhow::Error::msg)?;
        let mut sources = BTreeMap::new();
        for (name, source) in &config.sources {
            let source = Source::new(name, source, &config.worker).map_err(anyhow::Error::msg)?;
            sources.insert(name.clone(), source);
        }
        Ok(Self { config, elasticsearch: Arc::new(elasticsearch), sources, jobs })
    }

    /// The jobs that can be read.
    pub fn definitions(&self) -> impl Iterator<Item = &JobDefinition> {
        self.jobs.iter().filter_map(|job| job.definition.as_ref())
    }

    /// The job of this name, good or broken.
    ///
    /// # Errors
    /// There is none; the text names those that there are.
    pub fn job(&self, name: &str) -> anyhow::Result<&LoadedJob> {
        self.jobs.iter().find(|job| job.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.jobs.iter().map(|job| job.name.as_str()).collect();
            let known = if known.is_empty() { "no jobs".to_owned() } else { known.join(", ") };
            anyhow::anyhow!("no job is called {name}; {} has {known}", self.config.schemas.display())
        })
    }

    /// The definition of the job of this name.
    ///
    /// # Errors
    /// There is no such job, or its files are wrong; the text says where.
    pub fn definition(&self, name: &str) -> anyhow::Result<&JobDefinition> {
        let job = self.job(name)?;
        job.definition.as_ref().ok_or_else(|| {
            let findings: Vec<String> = job.findings.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("the job {name} can't be used:\n{}", findings.join("\n"))
        })
    }

    /// The database that a job is read from.
    ///
    /// # Errors
    /// The configuration has no such source.
    pub fn source(&self, job: &JobDefinition) -> anyhow::Result<&dyn Database> {
        self.sources.get(&job.source).map(Source::as_database).ok_or_else(|| {
            anyhow::anyhow!(
                "the job {} names the source {}, but {} has no [sources.{}]",
                job.name,
                job.source,
                self.config.file.display(),
                job.source
            )
        })
    }

    /// The name of one of Pinion's own indexes.
    pub fn state_index(&self, kind: StateIndex) -> String {
        self.config.names.state_index(kind)
    }
}

/// The name of this host, for people.
fn host() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if host.trim().is_empty() { "unknown-host".to_owned() } else { host.trim().to_owned() }
}
