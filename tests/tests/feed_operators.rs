//! What operators see of the change feed, and how they let it begin again.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use pinion_tests::{Feed, Namespace, Pinion, Setup, Worker, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::feed::{equal, feed_state};
use crate::shop::{TIMEOUT, applied};

/// The settings of `[kafka]`, which stands last in the file.
fn kafka(setup: Setup, lines: &str) -> Setup {
    Setup { extra: setup.extra + lines, ..setup }
}

async fn partition(pinion: &Pinion, topic: &str) -> Result<Value> {
    let offsets = pinion.command(&["offsets", "--json", "--topic", topic]).await?.ok()?.json()?;
    offsets["partitions"][0].as_object().map(|partition| Value::Object(partition.clone())).context("no such topic")
}

/// Waits until so many events of a topic are behind.
async fn behind(pinion: &Pinion, topic: &str, events: u64) -> Result<Value> {
    eventually(&format!("{events} events of {topic} to be behind"), TIMEOUT, async || {
        let partition = partition(pinion, topic).await?;
        ensure!(partition["lag"] == events, "{partition}");
        Ok(Some(partition))
    })
    .await
}

/// Takes documents away behind Pinion's back: only an event brings them back.
async fn lose(namespace: &Namespace, job: &str, ids: impl IntoIterator<Item = i64>) -> Result<()> {
    for id in ids {
        let path = format!("/{}/_doc/{id}", namespace.index(job));
        namespace.elastic().ok(Method::DELETE, &path, None).await?;
    }
    Ok(())
}

fn now_ms() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

async fn events(worker: &Worker, table: &str) -> Result<f64> {
    Ok(worker.metrics().await?.sum("pinion_feed_events_total", &[("table", table), ("operation", "update")]))
}

async fn ready(worker: &Worker) -> Result<()> {
    eventually("the worker to be ready", TIMEOUT, async || Ok((worker.admin("/readyz").await?.0 == 200).then_some(())))
        .await
}

#[tokio::test]
async fn offsets_tell_what_is_behind_and_an_idle_group_is_rewound_at_once() -> Result<()> {
    let namespace = Namespace::shop(20).await?;
    let feed = Feed::start(&namespace).await?;
    let setup = feed.configure(Setup::shop(&namespace)?);
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    namespace.execute("UPDATE orders SET status = 'accepted'").await?;
    equal(&namespace, &setup, "orders", 20).await?;
    let topic = feed.topic("orders");
    let done = behind(&pinion, &topic, 0).await?;
    assert_eq!((&done["source"], &done["position"], &done["end"]), (&"shop".into(), &20.into(), &20.into()));
    assert!(done["oldest_at"].is_null(), "{done}");
    eventually("the lag to be told", TIMEOUT, async || {
        let metrics = worker.metrics().await?;
        let of_topic = [("topic", topic.as_str())];
        let told = (metrics.sum("pinion_feed_position", &of_topic), metrics.sum("pinion_feed_lag_events", &of_topic));
        let states = ["configured", "assigned", "healthy"];
        let partitions = states.map(|state| metrics.sum("pinion_feed_partitions", &[("state", state)]));
        ensure!(
            told == (20.0, 0.0) && partitions[0] >= 1.0 && partitions[1..] == [partitions[0]; 2],
            "{told:?} {partitions:?}"
        );
        Ok(Some(()))
    })
    .await?;
    let published = worker.metrics().await?.sum("pinion_feed_publish_seconds_count", &[]);
    assert!(published >= 20.0, "{published}");
    let busy = now_ms()?;
    assert_eq!(worker.terminate().await?, 0);

    namespace.execute("UPDATE orders SET status = 'placed' WHERE id <= 7").await?;
    let waiting = behind(&pinion, &topic, 7).await?;
    let oldest_at = waiting["oldest_at"].as_u64().context("the age of the first event")?;
    assert!((busy..=now_ms()?).contains(&oldest_at), "{waiting}");
    let shown = pinion.command(&["offsets"]).await?.ok()?.stdout;
    assert!(shown.starts_with("source  topic") && shown.contains(&format!("{topic} ")), "{shown}");
    let status = pinion.command(&["status"]).await?.stdout;
    // Heartbeats that nobody takes may be behind, too.
    let of_topic = status.lines().find(|line| line.contains(&topic)).context("the topic")?;
    assert_eq!(of_topic.split_whitespace().nth(1), Some("7"), "{status}");
    assert!(status.contains("CHANGE FEED") && status.contains(" events behind, the oldest for "), "{status}");

    let would = pinion.command(&["offsets", "--from-start", "--topic", &topic]).await?.ok()?;
    assert!(would.stdout.contains("20 events would come again; --yes does it"), "{}", would.stdout);
    behind(&pinion, &topic, 7).await?;
    let rewound = pinion.command(&["offsets", "--from-start", "--yes", "--json"]).await?.ok()?.json()?;
    assert_eq!(rewound["workers_paused"], false);
    behind(&pinion, &topic, 27).await?;
    // Only ever back: what is not done is not passed over.
    let ahead = pinion.command(&["offsets", "--rewind-to", "0s", "--yes"]).await?.ok()?;
    assert!(ahead.stdout.contains("no event"), "{}", ahead.stdout);
    behind(&pinion, &topic, 27).await?;

    lose(&namespace, "orders", 8..=20).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    equal(&namespace, &setup, "orders", 20).await?;
    behind(&pinion, &topic, 0).await?;
    assert_eq!(worker.terminate().await?, 0);
    for wrong in [&["offsets", "--rewind-to", "yesterday"][..], &["offsets", "--yes"]] {
        assert_eq!(pinion.command(wrong).await?.code, 2, "{wrong:?}");
    }
    drop(feed);
    namespace.finish().await
}

/// The workers run on; one of them was killed a moment before, and one is started in the middle.
#[tokio::test]
async fn running_workers_are_rewound_to_a_time() -> Result<()> {
    let namespace = Namespace::shop(50).await?;
    let feed = Feed::start(&namespace).await?;
    let setup = feed.configure(Setup::shop(&namespace)?);
    let pinion = applied(&namespace, &setup).await?;
    let [killed, first] = [pinion.work(&[]).await?, pinion.work(&[]).await?];
    for worker in [&killed, &first] {
        feed_state(worker, "running").await?;
    }
    namespace.execute("UPDATE orders SET status = 'accepted' WHERE id <= 20").await?;
    let topic = feed.topic("orders");
    eventually("the first events to be done", TIMEOUT, async || {
        let partition = partition(&pinion, &topic).await?;
        Ok((partition["position"] == 20).then_some(()))
    })
    .await?;
    // Kafka's clock is this machine's.
    let between_ms = now_ms()? + 1;
    eventually("the time to pass", TIMEOUT, async || Ok((now_ms()? > between_ms).then_some(()))).await?;
    namespace.execute("UPDATE orders SET status = 'accepted' WHERE id > 20").await?;
    equal(&namespace, &setup, "orders", 50).await?;
    behind(&pinion, &topic, 0).await?;

    lose(&namespace, "orders", [1, 21, 50]).await?;
    killed.kill().await?;
    let time = i64::try_from(between_ms)?;
    let time = sqlx::query_scalar::<_, String>(
        "SELECT to_char(to_timestamp($1 / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')",
    )
    .bind(time)
    .fetch_one(namespace.superuser())
    .await?;
    let rewinding = ["offsets", "--rewind-to", &time, "--topic", &topic, "--yes", "--json"];
    let (rewound, second) = tokio::join!(pinion.command(&rewinding), pinion.work(&[]));
    let (rewound, second) = (rewound?.ok()?.json()?, second?);
    assert_eq!(rewound["workers_paused"], true);
    assert_eq!(rewound["moves"], json!([{"topic": topic, "partition": 0, "from": 50, "to": 20}]), "{rewound}");
    for id in [21, 50] {
        eventually(&format!("document {id} to come again"), TIMEOUT, async || {
            namespace.elastic().get(&namespace.index("orders"), &id.to_string()).await
        })
        .await?;
    }
    behind(&pinion, &topic, 0).await?;
    assert_eq!(namespace.elastic().get(&namespace.index("orders"), "1").await?, None, "it is from before that time");
    for worker in [&first, &second] {
        feed_state(worker, "running").await?;
    }
    let again = events(&first, "public.orders").await? + events(&second, "public.orders").await?;
    assert!(again >= 30.0, "{again} events were taken by those that live");
    for worker in [first, second] {
        assert_eq!(worker.terminate().await?, 0);
    }
    drop(feed);
    namespace.finish().await
}

#[tokio::test]
async fn a_silent_feed_is_told_until_it_speaks_again() -> Result<()> {
    let namespace = Namespace::shop(3).await?;
    let feed = Feed::start_with(&namespace, json!({"heartbeat.interval.ms": "500"})).await?;
    let setup = kafka(feed.configure(Setup::shop(&namespace)?), "silence_s_max = 3\n");
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&[]).await?;
    feed_state(&worker, "running").await?;
    let is_silent =
        async || Ok::<_, anyhow::Error>(worker.metrics().await?.sum("pinion_feed_silent", &[("source", "shop")]));
    // No row changes, but the connector is alive.
    eventually("heartbeats to be counted", TIMEOUT, async || {
        let beats = worker.metrics().await?.sum("pinion_feed_events_total", &[("operation", "heartbeat")]);
        Ok((beats > 5.0).then_some(()))
    })
    .await?;
    assert_eq!(is_silent().await?, 0.0);

    feed.stop().await?;
    eventually("the silence to be told", TIMEOUT, async || {
        namespace.execute("UPDATE orders SET id = id").await?;
        Ok((is_silent().await? == 1.0).then_some(()))
    })
    .await?;
    let told = eventually("the reason", TIMEOUT, async || {
        let told = feed_state(&worker, "running").await?;
        Ok(told["reason"].as_str().map(str::to_owned))
    })
    .await?;
    assert!(told.contains("silent: neither an event nor a heartbeat of shop"), "{told}");
    assert!(worker.log()?.contains("neither an event nor a heartbeat of shop"));
    eventually("the status to tell it", TIMEOUT, async || {
        let status = pinion.command(&["status", "--json"]).await?;
        let problems = status.json()?["problems"].to_string();
        Ok((status.code == 1 && problems.contains("change feed: silent")).then_some(()))
    })
    .await?;
    assert_eq!(worker.admin("/readyz").await?.0, 200, "the worker can do no better");

    feed.resume().await?;
    eventually("the silence to end", TIMEOUT, async || Ok((is_silent().await? == 0.0).then_some(()))).await?;
    equal(&namespace, &setup, "orders", 3).await?;
    eventually("the status to be without problems", TIMEOUT, async || {
        Ok((pinion.command(&["status"]).await?.code == 0).then_some(()))
    })
    .await?;
    assert_eq!(worker.terminate().await?, 0);
    drop(feed);
    namespace.finish().await
}

#[tokio::test]
async fn a_partition_that_stands_still_makes_the_worker_not_ready() -> Result<()> {
    let namespace = Namespace::shop(10).await?;
    let feed = Feed::start(&namespace).await?;
    let setup = kafka(feed.configure(Setup::shop(&namespace)?), "stall_s_max = 3\n");
    let setup = Setup { replicas: Vec::new(), worker: "fetch_s_max = 600\n".to_owned(), ..setup };
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "customers"]).await?;
    feed_state(&worker, "running").await?;
    ready(&worker).await?;
    // The fan-out to the customers' orders waits for this lock.
    let mut lock = namespace.superuser().begin().await?;
    sqlx::query("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await?;
    namespace.execute("UPDATE customers SET name = 'Renamed' WHERE id = 1").await?;
    let topic = feed.topic("customers");
    let reason = format!("stands still for more than 3 s, with events to take: {topic} partition 0");
    eventually("the partition to be told", TIMEOUT, async || {
        let told = feed_state(&worker, "waiting").await?;
        ensure!(told["reason"] == reason, "{told}");
        Ok(Some(()))
    })
    .await?;
    assert_eq!(worker.admin("/readyz").await?.0, 503);
    let metrics = worker.metrics().await?;
    assert_eq!(metrics.sum("pinion_feed_lag_events", &[("topic", &topic)]), 1.0);
    assert!(metrics.sum("pinion_feed_lag_seconds", &[("topic", &topic)]) > 3.0);
    let [assigned, healthy] =
        ["assigned", "healthy"].map(|state| metrics.sum("pinion_feed_partitions", &[("state", state)]));
    assert_eq!(assigned - healthy, 1.0);

    lock.commit().await?;
    feed_state(&worker, "running").await?;
    ready(&worker).await?;
    assert_eq!(worker.terminate().await?, 0);
    drop(feed);
    namespace.finish().await
}

/// `pinion check` sees the source as the connector does.
#[tokio::test]
async fn the_connectors_needs_are_checked() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let setup = Setup {
        extra: "[kafka]\nbrokers = [\"127.0.0.1:1\"]\ntopics = [\"shop.public.*\"]\n".to_owned(),
        ..Setup::shop(&namespace)?
    };
    let pinion = applied(&namespace, &setup).await?;
    let checked = async || Ok::<_, anyhow::Error>(pinion.command(&["check"]).await?.stdout);
    let bare = checked().await?;
    assert!(
        bare.contains("no publication has public.customers, public.deliveries, public.merchants and 2 more"),
        "{bare}"
    );
    assert!(bare.contains("the database has no logical replication slot"), "{bare}");

    namespace.execute("CREATE PUBLICATION whole FOR TABLE orders, customers").await?;
    namespace
        .execute(
            "CREATE PUBLICATION only_rows FOR TABLE merchants, deliveries WITH (publish = 'insert, update, delete')",
        )
        .await?;
    let some = checked().await?;
    assert!(some.contains("no publication has public.order_items, so no change of it comes"), "{some}");
    assert!(some.contains("no publication has the truncates of public.deliveries, public.merchants"), "{some}");
    namespace.execute("DROP PUBLICATION whole, only_rows").await?;

    let feed = Feed::start(&namespace).await?;
    let pinion = applied(&namespace, &feed.configure(Setup::shop(&namespace)?)).await?;
    let checked = async || Ok::<_, anyhow::Error>(pinion.command(&["check"]).await?.stdout);
    let connected = checked().await?;
    assert!(!connected.contains("publication") && !connected.contains("replication slot"), "{connected}");
    feed.stop().await?;
    eventually("the slot that nobody follows to be told", TIMEOUT, async || {
        let stopped = checked().await?;
        let told = format!("the replication slot {} is not active", namespace.name());
        Ok(stopped.contains(&told).then_some(()))
    })
    .await?;
    drop(feed);
    namespace.finish().await
}

/// A pause of the feed is one of a job, and a rewind leaves it as it was.
#[tokio::test]
async fn the_feed_is_paused_and_resumed_as_a_job_is() -> Result<()> {
    let namespace = Namespace::shop(4).await?;
    let feed = Feed::start(&namespace).await?;
    let setup = feed.configure(Setup::shop(&namespace)?);
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&[]).await?;
    feed_state(&worker, "running").await?;
    namespace.execute("UPDATE orders SET status = 'accepted' WHERE id = 1").await?;
    let topic = feed.topic("orders");
    eventually("the first event to be done", TIMEOUT, async || {
        Ok((partition(&pinion, &topic).await?["position"] == 1).then_some(()))
    })
    .await?;
    let paused = pinion.command(&["pause", "change feed", "--reason", "a migration"]).await?.ok()?;
    assert_eq!(paused.stdout, "change feed is paused\n1 worker followed\n");
    assert_eq!(worker.admin("/readyz").await?.0, 200, "an operator wants it so");
    namespace.execute("UPDATE orders SET status = 'placed' WHERE id > 1").await?;
    behind(&pinion, &topic, 3).await?;
    pinion.command(&["offsets", "--from-start", "--yes"]).await?.ok()?;
    behind(&pinion, &topic, 4).await?;
    let status = pinion.command(&["status"]).await?.stdout;
    assert!(status.contains("a migration; `pinion resume 'change feed'`"), "{status}");
    pinion.command(&["resume", "change feed"]).await?.ok()?;
    equal(&namespace, &setup, "orders", 4).await?;
    behind(&pinion, &topic, 0).await?;
    assert_eq!(worker.terminate().await?, 0);
    drop(feed);
    namespace.finish().await
}
