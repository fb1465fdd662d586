//! `pinion plan` and `pinion apply` on the real broker and the real Elasticsearch.

use anyhow::{Context, Result, ensure};
use pinion_tests::{Namespace, Pinion, Setup, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::shop::{TIMEOUT, applied, document, send, settled};

/// The queues and indexes of the shop's jobs; the database is not asked.
async fn shop() -> Result<(Namespace, Setup)> {
    let namespace = Namespace::empty().await?;
    let setup = Setup::shop(&namespace)?;
    Ok((namespace, setup))
}

/// The index behind a job's alias: its name, and what Elasticsearch says of it.
async fn index_of(namespace: &Namespace, job: &str) -> Result<(String, Value)> {
    let path = format!("/{}?flat_settings=true", namespace.index(job));
    let answer = namespace.elastic().ok(Method::GET, &path, None).await?;
    let (name, index) = answer.as_object().and_then(|indexes| indexes.iter().next()).context("an index")?;
    Ok((name.clone(), index.clone()))
}

fn edit(setup: &Setup, file: &str, edit: impl FnOnce(&str) -> String) -> Result<()> {
    let file = setup.jobs.join(file);
    let before = std::fs::read_to_string(&file)?;
    let after = edit(&before);
    ensure!(before != after, "nothing was changed in {}", file.display());
    Ok(std::fs::write(file, after)?)
}

/// What is left to do, as `plan --json` tells it.
async fn plan(pinion: &Pinion) -> Result<Value> {
    pinion.command(&["plan", "--json"]).await?.ok()?.json()
}

#[tokio::test]
async fn applying_twice_changes_nothing() -> Result<()> {
    let (namespace, setup) = shop().await?;
    let pinion = setup.write(&namespace)?;
    let planned = pinion.command(&["plan"]).await?.ok()?.stdout;
    let queue = format!("  + queue {}.orders (routing key orders)\n", namespace.name());
    assert!(planned.contains(&queue), "{planned}");
    assert!(planned.ends_with("35 to create. `pinion apply` does it.\n"), "{planned}");
    let done = pinion.command(&["apply"]).await?.ok()?.stdout;
    assert!(done.contains(&queue) && done.ends_with("35 done.\n"), "{done}");
    let before = index_of(&namespace, "orders").await?;
    assert_eq!(pinion.command(&["apply"]).await?.ok()?.stdout, "Nothing to do.\n");
    assert_eq!(plan(&pinion).await?, json!({"pending": 0, "remaining": 0, "steps": []}));
    assert_eq!(index_of(&namespace, "orders").await?, before);
    let (name, index) = before;
    let stamp = name.strip_prefix(&format!("{}-", namespace.index("orders"))).context("the alias begins the name")?;
    assert!(stamp.len() == 14 && stamp.bytes().all(|byte| byte.is_ascii_digit()), "{name}");
    assert_eq!(index["settings"]["index.gc_deletes"], "1h");
    assert_eq!(index["mappings"]["_meta"]["pinion"]["job"], "orders");
    namespace.finish().await
}

#[tokio::test]
async fn the_queues_are_declared_as_applications_may_declare_them() -> Result<()> {
    let (namespace, setup) = shop().await?;
    applied(&namespace, &setup).await?;
    let name = namespace.name();
    let queue = async |queue: &str| {
        namespace.rabbit().management(Method::GET, &format!("/queues/%2f/{name}.{queue}"), None).await
    };
    for plain in ["orders", "orders.low"] {
        let queue = queue(plain).await?;
        assert_eq!(
            (&queue["durable"], &queue["arguments"]),
            (&json!(true), &json!({"x-queue-type": "quorum"})),
            "{plain}"
        );
    }
    let suspects = queue("orders.suspects").await?;
    assert_eq!(suspects["arguments"], json!({"x-queue-type": "quorum", "x-overflow": "reject-publish"}));
    // document_age_s_max, bulk_s_max and a margin, with their defaults.
    let second_look = queue("delay.70s").await?;
    let expected = json!({
        "x-queue-type": "quorum", "x-message-ttl": 70_000, "x-dead-letter-exchange": name,
        "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
    });
    assert_eq!(second_look["arguments"], expected);
    let exchange = namespace.rabbit().management(Method::GET, &format!("/exchanges/%2f/{name}"), None).await?;
    assert_eq!(
        (&exchange["type"], &exchange["durable"], &exchange["arguments"]),
        (&json!("direct"), &json!(true), &json!({}))
    );

    // A delayed message goes on with its own routing key.
    namespace.rabbit().publish(&format!("{name}.delay.1s"), "orders.low", &[b"{}".to_vec()]).await?;
    let arrived = async || Ok((namespace.rabbit().ready(&format!("{name}.orders.low")).await? == 1).then_some(()));
    eventually("the delayed message", TIMEOUT, arrived).await?;
    namespace.finish().await
}

#[tokio::test]
async fn a_lost_exchange_or_binding_is_made_again() -> Result<()> {
    let (namespace, setup) = shop().await?;
    let pinion = applied(&namespace, &setup).await?;
    let (name, rabbit) = (namespace.name(), namespace.rabbit());
    rabbit.management(Method::DELETE, &format!("/exchanges/%2f/{name}"), None).await?;
    pinion.command(&["apply"]).await?.ok()?;
    send(&namespace, "orders", [1]).await?;
    let binding = format!("/bindings/%2f/e/{name}/q/{name}.orders/orders");
    rabbit.management(Method::DELETE, &binding, None).await?;
    assert_eq!(pinion.command(&["apply"]).await?.ok()?.stdout, "Nothing to do.\n");
    send(&namespace, "orders", [2]).await?;
    assert_eq!(rabbit.ready(&format!("{name}.orders")).await?, 2);
    namespace.finish().await
}

#[tokio::test]
async fn new_fields_and_settings_are_made_in_place() -> Result<()> {
    let (namespace, setup) = shop().await?;
    let pinion = applied(&namespace, &setup).await?;
    let (before, _) = index_of(&namespace, "merchants").await?;
    edit(&setup, "merchants/mapping.json", |text| {
        text.replace(r#""properties": {"#, r#""properties": { "rating": { "type": "float" },"#)
            .replace(r#""refresh_interval": "1s""#, r#""refresh_interval": "5s""#)
    })?;
    let planned = pinion.command(&["plan"]).await?.ok()?.stdout;
    for part in ["~ index", "new field rating (float)", "index.refresh_interval 1s -> 5s", "1 to change."] {
        assert!(planned.contains(part), "{part}: {planned}");
    }
    pinion.command(&["apply"]).await?.ok()?;
    let (after, index) = index_of(&namespace, "merchants").await?;
    assert_eq!(before, after);
    assert_eq!(index["mappings"]["properties"]["rating"], json!({"type": "float"}));
    assert_eq!(index["settings"]["index.refresh_interval"], "5s");
    assert_eq!(plan(&pinion).await?["steps"], json!([]));
    namespace.finish().await
}

#[tokio::test]
async fn what_needs_a_rebuild_is_told_and_the_rest_is_done() -> Result<()> {
    let (namespace, setup) = shop().await?;
    let pinion = applied(&namespace, &setup).await?;
    edit(&setup, "merchants/mapping.json", |text| {
        text.replace(
            r#""category": { "type": "keyword" }"#,
            r#""category": { "type": "text" }, "extra": { "type": "keyword" }"#,
        )
        .replace(r#""number_of_shards": 1"#, r#""number_of_shards": 2"#)
    })?;
    let planned = pinion.command(&["plan"]).await?.ok()?.stdout;
    assert!(planned.contains("needs `pinion rebuild merchants`"), "{planned}");
    for _ in 0..2 {
        let output = pinion.command(&["apply"]).await?;
        assert_eq!(output.code, 1, "{output:?}");
        for part in ["the field category: type keyword -> text", "index.number_of_shards 1 -> 2", "1 not done."] {
            assert!(output.stdout.contains(part), "{part}: {}", output.stdout);
        }
    }
    let (_, index) = index_of(&namespace, "merchants").await?;
    assert_eq!(index["mappings"]["properties"]["category"], json!({"type": "keyword"}));
    assert_eq!(index["mappings"]["properties"]["extra"], json!({"type": "keyword"}));
    let left = plan(&pinion).await?;
    assert_eq!((&left["pending"], &left["remaining"]), (&json!(0), &json!(1)), "{left}");
    namespace.finish().await
}

#[tokio::test]
async fn settings_that_lose_writes_are_put_right() -> Result<()> {
    let (namespace, setup) = shop().await?;
    let pinion = applied(&namespace, &setup).await?;
    let path = format!("/{}/_settings", namespace.index("orders"));
    let loosened = json!({"index.gc_deletes": "1s", "index.translog.durability": "async"});
    namespace.elastic().ok(Method::PUT, &path, Some(loosened)).await?;
    let done = pinion.command(&["apply"]).await?.ok()?.stdout;
    assert!(done.contains("index.gc_deletes 1s -> 1h"), "{done}");
    assert!(done.contains("index.translog.durability async -> default"), "{done}");
    let (_, index) = index_of(&namespace, "orders").await?;
    assert_eq!(index["settings"]["index.gc_deletes"], "1h");
    assert_ne!(index["settings"]["index.translog.durability"], "async");
    namespace.finish().await
}

/// A bulk of one versioned delete; gives its item.
async fn bulk_delete(namespace: &Namespace, index: &str) -> Result<Value> {
    let body = "{\"delete\":{\"_id\":\"1\",\"version\":1,\"version_type\":\"external_gte\"}}\n";
    let request = reqwest::Client::new().post(format!("{}/{index}/_bulk", namespace.elastic().url()));
    let answer: Value = request.header("content-type", "application/x-ndjson").body(body).send().await?.json().await?;
    Ok(answer["items"][0]["delete"].clone())
}

#[tokio::test]
async fn no_bulk_creates_an_index() -> Result<()> {
    let (namespace, setup) = shop().await?;
    applied(&namespace, &setup).await?;
    let (real, _) = index_of(&namespace, "orders").await?;
    let own = format!("{}-dead-letters", namespace.name());
    for index in [&real, &own] {
        namespace.elastic().ok(Method::DELETE, &format!("/{index}"), None).await?;
    }
    let alias = namespace.index("orders");
    for index in [&alias, &real, &format!("{alias}-20990101000000"), &own] {
        let item = bulk_delete(&namespace, index).await?;
        assert_eq!(item["error"]["type"], "index_not_found_exception", "{index}: {item}");
    }
    let (status, _) = namespace.elastic().request(Method::GET, &format!("/{alias}"), None).await?;
    assert_eq!(status, 404);
    namespace.finish().await
}

#[tokio::test]
async fn a_queue_of_another_kind_is_told_and_the_rest_is_done() -> Result<()> {
    let (namespace, setup) = shop().await?;
    let name = namespace.name();
    let classic = json!({"durable": true, "arguments": {}});
    namespace.rabbit().management(Method::PUT, &format!("/queues/%2f/{name}.orders"), Some(classic)).await?;
    let pinion = setup.write(&namespace)?;
    let output = pinion.command(&["apply"]).await?;
    assert_eq!(output.code, 1, "{output:?}");
    let told = output.stdout.split("Not done:").nth(1).context("what is not done")?;
    for part in [&format!("the queue {name}.orders is declared differently"), "x-queue-type", "delete it"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(namespace.rabbit().ready(&format!("{name}.orders.low")).await?, 0);
    let left = plan(&pinion).await?;
    assert_eq!((&left["pending"], &left["remaining"]), (&json!(0), &json!(1)), "{left}");
    namespace.finish().await
}

#[tokio::test]
async fn an_index_in_the_place_of_the_alias_is_told_and_the_rest_is_done() -> Result<()> {
    let (namespace, setup) = shop().await?;
    namespace.elastic().ok(Method::PUT, &format!("/{}", namespace.index("orders")), None).await?;
    let output = setup.write(&namespace)?.command(&["apply"]).await?;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("is an index, but has to be the alias of the job orders"), "{}", output.stdout);
    index_of(&namespace, "customers").await?;
    namespace.finish().await
}

#[tokio::test]
async fn jobs_may_have_names_that_begin_with_each_other() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let setup = Setup::without_jobs(&namespace)?;
    for job in ["items", "items-2024", "items-old"] {
        let sql = "SELECT i.id AS _id FROM items i WHERE i.id = ANY(:ids)";
        setup.write_job(&namespace, job, "index = \"\"\nsource = \"shop\"\nkey = \"bigint\"\n", sql, "{}")?;
    }
    let pinion = applied(&namespace, &setup).await?;
    assert_eq!(plan(&pinion).await?["steps"], json!([]));
    namespace.finish().await
}

#[tokio::test]
async fn a_job_that_cannot_be_read_keeps_no_other_from_being_applied() -> Result<()> {
    let (namespace, setup) = shop().await?;
    edit(&setup, "orders/document.sql", |_| "SELECT 1 AS _id WHERE :id = 1".to_owned())?;
    let output = setup.write(&namespace)?.command(&["apply"]).await?;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("the job orders can't be read"), "{}", output.stdout);
    assert!(output.stdout.contains(":id is no placeholder"), "{}", output.stdout);
    index_of(&namespace, "customers").await?;
    namespace.finish().await
}

#[tokio::test]
async fn a_raised_generation_makes_what_is_read_newer() -> Result<()> {
    let namespace = Namespace::shop(5).await?;
    let setup = Setup::shop(&namespace)?;
    let pinion = applied(&namespace, &setup).await?;
    let raise = ["apply", "--raise-generation", "shop", "--json"];
    let early = pinion.command(&raise).await?;
    assert!(early.code == 1 && early.stderr.contains("has no generation yet"), "{early:?}");
    let unknown = pinion.command(&["apply", "--raise-generation", "shp"]).await?;
    assert!(unknown.code == 1 && unknown.stderr.contains("there is no source shp"), "{unknown:?}");

    let generation = async |expected: i64| -> Result<()> {
        let worker = pinion.work(&[]).await?;
        send(&namespace, "orders", [3]).await?;
        settled(&worker, "orders", "indexed", 1).await?;
        document(&namespace, "orders", 3, |document| document["id"].clone(), Some(json!(3))).await?;
        assert_eq!(worker.terminate().await?, 0);
        let found = namespace.elastic().get(&namespace.index("orders"), "3").await?.context("the document")?;
        let version = found["_version"].as_i64().context("a version")?;
        ensure!(version >> 53 == expected, "generation {} in version {version}", version >> 53);
        Ok(())
    };
    generation(1).await?;
    assert_eq!(pinion.command(&raise).await?.ok()?.json()?, json!({"source": "shop", "generation": 2}));
    generation(2).await?;
    namespace.finish().await
}
