//! The publisher: a handle that many tasks may hold, and behind it one task that owns the connection.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lapin::BasicProperties;
use pinion_schemas::message::IDS_MAX;
use pinion_schemas::{Job, Names};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::connection::{ConnectError, connect};
use crate::error::PublishError;
use crate::publisher::message::{Answer, Message, Outgoing};
use crate::publisher::supervisor::{Broker, Command, Link, Supervisor};

mod message;
mod returns;
mod session;
mod supervisor;

/// Nearly all that there is to gain from putting ids together; more would let one worker take up what others could have done.
const IDS_JOINED_MAX: usize = 20;

/// At this many failures [`Publisher::publish_all`] takes no further jobs.
pub const FAILED_MAX: usize = 10_000;

/// Which of a job's two queues a message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Changes as they happen.
    Live,
    /// Rebuilds and fan-outs, which live work overtakes.
    Low,
}

/// How a [`Publisher`] connects and what it may hold.
#[derive(Clone)]
pub struct PublisherConfig {
    url: String,
    ca_file: Option<PathBuf>,
    connection_name: String,
    names: Names,
    confirm_timeout_ms: u64,
    ids_joined_max: usize,
    outstanding_max: u32,
    outstanding_bytes_max: u32,
}

impl PublisherConfig {
    /// The defaults for a broker: the namespace `pinion`, 30 s for a confirm, messages of up to 20 jobs that wait at the
    /// same time, at most 5,000 jobs and 16 MiB outstanding.
    pub fn new(url: impl Into<String>) -> PublisherConfig {
        PublisherConfig {
            url: url.into(),
            ca_file: None,
            connection_name: "pinion publisher".to_owned(),
            names: Names::default(),
            confirm_timeout_ms: 30_000,
            ids_joined_max: IDS_JOINED_MAX,
            outstanding_max: 5_000,
            outstanding_bytes_max: 16 * 1_048_576,
        }
    }

    /// The namespace whose exchange is published to.
    #[must_use]
    pub fn namespace(mut self, names: Names) -> PublisherConfig {
        self.names = names;
        self
    }

    /// How long a message may take from the call to its confirm, the waiting for room and for the broker included.
    #[must_use]
    pub fn confirm_timeout_ms(mut self, confirm_timeout_ms: u64) -> PublisherConfig {
        self.confirm_timeout_ms = confirm_timeout_ms;
        self
    }

    /// Jobs that wait to be published at the same time go out as one message of up to this many ids, where they are of the
    /// same name, lane and position. None waits for others. A message costs the broker and the worker much more than an id in
    /// it. With 1, each job is a message of its own. From 1 to 100,000.
    #[must_use]
    pub fn ids_joined_max(mut self, ids_joined_max: usize) -> PublisherConfig {
        self.ids_joined_max = ids_joined_max.clamp(1, IDS_MAX);
        self
    }

    /// At most this many jobs are unconfirmed; further calls wait. From 1 to 1,000,000.
    #[must_use]
    pub fn outstanding_max(mut self, outstanding_max: usize) -> PublisherConfig {
        self.outstanding_max = outstanding_max.clamp(1, 1_000_000) as u32;
        self
    }

    /// At most this many bytes of bodies are unconfirmed, to 1 GiB; further calls wait. Each job counts at least
    /// as its share, this divided by `outstanding_max`; a larger one than all of it goes alone.
    #[must_use]
    pub fn outstanding_bytes_max(mut self, outstanding_bytes_max: usize) -> PublisherConfig {
        self.outstanding_bytes_max = outstanding_bytes_max.clamp(1, 1 << 30) as u32;
        self
    }

    /// What the broker's management shows.
    #[must_use]
    pub fn connection_name(mut self, connection_name: impl Into<String>) -> PublisherConfig {
        self.connection_name = connection_name.into();
        self
    }

    /// The certificates that an `amqps://` server is verified against, in place of the system's.
    #[must_use]
    pub fn ca_file(mut self, ca_file: impl Into<PathBuf>) -> PublisherConfig {
        self.ca_file = Some(ca_file.into());
        self
    }
}

impl fmt::Debug for PublisherConfig {
    /// Leaves the URL out: it holds the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublisherConfig")
            .field("ca_file", &self.ca_file)
            .field("connection_name", &self.connection_name)
            .field("namespace", &self.names.namespace())
            .field("confirm_timeout_ms", &self.confirm_timeout_ms)
            .field("ids_joined_max", &self.ids_joined_max)
            .field("outstanding_max", &self.outstanding_max)
            .field("outstanding_bytes_max", &self.outstanding_bytes_max)
            .finish_non_exhaustive()
    }
}

/// Publishes persistent messages with confirms. Clones share one connection and one bound.
///
/// When the connection is lost the publisher connects again by itself, and publishes again what was not confirmed: a
/// message arrives at least once, and may arrive twice. For jobs that is harmless, Pinion coalesces them. While the
/// broker is away, or blocks publishers because of an alarm, messages wait, bounded in number and in bytes, and fail when
/// their time is over.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
    lane: Lane,
}

struct Shared {
    names: Names,
    confirm_timeout_ms: u64,
    ids_joined_max: usize,
    /// What a job takes of the room at least, so that no more than `outstanding_max` fit in.
    share: u32,
    /// The whole room: `outstanding_max` shares.
    room_max: u32,
    /// The bytes that may be outstanding; closed when the publisher is.
    room: Arc<Semaphore>,
    commands: mpsc::Sender<Command>,
    /// Written by the supervisor; its end is the supervisor's.
    link: watch::Receiver<Link>,
}

/// What became of a batch.
#[derive(Debug)]
pub struct BatchReport {
    /// How many jobs were taken from the batch: all, unless [`FAILED_MAX`] of them failed.
    pub taken: usize,
    /// How many of them the broker confirmed.
    pub confirmed: usize,
    /// The others: the place in the batch, from 0, and why. In the order of the batch.
    pub failed: Vec<(usize, PublishError)>,
}

impl Publisher {
    /// Connects. The first connection must succeed, so that a wrong URL or password shows at once; later ones are
    /// made again. Needs a Tokio runtime, which then also runs the publisher's task.
    pub async fn connect(config: PublisherConfig) -> Result<Publisher, ConnectError> {
        let connection = connect(&config.url, &config.connection_name, config.ca_file.as_deref()).await?;
        let share = config.outstanding_bytes_max.div_ceil(config.outstanding_max);
        let room_max = share * config.outstanding_max;
        let (commands, received) = mpsc::channel(config.outstanding_max as usize);
        let (link, link_seen) = watch::channel(Link::Up);
        let shared = Shared {
            names: config.names,
            confirm_timeout_ms: config.confirm_timeout_ms,
            ids_joined_max: config.ids_joined_max,
            share,
            room_max,
            room: Arc::new(Semaphore::new(room_max as usize)),
            commands,
            link: link_seen,
        };
        let broker = Broker {
            url: config.url,
            name: config.connection_name,
            ca_file: config.ca_file,
            confirm_timeout_ms: config.confirm_timeout_ms,
            ids_joined_max: config.ids_joined_max,
        };
        tokio::spawn(Supervisor::new(broker, received, link).run(connection));
        Ok(Publisher { shared: Arc::new(shared), lane: Lane::Live })
    }

    /// The same publisher for another lane: `publisher.lane(Lane::Low).publish(&job)`. A new one is for [`Lane::Live`].
    #[must_use]
    pub fn lane(&self, lane: Lane) -> Publisher {
        Publisher { shared: self.shared.clone(), lane }
    }

    /// Publishes a job, and returns when the broker has confirmed it. Call it after the change's commit returned.
    ///
    /// If the future is dropped before its end, the job may be published or not.
    pub async fn publish(&self, job: &Job) -> Result<(), PublishError> {
        let message = self.job_message(job.clone())?;
        self.deliver(message).await
    }

    /// Publishes many jobs, as many at a time as may be outstanding, without waiting for each one's confirm. They are
    /// published in their order, unless one must be published again.
    pub async fn publish_all(&self, jobs: impl Stream<Item = Job>) -> BatchReport {
        let mut report = BatchReport { taken: 0, confirmed: 0, failed: Vec::new() };
        let mut jobs = std::pin::pin!(jobs);
        // As long as there is room.
        let (answers, mut answered) = mpsc::unbounded_channel();
        while report.failed.len() < FAILED_MAX {
            tokio::select! {
                biased;
                Some((index, outcome)) = answered.recv() => report.add(index, outcome),
                job = jobs.next() => {
                    let Some(job) = job else { break };
                    let index = report.taken;
                    report.taken += 1;
                    let sent = match self.job_message(job) {
                        Ok(message) => self.send(message, Answer::Batch(index, answers.clone())).await,
                        Err(error) => Err(error),
                    };
                    if let Err(error) = sent {
                        report.add(index, Err(error));
                    }
                }
            }
        }
        drop(answers);
        while let Some((index, outcome)) = answered.recv().await {
            report.add(index, outcome);
        }
        report.failed.sort_by_key(|(index, _)| *index);
        report
    }

    /// Publishes any message, with the same confirms, `mandatory` and reconnects, and no limit of its own for the
    /// size. The properties are sent as they are, but for two: `delivery_mode` is set to persistent where it is
    /// missing, and `correlation_id` is the publisher's own: it tells which message the broker returned.
    pub async fn publish_raw(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: BasicProperties,
        body: Vec<u8>,
    ) -> Result<(), PublishError> {
        let message = Message::raw(exchange, routing_key, properties, body)?;
        self.deliver(message).await
    }

    /// Waits until the broker blocks publishers, because it is short of memory or of disk; its own words. At once while it does
    /// already. Messages that are published meanwhile wait for the alarm's end, within the bounds of the publisher.
    ///
    /// RabbitMQ tells a connection of an alarm when something is published on it.
    pub async fn blocked(&self) -> String {
        let mut link = self.shared.link.clone();
        loop {
            if let Link::Blocked(reason) = &*link.borrow_and_update() {
                return reason.clone();
            }
            if link.changed().await.is_err() {
                // It is closed, and will not be blocked any more.
                return std::future::pending().await;
            }
        }
    }

    /// Takes no further messages, waits for the confirms of those that are outstanding, or for their time to be over,
    /// and closes the connection. It closes all clones; calls that still wait for room fail with
    /// [`PublishError::Closed`].
    pub async fn close(&self) {
        self.shared.room.close();
        // Both errors say that the supervisor has ended, which is what is waited for.
        if self.shared.commands.send(Command::Close).await.is_ok() {
            let mut link = self.shared.link.clone();
            while link.changed().await.is_ok() {}
        }
    }

    fn job_message(&self, job: Job) -> Result<Message, PublishError> {
        let Shared { names, ids_joined_max, .. } = &*self.shared;
        let routing_key = match self.lane {
            Lane::Live => names.routing_key(job.job_name()),
            Lane::Low => names.low_routing_key(job.job_name()),
        };
        Message::job(names.exchange(), routing_key, job, *ids_joined_max)
    }

    async fn deliver(&self, message: Message) -> Result<(), PublishError> {
        let (answer, answered) = oneshot::channel();
        self.send(message, Answer::One(answer)).await?;
        answered.await.unwrap_or(Err(PublishError::Closed))
    }

    /// Waits for room, and hands the message to the supervisor, which will answer.
    async fn send(&self, message: Message, answer: Answer) -> Result<(), PublishError> {
        let shared = &self.shared;
        let deadline = Instant::now() + Duration::from_millis(shared.confirm_timeout_ms);
        // A body beyond the whole bound takes all of it.
        let bytes = u32::try_from(message.bytes()).unwrap_or(u32::MAX).clamp(shared.share, shared.room_max);
        let room = match timeout_at(deadline, shared.room.clone().acquire_many_owned(bytes)).await {
            Ok(acquired) => acquired.map_err(|_| PublishError::Closed)?,
            Err(_elapsed) => return Err(shared.link.borrow().too_late(shared.confirm_timeout_ms)),
        };
        let outgoing = Outgoing::new(message, deadline, answer, room);
        shared.commands.send(Command::Publish(outgoing)).await.map_err(|_| PublishError::Closed)
    }
}

impl BatchReport {
    fn add(&mut self, index: usize, outcome: Result<(), PublishError>) {
        match outcome {
            Ok(()) => self.confirmed += 1,
            Err(error) => self.failed.push((index, error)),
        }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("namespace", &self.shared.names.namespace())
            .field("lane", &self.lane)
            .field("link", &*self.shared.link.borrow())
            .finish_non_exhaustive()
    }
}
