//! The main job, end to end: messages become documents that equal the database.

use anyhow::{Result, ensure};
use pinion_tests::{Namespace, PrivateReplica, Setup, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::shop::{
    TIMEOUT, applied, compare_all, dead_letters, document, orders_or, patience, send, send_raw, settled,
};

fn status(document: &Value) -> Value {
    document["status"].clone()
}

#[tokio::test]
async fn messages_become_documents_that_equal_the_query() -> Result<()> {
    let namespace = Namespace::shop(2000).await?;
    let setup = Setup::shop(&namespace)?;
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&[]).await?;
    send(&namespace, "orders", 1..=2000).await?;
    send(&namespace, "customers", 1..=1000).await?;
    send(&namespace, "merchants", 1..=500).await?;
    for (job, count) in [("orders", 2000), ("customers", 1000), ("merchants", 500)] {
        settled(&worker, job, "indexed", count).await?;
        ensure!(compare_all(&namespace, &setup, job, job).await? == count as usize);
    }
    let (ready, page) = worker.admin("/readyz").await?;
    assert_eq!(ready, 200, "{page}");
    assert_eq!(worker.terminate().await?, 0);
    for job in ["orders", "customers", "merchants"] {
        assert_eq!(namespace.rabbit().ready(&format!("{}.{job}", namespace.name())).await?, 0, "{job}");
    }
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    namespace.finish().await
}

#[tokio::test]
async fn changed_moved_and_deleted_rows_are_followed() -> Result<()> {
    let namespace = Namespace::shop(100).await?;
    let setup = Setup::shop(&namespace)?;
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=100).await?;
    settled(&worker, "orders", "indexed", 100).await?;

    namespace.execute("UPDATE orders SET status = 'cancelled' WHERE id = 7").await?;
    send(&namespace, "orders", [7]).await?;
    document(&namespace, "orders", 7, status, Some(json!("cancelled"))).await?;

    namespace.execute("UPDATE order_items SET order_id = 8 WHERE order_id = 9").await?;
    send_raw(&namespace, "orders", r#"{"ids": [8, 9], "job_name": "orders", "unknown": {"field": 1}}"#).await?;
    namespace.execute("DELETE FROM orders WHERE id = 10").await?;
    send_raw(&namespace, "orders", r#"{"id": "10", "job_name": "orders"}"#).await?;
    document(&namespace, "orders", 10, status, None).await?;
    settled(&worker, "orders", "indexed", 103).await?;
    ensure!(compare_all(&namespace, &setup, "orders", "orders").await? == 99);
    namespace.finish().await
}

#[tokio::test]
async fn a_primary_without_replicas_serves_as_well() -> Result<()> {
    let namespace = Namespace::shop(300).await?;
    let setup = Setup { replicas: Vec::new(), ..Setup::shop(&namespace)? };
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=300).await?;
    settled(&worker, "orders", "indexed", 300).await?;
    namespace.execute("UPDATE orders SET status = 'accepted'").await?;
    send(&namespace, "orders", 1..=300).await?;
    settled(&worker, "orders", "indexed", 600).await?;
    ensure!(compare_all(&namespace, &setup, "orders", "orders").await? == 300);
    namespace.finish().await
}

#[tokio::test]
async fn nothing_stale_is_written_while_the_replica_stands_still() -> Result<()> {
    let namespace = Namespace::shop(50).await?;
    let replica = PrivateReplica::start().await?;
    let wait = Setup {
        replicas: vec![replica.url(namespace.name())],
        on_lag: "wait".to_owned(),
        replica_lag_ms_max: 300,
        ..Setup::shop(&namespace)?
    };
    let pinion = applied(&namespace, &wait).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=50).await?;
    settled(&worker, "orders", "indexed", 50).await?;

    replica.pause().await?;
    namespace.execute("UPDATE orders SET status = 'delivered' WHERE id = 5").await?;
    send(&namespace, "orders", [5]).await?;
    eventually("the worker to say that the replica is late", TIMEOUT, async || {
        let (_, page) = worker.admin("/readyz").await?;
        Ok(page.contains("behind the primary").then_some(()))
    })
    .await?;
    let metrics = worker.metrics().await?;
    assert_eq!(metrics.sum("pinion_documents_total", &[("job", "orders")]), 50.0, "something was written");
    replica.resume().await?;
    document(&namespace, "orders", 5, status, Some(json!("delivered"))).await?;
    assert_eq!(worker.terminate().await?, 0);

    replica.pause().await?;
    let primary = Setup {
        replicas: vec![replica.url(namespace.name())],
        replica_lag_ms_max: 300,
        jobs: wait.jobs.clone(),
        ..Setup::without_jobs(&namespace)?
    };
    let worker = primary.write(&namespace)?.work(&["--jobs", "orders"]).await?;
    namespace.execute("UPDATE orders SET status = 'placed' WHERE id = 6").await?;
    send(&namespace, "orders", [6]).await?;
    document(&namespace, "orders", 6, status, Some(json!("placed"))).await?;
    drop(worker);
    namespace.finish().await
}

/// Elasticsearch forgets the version of a deleted document when its shard is opened anew, and then takes an older one.
#[tokio::test]
async fn what_comes_after_a_forgotten_delete_is_removed_by_the_second_look() -> Result<()> {
    let namespace = Namespace::shop(20).await?;
    let setup = Setup {
        elasticsearch_more: "bulk_s_max = 1\n".to_owned(),
        worker: "document_age_s_max = 1\n".to_owned(),
        ..Setup::shop(&namespace)?
    };
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=20).await?;
    settled(&worker, "orders", "indexed", 20).await?;
    namespace.execute("DELETE FROM orders WHERE id = 10").await?;
    send(&namespace, "orders", [10]).await?;
    settled(&worker, "orders", "deleted", 1).await?;

    let (elastic, index) = (namespace.elastic(), namespace.index("orders"));
    let stale = format!("/{index}/_doc/10?version=1&version_type=external_gte");
    let (refused, answer) = elastic.request(Method::PUT, &stale, Some(json!({"status": "stale"}))).await?;
    assert_eq!(refused, 409, "{answer}");
    for step in ["_close", "_open?wait_for_active_shards=1"] {
        elastic.ok(Method::POST, &format!("/{index}/{step}"), None).await?;
    }
    elastic.ok(Method::PUT, &stale, Some(json!({"status": "stale"}))).await?;
    document(&namespace, "orders", 10, status, None).await?;
    settled(&worker, "orders", "deleted", 2).await?;
    assert_eq!(worker.terminate().await?, 0);
    for queue in ["orders", "orders.low"] {
        let waiting = namespace.rabbit().ready(&format!("{}.{queue}", namespace.name())).await?;
        assert_eq!(waiting, 0, "a second look asked for a third: {queue}");
    }
    namespace.finish().await
}

#[tokio::test]
async fn a_killed_worker_loses_nothing() -> Result<()> {
    let orders = orders_or(20_000)?;
    let namespace = Namespace::shop(orders).await?;
    let setup = Setup { worker: "batch_max = 200\n".to_owned(), ..Setup::shop(&namespace)? };
    let pinion = applied(&namespace, &setup).await?;
    send(&namespace, "orders", 1..=i64::from(orders)).await?;
    let first = pinion.work(&["--jobs", "orders"]).await?;
    let second = pinion.work(&["--jobs", "orders"]).await?;
    settled(&first, "orders", "indexed", 1000).await?;
    first.kill().await?;
    eventually("all orders", patience(orders), async || {
        let count = namespace.elastic().count(&namespace.index("orders")).await?;
        ensure!(count == u64::from(orders), "there are {count}");
        Ok(Some(()))
    })
    .await?;
    ensure!(compare_all(&namespace, &setup, "orders", "orders").await? == orders as usize);
    assert_eq!(second.terminate().await?, 0);
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    namespace.finish().await
}
