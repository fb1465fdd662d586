//! A message on its way to the broker, and the one who waits for its end.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::BasicProperties;
use lapin::types::{FieldTable, ShortString};
use pinion_schemas::message::HEADER_SENT_MS;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use crate::error::PublishError;

/// AMQP's mark for a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// What is published, as often as it takes.
pub(super) struct Message {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    properties: Properties,
    pub(super) body: Vec<u8>,
}

enum Properties {
    /// Those of a job that was sent at this time since 1970.
    Job(Duration),
    Raw(Box<BasicProperties>),
}

impl Message {
    pub(super) fn job(exchange: &str, routing_key: String, body: Vec<u8>) -> Result<Message, PublishError> {
        let sent = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Message::new(exchange.to_owned(), routing_key, Properties::Job(sent), body)
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
        })
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

/// A message with the one who waits for it.
pub(super) struct Outgoing {
    pub(super) message: Arc<Message>,
    deadline: Instant,
    /// None when the answer was given: the time was over.
    answer: Option<Answer>,
    /// Held until the broker has settled the message, even where the answer was given before.
    _room: OwnedSemaphorePermit,
}

impl Outgoing {
    pub(super) fn new(message: Message, deadline: Instant, answer: Answer, room: OwnedSemaphorePermit) -> Outgoing {
        Outgoing { message: Arc::new(message), deadline, answer: Some(answer), _room: room }
    }

    /// Whether there is nobody left to answer: the answer was given, or the caller is gone.
    pub(super) fn is_over(&self) -> bool {
        match &self.answer {
            None => true,
            Some(Answer::One(answer)) => answer.is_closed(),
            Some(Answer::Batch(_, answers)) => answers.is_closed(),
        }
    }

    /// When its time is over; none if the answer was given.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.answer.is_some().then_some(self.deadline)
    }

    /// Gives the answer, unless it was given.
    pub(super) fn answer(&mut self, outcome: Result<(), PublishError>) {
        let sent = match self.answer.take() {
            None => true,
            Some(Answer::One(answer)) => answer.send(outcome).is_ok(),
            Some(Answer::Batch(index, answers)) => answers.send((index, outcome)).is_ok(),
        };
        if !sent {
            debug!("the caller was gone before the message's end");
        }
    }
}
