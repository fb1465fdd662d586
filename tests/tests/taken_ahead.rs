//! How many messages a worker takes ahead, and what becomes of them when it has to end: seen behind a row that takes long to be read.

use anyhow::Result;
use pinion_schemas::Job;
use pinion_tests::{Namespace, Pinion, Setup, Worker, eventually};

use crate::shop::{TIMEOUT, applied, end_sleeping, send, settled, sleeping};

/// A worker of a job with so many rows, of which the first takes 10 minutes to be read, and is being read.
async fn behind_a_slow_row(rows: i64) -> Result<(Namespace, Pinion, Worker)> {
    let namespace = Namespace::empty().await?;
    namespace
        .execute(&format!(
            "CREATE TABLE notes (id bigint PRIMARY KEY, seconds float8 NOT NULL); GRANT SELECT ON notes TO pinion;
             INSERT INTO notes SELECT number, CASE number WHEN 1 THEN 600 ELSE 0 END FROM generate_series(1, {rows}) number"
        ))
        .await?;
    let setup = Setup {
        replicas: Vec::new(),
        // Of three batches for two of 12 places.
        worker: "batch_max = 10\nfetch_s_max = 600\n".to_owned(),
        ..Setup::without_jobs(&namespace)?
    };
    let sql = "SELECT n.id AS _id, n.id AS number, CASE WHEN n.seconds > 0 THEN pg_sleep(n.seconds)::text END AS slept
               FROM notes n WHERE n.id = ANY(:ids)";
    let mapping = r#"{"mappings": {"properties": {"number": {"type": "long"}, "slept": {"type": "keyword"}}}}"#;
    setup.write_job(&namespace, "notes", "index = \"notes\"\nsource = \"shop\"\nkey = \"bigint\"\n", sql, mapping)?;
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "notes"]).await?;
    is_read_slowly(&namespace).await?;
    Ok((namespace, pinion, worker))
}

/// Sends the slow row, and waits until it is being read.
async fn is_read_slowly(namespace: &Namespace) -> Result<()> {
    send(namespace, "notes", [1]).await?;
    let reading = async || Ok((!sleeping(namespace).await?.is_empty()).then_some(()));
    eventually("the slow row to be read", TIMEOUT, reading).await
}

/// Waits until exactly so many messages of the job wait in its queue.
async fn waiting(namespace: &Namespace, messages: u32) -> Result<()> {
    let queue = format!("{}.notes", namespace.name());
    let waiting = async || Ok((namespace.rabbit().ready(&queue).await? == messages).then_some(()));
    eventually(&format!("{messages} messages to be left in the queue"), TIMEOUT, waiting).await
}

/// Acknowledgements go up to the first message that is not done; at the end it goes back, and those behind it are acknowledged.
#[tokio::test]
async fn what_is_done_does_not_come_back_when_a_job_is_paused() -> Result<()> {
    const ROWS: i64 = 50;
    let (namespace, pinion, worker) = behind_a_slow_row(ROWS).await?;
    send(&namespace, "notes", 2..=ROWS).await?;
    settled(&worker, "notes", "indexed", ROWS as u64 - 1).await?;

    pinion.command(&["pause", "notes"]).await?.ok()?;
    let queue = format!("{}.notes", namespace.name());
    let came_back = eventually("the one that was not done to come back", TIMEOUT, async || {
        Ok(Some(namespace.rabbit().ready(&queue).await?).filter(|ready| *ready > 0))
    });
    assert_eq!(came_back.await?, 1, "they come back at once");
    end_sleeping(&namespace).await?;
    namespace.execute("UPDATE notes SET seconds = 0").await?;
    pinion.command(&["resume", "notes"]).await?.ok()?;
    settled(&worker, "notes", "indexed", ROWS as u64).await?;
    let taken = [("job", "notes"), ("verdict", "accepted")];
    assert_eq!(worker.metrics().await?.sum("pinion_messages_total", &taken), ROWS as f64 + 1.0);
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

/// What lies behind a message that is not done shows how many are taken ahead: of one id 180, of ten 18.
#[tokio::test]
async fn as_many_messages_are_taken_ahead_as_have_the_ids_that_are_needed() -> Result<()> {
    // One that is taken at first, and twice the 180 after which it is looked at again.
    const ROWS: i64 = 361;
    let (namespace, _pinion, worker) = behind_a_slow_row(ROWS).await?;
    send(&namespace, "notes", 2..=ROWS).await?;
    // The first had come before.
    waiting(&namespace, 361 - 180 - 1).await?;
    settled(&worker, "notes", "indexed", 180).await?;
    namespace.execute("UPDATE notes SET seconds = 0").await?;
    end_sleeping(&namespace).await?;
    settled(&worker, "notes", "indexed", ROWS as u64).await?;

    let of_ten = |messages: i64| -> Result<Vec<Vec<u8>>> {
        let ids = |message: i64| (0..10).map(move |id| 2 + (message * 10 + id) % (ROWS - 1));
        (0..messages).map(|message| Ok(Job::many("notes", ids(message)).to_bytes()?)).collect()
    };
    namespace.rabbit().publish(namespace.name(), "notes", &of_ten(360)?).await?;
    waiting(&namespace, 0).await?;
    let all_done = async || {
        let [taken, done] = ["pinion_messages_total", "pinion_oldest_unsettled_seconds"];
        let metrics = worker.metrics().await?;
        let came = metrics.sum(taken, &[("job", "notes"), ("verdict", "accepted")]) >= 721.0;
        Ok((came && metrics.sum(done, &[("job", "notes")]) == 0.0).then_some(()))
    };
    eventually("all of them to be done", TIMEOUT, all_done).await?;
    namespace.execute("UPDATE notes SET seconds = 600 WHERE id = 1").await?;
    is_read_slowly(&namespace).await?;
    namespace.rabbit().publish(namespace.name(), "notes", &of_ten(100)?).await?;
    waiting(&namespace, 101 - 18).await?;
    namespace.execute("UPDATE notes SET seconds = 0").await?;
    end_sleeping(&namespace).await?;
    waiting(&namespace, 0).await?;
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}
