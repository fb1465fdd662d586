//! The services themselves: versions, counts, and the removal of everything that a run makes.

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::postgres::{PgPool, PgPoolOptions};

use crate::kafka::Kafka;
use crate::options::Options;

/// Begins the name of everything that a run makes in RabbitMQ and Elasticsearch.
pub(crate) const NAMESPACE: &str = "bench";

/// The services of a run.
pub(crate) struct Servers {
    pub(crate) elasticsearch: Elasticsearch,
    pub(crate) rabbitmq: Rabbitmq,
    /// Where the change feed is measured.
    pub(crate) kafka: Option<Kafka>,
    /// The primary, as a role that may change rows.
    pub(crate) writer: PgPool,
    /// The replica, as the worker reads it.
    pub(crate) replica: PgPool,
}

impl Servers {
    /// Connects to the databases; the others are asked when needed.
    pub(crate) async fn connect(options: &Options) -> Result<Self> {
        let pool = |url: String| async move {
            let connected = PgPoolOptions::new().max_connections(8).connect(&url).await;
            // The address is shown without what may be a password.
            connected.with_context(|| {
                format!("PostgreSQL on {} does not answer", url.rsplit('@').next().unwrap_or_default())
            })
        };
        Ok(Self {
            elasticsearch: Elasticsearch { url: options.elasticsearch.clone(), http: reqwest::Client::new() },
            rabbitmq: Rabbitmq {
                url: options.rabbitmq.clone(),
                management: options.management.clone(),
                http: reqwest::Client::new(),
            },
            kafka: options.kafka.as_deref().filter(|_| options.feed_events > 0).map(Kafka::new).transpose()?,
            writer: pool(options.writer.clone()).await?,
            replica: pool(options.replica.clone()).await?,
        })
    }

    /// Names and versions, asked from the services.
    pub(crate) async fn versions(&self, kafka_version: Option<&str>) -> Result<String> {
        let postgres: String = sqlx::query_scalar("SHOW server_version").fetch_one(&self.replica).await?;
        let postgres = postgres.split(' ').next().unwrap_or_default();
        let elasticsearch = self.elasticsearch.version().await?;
        let rabbitmq = self.rabbitmq.version().await?;
        let kafka = kafka_version.filter(|_| self.kafka.is_some()).map(|version| format!(", Kafka {version}"));
        let kafka = kafka.unwrap_or_default();
        Ok(format!("Elasticsearch {elasticsearch}, PostgreSQL {postgres}, RabbitMQ {rabbitmq}{kafka}"))
    }

    /// Removes everything that a run makes, that of an interrupted one included.
    pub(crate) async fn clean(&self) -> Result<()> {
        if let Some(kafka) = &self.kafka {
            kafka.clean().await?;
        }
        self.rabbitmq.clean().await?;
        self.elasticsearch.clean().await
    }

    /// So many transactions of the primary that have long ended, or as many as there are: the lower 32 bits of their numbers.
    pub(crate) async fn ended_transactions(&self, count: usize) -> Result<Vec<u32>> {
        /// Those before it are not numbers of transactions.
        const FIRST: u64 = 3;
        let question = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text";
        let oldest: u64 = sqlx::query_scalar::<_, String>(question).fetch_one(&self.writer).await?.parse()?;
        let transactions: Vec<u32> =
            (FIRST.max(oldest.saturating_sub(count as u64))..oldest).map(|number| number as u32).collect();
        ensure!(!transactions.is_empty(), "the primary has had no transactions");
        Ok(transactions)
    }

    /// The ids of all orders, once the replica shows as many as the primary.
    pub(crate) async fn ids(&self) -> Result<Vec<i64>> {
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
        let question = "SELECT id FROM orders ORDER BY id";
        let ids: Vec<i64> = sqlx::query_scalar(question).fetch_all(&self.writer).await?;
        ensure!(!ids.is_empty(), "the table orders is empty: fill it with schemas/shop/database.sql");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        // The table itself may still be missing on the replica, which is an error until then.
        while sqlx::query_scalar(question).fetch_all(&self.replica).await.ok().as_ref() != Some(&ids) {
            ensure!(
                tokio::time::Instant::now() < deadline,
                "the replica does not show the primary's orders after {PATIENCE:?}"
            );
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        Ok(ids)
    }
}

/// Elasticsearch over HTTP.
pub(crate) struct Elasticsearch {
    url: String,
    http: reqwest::Client,
}

impl Elasticsearch {
    /// The node's address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    async fn version(&self) -> Result<String> {
        let answer = self.request(Method::GET, "/", None).await?;
        Ok(answer["version"]["number"].as_str().context("Elasticsearch does not tell its version")?.to_owned())
    }

    /// Creates an index from a `mapping.json`.
    pub(crate) async fn create(&self, index: &str, mapping: &Value) -> Result<()> {
        self.request(Method::PUT, &format!("/{index}"), Some(mapping)).await.map(drop)
    }

    /// How many documents an index (or alias) holds, counted after a refresh.
    pub(crate) async fn count(&self, index: &str) -> Result<u64> {
        self.request(Method::POST, &format!("/{index}/_refresh"), None).await?;
        let answer = self.request(Method::GET, &format!("/{index}/_count"), None).await?;
        answer["count"].as_u64().context("Elasticsearch's answer has no count")
    }

    /// How many orders there are of each status, as an analyst would ask.
    pub(crate) async fn orders_by_status(&self, index: &str) -> Result<()> {
        let search = json!({"size": 0, "aggs": {"statuses": {"terms": {"field": "status"}}}});
        self.request(Method::POST, &format!("/{index}/_search"), Some(&search)).await.map(drop)
    }

    /// Merges all segments of an index into one: what is measured then does not depend on what was written before, and the code that
    /// merges is warm.
    pub(crate) async fn merge(&self, index: &str) -> Result<()> {
        self.request(Method::POST, &format!("/{index}/_forcemerge?max_num_segments=1"), None).await.map(drop)
    }

    /// How many documents have been put into an index, visible to searches or not.
    pub(crate) async fn indexed(&self, index: &str) -> Result<u64> {
        let path = format!("/{index}/_stats/indexing?filter_path=_all.primaries.indexing.index_total");
        let answer = self.request(Method::GET, &path, None).await?;
        answer["_all"]["primaries"]["indexing"]["index_total"]
            .as_u64()
            .context("Elasticsearch's answer has no index_total")
    }

    /// Deletes the indexes that a pattern such as `bench-*` matches, if any.
    pub(crate) async fn delete_indexes(&self, pattern: &str) -> Result<()> {
        let path = format!("/_cat/indices/{pattern}?format=json&h=index&expand_wildcards=all");
        for name in names(&self.request(Method::GET, &path, None).await?, "index") {
            self.request(Method::DELETE, &format!("/{name}"), None).await?;
        }
        Ok(())
    }

    async fn clean(&self) -> Result<()> {
        self.delete_indexes(&format!("{NAMESPACE}-*")).await?;
        let templates = self.request(Method::GET, "/_index_template", None).await?;
        for name in names(&templates["index_templates"], "name").filter(|name| is_ours(name)) {
            self.request(Method::DELETE, &format!("/_index_template/{name}"), None).await?;
        }
        Ok(())
    }

    async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(body);
        }
        answer("Elasticsearch", &method, path, request).await
    }
}

/// RabbitMQ over AMQP and its management API.
pub(crate) struct Rabbitmq {
    url: String,
    management: String,
    http: reqwest::Client,
}

impl Rabbitmq {
    async fn version(&self) -> Result<String> {
        let answer = self.request(Method::GET, "/overview").await?;
        Ok(answer["rabbitmq_version"].as_str().context("RabbitMQ does not tell its version")?.to_owned())
    }

    /// How many messages wait in a queue; those that a consumer holds are not among them.
    pub(crate) async fn ready(&self, queue: &str) -> Result<u32> {
        let (connection, channel) = self.open().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
        connection.close(200, "done".into()).await?;
        Ok(declared.message_count())
    }

    /// Makes a durable queue of this kind, or as a client makes one that knows of none.
    pub(crate) async fn create(&self, queue: &str, kind: Option<&str>) -> Result<()> {
        let (connection, channel) = self.open().await?;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        if let Some(kind) = kind {
            arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        }
        channel.queue_declare(queue.into(), durable, arguments).await?;
        Ok(connection.close(200, "done".into()).await?)
    }

    /// Removes a queue, if it is there, with its messages.
    pub(crate) async fn delete(&self, queue: &str) -> Result<()> {
        let (connection, channel) = self.open().await?;
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        Ok(connection.close(200, "done".into()).await?)
    }

    /// Fills a queue with persistent messages that have nothing but a body.
    pub(crate) async fn fill(&self, queue: &str, bodies: impl Iterator<Item = String>) -> Result<()> {
        const UNCONFIRMED_MAX: usize = 1_000;
        let (connection, channel) = self.open().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let mut bodies = bodies.peekable();
        while bodies.peek().is_some() {
            let mut confirms = Vec::new();
            for body in bodies.by_ref().take(UNCONFIRMED_MAX) {
                let options = BasicPublishOptions::default();
                let published =
                    channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), persistent.clone());
                confirms.push(published.await?);
            }
            for confirm in confirms {
                confirm.await?;
            }
        }
        Ok(connection.close(200, "done".into()).await?)
    }

    /// Reads so many messages of a queue; with each `together` of them, all until then are acknowledged.
    pub(crate) async fn drain(&self, queue: &str, count: usize, prefetch: u16, together: usize) -> Result<()> {
        let (connection, channel) = self.open().await?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let consume =
            channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let mut consumer = consume.await?;
        for number in 1..=count {
            let delivery =
                consumer.next().await.with_context(|| format!("{queue} has fewer than {count} messages"))??;
            if number % together == 0 || number == count {
                channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: together > 1 }).await?;
            }
        }
        // What was acknowledged is done when the channel is closed.
        channel.close(200, "done".into()).await?;
        Ok(connection.close(200, "done".into()).await?)
    }

    /// Empties a queue; how many messages it had.
    pub(crate) async fn purge(&self, queue: &str) -> Result<u32> {
        let (connection, channel) = self.open().await?;
        let purged = channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await?;
        connection.close(200, "done".into()).await?;
        Ok(purged)
    }

    async fn open(&self) -> Result<(Connection, Channel)> {
        let connection = pinion_client::connect(&self.url, "pinion-bench", None).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }

    /// Removes what a run makes in it.
    pub(crate) async fn clean(&self) -> Result<()> {
        for kind in ["queues", "exchanges", "policies"] {
            let list = self.request(Method::GET, &format!("/{kind}/%2f")).await?;
            for name in names(&list, "name").filter(|name| is_ours(name)) {
                self.request(Method::DELETE, &format!("/{kind}/%2f/{name}")).await?;
            }
        }
        Ok(())
    }

    async fn request(&self, method: Method, path: &str) -> Result<Value> {
        let request = self.http.request(method.clone(), format!("{}/api{path}", self.management));
        answer("RabbitMQ's management", &method, path, request.basic_auth("guest", Some("guest"))).await
    }
}

/// Sends a request that must succeed; the answer's JSON, null where there is none.
async fn answer(service: &str, method: &Method, path: &str, request: reqwest::RequestBuilder) -> Result<Value> {
    let response = request.send().await.with_context(|| format!("{service} does not answer"))?;
    let status = response.status();
    let text = response.text().await.with_context(|| format!("{service} does not answer in full"))?;
    ensure!(status.is_success(), "{service}: {method} {path}: {status} {text}");
    Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
}

pub(crate) fn is_ours(name: &str) -> bool {
    name.strip_prefix(NAMESPACE).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
}

fn names<'a>(list: &'a Value, key: &'a str) -> impl Iterator<Item = &'a str> {
    list.as_array().into_iter().flatten().filter_map(move |entry| entry[key].as_str())
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn only_names_of_the_namespace_are_removed() {
        assert!(["bench", "bench.orders", "bench-raw"].into_iter().all(is_ours));
        assert!(!["", "benches", "benchmark.orders", "pinion.bench", "amq.direct"].into_iter().any(is_ours));
    }
}
