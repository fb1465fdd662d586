//! `pinion.toml`: as it is written (serde), and as the code uses it (validated).

mod feed;
mod problem;
mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinion_schemas::{Names, valid_job_name};
use serde::Deserialize;
use url::Url;

use self::problem::{check_shape, describe, without_value};
pub use self::verify::Verify;
use crate::substitute::substitute;

/// The annotated file that `pinion init` writes; a test reads it, so it stays true.
pub const ANNOTATED: &str = include_str!("config/pinion.toml");

/// A configuration that can't be used; the text names the file, the key and the mend.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}", file = file.display())]
pub struct ConfigError {
    file: PathBuf,
    problem: String,
}

/// Everything that the code needs to know, checked. Paths are absolute or relative to the
/// working directory, not to the file.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that this was read from.
    pub file: PathBuf,
    /// Names of exchange, queues and state indexes.
    pub names: Names,
    /// The folder of job folders.
    pub schemas: PathBuf,
    /// `[rabbitmq]`
    pub rabbitmq: Rabbitmq,
    /// `[elasticsearch]`
    pub elasticsearch: Elasticsearch,
    /// `[sources.NAME]`, at least one.
    pub sources: BTreeMap<String, Source>,
    /// The change feed, if there is one.
    pub kafka: Option<Kafka>,
    /// `[worker]`
    pub worker: Worker,
    /// `[admin]`
    pub admin: Admin,
    /// `[verify]`, where jobs are verified while the workers run.
    pub verify: Option<Verify>,
}

/// The broker.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rabbitmq {
    /// `amqp://` or `amqps://`; the latter verifies the server.
    pub url: Secret,
    /// Certificate authority (PEM) that signs the broker's certificate, instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// The cluster to index into.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elasticsearch {
    /// One or more nodes, used in turn.
    #[serde(deserialize_with = "addresses")]
    pub urls: Vec<Url>,
    /// An encoded API key; instead of username and password.
    pub api_key: Option<Secret>,
    /// With `password`: basic authentication.
    pub username: Option<String>,
    /// See `username`.
    pub password: Option<Secret>,
    /// Additional certificate authority (PEM) that signs the nodes' certificates.
    pub ca_file: Option<PathBuf>,
    /// A bulk request that takes longer is tried again.
    #[serde(default = "defaults::bulk_s_max")]
    pub bulk_s_max: u64,
}

/// Addresses; the error quotes none, since they may hold a password.
fn addresses<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Url>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let wrong = |error| serde::de::Error::custom(format!("not an address such as http://127.0.0.1:9200: {error}"));
    texts.iter().map(|text| Url::parse(text).map_err(wrong)).collect()
}

impl std::fmt::Debug for Elasticsearch {
    /// Without the addresses, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Elasticsearch").field("urls", &self.urls.len()).finish_non_exhaustive()
    }
}

/// A database that documents are read from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its dialect.
    pub kind: SourceKind,
    /// Where changes are committed; fences are asked here.
    pub primary: Secret,
    /// Where documents are read; without one they are read from the primary.
    #[serde(default)]
    pub replicas: Vec<Secret>,
    /// How long a batch waits for a replica to show its jobs' changes.
    #[serde(default = "defaults::replica_lag_ms_max")]
    pub replica_lag_ms_max: u64,
    /// What happens when no replica does in time; when not given, PostgreSQL's primary is read, and MariaDB and MySQL wait.
    pub on_lag: Option<OnLag>,
    /// Which position of the primary is the fence.
    #[serde(default)]
    pub fence: FenceAt,
    /// What the names of the source's topics begin with: the connector's `topic.prefix`. The source's name when not given.
    pub topic_prefix: Option<String>,
    /// Additional certificate authority (PEM) that signs the servers' certificates: with it, nothing but verified TLS is spoken,
    /// whatever the addresses say.
    pub ca_file: Option<PathBuf>,
}

/// A source's dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// PostgreSQL 13 or newer.
    Postgres,
    /// MariaDB 10.5 or newer.
    Mariadb,
    /// MySQL 8.
    Mysql,
}

/// What a batch does when the replicas lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLag {
    /// Reads from the primary; PostgreSQL only.
    Primary,
    /// Waits for a replica, however long it takes.
    Wait,
}

/// Which position of the primary a fence takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FenceAt {
    /// The flushed one: right where a returned commit is flushed (`synchronous_commit` not off).
    #[default]
    Flush,
    /// The inserted one: right with `synchronous_commit = off` too, but waits for open transactions' pages.
    Insert,
}

/// The change feed: Debezium's events on Kafka.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// Addresses of brokers, `host:port`; the others are found through them.
    pub brokers: Vec<String>,
    /// The consumer group that the workers share.
    #[serde(default = "defaults::group")]
    pub group: String,
    /// The schema registry of events in Avro: the address of its API, as Confluent's clients take it.
    pub registry: Option<Secret>,
    /// Topics, `*` stands for any text. A topic's name begins with that of its source, as `topic.prefix` of the connector says.
    pub topics: Vec<String>,
    /// Ids that a worker publishes in a second because of fan-outs.
    #[serde(default = "defaults::fan_out_ids_per_s_max")]
    pub fan_out_ids_per_s_max: u32,
    /// A partition that has events to take and does not move for longer makes the worker not ready.
    #[serde(default = "defaults::stall_s_max")]
    pub stall_s_max: u64,
    /// A source that changes while neither an event nor a heartbeat comes of it for longer is silent; 0: it never is.
    #[serde(default = "defaults::silence_s_max")]
    pub silence_s_max: u64,
}

/// How the worker works; each has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// Ids in a batch.
    pub batch_max: usize,
    /// Batches of the low lane on their way while live messages come; each is a fortieth of a full one, and followed by a rest at least
    /// three times as long as it took.
    pub low_in_flight_max: usize,
    /// How long messages that have waited for ten times as long wait for a full batch. Fresh ones wait for a tenth of it, and only in a
    /// busy worker.
    pub linger_ms_max: u64,
    /// Bulk requests in flight: the adaptive limit's ceiling.
    pub bulks_in_flight_max: usize,
    /// Bytes of one bulk request; a single document above this is a dead letter.
    pub bulk_bytes_max: usize,
    /// Reads in flight, and connections, a source.
    pub fetches_in_flight_max: usize,
    /// A read that takes longer is cancelled, and tried again with fewer rows.
    pub fetch_s_max: u64,
    /// A document read longer ago than this is not sent but read again.
    pub document_age_s_max: u64,
    /// Workers that end while they read a message alone, after which it is a dead letter.
    pub deliveries_max: u64,
    /// Attempts after which a document that fails by itself is a dead letter.
    pub attempts_max: u32,
    /// How long messages are held while a server is away before they go back to their queue.
    pub hold_s_max: u64,
    /// How long an orderly end may take.
    pub shutdown_s_max: u64,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            batch_max: 1000,
            low_in_flight_max: 1,
            linger_ms_max: 200,
            bulks_in_flight_max: 8,
            bulk_bytes_max: 4 * 1024 * 1024,
            fetches_in_flight_max: 4,
            fetch_s_max: 30,
            document_age_s_max: 30,
            deliveries_max: 5,
            attempts_max: 8,
            hold_s_max: 60,
            shutdown_s_max: 25,
        }
    }
}

/// The port for probes and metrics.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address and port; port 0 takes a free one.
    pub listen: std::net::SocketAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: ([127, 0, 0, 1], 9600).into() }
    }
}

/// A text that is never shown: `Debug` hides it.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the client that has to send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}

mod defaults {
    pub(super) fn group() -> String {
        "pinion".to_owned()
    }
    pub(super) fn fan_out_ids_per_s_max() -> u32 {
        10_000
    }
    pub(super) fn replica_lag_ms_max() -> u64 {
        2000
    }
    pub(super) fn bulk_s_max() -> u64 {
        30
    }
    pub(super) fn stall_s_max() -> u64 {
        // More than the second look after a truncation takes, for which a partition waits.
        120
    }
    pub(super) fn silence_s_max() -> u64 {
        120
    }
    pub(super) fn namespace() -> String {
        "pinion".to_owned()
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default = "defaults::namespace")]
    namespace: String,
    schemas: PathBuf,
    rabbitmq: Rabbitmq,
    elasticsearch: Elasticsearch,
    sources: BTreeMap<String, Source>,
    kafka: Option<Kafka>,
    #[serde(default)]
    worker: Worker,
    #[serde(default)]
    admin: Admin,
    verify: Option<Verify>,
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// When it can't be read, has an unknown key, a value of the wrong type or out of bounds, or
    /// names an environment variable or a secret's file that is not there.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let fail = |problem: String| ConfigError { file: file.to_owned(), problem };
        let text = std::fs::read_to_string(file).map_err(|error| {
            fail(format!("can't be read: {error}; give --config FILE, or write one with `pinion init`"))
        })?;
        let folder = file.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).map(|config| Self { file: file.to_owned(), ..config }).map_err(fail)
    }

    fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let mut table: toml::Table = toml::from_str(text).map_err(|error| describe(text, &error))?;
        // Checked before substitution, so that a message with the file's line shows no secret.
        check_shape(text)?;
        substitute(&mut table, folder)?;
        let written: Written = table.try_into().map_err(|error: toml::de::Error| without_value(error.message()))?;
        let names = Names::new(&written.namespace).map_err(|error| format!("namespace: {error}"))?;
        let mut config = Self {
            file: PathBuf::new(),
            names,
            schemas: folder.join(written.schemas),
            rabbitmq: written.rabbitmq,
            elasticsearch: written.elasticsearch,
            sources: written.sources,
            kafka: written.kafka,
            worker: written.worker,
            admin: written.admin,
            verify: written.verify,
        };
        for source in config.sources.values_mut() {
            let when_late = if source.kind == SourceKind::Postgres { OnLag::Primary } else { OnLag::Wait };
            source.on_lag.get_or_insert(when_late);
        }
        config.resolve_files(folder);
        config.validate()?;
        Ok(config)
    }

    fn resolve_files(&mut self, folder: &Path) {
        let sources = self.sources.values_mut().map(|source| &mut source.ca_file);
        let servers = [&mut self.rabbitmq.ca_file, &mut self.elasticsearch.ca_file];
        for ca_file in sources.chain(servers).flatten() {
            *ca_file = folder.join(&*ca_file);
        }
    }

    fn validate(&self) -> Result<(), String> {
        if self.sources.is_empty() {
            return Err("sources: at least one [sources.NAME] is needed".to_owned());
        }
        if let Some(name) = self.sources.keys().find(|name| !valid_job_name(name)) {
            return Err(format!("sources.{name}: a source's name is lower-case letters, digits, - and _"));
        }
        for (name, source) in self.sources.iter().filter(|(_, source)| source.kind != SourceKind::Postgres) {
            let why = "documents of MariaDB and MySQL are read from replicas only, because a primary's GTID can be ahead of what it shows";
            if source.replicas.is_empty() {
                return Err(format!("sources.{name}.replicas: at least one is needed: {why}"));
            }
            if source.on_lag == Some(OnLag::Primary) {
                return Err(format!("sources.{name}.on_lag: it can only be \"wait\": {why}"));
            }
            if source.fence == FenceAt::Insert {
                return Err(format!("sources.{name}.fence: \"insert\" is PostgreSQL's; leave it out"));
            }
        }
        if let Some(kafka) = &self.kafka {
            self.validate_feed(kafka)?;
        }
        if let Some(verify) = &self.verify {
            verify.validate()?;
        }
        let elasticsearch = &self.elasticsearch;
        if elasticsearch.urls.is_empty() {
            return Err("elasticsearch.urls: at least one node is needed".to_owned());
        }
        if elasticsearch.username.is_some() != elasticsearch.password.is_some() {
            return Err("elasticsearch: username and password go together".to_owned());
        }
        if elasticsearch.api_key.is_some() && elasticsearch.username.is_some() {
            return Err("elasticsearch: give api_key, or username and password, not both".to_owned());
        }
        let worker = &self.worker;
        let bounds = [
            ("worker.batch_max", worker.batch_max as u64, 1, 10_000),
            ("worker.low_in_flight_max", worker.low_in_flight_max as u64, 1, 256),
            ("worker.bulks_in_flight_max", worker.bulks_in_flight_max as u64, 1, 256),
            ("worker.fetches_in_flight_max", worker.fetches_in_flight_max as u64, 1, 256),
            ("worker.bulk_bytes_max", worker.bulk_bytes_max as u64, 65_536, 90_000_000),
            ("worker.linger_ms_max", worker.linger_ms_max, 0, 10_000),
            ("worker.fetch_s_max", worker.fetch_s_max, 1, 600),
            ("worker.document_age_s_max", worker.document_age_s_max, 1, 600),
            ("worker.deliveries_max", worker.deliveries_max, 1, 1_000),
            ("worker.attempts_max", u64::from(worker.attempts_max), 1, 1_000),
            // The broker closes channels that hold a message for half an hour.
            ("worker.hold_s_max", worker.hold_s_max, 1, 900),
            ("worker.shutdown_s_max", worker.shutdown_s_max, 1, 900),
            ("elasticsearch.bulk_s_max", elasticsearch.bulk_s_max, 1, 600),
        ];
        let of_feed = self.kafka.iter().flat_map(Kafka::bounds);
        let of_verify = self.verify.iter().flat_map(Verify::bounds);
        match bounds
            .into_iter()
            .chain(of_feed)
            .chain(of_verify)
            .find(|(_, value, least, most)| value < least || value > most)
        {
            Some((key, value, least, most)) => Err(format!("{key}: {value} is out of bounds; give {least} to {most}")),
            None => Ok(()),
        }
    }

    /// How long after a delete its id is looked at once more: no document that was read before
    /// the delete can still arrive then.
    pub fn second_look_after(&self) -> Duration {
        const MARGIN_S: u64 = 10;
        Duration::from_secs(self.worker.document_age_s_max + self.elasticsearch.bulk_s_max + MARGIN_S)
    }
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
