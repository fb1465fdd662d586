//! A source of MariaDB or MySQL: whether it can be reached, is what the configuration says, and takes the jobs' queries.

use std::time::Duration;

use pinion_schemas::{Finding, JobDefinition, KeyType, Severity, SqlTemplate, WatchRule};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{
    AssertSqlSafe, Column as _, Connection as _, Executor as _, SqlSafeStr as _, Statement as _, TypeInfo as _,
};

use super::fields::{self, ColumnSeen};
use super::{Context, Place, jobs_of, place};
use crate::config::{self, SourceKind};
use crate::mysql::fault::refused;
use crate::mysql::statement::Statement;
use crate::mysql::{Mysql, quoted};
use crate::ports::Database as _;

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn check(context: &Context, name: &str, config: &config::Source, database: &Mysql) -> Vec<Finding> {
    let place = Place::config(context);
    let source = SourceCheck { name, config, database, place, feed: context.config.kafka.is_some() };
    let mut findings = source.servers().await;
    let jobs = jobs_of(context, name);
    let mut readers = Vec::new();
    let pools = std::iter::once(database.primary()).chain(database.replicas().map(|(_, pool)| pool));
    for pool in pools {
        // What can't be reached was told above.
        if let Ok(connection) = connect(&pool.connect_options()).await {
            readers.push(connection);
        }
    }
    for reader in &mut readers {
        for job in &jobs {
            findings.extend(query(reader, job).await);
        }
    }
    if let Some(reader) = readers.first_mut() {
        for job in &jobs {
            match watches(reader, job, source.feed).await {
                Ok(found) => findings.extend(found),
                Err(error) => {
                    let file = Place::of_job(job, "job.toml");
                    let problem = format!("its tables can't be looked up: {error}");
                    findings.push(file.finding(Severity::Error, None, problem, "mend it and check again"));
                }
            }
        }
    }
    for connection in readers {
        if let Err(error) = connection.close().await {
            tracing::debug!(%error, "a connection did not end in order");
        }
    }
    findings
}

async fn connect(options: &MySqlConnectOptions) -> Result<MySqlConnection, String> {
    match tokio::time::timeout(PATIENCE, MySqlConnection::connect_with(options)).await {
        Ok(connected) => connected.map_err(|error| error.to_string().replace('\n', " ")),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

struct SourceCheck<'a> {
    name: &'a str,
    config: &'a config::Source,
    database: &'a Mysql,
    place: Place,
    feed: bool,
}

impl SourceCheck<'_> {
    /// A finding about a key of this source.
    fn finding(&self, severity: Severity, key: &[&str], problem: String, mend: String) -> Finding {
        let path: Vec<&str> = ["sources", self.name].into_iter().chain(key.iter().copied()).collect();
        self.place.finding(severity, self.place.toml_line(&path), problem, mend)
    }

    async fn servers(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mend = |key: &str| {
            format!(
                "is it running? Correct host, port, user, password and database in {key} of [sources.{}]",
                self.name
            )
        };
        let options = self.database.primary().connect_options();
        let server = format!("the primary at {}:{}", options.get_host(), options.get_port());
        match connect(&options).await {
            Ok(mut primary) => match self.primary(&mut primary).await {
                Ok(found) => findings.extend(found),
                Err(error) => {
                    let problem = format!("{server} can't be asked: {error}");
                    findings.push(self.finding(Severity::Error, &["primary"], problem, mend("primary")));
                }
            },
            Err(error) => {
                let problem = format!("{server} gives no connection: {error}");
                findings.push(self.finding(Severity::Error, &["primary"], problem, mend("primary")));
                return findings;
            }
        }
        let position = match self.database.position().await {
            Ok(position) => Some(position),
            Err(fault) => {
                let mend = "name the server that changes are committed on; it needs log_bin, and MySQL gtid_mode = ON";
                findings.push(self.finding(Severity::Error, &["primary"], fault.reason().to_owned(), mend.to_owned()));
                None
            }
        };
        let lags = self.database.replica_lags(position.as_ref(), PATIENCE).await;
        for (place, (server, lag)) in lags.into_iter().enumerate() {
            if let Err(problem) = lag {
                let mend = "name a replica of this primary that follows it by GTID".to_owned();
                let key = ["replicas", &place.to_string()];
                findings.push(self.finding(Severity::Error, &key, format!("{server}: {problem}"), mend));
            }
        }
        findings
    }

    async fn primary(&self, connection: &mut MySqlConnection) -> Result<Vec<Finding>, sqlx::Error> {
        let mut findings = Vec::new();
        let question = "SELECT VERSION(), CAST(@@global.binlog_format AS CHAR), CAST(@@global.binlog_row_image AS CHAR), \
                        CAST(CURRENT_USER() AS CHAR)";
        let (version, format, image, user): (String, String, String, String) =
            sqlx::query_as(question).fetch_one(&mut *connection).await?;
        let is_mariadb = version.contains("MariaDB");
        if is_mariadb != (self.config.kind == SourceKind::Mariadb) {
            let (is, kind) = if is_mariadb { ("MariaDB", "mariadb") } else { ("MySQL", "mysql") };
            let problem = format!("the primary is {is} {version}");
            findings.push(self.finding(Severity::Error, &["kind"], problem, format!("write kind = \"{kind}\"")));
        }
        let grants: Vec<String> = sqlx::query_scalar("SHOW GRANTS").fetch_all(connection).await?;
        if grants.iter().any(|grant| grant.contains("ALL PRIVILEGES ON *.*") || grant.contains("SUPER")) {
            let mend = "give the worker a user that may only SELECT what the queries read".to_owned();
            findings.push(self.finding(
                Severity::Warning,
                &["primary"],
                format!("the user {user} may do anything"),
                mend,
            ));
        }
        if self.feed && !(format.eq_ignore_ascii_case("row") && image.eq_ignore_ascii_case("full")) {
            let problem =
                format!("the primary has binlog_format = {format} and binlog_row_image = {image}: the feed lacks rows");
            let mend = "set binlog_format = ROW and binlog_row_image = FULL".to_owned();
            findings.push(self.finding(Severity::Error, &["primary"], problem, mend));
        }
        Ok(findings)
    }
}

/// A job's query, and its columns against the mapping.
async fn query(connection: &mut MySqlConnection, job: &JobDefinition) -> Vec<Finding> {
    let sql = Place::of_columns(job);
    if let Some(problem) = job.sql.mysql_problem() {
        return vec![sql.finding(Severity::Error, Some(problem.line), problem.problem.clone(), problem.mend.clone())];
    }
    let statement = match connection.prepare(AssertSqlSafe(job.sql.to_mysql(1)).into_sql_str()).await {
        Ok(prepared) => Statement::new(job, prepared.columns()),
        Err(error) => return vec![database_finding(&sql, 1, &error)],
    };
    let statement = match statement {
        Ok(statement) => statement,
        Err(defect) => {
            let defect = defect.to_string();
            let (problem, mend) = defect.split_once("; ").unwrap_or((&defect, "select other columns"));
            return vec![sql.finding(Severity::Error, None, problem, mend)];
        }
    };
    let columns: Vec<ColumnSeen> = statement
        .columns
        .iter()
        .map(|column| ColumnSeen { name: column.name.clone(), kind: column.kind().to_owned() })
        .collect();
    fields::findings(&columns, job, &sql)
}

/// The server's own words, with the line that it names, counted from `first`.
fn database_finding(file: &Place, first: usize, error: &sqlx::Error) -> Finding {
    let Some(refused) = refused(error) else {
        let problem = format!("the query could not be tried: {error}");
        return file.finding(Severity::Error, None, problem, "mend it and check again");
    };
    let message = refused.message().replace('\n', " ");
    let line = message.rsplit_once("at line ").and_then(|(_, line)| line.trim().parse::<usize>().ok());
    let mend = match refused.number() {
        1142 | 1143 | 1370 => "GRANT SELECT on it to the user of the source",
        1146 | 1049 => "mend the name; a table of another database is written with it",
        1054 => "mend the name",
        _ => "mend the query",
    };
    file.finding(Severity::Error, line.map(|line| first + line - 1), message, mend)
}

/// The job's watch rules; with a change feed, whether its log tells what they need.
async fn watches(
    connection: &mut MySqlConnection,
    job: &JobDefinition,
    feed: bool,
) -> Result<Vec<Finding>, sqlx::Error> {
    let file = Place::of_job(job, "job.toml");
    let mut findings = Vec::new();
    for (number, watch) in job.watch.iter().enumerate() {
        let number = number.to_string();
        let line = |key: &str| file.toml_line(&["watch", &number, key]);
        let table = Table::read(connection, &watch.table).await?;
        if table.columns.is_empty() {
            let problem = format!("there is no table {}", watch.table);
            let mend = "write DATABASE.TABLE, upper and lower case as in the database; a view has no changes";
            findings.push(file.finding(Severity::Error, line("table"), problem, mend));
            continue;
        }
        match &watch.rule {
            WatchRule::Key(key) => match table.columns.iter().find(|(name, _)| name == key) {
                None => {
                    let problem = format!("the table {} has no column {key}", watch.table);
                    let mend = "name the column that holds the document's id";
                    findings.push(file.finding(Severity::Error, line("key"), problem, mend));
                }
                Some((_, kind)) if job.key == KeyType::Bigint && !kind.ends_with("int") => {
                    let problem = format!("the column {key} is of type {kind}, the job's key of type {}", job.key);
                    findings.push(file.finding(
                        Severity::Warning,
                        line("key"),
                        problem,
                        "watch a column of the key's type",
                    ));
                }
                Some(_) => {}
            },
            WatchRule::Sql(template) => {
                let first = place::toml_text_line(&file.text, &["watch", &number, "sql"]).unwrap_or(1);
                findings.extend(rule(connection, template, job.key, &file, first).await);
            }
        }
        if feed {
            let tell = |problem: String, mend: &str| file.finding(Severity::Error, line("table"), problem, mend);
            if let Some(cascade) = &table.cascade {
                let problem = format!(
                    "the foreign key {cascade} of {} changes its rows by itself, which the log does not tell: documents would stay as they are",
                    watch.table
                );
                findings.push(tell(problem, "make it RESTRICT and change the rows in the application"));
            }
            if matches!(watch.rule, WatchRule::Sql(_)) && table.keys != 1 {
                let problem =
                    format!("{} has no primary key of one column, with which the feed asks `sql`", watch.table);
                findings.push(tell(problem, "give it one, or watch it with `key`"));
            }
        }
    }
    Ok(findings)
}

/// A rule's query.
async fn rule(
    connection: &mut MySqlConnection,
    template: &SqlTemplate,
    key: KeyType,
    file: &Place,
    first: usize,
) -> Option<Finding> {
    let wrong =
        |problem: String| Some(file.finding(Severity::Error, Some(first), problem, "select the documents' ids alone"));
    if let Some(problem) = template.mysql_problem() {
        let line = Some(first + problem.line - 1);
        return Some(file.finding(Severity::Error, line, format!("sql: {}", problem.problem), problem.mend.clone()));
    }
    match connection.prepare(AssertSqlSafe(template.to_mysql(1)).into_sql_str()).await {
        Err(error) => {
            let finding = database_finding(file, first, &error);
            Some(Finding { problem: format!("sql: {}", finding.problem), ..finding })
        }
        Ok(prepared) => match prepared.columns() {
            [column] if key == KeyType::Bigint && !column.type_info().name().contains("INT") => {
                let kind = column.type_info().name().to_lowercase();
                wrong(format!("the query gives {kind}, the job's key is of type {key}"))
            }
            [_] => None,
            columns => wrong(format!("the query has {} columns", columns.len())),
        },
    }
}

/// What the catalog says of a table.
struct Table {
    /// Names and types.
    columns: Vec<(String, String)>,
    /// Columns of its primary key.
    keys: usize,
    /// A foreign key of it that changes its rows when others are changed.
    cascade: Option<String>,
}

impl Table {
    /// What there is of `table`; without columns if there is none.
    async fn read(connection: &mut MySqlConnection, table: &str) -> Result<Self, sqlx::Error> {
        let (schema, name) = table.split_once('.').unwrap_or(("", table));
        let columns = sqlx::query_as(
            "SELECT c.COLUMN_NAME, CAST(c.DATA_TYPE AS CHAR) FROM information_schema.COLUMNS c \
             JOIN information_schema.TABLES t ON t.TABLE_SCHEMA = c.TABLE_SCHEMA AND t.TABLE_NAME = c.TABLE_NAME \
             WHERE t.TABLE_SCHEMA = ? AND t.TABLE_NAME = ? AND t.TABLE_TYPE = 'BASE TABLE' ORDER BY c.ORDINAL_POSITION",
        );
        let columns = columns.bind(schema).bind(name).fetch_all(&mut *connection).await?;
        let keys = sqlx::query_scalar::<_, i64>(
            "SELECT CAST(COUNT(*) AS SIGNED) FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND COLUMN_KEY = 'PRI'",
        );
        let keys = keys.bind(schema).bind(name).fetch_one(&mut *connection).await?;
        if columns.is_empty() {
            return Ok(Self { columns, keys: 0, cascade: None });
        }
        // The catalog's own table of foreign keys is hidden from a user who may only read.
        let shown = AssertSqlSafe(format!("SHOW CREATE TABLE {}.{}", quoted(schema), quoted(name)));
        let (_, definition): (String, String) = sqlx::query_as(shown).fetch_one(connection).await?;
        let cascade = cascade(&definition);
        Ok(Self { columns, keys: usize::try_from(keys).unwrap_or_default(), cascade })
    }
}

/// The name of a foreign key in a table's definition that changes rows by itself.
fn cascade(definition: &str) -> Option<String> {
    const ACTIONS: [&str; 3] = ["CASCADE", "SET NULL", "SET DEFAULT"];
    let changes = |line: &str| {
        let acts = |event: &str| ACTIONS.iter().any(|action| line.contains(&format!(" ON {event} {action}")));
        acts("DELETE") || acts("UPDATE")
    };
    let line = definition.lines().find(|line| line.contains("FOREIGN KEY") && changes(line))?;
    line.trim().strip_prefix("CONSTRAINT `")?.split('`').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::cascade;

    #[test]
    fn foreign_keys_that_act_are_found() {
        let table = |end: &str| {
            format!(
                "CREATE TABLE `a` (\n  `b` int,\n  CONSTRAINT `k` FOREIGN KEY (`b`) REFERENCES `c` (`d`){end}\n) ENGINE=InnoDB"
            )
        };
        for (end, expected) in [
            ("", None),
            (" ON DELETE NO ACTION", None),
            (" ON DELETE CASCADE", Some("k")),
            (" ON UPDATE SET NULL", Some("k")),
        ] {
            assert_eq!(cascade(&table(end)).as_deref(), expected, "{end}");
        }
    }
}
