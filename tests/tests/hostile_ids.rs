//! Ids and job names that would like to be SQL, paths, NDJSON or a terminal's commands are texts, and nothing else.

mod corpus;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use pinion_tests::{MysqlShop, Namespace, Pinion, Setup, Worker, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, MySqlPool, PgPool};

use self::corpus::{corpus, seed};
use crate::shop::{TIMEOUT, applied, dead_letters, dead_letters_of, send_raw, settled};

/// Those that dead letters and `explain` are tried with: each of these is a command or more.
const SAMPLE: [&str; 5] =
    ["'; DROP TABLE things; --", "a/../b", "\"}}\n{\"delete\":{\"_id\":\"keep\"}}\n", "\u{1b}[2J\u{1b}[1;31mred", "-x"];

/// The database with the table `things (id, n)`, as its owner.
enum Source<'a> {
    Postgres(&'a PgPool),
    Mariadb(&'a MySqlPool),
}

impl Source<'_> {
    /// Runs a statement whose places for texts are written `?`.
    async fn run(&self, sql: &str, texts: &[&str]) -> Result<()> {
        match self {
            Self::Postgres(pool) => {
                let mut numbered = String::new();
                for (place, part) in sql.split('?').enumerate() {
                    let number = if place > 0 { format!("${place}") } else { String::new() };
                    numbered.push_str(&(number + part));
                }
                let query = sqlx::query(AssertSqlSafe(numbered));
                texts.iter().fold(query, |query, text| query.bind(*text)).execute(*pool).await?;
            }
            Self::Mariadb(pool) => {
                let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
                texts.iter().fold(query, |query, text| query.bind(*text)).execute(*pool).await?;
            }
        }
        Ok(())
    }

    async fn rows(&self) -> Result<BTreeMap<String, Value>> {
        let sql = "SELECT id, n FROM things";
        let rows: Vec<(String, String)> = match self {
            Self::Postgres(pool) => sqlx::query_as(sql).fetch_all(*pool).await?,
            Self::Mariadb(pool) => sqlx::query_as(sql).fetch_all(*pool).await?,
        };
        Ok(rows.into_iter().map(|(id, n)| (id, json!(n))).collect())
    }
}

/// `n` of each document, by its `_id`.
async fn documents(namespace: &Namespace, job: &str) -> Result<BTreeMap<String, Value>> {
    let index = namespace.index(job);
    namespace.elastic().refresh(&index).await?;
    let answer = namespace.elastic().search(&index, json!({"size": 1000})).await?;
    let hits = answer["hits"]["hits"].as_array().context("hits")?;
    let id = |hit: &Value| hit["_id"].as_str().unwrap_or_default().to_owned();
    Ok(hits.iter().map(|hit| (id(hit), hit["_source"]["n"].clone())).collect())
}

const JOB: &str =
    "index = \"x\"\nsource = \"shop\"\nkey = \"text\"\n[[watch]]\ntable = \"public.things\"\nkey = \"id\"\n";
const MAPPING: &str = r#"{"mappings": {"dynamic": "strict", "properties": {"n": {"type": "long"}}}}"#;

#[tokio::test]
async fn hostile_ids_are_texts_to_postgres() -> Result<()> {
    let namespace = Namespace::empty().await?;
    namespace.execute("CREATE TABLE things (id text COLLATE \"C\" PRIMARY KEY, n text NOT NULL)").await?;
    let setup = Setup::without_jobs(&namespace)?;
    let sql = "SELECT t.id AS _id, t.n FROM things t WHERE t.id = ANY(:ids)";
    setup.write_job(&namespace, "things", JOB, sql, MAPPING)?;
    hostile_ids_are_texts(&namespace, &setup, &Source::Postgres(namespace.superuser())).await?;
    namespace.finish().await
}

#[tokio::test]
async fn hostile_ids_are_texts_to_mariadb() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mariadb(&namespace, 1).await?;
    shop.execute(
        "CREATE TABLE things (id varchar(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PRIMARY KEY, n text NOT NULL)",
    )
    .await?;
    let setup = Setup {
        kind: shop.kind().to_owned(),
        primary: shop.primary_url(),
        replicas: vec![shop.replica_url()],
        on_lag: "wait".to_owned(),
        ..Setup::without_jobs(&namespace)?
    };
    let job = JOB.replace("public.", &format!("{}.", namespace.name()));
    setup.write_job(
        &namespace,
        "things",
        &job,
        "SELECT t.id AS _id, t.n FROM things t WHERE t.id IN (:ids)",
        MAPPING,
    )?;
    hostile_ids_are_texts(&namespace, &setup, &Source::Mariadb(shop.root())).await?;
    drop(shop);
    namespace.finish().await
}

/// Of every third id there is no row.
async fn hostile_ids_are_texts(namespace: &Namespace, setup: &Setup, source: &Source<'_>) -> Result<()> {
    let ids = corpus(seed()?);
    for (place, id) in ids.iter().enumerate().filter(|(place, _)| place % 3 != 2) {
        source
            .run("INSERT INTO things VALUES (?, ?)", &[id, &place.to_string()])
            .await
            .with_context(|| format!("{id:?}"))?;
    }
    let pinion = applied(namespace, setup).await?;
    let worker = pinion.work(&["--jobs", "things"]).await?;
    let mut enqueue = vec!["enqueue", "things", "--ids-per-message", "7", "--"];
    enqueue.extend(ids.iter().map(String::as_str));
    pinion.command(&enqueue).await?.ok()?;
    let rows = source.rows().await?;
    settled(&worker, "things", "indexed", rows.len() as u64).await?;
    settled(&worker, "things", "deleted", (ids.len() - rows.len()) as u64).await?;
    equal(&documents(namespace, "things").await?, &rows)?;

    // Line by line, where an id is one; and in a message as another language would write it, escapes and all.
    source.run("DELETE FROM things WHERE id <> ?", &["keep"]).await?;
    let in_lines: Vec<&str> = ids.iter().map(String::as_str).filter(|id| !id.contains(['\n', '\r'])).collect();
    let output = pinion.command_with_input(&["enqueue", "things", "-"], &in_lines.join("\n")).await?.ok()?;
    ensure!(output.stdout.starts_with(&format!("{} ids enqueued", in_lines.len())), "{}", output.stdout);
    let in_ascii: Vec<String> = ids.iter().filter(|id| id.contains(['\n', '\r'])).map(|id| ascii(id)).collect();
    send_raw(namespace, "things", format!("{{\"job_name\":\"things\",\"ids\":[{}]}}", in_ascii.join(","))).await?;
    let gone = (ids.len() - rows.len()) + ids.len() - 1;
    settled(&worker, "things", "deleted", gone as u64).await?;
    equal(&documents(namespace, "things").await?, &source.rows().await?)?;
    assert_eq!(dead_letters(namespace).await?, Vec::<Value>::new());

    letters_of_hostile_ids(namespace, source, &pinion, &worker).await?;
    what_is_no_id_is_a_letter(namespace).await?;
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

fn equal(found: &BTreeMap<String, Value>, expected: &BTreeMap<String, Value>) -> Result<()> {
    let differs = |left: &BTreeMap<String, Value>, right: &BTreeMap<String, Value>| {
        left.iter().filter(|(id, n)| right.get(*id) != Some(n)).map(|(id, _)| id.clone()).collect::<Vec<_>>()
    };
    ensure!(found == expected, "missing: {:?}, wrong: {:?}", differs(expected, found), differs(found, expected));
    Ok(())
}

/// A JSON string in which nothing but ASCII stands.
fn ascii(text: &str) -> String {
    let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    format!("\"{escaped}\"")
}

/// A dead letter of a hostile id is found, shown, explained and replayed by just this id.
async fn letters_of_hostile_ids(
    namespace: &Namespace,
    source: &Source<'_>,
    pinion: &Pinion,
    worker: &Worker,
) -> Result<()> {
    for id in SAMPLE {
        source.run("INSERT INTO things VALUES (?, ?)", &[id, "dear"]).await?;
    }
    let mut enqueue = vec!["enqueue", "things", "--"];
    enqueue.extend(SAMPLE);
    pinion.command(&enqueue).await?.ok()?;
    dead_letters_of(namespace, SAMPLE.len()).await?;
    let list = pinion.command(&["dead", "list"]).await?.ok()?.stdout;
    ensure!(list.chars().all(|c| c == '\n' || !c.is_control()), "a terminal would take orders: {list:?}");
    ensure!(list.lines().count() < SAMPLE.len() + 8, "an id breaks its line: {list}");
    for id in SAMPLE {
        let is = format!("--id={id}");
        let found = pinion.command(&["dead", "list", "--json", &is]).await?.ok()?.json()?;
        let [letter] = &found["letters"].as_array().context("letters")?[..] else { anyhow::bail!("{id:?}: {found}") };
        assert_eq!(letter["id"], id);
        let key = letter["key"].as_str().context("a key")?;
        let shown = pinion.command(&["dead", "show", "--json", "--", key]).await?.ok()?.json()?;
        assert_eq!((&shown["id"], &shown["reason"]), (&json!(id), &json!("refused")));
        let explained = pinion.command(&["explain", "--json", "things", "--", id]).await?;
        assert_eq!(explained.code, 1, "{explained:?}");
        let explained = explained.json()?;
        assert_eq!((&explained["id"], &explained["dead_letter"]["key"]), (&json!(id), &letter["key"]));
    }
    source.run("UPDATE things SET n = ? WHERE n = ?", &["7", "dear"]).await?;
    let before = worker.metrics().await?.sum("pinion_documents_total", &[("job", "things"), ("verdict", "indexed")]);
    let replayed = pinion.command(&["dead", "replay", "--yes", &format!("--id={}", SAMPLE[0])]).await?.ok()?;
    assert_eq!(replayed.stdout, "1 dead letter replayed\n");
    pinion.command(&["dead", "replay", "--yes", "--job", "things"]).await?.ok()?;
    settled(worker, "things", "indexed", before as u64 + SAMPLE.len() as u64).await?;
    equal(&documents(namespace, "things").await?, &source.rows().await?)?;
    pinion.command(&["explain", "things", "--", SAMPLE[2]]).await?.ok()?;
    assert_eq!(dead_letters(namespace).await?, Vec::<Value>::new());
    Ok(())
}

async fn what_is_no_id_is_a_letter(namespace: &Namespace) -> Result<()> {
    let too_long = json!("x".repeat(513)).to_string();
    let no_ids = [
        ("\"\"", "is empty"),
        ("\"a\\u0000b\"", "contains a NUL"),
        (&*too_long, "longer than 512"),
        ("\"\\ud800\"", "valid string"),
    ];
    for (id, _) in no_ids {
        send_raw(namespace, "things", format!("{{\"job_name\":\"things\",\"id\":{id}}}")).await?;
    }
    let letters = dead_letters_of(namespace, no_ids.len()).await?;
    for (_, said) in no_ids {
        let says = |letter: &&Value| letter["error"].as_str().is_some_and(|error| error.contains(said));
        let letter = letters.iter().find(says).with_context(|| format!("no letter says {said}: {letters:#?}"))?;
        assert_eq!(letter["reason"], "wrong_id");
    }
    Ok(())
}

/// Latin-1 has it, ASCII has not.
const SHARP: &str = "ß";

#[tokio::test]
async fn ids_that_a_collation_of_mariadb_folds_are_not_the_rows() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mariadb(&namespace, 1).await?;
    ids_that_a_collation_folds_are_not_the_rows(namespace, shop).await
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn ids_that_a_collation_of_mysql_folds_are_not_the_rows() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let shop = MysqlShop::mysql(&namespace, 1).await?;
    ids_that_a_collation_folds_are_not_the_rows(namespace, shop).await
}

/// A key that takes what is not the same for the same, and can't hold every character.
async fn ids_that_a_collation_folds_are_not_the_rows(namespace: Namespace, shop: MysqlShop) -> Result<()> {
    let setup = Setup {
        kind: shop.kind().to_owned(),
        primary: shop.primary_url(),
        replicas: vec![shop.replica_url()],
        on_lag: "wait".to_owned(),
        ..Setup::without_jobs(&namespace)?
    };
    let charsets = ["latin1", "ascii", "utf8mb3", "utf8mb4"];
    for charset in charsets {
        shop.execute(&format!(
            "CREATE TABLE {charset}_things (id varchar(60) CHARACTER SET {charset} PRIMARY KEY, n int NOT NULL);
             INSERT INTO {charset}_things VALUES ('ab', 1), ('c', 2)"
        ))
        .await?;
        if charset != "ascii" {
            shop.execute(&format!("INSERT INTO {charset}_things VALUES ('{SHARP}', 3)")).await?;
        }
        let sql = format!("SELECT t.id AS _id, t.n FROM {charset}_things t WHERE t.id IN (:ids)");
        let job = JOB.replace("public.things", &format!("{}.{charset}_things", namespace.name()));
        setup.write_job(&namespace, charset, &job, &sql, MAPPING)?;
    }
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&[]).await?;
    let others = ["AB", "ab ", "\u{e4}b", "\u{430}\u{431}", "😀", "c\u{301}", "ａb"];
    for charset in charsets {
        let ids: Vec<&str> = others.into_iter().chain(["ab", "c", SHARP]).collect();
        pinion.command(&[&["enqueue", charset, "--ids-per-message", "20"], &ids[..]].concat()).await?.ok()?;
    }
    for charset in charsets {
        eventually(&format!("the ids of {charset}"), TIMEOUT, async || {
            let (_, page) = worker.admin("/readyz").await?;
            let page: Value = serde_json::from_str(&page)?;
            ensure!(page["jobs"][charset]["state"] == "running", "{}", page["jobs"][charset]);
            let metrics = worker.metrics().await?;
            let done =
                |verdict| metrics.sum("pinion_documents_total", &[("job", charset), ("verdict", verdict)]) as usize;
            ensure!(done("deleted") + done("dead_letter") + done("indexed") == others.len() + 3);
            Ok(Some(()))
        })
        .await?;
        let mut rows = BTreeMap::from([("ab".to_owned(), json!(1)), ("c".to_owned(), json!(2))]);
        if charset != "ascii" {
            rows.insert(SHARP.to_owned(), json!(3));
        }
        equal(&documents(&namespace, charset).await?, &rows).context(charset)?;
    }
    // What a column can't hold is told, and stops nobody else.
    for letter in dead_letters(&namespace).await? {
        assert!(letter["id"].as_str().is_some_and(|id| !id.is_ascii()) && letter["job"] != "utf8mb4", "{letter}");
        assert!(letter["error"].as_str().is_some_and(|error| error.contains("its column can't hold")), "{letter}");
    }
    assert_eq!(worker.terminate().await?, 0);
    drop(shop);
    namespace.finish().await
}

/// What there is on the servers of a namespace.
async fn inventory(namespace: &Namespace) -> Result<Vec<String>> {
    let name = namespace.name();
    let indexes =
        namespace.elastic().ok(Method::GET, "/_cat/indices?format=json&h=index&expand_wildcards=all", None).await?;
    let mut all: Vec<String> =
        indexes.as_array().into_iter().flatten().map(|index| index["index"].to_string()).collect();
    for kind in ["queues", "exchanges"] {
        let list = namespace.rabbit().management(Method::GET, &format!("/{kind}/%2f?columns=name"), None).await?;
        all.extend(list.as_array().into_iter().flatten().map(|entry| format!("{kind} {}", entry["name"])));
    }
    all.retain(|entry| entry.contains(name));
    let tables = "SELECT 'table ' || relname || ' ' || pg_relation_size(oid) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    all.extend(sqlx::query_scalar::<_, String>(tables).fetch_all(namespace.superuser()).await?);
    all.sort();
    Ok(all)
}

#[tokio::test]
async fn hostile_job_names_reach_no_server() -> Result<()> {
    let namespace = Namespace::shop(3).await?;
    let setup = Setup::shop(&namespace)?;
    // A folder that an operator gave a name that no job can have.
    let odd = "a?b#c";
    std::fs::create_dir_all(setup.jobs.join(odd))?;
    std::fs::copy(setup.jobs.join("orders/job.toml"), setup.jobs.join(odd).join("job.toml"))?;
    let pinion = applied_in_part(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "customers"]).await?;
    let before = inventory(&namespace).await?;

    let mut names = corpus(seed()?);
    // The names that a job may have are those of none.
    names.retain(|name| name != "orders" && name != "customers" && name != "merchants");
    names.extend(
        ["_all", "customers.low", "customers/_delete_by_query", "Customers", "customers\0", ""].map(str::to_owned),
    );
    names.sort();
    names.dedup();
    let bodies: Vec<Vec<u8>> =
        names.iter().map(|name| json!({"id": 1, "job_name": name}).to_string().into_bytes()).collect();
    namespace.rabbit().publish(namespace.name(), "customers", &bodies).await?;
    let letters = dead_letters_of(&namespace, names.len()).await?;
    ensure!(
        letters.iter().all(|letter| letter["reason"] == "undecodable" || letter["reason"] == "unknown_job"),
        "{letters:#?}"
    );
    for name in ["../customers", "customers/_delete_by_query?q=*", "*", "'; DROP TABLE customers; --"] {
        for command in [vec!["enqueue", name, "1"], vec!["explain", name, "1"], vec!["pause", name, "--no-wait"]] {
            let output = pinion.command(&command).await?;
            ensure!(output.code == 1 && output.stderr.contains("no job is called"), "{command:?}: {output:?}");
        }
        let output = pinion.command(&["dead", "replay", "--yes", "--job", name]).await?.ok()?;
        assert_eq!(output.stdout, "0 dead letters replayed\n");
    }
    pinion.command(&["pause", odd, "--no-wait"]).await?.ok()?;
    let jobs = format!("{}-jobs", namespace.name());
    let held = namespace.elastic().search(&jobs, json!({"query": {"ids": {"values": [odd]}}})).await?;
    assert_eq!(held["hits"]["hits"][0]["_source"]["job"], odd, "{held}");
    let now = inventory(&namespace).await?;
    assert_eq!(now, before);
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

/// `apply` makes what the good jobs need, and tells of the others with its exit code.
async fn applied_in_part(namespace: &Namespace, setup: &Setup) -> Result<Pinion> {
    let pinion = setup.write(namespace)?;
    let output = pinion.command(&["apply"]).await?;
    ensure!(output.code <= 1, "{output:?}");
    Ok(pinion)
}
