//! The events in this folder, for the unit tests of several crates, which include this file by its path. tests/events/record.sh
//! recorded them.

use serde_json::value::RawValue;

const FILES: [(&str, &str); 10] = [
    ("postgres-json", include_str!("postgres-json.jsonl")),
    ("postgres-json-with-schema", include_str!("postgres-json-with-schema.jsonl")),
    ("postgres-avro", include_str!("postgres-avro.jsonl")),
    ("postgres-flat", include_str!("postgres-flat.jsonl")),
    ("postgres-signs", include_str!("postgres-signs.jsonl")),
    ("mariadb-json", include_str!("mariadb-json.jsonl")),
    ("mariadb-json-with-schema", include_str!("mariadb-json-with-schema.jsonl")),
    ("mariadb-avro", include_str!("mariadb-avro.jsonl")),
    ("mariadb-flat", include_str!("mariadb-flat.jsonl")),
    ("mariadb-signs", include_str!("mariadb-signs.jsonl")),
];

/// A message of Kafka: JSON to the byte as it was, Avro as a text in base64.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
pub(crate) struct Recorded {
    pub(crate) topic: &'static str,
    #[serde(borrow)]
    key: Option<&'static RawValue>,
    #[serde(borrow)]
    value: Option<&'static RawValue>,
}

impl Recorded {
    /// The table that the topic's name tells.
    pub(crate) fn topic_table(&self) -> &'static str {
        self.topic.split_once('.').expect("a table's topic").1
    }

    /// The table alone.
    pub(crate) fn table(&self) -> &'static str {
        self.topic_table().rsplit('.').next().expect("a table")
    }

    pub(crate) fn key(&self) -> Option<&'static str> {
        self.key.map(RawValue::get)
    }

    pub(crate) fn value(&self) -> Option<&'static str> {
        self.value.map(RawValue::get)
    }
}

/// The events of a file, each table's in their order.
pub(crate) fn recorded(file: &str) -> Vec<Recorded> {
    let found = FILES.iter().find(|(name, _)| *name == file);
    let (_, text) = found.unwrap_or_else(|| panic!("no recording is called {file}"));
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{file}: {error}"))).collect()
}
