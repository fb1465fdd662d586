//! Which documents does a changed row touch? The watch rules of the jobs, applied to an event. Pure.

use std::fmt;

use pinion_schemas::change::{Operation, Row, RowChange};
use pinion_schemas::{Id, IdError, JobDefinition, WatchRule};
use serde_json::value::RawValue;

/// Something that a changed row touches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Touch {
    /// The row's own document, of the job with this number: the rule's column is the row's key.
    Own(usize, Id),
    /// A document that the row is a part of, with any number of others.
    Parent(usize, Id),
    /// Many documents, from the changed row's key, as JSON; empty where it is of no matter.
    FanOut(FanOut, String),
}

/// Documents that have to be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum FanOut {
    /// Those that a rule's query finds: the number of the job, and of its rule.
    Rule { job: usize, watch: usize },
    /// All that the index of the job with this number has: a table was truncated.
    All(usize),
    /// The same once more, when nothing that was read before can still arrive.
    AllAgain(usize),
}

/// What an event does not tell and a rule needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// The old row's column: whichever document it belonged to stays as it is.
    OldValue(String),
    /// A flattened event has no old row; of its column the same.
    OldRow(String),
    /// The row's key, of one column.
    Key,
    /// Which transaction it was.
    Transaction,
    /// The column's value is no id of the job.
    Id(String, IdError),
}

/// A changed row, and what is needed to judge what its event tells.
pub(super) struct Event<'a> {
    /// The table, as watch rules name it.
    pub(super) table: &'a str,
    /// The event.
    pub(super) change: &'a RowChange<'a>,
    /// The message's key.
    pub(super) key: Option<&'a Row<'a>>,
    /// Whether the table's replica identity is FULL. Without it the old row tells its key alone: of a deleted row, Debezium
    /// makes up the rest.
    pub(super) has_old_rows: bool,
}

impl<'a> Event<'a> {
    fn old(&self, column: &str) -> Option<&'a RawValue> {
        let told = self.change.before.as_ref().filter(|_| self.has_old_rows);
        self.key.and_then(|key| key.get(column)).or_else(|| told?.get(column))
    }

    /// Whether the column alone is the row's key, so that no two rows have the same value.
    fn is_key(&self, column: &str) -> bool {
        self.key.is_some_and(|key| key.only().is_some() && key.get(column).is_some())
    }
}

impl Gap {
    /// The word that it is counted under.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::OldValue(_) | Self::OldRow(_) => "old_value_missing",
            Self::Transaction => "transaction_missing",
            Self::Key => "key_missing",
            Self::Id(..) => "wrong_id",
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OldValue(column) => write!(
                f,
                "the old row's {column} is not told, its document may stay as it was: ALTER TABLE … REPLICA IDENTITY FULL"
            ),
            Self::OldRow(column) => write!(
                f,
                "a flattened event does not tell the old row's {column}, its document may stay as it was: leave \
                 ExtractNewRecordState out for this table"
            ),
            Self::Transaction => f.write_str(
                "a flattened event does not tell its transaction, all that are in progress are waited for: add.fields=txId",
            ),
            Self::Key => f.write_str("the row has no key of one column, which a rule with `sql` is asked with"),
            Self::Id(column, error) => write!(f, "{column}: {error}"),
        }
    }
}

/// What an event of `source` touches, and what it leaves open.
pub(super) fn touched(jobs: &[JobDefinition], source: &str, event: &Event<'_>) -> (Vec<Touch>, Vec<Gap>) {
    let Event { table, change, key, .. } = *event;
    let (mut touches, mut gaps) = (Vec::new(), Vec::new());
    for (number, job) in jobs.iter().enumerate().filter(|(_, job)| job.source == source) {
        for (watch, rule) in job.watch.iter().enumerate().filter(|(_, watch)| watch.table == *table) {
            match &rule.rule {
                _ if change.operation == Operation::Truncate => {
                    touches.push(Touch::FanOut(FanOut::All(number), String::new()))
                }
                WatchRule::Key(column) => {
                    for found in ids(job, column, event) {
                        match found {
                            Ok(id) if event.is_key(column) => touches.push(Touch::Own(number, id)),
                            Ok(id) => touches.push(Touch::Parent(number, id)),
                            Err(gap) => gaps.push(gap),
                        }
                    }
                }
                WatchRule::Sql(_) => match key.and_then(Row::only) {
                    Some(key) => {
                        let rule = FanOut::Rule { job: number, watch };
                        touches.push(Touch::FanOut(rule, key.get().to_owned()));
                    }
                    None => gaps.push(Gap::Key),
                },
            }
        }
    }
    touches.dedup();
    (touches, gaps)
}

/// The column's values in both images: a moved child touches both of its parents.
fn ids(job: &JobDefinition, column: &str, event: &Event<'_>) -> Vec<Result<Id, Gap>> {
    let new = event.change.after.as_ref().and_then(|row| row.get(column));
    let old = match event.change.operation {
        Operation::Update | Operation::Delete => match event.old(column) {
            Some(old) => Some(old),
            None => {
                let gap = if event.change.flat { Gap::OldRow } else { Gap::OldValue };
                return [Err(gap(column.to_owned()))].into_iter().chain(id(job, column, new)).collect();
            }
        },
        Operation::Create | Operation::Read | Operation::Truncate => None,
    };
    let moved = !matches!((old, new), (Some(old), Some(new)) if old.get() == new.get());
    id(job, column, old).into_iter().chain(id(job, column, new.filter(|_| moved))).collect()
}

fn id(job: &JobDefinition, column: &str, value: Option<&RawValue>) -> Option<Result<Id, Gap>> {
    let value = value.filter(|value| value.get() != "null")?;
    Some(job.key.id_from_json(value).map_err(|error| Gap::Id(column.to_owned(), error)))
}

#[cfg(test)]
mod tests {
    use pinion_schemas::change::{Change, decode, decode_key};

    use super::*;

    fn jobs() -> Vec<JobDefinition> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/shop");
        let loaded = pinion_schemas::load_jobs(&folder).expect("the shop's jobs");
        let mut jobs: Vec<_> = loaded.into_iter().filter_map(|job| job.definition).collect();
        jobs.retain(|job| job.name == "orders");
        jobs
    }

    /// Of a table with whole old rows, or without.
    fn of(has_old_rows: bool, event: &str, key: &str) -> (Vec<Touch>, Vec<Gap>) {
        let Ok(Change::Row(change)) = decode(event.as_bytes(), Some("public.orders")) else { panic!("{event}") };
        let key = decode_key(key.as_bytes());
        let table = change.source.table().expect("a table");
        touched(&jobs(), "shop", &Event { table: &table, change: &change, key: key.as_ref(), has_old_rows })
    }

    fn event(table: &str, op: &str, before: &str, after: &str) -> String {
        format!(r#"{{"op":"{op}","before":{before},"after":{after},"source":{{"schema":"public","table":"{table}"}}}}"#)
    }

    fn own(id: i64) -> Touch {
        Touch::Own(0, Id::Int(id))
    }

    fn parent(id: i64) -> Touch {
        Touch::Parent(0, Id::Int(id))
    }

    #[test]
    fn a_moved_item_touches_both_orders() {
        let moved = event("order_items", "u", r#"{"id":1,"order_id":7}"#, r#"{"id":1,"order_id":8}"#);
        assert_eq!(of(true, &moved, r#"{"id":1}"#), (vec![parent(7), parent(8)], vec![]));
        let stayed = event("order_items", "u", r#"{"id":1,"order_id":7}"#, r#"{"id":1,"order_id":7}"#);
        assert_eq!(of(true, &stayed, r#"{"id":1}"#), (vec![parent(7)], vec![]));
    }

    #[test]
    fn without_the_old_row_its_parent_is_a_gap() {
        let moved = event("order_items", "u", "null", r#"{"id":1,"order_id":8}"#);
        assert_eq!(of(false, &moved, r#"{"id":1}"#), (vec![parent(8)], vec![Gap::OldValue("order_id".to_owned())]));
        let deleted = event("order_items", "d", r#"{"id":1,"order_id":0}"#, "null");
        assert_eq!(of(false, &deleted, r#"{"id":1}"#), (vec![], vec![Gap::OldValue("order_id".to_owned())]));
    }

    #[test]
    fn the_key_tells_what_the_old_row_does_not() {
        let changed = event("orders", "u", "null", r#"{"id":3,"status":"paid"}"#);
        assert_eq!(of(false, &changed, r#"{"id":3}"#), (vec![own(3)], vec![]));
        let deleted = event("orders", "d", r#"{"id":3}"#, "null");
        assert_eq!(of(false, &deleted, r#"{"schema":{},"payload":{"id":3}}"#), (vec![own(3)], vec![]));
    }

    #[test]
    fn a_row_that_has_its_parent_s_key_is_its_own() {
        let delivered = event("deliveries", "u", "null", r#"{"order_id":4,"rider":"r"}"#);
        assert_eq!(of(false, &delivered, r#"{"order_id":4}"#), (vec![own(4)], vec![]));
        let one_of_two = event("deliveries", "c", "null", r#"{"order_id":4,"rider":"r"}"#);
        assert_eq!(of(false, &one_of_two, r#"{"order_id":4,"rider":"r"}"#), (vec![parent(4)], vec![]));
    }

    #[test]
    fn a_customer_fans_out_by_its_key() {
        let renamed = event("customers", "u", "null", r#"{"id":5,"name":"New"}"#);
        let (touches, gaps) = of(false, &renamed, r#"{"id":5}"#);
        assert!(matches!(&touches[..], [Touch::FanOut(FanOut::Rule { job: 0, .. }, key)] if key == "5"), "{touches:?}");
        assert_eq!(gaps, vec![]);
        assert_eq!(of(false, &renamed, r#"{"a":1,"b":2}"#), (vec![], vec![Gap::Key]));
    }

    #[test]
    fn a_truncated_table_touches_all_documents() {
        assert_eq!(
            of(true, &event("order_items", "t", "null", "null"), "null").0,
            vec![Touch::FanOut(FanOut::All(0), String::new())]
        );
    }

    #[test]
    fn a_value_of_another_type_is_a_gap() {
        let wrong = event("orders", "c", "null", r#"{"id":"x"}"#);
        assert!(matches!(&of(false, &wrong, "null").1[..], [Gap::Id(column, _)] if column == "id"));
    }
}
