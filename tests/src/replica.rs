use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use anyhow::Result;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::eventually;
use crate::naming::unique_name;
use crate::primary::PrivatePostgres;
use crate::script::{free_port, freeze, lab, run, run_async, script, signal};
use crate::stack::{stack, superuser_url, worker_url};
use crate::tls::Signed;

const REPLAY_TIMEOUT: Duration = Duration::from_secs(30);

/// A streaming replica for tests that pause, stop or promote one: a second one of the shared primary, or one of a primary of the
/// test's own. Removed at the end.
pub struct PrivateReplica {
    name: String,
    port: u16,
    primary_port: u16,
}

impl PrivateReplica {
    /// Copies the primary and starts the copy: it shows everything committed so far.
    pub async fn start() -> Result<Self> {
        Self::copy(stack().await?.primary_port).await
    }

    /// The same of a primary of the test's own.
    pub async fn of(primary: &PrivatePostgres) -> Result<Self> {
        Self::copy(primary.port()).await
    }

    async fn copy(primary_port: u16) -> Result<Self> {
        let replica = Self { name: format!("{}-replica", unique_name()), port: free_port(&[])?, primary_port };
        replica.restart().await?;
        Ok(replica)
    }

    /// The replica that a killed test run left behind, to be dropped.
    pub(crate) fn leftover(name: String) -> Self {
        Self { name, port: 0, primary_port: 0 }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A database on this replica, as the worker's role.
    pub fn url(&self, database: &str) -> String {
        worker_url(self.port, database)
    }

    /// A database on this replica, as superuser.
    pub fn superuser(&self, database: &str) -> String {
        superuser_url(self.port, database)
    }

    /// Stops replay, and returns once it stands still. The replica goes on receiving.
    pub async fn pause(&self) -> Result<()> {
        let mut connection = self.connect().await?;
        sqlx::query("SELECT pg_wal_replay_pause()").execute(&mut connection).await?;
        eventually("the replica to pause", REPLAY_TIMEOUT, async || {
            let query = sqlx::query_scalar("SELECT pg_get_wal_replay_pause_state()");
            let state: String = query.fetch_one(&mut connection).await?;
            Ok((state == "paused").then_some(()))
        })
        .await
    }

    /// Goes on after [`pause`](Self::pause).
    pub async fn resume(&self) -> Result<()> {
        let mut connection = self.connect().await?;
        sqlx::query("SELECT pg_wal_replay_resume()").execute(&mut connection).await?;
        Ok(())
    }

    /// Freezes what receives the log, so that the primary hears nothing of it any more, and gives back how to let it go on.
    pub async fn freeze_receiver(&self) -> Result<FrozenReceiver> {
        let receiver = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'";
        let mut connection = self.connect().await?;
        let pid = eventually("the replica to receive", REPLAY_TIMEOUT, async || {
            Ok(sqlx::query_scalar::<_, i32>(receiver).fetch_optional(&mut connection).await?)
        })
        .await?;
        let pid = u32::try_from(pid)?;
        freeze(pid).await?;
        Ok(FrozenReceiver { pid })
    }

    /// Waits until it shows everything committed on its primary so far.
    pub async fn caught_up(&self) -> Result<()> {
        caught_up(&superuser_url(self.primary_port, "postgres"), &self.superuser("postgres")).await
    }

    /// Stops the server in an orderly way.
    pub async fn stop(&self) -> Result<()> {
        run_async(self.script("stop")).await
    }

    /// Kills the server's processes on the spot.
    pub async fn kill(&self) -> Result<()> {
        run_async(self.script("kill")).await
    }

    /// Starts the server again, on the same port, after [`stop`](Self::stop) or [`kill`](Self::kill).
    pub async fn restart(&self) -> Result<()> {
        run_async(self.script("start")).await
    }

    /// Makes it a primary on a timeline of its own.
    pub async fn promote(&self) -> Result<()> {
        run_async(self.script("promote")).await
    }

    /// Serves TLS from now on, with this certificate, to whoever asks for it. Returns once it does.
    pub async fn serve_tls(&self, signed: &Signed) -> Result<()> {
        let folder = lab().join("pg").join(&self.name);
        let owner = std::fs::metadata(folder.join("PG_VERSION"))?;
        for (file, text) in [("server.crt", &signed.certificate), ("server.key", &signed.key)] {
            let file = folder.join(file);
            std::fs::write(&file, text)?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
            std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        let mut connection = self.connect().await?;
        let loaded = "SELECT pg_conf_load_time()::text";
        let before: String = sqlx::query_scalar(loaded).fetch_one(&mut connection).await?;
        sqlx::query("ALTER SYSTEM SET ssl = on").execute(&mut connection).await?;
        sqlx::query("SELECT pg_reload_conf()").execute(&mut connection).await?;
        eventually("the replica to load its certificate", REPLAY_TIMEOUT, async || {
            let mut connection = self.connect().await?;
            let now: String = sqlx::query_scalar(loaded).fetch_one(&mut connection).await?;
            let ssl: String = sqlx::query_scalar("SHOW ssl").fetch_one(&mut connection).await?;
            Ok((now != before && ssl == "on").then_some(()))
        })
        .await
    }

    async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.superuser("postgres")).await?)
    }

    fn script(&self, command: &str) -> std::process::Command {
        let folder = lab().join("pg").join(&self.name).display().to_string();
        let ports = [("PG_PORT", self.primary_port.to_string()), ("PG_REPLICA_PORT", self.port.to_string())];
        let mut script = script("pg.sh", &[&[("PG_REPLICA", folder)], &ports[..]].concat());
        script.args(["replica", command]);
        script
    }
}

impl Drop for PrivateReplica {
    fn drop(&mut self) {
        if let Err(error) = run(&mut self.script("wipe")) {
            eprintln!("{}: can't be removed: {error:#}", self.name);
        }
    }
}

/// A replica's frozen process. It goes on when this is dropped.
pub struct FrozenReceiver {
    pid: u32,
}

impl Drop for FrozenReceiver {
    fn drop(&mut self) {
        // It may have ended with its server.
        if let Err(error) = signal(self.pid, "CONT") {
            eprintln!("{error:#}");
        }
    }
}

/// Waits until a replica shows everything committed on the primary so far. Superusers' connections; any database will do, as
/// long as the replica has it already.
pub(crate) async fn caught_up(primary_superuser: &str, replica_superuser: &str) -> Result<()> {
    let mut primary = PgConnection::connect(primary_superuser).await?;
    // The message lies after every commit so far, and its own commit makes sure that replay passes it.
    let message = "SELECT pg_logical_emit_message(true, 'pinion-tests', '')::text";
    let position: String = sqlx::query_scalar(message).fetch_one(&mut primary).await?;
    primary.close().await?;
    let mut replica = PgConnection::connect(replica_superuser).await?;
    eventually("the replica to catch up", REPLAY_TIMEOUT, async || {
        let query = AssertSqlSafe(format!("SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"));
        let passed: bool = sqlx::query_scalar(query).fetch_one(&mut replica).await?;
        Ok(passed.then_some(()))
    })
    .await?;
    replica.close().await?;
    Ok(())
}
