//! When a batch is full enough: seen by workers with a linger that is much longer than anything takes here.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use lapin::BasicProperties;
use pinion_schemas::Job;
use pinion_tests::{Namespace, Pinion, Setup, Worker, eventually};

use crate::shop::{TIMEOUT, applied, send, settled};

const LINGER: Duration = Duration::from_secs(10);
/// Ten times the linger, and then some.
const OLD: Duration = Duration::from_secs(3600);

/// A worker that takes 3 orders at a time, and waits for them for as long as can be configured.
async fn patient_worker() -> Result<(Namespace, Pinion, Worker)> {
    let namespace = Namespace::shop(10).await?;
    let worker = format!("batch_max = 3\nlinger_ms_max = {}\n", LINGER.as_millis());
    let setup = Setup { worker, ..Setup::shop(&namespace)? };
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    Ok((namespace, pinion, worker))
}

/// Sends a message that says it was sent long ago, and waits until the worker has it.
async fn send_old(namespace: &Namespace, id: i64) -> Result<()> {
    let sent = SystemTime::now().duration_since(UNIX_EPOCH)? - OLD;
    let properties = BasicProperties::default().with_timestamp(sent.as_secs());
    let body = Job::new("orders", id).to_bytes()?;
    namespace.rabbit().publish_with(namespace.name(), "orders", &[body], properties).await?;
    let queue = format!("{}.orders", namespace.name());
    let taken = async || Ok((namespace.rabbit().ready(&queue).await? == 0).then_some(()));
    eventually("the message to be taken", TIMEOUT, taken).await
}

/// How many batches there were, and the ids in all of them.
async fn batches(worker: &Worker) -> Result<(f64, f64)> {
    let metrics = worker.metrics().await?;
    let [count, sum] = ["count", "sum"].map(|of| metrics.sum(&format!("pinion_batch_ids_{of}"), &[("job", "orders")]));
    Ok((count, sum))
}

#[tokio::test]
async fn messages_that_have_waited_for_long_wait_for_a_full_batch_and_fresh_ones_for_nothing() -> Result<()> {
    let (namespace, _pinion, worker) = patient_worker().await?;
    for id in 1..=3 {
        send_old(&namespace, id).await?;
    }
    settled(&worker, "orders", "indexed", 3).await?;
    assert_eq!(batches(&worker).await?, (1.0, 3.0), "they were waited for until the batch was full");

    let began = Instant::now();
    send(&namespace, "orders", [4]).await?;
    settled(&worker, "orders", "indexed", 4).await?;
    assert!(began.elapsed() < LINGER, "a worker that has nothing to do does not wait for more");

    send_old(&namespace, 5).await?;
    let began = Instant::now();
    send(&namespace, "orders", [6]).await?;
    settled(&worker, "orders", "indexed", 6).await?;
    assert!(began.elapsed() < LINGER, "nor with an old one in hand");
    assert_eq!(batches(&worker).await?, (3.0, 6.0), "which goes with the fresh one");
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}

/// The rest of a backlog makes no full batch, and is done all the same.
#[tokio::test]
async fn messages_that_have_waited_for_long_wait_no_longer_than_the_linger() -> Result<()> {
    let (namespace, _pinion, worker) = patient_worker().await?;
    send_old(&namespace, 1).await?;
    send_old(&namespace, 2).await?;
    settled(&worker, "orders", "indexed", 2).await?;
    assert_eq!(batches(&worker).await?, (1.0, 2.0), "in one batch");
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}
