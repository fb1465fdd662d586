use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tempfile::TempDir;

use crate::elastic::Elastic;
use crate::naming::unique_name;
use crate::rabbit::Rabbit;
use crate::replica::caught_up;
use crate::script::{run_async, top};
use crate::stack::{Stack, stack};
use crate::sweep::remove;

/// A test's own corner of the shared services: a database, and a prefix of the names of queues and indexes.
///
/// Everything in it is removed by [`finish`](Self::finish), or when it is dropped, as by a failing test.
pub struct Namespace {
    name: String,
    stack: Stack,
    pool: PgPool,
    elastic: Elastic,
    rabbit: Rabbit,
    folder: TempDir,
    finished: bool,
}

impl Namespace {
    /// A namespace with an empty database, which both servers show.
    pub async fn empty() -> Result<Self> {
        Self::empty_on(stack().await?).await
    }

    /// The same on servers of the test's own.
    pub async fn empty_on(stack: &Stack) -> Result<Self> {
        let name = unique_name();
        create_database(stack, &name).await.with_context(|| format!("can't create the database {name}"))?;
        let namespace = Self {
            pool: PgPoolOptions::new().max_connections(4).connect_lazy(&stack.superuser(&name))?,
            elastic: Elastic::new(&stack.elasticsearch),
            rabbit: Rabbit::new(&stack.rabbitmq, &stack.rabbitmq_management),
            folder: tempfile::Builder::new().prefix(&name).tempdir()?,
            name,
            stack: stack.clone(),
            finished: false,
        };
        namespace.replica_caught_up().await?;
        Ok(namespace)
    }

    /// A namespace with the example shop of that many orders (and at least 1000 customers, 500 merchants), which both servers show.
    pub async fn shop(orders: u32) -> Result<Self> {
        Self::shop_on(stack().await?, orders).await
    }

    /// The same on servers of the test's own.
    pub async fn shop_on(stack: &Stack, orders: u32) -> Result<Self> {
        let namespace = Self::empty_on(stack).await?;
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-v", &format!("orders={orders}"), "-f"])
            .arg(top().join("schemas/shop/database.sql"))
            .arg(namespace.superuser_url());
        run_async(psql).await?;
        namespace.replica_caught_up().await?;
        Ok(namespace)
    }

    /// The name of the database, the configuration's `namespace`, and what index names begin with: 17 bytes of `[a-z0-9]`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The database on the primary, as the worker's role.
    pub fn primary_url(&self) -> String {
        self.stack.primary(&self.name)
    }

    /// The database on the shared replica, as the worker's role.
    pub fn replica_url(&self) -> String {
        self.stack.replica(&self.name)
    }

    /// The database on the primary, as superuser.
    pub fn superuser_url(&self) -> String {
        self.stack.superuser(&self.name)
    }

    pub(crate) fn primary_port(&self) -> u16 {
        self.stack.primary_port
    }

    /// Connections to the primary as superuser.
    pub fn superuser(&self) -> &PgPool {
        &self.pool
    }

    /// Runs statements on the primary as superuser, each committed when this returns; gives the number of rows changed.
    pub async fn execute(&self, sql: &str) -> Result<u64> {
        let statements = AssertSqlSafe(sql.to_owned());
        Ok(sqlx::raw_sql(statements).execute(&self.pool).await?.rows_affected())
    }

    /// Waits until the shared replica shows everything committed so far.
    pub async fn replica_caught_up(&self) -> Result<()> {
        caught_up(&self.superuser_url(), &self.stack.replica_superuser("postgres")).await
    }

    /// The alias of a job's index, as [`Setup`](crate::Setup) configures it.
    pub fn index(&self, job: &str) -> String {
        format!("{}-{job}", self.name)
    }

    /// The shared Elasticsearch.
    pub fn elastic(&self) -> &Elastic {
        &self.elastic
    }

    /// The shared RabbitMQ.
    pub fn rabbit(&self) -> &Rabbit {
        &self.rabbit
    }

    /// A folder of the test's own for configuration, job folders and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves the folder, with the workers' logs, where it is.
    pub fn keep_folder(&mut self) {
        self.folder.disable_cleanup(true);
    }

    /// Removes the namespace and says whether that worked.
    pub async fn finish(mut self) -> Result<()> {
        self.finished = true;
        self.pool.close().await;
        remove(&self.stack, &self.name).await
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // The test's runtime may be gone already or, being this very thread's, can't be waited on.
        let (stack, name) = (self.stack.clone(), self.name.clone());
        let removal = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(remove(&stack, &name))
        });
        match removal.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("{}: can't be removed: {error:#}", self.name),
            Err(_panic) => eprintln!("{}: can't be removed", self.name),
        }
    }
}

/// A database with the rights that `stack/bin/pg.sh` gives in `shop`.
async fn create_database(stack: &Stack, name: &str) -> Result<()> {
    let mut server = PgConnection::connect(&stack.superuser("postgres")).await?;
    // template0, to which nobody connects: template1 can't be copied while somebody does.
    let create = AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0"));
    sqlx::query(create).execute(&mut server).await?;
    server.close().await?;
    let mut database = PgConnection::connect(&stack.superuser(name)).await?;
    let grant = AssertSqlSafe(format!(
        "REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO pinion;
         GRANT USAGE ON SCHEMA public TO pinion;
         ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO pinion"
    ));
    sqlx::raw_sql(grant).execute(&mut database).await?;
    database.close().await?;
    Ok(())
}
