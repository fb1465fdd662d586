//! The publisher against a real RabbitMQ.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream};
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicQosOptions, ExchangeDeclareOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, ExchangeKind};
use pinion_client::{ConnectError, Lane, PublishError, Publisher, PublisherConfig, connect};
use pinion_schemas::{Job, Names};
use pinion_tests::{Namespace, PrivateRabbit, Rabbit, eventually, stack};
use reqwest::Method;
use tokio::sync::Notify;

mod cuts;
pub(crate) mod tls;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The exchange of a namespace with the queues of the job `a`, as `apply` makes them but for the arguments given.
pub(crate) async fn declare(
    rabbit: &Rabbit,
    namespace: &str,
    arguments: &[(&str, AMQPValue)],
) -> Result<(Names, Channel)> {
    let names = Names::new(namespace)?;
    let channel = rabbit.channel().await?;
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    channel.exchange_declare(names.exchange().into(), ExchangeKind::Direct, durable, FieldTable::default()).await?;
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    let lanes = [(names.queue("a"), names.routing_key("a")), (names.low_queue("a"), names.low_routing_key("a"))];
    for (queue, routing_key) in lanes {
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(queue.as_str().into(), durable, table.clone()).await?;
        let exchange = names.exchange().into();
        channel
            .queue_bind(queue.into(), exchange, routing_key.into(), Default::default(), FieldTable::default())
            .await?;
    }
    Ok((names, channel))
}

fn config(rabbit: &Rabbit, names: &Names) -> PublisherConfig {
    PublisherConfig::new(rabbit.url()).namespace(names.clone()).connection_name(names.namespace())
}

/// The ids that wait in a queue, each once.
async fn ids_in(channel: &Channel, queue: &str, expected: usize) -> Result<HashSet<i64>> {
    channel.basic_qos(1000, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut deliveries = channel.basic_consume(queue.into(), "ids".into(), options, FieldTable::default()).await?;
    let mut ids = HashSet::new();
    let all = async {
        while ids.len() < expected {
            let delivery = deliveries.next().await.context("the consumer ended")??;
            let message = pinion_schemas::decode(&delivery.data)?;
            for id in message.ids.iter() {
                ids.insert(id.get().parse()?);
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(TIMEOUT, all).await.with_context(|| format!("not all of {expected} ids are in {queue}"))??;
    Ok(ids)
}

#[tokio::test]
async fn a_job_is_stored_as_the_contract_says() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let (names, channel) = declare(namespace.rabbit(), namespace.name(), &[]).await?;
    let publisher = Publisher::connect(config(namespace.rabbit(), &names)).await?;
    publisher.publish(&Job::new("a", 42).after("0/1")).await?;
    publisher.lane(Lane::Low).publish(&Job::many("a", [1, 2])).await?;

    let get = async |queue: String| {
        let message = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await?;
        anyhow::Ok(message.context("a message")?.delivery)
    };
    let live = get(names.queue("a")).await?;
    assert_eq!(live.data, br#"{"job_name":"a","id":42,"after":"0/1"}"#);
    assert_eq!(live.properties.delivery_mode(), &Some(2));
    let sent_s = live.properties.timestamp().context("a timestamp")?;
    let headers = live.properties.headers().as_ref().context("headers")?;
    let sent_ms = headers.inner().get("sent_ms").and_then(AMQPValue::as_long_long_int).context("sent_ms")?;
    assert_eq!(sent_ms / 1000, i64::try_from(sent_s)?);
    assert_eq!(get(names.low_queue("a")).await?.data, br#"{"job_name":"a","ids":[1,2]}"#);

    publisher.close().await;
    let late = publisher.publish(&Job::new("a", 1)).await.expect_err("it is closed");
    ensure!(matches!(late, PublishError::Closed), "{late}");
    namespace.finish().await
}

/// The messages that wait in a queue, in its order: the position and the ids of each.
async fn messages_in(channel: &Channel, queue: &str) -> Result<Vec<(Option<String>, Vec<i64>)>> {
    let mut messages = Vec::new();
    while let Some(got) = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await? {
        let message = pinion_schemas::decode(&got.delivery.data)?;
        let ids: Result<Vec<i64>, _> = message.ids.iter().map(|id| id.get().parse()).collect();
        messages.push((message.after.map(Into::into), ids?));
    }
    Ok(messages)
}

#[tokio::test]
async fn jobs_that_wait_at_the_same_time_are_sent_together() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let (names, channel) = declare(namespace.rabbit(), namespace.name(), &[]).await?;
    let publisher = Publisher::connect(config(namespace.rabbit(), &names)).await?;
    let low = publisher.lane(Lane::Low);
    // Of 120, every third in the low lane; the last 30 of the others after a commit.
    let publish = async |id: i64| match id {
        id if id % 3 == 0 => low.publish(&Job::new("a", id)).await,
        id if id > 75 => publisher.publish(&Job::new("a", id).after("0/1")).await,
        id => publisher.publish(&Job::new("a", id)).await,
    };
    let by_lane = (1..=120).filter(|id| id % 3 != 0).chain((1..=120).filter(|id| id % 3 == 0));
    futures_util::future::try_join_all(by_lane.map(publish)).await?;
    let (live, low) = (names.queue("a"), names.low_queue("a"));
    let (live, low) = (messages_in(&channel, &live).await?, messages_in(&channel, &low).await?);
    assert!(live.len() + low.len() < 20, "{live:?} {low:?}");
    for (messages, is_low) in [(&live, false), (&low, true)] {
        let mut ids: Vec<i64> = messages.iter().flat_map(|(_, ids)| ids.clone()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (1..=120).filter(|id| (id % 3 == 0) == is_low).collect::<Vec<_>>());
    }
    for (after, ids) in live.iter().chain(&low) {
        assert!(ids.len() <= 20, "{} ids", ids.len());
        assert!(ids.iter().all(|id| (id % 3 != 0 && *id > 75) == after.is_some()), "{after:?}: {ids:?}");
    }

    let one_by_one = Publisher::connect(config(namespace.rabbit(), &names).ids_joined_max(1)).await?;
    let report = one_by_one.publish_all(stream::iter((1..=100).map(|id| Job::new("a", id)))).await;
    assert_eq!((report.taken, report.confirmed), (100, 100));
    assert_eq!(messages_in(&channel, &names.queue("a")).await?.len(), 100);
    namespace.finish().await
}

#[tokio::test]
async fn what_no_worker_would_read_is_not_sent() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let names = Names::new(namespace.name())?;
    let publisher = Publisher::connect(config(namespace.rabbit(), &names)).await?;
    let large = publisher.publish(&Job::new("a", "x".repeat(2_000_000))).await.expect_err("too large");
    ensure!(matches!(large, PublishError::TooLarge { max: 1_048_576, .. }), "{large}");
    let wrong = publisher.publish(&Job::new("A", 1)).await.expect_err("no job's name");
    ensure!(wrong.to_string().contains("\"A\" can't be a job's name"), "{wrong}");
    let empty = publisher.publish(&Job::many("a", [0_i64; 0])).await.expect_err("no ids");
    ensure!(matches!(empty, PublishError::Invalid(_)), "{empty}");
    let long = publisher.publish_raw("", &"x".repeat(256), BasicProperties::default(), Vec::new()).await;
    ensure!(matches!(long, Err(PublishError::Invalid(_))), "{long:?}");
    namespace.finish().await
}

/// lapin may hand a returned message to another message's confirm: the publisher must not be taken in.
#[tokio::test]
async fn exactly_the_unroutable_jobs_of_a_batch_fail() -> Result<()> {
    const JOBS: i64 = 6_000;
    let namespace = Namespace::empty().await?;
    let (names, channel) = declare(namespace.rabbit(), namespace.name(), &[]).await?;
    let publisher = Publisher::connect(config(namespace.rabbit(), &names)).await?;
    let jobs = (0..JOBS).map(|id| Job::new(if id % 3 == 1 { "nowhere" } else { "a" }, id));
    let report = publisher.publish_all(stream::iter(jobs)).await;

    let failed: Vec<usize> = report.failed.iter().map(|(index, _)| *index).collect();
    let expected: Vec<usize> = (0..JOBS as usize).filter(|index| index % 3 == 1).collect();
    assert_eq!(failed, expected);
    assert_eq!((report.taken, report.confirmed), (JOBS as usize, JOBS as usize - expected.len()));
    for (_, error) in &report.failed {
        let PublishError::Unroutable { exchange, routing_key } = error else { anyhow::bail!("{error}") };
        assert_eq!((exchange.as_str(), routing_key.as_str()), (namespace.name(), "nowhere"));
        ensure!(error.to_string().contains("pinion apply") && !error.is_transient(), "{error}");
    }
    let stored = ids_in(&channel, &names.queue("a"), report.confirmed).await?;
    assert!(stored.iter().all(|id| id % 3 != 1));
    assert_eq!(namespace.rabbit().ready(&names.queue("a")).await?, 0, "nothing was sent twice");
    namespace.finish().await
}

/// The broker answers a missing exchange by closing the channel, under everything else that is on its way.
#[tokio::test]
async fn a_message_that_the_broker_objects_to_takes_no_other_with_it() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let (names, channel) = declare(namespace.rabbit(), namespace.name(), &[]).await?;
    let publisher = Publisher::connect(config(namespace.rabbit(), &names)).await?;
    let missing = format!("{}-missing", namespace.name());
    let bad = async |expiration: Option<&str>| {
        let (exchange, properties) = match expiration {
            None => (missing.as_str(), BasicProperties::default()),
            Some(text) => (names.exchange(), BasicProperties::default().with_expiration(text.into())),
        };
        publisher.publish_raw(exchange, "a", properties, b"{}".to_vec()).await
    };
    let good = publisher.publish_all(stream::iter((0..2_000).map(|id| Job::new("a", id))));
    let (report, no_exchange, no_number) = tokio::join!(good, bad(None), bad(Some("soon")));

    assert_eq!((report.confirmed, report.failed.len()), (2_000, 0));
    let error = no_exchange.expect_err("there is no such exchange");
    ensure!(matches!(&error, PublishError::Unroutable { exchange, .. } if *exchange == missing), "{error}");
    let error = no_number.expect_err("no expiration");
    ensure!(matches!(&error, PublishError::Refused { code: 406, text } if text.contains("expiration")), "{error}");
    ids_in(&channel, &names.queue("a"), 2_000).await?;
    namespace.finish().await
}

#[tokio::test]
async fn a_full_queue_that_refuses_is_reported() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let limit =
        [("x-max-length", AMQPValue::LongInt(5)), ("x-overflow", AMQPValue::LongString("reject-publish".into()))];
    let (names, _channel) = declare(namespace.rabbit(), namespace.name(), &limit).await?;
    let publisher = Publisher::connect(config(namespace.rabbit(), &names)).await?;
    // A queue is over its limit when it holds more than that; it tells the channels then, not before.
    let mut rejected = None;
    for id in 0..1_000 {
        if let Err(error) = publisher.publish(&Job::new("a", id)).await {
            rejected = Some((id, error));
            break;
        }
    }
    let (id, error) = rejected.context("the queue takes more than it may")?;
    ensure!(matches!(error, PublishError::Rejected) && error.is_transient(), "{error}");
    assert_eq!(namespace.rabbit().ready(&names.queue("a")).await? as usize, id as usize);
    namespace.finish().await
}

#[tokio::test]
async fn a_batch_survives_a_connection_that_the_broker_closes() -> Result<()> {
    const JOBS: usize = 20_000;
    let namespace = Namespace::empty().await?;
    let (names, channel) = declare(namespace.rabbit(), namespace.name(), &[]).await?;
    let publisher = Publisher::connect(config(namespace.rabbit(), &names)).await?;
    let (halfway, closed) = (Notify::new(), Notify::new());
    let jobs = stream::iter(0..JOBS).then(async |id| {
        if id == JOBS / 2 {
            halfway.notify_one();
            closed.notified().await;
        }
        Job::new("a", id as i64)
    });
    let close = async {
        halfway.notified().await;
        let outcome = close_connection(namespace.rabbit(), names.namespace()).await;
        closed.notify_one();
        outcome
    };
    let (report, closed) = tokio::join!(publisher.publish_all(jobs), close);
    closed?;
    assert_eq!((report.confirmed, report.failed.len()), (JOBS, 0));
    assert_eq!(ids_in(&channel, &names.queue("a"), JOBS).await?.len(), JOBS);
    namespace.finish().await
}

/// Closes the connection of this name from the broker's side.
async fn close_connection(rabbit: &Rabbit, name: &str) -> Result<()> {
    let connection = eventually("the management API to know the connection", TIMEOUT, async || {
        let connections = rabbit.management(Method::GET, "/connections", None).await?;
        let connections = connections.as_array().context("a list")?;
        let ours = connections.iter().find(|connection| connection["client_properties"]["connection_name"] == name);
        Ok(ours.and_then(|connection| connection["name"].as_str()).map(str::to_owned))
    })
    .await?;
    let path = format!("/connections/{}", connection.replace(' ', "%20").replace('>', "%3E"));
    rabbit.management(Method::DELETE, &path, None).await?;
    Ok(())
}

#[tokio::test]
async fn while_the_broker_is_away_messages_wait_their_time() -> Result<()> {
    let broker = PrivateRabbit::start().await?;
    let (names, _channel) = declare(broker.rabbit(), "away", &[]).await?;
    let patient = Publisher::connect(config(broker.rabbit(), &names).confirm_timeout_ms(300_000)).await?;
    let hasty = Publisher::connect(config(broker.rabbit(), &names).confirm_timeout_ms(500)).await?;
    hasty.publish(&Job::new("a", 1)).await?;
    broker.queues_on_disk().await?;
    broker.service().stop().await?;

    let error = hasty.publish(&Job::new("a", 2)).await.expect_err("the broker is away");
    let PublishError::Unavailable { waited_ms: 500, reason } = &error else { anyhow::bail!("{error}") };
    ensure!(!reason.is_empty() && error.is_transient(), "{error}");
    let waits = Job::new("a", 3);
    let (published, started) = tokio::join!(patient.publish(&waits), broker.service().start());
    started?;
    published?;
    eventually("the hasty one to be connected again", TIMEOUT, async || {
        Ok(hasty.publish(&Job::new("a", 4)).await.ok())
    })
    .await?;
    let (_, channel) = declare(broker.rabbit(), "away", &[]).await?;
    let stored = ids_in(&channel, &names.queue("a"), 3).await?;
    ensure!([1, 3, 4].iter().all(|id| stored.contains(id)), "{stored:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_outstanding_is_bounded_and_closing_waits_for_it() -> Result<()> {
    const JOBS: usize = 20_000;
    const OUTSTANDING_MAX: usize = 500;
    let broker = PrivateRabbit::start().await?;
    let (names, _channel) = declare(broker.rabbit(), "frozen", &[]).await?;
    // On a machine with much else to do the freeze may be long; it is not to be taken for a dead broker.
    let url = format!("{}?heartbeat=600", broker.rabbit().url());
    let bounded = PublisherConfig::new(url).namespace(names.clone()).outstanding_max(OUTSTANDING_MAX);
    let publisher = Publisher::connect(bounded.clone().confirm_timeout_ms(300_000)).await?;
    let impatient = Publisher::connect(bounded.confirm_timeout_ms(1_000)).await?;
    broker.service().pause().await?;

    let taken = AtomicUsize::new(0);
    let jobs = stream::iter(0..JOBS).map(|id| {
        taken.fetch_add(1, Ordering::Relaxed);
        Job::new("a", id as i64)
    });
    let frozen = async {
        // Its time is over only when the broker has stood still for a second.
        let error = impatient.publish(&Job::new("a", 0)).await.expect_err("the broker is frozen");
        ensure!(matches!(error, PublishError::TimedOut { waited_ms: 1_000 }), "{error}");
        assert_eq!(taken.load(Ordering::Relaxed), OUTSTANDING_MAX + 1, "all that fit, and one that waits for room");
        impatient.close().await;
        broker.service().resume()
    };
    let (report, ()) = tokio::try_join!(async { Ok(publisher.publish_all(jobs).await) }, frozen)?;
    assert_eq!((report.taken, report.confirmed), (JOBS, JOBS));

    let last = publisher.clone();
    // With a fresh budget of tokio's the message is taken at the first poll, which comes before that of `close`.
    tokio::task::yield_now().await;
    let (published, ()) = tokio::join!(async { last.publish(&Job::new("a", JOBS as i64)).await }, publisher.close());
    published?;
    let (_, channel) = declare(broker.rabbit(), "frozen", &[]).await?;
    assert_eq!(ids_in(&channel, &names.queue("a"), JOBS + 1).await?.len(), JOBS + 1);
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_connection_is_said_without_the_password() -> Result<()> {
    let url = &stack().await?.rabbitmq;
    let attempt = async |from: &str, to: &str| {
        let error = Publisher::connect(PublisherConfig::new(url.replace(from, to))).await.expect_err(to);
        ensure!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        Ok(error)
    };
    let login = attempt("guest:guest", "guest:hush").await?;
    ensure!(matches!(&login, ConnectError::Login { user, .. } if user == "guest") && !login.is_transient(), "{login}");
    let vhost = attempt("/%2f", "/nowhere").await?;
    ensure!(
        matches!(&vhost, ConnectError::Vhost { vhost, .. } if vhost == "nowhere") && !vhost.is_transient(),
        "{vhost}"
    );
    let address = url.trim_start_matches("amqp://");
    let nobody = attempt(address, "guest:hush@127.0.0.1:1/%2f").await?;
    ensure!(matches!(&nobody, ConnectError::Unreachable { address, .. } if address == "127.0.0.1:1"), "{nobody}");
    ensure!(nobody.is_transient(), "{nobody}");

    let config = PublisherConfig::new(url.replace("guest:guest", "guest:hush"));
    ensure!(!format!("{config:?}").contains("hush"), "{config:?}");
    let publisher = Publisher::connect(PublisherConfig::new(url.as_str())).await?;
    ensure!(!format!("{publisher:?}").contains("guest"), "{publisher:?}");
    Ok(())
}

#[tokio::test]
async fn a_connection_shows_its_name_and_a_heartbeat() -> Result<()> {
    let namespace = Namespace::empty().await?;
    let connection = connect(namespace.rabbit().url(), namespace.name(), None).await?;
    assert_eq!(connection.configuration().heartbeat(), pinion_client::connection::HEARTBEAT_S_DEFAULT);
    close_connection(namespace.rabbit(), namespace.name()).await?;
    eventually("the connection to be closed", TIMEOUT, async || Ok((!connection.status().connected()).then_some(())))
        .await?;
    namespace.finish().await
}
