//! A job's watch rules on the real database.

use pinion_schemas::{Finding, JobDefinition, KeyType, Severity, WatchRule};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Column as _, Executor as _, Row as _, SqlSafeStr as _, Statement as _, TypeInfo as _};

use super::queries::database_finding;
use super::{Place, place};

pub(super) async fn check(connection: &mut PgConnection, job: &JobDefinition) -> Vec<Finding> {
    let file = Place::of_job(job, "job.toml");
    let mut findings = Vec::new();
    for (number, watch) in job.watch.iter().enumerate() {
        let number = number.to_string();
        let line = |key: &str| file.toml_line(&["watch", &number, key]);
        let error = |key: &str, problem: String, mend: &str| file.finding(Severity::Error, line(key), problem, mend);
        let columns = match columns(connection, &watch.table).await {
            Ok(columns) => columns,
            Err(failure) => {
                findings.push(error(
                    "table",
                    format!("{} can't be looked up: {failure}", watch.table),
                    "mend it and check again",
                ));
                continue;
            }
        };
        let Some(columns) = columns else {
            let problem = format!("there is no table {}", watch.table);
            findings.push(error(
                "table",
                problem,
                "mend schema and name, upper and lower case as in the database; a view has no changes",
            ));
            continue;
        };
        match &watch.rule {
            WatchRule::Key(key) => match columns.iter().find(|(name, _)| name == key) {
                None => {
                    let problem = format!("the table {} has no column {key}", watch.table);
                    findings.push(error("key", problem, "name the column that holds the document's id"));
                }
                Some((_, kind)) => findings.extend(key_misfit(job.key, kind).then(|| {
                    let problem = format!("the column {key} is of type {kind}, the job's key of type {}", job.key);
                    file.finding(Severity::Warning, line("key"), problem, "watch a column of the key's type")
                })),
            },
            WatchRule::Sql(template) => {
                let sql = template.to_postgres();
                match connection.prepare(AssertSqlSafe(sql.clone()).into_sql_str()).await {
                    Ok(statement) => {
                        let kinds: Vec<String> =
                            statement.columns().iter().map(|column| column.type_info().name().to_owned()).collect();
                        findings.extend(
                            ids_problem(job.key, &kinds)
                                .map(|problem| error("sql", problem, "select the documents' ids alone")),
                        );
                    }
                    Err(failure) => {
                        let finding = database_finding(&file, &sql, &failure);
                        let inner = finding.line.unwrap_or(1) - 1;
                        let first = place::toml_text_line(&file.text, &["watch", &number, "sql"]);
                        let line = first.map(|line| line + inner);
                        findings.push(Finding { line, problem: format!("sql: {}", finding.problem), ..finding });
                    }
                }
            }
        }
    }
    findings
}

/// The columns of a table with their types; `None` where there is no such table.
async fn columns(connection: &mut PgConnection, table: &str) -> Result<Option<Vec<(String, String)>>, sqlx::Error> {
    let (schema, name) = table.split_once('.').unwrap_or(("public", table));
    let table: Option<i64> = sqlx::query_scalar(
        "SELECT c.oid::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')",
    )
    .bind(schema)
    .bind(name)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(table) = table else { return Ok(None) };
    let rows = sqlx::query(
        "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute \
         WHERE attrelid = $1::int8::oid AND attnum > 0 AND NOT attisdropped",
    )
    .bind(table)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>().map(Some)
}

/// Whether a column of that type, as PostgreSQL writes it, can't hold the job's keys.
fn key_misfit(key: KeyType, kind: &str) -> bool {
    let fitting: &[&str] = match key {
        KeyType::Bigint => &["smallint", "integer", "bigint"],
        KeyType::Uuid => &["uuid"],
        // Any value has a text.
        KeyType::Text => return false,
    };
    !fitting.contains(&kind)
}

/// What is wrong with the columns of a query for ids.
fn ids_problem(key: KeyType, kinds: &[String]) -> Option<String> {
    let [kind] = kinds else { return Some(format!("the query has {} columns", kinds.len())) };
    let fitting: &[&str] = match key {
        KeyType::Bigint => &["INT2", "INT4", "INT8"],
        KeyType::Uuid => &["UUID"],
        KeyType::Text => return None,
    };
    (!fitting.contains(&kind.as_str()))
        .then(|| format!("the query gives {}, the job's key is of type {key}", kind.to_lowercase()))
}
