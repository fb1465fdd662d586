use proptest::prelude::*;

use super::recorded_tests::recorded;
use super::*;
use crate::{Id, KeyType};

const UPDATE: &str = r#"{"before":{"id":3,"status":"placed"},"after":{"id":3,"status":"paid","note":"__debezium_unavailable_value"},
    "source":{"version":"3.5.0.Final","connector":"postgresql","name":"shop","ts_ms":1700000000123,"snapshot":"false",
    "db":"shop","sequence":"[\"1\",\"2\"]","schema":"public","table":"orders","txId":771,"lsn":24023128,"xmin":null},
    "transaction":null,"op":"u","ts_ms":1700000000200}"#;

fn row(text: &str) -> RowChange<'_> {
    match decode(text.as_bytes(), None) {
        Ok(Change::Row(row)) => *row,
        other => panic!("{text} gives {other:?}"),
    }
}

fn refused(text: &str) -> String {
    decode(text.as_bytes(), None).expect_err(text).to_string()
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
        let _outcome = decode(&bytes, Some("public.orders")).is_ok();
    }

    /// Events that are torn, or changed somewhere: what is still read as a row gives its values without a panic, too.
    #[test]
    fn no_changed_event_panics(
        event in prop::sample::select(messages()),
        at in any::<prop::sample::Index>(),
        gone in 0_usize..20,
        added in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..12),
            r#"null|\{\}|\[\]|"",|-1e999|"\\ud800"|:|,|"op":"x",|"after":null,|"source":7,"#.prop_map(String::into_bytes),
        ],
        // Of events with their schema little else is changed otherwise.
        in_payload in any::<bool>(),
    ) {
        let first = event.find("\"payload\":").filter(|_| in_payload).unwrap_or(0);
        let at = first + at.index(event.len() - first);
        let mut bytes = event.as_bytes().to_vec();
        bytes.splice(at..(at + gone).min(event.len()), added);
        for table in [None, Some("public.orders")] {
            if let Ok(Change::Row(row)) = decode(&bytes, table) {
                let _place = (row.source.table(), row.position());
                for (_, value) in row.before.iter().chain(&row.after).flat_map(Row::columns) {
                    let _ids = [KeyType::Bigint, KeyType::Uuid, KeyType::Text].map(|key| key.id_from_json(value).is_ok());
                }
            }
        }
        let _key = decode_key(&bytes).is_some_and(|key| key.only().is_some());
        let _types = schema(&bytes).and_then(|schema| Some(crate::ColumnType::of_event(&serde_json::from_str(schema).ok()?)));
        let _torn = decode(&bytes[..at], None).is_ok();
    }
}

/// Whole events to be changed: keys and values of real connectors, and those of this file.
fn messages() -> Vec<&'static str> {
    let ours = [UPDATE, FLAT, r#"{"schema":{"fields":[]},"payload":{"op":"d","before":{"id":1},"source":{}}}"#];
    let files = ["json", "json-with-schema", "flat", "signs"]
        .map(|format| [format!("postgres-{format}"), format!("mariadb-{format}")]);
    let events = files.iter().flatten().flat_map(|file| recorded(file));
    ours.into_iter().chain(events.flat_map(|event| [event.key(), event.value()]).flatten()).collect()
}

const FLAT: &str = r#"{"id":1,"status":"paid","before":5,"__deleted":"false","__op":"c","__table":"orders","__schema":"sales",
    "__db":"shop","__source_ts_ms":1700000000123,"__txId":771,"__lsn":9}"#;

fn flat(text: &str) -> RowChange<'_> {
    match decode(text.as_bytes(), Some("public.orders")) {
        Ok(Change::Row(row)) => *row,
        other => panic!("{text} gives {other:?}"),
    }
}

#[test]
fn a_flattened_row_tells_what_was_added_to_it() {
    let change = flat(
        r#"{"id":1,"status":"paid","before":5,"op":"x","__deleted":"false","__op":"c","__table":"orders","__schema":"sales",
           "__db":"shop","__source_ts_ms":1700000000123,"__ts_ms":1,"__txId":771,"__lsn":9}"#,
    );
    assert_eq!((change.operation, change.flat), (Operation::Create, true));
    assert_eq!(change.source.table().as_deref(), Some("sales.orders"));
    assert_eq!((change.source.ts_ms, change.source.transaction), (Some(1_700_000_000_123), Some(771)));
    assert_eq!(change.after.expect("a row").get("status").map(|status| status.get()), Some("\"paid\""));

    let named = flat(r#"{"id":1,"__op":"u","__source_table":"orders","__source_db":"shop","__source_txId":7}"#);
    assert_eq!((named.source.table().as_deref(), named.source.transaction), (Some("shop.orders"), Some(7)));
}

#[test]
fn a_flattened_row_without_added_fields_is_of_its_topics_table() {
    let change = flat(r#"{"id":1,"status":"paid","event_count":1,"tableChanges":"a"}"#);
    assert_eq!((change.operation, change.source.transaction), (Operation::Update, None));
    assert_eq!(change.source.table().as_deref(), Some("public.orders"));
    let deleted = flat(r#"{"id":1,"__deleted":"true"}"#);
    assert_eq!((deleted.operation, deleted.after.is_none()), (Operation::Delete, true));
    assert!(deleted.before.is_some_and(|row| row.get("id").is_some()));
    let gone = tombstone(Some("public.orders"));
    assert_eq!((gone.operation, gone.source.table().as_deref()), (Operation::Delete, Some("public.orders")));
}

#[test]
fn an_envelope_is_one_whatever_its_topic() {
    let Ok(Change::Row(change)) = decode(UPDATE.as_bytes(), Some("other.table")) else { panic!("{UPDATE}") };
    assert_eq!((change.source.table().as_deref(), change.flat), (Some("public.orders"), false));
}

#[test]
fn a_row_without_a_table_is_refused() {
    assert!(refused(r#"{"id":1,"status":"paid"}"#).contains("__table"));
    assert!(refused(r#"{"ts_ms":1,"id":1}"#).contains("__table"));
    let Ok(Change::Row(row)) = decode(br#"{"id":1,"__table":"orders"}"#, None) else { panic!("a row") };
    assert_eq!(row.source.table().as_deref(), Some("orders"));
}

#[test]
fn nothing_is_a_tombstone() {
    for text in ["null", r#"{"schema":{"type":"struct"},"payload":null}"#] {
        assert!(matches!(decode(text.as_bytes(), Some("public.orders")), Ok(Change::Tombstone)), "{text}");
    }
    assert!(decode_key(b"null").is_none());
}

#[test]
fn a_change_stands_among_those_of_its_row() {
    let position = |text: &str| row(text).position();
    assert_eq!(position(UPDATE), Some(24_023_128));
    assert_eq!(position(&UPDATE.replace("\"op\":\"u\"", "\"op\":\"r\"")), Some(0), "a snapshot's");
    let logged = |source: &str| position(&format!(r#"{{"op":"c","after":{{"id":1}},"source":{{{source}}}}}"#));
    assert_eq!(logged(r#""file":"mariadb-bin.000012","pos":345,"gtid":"0-1-2""#), Some((12 << 32) + 345));
    assert_eq!(logged(r#""file":"mariadb-bin.000012""#), None);
    assert_eq!(logged(r#""file":"bin","pos":1"#), None);
    assert_eq!(logged(r#""file":"bin.3000000","pos":1"#), None, "more than a version holds");
    assert_eq!(flat(r#"{"id":1,"__op":"u","__lsn":7}"#).position(), Some(7));
}

#[test]
fn values_that_are_not_told_are_known_in_every_form() {
    let event = r#"{"op":"u","source":{},"after":{"a":"__debezium_unavailable_value","b":"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
        "c":["__debezium_unavailable_value"],"d":"x","_e":1}}"#;
    let after = row(event).after.expect("an image");
    let told: Vec<&str> = after.columns().filter(|(name, _)| after.get(name).is_some()).map(|(name, _)| name).collect();
    assert_eq!((told, after.columns().count()), (vec!["d"], 4));
}

#[test]
fn the_schema_beside_an_event_is_found() {
    assert_eq!(schema(br#"{"schema":{"type":"struct"},"payload":{"id":1}}"#), Some(r#"{"type":"struct"}"#));
    assert_eq!(schema(br#"{"schema":"public","id":1}"#), None);
}
