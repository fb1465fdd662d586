//! What can be done with Pinion: one API behind the commands, the console and the tests.

pub mod work;

use std::collections::BTreeMap;
use std::sync::Arc;

use pinion_schemas::{LoadedJob, StateIndex, load_jobs};

use crate::config::{Config, SourceKind};
use crate::elasticsearch::Elasticsearch;
use crate::postgres::Postgres;

/// The configuration with clients of its servers. Nothing is connected before it is needed.
pub struct Context {
    /// The configuration.
    pub config: Config,
    /// The cluster.
    pub elasticsearch: Arc<Elasticsearch>,
    /// The databases by the names of their sources.
    pub sources: BTreeMap<String, Arc<Postgres>>,
    /// The job folders, broken ones included.
    pub jobs: Vec<LoadedJob>,
}

impl Context {
    /// Reads the job folders and makes the clients.
    ///
    /// # Errors
    /// The folder of job folders, an address or a certificate authority can't be read.
    pub fn open(config: Config) -> anyhow::Result<Self> {
        let jobs = load_jobs(&config.schemas)?;
        let elasticsearch = Elasticsearch::new(&config.elasticsearch).map_err(anyhow::Error::msg)?;
        let mut sources = BTreeMap::new();
        for (name, source) in &config.sources {
            let database = match source.kind {
                SourceKind::Postgres => Postgres::new(name, source, &config.worker).map_err(anyhow::Error::msg)?,
            };
            sources.insert(name.clone(), Arc::new(database));
        }
        Ok(Self { config, elasticsearch: Arc::new(elasticsearch), sources, jobs })
    }

    /// The name of one of Pinion's own indexes.
    pub fn state_index(&self, kind: StateIndex) -> String {
        self.config.names.state_index(kind)
    }
}
