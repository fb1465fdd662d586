//! Documents of events that real connectors told: tests/events has the tables and the changes.

use std::collections::BTreeMap;

use pinion_schemas::JobDefinition;
use serde_json::value::RawValue;

use super::document::{Defect, document};
use crate::feed::recorded::{Told, told};

/// What a schema does not tell.
const BESIDE_SCHEMAS: [(&str, &str); 3] = [("c", "Char"), ("u8", "Unsigned"), ("h", "Json")];
/// What events tell without a schema, besides.
const WITHOUT_SCHEMAS: [(&str, &str); 28] = [
    ("f4", "Float"),
    ("f8", "Float"),
    ("n", "VariableScaleDecimal"),
    ("n2", "Decimal(2)"),
    ("n30", "Decimal(10)"),
    ("d", "Date"),
    ("tm", "MicroTime"),
    ("tmz", "ZonedTime"),
    ("dt", "MicroTimestamp"),
    ("dt3", "Timestamp"),
    ("ts", "MicroTimestamp"),
    ("ts3", "Timestamp"),
    ("tz", "ZonedTimestamp"),
    ("iv", "Interval"),
    ("j", "Json"),
    ("jb", "Json"),
    ("an", "Decimal(2)[]"),
    ("p", "Geometry"),
    ("bits", "Bits(10)"),
    ("x", "Plain"),
    ("af", "Float[]"),
    ("ad", "Date[]"),
    ("az", "ZonedTimestamp[]"),
    ("aj", "Json[]"),
    ("ao", "Plain"),
    ("ai", "Plain"),
    ("at", "Plain"),
    ("au", "Plain"),
];

fn job(columns: &[(&str, &str)]) -> JobDefinition {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/shop/orders");
    let mut job = pinion_schemas::load_job(&folder).0.expect("the shop's job");
    job.columns = columns.iter().map(|(name, kind)| ((*name).to_owned(), kind.parse().expect(kind))).collect();
    job
}

/// The images of a table's rows as they were after each change.
fn documents(file: &str, table: &str) -> Vec<Result<BTreeMap<String, String>, Defect>> {
    let mut columns = BESIDE_SCHEMAS.to_vec();
    if file.ends_with("-json") || file.ends_with("-flat") {
        columns.extend(WITHOUT_SCHEMAS);
        // MariaDB's events tell that it is a moment, PostgreSQL's that it is none.
        columns.extend(file.starts_with("mariadb").then_some(("ts", "ZonedTimestamp")));
        // And MariaDB's json is a text.
        columns.extend(file.starts_with("mariadb").then_some(("j", "Plain")));
    }
    // In this table it is a `bit varying` without a limit.
    columns.extend((table == "large").then_some(("bits", "Bits(2147483647)")));
    let job = job(&columns);
    let of = |event: &Told| {
        let change = event.row()?;
        Some(document(&job, event.types.as_deref(), change.after.as_ref()?).map(|json| fields(&json)))
    };
    let found: Vec<_> = told(file).iter().filter(|event| event.table == table).filter_map(of).collect();
    assert!(!found.is_empty(), "{file} {table}");
    found
}

/// Each field's JSON. A text may be written with other escapes, a floating-point number with other letters: they are put in one form.
fn fields(document: &[u8]) -> BTreeMap<String, String> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(document).expect("a document");
    let form = |name: &str, json: &str| match json.as_bytes()[0] {
        b'"' => serde_json::from_str::<serde_json::Value>(json).expect("a text").to_string(),
        b'-' | b'0'..=b'9' if name.starts_with('f') => json.parse::<f64>().expect("a number").to_string(),
        _ => json.to_owned(),
    };
    fields
        .into_iter()
        .map(|(name, json)| {
            let json = form(&name, json.get());
            (name, json)
        })
        .collect()
}

/// The first three rows of `kinds`, column by column; of the fourth all but the id is NULL.
fn check(database: &str, expected: &[(&str, [&str; 3])]) {
    let file = |format: &str| format!("{database}-{format}");
    let rows: Vec<_> =
        documents(&file("json-with-schema"), "kinds").into_iter().map(|row| row.expect("a document")).collect();
    assert_eq!(rows.len(), 4);
    for (column, values) in expected {
        for (row, value) in rows.iter().zip(values) {
            assert_eq!(row.get(*column).map(String::as_str), Some(*value), "{database} {column} of {}", row["id"]);
        }
    }
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).chain(["id"]).collect();
    assert_eq!(
        rows[0].keys().filter(|name| !names.contains(&name.as_str())).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    assert_eq!(rows[3].iter().filter(|(_, value)| *value != "null").map(|(name, _)| name).collect::<Vec<_>>(), ["id"]);

    for format in ["json", "flat"] {
        let others: Vec<_> =
            documents(&file(format), "kinds").into_iter().map(|row| row.expect("a document")).collect();
        assert_eq!(others, rows, "{database} {format}");
    }
    // In Avro a NULL is told as the column's default.
    let mut with_default = rows;
    for number in [1, 3] {
        assert_eq!(with_default[number].insert("w".to_owned(), "\"word\"".to_owned()).as_deref(), Some("null"));
    }
    let avro: Vec<_> = documents(&file("avro"), "kinds").into_iter().map(|row| row.expect("a document")).collect();
    assert_eq!(avro, with_default, "{database} in Avro");
}

#[test]
fn values_of_postgresql() {
    let far = format!("\"POINT (-1{} 0)\"", "0".repeat(300));
    let large = f64::MAX.to_string();
    check(
        "postgres",
        &[
            ("i2", ["2", "32767", "-32768"]),
            ("i4", ["3", "2147483647", "-2147483648"]),
            ("i8", ["4", "9223372036854775807", "-9223372036854775808"]),
            ("b", ["true", "false", "false"]),
            ("f4", ["1.5", "340282350000000000000000000000000000000", "null"]),
            ("f8", ["2.5", &large, "null"]),
            ("n", ["123.4567890123456789", "123456789012345678901234567890.0000000001", "null"]),
            ("n2", ["12345.60", "99999999.99", "-99999999.99"]),
            ("t", [r#""text""#, "\"😀 𝄞 ä\\n\\r\\t\\\"\\\\\u{2028}\\u0001\"", r#""""#]),
            ("w", [r#""other""#, "null", r#""""#]),
            ("c", [r#""c""#, r#""ä""#, r#""""#]),
            ("by", [r#""AP8Q""#, r#""""#, "null"]),
            ("d", [r#""2024-02-29""#, r#""9999-12-31""#, "null"]),
            ("tm", [r#""12:34:56.789012""#, r#""24:00:00.000""#, r#""00:00:00.000""#]),
            ("tmz", [r#""10:34:56.789+00:00""#, r#""15:58:59.999999+00:00""#, r#""08:01:00.000+00:00""#]),
            ("ts", [r#""2024-02-29T12:34:56.789012""#, r#""9999-12-31T23:59:59.999999""#, "null"]),
            ("ts3", [r#""2024-02-29T12:34:56.789""#, r#""9999-12-31T23:59:59.999""#, "null"]),
            ("tz", [r#""2024-02-29T10:34:56.789012Z""#, r#""9999-12-31T23:59:59.999999Z""#, "null"]),
            ("iv", [r#""P1Y2M3DT4H5M6.789S""#, r#""P99Y9M4DT-0.25S""#, r#""PT0S""#]),
            ("j", [r#"{"a": [1, null]}"#, r#""😀""#, "null"]),
            ("jb", [r#"{"b": {"c": 1.50}}"#, "9007199254740993", "{}"]),
            (
                "u",
                [
                    r#""6f1c1f5e-0000-4000-8000-000000000001""#,
                    r#""ffffffff-ffff-ffff-ffff-ffffffffffff""#,
                    r#""00000000-0000-0000-0000-000000000000""#,
                ],
            ),
            ("e", [r#""happy""#, r#""sad""#, r#""sad""#]),
            ("ai", ["[1,2,null]", "[]", "[-2147483648,2147483647]"]),
            ("at", [r#"["a","b c",null]"#, "[]", r#"["",null]"#]),
            ("an", ["[1.50,2.25]", "[-0.01]", "[]"]),
            ("p", [r#""POINT (1.5 2.5)""#, &far, r#""POINT (0 0)""#]),
            ("bits", [r#""1010101011""#, r#""0000000000""#, r#""1111111111""#]),
        ],
    );
}

#[test]
fn values_of_mariadb() {
    let far = format!("\"POINT (-1{} 0)\"", "0".repeat(300));
    let large = f64::MAX.to_string();
    let low = f64::MIN.to_string();
    check(
        "mariadb",
        &[
            ("i1", ["2", "127", "-128"]),
            ("b", ["1", "0", "0"]),
            ("u4", ["3", "4294967295", "0"]),
            ("u8", ["4", "18446744073709551615", "0"]),
            ("f4", ["1.5", "340000000000000000000000000000000000000", "-340000000000000000000000000000000000000"]),
            ("f8", ["2.5", &large, &low]),
            ("n2", ["12345.60", "99999999.99", "-99999999.99"]),
            ("n30", ["123.4567890123", "99999999999999999999.9999999999", "-99999999999999999999.9999999999"]),
            ("t", [r#""text""#, "\"😀 𝄞 ä\\n\\r\\t\\\"\\\\\"", r#""""#]),
            ("w", [r#""other""#, "null", r#""""#]),
            ("c", [r#""c""#, r#""ä""#, r#""""#]),
            ("by_", [r#""AP8Q""#, r#""""#, "null"]),
            ("bi", [r#""AP8AAA==""#, r#""/////w==""#, r#""AAAAAA==""#]),
            ("d", [r#""2024-02-29""#, r#""9999-12-31""#, r#""1000-01-01""#]),
            ("tm", [r#""12:34:56.789012""#, r#""838:59:59.000""#, r#""-838:59:59.000""#]),
            (
                "dt",
                [r#""2024-02-29T12:34:56.789012""#, r#""9999-12-31T23:59:59.999999""#, r#""1000-01-01T00:00:00.000""#],
            ),
            ("dt3", [r#""2024-02-29T12:34:56.789""#, r#""9999-12-31T23:59:59.999""#, r#""1969-12-31T23:59:59.999""#]),
            (
                "ts",
                [
                    r#""2024-02-29T10:34:56.789012Z""#,
                    r#""2038-01-19T03:14:07.999999Z""#,
                    r#""1970-01-01T00:00:01.000Z""#,
                ],
            ),
            ("y", ["2024", "2155", "1901"]),
            ("j", [r#""{\"a\":\n[1, null]}""#, r#""\"😀\"""#, r#""null""#]),
            (
                "u",
                [
                    r#""6f1c1f5e-0000-4000-8000-000000000001""#,
                    r#""ffffffff-ffff-ffff-ffff-ffffffffffff""#,
                    r#""00000000-0000-0000-0000-000000000000""#,
                ],
            ),
            ("e", [r#""happy""#, r#""sad""#, r#""happy""#]),
            ("s", [r#""a,c""#, r#""""#, r#""a,b,c""#]),
            ("p", [r#""POINT (1.5 2.5)""#, &far, r#""POINT (0 0)""#]),
            ("bits", [r#""1010101011""#, r#""0000000000""#, r#""1111111111""#]),
        ],
    );
}

/// A change that leaves large values as they are makes no document, unless the table tells whole old rows.
#[test]
fn no_document_has_what_stands_for_a_value() {
    for format in ["json", "json-with-schema", "avro", "flat"] {
        let rows = documents(&format!("postgres-{format}"), "large");
        let [Ok(inserted), Err(Defect::Missing(column)), Ok(changed)] = &rows[..] else { panic!("{format}: {rows:?}") };
        assert_eq!(column, "filler", "the first of them in the table");
        let bits = format!("\"{}\"", "1".repeat(400));
        let expected = [
            ("bits", &*bits),
            ("ai", "[1,2,3,4,5,6]"),
            ("af", "[1.5,2.5,3.5]"),
            ("an", "[1.50,2.25,3.75]"),
            ("ad", r#"["2024-01-02","2024-01-03","2024-01-04","2024-01-05","2024-01-06"]"#),
            ("az", r#"["2024-02-29T12:34:56.000Z","2024-02-29T12:34:57.000Z"]"#),
            ("h", r#"{"key":"a value that is long enough to be moved"}"#),
            ("aj", r#"[{"key": "a value that is long enough to be moved"}]"#),
        ];
        for (column, value) in expected {
            assert_eq!((&*inserted[column], &*changed[column]), (value, value), "{format} {column}");
        }
        assert_eq!((&*inserted["seen"], &*changed["seen"]), ("0", "2"), "{format}");
    }
}
