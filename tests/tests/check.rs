//! `pinion check` on the real servers: what is good, and a clear word for what is not.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use pinion_tests::{Namespace, Output, Setup};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::client::tls::Front;
use crate::shop::applied;

/// The findings of `check --json` with these words in problem or mend.
fn findings_with(output: &Output, words: &[&str]) -> Result<Vec<Value>> {
    let report = output.json()?;
    let findings = report["findings"].as_array().context("findings")?;
    let said = |finding: &&Value| {
        let text = format!("{} {}", finding["problem"], finding["mend"]);
        words.iter().all(|word| text.contains(word))
    };
    Ok(findings.iter().filter(said).cloned().collect())
}

/// The one finding with these words; its file has to end so, and its line has to be that.
fn finding(output: &Output, words: &[&str], file: &str, line: Option<u64>) -> Result<Value> {
    let found = findings_with(output, words)?;
    ensure!(found.len() == 1, "{} findings have {words:?}: {}", found.len(), output.stdout);
    let path = found[0]["file"].as_str().context("a file")?;
    ensure!(path.ends_with(file), "{path} should end with {file}");
    ensure!(found[0]["line"] == json!(line), "line {} should be {line:?}: {}", found[0]["line"], found[0]);
    Ok(found[0].clone())
}

async fn check(namespace: &Namespace, setup: &Setup) -> Result<Output> {
    setup.write(namespace)?.command(&["check", "--json"]).await
}

#[tokio::test]
async fn the_shop_is_good_once_it_is_applied() -> Result<()> {
    let namespace = Namespace::shop(10).await?;
    let setup = Setup::shop(&namespace)?;
    let before = check(&namespace, &setup).await?;
    assert_eq!(before.code, 1, "{before:?}");
    finding(&before, &["not on the broker", "pinion apply"], "pinion.toml", Some(5))?;
    finding(&before, &["not in Elasticsearch", "pinion apply"], "pinion.toml", Some(8))?;
    assert_eq!(before.json()?["errors"], 2, "{}", before.stdout);

    let pinion = applied(&namespace, &setup).await?;
    let output = pinion.command(&["check"]).await?.ok()?;
    assert_eq!(output.stdout, "3 jobs checked: nothing to complain about\n");
    assert_eq!(output.stderr, "");
    namespace.finish().await
}

#[tokio::test]
async fn broken_folders_are_told_with_their_lines() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let setup = Setup::without_jobs(&namespace)?;
    let job = "index = \"\"\nsource = \"shop\"\nkey = \"bigint\"\n";
    let sql = "SELECT id AS _id\nFROM orders\nWHERE id = ANY(:ids)";
    setup.write_job(&namespace, "unknown_key", &format!("{job}ownr = \"x\"\n"), sql, "{}")?;
    setup.write_job(&namespace, "placeholder", job, "SELECT id AS _id\nFROM orders\nWHERE id = :id", "{}")?;
    setup.write_job(&namespace, "nowhere", &job.replace("shop", "shp"), sql, "{}")?;
    setup.write_job(&namespace, "mapping", job, sql, "{\"mappings\": {\n  \"dynamic\": strict}}")?;
    setup.write_job(&namespace, "jobs", job, sql, "{}")?;
    let output = setup.write(&namespace)?.command(&["check", "--offline", "--json"]).await?;
    assert_eq!(output.code, 1, "{output:?}");
    finding(&output, &["unknown field", "ownr"], "unknown_key/job.toml", Some(4))?;
    finding(&output, &[":id is no placeholder"], "placeholder/document.sql", Some(3))?;
    finding(&output, &["there is no [sources.shp]", "(shop)"], "nowhere/job.toml", Some(2))?;
    finding(&output, &["not JSON"], "mapping/mapping.json", Some(2))?;
    // The namespace's own index of jobs has this name.
    finding(&output, &["one of Pinion's own"], "jobs/job.toml", Some(1))?;
    assert_eq!(output.json()?["jobs"], 5);
    namespace.finish().await
}

#[tokio::test]
async fn queries_are_tried_on_the_database() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    namespace
        .execute("CREATE TABLE secrets (id bigint PRIMARY KEY, n numeric, p point); REVOKE ALL ON secrets FROM pinion")
        .await?;
    namespace.execute("CREATE TABLE open_ones (id bigint PRIMARY KEY, code text, n numeric, p point)").await?;
    namespace.replica_caught_up().await?;
    let setup = Setup::without_jobs(&namespace)?;
    let job =
        "index = \"\"\nsource = \"shop\"\nkey = \"bigint\"\n\n[[watch]]\ntable = \"public.orders\"\nkey = \"id\"\n";
    let open = r#"{"mappings": {"properties": {"id": {"type": "long"}}}}"#;
    let write = |name: &str, job: &str, sql: &str, mapping: &str| setup.write_job(&namespace, name, job, sql, mapping);
    write("misspelt", job, "SELECT o.id AS _id, o.id,\n  o.statsu\nFROM orders o WHERE o.id = ANY(:ids)", open)?;
    write("no_id", job, "SELECT o.id FROM orders o WHERE o.id = ANY(:ids)", open)?;
    write("text_id", job, "SELECT o.id::text AS _id, o.id\nFROM orders o WHERE o.id = ANY(:ids)", open)?;
    write("no_rights", job, "SELECT s.id AS _id, s.id FROM secrets s WHERE s.id = ANY(:ids)", open)?;
    let columns = "SELECT s.id AS _id,\n  s.id,\n  s.code,\n  s.n,\n  s.p\nFROM open_ones s WHERE s.id = ANY(:ids)";
    let strict = "{\"mappings\": {\"dynamic\": \"strict\", \"properties\": {\n  \"id\": {\"type\": \"long\"},\n  \
                  \"code\": {\"type\": \"integer\"},\n  \"n\": {\"type\": \"double\"},\n  \"m\": {\"type\": \"keyword\"}}}}";
    write("columns", job, columns, strict)?;
    let watch = "\n[[watch]]\ntable = \"public.ordrs\"\nkey = \"id\"\n\n[[watch]]\ntable = \"public.order_items\"\nkey = \"ordr\"\n\n\
                 [[watch]]\ntable = \"public.customers\"\nsql = \"\"\"\nSELECT id\nFROM orders WHERE customr = ANY(:ids)\"\"\"\n";
    write("watches", &format!("{job}{watch}"), "SELECT o.id AS _id, o.id FROM orders o WHERE o.id = ANY(:ids)", open)?;

    let output = check(&namespace, &setup).await?;
    assert_eq!(output.code, 1, "{output:?}");
    finding(&output, &["column o.statsu does not exist", "o.status"], "misspelt/document.sql", Some(2))?;
    finding(&output, &["no column is called _id"], "no_id/document.sql", None)?;
    finding(&output, &["_id is of type TEXT", "bigint"], "text_id/document.sql", None)?;
    finding(&output, &["permission denied for table secrets", "GRANT SELECT"], "no_rights/document.sql", None)?;
    let strict = finding(&output, &["\"p\\\" has no field"], "columns/document.sql", Some(5))?;
    assert_eq!(strict["severity"], "error");
    let unlike = finding(&output, &["code", "of type text", "integer"], "columns/document.sql", Some(3))?;
    assert_eq!(unlike["severity"], "warning");
    let as_text = finding(&output, &["written as text"], "columns/document.sql", Some(5))?;
    assert_eq!(as_text["severity"], "note");
    let unfilled = finding(&output, &["no column", "field m"], "columns/mapping.json", Some(5))?;
    assert_eq!(unfilled["severity"], "warning");
    finding(&output, &["there is no table public.ordrs"], "watches/job.toml", Some(10))?;
    finding(&output, &["no column ordr"], "watches/job.toml", Some(15))?;
    finding(&output, &["sql: column \\\"customr\\\" does not exist"], "watches/job.toml", Some(21))?;
    namespace.finish().await
}

#[tokio::test]
async fn servers_that_cannot_be_reached_are_told_with_their_keys() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let good = || Setup::without_jobs(&namespace);
    let mut setup = good()?;
    setup.primary = setup.primary.replace("pinion:pinion", "pinion:wrong");
    setup.replicas = vec![
        "postgres://pinion:pinion@nowhere.invalid:5432/x".to_owned(),
        "postgres://pinion:pinion@127.0.0.1:1/x".to_owned(),
    ];
    setup.rabbitmq = setup.rabbitmq.replace("guest:guest", "guest:wrong");
    setup.elasticsearch = vec!["http://127.0.0.1:1".to_owned()];
    let output = check(&namespace, &setup).await?;
    assert_eq!(output.code, 1);
    finding(
        &output,
        &["refuses the login", "user and password in primary of [sources.shop]"],
        "pinion.toml",
        Some(12),
    )?;
    finding(
        &output,
        &["nowhere.invalid:5432 can't be reached", "replicas of [sources.shop]"],
        "pinion.toml",
        Some(13),
    )?;
    finding(&output, &["127.0.0.1:1 can't be reached", "replicas of [sources.shop]"], "pinion.toml", Some(13))?;
    finding(&output, &["RabbitMQ", "refuses the login of the user", "password"], "pinion.toml", Some(5))?;
    finding(&output, &["Elasticsearch can't be used: 127.0.0.1:1", "urls"], "pinion.toml", Some(8))?;
    assert!(!output.stdout.contains("wrong"), "a password is shown: {}", output.stdout);

    // Another database; and the primary itself in the place of a replica.
    let mut setup = good()?;
    setup.replicas = vec![setup.primary.clone()];
    setup.primary = setup.primary.replace(namespace.name(), "not_there");
    let output = check(&namespace, &setup).await?;
    finding(&output, &["database \\\"not_there\\\" does not exist"], "pinion.toml", Some(12))?;
    finding(&output, &["is not a replica"], "pinion.toml", Some(13))?;
    let mut setup = good()?;
    setup.primary = setup.replicas[0].clone();
    let output = check(&namespace, &setup).await?;
    finding(&output, &["the primary is a standby"], "pinion.toml", Some(12))?;
    namespace.finish().await
}

#[tokio::test]
async fn certificates_that_do_not_verify_are_told() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let mut setup = Setup::without_jobs(&namespace)?;
    let (broker, cluster) = (Front::before(&setup.rabbitmq).await?, Front::before(&setup.elasticsearch[0]).await?);
    let database = Front::before(&setup.primary).await?;
    setup.rabbitmq = format!("amqps://guest:guest@localhost:{}/%2f", broker.port);
    setup.elasticsearch = vec![format!("https://localhost:{}", cluster.port)];
    setup.replicas = vec![format!("{}?sslmode=verify-full", setup.primary)];
    setup.primary =
        format!("postgres://pinion:pinion@localhost:{}/{}?sslmode=verify-full", database.port, namespace.name());
    let output = check(&namespace, &setup).await?;
    assert_eq!(output.code, 1);
    finding(&output, &["TLS with RabbitMQ", "ca_file"], "pinion.toml", Some(5))?;
    finding(&output, &["Elasticsearch can't be used", "certificate", "ca_file"], "pinion.toml", Some(8))?;
    finding(&output, &["TLS", "certificate", "primary of", "ca_file", "sslmode"], "pinion.toml", Some(12))?;
    finding(&output, &["server does not support TLS", "ca_file", "sslmode"], "pinion.toml", Some(13))?;

    // With the authority that signed them they verify.
    let toml = namespace.folder().join("pinion.toml");
    let text = std::fs::read_to_string(&toml)?
        .replace("\n[elasticsearch]", &format!("ca_file = {:?}\n\n[elasticsearch]", broker.ca_file))
        .replace(
            "\n[sources.shop]",
            &format!("ca_file = {:?}\n\n[sources.shop]\nca_file = {:?}", cluster.ca_file, database.ca_file),
        );
    let lines = text.lines().filter(|line| !line.starts_with("replicas ="));
    std::fs::write(&toml, lines.collect::<Vec<_>>().join("\n"))?;
    let pinion = pinion_tests::Pinion::new(&toml)?;
    pinion.command(&["apply"]).await?.ok()?;
    pinion.command(&["check"]).await?.ok()?;
    namespace.finish().await
}

/// A server that knows no user.
async fn closed_cluster() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let body =
            r#"{"error":{"type":"security_exception","reason":"unable to authenticate user [pinion]"},"status":401}"#;
        let answer = format!(
            "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok() {
                stream.write_all(answer.as_bytes()).await?;
            }
        }
        std::io::Result::Ok(())
    });
    Ok(address)
}

#[tokio::test]
async fn credentials_that_elasticsearch_refuses_are_told() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let mut setup = Setup::without_jobs(&namespace)?;
    setup.elasticsearch = vec![format!("http://{}", closed_cluster().await?)];
    let output = check(&namespace, &setup).await?;
    assert_eq!(output.code, 1);
    finding(&output, &["refuses the credentials of [elasticsearch]", "username and password"], "pinion.toml", Some(8))?;
    namespace.finish().await
}

#[tokio::test]
async fn a_delivery_limit_is_found_out() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let setup = Setup::shop(&namespace)?;
    let pinion = applied(&namespace, &setup).await?;
    let name = namespace.name();
    let limit = async |deliveries: u64| {
        let policy = json!({"pattern": format!("^{name}\\."), "definition": {"delivery-limit": deliveries}, "apply-to": "queues"});
        namespace.rabbit().management(Method::PUT, &format!("/policies/%2f/{name}"), Some(policy)).await
    };
    limit(20).await?;
    let output = pinion.command(&["check", "--json"]).await?;
    assert_eq!(output.code, 1, "{output:?}");
    finding(&output, &["delivery limit", "rabbitmqctl set_policy"], "pinion.toml", Some(5))?;
    limit(1_000_000).await?;
    pinion.command(&["check"]).await?.ok()?;
    let queues = namespace.rabbit().management(Method::GET, "/queues/%2f?columns=name", None).await?;
    ensure!(!queues.to_string().contains(&format!("{name}.check-")), "the queue of the trial is left: {queues}");
    namespace.finish().await
}

#[tokio::test]
async fn a_template_that_lets_bulks_create_indexes_is_found_out() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let setup = Setup::shop(&namespace)?;
    let pinion = applied(&namespace, &setup).await?;
    let name = namespace.name();
    let stronger = json!({"index_patterns": [format!("{name}-orders*")], "priority": 9999});
    namespace.elastic().ok(Method::PUT, &format!("/_index_template/{name}-stronger"), Some(stronger)).await?;
    let output = pinion.command(&["check", "--json"]).await?;
    assert_eq!(output.code, 1, "{output:?}");
    finding(&output, &["a bulk request created", "allow_auto_create"], "orders/job.toml", Some(1))?;
    let left =
        namespace.elastic().ok(Method::GET, &format!("/_cat/indices/{name}-orders*?format=json&h=index"), None).await?;
    assert_eq!(left.as_array().map(Vec::len), Some(1), "{left}");
    namespace.finish().await
}

#[tokio::test]
async fn doubtful_settings_are_warnings() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let mut setup = Setup::shop(&namespace)?;
    let pinion = applied(&namespace, &setup).await?;
    namespace.execute(&format!("ALTER DATABASE {} SET synchronous_commit = off", namespace.name())).await?;
    let output = pinion.command(&["check", "--json"]).await?.ok()?;
    let found = finding(&output, &["synchronous_commit", "fence = \\\"insert\\\""], "pinion.toml", Some(12))?;
    assert_eq!(found["severity"], "warning");
    setup.primary = namespace.superuser_url();
    let output = check(&namespace, &setup).await?.ok()?;
    finding(&output, &["is a superuser"], "pinion.toml", Some(12))?;

    let drifted = json!({"index.gc_deletes": "10s"});
    let path = format!("/{}/_settings", namespace.index("orders"));
    namespace.elastic().ok(Method::PUT, &path, Some(drifted)).await?;
    let output = check(&namespace, &setup).await?;
    assert_eq!(output.code, 1);
    finding(&output, &["index.gc_deletes 10s -> 1h", "pinion apply"], "orders/mapping.json", None)?;
    namespace.finish().await
}

#[tokio::test]
async fn a_configuration_that_cannot_be_read_is_wrong_usage() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let mut setup = Setup::without_jobs(&namespace)?;
    setup.worker = "batch_mx = 5\n".to_owned();
    let output = setup.write(&namespace)?.command(&["check"]).await?;
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("pinion.toml: line 18: unknown field `batch_mx`"), "{}", output.stderr);
    namespace.finish().await
}
