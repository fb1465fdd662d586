use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::eventually;
use crate::mysql::MysqlShop;
use crate::namespace::Namespace;
use crate::private::PrivateKafka;
use crate::script::{log, run_async, script, top};
use crate::setup::Setup;
use crate::stack::{port, stack};

const TIMEOUT: Duration = Duration::from_secs(60);

/// A change feed of a namespace's database: a connector of Debezium's in the shared Kafka Connect. Its topics begin with the
/// namespace's name.
pub struct Feed {
    name: String,
    connect: String,
    log: PathBuf,
    broker: String,
    registry: String,
    /// What its topics' names have between the prefix and the table: PostgreSQL's schema, MariaDB's database.
    schema: String,
    database: Database,
}

/// Whether a connector and its task run, by their status.
fn runs(status: &Value) -> bool {
    [&status["connector"]["state"], &status["tasks"][0]["state"]] == ["RUNNING", "RUNNING"]
}

/// Where the connector reads the log.
enum Database {
    /// With a superuser's address.
    Postgres(String),
    Mysql,
}

impl Feed {
    /// Starts Kafka and Connect where they don't run, and the connector; returns when it follows the database's log. What was
    /// changed before is not in the feed.
    pub async fn start(namespace: &Namespace) -> Result<Self> {
        Self::start_with(namespace, json!({})).await
    }

    /// The same, with more settings of the connector.
    pub async fn start_with(namespace: &Namespace, more: Value) -> Result<Self> {
        Self::start_on(namespace, None, more).await
    }

    /// The same with servers of the test's own, where it has some.
    pub async fn start_on(namespace: &Namespace, kafka: Option<&PrivateKafka>, more: Value) -> Result<Self> {
        let feed = Self::new(namespace, "public", Database::Postgres(namespace.superuser_url()), kafka).await?;
        let settings = [
            ("database.port", namespace.primary_port().to_string()),
            ("database.user", "postgres".to_owned()),
            ("database.dbname", feed.name.clone()),
            ("slot.name", feed.name.clone()),
            ("publication.name", feed.name.clone()),
            ("publication.autocreate.mode", "all_tables".to_owned()),
        ];
        feed.connect("postgres.json", &settings, &more).await?;
        feed.follows(async || {
            let follows = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND active";
            let count: i64 = sqlx::query_scalar(follows).bind(&feed.name).fetch_one(namespace.superuser()).await?;
            Ok(count == 1)
        })
        .await?;
        Ok(feed)
    }

    /// The same for a shop on MariaDB or MySQL.
    pub async fn start_mysql(namespace: &Namespace, shop: &MysqlShop) -> Result<Self> {
        Self::start_mysql_on(namespace, shop, None, json!({})).await
    }

    /// The same with servers of the test's own, where it has some, and with more settings of the connector.
    pub async fn start_mysql_on(
        namespace: &Namespace,
        shop: &MysqlShop,
        kafka: Option<&PrivateKafka>,
        more: Value,
    ) -> Result<Self> {
        /// Two connectors with one id would end each other.
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        let feed = Self::new(namespace, namespace.name(), Database::Mysql, kafka).await?;
        let server = 6000 + std::process::id() % 100_000 * 100 + SERVERS.fetch_add(1, Ordering::Relaxed) % 100;
        // A user of its own: the server's list of threads then tells when it follows.
        shop.execute(&format!(
            "CREATE USER {0}@'127.0.0.1'; GRANT SELECT, RELOAD, SHOW DATABASES, REPLICATION SLAVE, REPLICATION CLIENT, LOCK TABLES \
             ON *.* TO {0}@'127.0.0.1'; GRANT INSERT, DELETE ON {0}.* TO {0}@'127.0.0.1'",
            feed.name
        ))
        .await?;
        let settings = [
            ("database.port", shop.primary_port().to_string()),
            ("database.user", feed.name.clone()),
            ("database.password", String::new()),
            ("database.server.id", server.to_string()),
            ("database.include.list", feed.name.clone()),
            ("signal.data.collection", format!("{}.debezium_signal", feed.name)),
            ("schema.history.internal.kafka.bootstrap.servers", feed.broker.clone()),
            ("schema.history.internal.kafka.topic", format!("schema-history.{}", feed.name)),
        ];
        feed.connect(&format!("{}.json", shop.kind()), &settings, &more).await?;
        feed.follows(async || {
            let threads = format!(
                "SELECT CAST(COUNT(*) AS CHAR) FROM information_schema.PROCESSLIST WHERE USER = '{}' AND COMMAND LIKE 'Binlog Dump%'",
                feed.name
            );
            Ok(shop.texts(&threads).await? == ["1"])
        })
        .await?;
        Ok(feed)
    }

    async fn new(
        namespace: &Namespace,
        schema: &str,
        database: Database,
        kafka: Option<&PrivateKafka>,
    ) -> Result<Self> {
        let (connect, log, broker) = match kafka {
            Some(kafka) => (kafka.connect_url(), kafka.connect().log(), kafka.bootstrap()),
            None => {
                stack().await?;
                let mut servers = script("all.sh", &[]);
                servers.args(["start", "kafka", "connect", "registry"]);
                run_async(servers).await?;
                let url = |port| format!("127.0.0.1:{port}");
                let connect = format!("http://{}", url(port("CONNECT_PORT", 18083)?));
                (connect, log("connect"), url(port("BROKER_PORT", 19092)?))
            }
        };
        Ok(Self {
            name: namespace.name().to_owned(),
            connect,
            log,
            broker,
            registry: format!("http://127.0.0.1:{}", port("REGISTRY_PORT", 18081)?),
            schema: schema.to_owned(),
            database,
        })
    }

    /// Makes the connector as the kit has it, with some settings of its own; returns when it runs.
    async fn connect(&self, kit: &str, settings: &[(&str, String)], more: &Value) -> Result<()> {
        let mut config = Self::kit(kit)?;
        config["topic.prefix"] = json!(self.name);
        for (key, value) in settings {
            config[*key] = json!(value);
        }
        for (key, value) in more.as_object().into_iter().flatten() {
            let is_registry = key.ends_with("registry.url");
            config[key] =
                if is_registry { json!(format!("{}/apis/registry/v2", self.registry)) } else { value.clone() };
        }
        self.request(reqwest::Method::PUT, &format!("{}/config", self.name), Some(config)).await?;
        eventually("the connector to run", TIMEOUT, async || {
            let status = self.status().await?;
            ensure!(runs(&status), "{status}");
            Ok(Some(()))
        })
        .await
    }

    /// Waits until the connector reads the database's log. One that runs may fail yet: it looks at the server's other databases too,
    /// which other tests drop meanwhile. And one was seen that ran for a minute and did not follow: it is started again.
    async fn follows(&self, is_followed: impl AsyncFn() -> Result<bool>) -> Result<()> {
        let began = Instant::now();
        let mut is_first = true;
        let followed = eventually("the connector to follow", 2 * TIMEOUT, async || {
            if is_followed().await? {
                return Ok(Some(()));
            }
            let status = self.mended().await?;
            if is_first && began.elapsed() > TIMEOUT {
                is_first = false;
                eprintln!("the connector {} is started again; Connect told of it:\n{}", self.name, self.told());
                self.restart().await?;
            }
            bail!("{status}")
        });
        followed.await.with_context(|| format!("Connect told of it:\n{}", self.told()))
    }

    /// Starts what has failed of the connector again, as an operator would.
    pub async fn mend(&self) -> Result<()> {
        eventually("the connector to run", TIMEOUT, async || {
            let status = self.mended().await?;
            ensure!(runs(&status), "{status}");
            Ok(Some(()))
        })
        .await
    }

    /// The connector's status, before what has failed of it was started again.
    async fn mended(&self) -> Result<Value> {
        let status = self.status().await?;
        if !runs(&status) {
            let path = format!("{}/restart?includeTasks=true&onlyFailed=true", self.name);
            self.request(reqwest::Method::POST, &path, None).await?;
        }
        Ok(status)
    }

    async fn status(&self) -> Result<Value> {
        self.request(reqwest::Method::GET, &format!("{}/status", self.name), None).await
    }

    /// The last lines of Connect's log, without the configurations that it prints.
    fn told(&self) -> String {
        const LINES: usize = 60;
        let log = std::fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string());
        let mut lines: Vec<&str> = log.lines().rev().filter(|line| !line.starts_with('\t')).take(LINES).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// The setup with this feed configured.
    pub fn configure(&self, setup: Setup) -> Setup {
        Setup {
            source_more: format!("topic_prefix = {:?}\n", self.name),
            extra: format!(
                "[kafka]\nbrokers = [{:?}]\ngroup = {:?}\ntopics = [{:?}]\n",
                self.broker,
                self.name,
                format!("{}.{}.*", self.name, self.schema)
            ),
            ..setup
        }
    }

    /// A file of settings of the connector's kit.
    pub fn kit(file: &str) -> Result<Value> {
        let text = std::fs::read_to_string(top().join("deploy/debezium").join(file)).context(file.to_owned())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The schema registry's API, for `[kafka] registry`.
    pub fn registry(&self) -> String {
        format!("{}/apis/ccompat/v7", self.registry)
    }

    /// Stops the connector where it is: neither events nor heartbeats come.
    pub async fn stop(&self) -> Result<()> {
        self.request(reqwest::Method::PUT, &format!("{}/stop", self.name), None).await.map(drop)
    }

    /// Lets the connector go on after [`stop`](Self::stop).
    pub async fn resume(&self) -> Result<()> {
        self.request(reqwest::Method::PUT, &format!("{}/resume", self.name), None).await.map(drop)
    }

    /// Restarts the connector's task: what it told since its position was saved last, it tells again.
    pub async fn restart(&self) -> Result<()> {
        let path = format!("{}/restart?includeTasks=true", self.name);
        self.request(reqwest::Method::POST, &path, None).await.map(|_| ())
    }

    /// The broker's address.
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// The topic of a table.
    pub fn topic(&self, table: &str) -> String {
        format!("{}.{}.{table}", self.name, self.schema)
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
        let Database::Postgres(superuser) = &self.database else { return Ok(()) };
        let mut database = sqlx::PgConnection::connect(superuser).await?;
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
