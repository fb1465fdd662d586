//! The formats of change events, from the real converters: with schemas, in Avro, flattened. What the documents become is the
//! same for all of them.

use anyhow::{Context, Result, ensure};
use pinion_tests::{Feed, Namespace, Setup, Worker, eventually};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::feed::{equal, feed_state};
use crate::shop::{TIMEOUT, applied, compare_all, dead_letters, dead_letters_of, document};

/// Changes of all kinds; 99 orders are left of 100.
async fn change_all_kinds(namespace: &Namespace) -> Result<()> {
    for sql in [
        "UPDATE order_items SET order_id = 8 WHERE order_id = 9",
        // After the item has left: where an event tells no old row, this is what rebuilds the order that it was in.
        "UPDATE orders SET id = id",
        "UPDATE customers SET name = 'Renamed' WHERE id = (SELECT customer_id FROM orders WHERE id = 1)",
        "BEGIN; DELETE FROM order_items WHERE order_id = 10; DELETE FROM deliveries WHERE order_id = 10; \
         DELETE FROM orders WHERE id = 10; COMMIT",
    ] {
        namespace.execute(sql).await?;
    }
    Ok(())
}

async fn produce(feed: &Feed, topic: &str, payload: &[u8]) -> Result<()> {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", feed.broker()).create()?;
    let record = FutureRecord::<[u8], [u8]>::to(topic).payload(payload);
    producer.send(record, TIMEOUT).await.map_err(|(error, _)| error)?;
    Ok(())
}

async fn counted(worker: &Worker, table: &str, operation: &str) -> Result<f64> {
    Ok(worker.metrics().await?.sum("pinion_feed_events_total", &[("table", table), ("operation", operation)]))
}

/// Waits until so many are counted: an event of another table may have made the documents equal already.
async fn counts(worker: &Worker, table: &str, operation: &str, at_least: f64) -> Result<()> {
    eventually(&format!("{at_least} {operation} of {table}"), TIMEOUT, async || {
        let counted = counted(worker, table, operation).await?;
        ensure!(counted >= at_least, "{counted} are counted");
        Ok(Some(()))
    })
    .await
}

/// The setup with a registry in `[kafka]`.
fn with_registry(setup: Setup, address: &str) -> Setup {
    Setup { extra: format!("{}registry = {address:?}\n", setup.extra), ..setup }
}

#[tokio::test]
async fn events_with_their_schema_beside_them_are_followed() -> Result<()> {
    let namespace = Namespace::shop(100).await?;
    let schemas = json!({"key.converter.schemas.enable": "true", "value.converter.schemas.enable": "true"});
    let feed = Feed::start_with(&namespace, schemas).await?;
    let setup = feed.configure(Setup::shop(&namespace)?);
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "orders"]).await?;
    change_all_kinds(&namespace).await?;
    document(&namespace, "orders", 1, |order| order["customer"]["name"].clone(), Some(json!("Renamed"))).await?;
    equal(&namespace, &setup, "orders", 99).await?;
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    assert_eq!(worker.terminate().await?, 0);
    drop(feed);
    namespace.finish().await
}

/// The registry is away when the worker starts: it is waited for and nothing is lost. What it doesn't know is a dead letter.
#[tokio::test]
async fn events_in_avro_are_followed() -> Result<()> {
    let namespace = Namespace::shop(100).await?;
    let feed = Feed::start_with(&namespace, Feed::kit("avro.json")?).await?;
    let registry = Door::closed(&feed.registry()).await?;
    let setup = with_registry(feed.configure(Setup::shop(&namespace)?), &registry.address);
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    change_all_kinds(&namespace).await?;
    eventually("the feed to wait for the registry", TIMEOUT, async || {
        let told = feed_state(&worker, "waiting").await?;
        ensure!(told["reason"].as_str().is_some_and(|reason| reason.contains("the schema registry is away")), "{told}");
        Ok(Some(()))
    })
    .await?;
    let checked = pinion.command(&["check"]).await?;
    assert!(checked.stdout.contains("the schema registry is of no use"), "{}", checked.stdout);

    let _open = registry.open().await?;
    document(&namespace, "orders", 1, |order| order["customer"]["name"].clone(), Some(json!("Renamed"))).await?;
    equal(&namespace, &setup, "orders", 99).await?;
    namespace.execute("TRUNCATE deliveries").await?;
    equal(&namespace, &setup, "orders", 99).await?;
    assert_eq!(counted(&worker, "public.orders", "old_value_missing").await?, 0.0);
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    pinion.command(&["check"]).await?.ok()?;

    produce(&feed, &feed.topic("orders"), &[0, 0x7f, 0xff, 0xff, 0xff, 1]).await?;
    let letters = dead_letters_of(&namespace, 1).await?;
    let error = letters[0]["error"].as_str().unwrap_or_default();
    assert!(error.contains("the registry has no schema 2147483647"), "{error}");
    feed_state(&worker, "running").await?;
    assert_eq!(worker.terminate().await?, 0);
    drop(feed);
    namespace.finish().await
}

#[tokio::test]
async fn avro_without_a_registry_stops_the_feed_and_says_what_is_missing() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let feed = Feed::start(&namespace).await?;
    let worker = applied(&namespace, &feed.configure(Setup::shop(&namespace)?)).await?.work(&[]).await?;
    produce(&feed, &feed.topic("orders"), &[0, 0, 0, 0, 1, 2]).await?;
    let told = feed_state(&worker, "broken").await?;
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains("set [kafka] registry")), "{told}");
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    drop(feed);
    namespace.finish().await
}

#[tokio::test]
async fn flattened_events_are_followed() -> Result<()> {
    let namespace = Namespace::shop(100).await?;
    let feed = Feed::start_with(&namespace, Feed::kit("flat.json")?).await?;
    let setup = feed.configure(Setup::shop(&namespace)?);
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "orders"]).await?;
    change_all_kinds(&namespace).await?;
    document(&namespace, "orders", 1, |order| order["customer"]["name"].clone(), Some(json!("Renamed"))).await?;
    equal(&namespace, &setup, "orders", 99).await?;
    // The order that an item left is not told: it is counted, and here it was changed itself afterwards.
    counts(&worker, "public.order_items", "old_value_missing", 1.0).await?;
    assert_eq!(counted(&worker, "public.orders", "transaction_missing").await?, 0.0);
    // The tombstones behind deletes said nothing new.
    counts(&worker, "public.orders", "delete", 1.0).await?;
    assert_eq!(counted(&worker, "public.orders", "delete").await?, 1.0);
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    assert_eq!(worker.terminate().await?, 0);
    drop(feed);
    namespace.finish().await
}

/// The transformation as it is without any settings: no fields are added, and a tombstone alone tells of a delete.
#[tokio::test]
async fn bare_rows_and_tombstones_are_followed() -> Result<()> {
    let namespace = Namespace::shop(20).await?;
    let bare = json!({"transforms": "flat", "transforms.flat.type": "io.debezium.transforms.ExtractNewRecordState"});
    let feed = Feed::start_with(&namespace, bare).await?;
    let setup = feed.configure(Setup::shop(&namespace)?);
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "orders"]).await?;
    namespace.execute("UPDATE orders SET status = 'accepted'").await?;
    equal(&namespace, &setup, "orders", 20).await?;
    namespace
        .execute(
            "BEGIN; DELETE FROM order_items WHERE order_id = 10; DELETE FROM deliveries WHERE order_id = 10; \
             DELETE FROM orders WHERE id = 10; COMMIT",
        )
        .await?;
    document(&namespace, "orders", 10, |order| order["status"].clone(), None).await?;
    eventually("the documents to be equal", TIMEOUT, async || {
        ensure!(compare_all(&namespace, &setup, "orders", "orders").await? == 19);
        Ok(Some(()))
    })
    .await?;
    counts(&worker, "public.orders", "delete", 1.0).await?;
    counts(&worker, "public.orders", "transaction_missing", 21.0).await?;
    assert_eq!(counted(&worker, "public.orders", "delete").await?, 1.0);
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    assert_eq!(worker.terminate().await?, 0);
    drop(feed);
    namespace.finish().await
}

/// A way to a server that is opened when the test says so.
struct Door {
    /// The server's address through this door.
    address: String,
    port: u16,
    server: String,
}

impl Door {
    async fn closed(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").context("an address")?;
        let (server, path) = rest.split_once('/').context("an address with a path")?;
        // Taken and given back: nobody listens there until the door is opened.
        let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
        Ok(Self { address: format!("http://127.0.0.1:{port}/{path}"), port, server: server.to_owned() })
    }

    async fn open(self) -> Result<tokio::task::JoinSet<()>> {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await?;
        let mut open = tokio::task::JoinSet::new();
        open.spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let server = self.server.clone();
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(server).await {
                        let copied = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                        eprintln!("the door is closed again: {copied:?}");
                    }
                });
            }
        });
        Ok(open)
    }
}
