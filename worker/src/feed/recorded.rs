//! Events of real connectors as the pipeline has them behind [`format`](super::format): JSON, and the types of columns that
//! come with it. For tests.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pinion_schemas::ColumnType;
use pinion_schemas::change::{self, Change, RowChange};
use serde_json::value::RawValue;

use self::files::Recorded;
use super::avro::{self, AvroSchema};
use super::format::ColumnTypes;

#[path = "../../../schemas/tests/events/recorded.rs"]
mod files;

/// A recorded event.
pub(crate) struct Told {
    pub(crate) table: &'static str,
    /// The table with its schema or database.
    pub(crate) topic_table: &'static str,
    pub(crate) key: Option<Vec<u8>>,
    /// `None`: a tombstone.
    pub(crate) value: Option<Vec<u8>>,
    /// From the registry, or the schema beside the event.
    pub(crate) types: Option<Arc<ColumnTypes>>,
}

impl Told {
    /// The changed row; `None` of a tombstone.
    pub(crate) fn row(&self) -> Option<RowChange<'_>> {
        match change::decode(self.value.as_deref()?, Some(self.topic_table)) {
            Ok(Change::Row(row)) => Some(*row),
            other => panic!("{} gives {other:?}", String::from_utf8_lossy(self.value.as_deref()?)),
        }
    }
}

/// The events of a format: `postgres-json`, `mariadb-avro`, …
pub(crate) fn told(file: &str) -> Vec<Told> {
    let schemas = match file {
        "postgres-avro" => schemas(include_str!("../../../schemas/tests/events/postgres-avro-schemas.jsonl")),
        "mariadb-avro" => schemas(include_str!("../../../schemas/tests/events/mariadb-avro-schemas.jsonl")),
        _ => HashMap::new(),
    };
    files::recorded(file).iter().map(|event| read(event, &schemas)).collect()
}

fn read(event: &Recorded, schemas: &HashMap<u32, AvroSchema>) -> Told {
    let (table, topic_table) = (event.table(), event.topic_table());
    let [(key, _), (value, registered)] = [event.key(), event.value()].map(|part| match part {
        Some(part) if part.starts_with('"') => avro(part.trim_matches('"'), schemas),
        part => (part.map(|json| json.as_bytes().to_vec()), None),
    });
    let beside = || {
        let schema = serde_json::from_str(change::schema(value.as_deref()?)?).ok()?;
        Some(Arc::new(ColumnType::of_event(&schema)))
    };
    let types = registered.or_else(beside);
    Told { table, topic_table, key, value, types }
}

fn avro(base64: &str, schemas: &HashMap<u32, AvroSchema>) -> (Option<Vec<u8>>, Option<Arc<ColumnTypes>>) {
    let bytes = STANDARD.decode(base64).expect("base64");
    let (id, datum) = avro::split(&bytes).expect("a schema's number");
    let schema = &schemas[&id];
    (Some(schema.to_json(datum).expect("a datum")), Some(schema.types().clone()))
}

fn schemas(file: &str) -> HashMap<u32, AvroSchema> {
    #[derive(serde::Deserialize)]
    struct Registered<'a> {
        id: u32,
        #[serde(borrow)]
        schema: &'a RawValue,
    }
    let read = |line| {
        let Registered { id, schema } = serde_json::from_str(line).expect("a registered schema");
        (id, AvroSchema::parse(schema.get()).expect("a schema"))
    };
    file.lines().map(read).collect()
}
