//! A change event: what Debezium tells of a changed row, in JSON, with its schema beside it or without.
//!
//! The shapes are those of Debezium's connectors for PostgreSQL, MariaDB and MySQL
//! (<https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-events>), and the flat ones
//! that its transformation `ExtractNewRecordState` makes of them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

/// What stands in the place of a large value that a change left as it was, where the table's replica identity does not
/// tell it: `unavailable.value.placeholder`'s default.
pub const UNAVAILABLE_VALUE: &str = "__debezium_unavailable_value";

/// An event of a change feed.
#[derive(Debug)]
pub enum Change<'a> {
    /// A row, or a whole table, was changed.
    Row(RowChange<'a>),
    /// A sign of life, a transaction's border, a changed table, a logical message: nothing that touches documents.
    Other(&'static str),
}

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A snapshot read it (`r`): it may have changed or not.
    Read,
    /// `c`.
    Create,
    /// `u`.
    Update,
    /// `d`.
    Delete,
    /// `t`: every row of the table is gone.
    Truncate,
}

impl Operation {
    /// As it is counted.
    pub fn word(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Create => "create",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Truncate => "truncate",
        }
    }
}

/// A changed row.
#[derive(Debug)]
pub struct RowChange<'a> {
    /// What happened.
    pub operation: Operation,
    /// The row before, as far as the table's replica identity tells it.
    pub before: Option<Row<'a>>,
    /// The row after.
    pub after: Option<Row<'a>>,
    /// Where and when.
    pub source: Origin<'a>,
}

/// The columns of a row that an event tells.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Row<'a>(#[serde(borrow)] BTreeMap<Cow<'a, str>, &'a RawValue>);

/// Where a change comes from.
#[derive(Debug, Default, Deserialize)]
pub struct Origin<'a> {
    /// When it was committed, in milliseconds since 1970.
    #[serde(default)]
    pub ts_ms: Option<u64>,
    /// The database of MariaDB and MySQL; PostgreSQL has a schema within it.
    #[serde(default, borrow)]
    pub db: Option<Cow<'a, str>>,
    /// PostgreSQL's schema.
    #[serde(default, borrow)]
    pub schema: Option<Cow<'a, str>>,
    /// The table.
    #[serde(default, borrow)]
    pub table: Option<Cow<'a, str>>,
    /// PostgreSQL's transaction, its lower 32 bits.
    #[serde(default, rename = "txId")]
    pub transaction: Option<u64>,
    /// MariaDB's or MySQL's transaction.
    #[serde(default, borrow)]
    pub gtid: Option<Cow<'a, str>>,
}

/// Why bytes are no change event.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// Not JSON; the text names line and column.
    #[error("the event is not JSON: {0}; is the connector's value.converter JsonConverter?")]
    NotJson(serde_json::Error),
    /// JSON of another shape.
    #[error("the event is not one of Debezium's: {0}")]
    NotAChange(serde_json::Error),
    /// A row's event without what is needed.
    #[error("the event has no {0}")]
    Missing(&'static str),
    /// An operation that is not known.
    #[error("the event's `op` {0:?} is not known")]
    Operation(String),
}

impl<'a> Row<'a> {
    /// The value of a column: `None` where the event does not tell it.
    pub fn get(&self, column: &str) -> Option<&'a RawValue> {
        self.0.get(column).copied().filter(|value| value.get().trim_matches('"') != UNAVAILABLE_VALUE)
    }
}

impl<'a> Row<'a> {
    /// The value of the only column.
    pub fn only(&self) -> Option<&'a RawValue> {
        match self.0.len() {
            1 => self.0.values().next().copied(),
            _ => None,
        }
    }
}

impl Origin<'_> {
    /// The table as watch rules name it: with its schema, or the database where there are no schemas.
    pub fn table(&self) -> Option<String> {
        let table = self.table.as_deref()?;
        match self.schema.as_deref().filter(|schema| !schema.is_empty()).or(self.db.as_deref()) {
            Some(schema) => Some(format!("{schema}.{table}")),
            None => Some(table.to_owned()),
        }
    }
}

/// Reads an event's value. A tombstone has none, and is not to be given here.
///
/// # Errors
/// The bytes are not JSON, or of no shape that Debezium writes.
pub fn decode(bytes: &[u8]) -> Result<Change<'_>, ChangeError> {
    let read = |error: serde_json::Error| {
        if error.is_data() { ChangeError::NotAChange(error) } else { ChangeError::NotJson(error) }
    };
    let outer: Outer<'_> = serde_json::from_slice(bytes).map_err(read)?;
    let written: Written<'_> = match outer.payload {
        // With its schema: `{"schema": …, "payload": …}`.
        Some(payload) if outer.schema.is_some() => serde_json::from_str(payload.get()).map_err(read)?,
        _ => serde_json::from_slice(bytes).map_err(read)?,
    };
    written.sort()
}

/// Reads an event's key: the columns of the row's key. `None` where it has none, or one that is not an object.
pub fn decode_key(bytes: &[u8]) -> Option<Row<'_>> {
    let outer: Outer<'_> = serde_json::from_slice(bytes).ok()?;
    match outer.payload {
        Some(payload) if outer.schema.is_some() => serde_json::from_str(payload.get()).ok(),
        _ => serde_json::from_slice(bytes).ok(),
    }
}

#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(default, borrow, deserialize_with = "given")]
    schema: Option<&'a RawValue>,
    #[serde(default, borrow)]
    payload: Option<&'a RawValue>,
}

/// A value that is there counts as given even where it is null: `"schema": null`.
fn given<'de: 'a, 'a, D: serde::Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// An envelope, or one of the other events, or neither.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(default)]
    op: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    before: Option<Row<'a>>,
    #[serde(default, borrow)]
    after: Option<Row<'a>>,
    #[serde(default, borrow)]
    source: Option<Origin<'a>>,
    /// Of a transaction's border.
    #[serde(default, borrow)]
    status: Option<&'a RawValue>,
    /// Of a changed table.
    #[serde(default, borrow, rename = "tableChanges")]
    table_changes: Option<&'a RawValue>,
}

impl<'a> Written<'a> {
    fn sort(self) -> Result<Change<'a>, ChangeError> {
        let Some(op) = self.op.as_deref() else {
            return match (self.table_changes, self.status) {
                (Some(_), _) => Ok(Change::Other("schema_change")),
                (None, Some(_)) => Ok(Change::Other("transaction")),
                (None, None) if self.before.is_none() && self.after.is_none() => Ok(Change::Other("heartbeat")),
                _ => Err(ChangeError::Missing("`op`")),
            };
        };
        let operation = match op {
            "r" => Operation::Read,
            "c" => Operation::Create,
            "u" => Operation::Update,
            "d" => Operation::Delete,
            "t" => Operation::Truncate,
            "m" => return Ok(Change::Other("message")),
            other => return Err(ChangeError::Operation(other.to_owned())),
        };
        let source = self.source.ok_or(ChangeError::Missing("`source`"))?;
        let image = match operation {
            Operation::Delete if self.before.is_none() => Some("`before`"),
            Operation::Read | Operation::Create | Operation::Update if self.after.is_none() => Some("`after`"),
            _ => None,
        };
        match image {
            Some(missing) => Err(ChangeError::Missing(missing)),
            None => Ok(Change::Row(RowChange { operation, before: self.before, after: self.after, source })),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Id, KeyType};

    const UPDATE: &str = r#"{"before":{"id":3,"status":"placed"},"after":{"id":3,"status":"paid","note":"__debezium_unavailable_value"},
        "source":{"version":"3.5.0.Final","connector":"postgresql","name":"shop","ts_ms":1700000000123,"snapshot":"false",
        "db":"shop","sequence":"[\"1\",\"2\"]","schema":"public","table":"orders","txId":771,"lsn":24023128,"xmin":null},
        "transaction":null,"op":"u","ts_ms":1700000000200}"#;

    fn row(text: &str) -> RowChange<'_> {
        match decode(text.as_bytes()) {
            Ok(Change::Row(row)) => row,
            other => panic!("{text} gives {other:?}"),
        }
    }

    fn refused(text: &str) -> String {
        decode(text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn both_images_of_an_update_are_told() {
        let change = row(UPDATE);
        assert_eq!(change.operation, Operation::Update);
        assert_eq!(change.source.table().as_deref(), Some("public.orders"));
        assert_eq!((change.source.ts_ms, change.source.transaction), (Some(1_700_000_000_123), Some(771)));
        let after = change.after.expect("an image");
        let id = after.get("id").map(|id| KeyType::Bigint.id_from_json(id));
        assert_eq!(id, Some(Ok(Id::Int(3))));
        assert!(after.get("note").is_none(), "a value that was not sent is not a value");
        assert!(after.get("other").is_none());
    }

    #[test]
    fn a_schema_beside_the_event_is_passed_over() {
        let with_schema = format!(r#"{{"schema":{{"type":"struct","fields":[]}},"payload":{UPDATE}}}"#);
        assert_eq!(row(&with_schema).operation, Operation::Update);
        assert_eq!(row(&format!(r#"{{"schema":null,"payload":{UPDATE}}}"#)).operation, Operation::Update);
    }

    #[test]
    fn a_table_of_mariadb_is_named_with_its_database() {
        let change = r#"{"before":null,"after":{"id":1},"source":{"db":"shop","table":"orders"},"op":"c"}"#;
        assert_eq!(row(change).source.table().as_deref(), Some("shop.orders"));
    }

    #[test]
    fn a_truncated_table_has_no_images() {
        let change = r#"{"before":null,"after":null,"source":{"schema":"public","table":"orders"},"op":"t"}"#;
        assert_eq!(row(change).operation, Operation::Truncate);
    }

    #[test]
    fn events_that_touch_no_document_are_known() {
        let cases = [
            (r#"{"ts_ms":1700000000000}"#, "heartbeat"),
            (r#"{"status":"BEGIN","id":"771:24023128","event_count":null,"ts_ms":1}"#, "transaction"),
            (r#"{"source":{"db":"shop"},"databaseName":"shop","ddl":"…","tableChanges":[]}"#, "schema_change"),
            (r#"{"op":"m","source":{"schema":"","table":""},"message":{"prefix":"pinion","content":""}}"#, "message"),
        ];
        for (text, expected) in cases {
            let Ok(Change::Other(found)) = decode(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_is_refused() {
        assert!(refused("Obj\u{1}avro").contains("JsonConverter"));
        assert!(refused("[1]").contains("not one of Debezium's"));
        assert!(refused(r#"{"op":"x","source":{}}"#).contains("\"x\""));
        assert!(refused(r#"{"op":"u","before":{"id":1},"source":{}}"#).contains("`after`"));
        assert!(refused(r#"{"op":"d","source":{}}"#).contains("`before`"));
        assert!(refused(r#"{"op":"c","after":{"id":1}}"#).contains("`source`"));
        assert!(refused(r#"{"after":{"id":1}}"#).contains("`op`"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = decode(&bytes).is_ok();
        }
    }
}
