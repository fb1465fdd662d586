//! Jobs with `from = "event"`: documents of change events, compared with what a query of the same rows gives.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use pinion_tests::{Feed, MysqlShop, Namespace, Pinion, Setup, Worker, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::shop::{TIMEOUT, applied, dead_letters, dead_letters_of, patience};

/// Whatever comes is kept as it is.
const MAPPING: &str = r#"{"mappings": {"dynamic": false, "properties": {"id": {"type": "long"}}}}"#;

/// The types of columns where events tell them without a schema.
const TYPES: &str = r#"
n = "VariableScaleDecimal"
n2 = "Decimal(2)"
d = "Date"
tm = "MicroTime"
tm3 = "Time"
tmz = "ZonedTime"
ts = "MicroTimestamp"
ts3 = "Timestamp"
tz = "ZonedTimestamp"
iv = "Interval"
f4 = "Float"
f8 = "Float"
j = "Json"
jb = "Json"
an = "Decimal(2)[]"
ad = "Date[]"
ats = "ZonedTimestamp[]"
aj = "Json[]"
p = "Geometry"
m = "Decimal(2)"
bits = "Bits(10)"
"#;

const TABLE: &str = "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TABLE rows (id bigint PRIMARY KEY, i2 smallint, i4 int, b bool, f4 real,
    f8 double precision, n numeric, n2 numeric(10,2), t text DEFAULT 'default', v varchar(20), c char(5), by bytea, d date, tm time,
    tm3 time(3), tmz timetz, ts timestamp, ts3 timestamp(3), tz timestamptz, iv interval, j json, jb jsonb, u uuid, e mood, ai int[],
    at text[], an numeric(10,2)[], ad date[], ats timestamptz[], aj jsonb[], au uuid[], p point, inet inet, mac macaddr, m money,
    bits bit(10), r int4range, xm xml)";

/// The same documents by a query. What an event tells in another form is told in that one: a time of day with a zone in UTC, a
/// range, money, bits and a point, which have none in a query, as text or a number.
const QUERY: &str = "SELECT id AS _id, id, i2, i4, b, f4, f8, n, n2, t, v, c, by, d, tm, tm3, tmz AT TIME ZONE 'UTC' AS tmz, ts, ts3, tz, iv,
    j, jb, u, e, ai, at, an, ad, ats, aj, au, 'POINT (' || p[0] || ' ' || p[1] || ')' AS p, inet, mac, m::numeric AS m,
    bits::text AS bits, r::text AS r, xm FROM rows WHERE id = ANY(:ids)";

const ROWS: [&str; 5] = [
    "(1, 2, 3, true, 1.5, 2.5, 123.4567890123456789, 12345.60, 'text', 'v', 'c', '\\x00ff10', '2024-02-29', '12:34:56.789012',
      '12:34:56.789', '12:34:56.789+02', '2024-02-29 12:34:56.789012', '2024-02-29 12:34:56.789', '2024-02-29 12:34:56.789012+02',
      '1 year 2 mons 3 days 04:05:06.789', '{\"a\":\n1}', '{\"b\": [1, 2]}', '6f1c1f5e-0000-4000-8000-000000000001', 'happy', '{1,2,null}',
      '{a,b}', '{1.50,2.25}', '{2024-01-02}', '{\"2024-02-29 12:34:56+00\"}', '{\"{\\\"x\\\":1}\"}', '{6f1c1f5e-0000-4000-8000-000000000001}',
      '(1.5,2.5)', '10.0.0.1/8', '08:00:2b:01:02:03', '12.34', B'1010101011', '[1,5)', '<a>x</a>')",
    "(2)",
    "(3, -2, -3, false, 'NaN', 'Infinity', 'NaN', -0.01, NULL, '', '', '', 'infinity', '24:00', '24:00', '23:00:00-03', 'infinity', 'infinity',
      'infinity', '-1 mons +2 days', 'null', '{}', NULL, 'sad', '{}', '{}')",
    "(4, 0, 0, false, '-Infinity', 1e300, -0.0012, 0, 'x', NULL, '  x', '\\x', '-infinity', '00:00', '00:00:01.5', '24:00:00+00', '-infinity',
      '-infinity', '-infinity', '0')",
    "(5, 0, 0, false, 1, 1, 1e20, 1, 'x', 'v', 'c', NULL, '10000-01-01', '00:00:00.5', '0:0', '00:00:00+15:59', '1969-12-31 23:59:59.999999',
      '20000-01-01', '294276-12-31 23:59:59.999999+00', '100 years -3 mons 4 days -00:00:00.25')",
];

/// A namespace with the table, a job from events, and one that asks a query for the same.
struct Rows {
    // Dropped before the namespace, whose database it reads.
    feed: Feed,
    namespace: Namespace,
    pinion: Pinion,
    worker: Worker,
}

impl Rows {
    /// With more settings of the connector and lines for `[columns]`.
    async fn start(settings: Value, columns: &str, mapping: &str, before: &str) -> Result<Self> {
        let namespace = Namespace::empty().await?;
        namespace.execute(TABLE).await?;
        namespace.execute("ALTER TABLE rows REPLICA IDENTITY FULL").await?;
        namespace.execute(before).await?;
        let feed = Feed::start_with(&namespace, settings).await?;
        let mut setup = feed.configure(Setup::without_jobs(&namespace)?);
        setup.extra = format!("{}registry = {:?}\n", setup.extra, feed.registry());
        let job = "index = \"\"\nsource = \"shop\"\nkey = \"bigint\"\n";
        setup.write_job(&namespace, "asked", job, QUERY, MAPPING)?;
        let told = format!(
            "{job}from = \"event\"\n[[watch]]\ntable = \"public.rows\"\nkey = \"id\"\n[columns]\nc = \"Char\"\n{columns}"
        );
        setup.write_job(&namespace, "told", &told, "", mapping)?;
        std::fs::remove_file(setup.jobs.join("told/document.sql"))?;
        let pinion = applied(&namespace, &setup).await?;
        let worker = pinion.work(&[]).await?;
        Ok(Self { feed, namespace, pinion, worker })
    }

    async fn execute(&self, sql: &str) -> Result<()> {
        self.namespace.execute(sql).await.map(|_| ()).context(sql.to_owned())
    }

    /// All documents of a job, by id.
    async fn documents(&self, job: &str) -> Result<BTreeMap<String, Value>> {
        let index = self.namespace.index(job);
        self.namespace.elastic().refresh(&index).await?;
        let found = self.namespace.elastic().search(&index, json!({"size": 10_000})).await?;
        let hits = found["hits"]["hits"].as_array().context("hits")?;
        Ok(hits
            .iter()
            .map(|hit| (hit["_id"].as_str().unwrap_or_default().to_owned(), hit["_source"].clone()))
            .collect())
    }

    /// Waits until the documents from events are what the query gives for the rows as they are.
    async fn equal(&self, rows: usize) -> Result<()> {
        self.pinion.command(&["enqueue", "asked", "--all"]).await?.ok()?;
        eventually("the documents to be equal", patience(0), async || {
            let (asked, told) = (self.documents("asked").await?, self.documents("told").await?);
            let live: i64 =
                sqlx::query_scalar("SELECT count(*) FROM rows").fetch_one(self.namespace.superuser()).await?;
            ensure!(live as usize == rows && told.len() == rows, "{live} rows, {} documents", told.len());
            for (id, document) in &told {
                let asked = asked.get(id).with_context(|| format!("document {id} is not asked yet"))?;
                for (field, value) in document.as_object().context("an object")? {
                    ensure!(
                        asked.get(field) == Some(value),
                        "{id}.{field}: asked {:?}, told {value}",
                        asked.get(field)
                    );
                }
                ensure!(asked.as_object().map(|asked| asked.len()) == document.as_object().map(|told| told.len()));
            }
            Ok(Some(()))
        })
        .await
    }

    /// Waits until nothing is behind, by what `pinion offsets` says.
    async fn caught_up(&self, offsets: &[&str]) -> Result<()> {
        eventually("all events to be done", TIMEOUT, async || {
            let shown = self.pinion.command(offsets).await?.ok()?.json()?;
            let partition = &shown["partitions"][0];
            ensure!(partition["lag"] == 0 && partition["end"].as_i64() > Some(0), "{shown}");
            Ok(Some(()))
        })
        .await
    }

    /// Waits until the job from events is in a state; gives what it says.
    async fn state(&self, state: &str) -> Result<Value> {
        eventually(&format!("the job to be {state}"), TIMEOUT, async || {
            let (_, page) = self.worker.admin("/readyz").await?;
            let page: Value = serde_json::from_str(&page)?;
            ensure!(page["jobs"]["told"]["state"] == state, "{page}");
            Ok(Some(page["jobs"]["told"].clone()))
        })
        .await
    }

    async fn finish(self) -> Result<()> {
        assert_eq!(self.worker.terminate().await?, 0);
        drop(self.feed);
        self.namespace.finish().await
    }
}

fn row_of(values: &str) -> String {
    format!("INSERT INTO rows VALUES {values}")
}

/// All types, then changes and deletes, several of one row in a transaction.
async fn every_type_and_every_change(settings: Value, columns: &str, before: &str) -> Result<()> {
    let rows = Rows::start(settings, columns, MAPPING, before).await?;
    for row in ROWS {
        rows.execute(&row_of(row)).await?;
    }
    rows.equal(5).await?;
    rows.execute(
        "BEGIN; UPDATE rows SET t = NULL WHERE id = 1; UPDATE rows SET i4 = 7 WHERE id = 1; DELETE FROM rows WHERE id = 2; \
         INSERT INTO rows (id, t) VALUES (2, 'again'), (6, 'gone'), (7, 'moves'); DELETE FROM rows WHERE id = 6; \
         UPDATE rows SET id = 8 WHERE id = 7; COMMIT",
    )
    .await?;
    rows.equal(6).await?;
    assert_eq!(dead_letters(&rows.namespace).await?, Vec::<Value>::new());
    rows.finish().await
}

#[tokio::test]
async fn json_with_schemas_makes_documents() -> Result<()> {
    let schemas = json!({"key.converter.schemas.enable": "true", "value.converter.schemas.enable": "true"});
    every_type_and_every_change(schemas, "", "SELECT 1").await
}

#[tokio::test]
async fn json_without_schemas_makes_documents_by_configuration() -> Result<()> {
    every_type_and_every_change(json!({}), TYPES, "SELECT 1").await
}

/// Apicurio's converter writes a column's default for NULL, whatever it is told.
#[tokio::test]
async fn avro_makes_documents() -> Result<()> {
    every_type_and_every_change(Feed::kit("avro.json")?, "", "ALTER TABLE rows ALTER t DROP DEFAULT").await
}

#[tokio::test]
async fn flattened_events_make_documents() -> Result<()> {
    every_type_and_every_change(Feed::kit("flat.json")?, TYPES, "SELECT 1").await
}

/// Rows of before come by the snapshot, and are never put over a later change; a restarted connector tells some changes twice.
#[tokio::test]
async fn snapshots_restarts_and_killed_workers_leave_the_newest() -> Result<()> {
    let before = "INSERT INTO rows (id, i4) SELECT n, 0 FROM generate_series(1, 300) AS n";
    let snapshot = json!({"snapshot.mode": "initial"});
    let rows = Rows::start(snapshot, TYPES, MAPPING, before).await?;
    let second = rows.pinion.work(&[]).await?;
    for step in 1..=20 {
        rows.execute(&format!(
            "BEGIN; UPDATE rows SET i4 = {step} WHERE id % 3 = {step} % 3; UPDATE rows SET i4 = i4 + 100 WHERE id % 7 = {step} % 7; \
             DELETE FROM rows WHERE id = {step}; COMMIT"
        ))
        .await?;
        if step == 8 {
            rows.feed.restart().await?;
        }
    }
    second.kill().await?;
    rows.execute("INSERT INTO rows (id, i4) VALUES (3, 3); UPDATE rows SET i4 = 4 WHERE id = 3").await?;
    rows.equal(281).await?;
    assert_eq!(dead_letters(&rows.namespace).await?, Vec::<Value>::new());

    // All of it once more: the group is the job's own.
    let offsets = ["offsets", "--job", "told", "--json"];
    rows.caught_up(&offsets).await?;
    let rewound = rows.pinion.command(&[&offsets[..], &["--from-start", "--yes"]].concat()).await?.ok()?.json()?;
    assert_eq!((&rewound["moves"][0]["to"], &rewound["workers_paused"]), (&json!(0), &json!(true)), "{rewound}");
    rows.caught_up(&offsets).await?;
    rows.equal(281).await?;
    rows.finish().await
}

/// What the kit makes in a database, and what its README says to insert.
const SIGNALS: &str =
    "CREATE TABLE debezium_signal (id varchar(64) PRIMARY KEY, type varchar(32) NOT NULL, data varchar(2048))";

fn read_anew(table: &str) -> String {
    let data = json!({"type": "incremental", "data-collections": [table]});
    format!("INSERT INTO debezium_signal (id, type, data) VALUES ('again', 'execute-snapshot', '{data}')")
}

/// An index that is deleted is built anew by the connector, which goes on following meanwhile.
#[tokio::test]
async fn a_table_that_is_read_anew_builds_a_new_index() -> Result<()> {
    let before = format!("{SIGNALS}; INSERT INTO rows (id, i4) SELECT n, 0 FROM generate_series(1, 3000) AS n");
    let rows = Rows::start(json!({}), TYPES, MAPPING, &before).await?;
    rows.execute("UPDATE rows SET i4 = 1 WHERE id <= 10").await?;
    rows.caught_up(&["offsets", "--job", "told", "--json"]).await?;
    assert_eq!(rows.documents("told").await?.len(), 10, "what was there before is not in the feed");
    rows.pinion.command(&["pause", "told"]).await?.ok()?;
    rows.state("paused").await?;
    let index = rows.namespace.elastic().ok(Method::GET, &format!("/{}", rows.namespace.index("told")), None).await?;
    let index = index.as_object().and_then(|indexes| indexes.keys().next()).context("an index")?.clone();
    rows.namespace.elastic().ok(Method::DELETE, &format!("/{index}"), None).await?;
    rows.pinion.command(&["apply"]).await?.ok()?;
    rows.pinion.command(&["resume", "told"]).await?.ok()?;
    rows.execute(&read_anew("public.rows")).await?;
    for step in 1..=20 {
        rows.execute(&format!("UPDATE rows SET i4 = {step} WHERE id % 20 = {step} % 20")).await?;
    }
    rows.equal(3000).await?;
    assert_eq!(dead_letters(&rows.namespace).await?, Vec::<Value>::new());
    rows.finish().await
}

#[tokio::test]
async fn a_truncated_table_leaves_no_document() -> Result<()> {
    let rows = Rows::start(json!({}), TYPES, MAPPING, "SELECT 1").await?;
    rows.execute("INSERT INTO rows (id) SELECT generate_series(1, 2500)").await?;
    rows.execute("TRUNCATE rows").await?;
    rows.execute("INSERT INTO rows (id, t) VALUES (1, 'new'), (9999, 'new')").await?;
    rows.equal(2).await?;
    rows.finish().await
}

/// A document's own fault is a dead letter with its place; one of the job stops it in place and goes on when it is mended.
#[tokio::test]
async fn faults_are_told_and_nothing_is_passed_over() -> Result<()> {
    let strict = r#"{"mappings": {"dynamic": false, "properties": {"t": {"type": "long"}}}}"#;
    let rows = Rows::start(json!({}), TYPES, strict, "SELECT 1").await?;
    rows.execute("INSERT INTO rows (id, t) VALUES (1, '1'), (2, 'no number'), (3, '3')").await?;
    let letters = dead_letters_of(&rows.namespace, 1).await?;
    assert_eq!(
        (&letters[0]["job"], &letters[0]["id"], &letters[0]["reason"]),
        (&json!("told"), &json!("2"), &json!("refused"))
    );
    let error = letters[0]["error"].as_str().unwrap_or_default();
    assert!(
        error.contains(&format!("topic {}, partition 0, offset 1: document_parsing", rows.feed.topic("rows"))),
        "{error}"
    );

    // The index refuses everything: its events wait.
    let index = rows.namespace.index("told");
    let block = |on: bool| json!({"index.blocks.write": on});
    let settings = format!("/{index}/_settings");
    rows.namespace.elastic().ok(Method::PUT, &settings, Some(block(true))).await?;
    rows.execute("UPDATE rows SET t = '10' WHERE id = 1").await?;
    let told = rows.state("broken").await?;
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains("does not take documents")), "{told}");
    rows.execute("UPDATE rows SET t = '11' WHERE id = 1").await?;
    rows.namespace.elastic().ok(Method::PUT, &settings, Some(block(false))).await?;
    eventually("the last change", TIMEOUT, async || {
        Ok((rows.documents("told").await?.get("1").context("document 1")?["t"] == "11").then_some(()))
    })
    .await?;
    rows.state("running").await?;

    rows.pinion.command(&["pause", "told"]).await?.ok()?;
    rows.state("paused").await?;
    rows.pinion.command(&["resume", "told"]).await?.ok()?;
    rows.state("running").await?;
    rows.finish().await
}

/// It takes no messages, and `check` knows what it needs.
#[tokio::test]
async fn messages_do_nothing_and_say_so() -> Result<()> {
    let rows = Rows::start(json!({}), TYPES, MAPPING, "SELECT 1").await?;
    let refused = rows.pinion.command(&["enqueue", "told", "1"]).await?;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("come from change events"), "{}", refused.stderr);
    crate::shop::send(&rows.namespace, "told", [1]).await?;
    let letters = dead_letters_of(&rows.namespace, 1).await?;
    assert_eq!((&letters[0]["job"], &letters[0]["reason"]), (&json!("told"), &json!("from_event")));
    let replayed = rows.pinion.command(&["dead", "replay", "--job", "told", "--yes"]).await?;
    assert!(format!("{}{}", replayed.stdout, replayed.stderr).contains("takes no messages"), "{}", replayed.stdout);

    rows.execute("INSERT INTO rows (id) VALUES (1)").await?;
    rows.equal(1).await?;
    rows.pinion.command(&["check"]).await?.ok()?;
    rows.execute("ALTER TABLE rows REPLICA IDENTITY DEFAULT").await?;
    let checked = rows.pinion.command(&["check"]).await?.stdout;
    assert!(checked.contains("default where it is NULL, unless told otherwise (t)"), "{checked}");
    assert!(checked.contains("does not tell large values that it leaves as they were"), "{checked}");
    rows.execute("ALTER TABLE rows DROP CONSTRAINT rows_pkey").await?;
    let checked = rows.pinion.command(&["check"]).await?;
    assert_eq!(checked.code, 1);
    assert!(checked.stdout.contains("id alone is not the primary key of public.rows"), "{}", checked.stdout);
    rows.finish().await
}

const MARIADB_TYPES: &str = r#"
n = "Decimal(2)"
d = "Date"
dt = "MicroTimestamp"
dt3 = "Timestamp"
ts = "ZonedTimestamp"
tm = "MicroTime"
f = "Float"
u = "Unsigned"
"#;

/// The same on MariaDB: positions are places in its binary log.
#[tokio::test]
async fn events_of_mariadb_make_documents() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mariadb(&namespace, 1).await?;
    shop.execute(
        "CREATE TABLE rows_ (id bigint PRIMARY KEY, n decimal(10,2), d date, dt datetime(6), dt3 datetime(3), ts timestamp(6) NULL, \
         tm time(6), f double, t varchar(20), e enum('a','b'), u bigint unsigned, y year, bl blob)",
    )
    .await?;
    shop.execute(SIGNALS).await?;
    shop.execute("INSERT INTO rows_ (id, t) VALUES (5, 'from before')").await?;
    let feed = Feed::start_mysql(&namespace, &shop).await?;
    let setup = feed.configure(Setup::mysql(&namespace, &shop)?);
    let job = "index = \"\"\nsource = \"shop\"\nkey = \"bigint\"\n";
    setup.write_job(&namespace, "asked", job, "SELECT t.id AS _id, t.* FROM rows_ t WHERE t.id IN (:ids)", MAPPING)?;
    let table = format!("[[watch]]\ntable = \"{}.rows_\"\nkey = \"id\"\n", namespace.name());
    let told = format!("{job}from = \"event\"\n{table}[columns]\n{MARIADB_TYPES}");
    setup.write_job(&namespace, "told", &told, "", MAPPING)?;
    std::fs::remove_file(setup.jobs.join("told/document.sql"))?;
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "asked,told"]).await?;
    shop.execute(
        "INSERT INTO rows_ VALUES (1, 12345.60, '2024-02-29', '2024-02-29 12:34:56.789012', '2024-02-29 12:34:56.789', \
         '2024-02-29 12:34:56.789012', '-838:59:58.5', 1.5, 'text', 'b', 18446744073709551615, 2024, x'00ff10'), \
         (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), (3, -0.01, NULL, NULL, NULL, NULL, '00:00:01', \
         1e300, '', 'a', 0, NULL, '')",
    )
    .await?;
    shop.execute("UPDATE rows_ SET t = 'first' WHERE id = 2; UPDATE rows_ SET t = 'last' WHERE id = 2").await?;
    shop.execute("DELETE FROM rows_ WHERE id = 3; INSERT INTO rows_ (id, t) VALUES (3, 'again'), (4, 'gone')").await?;
    shop.execute("DELETE FROM rows_ WHERE id = 4").await?;
    shop.execute(&read_anew(&format!("{}.rows_", namespace.name()))).await?;
    pinion.command(&["enqueue", "asked", "1", "2", "3", "5"]).await?.ok()?;
    eventually("the documents to be equal", TIMEOUT, async || {
        for id in ["1", "2", "3", "4", "5"] {
            let asked = namespace.elastic().get(&namespace.index("asked"), id).await?;
            let told = namespace.elastic().get(&namespace.index("told"), id).await?;
            let source = |document: &Option<Value>| document.as_ref().map(|document| document["_source"].clone());
            ensure!(
                source(&asked) == source(&told) && told.is_some() == (id != "4"),
                "{id}: asked {asked:?}, told {told:?}"
            );
        }
        Ok(Some(()))
    })
    .await?;
    let checked = pinion.command(&["check"]).await?.ok()?.stdout;
    assert!(checked.contains("told/job.toml: warning: the column \"n\" has no field in mapping.json"), "{checked}");
    assert!(!checked.contains("told/document.sql"), "{checked}");
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    assert_eq!(worker.terminate().await?, 0);
    drop(feed);
    drop(shop);
    namespace.finish().await
}
