//! The harness itself: what the other tests rely on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pinion_tests::{Namespace, PrivateElasticsearch, PrivateRabbit, PrivateReplica, Setup, eventually, stack};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, PgConnection};

const TIMEOUT: Duration = Duration::from_secs(30);

async fn count(url: &str, table: &str) -> Result<i64> {
    let mut connection = PgConnection::connect(url).await?;
    let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    Ok(sqlx::query_scalar(query).fetch_one(&mut connection).await?)
}

#[tokio::test]
async fn a_shop_is_visible_on_both_servers() -> Result<()> {
    let namespace = Namespace::shop(100).await?;
    for url in [namespace.primary_url(), namespace.replica_url()] {
        assert_eq!(count(&url, "orders").await?, 100);
        assert_eq!(count(&url, "customers").await?, 1000);
    }
    assert_eq!(namespace.execute("DELETE FROM orders WHERE id <= 10").await?, 10);
    namespace.replica_caught_up().await?;
    assert_eq!(count(&namespace.replica_url(), "orders").await?, 90);
    assert_eq!(count(&namespace.replica_url(), "order_items WHERE order_id <= 10").await?, 0);
    namespace.finish().await
}

#[tokio::test]
async fn the_workers_role_may_only_read_and_must_know_its_password() -> Result<()> {
    let namespace = Namespace::shop(0).await?;
    let mut connection = PgConnection::connect(&namespace.primary_url()).await?;
    let refused = sqlx::query("DELETE FROM customers").execute(&mut connection).await;
    let refused = refused.expect_err("the role may not write");
    assert!(refused.to_string().contains("permission denied"), "{refused}");
    for url in [namespace.primary_url(), namespace.replica_url()] {
        let wrong = url.replace("pinion:pinion@", "pinion:wrong@");
        let refused = PgConnection::connect(&wrong).await.expect_err("the password is checked");
        assert!(refused.to_string().contains("password authentication failed"), "{refused}");
    }
    namespace.finish().await
}

#[tokio::test]
async fn a_private_replica_pauses_resumes_stops_and_is_promoted() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let replica = PrivateReplica::start().await?;
    let url = replica.url(namespace.name());
    assert_eq!(count(&url, "orders").await?, 1);

    replica.pause().await?;
    namespace.execute("DELETE FROM orders").await?;
    namespace.replica_caught_up().await?;
    assert_eq!(count(&namespace.replica_url(), "orders").await?, 0, "the shared replica moves on");
    assert_eq!(count(&url, "orders").await?, 1, "the private one stands still");
    replica.resume().await?;
    let followed = async || Ok((count(&url, "orders").await? == 0).then_some(()));
    eventually("the private replica to follow", TIMEOUT, followed).await?;

    replica.stop().await?;
    assert!(count(&url, "orders").await.is_err(), "nobody answers");
    replica.restart().await?;
    assert_eq!(count(&url, "orders").await?, 0);
    replica.kill().await?;
    let gone = async || Ok(count(&url, "orders").await.is_err().then_some(()));
    eventually("the private replica to be gone", TIMEOUT, gone).await?;
    replica.restart().await?;
    replica.promote().await?;
    let mut connection = PgConnection::connect(&replica.superuser(namespace.name())).await?;
    let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut connection).await?;
    assert!(!standby);
    namespace.finish().await
}

#[tokio::test]
async fn a_namespace_removes_what_is_in_it() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let (name, elastic, rabbit) =
        (namespace.name().to_owned(), namespace.elastic().clone(), namespace.rabbit().clone());
    let index = format!("{}-20250101", namespace.index("orders"));
    elastic.ok(Method::PUT, &format!("/{index}"), None).await?;
    elastic.ok(Method::PUT, &format!("/{index}/_doc/1"), Some(json!({"a": 1}))).await?;
    let template = json!({"index_patterns": [format!("{name}-*")]});
    elastic.ok(Method::PUT, &format!("/_index_template/{name}-orders"), Some(template)).await?;
    assert_eq!(elastic.count(&index).await?, 1);
    let document = elastic.get(&index, "1").await?.context("the document is there")?;
    assert_eq!(document["_source"], json!({"a": 1}));
    assert!(elastic.get(&index, "2").await?.is_none());

    let queue = format!("{name}.orders");
    let arguments = json!({"durable": true, "arguments": {"x-queue-type": "quorum"}});
    rabbit.management(Method::PUT, &format!("/queues/%2f/{queue}"), Some(arguments)).await?;
    rabbit.publish("", &queue, &[b"one".to_vec(), b"two".to_vec()]).await?;
    assert_eq!(rabbit.ready(&queue).await?, 2);
    assert!(rabbit.publish("", &format!("{name}.nowhere"), &[b"x".to_vec()]).await.is_err());

    drop(namespace);
    let (status, _) = elastic.request(Method::GET, &format!("/{index}"), None).await?;
    assert_eq!(status, 404);
    let (status, _) = elastic.request(Method::GET, &format!("/_index_template/{name}-orders"), None).await?;
    assert_eq!(status, 404);
    assert!(rabbit.ready(&queue).await.is_err());
    let databases = format!("pg_database WHERE datname = '{name}'");
    assert_eq!(count(&stack().await?.superuser("postgres"), &databases).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_private_elasticsearch_is_killed_frozen_and_keeps_its_documents() -> Result<()> {
    let node = PrivateElasticsearch::start("thread_pool.write.queue_size: 10").await?;
    let elastic = node.elastic();
    let settings = elastic.ok(Method::GET, "/_nodes/settings?flat_settings=true", None).await?;
    assert!(settings.to_string().contains(r#""thread_pool.write.queue_size":"10""#), "{settings}");
    elastic.ok(Method::PUT, "/orders/_doc/1", Some(json!({"status": "placed"}))).await?;

    node.service().kill()?;
    let gone = async || Ok(elastic.version().await.is_err().then_some(()));
    eventually("the node to be gone", TIMEOUT, gone).await?;
    node.service().start().await?;
    assert_eq!(elastic.count("orders").await?, 1);

    node.service().pause().await?;
    let silent = tokio::time::timeout(Duration::from_millis(300), elastic.version()).await;
    assert!(silent.is_err(), "a frozen node answers nothing");
    node.service().resume()?;
    elastic.version().await?;
    node.service().stop().await?;
    assert!(elastic.version().await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_private_rabbit_keeps_its_messages_over_a_kill() -> Result<()> {
    let node = PrivateRabbit::start().await?;
    let rabbit = node.rabbit();
    let arguments = json!({"durable": true, "arguments": {"x-queue-type": "quorum"}});
    rabbit.management(Method::PUT, "/queues/%2f/orders", Some(arguments)).await?;
    rabbit.publish("", "orders", &[b"one".to_vec()]).await?;
    node.queues_on_disk().await?;
    node.service().kill()?;
    node.service().start().await?;
    let kept = async || Ok((rabbit.ready("orders").await? == 1).then_some(()));
    eventually("the queue to be back", TIMEOUT, kept).await
}

#[tokio::test]
async fn a_setup_renames_the_indexes_of_the_shop() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let mut setup = Setup::shop(&namespace)?;
    setup.on_lag = "wait".to_owned();
    setup.write(&namespace)?;
    let toml = std::fs::read_to_string(namespace.folder().join("pinion.toml"))?;
    assert!(toml.contains("on_lag = \"wait\""), "{toml}");
    let job = std::fs::read_to_string(setup.jobs.join("orders/job.toml"))?;
    ensure!(job.starts_with(&format!("index = \"{}-orders\"\n", namespace.name())), "{job}");
    namespace.finish().await
}

#[tokio::test]
async fn the_program_runs_commands_and_works_until_it_is_told_to_end() -> Result<()> {
    let namespace = Namespace::shop(10).await?;
    let pinion = Setup::shop(&namespace)?.write(&namespace)?;
    let version = pinion.command(&["--version"]).await?.ok()?;
    assert!(version.stdout.starts_with("pinion "), "{version:?}");
    let unknown = pinion.command(&["no-such-command"]).await?;
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.ok().is_err());

    pinion.command(&["apply"]).await?.ok()?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    assert!(worker.memory_peak_bytes()? > 1 << 20);
    worker.pause().await?;
    let silent = tokio::time::timeout(Duration::from_millis(300), worker.admin("/healthz")).await;
    assert!(silent.is_err(), "a frozen worker answers nothing");
    worker.resume()?;
    let name = namespace.name();
    namespace.rabbit().publish(name, "orders", &[br#"{"id":1,"job_name":"orders"}"#.to_vec()]).await?;
    let indexed = async || Ok(namespace.elastic().get(&namespace.index("orders"), "1").await?);
    let document = eventually("the order to be indexed", TIMEOUT, indexed).await?;
    assert_eq!(document["_source"]["id"], json!(1));
    assert!(worker.metrics().await?.text().contains("pinion_"));
    assert_eq!(worker.terminate().await?, 0);

    let worker = pinion.work(&[]).await?;
    let pid = worker.pid()?;
    worker.kill().await?;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    namespace.finish().await
}

#[tokio::test]
async fn waiting_in_vain_says_for_what() {
    let never = async || Err::<Option<()>, _>(anyhow::anyhow!("connection refused"));
    let error = eventually("the sun", Duration::from_millis(50), never).await.expect_err("it never comes");
    let text = error.to_string();
    assert!(text.contains("the sun") && text.contains("connection refused"), "{text}");
}
