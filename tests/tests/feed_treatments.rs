//! What becomes of each kind of event that Debezium writes; the table in deploy/debezium/README.md says the same.

use anyhow::{Result, ensure};
use pinion_tests::{Feed, MysqlShop, Namespace, Setup, Worker, eventually};
use serde_json::{Value, json};

use crate::feed::{equal, status};
use crate::shop::{TIMEOUT, applied, dead_letters, document};

/// Waits until so many events of a table, or of a topic of no table, were counted under a word.
async fn counted(worker: &Worker, table: &str, operation: &str, least: usize) -> Result<()> {
    eventually(&format!("{least} {operation} of {table}"), TIMEOUT, async || {
        let labels = [("table", table), ("operation", operation)];
        let count = worker.metrics().await?.sum("pinion_feed_events_total", &labels);
        ensure!(count >= least as f64, "{count} so far");
        Ok(Some(()))
    })
    .await
}

/// The setup with everything that the connector writes, not its tables' events alone.
fn everything(namespace: &Namespace, setup: Setup) -> Setup {
    let name = namespace.name();
    let extra = ["public", name]
        .iter()
        .fold(setup.extra, |extra, schema| extra.replace(&format!("{name}.{schema}.*"), &format!("{name}.*")));
    Setup { extra, ..setup }
}

#[tokio::test]
async fn each_kind_of_event_has_its_treatment() -> Result<()> {
    let orders = 30;
    let namespace = Namespace::shop(orders).await?;
    let settings = json!({
        "snapshot.mode": "initial",
        "provide.transaction.metadata": "true",
        "heartbeat.interval.ms": "500",
        "message.prefix.exclude.list": "none-of-those",
    });
    let feed = Feed::start_with(&namespace, settings).await?;
    let setup = everything(&namespace, feed.configure(Setup::shop(&namespace)?));
    let worker = applied(&namespace, &setup).await?.work(&[]).await?;
    let name = namespace.name();

    // A snapshot brings every row, though none was changed.
    counted(&worker, "public.orders", "read", 30).await?;
    for (job, rows) in [("orders", 30), ("customers", 1000), ("merchants", 500)] {
        equal(&namespace, &setup, job, rows).await?;
    }
    counted(&worker, &format!("__debezium-heartbeat.{name}"), "heartbeat", 1).await?;

    // A deleted row is an event, and a tombstone behind it.
    namespace
        .execute(
            "BEGIN; DELETE FROM order_items WHERE order_id = 10; DELETE FROM deliveries WHERE order_id = 10; \
             DELETE FROM orders WHERE id = 10; COMMIT",
        )
        .await?;
    counted(&worker, "public.orders", "delete", 1).await?;
    counted(&worker, &feed.topic("orders"), "tombstone", 1).await?;
    equal(&namespace, &setup, "orders", 29).await?;
    // A transaction's two borders, and its id in each of its events.
    counted(&worker, &format!("{name}.transaction"), "transaction", 2).await?;

    namespace.execute("SELECT pg_logical_emit_message(true, 'app', 'hello')").await?;
    counted(&worker, &format!("{name}.message"), "message", 1).await?;

    // Of a part of the documents, and of the documents' own table.
    namespace.execute("TRUNCATE deliveries").await?;
    counted(&worker, "public.deliveries", "truncate", 1).await?;
    equal(&namespace, &setup, "orders", 29).await?;
    namespace.execute("TRUNCATE orders CASCADE").await?;
    counted(&worker, "public.orders", "truncate", 1).await?;
    equal(&namespace, &setup, "orders", 0).await?;
    equal(&namespace, &setup, "customers", 1000).await?;

    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    let undecodable = worker.metrics().await?.sum("pinion_feed_events_total", &[("operation", "undecodable")]);
    assert_eq!(undecodable, 0.0);
    let (ready, page) = worker.admin("/readyz").await?;
    assert_eq!(ready, 200, "{page}");
    assert_eq!(worker.terminate().await?, 0);
    drop(feed);
    namespace.finish().await
}

/// PostgreSQL's connector never tells of a changed table; that for MariaDB does, in a topic called as `topic.prefix`.
#[tokio::test]
async fn a_changed_table_is_counted_and_passed_over() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mariadb(&namespace, 3).await?;
    let prefix = format!("{}.changes", namespace.name());
    let settings = json!({"topic.prefix": prefix, "include.schema.changes": "true"});
    let feed = Feed::start_mysql_on(&namespace, &shop, None, settings).await?;
    let setup = everything(&namespace, feed.configure(Setup::mysql(&namespace, &shop)?));
    let worker = applied(&namespace, &setup).await?.work(&[]).await?;
    shop.execute("ALTER TABLE merchants ADD COLUMN remark text").await?;
    counted(&worker, &prefix, "schema_change", 1).await?;
    shop.execute("UPDATE orders SET status = 'cancelled' WHERE id = 1").await?;
    document(&namespace, "orders", 1, status, Some(json!("cancelled"))).await?;
    let undecodable = worker.metrics().await?.sum("pinion_feed_events_total", &[("operation", "undecodable")]);
    assert_eq!(undecodable, 0.0);
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    assert_eq!(worker.terminate().await?, 0);
    drop(feed);
    namespace.finish().await
}
