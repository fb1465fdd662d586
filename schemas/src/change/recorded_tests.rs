//! What Debezium tells of the changes in tests/events/postgres-changes.sql and mariadb-changes.sql.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{Id, KeyType, Unit};

#[path = "../../tests/events/recorded.rs"]
mod recorded;

pub(super) use recorded::{Recorded, recorded};

const ENVELOPES: [&str; 4] = ["postgres-json", "postgres-json-with-schema", "mariadb-json", "mariadb-json-with-schema"];

fn change(event: &Recorded) -> Change<'static> {
    let told = event.value().map_or(Ok(Change::Tombstone), |value| decode(value.as_bytes(), Some(event.topic_table())));
    told.unwrap_or_else(|error| panic!("{error}: {event:?}"))
}

fn row(event: &Recorded) -> Option<RowChange<'static>> {
    match change(event) {
        Change::Row(row) => Some(*row),
        Change::Tombstone => None,
        Change::Other(kind) => panic!("a {kind}: {event:?}"),
    }
}

fn of_table(file: &str, table: &str) -> Vec<Recorded> {
    recorded(file).into_iter().filter(|event| event.table() == table).collect()
}

fn id(event: &Recorded) -> Option<Id> {
    let key = decode_key(event.key()?.as_bytes())?;
    Some(KeyType::Bigint.id_from_json(key.only()?).expect("an id"))
}

/// What each event of a table says, with one column of both images.
fn told(file: &str, table: &str, column: &str) -> Vec<String> {
    let value = |image: &Option<Row<'static>>| match image {
        Some(image) => image.get(column).map_or("not told", RawValue::get).to_owned(),
        None => "none".to_owned(),
    };
    let line = |event: &Recorded| {
        let id = id(event).map_or_else(|| "all".to_owned(), |id| id.to_string());
        match row(event) {
            Some(row) => format!("{} {id}: {}, {}", row.operation.word(), value(&row.before), value(&row.after)),
            None => format!("tombstone {id}"),
        }
    };
    of_table(file, table).iter().map(line).collect()
}

fn check(file: &str, table: &str, column: &str, expected: &[&str]) {
    let told = told(file, table, column);
    assert!(!told.is_empty(), "{file} {table}");
    // Of events with their schema the first of orders are kept.
    let kept = if file.ends_with("with-schema") && table == "orders" { 7 } else { expected.len() };
    assert_eq!(told, expected[..kept], "{file} {table}");
}

#[test]
fn a_table_whose_old_rows_are_not_told() {
    // The old status of a deleted row is made up.
    let expected = [
        r#"read 1: none, "placed""#,
        r#"create 2: none, "placed""#,
        r#"update 1: none, "paid""#,
        r#"create 3: none, "placed""#,
        r#"update 3: none, "placed""#,
        r#"delete 2: "", none"#,
        "tombstone 2",
        r#"create 20: none, "placed""#,
        r#"delete 3: "", none"#,
        "tombstone 3",
        r#"create 9223372036854775807: none, """#,
        r#"create -9223372036854775808: none, "last""#,
    ];
    for file in ["postgres-json", "postgres-json-with-schema", "postgres-flat"] {
        check(file, "orders", "status", &expected);
    }
}

#[test]
fn a_table_whose_old_rows_are_told() {
    let expected = [
        "read 1: none, 1",
        "create 11: none, 3",
        "create 12: none, 3",
        "update 1: 1, 2",
        "delete 12: 3, none",
        "tombstone 12",
        "create 120: none, 3",
        "delete 11: 3, none",
        "tombstone 11",
        "truncate all: none, none",
    ];
    for file in ["postgres-json", "postgres-json-with-schema"] {
        check(file, "items", "order_id", &expected);
    }
    // No truncate, and no row before but that of a delete.
    let flat: Vec<String> = expected[..9].iter().map(|line| line.replace(": 1, 2", ": none, 2")).collect();
    assert_eq!(told("postgres-flat", "items", "order_id"), flat);
}

#[test]
fn mariadb_tells_all_old_rows() {
    let orders = [
        r#"read 1: none, "placed""#,
        r#"create 2: none, "placed""#,
        r#"update 1: "placed", "paid""#,
        r#"create 3: none, "placed""#,
        r#"update 3: "placed", "placed""#,
        r#"delete 2: "placed", none"#,
        "tombstone 2",
        r#"create 20: none, "placed""#,
        r#"delete 3: "placed", none"#,
        "tombstone 3",
        r#"create 9223372036854775807: none, """#,
        r#"create -9223372036854775808: none, "last""#,
    ];
    let items = [
        "read 1: none, 1",
        "create 11: none, 3",
        "create 12: none, 3",
        "update 1: 1, 2",
        "delete 11: 3, none",
        "tombstone 11",
        "truncate all: none, none",
    ];
    for file in ["mariadb-json", "mariadb-json-with-schema"] {
        check(file, "orders", "status", &orders);
        check(file, "items", "order_id", &items);
    }
    let flat: Vec<String> = items[..6].iter().map(|line| line.replace(": 1, 2", ": none, 2")).collect();
    assert_eq!(told("mariadb-flat", "items", "order_id"), flat);
}

fn columns(image: Option<&Row<'static>>) -> BTreeMap<String, &'static str> {
    image.iter().flat_map(|row| row.columns()).map(|(name, value)| (name.to_owned(), value.get())).collect()
}

/// A snapshot is each connector's own; all later changes were told to all of them.
fn assert_same(one: &Recorded, other: &Recorded) {
    assert_eq!((one.key().is_some(), id(one)), (other.key().is_some(), id(other)), "{one:?} {other:?}");
    let (Some(one), Some(other)) = (row(one), row(other)) else {
        assert_eq!(one.value(), other.value(), "one of them is a tombstone");
        return;
    };
    assert_eq!((one.operation, one.source.table()), (other.operation, other.source.table()));
    assert_eq!(one.position(), other.position());
    if one.operation != Operation::Read {
        let place = |row: &RowChange<'static>| (row.source.transaction, row.source.gtid.clone(), row.source.ts_ms);
        assert_eq!(place(&one), place(&other));
        assert!(one.position() > Some(0) && one.source.ts_ms > Some(0), "{one:?}");
        assert!(one.source.transaction.is_some() || one.source.gtid.is_some(), "{one:?}");
    }
    assert_eq!(columns(one.after.as_ref()), columns(other.after.as_ref()));
    if !other.flat || one.operation == Operation::Delete {
        assert_eq!(columns(one.before.as_ref()), columns(other.before.as_ref()));
    }
}

#[test]
fn all_formats_tell_the_same_of_a_change() {
    for database in ["postgres", "mariadb"] {
        for (format, at_least) in [("json-with-schema", 18), ("flat", 22)] {
            let mut compared = 0;
            for table in ["orders", "items", "kinds", "large"] {
                let plain = of_table(&format!("{database}-json"), table);
                let others = of_table(&format!("{database}-{format}"), table);
                for (one, other) in plain.iter().zip(&others) {
                    assert_same(one, other);
                    compared += 1;
                }
            }
            assert!(compared >= at_least, "{compared} of {database}-{format}");
        }
    }
}

#[test]
fn the_rows_of_a_transaction_name_it() {
    for file in ["postgres-json", "postgres-flat", "mariadb-json", "mariadb-flat"] {
        let mut transactions = BTreeMap::<String, BTreeSet<String>>::new();
        for event in recorded(file) {
            let Some(row) = row(&event).filter(|row| row.operation != Operation::Read) else { continue };
            let transaction = row.source.transaction.map(|id| id.to_string()).or(row.source.gtid.map(Cow::into_owned));
            let change =
                format!("{} {} {:?}", row.operation.word(), event.table(), id(&event).map(|id| id.to_string()));
            transactions.entry(transaction.expect(file)).or_default().insert(change);
        }
        let with = |change: &str| transactions.values().find(|changes| changes.contains(change)).expect(change).clone();
        let expected = [
            r#"create items Some("11")"#,
            r#"create items Some("12")"#,
            r#"create orders Some("3")"#,
            r#"update orders Some("3")"#,
        ];
        assert_eq!(with(expected[0]), expected.map(str::to_owned).into(), "{file}");
        assert_eq!(with(r#"update orders Some("1")"#).len(), 1, "{file}");
        assert_eq!(
            with(r#"create orders Some("20")"#).len(),
            2,
            "a changed key is one row's end and another's beginning"
        );
    }
}

#[test]
fn positions_rise_for_each_row() {
    for file in ["postgres-json", "postgres-json-with-schema", "postgres-flat", "mariadb-json", "mariadb-flat"] {
        let mut last = BTreeMap::new();
        let mut risen = 0;
        for event in recorded(file) {
            let Some(row) = row(&event) else { continue };
            let position = row.position().unwrap_or_else(|| panic!("{file}: {row:?}"));
            assert_eq!(position == 0, row.operation == Operation::Read, "{file}: {row:?}");
            if let Some(before) = last.insert((event.table(), id(&event)), position) {
                assert!(position > before, "{file}: {row:?}");
                risen += 1;
            }
        }
        assert!(risen >= 4, "{file}: {risen}");
    }
}

#[test]
fn texts_come_as_they_are() {
    let postgres = "über \"quotes\" \\ 😀 𝄞\n\r\n\t\u{2028}\u{1} end";
    let mariadb = "über \"quotes\" \\ 😀 𝄞\n\r\n\t end";
    for (file, expected) in ENVELOPES
        .into_iter()
        .chain(["postgres-flat", "mariadb-flat"])
        .map(|file| (file, if file.starts_with("postgres") { postgres } else { mariadb }))
    {
        let events = of_table(file, "orders");
        let event = events.iter().find(|event| id(event) == Some(Id::Int(2))).expect("order 2");
        let note = row(event).and_then(|row| row.after?.get("note")).expect("a note");
        assert_eq!(serde_json::from_str::<String>(note.get()).expect("a text"), expected, "{file}");
    }
}

/// The large values of a row that was changed elsewhere: with the default identity, then with FULL.
#[test]
fn large_values_that_are_not_told_are_known() {
    for file in ["postgres-json", "postgres-json-with-schema", "postgres-flat"] {
        let images: Vec<_> = of_table(file, "large").iter().filter_map(|event| row(event)?.after).collect();
        let [inserted, changed, with_old_rows] = &images[..] else { panic!("{file}: {} events", images.len()) };
        let value = |row: &Row<'static>, column: &str| row.get(column).map(RawValue::get);
        let untold: BTreeSet<_> =
            changed.columns().map(|(name, _)| name).filter(|name| changed.get(name).is_none()).collect();
        let expected = ["filler", "t", "by", "jb", "x", "at", "ai", "ab", "au", "ad", "aj", "h"];
        assert_eq!(untold, expected.into(), "{file}");
        // Debezium has nothing that stands for these, and tells NULL: `pinion check` warns of it.
        let null = ["n", "bits", "af", "an", "az", "ao"];
        for (name, value_before) in inserted.columns() {
            assert_ne!(value_before.get(), "null", "{file} {name}");
            let told = value(changed, name);
            assert_eq!(told == Some("null"), null.contains(&name), "{file} {name}");
            let seen = name == "seen";
            assert_eq!(value(with_old_rows, name), Some(if seen { "2" } else { value_before.get() }), "{file} {name}");
        }
        assert_eq!(value(changed, "seen"), Some("1"), "{file}");
    }
}

#[test]
fn events_that_touch_no_document_are_known() {
    let kinds = |file: &str| {
        let mut kinds = BTreeMap::<&str, usize>::new();
        for event in recorded(file) {
            let value = event.value().expect("a value");
            let Ok(Change::Other(kind)) = decode(value.as_bytes(), None) else { panic!("{event:?}") };
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    };
    let [postgres, mariadb] = ["postgres-signs", "mariadb-signs"].map(kinds);
    assert_eq!(postgres.keys().copied().collect::<Vec<_>>(), ["heartbeat", "message", "transaction"]);
    assert_eq!(mariadb.keys().copied().collect::<Vec<_>>(), ["heartbeat", "schema_change", "transaction"]);
    assert!(postgres["transaction"] > 20 && postgres["message"] == 1, "{postgres:?}");
    assert!(mariadb["transaction"] > 20 && mariadb["schema_change"] == 2, "{mariadb:?}");
}

#[test]
fn schemas_tell_the_types_of_columns() {
    let types = |file: &str| {
        let event = of_table(file, "kinds")[0];
        let schema = schema(event.value().expect("a value").as_bytes()).expect("a schema");
        let mut types = crate::ColumnType::of_event(&serde_json::from_str(schema).expect("JSON"));
        types.retain(|_, kind| *kind != crate::ColumnType::Plain);
        types
    };
    use crate::ColumnType::*;
    let expected = |types: &[(&str, crate::ColumnType)]| -> BTreeMap<String, crate::ColumnType> {
        types.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone())).collect()
    };
    let postgres = [
        ("f4", Float),
        ("f8", Float),
        ("n", VariableScaleDecimal),
        ("n2", Decimal(2)),
        ("d", Date),
        ("tm", Time(Unit::Micro)),
        ("tmz", ZonedTime),
        ("ts", Timestamp(Unit::Micro)),
        ("ts3", Timestamp(Unit::Milli)),
        ("tz", ZonedTimestamp),
        ("iv", Interval),
        ("j", Json),
        ("jb", Json),
        ("ai", Array(Box::default())),
        ("at", Array(Box::default())),
        ("an", Array(Box::new(Decimal(2)))),
        ("p", Geometry),
        ("bits", Bits(10)),
    ];
    assert_eq!(types("postgres-json-with-schema"), expected(&postgres));
    let mariadb = [
        ("f4", Float),
        ("f8", Float),
        ("n2", Decimal(2)),
        ("n30", Decimal(10)),
        ("d", Date),
        ("tm", Time(Unit::Micro)),
        ("dt", Timestamp(Unit::Micro)),
        ("dt3", Timestamp(Unit::Milli)),
        ("ts", ZonedTimestamp),
        ("p", Geometry),
        ("bits", Bits(10)),
    ];
    assert_eq!(types("mariadb-json-with-schema"), expected(&mariadb));
}
