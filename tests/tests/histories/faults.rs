//! What goes wrong meanwhile.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pinion_client::Publisher;
use pinion_tests::{Elastic, Pinion, PrivateKafka, Wire, Worker, eventually};
use reqwest::Method;
use serde_json::json;
use tokio::sync::RwLock;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::application::publish;
use super::plan::{Fault, Lane, Plan, Planned, Server};
use super::readers::Readers;
use super::record::{Kind, Record};
use super::servers::{Servers, Wires};
use super::shop::Shop;
use crate::shop::dead_letters;

const WORKERS_MAX: usize = 4;
/// For what an operator does: other faults may stand in the way.
const OPERATOR_TIMEOUT: Duration = Duration::from_secs(300);
/// Who fills the write queue.
const FLOODERS: usize = 40;
/// So long the next fault of a lane waits after the one before is over: a server that is never there shows nothing.
const REST: Duration = Duration::from_secs(1);
/// The same of RabbitMQ, which elects its queues' leaders after a start.
const BROKER_REST: Duration = Duration::from_secs(6);

/// The workers, of which some come and go.
pub(super) struct Workers<'a> {
    pinion: &'a Pinion,
    record: &'a Record,
    /// The oldest first.
    running: Vec<Worker>,
    ending: JoinSet<Result<i32>>,
}

impl<'a> Workers<'a> {
    pub(super) async fn start(pinion: &'a Pinion, record: &'a Record) -> Result<Self> {
        let mut workers = Self { pinion, record, running: Vec::new(), ending: JoinSet::new() };
        workers.at_least(2).await?;
        Ok(workers)
    }

    pub(super) fn running(&self) -> &[Worker] {
        &self.running
    }

    pub(super) async fn at_least(&mut self, count: usize) -> Result<()> {
        while self.running.len() < count {
            self.running.push(self.pinion.work(&[]).await?);
        }
        Ok(())
    }

    /// One that is not there, or would be one too many, makes it another fault.
    async fn suffer(&mut self, fault: Fault) -> Result<()> {
        let one = match fault {
            Fault::WorkerKilled(one) | Fault::WorkerEnded(one) if self.running.len() > 1 => one,
            _ if self.running.len() < WORKERS_MAX => return self.at_least(self.running.len() + 1).await,
            _ => 0,
        };
        let worker = self.running.remove(one % self.running.len());
        if fault == Fault::WorkerEnded(one) {
            self.ending.spawn(worker.terminate());
            Ok(())
        } else {
            worker.kill().await
        }
    }

    /// Ends all of them, in good order as far as the faults let them.
    pub(super) async fn end(mut self) -> Result<()> {
        while let Some(code) = self.ending.join_next().await {
            self.record.note([], format!("a worker that was asked to end did so with {}", code??));
        }
        for worker in self.running {
            self.ending.spawn(worker.terminate());
        }
        while let Some(code) = self.ending.join_next().await {
            ensure!(code?? == 0, "a worker did not end in good order");
        }
        Ok(())
    }
}

/// Carries out the schedule.
pub(super) struct Faults<'a> {
    pub(super) plan: &'a Plan,
    pub(super) record: &'a Record,
    pub(super) servers: &'a Servers,
    pub(super) kafka: Option<&'a PrivateKafka>,
    pub(super) shop: &'a Shop,
    pub(super) wires: &'a Wires<'a>,
    pub(super) pinion: &'a Pinion,
    pub(super) readers: &'a Readers<'a>,
    /// Closed while the primary is killed or replaced.
    pub(super) gate: &'a RwLock<()>,
    pub(super) hooks: Option<&'a Publisher>,
    /// An application that was not told of the failover.
    pub(super) zombie: Mutex<Option<JoinHandle<()>>>,
    /// Who deletes an index does not while it is rebuilt.
    pub(super) indexes: tokio::sync::Mutex<()>,
}

impl Faults<'_> {
    /// All of it, each lane by itself.
    pub(super) async fn run(&self, workers: &mut Workers<'_>) -> Result<()> {
        let began = Instant::now();
        let of = |lane: Lane| self.plan.schedule.iter().filter(move |planned| planned.lane == lane);
        let workers = async {
            for planned in of(Lane::Workers) {
                self.begin(began, planned).await;
                workers.suffer(planned.fault).await?;
            }
            Ok(())
        };
        let lane = |lane: Lane| async move {
            let rest = if lane == Lane::Broker { BROKER_REST } else { REST };
            for planned in of(lane) {
                self.begin(began, planned).await;
                let done = self.carry_out(planned.fault).await;
                done.with_context(|| format!("{:?}", planned.fault))?;
                self.record.note([], format!("{:?} is over", planned.fault));
                sleep(rest).await;
                // On a slow machine some are left over.
                if began.elapsed() > self.plan.duration {
                    break;
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        tokio::try_join!(
            workers,
            lane(Lane::Broker),
            lane(Lane::Index),
            lane(Lane::Database),
            lane(Lane::Network),
            lane(Lane::Feed),
            lane(Lane::Operator),
            lane(Lane::Rebuild)
        )?;
        Ok(())
    }

    async fn begin(&self, began: Instant, planned: &Planned) {
        sleep_until(began + planned.at).await;
        self.record.count(planned.fault.name());
        self.record.note([], format!("{:?}", planned.fault));
    }

    async fn carry_out(&self, fault: Fault) -> Result<()> {
        let rabbit = self.servers.rabbit.service();
        let elasticsearch = self.servers.elasticsearch.service();
        match fault {
            Fault::WorkerKilled(_) | Fault::WorkerEnded(_) | Fault::WorkerAdded => Ok(()),
            Fault::RabbitmqStopped => {
                rabbit.stop().await?;
                rabbit.start().await
            }
            Fault::RabbitmqKilled => {
                self.servers.rabbit.queues_on_disk().await?;
                rabbit.kill()?;
                rabbit.start().await
            }
            Fault::ElasticsearchStopped => {
                elasticsearch.stop().await?;
                elasticsearch.start().await
            }
            Fault::ElasticsearchFrozen(time) => {
                elasticsearch.pause().await?;
                sleep(time).await;
                elasticsearch.resume()
            }
            Fault::WriteQueueFilled(time) => self.fill_the_write_queue(time).await,
            Fault::ReplicaPaused(..)
            | Fault::ReplicaRestarted(_)
            | Fault::ReplicaKilled(_)
            | Fault::ReplicationFrozen(_)
            | Fault::Promoted
            | Fault::PrimaryKilled => self.break_the_database(fault).await,
            Fault::Cut(server) => {
                self.wires.to(server)?.cut();
                Ok(())
            }
            Fault::Slow(server, pause, time) => self.disturb(server, Wire::Slow(pause), time).await,
            Fault::Torn(server, bytes, time) => self.disturb(server, Wire::Torn(bytes), time).await,
            Fault::Away(server, time) => self.disturb(server, Wire::Away, time).await,
            Fault::ConnectKilled => {
                let connect = self.kafka.context("Kafka")?.connect();
                connect.kill()?;
                connect.start().await
            }
            Fault::KafkaRestarted => {
                let broker = self.kafka.context("Kafka")?.broker();
                broker.stop().await?;
                broker.start().await
            }
            Fault::FeedRewound => self.insist(&["offsets", "--rewind-to", "10s", "--yes"]).await,
            Fault::DeadLettersReplayed => self.replay().await,
            Fault::IndexDropped(job, pause) => self.drop_index(job, pause).await,
            Fault::IndexRebuilt(job, time, back) => self.rebuild_index(job, time, back).await,
        }
    }

    async fn disturb(&self, server: Server, wire: Wire, time: Duration) -> Result<()> {
        let proxy = self.wires.to(server)?;
        proxy.set(wire);
        sleep(time).await;
        proxy.set(self.wires.usual(server));
        Ok(())
    }

    /// What an operator would try again until it works.
    pub(super) async fn insist(&self, arguments: &[&str]) -> Result<()> {
        self.insist_until(arguments, None).await
    }

    /// The same, where an earlier try may have worked, and its answer was lost: then this is said.
    async fn insist_until(&self, arguments: &[&str], said: impl Into<Option<&str>>) -> Result<()> {
        let said = said.into();
        eventually(&format!("{arguments:?} to work"), OPERATOR_TIMEOUT, async || {
            let output = self.pinion.command(arguments).await?;
            if said.is_some_and(|said| output.stderr.contains(said)) {
                Ok(Some(()))
            } else {
                output.ok().map(|_| Some(()))
            }
        })
        .await
    }

    /// Replays all dead letters. Only what Elasticsearch refuses may be among them.
    pub(super) async fn replay(&self) -> Result<()> {
        let letters = eventually("the dead letters", OPERATOR_TIMEOUT, async || {
            Ok(Some(dead_letters(&self.shop.namespace).await?))
        })
        .await?;
        for letter in letters.iter().filter(|letter| letter["reason"] != "refused") {
            self.record.violated(Kind::Condemned, None, letter.to_string());
        }
        self.insist(&["dead", "replay", "--yes"]).await
    }

    async fn fill_the_write_queue(&self, time: Duration) -> Result<()> {
        let elastic = self.servers.elasticsearch.elastic();
        let index = format!("{}-flood", self.shop.namespace.name());
        let until = Instant::now() + time;
        // Its answers are of no interest.
        let flooders = (0..FLOODERS).map(|_| flood(elastic, &index, until));
        futures_util::future::join_all(flooders).await;
        Ok(())
    }

    async fn break_the_database(&self, fault: Fault) -> Result<()> {
        let Some(cluster) = &self.shop.cluster else {
            let Fault::ReplicaPaused(_, time) = fault else { return Ok(()) };
            let mariadb = self.servers.mariadb().context("MariaDB")?;
            mariadb.stop_applying().await?;
            sleep(time).await;
            return mariadb.apply_again().await;
        };
        match fault {
            Fault::ReplicaPaused(number, time) => {
                cluster.replicas[number].pause().await?;
                sleep(time).await;
                cluster.replicas[number].resume().await
            }
            Fault::ReplicaRestarted(number) => {
                cluster.replicas[number].stop().await?;
                cluster.replicas[number].restart().await
            }
            Fault::ReplicaKilled(number) => {
                cluster.replicas[number].kill().await?;
                cluster.replicas[number].restart().await
            }
            Fault::ReplicationFrozen(time) => {
                let frozen =
                    (cluster.replicas[0].freeze_receiver().await?, cluster.replicas[1].freeze_receiver().await?);
                sleep(time).await;
                drop(frozen);
                Ok(())
            }
            Fault::Promoted => self.promote().await,
            _ => self.kill_the_primary().await,
        }
    }

    /// The applications stop for it; whoever was not told goes on writing to the old primary, and the second replica follows that.
    async fn promote(&self) -> Result<()> {
        let cluster = self.shop.cluster.as_ref().context("PostgreSQL")?;
        let closed = self.gate.write().await;
        let new = &cluster.replicas[0];
        new.caught_up().await?;
        new.promote().await?;
        self.shop.switch_over()?;
        self.wires.to(Server::Primary)?.turn_to(new.port());
        drop(closed);
        let old = self.shop.namespace.superuser().clone();
        let zombie = tokio::spawn(async move {
            let writes = "UPDATE orders SET total = 666, currency = 'XXX' WHERE id % 10 = 0; \
                          SELECT pg_logical_emit_message(true, 'old', repeat('x', 100000))";
            while sqlx::raw_sql(writes).execute(&old).await.is_ok() {
                sleep(Duration::from_millis(300)).await;
            }
        });
        *self.zombie.lock().unwrap_or_else(PoisonError::into_inner) = Some(zombie);
        Ok(())
    }

    /// In the middle of a transaction whose log is not flushed yet, while documents are read.
    async fn kill_the_primary(&self) -> Result<()> {
        let cluster = self.shop.cluster.as_ref().context("PostgreSQL")?;
        let closed = self.gate.write().await;
        let mut large = self.shop.connect().await?;
        // Whoever reads a page that can be tidied up does so, and the log of that is written soon.
        large.run("VACUUM").await?;
        large.run("BEGIN").await?;
        // Less than the server's buffers of log, 4 MB, have room for: full ones are written.
        let message = "SELECT pg_logical_emit_message(true, 'large', repeat('x', 20000)) FROM generate_series(1, 140)";
        large.run(message).await?;
        if let Some(hooks) = self.hooks {
            // The broker may be away.
            let published = futures_util::future::try_join_all((1..=200).map(|id| publish(hooks, ("orders", id))));
            tokio::time::timeout(Duration::from_secs(5), published).await.unwrap_or(Ok(Vec::new()))?;
        }
        sleep(Duration::from_millis(500)).await;
        let replica = &cluster.replicas[0];
        if self.shop.is_switched_over() {
            replica.kill().await?;
            replica.restart().await?;
        } else {
            cluster.primary.kill().await?;
            cluster.primary.restart().await?;
        }
        ensure!(large.run("COMMIT").await.is_err(), "a transaction outlived its server");
        drop(closed);
        Ok(())
    }

    async fn rebuild_index(&self, job: &'static str, killed_after: Duration, back: bool) -> Result<()> {
        let _alone = self.indexes.lock().await;
        let mut command = self.pinion.start(&["rebuild", job])?;
        sleep(killed_after).await;
        command.kill().await?;
        let rebuilt = async || {
            // Once nothing breaks any more it comes to an end, at the latest.
            eventually("an index to be rebuilt", self.plan.duration + OPERATOR_TIMEOUT, async || {
                let output = self.pinion.command(&["rebuild", job]).await?;
                // One of the documents is refused by both indexes.
                if output.stderr.contains("can't be built") {
                    return Ok(Some(false));
                }
                let is_done = output.code == 0 || output.stderr.contains("ends that rebuild");
                ensure!(is_done, "{output:?}");
                Ok(Some(true))
            })
            .await
        };
        if !rebuilt().await? {
            return self.insist_until(&["rebuild", job, "--cancel"], "there is no rebuild").await;
        }
        if back {
            self.insist_until(&["rebuild", job, "--rollback"], "nothing to take back").await?;
            if !rebuilt().await? {
                return self.insist_until(&["rebuild", job, "--cancel"], "there is no rebuild").await;
            }
        }
        self.insist_until(&["rebuild", job, "--finish"], "there is no rebuild").await
    }

    async fn drop_index(&self, job: &'static str, pause: Duration) -> Result<()> {
        let _alone = self.indexes.lock().await;
        let elastic = self.servers.elasticsearch.elastic();
        let alias = self.shop.namespace.index(job);
        let removed = eventually("an index to be deleted", OPERATOR_TIMEOUT, async || {
            let (_, indexes) = elastic.request(Method::GET, &format!("/_alias/{alias}"), None).await?;
            let index = indexes.as_object().and_then(|indexes| indexes.keys().next()).context("an index")?;
            let (status, answer) = elastic.request(Method::DELETE, &format!("/{index}"), None).await?;
            ensure!(status == 200 || status == 404, "{status} {answer}");
            Ok(Some(()))
        });
        self.readers.forget(job, removed).await?;
        sleep(pause).await;
        eventually("the index to be made again", OPERATOR_TIMEOUT, async || {
            let (_, live) = elastic.request(Method::GET, &format!("/{alias}"), None).await?;
            if !live[&alias].is_null() {
                self.record.violated(Kind::Extra, None, format!("a bulk request made the index {alias}"));
                elastic.ok(Method::DELETE, &format!("/{alias}"), None).await?;
            }
            self.pinion.command(&["apply"]).await?.ok().map(|_| Some(()))
        })
        .await?;
        self.insist(&["enqueue", job, "--all"]).await
    }
}

impl Drop for Faults<'_> {
    fn drop(&mut self) {
        if let Some(zombie) = self.zombie.lock().unwrap_or_else(PoisonError::into_inner).take() {
            zombie.abort();
        }
    }
}

async fn flood(elastic: &Elastic, index: &str, until: Instant) {
    let path = format!("/{index}/_doc");
    while Instant::now() < until {
        if elastic.request(Method::POST, &path, Some(json!({"text": "flood ".repeat(500)}))).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    }
}
