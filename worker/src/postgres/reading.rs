//! One snapshot, and the rows of a job's query in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use pinion_schemas::{Id, JobDefinition, KeyType};
use sqlx::postgres::{PgRow, Postgres as Dialect};
use sqlx::{AssertSqlSafe, Transaction};

use super::fault::{is_stale_plan, of_reading};
use super::statement::Statement;
use crate::error::{Fault, Service};
use crate::pipeline::build::{Builder, Room};
use crate::ports::{Future_, Reading, TouchedPage};

/// The prepared shape of each query; forgotten when the database says that it has changed.
pub(super) type Statements = Arc<Mutex<HashMap<String, Arc<Statement>>>>;

/// A transaction that reads only; its position was read before any of its rows.
pub(super) struct PostgresReading {
    pub(super) transaction: Transaction<'static, Dialect>,
    pub(super) position: u64,
    pub(super) source: String,
    pub(super) server: String,
    pub(super) statements: Statements,
}

impl PostgresReading {
    async fn read(&mut self, job: &JobDefinition, ids: &[Id], builder: &mut Builder) -> Result<(), Fault> {
        let statement = self.statement(job).await?;
        let sql = AssertSqlSafe(statement.sql.clone());
        let query = match job.key {
            KeyType::Bigint => sqlx::query(sql).bind(integers(ids)),
            KeyType::Uuid => sqlx::query(sql).bind(uuids(ids)),
            KeyType::Text => sqlx::query(sql).bind(texts(ids)),
        };
        let mut rows = query.fetch(&mut *self.transaction);
        let mut checked = false;
        while let Some(row) = rows.next().await {
            let row: PgRow = match row {
                Ok(row) => row,
                Err(error) => {
                    if is_stale_plan(&error) {
                        forget(&self.statements, job);
                    }
                    return Err(of_reading(&self.source, &self.server, &error));
                }
            };
            // All rows of an answer have the same columns.
            if !checked && !statement.fits(&row) {
                forget(&self.statements, job);
                let service = Service::Source(self.source.clone());
                return Err(Fault::Again { service, reason: "the columns of the query have changed".to_owned() });
            }
            checked = true;
            match builder.push(&statement.plan, &statement.record(&row, job.key)) {
                Ok(Room::More) => {}
                Ok(Room::Full) => break,
                Err(defect) => {
                    // A type may have been altered under the statement: it is made anew the next time.
                    forget(&self.statements, job);
                    return Err(Fault::Job(format!("document.sql: {defect}")));
                }
            }
        }
        Ok(())
    }

    async fn statement(&mut self, job: &JobDefinition) -> Result<Arc<Statement>, Fault> {
        let known = self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(&query_of(job)).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = Statement::prepare(&mut self.transaction, job)
            .await
            .map_err(|error| error.into_fault(&self.source, &self.server))?;
        let statement = Arc::new(statement);
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        statements.insert(query_of(job), statement.clone());
        Ok(statement)
    }
}

fn forget(statements: &Statements, job: &JobDefinition) {
    statements.lock().unwrap_or_else(PoisonError::into_inner).remove(&query_of(job));
}

/// What a prepared shape is known by: while its index is rebuilt, a job may have two queries.
fn query_of(job: &JobDefinition) -> String {
    format!("{}\n{}", job.key, job.sql.text())
}

// An id of another type than the job's key can't get here: the source makes ids by the key's type.

pub(super) fn integers(ids: &[Id]) -> Vec<i64> {
    ids.iter().filter_map(|id| if let Id::Int(number) = id { Some(*number) } else { None }).collect()
}

pub(super) fn uuids(ids: &[Id]) -> Vec<uuid::Uuid> {
    ids.iter().filter_map(|id| if let Id::Uuid(uuid) = id { Some(*uuid) } else { None }).collect()
}

pub(super) fn texts(ids: &[Id]) -> Vec<String> {
    ids.iter().filter_map(|id| if let Id::Text(text) = id { Some(text.to_string()) } else { None }).collect()
}

impl Reading for PostgresReading {
    fn position(&self) -> u64 {
        self.position
    }

    fn rows<'a>(
        &'a mut self,
        job: &'a JobDefinition,
        ids: &'a [Id],
        builder: &'a mut Builder,
    ) -> Future_<'a, Result<(), Fault>> {
        Box::pin(self.read(job, ids, builder))
    }

    fn touched<'a>(&'a mut self, page: TouchedPage<'a>) -> Future_<'a, Result<Vec<Id>, Fault>> {
        Box::pin(self.find_touched(page))
    }

    fn finish(self: Box<Self>) -> Future_<'static, ()> {
        Box::pin(async move {
            // Nothing was written; a failed commit means a dead connection, which the pool notices.
            if let Err(error) = self.transaction.commit().await {
                tracing::debug!(%error, server = self.server, "the reading did not end in order");
            }
        })
    }
}
