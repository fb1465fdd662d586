//! `pinion enqueue`: ids from arguments, standard input and the source.

use anyhow::{Result, ensure};
use pinion_tests::{Namespace, PrivateReplica, Setup, eventually};
use serde_json::json;

use crate::shop::{TIMEOUT, applied, compare_all};

async fn ready(namespace: &Namespace, queue: &str) -> Result<u32> {
    namespace.rabbit().ready(&format!("{}.{queue}", namespace.name())).await
}

#[tokio::test]
async fn ids_come_from_arguments_and_lines() -> Result<()> {
    let namespace = Namespace::shop(3).await?;
    let pinion = applied(&namespace, &Setup::shop(&namespace)?).await?;
    let some = pinion.command(&["enqueue", "orders", "1", "-2", "9223372036854775807"]).await?.ok()?;
    assert!(some.stdout.starts_with("3 ids enqueued in "), "{}", some.stdout);
    assert_eq!(ready(&namespace, "orders").await?, 3);

    let wrong = pinion.command(&["enqueue", "orders", "1", "1.5"]).await?;
    assert_eq!(wrong.code, 1);
    assert!(wrong.stderr.contains("id \"1.5\" is not a whole number"), "{}", wrong.stderr);
    assert_eq!(ready(&namespace, "orders").await?, 3, "a wrong argument keeps all of them");

    let lines = "1\nx\n\n 2 \r\n9223372036854775808\n3";
    let lines =
        pinion.command_with_input(&["enqueue", "orders", "-", "--low", "--ids-per-message", "2"], lines).await?;
    assert_eq!(lines.code, 1);
    assert!(
        lines.stdout.starts_with("3 ids enqueued") && lines.stdout.contains("2 lines left out"),
        "{}",
        lines.stdout
    );
    assert!(lines.stderr.contains("line 2: id \"x\"") && lines.stderr.contains("line 5: id"), "{}", lines.stderr);
    assert_eq!((ready(&namespace, "orders").await?, ready(&namespace, "orders.low").await?), (3, 2));

    let many: String = (1..=20_000).map(|id| format!("{id}\n")).collect();
    let many = pinion.command_with_input(&["enqueue", "customers", "-", "--json"], &many).await?.ok()?.json()?;
    assert_eq!((&many["ids"], &many["messages"]), (&json!(20_000), &json!(20_000)));
    assert_eq!(ready(&namespace, "customers").await?, 20_000);
    for wrong in
        [vec!["enqueue", "orders"], vec!["enqueue", "orders", "1", "--all"], vec!["enqueue", "orders", "1", "-"]]
    {
        assert_eq!(pinion.command(&wrong).await?.code, 2, "{wrong:?}");
    }
    namespace.finish().await
}

#[tokio::test]
async fn all_ids_of_the_source_are_found_even_those_that_the_replica_lacks() -> Result<()> {
    let namespace = Namespace::shop(25_000).await?;
    let replica = PrivateReplica::start().await?;
    let setup =
        Setup { replicas: vec![replica.url(namespace.name())], replica_lag_ms_max: 300, ..Setup::shop(&namespace)? };
    let pinion = applied(&namespace, &setup).await?;
    replica.pause().await?;
    namespace.execute("DELETE FROM orders WHERE id % 5 = 0").await?;
    namespace
        .execute(
            "INSERT INTO orders (id, customer_id, merchant_id, total, placed_at, updated_at)
             SELECT -i, 1, 1, i, '2025-01-01Z', '2025-01-01Z' FROM generate_series(1, 1000) i",
        )
        .await?;
    let all = pinion.command(&["enqueue", "orders", "--all", "--json"]).await?.ok()?.json()?;
    assert_eq!((&all["ids"], &all["messages"]), (&json!(21_000), &json!(210)));
    assert_eq!((ready(&namespace, "orders").await?, ready(&namespace, "orders.low").await?), (0, 210));
    replica.resume().await?;

    let worker = pinion.work(&["--jobs", "orders"]).await?;
    eventually("all orders", TIMEOUT, async || {
        let count = namespace.elastic().count(&namespace.index("orders")).await?;
        ensure!(count == 21_000, "there are {count}");
        Ok(Some(()))
    })
    .await?;
    assert_eq!(compare_all(&namespace, &setup, "orders", "orders").await?, 21_000);
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

const JOB: &str =
    "index = \"x\"\nsource = \"shop\"\nkey = \"KEY\"\n[[watch]]\ntable = \"public.things\"\nkey = \"id\"\n";
const MAPPING: &str = r#"{"mappings": {"dynamic": "strict", "properties": {"n": {"type": "long"}}}}"#;

#[tokio::test]
async fn keys_of_every_type_are_listed_from_the_column_that_is_the_id() -> Result<()> {
    let namespace = Namespace::empty().await?;
    namespace
        .execute(
            "CREATE TABLE uuids (id uuid PRIMARY KEY, n int);
             INSERT INTO uuids SELECT gen_random_uuid(), i FROM generate_series(1, 10123) i;
             CREATE TABLE \"Odd Names\" (\"The Key\" varchar(40) PRIMARY KEY, n int) PARTITION BY HASH (\"The Key\");
             CREATE TABLE odd_0 PARTITION OF \"Odd Names\" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE odd_1 PARTITION OF \"Odd Names\" FOR VALUES WITH (MODULUS 2, REMAINDER 1);
             INSERT INTO \"Odd Names\" SELECT 'k ' || i || ' ä\"', i FROM generate_series(1, 10123) i;
             CREATE TABLE plain (id int, n int);
             INSERT INTO plain VALUES (1, 1)",
        )
        .await?;
    let setup = Setup::without_jobs(&namespace)?;
    let job =
        |name: &str, key: &str, sql: &str| setup.write_job(&namespace, name, &JOB.replace("KEY", key), sql, MAPPING);
    job("uuids", "uuid", "SELECT x.k AS _id, x.n FROM (SELECT id AS k, n FROM uuids) x WHERE x.k = ANY(:ids)")?;
    job("texts", "text", "SELECT \"The Key\" AS _id, n FROM \"Odd Names\" WHERE \"The Key\" = ANY(:ids)")?;
    job("computed", "bigint", "SELECT id + 0 AS _id, n FROM plain WHERE id = ANY(:ids)")?;
    job("noindex", "bigint", "SELECT id AS _id, n FROM plain WHERE id = ANY(:ids)")?;
    job("broken", "bigint", "SELECT id AS _id, n FROM nowhere WHERE id = ANY(:ids)")?;
    namespace.replica_caught_up().await?;
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "uuids,texts"]).await?;
    for name in ["uuids", "texts"] {
        let all =
            pinion.command(&["enqueue", name, "--all", "--json", "--ids-per-message", "1000"]).await?.ok()?.json()?;
        assert_eq!((&all["ids"], &all["messages"]), (&json!(10_123), &json!(11)), "{name}");
        eventually(name, TIMEOUT, async || {
            let count = namespace.elastic().count(&namespace.index(name)).await?;
            ensure!(count == 10_123, "there are {count}");
            Ok(Some(()))
        })
        .await?;
    }
    for (name, reason) in [
        ("computed", "_id is computed, not a table's column"),
        ("noindex", "_id is plain.id, with which no index begins"),
        ("broken", "relation \"nowhere\" does not exist"),
    ] {
        let refused = pinion.command(&["enqueue", name, "--all"]).await?;
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains(reason), "{}", refused.stderr);
    }
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

#[tokio::test]
async fn what_the_broker_did_not_take_is_named() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let setup = Setup::shop(&namespace)?;
    let pinion = applied(&namespace, &setup).await?;
    let queue = format!("/queues/%2f/{}.orders", namespace.name());
    namespace.rabbit().management(reqwest::Method::DELETE, &queue, None).await?;
    let unroutable = pinion.command(&["enqueue", "orders", "7", "8"]).await?;
    assert_eq!(unroutable.code, 1);
    for expected in ["0 ids enqueued", "2 ids not confirmed: ", "no queue takes what is published", "`pinion apply`"] {
        assert!(unroutable.stdout.contains(expected), "{expected} is not in {}", unroutable.stdout);
    }
    // The first failure ends it: a queue that is missing is not tried a hundred thousand times.
    let many: String = (1..=100_000).map(|id| format!("{id}\n")).collect();
    let stopped = pinion.command_with_input(&["enqueue", "orders", "-", "--json"], &many).await?;
    let outcome = stopped.json()?;
    assert_eq!((stopped.code, &outcome["ids"]), (1, &json!(0)));
    let unconfirmed = outcome["unconfirmed"].as_u64().unwrap_or_default();
    assert!((1..100_000).contains(&unconfirmed), "{unconfirmed}");

    let away = Setup {
        rabbitmq: "amqp://guest:s3cret@127.0.0.1:1/%2f".to_owned(),
        jobs: setup.jobs.clone(),
        ..Setup::without_jobs(&namespace)?
    };
    let away = away.write(&namespace)?.command(&["enqueue", "orders", "7"]).await?;
    assert_eq!(away.code, 1);
    assert!(away.stderr.contains("[rabbitmq]: RabbitMQ at 127.0.0.1:1 can't be reached"), "{}", away.stderr);
    assert!(!away.stderr.contains("s3cret"));
    namespace.finish().await
}
