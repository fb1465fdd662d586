//! Removes what tests created, all of which carries a test's name.

use std::time::Duration;

use anyhow::Result;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::elastic::Elastic;
use crate::naming;
use crate::primary::PrivatePostgres;
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
        drop(PrivateService::leftover(node));
    }
    for replica in names_in("pg").into_iter().filter(|name| old(name)) {
        match PrivatePostgres::leftover(&replica) {
            Some(primary) => drop(primary),
            None => drop(PrivateReplica::leftover(replica)),
        }
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

#[cfg(test)]
mod tests {
    use reqwest::Method;

    use super::*;
    use crate::stack;

    #[tokio::test]
    async fn what_a_killed_run_left_behind_is_removed_and_what_is_in_use_stays() -> Result<()> {
        let stack = stack().await?;
        let elastic = Elastic::new(&stack.elasticsearch);
        let (old, fresh) = (naming::name_of_age(Duration::from_secs(7200)), naming::unique_name());
        let mut primary = PgConnection::connect(&stack.superuser("postgres")).await?;
        for name in [&old, &fresh] {
            sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut primary).await?;
            elastic.ok(Method::PUT, &format!("/{name}-orders"), None).await?;
            std::fs::create_dir_all(lab().join("data").join(format!("{name}-elasticsearch/data")))?;
        }
        sweep(stack, Duration::from_secs(3600)).await?;
        for (name, stays) in [(&old, false), (&fresh, true)] {
            let databases = "SELECT count(*) FROM pg_database WHERE datname = $1";
            let databases: i64 = sqlx::query_scalar(databases).bind(name).fetch_one(&mut primary).await?;
            assert_eq!(databases == 1, stays, "{name}");
            let (status, _) = elastic.request(Method::GET, &format!("/{name}-orders"), None).await?;
            assert_eq!(status == 200, stays, "{name}");
            assert_eq!(names_in("data").contains(&format!("{name}-elasticsearch")), stays, "{name}");
        }
        drop(PrivateService::leftover(format!("{fresh}-elasticsearch")));
        remove(stack, &fresh).await
    }
}
