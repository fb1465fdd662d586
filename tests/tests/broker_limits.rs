//! Where the broker has a limit or an alarm: a message that kills its worker, held messages that are taken away, publishers that are
//! blocked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream};
use pinion_client::{PublishError, Publisher, PublisherConfig};
use pinion_schemas::{Job, Names};
use pinion_tests::{
    Metrics, Namespace, Pinion, PrivateElasticsearch, PrivateRabbit, Proxy, Rabbit, Setup, Worker, eventually,
};
use serde_json::{Value, json};

use crate::shop::{
    TIMEOUT, applied, compare_all, dead_letters, dead_letters_of, end_sleeping, patience, send, settled, sleeping,
};

/// Starts a worker, and kills it when it reads the poison: whoever reads it waits for long. Gives the worker that got past it.
async fn survivor(namespace: &Namespace, pinion: &Pinion, deaths: &mut usize) -> Result<Worker> {
    loop {
        let worker = pinion.work(&["--jobs", "notes"]).await?;
        let poisoned = eventually("the poison to be read, or to be a dead letter", TIMEOUT, async || {
            let letters = || async { anyhow::Ok(dead_letters(namespace).await?.len()) };
            let reading = !sleeping(namespace).await?.is_empty();
            Ok(if reading { Some(true) } else { (letters().await? > 0).then_some(false) })
        })
        .await
        .with_context(|| format!("after {deaths} deaths: {}", worker.log().unwrap_or_default()))?;
        if !poisoned {
            return Ok(worker);
        }
        worker.kill().await?;
        *deaths += 1;
        end_sleeping(namespace).await?;
    }
}

#[tokio::test]
async fn of_300_messages_only_the_one_that_kills_its_worker_30_times_is_a_dead_letter() -> Result<()> {
    const POISON: i64 = 150;
    let namespace = Namespace::empty().await?;
    namespace
        .execute(
            "CREATE TABLE notes (id bigint PRIMARY KEY); GRANT SELECT ON notes TO pinion;
             INSERT INTO notes SELECT generate_series(1, 300)",
        )
        .await?;
    let setup = Setup {
        replicas: Vec::new(),
        // All of them are taken ahead: two batches for each of twelve places.
        worker: "batch_max = 50\nfetch_s_max = 600\ndeliveries_max = 27\n".to_owned(),
        ..Setup::without_jobs(&namespace)?
    };
    let sql = format!(
        "SELECT n.id AS _id, n.id AS number, CASE WHEN n.id = {POISON} THEN pg_sleep(600)::text END AS slept
         FROM notes n WHERE n.id = ANY(:ids)"
    );
    let mapping = r#"{"mappings": {"properties": {"number": {"type": "long"}, "slept": {"type": "keyword"}}}}"#;
    setup.write_job(&namespace, "notes", "index = \"notes\"\nsource = \"shop\"\nkey = \"bigint\"\n", &sql, mapping)?;
    let pinion = applied(&namespace, &setup).await?;
    send(&namespace, "notes", 1..=300).await?;

    let mut deaths = 0;
    let worker = survivor(&namespace, &pinion, &mut deaths).await?;
    // Twice with all that was prefetched, once among the suspects, and then alone as often as deliveries_max allows.
    assert_eq!(deaths, 30);
    let letters = dead_letters_of(&namespace, 1).await?;
    assert_eq!(letters[0]["reason"], "poison", "{letters:?}");
    let error = letters[0]["error"].as_str().context("an error")?;
    assert!(error.contains("27 workers have ended"), "{error}");
    eventually("all other documents", TIMEOUT, async || {
        let count = namespace.elastic().count(&namespace.index("notes")).await?;
        ensure!(count == 299, "there are {count}");
        Ok(Some(()))
    })
    .await?;
    assert_eq!(namespace.elastic().get(&namespace.index("notes"), &POISON.to_string()).await?, None);
    let queues =
        ["notes", "notes.low", "notes.suspects", "notes.alone"].map(|queue| format!("{}.{queue}", namespace.name()));
    eventually("the suspects to be done", TIMEOUT, async || {
        Ok((namespace.rabbit().ready(&queues[3]).await? == 0).then_some(()))
    })
    .await?;
    assert_eq!(worker.terminate().await?, 0);
    for queue in &queues {
        assert_eq!(namespace.rabbit().ready(queue).await?, 0, "{queue}");
    }
    assert_eq!(dead_letters(&namespace).await?.len(), 1);
    namespace.finish().await
}

/// A message that is read alone, and whose readers lose their connection, again and again.
#[tokio::test]
async fn lost_connections_condemn_no_message() -> Result<()> {
    let namespace = Namespace::empty().await?;
    namespace
        .execute(
            "CREATE TABLE notes (id bigint PRIMARY KEY); CREATE TABLE slow (id bigint);
             GRANT SELECT ON notes, slow TO pinion; INSERT INTO notes VALUES (1); INSERT INTO slow VALUES (1)",
        )
        .await?;
    let rabbit = namespace.rabbit();
    let wire = Proxy::before(reqwest::Url::parse(rabbit.url())?.port().context("a port")?).await?;
    let setup = Setup {
        rabbitmq: wire.url(rabbit.url())?,
        replicas: Vec::new(),
        worker: "fetch_s_max = 600\nfetches_in_flight_max = 20\ndeliveries_max = 4\n".to_owned(),
        ..Setup::without_jobs(&namespace)?
    };
    let sql = "SELECT n.id AS _id, (SELECT pg_sleep(600)::text FROM slow) AS slept FROM notes n WHERE n.id = ANY(:ids)";
    let mapping = r#"{"mappings": {"properties": {"slept": {"type": "keyword"}}}}"#;
    setup.write_job(&namespace, "notes", "index = \"notes\"\nsource = \"shop\"\nkey = \"bigint\"\n", sql, mapping)?;
    let pinion = applied(&namespace, &setup).await?;
    let workers = [pinion.work(&["--jobs", "notes"]).await?, pinion.work(&["--jobs", "notes"]).await?];
    let alone = format!("{}.notes.alone", namespace.name());
    let message = json!({"id": 1, "job_name": "notes"}).to_string().into_bytes();
    rabbit.publish("", &alone, &[message]).await?;

    // A read that was ended would be tried again, and the message go back by the worker's own hand: they sleep on.
    for interruptions in 0..10 {
        eventually("the message to be read", TIMEOUT, async || {
            Ok((sleeping(&namespace).await?.len() > interruptions).then_some(()))
        })
        .await?;
        wire.cut();
    }
    namespace.execute("DELETE FROM slow").await?;
    end_sleeping(&namespace).await?;
    eventually("the document", TIMEOUT, async || {
        Ok(namespace.elastic().get(&namespace.index("notes"), "1").await?.map(drop))
    })
    .await?;
    assert_eq!(dead_letters(&namespace).await?.len(), 0);
    for worker in workers {
        assert_eq!(worker.terminate().await?, 0);
    }
    assert_eq!(rabbit.ready(&alone).await?, 0);
    let jobs = format!("{}-jobs", namespace.name());
    let noted = namespace.elastic().get(&jobs, "interrupted:notes").await?.context("the job's notes")?;
    assert_eq!(noted["_source"]["interrupted"], json!([]), "a message that is done is no longer noted");
    namespace.finish().await
}

/// Messages of orders, to one of their queues on a broker of the test's own.
async fn send_to(rabbit: &Rabbit, queue: &str, ids: impl IntoIterator<Item = i64>) -> Result<()> {
    let message = |id: i64| json!({"id": id, "job_name": "orders"}).to_string().into_bytes();
    let bodies: Vec<_> = ids.into_iter().map(message).collect();
    rabbit.publish("", queue, &bodies).await
}

fn messages(metrics: &Metrics, verdict: &str) -> f64 {
    metrics.sum("pinion_messages_total", &[("job", "orders"), ("verdict", verdict)])
}

/// Ends the worker once all messages of these queues are settled. What goes back at its end, another one does.
async fn all_settled(pinion: &Pinion, mut worker: Worker, rabbit: &Rabbit, queues: &[&str]) -> Result<()> {
    let waiting = async || {
        let mut waiting = 0;
        for queue in queues {
            waiting += rabbit.ready(queue).await?;
        }
        anyhow::Ok(waiting)
    };
    loop {
        eventually("all messages to be settled, or in hand", TIMEOUT, async || {
            let waiting = waiting().await?;
            ensure!(waiting == 0, "{waiting} wait: {}", worker.log()?);
            Ok(Some(()))
        })
        .await?;
        assert_eq!(worker.terminate().await?, 0);
        if waiting().await? == 0 {
            return Ok(());
        }
        worker = pinion.work(&["--jobs", "orders"]).await?;
    }
}

/// Away, and then frozen, for longer than the broker lets a consumer hold its messages.
#[tokio::test]
async fn messages_that_the_broker_takes_back_while_elasticsearch_is_away_are_not_lost() -> Result<()> {
    const ORDERS: u32 = 300;
    let namespace = Namespace::shop(ORDERS).await?;
    let (broker, node) = tokio::try_join!(PrivateRabbit::start(), PrivateElasticsearch::start(""))?;
    broker.set_consumer_timeout(Duration::from_secs(3)).await?;
    let setup = Setup {
        rabbitmq: broker.rabbit().url().to_owned(),
        elasticsearch: vec![node.elastic().url().to_owned()],
        elasticsearch_more: "bulk_s_max = 2\n".to_owned(),
        worker: "hold_s_max = 600\n".to_owned(),
        ..Setup::shop(&namespace)?
    };
    let pinion = applied(&namespace, &setup).await?;
    let index = namespace.index("orders");
    let live = format!("{}.orders", namespace.name());
    let (suspects, alone) = (format!("{live}.suspects"), format!("{live}.alone"));
    let outages = [
        ("accepted", true, &live, ORDERS),
        ("cancelled", false, &live, ORDERS),
        // No more suspects are taken together.
        ("dispatched", false, &suspects, 32),
        ("delivered", false, &alone, 1),
    ];
    for (status, stopped, queue, messages_sent) in outages {
        // One of its own: what another outage left in hand would keep it from these.
        let worker = pinion.work(&["--jobs", "orders"]).await?;
        // It learns the source's generation, which it would wait for longer than the broker does.
        send_to(broker.rabbit(), &live, [1]).await?;
        eventually("the worker to have worked", TIMEOUT, async || {
            let done = worker.metrics().await?.sum("pinion_documents_total", &[("job", "orders")]);
            Ok((done >= 1.0).then_some(()))
        })
        .await?;
        let taken = async || anyhow::Ok(messages(&worker.metrics().await?, "accepted") - 1.0);
        if stopped {
            node.service().stop().await?
        } else {
            node.service().pause().await?
        }
        namespace.execute(&format!("UPDATE orders SET status = '{status}' WHERE id <= {messages_sent}")).await?;
        send_to(broker.rabbit(), queue, 1..=i64::from(messages_sent)).await?;
        eventually("the worker to hold the messages", TIMEOUT, async || {
            Ok((taken().await? >= f64::from(messages_sent)).then_some(()))
        })
        .await?;
        eventually("the broker to take them back, for good", TIMEOUT, async || {
            let waiting = broker.rabbit().ready(queue).await?;
            let (_, page) = worker.admin("/readyz").await?;
            ensure!(waiting == messages_sent && page.contains("Elasticsearch is away"), "{waiting} wait: {page}");
            Ok(Some(()))
        })
        .await?;
        if stopped {
            node.service().start().await?
        } else {
            node.service().resume()?
        }
        // A start takes longer than the broker's patience; while it goes on they may be taken once too early.
        let taken = taken().await?;
        assert!(taken <= f64::from(3 * messages_sent), "{taken} messages were taken: it goes round and round");
        eventually("all orders", patience(ORDERS), async || {
            node.elastic().refresh(&index).await?;
            let found = node.elastic().search(&index, json!({"query": {"term": {"status": status}}})).await?;
            let found = found["hits"]["total"]["value"].as_u64().unwrap_or_default();
            ensure!(found == u64::from(messages_sent), "there are {found}");
            Ok(Some(()))
        })
        .await?;
        // A bulk that took too long for the worker may have been written all the same: its messages come once more.
        all_settled(&pinion, worker, broker.rabbit(), &[&live, &suspects, &alone]).await?;
    }
    assert_eq!(node.elastic().count(&format!("{}-dead-letters", namespace.name())).await?, 0);
    namespace.finish().await
}

/// An alarm that is raised, and what ends it.
const ALARMS: [(&str, [&str; 2], [&str; 2]); 2] = [
    ("memory", ["set_vm_memory_high_watermark", "0"], ["set_vm_memory_high_watermark", "0.4"]),
    ("disk", ["set_disk_free_limit", "1000000GB"], ["set_disk_free_limit", "100MB"]),
];

#[tokio::test]
async fn a_publisher_names_the_alarm_that_blocks_it_and_holds_no_more_than_it_may() -> Result<()> {
    const JOBS: usize = 5_000;
    const OUTSTANDING_MAX: usize = 200;
    let broker = PrivateRabbit::start().await?;
    let names = Names::new("alarm")?;
    crate::client::declare(broker.rabbit(), "alarm", &[]).await?;
    let config = PublisherConfig::new(broker.rabbit().url()).namespace(names.clone()).outstanding_max(OUTSTANDING_MAX);
    let patient = Publisher::connect(config.clone().confirm_timeout_ms(300_000)).await?;
    let hasty = Publisher::connect(config.confirm_timeout_ms(500)).await?;
    for (what, raise, end) in ALARMS {
        broker.ctl(&raise).await?;
        // The broker tells a connection when it publishes, and may still take what came together with that.
        let blocked = async {
            loop {
                match hasty.publish(&Job::new("a", 0)).await {
                    Ok(()) | Err(PublishError::TimedOut { .. }) => {}
                    Err(error) => return error,
                }
            }
        };
        let error = tokio::time::timeout(TIMEOUT, blocked).await.context("the publisher is not blocked")?;
        let PublishError::Blocked { waited_ms: 500, reason } = &error else { anyhow::bail!("{error}") };
        ensure!(reason.contains(what) && error.is_transient() && error.to_string().contains(what), "{error}");
        ensure!(hasty.blocked().await.contains(what));

        let taken = AtomicUsize::new(0);
        let jobs = stream::iter(1..=JOBS).map(|id| {
            taken.fetch_add(1, Ordering::Relaxed);
            Job::new("a", id as i64)
        });
        let alarm = async {
            ensure!(patient.blocked().await.contains(what));
            // What is told of the alarm comes in the middle of the first that are published.
            let mut before = 0;
            eventually("the publisher to stand still", TIMEOUT, async || {
                let error = hasty.publish(&Job::new("a", 0)).await;
                ensure!(matches!(error, Err(PublishError::Blocked { .. })), "{error:?}");
                let now = taken.load(Ordering::Relaxed);
                Ok((std::mem::replace(&mut before, now) == now).then_some(()))
            })
            .await?;
            // In the queue are those that are confirmed, and more: the hasty one's.
            let (taken, stored) = (taken.load(Ordering::Relaxed), broker.rabbit().ready("alarm.a").await? as usize);
            ensure!(taken < JOBS && taken <= stored + OUTSTANDING_MAX + 1, "{taken} were taken, {stored} are stored");
            broker.ctl(&end).await
        };
        let (report, ()) = tokio::try_join!(async { Ok(patient.publish_all(jobs).await) }, alarm)?;
        assert_eq!((report.taken, report.confirmed), (JOBS, JOBS), "{what}: {:?}", report.failed.first());
        eventually("the hasty one to be let in again", TIMEOUT, async || {
            Ok(hasty.publish(&Job::new("a", 0)).await.ok())
        })
        .await?;
    }
    Ok(())
}

/// What the worker itself has to publish waits, here the second looks after deletes; all else goes on.
#[tokio::test]
async fn a_worker_goes_on_consuming_while_the_broker_blocks_publishers() -> Result<()> {
    // Fewer than are prefetched: messages are acknowledged in their order, so the first that waits holds up the others' room.
    const ORDERS: i64 = 240;
    let namespace = Namespace::shop(ORDERS as u32).await?;
    let broker = PrivateRabbit::start().await?;
    let setup = Setup {
        rabbitmq: broker.rabbit().url().to_owned(),
        // Held for long by a broker that is there; were it taken for away, messages would go back.
        worker: "batch_max = 40\nhold_s_max = 1\n".to_owned(),
        ..Setup::shop(&namespace)?
    };
    let pinion = applied(&namespace, &setup).await?;
    namespace
        .execute(
            "DELETE FROM order_items WHERE order_id % 10 = 0; DELETE FROM deliveries WHERE order_id % 10 = 0;
             DELETE FROM orders WHERE id % 10 = 0",
        )
        .await?;
    let queue = format!("{}.orders", namespace.name());
    send_to(broker.rabbit(), &queue, 1..=ORDERS).await?;
    let (_, raise, end) = ALARMS[0];
    broker.ctl(&raise).await?;
    let worker = pinion.work(&["--jobs", "orders"]).await?;
    settled(&worker, "orders", "indexed", 216).await?;
    eventually("the worker to name the alarm", TIMEOUT, async || {
        let (_, page) = worker.admin("/readyz").await?;
        Ok(page.contains("the broker blocks publishers: low on memory").then_some(()))
    })
    .await?;
    ensure!(worker.log()?.contains("the broker blocks publishers until its alarm is over"), "{}", worker.log()?);
    let deleted = worker.metrics().await?.sum("pinion_documents_total", &[("job", "orders"), ("verdict", "deleted")]);
    assert!(deleted < 24.0, "nothing had to wait for the alarm's end");
    // New work comes only from those who can publish; what waits behind the deletes was taken.
    assert_eq!(broker.rabbit().ready(&queue).await?, 0);

    broker.ctl(&end).await?;
    settled(&worker, "orders", "deleted", 24).await?;
    assert_eq!(compare_all(&namespace, &setup, "orders", "orders").await?, 216);
    let metrics = worker.metrics().await?;
    assert_eq!((messages(&metrics, "accepted"), messages(&metrics, "suspect")), (240.0, 0.0), "messages went back");
    assert_eq!(dead_letters(&namespace).await?, Vec::<Value>::new());
    assert_eq!(worker.terminate().await?, 0);
    namespace.finish().await
}
