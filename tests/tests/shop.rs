//! What the tests of the pipeline share: a shop with its queues and indexes, and the comparison of every document.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pinion_tests::{MysqlShop, Namespace, Pinion, Setup, Worker, eventually};
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, PgPool};

/// How long anything may take that only has to happen; generous, since the machines are small.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// How large the shop of a test of load is: `PINION_TEST_ORDERS` (200000: as many as the benchmark has), else `default`.
pub(crate) fn orders_or(default: u32) -> Result<u32> {
    match std::env::var("PINION_TEST_ORDERS") {
        Ok(orders) => Ok(orders.parse()?),
        Err(_) => Ok(default),
    }
}

/// How long documents of a shop of this size may take, on a slow machine with others.
pub(crate) fn patience(orders: u32) -> Duration {
    TIMEOUT * (2 + orders / 50_000)
}

/// Writes the configuration and creates queues and indexes.
pub(crate) async fn applied(namespace: &Namespace, setup: &Setup) -> Result<Pinion> {
    let pinion = setup.write(namespace)?;
    pinion.command(&["apply"]).await?.ok().context("pinion apply")?;
    Ok(pinion)
}

/// Sends one message for each id.
pub(crate) async fn send(namespace: &Namespace, job: &str, ids: impl IntoIterator<Item = i64>) -> Result<()> {
    let bodies: Vec<Vec<u8>> =
        ids.into_iter().map(|id| json!({"id": id, "job_name": job}).to_string().into_bytes()).collect();
    namespace.rabbit().publish(namespace.name(), job, &bodies).await
}

/// Sends a body as it is to a job's queue.
pub(crate) async fn send_raw(namespace: &Namespace, job: &str, body: impl Into<Vec<u8>>) -> Result<()> {
    namespace.rabbit().publish(namespace.name(), job, &[body.into()]).await
}

/// Waits until the worker has settled `count` documents of `job` with this verdict.
pub(crate) async fn settled(worker: &Worker, job: &str, verdict: &str, count: u64) -> Result<()> {
    let what = format!("{count} documents of {job} {verdict}");
    eventually(&what, TIMEOUT, async || {
        let seen = worker.metrics().await?.sum("pinion_documents_total", &[("job", job), ("verdict", verdict)]);
        Ok((seen >= count as f64).then_some(()))
    })
    .await
}

/// Waits until the document of `id` is `expected`, or is not there for `None`; `pick` chooses what is compared.
pub(crate) async fn document(
    namespace: &Namespace,
    job: &str,
    id: i64,
    pick: impl Fn(&Value) -> Value,
    expected: Option<Value>,
) -> Result<()> {
    let what = format!("document {id} of {job} to be {expected:?}");
    eventually(&what, TIMEOUT, async || {
        let found = namespace.elastic().get(&namespace.index(job), &id.to_string()).await?;
        let seen = found.map(|document| pick(&document["_source"]));
        ensure!(seen == expected, "it is {seen:?}");
        Ok(Some(()))
    })
    .await
}

/// The dead letters of the namespace, newest first.
pub(crate) async fn dead_letters(namespace: &Namespace) -> Result<Vec<Value>> {
    let index = format!("{}-dead-letters", namespace.name());
    namespace.elastic().refresh(&index).await?;
    let answer = namespace.elastic().search(&index, json!({"size": 1000, "sort": [{"last_at": "desc"}]})).await?;
    let hits = answer["hits"]["hits"].as_array().context("hits")?;
    Ok(hits.iter().map(|hit| hit["_source"].clone()).collect())
}

/// Waits until there are `count` dead letters.
pub(crate) async fn dead_letters_of(namespace: &Namespace, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} dead letters"), TIMEOUT, async || {
        let letters = dead_letters(namespace).await?;
        ensure!(letters.len() == count, "there are {}", letters.len());
        Ok(Some(letters))
    })
    .await
}

/// Fails unless every document of `job` equals what its query gives now, and there are no others. The expected documents are made by
/// PostgreSQL (`to_jsonb`) and nested here, so that the worker is not compared with itself.
pub(crate) async fn compare_all(namespace: &Namespace, setup: &Setup, job: &str, table: &str) -> Result<usize> {
    compare_all_in(namespace.superuser(), namespace, setup, job, table).await
}

/// The same with the namespace's database on another server.
pub(crate) async fn compare_all_in(
    database: &PgPool,
    namespace: &Namespace,
    setup: &Setup,
    job: &str,
    table: &str,
) -> Result<usize> {
    compare_with(namespace, job, &expected_documents(database, setup, job, table).await?).await
}

/// The same on MariaDB and MySQL, whose `JSON_OBJECT` makes the expected documents.
pub(crate) async fn compare_mysql(namespace: &Namespace, setup: &Setup, shop: &MysqlShop, job: &str) -> Result<usize> {
    compare_with(namespace, job, &expected_mysql(setup, shop, job).await?).await
}

/// What every document of a job has to be now, by its id.
pub(crate) async fn expected_mysql(setup: &Setup, shop: &MysqlShop, job: &str) -> Result<BTreeMap<String, Value>> {
    let sql = std::fs::read_to_string(setup.jobs.join(job).join("document.sql"))?;
    let sql = sql.trim().replace(":ids", &format!("SELECT id FROM {job}"));
    let columns = shop.columns(&sql).await?;
    let pairs: Vec<String> = columns.iter().map(|column| format!("'{column}', q.`{column}`")).collect();
    let rows = shop.texts(&format!("SELECT CAST(JSON_OBJECT({}) AS CHAR) FROM ({sql}) AS q", pairs.join(", "))).await?;
    let mut expected = BTreeMap::new();
    for row in rows {
        let flat: Map<String, Value> = serde_json::from_str(&row)?;
        expected.insert(flat["_id"].to_string(), nest(flat));
    }
    Ok(expected)
}

async fn compare_with(namespace: &Namespace, job: &str, expected: &BTreeMap<String, Value>) -> Result<usize> {
    let found = found_documents(namespace, job).await?;
    let differing: Vec<&String> =
        expected.iter().filter(|(id, document)| found.get(*id) != Some(document)).map(|(id, _)| id).collect();
    if let Some(id) = differing.first() {
        anyhow::bail!(
            "{} of {} documents differ, the first is {id}:\nexpected {}\nfound    {:?}",
            differing.len(),
            expected.len(),
            expected[*id],
            found.get(*id).map(Value::to_string)
        );
    }
    let extra: Vec<&String> = found.keys().filter(|id| !expected.contains_key(*id)).collect();
    ensure!(extra.is_empty(), "{} documents have no row, the first is {}", extra.len(), extra[0]);
    Ok(expected.len())
}

/// What every document of a job has to be now, by its id.
pub(crate) async fn expected_documents(
    pool: &PgPool,
    setup: &Setup,
    job: &str,
    table: &str,
) -> Result<BTreeMap<String, Value>> {
    let sql = std::fs::read_to_string(setup.jobs.join(job).join("document.sql"))?;
    let sql = sql.trim().trim_end_matches(';').replace(":ids", "ARRAY(SELECT id FROM all_ids)");
    let question = format!("WITH all_ids AS (SELECT id FROM {table}) SELECT to_jsonb(q)::text FROM ({sql}) AS q");
    let mut connection = pool.acquire().await?;
    sqlx::query("SET timezone = 'UTC'").execute(&mut *connection).await?;
    let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(question)).fetch_all(&mut *connection).await?;
    let mut documents = BTreeMap::new();
    for row in rows {
        let flat: Map<String, Value> = serde_json::from_str(&row)?;
        let id = flat["_id"].to_string().trim_matches('"').to_owned();
        documents.insert(id, nest(flat));
    }
    Ok(documents)
}

fn nest(flat: Map<String, Value>) -> Value {
    let mut document = json!({});
    for (name, value) in flat.into_iter().filter(|(name, _)| !name.starts_with('_')) {
        let place = name.split('.').fold(&mut document, |object, part| &mut object[part]);
        *place = normal(value);
    }
    document
}

/// Times are spelled with `+00:00` by PostgreSQL, with a space by MariaDB, with `Z` and milliseconds by the worker; numbers are
/// compared as numbers, and MariaDB's JSON is text.
fn normal(value: Value) -> Value {
    match value {
        Value::String(text) if text.starts_with("[{") => serde_json::from_str(&text).map_or(json!(text), normal),
        Value::String(text) if text.len() == 26 && text.as_bytes()[10] == b' ' => {
            let time = text.strip_suffix("000").unwrap_or(&text);
            json!(format!("{}Z", time.replacen(' ', "T", 1)))
        }
        Value::String(text) => match text.strip_suffix("+00:00") {
            Some(time) => json!(format!("{time}.000Z")),
            None => json!(text),
        },
        Value::Array(items) => items.into_iter().map(normal).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, normal(value))).collect(),
        Value::Number(number) => json!(number.as_f64()),
        other => other,
    }
}

/// The documents of a job that a search finds now.
pub(crate) async fn found_documents(namespace: &Namespace, job: &str) -> Result<BTreeMap<String, Value>> {
    let index = namespace.index(job);
    namespace.elastic().refresh(&index).await?;
    let mut documents = BTreeMap::new();
    let mut after: Option<Value> = None;
    loop {
        let mut query = json!({"size": 5000, "sort": ["_doc"], "track_total_hits": false});
        if let Some(after) = after.take() {
            query["search_after"] = after;
        }
        let answer = namespace.elastic().search(&index, query).await?;
        let hits = answer["hits"]["hits"].as_array().context("hits")?;
        let Some(last) = hits.last() else { return Ok(documents) };
        after = Some(last["sort"].clone());
        for hit in hits {
            let id = hit["_id"].as_str().context("an _id")?.to_owned();
            documents.insert(id, normal(hit["_source"].clone()));
        }
    }
}

/// The reads that wait for long, by their servers' process ids.
pub(crate) async fn sleeping(namespace: &Namespace) -> Result<Vec<i32>> {
    let question = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    Ok(sqlx::query_scalar(question).fetch_all(namespace.superuser()).await?)
}

/// Ends them: the server would not notice that nobody waits for them before the sleep's end.
pub(crate) async fn end_sleeping(namespace: &Namespace) -> Result<()> {
    eventually("the reads to be gone", TIMEOUT, async || {
        for pid in sleeping(namespace).await? {
            namespace.execute(&format!("SELECT pg_terminate_backend({pid})")).await?;
        }
        Ok(sleeping(namespace).await?.is_empty().then_some(()))
    })
    .await
}
