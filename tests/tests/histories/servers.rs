//! The servers of the histories, and the wires to them.

use std::time::Duration;

use anyhow::{Context, Result};
use pinion_tests::{
    Feed, PrivateElasticsearch, PrivateKafka, PrivateMariadb, PrivateRabbit, Proxy, Setup, Stack, Wire, stack,
};
use tokio::sync::OnceCell;

use super::plan::{Mode, Server};
use super::shop::{Database, Shop};

/// Servers that histories break one after the other. Those that not every history needs start with the first one that does.
pub(super) struct Servers {
    pub(super) rabbit: PrivateRabbit,
    pub(super) elasticsearch: PrivateElasticsearch,
    kafka: OnceCell<PrivateKafka>,
    mariadb: OnceCell<PrivateMariadb>,
}

impl Servers {
    pub(super) async fn start() -> Result<Self> {
        let (rabbit, elasticsearch) =
            tokio::try_join!(PrivateRabbit::start(), PrivateElasticsearch::start("thread_pool.write.queue_size: 10"),)?;
        Ok(Self { rabbit, elasticsearch, kafka: OnceCell::new(), mariadb: OnceCell::new() })
    }

    async fn stack(&self) -> Result<Stack> {
        Ok(stack().await?.with(&self.rabbit, &self.elasticsearch))
    }

    pub(super) async fn shop(&self, database: Database) -> Result<Shop> {
        let stack = self.stack().await?;
        match database {
            Database::Postgres => Shop::postgres(&stack).await,
            Database::Mariadb => {
                Shop::mariadb(&stack, self.mariadb.get_or_try_init(PrivateMariadb::start).await?).await
            }
        }
    }

    /// Ends what a history that ended early had begun.
    pub(super) async fn mend(&self) -> Result<()> {
        self.elasticsearch.service().resume().ok();
        self.elasticsearch.service().start().await?;
        self.rabbit.service().start().await?;
        if let Some(kafka) = self.kafka.get() {
            kafka.broker().start().await?;
            kafka.connect().start().await?;
            kafka.proxy().set(Wire::Sound);
        }
        if let Some(mariadb) = self.mariadb.get() {
            mariadb.apply_again().await?;
        }
        Ok(())
    }

    /// MariaDB, if a history needed it.
    pub(super) fn mariadb(&self) -> Option<&PrivateMariadb> {
        self.mariadb.get()
    }

    /// Kafka and Connect, where there is a feed.
    pub(super) async fn kafka(&self, mode: Mode) -> Result<Option<&PrivateKafka>> {
        if mode.has_feed() { Ok(Some(self.kafka.get_or_try_init(PrivateKafka::start).await?)) } else { Ok(None) }
    }
}

/// The wires between the workers and the servers.
pub(super) struct Wires<'a> {
    rabbitmq: Proxy,
    elasticsearch: Proxy,
    /// The primary's, then the replicas'.
    databases: Vec<Proxy>,
    kafka: Option<&'a Proxy>,
    latency: Duration,
}

impl<'a> Wires<'a> {
    /// Lays wires to the servers of a setup.
    /// Those to the database take `latency` each way.
    pub(super) async fn lay(
        shop: &Shop,
        setup: &mut Setup,
        feed: Option<(&Feed, &'a PrivateKafka)>,
        latency: Duration,
    ) -> Result<Self> {
        let rabbitmq = Proxy::before(port(&setup.rabbitmq)?).await?;
        let elasticsearch = Proxy::before(port(&setup.elasticsearch[0])?).await?;
        let mut databases = Vec::new();
        for port in shop.ports() {
            let proxy = Proxy::before(port).await?;
            proxy.set(Wire::Far(latency));
            databases.push(proxy);
        }
        setup.rabbitmq = rabbitmq.url(&setup.rabbitmq)?;
        setup.elasticsearch = vec![elasticsearch.url(&setup.elasticsearch[0])?];
        setup.primary = databases[0].url(&setup.primary)?;
        for (replica, proxy) in setup.replicas.iter_mut().zip(&databases[1..]) {
            *replica = proxy.url(replica)?;
        }
        if let Some((feed, kafka)) = feed {
            let proxied = format!("127.0.0.1:{}", kafka.proxy().port());
            setup.extra = setup.extra.replace(feed.broker(), &proxied);
        }
        Ok(Self { rabbitmq, elasticsearch, databases, kafka: feed.map(|(_, kafka)| kafka.proxy()), latency })
    }

    /// What a wire does while nothing is wrong with it.
    pub(super) fn usual(&self, server: Server) -> Wire {
        match server {
            Server::Primary | Server::Replica(_) => Wire::Far(self.latency),
            Server::Rabbitmq | Server::Elasticsearch | Server::Kafka => Wire::Sound,
        }
    }

    pub(super) fn to(&self, server: Server) -> Result<&Proxy> {
        match server {
            Server::Rabbitmq => Ok(&self.rabbitmq),
            Server::Elasticsearch => Ok(&self.elasticsearch),
            Server::Primary => Ok(&self.databases[0]),
            Server::Replica(number) => self.databases.get(1 + number).context("there are fewer replicas"),
            Server::Kafka => self.kafka.context("there is no feed"),
        }
    }
}

fn port(url: &str) -> Result<u16> {
    reqwest::Url::parse(url)?.port().with_context(|| format!("{url} has no port"))
}
