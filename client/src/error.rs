//! Why a message could not be published.

use thiserror::Error;

/// Why a message could not be published. Its texts never contain the password of the broker's URL.
#[derive(Clone, Debug, Error)]
pub enum PublishError {
    /// The broker has no queue for it. It answered, and dropped the message.
    #[error(
        "no queue takes what is published to the exchange {exchange:?} with the routing key {routing_key:?}: \
         is the job's name right, and was it set up with `pinion apply`?"
    )]
    Unroutable {
        /// The exchange.
        exchange: String,
        /// The routing key.
        routing_key: String,
    },
    /// The broker answered that it did not take it: a queue is full and refuses, or its disk or its quorum fails.
    #[error("the broker did not take the message: a queue is at its limit, or the broker has a fault of its own")]
    Rejected,
    /// The broker forbids this message, and said why: no right to write, a property that it does not accept.
    #[error("the broker refuses the message: {text} (code {code})")]
    Refused {
        /// AMQP's reply code.
        code: u16,
        /// The broker's own words.
        text: String,
    },
    /// No answer within the time. The message may have arrived.
    #[error("the broker did not confirm the message within {waited_ms} ms; it may have it all the same")]
    TimedOut {
        /// The time that was waited.
        waited_ms: u64,
    },
    /// The broker has an alarm, of its memory or its disk, and takes nothing until it is over. The message may arrive then.
    #[error("the broker blocks publishers, for {waited_ms} ms and more: {reason}")]
    Blocked {
        /// The time that was waited.
        waited_ms: u64,
        /// The broker's own words, such as `low on memory`.
        reason: String,
    },
    /// The broker was away for the whole time.
    #[error("the broker was not available for {waited_ms} ms: {reason}")]
    Unavailable {
        /// The time that was waited.
        waited_ms: u64,
        /// What the last attempt to connect said.
        reason: String,
    },
    /// Larger than a message may be.
    #[error("the message has {bytes} bytes, {max} are allowed: send fewer ids in one message")]
    TooLarge {
        /// The message's size.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// A job that no worker would understand.
    #[error("the job is not valid: {0}")]
    Invalid(String),
    /// The publisher was closed.
    #[error("the publisher is closed")]
    Closed,
}

impl PublishError {
    /// Whether the same message may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            PublishError::Rejected
            | PublishError::TimedOut { .. }
            | PublishError::Blocked { .. }
            | PublishError::Unavailable { .. } => true,
            PublishError::Unroutable { .. }
            | PublishError::Refused { .. }
            | PublishError::TooLarge { .. }
            | PublishError::Invalid(_)
            | PublishError::Closed => false,
        }
    }
}
