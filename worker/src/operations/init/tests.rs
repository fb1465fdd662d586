use std::os::unix::fs::PermissionsExt as _;

use pinion_schemas::{Severity, load_job};

use super::table::TableColumn;
use super::*;

fn table(columns: &[(&str, &str, &str, i32)]) -> Table {
    let column = |&(name, kind, class, width_bytes): &(&str, &str, &str, i32)| TableColumn {
        name: name.to_owned(),
        quoted: if name.chars().any(char::is_uppercase) { format!("\"{name}\"") } else { name.to_owned() },
        kind: kind.to_owned(),
        class: class.to_owned(),
        width_bytes,
    };
    Table {
        schema: "public".to_owned(),
        name: "orders".to_owned(),
        quoted: "public.orders".to_owned(),
        key: "id".to_owned(),
        columns: columns.iter().map(column).collect(),
    }
}

#[test]
fn a_table_becomes_a_job_that_is_good() {
    let table = table(&[
        ("id", "int8", "b", 8),
        ("Status", "order_status", "e", 4),
        ("total", "numeric", "b", 8),
        ("note", "text", "b", 300),
        ("extra", "jsonb", "b", 40),
        ("placed_at", "timestamptz", "b", 8),
        ("_revision", "int4", "b", 4),
        ("search", "tsvector", "b", 100),
    ]);
    let files = folder::files(&table, "orders", "shop", false).expect("a job");
    insta::assert_snapshot!(files.document, @r#"
    -- One row a document; every column is a field, "customer.name" as a column's name nests.
    -- Join what else belongs into the document, and name the joined tables in job.toml.
    SELECT
        t.id AS _id,
        t.id,
        t."Status",
        t.total,
        t.note,
        t.extra,
        t.placed_at
    FROM public.orders t
    WHERE t.id = ANY(:ids)
    "#);
    insta::assert_snapshot!(files.mapping, @r#"
    {
      "settings": { "number_of_shards": 1, "gc_deletes": "1h" },
      "mappings": {
        "dynamic": "strict",
        "properties": {
          "id": { "type": "long" },
          "Status": { "type": "keyword", "ignore_above": 1024 },
          "total": { "type": "double" },
          "note": { "type": "text" },
          "extra": { "type": "object", "enabled": false },
          "placed_at": { "type": "date" }
        }
      }
    }
    "#);
    insta::assert_snapshot!(files.job, @r#"
    index = "orders"  # the alias that is queried
    source = "shop"  # [sources.shop] in pinion.toml
    key = "bigint"
    # owner = ""
    description = "One document a row of public.orders."
    # freshness_s_max = 30
    # age_s_max = 604800

    # Which documents does a changed row touch? Add a [[watch]] for every table that document.sql reads, with
    # the column that holds the document's id, or sql = "SELECT id FROM … WHERE … = ANY(:ids)" for a fan-out.
    [[watch]]
    table = "public.orders"
    key = "id"
    "#);
    assert_eq!(
        files.left_out,
        ["_revision (columns that begin with _ are no fields)", "search (a search vector of the database)"]
    );

    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("orders");
    std::fs::create_dir(&folder).expect("made");
    for (name, text) in [("job.toml", files.job), ("document.sql", files.document), ("mapping.json", files.mapping)] {
        write_new(&folder.join(name), &text, OPEN_MODE).expect("written");
        write_new(&folder.join(name), "other", OPEN_MODE).expect_err("it is there");
    }
    let (job, findings) = load_job(&folder);
    assert!(findings.iter().all(|finding| finding.severity < Severity::Error), "{findings:?}");
    assert_eq!(job.expect("good").index, "orders");
}

#[test]
fn a_key_that_is_no_id_is_refused() {
    let error =
        folder::files(&table(&[("id", "numeric", "b", 8)]), "orders", "shop", false).expect_err("refused").to_string();
    insta::assert_snapshot!(error, @r#"the key id is of type numeric: write the job's folder by hand, with id cast to a text as _id, and key = "text""#);
}

#[test]
fn the_configuration_has_the_addresses_and_is_valid() {
    let options = InitOptions {
        source: Some("postgres://u:p@db:5432/Web-Shop".to_owned()),
        replicas: vec!["postgres://u:p@db2:5432/Web-Shop".to_owned()],
        rabbitmq: Some("amqps://u:p@mq/v".to_owned()),
        elasticsearch: Some("https://es:9200".to_owned()),
        ..InitOptions::default()
    };
    for options in [options, InitOptions::default()] {
        let text = configuration(&options).expect("a configuration");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pinion.toml");
        write_new(&file, &text, SECRET_MODE).expect("written");
        let mode = std::fs::metadata(&file).expect("written").permissions().mode();
        assert_eq!(mode & 0o077, 0, "others could read the passwords");
        let config = Config::load(&file).expect("valid");
        assert_eq!(config.schemas, folder.path().join("jobs"));
        let (name, source) = config.sources.first_key_value().expect("a source");
        assert_eq!(name, if options.source.is_some() { "web-shop" } else { "shop" });
        assert_eq!(source.replicas.len(), options.replicas.len());
        assert!(options.rabbitmq.is_none_or(|url| config.rabbitmq.url.expose() == url));
    }
    let wrong = InitOptions { source: Some("shop".to_owned()), ..InitOptions::default() };
    assert!(configuration(&wrong).is_err());
}

#[test]
fn table_names_become_job_names() {
    assert_eq!(job_name("OrderItems"), "orderitems");
    assert_eq!(job_name("order items"), "order_items");
}
