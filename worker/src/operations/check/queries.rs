//! A job's query on the real database.

use pinion_schemas::{Finding, From, JobDefinition, KeyType, Severity};
use sqlx::postgres::{PgConnection, PgDatabaseError, PgErrorPosition};
use sqlx::{AssertSqlSafe, Executor as _};

use super::fields::{self, ColumnSeen};
use super::{Place, place};
use crate::postgres::statement::{PrepareError, Statement};

pub(super) async fn check(connection: &mut PgConnection, job: &JobDefinition) -> Vec<Finding> {
    let sql = Place::of_columns(job);
    let statement = match Statement::prepare(connection, job).await {
        Ok(statement) => statement,
        Err(PrepareError::Database(error)) => return vec![database_finding(&sql, &job.sql.to_postgres(), &error)],
        Err(PrepareError::Columns(defect)) => {
            let defect = defect.to_string();
            let (problem, mend) = defect.split_once("; ").unwrap_or((&defect, "select other columns"));
            return vec![sql.finding(Severity::Error, None, problem, mend)];
        }
    };
    // Rights are looked at when a query begins to run, not when it is prepared.
    let nothing = format!("SELECT * FROM ({}\n) AS pinion_query LIMIT 0", statement.sql);
    let query = sqlx::query(AssertSqlSafe(nothing));
    let query = match job.key {
        KeyType::Bigint => query.bind(Vec::<i64>::new()),
        KeyType::Uuid => query.bind(Vec::<uuid::Uuid>::new()),
        KeyType::Text => query.bind(Vec::<String>::new()),
    };
    let mut findings = Vec::new();
    if let Err(error) = connection.execute(query).await {
        findings.push(database_finding(&sql, &statement.sql, &error));
    }
    for column in statement.columns.iter().filter(|column| column.as_text && job.from == From::Query) {
        let problem =
            format!("the column \"{}\" is of type {}, which is written as text", column.name, column.type_name);
        let mend = "cast it in the query where another form is wanted";
        findings.push(sql.finding(Severity::Note, place::column_line(&sql.text, &column.name), problem, mend));
    }
    let columns: Vec<ColumnSeen> = statement
        .columns
        .iter()
        .map(|column| ColumnSeen { name: column.name.clone(), kind: column.type_name.clone() })
        .collect();
    findings.extend(fields::findings(&columns, job, &sql));
    findings
}

/// The database's own words, with the line that it points to. `sent` is the query's text as the database has it: it has
/// the lines of the file.
pub(super) fn database_finding(sql: &Place, sent: &str, error: &sqlx::Error) -> Finding {
    let refused = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    let Some(refused) = refused else {
        return sql.finding(
            Severity::Error,
            None,
            format!("the query could not be tried: {error}"),
            "mend it and check again",
        );
    };
    let line = match refused.position() {
        Some(PgErrorPosition::Original(position)) => Some(place::character_line(sent, position)),
        _ => None,
    };
    let mut mend = match refused.code() {
        "42501" => "GRANT SELECT on it to the role of the source, and USAGE on its schema".to_owned(),
        "42P01" => "mend the name; a table outside the role's search_path is written with its schema".to_owned(),
        "42703" => "mend the name".to_owned(),
        "0A000" => "write the query otherwise".to_owned(),
        _ => "mend the query".to_owned(),
    };
    if let Some(hint) = refused.hint() {
        mend = format!("{mend} ({hint})");
    }
    let detail = refused.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
    sql.finding(Severity::Error, line, format!("{}{detail}", refused.message()), mend.replace('\n', " "))
}
