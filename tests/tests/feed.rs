//! The change feed: rows change in SQL, nobody sends a message, documents follow.

use anyhow::{Result, ensure};
use pinion_tests::{Feed, Namespace, Setup, Worker, eventually};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};

use crate::shop::{TIMEOUT, applied, compare_all, dead_letters, dead_letters_of, document, patience, send, settled};

pub(crate) fn status(document: &Value) -> Value {
    document["status"].clone()
}

/// Waits until every document of a job is what its query gives.
pub(crate) async fn equal(namespace: &Namespace, setup: &Setup, job: &str, rows: usize) -> Result<()> {
    let rows_u32 = u32::try_from(rows)?;
    eventually(&format!("the documents of {job} to be equal"), patience(rows_u32), async || {
        let compared = compare_all(namespace, setup, job, job).await?;
        ensure!(compared == rows, "{compared} documents are equal");
        Ok(Some(()))
    })
    .await
}

pub(crate) async fn feed_state(worker: &Worker, state: &str) -> Result<Value> {
    eventually(&format!("the change feed to be {state}"), TIMEOUT, async || {
        let (_, page) = worker.admin("/readyz").await?;
        let page: Value = serde_json::from_str(&page)?;
        ensure!(page["jobs"]["change feed"]["state"] == state, "{page}");
        Ok(Some(page["jobs"]["change feed"].clone()))
    })
    .await
}

#[tokio::test]
async fn documents_follow_rows_that_nobody_sends_a_message_for() -> Result<()> {
    let namespace = Namespace::shop(100).await?;
    let feed = Feed::start(&namespace).await?;
    let setup = feed.configure(Setup::shop(&namespace)?);
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&[]).await?;
    feed_state(&worker, "running").await?;

    for table in ["orders", "customers", "merchants"] {
        namespace.execute(&format!("UPDATE {table} SET id = id")).await?;
    }
    for (job, rows) in [("orders", 100), ("customers", 1000), ("merchants", 500)] {
        equal(&namespace, &setup, job, rows).await?;
    }
    // A moved item: both orders. A customer's name: all of its orders. A deleted order, its items first.
    namespace.execute("UPDATE order_items SET order_id = 8 WHERE order_id = 9").await?;
    namespace
        .execute("UPDATE customers SET name = 'Renamed' WHERE id = (SELECT customer_id FROM orders WHERE id = 1)")
        .await?;
    namespace
        .execute(
            "BEGIN; DELETE FROM order_items WHERE order_id = 10; DELETE FROM deliveries WHERE order_id = 10; \
             DELETE FROM orders WHERE id = 10; COMMIT",
        )
        .await?;
    document(&namespace, "orders", 10, status, None).await?;
    document(&namespace, "orders", 1, |order| order["customer"]["name"].clone(), Some(json!("Renamed"))).await?;
    equal(&namespace, &setup, "orders", 99).await?;
    equal(&namespace, &setup, "customers", 1000).await?;
    namespace.execute("TRUNCATE deliveries").await?;
    equal(&namespace, &setup, "orders", 99).await?;

    pinion.command(&["check"]).await?.ok()?;
    namespace.execute("ALTER TABLE order_items REPLICA IDENTITY DEFAULT").await?;
    let checked = pinion.command(&["check"]).await?.stdout;
    assert!(checked.contains("ALTER TABLE public.order_items REPLICA IDENTITY FULL"), "{checked}");

    let metrics = worker.metrics().await?;
    let counted = |operation: &str| {
        metrics.sum("pinion_feed_events_total", &[("table", "public.deliveries"), ("operation", operation)])
    };
    assert_eq!((counted("truncate"), counted("old_value_missing")), (1.0, 0.0));
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    assert_eq!(worker.terminate().await?, 0);
    drop(feed);
    namespace.finish().await
}

#[tokio::test]
async fn a_killed_worker_loses_no_change() -> Result<()> {
    let rows = 5_000;
    let namespace = Namespace::shop(rows).await?;
    let feed = Feed::start(&namespace).await?;
    let setup = feed.configure(Setup { worker: "batch_max = 100\n".to_owned(), ..Setup::shop(&namespace)? });
    let pinion = applied(&namespace, &setup).await?;
    let (first, second) = (pinion.work(&["--jobs", "orders"]).await?, pinion.work(&["--jobs", "orders"]).await?);
    for tenth in 0..10 {
        namespace.execute(&format!("UPDATE orders SET status = 'accepted' WHERE id % 10 = {tenth}")).await?;
    }
    eventually("the first documents", TIMEOUT, async || {
        Ok((namespace.elastic().count(&namespace.index("orders")).await? > 0).then_some(()))
    })
    .await?;
    first.kill().await?;
    equal(&namespace, &setup, "orders", rows as usize).await?;
    assert_eq!(second.terminate().await?, 0);
    drop(feed);
    namespace.finish().await
}

/// A truncation touches what is in the index, whether a search finds it yet or not, and what arrives later from before it.
#[tokio::test]
async fn a_truncated_table_leaves_nothing_behind() -> Result<()> {
    let namespace = Namespace::shop(20).await?;
    let feed = Feed::start(&namespace).await?;
    let setup = feed.configure(Setup {
        elasticsearch_more: "bulk_s_max = 1\n".to_owned(),
        worker: "document_age_s_max = 1\n".to_owned(),
        ..Setup::shop(&namespace)?
    });
    let mapping = setup.jobs.join("orders/mapping.json");
    let slow =
        std::fs::read_to_string(&mapping)?.replace("\"refresh_interval\": \"1s\"", "\"refresh_interval\": \"1h\"");
    ensure!(slow.contains("1h"), "{slow}");
    std::fs::write(&mapping, slow)?;
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "orders"]).await?;
    namespace.execute("DELETE FROM deliveries; INSERT INTO deliveries VALUES (5, 'Rita', now(), NULL, 100)").await?;
    let rider = |order: &Value| order["delivery"]["rider"].clone();
    document(&namespace, "orders", 5, rider, Some(json!("Rita"))).await?;
    namespace.execute("TRUNCATE deliveries").await?;
    document(&namespace, "orders", 5, rider, Some(Value::Null)).await?;

    namespace.execute("TRUNCATE orders CASCADE").await?;
    document(&namespace, "orders", 5, rider, None).await?;
    // As one that was read before the truncation, sent after it: a document that no event tells of any more.
    let late = format!("/{}/_doc/77?version=1&version_type=external_gte", namespace.index("orders"));
    namespace.elastic().ok(reqwest::Method::PUT, &late, Some(json!({"status": "placed"}))).await?;
    document(&namespace, "orders", 77, status, None).await?;
    assert_eq!(worker.terminate().await?, 0);
    drop(feed);
    namespace.finish().await
}

/// What is no event is a dead letter with its place, and the events behind it are followed.
#[tokio::test]
async fn what_is_no_event_stops_nothing() -> Result<()> {
    let namespace = Namespace::shop(5).await?;
    let feed = Feed::start(&namespace).await?;
    let setup = feed.configure(Setup::shop(&namespace)?);
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "orders"]).await?;
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", feed.broker()).create()?;
    let topic = feed.topic("orders");
    let torn = FutureRecord::<str, str>::to(&topic).payload("{\"op\": \"u\", \"after\"");
    producer.send(torn, TIMEOUT).await.map_err(|(error, _)| error)?;
    namespace.execute("UPDATE orders SET status = 'accepted'").await?;
    equal(&namespace, &setup, "orders", 5).await?;
    let letters = dead_letters_of(&namespace, 1).await?;
    assert_eq!(letters[0]["reason"], "undecodable_event");
    let error = letters[0]["error"].as_str().unwrap_or_default();
    assert!(error.contains(&format!("topic {topic}, partition 0, offset 0: the event is not JSON")), "{error}");
    feed_state(&worker, "running").await?;
    drop(feed);
    namespace.finish().await
}

/// The server that is away is named, and everything arrives when it is back.
#[tokio::test]
async fn a_broker_that_is_away_is_told() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let setup = Setup {
        source_more: "topic_prefix = \"nowhere\"\n".to_owned(),
        extra: "[kafka]\nbrokers = [\"127.0.0.1:1\"]\ntopics = [\"nowhere.*\"]\n".to_owned(),
        ..Setup::shop(&namespace)?
    };
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    let told = feed_state(&worker, "waiting").await?;
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains("Kafka")), "{told}");
    let checked = pinion.command(&["check"]).await?;
    assert_eq!(checked.code, 1);
    assert!(checked.stdout.contains("no broker of 127.0.0.1:1 answers"), "{}", checked.stdout);
    // The queue is worked off all the same.
    send(&namespace, "orders", [1]).await?;
    settled(&worker, "orders", "indexed", 1).await?;
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

#[tokio::test]
async fn a_wrong_prefix_is_wrong_usage() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let setup = Setup {
        extra: "[kafka]\nbrokers = [\"127.0.0.1:1\"]\ntopics = [\"other.public.*\"]\n".to_owned(),
        ..Setup::shop(&namespace)?
    };
    let refused = setup.write(&namespace)?.command(&["check"]).await?;
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("kafka.topics: \"other.public.*\" is of no source"), "{}", refused.stderr);
    namespace.finish().await
}
