use pinion_schemas::ColumnType;
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::write;

fn json(kind: &str, value: &str) -> Result<String, String> {
    let kind: ColumnType = kind.parse().expect(kind);
    let value: &RawValue = serde_json::from_str(value).expect(value);
    let mut out = Vec::new();
    write(&kind, value, &mut out)?;
    Ok(String::from_utf8(out).expect("text"))
}

/// What Debezium 3.5 gave for values of PostgreSQL 15, and what a query of the same value gives.
#[test]
fn values_have_the_form_that_a_query_gives() {
    for (kind, value, expected) in [
        ("Decimal(2)", "\"EtaA\"", "12345.60"),
        ("Decimal(2)", "\"AJY=\"", "1.50"),
        ("Decimal(4)", "\"9A==\"", "-0.0012"),
        ("Decimal(0)", "\"AQ==\"", "1"),
        ("VariableScaleDecimal", r#"{"scale":16,"value":"ESIQ9H3pgRU="}"#, "123.4567890123456789"),
        ("VariableScaleDecimal", r#"{"scale":-3,"value":"AQ=="}"#, "1000"),
        (
            "VariableScaleDecimal",
            r#"{"scale":1,"value":"AQAAAAAAAAAAAAAAAAAAAAAA"}"#,
            "8711228593176024664662389950253266213273.6",
        ),
        ("Number", "\"12.50\"", "12.50"),
        ("Number", "\"NaN\"", "null"),
        ("Float", "\"Infinity\"", "null"),
        ("Float", "1.0E300", "1.0E300"),
        ("Unsigned", "-1", "18446744073709551615"),
        ("Char", "\"c    \"", "\"c\""),
        ("Date", "19782", "\"2024-02-29\""),
        ("Date", "-622191234", "null"),
        ("Date", "2932897", "253402300800000"),
        ("Time", "45296789", "\"12:34:56.789\""),
        ("MicroTime", "45296789012", "\"12:34:56.789012\""),
        ("MicroTime", "86400000000", "\"24:00:00.000\""),
        ("MicroTime", "-3020399000000", "\"-838:59:59.000\""),
        ("NanoTime", "45296789012345", "\"12:34:56.789012\""),
        ("Timestamp", "1709210096789", "\"2024-02-29T12:34:56.789\""),
        ("Timestamp", "-1", "\"1969-12-31T23:59:59.999\""),
        ("MicroTimestamp", "1709210096789012", "\"2024-02-29T12:34:56.789012\""),
        ("NanoTimestamp", "1709210096789012345", "\"2024-02-29T12:34:56.789012\""),
        ("MicroTimestamp", "9223372036825200000", "null"),
        ("Timestamp", "-9223372036832400", "null"),
        ("ZonedTime", "\"02:00:00Z\"", "\"02:00:00.000+00:00\""),
        ("ZonedTime", "\"02:00:00.5-03:30\"", "\"02:00:00.500-03:30\""),
        ("ZonedTimestamp", "\"2024-02-29T10:34:56.789012Z\"", "\"2024-02-29T10:34:56.789012Z\""),
        ("ZonedTimestamp", "\"2024-02-29T23:34:56-03:00\"", "\"2024-03-01T02:34:56.000Z\""),
        ("ZonedTimestamp", "\"-infinity\"", "null"),
        ("ZonedTimestamp", "\"+294276-12-31T23:59:59.999999Z\"", "9224318015999999"),
        ("ZonedTimestamp", "\"-0043-03-13T12:00:00.000000Z\"", "\"-0043-03-13T12:00:00.000Z\""),
        ("Interval", "\"P1Y2M3DT4H5M6.789S\"", "\"P1Y2M3DT4H5M6.789S\""),
        ("Interval", "\"P0Y-1M2DT0H0M0S\"", "\"P-1M2D\""),
        ("Interval", "\"P99Y9M4DT0H0M-0.25S\"", "\"P99Y9M4DT-0.25S\""),
        ("Interval", "\"P0Y0M0DT0H0M0S\"", "\"PT0S\""),
        ("MicroDuration", "3661000001", "\"PT1H1M1.000001S\""),
        ("Json", r#""{\"a\":\n1}""#, r#"{"a": 1}"#),
        ("Json", "\"null\"", "null"),
        ("Bits(8)", "\"qg==\"", "\"10101010\""),
        ("Bits(10)", "\"AQI=\"", "\"1000000001\""),
        ("Bits(2147483647)", "\"AQIA\"", "\"1000000001\""),
        ("Bits(2147483647)", "\"\"", "\"\""),
        ("Date[]", "[19724,null]", "[\"2024-01-02\",null]"),
        ("Plain", "[[1,2],null]", "[[1,2],null]"),
        ("Geometry", r#"{"x":1.5,"y":2.5,"wkb":"AQEAAAAAAAAAAAD4PwAAAAAAAARA","srid":null}"#, "\"POINT (1.5 2.5)\""),
        ("Geometry", r#"{"x":1.5,"y":2.5}"#, "\"POINT (1.5 2.5)\""),
        ("Decimal(2)", "null", "null"),
    ] {
        assert_eq!(json(kind, value).as_deref(), Ok(expected), "{kind} {value}");
    }
}

#[test]
fn what_is_of_another_type_is_refused() {
    for (kind, value) in [
        ("Decimal(2)", "\"\""),
        ("Decimal(2)", "1"),
        ("Decimal(2)", "\"!\""),
        ("Date", "\"2024-01-01\""),
        ("Number", "\"1,2\""),
        ("ZonedTimestamp", "\"yesterday\""),
        ("ZonedTimestamp", "\"2024-13-01T00:00:00Z\""),
        ("Interval", "\"1 day\""),
        ("Json", "\"{\""),
        ("Date[]", "1"),
        ("Geometry", r#"{"wkb":"AQE="}"#),
        ("Geometry", "{}"),
    ] {
        assert!(json(kind, value).is_err(), "{kind} {value}");
    }
}

#[test]
fn geometries_are_written_as_text() {
    let wkb = |parts: &[u8]| {
        format!(r#"{{"wkb":"{}"}}"#, base64::Engine::encode(&base64::engine::general_purpose::STANDARD, parts))
    };
    let number = |value: u32| value.to_be_bytes();
    let point = |x: f64, y: f64| [x.to_be_bytes(), y.to_be_bytes()].concat();
    let line = [&[0][..], &number(2), &number(2), &point(1.0, 2.0), &point(3.0, 4.5)].concat();
    assert_eq!(json("Geometry", &wkb(&line)).as_deref(), Ok("\"LINESTRING (1 2, 3 4.5)\""));
    let ring = [&number(3)[..], &point(0.0, 0.0), &point(1.0, 0.0), &point(0.0, 0.0)].concat();
    // With the number of its coordinate system, as PostGIS has it.
    let polygon = [&[0][..], &number(0x2000_0003), &number(4326), &number(1), &ring].concat();
    assert_eq!(json("Geometry", &wkb(&polygon)).as_deref(), Ok("\"POLYGON ((0 0, 1 0, 0 0))\""));
    let many = [&[0][..], &number(7), &number(2), &line, &polygon].concat();
    assert_eq!(
        json("Geometry", &wkb(&many)).as_deref(),
        Ok("\"GEOMETRYCOLLECTION (LINESTRING (1 2, 3 4.5), POLYGON ((0 0, 1 0, 0 0)))\"")
    );
    let deep = [0, 0, 0, 0, 7, 0, 0, 0, 1].repeat(100);
    assert!(json("Geometry", &wkb(&deep)).is_err());
}

proptest! {
    /// Whatever comes is JSON without a raw line break, or an error.
    #[test]
    fn any_value_is_json_or_an_error(
        kind in prop::sample::select(vec![
            "Plain", "Float", "Number", "Char", "Decimal(2)", "VariableScaleDecimal", "Date", "Time", "MicroTime", "NanoTime",
            "Timestamp", "MicroTimestamp", "NanoTimestamp", "ZonedTime", "ZonedTimestamp", "MicroDuration", "Interval", "Json",
            "Bits(9)", "Geometry", "Date[]",
        ]),
        number in any::<i64>(),
        text in "\\PC{0,20}|[-+PT0-9:.YMDHSZ]{0,20}|[A-Za-z0-9+/]{0,24}",
    ) {
        let quoted = serde_json::to_string(&text).expect("a text");
        let values = [
            number.to_string(),
            quoted.clone(),
            format!("[{number},\n{quoted}]"),
            format!("{{\"scale\":{},\"value\":{quoted},\"wkb\":{quoted}}}", number as i32),
        ];
        for value in values {
            if let Ok(json) = json(kind, &value) {
                prop_assert!(serde_json::from_str::<&RawValue>(&json).is_ok(), "{} {} gives {}", kind, value, json);
                prop_assert!(!json.contains('\n'));
            }
        }
    }
}
