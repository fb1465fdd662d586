//! Documents that many rows share, and changes that touch many documents.

use std::time::Instant;

use anyhow::{Result, ensure};
use pinion_tests::{Feed, Namespace, Setup, Worker, eventually};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::feed::{equal, status};
use crate::shop::{TIMEOUT, applied, dead_letters, document};

/// A shop all of whose orders are one customer's and one merchant's, and the setup of its feed, which begins after that.
async fn shop_of_one_customer(orders: u32, ids_per_s_max: u32) -> Result<(Namespace, Feed, Setup)> {
    let namespace = Namespace::shop(orders).await?;
    namespace.execute("UPDATE orders SET customer_id = 1, merchant_id = 1").await?;
    let feed = Feed::start(&namespace).await?;
    let mut setup = feed.configure(Setup::shop(&namespace)?);
    setup.extra += &format!("fan_out_ids_per_s_max = {ids_per_s_max}\n");
    Ok((namespace, feed, setup))
}

async fn published(worker: &Worker, job: &str, touched_by: &str) -> Result<f64> {
    let labels = [("job", job), ("verdict", touched_by)];
    Ok(worker.metrics().await?.sum("pinion_feed_published_total", &labels))
}

async fn published_at_least(worker: &Worker, count: f64) -> Result<f64> {
    eventually(&format!("{count} ids of fan-outs to be published"), TIMEOUT, async || {
        let seen = published(worker, "orders", "fan_out").await?;
        Ok((seen >= count).then_some(seen))
    })
    .await
}

#[tokio::test]
async fn a_hot_parent_is_built_a_few_times() -> Result<()> {
    let (namespace, feed, setup) = shop_of_one_customer(10, 10_000).await?;
    let worker = applied(&namespace, &setup).await?.work(&[]).await?;
    let thousand_times = |change: &str| format!("DO $$ BEGIN FOR n IN 1..1000 LOOP {change}; COMMIT; END LOOP; END $$");
    namespace.execute(&thousand_times("UPDATE customers SET name = 'Name ' || n WHERE id = 1")).await?;
    namespace.execute(&thousand_times("UPDATE orders SET total = n WHERE id = 1 + n % 10")).await?;
    for table in ["public.customers", "public.orders"] {
        eventually(&format!("the events of {table}"), TIMEOUT, async || {
            let labels = [("table", table), ("operation", "update")];
            let seen = worker.metrics().await?.sum("pinion_feed_events_total", &labels);
            Ok((seen == 1000.0).then_some(()))
        })
        .await?;
    }
    eventually("all events to be done", TIMEOUT, async || {
        Ok((worker.metrics().await?.sum("pinion_feed_open", &[]) == 0.0).then_some(()))
    })
    .await?;
    let total = |document: &Value| document["lifetime"]["revenue"].clone();
    let revenue: f64 = sqlx::query_scalar("SELECT sum(total)::float8 FROM orders WHERE status <> 'cancelled'")
        .fetch_one(namespace.superuser())
        .await?;
    document(&namespace, "merchants", 1, total, Some(json!(revenue))).await?;
    equal(&namespace, &setup, "orders", 10).await?;
    // Once at the beginning, once after each window, which is a tenth of the job's freshness_s_max.
    let merchant = worker.metrics().await?.sum("pinion_documents_total", &[("job", "merchants")]);
    assert!((1.0..=5.0).contains(&merchant), "the merchant was built {merchant} times");
    let times = published(&worker, "orders", "fan_out").await? / 10.0;
    assert!((1.0..=8.0).contains(&times), "the customer's orders were built {times} times");
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    assert_eq!(worker.terminate().await?, 0);
    drop(feed);
    namespace.finish().await
}

/// What is held back is not done: its event comes again when the worker is killed.
#[tokio::test]
async fn a_worker_killed_while_it_holds_a_change_back_loses_none() -> Result<()> {
    let (namespace, feed, setup) = shop_of_one_customer(10, 10_000).await?;
    let toml = setup.jobs.join("merchants/job.toml");
    // Held back for ten seconds, longer than it takes to commit what is done.
    let slow = std::fs::read_to_string(&toml)?.replace("freshness_s_max = 60", "freshness_s_max = 100");
    ensure!(slow.contains("100"), "{slow}");
    std::fs::write(&toml, slow)?;
    let pinion = applied(&namespace, &setup).await?;
    let first = pinion.work(&[]).await?;
    let total = |merchant: &Value| merchant["lifetime"]["revenue"].clone();
    let revenue = async || {
        let sum = "SELECT coalesce(sum(total), 0)::float8 FROM orders WHERE status <> 'cancelled'";
        anyhow::Ok(json!(sqlx::query_scalar::<_, f64>(sum).fetch_one(namespace.superuser()).await?))
    };
    namespace.execute("UPDATE orders SET status = 'placed', total = 1 WHERE id = 1").await?;
    document(&namespace, "merchants", 1, total, Some(revenue().await?)).await?;
    namespace.execute("UPDATE orders SET total = 2 WHERE id = 1").await?;
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", feed.broker()).set("group.id", namespace.name()).create()?;
    let mut place = TopicPartitionList::new();
    place.add_partition(&feed.topic("orders"), 0);
    eventually("the first change to be committed, the second to be taken", TIMEOUT, async || {
        let committed = consumer.committed_offsets(place.clone(), TIMEOUT)?;
        let taken = first.metrics().await?.sum("pinion_feed_events_total", &[("table", "public.orders")]);
        let done = matches!(committed.elements()[0].offset(), Offset::Offset(offset) if offset >= 1);
        Ok((done && taken >= 2.0).then_some(()))
    })
    .await?;
    first.kill().await?;
    let second = pinion.work(&[]).await?;
    document(&namespace, "merchants", 1, total, Some(revenue().await?)).await?;
    drop((second, feed));
    namespace.finish().await
}

#[tokio::test]
async fn a_fan_out_keeps_to_its_budget_and_live_changes_go_first() -> Result<()> {
    let (orders, ids_per_s_max) = (2000, 200);
    let (namespace, feed, setup) = shop_of_one_customer(orders, ids_per_s_max).await?;
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "orders"]).await?;
    // The topic of a table is found some seconds after the table's first change.
    namespace.execute("UPDATE orders SET status = 'placed' WHERE id = 2000").await?;
    document(&namespace, "orders", i64::from(orders), status, Some(json!("placed"))).await?;
    let began = Instant::now();
    namespace.execute("UPDATE customers SET name = 'Renamed' WHERE id = 1").await?;
    published_at_least(&worker, 1.0).await?;
    namespace.execute("UPDATE orders SET status = 'cancelled' WHERE id = 2000").await?;
    document(&namespace, "orders", i64::from(orders), status, Some(json!("cancelled"))).await?;
    let meanwhile = published(&worker, "orders", "fan_out").await?;
    assert!(meanwhile < f64::from(orders), "the live change came after the fan-out");
    published_at_least(&worker, f64::from(orders)).await?;
    // The first page, of a second's ids, goes at once.
    let least = f64::from(orders / ids_per_s_max - 1);
    assert!(began.elapsed().as_secs_f64() >= least, "{:?}", began.elapsed());
    equal(&namespace, &setup, "orders", orders as usize).await?;
    drop(feed);
    namespace.finish().await
}

#[tokio::test]
async fn a_worker_killed_in_the_middle_of_a_fan_out_loses_none() -> Result<()> {
    let orders = 3000;
    let (namespace, feed, setup) = shop_of_one_customer(orders, 500).await?;
    let pinion = applied(&namespace, &setup).await?;
    let first = pinion.work(&["--jobs", "orders"]).await?;
    namespace.execute("UPDATE customers SET name = 'Renamed' WHERE id = 1").await?;
    let seen = published_at_least(&first, 500.0).await?;
    ensure!(seen < f64::from(orders), "all {seen} were published before the worker was killed");
    first.kill().await?;
    let second = pinion.work(&["--jobs", "orders"]).await?;
    equal(&namespace, &setup, "orders", orders as usize).await?;
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    drop((second, feed));
    namespace.finish().await
}
