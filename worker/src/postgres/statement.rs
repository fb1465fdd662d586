//! A job's query, prepared: its SQL, its columns, and how they become a document.

use std::sync::Arc;

use pinion_schemas::{Id, JobDefinition, KeyType};
use sqlx::postgres::{PgConnection, PgRow, PgStatement, PgTypeInfo};
use sqlx::{
    AssertSqlSafe, Column as _, Executor as _, Row as _, SqlSafeStr as _, Statement as _, TypeInfo as _, ValueRef as _,
};

use super::fault::of_reading;
use super::json::Encoder;
use crate::error::Fault;
use crate::pipeline::build::{Defect, DocumentPlan};
use crate::ports::Record;

/// A prepared query. The same for all connections to all servers of a source.
#[derive(Debug)]
pub struct Statement {
    /// The SQL with `$1` for `:ids`.
    pub sql: Arc<str>,
    /// How the columns nest.
    pub plan: DocumentPlan,
    /// The columns in order.
    pub columns: Vec<Column>,
}

/// A column of a job's query.
#[derive(Debug)]
pub struct Column {
    /// Its name, dots included.
    pub name: String,
    /// Its type, as the query gives it.
    pub type_name: String,
    /// Whether PostgreSQL has to write it as text, because its binary form is not known here.
    pub as_text: bool,
    type_info: PgTypeInfo,
    encoder: Encoder,
}

/// Why a query can't be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The database refuses it.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// Its columns make no document.
    #[error(transparent)]
    Columns(#[from] Defect),
}

impl PrepareError {
    pub(super) fn into_fault(self, source: &str, server: &str) -> Fault {
        match self {
            Self::Database(error) => of_reading(source, server, &error),
            Self::Columns(defect) => Fault::Job(format!("document.sql: {defect}")),
        }
    }
}

impl Statement {
    /// Prepares the job's query on a connection.
    ///
    /// # Errors
    /// The database refuses it, or its columns make no document.
    pub async fn prepare(connection: &mut PgConnection, job: &JobDefinition) -> Result<Self, PrepareError> {
        let written = job.sql.to_postgres();
        let described = describe(connection, &written, job.key).await?;
        let names: Vec<&str> = described.iter().map(|(name, _)| name.as_str()).collect();
        let plan = DocumentPlan::new(&names)?;
        check_key(job.key, &described)?;
        let as_text: Vec<bool> = described.iter().map(|(_, type_info)| Encoder::of(type_info).is_none()).collect();
        let (sql, read) = if as_text.contains(&true) {
            let sql = with_casts(&written, &names, &as_text);
            let read = describe(connection, &sql, job.key).await?;
            (sql, read)
        } else {
            (written, described.clone())
        };
        let columns = described.into_iter().zip(read).zip(as_text).map(|(((name, given), (_, type_info)), as_text)| {
            let encoder = Encoder::of(&type_info)
                .ok_or_else(|| Defect(format!("the column \"{name}\" of type {given} can't be written as text")))?;
            Ok(Column { name, type_name: given.to_string(), as_text, type_info, encoder })
        });
        let columns = columns.collect::<Result<_, Defect>>()?;
        Ok(Self { sql: sql.into(), plan, columns })
    }

    /// Whether an answer has the columns that this statement was made for.
    pub(super) fn fits(&self, row: &PgRow) -> bool {
        let columns = row.columns();
        columns.len() == self.columns.len()
            && columns.iter().zip(&self.columns).all(|(column, known)| *column.type_info() == known.type_info)
    }

    /// A row of an answer.
    pub(super) fn record<'a>(&'a self, row: &'a PgRow, key: KeyType) -> PostgresRecord<'a> {
        PostgresRecord { columns: &self.columns, row, key }
    }
}

async fn describe(
    connection: &mut PgConnection,
    sql: &str,
    key: KeyType,
) -> Result<Vec<(String, PgTypeInfo)>, sqlx::Error> {
    let prepared = prepared(connection, sql, key).await?;
    let columns = prepared.columns().iter();
    Ok(columns.map(|column| (column.name().to_owned(), column.type_info().clone())).collect())
}

/// What SQL calls the type of such keys.
pub(super) fn sql_type(key: KeyType) -> &'static str {
    match key {
        KeyType::Bigint => "int8",
        KeyType::Uuid => "uuid",
        KeyType::Text => "text",
    }
}

/// A query whose `$1` is an array of keys, prepared.
pub(super) async fn prepared(
    connection: &mut PgConnection,
    sql: &str,
    key: KeyType,
) -> Result<PgStatement, sqlx::Error> {
    let ids = PgTypeInfo::with_name(match key {
        KeyType::Bigint => "INT8[]",
        KeyType::Uuid => "UUID[]",
        KeyType::Text => "TEXT[]",
    });
    connection.prepare_with(AssertSqlSafe(sql.to_owned()).into_sql_str(), &[ids]).await
}

/// The key's values are read from the `_id` column, so its type has to be the key's.
fn check_key(key: KeyType, columns: &[(String, PgTypeInfo)]) -> Result<(), Defect> {
    let Some((_, type_info)) = columns.iter().find(|(name, _)| name == "_id") else { return Ok(()) };
    let allowed: &[&str] = match key {
        KeyType::Bigint => &["INT2", "INT4", "INT8"],
        KeyType::Uuid => &["UUID"],
        KeyType::Text => &["TEXT", "VARCHAR", "NAME"],
    };
    let name = type_info.name();
    if allowed.iter().any(|allowed| name.eq_ignore_ascii_case(allowed)) {
        return Ok(());
    }
    Err(Defect(format!(
        "_id is of type {name}, but job.toml says key = \"{key}\"; change the key, or cast the column (to {})",
        allowed.join(" or ")
    )))
}

/// The query with the columns that have no known binary form cast to text.
fn with_casts(sql: &str, names: &[&str], as_text: &[bool]) -> String {
    let columns = names.iter().zip(as_text).map(|(name, as_text)| {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        if *as_text { format!("{quoted}::text AS {quoted}") } else { quoted }
    });
    format!("SELECT {} FROM ({sql}\n) AS pinion_query", columns.collect::<Vec<_>>().join(", "))
}

/// A row with what is known of its columns.
pub(super) struct PostgresRecord<'a> {
    columns: &'a [Column],
    row: &'a PgRow,
    key: KeyType,
}

impl Record for PostgresRecord<'_> {
    fn write_column(&self, column: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let value = self.row.try_get_raw(column).map_err(|error| error.to_string())?;
        if value.is_null() {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        let raw = value.as_bytes().map_err(|error| error.to_string())?;
        let column = &self.columns[column];
        column.encoder.write(raw, out).map_err(|error| format!("the column \"{}\": {error}", column.name))
    }

    fn id(&self, column: usize) -> Result<Option<Id>, String> {
        let value = self.row.try_get_raw(column).map_err(|error| error.to_string())?;
        if value.is_null() {
            return Ok(None);
        }
        let raw = value.as_bytes().map_err(|error| error.to_string())?;
        let id = match self.key {
            KeyType::Bigint => integer(raw).map(Id::Int),
            KeyType::Uuid => uuid::Uuid::from_slice(raw).ok().map(Id::Uuid),
            KeyType::Text => std::str::from_utf8(raw).ok().map(|text| Id::Text(text.into())),
        };
        id.map(Some).ok_or_else(|| format!("_id has {} bytes that are no {}", raw.len(), self.key))
    }
}

/// A binary integer of 2, 4 or 8 bytes.
fn integer(raw: &[u8]) -> Option<i64> {
    match raw.len() {
        2 => Some(i64::from(i16::from_be_bytes(raw.try_into().ok()?))),
        4 => Some(i64::from(i32::from_be_bytes(raw.try_into().ok()?))),
        8 => Some(i64::from_be_bytes(raw.try_into().ok()?)),
        _ => None,
    }
}
