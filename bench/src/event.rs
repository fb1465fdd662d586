//! Change events in Debezium's shape: one that it wrote, with other numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;

/// An event of the shop's orders, as Debezium wrote it.
const RECORDED: &str = include_str!("../event.json");

/// The fields that are different in each event, in both rows and wherever else they stand.
const FIELDS: [&str; 4] = ["id", "txId", "lsn", "ts_ms"];

/// What tells one event from another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    /// The order.
    pub(crate) id: i64,
    /// The lower 32 bits of the transaction.
    pub(crate) transaction: u32,
    /// Where the change stands in the log.
    pub(crate) lsn: u64,
    /// When it was committed, and seen by the connector.
    pub(crate) at_ms: u64,
}

impl Numbers {
    /// Of the event with that number, all but its order and its transaction.
    pub(crate) fn of(number: usize) -> Self {
        const LSN_FIRST: u64 = 73_675_056;
        const LSN_STEP: u64 = 200;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { id: 0, transaction: 0, lsn: LSN_FIRST + LSN_STEP * number as u64, at_ms: now.as_millis() as u64 }
    }
}

/// Makes events.
pub(crate) struct Template {
    key: Pieces,
    value: Pieces,
}

/// A text that is cut where one of [`FIELDS`] stands: what comes before it, and its place among them.
struct Pieces {
    cut: Vec<(&'static str, usize)>,
    rest: &'static str,
}

#[derive(Deserialize)]
struct Recorded {
    #[serde(borrow)]
    key: &'static RawValue,
    #[serde(borrow)]
    value: &'static RawValue,
}

impl Template {
    /// Out of the recorded event.
    pub(crate) fn recorded() -> Result<Self> {
        let Recorded { key, value } = serde_json::from_str(RECORDED).context("event.json")?;
        let template = Self { key: Pieces::of(key.get()), value: Pieces::of(value.get()) };
        let found = |field: usize| template.value.cut.iter().filter(|(_, cut)| *cut == field).count();
        let found: Vec<usize> = (0..FIELDS.len()).map(found).collect();
        ensure!(template.key.cut.len() == 1 && found == [2, 1, 1, 2], "event.json is not an update of an order");
        Ok(template)
    }

    /// Key and value of an event.
    pub(crate) fn event(&self, numbers: &Numbers) -> (String, String) {
        (self.key.with(numbers), self.value.with(numbers))
    }
}

impl Pieces {
    fn of(text: &'static str) -> Self {
        let mut pieces = Self { cut: Vec::new(), rest: text };
        while let Some((before, field, after)) = next_field(pieces.rest) {
            pieces.cut.push((before, field));
            pieces.rest = after;
        }
        pieces
    }

    fn with(&self, numbers: &Numbers) -> String {
        let Numbers { id, transaction, lsn, at_ms } = numbers;
        let texts: [String; FIELDS.len()] =
            [id.to_string(), transaction.to_string(), lsn.to_string(), at_ms.to_string()];
        let pieces = self.cut.iter().flat_map(|(before, field)| [*before, texts[*field].as_str()]);
        pieces.chain([self.rest]).collect()
    }
}

/// The first field whose value is a number: the text up to the number, which field it is, and the text after it.
fn next_field(text: &'static str) -> Option<(&'static str, usize, &'static str)> {
    let begins = FIELDS.iter().enumerate().flat_map(|(field, name)| {
        let quoted = format!("\"{name}\":");
        let found: Vec<usize> = text.match_indices(&quoted).map(|(at, _)| at + quoted.len()).collect();
        found.into_iter().map(move |at| (at, field))
    });
    let is_number = |at: &usize| text[*at..].starts_with(|first: char| first.is_ascii_digit());
    let (at, field) = begins.filter(|(at, _)| is_number(at)).min()?;
    let after = text[at..].trim_start_matches(|digit: char| digit.is_ascii_digit());
    Some((&text[..at], field, after))
}

#[cfg(test)]
mod tests {
    use pinion_schemas::change::{self, Change};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_event_is_the_recorded_one_with_other_numbers() {
        let template = Template::recorded().expect("event.json");
        let (key, value) = template.event(&Numbers { id: 7, transaction: 8, lsn: 9, at_ms: 10 });
        assert_eq!(key, r#"{"id":7}"#);
        let event: Value = serde_json::from_str(&value).expect("JSON");
        let of = |pointer: &str| event.pointer(pointer).cloned();
        assert_eq!([of("/before/id"), of("/after/id")], [Some(json!(7)), Some(json!(7))]);
        assert_eq!([of("/source/txId"), of("/source/lsn")], [Some(json!(8)), Some(json!(9))]);
        assert_eq!([of("/source/ts_ms"), of("/ts_ms")], [Some(json!(10)), Some(json!(10))]);
        assert_eq!(of("/after/total"), Some(json!("L/c=")), "everything else is as Debezium wrote it");
    }

    #[test]
    fn the_feed_takes_it_for_a_changed_order() {
        let template = Template::recorded().expect("event.json");
        let (_, value) = template.event(&Numbers { id: 7, transaction: 8, lsn: 9, at_ms: 10 });
        let Ok(Change::Row(row)) = change::decode(value.as_bytes(), None) else { panic!("{value}") };
        assert_eq!(row.operation.word(), "update");
        assert_eq!((row.source.table().as_deref(), row.source.transaction), (Some("public.orders"), Some(8)));
    }
}
