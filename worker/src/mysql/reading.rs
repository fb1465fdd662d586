//! One transaction that reads only, and the rows of a job's query in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use pinion_schemas::{Id, JobDefinition, KeyType, SqlTemplate};
use sqlx::mysql::{MySql as Dialect, MySqlArguments, MySqlRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Row as _, Transaction};

use super::fault::of_ids;
use super::statement::{MysqlRecord, Statement};
use crate::error::Fault;
use crate::pipeline::build::{Builder, Defect, Room};
use crate::ports::{Future_, Reading, Record as _, TouchedPage};

const QUERY: &str = "document.sql";

/// How the answer of each query becomes documents; made anew when its columns are others.
pub(super) type Statements = Arc<Mutex<HashMap<String, Arc<Statement>>>>;

/// A transaction that reads only; its position was read before any of its rows.
pub(super) struct MysqlReading {
    pub(super) transaction: Transaction<'static, Dialect>,
    pub(super) position: u64,
    pub(super) source: String,
    pub(super) server: String,
    pub(super) statements: Statements,
}

impl MysqlReading {
    async fn read(&mut self, job: &JobDefinition, ids: &[Id], builder: &mut Builder) -> Result<(), Fault> {
        if let Some(problem) = job.sql.mysql_problem() {
            return Err(Fault::Job(format!("{QUERY}: {problem}")));
        }
        let sql = AssertSqlSafe(with_ids(&job.sql, ids.len()));
        let mut rows = bind(sqlx::query(sql), ids, job.sql.places()).fetch(&mut *self.transaction);
        let mut statement = None;
        while let Some(row) = rows.next().await {
            let row: MySqlRow = row.map_err(|error| of_ids(ids, QUERY, &self.source, &self.server, &error))?;
            let of_job = |defect| Fault::Job(format!("{QUERY}: {defect}"));
            // All rows of an answer have the same columns.
            let statement = match &statement {
                Some(known) => known,
                None => statement.insert(known(&self.statements, job, &row).map_err(of_job)?),
            };
            let record = statement.record(&row, job.key);
            // Where the key's collation takes 'a' for 'A', a row may come that nobody asked for by that name.
            if job.key == KeyType::Text && !asked_for(builder, &record, statement) {
                continue;
            }
            match builder.push(&statement.plan, &record) {
                Ok(Room::More) => {}
                Ok(Room::Full) => break,
                Err(defect) => return Err(of_job(defect)),
            }
        }
        Ok(())
    }
}

fn asked_for(builder: &Builder, record: &MysqlRecord<'_>, statement: &Statement) -> bool {
    record.id(statement.plan.id_column()).ok().flatten().is_none_or(|id| builder.asked_for(&id))
}

/// How rows like this one become documents.
fn known(statements: &Statements, job: &JobDefinition, row: &MySqlRow) -> Result<Arc<Statement>, Defect> {
    let mut statements = statements.lock().unwrap_or_else(PoisonError::into_inner);
    // While its index is rebuilt, a job may have two queries.
    let query = format!("{}\n{}", job.key, job.sql.text());
    if let Some(known) = statements.get(&query).filter(|known| known.fits(row.columns())) {
        return Ok(known.clone());
    }
    let statement = Arc::new(Statement::new(job, row.columns())?);
    statements.insert(query, statement.clone());
    Ok(statement)
}

/// The query with places for so many ids: a power of two, so that a connection keeps a dozen of its forms, not a thousand.
pub(super) fn with_ids(template: &SqlTemplate, ids: usize) -> String {
    template.to_mysql(ids.next_power_of_two())
}

/// Binds ids to the places of a query that [`with_ids`] made; what is left over repeats the last one, which changes nothing
/// in `IN (…)`.
pub(super) fn bind<'q>(
    mut query: Query<'q, Dialect, MySqlArguments>,
    ids: &'q [Id],
    places: usize,
) -> Query<'q, Dialect, MySqlArguments> {
    let padding = ids.last().into_iter().cycle().take(ids.len().next_power_of_two() - ids.len());
    for _place in 0..places {
        for id in ids.iter().chain(padding.clone()) {
            query = match id {
                Id::Int(number) => query.bind(*number),
                Id::Uuid(uuid) => query.bind(uuid.hyphenated().to_string()),
                Id::Text(text) => query.bind(&**text),
            };
        }
    }
    query
}

impl Reading for MysqlReading {
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
