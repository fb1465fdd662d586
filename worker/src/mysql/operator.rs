//! What operators ask of a source: how far its replicas are, and all keys of a job.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use pinion_schemas::{Id, JobDefinition, KeyType};
use sqlx::mysql::{MySqlColumn, MySqlConnection, MySqlPool, MySqlRow, MySqlStatement};
use sqlx::{
    AssertSqlSafe, Column as _, ColumnOrigin, Executor as _, Row as _, SqlSafeStr as _, Statement as _, TypeInfo as _,
};

use super::Mysql;
use super::fault::of_query;
use super::reading::{bind, with_ids};
use crate::error::Fault;
use crate::ports::{ColumnRange, Future_, Keys, Lag, Position, Reading as _, WhichKeys};
use crate::server::Server;

/// Keys in a page of [`Keys`].
const PAGE: u32 = 10_000;

/// A name as SQL wants it.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

impl Mysql {
    /// See [`Database::replica_lags`](crate::ports::Database::replica_lags).
    pub(super) async fn ask_replicas(&self, primary: Option<&Position>, patience: Duration) -> Vec<(String, Lag)> {
        join_all(self.replicas.all().iter().map(|replica| async move {
            let asked = async {
                let mut transaction = self.begin(replica).await?;
                self.stands(&mut transaction, replica).await
            };
            let lag = match tokio::time::timeout(patience, asked).await {
                Ok(Ok(stands)) => primary
                    .map(|primary| self.shown(&stands, primary).map(|shown| primary.at.saturating_sub(shown)))
                    .transpose(),
                Ok(Err(fault)) => Err(fault.reason().to_owned()),
                Err(_elapsed) => Err(format!("no answer within {patience:?}")),
            };
            (replica.name.clone(), lag)
        }))
        .await
    }

    /// See [`Database::keys`](crate::ports::Database::keys).
    pub(super) async fn list_keys(&self, job: &JobDefinition, which: WhichKeys) -> Result<MysqlKeys<'_>, Fault> {
        let fence = self.ask_position().await?;
        let mut reading = self.open_reading(&fence).await?;
        let replicas = self.replicas.all().iter();
        let server = replicas.into_iter().find(|replica| replica.name == reading.server).unwrap_or(&self.primary);
        let failed = |error: sqlx::Error| of_query("document.sql", &self.source, &server.name, &error);
        let column = KeyColumn::find(&mut reading.transaction, job, which.range).await.map_err(failed)?;
        let column = column.map_err(|problem| {
            Fault::Job(format!(
                "document.sql: {problem}, so the keys can't be listed from it; list them yourself and give them on standard input"
            ))
        })?;
        Ok(MysqlKeys { mysql: self, server, column, key: job.key, last: which.after })
    }
}

/// The keys of a job, page by page in their order. Each page is a transaction of its own, so that a long scan does not hold
/// back the server's purge of old rows.
pub(super) struct MysqlKeys<'a> {
    mysql: &'a Mysql,
    server: &'a Server<MySqlPool>,
    column: KeyColumn,
    key: KeyType,
    last: Option<Id>,
}

impl Keys for MysqlKeys<'_> {
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

impl MysqlKeys<'_> {
    async fn next_page(&mut self) -> Result<Vec<Id>, Fault> {
        let failed = |error: sqlx::Error| of_query("the keys", &self.mysql.source, &self.server.name, &error);
        let mut transaction = self.mysql.begin(self.server).await?;
        let query = sqlx::query_scalar::<_, String>(AssertSqlSafe(self.column.page(self.last.is_some())));
        let query = self.column.bounds.iter().fold(query, |query, bound| match &bound.value {
            Ok(number) => query.bind(number),
            Err(text) => query.bind(text),
        });
        let query = match &self.last {
            None => query,
            Some(Id::Int(id)) => query.bind(*id),
            Some(other) => query.bind(other.to_string()),
        };
        let rows = query.fetch_all(&mut *transaction).await.map_err(failed)?;
        let ids = rows.iter().map(|id| self.key.id_from_text(id));
        let ids: Vec<Id> =
            ids.collect::<Result<_, _>>().map_err(|error| Fault::Job(format!("document.sql: {error}")))?;
        transaction.commit().await.map_err(failed)?;
        if let Some(last) = ids.last() {
            self.last = Some(last.clone());
        }
        Ok(ids)
    }

    async fn those_of(&self, ids: &[Id]) -> Result<Vec<Id>, Fault> {
        let fence = self.mysql.ask_position().await?;
        let mut reading = self.mysql.open_reading(&fence).await?;
        let places = vec!["?"; ids.len().next_power_of_two()].join(", ");
        let query = bind(sqlx::query(AssertSqlSafe(self.column.those_of(&places))), ids, 1);
        let rows = query.fetch_all(&mut *reading.transaction).await;
        let rows = rows.map_err(|error| of_query("the keys", &self.mysql.source, &reading.server, &error))?;
        Box::new(reading).finish().await;
        let of_job = |error: String| Fault::Job(format!("document.sql: {error}"));
        let id = |row: &MySqlRow| {
            let text: String = row.try_get(0).map_err(|error| of_job(error.to_string()))?;
            self.key.id_from_text(&text).map_err(|error| of_job(error.to_string()))
        };
        rows.iter().map(id).collect()
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

/// What the rows have to be, too: a column compared with a value.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    column: String,
    operator: &'static str,
    /// A number as such: compared with text, both would become floating-point numbers.
    value: Result<i64, String>,
}

/// A column of a query's answer, and whose it is: a table's name, with its schema, and the column's name there.
fn origin<'a>(statement: &'a MySqlStatement, name: &str) -> Result<(&'a MySqlColumn, Arc<str>, Arc<str>), String> {
    let column = statement.columns().iter().find(|column| column.name() == name);
    let column = column.ok_or_else(|| format!("it selects no {name}"))?;
    match column.origin() {
        ColumnOrigin::Table(origin) => Ok((column, origin.table, origin.name)),
        ColumnOrigin::Expression | ColumnOrigin::Unknown => Err(format!("{name} is computed, not a table's column")),
    }
}

/// The conditions of a range, of a column of the key's table.
fn bounds(statement: &MySqlStatement, range: &ColumnRange, table: &str) -> Result<Vec<Bound>, String> {
    let (column, its_table, name) = origin(statement, &range.field)?;
    if *its_table != *table {
        return Err(format!("{} is no column of {table}, whose rows are listed", range.field));
    }
    let is_integer = column.type_info().name().contains("INT");
    let bound = |(operator, value): (&'static str, &str)| Bound {
        column: quoted(&name),
        operator,
        value: value.parse().ok().filter(|_| is_integer).ok_or_else(|| value.to_owned()),
    };
    Ok(range.conditions().map(bound).collect())
}

impl KeyColumn {
    /// The server says of each column of a query's answer which table's column it is. It has to be unique: of texts that are
    /// equal by their collation, a page's end would pass some over.
    async fn find(
        connection: &mut MySqlConnection,
        job: &JobDefinition,
        range: Option<ColumnRange>,
    ) -> Result<Result<Self, String>, sqlx::Error> {
        let statement = connection.prepare(AssertSqlSafe(with_ids(&job.sql, 1)).into_sql_str()).await?;
        let (its_table, name) = match origin(&statement, "_id") {
            Ok((_, table, name)) => (table, name),
            Err(problem) => return Ok(Err(problem)),
        };
        let (schema, table) = its_table.split_once('.').unwrap_or(("", &its_table));
        let found = sqlx::query_as::<_, (i64, i64)>(
            "SELECT CAST(COALESCE(MAX(t.TABLE_ROWS), 0) AS SIGNED), CAST(COUNT(s.INDEX_NAME) AS SIGNED) \
             FROM information_schema.TABLES t LEFT JOIN information_schema.STATISTICS s \
             ON s.TABLE_SCHEMA = t.TABLE_SCHEMA AND s.TABLE_NAME = t.TABLE_NAME AND s.COLUMN_NAME = ? AND s.NON_UNIQUE = 0 \
             AND NOT EXISTS (SELECT 1 FROM information_schema.STATISTICS o WHERE o.TABLE_SCHEMA = s.TABLE_SCHEMA \
                 AND o.TABLE_NAME = s.TABLE_NAME AND o.INDEX_NAME = s.INDEX_NAME AND o.SEQ_IN_INDEX > 1) \
             WHERE t.TABLE_SCHEMA = ? AND t.TABLE_NAME = ?",
        )
        .bind(&*name)
        .bind(schema)
        .bind(table)
        .fetch_one(connection)
        .await?;
        let (estimate, indexes) = found;
        if indexes == 0 {
            return Ok(Err(format!("_id is {its_table}.{name}, of which there is no unique index")));
        }
        let bounds = match range.map_or(Ok(Vec::new()), |range| bounds(&statement, &range, &its_table)) {
            Ok(bounds) => bounds,
            Err(problem) => return Ok(Err(problem)),
        };
        let table = format!("{}.{}", quoted(schema), quoted(table));
        Ok(Ok(Self { table, column: quoted(&name), estimate: estimate.unsigned_abs(), bounds }))
    }

    /// The SQL that asks which keys of a list are there.
    fn those_of(&self, places: &str) -> String {
        let Self { table, column, .. } = self;
        format!("SELECT CAST({column} AS CHAR) FROM {table} WHERE {column} IN ({places})")
    }

    /// The SQL of the first page, or of one after the id that is bound last.
    fn page(&self, after: bool) -> String {
        let Self { table, column, bounds, .. } = self;
        let bounds: String = bounds.iter().map(|bound| format!("{} {} ? AND ", bound.column, bound.operator)).collect();
        let condition = if after { "> ?" } else { "IS NOT NULL" };
        format!(
            "SELECT CAST({column} AS CHAR) FROM {table} WHERE {bounds}{column} {condition} ORDER BY {column} LIMIT {PAGE}"
        )
    }
}
