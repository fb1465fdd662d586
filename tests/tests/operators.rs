//! `pinion pause`, `resume` and `status` on running workers.

use std::time::Instant;

use anyhow::{Result, ensure};
use pinion_tests::{Namespace, Pinion, Setup, Worker, eventually};
use serde_json::{Value, json};

use crate::shop::{TIMEOUT, applied, send, settled};

/// A worker that has told that this job is in this state.
async fn told(worker: &Worker, job: &str, state: &str) -> Result<()> {
    eventually(&format!("{job} to be {state}"), TIMEOUT, async || {
        let (_, page) = worker.admin("/readyz").await?;
        let page: Value = serde_json::from_str(&page)?;
        Ok((page["jobs"][job]["state"] == state).then_some(()))
    })
    .await
}

/// `pinion status` once it knows so many workers and has no problems.
async fn without_problems(pinion: &Pinion, workers: usize) -> Result<Value> {
    eventually(&format!("a status of {workers} workers without problems"), TIMEOUT, async || {
        let output = pinion.command(&["status", "--json"]).await?;
        ensure!(output.code == 0, "{}", output.stdout);
        let status = output.json()?;
        let known = status["workers"]["known"].as_array().map(Vec::len);
        ensure!(known == Some(workers), "it knows {known:?} workers");
        Ok(Some(status))
    })
    .await
}

#[tokio::test]
async fn a_paused_job_takes_nothing_anywhere_until_it_is_resumed() -> Result<()> {
    let namespace = Namespace::shop(50).await?;
    let pinion = applied(&namespace, &Setup::shop(&namespace)?).await?;
    let (first, second) = (pinion.work(&[]).await?, pinion.work(&[]).await?);
    without_problems(&pinion, 2).await?;

    let paused = pinion.command(&["pause", "orders", "--reason", "the disk is full"]).await?.ok()?;
    assert_eq!(paused.stdout, "orders is paused\n2 workers followed\n");
    send(&namespace, "orders", 1..=50).await?;
    let third = pinion.work(&[]).await?;
    told(&third, "orders", "paused").await?;
    send(&namespace, "merchants", 1..=500).await?;
    eventually("the merchants, which nobody paused", TIMEOUT, async || {
        Ok((namespace.elastic().count(&namespace.index("merchants")).await? == 500).then_some(()))
    })
    .await?;
    assert_eq!(namespace.rabbit().ready(&format!("{}.orders", namespace.name())).await?, 50);
    assert_eq!(namespace.elastic().count(&namespace.index("orders")).await?, 0);

    let status = pinion.command(&["status"]).await?;
    assert_eq!(status.code, 1);
    assert!(status.stdout.contains("orders is paused by ") && status.stdout.contains("the disk is full"), "{status:?}");
    let again = pinion.command(&["pause", "orders"]).await?.ok()?;
    assert!(again.stdout.starts_with("orders was paused already\n"), "{}", again.stdout);

    let resumed = pinion.command(&["resume", "orders", "--json"]).await?.ok()?.json()?;
    assert_eq!((&resumed["was_paused"], &resumed["paused"]), (&Value::Bool(true), &Value::Bool(false)));
    assert_eq!(resumed["workers"]["done"].as_array().map(Vec::len), Some(3), "{resumed}");
    eventually("the orders", TIMEOUT, async || {
        Ok((namespace.elastic().count(&namespace.index("orders")).await? == 50).then_some(()))
    })
    .await?;
    without_problems(&pinion, 3).await?;
    for worker in [first, second, third] {
        assert_eq!(worker.terminate().await?, 0);
    }
    eventually("the workers to be gone from the status", TIMEOUT, async || {
        let idle = pinion.command(&["status", "--json"]).await?;
        Ok((idle.code == 1).then_some(()))
    })
    .await?;
    let idle = pinion.command(&["status", "--json"]).await?.json()?;
    assert_eq!(idle["problems"], json!(["no live worker has customers, merchants, orders"]));
    namespace.finish().await
}

#[tokio::test]
async fn pausing_says_what_is_missing() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let pinion = Setup::shop(&namespace)?.write(&namespace)?;
    let unknown = pinion.command(&["pause", "order"]).await?;
    assert_eq!(unknown.code, 1);
    assert!(
        unknown.stderr.contains("no job is called order; ") && unknown.stderr.contains("customers, merchants, orders")
    );
    let missing = pinion.command(&["pause", "orders"]).await?;
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.contains("-jobs is missing: run `pinion apply`"), "{}", missing.stderr);

    pinion.command(&["apply"]).await?.ok()?;
    let alone = pinion.command(&["pause", "orders"]).await?.ok()?;
    assert_eq!(alone.stdout, "orders is paused\nno live worker has it; it holds for those that start\n");
    namespace.finish().await
}

#[tokio::test]
async fn the_status_shows_what_is_there_whatever_is_down() -> Result<()> {
    let namespace = Namespace::shop(1).await?;
    let setup = Setup::shop(&namespace)?;
    let pinion = applied(&namespace, &setup).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    send(&namespace, "orders", [1]).await?;
    settled(&worker, "orders", "indexed", 1).await?;
    send(&namespace, "customers", 1..=7).await?;
    std::fs::write(setup.jobs.join("merchants/job.toml"), "index = 7\n")?;

    let nobody = "127.0.0.1:1";
    let database = namespace.name();
    let elasticsearch = Setup {
        elasticsearch: vec![format!("http://{nobody}")],
        replicas: vec![namespace.replica_url(), format!("postgres://pinion:s3cret@{nobody}/{database}")],
        jobs: setup.jobs.clone(),
        ..Setup::without_jobs(&namespace)?
    };
    let asked = Instant::now();
    let status = elasticsearch.write(&namespace)?.command(&["status", "--json"]).await?;
    ensure!(asked.elapsed().as_secs() < 10, "it took {:?}", asked.elapsed());
    assert_eq!(status.code, 1);
    let status = status.json()?;
    let queues = status["queues"]["known"]["jobs"].as_array().expect("the broker is there");
    let customers = queues.iter().find(|queue| queue["job"] == "customers").expect("a job");
    assert_eq!((&customers["live"]["ready"], &customers["live"]["consumers"]), (&7.into(), &0.into()));
    let replicas = &status["sources"][0]["replicas"];
    assert!(replicas[0]["behind"]["known"].is_u64(), "{status}");
    assert!(replicas[1]["behind"]["down"].is_string(), "{status}");
    let problems = status["problems"].to_string();
    for expected in
        ["the definition of merchants is wrong", "Elasticsearch is away: 127.0.0.1:1", "replica 127.0.0.1:1"]
    {
        assert!(problems.contains(expected), "{expected} is not in {problems}");
    }
    assert!(!status.to_string().contains("s3cret"), "{status}");

    let rabbitmq = Setup {
        rabbitmq: format!("amqp://guest:s3cret@{nobody}/%2f"),
        primary: format!("postgres://pinion:s3cret@{nobody}/{database}"),
        jobs: setup.jobs.clone(),
        ..Setup::without_jobs(&namespace)?
    };
    let pinion = rabbitmq.write(&namespace)?;
    let status = eventually("the worker to say that it runs", TIMEOUT, async || {
        let status = pinion.command(&["status"]).await?;
        Ok(status.stdout.contains("orders  running").then_some(status))
    })
    .await?;
    assert_eq!(status.code, 1);
    for expected in
        ["RabbitMQ at 127.0.0.1:1 can't be reached", "generation 1", "its lag is unknown", "DEAD LETTERS\n  none"]
    {
        assert!(status.stdout.contains(expected), "{expected} is not in {}", status.stdout);
    }
    assert!(!status.stdout.contains("s3cret") && status.stdout.lines().all(|line| line.chars().count() <= 100));
    namespace.finish().await
}
