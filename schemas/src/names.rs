//! What Pinion's things are called on the broker and in Elasticsearch, all of it derived from one namespace.

use std::sync::Arc;

use thiserror::Error;

/// The namespace where the configuration names none.
pub const NAMESPACE_DEFAULT: &str = "pinion";

/// At most this many bytes in a namespace.
pub const NAMESPACE_BYTES_MAX: usize = 41;

/// At most this many bytes in a job's name: queue names (255 bytes in AMQP) and index names are made of it.
pub const JOB_NAME_BYTES_MAX: usize = 100;

/// The names of one namespace. Two namespaces live side by side on the same servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    namespace: Arc<str>,
}

/// A namespace that breaks the rule `[a-z][a-z0-9_-]*`, at most [`NAMESPACE_BYTES_MAX`] bytes.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{given:?} is no namespace: it starts with a letter a-z and goes on with a-z, 0-9, _ and -, \
     {NAMESPACE_BYTES_MAX} characters at most"
)]
pub struct NameError {
    /// What was given.
    pub given: String,
}

/// The indexes in which Pinion keeps what operators read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateIndex {
    /// Jobs that could not be done, with the reason.
    DeadLetters,
    /// The generation and the highest position of each source.
    Sources,
    /// The workers' heartbeats.
    Workers,
    /// What holds for a job on all workers, such as a pause.
    Jobs,
    /// What was found when an index was compared with its source.
    Verifications,
}

impl StateIndex {
    /// Every state index.
    pub const ALL: [StateIndex; 5] = [
        StateIndex::DeadLetters,
        StateIndex::Sources,
        StateIndex::Workers,
        StateIndex::Jobs,
        StateIndex::Verifications,
    ];

    fn suffix(self) -> &'static str {
        match self {
            StateIndex::DeadLetters => "dead-letters",
            StateIndex::Sources => "sources",
            StateIndex::Workers => "workers",
            StateIndex::Jobs => "jobs",
            StateIndex::Verifications => "verify",
        }
    }
}

impl Default for Names {
    fn default() -> Names {
        Names { namespace: NAMESPACE_DEFAULT.into() }
    }
}

impl Names {
    /// The names of a namespace, which must fit `[a-z][a-z0-9_-]{0,40}`.
    pub fn new(namespace: &str) -> Result<Names, NameError> {
        if is_plain_name(namespace) && namespace.len() <= NAMESPACE_BYTES_MAX {
            Ok(Names { namespace: namespace.into() })
        } else {
            Err(NameError { given: namespace.to_owned() })
        }
    }

    /// The namespace itself.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The direct exchange that every job is published to.
    pub fn exchange(&self) -> &str {
        &self.namespace
    }

    /// The queue of a job's live lane.
    pub fn queue(&self, job: &str) -> String {
        format!("{}.{job}", self.namespace)
    }

    /// The queue of a job's low lane: rebuilds and fan-outs.
    pub fn low_queue(&self, job: &str) -> String {
        format!("{}.{job}.low", self.namespace)
    }

    /// The queue of the messages that came back more than once, read with nothing but each other.
    pub fn suspects_queue(&self, job: &str) -> String {
        format!("{}.{job}.suspects", self.namespace)
    }

    /// The queue of the suspects that came back from there, too, read one at a time.
    pub fn alone_queue(&self, job: &str) -> String {
        format!("{}.{job}.alone", self.namespace)
    }

    /// The routing key of the live lane: the job's name.
    pub fn routing_key(&self, job: &str) -> String {
        job.to_owned()
    }

    /// The routing key of the low lane.
    pub fn low_routing_key(&self, job: &str) -> String {
        format!("{job}.low")
    }

    /// The fanout exchange, and the queue behind it, of one delay. `step` says how long, such as `5s`.
    pub fn delay(&self, step: &str) -> String {
        format!("{}.delay.{step}", self.namespace)
    }

    /// The name of a state index.
    pub fn state_index(&self, kind: StateIndex) -> String {
        format!("{}-{}", self.namespace, kind.suffix())
    }

    /// The index template of a job.
    pub fn template(&self, job: &str) -> String {
        format!("{}-{job}", self.namespace)
    }
}

/// Whether this can be a job's name: `[a-z][a-z0-9_-]*`, at most [`JOB_NAME_BYTES_MAX`] bytes.
pub fn valid_job_name(name: &str) -> bool {
    is_plain_name(name) && name.len() <= JOB_NAME_BYTES_MAX
}

fn is_plain_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_derive_from_the_namespace() {
        let names = Names::new("shop_a").expect("a valid namespace");
        assert_eq!(names.exchange(), "shop_a");
        assert_eq!(names.queue("orders"), "shop_a.orders");
        assert_eq!(names.low_queue("orders"), "shop_a.orders.low");
        assert_eq!(names.suspects_queue("orders"), "shop_a.orders.suspects");
        assert_eq!(names.alone_queue("orders"), "shop_a.orders.alone");
        assert_eq!(names.routing_key("orders"), "orders");
        assert_eq!(names.low_routing_key("orders"), "orders.low");
        assert_eq!(names.delay("5s"), "shop_a.delay.5s");
        assert_eq!(names.template("orders"), "shop_a-orders");
        let state = StateIndex::ALL.map(|kind| names.state_index(kind));
        assert_eq!(state, ["shop_a-dead-letters", "shop_a-sources", "shop_a-workers", "shop_a-jobs", "shop_a-verify"]);
        assert_eq!(Names::default().exchange(), "pinion");
    }

    #[test]
    fn a_namespace_is_checked() {
        for good in ["p", "pinion", "a-1_b", &"a".repeat(41)] {
            assert!(Names::new(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "A", "aB", "a.b", "a b", "ä", &"a".repeat(42)] {
            let error = Names::new(bad).expect_err(bad);
            assert_eq!(error.given, bad);
        }
    }

    #[test]
    fn a_job_name_is_checked() {
        assert!(valid_job_name("orders"));
        assert!(valid_job_name(&"a".repeat(100)));
        for bad in ["", "Orders", "orders.low", "0orders", "orders\0", &"a".repeat(101)] {
            assert!(!valid_job_name(bad), "{bad:?}");
        }
    }
}
