use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::eventually;
use crate::namespace::Namespace;
use crate::script::{run_async, script, top};
use crate::setup::Setup;
use crate::stack::{port, stack};

const TIMEOUT: Duration = Duration::from_secs(60);

/// A change feed of a namespace's database: a connector of Debezium's in the shared Kafka Connect. Its topics begin with the
/// namespace's name.
pub struct Feed {
    name: String,
    connect: String,
    broker: String,
    superuser: String,
}

impl Feed {
    /// Starts Kafka and Connect where they don't run, and the connector; returns when it follows the database's log. What was
    /// changed before is not in the feed.
    pub async fn start(namespace: &Namespace) -> Result<Self> {
        stack().await?;
        let mut servers = script("all.sh", &[]);
        servers.args(["start", "kafka", "connect"]);
        run_async(servers).await?;
        let feed = Self {
            name: namespace.name().to_owned(),
            connect: format!("http://127.0.0.1:{}", port("CONNECT_PORT", 18083)?),
            broker: format!("127.0.0.1:{}", port("BROKER_PORT", 19092)?),
            superuser: namespace.superuser_url(),
        };
        let kit = std::fs::read_to_string(top().join("deploy/debezium/postgres.json"))?;
        let mut config: Value = serde_json::from_str(&kit)?;
        for (key, value) in [
            ("database.port", port("PG_PORT", 15432)?.to_string().as_str()),
            ("database.user", "postgres"),
            ("database.dbname", &feed.name),
            ("topic.prefix", &feed.name),
            ("slot.name", &feed.name),
            ("publication.name", &feed.name),
            ("publication.autocreate.mode", "all_tables"),
        ] {
            config[key] = json!(value);
        }
        let path = format!("{}/config", feed.name);
        feed.request(reqwest::Method::PUT, &path, Some(config)).await?;
        eventually("the connector to run", TIMEOUT, async || {
            let status = feed.request(reqwest::Method::GET, &format!("{}/status", feed.name), None).await?;
            let states = [&status["connector"]["state"], &status["tasks"][0]["state"]];
            ensure!(states == ["RUNNING", "RUNNING"], "{status}");
            let follows = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND active";
            let count: i64 = sqlx::query_scalar(follows).bind(&feed.name).fetch_one(namespace.superuser()).await?;
            Ok((count == 1).then_some(()))
        })
        .await?;
        Ok(feed)
    }

    /// The setup with this feed configured.
    pub fn configure(&self, setup: Setup) -> Setup {
        Setup {
            source_more: format!("topic_prefix = {:?}\n", self.name),
            extra: format!(
                "[kafka]\nbrokers = [{:?}]\ngroup = {:?}\ntopics = [{:?}]\n",
                self.broker,
                self.name,
                format!("{}.public.*", self.name)
            ),
            ..setup
        }
    }

    /// The broker's address.
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// The topic of a table.
    pub fn topic(&self, table: &str) -> String {
        format!("{}.public.{table}", self.name)
    }

    async fn request(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Result<Value> {
        let mut request = reqwest::Client::new().request(method, format!("{}/connectors/{path}", self.connect));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.context("Kafka Connect")?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "Kafka Connect: {status} {text}");
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Ends the connector and removes its slot, without which the namespace's database can't be dropped.
    async fn remove(&self) -> Result<()> {
        use sqlx::Connection as _;
        self.request(reqwest::Method::DELETE, &self.name, None).await?;
        let mut database = sqlx::PgConnection::connect(&self.superuser).await?;
        eventually("the slot to be dropped", TIMEOUT, async || {
            let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active";
            sqlx::query(drop).bind(&self.name).execute(&mut database).await?;
            let left = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1";
            let left: i64 = sqlx::query_scalar(left).bind(&self.name).fetch_one(&mut database).await?;
            Ok((left == 0).then_some(()))
        })
        .await
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // A runtime of its own: this one may be ending.
        let removed = std::thread::scope(|scope| {
            let remove = scope
                .spawn(|| tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(self.remove()));
            remove.join()
        });
        if !matches!(removed, Ok(Ok(()))) {
            eprintln!("the feed {} can't be removed: {removed:?}", self.name);
        }
    }
}
