//! `pinion explain`: both sides of a document.

use anyhow::Result;
use pinion_tests::{Namespace, Setup};
use serde_json::json;

use crate::shop::{applied, dead_letters_of, document, send, settled};

#[tokio::test]
async fn both_documents_and_their_difference_are_shown() -> Result<()> {
    let namespace = Namespace::shop(10).await?;
    let pinion = applied(&namespace, &Setup::shop(&namespace)?).await?;
    let worker = pinion.work(&[]).await?;
    let missing = pinion.command(&["explain", "orders", "7"]).await?;
    assert_eq!(missing.code, 1);
    assert!(missing.stdout.starts_with("orders 7: missing in the index; "), "{}", missing.stdout);
    send(&namespace, "orders", [7]).await?;
    settled(&worker, "orders", "indexed", 1).await?;
    let equal = pinion.command(&["explain", "orders", "7", "--json"]).await?.ok()?.json()?;
    assert_eq!((&equal["equal"], &equal["differences"]), (&json!(true), &json!([])));
    assert_eq!(equal["source"]["document"], equal["index"]["document"]);

    namespace.execute("UPDATE orders SET total = 12.50, status = 'cancelled' WHERE id = 7").await?;
    let differs = pinion.command(&["explain", "orders", "7", "--json"]).await?;
    assert_eq!(differs.code, 1);
    let differs = differs.json()?;
    let fields: Vec<_> =
        differs["differences"].as_array().into_iter().flatten().map(|found| found["field"].clone()).collect();
    assert_eq!(fields, ["status", "total"]);
    assert_eq!(differs["differences"][1]["source"], json!(12.5));
    assert_eq!(differs["index"]["age"], "older");
    let index_version: u64 = differs["index"]["version"]["number"].as_str().unwrap_or_default().parse()?;
    assert_eq!(differs["index"]["version"]["generation"], 1);
    let held = namespace.elastic().get(&namespace.index("orders"), "7").await?.unwrap_or_default();
    assert_eq!(held["_version"], index_version);
    let source_version: u64 = differs["source"]["version"]["number"].as_str().unwrap_or_default().parse()?;
    assert!(source_version > index_version);

    send(&namespace, "orders", [7]).await?;
    document(&namespace, "orders", 7, |found| found["status"].clone(), Some(json!("cancelled"))).await?;
    pinion.command(&["explain", "orders", "7"]).await?.ok()?;
    namespace.execute("DELETE FROM orders WHERE id = 7").await?;
    let gone = pinion.command(&["explain", "orders", "7"]).await?;
    assert_eq!(gone.code, 1);
    assert!(gone.stdout.contains("the source has it no longer, the index still does"), "{}", gone.stdout);
    let neither = pinion.command(&["explain", "orders", "-8"]).await?.ok()?;
    assert!(neither.stdout.contains("neither in the source nor in the index"), "{}", neither.stdout);

    namespace.execute("UPDATE customers SET name = repeat('x', 40000) WHERE id = 3").await?;
    send(&namespace, "customers", [3]).await?;
    dead_letters_of(&namespace, 1).await?;
    let dead = pinion.command(&["explain", "customers", "3"]).await?;
    assert_eq!(dead.code, 1);
    assert!(dead.stdout.contains("`pinion dead replay --job customers --id 3 --yes`"), "{}", dead.stdout);
    assert!(dead.stdout.contains("dead letter customers/3: refused, "), "{}", dead.stdout);
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

#[tokio::test]
async fn any_text_can_be_an_id_and_numbers_keep_their_digits() -> Result<()> {
    let namespace = Namespace::empty().await?;
    namespace
        .execute(
            "CREATE TABLE things (id text PRIMARY KEY, n numeric);
             INSERT INTO things VALUES ('.', 9007199254740993), ('a/b?c#d e%2fä\"', 0.10000000000000000000000000001)",
        )
        .await?;
    let setup = Setup::without_jobs(&namespace)?;
    let job = "index = \"x\"\nsource = \"shop\"\nkey = \"text\"\n[[watch]]\ntable = \"public.things\"\nkey = \"id\"\n";
    let mapping = r#"{"mappings": {"dynamic": "strict", "properties": {"n": {"type": "double"}}}}"#;
    setup.write_job(&namespace, "things", job, "SELECT id AS _id, n FROM things WHERE id = ANY(:ids)", mapping)?;
    namespace.replica_caught_up().await?;
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&[]).await?;
    let ids = [".", "a/b?c#d e%2fä\""];
    pinion.command(&["enqueue", "things", ids[0], ids[1]]).await?.ok()?;
    settled(&worker, "things", "indexed", 2).await?;
    for id in ids {
        pinion.command(&["explain", "things", id]).await?.ok()?;
    }
    namespace.execute("UPDATE things SET n = n + 1e-29").await?;
    let differs = pinion.command(&["explain", "things", ids[1]]).await?;
    assert_eq!(differs.code, 1);
    assert!(
        differs.stdout.contains("n      0.10000000000000000000000000002  0.10000000000000000000000000001"),
        "{}",
        differs.stdout
    );
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

#[tokio::test]
async fn what_is_missing_is_named() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let pinion = Setup::shop(&namespace)?.write(&namespace)?;
    let missing = pinion.command(&["explain", "orders", "1"]).await?;
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.contains("is missing: run `pinion apply`"), "{}", missing.stderr);
    let wrong = pinion.command(&["explain", "orders", "x"]).await?;
    assert!(wrong.stderr.contains("id \"x\" is not a whole number"), "{}", wrong.stderr);
    let unknown = pinion.command(&["explain", "order", "1"]).await?;
    assert!(unknown.stderr.contains("no job is called order; "), "{}", unknown.stderr);
    namespace.finish().await
}
