//! What becomes of events that real connectors told: tests/events/postgres-changes.sql and mariadb-changes.sql are the changes.

use pinion_schemas::change::{Operation, Row, decode_key};
use pinion_schemas::{Id, JobDefinition};
use serde_json::{Value, json};

use super::recorded::{Told, told};
use super::touch::{Event, FanOut, Gap, Touch, touched};

fn value(json: Option<&[u8]>) -> Value {
    json.map(|json| serde_json::from_slice(json).expect("JSON")).unwrap_or_default()
}

/// Where two values differ, with both.
fn differences(path: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) if one.keys().eq(other.keys()) => {
            for (name, value) in one {
                differences(&format!("{path}.{name}"), value, &other[name], found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (number, value) in one.iter().enumerate() {
                differences(&format!("{path}[{number}]"), value, &other[number], found);
            }
        }
        _ if one == other => {}
        _ => found.push(format!("{path}: {one}, {other}")),
    }
}

/// An event without what is each connector's own: its name, when it saw the change; of a snapshot, which each takes by itself,
/// where it was taken. Whether it was one is told as NULL or, in Avro, as that field's default.
fn comparable(event: &Told) -> Value {
    let mut event = value(event.value.as_deref());
    let is_snapshot = event["op"] == "r";
    if let Some(fields) = event.as_object_mut() {
        fields.retain(|name, _| !name.starts_with("ts_"));
    }
    if let Some(source) = event["source"].as_object_mut() {
        let own = ["ts_ms", "ts_us", "ts_ns", "lsn", "txId", "sequence", "file", "pos"];
        source.retain(|name, _| {
            !(["name", "snapshot"].contains(&name.as_str()) || is_snapshot && own.contains(&name.as_str()))
        });
    }
    event
}

fn check_avro(database: &str, expected: &[&str]) {
    let (plain, avro) = (told(&format!("{database}-json")), told(&format!("{database}-avro")));
    assert_eq!(plain.len(), avro.len());
    assert!(plain.len() > 20, "{}", plain.len());
    let mut found = Vec::new();
    for (plain, avro) in plain.iter().zip(&avro) {
        assert_eq!((plain.topic_table, plain.value.is_some()), (avro.topic_table, avro.value.is_some()));
        let keys = [plain, avro].map(|event| value(event.key.as_deref()));
        assert_eq!(keys[0], keys[1]);
        let place = format!("{} {}", plain.table, keys[0]["id"]);
        differences(&place, &comparable(plain), &comparable(avro), &mut found);
    }
    assert_eq!(found, expected, "{database}");
}

/// But for what JSON has no number for, and what Apicurio's converter makes of NULL where the column has a default.
#[test]
fn avro_becomes_the_json_of_the_same_change() {
    check_avro(
        "postgres",
        &[
            r#"kinds 2.after.w: null, "word""#,
            r#"kinds 3.after.f4: "NaN", null"#,
            r#"kinds 3.after.f8: "-Infinity", null"#,
            r#"kinds 4.after.w: null, "word""#,
        ],
    );
    check_avro("mariadb", &[r#"kinds 2.after.w: null, "word""#, r#"kinds 4.after.w: null, "word""#]);
}

#[test]
fn the_registry_tells_the_types_that_a_schema_beside_the_event_tells() {
    for database in ["postgres", "mariadb"] {
        let types = |format: &str, table: &str| {
            let mut events = told(&format!("{database}-{format}")).into_iter();
            events.find(|event| event.table == table).and_then(|event| event.types).expect(table)
        };
        for table in ["orders", "items", "kinds"] {
            let (beside, registered) = (types("json-with-schema", table), types("avro", table));
            assert!(beside.len() >= 3, "{beside:?}");
            assert_eq!(beside, registered, "{database} {table}");
        }
    }
}

/// The shop's job for orders, with the recorded table of items.
fn jobs(items: &str) -> Vec<JobDefinition> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/shop");
    let loaded = pinion_schemas::load_jobs(&folder).expect("the shop's jobs");
    let mut job = loaded.into_iter().filter_map(|job| job.definition).find(|job| job.name == "orders").expect("orders");
    job.watch.retain(|watch| watch.table == "public.order_items");
    items.clone_into(&mut job.watch[0].table);
    vec![job]
}

/// What the changes of items touch, in their order: orders by their ids, `all` of them, and what is missing.
fn touches(file: &str, has_old_rows: bool) -> Vec<String> {
    let events = told(file);
    let items: Vec<&Told> = events.iter().filter(|event| event.table == "items").collect();
    let jobs = jobs(items.first().expect("items").topic_table);
    let word = |touch: Touch| match touch {
        Touch::Parent(0, Id::Int(id)) => id.to_string(),
        Touch::FanOut(FanOut::All(0), _) => "all".to_owned(),
        other => panic!("{other:?}"),
    };
    let of = |event: &&Told| {
        let change = event.row()?;
        let key: Option<Row<'_>> = event.key.as_deref().and_then(decode_key);
        assert_eq!(key.is_none(), change.operation == Operation::Truncate);
        let table = change.source.table()?;
        let event = Event { table: &table, change: &change, key: key.as_ref(), has_old_rows };
        let (touches, gaps) = touched(&jobs, "shop", &event);
        let words: Vec<String> =
            touches.into_iter().map(word).chain(gaps.iter().map(Gap::word).map(str::to_owned)).collect();
        Some(format!("{} {}", change.operation.word(), words.join(" ")))
    };
    items.iter().filter_map(of).collect()
}

#[test]
fn items_touch_the_orders_that_they_were_and_are_of() {
    let postgres = ["read 1", "create 3", "create 3", "update 1 2", "delete 3", "create 3", "delete 3", "truncate all"];
    for file in ["postgres-json", "postgres-json-with-schema", "postgres-avro"] {
        assert_eq!(touches(file, true), postgres, "{file}");
    }
    let mariadb = ["read 1", "create 3", "create 3", "update 1 2", "delete 3", "truncate all"];
    for file in ["mariadb-json", "mariadb-json-with-schema", "mariadb-avro"] {
        assert_eq!(touches(file, true), mariadb, "{file}");
    }
    // Flattened, the order that an item left is not told.
    let flat = ["read 1", "create 3", "create 3", "update 2 old_value_missing", "delete 3"];
    assert_eq!(touches("mariadb-flat", true), flat);
}

/// Where the old row can't be relied on, what it tells is not taken for the row's.
#[test]
fn an_old_row_that_may_be_made_up_is_a_gap() {
    let expected = [
        "read 1",
        "create 3",
        "create 3",
        "update 2 old_value_missing",
        "delete old_value_missing",
        "create 3",
        "delete old_value_missing",
        "truncate all",
    ];
    assert_eq!(touches("postgres-json", false), expected);
    // A deleted order's old status is indeed none that it ever had.
    let events = told("postgres-json");
    let deleted = events.iter().filter_map(Told::row).find(|row| row.operation == Operation::Delete).expect("a delete");
    let status = deleted.before.expect("an image").get("status").map(|status| status.get().to_owned());
    assert_eq!((deleted.source.table(), status), (Some("public.orders".to_owned()), Some(json!("").to_string())));
}
