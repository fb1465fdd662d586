//! The publisher: a handle that many tasks may hold, and behind it one task that owns the connection.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt};
use lapin::BasicProperties;
use lapin::types::{FieldTable, ShortString};
use pinion_schemas::message::{HEADER_SENT_MS, MESSAGE_BYTES_MAX};
use pinion_schemas::{DecodeError, Job, Names};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::connection::{ConnectError, connect};
use crate::error::PublishError;
use crate::publisher::supervisor::{Broker, Command, Link, Message, Outgoing, Supervisor};

mod returns;
mod session;
mod supervisor;

/// At this many failures [`Publisher::publish_all`] takes no further jobs.
pub const FAILED_MAX: usize = 10_000;

/// AMQP's mark for a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;

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
    outstanding_max: usize,
    outstanding_bytes_max: u32,
}

impl PublisherConfig {
    /// The defaults for a broker: the namespace `pinion`, 30 s for a confirm, at most 5,000 messages and 16 MiB outstanding.
    pub fn new(url: impl Into<String>) -> PublisherConfig {
        PublisherConfig {
            url: url.into(),
            ca_file: None,
            connection_name: "pinion publisher".to_owned(),
            names: Names::default(),
            confirm_timeout_ms: 30_000,
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

    /// At most this many messages are unconfirmed; further calls wait. At least 1.
    #[must_use]
    pub fn outstanding_max(mut self, outstanding_max: usize) -> PublisherConfig {
        self.outstanding_max = outstanding_max.max(1);
        self
    }

    /// At most this many bytes of bodies are unconfirmed; further calls wait. A larger message goes alone.
    #[must_use]
    pub fn outstanding_bytes_max(mut self, outstanding_bytes_max: u32) -> PublisherConfig {
        self.outstanding_bytes_max = outstanding_bytes_max.max(1);
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
            .field("outstanding_max", &self.outstanding_max)
            .field("outstanding_bytes_max", &self.outstanding_bytes_max)
            .finish_non_exhaustive()
    }
}

/// Publishes persistent messages with confirms. Clones share one connection and one bound.
///
/// When the connection is lost the publisher connects again by itself, and publishes again what was not confirmed: a message
/// arrives at least once, and may arrive twice. For jobs that is harmless, Pinion coalesces them. While the broker is away,
/// messages wait, bounded in number and in bytes, and fail when their time is over.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
    lane: Lane,
}

struct Shared {
    names: Names,
    confirm_timeout_ms: u64,
    outstanding_max: usize,
    outstanding_bytes_max: u32,
    /// Room for messages; closed when the publisher is.
    room: Arc<Semaphore>,
    /// Room for bytes.
    room_bytes: Arc<Semaphore>,
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
    /// Connects. The first connection must succeed, so that a wrong URL or password shows at once; later ones are made again.
    /// Needs a Tokio runtime, which then also runs the publisher's task.
    pub async fn connect(config: PublisherConfig) -> Result<Publisher, ConnectError> {
        let connection = connect(&config.url, &config.connection_name, config.ca_file.as_deref()).await?;
        let (commands, received) = mpsc::channel(config.outstanding_max);
        let (link, link_seen) = watch::channel(Link::Up);
        let shared = Shared {
            names: config.names,
            confirm_timeout_ms: config.confirm_timeout_ms,
            outstanding_max: config.outstanding_max,
            outstanding_bytes_max: config.outstanding_bytes_max,
            room: Arc::new(Semaphore::new(config.outstanding_max)),
            room_bytes: Arc::new(Semaphore::new(config.outstanding_bytes_max as usize)),
            commands,
            link: link_seen,
        };
        let broker = Broker { url: config.url, name: config.connection_name, ca_file: config.ca_file };
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
        let body = job.to_bytes().map_err(|error| match error {
            DecodeError::TooLarge { bytes } => PublishError::TooLarge { bytes, max: MESSAGE_BYTES_MAX },
            other => PublishError::Invalid(other.to_string()),
        })?;
        let names = &self.shared.names;
        let routing_key = match self.lane {
            Lane::Live => names.routing_key(job.job_name()),
            Lane::Low => names.low_routing_key(job.job_name()),
        };
        let exchange = names.exchange().to_owned();
        self.publish_raw(&exchange, &routing_key, job_properties(), body).await
    }

    /// Publishes many jobs, as many at a time as may be outstanding, without waiting for each one's confirm. They are published
    /// in their order, unless one must be published again.
    pub async fn publish_all(&self, jobs: impl Stream<Item = Job>) -> BatchReport {
        let failures = AtomicUsize::new(0);
        let failures = &failures;
        let outcomes = jobs
            .take_while(|_| std::future::ready(failures.load(Ordering::Relaxed) < FAILED_MAX))
            .enumerate()
            .map(|(index, job)| async move { (index, self.publish(&job).await) })
            .buffer_unordered(self.shared.outstanding_max);
        let mut report = BatchReport { taken: 0, confirmed: 0, failed: Vec::new() };
        let mut outcomes = std::pin::pin!(outcomes);
        while let Some((index, outcome)) = outcomes.next().await {
            report.taken += 1;
            match outcome {
                Ok(()) => report.confirmed += 1,
                Err(error) => {
                    failures.fetch_add(1, Ordering::Relaxed);
                    report.failed.push((index, error));
                }
            }
        }
        report.failed.sort_by_key(|(index, _)| *index);
        report
    }

    /// Publishes any message, with the same confirms, `mandatory` and reconnects, and no limit of its own for the size. The
    /// properties are sent as they are, but for two: `delivery_mode` is set to persistent where it is missing, and
    /// `correlation_id` is the publisher's own: it tells which message the broker returned.
    pub async fn publish_raw(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: BasicProperties,
        body: Vec<u8>,
    ) -> Result<(), PublishError> {
        let persistent = properties.delivery_mode().unwrap_or(PERSISTENT);
        let message = Message {
            exchange: short_string("exchange", exchange)?,
            routing_key: short_string("routing key", routing_key)?,
            properties: properties.with_delivery_mode(persistent),
            body,
        };
        let waited_ms = self.shared.confirm_timeout_ms;
        match tokio::time::timeout(Duration::from_millis(waited_ms), self.send(message)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(match &*self.shared.link.borrow() {
                Link::Up => PublishError::TimedOut { waited_ms },
                Link::Down(reason) => PublishError::Unavailable { waited_ms, reason: reason.clone() },
            }),
        }
    }

    /// Takes no further messages, waits for the confirms of those that are outstanding, or for their time to be over, and
    /// closes the connection. It closes all clones; calls that still wait for room fail with [`PublishError::Closed`].
    pub async fn close(&self) {
        self.shared.room.close();
        // Both errors say that the supervisor has ended, which is what is waited for.
        if self.shared.commands.send(Command::Close).await.is_ok() {
            let mut link = self.shared.link.clone();
            while link.changed().await.is_ok() {}
        }
    }

    async fn send(&self, message: Message) -> Result<(), PublishError> {
        let shared = &self.shared;
        let closed = |_| PublishError::Closed;
        // A body beyond the whole bound takes all of it.
        let weight = u32::try_from(message.body.len()).unwrap_or(u32::MAX).min(shared.outstanding_bytes_max);
        let room = shared.room.clone().acquire_owned().await.map_err(closed)?;
        let room_bytes = shared.room_bytes.clone().acquire_many_owned(weight).await.map_err(closed)?;
        let (answer, answered) = oneshot::channel();
        let outgoing = Outgoing { message: Arc::new(message), answer, _room: [room, room_bytes] };
        shared.commands.send(Command::Publish(outgoing)).await.map_err(|_| PublishError::Closed)?;
        answered.await.unwrap_or(Err(PublishError::Closed))
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

fn job_properties() -> BasicProperties {
    let sent = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let sent_ms = i64::try_from(sent.as_millis()).unwrap_or(i64::MAX);
    let mut headers = FieldTable::default();
    headers.insert(HEADER_SENT_MS.into(), sent_ms.into());
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_timestamp(sent.as_secs())
        .with_headers(headers)
}

fn short_string(what: &str, text: &str) -> Result<ShortString, PublishError> {
    ShortString::try_new(text).map_err(|error| PublishError::Invalid(format!("the {what} is too long: {error}")))
}
