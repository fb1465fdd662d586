//! All SQL to MariaDB and MySQL: fences, readings, and the positions that become versions.
//!
//! Documents are read from replicas only: a primary's own GTID can be ahead of what it shows.

pub(crate) mod fault;
mod feed;
mod gtid;
pub(crate) mod json;
mod operator;
mod reading;
pub(crate) mod statement;

use std::str::FromStr as _;
use std::time::Duration;

use pinion_schemas::JobDefinition;
use sqlx::mysql::{MySql as Dialect, MySqlConnectOptions, MySqlPool, MySqlPoolOptions, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, Transaction as Begun};

use self::fault::{of_primary, of_query};
use self::gtid::{Gtid, GtidSet};
pub(crate) use self::operator::quoted;
use self::reading::{MysqlReading, Statements};
use crate::config;
use crate::error::{Fault, Service};
use crate::ports::{Database, Future_, Identity, Keys, Lag, LogUnit, Position, Reading, Transaction, WhichKeys};
use crate::server::{Replicas, Server};

/// How long a question to the primary may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// What GROUP_CONCAT and JSON_ARRAYAGG may give; beyond the default, 1 KiB in MySQL, they would cut a value short.
const AGGREGATE_BYTES_MAX: u32 = 90_000_000;

/// What the two do differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// MariaDB 10.5 or newer.
    Mariadb,
    /// MySQL 8.
    Mysql,
}

/// A primary of MariaDB or MySQL and its replicas.
pub struct Mysql {
    source: String,
    flavor: Flavor,
    primary: Server<MySqlPool>,
    replicas: Replicas<MySqlPool>,
    statements: Statements,
}

fn connect(
    flavor: Flavor,
    url: &config::Secret,
    source: &config::Source,
    worker: &config::Worker,
) -> Result<Server<MySqlPool>, String> {
    let wrong = || "not an address such as mysql://user:password@host:3306/database".to_owned();
    if !["mysql://", "mariadb://"].iter().any(|scheme| url.expose().starts_with(scheme)) {
        return Err(wrong());
    }
    let mut options = MySqlConnectOptions::from_str(url.expose())
        .map_err(|_| wrong())?
        // What a query means is the server's to say.
        .pipes_as_concat(false)
        .disable_statement_logging();
    if let Some(ca_file) = &source.ca_file {
        options = options.ssl_ca(ca_file).ssl_mode(MySqlSslMode::VerifyIdentity);
    }
    let name = format!("{}:{}", options.get_host(), options.get_port());
    let limit = match flavor {
        Flavor::Mysql => format!("max_execution_time = {}", worker.fetch_s_max * 1000),
        Flavor::Mariadb => format!("max_statement_time = {}", worker.fetch_s_max),
    };
    let settings = format!(
        "SET SESSION {limit}, group_concat_max_len = {AGGREGATE_BYTES_MAX}; \
         SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
    );
    let pool = MySqlPoolOptions::new()
        .max_connections(u32::try_from(worker.fetches_in_flight_max).unwrap_or(u32::MAX))
        .acquire_timeout(QUESTION_TIMEOUT)
        // A dead connection shows itself when a transaction is begun, which is tried again.
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let settings = AssertSqlSafe(settings.clone());
            Box::pin(async move { connection.execute(settings).await.map(|_| ()) })
        })
        .connect_lazy_with(options);
    Ok(Server::new(name, pool))
}

impl Mysql {
    /// The source `name` of the configuration. Connects when it is first needed.
    ///
    /// # Errors
    /// An address that is none; the text names the key.
    pub fn new(flavor: Flavor, name: &str, source: &config::Source, worker: &config::Worker) -> Result<Self, String> {
        let server = |key: &str, url| {
            connect(flavor, url, source, worker).map_err(|problem| format!("sources.{name}.{key}: {problem}"))
        };
        let primary = server("primary", &source.primary)?;
        let replicas = source.replicas.iter().map(|url| server("replicas", url)).collect::<Result<_, _>>()?;
        Ok(Self {
            source: name.to_owned(),
            flavor,
            primary,
            replicas: Replicas::new(replicas, Duration::from_millis(source.replica_lag_ms_max), false),
            statements: Statements::default(),
        })
    }

    /// The connections to the primary, for the operators' questions.
    pub(crate) fn primary(&self) -> &MySqlPool {
        &self.primary.pool
    }

    /// The replicas' names and connections.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = (&str, &MySqlPool)> {
        self.replicas.all().iter().map(|replica| (replica.name.as_str(), &replica.pool))
    }

    async fn ask_position(&self) -> Result<Position, Fault> {
        let question = match self.flavor {
            Flavor::Mysql => {
                "SELECT CAST(@@global.gtid_executed AS CHAR), CAST(@@global.server_uuid AS CHAR), \
                 CAST(@@global.server_id AS CHAR), CAST(@@global.read_only AS CHAR)"
            }
            Flavor::Mariadb => {
                "SELECT CAST(@@global.gtid_binlog_pos AS CHAR), '', \
                 CAST(@@global.server_id AS CHAR), CAST(@@global.read_only AS CHAR)"
            }
        };
        let asked_at = tokio::time::Instant::now();
        let asked = sqlx::query_as::<_, (String, String, String, String)>(question).fetch_one(&self.primary.pool);
        let (text, uuid, server, read_only) = match tokio::time::timeout(QUESTION_TIMEOUT, asked).await {
            Ok(Ok(row)) => row,
            Ok(Err(error)) => return Err(of_primary(&self.source, &self.primary.name, &error)),
            Err(_) => return Err(self.away("the primary does not answer in time")),
        };
        let name = &self.primary.name;
        if !["0", "OFF"].contains(&&*read_only) {
            return Err(
                self.away(&format!("{name} is read_only, as replicas are: point `primary` to the present primary"))
            );
        }
        let timeline = server.parse().unwrap_or_default();
        let (system, at) = match self.flavor {
            Flavor::Mysql => (first_half(&uuid), GtidSet::parse(&text).map(|set| set.count())),
            Flavor::Mariadb => match Gtid::parse(&text) {
                Ok(gtid) => (u64::from(gtid.domain), Ok(gtid.sequence)),
                Err(problem) => (0, Err(problem)),
            },
        };
        let at = at.map_err(|problem| self.away(&format!("{name}: {problem}")))?;
        // The uuid goes with a set: only its transactions can be new on a replica.
        let text = if uuid.is_empty() { text } else { format!("{uuid}/{}", text.replace('\n', "")) };
        Ok(Position { identity: Identity { system, timeline }, at, text: text.into(), asked_at })
    }

    fn away(&self, reason: &str) -> Fault {
        Fault::Away { service: Service::Source(self.source.clone()), reason: reason.to_owned() }
    }

    fn again(&self, reason: String) -> Fault {
        Fault::Again { service: Service::Source(self.source.clone()), reason }
    }

    async fn begin(&self, server: &Server<MySqlPool>) -> Result<Begun<'static, Dialect>, Fault> {
        let begun = server.pool.begin_with("START TRANSACTION READ ONLY").await;
        begun.map_err(|error| of_query("START TRANSACTION", &self.source, &server.name, &error))
    }

    async fn open_reading(&self, fence: &Position) -> Result<MysqlReading, Fault> {
        let opened = self.replicas.first_in_time(|replica, patience| {
            let fence = fence.clone();
            Box::pin(async move { self.open_on_replica(replica, &fence, patience).await })
        });
        opened.await.map_err(|reasons| self.again(reasons))
    }

    /// Waits until the replica has applied the fence. The position that it then gives is read before the rows; each is a
    /// statement of its own, so that the rows are at least that new.
    async fn open_on_replica(
        &self,
        replica: &Server<MySqlPool>,
        fence: &Position,
        patience: Duration,
    ) -> Result<MysqlReading, Fault> {
        let mut transaction = self.begin(replica).await?;
        let unreadable = |error: sqlx::Error| of_query("the fence", &self.source, &replica.name, &error);
        let (wait, until) = match self.flavor {
            Flavor::Mysql => ("WAIT_FOR_EXECUTED_GTID_SET", parts(&fence.text).1),
            Flavor::Mariadb => ("MASTER_GTID_WAIT", &*fence.text),
        };
        let wait = format!("SELECT CAST({wait}(?, ?) AS SIGNED)");
        let waited = sqlx::query_scalar::<_, Option<i64>>(AssertSqlSafe(wait)).bind(until).bind(patience.as_secs_f64());
        let waited = waited.fetch_one(&mut *transaction).await.map_err(unreadable)?;
        let stands = self.stands(&mut transaction, replica).await?;
        // MariaDB gives -1 and MySQL 1 when the time is over.
        let late = !matches!((self.flavor, waited), (Flavor::Mysql, Some(0)) | (Flavor::Mariadb, Some(0..)));
        let shown = self.shown(&stands, fence).map_err(|problem| self.again(format!("{}: {problem}", replica.name)))?;
        if late || shown < fence.at {
            let behind = fence.at.saturating_sub(shown);
            return Err(self.again(format!("{} is {behind} transactions behind the primary", replica.name)));
        }
        Ok(MysqlReading {
            transaction,
            position: shown,
            source: self.source.clone(),
            server: replica.name.clone(),
            statements: self.statements.clone(),
        })
    }

    /// How far a replica is, as it says.
    async fn stands(
        &self,
        transaction: &mut Begun<'static, Dialect>,
        replica: &Server<MySqlPool>,
    ) -> Result<String, Fault> {
        let question = match self.flavor {
            Flavor::Mysql => "SELECT CAST(@@global.gtid_executed AS CHAR)",
            Flavor::Mariadb => "SELECT CAST(@@global.gtid_slave_pos AS CHAR)",
        };
        let asked = sqlx::query_scalar::<_, String>(question).fetch_one(&mut **transaction).await;
        asked.map_err(|error| of_query("the fence", &self.source, &replica.name, &error))
    }

    /// The position in the primary's history that a replica shows at the least.
    ///
    /// # Errors
    /// It is on another history than the primary, or follows none.
    fn shown(&self, stands: &str, fence: &Position) -> Result<u64, String> {
        if self.flavor == Flavor::Mysql {
            let (uuid, fence) = parts(&fence.text);
            return GtidSet::parse(stands)?.shown_beyond(&GtidSet::parse(fence)?, &uuid.to_ascii_lowercase());
        }
        if stands.is_empty() {
            return Err("it is no replica: its gtid_slave_pos is empty".to_owned());
        }
        let (gtid, fenced) = (Gtid::parse(stands)?, Gtid::parse(&fence.text)?);
        // What was committed after the fence, the present primary committed; at the fence it is the same commit.
        let stranger = match gtid.sequence {
            beyond if beyond > fenced.sequence => gtid.server != fence.identity.timeline,
            same if same == fenced.sequence => gtid.server != fenced.server,
            _ => false,
        };
        if gtid.domain != fenced.domain || stranger {
            return Err(format!("it is at {stands}, on another history than the primary at {}", fence.text));
        }
        Ok(gtid.sequence)
    }
}

/// A position of MySQL: the primary's uuid, and its set.
fn parts(text: &str) -> (&str, &str) {
    text.split_once('/').unwrap_or(("", text))
}

/// Sixteen hexadecimal digits of a uuid as a number.
fn first_half(uuid: &str) -> u64 {
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or_default()
}

impl Database for Mysql {
    fn position(&self) -> Future_<'_, Result<Position, Fault>> {
        Box::pin(self.ask_position())
    }

    fn open<'a>(&'a self, fence: Position) -> Future_<'a, Result<Box<dyn Reading>, Fault>> {
        Box::pin(async move { Ok(Box::new(self.open_reading(&fence).await?) as Box<dyn Reading>) })
    }

    fn in_progress(&self) -> Future_<'_, Result<Vec<Transaction>, Fault>> {
        Box::pin(self.open_transactions())
    }

    fn visible<'a>(&'a self, transactions: &'a [Transaction]) -> Future_<'a, Result<(), Fault>> {
        Box::pin(self.wait_until_visible(transactions))
    }

    fn tables_with_old_rows(&self) -> Future_<'_, Result<Vec<String>, Fault>> {
        Box::pin(self.tables_with_row_images())
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
        LogUnit::Transactions
    }

    fn position_text(&self, at: u64) -> String {
        at.to_string()
    }

    fn ping(&self) -> Future_<'_, Result<(), String>> {
        Box::pin(async move {
            match self.ask_position().await {
                Ok(_) => Ok(()),
                Err(fault) => Err(fault.reason().to_owned()),
            }
        })
    }
}

#[cfg(test)]
#[path = "mysql/tests.rs"]
mod tests;
