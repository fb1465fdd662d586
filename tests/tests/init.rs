//! `pinion init`: from a database's tables to a configuration that works.

use anyhow::{Context, Result, ensure};
use pinion_tests::{Namespace, Output, Pinion};
use serde_json::json;

use crate::shop::{send, settled};

struct Fresh {
    namespace: Namespace,
    pinion: Pinion,
}

impl Fresh {
    /// A database, and a folder without any file yet.
    async fn new(namespace: Namespace) -> Result<Self> {
        let pinion = Pinion::new(&namespace.folder().join("new").join("pinion.toml"))?;
        Ok(Self { namespace, pinion })
    }

    /// `pinion init` with the addresses of the servers.
    async fn init(&self, more: &[&str]) -> Result<Output> {
        let folder = self.namespace.folder().join("new").display().to_string();
        let (primary, replica) = (self.namespace.primary_url(), self.namespace.replica_url());
        let mut arguments = vec!["init", "--dir", &folder, "--source", &primary, "--replica", &replica];
        arguments.extend(["--rabbitmq", self.namespace.rabbit().url()]);
        arguments.extend(["--elasticsearch", self.namespace.elastic().url()]);
        arguments.extend(more);
        self.pinion.command(&arguments).await
    }

    /// Names of the test's own, so that it meets no other.
    fn rename(&self, job: &str) -> Result<()> {
        let replace = |file: &str, from: &str, to: &str| {
            let file = self.namespace.folder().join("new").join(file);
            let text = std::fs::read_to_string(&file)?;
            ensure!(text.contains(from), "{from} is not in {}", file.display());
            Ok(std::fs::write(&file, text.replacen(from, to, 1))?)
        };
        let namespace = format!("namespace = {:?}", self.namespace.name());
        replace("pinion.toml", "# namespace = \"pinion\"", &namespace)?;
        replace(
            &format!("jobs/{job}/job.toml"),
            &format!("index = {job:?}"),
            &format!("index = {:?}", self.namespace.index(job)),
        )
    }
}

#[tokio::test]
async fn a_table_becomes_a_job_that_works() -> Result<()> {
    let fresh = Fresh::new(Namespace::shop(20).await?).await?;
    let said = fresh.init(&["--table", "public.orders"]).await?.ok()?.stdout;
    assert!(said.contains("pinion.toml") && said.contains("pinion enqueue orders --all"), "{said}");
    fresh.rename("orders")?;
    fresh.pinion.command(&["apply"]).await?.ok()?;
    let checked = fresh.pinion.command(&["check"]).await?.ok()?.stdout;
    assert_eq!(checked, "1 job checked: nothing to complain about\n");
    let worker = fresh.pinion.work(&[]).await?;
    send(&fresh.namespace, "orders", 1..=20).await?;
    settled(&worker, "orders", "indexed", 20).await?;
    let found = fresh.namespace.elastic().get(&fresh.namespace.index("orders"), "7").await?.context("the document")?;
    assert_eq!(found["_source"]["currency"], json!("EUR"));
    assert_eq!(worker.terminate().await?, 0);
    fresh.namespace.finish().await
}

#[tokio::test]
async fn every_type_finds_a_field_that_takes_it() -> Result<()> {
    let namespace = Namespace::empty().await?;
    namespace
        .execute(
            "CREATE TYPE mood AS ENUM ('good'); CREATE TYPE pair AS (x int4, y text); CREATE DOMAIN code AS varchar(10);
             CREATE TABLE \"Every Type\" (id uuid PRIMARY KEY, i2 int2, i8 int8, f4 float4, n numeric(10, 2), b bool, t text, v varchar(20),
                 c char(3), m mood, u uuid, ip inet, net cidr, d date, ts timestamp, tz timestamptz, tm time, iv interval, j json,
                 jb jsonb, by bytea, r int4range, tr tstzrange, p pair, co code, ia int4[], ta text[], po point, mo money,
                 _hidden int4, sv tsvector, \"Mixed\" text, mr int4multirange);
             INSERT INTO \"Every Type\" VALUES ('00000000-0000-0000-0000-000000000001', 1, 2, 1.5, 2.5, true, 'text', 'v', 'abc', 'good',
                 '00000000-0000-0000-0000-000000000002', '10.0.0.1', '10.0.0.0/8', '2024-02-29', '2024-02-29 12:00', '2024-02-29 12:00Z',
                 '12:00', '1 day', '[1]', '{\"a\": 1}', '\\x00', '[1,3)', '[2024-01-01, 2024-02-01)', (1, 'a'), 'code', '{1,2}', '{a,b}',
                 '(1,2)', 12.5, 1, 'word', 'mixed', '{[1,3)}')",
        )
        .await?;
    namespace.replica_caught_up().await?;
    let fresh = Fresh::new(namespace).await?;
    let output = fresh.init(&["--table", "public.Every Type", "--job", "every", "--json"]).await?.ok()?.json()?;
    assert_eq!(output["left_out"].as_array().map(Vec::len), Some(3), "{output}");
    fresh.rename("every")?;
    fresh.pinion.command(&["apply"]).await?.ok()?;
    let checked = fresh.pinion.command(&["check", "--json"]).await?.ok()?.json()?;
    assert_eq!(checked["warnings"], 0, "{checked}");
    let worker = fresh.pinion.work(&[]).await?;
    let id = "00000000-0000-0000-0000-000000000001";
    let body = json!({"id": id, "job_name": "every"}).to_string();
    fresh.namespace.rabbit().publish(fresh.namespace.name(), "every", &[body.into_bytes()]).await?;
    settled(&worker, "every", "indexed", 1).await?;
    assert!(fresh.namespace.elastic().get(&fresh.namespace.index("every"), id).await?.is_some());
    fresh.namespace.finish().await
}

#[tokio::test]
async fn nothing_is_overwritten() -> Result<()> {
    let fresh = Fresh::new(Namespace::shop(1).await?).await?;
    let listed = fresh.init(&[]).await?.ok()?.stdout;
    assert!(listed.contains("pinion init --table public.order_items\n"), "{listed}");
    let again = fresh.init(&[]).await?;
    assert!(
        again.code == 1 && again.stderr.contains("pinion.toml is there already and is never overwritten"),
        "{again:?}"
    );
    let bare = fresh.pinion.command(&["init"]).await?;
    assert!(bare.code == 1 && bare.stderr.contains("`pinion init --table SCHEMA.TABLE` adds a job"), "{bare:?}");
    let table = ["init", "--table", "public.orders"];
    fresh.pinion.command(&table).await?.ok()?;
    let again = fresh.pinion.command(&table).await?;
    assert!(again.code == 1 && again.stderr.contains("orders is there already and is never overwritten"), "{again:?}");
    fresh.pinion.command(&["init", "--table", "public.orders", "--job", "more-orders"]).await?.ok()?;
    fresh.pinion.command(&["check", "--offline"]).await?.ok()?;
    fresh.namespace.finish().await
}

#[tokio::test]
async fn tables_that_cannot_be_jobs_are_told() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    namespace
        .execute(
            "CREATE TABLE heap (a int); CREATE TABLE two (a int, b int, PRIMARY KEY (a, b)); CREATE VIEW seen AS SELECT * FROM orders;
             CREATE TABLE priced (id numeric PRIMARY KEY); CREATE TABLE hidden (id int PRIMARY KEY); REVOKE ALL ON hidden FROM pinion",
        )
        .await?;
    let fresh = Fresh::new(namespace).await?;
    fresh.init(&[]).await?.ok()?;
    let cases = [
        ("public.ordrs", "there is no table public.ordrs"),
        ("public.heap", "has no primary key"),
        ("public.two", "has several columns (a, b)"),
        ("public.seen", "is a view"),
        ("public.priced", "of type numeric"),
        ("public.hidden", "GRANT SELECT ON public.hidden TO pinion"),
    ];
    for (table, said) in cases {
        let output = fresh.pinion.command(&["init", "--table", table]).await?;
        assert!(output.code == 1 && output.stderr.contains(said), "{table}: {output:?}");
        assert!(!fresh.namespace.folder().join("new/jobs").join(table.trim_start_matches("public.")).exists());
    }
    fresh.namespace.finish().await
}

#[tokio::test]
async fn a_source_that_cannot_be_asked_leaves_a_configuration_to_mend() -> Result<()> {
    let fresh = Fresh::new(Namespace::empty().await?).await?;
    let folder = fresh.namespace.folder().join("new").display().to_string();
    let wrong = fresh.namespace.primary_url().replace("pinion:pinion", "pinion:wrong");
    let output =
        fresh.pinion.command(&["init", "--dir", &folder, "--source", &wrong, "--table", "public.orders"]).await?;
    assert_eq!(output.code, 1, "{output:?}");
    for part in ["pinion.toml is written; the job is not", "password authentication failed", "[sources."] {
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
    }
    assert!(fresh.namespace.folder().join("new/pinion.toml").exists());
    fresh.namespace.finish().await
}
