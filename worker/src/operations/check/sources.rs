//! The databases: whether they can be reached, are what the configuration says, and give the rights that are needed.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Duration;

use pinion_schemas::{Finding, Severity};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Row as _};

use super::{Context, Place, connector, feed, jobs_of, mysql, queries, watches};
use crate::config::{self, FenceAt};
use crate::ports::{Database as _, Identity};
use crate::postgres::Postgres;
use crate::source::Source;

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn check(context: &Context) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, source) in &context.sources {
        let config = &context.config.sources[name];
        let place = Place::config(context);
        findings.extend(match source {
            Source::Postgres(database) => SourceCheck { context, name, config, database, place }.run().await,
            Source::Mysql(database) => mysql::check(context, name, config, database).await,
        });
    }
    findings
}

struct SourceCheck<'a> {
    context: &'a Context,
    name: &'a str,
    config: &'a config::Source,
    database: &'a Postgres,
    place: Place,
}

impl SourceCheck<'_> {
    async fn run(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut readers = Vec::new();
        let mut identity = None;
        match self.connect(&["primary"], &self.database.primary().connect_options()).await {
            Ok(mut primary) => {
                identity = self.primary(&mut primary, &mut findings).await;
                findings.extend(self.connector(&mut primary).await);
                readers.push(primary);
            }
            Err(finding) => findings.push(finding),
        }
        for (place, (server, pool)) in self.database.replicas().enumerate() {
            let key = ["replicas", &place.to_string()];
            match self.connect(&key, &pool.connect_options()).await {
                Ok(mut replica) => {
                    findings.extend(self.replica(&key, server, &mut replica, identity).await);
                    readers.push(replica);
                }
                Err(finding) => findings.push(finding),
            }
        }
        let jobs = jobs_of(self.context, self.name);
        for reader in &mut readers {
            for job in &jobs {
                findings.extend(queries::check(reader, job).await);
            }
        }
        if let Some(reader) = readers.first_mut() {
            for job in &jobs {
                findings.extend(watches::check(reader, job).await);
                if self.context.config.kafka.is_some() {
                    findings.extend(feed::check_tables(reader, job).await);
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

    /// What the change feed's connector needs of the primary, where the feed follows this source.
    async fn connector(&self, primary: &mut PgConnection) -> Vec<Finding> {
        if !self.context.config.feed_sources().any(|name| name == self.name) {
            return Vec::new();
        }
        let jobs = jobs_of(self.context, self.name);
        let tables: BTreeSet<String> =
            jobs.iter().flat_map(|job| &job.watch).map(|watch| watch.table.clone()).collect();
        let told = connector::check(primary, &Vec::from_iter(tables)).await;
        told.into_iter().map(|(severity, problem, mend)| self.finding(severity, &["primary"], problem, mend)).collect()
    }

    /// A finding about a key of this source.
    fn finding(
        &self,
        severity: Severity,
        key: &[&str],
        problem: impl Into<String>,
        mend: impl Into<String>,
    ) -> Finding {
        let path: Vec<&str> = ["sources", self.name].into_iter().chain(key.iter().copied()).collect();
        self.place.finding(severity, self.place.toml_line(&path), problem, mend)
    }

    async fn connect(&self, key: &[&str], options: &PgConnectOptions) -> Result<PgConnection, Finding> {
        let server = format!("PostgreSQL at {}:{}", options.get_host(), options.get_port());
        let key_name = format!("{} of [sources.{}]", key[0], self.name);
        let error = |problem: String, mend: String| self.finding(Severity::Error, key, problem, mend);
        match tokio::time::timeout(PATIENCE, PgConnection::connect_with(options)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(failure)) => {
                let (problem, mend) = connect_problem(&failure, options, &key_name);
                Err(error(format!("{server} {problem}"), mend))
            }
            Err(_) => {
                let problem = format!("{server} does not answer within {} s", PATIENCE.as_secs());
                Err(error(
                    problem,
                    format!("is it running, is no firewall between, is the address right in {key_name}?"),
                ))
            }
        }
    }

    /// Checks the primary; gives its history.
    async fn primary(&self, connection: &mut PgConnection, findings: &mut Vec<Finding>) -> Option<Identity> {
        let key = &["primary"];
        let asked = sqlx::query(
            "SELECT current_setting('server_version_num')::int4, pg_is_in_recovery(), current_user::text, \
             (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), \
             current_setting('synchronous_commit') = 'off' OR EXISTS (SELECT FROM pg_db_role_setting \
                 WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) \
                 AND 'synchronous_commit=off' = ANY (setconfig)), \
             (SELECT bool_or(has_function_privilege(oid, 'execute')) FROM pg_proc WHERE proname = 'pg_logical_emit_message')",
        )
        .fetch_one(connection)
        .await;
        let row = match asked {
            Ok(row) => row,
            Err(error) => {
                findings.push(self.finding(
                    Severity::Error,
                    key,
                    format!("the primary can't be asked: {error}"),
                    "mend it and check again",
                ));
                return None;
            }
        };
        let text = |column: usize| row.try_get::<String, _>(column).unwrap_or_default();
        let flag = |column: usize| row.try_get::<Option<bool>, _>(column).ok().flatten().unwrap_or_default();
        let (version, role) = (row.try_get::<i32, _>(0).unwrap_or_default(), text(2));
        let mut tell =
            |severity, problem: String, mend: String| findings.push(self.finding(severity, key, problem, mend));
        if version < 130_000 {
            tell(
                Severity::Error,
                format!("the primary is PostgreSQL {}", version / 10_000),
                "13 is the oldest that works".to_owned(),
            );
        }
        if flag(1) {
            let mend = "point `primary` to the present primary".to_owned();
            tell(Severity::Error, "the primary is a standby: it is in recovery".to_owned(), mend);
            return None;
        }
        if flag(3) {
            let problem = format!("the role {role} is a superuser");
            tell(
                Severity::Warning,
                problem,
                "give the worker a role that may only SELECT what the queries read".to_owned(),
            );
        }
        if flag(4) && self.config.fence == FenceAt::Flush {
            let problem = "synchronous_commit is off for some sessions of the primary: a commit that returned may not be flushed, \
                           and a batch may miss it"
                .to_owned();
            tell(Severity::Warning, problem, format!("write fence = \"insert\" in [sources.{}]", self.name));
        }
        if !flag(5) {
            let problem = format!("the role {role} may not call pg_logical_emit_message");
            let mend = format!("GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO {role}");
            tell(Severity::Error, problem, mend);
        }
        match self.database.position().await {
            Ok(position) => Some(position.identity),
            Err(fault) => {
                let mend = format!(
                    "the role {role} needs EXECUTE on pg_control_system() and the functions of the log's position"
                );
                tell(Severity::Error, fault.to_string(), mend);
                None
            }
        }
    }

    async fn replica(
        &self,
        key: &[&str],
        server: &str,
        connection: &mut PgConnection,
        primary: Option<Identity>,
    ) -> Vec<Finding> {
        let asked = sqlx::query(
            "SELECT pg_is_in_recovery(), system_identifier, current_setting('server_version_num')::int4, \
             (SELECT timeline_id FROM pg_control_checkpoint()) FROM pg_control_system()",
        )
        .fetch_one(connection)
        .await;
        let row = match asked {
            Ok(row) => row,
            Err(error) => {
                let mend = "its role needs EXECUTE on pg_control_system() and pg_control_checkpoint()";
                return vec![self.finding(Severity::Error, key, format!("{server} can't be asked: {error}"), mend)];
            }
        };
        let mut findings = Vec::new();
        let mut tell = |problem: String, mend: &str| findings.push(self.finding(Severity::Error, key, problem, mend));
        if !row.try_get::<bool, _>(0).unwrap_or_default() {
            let mend = "name a replica of the primary; where there is none, leave `replicas` out: documents are then read from the primary";
            tell(format!("{server} is not a replica: it is not in recovery"), mend);
        }
        let system = row.try_get::<i64, _>(1).unwrap_or_default().cast_unsigned();
        if primary.is_some_and(|primary| primary.system != system) {
            tell(
                format!("{server} belongs to another cluster than the primary: {system}"),
                "name a replica of this primary",
            );
        }
        findings
    }
}

/// What a failed connection means and what to do, in the key of that name.
fn connect_problem(error: &sqlx::Error, options: &PgConnectOptions, key: &str) -> (String, String) {
    match error {
        // A certificate that does not verify comes as invalid data.
        sqlx::Error::Io(error) if error.kind() == ErrorKind::InvalidData => no_tls(error.to_string(), key),
        sqlx::Error::Tls(error) => no_tls(error.to_string(), key),
        sqlx::Error::Io(error) => {
            (format!("can't be reached: {error}"), format!("is it running? Correct host and port in {key}"))
        }
        sqlx::Error::Database(error) => match error.code().as_deref() {
            Some("28P01" | "28000") => (
                format!("refuses the login of {:?}: {}", options.get_username(), error.message()),
                format!("correct user and password in {key}"),
            ),
            Some("3D000") => (format!("says: {}", error.message()), format!("correct the database's name in {key}")),
            code => (
                format!("says: {} ({})", error.message(), code.unwrap_or_default()),
                format!("mend the server, or correct {key}"),
            ),
        },
        _ => (format!("gives no connection: {}", error.to_string().replace('\n', " ")), format!("correct {key}")),
    }
}

fn no_tls(said: String, key: &str) -> (String, String) {
    let mend =
        format!("is the host in {key} the certificate's, is its authority in `ca_file`, is its `sslmode` right?");
    (format!("and Pinion find no TLS that both accept: {said}"), mend)
}
