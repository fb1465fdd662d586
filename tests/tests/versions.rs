//! Versions keep what is newer, and nothing stands still for them: late writes after a delete, a failover, a restored database, a
//! restored disk.

use anyhow::{Context, Result, ensure};
use pinion_tests::{Namespace, Pinion, PrivatePostgres, PrivateReplica, Setup, Worker, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};

use crate::shop::{TIMEOUT, applied, compare_all_in, dead_letters, document, send, settled};

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY, slow boolean NOT NULL DEFAULT false);
    GRANT SELECT ON notes TO pinion; INSERT INTO notes SELECT generate_series(1, 3)";
/// A slow row's document is not read to its end before somebody lets go of a lock.
const NOTES_SQL: &str = "SELECT n.id AS _id, n.slow, CASE WHEN n.slow THEN pg_advisory_xact_lock(1)::text END AS waited
    FROM notes n WHERE n.id = ANY(:ids)";
const NOTES_MAPPING: &str =
    r#"{"mappings": {"properties": {"slow": {"type": "boolean"}, "waited": {"type": "keyword"}}}}"#;

/// Notes that are read from the primary, each with its document.
async fn notes() -> Result<(Namespace, Worker)> {
    let namespace = Namespace::empty().await?;
    namespace.execute(NOTES).await?;
    let setup = Setup {
        replicas: Vec::new(),
        elasticsearch_more: "bulk_s_max = 5\n".to_owned(),
        worker: "document_age_s_max = 20\n".to_owned(),
        ..Setup::without_jobs(&namespace)?
    };
    let job = "index = \"notes\"\nsource = \"shop\"\nkey = \"bigint\"\n";
    setup.write_job(&namespace, "notes", job, NOTES_SQL, NOTES_MAPPING)?;
    let worker = applied(&namespace, &setup).await?.work(&[]).await?;
    send(&namespace, "notes", 1..=3).await?;
    settled(&worker, "notes", "indexed", 3).await?;
    Ok((namespace, worker))
}

/// A read of a note that began before the note was deleted, and has not ended.
struct LateRead {
    lock: PgConnection,
}

impl LateRead {
    /// Has the worker begin to read the note, deletes the note, and returns once the worker has deleted its document.
    async fn begin(namespace: &Namespace, worker: &Worker, id: i64, deleted: u64) -> Result<Self> {
        let mut lock = PgConnection::connect(&namespace.superuser_url()).await?;
        sqlx::query("SELECT pg_advisory_lock(1)").execute(&mut lock).await?;
        namespace.execute(&format!("UPDATE notes SET slow = true WHERE id = {id}")).await?;
        send(namespace, "notes", [id]).await?;
        eventually("the note to be read", TIMEOUT, async || {
            let waiting =
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()";
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut lock).await?;
            Ok((waiting == 1).then_some(()))
        })
        .await?;
        namespace.execute(&format!("DELETE FROM notes WHERE id = {id}")).await?;
        send(namespace, "notes", [id]).await?;
        settled(worker, "notes", "deleted", deleted).await?;
        Ok(Self { lock })
    }

    /// Lets the worker read on, and send what it read.
    async fn end(self) -> Result<()> {
        Ok(self.lock.close().await?)
    }
}

#[tokio::test]
async fn a_deleted_document_does_not_come_back_for_good() -> Result<()> {
    let (namespace, worker) = notes().await?;
    let (elastic, index) = (namespace.elastic(), namespace.index("notes"));
    // Within gc_deletes, an hour as applied, the version of a deleted document holds: the row is read again, and is gone.
    let late = LateRead::begin(&namespace, &worker, 1, 1).await?;
    late.end().await?;
    settled(&worker, "notes", "deleted", 2).await?;
    assert_eq!(elastic.get(&index, "1").await?, None);

    let settings = Some(json!({"index.gc_deletes": "1s"}));
    elastic.ok(Method::PUT, &format!("/{index}/_settings"), settings).await?;
    let late = LateRead::begin(&namespace, &worker, 2, 3).await?;
    namespace.execute("DELETE FROM notes WHERE id = 3").await?;
    send(&namespace, "notes", [3]).await?;
    settled(&worker, "notes", "deleted", 4).await?;
    // The same comes of somebody's write that was under way for long; it shows when both versions are forgotten.
    eventually("Elasticsearch to forget the version of a deleted document", TIMEOUT, async || {
        elastic.refresh(&index).await?;
        let path = format!("/{index}/_doc/3?version=1&version_type=external_gte");
        let (status, _) = elastic.request(Method::PUT, &path, Some(json!({"slow": false}))).await?;
        Ok((status == 201).then_some(()))
    })
    .await?;
    late.end().await?;
    settled(&worker, "notes", "indexed", 4).await?;
    assert!(elastic.get(&index, "2").await?.is_some(), "the late write was to bring the document back");

    // The second looks find two of the documents again. (Two at one id may come together, and are one.)
    for id in 1..=3 {
        document(&namespace, "notes", id, Value::clone, None).await?;
    }
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

/// The generation and the position of a document's version.
async fn version(namespace: &Namespace, id: i64) -> Result<(u64, u64)> {
    let found = namespace.elastic().get(&namespace.index("orders"), &id.to_string()).await?;
    let version = found.with_context(|| format!("document {id}"))?["_version"].as_u64().context("a version")?;
    Ok((version >> 53, version & ((1 << 53) - 1)))
}

/// Nothing was refused for its version, and nothing was given up.
async fn nothing_stood_still(namespace: &Namespace, worker: &Worker) -> Result<()> {
    let metrics = worker.metrics().await?;
    for verdict in ["superseded", "from_the_future"] {
        let labels = [("job", "orders"), ("verdict", verdict)];
        assert_eq!(metrics.sum("pinion_documents_total", &labels), 0.0, "{verdict}");
    }
    assert_eq!(metrics.sum("pinion_conflicts_abnormal", &[("job", "orders")]), 0.0);
    assert_eq!(dead_letters(namespace).await?, Vec::<Value>::new());
    Ok(())
}

/// Waits until the worker says this of itself.
async fn says(worker: &Worker, text: &str) -> Result<()> {
    eventually(&format!("the worker to say {text:?}"), TIMEOUT, async || {
        let (_, page) = worker.admin("/readyz").await?;
        ensure!(page.contains(text), "it says {page}");
        Ok(Some(()))
    })
    .await
}

/// The worker on the orders of another primary, none of which has a replica.
async fn on(namespace: &Namespace, primary: String) -> Result<(Pinion, Setup)> {
    let setup = Setup { primary, replicas: Vec::new(), ..Setup::shop(namespace)? };
    Ok((setup.write(namespace)?, setup))
}

async fn changed(database: &PgPool, sql: &'static str) -> Result<()> {
    sqlx::raw_sql(sql).execute(database).await?;
    Ok(())
}

const CHANGES: &str =
    "UPDATE orders SET status = 'cancelled' WHERE id <= 50; DELETE FROM order_items WHERE order_id = 7;
    DELETE FROM deliveries WHERE order_id = 7; DELETE FROM orders WHERE id = 7";

#[tokio::test]
async fn a_failover_raises_the_generation_and_so_does_the_way_back() -> Result<()> {
    let namespace = Namespace::shop(100).await?;
    let replica = PrivateReplica::start().await?;
    let before = Setup { replicas: vec![replica.url(namespace.name())], ..Setup::shop(&namespace)? };
    let worker = applied(&namespace, &before).await?.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=100).await?;
    settled(&worker, "orders", "indexed", 100).await?;
    assert_eq!(worker.terminate().await?, 0);
    assert_eq!(version(&namespace, 1).await?.0, 1);

    replica.promote().await?;
    let promoted = PgPoolOptions::new().max_connections(2).connect(&replica.superuser(namespace.name())).await?;
    changed(&promoted, CHANGES).await?;
    let (pinion, setup) = on(&namespace, replica.url(namespace.name())).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=100).await?;
    settled(&worker, "orders", "indexed", 99).await?;
    settled(&worker, "orders", "deleted", 1).await?;
    assert_eq!(compare_all_in(&promoted, &namespace, &setup, "orders", "orders").await?, 99);
    assert_eq!(version(&namespace, 1).await?.0, 2);
    nothing_stood_still(&namespace, &worker).await?;
    assert_eq!(worker.terminate().await?, 0);
    promoted.close().await;

    // Who is left on the old primary is refused, in words that say what to do.
    let pinion = before.write(&namespace)?;
    let left_behind = pinion.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=100).await?;
    says(&left_behind, "was failed over from").await?;
    assert_eq!(version(&namespace, 1).await?.0, 2);
    // It is the present one again once an operator says so; the worker then goes on by itself.
    pinion.command(&["apply", "--raise-generation", "shop"]).await?.ok()?;
    settled(&left_behind, "orders", "indexed", 100).await?;
    assert_eq!(compare_all_in(namespace.superuser(), &namespace, &before, "orders", "orders").await?, 100);
    assert_eq!(version(&namespace, 1).await?.0, 3);
    nothing_stood_still(&namespace, &left_behind).await?;
    assert_eq!(left_behind.terminate().await?, 0);
    namespace.finish().await
}

/// A dump that is restored into a new database system, whose log begins anew.
#[tokio::test]
async fn a_restored_database_goes_on_though_its_positions_are_lower() -> Result<()> {
    let namespace = Namespace::shop(100).await?;
    let (_, before) = on(&namespace, namespace.primary_url()).await?;
    let worker = applied(&namespace, &before).await?.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=100).await?;
    settled(&worker, "orders", "indexed", 100).await?;
    assert_eq!(worker.terminate().await?, 0);
    let old = version(&namespace, 1).await?;

    let restored = PrivatePostgres::start().await?;
    restored.restore_dump(&namespace).await?;
    let database = restored.superuser(namespace.name())?;
    changed(&database, CHANGES).await?;
    let (pinion, setup) = on(&namespace, restored.url(namespace.name())).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=100).await?;
    settled(&worker, "orders", "indexed", 99).await?;
    settled(&worker, "orders", "deleted", 1).await?;
    assert_eq!(compare_all_in(&database, &namespace, &setup, "orders", "orders").await?, 99);
    let new = version(&namespace, 1).await?;
    assert_eq!((old.0, new.0), (1, 2));
    assert!(new.1 < old.1, "the positions were to be lower: {new:?} after {old:?}");
    nothing_stood_still(&namespace, &worker).await?;
    assert_eq!(worker.terminate().await?, 0);
    database.close().await;
    namespace.finish().await
}

#[tokio::test]
async fn an_older_copy_of_the_disk_is_refused_until_the_generation_is_raised() -> Result<()> {
    let namespace = Namespace::shop(100).await?;
    let primary = PrivatePostgres::start().await?;
    primary.restore_dump(&namespace).await?;
    let (_, setup) = on(&namespace, primary.url(namespace.name())).await?;
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=100).await?;
    settled(&worker, "orders", "indexed", 100).await?;
    primary.save_disk().await?;
    // What the copy does not have, and a mark beyond it.
    primary.execute(namespace.name(), "SELECT pg_switch_wal()").await?;
    let database = primary.superuser(namespace.name())?;
    let beyond: i64 = sqlx::query_scalar("SELECT (pg_current_wal_lsn() - '0/0')::bigint").fetch_one(&database).await?;
    let beyond = u64::try_from(beyond)?;
    database.close().await;
    primary.execute(namespace.name(), CHANGES).await?;
    send(&namespace, "orders", 1..=100).await?;
    settled(&worker, "orders", "deleted", 1).await?;
    settled(&worker, "orders", "indexed", 199).await?;
    let lost = version(&namespace, 1).await?;
    eventually("the mark to be kept", TIMEOUT, async || {
        let state = namespace.elastic().get(&format!("{}-sources", namespace.name()), "shop").await?;
        let mark = state.context("a state")?["_source"]["mark"].as_u64().context("a mark")?;
        ensure!(mark >= beyond, "it is {mark}, not {beyond}");
        Ok(Some(()))
    })
    .await?;

    primary.restore_disk().await?;
    send(&namespace, "orders", 1..=100).await?;
    says(&worker, "a disk snapshot was restored").await?;
    says(&worker, "--raise-generation shop").await?;
    assert_eq!(version(&namespace, 1).await?, lost, "a refused primary's rows were written");
    pinion.command(&["apply", "--raise-generation", "shop"]).await?.ok()?;
    settled(&worker, "orders", "indexed", 299).await?;
    let database = primary.superuser(namespace.name())?;
    assert_eq!(compare_all_in(&database, &namespace, &setup, "orders", "orders").await?, 100);
    let raised = version(&namespace, 1).await?;
    assert!(raised.0 == 2 && raised.1 < lost.1, "{raised:?} after {lost:?}");
    nothing_stood_still(&namespace, &worker).await?;
    assert_eq!(worker.terminate().await?, 0);
    database.close().await;
    namespace.finish().await
}

/// Here the index of sources was lost, so that generations began anew, below those of the documents.
#[tokio::test]
async fn an_index_that_stands_still_is_told_until_the_generation_is_mended() -> Result<()> {
    let namespace = Namespace::shop(200).await?;
    let setup = Setup::shop(&namespace)?;
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", [1]).await?;
    settled(&worker, "orders", "indexed", 1).await?;
    assert_eq!(worker.terminate().await?, 0);
    pinion.command(&["apply", "--raise-generation", "shop"]).await?.ok()?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=200).await?;
    settled(&worker, "orders", "indexed", 200).await?;
    assert_eq!(version(&namespace, 1).await?.0, 2);
    assert_eq!(worker.terminate().await?, 0);

    let state = format!("/{}-sources/_doc/shop?refresh=true", namespace.name());
    namespace.elastic().ok(Method::DELETE, &state, None).await?;
    namespace.execute("UPDATE orders SET status = 'cancelled'").await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", 1..=200).await?;
    settled(&worker, "orders", "from_the_future", 200).await?;
    let metrics = worker.metrics().await?;
    let labels = [("job", "orders")];
    assert_eq!(metrics.sum("pinion_conflict_share", &labels), 1.0);
    assert_eq!(metrics.sum("pinion_conflicts_abnormal", &labels), 1.0);
    let told = "an abnormal share of writes is refused";
    assert_eq!(worker.log()?.matches(told).count(), 1);

    // No restart: what waits is read again under the generation that was raised.
    pinion.command(&["apply", "--raise-generation", "shop"]).await?.ok()?;
    settled(&worker, "orders", "indexed", 200).await?;
    assert_eq!(compare_all_in(namespace.superuser(), &namespace, &setup, "orders", "orders").await?, 200);
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    let mut indexed = 200;
    while worker.metrics().await?.sum("pinion_conflicts_abnormal", &labels) > 0.0 {
        ensure!(
            indexed < 10_000,
            "it stays abnormal: {}",
            worker.metrics().await?.sum("pinion_conflict_share", &labels)
        );
        indexed += 200;
        send(&namespace, "orders", 1..=200).await?;
        settled(&worker, "orders", "indexed", indexed).await?;
    }
    let log = worker.log()?;
    assert_eq!((log.matches(told).count(), log.matches("normal again").count()), (1, 1));
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}
