//! `pinion verify` and `pinion diff`: what is not as it should be is found, all of it and nothing else.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pinion_tests::{MysqlShop, Namespace, Pinion, Setup, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::shop::{TIMEOUT, applied, send, settled};

/// A shop whose orders are all in the index, with a worker that waits for more.
async fn indexed(namespace: &Namespace, setup: &Setup, orders: u64) -> Result<(Pinion, pinion_tests::Worker)> {
    let pinion = applied(namespace, setup).await?;
    let worker = pinion.work(&[]).await?;
    pinion.command(&["enqueue", "orders", "--all"]).await?.ok()?;
    settled(&worker, "orders", "indexed", orders).await?;
    Ok((pinion, worker))
}

/// What `pinion verify orders` tells, with more arguments, and whether it was content.
async fn verify(pinion: &Pinion, more: &[&str]) -> Result<(Value, bool)> {
    let arguments: Vec<&str> = ["verify", "orders", "--json"].iter().chain(more).copied().collect();
    let output = pinion.command(&arguments).await?;
    ensure!(output.code <= 1, "{output:?}");
    let is_true = output.code == 0;
    Ok((output.json().with_context(|| output.stderr.clone())?, is_true))
}

fn counts(verified: &Value) -> [u64; 4] {
    ["missing", "orphaned", "different", "unwritable"].map(|kind| verified[kind]["count"].as_u64().unwrap_or(u64::MAX))
}

/// Waits until a verification finds nothing any more.
async fn mended(pinion: &Pinion) -> Result<()> {
    eventually("the index to be true again", TIMEOUT, async || {
        let (verified, is_true) = verify(pinion, &["--full", "--patience-s", "0"]).await?;
        ensure!(is_true, "{verified}");
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn exactly_what_is_wrong_is_found_and_repaired() -> Result<()> {
    let namespace = Namespace::shop(20_000).await?;
    let (pinion, worker) = indexed(&namespace, &Setup::shop(&namespace)?, 20_000).await?;
    let (verified, is_true) = verify(&pinion, &["--full"]).await?;
    assert!(is_true, "{verified}");
    assert_eq!((&verified["source_ids"], &verified["index_ids"]), (&json!(20_000), &json!(20_000)));

    // Behind Pinion's back: rows changed, documents deleted, others put in, one changed by somebody else.
    namespace.execute("UPDATE orders SET total = total + 1 WHERE id % 20 = 0").await?;
    let (elastic, index) = (namespace.elastic(), namespace.index("orders"));
    for id in 1..=50 {
        elastic.ok(Method::DELETE, &format!("/{index}/_doc/{}", id * 20 + 1), None).await?;
        elastic.ok(Method::PUT, &format!("/{index}/_doc/{}", 50_000 + id), Some(json!({"id": id}))).await?;
    }
    let changed = json!({"doc": {"status": "cancelled", "currency": "XXX"}});
    elastic.ok(Method::POST, &format!("/{index}/_update/7"), Some(changed)).await?;
    // One that no read has a newer version than, for a while: other tests move the log on, too.
    let held = elastic.get(&index, "9").await?.context("order 9")?;
    let future = held["_version"].as_u64().context("a version")? + 30_000_000;
    let path = format!("/{index}/_doc/9?version={future}&version_type=external");
    elastic.ok(Method::PUT, &path, Some(json!({"id": 9, "currency": "YYY"}))).await?;

    let (verified, is_true) = verify(&pinion, &["--patience-s", "1"]).await?;
    assert!(!is_true);
    assert_eq!(counts(&verified), [50, 50, 0, 0], "{verified}");
    let (verified, is_true) = verify(&pinion, &["--full", "--patience-s", "1", "--examples", "200"]).await?;
    assert!(!is_true);
    assert_eq!(counts(&verified), [50, 50, 1_002, 0], "{verified}");
    assert_eq!(verified["fields"]["total"], 1_001);
    assert_eq!(verified["fields"]["currency"], 2);
    assert!(verified["from_the_future"].as_u64().is_some_and(|future| future >= 1), "{verified}");
    assert!(verified["missing"]["examples"].as_array().context("ids")?.contains(&json!("21")), "{verified}");
    assert!(verified["orphaned"]["examples"].as_array().context("ids")?.contains(&json!("50010")), "{verified}");
    let shown = pinion.command(&["verify", "orders", "--full", "--patience-s", "0", "--examples", "1"]).await?;
    assert_eq!(shown.code, 1);
    for expected in [
        "orders: 1,102 documents not true to the source",
        "missing: a row, no document",
        "`pinion verify orders --full --repair`",
    ] {
        assert!(shown.stdout.contains(expected), "{expected}: {}", shown.stdout);
    }

    a_range_shows_its_part(&pinion).await?;

    let (verified, _) = verify(&pinion, &["--full", "--patience-s", "0", "--repair"]).await?;
    assert_eq!((counts(&verified), &verified["repaired"]), ([50, 50, 1_002, 0], &json!(1_102)), "{verified}");
    assert_eq!(verified["passed"], true, "{verified}");
    mended(&pinion).await?;
    let (sample, is_true) = verify(&pinion, &["--full", "--sample", "0.5"]).await?;
    assert!(is_true);
    let (looked, bound) = (sample["source_ids"].as_u64().context("ids")?, sample["wrong_part_max"].as_f64());
    assert!((9_000..11_000).contains(&looked) && bound.is_some_and(|bound| bound < 0.0005), "{sample}");

    // Each result is kept.
    let kept = format!("{}-verify", namespace.name());
    elastic.refresh(&kept).await?;
    let query = json!({"size": 1, "sort": [{"started_at": "desc"}], "query": {"term": {"job": "orders"}}});
    let last = elastic.search(&kept, query).await?["hits"]["hits"][0]["_source"].clone();
    assert_eq!(
        (&last["wrong"], &last["sampled"], &last["result"]["source_ids"]),
        (&json!(0), &json!(true), &json!(looked))
    );
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

/// Of what [`exactly_what_is_wrong_is_found_and_repaired`] has spoiled, ranges of ids and of columns show what lies in them.
async fn a_range_shows_its_part(pinion: &Pinion) -> Result<()> {
    for (range, rows, documents, expected) in [
        // Of the missing ones, 101 to 201 in steps of 20; of the changed ones, 100 to 200.
        (vec!["--from", "100", "--to", "202"], 102, 96, [6, 0, 6, 0]),
        (vec!["--from", "20001"], 0, 50, [0, 50, 0, 0]),
        // The orphans' own fields say 1 to 50.
        (vec!["--by", "id", "--from", "3", "--to", "5"], 2, 4, [0, 2, 0, 0]),
        (vec!["--by", "id", "--to", "8"], 7, 14, [0, 7, 1, 0]),
    ] {
        let arguments: Vec<&str> = ["--full", "--patience-s", "0"].iter().chain(&range).copied().collect();
        let (verified, _) = verify(pinion, &arguments).await?;
        assert_eq!(counts(&verified), expected, "{range:?}: {verified}");
        let looked = (&verified["source_ids"], &verified["index_ids"]);
        assert_eq!(looked, (&json!(rows), &json!(documents)), "{range:?}: {verified}");
    }
    for (range, reason) in [
        (["--by", "customer.created_at", "--from", "2024-01-01"], "customer.created_at is no column of orders"),
        (["--by", "customer.name", "--from", "A"], "only numbers and dates have the same order"),
        (["--by", "placed", "--from", "2024-01-01"], "has no field placed"),
        (["--by", "placed_at", "--from", "yesterday"], "yesterday"),
        (["--by", "_id", "--from", "x"], "the job's key is bigint"),
    ] {
        let refused = pinion.command(&[&["verify", "orders"][..], &range].concat()).await?;
        assert!(refused.code == 1 && refused.stderr.contains(reason), "{range:?}: {refused:?}");
    }
    Ok(())
}

/// Rows that have changed since a time are looked at, and enqueued, without the others.
#[tokio::test]
async fn what_has_changed_since_a_time_is_verified_and_enqueued() -> Result<()> {
    const SINCE: [&str; 4] = ["--by", "updated_at", "--from", "2031-05-01T12:00:00"];
    let namespace = Namespace::shop(200).await?;
    let (pinion, worker) = indexed(&namespace, &Setup::shop(&namespace)?, 200).await?;
    for (ids, time) in [("1 AND 5", "2031-05-01 12:00:00Z"), ("6 AND 9", "2031-05-01 11:59:59Z")] {
        namespace.execute(&format!("UPDATE orders SET updated_at = '{time}' WHERE id BETWEEN {ids}")).await?;
    }
    let full = [&["--full", "--patience-s", "0"][..], &SINCE].concat();
    let (verified, is_true) = verify(&pinion, &full).await?;
    // The index shows none of them in the range yet.
    assert_eq!((is_true, &verified["source_ids"], &verified["index_ids"]), (false, &json!(5), &json!(0)), "{verified}");
    assert_eq!(counts(&verified), [0, 0, 5, 0], "{verified}");
    let shown = pinion.command(&[&["verify", "orders"][..], &full].concat()).await?;
    assert!(
        shown.stdout.starts_with("orders, updated_at from 2031-05-01T12:00:00: 5 documents not true"),
        "{}",
        shown.stdout
    );
    let enqueued =
        pinion.command(&[&["enqueue", "orders", "--all", "--json"][..], &SINCE].concat()).await?.ok()?.json()?;
    assert_eq!(enqueued["ids"], 5, "{enqueued}");
    settled(&worker, "orders", "indexed", 205).await?;
    namespace.elastic().refresh(&namespace.index("orders")).await?;
    let (verified, is_true) = verify(&pinion, &full).await?;
    assert_eq!((is_true, &verified["source_ids"], &verified["index_ids"]), (true, &json!(5), &json!(5)), "{verified}");
    let unclear = pinion.command(&["enqueue", "orders", "1", "--from", "5"]).await?;
    assert!(unclear.code == 2 && unclear.stderr.contains("--all"), "{unclear:?}");
    let unclear = pinion.command(&["verify", "orders", "--by", "updated_at"]).await?;
    assert!(unclear.code == 2 && unclear.stderr.contains("--from"), "{unclear:?}");
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

/// Rows change all the time, and their jobs are done: no difference stands.
#[tokio::test]
async fn a_busy_index_raises_no_false_alarm() -> Result<()> {
    const BUSY: Duration = Duration::from_secs(15);
    let namespace = Namespace::shop(500).await?;
    let (pinion, worker) = indexed(&namespace, &Setup::shop(&namespace)?, 500).await?;
    let until = Instant::now() + BUSY;
    let change = async {
        let mut changes = 0_i64;
        while Instant::now() < until {
            let ids: Vec<i64> = (0..20).map(|step| 1 + (changes * 7 + step * 13) % 500).collect();
            let list = ids.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
            namespace.execute(&format!("UPDATE orders SET total = total + 1 WHERE id IN ({list}, 1)")).await?;
            send(&namespace, "orders", ids.into_iter().chain([1])).await?;
            changes += 1;
        }
        Ok::<_, anyhow::Error>(changes)
    };
    let look = async {
        let mut in_flight = 0;
        while Instant::now() < until {
            let (verified, is_true) = verify(&pinion, &["--full", "--patience-s", "10"]).await?;
            ensure!(is_true, "{verified}");
            in_flight += verified["in_flight"].as_u64().unwrap_or_default();
        }
        Ok(in_flight)
    };
    let (changes, in_flight) = tokio::try_join!(change, look)?;
    assert!(changes > 10 && in_flight > 0, "{changes} changes, {in_flight} in flight: nothing was put to the test");
    mended(&pinion).await?;
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

/// `[verify]`: one of the workers looks, tells whoever listens, and has it repaired.
#[tokio::test]
async fn workers_verify_by_themselves_and_tell_of_it() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let webhook = format!("http://{}/services/x", listener.local_addr()?);
    let namespace = Namespace::shop(200).await?;
    let setup = Setup::shop(&namespace)?;
    let extra = format!("{}\n[verify]\nevery_s = 2\nrepair = true\nwebhook = {webhook:?}\n", setup.extra);
    let pinion = applied(&namespace, &Setup { extra, ..setup }).await?;
    let jobs = ["--jobs", "orders"];
    let (worker, other) = (pinion.work(&jobs).await?, pinion.work(&jobs).await?);
    pinion.command(&["enqueue", "orders", "--all"]).await?.ok()?;
    mended(&pinion).await?;
    namespace.execute("UPDATE orders SET total = total + 1 WHERE id IN (3, 4)").await?;
    let told = tokio::time::timeout(TIMEOUT, message(&listener)).await??;
    let expected = "pinion verify orders: not true to the source: 2 different (3 4); 2 enqueued to be repaired";
    assert_eq!(told["text"], expected);
    eventually("a job's documents to be verified by either worker", TIMEOUT, async || {
        let mut verified = 0.0;
        for worker in [&worker, &other] {
            verified += worker.metrics().await?.sum("pinion_verified_total", &[("job", "orders")]);
        }
        ensure!(verified >= 200.0, "{verified} rows of orders were compared");
        Ok(Some(()))
    })
    .await?;
    mended(&pinion).await?;
    assert_eq!((worker.terminate().await?, other.terminate().await?), (0, 0));
    namespace.finish().await
}

/// The JSON of the next request, which is answered.
async fn message(listener: &TcpListener) -> Result<Value> {
    let (mut stream, _) = listener.accept().await?;
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer).await?;
        ensure!(count > 0, "the request ended early");
        received.extend_from_slice(&buffer[..count]);
        let body = received.windows(4).position(|end| end == b"\r\n\r\n").map(|end| &received[end + 4..]);
        if let Some(Ok(message)) = body.map(serde_json::from_slice) {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
            return Ok(message);
        }
    }
}

#[tokio::test]
async fn mariadb_is_verified_both_ways() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mariadb(&namespace, 300).await?;
    let (pinion, worker) = indexed(&namespace, &Setup::mysql(&namespace, &shop)?, 300).await?;
    let (elastic, index) = (namespace.elastic(), namespace.index("orders"));
    elastic.ok(Method::DELETE, &format!("/{index}/_doc/5"), None).await?;
    elastic.ok(Method::PUT, &format!("/{index}/_doc/9000"), Some(json!({"id": 9000}))).await?;
    shop.execute("UPDATE orders SET total = total + 1 WHERE id = 6").await?;
    let (verified, _) = verify(&pinion, &["--patience-s", "0"]).await?;
    assert_eq!(counts(&verified), [1, 1, 0, 0], "{verified}");
    let (verified, _) = verify(&pinion, &["--patience-s", "0", "--by", "id", "--from", "5"]).await?;
    assert_eq!(counts(&verified), [1, 1, 0, 0], "{verified}");
    let (verified, _) = verify(&pinion, &["--patience-s", "0", "--from", "6", "--to", "8"]).await?;
    assert_eq!((counts(&verified), &verified["source_ids"]), ([0; 4], &json!(2)), "{verified}");
    // A row is in the range of its time.
    let since = ["--patience-s", "0", "--by", "updated_at", "--from", "2031-01-01"];
    shop.execute("UPDATE orders SET updated_at = '2031-01-01 00:00:00' WHERE id IN (5, 7)").await?;
    let (verified, _) = verify(&pinion, &since).await?;
    assert_eq!((counts(&verified), &verified["source_ids"]), ([1, 0, 0, 0], &json!(2)), "{verified}");
    let (verified, _) = verify(&pinion, &["--full", "--patience-s", "0", "--repair"]).await?;
    assert_eq!(counts(&verified), [1, 1, 2, 0], "{verified}");
    mended(&pinion).await?;
    assert_eq!(worker.terminate().await?, 0);
    drop(shop);
    namespace.finish().await
}

#[tokio::test]
async fn two_indexes_are_compared_both_ways() -> Result<()> {
    let namespace = Namespace::shop(60).await?;
    let (pinion, worker) = indexed(&namespace, &Setup::shop(&namespace)?, 60).await?;
    assert_eq!(worker.terminate().await?, 0);
    let (elastic, index) = (namespace.elastic(), namespace.index("orders"));
    let copy = format!("{}-copy", namespace.name());
    elastic.refresh(&index).await?;
    let all = elastic.search(&index, json!({"size": 1_000})).await?;
    for hit in all["hits"]["hits"].as_array().context("hits")? {
        let path = format!("/{copy}/_doc/{}", hit["_id"].as_str().context("an id")?);
        elastic.ok(Method::PUT, &path, Some(hit["_source"].clone())).await?;
    }
    let same = pinion.command(&["diff", &index, &copy]).await?.ok()?;
    assert!(same.stdout.contains(": the same ("), "{}", same.stdout);

    elastic.ok(Method::DELETE, &format!("/{copy}/_doc/1"), None).await?;
    elastic.ok(Method::PUT, &format!("/{copy}/_doc/x"), Some(json!({"a": 1}))).await?;
    for id in 2..=4 {
        let changed = json!({"doc": {"total": 0.5, "customer": {"name": "Somebody"}}});
        elastic.ok(Method::POST, &format!("/{copy}/_update/{id}"), Some(changed)).await?;
    }
    let output = pinion.command(&["diff", &index, &copy, "--json"]).await?;
    assert_eq!(output.code, 1);
    let found = output.json()?;
    assert_eq!(found["only_a"], json!({"count": 1, "examples": ["1"]}));
    assert_eq!(found["only_b"], json!({"count": 1, "examples": ["x"]}));
    assert_eq!((&found["different"], &found["fields"]), (&json!(3), &json!({"total": 3, "customer.name": 3})));
    let ignored =
        pinion.command(&["diff", &index, &copy, "--ignore", "total", "--ignore", "customer", "--json"]).await?;
    assert_eq!((ignored.code, &ignored.json()?["different"]), (1, &json!(0)));
    let shown = pinion.command(&["diff", &index, &copy, "--examples", "1"]).await?;
    assert!(shown.stdout.contains("customer.name") && shown.stdout.contains("\"Somebody\""), "{}", shown.stdout);
    let ids = pinion.command(&["diff", &index, &copy, "--ids-only", "--json"]).await?;
    assert_eq!((ids.code, &ids.json()?["different"]), (1, &json!(0)));
    let missing = pinion.command(&["diff", &index, "no-such-index"]).await?;
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.contains("there is no index or alias no-such-index"), "{}", missing.stderr);
    elastic.ok(Method::DELETE, &format!("/{copy}"), None).await?;
    namespace.finish().await
}
