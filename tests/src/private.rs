use std::time::Duration;

use anyhow::{Context, Result};

use crate::elastic::Elastic;
use crate::eventually;
use crate::naming::unique_name;
use crate::proxy::Proxy;
use crate::rabbit::Rabbit;
use crate::script::{free_port, freeze, lab, log, run, run_async, script, signal};
use crate::stack::stack;
use crate::tls::Signed;

/// An Elasticsearch node of the test's own, of the same version as the shared one. Removed at the end.
pub struct PrivateElasticsearch {
    service: PrivateService,
    elastic: Elastic,
}

impl PrivateElasticsearch {
    /// Starts a node, with more lines for its `elasticsearch.yml`: `""` for none.
    pub async fn start(extra_yml: &str) -> Result<Self> {
        let version = Elastic::new(&stack().await?.elasticsearch).version().await?;
        let port = free_port(&[100])?;
        let environment = vec![
            ("ELASTICSEARCH_VERSION", version),
            ("ELASTICSEARCH_PORT", port.to_string()),
            ("ELASTICSEARCH_HEAP", "512m".to_owned()),
            // Half the CPU of a start, for a node that lives for seconds.
            ("ELASTICSEARCH_JAVA", "-XX:TieredStopAtLevel=1".to_owned()),
            ("EXTRA", extra_yml.to_owned()),
        ];
        let service = PrivateService::new(ELASTICSEARCH, environment);
        service.start().await?;
        Ok(Self { service, elastic: Elastic::new(&format!("http://127.0.0.1:{port}")) })
    }

    /// A client of this node.
    pub fn elastic(&self) -> &Elastic {
        &self.elastic
    }

    /// The node's process: stop and start, kill, pause and resume.
    pub fn service(&self) -> &PrivateService {
        &self.service
    }
}

/// A RabbitMQ node of the test's own. Removed at the end.
pub struct PrivateRabbit {
    service: PrivateService,
    rabbit: Rabbit,
    tls_port: u16,
}

impl PrivateRabbit {
    /// Starts a node.
    pub async fn start() -> Result<Self> {
        Self::start_with(None).await
    }

    /// Starts a node that speaks TLS, too, on [`tls_port`](Self::tls_port).
    pub async fn start_tls(signed: &Signed) -> Result<Self> {
        Self::start_with(Some(signed)).await
    }

    async fn start_with(signed: Option<&Signed>) -> Result<Self> {
        stack().await?;
        let port = free_port(&[1, 2, 3, 4, 5])?;
        let mut service = PrivateService::new(RABBITMQ, vec![("RABBITMQ_PORT", port.to_string())]);
        let tls_port = port + 5;
        if let Some(signed) = signed {
            let folder = service.folder();
            signed.write(&folder)?;
            let files = format!(
                "ssl_options.certfile = {0}/server.crt\nssl_options.keyfile = {0}/server.key",
                folder.display()
            );
            service.set("RABBITMQ_LINES", format!("listeners.ssl.1 = 127.0.0.1:{tls_port}\n{files}"));
        }
        service.start().await?;
        let amqp = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
        Ok(Self { service, rabbit: Rabbit::new(&amqp, &format!("http://127.0.0.1:{}", port + 1)), tls_port })
    }

    /// Where it speaks TLS, if it was started so.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// A client of this node.
    pub fn rabbit(&self) -> &Rabbit {
        &self.rabbit
    }

    /// The node's process: stop and start, kill, pause and resume. Before a kill see [`queues_on_disk`](Self::queues_on_disk).
    pub fn service(&self) -> &PrivateService {
        &self.service
    }

    /// Runs `rabbitmqctl` with these arguments.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<()> {
        let mut script = self.service.script("ctl");
        script.args(arguments);
        run_async(script).await
    }

    /// Closes the channels that are opened from now on when they hold a message for longer than this.
    pub async fn set_consumer_timeout(&self, timeout: Duration) -> Result<()> {
        // A channel looks at its messages once a minute, unless told otherwise.
        let set = format!(
            "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, 1000).",
            timeout.as_millis()
        );
        self.ctl(&["eval", &set]).await
    }

    /// Waits until the broker has written down which quorum queues there are. RabbitMQ 3.10 does so within a second after a
    /// queue is declared; killed before, it forgets the queue's messages, even confirmed ones.
    pub async fn queues_on_disk(&self) -> Result<()> {
        let node = format!("{}@localhost", self.service.node);
        let folder = lab().join("data").join(&self.service.node).join("mnesia").join(&node).join("quorum").join(&node);
        eventually("the quorum queues to be on disk", QUEUES_TIMEOUT, async || {
            let tables = [std::fs::read(folder.join("names.dets"))?, std::fs::read(folder.join("meta.dets"))?];
            // A queue's folder is called by the key under which both tables must know it.
            let queues = std::fs::read_dir(&folder)?.flatten().filter(|entry| entry.path().is_dir());
            let known = |key: &[u8]| tables.iter().all(|table| table.windows(key.len()).any(|bytes| bytes == key));
            let all_known = queues.map(|entry| entry.file_name()).all(|key| known(key.as_encoded_bytes()));
            Ok(all_known.then_some(()))
        })
        .await
    }
}

/// A Kafka broker and a Kafka Connect of the test's own. Both are removed at the end.
pub struct PrivateKafka {
    // Connect goes first: without its broker it would not end.
    connect: PrivateService,
    broker: PrivateService,
    broker_port: u16,
    connect_port: u16,
    proxy: Proxy,
}

impl PrivateKafka {
    /// Starts the broker, then Connect.
    pub async fn start() -> Result<Self> {
        let (broker_port, connect_port) = (free_port(&[1, 2])?, free_port(&[])?);
        // Who asks for the brokers through the proxy is led back to it.
        let proxy = Proxy::before(broker_port + 2).await?;
        let ports = [
            ("BROKER_PORT", broker_port),
            ("CONTROLLER_PORT", broker_port + 1),
            ("PROXIED_PORT", broker_port + 2),
            ("PROXY_PORT", proxy.port()),
            ("CONNECT_PORT", connect_port),
        ];
        let heaps = [("BROKER_HEAP", "-Xms64m -Xmx256m"), ("CONNECT_HEAP", "-Xms64m -Xmx256m")];
        let ports = ports.map(|(name, port)| (name, port.to_string()));
        let environment: Vec<_> = ports.into_iter().chain(heaps.map(|(name, heap)| (name, heap.to_owned()))).collect();
        let kafka = Self {
            connect: PrivateService::new(CONNECT, environment.clone()),
            broker: PrivateService::new(KAFKA, environment),
            broker_port,
            connect_port,
            proxy,
        };
        kafka.broker.start().await?;
        kafka.connect.start().await?;
        Ok(kafka)
    }

    /// The broker's address.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.broker_port)
    }

    /// The wire of those that ask for the broker at its proxy's address.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Connect's address.
    pub fn connect_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.connect_port)
    }

    /// The broker's process.
    pub fn broker(&self) -> &PrivateService {
        &self.broker
    }

    /// Connect's process.
    pub fn connect(&self) -> &PrivateService {
        &self.connect
    }
}

const QUEUES_TIMEOUT: Duration = Duration::from_secs(10);
const ELASTICSEARCH: &str = "elasticsearch";
const RABBITMQ: &str = "rabbitmq";
pub(crate) const MARIADB: &str = "mariadb";
const KAFKA: &str = "kafka";
const CONNECT: &str = "connect";

/// The process of a private server. It is killed, and its files are removed, when this is dropped.
pub struct PrivateService {
    kind: &'static str,
    node: String,
    environment: Vec<(&'static str, String)>,
}

impl PrivateService {
    pub(crate) fn new(kind: &'static str, mut environment: Vec<(&'static str, String)>) -> Self {
        let node = format!("{}-{kind}", unique_name());
        environment.push(("NODE", node.clone()));
        Self { kind, node, environment }
    }

    /// The server that a killed test run left behind, to be dropped; `None` when the node's name says no kind of server.
    pub(crate) fn leftover(node: String) -> Option<Self> {
        let kinds = [ELASTICSEARCH, RABBITMQ, MARIADB, KAFKA, CONNECT];
        let kind = kinds.into_iter().find(|kind| node.ends_with(kind))?;
        Some(Self { kind, environment: vec![("NODE", node.clone())], node })
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> std::path::PathBuf {
        lab().join("data").join(&self.node)
    }

    /// Where its log is.
    pub(crate) fn log(&self) -> std::path::PathBuf {
        log(&self.node)
    }

    /// Tells its script more.
    pub(crate) fn set(&mut self, variable: &'static str, value: String) {
        self.environment.push((variable, value));
    }

    /// Starts the server, on the same port as before, with what it had stored; returns once it answers.
    pub async fn start(&self) -> Result<()> {
        run_async(self.script("start")).await
    }

    /// Stops the server in an orderly way.
    pub async fn stop(&self) -> Result<()> {
        run_async(self.script("stop")).await
    }

    /// Kills the server on the spot.
    pub fn kill(&self) -> Result<()> {
        signal(self.pid()?, "KILL")
    }

    /// Freezes the server: it keeps its connections and answers nothing.
    pub async fn pause(&self) -> Result<()> {
        freeze(self.pid()?).await
    }

    /// Goes on after [`pause`](Self::pause).
    pub fn resume(&self) -> Result<()> {
        signal(self.pid()?, "CONT")
    }

    fn pid(&self) -> Result<u32> {
        let file = lab().join("run").join(format!("{}.pid", self.node));
        let text = std::fs::read_to_string(&file).with_context(|| format!("{} does not run", self.node))?;
        Ok(text.split_whitespace().next().context("an empty pid file")?.parse()?)
    }

    fn script(&self, command: &str) -> std::process::Command {
        let mut script = script(&format!("{}.sh", self.kind), &self.environment);
        script.arg(command);
        script
    }
}

impl Drop for PrivateService {
    fn drop(&mut self) {
        // A frozen process would not answer to a polite request.
        if self.pid().is_ok_and(|pid| signal(pid, "KILL").is_err()) {
            eprintln!("{}: was not running any more", self.node);
        }
        if let Err(error) = run(&mut self.script("wipe")) {
            eprintln!("{}: can't be removed: {error:#}", self.node);
        }
    }
}
