//! A change event: what Debezium tells of a changed row, in JSON, with its schema beside it or without.
//!
//! The shapes are those of Debezium's connectors for PostgreSQL, MariaDB and MySQL
//! (<https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-events>), and the flat ones
//! that its transformation `ExtractNewRecordState` makes of them.

mod flat;

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

/// What stands in the place of a large value that a change left as it was, where the table's replica identity does not
/// tell it: `unavailable.value.placeholder`'s default.
pub const UNAVAILABLE_VALUE: &str = "__debezium_unavailable_value";

/// An event of a change feed.
#[derive(Debug)]
pub enum Change<'a> {
    /// A row, or a whole table, was changed.
    Row(Box<RowChange<'a>>),
    /// An empty value, for Kafka's compaction: the row with the message's key is gone. Where events are flattened nothing else
    /// may say so, see [`tombstone`]; an envelope's delete is followed by one.
    Tombstone,
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
    /// Whether the event is flattened: the row alone, without the one before.
    pub flat: bool,
}

/// The columns of a row that an event tells, in its order. Few enough that looking through them is faster than a map. Debezium
/// writes no name twice; of one that stands twice all the same the last is found, and both are [`columns`](Self::columns).
#[derive(Debug, Default)]
pub struct Row<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A column's name, which is borrowed unless something in it is escaped.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Row<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;

        impl<'de> Visitor<'de> for Columns {
            type Value = Row<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row<'de>, A::Error> {
                let mut columns = Vec::with_capacity(COLUMNS_EXPECTED);
                while let Some((Name(name), value)) = map.next_entry()? {
                    columns.push((name, value));
                }
                Ok(Row(columns))
            }
        }

        deserializer.deserialize_map(Columns)
    }
}

/// Room for as many columns is made at once.
const COLUMNS_EXPECTED: usize = 12;

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
    /// Where PostgreSQL's log has the change itself, before its commit.
    #[serde(default)]
    pub lsn: Option<u64>,
    /// The file of MariaDB's or MySQL's binary log, which ends with its number: `mysql-bin.000012`.
    #[serde(default, borrow)]
    pub file: Option<Cow<'a, str>>,
    /// And the place in it.
    #[serde(default)]
    pub pos: Option<u64>,
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
    /// Neither an envelope nor a sign of life, and no table is known that it may be a flattened row of.
    #[error(
        "the event is not one of Debezium's, and neither its topic (PREFIX.SCHEMA.TABLE) nor a field `__table` names a table \
         that it is a flattened row of: add.fields=op,table,schema,db,source.ts_ms,txId"
    )]
    NoTable,
    /// An operation that is not known.
    #[error("the event's `op` {0:?} is not known")]
    Operation(String),
}

impl<'a> Row<'a> {
    /// The value of a column: `None` where the event does not tell it.
    pub fn get(&self, column: &str) -> Option<&'a RawValue> {
        self.raw(column).filter(|value| !is_unavailable(value))
    }

    /// The same, told or not.
    fn raw(&self, column: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(name, _)| name == column).map(|(_, value)| *value)
    }
}

impl RowChange<'_> {
    /// Where the change stands among all changes of its row: of two that touch one row, the later has the higher number, since a
    /// row is locked until its change is committed. Between rows it means nothing, a change may be logged long before its commit.
    ///
    /// What a snapshot read has 0: it may lack a change that was logged before and committed after it, so it never stands in
    /// the way of one.
    pub fn position(&self) -> Option<u64> {
        const POS_BITS: u32 = 32;
        if self.operation == Operation::Read {
            return Some(0);
        }
        match (self.source.lsn, self.source.file.as_deref(), self.source.pos) {
            (Some(lsn), ..) => Some(lsn),
            (None, Some(file), Some(pos)) => {
                let number: u64 = file.rsplit('.').next()?.parse().ok()?;
                Some(number << POS_BITS | pos).filter(|_| pos >> POS_BITS == 0 && number >> (53 - POS_BITS) == 0)
            }
            _ => None,
        }
    }
}

impl<'a> Row<'a> {
    /// The columns with their names; those that begin with `_` are additions to the row.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        let columns = self.0.iter().map(|(name, value)| (&**name, *value));
        columns.filter(|(name, _)| !name.starts_with('_'))
    }

    /// Whether the event has the column, its value told or not.
    pub fn has(&self, column: &str) -> bool {
        self.raw(column).is_some()
    }

    /// The value of the only column.
    pub fn only(&self) -> Option<&'a RawValue> {
        match self.0[..] {
            [(_, value)] => Some(value),
            _ => None,
        }
    }
}

impl<'a> Origin<'a> {
    /// Of a topic's table, `SCHEMA.TABLE`.
    fn of_topic(table: &'a str) -> Self {
        let (schema, table) = table.split_once('.').unwrap_or_default();
        Self { schema: Some(schema.into()), table: Some(table.into()), ..Self::default() }
    }

    /// The table as watch rules name it: with its schema, or the database where there are no schemas.
    pub fn table(&self) -> Option<String> {
        let table = self.table.as_deref()?;
        match self.schema.as_deref().filter(|schema| !schema.is_empty()).or(self.db.as_deref()) {
            Some(schema) => Some(format!("{schema}.{table}")),
            None => Some(table.to_owned()),
        }
    }
}

/// Reads an event's value. `topic_table` is the table (`SCHEMA.TABLE`) that the name of
/// its topic tells, if it does: what is no envelope there is a flattened row.
///
/// # Errors
/// The bytes are not JSON, or of no shape that Debezium writes.
pub fn decode<'a>(bytes: &'a [u8], topic_table: Option<&'a str>) -> Result<Change<'a>, ChangeError> {
    // A converter with a schema and without a value writes null.
    let Some(fields) = payload(bytes)? else { return Ok(Change::Tombstone) };
    if fields.is_envelope() {
        return envelope(&fields);
    }
    if topic_table.is_some() || fields.has("__table") {
        return flat::decode(fields, topic_table);
    }
    let has = |field| fields.has(field);
    match () {
        () if has("tableChanges") => Ok(Change::Other("schema_change")),
        () if has("status") && has("event_count") => Ok(Change::Other("transaction")),
        () if has("ts_ms") && fields.0.iter().all(|(field, _)| field.starts_with("ts_")) => {
            Ok(Change::Other("heartbeat"))
        }
        () if has("before") || has("after") => Err(ChangeError::Missing("`op`")),
        () => Err(ChangeError::NoTable),
    }
}

/// What an empty value says by itself.
pub fn tombstone(topic_table: Option<&str>) -> RowChange<'_> {
    let source = topic_table.map(Origin::of_topic).unwrap_or_default();
    RowChange { operation: Operation::Delete, before: None, after: None, source, flat: true }
}

/// The schema beside an event, where there is one.
pub fn schema(bytes: &[u8]) -> Option<&str> {
    let fields: Row<'_> = serde_json::from_slice(bytes).ok()?;
    let schema = fields.raw("schema").filter(|schema| is_object(schema) && fields.has("payload"))?;
    Some(schema.get())
}

/// Whether a value says that it was left as it was and is not told. What stands for [`UNAVAILABLE_VALUE`] depends on the column's
/// type; for some types there is nothing, and the event tells NULL.
pub fn is_unavailable(value: &RawValue) -> bool {
    /// As text, in base64, in an array; its bytes in an array of numbers, a UUID made of it, the only pair of an hstore.
    const FORMS: [&str; 7] = [
        "\"__debezium_unavailable_value\"",
        "\"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==\"",
        "[\"__debezium_unavailable_value\"]",
        "[95,95,100,101,98,101,122,105,117,109,95,117,110,97,118,97,105,108,97,98,108,101,95,118,97,108,117,101]",
        "[\"b68a35a7-17ad-35b3-af2a-ae46edb4545a\"]",
        r#""{\"__debezium_unavailable_value\":\"__debezium_unavailable_value\"}""#,
        r#"{"__debezium_unavailable_value":"__debezium_unavailable_value"}"#,
    ];
    FORMS.contains(&value.get())
}

/// Reads an event's key: the columns of the row's key. `None` where it has none, or one that is not an object.
pub fn decode_key(bytes: &[u8]) -> Option<Row<'_>> {
    payload(bytes).ok().flatten()
}

/// The fields of an object; with its schema beside it, those of the payload: `{"schema": …, "payload": …}`. `None` for null.
fn payload(bytes: &[u8]) -> Result<Option<Row<'_>>, ChangeError> {
    let fields: Option<Row<'_>> = serde_json::from_slice(bytes).map_err(unreadable)?;
    let Some(fields) = fields else { return Ok(None) };
    match (fields.raw("schema"), fields.raw("payload")) {
        (Some(schema), Some(payload)) if fields.0.len() == 2 && (is_object(schema) || schema.get() == "null") => {
            read(payload)
        }
        _ => Ok(Some(fields)),
    }
}

fn read<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Result<T, ChangeError> {
    serde_json::from_str(value.get()).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> ChangeError {
    if error.is_data() { ChangeError::NotAChange(error) } else { ChangeError::NotJson(error) }
}

fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

impl<'a> Row<'a> {
    /// A row may have columns of these names; a column that holds an object is rare, two of them are no row.
    fn is_envelope(&self) -> bool {
        let is_object = |field| self.raw(field).is_some_and(is_object);
        self.has("op") && ["source", "before", "after"].into_iter().any(is_object)
    }

    /// A field of an envelope; null is as good as none.
    fn part<T: Deserialize<'a>>(&self, field: &str) -> Result<Option<T>, ChangeError> {
        self.raw(field).map_or(Ok(None), read)
    }
}

impl Operation {
    fn from_code(code: &str) -> Option<Self> {
        match code {
            "r" => Some(Operation::Read),
            "c" => Some(Operation::Create),
            "u" => Some(Operation::Update),
            "d" => Some(Operation::Delete),
            "t" => Some(Operation::Truncate),
            _ => None,
        }
    }
}

fn envelope<'a>(fields: &Row<'a>) -> Result<Change<'a>, ChangeError> {
    let op: Option<Cow<'_, str>> = fields.part("op")?;
    let operation = match op.as_deref() {
        Some("m") => return Ok(Change::Other("message")),
        Some(code) => Operation::from_code(code).ok_or_else(|| ChangeError::Operation(code.to_owned()))?,
        None => return Err(ChangeError::Missing("`op`")),
    };
    let source = fields.part("source")?.ok_or(ChangeError::Missing("`source`"))?;
    let (before, after): (Option<Row<'_>>, Option<Row<'_>>) = (fields.part("before")?, fields.part("after")?);
    let image = match operation {
        Operation::Delete if before.is_none() => Some("`before`"),
        Operation::Read | Operation::Create | Operation::Update if after.is_none() => Some("`after`"),
        _ => None,
    };
    match image {
        Some(missing) => Err(ChangeError::Missing(missing)),
        None => Ok(Change::Row(Box::new(RowChange { operation, before, after, source, flat: false }))),
    }
}

#[cfg(test)]
mod recorded_tests;
#[cfg(test)]
mod tests;
