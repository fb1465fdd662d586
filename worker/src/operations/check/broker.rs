//! The broker: whether it can be reached, has the queues, and drops no message that comes back often.

use std::io;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use pinion_client::connection::in_time;
use pinion_schemas::{Finding, Severity};
use tokio::time::timeout;

use super::{Context, Place, some_of, unique};
use crate::operations::topology::{Broker, BrokerError, Presence, wanted};

pub(super) async fn check(context: &Context) -> Vec<Finding> {
    let place = Place::config(context);
    let line = place.toml_line(&["rabbitmq", "url"]);
    let error = |problem: String, mend: &str| place.finding(Severity::Error, line, problem, mend);
    let broker = match Broker::connect(&context.config).await {
        Ok(broker) => broker,
        Err(failure) => return vec![error(failure.to_string(), "mend [rabbitmq] url or ca_file, or start the broker")],
    };
    let mut findings = Vec::new();
    let jobs: Vec<&str> = context.definitions().map(|job| job.name.as_str()).collect();
    let mut missing = Vec::new();
    for declaration in wanted(&context.config, &jobs) {
        match broker.look(&declaration).await {
            Ok(Presence::There) => {}
            Ok(Presence::Missing) => missing.push(declaration.name().to_owned()),
            Ok(Presence::Different(said)) => {
                let problem = format!("{declaration} is declared differently on the broker: {said}");
                findings.push(error(problem, "delete it when its messages are worked off, then `pinion apply`"));
            }
            Err(failure) => {
                findings.push(error(failure.to_string(), "mend it and check again"));
                return findings;
            }
        }
    }
    missing.dedup();
    if !missing.is_empty() {
        findings.push(error(format!("not on the broker: {}", some_of(&missing)), "run `pinion apply`"));
    }
    match drops_what_comes_back(&broker, context.config.names.namespace()).await {
        Ok(false) => {}
        Ok(true) => {
            let namespace = context.config.names.namespace();
            let problem = format!(
                "the queues have a delivery limit (RabbitMQ 4 sets 20 by itself): after {DELIVERIES} returns a message is dropped"
            );
            let mend = format!(
                "set a high one by policy: rabbitmqctl set_policy {namespace} '^{namespace}\\.' '{{\"delivery-limit\":1000000}}' \
                 --apply-to queues; queues that are older than the policy may have to be made anew"
            );
            findings.push(error(problem, &mend));
        }
        Err(failure) => {
            let problem = format!("could not find out whether queues have a delivery limit: {failure}");
            findings.push(place.finding(Severity::Warning, line, problem, "mend it and check again"));
        }
    }
    broker.close().await;
    findings
}

/// More than RabbitMQ 4 allows where nobody has set a limit.
const DELIVERIES: usize = 25;
/// A message that does not come back within this time was dropped.
const RETURN: Duration = Duration::from_secs(5);
/// The consumer on the channel that tries it.
const CONSUMER: &str = "check";

/// Tries it with a queue of its own, whose name the policies for this namespace apply to. AMQP tells neither policies
/// nor limits.
async fn drops_what_comes_back(broker: &Broker, namespace: &str) -> Result<bool, BrokerError> {
    let channel = broker.channel().await?;
    let queue = format!("{namespace}.check-{}", unique());
    let tried = in_time(try_returns(&channel, &queue)).await;
    if let Err(error) = in_time(channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default())).await {
        tracing::debug!(%error, queue, "not deleted; it expires");
    }
    tried.map_err(|error| broker.failure(&error))
}

async fn try_returns(channel: &Channel, queue: &str) -> Result<bool, lapin::Error> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-expires".into(), AMQPValue::LongInt(60_000));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), durable, arguments).await?;
    let (nowhere, options) = ("".into(), BasicPublishOptions::default());
    let _unconfirmed = channel.basic_publish(nowhere, queue.into(), options, b"{}", BasicProperties::default()).await?;
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let mut consumer = channel
        .basic_consume(queue.into(), CONSUMER.into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    let mut dropped = false;
    for _ in 0..DELIVERIES {
        match timeout(RETURN, consumer.next()).await {
            Ok(Some(delivery)) => {
                delivery?.nack(BasicNackOptions { requeue: true, ..Default::default() }).await?;
            }
            Ok(None) => return Err(io::Error::other("the broker has ended the consumer").into()),
            Err(_elapsed) => {
                dropped = true;
                break;
            }
        }
    }
    // RabbitMQ (3.10) ends the connection where a consumer is cancelled while its queue goes, as a consumer that is dropped here would be.
    channel.basic_cancel(CONSUMER.into(), BasicCancelOptions::default()).await?;
    Ok(dropped)
}
