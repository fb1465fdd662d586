//! The change feed: what Debezium tells of changed rows becomes jobs, published as an application's hook would publish them.
//!
//! events → [`touch`] → their transactions are visible on the primary → [`hold`] → jobs on RabbitMQ → offsets. From there on the
//! way is that of every other job, so a job that is paused or broken holds no partition.

mod avro;
mod fan_out;
pub(crate) mod format;
mod hold;
pub(crate) mod kafka;
mod lookout;
#[cfg(test)]
pub(crate) mod recorded;
#[cfg(test)]
mod recorded_tests;
mod registry;
mod round;
mod touch;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use pinion_schemas::{Id, Job as JobMessage, JobDefinition, StateIndex};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use self::fan_out::Request;
use self::format::texts;
use self::hold::Hold;
use self::kafka::Events;
pub(crate) use self::kafka::{Attempt, Observer, topics};
pub use self::kafka::{Move, PartitionOffsets, Target};
use self::lookout::Sight;
pub(crate) use self::registry::Registry;
use self::round::{Documents, Memory, OldRows, Round};
use self::touch::Touch;
use crate::clock::now_ms;
use crate::config::{self, Config};
use crate::control::Controls;
use crate::dead_letter;
use crate::elasticsearch::Elasticsearch;
use crate::error::Fault;
use crate::metrics::{Metrics, verdict_label};
use crate::pipeline::delivery::Receipt;
use crate::ports::{Broker, Database, Destination, Envelope, Future_, Requeue, Transaction};
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::status::{JobState, Statuses};

/// The feed among the jobs' states; no job can have this name.
pub const NAME: &str = "change feed";

/// Events that are taken together at the most.
const ROUND: usize = 1000;
/// Ids in a message.
const IDS: usize = 100;
/// How often what is done is told while a server is waited for.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// After an error it is looked up this often whether the brokers are back.
const TROUBLE_LOOK: Duration = Duration::from_secs(2);
/// Events that are not done, because their fan-outs are not; then no more are taken. They take some 30 MB.
const OPEN_MAX: usize = 500_000;

/// The feed of one worker.
pub struct Feed {
    /// All jobs, of whichever worker: the partitions are shared out, not the jobs.
    pub jobs: Vec<JobDefinition>,
    /// Where the topics are, and which source they belong to; it has `[kafka]`.
    pub config: Config,
    /// The databases by the names of their sources.
    pub sources: BTreeMap<String, Arc<dyn Database>>,
    /// Where the jobs go.
    pub broker: Arc<dyn Broker>,
    /// For dead letters, and for the documents of a truncated table.
    pub elasticsearch: Arc<Elasticsearch>,
    /// This worker's name.
    pub worker: Arc<str>,
    /// Whether operators have paused the feed.
    pub controls: Controls,
    /// Where the feed's state is told.
    pub statuses: Arc<Statuses>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Why the feed is not followed any more.
enum Ended {
    /// The worker ends.
    Asked,
    /// An operator has paused the feed.
    Paused,
}

/// Takes events until the worker ends. What is not done then comes again.
pub async fn run(feed: Arc<Feed>, shutdown: Shutdown) {
    let mut backoff = Backoff::for_job();
    loop {
        let ended = if feed.controls.is_paused(NAME) { Ok(Ended::Paused) } else { follow(&feed, &shutdown).await };
        match ended {
            Ok(Ended::Asked) => break,
            Ok(Ended::Paused) => {
                feed.tell(JobState::Paused, None);
                tokio::select! {
                    () = shutdown.asked() => break,
                    () = feed.controls.resumed(NAME) => feed.tell(JobState::Starting, None),
                }
            }
            Err(reason) => {
                tracing::error!(reason, "the change feed stands still");
                feed.tell(JobState::Broken, Some(reason));
                tokio::select! {
                    () = shutdown.asked() => break,
                    () = backoff.wait() => {}
                }
            }
        }
    }
    feed.tell(JobState::Stopped, None);
}

/// Joins the group and takes events until the worker ends or an operator pauses the feed.
///
/// # Errors
/// Something is wrong that waiting does not mend.
async fn follow(feed: &Arc<Feed>, shutdown: &Shutdown) -> Result<Ended, String> {
    let registry = feed.kafka().registry.as_ref().map(Registry::new).transpose()?;
    let events = Events::join(feed.kafka(), &feed.config.feed_topics(), &feed.worker)?;
    let observer = Observer::new(feed.kafka(), feed.config.feed_topics(), None)?;
    let (fan_outs, requests) = mpsc::channel(fan_out::WAITING_MAX);
    let (stuck, is_stuck) = watch::channel(None);
    let fanning_out = tokio::spawn(fan_out::run(feed.clone(), requests, stuck));
    let (sight, seen) = watch::channel(Sight::default());
    let looking = tokio::spawn(lookout::run(feed.clone(), observer, events.partitions(), sight));
    let signs = Signs { stuck: is_stuck, seen };
    let ended = tokio::select! {
        reason = take(feed, &events, registry.as_ref(), &fan_outs, &signs) => Err(reason),
        () = feed.controls.paused(NAME) => Ok(Ended::Paused),
        () = shutdown.asked() => Ok(Ended::Asked),
    };
    fanning_out.abort();
    looking.abort();
    events.store();
    // Leaving the group waits for the broker.
    let left = tokio::task::spawn_blocking(move || drop(events)).await;
    tracing::trace!(?left, "group left");
    ended
}

/// What is told from beside.
struct Signs {
    /// What a fan-out waits for.
    stuck: watch::Receiver<Option<String>>,
    seen: watch::Receiver<Sight>,
}

impl Signs {
    /// Why the feed does not go on.
    fn waits(&self) -> Option<String> {
        self.stuck.borrow().clone().or_else(|| self.seen.borrow().stalled.clone())
    }
}

/// Takes events until something is wrong that waiting does not mend.
async fn take(
    feed: &Feed,
    events: &Events,
    registry: Option<&Registry>,
    fan_outs: &mpsc::Sender<Request>,
    signs: &Signs,
) -> String {
    let mut old_rows = OldRows::default();
    let mut memory = Memory::default();
    let mut rounds = std::pin::pin!(events.stream().ready_chunks(ROUND));
    let mut hold = Hold::default();
    let mut ticks = tokio::time::interval(hold::TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = None;
    loop {
        tokio::select! {
            round = rounds.next(), if events.open() < OPEN_MAX => {
                let Some(messages) = round else { return "the consumer has ended".to_owned() };
                let mut taken = Vec::with_capacity(messages.len());
                for message in messages {
                    match message {
                        Ok(message) => taken.push(message),
                        // A topic that was made a moment ago is not known to all brokers.
                        Err(KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                        Err(error) => trouble = Some((error.to_string(), Instant::now())),
                    }
                }
                if !taken.is_empty() {
                    let tables = old_rows.get(feed).await;
                    let tell = |reason| feed.tell(JobState::Waiting, Some(reason));
                    let round = match texts(tell, registry, &taken).await {
                        Ok(texts) => feed.sort(events, &texts, &tables, &mut memory),
                        Err(reason) => Err(reason),
                    };
                    let round = match round {
                        Ok(round) => round,
                        Err(reason) => return reason,
                    };
                    feed.while_telling(events, signs, feed.hand_on(round, &mut hold)).await;
                    trouble = None;
                }
            }
            _ = ticks.tick() => feed.while_telling(events, signs, feed.release(&mut hold, fan_outs)).await,
        }
        // The library tells that a broker is lost, not that it is back.
        if trouble.as_ref().is_some_and(|(_, told)| told.elapsed() > TROUBLE_LOOK) {
            trouble = events.trouble().await.map(|reason| (reason, Instant::now()));
        }
        let trouble = trouble.as_ref().map(|(reason, _)| format!("Kafka: {reason}"));
        let waits = trouble.or_else(|| signs.waits());
        if waits.is_none() {
            feed.tell(JobState::Running, signs.seen.borrow().silent.clone());
        }
        feed.tell_done(events, waits);
    }
}

impl Feed {
    fn kafka(&self) -> &config::Kafka {
        self.config.kafka.as_ref().expect("a feed is only made where [kafka] is configured")
    }

    /// Tells what is done, and why it does not go on, while something is done that may wait for a server.
    async fn while_telling(&self, events: &Events, signs: &Signs, work: impl Future<Output = ()>) {
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(TELL_EVERY);
        ticks.reset();
        loop {
            tokio::select! {
                () = &mut work => return,
                _ = ticks.tick() => self.tell_done(events, signs.waits()),
            }
        }
    }

    fn tell_done(&self, events: &Events, waits: Option<String>) {
        if waits.is_some() {
            self.tell(JobState::Waiting, waits);
        }
        events.store();
        self.metrics.feed_open.set(i64::try_from(events.open()).unwrap_or(i64::MAX));
    }

    fn tell(&self, state: JobState, reason: Option<String>) {
        self.statuses.set(NAME, state, reason);
    }

    /// Tries until it is done: events wait, they are not passed over.
    async fn insist<'a, T>(&self, mut work: impl FnMut() -> Future_<'a, Result<T, Fault>>) -> T {
        let mut backoff = Backoff::for_server();
        loop {
            match work().await {
                Ok(done) => return done,
                Err(fault) => {
                    self.tell(JobState::Waiting, Some(fault.to_string()));
                    backoff.wait().await;
                }
            }
        }
    }

    /// Publishes what a round touches, once its transactions can be seen: Debezium tells of a commit while it is still under
    /// way, and a job is published after its commit has returned.
    async fn hand_on(&self, round: Round, hold: &mut Hold) {
        for (source, transactions) in &round.transactions {
            let mut awaited: Vec<Transaction> = transactions.told.iter().cloned().collect();
            if transactions.untold {
                awaited.extend(self.insist(|| self.sources[source].in_progress()).await);
            }
            self.insist(|| self.sources[source].visible(&awaited)).await;
        }
        let now = Instant::now();
        for (touch, sent_ms, receipt) in round.others {
            hold.add(touch, sent_ms, receipt, now);
        }
        for (job, documents) in round.documents {
            self.publish_insisting(job, &documents, "row").await;
            // Whatever touched these before is in them.
            let covered = documents.ids.into_iter().filter_map(|id| hold.take(&Touch::Parent(job, id)));
            covered.for_each(|held| Receipt::settle_all(&held.receipts));
        }
        self.measure(round.committed_ms);
        let dead_letters = self.config.names.state_index(StateIndex::DeadLetters);
        self.insist(|| Box::pin(dead_letter::write(&*self.elasticsearch, &dead_letters, &round.letters))).await;
        Receipt::settle_all(&round.receipts);
    }

    /// Publishes what has waited for long enough.
    async fn release(&self, hold: &mut Hold, fan_outs: &mpsc::Sender<Request>) {
        let now = Instant::now();
        let mut documents: HashMap<usize, Documents> = HashMap::new();
        let (mut receipts, mut committed_ms) = (Vec::new(), Vec::new());
        for (touch, held) in hold.due(&self.jobs, now) {
            match touch {
                Touch::Own(job, id) | Touch::Parent(job, id) => {
                    documents.entry(job).or_default().add(id, held.sent_ms);
                    committed_ms.extend(held.sent_ms);
                    receipts.extend(held.receipts);
                }
                Touch::FanOut(wanted, key) => {
                    if let Err(error) = fan_outs.try_send(Request { wanted, key, held }) {
                        // They are slower than changes come: what waits meanwhile is taken together.
                        let Request { wanted, key, held } = error.into_inner();
                        hold.put_back(Touch::FanOut(wanted, key), held, now);
                    }
                }
            }
        }
        for (job, documents) in documents {
            self.publish_insisting(job, &documents, "parent").await;
        }
        self.measure(committed_ms);
        Receipt::settle_all(&receipts);
    }

    /// Observes how long changes took from their commit to the broker.
    fn measure(&self, committed_ms: Vec<u64>) {
        let now_ms = now_ms();
        for committed_ms in committed_ms {
            self.metrics.feed_publish_seconds.observe(now_ms.saturating_sub(committed_ms) as f64 / 1000.0);
        }
    }

    async fn publish_insisting(&self, job: usize, documents: &Documents, touched_by: &'static str) {
        let Documents { ids, sent_ms, .. } = documents;
        self.insist(|| Box::pin(self.publish(job, ids.clone(), Destination::Live, *sent_ms, touched_by))).await;
    }

    /// Publishes ids of the job with this number, many in a message.
    async fn publish(
        &self,
        job: usize,
        ids: Vec<Id>,
        destination: Destination,
        sent_ms: Option<u64>,
        touched_by: &'static str,
    ) -> Result<(), Fault> {
        let job = &self.jobs[job];
        let message = |ids: &[Id]| Requeue {
            job: job.name.clone(),
            destination: destination.clone(),
            payload: JobMessage::many(&job.name, ids.iter().cloned())
                .to_bytes()
                .expect("a message of a few valid ids is small and names a valid job"),
            envelope: Envelope { sent_ms, ..Envelope::default() },
        };
        self.broker.requeue(ids.chunks(IDS).map(message).collect()).await?;
        let published = self.metrics.feed_published.get_or_create(&verdict_label(&job.name, touched_by));
        published.inc_by(ids.len() as u64);
        Ok(())
    }
}
