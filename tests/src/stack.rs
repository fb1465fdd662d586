use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::OnceCell;

use crate::elastic::Elastic;
use crate::primary::PrivatePostgres;
use crate::private::{PrivateElasticsearch, PrivateRabbit};
use crate::replica::PrivateReplica;
use crate::script::{lab, run_async, script};
use crate::sweep::sweep;

/// The addresses of the services that a namespace lies on.
#[derive(Clone)]
pub struct Stack {
    /// AMQP, as `guest`.
    pub rabbitmq: String,
    /// RabbitMQ's management API, `http://HOST:PORT`; user `guest`, password `guest`.
    pub rabbitmq_management: String,
    /// Elasticsearch, `http://HOST:PORT`.
    pub elasticsearch: String,
    pub(crate) primary_port: u16,
    replica_port: u16,
}

/// The shared services. The first caller of the process starts those that don't answer, and removes what runs of more than an
/// hour ago left behind.
///
/// The addresses are those of `stack/bin/env.sh`, with its variables; `PINION_TEST_ELASTICSEARCH` is the address of another
/// Elasticsearch, which must be running.
pub async fn stack() -> Result<&'static Stack> {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    STACK.get_or_try_init(start).await
}

impl Stack {
    /// The same with a broker and an index of the test's own.
    #[must_use]
    pub fn with(&self, rabbit: &PrivateRabbit, elasticsearch: &PrivateElasticsearch) -> Self {
        Self {
            rabbitmq: rabbit.rabbit().url().to_owned(),
            rabbitmq_management: rabbit.rabbit().management_url().to_owned(),
            elasticsearch: elasticsearch.elastic().url().to_owned(),
            ..self.clone()
        }
    }

    /// The same with a primary and a replica of the test's own.
    #[must_use]
    pub fn with_postgres(&self, primary: &PrivatePostgres, replica: &PrivateReplica) -> Self {
        Self { primary_port: primary.port(), replica_port: replica.port(), ..self.clone() }
    }

    /// A database on the primary, as the worker's role: `SELECT` and nothing else, its password checked.
    pub fn primary(&self, database: &str) -> String {
        worker_url(self.primary_port, database)
    }

    /// A database on the shared replica, as the worker's role. The replica must keep moving: take a private one to pause it.
    pub fn replica(&self, database: &str) -> String {
        worker_url(self.replica_port, database)
    }

    /// A database on the primary, as superuser.
    pub fn superuser(&self, database: &str) -> String {
        superuser_url(self.primary_port, database)
    }

    /// A database on the shared replica, as superuser.
    pub fn replica_superuser(&self, database: &str) -> String {
        superuser_url(self.replica_port, database)
    }
}

pub(crate) fn worker_url(port: u16, database: &str) -> String {
    format!("postgres://pinion:pinion@127.0.0.1:{port}/{database}")
}

pub(crate) fn superuser_url(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

async fn start() -> Result<Stack> {
    let rabbitmq_port = port("RABBITMQ_PORT", 15670)?;
    let given = std::env::var("PINION_TEST_ELASTICSEARCH").ok();
    let stack = Stack {
        rabbitmq: format!("amqp://guest:guest@127.0.0.1:{rabbitmq_port}/%2f"),
        rabbitmq_management: format!("http://127.0.0.1:{}", rabbitmq_port + 1),
        elasticsearch: match &given {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://127.0.0.1:{}", port("ELASTICSEARCH_PORT", 19200)?),
        },
        primary_port: port("PG_PORT", 15432)?,
        replica_port: port("PG_REPLICA_PORT", 15433)?,
    };
    // Two test processes must neither start the same service nor sweep at once.
    let lock = lock().await?;
    let mut all = script("all.sh", &[]);
    all.args(["start", "rabbitmq", "pg"]);
    if given.is_none() {
        all.arg("elasticsearch");
    }
    run_async(all).await?;
    Elastic::new(&stack.elasticsearch)
        .version()
        .await
        .with_context(|| format!("no Elasticsearch on {}", stack.elasticsearch))?;
    sweep(&stack, Duration::from_secs(3600)).await.context("can't remove what earlier test runs left behind")?;
    lock.unlock()?;
    Ok(stack)
}

/// The lock that every test process takes while it prepares.
async fn lock() -> Result<File> {
    std::fs::create_dir_all(lab())?;
    let file = File::create(lab().join("tests.lock"))?;
    tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await?.context("can't lock the stack")
}

pub(crate) fn port(variable: &str, default: u16) -> Result<u16> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text} is no port")),
        Err(_) => Ok(default),
    }
}
