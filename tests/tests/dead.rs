//! `pinion dead`: what can be done with dead letters.

use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use pinion_tests::{Namespace, Setup, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::shop::{TIMEOUT, applied, dead_letters, dead_letters_of, send, send_raw, settled};

/// A customer whose name the mapping refuses: too long for a keyword.
const SPOIL: &str = "UPDATE customers SET name = repeat('x', 40000) WHERE id IN ";

/// Larger than any float can hold exactly.
const LARGE: i64 = 9_007_199_254_740_993;

#[tokio::test]
async fn letters_are_listed_shown_and_replayed_once_the_cause_is_mended() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    namespace.execute(&format!("UPDATE customers SET id = {LARGE} WHERE id = 3")).await?;
    namespace.execute(&format!("{SPOIL} (1, 2, {LARGE})")).await?;
    let pinion = applied(&namespace, &Setup::shop(&namespace)?).await?;
    let worker = pinion.work(&[]).await?;
    send(&namespace, "customers", [1, 2, LARGE, 4]).await?;
    send_raw(&namespace, "orders", "not json").await?;
    send_raw(&namespace, "orders", r#"{"id": 1, "job_name": "unheard-of"}"#).await?;
    dead_letters_of(&namespace, 5).await?;

    let list = pinion.command(&["dead", "list"]).await?.ok()?.stdout;
    for expected in ["5 dead letters\n", "refused 3", "undecodable 1", "unknown_job 1", "customers/9007199254740993  "]
    {
        assert!(list.contains(expected), "{expected} is not in {list}");
    }
    let key = format!("customers/{LARGE}");
    let shown = pinion.command(&["dead", "show", &key]).await?.ok()?.stdout;
    assert!(shown.contains(&format!(r#""id":{LARGE}"#)) && shown.contains("name.keyword"), "{shown}");
    let filtered = async |arguments: &[&str]| -> Result<Value> {
        let command = [&["dead", "list", "--json"], arguments].concat();
        Ok(pinion.command(&command).await?.ok()?.json()?["counts"]["total"].clone())
    };
    assert_eq!(filtered(&["--id", &LARGE.to_string()]).await?, 1);
    assert_eq!(filtered(&["--job", "customers", "--reason", "refused", "--since", "1h"]).await?, 3);
    assert_eq!(filtered(&["--since", "2999-01-01T00:00:00Z"]).await?, 0);
    assert_eq!(filtered(&["--reason", "refuse"]).await?, 0);

    let counted = pinion.command(&["dead", "replay", "--job", "customers"]).await?.ok()?.stdout;
    assert!(counted.ends_with("3 dead letters would be replayed; --yes does it\n"), "{counted}");
    assert_eq!(dead_letters(&namespace).await?.len(), 5);
    namespace.execute("UPDATE customers SET name = 'Anna' WHERE name LIKE 'xxx%'").await?;
    let replayed = pinion.command(&["dead", "replay", "--job", "customers", "--yes", "--json"]).await?.ok()?.json()?;
    assert_eq!(replayed, json!({"replayed": 3, "failed_again": 0, "changed": 0, "refused": {}}));
    settled(&worker, "customers", "indexed", 4).await?;
    pinion.command(&["explain", "customers", &LARGE.to_string()]).await?.ok()?;

    let unknown = pinion.command(&["dead", "replay", "--reason", "unknown_job", "--yes"]).await?;
    assert_eq!(unknown.code, 1);
    assert!(
        unknown.stdout.contains("1 can't be replayed, and stay: no job is called \"unheard-of\""),
        "{}",
        unknown.stdout
    );
    pinion.command(&["dead", "drop", "--reason", "unknown_job"]).await?.ok()?;
    assert_eq!(dead_letters(&namespace).await?.len(), 2);
    let dropped = pinion.command(&["dead", "drop", "--reason", "unknown_job", "--yes"]).await?.ok()?.stdout;
    assert_eq!(dropped, "1 dead letter dropped\n");
    let left = dead_letters(&namespace).await?;
    assert_eq!(left.iter().map(|letter| letter["reason"].clone()).collect::<Vec<_>>(), ["undecodable"]);
    assert_eq!(pinion.command(&["dead", "show", "customers/1"]).await?.code, 1);
    assert_eq!(pinion.command(&["dead", "list", "--since", "yesterday"]).await?.code, 2);
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

#[tokio::test]
async fn a_document_that_fails_again_keeps_or_regains_its_letter() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    // A third is refused: not most of a batch, or the job would be paused for it.
    namespace.execute("UPDATE customers SET name = repeat('x', 40000) WHERE id <= 300 AND id % 3 = 0").await?;
    let pinion = applied(&namespace, &Setup::shop(&namespace)?).await?;
    let worker = pinion.work(&["--jobs", "customers"]).await?;
    send(&namespace, "customers", 1..=300).await?;
    dead_letters_of(&namespace, 100).await?;
    assert_eq!(worker.terminate().await?, 0);
    // Each message is a batch of its own now, and fails while the others are still being replayed.
    let setup = Setup {
        worker: "batch_max = 1\n".to_owned(),
        jobs: namespace.folder().join("jobs"),
        ..Setup::without_jobs(&namespace)?
    };
    let pinion = setup.write(&namespace)?;
    let worker = pinion.work(&["--jobs", "customers"]).await?;
    let replayed = pinion.command(&["dead", "replay", "--yes", "--json"]).await?.ok()?.json()?;
    let published =
        replayed["replayed"].as_u64().unwrap_or_default() + replayed["failed_again"].as_u64().unwrap_or_default();
    assert_eq!(published, 100, "{replayed}");
    settled(&worker, "customers", "dead_letter", 100).await?;
    let letters = dead_letters_of(&namespace, 100).await?;
    assert!(letters.iter().all(|letter| letter["replaying"] == false), "none is left marked");
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

/// Writes letters of these customers, as a worker would have.
async fn write_letters(namespace: &Namespace, ids: RangeInclusive<i64>, replaying: bool) -> Result<()> {
    // PostgreSQL's base64, to share no code with the worker.
    let sql = r#"SELECT i, encode(convert_to('{"job_name":"customers","id":' || i || '}', 'UTF8'), 'base64')
        FROM generate_series($1, $2) i"#;
    let bounds = sqlx::query_as(sql).bind(ids.start()).bind(ids.end());
    let messages: Vec<(i64, String)> = bounds.fetch_all(namespace.superuser()).await?;
    let index = format!("{}-dead-letters", namespace.name());
    let writes = messages.iter().map(|(id, message)| {
        let letter = json!({
            "job": "customers", "id": id.to_string(), "reason": "failed", "error": "a test's", "attempts": 1,
            "first_at": id, "last_at": id, "worker": "a test", "message": message, "replaying": replaying,
        });
        let path = format!("/{index}/_doc/customers%2F{id}");
        async move { namespace.elastic().ok(Method::PUT, &path, Some(letter)).await }
    });
    stream::iter(writes).buffer_unordered(32).try_for_each(async |_| Ok(())).await?;
    namespace.elastic().refresh(&index).await
}

/// Between a client and the broker: holds back what contains `needle`, and all that the client sends after it, until it is let go.
/// Gives the address for the client, and a sender of letting go whose receivers are the connections held back.
async fn barrier(broker: &str, needle: &'static [u8]) -> Result<(String, watch::Sender<bool>)> {
    let server = broker.split(['@', '/']).nth(3).context("amqp://user:password@host:port/")?.to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = broker.replace(&server, &listener.local_addr()?.to_string());
    let (let_go, _) = watch::channel(false);
    let gate = let_go.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, gate) = (TcpStream::connect(server.clone()).await?, gate.clone());
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            tokio::spawn(async move {
                let mut sent = vec![0; 65_536];
                loop {
                    let bytes = from_client.read(&mut sent).await?;
                    if bytes == 0 {
                        return to_server.shutdown().await;
                    }
                    if sent[..bytes].windows(needle.len()).any(|part| part == needle) {
                        let mut gate = gate.subscribe();
                        gate.wait_for(|open| *open).await.map_err(std::io::Error::other)?;
                    }
                    to_server.write_all(&sent[..bytes]).await?;
                }
            });
        }
        std::io::Result::Ok(())
    });
    Ok((address, let_go))
}

#[tokio::test]
async fn a_letter_that_is_written_anew_while_its_message_is_published_stays() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let mut setup = Setup::shop(&namespace)?;
    applied(&namespace, &setup).await?;
    write_letters(&namespace, 7..=9, false).await?;
    let (address, let_go) = barrier(namespace.rabbit().url(), br#""id":8}"#).await?;
    setup.rabbitmq = address;
    let pinion = setup.write(&namespace)?;
    let replay = pinion.command(&["dead", "replay", "--yes", "--json"]);
    let worker = async {
        eventually("the message to be on its way", TIMEOUT, async || Ok((let_go.receiver_count() > 0).then_some(())))
            .await?;
        // As a worker does whose document fails again.
        let path = format!("/{}-dead-letters/_update/customers%2F8", namespace.name());
        let doc = json!({"doc": {"replaying": false, "last_at": 1_000, "error": "again"}});
        namespace.elastic().ok(Method::POST, &path, Some(doc)).await?;
        let_go.send_replace(true);
        anyhow::Ok(())
    };
    let (replayed, worker) = tokio::join!(replay, worker);
    worker?;
    let replayed = replayed?.ok()?.json()?;
    assert_eq!(replayed, json!({"replayed": 2, "failed_again": 1, "changed": 0, "refused": {}}));
    let letters = dead_letters(&namespace).await?;
    assert_eq!(letters.iter().map(|letter| letter["error"].clone()).collect::<Vec<_>>(), ["again"]);
    assert_eq!(namespace.rabbit().ready(&format!("{}.customers", namespace.name())).await?, 3);
    namespace.finish().await
}

#[tokio::test]
async fn a_replay_that_was_killed_goes_on_where_it_was() -> Result<()> {
    // A tenth as many customers.
    let namespace = Namespace::shop(30_000).await?;
    let pinion = applied(&namespace, &Setup::shop(&namespace)?).await?;
    write_letters(&namespace, 1..=50, true).await?;
    write_letters(&namespace, 51..=3000, false).await?;
    let queue = format!("{}.customers", namespace.name());
    let replay = ["dead", "replay", "--yes", "--json"];
    tokio::select! {
        // Dropped, the command is killed.
        ended = pinion.command(&replay) => anyhow::bail!("it ended before it was killed: {ended:?}"),
        seen = eventually("some of the messages", TIMEOUT, async || {
            Ok((namespace.rabbit().ready(&queue).await? >= 150).then_some(()))
        }) => seen?,
    }
    let left = dead_letters(&namespace).await?.len();
    ensure!((1..3000).contains(&left), "it was killed half-way: {left}");
    let replayed = pinion.command(&replay).await?.ok()?.json()?;
    assert_eq!(replayed["failed_again"], 0, "{replayed}");
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    let messages = namespace.rabbit().ready(&queue).await?;
    ensure!((3000..=3100).contains(&messages), "{messages} messages: a page of 100 twice at the most");

    let worker = pinion.work(&["--jobs", "customers"]).await?;
    eventually("every customer", TIMEOUT, async || {
        let count = namespace.elastic().count(&namespace.index("customers")).await?;
        ensure!(count == 3000, "there are {count}");
        Ok(Some(()))
    })
    .await?;
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

#[tokio::test]
async fn limits_and_missing_things_are_respected() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let pinion = Setup::shop(&namespace)?.write(&namespace)?;
    let missing = pinion.command(&["dead", "list"]).await?;
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.contains("-dead-letters is missing: run `pinion apply`"), "{}", missing.stderr);
    pinion.command(&["apply"]).await?.ok()?;
    assert_eq!(pinion.command(&["dead", "list"]).await?.ok()?.stdout, "no dead letters\n");
    write_letters(&namespace, 1..=250, false).await?;

    let dropped = pinion.command(&["dead", "drop", "--limit", "101", "--yes"]).await?.ok()?.stdout;
    assert_eq!(dropped, "101 dead letters dropped\n");
    let left = dead_letters(&namespace).await?;
    let oldest = left.last().context("149 letters")?;
    assert_eq!((left.len(), &oldest["id"]), (149, &json!("102")), "the oldest go first");

    let queue = format!("/queues/%2f/{}.customers", namespace.name());
    namespace.rabbit().management(Method::DELETE, &queue, None).await?;
    let unroutable = pinion.command(&["dead", "replay", "--limit", "10", "--yes"]).await?;
    assert_eq!(unroutable.code, 1);
    assert!(unroutable.stdout.contains("10 can't be replayed, and stay: no queue takes"), "{}", unroutable.stdout);
    assert_eq!(dead_letters(&namespace).await?.len(), 149);
    namespace.finish().await
}
