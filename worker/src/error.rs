//! What can go wrong on the way of a batch, sorted by what is to be done about it.
//!
//! A retry class is a type here, never a test of a message's text.

use std::fmt;

/// A server that Pinion works with, as it is named to operators.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Service {
    /// The cluster of `[elasticsearch]`.
    Elasticsearch,
    /// The broker of `[rabbitmq]`.
    Rabbitmq,
    /// The schema registry of `[kafka]`.
    Registry,
    /// The database of `[sources.NAME]`.
    Source(String),
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elasticsearch => f.write_str("Elasticsearch"),
            Self::Rabbitmq => f.write_str("RabbitMQ"),
            Self::Registry => f.write_str("the schema registry"),
            Self::Source(name) => write!(f, "source {name}"),
        }
    }
}

/// Why a step did not do its work. The variant says who is at fault, and so what happens next.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// A server is away or refuses everybody: nothing is sent to it until it answers again.
    /// Never counts as an attempt.
    #[error("{service} is away: {reason}")]
    Away {
        /// Who does not answer.
        service: Service,
        /// What was seen.
        reason: String,
    },
    /// A server answers, but not to this request now (overload, a cancelled read, a lagging
    /// replica): the ids are fetched anew after a pause. Never counts as an attempt.
    #[error("{service}: {reason}")]
    Again {
        /// Who wants to be asked later.
        service: Service,
        /// What was seen.
        reason: String,
    },
    /// The whole job is broken (its index, its query, its rights): it is paused.
    #[error("{0}")]
    Job(String),
    /// One or more of the batch's documents spoil the request: it is split in halves until
    /// the one is alone, which is then a dead letter.
    #[error("{0}")]
    Documents(String),
}

impl Fault {
    /// What was seen, without who is at fault.
    pub fn reason(&self) -> &str {
        match self {
            Self::Away { reason, .. } | Self::Again { reason, .. } | Self::Job(reason) | Self::Documents(reason) => {
                reason
            }
        }
    }

    /// The short word that labels this fault in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Away { .. } => "away",
            Self::Again { .. } => "again",
            Self::Job(_) => "job",
            Self::Documents(_) => "documents",
        }
    }
}
