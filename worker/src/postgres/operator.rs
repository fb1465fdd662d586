//! What operators ask of a source: how far its replicas are, and all keys of a job.

use std::time::Duration;

use futures_util::future::join_all;
use pinion_schemas::{Id, JobDefinition, KeyType};
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgConnection, PgPool, PgRow, PgStatement};
use sqlx::{AssertSqlSafe, Column as _, Row as _, Statement as _};

use super::fault::of_reading;
use super::reading::{integers, texts, uuids};
use super::statement::{prepared, sql_type};
use super::{Postgres, Standing};
use crate::error::Fault;
use crate::ports::{ColumnRange, Future_, Keys, Lag, Position, Reading as _, WhichKeys};
use crate::server::Server;

/// Keys in a page of [`Keys`].
const PAGE: u32 = 10_000;

impl Postgres {
    /// See [`Database::replica_lags`](crate::ports::Database::replica_lags).
    pub(super) async fn ask_replicas(&self, primary: Option<&Position>, patience: Duration) -> Vec<(String, Lag)> {
        join_all(self.replicas.all().iter().map(|replica| async move {
            let asked = async {
                let mut transaction = self.begin(replica).await?;
                self.standing(&mut transaction, replica).await
            };
            let lag = match tokio::time::timeout(patience, asked).await {
                Ok(Ok(standing)) => behind(&standing, primary),
                Ok(Err(fault)) => Err(fault.reason().to_owned()),
                Err(_elapsed) => Err(format!("no answer within {patience:?}")),
            };
            (replica.name.clone(), lag)
        }))
        .await
    }

    /// See [`Database::keys`](crate::ports::Database::keys).
    pub(super) async fn list_keys(&self, job: &JobDefinition, which: WhichKeys) -> Result<PostgresKeys<'_>, Fault> {
        let fence = self.ask_position().await?;
        let mut reading = self.open_reading(fence).await?;
        let server = self.replicas.all().iter().find(|replica| replica.name == reading.server).unwrap_or(&self.primary);
        let column = KeyColumn::find(&mut reading.transaction, job, which.range).await;
        let column = column.map_err(|error| error.into_fault(&self.source, &server.name))?;
        Ok(PostgresKeys { postgres: self, server, column, key: job.key, last: which.after })
    }
}

/// The lag of a server that is what it should be: a replica of this primary.
fn behind(standing: &Standing, primary: Option<&Position>) -> Lag {
    if !standing.in_recovery {
        return Err("it is not a replica (any more): it was promoted?".to_owned());
    }
    let Some(primary) = primary else { return Ok(None) };
    if standing.identity != primary.identity {
        return Err(format!("it is on {}, the primary on {}", standing.identity, primary.identity));
    }
    Ok(Some(primary.at.saturating_sub(standing.replayed)))
}

/// The keys of a job, page by page in their order. Each page is a transaction of its own, so that a long scan does not
/// hold back the replica.
pub(super) struct PostgresKeys<'a> {
    postgres: &'a Postgres,
    server: &'a Server<PgPool>,
    column: KeyColumn,
    key: KeyType,
    last: Option<Id>,
}

impl Keys for PostgresKeys<'_> {
    fn estimate(&self) -> u64 {
        self.column.estimate
    }

    fn page(&mut self) -> Future_<'_, Result<Vec<Id>, Fault>> {
        Box::pin(self.next_page())
    }

    fn present<'a>(&'a self, ids: &'a [Id]) -> Future_<'a, Result<Vec<Id>, Fault>> {
        Box::pin(self.those_of(ids))
    }
}

impl PostgresKeys<'_> {
    async fn next_page(&mut self) -> Result<Vec<Id>, Fault> {
        let (source, server) = (&self.postgres.source, &self.server.name);
        let unreadable = |error: sqlx::Error| of_reading(source, server, &error);
        let mut transaction = self.postgres.begin(self.server).await?;
        let query = sqlx::query(AssertSqlSafe(self.column.page(self.key, self.last.is_some())));
        let query = self.column.bounds.iter().fold(query, |query, bound| query.bind(&bound.value));
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

    async fn those_of(&self, ids: &[Id]) -> Result<Vec<Id>, Fault> {
        let fence = self.postgres.ask_position().await?;
        let mut reading = self.postgres.open_reading(fence).await?;
        let query = sqlx::query(AssertSqlSafe(self.column.those_of(self.key)));
        let query = match self.key {
            KeyType::Bigint => query.bind(integers(ids)),
            KeyType::Uuid => query.bind(uuids(ids)),
            KeyType::Text => query.bind(texts(ids)),
        };
        let rows = query.fetch_all(&mut *reading.transaction).await;
        let unreadable = |error: sqlx::Error| of_reading(&self.postgres.source, &reading.server, &error);
        let rows = rows.map_err(unreadable)?;
        let ids = rows.iter().map(|row| self.id(row)).collect::<Result<_, _>>().map_err(unreadable)?;
        Box::new(reading).finish().await;
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
    bounds: Vec<Bound>,
}

/// What the rows have to be, too: a column compared with a value, which is text and read as the column's type.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    column: String,
    sql_type: String,
    operator: &'static str,
    value: String,
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
    async fn find(
        connection: &mut PgConnection,
        job: &JobDefinition,
        range: Option<ColumnRange>,
    ) -> Result<Self, KeyColumnError> {
        let statement = prepared(connection, &job.sql.to_postgres(), job.key).await?;
        let (relation, attribute) = origin(&statement, "_id")?;
        let row = sqlx::query(
            "SELECT c.oid::regclass::text, quote_ident(a.attname), greatest(c.reltuples, 0)::int8, \
             EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL \
                 AND i.indkey[0] = a.attnum) \
             FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.oid = $1 AND a.attnum = $2",
        )
        .bind(relation)
        .bind(attribute)
        .fetch_one(&mut *connection)
        .await?;
        let (table, column): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        if !row.try_get::<bool, _>(3)? {
            return Err(KeyColumnError::Definition(format!("_id is {table}.{column}, with which no index begins")));
        }
        let bounds = match range {
            None => Vec::new(),
            Some(range) => bounds(connection, &statement, &range, relation, &table).await?,
        };
        Ok(Self { table, column, estimate: row.try_get::<i64, _>(2)?.unsigned_abs(), bounds })
    }

    /// The SQL that asks which keys of the list `$1` are there.
    fn those_of(&self, key: KeyType) -> String {
        let Self { table, column, .. } = self;
        let sql_type = sql_type(key);
        format!("SELECT t.{column}::{sql_type} FROM {table} AS t WHERE t.{column} = ANY($1::{sql_type}[])")
    }

    /// The SQL of the first page, or of one after the key that is bound last.
    fn page(&self, key: KeyType, after: bool) -> String {
        let Self { table, column, bounds, .. } = self;
        let mut conditions = String::new();
        for (place, Bound { column, sql_type, operator, .. }) in (1..).zip(bounds) {
            conditions += &format!("t.{column} {operator} ${place}::text::{sql_type} AND ");
        }
        conditions += &match after {
            true => format!("t.{column} > ${}", bounds.len() + 1),
            false => format!("t.{column} IS NOT NULL"),
        };
        let sql_type = sql_type(key);
        // Qualified in ORDER BY: a bare name would mean the cast value, which has no index.
        format!("SELECT t.{column}::{sql_type} FROM {table} AS t WHERE {conditions} ORDER BY t.{column} LIMIT {PAGE}")
    }
}

/// The table, and the number of its column, that a column of a query's answer is.
fn origin(statement: &PgStatement, name: &str) -> Result<(Oid, i16), KeyColumnError> {
    let column = statement.columns().iter().find(|column| column.name() == name);
    let column = column.ok_or_else(|| KeyColumnError::Definition(format!("it selects no {name}")))?;
    let origin = column.relation_id().zip(column.relation_attribute_no());
    origin.ok_or_else(|| KeyColumnError::Definition(format!("{name} is computed, not a table's column")))
}

/// The conditions of a range, of a column of the key's table.
async fn bounds(
    connection: &mut PgConnection,
    statement: &PgStatement,
    range: &ColumnRange,
    relation: Oid,
    table: &str,
) -> Result<Vec<Bound>, KeyColumnError> {
    let (its_relation, attribute) = origin(statement, &range.field)?;
    if its_relation != relation {
        let problem = format!("{} is no column of {table}, whose rows are listed", range.field);
        return Err(KeyColumnError::Definition(problem));
    }
    let row = sqlx::query(
        "SELECT quote_ident(attname), format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = $1 AND attnum = $2",
    )
    .bind(relation)
    .bind(attribute)
    .fetch_one(connection)
    .await?;
    let (column, sql_type): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let bound = |(operator, value): (&'static str, &str)| Bound {
        column: column.clone(),
        sql_type: sql_type.clone(),
        operator,
        value: value.to_owned(),
    };
    Ok(range.conditions().map(bound).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Identity;

    #[test]
    fn only_a_replica_of_this_primary_has_a_lag() {
        let identity = Identity { system: 7, timeline: 1 };
        let primary = Position { identity, at: 100, text: "0/64".into(), asked_at: tokio::time::Instant::now() };
        let standing = |in_recovery, timeline, replayed| Standing {
            in_recovery,
            identity: Identity { system: 7, timeline },
            replayed,
            received: replayed,
        };
        assert_eq!(behind(&standing(true, 1, 60), Some(&primary)), Ok(Some(40)));
        // Asked a moment later, it may be ahead of what the primary said.
        assert_eq!(behind(&standing(true, 1, 160), Some(&primary)), Ok(Some(0)));
        assert_eq!(behind(&standing(true, 1, 60), None), Ok(None));
        let promoted = behind(&standing(false, 1, 60), Some(&primary)).expect_err("a primary of its own");
        assert!(promoted.contains("promoted"), "{promoted}");
        let other = behind(&standing(true, 2, 60), Some(&primary)).expect_err("another history");
        assert!(other.contains("timeline 2") && other.contains("timeline 1"), "{other}");
    }
}
