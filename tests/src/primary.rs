use std::process::Command;

use anyhow::Result;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};

use crate::namespace::Namespace;
use crate::naming::unique_name;
use crate::script::{free_port, lab, run, run_async, script};
use crate::stack::{stack, superuser_url, worker_url};

/// What the name of a private primary ends with.
const SUFFIX: &str = "-primary";

/// A PostgreSQL primary of the test's own, a database system with another identifier than the shared one's. Removed at the end.
pub struct PrivatePostgres {
    name: String,
    port: u16,
}

impl PrivatePostgres {
    /// Creates a database system and starts it.
    pub async fn start() -> Result<Self> {
        stack().await?;
        let server = Self { name: unique_name() + SUFFIX, port: free_port(&[])? };
        run_async(server.script("start")).await?;
        Ok(server)
    }

    /// The server that a killed test run left behind, to be dropped; `None` when the name is no such server's.
    pub(crate) fn leftover(name: &str) -> Option<Self> {
        name.ends_with(SUFFIX).then(|| Self { name: name.to_owned(), port: 0 })
    }

    /// Restores a dump of the namespace's database here, under its name and with its rights.
    pub async fn restore_dump(&self, namespace: &Namespace) -> Result<()> {
        let file = namespace.folder().join("dump.sql");
        let mut dump = Command::new("pg_dump");
        dump.args(["--create", "--file"]).arg(&file).arg(namespace.superuser_url());
        run_async(dump).await?;
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&file).arg(superuser_url(self.port, "postgres"));
        run_async(psql).await
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server's processes on the spot.
    pub async fn kill(&self) -> Result<()> {
        run_async(self.script("kill")).await
    }

    /// Starts the server again, on the same port.
    pub async fn restart(&self) -> Result<()> {
        run_async(self.script("start")).await
    }

    /// A database on this server, as the worker's role.
    pub fn url(&self, database: &str) -> String {
        worker_url(self.port, database)
    }

    /// Connections to a database on this server, as superuser.
    pub fn superuser(&self, database: &str) -> Result<PgPool> {
        Ok(PgPoolOptions::new().max_connections(2).connect_lazy(&superuser_url(self.port, database))?)
    }

    /// Runs statements in a database as superuser, on a connection of their own.
    pub async fn execute(&self, database: &str, sql: &str) -> Result<()> {
        let pool = self.superuser(database)?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&pool).await?;
        pool.close().await;
        Ok(())
    }

    /// Keeps a copy of its disk. The server is stopped for that moment.
    pub async fn save_disk(&self) -> Result<()> {
        run_async(self.script("save")).await
    }

    /// Goes back to the copy that [`save_disk`](Self::save_disk) kept: the same system, as it was then.
    pub async fn restore_disk(&self) -> Result<()> {
        run_async(self.script("restore")).await
    }

    fn script(&self, command: &str) -> Command {
        let folder = lab().join("pg").join(&self.name).display().to_string();
        let mut script = script("pg.sh", &[("PGDIR", folder), ("PG_PORT", self.port.to_string())]);
        script.args(["primary", command]);
        script
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if let Err(error) = run(&mut self.script("wipe")) {
            eprintln!("{}: can't be removed: {error:#}", self.name);
        }
    }
}
