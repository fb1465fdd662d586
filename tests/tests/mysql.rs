//! MariaDB and MySQL as the source: the way that PostgreSQL's jobs go.

use anyhow::{Result, ensure};
use pinion_tests::{Feed, MysqlShop, Namespace, PrivateMariadb, Setup, eventually};
use serde_json::{Value, json};

use crate::shop::{TIMEOUT, applied, compare_mysql, dead_letters, dead_letters_of, document, patience, send, settled};

#[tokio::test]
async fn jobs_become_documents_on_mariadb() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mariadb(&namespace, 300).await?;
    jobs_become_documents(namespace, shop).await
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn jobs_become_documents_on_mysql() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mysql(&namespace, 300).await?;
    jobs_become_documents(namespace, shop).await
}

async fn jobs_become_documents(namespace: Namespace, shop: MysqlShop) -> Result<()> {
    let setup = Setup::mysql(&namespace, &shop)?;
    let pinion = applied(&namespace, &setup).await?;
    let checked = pinion.command(&["check"]).await?;
    assert_eq!((checked.code, checked.stdout.trim()), (0, "3 jobs checked: nothing to complain about"), "{checked:?}");
    let worker = pinion.work(&[]).await?;
    for job in ["orders", "customers", "merchants"] {
        pinion.command(&["enqueue", job, "--all"]).await?.ok()?;
    }
    for (job, rows) in [("orders", 300), ("customers", 1000), ("merchants", 500)] {
        settled(&worker, job, "indexed", rows).await?;
        assert_eq!(compare_mysql(&namespace, &setup, &shop, job).await?, usize::try_from(rows)?);
    }
    shop.execute("DELETE FROM order_items WHERE order_id = 7; DELETE FROM deliveries WHERE order_id = 7; DELETE FROM orders WHERE id = 7; \
                  UPDATE orders SET status = 'cancelled' WHERE id = 8")
        .await?;
    send(&namespace, "orders", [7, 8]).await?;
    document(&namespace, "orders", 7, Value::clone, None).await?;
    document(&namespace, "orders", 8, |order| order["status"].clone(), Some(json!("cancelled"))).await?;
    assert_eq!(compare_mysql(&namespace, &setup, &shop, "orders").await?, 299);
    let explained = pinion.command(&["explain", "orders", "8", "--json"]).await?.json()?;
    assert_eq!(explained["equal"], true, "{explained}");
    let status = pinion.command(&["status", "--json"]).await?.json()?;
    let replica = &status["sources"][0]["replicas"][0];
    assert_eq!(replica["unit"], "transactions", "{status}");
    assert!(replica["behind"]["known"].is_u64(), "{status}");
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    assert_eq!(worker.terminate().await?, 0);
    drop(shop);
    namespace.finish().await
}

/// A text that the mapping calls an object is JSON to everybody but the one who wrote it.
#[tokio::test]
async fn a_text_that_is_no_json_is_the_trouble_of_its_row() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mariadb(&namespace, 1).await?;
    shop.execute("CREATE TABLE notes (id bigint PRIMARY KEY, note text NOT NULL); INSERT INTO notes SELECT seq, '{\"a\": 1}' FROM seq_1_to_50")
        .await?;
    shop.execute("UPDATE notes SET note = '{\"a\": 1}\n{\"delete\":{\"_id\":\"8\"}}\n' WHERE id = 7").await?;
    let setup = Setup::mysql(&namespace, &shop)?;
    let job = format!(
        "index = \"x\"\nsource = \"shop\"\nkey = \"bigint\"\n[[watch]]\ntable = \"{}.notes\"\nkey = \"id\"\n",
        namespace.name()
    );
    let sql = "SELECT n.id AS _id, n.note FROM notes n WHERE n.id IN (:ids)";
    let mapping = r#"{"mappings": {"properties": {"note": {"type": "object", "enabled": false}}}}"#;
    setup.write_job(&namespace, "notes", &job, sql, mapping)?;
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "notes"]).await?;
    send(&namespace, "notes", 1..=50).await?;
    settled(&worker, "notes", "indexed", 49).await?;
    let letters = dead_letters_of(&namespace, 1).await?;
    assert_eq!((&letters[0]["id"], &letters[0]["reason"]), (&json!("7"), &json!("unwritable")));
    ensure!(letters[0]["error"].as_str().is_some_and(|error| error.contains("the column \"note\"")), "{}", letters[0]);
    let explained = pinion.command(&["explain", "notes", "7"]).await?;
    ensure!(explained.code == 1 && explained.stderr.contains("the row makes no document"), "{explained:?}");

    // Where most of them are none, it is the definition that is wrong.
    shop.execute("UPDATE notes SET note = 'plain'").await?;
    assert_eq!(worker.terminate().await?, 0);
    send(&namespace, "notes", 1..=50).await?;
    let worker = pinion.work(&["--jobs", "notes"]).await?;
    eventually("the job to be broken", TIMEOUT, async || {
        let (_, page) = worker.admin("/readyz").await?;
        let page: Value = serde_json::from_str(&page)?;
        let reason = page["jobs"]["notes"]["reason"].as_str().unwrap_or_default();
        Ok((page["jobs"]["notes"]["state"] == "broken" && reason.contains("rows make no document")).then_some(()))
    })
    .await?;
    assert_eq!(dead_letters(&namespace).await?.len(), 1);
    drop(worker);
    drop(shop);
    namespace.finish().await
}

/// A late replica is waited for; nothing is read from the primary.
#[tokio::test]
async fn a_late_replica_is_waited_for() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let servers = PrivateMariadb::start().await?;
    let shop = MysqlShop::on(&namespace, &servers, 20).await?;
    let setup = Setup { replica_lag_ms_max: 200, ..Setup::mysql(&namespace, &shop)? };
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    servers.stop_applying().await?;
    shop.execute("UPDATE orders SET status = 'cancelled' WHERE id = 3").await?;
    send(&namespace, "orders", [3]).await?;
    eventually("the job to wait for the replica", TIMEOUT, async || {
        let (_, page) = worker.admin("/readyz").await?;
        Ok(page.contains("transactions behind the primary").then_some(()))
    })
    .await?;
    assert_eq!(namespace.elastic().get(&namespace.index("orders"), "3").await?, None);
    servers.apply_again().await?;
    document(&namespace, "orders", 3, |order| order["status"].clone(), Some(json!("cancelled"))).await?;
    assert_eq!(worker.terminate().await?, 0);
    drop(shop);
    namespace.finish().await
}

/// Columns of every type, as the query gives them.
const TYPES: &str = "
CREATE TABLE kinds (
    id bigint PRIMARY KEY, tiny tinyint, flag tinyint(1), whole int unsigned, big bigint unsigned, year_of year,
    bits bit(10), price decimal(20, 5), padded decimal(8, 2) zerofill, ratio float, exact double,
    name varchar(50) CHARACTER SET latin1, note text, kind enum('a', 'b'), kinds set('x', 'y', 'z'),
    raw varbinary(20), file blob, day date, moment datetime(6), at timestamp(3) NULL, span time(6),
    extra json, tags longtext, nothing int, unique_id uuid, address inet6, zero datetime,
    place point, area geometry
);
SET SESSION sql_mode = '';
INSERT INTO kinds VALUES (1, -128, 1, 4294967295, 18446744073709551615, 2024, b'1000000001', -1234567.50000, 12.3, 0.1, 1e300,
    'caffè', 'a \"quote\"\\n', 'b', 'x,z', x'00ff', 'bytes', '2024-02-29', '2024-02-29 23:59:59.123456', '2024-02-29 12:00:00.5',
    '-838:59:59', '{\"a\": [1, 2]}', '[\"u\", \"v\"]', NULL, '6f1c2f9e-0c5b-4b1a-9d5e-2f6f0a3c7b11', '::1', '0000-00-00',
    ST_GeomFromText('POINT(9.19 45.46)'), ST_GeomFromText('POLYGON((0 0, 1 0, 1 1, 0 0))'));
";

#[tokio::test]
async fn values_of_every_type_become_json_on_mariadb() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mariadb(&namespace, 1).await?;
    values_become_json(namespace, shop, TYPES).await
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn values_of_every_type_become_json_on_mysql() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mysql(&namespace, 1).await?;
    let types = TYPES.replace("unique_id uuid, address inet6", "unique_id char(36), address varchar(40)");
    values_become_json(namespace, shop, &types).await
}

async fn values_become_json(namespace: Namespace, shop: MysqlShop, types: &str) -> Result<()> {
    let setup = Setup::mysql(&namespace, &shop)?;
    shop.execute(types).await?;
    let mapping = json!({"mappings": {"dynamic": true, "properties": {
        "flag": {"type": "boolean"}, "big": {"type": "keyword"}, "exact": {"type": "double"}, "place": {"type": "geo_point"}, "area": {"type": "keyword"}, "extra": {"type": "object"}, "tags": {"type": "object", "enabled": false}
    }}});
    let toml = "index = \"kinds\"\nsource = \"shop\"\nkey = \"bigint\"\n";
    let query = "SELECT k.id AS _id, k.* FROM kinds k WHERE k.id IN (:ids)";
    setup.write_job(&namespace, "kinds", toml, query, &mapping.to_string())?;
    let worker = applied(&namespace, &setup).await?.work(&["--jobs", "kinds"]).await?;
    send(&namespace, "kinds", [1]).await?;
    settled(&worker, "kinds", "indexed", 1).await?;
    let found = namespace.elastic().get(&namespace.index("kinds"), "1").await?.map(|found| found["_source"].clone());
    let expected = json!({
        "id": 1, "tiny": -128, "flag": true, "whole": 4_294_967_295_u32, "big": u64::MAX, "year_of": 2024, "bits": 513,
        "price": -1_234_567.5, "padded": 12.3, "ratio": 0.1, "exact": 1e300, "name": "caffè", "note": "a \"quote\"\n",
        "kind": "b", "kinds": "x,z", "raw": "AP8=", "file": "Ynl0ZXM=", "day": "2024-02-29",
        "moment": "2024-02-29T23:59:59.123456", "at": "2024-02-29T12:00:00.500Z", "span": "-838:59:59.000",
        "extra": {"a": [1, 2]}, "tags": ["u", "v"], "nothing": null, "unique_id": "6f1c2f9e-0c5b-4b1a-9d5e-2f6f0a3c7b11",
        "address": "::1", "zero": null, "place": "POINT (9.19 45.46)", "area": "POLYGON ((0 0, 1 0, 1 1, 0 0))"
    });
    assert_eq!(found, Some(expected));
    assert_eq!(worker.terminate().await?, 0);
    drop(shop);
    namespace.finish().await
}

#[tokio::test]
async fn a_first_job_is_written_for_a_table() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mariadb(&namespace, 5).await?;
    let setup = Setup::mysql(&namespace, &shop)?;
    std::fs::remove_dir_all(&setup.jobs)?;
    std::fs::create_dir_all(&setup.jobs)?;
    let pinion = setup.write(&namespace)?;
    let table = format!("{}.orders", namespace.name());
    pinion.command(&["init", "--table", &table]).await?.ok()?;
    let checked = pinion.command(&["check"]).await?.stdout;
    assert!(!checked.contains("jobs/orders"), "{checked}");
    let (primary, replica) = (shop.primary_url().replace("mysql://", "mariadb://"), shop.replica_url());
    let folder = namespace.folder().join("new");
    let dir = folder.to_string_lossy();
    let asked = pinion.command(&["init", "--dir", &dir, "--source", &primary]).await?;
    assert!(asked.stderr.contains("--replica: at least one is needed"), "{asked:?}");
    let listed =
        pinion.command(&["init", "--dir", &dir, "--source", &primary, "--replica", &replica]).await?.ok()?.stdout;
    assert!(listed.contains(&table), "{listed}");
    drop(shop);
    namespace.finish().await
}

/// What PostgreSQL would take and MariaDB reads otherwise, or does not know, is told with its line.
#[tokio::test]
async fn a_wrong_definition_is_told() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mariadb(&namespace, 5).await?;
    let setup = Setup::mysql(&namespace, &shop)?;
    let pinion = setup.write(&namespace)?;
    let file = setup.jobs.join("orders/document.sql");
    let good = std::fs::read_to_string(&file)?;
    for (wrong, expected) in [
        (good.replace("o.currency", "o.currrency"), "orders/document.sql: Unknown column 'o.currrency'"),
        (good.replace("FROM orders o", "FROM order o"), "orders/document.sql:24: You have an error"),
        (
            good.replace("o.status,", "'it\\'' AS status,"),
            "document.sql:4: MariaDB and MySQL read this otherwise: a backslash",
        ),
        (good.replace("o.id AS _id", "o.status AS _id"), "_id is of type"),
    ] {
        std::fs::write(&file, wrong)?;
        let checked = pinion.command(&["check"]).await?;
        assert_eq!(checked.code, 1, "{checked:?}");
        assert!(checked.stdout.contains(expected), "{expected}: {}", checked.stdout);
    }
    drop(shop);
    namespace.finish().await
}

/// Waits until every document of a job is what its query gives.
async fn equal(namespace: &Namespace, setup: &Setup, shop: &MysqlShop, job: &str, rows: usize) -> Result<()> {
    eventually(&format!("the documents of {job} to be equal"), patience(u32::try_from(rows)?), async || {
        let compared = compare_mysql(namespace, setup, shop, job).await?;
        ensure!(compared == rows, "{compared} documents are equal");
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn documents_follow_rows_on_mariadb() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mariadb(&namespace, 100).await?;
    documents_follow_rows(namespace, shop).await
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn documents_follow_rows_on_mysql() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mysql(&namespace, 100).await?;
    documents_follow_rows(namespace, shop).await
}

async fn documents_follow_rows(namespace: Namespace, shop: MysqlShop) -> Result<()> {
    let feed = Feed::start_mysql(&namespace, &shop).await?;
    let setup = feed.configure(Setup::mysql(&namespace, &shop)?);
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&[]).await?;
    for (table, column) in [("orders", "total"), ("customers", "created_at"), ("merchants", "category")] {
        let changed = if table == "merchants" { "concat(category, 's')" } else { "created_at + interval 1 second" };
        let changed = if table == "orders" { "total + 1" } else { changed };
        shop.execute(&format!("UPDATE {table} SET {column} = {changed}")).await?;
    }
    for (job, rows) in [("orders", 100), ("customers", 1000), ("merchants", 500)] {
        equal(&namespace, &setup, &shop, job, rows).await?;
    }
    shop.execute("UPDATE order_items SET order_id = 8 WHERE order_id = 9").await?;
    shop.execute("UPDATE customers c JOIN orders o ON o.customer_id = c.id SET c.name = 'Renamed' WHERE o.id = 1")
        .await?;
    shop.execute(
        "START TRANSACTION; DELETE FROM order_items WHERE order_id = 10; DELETE FROM deliveries WHERE order_id = 10; \
         DELETE FROM orders WHERE id = 10; COMMIT",
    )
    .await?;
    document(&namespace, "orders", 10, Value::clone, None).await?;
    document(&namespace, "orders", 1, |order| order["customer"]["name"].clone(), Some(json!("Renamed"))).await?;
    equal(&namespace, &setup, &shop, "orders", 99).await?;
    equal(&namespace, &setup, &shop, "customers", 1000).await?;
    shop.execute("TRUNCATE deliveries").await?;
    equal(&namespace, &setup, &shop, "orders", 99).await?;
    let metrics = worker.metrics().await?;
    let table = format!("{}.deliveries", namespace.name());
    let truncates = metrics.sum("pinion_feed_events_total", &[("table", &table), ("operation", "truncate")]);
    assert_eq!(truncates, 1.0);
    pinion.command(&["check"]).await?.ok()?;
    shop.execute("ALTER TABLE deliveries DROP FOREIGN KEY deliveries_ibfk_1, ADD CONSTRAINT gone FOREIGN KEY (order_id) REFERENCES orders (id) ON DELETE CASCADE")
        .await?;
    let checked = pinion.command(&["check"]).await?;
    assert!(checked.code == 1 && checked.stdout.contains("the foreign key gone of "), "{checked:?}");
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    assert_eq!(worker.terminate().await?, 0);
    drop(feed);
    drop(shop);
    namespace.finish().await
}

#[tokio::test]
async fn wrong_servers_are_told() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mariadb(&namespace, 5).await?;
    let (primary, replica) = (shop.primary_url(), shop.replica_url());
    let wrong_password = primary.replace("pinion:pinion", "pinion:wrong");
    for (kind, primary, replica, expected) in [
        ("mysql", &primary, &replica, "the primary is MariaDB"),
        ("mariadb", &primary, &primary, "it is no replica: its gtid_slave_pos is empty"),
        ("mariadb", &replica, &replica, "is read_only, as replicas are"),
        ("mariadb", &wrong_password, &replica, "gives no connection: "),
    ] {
        let setup = Setup {
            kind: kind.to_owned(),
            primary: primary.clone(),
            replicas: vec![replica.clone()],
            ..Setup::mysql(&namespace, &shop)?
        };
        let checked = setup.write(&namespace)?.command(&["check"]).await?;
        assert_eq!(checked.code, 1, "{checked:?}");
        assert!(checked.stdout.contains(expected), "{expected}: {}", checked.stdout);
        assert!(!checked.stdout.contains("wrong"), "a secret is shown: {}", checked.stdout);
    }
    drop(shop);
    namespace.finish().await
}

/// Where the key's collation takes 'ABC' for 'abc', each is still the id of its own document.
#[tokio::test]
async fn keys_are_texts_and_uuids() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mariadb(&namespace, 1).await?;
    let setup = Setup::mysql(&namespace, &shop)?;
    shop.execute(
        "CREATE TABLE codes (code varchar(20) COLLATE utf8mb4_general_ci PRIMARY KEY, n int); \
         INSERT INTO codes VALUES ('abc', 1), ('Ünï', 2), ('a''b', 3); \
         CREATE TABLE things (id char(36) PRIMARY KEY, n int); \
         INSERT INTO things VALUES ('6f1c2f9e-0c5b-4b1a-9d5e-2f6f0a3c7b11', 1); \
         CREATE TABLE parts (id bigint PRIMARY KEY, n int); INSERT INTO parts VALUES (1, 1)",
    )
    .await?;
    let mapping = json!({"mappings": {"dynamic": "strict", "properties": {"n": {"type": "long"}}}}).to_string();
    for (job, key, column) in
        [("codes", "text", "code"), ("things", "uuid", "id"), ("parts", "text", "CAST(id AS CHAR)")]
    {
        let toml = format!("index = \"x\"\nsource = \"shop\"\nkey = \"{key}\"\n");
        let query = format!("SELECT {column} AS _id, n FROM {job} WHERE {column} IN (:ids)");
        setup.write_job(&namespace, job, &toml, &query, &mapping)?;
    }
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "codes,things"]).await?;
    pinion.command(&["enqueue", "codes", "--all"]).await?.ok()?;
    pinion.command(&["enqueue", "codes", "ABC"]).await?.ok()?;
    pinion.command(&["enqueue", "things", "--all"]).await?.ok()?;
    settled(&worker, "codes", "indexed", 3).await?;
    settled(&worker, "codes", "deleted", 1).await?;
    settled(&worker, "things", "indexed", 1).await?;
    let field = |document: &Value| document["n"].clone();
    for (job, id, expected) in [
        ("codes", "abc", Some(json!(1))),
        ("codes", "Ünï", Some(json!(2))),
        ("codes", "a'b", Some(json!(3))),
        ("codes", "ABC", None),
        ("things", "6f1c2f9e-0c5b-4b1a-9d5e-2f6f0a3c7b11", Some(json!(1))),
    ] {
        let found = namespace.elastic().get(&namespace.index(job), id).await?.map(|found| field(&found["_source"]));
        assert_eq!(found, expected, "{job} {id}");
    }
    let refused = pinion.command(&["enqueue", "parts", "--all"]).await?;
    assert!(refused.stderr.contains("_id is computed, not a table's column"), "{refused:?}");
    assert_eq!(worker.terminate().await?, 0);
    drop(shop);
    namespace.finish().await
}
