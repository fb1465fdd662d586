//! Which topics the change feed follows, and which source each belongs to.

use url::Url;

use super::{Config, Kafka, Secret};

/// What Debezium puts before `topic.prefix` in the name of the topic of its heartbeats.
const HEARTBEATS: &str = "__debezium-heartbeat.";

impl Config {
    /// What the sources' topics begin with, and the sources' names.
    pub fn topic_prefixes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.sources.iter().map(|(name, source)| (source.topic_prefix.as_deref().unwrap_or(name), name.as_str()))
    }

    /// What the topics of a source begin with.
    pub fn topic_prefix<'a>(&'a self, source: &'a str) -> &'a str {
        self.topic_prefixes().find(|(_, name)| *name == source).map_or(source, |(prefix, _)| prefix)
    }

    /// The source that a topic belongs to, its connector's heartbeats included; of prefixes that begin with each other, the
    /// longest counts.
    pub fn source_of(&self, topic: &str) -> Option<&str> {
        let heartbeats_of = topic.strip_prefix(HEARTBEATS);
        let fits = |prefix: &str| match heartbeats_of {
            Some(of) => of == prefix,
            None => topic.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')),
        };
        let fitting = self.topic_prefixes().filter(|(prefix, _)| fits(prefix));
        fitting.max_by_key(|(prefix, _)| prefix.len()).map(|(_, name)| name)
    }

    /// The table that a topic's name tells, with its schema: `PREFIX.SCHEMA.TABLE`.
    pub fn table_of<'t>(&self, topic: &'t str) -> Option<&'t str> {
        let source = self.source_of(topic)?;
        let (prefix, _) = self.topic_prefixes().find(|(_, name)| *name == source)?;
        topic.strip_prefix(prefix)?.strip_prefix('.').filter(|rest| rest.contains('.'))
    }

    /// The sources that the change feed follows.
    pub fn feed_sources(&self) -> impl Iterator<Item = &str> {
        self.feed_prefixes().map(|(_, name)| name)
    }

    /// The topics of the change feed, with those of the connectors' heartbeats; `*` stands for any text.
    pub fn feed_topics(&self) -> Vec<String> {
        let configured = self.kafka.iter().flat_map(|kafka| kafka.topics.iter().cloned());
        configured.chain(self.feed_prefixes().map(|(prefix, _)| format!("{HEARTBEATS}{prefix}"))).collect()
    }

    fn feed_prefixes(&self) -> impl Iterator<Item = (&str, &str)> {
        let topics: &[String] = self.kafka.as_ref().map_or(&[], |kafka| &kafka.topics);
        self.topic_prefixes().filter(|(_, name)| topics.iter().any(|topic| self.source_of(topic) == Some(name)))
    }

    pub(super) fn validate_feed(&self, kafka: &Kafka) -> Result<(), String> {
        if kafka.brokers.is_empty() {
            return Err("kafka.brokers: at least one broker is needed, such as \"127.0.0.1:9092\"".to_owned());
        }
        if kafka.topics.is_empty() {
            return Err("kafka.topics: at least one topic is needed, such as \"shop.public.*\"".to_owned());
        }
        let is_http = |address: &Secret| Url::parse(address.expose()).is_ok_and(|url| url.scheme().starts_with("http"));
        if kafka.registry.as_ref().is_some_and(|address| !is_http(address)) {
            return Err("kafka.registry: not an address such as \"http://127.0.0.1:8081\"".to_owned());
        }
        match kafka.topics.iter().find(|topic| self.source_of(topic).is_none()) {
            Some(topic) => {
                let prefixes: Vec<String> = self.topic_prefixes().map(|(prefix, _)| format!("{prefix}.")).collect();
                Err(format!(
                    "kafka.topics: {topic:?} is of no source: it has to begin with {}, or a source needs its topic_prefix",
                    prefixes.join(" or ")
                ))
            }
            None => Ok(()),
        }
    }
}

impl Kafka {
    /// Its numbers, with the least and the most that they can be.
    pub(super) fn bounds(&self) -> [(&'static str, u64, u64, u64); 3] {
        [
            ("kafka.fan_out_ids_per_s_max", u64::from(self.fan_out_ids_per_s_max), 1, 1_000_000),
            ("kafka.stall_s_max", self.stall_s_max, 1, 86_400),
            ("kafka.silence_s_max", self.silence_s_max, 0, 86_400),
        ]
    }
}
