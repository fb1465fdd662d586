use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::mysql::{MySqlPool, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, Column as _, Executor as _, SqlSafeStr as _, Statement as _};

use crate::eventually;
use crate::namespace::Namespace;
use crate::naming;
use crate::private::{MARIADB, PrivateService};
use crate::script::{free_port, run_async, script, top};
use crate::stack::{port, stack};
use crate::tls::Signed;

const TIMEOUT: Duration = Duration::from_secs(60);
const MYSQL: &str = "mysql";

async fn start(service: &str) -> Result<()> {
    stack().await?;
    let mut servers = script("all.sh", &[]);
    servers.args(["start", service]);
    run_async(servers).await
}

/// The example shop on MariaDB or MySQL: a database of the namespace's name on the shared primary and its replica. Removed when it is
/// dropped.
pub struct MysqlShop {
    name: String,
    primary_port: u16,
    replica_port: u16,
    kind: &'static str,
    pool: MySqlPool,
}

impl MysqlShop {
    /// Starts MariaDB where it does not run, and fills a shop of that many orders, which both servers show.
    pub async fn mariadb(namespace: &Namespace, orders: u32) -> Result<Self> {
        start(MARIADB).await?;
        let ports = (port("MARIADB_PORT", 13306)?, port("MARIADB_REPLICA_PORT", 13307)?);
        Self::fill_on(namespace, MARIADB, ports, orders).await
    }

    /// The same with MySQL, which is there for x86_64 only.
    pub async fn mysql(namespace: &Namespace, orders: u32) -> Result<Self> {
        start(MYSQL).await?;
        let ports = (port("MYSQL_PORT", 13308)?, port("MYSQL_REPLICA_PORT", 13309)?);
        Self::fill_on(namespace, MYSQL, ports, orders).await
    }

    /// The same on servers of the test's own.
    pub async fn on(namespace: &Namespace, servers: &PrivateMariadb, orders: u32) -> Result<Self> {
        Self::fill_on(namespace, MARIADB, (servers.port, servers.port + 1), orders).await
    }

    async fn fill_on(namespace: &Namespace, kind: &'static str, ports: (u16, u16), orders: u32) -> Result<Self> {
        let (primary_port, replica_port) = ports;
        let name = namespace.name().to_owned();
        let root = |database: &str| format!("mysql://root@127.0.0.1:{primary_port}/{database}");
        let server = MySqlPoolOptions::new().max_connections(1).connect(&root("")).await.context("MariaDB")?;
        for old in sqlx::query_scalar::<_, String>("SHOW DATABASES").fetch_all(&server).await? {
            if naming::age(&old).is_some_and(|age| age >= Duration::from_secs(3600)) {
                server.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {old}"))).await?;
            }
        }
        for statement in [
            format!("CREATE DATABASE {name} CHARACTER SET utf8mb4"),
            format!("GRANT SELECT ON {name}.* TO pinion@'127.0.0.1'"),
        ] {
            server.execute(AssertSqlSafe(statement)).await?;
        }
        server.close().await;
        let pool = MySqlPoolOptions::new().max_connections(4).connect_lazy(&root(&name))?;
        let shop = Self { name, primary_port, replica_port, kind, pool };
        shop.fill(orders).await?;
        shop.replica_caught_up().await?;
        Ok(shop)
    }

    async fn fill(&self, orders: u32) -> Result<()> {
        let file = top().join("schemas/shop-mysql/database.sql");
        let text = format!("SET @orders = {orders};\n{}", std::fs::read_to_string(file)?);
        let mut client = Command::new("mariadb");
        client.args(["-h", "127.0.0.1", "-P", &self.primary_port.to_string(), "-u", "root", &self.name]);
        let client = client.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("mariadb")?;
        let filled = tokio::task::spawn_blocking(move || {
            use std::io::Write as _;
            let mut client = client;
            client.stdin.take().context("its input")?.write_all(text.as_bytes())?;
            Ok::<_, anyhow::Error>(client.wait()?)
        });
        anyhow::ensure!(filled.await??.success(), "the shop can't be filled");
        Ok(())
    }

    /// The database on the primary, as the worker's user.
    pub fn primary_url(&self) -> String {
        format!("mysql://pinion:pinion@127.0.0.1:{}/{}", self.primary_port, self.name)
    }

    /// The database on the replica, as the worker's user.
    pub fn replica_url(&self) -> String {
        format!("mysql://pinion:pinion@127.0.0.1:{}/{}", self.replica_port, self.name)
    }

    /// `mariadb` or `mysql`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Where the primary listens.
    pub fn primary_port(&self) -> u16 {
        self.primary_port
    }

    /// Where the replica listens.
    pub fn replica_port(&self) -> u16 {
        self.replica_port
    }

    /// Connections to the primary, as root.
    pub fn root(&self) -> &MySqlPool {
        &self.pool
    }

    /// Runs statements on the primary, each committed when this returns.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.pool.execute(AssertSqlSafe(sql.to_owned())).await?;
        Ok(())
    }

    /// The only column of a query's answer.
    pub async fn texts(&self, sql: &str) -> Result<Vec<String>> {
        Ok(sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&self.pool).await?)
    }

    /// The names of a query's columns.
    pub async fn columns(&self, sql: &str) -> Result<Vec<String>> {
        let mut connection = self.pool.acquire().await?;
        let prepared = connection.prepare(AssertSqlSafe(sql.to_owned()).into_sql_str()).await?;
        Ok(prepared.columns().iter().map(|column| column.name().to_owned()).collect())
    }

    /// Waits until the replica shows everything committed so far.
    pub async fn replica_caught_up(&self) -> Result<()> {
        let (position, wait) = match self.kind {
            MYSQL => ("CAST(@@global.gtid_executed AS CHAR)", "WAIT_FOR_EXECUTED_GTID_SET(?, 5) = 0"),
            _ => ("@@global.gtid_binlog_pos", "MASTER_GTID_WAIT(?, 5) >= 0"),
        };
        let position: String =
            sqlx::query_scalar(AssertSqlSafe(format!("SELECT {position}"))).fetch_one(&self.pool).await?;
        let wait = format!("SELECT CAST({wait} AS SIGNED)");
        let replica = MySqlPool::connect(&format!("mysql://root@127.0.0.1:{}/", self.replica_port)).await?;
        eventually("the replica to catch up", TIMEOUT, async || {
            let waited = sqlx::query_scalar::<_, i64>(AssertSqlSafe(wait.clone())).bind(&position);
            Ok((waited.fetch_one(&replica).await? == 1).then_some(()))
        })
        .await
    }
}

/// A primary of MariaDB and its replica, of the test's own. Removed at the end.
pub struct PrivateMariadb {
    service: PrivateService,
    port: u16,
}

impl PrivateMariadb {
    /// Starts them.
    pub async fn start() -> Result<Self> {
        Self::start_with(None).await
    }

    /// Starts them with TLS for whoever asks for it.
    pub async fn start_tls(signed: &Signed) -> Result<Self> {
        Self::start_with(Some(signed)).await
    }

    async fn start_with(signed: Option<&Signed>) -> Result<Self> {
        stack().await?;
        let port = free_port(&[1])?;
        let ports = vec![("MARIADB_PORT", port.to_string()), ("MARIADB_REPLICA_PORT", (port + 1).to_string())];
        let mut service = PrivateService::new(MARIADB, ports);
        if let Some(signed) = signed {
            let folder = service.folder();
            signed.write(&folder)?;
            let folder = folder.display();
            service.set("MARIADB_LINES", format!("ssl-cert={folder}/server.crt\nssl-key={folder}/server.key"));
        }
        service.start().await?;
        Ok(Self { service, port })
    }

    /// Another certificate from now on, where there is one.
    pub async fn serve_tls(&self, signed: &Signed) -> Result<()> {
        signed.write(&self.service.folder())?;
        for port in [self.port, self.port + 1] {
            let server = MySqlPool::connect(&format!("mysql://root@127.0.0.1:{port}/")).await?;
            server.execute("FLUSH SSL").await?;
            server.close().await;
        }
        Ok(())
    }

    /// The replica goes on receiving and applies nothing.
    pub async fn stop_applying(&self) -> Result<()> {
        self.on_replica("STOP REPLICA SQL_THREAD").await
    }

    /// It applies again.
    pub async fn apply_again(&self) -> Result<()> {
        self.on_replica("START REPLICA SQL_THREAD").await
    }

    async fn on_replica(&self, statement: &'static str) -> Result<()> {
        let replica = MySqlPool::connect(&format!("mysql://root@127.0.0.1:{}/", self.port + 1)).await?;
        replica.execute(statement).await?;
        replica.close().await;
        Ok(())
    }
}

impl Drop for MysqlShop {
    fn drop(&mut self) {
        let mut client = Command::new("mariadb");
        client.args(["-h", "127.0.0.1", "-P", &self.primary_port.to_string(), "-u", "root", "-e"]);
        let dropped = client
            .arg(format!(
                "DROP DATABASE IF EXISTS {0}; REVOKE SELECT ON {0}.* FROM pinion@'127.0.0.1'; DROP USER IF EXISTS {0}@'127.0.0.1'",
                self.name
            ))
            .status();
        if !dropped.as_ref().is_ok_and(std::process::ExitStatus::success) {
            eprintln!("{}: can't be removed from MariaDB: {dropped:?}", self.name);
        }
    }
}
