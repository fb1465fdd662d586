//! Kafka: the topic that the change feed is measured with.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures_util::future::try_join_all;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::event::{Numbers, Template};
use crate::servers::is_ours;

/// As a connector with the prefix `bench` names it.
pub(crate) const TOPIC: &str = "bench.public.orders";

/// As many as Debezium's topics have where nothing else is said. Of one row's events the order is kept by any number.
const PARTITIONS: i32 = 1;
/// Events on their way to the broker.
const UNDER_WAY: usize = 10_000;
/// How long the brokers have to answer.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How long a group keeps a member that was killed, and somewhat more: a group is only removed when it is empty.
const GROUP_PATIENCE: Duration = Duration::from_secs(20);

/// The brokers.
pub(crate) struct Kafka {
    pub(crate) brokers: String,
    admin: AdminClient<DefaultClientContext>,
}

impl Kafka {
    pub(crate) fn new(brokers: &str) -> Result<Self> {
        let brokers = brokers.to_owned();
        let admin = ClientConfig::new().set("bootstrap.servers", &brokers).create()?;
        Ok(Self { brokers, admin })
    }

    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.brokers);
        client
    }

    /// Makes the topic and sends `events` changes of the orders with these ids, one after the other and then the first again, each in
    /// a transaction of its own out of `transactions`; events a second.
    pub(crate) async fn fill(&self, ids: &[i64], events: usize, transactions: &[u32]) -> Result<f64> {
        let topic = NewTopic::new(TOPIC, PARTITIONS, TopicReplication::Fixed(1));
        for created in self.admin.create_topics(&[topic], &AdminOptions::new()).await? {
            created.map_err(|(topic, error)| anyhow!("the topic {topic} can't be made: {error}"))?;
        }
        let template = Template::recorded()?;
        let producer: FutureProducer =
            self.client().set("enable.idempotence", "true").set("linger.ms", "20").create()?;
        let began = Instant::now();
        for first in (0..events).step_by(UNDER_WAY) {
            let sent = (first..events.min(first + UNDER_WAY)).map(|number| {
                let numbers = Numbers {
                    id: ids[number % ids.len()],
                    transaction: transactions[number % transactions.len()],
                    ..Numbers::of(number)
                };
                send(&producer, &template, numbers)
            });
            try_join_all(sent).await?;
        }
        Ok(events as f64 / began.elapsed().as_secs_f64())
    }

    /// Up to which offset a group is done.
    pub(crate) async fn done(&self, group: &str) -> Result<i64> {
        let client = self.client().set("group.id", group).clone();
        let asked = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = client.create()?;
            let mut partitions = TopicPartitionList::new();
            partitions.add_partition(TOPIC, 0);
            consumer.committed_offsets(partitions, ANSWER_MAX)
        });
        let offsets = asked.await??;
        let offset = offsets.elements().first().and_then(|partition| partition.offset().to_raw());
        offset.with_context(|| format!("the group {group} has committed nothing"))
    }

    /// Removes what a run makes.
    pub(crate) async fn clean(&self) -> Result<()> {
        let (topics, groups) = self.names().await?;
        let topics: Vec<&str> = topics.iter().map(String::as_str).filter(|name| is_ours(name)).collect();
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_MAX));
        if !topics.is_empty() {
            for deleted in self.admin.delete_topics(&topics, &options).await? {
                deleted.map_err(|(topic, error)| anyhow!("the topic {topic} can't be removed: {error}"))?;
            }
        }
        for group in groups.iter().filter(|name| is_ours(name)) {
            self.remove_group(group).await?;
        }
        Ok(())
    }

    /// All topics and all consumer groups.
    async fn names(&self) -> Result<(Vec<String>, Vec<String>)> {
        let client = self.client();
        let asked = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = client.create()?;
            let metadata = consumer.fetch_metadata(None, ANSWER_MAX)?;
            let groups = consumer.fetch_group_list(None, ANSWER_MAX)?;
            let topics = metadata.topics().iter().map(|topic| topic.name().to_owned()).collect();
            Ok((topics, groups.groups().iter().map(|group| group.name().to_owned()).collect()))
        });
        asked.await?.map_err(|error: KafkaError| error).context("Kafka does not answer")
    }

    async fn remove_group(&self, group: &str) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(500);
        let deadline = Instant::now() + GROUP_PATIENCE;
        loop {
            let deleted = self.admin.delete_groups(&[group], &AdminOptions::new()).await?;
            match deleted.into_iter().next().context("Kafka's answer is empty")? {
                Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound)) => return Ok(()),
                Err((_, RDKafkaErrorCode::NonEmptyGroup)) if Instant::now() < deadline => {
                    tokio::time::sleep(LOOK).await
                }
                Err((_, error)) => bail!("the consumer group {group} can't be removed: {error}"),
            }
        }
    }
}

async fn send(producer: &FutureProducer, template: &Template, numbers: Numbers) -> Result<()> {
    let (key, value) = template.event(&numbers);
    let sent = producer.send_result(FutureRecord::to(TOPIC).key(&key).payload(&value));
    let delivered = sent.map_err(|(error, _)| error)?.await?;
    let delivery = delivered.map_err(|(error, _)| error).context("an event can't be sent")?;
    ensure!(delivery.partition >= 0, "an event went nowhere");
    Ok(())
}
