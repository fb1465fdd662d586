//! A message on its way to the broker, and the one who waits for its end.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::BasicProperties;
use lapin::types::{FieldTable, ShortString};
use pinion_schemas::message::{HEADER_SENT_MS, MESSAGE_BYTES_MAX};
use pinion_schemas::{DecodeError, Job};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use crate::error::PublishError;

/// AMQP's mark for a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// What is published, as often as it takes.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    properties: Properties,
    pub(super) body: Vec<u8>,
    /// The job, where it may be sent together with others.
    job: Option<Job>,
}

#[derive(Clone)]
enum Properties {
    /// Those of a job that was sent at this time since 1970.
    Job(Duration),
    Raw(Box<BasicProperties>),
}

impl Message {
    /// The message of a job; if it has `ids_joined_max` ids or more, by itself.
    pub(super) fn job(
        exchange: &str,
        routing_key: String,
        job: Job,
        ids_joined_max: usize,
    ) -> Result<Message, PublishError> {
        let body = job.to_bytes().map_err(|error| match error {
            DecodeError::TooLarge { bytes } => PublishError::TooLarge { bytes, max: MESSAGE_BYTES_MAX },
            other => PublishError::Invalid(other.to_string()),
        })?;
        let sent = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let message = Message::new(exchange.to_owned(), routing_key, Properties::Job(sent), body)?;
        Ok(Message { job: Some(job).filter(|job| job.id_count() < ids_joined_max), ..message })
    }

    pub(super) fn raw(
        exchange: &str,
        routing_key: &str,
        properties: BasicProperties,
        body: Vec<u8>,
    ) -> Result<Message, PublishError> {
        let delivery_mode = properties.delivery_mode().unwrap_or(PERSISTENT);
        let properties = Box::new(properties.with_delivery_mode(delivery_mode));
        Message::new(exchange.to_owned(), routing_key.to_owned(), Properties::Raw(properties), body)
    }

    fn new(
        exchange: String,
        routing_key: String,
        properties: Properties,
        body: Vec<u8>,
    ) -> Result<Message, PublishError> {
        let short = |what: &str, text| {
            ShortString::try_new(text)
                .map_err(|error| PublishError::Invalid(format!("the {what} is too long: {error}")))
        };
        Ok(Message {
            exchange: short("exchange", exchange)?,
            routing_key: short("routing key", routing_key)?,
            properties,
            body,
            job: None,
        })
    }

    /// Whether `other` may be sent in the same message, of `ids_joined_max` ids at the most.
    fn goes_with(&self, other: &Message, ids_joined_max: usize) -> bool {
        let (Some(job), Some(next)) = (&self.job, &other.job) else { return false };
        self.routing_key == other.routing_key
            && job.goes_with(next)
            && job.id_count() + next.id_count() <= ids_joined_max
            && self.body.len() + other.body.len() <= MESSAGE_BYTES_MAX
    }

    /// Takes in another one that goes with it.
    fn join(&mut self, other: &Message) {
        if let (Some(job), Some(next)) = (&mut self.job, &other.job) {
            job.join(next.clone());
            self.body = job.to_bytes().expect("both were messages, and are one of the allowed size");
        }
    }

    /// What it counts for in the bound on bytes.
    pub(super) fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Its properties, with the number by which a returned message is known again.
    pub(super) fn properties(&self, number: u64) -> BasicProperties {
        let properties = match &self.properties {
            Properties::Job(sent) => job_properties(*sent),
            Properties::Raw(properties) => BasicProperties::clone(properties),
        };
        properties.with_correlation_id(number.to_string().into())
    }

    /// That no queue takes it.
    pub(super) fn unroutable(&self) -> PublishError {
        PublishError::Unroutable { exchange: self.exchange.to_string(), routing_key: self.routing_key.to_string() }
    }
}

fn job_properties(sent: Duration) -> BasicProperties {
    let sent_ms = i64::try_from(sent.as_millis()).unwrap_or(i64::MAX);
    let mut headers = FieldTable::default();
    headers.insert(HEADER_SENT_MS.into(), sent_ms.into());
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT)
        .with_timestamp(sent.as_secs())
        .with_headers(headers)
}

/// Where the outcome of a message goes.
pub(super) enum Answer {
    One(oneshot::Sender<Result<(), PublishError>>),
    /// With the message's place in its batch.
    Batch(usize, mpsc::UnboundedSender<(usize, Result<(), PublishError>)>),
}

/// A message with those who wait for it: one, or several whose jobs were put together.
pub(super) struct Outgoing {
    pub(super) message: Arc<Message>,
    waiters: Vec<Waiter>,
}

/// Somebody who waits for a message.
struct Waiter {
    deadline: Instant,
    /// None when the answer was given: the time was over.
    answer: Option<Answer>,
    /// Held until the broker has settled the message, even where the answer was given before.
    _room: OwnedSemaphorePermit,
}

impl Outgoing {
    pub(super) fn new(message: Message, deadline: Instant, answer: Answer, room: OwnedSemaphorePermit) -> Outgoing {
        let waiter = Waiter { deadline, answer: Some(answer), _room: room };
        Outgoing { message: Arc::new(message), waiters: vec![waiter] }
    }

    /// Whether `next` may be sent in this message, which then has `ids_joined_max` ids at the most.
    pub(super) fn goes_with(&self, next: &Outgoing, ids_joined_max: usize) -> bool {
        !next.is_over() && self.message.goes_with(&next.message, ids_joined_max)
    }

    /// Takes in another one that goes with it.
    pub(super) fn join(&mut self, next: Outgoing) {
        Arc::make_mut(&mut self.message).join(&next.message);
        self.waiters.extend(next.waiters);
    }

    /// Whether there is nobody left to answer: the answers were given, or the callers are gone.
    pub(super) fn is_over(&self) -> bool {
        self.waiters.iter().all(|waiter| match &waiter.answer {
            None => true,
            Some(Answer::One(answer)) => answer.is_closed(),
            Some(Answer::Batch(_, answers)) => answers.is_closed(),
        })
    }

    /// When the time of the first is over that has no answer.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiters.iter().find_map(|waiter| waiter.answer.is_some().then_some(waiter.deadline))
    }

    /// Gives the answer to all that have none.
    pub(super) fn answer(&mut self, outcome: &Result<(), PublishError>) {
        self.waiters.iter_mut().for_each(|waiter| waiter.answer(outcome));
    }

    /// Gives the answer to those whose time is over; whether that is all of them.
    pub(super) fn expire(&mut self, now: Instant, outcome: &Result<(), PublishError>) -> bool {
        let is_late = |waiter: &Waiter| waiter.deadline <= now;
        self.waiters.iter_mut().filter(|waiter| is_late(waiter)).for_each(|waiter| waiter.answer(outcome));
        self.waiters.iter().all(is_late)
    }
}

impl Waiter {
    fn answer(&mut self, outcome: &Result<(), PublishError>) {
        let sent = match self.answer.take() {
            None => true,
            Some(Answer::One(answer)) => answer.send(outcome.clone()).is_ok(),
            Some(Answer::Batch(index, answers)) => answers.send((index, outcome.clone())).is_ok(),
        };
        if !sent {
            debug!("the caller was gone before the message's end");
        }
    }
}
