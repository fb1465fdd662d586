//! All SQL to PostgreSQL: fences, readings, and the positions that become versions.

pub mod fault;
mod feed;
pub mod json;
pub mod operator;
mod reading;
pub mod statement;

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pinion_schemas::{JobDefinition, Lsn};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode, Postgres as Dialect};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _, Transaction as Begun};

use self::fault::{of_primary, of_reading};
use self::reading::{PostgresReading, Statements};
use crate::config::{self, FenceAt, OnLag};
use crate::error::{Fault, Service};
use crate::planted::{Bug, planted};
use crate::ports::{Database, Future_, Identity, Keys, Lag, LogUnit, Position, Reading, Transaction, WhichKeys};
use crate::server::{Replicas, Server};

/// How long a question to the primary may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Replay that stands still for this long, though the log is there, waits for the rest of a record
/// that begins at a page's end; any new record moves it.
const STALL: Duration = Duration::from_millis(20);
/// So much of the log is written to pass a position, at the most.
const PASSED_BYTES_MAX: u64 = 64 << 20;
/// In records of this size.
const RECORD_BYTES: u64 = 1 << 20;

/// A PostgreSQL primary and its replicas.
pub struct Postgres {
    source: String,
    primary: Server<PgPool>,
    replicas: Replicas<PgPool>,
    on_lag: OnLag,
    fence_at: FenceAt,
    begin: Arc<str>,
    statements: Statements,
}

fn connect(url: &config::Secret, source: &config::Source, connections: u32) -> Result<Server<PgPool>, String> {
    let mut options = PgConnectOptions::from_str(url.expose())
        .map_err(|_| "not a PostgreSQL address such as postgres://user:password@host:5432/database".to_owned())?
        .application_name("pinion")
        .disable_statement_logging();
    if let Some(ca_file) = &source.ca_file {
        options = options.ssl_root_cert(ca_file).ssl_mode(PgSslMode::VerifyFull);
    }
    let name = format!("{}:{}", options.get_host(), options.get_port());
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(QUESTION_TIMEOUT)
        // A dead connection shows itself at BEGIN, which is tried again.
        .test_before_acquire(false)
        .connect_lazy_with(options);
    Ok(Server::new(name, pool))
}

/// What a replica says of itself.
struct Standing {
    in_recovery: bool,
    identity: Identity,
    replayed: u64,
    received: u64,
}

impl Postgres {
    /// The source `name` of the configuration. Connects when it is first needed.
    ///
    /// # Errors
    /// An address that is none; the text names the key.
    pub fn new(name: &str, source: &config::Source, worker: &config::Worker) -> Result<Self, String> {
        let connections = u32::try_from(worker.fetches_in_flight_max).unwrap_or(u32::MAX);
        let server = |key: &str, url| {
            connect(url, source, connections).map_err(|problem| format!("sources.{name}.{key}: {problem}"))
        };
        let primary = server("primary", &source.primary)?;
        let replicas = source.replicas.iter().map(|url| server("replicas", url)).collect::<Result<_, _>>()?;
        let isolation = if planted(Bug::RepeatableRead) { "REPEATABLE READ" } else { "READ COMMITTED" };
        let begin = format!(
            "BEGIN ISOLATION LEVEL {isolation} READ ONLY; SET LOCAL statement_timeout = '{}s'",
            worker.fetch_s_max
        );
        let (lag, on_lag) = (Duration::from_millis(source.replica_lag_ms_max), source.on_lag.unwrap_or(OnLag::Primary));
        Ok(Self {
            source: name.to_owned(),
            primary,
            replicas: Replicas::new(replicas, lag, on_lag == OnLag::Primary),
            on_lag,
            fence_at: source.fence,
            begin: begin.into(),
            statements: Statements::default(),
        })
    }

    /// The connections to the primary, for the operators' questions.
    pub fn primary(&self) -> &PgPool {
        &self.primary.pool
    }

    /// The connections to a replica, or to the primary where there is none.
    pub fn reader(&self) -> &PgPool {
        self.replicas.all().first().map_or(&self.primary.pool, |replica| &replica.pool)
    }

    /// The replicas' names and connections.
    pub fn replicas(&self) -> impl Iterator<Item = (&str, &PgPool)> {
        self.replicas.all().iter().map(|replica| (replica.name.as_str(), &replica.pool))
    }

    async fn ask_position(&self) -> Result<Position, Fault> {
        let at = match self.fence_at {
            FenceAt::Flush => "pg_current_wal_flush_lsn()",
            FenceAt::Insert => "pg_current_wal_insert_lsn()",
        };
        let question = format!(
            "SELECT at::text, ('x' || left(pg_walfile_name(at), 8))::bit(32)::int8, system_identifier \
             FROM (SELECT {at} AS at) AS position, pg_control_system()"
        );
        let asked_at = tokio::time::Instant::now();
        let asked = sqlx::query(AssertSqlSafe(question)).fetch_one(&self.primary.pool);
        let row = match tokio::time::timeout(QUESTION_TIMEOUT, asked).await {
            Ok(Ok(row)) => row,
            Ok(Err(error)) => return Err(of_primary(&self.source, &self.primary.name, &error)),
            Err(_) => return Err(self.away("the primary does not answer in time")),
        };
        let unreadable = |error: sqlx::Error| of_primary(&self.source, &self.primary.name, &error);
        let identity = Identity {
            system: row.try_get::<i64, _>(2).map_err(unreadable)?.cast_unsigned(),
            timeline: u32::try_from(row.try_get::<i64, _>(1).map_err(unreadable)?).unwrap_or_default(),
        };
        let text: String = row.try_get(0).map_err(unreadable)?;
        Ok(Position { identity, at: self.lsn(&text)?, text: text.into(), asked_at })
    }

    fn lsn(&self, text: &str) -> Result<u64, Fault> {
        Lsn::from_str(text).map(|lsn| lsn.0).map_err(|error| self.away(&error.to_string()))
    }

    fn away(&self, reason: &str) -> Fault {
        Fault::Away { service: Service::Source(self.source.clone()), reason: reason.to_owned() }
    }

    fn again(&self, reason: String) -> Fault {
        Fault::Again { service: Service::Source(self.source.clone()), reason }
    }

    /// Commits a record of so many bytes on the primary and returns its position, which is then flushed, whatever `synchronous_commit` says: one
    /// that is not may be used again after a crash.
    async fn emit(&self, bytes: u64) -> Result<u64, Fault> {
        let question = if planted(Bug::UnflushedPosition) {
            "SELECT pg_current_wal_insert_lsn()::text WHERE $1::int4 IS NOT NULL"
        } else {
            "SELECT pg_logical_emit_message(true, 'pinion', repeat(' ', $1::int4))::text \
             FROM current_setting('synchronous_commit') AS was, \
             set_config('synchronous_commit', CASE was WHEN 'off' THEN 'local' ELSE was END, true)"
        };
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        let emitted = sqlx::query_scalar::<_, String>(question).bind(bytes).fetch_one(&self.primary.pool).await;
        self.lsn(&emitted.map_err(|error| of_primary(&self.source, &self.primary.name, &error))?)
    }

    async fn write_past(&self, at: u64) -> Result<bool, Fault> {
        loop {
            let now = self.ask_position().await?.at;
            match at.saturating_sub(now) {
                _ if now > at => return Ok(true),
                far if far > PASSED_BYTES_MAX => return Ok(false),
                near => self.emit(near.min(RECORD_BYTES)).await?,
            };
        }
    }

    async fn begin(&self, server: &Server<PgPool>) -> Result<Begun<'static, Dialect>, Fault> {
        let begun = server.pool.begin_with(AssertSqlSafe(self.begin.clone())).await;
        begun.map_err(|error| of_reading(&self.source, &server.name, &error))
    }

    /// Each replica in turn, then what `on_lag` says.
    async fn open_reading(&self, fence: Position) -> Result<PostgresReading, Fault> {
        if self.replicas.all().is_empty() {
            return self.open_on_primary().await;
        }
        let opened = self
            .replicas
            .first_in_time(|replica, patience| Box::pin(self.open_on_replica(replica, fence.clone(), patience)));
        match (opened.await, self.on_lag) {
            (Ok(reading), _) => Ok(reading),
            (Err(_), OnLag::Primary) => self.open_on_primary().await,
            (Err(reasons), OnLag::Wait) => Err(self.again(reasons)),
        }
    }

    /// On a primary visibility does not follow the log's order. A position that is committed, and so flushed, before the
    /// snapshot is a lower bound of it; one less, so that a replica at that position wins the tie.
    async fn open_on_primary(&self) -> Result<PostgresReading, Fault> {
        let position = self.emit(0).await? - 1;
        let transaction = self.begin(&self.primary).await?;
        Ok(self.reading(transaction, &self.primary, position))
    }

    /// Waits until the replica has replayed up to the fence. The position that it then gives is read before
    /// the rows, by a statement of its own, so that the rows are at least that new.
    async fn open_on_replica(
        &self,
        replica: &Server<PgPool>,
        fence: Position,
        patience: Duration,
    ) -> Result<PostgresReading, Fault> {
        let deadline = Instant::now() + patience;
        let mut transaction = self.begin(replica).await?;
        let mut pause = Duration::from_micros(500);
        let mut moved = (0, Instant::now());
        let mut nudged = false;
        loop {
            let standing = self.standing(&mut transaction, replica).await?;
            self.check_standing(replica, &standing, &fence)?;
            let same_history = standing.identity == fence.identity || planted(Bug::DeadTimeline);
            if same_history && standing.replayed >= fence.at {
                if planted(Bug::PositionAfterTheSnapshot) {
                    return self.open_with_a_late_position(replica).await;
                }
                return Ok(self.reading(transaction, replica, standing.replayed));
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(self.again(lateness(replica, &standing, &fence)));
            }
            if standing.replayed > moved.0 {
                moved = (standing.replayed, now);
            } else if !nudged && standing.received >= fence.at && now - moved.1 >= STALL {
                nudged = true;
                self.emit(0).await?;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// The planted bug.
    async fn open_with_a_late_position(&self, replica: &Server<PgPool>) -> Result<PostgresReading, Fault> {
        let begin = self.begin.replace("READ COMMITTED", "REPEATABLE READ");
        let begun = replica.pool.begin_with(AssertSqlSafe(begin)).await;
        let mut transaction = begun.map_err(|error| of_reading(&self.source, &replica.name, &error))?;
        self.standing(&mut transaction, replica).await?;
        let position = self.standing(&mut transaction, replica).await?.replayed;
        Ok(self.reading(transaction, replica, position))
    }

    async fn standing(
        &self,
        transaction: &mut Begun<'static, Dialect>,
        replica: &Server<PgPool>,
    ) -> Result<Standing, Fault> {
        let asked = sqlx::query(
            "SELECT pg_is_in_recovery(), system_identifier, \
             coalesce((SELECT received_tli FROM pg_stat_wal_receiver), (SELECT timeline_id FROM pg_control_checkpoint())), \
             coalesce(pg_last_wal_replay_lsn(), '0/0')::text, coalesce(pg_last_wal_receive_lsn(), '0/0')::text \
             FROM pg_control_system()",
        )
        .fetch_one(&mut **transaction)
        .await;
        let unreadable = |error: sqlx::Error| of_reading(&self.source, &replica.name, &error);
        let row = asked.map_err(unreadable)?;
        Ok(Standing {
            in_recovery: row.try_get(0).map_err(unreadable)?,
            identity: Identity {
                system: row.try_get::<i64, _>(1).map_err(unreadable)?.cast_unsigned(),
                timeline: u32::try_from(row.try_get::<i32, _>(2).map_err(unreadable)?).unwrap_or_default(),
            },
            replayed: self.lsn(row.try_get(3).map_err(unreadable)?)?,
            received: self.lsn(row.try_get(4).map_err(unreadable)?)?,
        })
    }

    /// A server that is no replica of the primary does not count, whatever its position says.
    fn check_standing(&self, replica: &Server<PgPool>, standing: &Standing, fence: &Position) -> Result<(), Fault> {
        let name = &replica.name;
        if standing.identity.system != fence.identity.system {
            return Err(self.again(format!(
                "{name} belongs to another cluster ({}) than the primary ({})",
                standing.identity, fence.identity
            )));
        }
        if !standing.in_recovery {
            return Err(self.again(format!("{name} is not a replica (any more): it was promoted?")));
        }
        Ok(())
    }

    fn reading(&self, transaction: Begun<'static, Dialect>, server: &Server<PgPool>, position: u64) -> PostgresReading {
        PostgresReading {
            transaction,
            position,
            source: self.source.clone(),
            server: server.name.clone(),
            statements: self.statements.clone(),
        }
    }
}

fn lateness(replica: &Server<PgPool>, standing: &Standing, fence: &Position) -> String {
    let name = &replica.name;
    if standing.identity == fence.identity {
        let behind = fence.at - standing.replayed;
        return format!("{name} is {behind} bytes of log behind the primary");
    }
    format!("{name} is on {}, the primary on {}", standing.identity, fence.identity)
}

impl Database for Postgres {
    fn position(&self) -> Future_<'_, Result<Position, Fault>> {
        Box::pin(self.ask_position())
    }

    fn open<'a>(&'a self, fence: Position) -> Future_<'a, Result<Box<dyn Reading>, Fault>> {
        Box::pin(async move {
            let reading = self.open_reading(fence).await?;
            Ok(Box::new(reading) as Box<dyn Reading>)
        })
    }

    fn pass(&self, at: u64) -> Future_<'_, Result<bool, Fault>> {
        Box::pin(self.write_past(at))
    }

    fn in_progress(&self) -> Future_<'_, Result<Vec<Transaction>, Fault>> {
        Box::pin(self.open_transactions())
    }

    fn visible<'a>(&'a self, transactions: &'a [Transaction]) -> Future_<'a, Result<(), Fault>> {
        Box::pin(self.wait_until_visible(transactions))
    }

    fn tables_with_old_rows(&self) -> Future_<'_, Result<Vec<String>, Fault>> {
        Box::pin(self.replica_identity_full())
    }

    fn keys<'a>(&'a self, job: &'a JobDefinition, which: WhichKeys) -> Future_<'a, Result<Box<dyn Keys + 'a>, Fault>> {
        Box::pin(async move { Ok(Box::new(self.list_keys(job, which).await?) as Box<dyn Keys + 'a>) })
    }

    fn replica_lags<'a>(
        &'a self,
        primary: Option<&'a Position>,
        patience: Duration,
    ) -> Future_<'a, Vec<(String, Lag)>> {
        Box::pin(self.ask_replicas(primary, patience))
    }

    fn log_unit(&self) -> LogUnit {
        LogUnit::Bytes
    }

    fn position_text(&self, at: u64) -> String {
        Lsn(at).to_string()
    }

    fn ping(&self) -> Future_<'_, Result<(), String>> {
        Box::pin(async move {
            match self.ask_position().await {
                Ok(_) => Ok(()),
                Err(Fault::Away { reason, .. }) => Err(reason),
                Err(fault) => Err(fault.to_string()),
            }
        })
    }
}
