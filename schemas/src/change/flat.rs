//! Flattened events: the row at the top level, as Debezium's transformation `ExtractNewRecordState` leaves it, with what
//! `add.fields` adds under names that begin with `__`.

use std::borrow::Cow;

use serde::Deserialize;

use super::{Change, ChangeError, Operation, Origin, Row, RowChange};

/// The row's event. Without `__op` it counts as an update, of which the least is known.
pub(super) fn decode<'a>(row: Row<'a>, topic_table: Option<&'a str>) -> Result<Change<'a>, ChangeError> {
    let op: Option<Cow<'a, str>> = added(&row, "op")?;
    let is_deleted = added::<Cow<'a, str>>(&row, "deleted")?.is_some_and(|deleted| deleted == "true");
    let operation = match op.as_deref() {
        _ if is_deleted => Operation::Delete,
        Some(code) => Operation::from_code(code).ok_or_else(|| ChangeError::Operation(code.to_owned()))?,
        None => Operation::Update,
    };
    let mut source = topic_table.map(Origin::of_topic).unwrap_or_default();
    if let Some(table) = added(&row, "table")? {
        source.table = Some(table);
        // The topic may have been renamed: then its schema is none.
        if let Some(place) = added(&row, "schema")?.or(added(&row, "db")?) {
            source.schema = Some(place);
        }
    }
    // `__ts_ms` is when Debezium saw the change.
    source.ts_ms = row.part("__source_ts_ms")?;
    source.transaction = added(&row, "txId")?;
    source.gtid = added(&row, "gtid")?;
    source.lsn = added(&row, "lsn")?;
    source.file = added(&row, "file")?;
    source.pos = added(&row, "pos")?;
    // Of a deleted row the transformation gives the image before, as far as it is known.
    let (before, after) = if operation == Operation::Delete { (Some(row), None) } else { (None, Some(row)) };
    Ok(Change::Row(Box::new(RowChange { operation, before, after, source, flat: true })))
}

/// A field that `add.fields` adds, with its structure's name or without: `txId`, `source.txId`.
fn added<'a, T: Deserialize<'a>>(row: &Row<'a>, field: &str) -> Result<Option<T>, ChangeError> {
    match row.part(&format!("__{field}"))? {
        Some(value) => Ok(Some(value)),
        None => row.part(&format!("__source_{field}")),
    }
}
