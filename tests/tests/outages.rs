//! Servers go away and come back: everything arrives, nothing is a dead letter.

use std::time::Duration;

use anyhow::{Result, ensure};
use pinion_tests::{Namespace, PrivateElasticsearch, PrivateRabbit, PrivateReplica, Setup, Worker, eventually};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::shop::{TIMEOUT, applied, compare_all, dead_letters, document, orders_or, patience, send, settled};

const MIB: u64 = 1024 * 1024;

/// Waits until the worker is ready, or not.
async fn ready(worker: &Worker, expected: bool) -> Result<String> {
    eventually(&format!("ready to be {expected}"), TIMEOUT, async || {
        let (status, page) = worker.admin("/readyz").await?;
        Ok(((status == 200) == expected).then_some(page))
    })
    .await
}

/// With `PINION_TEST_OUTAGE_S=60` Elasticsearch stays away for another minute.
#[tokio::test]
async fn elasticsearch_goes_away_under_load_and_comes_back() -> Result<()> {
    let orders = orders_or(20_000)?;
    let namespace = Namespace::shop(orders).await?;
    let node = PrivateElasticsearch::start("").await?;
    let setup = Setup {
        elasticsearch: vec![node.elastic().url().to_owned()],
        worker: "hold_s_max = 3\n".to_owned(),
        ..Setup::shop(&namespace)?
    };
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=orders.into()).await?;
    settled(&worker, "orders", "indexed", 500).await?;
    node.service().stop().await?;
    let page = ready(&worker, false).await?;
    assert!(page.contains("Elasticsearch"), "{page}");
    let queue = format!("{}.orders", namespace.name());
    let unsettled = orders - worker.metrics().await?.sum("pinion_documents_total", &[("verdict", "indexed")]) as u32;
    // What it held goes back: another worker might reach the cluster.
    eventually("the messages to be back in their queue", TIMEOUT, async || {
        let waiting = namespace.rabbit().ready(&queue).await?;
        ensure!(waiting >= unsettled.saturating_sub(1), "{waiting} of {unsettled} wait");
        Ok(Some(()))
    })
    .await?;
    let peak_before = worker.memory_peak_bytes()?;
    if let Ok(outage_s) = std::env::var("PINION_TEST_OUTAGE_S") {
        tokio::time::sleep(Duration::from_secs(outage_s.parse()?)).await;
    }
    let peak = worker.memory_peak_bytes()?;
    assert!(peak < peak_before + 16 * MIB, "the memory grew from {} to {} MiB", peak_before / MIB, peak / MIB);
    let tried = worker.metrics().await?.sum("pinion_retries_total", &[]);
    assert!(tried < 500.0, "the node was hammered: {tried} tries");
    node.service().start().await?;
    ready(&worker, true).await?;
    eventually("all orders", patience(orders), async || {
        let count = node.elastic().count(&namespace.index("orders")).await?;
        ensure!(count == u64::from(orders), "there are {count}");
        Ok(Some(()))
    })
    .await?;
    let peak = worker.memory_peak_bytes()?;
    assert!(peak < 200 * MIB, "{} MiB", peak / MIB);
    eprintln!("{tried} tries while Elasticsearch was away, {} MiB at the most", peak / MIB);
    let letters = format!("{}-dead-letters", namespace.name());
    assert_eq!(node.elastic().count(&letters).await?, 0);
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

#[tokio::test]
async fn a_small_write_queue_slows_the_worker_down_and_loses_nothing() -> Result<()> {
    let namespace = Namespace::shop(3_000).await?;
    let node = PrivateElasticsearch::start("thread_pool.write.queue_size: 1\nthread_pool.write.size: 1\n").await?;
    let setup = Setup {
        elasticsearch: vec![node.elastic().url().to_owned()],
        worker: "batch_max = 50\nbulks_in_flight_max = 32\nfetches_in_flight_max = 16\n".to_owned(),
        ..Setup::shop(&namespace)?
    };
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=3_000).await?;
    settled(&worker, "orders", "indexed", 3_000).await?;
    assert_eq!(node.elastic().count(&namespace.index("orders")).await?, 3_000);
    let letters = format!("{}-dead-letters", namespace.name());
    assert_eq!(node.elastic().count(&letters).await?, 0);
    namespace.finish().await
}

#[tokio::test]
async fn the_broker_restarts_and_the_worker_goes_on() -> Result<()> {
    let namespace = Namespace::shop(500).await?;
    let broker = PrivateRabbit::start().await?;
    let setup = Setup { rabbitmq: broker.rabbit().url().to_owned(), ..Setup::shop(&namespace)? };
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "orders"]).await?;
    let message = |id: i64| json!({"id": id, "job_name": "orders"}).to_string().into_bytes();
    let first: Vec<_> = (1..=250).map(message).collect();
    broker.rabbit().publish(namespace.name(), "orders", &first).await?;
    settled(&worker, "orders", "indexed", 250).await?;
    broker.queues_on_disk().await?;
    broker.service().stop().await?;
    let page = ready(&worker, false).await?;
    assert!(page.contains("RabbitMQ") || page.contains("waiting"), "{page}");
    broker.service().start().await?;
    ready(&worker, true).await?;
    let second: Vec<_> = (251..=500).map(message).collect();
    broker.rabbit().publish(namespace.name(), "orders", &second).await?;
    settled(&worker, "orders", "indexed", 500).await?;
    ensure!(compare_all(&namespace, &setup, "orders", "orders").await? == 500);
    namespace.finish().await
}

#[tokio::test]
async fn a_replica_that_stops_is_done_without() -> Result<()> {
    let namespace = Namespace::shop(200).await?;
    let replica = PrivateReplica::start().await?;
    let setup = Setup { replicas: vec![replica.url(namespace.name())], ..Setup::shop(&namespace)? };
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=100).await?;
    settled(&worker, "orders", "indexed", 100).await?;
    replica.kill().await?;
    send(&namespace, "orders", 101..=200).await?;
    settled(&worker, "orders", "indexed", 200).await?;
    replica.restart().await?;
    namespace.execute("UPDATE orders SET status = 'accepted' WHERE id = 1").await?;
    send(&namespace, "orders", [1]).await?;
    document(&namespace, "orders", 1, |source| source["status"].clone(), Some(json!("accepted"))).await?;
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    namespace.finish().await
}

/// A replica that must not fall behind cancels the reads that are in the way of what it replays.
#[tokio::test]
async fn a_read_that_a_recovery_conflict_cancels_is_done_again() -> Result<()> {
    let namespace = Namespace::shop(10).await?;
    namespace
        .execute(
            "CREATE TABLE notes (id bigint PRIMARY KEY, slow boolean NOT NULL); GRANT SELECT ON notes TO pinion;
             INSERT INTO notes SELECT g, g = 7 FROM generate_series(1, 10) g",
        )
        .await?;
    let replica = PrivateReplica::start().await?;
    let mut there = PgConnection::connect(&replica.superuser(namespace.name())).await?;
    sqlx::query("ALTER SYSTEM SET max_standby_streaming_delay = 0").execute(&mut there).await?;
    sqlx::query("SELECT pg_reload_conf()").execute(&mut there).await?;
    let setup = Setup {
        replicas: vec![replica.url(namespace.name())],
        on_lag: "wait".to_owned(),
        replica_lag_ms_max: 30_000,
        ..Setup::shop(&namespace)?
    };
    setup.write_job(
        &namespace,
        "notes",
        "index = \"notes\"\nsource = \"shop\"\nkey = \"bigint\"\n",
        "SELECT n.id AS _id, n.slow, CASE WHEN n.slow THEN pg_sleep(20)::text END AS slept FROM notes n WHERE n.id = ANY(:ids)",
        r#"{"mappings": {"properties": {"slow": {"type": "boolean"}, "slept": {"type": "keyword"}}}}"#,
    )?;
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "notes"]).await?;
    send(&namespace, "notes", 1..=10).await?;
    eventually("the read to be under way", TIMEOUT, async || {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(&mut there).await?;
        Ok((count == 1).then_some(()))
    })
    .await?;
    // The lock of the first statement is what the read is cancelled for.
    namespace.execute("ALTER TABLE notes ADD COLUMN more text; UPDATE notes SET slow = false").await?;
    settled(&worker, "notes", "indexed", 10).await?;
    document(&namespace, "notes", 7, |source| source["slow"].clone(), Some(json!(false))).await?;
    // A server process tells its numbers some seconds after the fact.
    eventually("the conflict to be counted", TIMEOUT, async || {
        let conflicts = "SELECT confl_lock FROM pg_stat_database_conflicts WHERE datname = current_database()";
        let conflicts: i64 = sqlx::query_scalar(conflicts).fetch_one(&mut there).await?;
        Ok((conflicts >= 1).then_some(()))
    })
    .await?;
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    assert_eq!(worker.metrics().await?.sum("pinion_paused", &[("job", "notes")]), 0.0, "the job was paused");
    there.close().await?;
    namespace.finish().await
}

/// A worker that dies on one message again and again must not take its neighbours along.
#[tokio::test]
async fn redelivered_messages_are_suspects_and_innocent_ones_are_indexed() -> Result<()> {
    let namespace = Namespace::shop(300).await?;
    let replica = PrivateReplica::start().await?;
    let setup =
        Setup { replicas: vec![replica.url(namespace.name())], on_lag: "wait".to_owned(), ..Setup::shop(&namespace)? };
    let pinion = applied(&namespace, &setup).await?;
    replica.pause().await?;
    namespace.execute("UPDATE orders SET status = 'placed'").await?;
    send(&namespace, "orders", 1..=300).await?;
    let queue = format!("{}.orders", namespace.name());
    // Held up by a replica that stands still, then killed: everything comes back.
    for _ in 0..2 {
        let worker = pinion.work(&["--jobs", "orders"]).await?;
        eventually("the worker to hold all", TIMEOUT, async || {
            let waiting = namespace.rabbit().ready(&queue).await?;
            let taken = worker.metrics().await?.sum("pinion_messages_total", &[("job", "orders")]);
            Ok((waiting == 0 && taken >= 300.0).then_some(()))
        })
        .await?;
        worker.kill().await?;
        eventually("the messages to be back", TIMEOUT, async || {
            Ok((namespace.rabbit().ready(&queue).await? == 300).then_some(()))
        })
        .await?;
    }
    replica.resume().await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    settled(&worker, "orders", "indexed", 300).await?;
    let suspects = worker.metrics().await?.sum("pinion_messages_total", &[("job", "orders"), ("verdict", "suspect")]);
    assert!(suspects > 0.0, "nothing was suspected");
    ensure!(compare_all(&namespace, &setup, "orders", "orders").await? == 300);
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    namespace.finish().await
}

#[tokio::test]
async fn an_orderly_end_finishes_what_was_taken() -> Result<()> {
    let namespace = Namespace::shop(3000).await?;
    let setup = Setup { worker: "batch_max = 100\n".to_owned(), ..Setup::shop(&namespace)? };
    let pinion = applied(&namespace, &setup).await?;
    send(&namespace, "orders", 1..=3000).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    settled(&worker, "orders", "indexed", 100).await?;
    let before = tokio::time::Instant::now();
    assert_eq!(worker.terminate().await?, 0);
    assert!(before.elapsed() < Duration::from_secs(30), "{:?}", before.elapsed());
    let queue = format!("{}.orders", namespace.name());
    let waiting = u64::from(namespace.rabbit().ready(&queue).await?);
    let indexed = namespace.elastic().count(&namespace.index("orders")).await?;
    assert_eq!(indexed + waiting, 3000, "{indexed} indexed, {waiting} wait");
    namespace.finish().await
}

/// A batch of all rows would take longer than a read may: it is cancelled, and what is asked for again has fewer.
#[tokio::test]
async fn rows_that_take_long_are_read_few_at_a_time() -> Result<()> {
    const ROWS: i64 = 100;
    let namespace = Namespace::empty().await?;
    namespace
        .execute(&format!(
            "CREATE TABLE notes (id bigint PRIMARY KEY); GRANT SELECT ON notes TO pinion;
             INSERT INTO notes SELECT generate_series(1, {ROWS})"
        ))
        .await?;
    let setup =
        Setup { replicas: Vec::new(), worker: "fetch_s_max = 2\n".to_owned(), ..Setup::without_jobs(&namespace)? };
    let sql = "SELECT n.id AS _id, n.id AS number, pg_sleep(0.05)::text AS slept FROM notes n WHERE n.id = ANY(:ids)";
    let mapping = r#"{"mappings": {"properties": {"number": {"type": "long"}, "slept": {"type": "keyword"}}}}"#;
    setup.write_job(&namespace, "notes", "index = \"notes\"\nsource = \"shop\"\nkey = \"bigint\"\n", sql, mapping)?;
    let pinion = applied(&namespace, &setup).await?;
    send(&namespace, "notes", 1..=ROWS).await?;
    let worker = pinion.work(&["--jobs", "notes"]).await?;
    eventually("all documents", TIMEOUT, async || {
        let count = namespace.elastic().count(&namespace.index("notes")).await?;
        ensure!(count == ROWS as u64, "there are {count}");
        Ok(Some(()))
    })
    .await?;
    let cancelled = worker.metrics().await?.sum("pinion_retries_total", &[]);
    assert!((1.0..20.0).contains(&cancelled), "{cancelled} reads were cancelled");
    assert_eq!(dead_letters(&namespace).await?.len(), 0);
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}
