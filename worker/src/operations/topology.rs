//! What has to be on the broker: the exchange, the queues of each job, the delays.
//!
//! Exchange and job queues have no arguments but the queue's type, so that applications may declare them
//! the same way; limits come by the operator's policy. All of it over AMQP: no management API is needed.

use std::collections::BTreeSet;
use std::fmt;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ErrorKind, ExchangeKind};
use pinion_client::connection::in_time;
use pinion_schemas::Names;

use crate::config::Config;
use crate::pipeline::settle::LADDER_S;

/// An exchange or a queue.
#[derive(Debug, Clone, PartialEq)]
pub enum Declaration {
    /// A durable exchange without arguments.
    Exchange {
        /// Its name.
        name: String,
        /// `direct` or `fanout`.
        kind: ExchangeKind,
    },
    /// A durable quorum queue.
    Queue {
        /// Its name.
        name: String,
        /// Arguments besides the type.
        arguments: Vec<(&'static str, Argument)>,
        /// Exchange and routing key that it is bound to.
        binding: Option<(String, String)>,
    },
}

/// The value of a queue's argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// What the broker has of a declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Nothing of this name.
    Missing,
    /// The same.
    There,
    /// Something else of this name, in the broker's words.
    Different(String),
}

/// Why the broker can't be asked or does not obey.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] pinion_client::ConnectError),
    /// The user lacks a right.
    #[error("the user of [rabbitmq] lacks a right: {0}; give it configure, write and read on ^{1}")]
    Rights(String, String),
    /// Anything else.
    #[error("RabbitMQ: {0}")]
    Other(String),
}

/// Everything that has to be there, in the order in which it is made.
pub fn wanted(config: &Config, jobs: &[&str]) -> Vec<Declaration> {
    let names = &config.names;
    let mut declarations =
        vec![Declaration::Exchange { name: names.exchange().to_owned(), kind: ExchangeKind::Direct }];
    let delays_s: BTreeSet<u64> = LADDER_S.into_iter().chain([config.second_look_after().as_secs()]).collect();
    for delay_s in delays_s {
        declarations.extend(delay(names, delay_s));
    }
    for job in jobs {
        declarations.extend(queues(names, job));
    }
    declarations
}

/// The message waits in the queue, and goes on with the routing key that it came with.
fn delay(names: &Names, delay_s: u64) -> [Declaration; 2] {
    let name = names.delay(&format!("{delay_s}s"));
    let text = |value: &str| Argument::Text(value.to_owned());
    let arguments = vec![
        ("x-message-ttl", Argument::Number(i64::try_from(delay_s * 1000).unwrap_or(i64::MAX))),
        ("x-dead-letter-exchange", text(names.exchange())),
        // Without this a message could be lost on its way to the next queue; it needs reject-publish.
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ];
    let binding = Some((name.clone(), String::new()));
    [
        Declaration::Exchange { name: name.clone(), kind: ExchangeKind::Fanout },
        Declaration::Queue { name, arguments, binding },
    ]
}

fn queues(names: &Names, job: &str) -> [Declaration; 4] {
    let bound = |name: String, routing_key: String| Declaration::Queue {
        name,
        arguments: Vec::new(),
        binding: Some((names.exchange().to_owned(), routing_key)),
    };
    let own = |name: String| Declaration::Queue {
        name,
        // A policy's limit must refuse a message rather than drop an older one.
        arguments: vec![("x-overflow", Argument::Text("reject-publish".to_owned()))],
        binding: None,
    };
    [
        bound(names.queue(job), names.routing_key(job)),
        bound(names.low_queue(job), names.low_routing_key(job)),
        own(names.suspects_queue(job)),
        own(names.alone_queue(job)),
    ]
}

impl Declaration {
    /// Its name on the broker.
    pub fn name(&self) -> &str {
        match self {
            Self::Exchange { name, .. } | Self::Queue { name, .. } => name,
        }
    }
}

impl fmt::Display for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange { name, kind: ExchangeKind::Fanout } => write!(f, "exchange {name} (fanout)"),
            Self::Exchange { name, .. } => write!(f, "exchange {name} (direct)"),
            Self::Queue { name, arguments, binding } => {
                write!(f, "queue {name}")?;
                let delay = arguments.iter().find(|(key, _)| *key == "x-message-ttl");
                match (delay, binding) {
                    (Some((_, Argument::Number(delay_ms))), _) => {
                        write!(f, " (holds messages for {} s)", delay_ms / 1000)
                    }
                    (_, Some((_, routing_key))) => write!(f, " (routing key {routing_key})"),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// A connection to the broker for declarations.
pub struct Broker {
    connection: Connection,
    namespace: String,
}

impl Broker {
    /// Connects to the broker of the configuration.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect(config: &Config) -> Result<Self, BrokerError> {
        let rabbitmq = &config.rabbitmq;
        let connection = pinion_client::connect(rabbitmq.url.expose(), "pinion", rabbitmq.ca_file.as_deref()).await?;
        Ok(Self { connection, namespace: config.names.namespace().to_owned() })
    }

    /// A channel of its own: a refusal closes it.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn channel(&self) -> Result<Channel, BrokerError> {
        in_time(self.connection.create_channel()).await.map_err(|error| self.failure(&error))
    }

    /// What there is of `declaration`. Creates nothing: only what is there is declared again, to be compared.
    ///
    /// # Errors
    /// The broker is away, or the user may not ask.
    pub async fn look(&self, declaration: &Declaration) -> Result<Presence, BrokerError> {
        if let Err(error) = declare(&self.channel().await?, declaration, true).await {
            return match code(&error) {
                Some(NOT_FOUND) => Ok(Presence::Missing),
                _ => self.different(&error),
            };
        }
        let channel = self.channel().await?;
        match declare(&channel, declaration, false).await {
            Ok(()) => {
                close(channel).await;
                Ok(Presence::There)
            }
            Err(error) => self.different(&error),
        }
    }

    /// Makes it, and binds it. Doing it again changes nothing.
    ///
    /// # Errors
    /// The broker is away, the user may not, or there is something else of this name.
    pub async fn make(&self, declaration: &Declaration) -> Result<(), BrokerError> {
        let channel = self.channel().await?;
        declare(&channel, declaration, false).await.map_err(|error| self.failure(&error))?;
        close(channel).await;
        self.bind(declaration).await
    }

    /// Binds a queue that is there. Doing it again changes nothing.
    ///
    /// # Errors
    /// The broker is away, the user may not, or the queue or the exchange is missing.
    pub async fn bind(&self, declaration: &Declaration) -> Result<(), BrokerError> {
        let Declaration::Queue { name, binding: Some((exchange, routing_key)), .. } = declaration else {
            return Ok(());
        };
        let (name, exchange, routing_key) =
            (name.as_str().into(), exchange.as_str().into(), routing_key.as_str().into());
        let channel = self.channel().await?;
        let bound = channel.queue_bind(name, exchange, routing_key, QueueBindOptions::default(), FieldTable::default());
        in_time(bound).await.map_err(|error| self.failure(&error))?;
        close(channel).await;
        Ok(())
    }

    /// Ends the connection.
    pub async fn close(self) {
        if let Err(error) = in_time(self.connection.close(OK, "done".into())).await {
            tracing::debug!(%error, "the connection to RabbitMQ did not end in order");
        }
    }

    fn different(&self, error: &lapin::Error) -> Result<Presence, BrokerError> {
        match (code(error), error.kind()) {
            (Some(PRECONDITION_FAILED | RESOURCE_LOCKED), ErrorKind::ProtocolError(said)) => {
                Ok(Presence::Different(said.get_message().to_string()))
            }
            _ => Err(self.failure(error)),
        }
    }

    /// What an error of a channel means to an operator.
    pub fn failure(&self, error: &lapin::Error) -> BrokerError {
        match (code(error), error.kind()) {
            (Some(ACCESS_REFUSED), ErrorKind::ProtocolError(said)) => {
                BrokerError::Rights(said.get_message().to_string(), self.namespace.clone())
            }
            (_, ErrorKind::ProtocolError(said)) => BrokerError::Other(said.get_message().to_string()),
            _ => BrokerError::Other(error.to_string()),
        }
    }
}

// Reply codes of AMQP 0-9-1.
const OK: u16 = 200;
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
const PRECONDITION_FAILED: u16 = 406;

fn code(error: &lapin::Error) -> Option<u16> {
    if let ErrorKind::ProtocolError(error) = error.kind() { Some(error.get_id()) } else { None }
}

async fn declare(channel: &Channel, declaration: &Declaration, passive: bool) -> Result<(), lapin::Error> {
    match declaration {
        Declaration::Exchange { name, kind } => {
            let options = ExchangeDeclareOptions { passive, durable: true, ..Default::default() };
            let name = name.as_str().into();
            in_time(channel.exchange_declare(name, kind.clone(), options, FieldTable::default())).await
        }
        Declaration::Queue { name, arguments, .. } => {
            let options = QueueDeclareOptions { passive, durable: true, ..Default::default() };
            in_time(channel.queue_declare(name.as_str().into(), options, table(arguments))).await.map(|_| ())
        }
    }
}

fn table(arguments: &[(&'static str, Argument)]) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    for (key, value) in arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        table.insert((*key).into(), value);
    }
    table
}

async fn close(channel: Channel) {
    if let Err(error) = in_time(channel.close(OK, "done".into())).await {
        tracing::debug!(%error, "a channel did not end in order");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_topology() {
        let text = crate::config::ANNOTATED.replace("[worker]", "[worker]\ndocument_age_s_max = 20");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pinion.toml");
        std::fs::write(&file, text).expect("written");
        let config = Config::load(&file).expect("a configuration");
        let shown: Vec<String> = wanted(&config, &["orders"]).iter().map(ToString::to_string).collect();
        // A delay that is needed twice (60 s: a rung of the ladder, and the second look) is there once.
        insta::assert_snapshot!(shown.join("\n"), @r"
        exchange pinion (direct)
        exchange pinion.delay.1s (fanout)
        queue pinion.delay.1s (holds messages for 1 s)
        exchange pinion.delay.10s (fanout)
        queue pinion.delay.10s (holds messages for 10 s)
        exchange pinion.delay.60s (fanout)
        queue pinion.delay.60s (holds messages for 60 s)
        exchange pinion.delay.600s (fanout)
        queue pinion.delay.600s (holds messages for 600 s)
        queue pinion.orders (routing key orders)
        queue pinion.orders.low (routing key orders.low)
        queue pinion.orders.suspects
        queue pinion.orders.alone
        ");
    }
}
