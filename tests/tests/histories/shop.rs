//! The shop on one of the databases, with servers of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use pinion_tests::{
    Feed, MysqlShop, Namespace, PrivateKafka, PrivateMariadb, PrivatePostgres, PrivateReplica, Setup, Stack,
};
use serde_json::Value;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, MySql, Postgres, Row as _};

use tokio::time::sleep;

use super::changes::{CUSTOMERS, MERCHANTS, ORDERS};
use super::record::{Document, Kind, Tick};
use crate::shop::{expected_documents, expected_mysql, found_documents};

/// Of the counts of RabbitMQ's management API.
const STATISTICS_AGE_MAX: Duration = Duration::from_secs(6);
/// Of a version, below the generation.
const POSITION_BITS: u32 = 53;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Database {
    Postgres,
    Mariadb,
}

/// A primary with two replicas; the first may become a primary itself.
pub(super) struct Cluster {
    pub(super) replicas: [PrivateReplica; 2],
    pub(super) primary: PrivatePostgres,
    /// Where the applications write.
    pool: RwLock<PgPool>,
    switched_over: AtomicBool,
}

/// A shop with few customers and merchants, so that each has many orders.
pub(super) struct Shop {
    // Each goes before the servers that it lies on.
    mysql: Option<MysqlShop>,
    pub(super) namespace: Namespace,
    pub(super) cluster: Option<Cluster>,
}

/// A difference between the index and the rows.
pub(super) struct Difference {
    pub(super) kind: Kind,
    pub(super) document: Document,
    pub(super) text: String,
}

impl Shop {
    pub(super) async fn postgres(stack: &Stack) -> Result<Self> {
        let primary = PrivatePostgres::start().await?;
        // What nobody has flushed is then lost when a primary is killed: otherwise it is written within 0.2 s. The copies inherit it.
        for statement in ["ALTER SYSTEM SET wal_writer_delay = '10s'", "SELECT pg_reload_conf()"] {
            primary.execute("postgres", statement).await?;
        }
        let replicas = [PrivateReplica::of(&primary).await?, PrivateReplica::of(&primary).await?];
        let namespace =
            Namespace::shop_on(&stack.with_postgres(&primary, &replicas[0]), u32::try_from(ORDERS)?).await?;
        namespace.execute(&few()).await?;
        replicas[1].caught_up().await?;
        let pool = RwLock::new(namespace.superuser().clone());
        Ok(Self {
            mysql: None,
            cluster: Some(Cluster { replicas, primary, pool, switched_over: AtomicBool::new(false) }),
            namespace,
        })
    }

    pub(super) async fn mariadb(stack: &Stack, servers: &PrivateMariadb) -> Result<Self> {
        let namespace = Namespace::empty_on(stack).await?;
        let shop = MysqlShop::on(&namespace, servers, u32::try_from(ORDERS)?).await?;
        shop.execute(&few()).await?;
        Ok(Self { mysql: Some(shop), cluster: None, namespace })
    }

    pub(super) async fn feed(&self, kafka: &PrivateKafka) -> Result<Feed> {
        match &self.mysql {
            Some(shop) => Feed::start_mysql_on(&self.namespace, shop, Some(kafka), serde_json::json!({})).await,
            None => Feed::start_on(&self.namespace, Some(kafka), serde_json::json!({})).await,
        }
    }

    /// The topic of a table.
    pub(super) fn topic(&self, table: &str) -> String {
        let name = self.namespace.name();
        let schema = if self.mysql.is_some() { name } else { "public" };
        format!("{name}.{schema}.{table}")
    }

    /// The setup on the servers themselves.
    pub(super) fn setup(&self) -> Result<Setup> {
        match (&self.mysql, &self.cluster) {
            (Some(shop), _) => Setup::mysql(&self.namespace, shop),
            (None, Some(cluster)) => {
                let replicas = cluster.replicas.iter().map(|replica| replica.url(self.namespace.name())).collect();
                Ok(Setup { replicas, ..Setup::shop(&self.namespace)? })
            }
            (None, None) => anyhow::bail!("a shop on no database"),
        }
    }

    /// The ports of its database's servers: the primary's and the replicas'.
    pub(super) fn ports(&self) -> Vec<u16> {
        match (&self.mysql, &self.cluster) {
            (Some(shop), _) => vec![shop.primary_port(), shop.replica_port()],
            (None, Some(cluster)) => {
                let replicas = cluster.replicas.iter().map(PrivateReplica::port);
                std::iter::once(cluster.primary.port()).chain(replicas).collect()
            }
            (None, None) => Vec::new(),
        }
    }

    /// Lets the applications write to the first replica, which has become the primary.
    pub(super) fn switch_over(&self) -> Result<()> {
        let cluster = self.cluster.as_ref().context("only PostgreSQL is switched over")?;
        let url = cluster.replicas[0].superuser(self.namespace.name());
        let pool = PgPoolOptions::new().max_connections(6).connect_lazy(&url)?;
        *cluster.pool.write().unwrap_or_else(PoisonError::into_inner) = pool;
        cluster.switched_over.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn is_switched_over(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.switched_over.load(Ordering::Relaxed))
    }

    /// The clock's time, and a version that a document can have only if it shows it: asked for after the time could be seen.
    pub(super) async fn look_at_clock(&self, database: &mut Connection, clock: i64) -> Result<Tick> {
        let (integer, position) = match database {
            Connection::Postgres(_) => ("bigint", "(pg_current_wal_insert_lsn() - '0/0')::bigint"),
            Connection::Mysql(_) => ("SIGNED", "CAST(SUBSTRING_INDEX(@@global.gtid_binlog_pos, '-', -1) AS SIGNED)"),
        };
        let question = format!("SELECT CAST(total * 100 AS {integer}) FROM orders WHERE id = {clock}");
        let time = database.number(&question).await?;
        let position = database.number(&format!("SELECT {position}")).await?.unsigned_abs();
        let generation = if self.is_switched_over() { 2 } else { 1 };
        Ok(Tick { time, shown_from: generation << POSITION_BITS | position })
    }

    fn pool(&self) -> PgPool {
        match &self.cluster {
            Some(cluster) => cluster.pool.read().unwrap_or_else(PoisonError::into_inner).clone(),
            None => self.namespace.superuser().clone(),
        }
    }

    /// How the documents of a job differ from what their query gives, both ways, and how many there are to be.
    pub(super) async fn differences(&self, setup: &Setup, job: &'static str) -> Result<(Vec<Difference>, usize)> {
        let expected = match &self.mysql {
            Some(shop) => expected_mysql(setup, shop, job).await?,
            None => expected_documents(&self.pool(), setup, job, job).await?,
        };
        let found = found_documents(&self.namespace, job).await?;
        Ok((differences(job, &expected, &found)?, expected.len()))
    }

    pub(super) async fn connect(&self) -> Result<Connection> {
        let mut connection = match &self.mysql {
            Some(shop) => Connection::Mysql(shop.root().acquire().await?),
            None => Connection::Postgres(self.pool().acquire().await?),
        };
        if matches!(connection, Connection::Postgres(_)) {
            connection.run("SET timezone = 'UTC'").await?;
        }
        Ok(connection)
    }

    /// What the queues hold, taken by a worker or not; nothing, if as of at least 5 s ago nothing came.
    pub(super) async fn messages(&self) -> Result<BTreeMap<String, u64>> {
        let mut held = BTreeMap::new();
        for look in 0..2 {
            if look > 0 {
                sleep(STATISTICS_AGE_MAX).await;
            }
            let queues = self.namespace.rabbit().management(reqwest::Method::GET, "/queues/%2f", None).await?;
            for queue in queues.as_array().into_iter().flatten() {
                let name = queue["name"].as_str().and_then(|name| name.strip_prefix(self.namespace.name()));
                match (name, queue["messages"].as_u64()) {
                    (None, _) | (_, Some(0)) => {}
                    // A queue that has just come back has no count yet.
                    (Some(name), count) => drop(held.insert(name.to_owned(), count.unwrap_or_default())),
                }
            }
            if !held.is_empty() {
                break;
            }
        }
        Ok(held)
    }

    pub(super) async fn finish(self) -> Result<()> {
        drop(self.mysql);
        self.namespace.finish().await
    }
}

fn few() -> String {
    format!("UPDATE orders SET customer_id = 1 + id % {CUSTOMERS}, merchant_id = 1 + id % {MERCHANTS}")
}

fn differences(
    job: &'static str,
    expected: &BTreeMap<String, Value>,
    found: &BTreeMap<String, Value>,
) -> Result<Vec<Difference>> {
    let mut differences = Vec::new();
    for (id, document) in expected {
        let kind = match found.get(id) {
            Some(seen) if seen == document => continue,
            Some(_) => Kind::Stale,
            None => Kind::Lost,
        };
        let seen = found.get(id).map_or_else(|| "nothing".to_owned(), Value::to_string);
        let text = format!("expected {document}\nfound    {seen}");
        differences.push(Difference { kind, document: (job, id.parse()?), text });
    }
    for (id, document) in found.iter().filter(|(id, _)| !expected.contains_key(*id)) {
        let text = format!("found    {document}");
        differences.push(Difference { kind: Kind::Resurrected, document: (job, id.parse()?), text });
    }
    Ok(differences)
}

/// A connection of one application.
pub(super) enum Connection {
    Postgres(PoolConnection<Postgres>),
    Mysql(PoolConnection<MySql>),
}

impl Connection {
    /// Whether the database took the statement: `false` for a key that is there, a parent that is not, a deadlock.
    pub(super) async fn run(&mut self, sql: &str) -> Result<bool> {
        let statement = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let done = match self {
            Self::Postgres(connection) => statement.execute(&mut **connection).await.map(drop),
            Self::Mysql(connection) => statement.execute(&mut **connection).await.map(drop),
        };
        Ok(taken(done, sql)?.is_some())
    }

    /// The only number of a query's answer.
    async fn number(&mut self, sql: &str) -> Result<i64> {
        let rows = self.numbers(sql).await?.with_context(|| sql.to_owned())?;
        rows.first().and_then(|row| row.first()).copied().with_context(|| sql.to_owned())
    }

    /// The rows of a query for numbers; `None` when it was refused, as for a deadlock.
    pub(super) async fn numbers(&mut self, sql: &str) -> Result<Option<Vec<Vec<i64>>>> {
        let statement = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let found = match self {
            Self::Postgres(connection) => {
                let rows = statement.fetch_all(&mut **connection).await;
                rows.and_then(|rows| {
                    rows.iter().map(|row| (0..row.len()).map(|at| row.try_get(at)).collect()).collect()
                })
            }
            Self::Mysql(connection) => {
                let rows = statement.fetch_all(&mut **connection).await;
                rows.and_then(|rows| {
                    rows.iter().map(|row| (0..row.len()).map(|at| row.try_get(at)).collect()).collect()
                })
            }
        };
        taken(found, sql)
    }
}

/// SQLSTATEs of constraints and deadlocks are refusals.
fn taken<T>(done: Result<T, sqlx::Error>, sql: &str) -> Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(sqlx::Error::Database(error))
            if error.code().is_some_and(|code| code.starts_with("23") || code.starts_with("40")) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| sql.to_owned()),
    }
}
