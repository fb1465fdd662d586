//! Bad input gets a clear word and its place, and nothing else suffers.

use anyhow::{Context, Result, ensure};
use pinion_tests::{Namespace, Pinion, Setup, Worker, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::shop::{TIMEOUT, applied, compare_all, dead_letters, dead_letters_of, send, send_raw, settled};

fn reason_of<'a>(letters: &'a [Value], text: &str) -> Result<&'a Value> {
    letters
        .iter()
        .find(|letter| letter["error"].as_str().is_some_and(|error| error.contains(text)))
        .with_context(|| format!("no dead letter says {text:?}: {letters:#?}"))
}

#[tokio::test]
async fn bad_messages_become_dead_letters_and_stop_nothing() -> Result<()> {
    let namespace = Namespace::shop(20).await?;
    let setup = Setup::shop(&namespace)?;
    let worker = applied(&namespace, &setup).await?.work(&[]).await?;
    let large = format!(r#"{{"id": 1, "job_name": "orders", "padding": "{}"}}"#, "x".repeat(1_100_000));
    let cases = [
        ("not json".to_owned(), "line 1"),
        (r#"{"job_name": "orders"}"#.to_owned(), "id"),
        (r#"{"id": 1}"#.to_owned(), "job_name"),
        (r#"{"id": 1, "job_name": "invoices"}"#.to_owned(), "no job is called \"invoices\""),
        (r#"{"ids": [], "job_name": "orders"}"#.to_owned(), "ids"),
        (r#"{"id": 9223372036854775808, "job_name": "orders"}"#.to_owned(), "9223372036854775808"),
        (r#"{"id": 1.5, "job_name": "orders"}"#.to_owned(), "1.5"),
        (r#"{"id": null, "job_name": "orders"}"#.to_owned(), "null"),
        (r#"{"ids": [1, "x", 2], "job_name": "orders"}"#.to_owned(), "\"x\""),
        (large, "1048576"),
    ];
    for (body, _) in &cases {
        send_raw(&namespace, "orders", body.clone()).await?;
    }
    send(&namespace, "orders", 1..=20).await?;
    settled(&worker, "orders", "indexed", 20).await?;
    let letters = dead_letters_of(&namespace, cases.len()).await?;
    for (_, said) in &cases {
        reason_of(&letters, said)?;
    }
    ensure!(compare_all(&namespace, &setup, "orders", "orders").await? == 20);
    assert_eq!(worker.terminate().await?, 0);
    assert_eq!(namespace.rabbit().ready(&format!("{}.orders", namespace.name())).await?, 0);
    namespace.finish().await
}

#[tokio::test]
async fn a_message_in_the_wrong_queue_goes_where_its_body_says() -> Result<()> {
    let namespace = Namespace::shop(5).await?;
    let worker = applied(&namespace, &Setup::shop(&namespace)?).await?.work(&[]).await?;
    send_raw(&namespace, "orders", r#"{"id": 3, "job_name": "customers"}"#).await?;
    settled(&worker, "customers", "indexed", 1).await?;
    assert!(namespace.elastic().get(&namespace.index("customers"), "3").await?.is_some());
    assert!(namespace.elastic().get(&namespace.index("orders"), "3").await?.is_none());
    namespace.finish().await
}

const ITEMS: &str = "CREATE TABLE items (id bigint PRIMARY KEY, data json, price text);
    GRANT SELECT ON items TO pinion;
    INSERT INTO items SELECT g, '{}', '1.5' FROM generate_series(1, 10000) g;";
const ITEMS_JOB: &str =
    "index = \"items\"\nsource = \"shop\"\nkey = \"bigint\"\n\n[[watch]]\ntable = \"public.items\"\nkey = \"id\"\n";
const ITEMS_SQL: &str = "SELECT i.id AS _id, i.data, i.price FROM items i WHERE i.id = ANY(:ids)";
const ITEMS_MAPPING: &str = r#"{"mappings": {"dynamic": false, "properties": {
    "data": {"type": "object", "enabled": false}, "price": {"type": "double"}}}}"#;

/// A namespace with a table of 10,000 items and one job of it.
async fn items(worker_settings: &str) -> Result<(Namespace, Setup)> {
    let namespace = Namespace::shop(10).await?;
    namespace.execute(ITEMS).await?;
    let setup = Setup { worker: worker_settings.to_owned(), ..Setup::shop(&namespace)? };
    setup.write_job(&namespace, "items", ITEMS_JOB, ITEMS_SQL, ITEMS_MAPPING)?;
    Ok((namespace, setup))
}

#[tokio::test]
async fn one_bad_document_among_many_is_a_dead_letter_that_can_be_replayed() -> Result<()> {
    let (namespace, setup) = items("").await?;
    namespace.execute("UPDATE items SET price = 'dear' WHERE id = 5000").await?;
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "items"]).await?;
    send(&namespace, "items", 1..=10_000).await?;
    settled(&worker, "items", "indexed", 9_999).await?;
    let letters = dead_letters_of(&namespace, 1).await?;
    assert_eq!(letters[0]["id"], "5000");
    let error = letters[0]["error"].as_str().context("an error")?;
    assert!(error.contains("failed to parse field [price] of type [double]"), "{error}");
    assert_eq!(namespace.elastic().count(&namespace.index("items")).await?, 9_999);

    namespace.execute("UPDATE items SET price = '3' WHERE id = 5000").await?;
    let counted = pinion.command(&["dead", "replay", "--job", "items"]).await?.ok()?;
    assert!(counted.stdout.contains("1"), "{}", counted.stdout);
    assert_eq!(dead_letters(&namespace).await?.len(), 1, "without --yes it only counts");
    pinion.command(&["dead", "replay", "--job", "items", "--yes"]).await?.ok()?;
    settled(&worker, "items", "indexed", 10_000).await?;
    dead_letters_of(&namespace, 0).await?;
    assert_eq!(namespace.elastic().count(&namespace.index("items")).await?, 10_000);
    namespace.finish().await
}

#[tokio::test]
async fn raw_line_breaks_in_json_never_become_an_action() -> Result<()> {
    let (namespace, setup) = items("").await?;
    let spelled = "{\n\"a\": 1}\r\n";
    namespace
        .execute(&format!(
            "UPDATE items SET data = E'{}' WHERE id = 1",
            spelled.replace('\n', "\\n").replace('\r', "\\r")
        ))
        .await?;
    let hostile = "[1,\\n{\"delete\":{\"_id\":\"2\"}}\\n]";
    namespace.execute(&format!("UPDATE items SET data = E'{hostile}' WHERE id = 3")).await?;
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "items"]).await?;
    send(&namespace, "items", 1..=3).await?;
    settled(&worker, "items", "indexed", 3).await?;
    let index = namespace.index("items");
    let third = namespace.elastic().get(&index, "3").await?.context("document 3")?;
    assert_eq!(third["_source"]["data"], json!([1, {"delete": {"_id": "2"}}]));
    let first = namespace.elastic().get(&index, "1").await?.context("document 1")?;
    assert_eq!(first["_source"]["data"], json!({"a": 1}));
    assert!(namespace.elastic().get(&index, "2").await?.is_some(), "the value deleted another document");
    namespace.finish().await
}

#[tokio::test]
async fn a_huge_document_is_a_dead_letter() -> Result<()> {
    let (namespace, setup) = items("").await?;
    namespace.execute("UPDATE items SET price = repeat('x', 150000000) WHERE id = 2").await?;
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "items"]).await?;
    send(&namespace, "items", 1..=4).await?;
    settled(&worker, "items", "indexed", 3).await?;
    let letters = dead_letters_of(&namespace, 1).await?;
    assert_eq!(letters[0]["reason"], "too_large");
    reason_of(&letters, "bulk_bytes_max")?;
    namespace.finish().await
}

/// A message of any size is a letter of no size to speak of, which tells what it had.
#[tokio::test]
async fn a_huge_message_is_a_small_dead_letter() -> Result<()> {
    const BYTES: usize = 4 * 1024 * 1024;
    let namespace = Namespace::shop(2).await?;
    let pinion = applied(&namespace, &Setup::shop(&namespace)?).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    for last in ["a", "b"] {
        send_raw(&namespace, "orders", "x".repeat(BYTES - 1) + last).await?;
    }
    // What is not as it should be is quoted by the error, however long it is.
    let quoted = format!(r#"{{"ids": "{}", "job_name": "orders"}}"#, "y".repeat(900_000));
    send_raw(&namespace, "orders", quoted.clone()).await?;
    send(&namespace, "orders", [1, 2]).await?;
    settled(&worker, "orders", "indexed", 2).await?;
    let letters = dead_letters_of(&namespace, 3).await?;
    let bytes: Vec<u64> = letters.iter().filter_map(|letter| letter["message_bytes"].as_u64()).collect();
    assert_eq!(bytes.iter().filter(|bytes| **bytes == BYTES as u64).count(), 2, "{bytes:?}");
    assert!(bytes.contains(&(quoted.len() as u64)), "{bytes:?}");
    for letter in &letters {
        assert_eq!(letter["reason"], "undecodable");
        let stored = letter.to_string().len();
        assert!(stored < 64 * 1024 * 4 / 3 + 8192, "a letter takes {stored} bytes");
    }
    let listed = pinion.command(&["dead", "list", "--json"]).await?.ok()?.json()?;
    let key = listed["letters"][0]["key"].as_str().context("a key")?;
    let shown = pinion.command(&["dead", "show", key]).await?.ok()?.stdout;
    assert!(shown.contains("\nmessage, the first 65,536 of "), "{}", &shown[..1000]);
    let replayed = pinion.command(&["dead", "replay", "--yes"]).await?;
    assert_eq!(replayed.code, 1);
    assert!(
        replayed.stdout.contains("3 can't be replayed, and stay: only the first 65536 bytes"),
        "{}",
        replayed.stdout
    );
    assert_eq!(dead_letters(&namespace).await?.len(), 3);
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

/// Waits until the worker says that `job` is broken, with this text in the reason; others must go on meanwhile.
async fn broken(worker: &Worker, job: &str, said: &str) -> Result<()> {
    eventually(&format!("{job} to be broken: {said}"), TIMEOUT, async || {
        let (_, page) = worker.admin("/readyz").await?;
        let page: Value = serde_json::from_str(&page)?;
        let status = &page["jobs"][job];
        ensure!(status["state"] == "broken", "it is {status}");
        let reason = status["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains(said), "it says {reason}");
        Ok(Some(()))
    })
    .await
}

/// Runs items with a broken definition: the job pauses and keeps its messages, orders go on, no dead letters.
async fn pauses(sql: &str, mapping: &str, said: &str) -> Result<()> {
    let (namespace, setup) = items("").await?;
    setup.write_job(&namespace, "items", ITEMS_JOB, ITEMS_SQL, ITEMS_MAPPING)?;
    let pinion = applied(&namespace, &setup).await?;
    setup.write_job(&namespace, "items", ITEMS_JOB, sql, mapping)?;
    let worker = pinion.work(&["--jobs", "items,orders"]).await?;
    send(&namespace, "items", 1..=100).await?;
    broken(&worker, "items", said).await?;
    send(&namespace, "orders", 1..=10).await?;
    settled(&worker, "orders", "indexed", 10).await?;
    assert_eq!(worker.admin("/readyz").await?.0, 200, "the other job makes progress");
    eventually("the messages to be back in their queue", TIMEOUT, async || {
        Ok((namespace.rabbit().ready(&format!("{}.items", namespace.name())).await? == 100).then_some(()))
    })
    .await?;
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    namespace.finish().await
}

#[tokio::test]
async fn a_query_with_an_error_pauses_its_job() -> Result<()> {
    pauses(
        "SELECT i.id AS _id, i.nothing FROM items i WHERE i.id = ANY(:ids)",
        ITEMS_MAPPING,
        "i.nothing does not exist",
    )
    .await
}

#[tokio::test]
async fn a_query_without_the_key_pauses_its_job() -> Result<()> {
    pauses("SELECT i.price FROM items i WHERE i.id = ANY(:ids)", ITEMS_MAPPING, "no column is called _id").await
}

#[tokio::test]
async fn a_query_with_two_rows_a_key_pauses_its_job() -> Result<()> {
    let sql = "SELECT i.id AS _id, i.price FROM items i, generate_series(1, 2) WHERE i.id = ANY(:ids)";
    pauses(sql, ITEMS_MAPPING, "more than one row for _id").await
}

#[tokio::test]
async fn a_mapping_that_refuses_most_pauses_its_job_until_it_is_mended() -> Result<()> {
    let (namespace, setup) = items("").await?;
    namespace.execute("UPDATE items SET price = 'dear'").await?;
    let pinion = applied(&namespace, &setup).await?;
    // All of it waits already: a batch of less than 20 judges no job.
    send(&namespace, "items", 1..=100).await?;
    let worker = pinion.work(&["--jobs", "items"]).await?;
    broken(&worker, "items", "failed to parse field [price]").await?;
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    namespace.execute("UPDATE items SET price = '2'").await?;
    settled(&worker, "items", "indexed", 100).await?;
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    namespace.finish().await
}

async fn mended_index(
    break_it: impl AsyncFn(&Namespace) -> Result<()>,
    said: &str,
    mend: impl AsyncFn(&Namespace, &Pinion) -> Result<()>,
) -> Result<()> {
    let (namespace, setup) = items("").await?;
    let pinion = applied(&namespace, &setup).await?;
    break_it(&namespace).await?;
    let worker = pinion.work(&["--jobs", "items,orders"]).await?;
    send(&namespace, "items", 1..=100).await?;
    broken(&worker, "items", said).await?;
    send(&namespace, "orders", 1..=10).await?;
    settled(&worker, "orders", "indexed", 10).await?;
    mend(&namespace, &pinion).await?;
    settled(&worker, "items", "indexed", 100).await?;
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    namespace.finish().await
}

#[tokio::test]
async fn a_missing_index_pauses_its_job_and_is_not_created_by_a_bulk() -> Result<()> {
    let remove = async |namespace: &Namespace| {
        let alias = namespace.elastic().ok(Method::GET, &format!("/_alias/{}", namespace.index("items")), None).await?;
        for index in alias.as_object().context("the alias' indexes")?.keys() {
            namespace.elastic().ok(Method::DELETE, &format!("/{index}"), None).await?;
        }
        Ok(())
    };
    let apply = async |_: &Namespace, pinion: &Pinion| pinion.command(&["apply"]).await?.ok().map(|_| ());
    mended_index(remove, "index_not_found_exception", apply).await
}

#[tokio::test]
async fn a_read_only_index_pauses_its_job() -> Result<()> {
    let block = async |namespace: &Namespace| {
        let path = format!("/{}/_settings", namespace.index("items"));
        namespace.elastic().ok(Method::PUT, &path, Some(json!({"index.blocks.write": true}))).await.map(|_| ())
    };
    let unblock = async |namespace: &Namespace, _: &Pinion| {
        let path = format!("/{}/_settings", namespace.index("items"));
        namespace.elastic().ok(Method::PUT, &path, Some(json!({"index.blocks.write": null}))).await.map(|_| ())
    };
    mended_index(block, "cluster_block_exception", unblock).await
}
