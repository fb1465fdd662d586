//! Removes what tests created, all of which carries a test's name.

use std::time::Duration;

use anyhow::Result;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::elastic::Elastic;
use crate::naming;
use crate::private::PrivateService;
use crate::rabbit::Rabbit;
use crate::replica::PrivateReplica;
use crate::script::lab;
use crate::stack::Stack;

/// Removes the database, queues, exchanges, policies, indexes and templates of one namespace.
pub(crate) async fn remove(stack: &Stack, namespace: &str) -> Result<()> {
    let ours = |name: &str| name.starts_with(namespace);
    remove_where(stack, ours).await
}

/// Removes everything, private servers too, that a test run created at least `age_min` ago.
pub(crate) async fn sweep(stack: &Stack, age_min: Duration) -> Result<()> {
    let old = |name: &str| naming::age(name).is_some_and(|age| age >= age_min);
    remove_where(stack, old).await?;
    for node in names_in("data").into_iter().filter(|name| old(name)) {
        PrivateService::leftover(node).map(drop);
    }
    for replica in names_in("pg").into_iter().filter(|name| old(name)) {
        drop(PrivateReplica::leftover(replica));
    }
    Ok(())
}

async fn remove_where(stack: &Stack, ours: impl Fn(&str) -> bool) -> Result<()> {
    Rabbit::new(&stack.rabbitmq, &stack.rabbitmq_management).delete_where(&ours).await?;
    Elastic::new(&stack.elasticsearch).delete_where(&ours).await?;
    let mut primary = PgConnection::connect(&stack.superuser("postgres")).await?;
    let databases: Vec<String> = sqlx::query_scalar("SELECT datname FROM pg_database").fetch_all(&mut primary).await?;
    for database in databases.iter().filter(|name| ours(name)) {
        let drop = AssertSqlSafe(format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"));
        sqlx::query(drop).execute(&mut primary).await?;
    }
    primary.close().await?;
    Ok(())
}

/// What lies in a folder of the stack's; nothing where there is none.
fn names_in(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(lab().join(folder)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
