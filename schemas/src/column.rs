//! How change events tell the values of columns: the logical types of Debezium and Kafka Connect.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// What the value of a column in an event stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ColumnType {
    /// What it looks like: a number, a text, a truth value; bytes in base64.
    #[default]
    Plain,
    /// A floating-point number; what is no number comes as text.
    Float,
    /// A number as text, of `decimal.handling.mode = string`.
    Number,
    /// `bigint unsigned`, of which half comes as negative numbers.
    Unsigned,
    /// `char(n)`, with its padding.
    Char,
    /// `Decimal`: an unscaled integer's bytes, with so many digits behind the point.
    Decimal(u32),
    /// `VariableScaleDecimal`: the same, with its scale beside it.
    VariableScaleDecimal,
    /// `Date`: days since 1970.
    Date,
    /// `Time`, `MicroTime`, `NanoTime`: since midnight.
    Time(Unit),
    /// `Timestamp`, `MicroTimestamp`, `NanoTimestamp`: since 1970, without a zone.
    Timestamp(Unit),
    /// `ZonedTime`: text, in UTC.
    ZonedTime,
    /// `ZonedTimestamp`: text.
    ZonedTimestamp,
    /// `MicroDuration`, `NanoDuration`: months of 30.4375 days and days of 24 hours, since it is one number.
    Duration(Unit),
    /// `Interval`: text of ISO 8601, of `interval.handling.mode = string`.
    Interval,
    /// `Json`: text that is JSON.
    Json,
    /// `Bits`: so many bits, the lowest first.
    Bits(u32),
    /// `Point`, `Geometry`, `Geography`: an object, with the WKB in it.
    Geometry,
    /// An array of these.
    Array(Box<ColumnType>),
}

/// What a time is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Thousandths of a second.
    Milli,
    /// Millionths.
    Micro,
    /// Billionths.
    Nano,
}

/// A type that is none.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} is no type of a column; one of Plain, Float, Number, Unsigned, Char, Decimal(SCALE), VariableScaleDecimal, Date, Time, MicroTime, \
     NanoTime, Timestamp, MicroTimestamp, NanoTimestamp, ZonedTime, ZonedTimestamp, MicroDuration, NanoDuration, Interval, Json, \
     Bits(LENGTH), Geometry, with [] behind it for an array"
)]
pub struct ColumnTypeError(String);

impl FromStr for ColumnType {
    type Err = ColumnTypeError;

    /// By the short name, as `job.toml` has it.
    fn from_str(text: &str) -> Result<Self, ColumnTypeError> {
        let wrong = || ColumnTypeError(text.to_owned());
        if let Some(items) = text.strip_suffix("[]") {
            return Ok(Self::Array(Box::new(items.parse().map_err(|_| wrong())?)));
        }
        let (name, number) = match text.strip_suffix(')').and_then(|text| text.split_once('(')) {
            Some((name, number)) => (name, Some(number.trim().parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        match (name, number) {
            ("Plain", None) => Ok(Self::Plain),
            ("Float", None) => Ok(Self::Float),
            ("Number", None) => Ok(Self::Number),
            ("Unsigned", None) => Ok(Self::Unsigned),
            ("Char", None) => Ok(Self::Char),
            _ => Self::of_name(name, number).ok_or_else(wrong),
        }
    }
}

impl<'de> Deserialize<'de> for ColumnType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl ColumnType {
    /// A logical type by its short name: `io.debezium.time` and `org.apache.kafka.connect.data` agree where they share one.
    fn of_name(name: &str, number: Option<u32>) -> Option<Self> {
        Some(match (name, number) {
            ("Decimal", Some(scale)) => Self::Decimal(scale),
            ("Bits", Some(length)) => Self::Bits(length),
            (_, Some(_)) => return None,
            ("VariableScaleDecimal", None) => Self::VariableScaleDecimal,
            ("Date", None) => Self::Date,
            ("Time", None) => Self::Time(Unit::Milli),
            ("MicroTime", None) => Self::Time(Unit::Micro),
            ("NanoTime", None) => Self::Time(Unit::Nano),
            ("Timestamp", None) => Self::Timestamp(Unit::Milli),
            ("MicroTimestamp", None) => Self::Timestamp(Unit::Micro),
            ("NanoTimestamp", None) => Self::Timestamp(Unit::Nano),
            ("ZonedTime", None) => Self::ZonedTime,
            ("ZonedTimestamp", None) => Self::ZonedTimestamp,
            ("MicroDuration", None) => Self::Duration(Unit::Micro),
            ("NanoDuration", None) => Self::Duration(Unit::Nano),
            ("Interval", None) => Self::Interval,
            ("Json", None) => Self::Json,
            ("Point" | "Geometry" | "Geography", None) => Self::Geometry,
            _ => return None,
        })
    }

    /// The type that a field of a schema of Kafka Connect has, as JsonConverter writes it beside an event. A name that is not
    /// known (`Uuid`, `Enum`, `Xml`, …) says nothing about how its value is written.
    pub fn of_schema(field: &Value) -> Self {
        let kind = field["type"].as_str().unwrap_or_default();
        if kind == "array" {
            return Self::Array(Box::new(Self::of_schema(&field["items"])));
        }
        let name = field["name"].as_str().and_then(|name| {
            ["io.debezium.", "org.apache.kafka.connect.data."].iter().find_map(|package| name.strip_prefix(package))
        });
        let number =
            ["scale", "length"].iter().find_map(|parameter| field["parameters"][parameter].as_str()?.parse().ok());
        let named = name.and_then(|name| Self::of_name(name.rsplit('.').next().unwrap_or_default(), number));
        named.unwrap_or(if matches!(kind, "float" | "double" | "float32" | "float64") {
            Self::Float
        } else {
            Self::Plain
        })
    }

    /// The types of a row's columns, by the schema of its event: an envelope's, or a flattened row's own.
    pub fn of_event(schema: &Value) -> BTreeMap<String, Self> {
        let fields = |schema: &Value| schema["fields"].as_array().cloned().unwrap_or_default();
        let outer = fields(schema);
        let image = outer.iter().find(|field| field["field"] == "after" && field["type"] == "struct").map(fields);
        let columns = image.unwrap_or(outer);
        let named = |field: &Value| Some((field["field"].as_str()?.to_owned(), Self::of_schema(field)));
        columns.iter().filter_map(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_in_a_job_are_debeziums() {
        let parsed = |text: &str| text.parse::<ColumnType>().expect(text);
        assert_eq!(parsed("Decimal(2)"), ColumnType::Decimal(2));
        assert_eq!(parsed("MicroTimestamp"), ColumnType::Timestamp(Unit::Micro));
        assert_eq!(parsed("Date[]"), ColumnType::Array(Box::new(ColumnType::Date)));
        for wrong in ["", "decimal", "Decimal", "Decimal(x)", "Date(1)", "[]", "Date[", "Uuid(3)"] {
            assert!(wrong.parse::<ColumnType>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_schema_tells_the_types_of_the_row() {
        let decimal = json!({"type": "bytes", "optional": true, "name": "org.apache.kafka.connect.data.Decimal",
            "parameters": {"scale": "2", "connect.decimal.precision": "10"}, "field": "total"});
        let row = json!({"type": "struct", "field": "after", "fields": [
            {"type": "int64", "field": "id"}, decimal,
            {"type": "int32", "name": "io.debezium.time.Date", "field": "day"},
            {"type": "string", "name": "io.debezium.data.Enum", "parameters": {"allowed": "a,b"}, "field": "mood"},
            {"type": "bytes", "name": "io.debezium.data.Bits", "parameters": {"length": "8"}, "field": "bits"},
            {"type": "struct", "name": "io.debezium.data.geometry.Point", "fields": [], "field": "place"},
            {"type": "array", "items": {"type": "int64", "name": "org.apache.kafka.connect.data.Timestamp"}, "field": "seen"},
            {"type": "string", "name": "shop.Date", "field": "other"},
        ]});
        let types = ColumnType::of_event(
            &json!({"type": "struct", "fields": [row.clone(), {"type": "string", "field": "op"}]}),
        );
        let expected = [
            ("id", ColumnType::Plain),
            ("total", ColumnType::Decimal(2)),
            ("day", ColumnType::Date),
            ("mood", ColumnType::Plain),
            ("bits", ColumnType::Bits(8)),
            ("place", ColumnType::Geometry),
            ("seen", ColumnType::Array(Box::new(ColumnType::Timestamp(Unit::Milli)))),
            ("other", ColumnType::Plain),
        ];
        assert_eq!(types, expected.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect());
        assert_eq!(ColumnType::of_event(&row), types);
    }
}
