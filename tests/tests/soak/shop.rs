//! The shop on one of the databases.

use anyhow::{Context, Result};
use pinion_tests::{Feed, MysqlShop, Namespace, PrivateKafka, Setup};
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, MySql, Postgres};

use super::changes::{CUSTOMERS, MERCHANTS, ORDERS};
use crate::shop::{compare_all, compare_mysql};

/// Which database.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Postgres,
    Mariadb,
}

/// A shop with few customers and merchants, so that each has many orders.
pub(super) struct Shop {
    // Goes before the namespace.
    mysql: Option<MysqlShop>,
    pub(super) namespace: Namespace,
}

impl Shop {
    pub(super) async fn start(kind: Kind) -> Result<Self> {
        let orders = u32::try_from(ORDERS)?;
        let few = format!("UPDATE orders SET customer_id = 1 + id % {CUSTOMERS}, merchant_id = 1 + id % {MERCHANTS}");
        match kind {
            Kind::Postgres => {
                let namespace = Namespace::shop(orders).await?;
                namespace.execute(&few).await?;
                Ok(Self { mysql: None, namespace })
            }
            Kind::Mariadb => {
                let namespace = Namespace::empty().await?;
                let shop = MysqlShop::mariadb(&namespace, orders).await?;
                shop.execute(&few).await?;
                Ok(Self { mysql: Some(shop), namespace })
            }
        }
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

    pub(super) fn setup(&self) -> Result<Setup> {
        match &self.mysql {
            Some(shop) => Setup::mysql(&self.namespace, shop),
            None => Setup::shop(&self.namespace),
        }
    }

    /// How many documents of a job are equal; fails unless all are.
    pub(super) async fn compare(&self, setup: &Setup, job: &str) -> Result<usize> {
        match &self.mysql {
            Some(shop) => compare_mysql(&self.namespace, setup, shop, job).await,
            None => compare_all(&self.namespace, setup, job, job).await,
        }
    }

    pub(super) async fn connect(&self) -> Result<Connection> {
        let mut connection = match &self.mysql {
            Some(shop) => Connection::Mysql(shop.root().acquire().await?),
            None => Connection::Postgres(self.namespace.superuser().acquire().await?),
        };
        if matches!(connection, Connection::Postgres(_)) {
            connection.run("SET timezone = 'UTC'").await?;
        }
        Ok(connection)
    }

    pub(super) async fn finish(self) -> Result<()> {
        drop(self.mysql);
        self.namespace.finish().await
    }
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
        match done {
            Ok(()) => Ok(true),
            Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| is_refusal(&code)) => Ok(false),
            Err(error) => Err(error).with_context(|| sql.to_owned()),
        }
    }
}

/// SQLSTATEs of constraints and deadlocks.
fn is_refusal(code: &str) -> bool {
    code.starts_with("23") || code.starts_with("40")
}
