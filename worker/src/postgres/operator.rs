//! What operators ask of a source: how far its replicas are, and all keys of a job.

use std::time::Duration;

use futures_util::future::join_all;
use pinion_schemas::{Id, JobDefinition, KeyType};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Column as _, Row as _, Statement as _};

use super::fault::of_reading;
use super::statement::{prepared, sql_type};
use super::{Postgres, Server};
use crate::error::Fault;
use crate::ports::Identity;

/// Keys in a page of [`Keys`].
const PAGE: u32 = 10_000;

/// What a replica says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStanding {
    /// Whether it follows a primary at all.
    pub in_recovery: bool,
    /// The history that it is on.
    pub identity: Identity,
    /// The position up to which it shows the primary's changes.
    pub replayed: u64,
}

impl Postgres {
    /// Asks all replicas at once; each has `patience` to answer. Their names come first.
    pub async fn replica_standings(&self, patience: Duration) -> Vec<(String, Result<ReplicaStanding, String>)> {
        join_all(self.replicas.iter().map(|replica| async move {
            let asked = tokio::time::timeout(patience, self.replica_standing(replica)).await;
            let standing = match asked {
                Ok(Ok(standing)) => Ok(standing),
                Ok(Err(fault)) => Err(fault.reason().to_owned()),
                Err(_elapsed) => Err(format!("no answer within {patience:?}")),
            };
            (replica.name.clone(), standing)
        }))
        .await
    }

    async fn replica_standing(&self, replica: &Server) -> Result<ReplicaStanding, Fault> {
        let mut transaction = self.begin(replica).await?;
        let standing = self.standing(&mut transaction, replica).await?;
        Ok(ReplicaStanding {
            in_recovery: standing.in_recovery,
            identity: standing.identity,
            replayed: standing.replayed,
        })
    }

    /// All keys of a job, from a server that shows everything committed so far.
    ///
    /// They are read from the table's column that the job's query selects as `_id`.
    ///
    /// # Errors
    /// The servers are away or late, the query is refused, `_id` is no column of a table, or no index begins with it.
    pub async fn keys(&self, job: &JobDefinition) -> Result<Keys<'_>, Fault> {
        let fence = self.ask_position().await?;
        let mut reading = self.open_reading(fence).await?;
        let server = self.replicas.iter().find(|replica| replica.name == reading.server).unwrap_or(&self.primary);
        let column = KeyColumn::find(&mut reading.transaction, job).await;
        let column = column.map_err(|error| error.into_fault(&self.source, &server.name))?;
        Ok(Keys { postgres: self, server, column, key: job.key, last: None })
    }
}

/// The keys of a job, page by page in their order. Each page is a transaction of its own, so that a long scan does not
/// hold back the replica.
pub struct Keys<'a> {
    postgres: &'a Postgres,
    server: &'a Server,
    column: KeyColumn,
    key: KeyType,
    last: Option<Id>,
}

impl Keys<'_> {
    /// About how many there are, as the database estimates.
    pub fn estimate(&self) -> u64 {
        self.column.estimate
    }

    /// The next page; empty behind the last one. After an error the same page may be asked again.
    ///
    /// # Errors
    /// The server is away, or the read was cancelled.
    pub async fn page(&mut self) -> Result<Vec<Id>, Fault> {
        let (source, server) = (&self.postgres.source, &self.server.name);
        let unreadable = |error: sqlx::Error| of_reading(source, server, &error);
        let mut transaction = self.postgres.begin(self.server).await?;
        let query = sqlx::query(AssertSqlSafe(self.column.page(self.key, self.last.is_some())));
        let query = match self.last.clone() {
            None => query,
            Some(Id::Int(id)) => query.bind(id),
            Some(Id::Uuid(id)) => query.bind(id),
            Some(Id::Text(id)) => query.bind(String::from(id)),
        };
        let rows = query.fetch_all(&mut *transaction).await.map_err(unreadable)?;
        let ids: Vec<Id> = rows.iter().map(|row| self.id(row)).collect::<Result<_, _>>().map_err(unreadable)?;
        transaction.commit().await.map_err(unreadable)?;
        if let Some(last) = ids.last() {
            self.last = Some(last.clone());
        }
        Ok(ids)
    }

    fn id(&self, row: &PgRow) -> Result<Id, sqlx::Error> {
        Ok(match self.key {
            KeyType::Bigint => Id::Int(row.try_get(0)?),
            KeyType::Uuid => Id::Uuid(row.try_get(0)?),
            KeyType::Text => Id::Text(row.try_get::<String, _>(0)?.into()),
        })
    }
}

/// A column of a table, named as SQL wants it.
#[derive(Debug, PartialEq, Eq)]
struct KeyColumn {
    table: String,
    column: String,
    estimate: u64,
}

/// Why there is no such column.
enum KeyColumnError {
    Database(sqlx::Error),
    Definition(String),
}

impl KeyColumnError {
    fn into_fault(self, source: &str, server: &str) -> Fault {
        match self {
            Self::Database(error) => of_reading(source, server, &error),
            Self::Definition(problem) => Fault::Job(format!(
                "document.sql: {problem}, so the keys can't be listed from it; list them yourself and give them on standard input"
            )),
        }
    }
}

impl From<sqlx::Error> for KeyColumnError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl KeyColumn {
    /// PostgreSQL says of each column of a query's answer which table's column it is, through joins and sub-queries too.
    async fn find(connection: &mut PgConnection, job: &JobDefinition) -> Result<Self, KeyColumnError> {
        let statement = prepared(connection, &job.sql.to_postgres(), job.key).await?;
        let column = statement.columns().iter().find(|column| column.name() == "_id");
        let origin = column.and_then(|column| column.relation_id().zip(column.relation_attribute_no()));
        let (relation, attribute) =
            origin.ok_or_else(|| KeyColumnError::Definition("_id is computed, not a table's column".to_owned()))?;
        let row = sqlx::query(
            "SELECT c.oid::regclass::text, quote_ident(a.attname), greatest(c.reltuples, 0)::int8, \
             EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL \
                 AND i.indkey[0] = a.attnum) \
             FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.oid = $1 AND a.attnum = $2",
        )
        .bind(relation)
        .bind(attribute)
        .fetch_one(connection)
        .await?;
        let (table, column): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        if !row.try_get::<bool, _>(3)? {
            return Err(KeyColumnError::Definition(format!("_id is {table}.{column}, with which no index begins")));
        }
        Ok(Self { table, column, estimate: row.try_get::<i64, _>(2)?.unsigned_abs() })
    }

    /// The SQL of the first page, or of one after `$1`.
    fn page(&self, key: KeyType, after: bool) -> String {
        let Self { table, column, .. } = self;
        let sql_type = sql_type(key);
        let condition = if after { "> $1" } else { "IS NOT NULL" };
        // Qualified in ORDER BY: a bare name would mean the cast value, which has no index.
        format!(
            "SELECT t.{column}::{sql_type} FROM {table} AS t WHERE t.{column} {condition} ORDER BY t.{column} LIMIT {PAGE}"
        )
    }
}
