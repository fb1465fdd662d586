//! From the binary answers of MariaDB and MySQL to JSON: one [`Encoder`] a column.
//!
//! | MariaDB, MySQL | JSON |
//! | --- | --- |
//! | `TINYINT` … `BIGINT`, `UNSIGNED` too, `YEAR` | number |
//! | the same, `BOOLEAN` and `BIT` where the mapping says `boolean` | `true`, `false` |
//! | `BIT(n)` | number |
//! | `FLOAT` `DOUBLE` | the shortest number that reads back the same |
//! | `DECIMAL` | number with all its digits, trailing zeros too |
//! | `CHAR` `VARCHAR` `TEXT` `ENUM` `SET` `UUID` `INET4` `INET6` | string |
//! | the same where the mapping says `object`, `nested` or `flattened` | as it is, if it is JSON: MariaDB's `JSON` is text |
//! | `JSON` of MySQL | as it is |
//! | `BINARY` `VARBINARY` `BLOB` | base64, with padding |
//! | `DATE` | `"2024-01-02"` |
//! | `DATETIME` | `"2024-01-02T03:04:05.678"`, without a zone, which Elasticsearch takes as UTC |
//! | `TIMESTAMP` | `"2024-01-02T03:04:05.678901Z"`, always UTC |
//! | `GEOMETRY` and its kinds | WKT: `"POINT (1 2)"` |
//! | `TIME` | `"03:04:05.678"`; it can be negative and has up to 838 hours |
//! | dates of zeros, `0000-00-00` or `2024-05-00` | null |
//!
//! Raw line breaks in JSON, legal only between tokens, become spaces: in NDJSON one would end the document. Seconds have three
//! digits after them, or six where there are microseconds, as those of PostgreSQL have.
//!
//! The binary forms are those of <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_binary_resultset.html>.

use serde_json::value::RawValue;
use sqlx::TypeInfo as _;
use sqlx::mysql::{MySql, MySqlTypeInfo};

use crate::json::{write_base64, write_float, write_integer, write_json, write_json_string, write_time_of_day};
use crate::wkb;

/// How the binary form of one type becomes JSON.
#[derive(Debug)]
pub(crate) struct Encoder {
    form: Form,
    /// Whether the mapping calls it `boolean`.
    boolean: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Signed,
    Unsigned,
    Bits,
    Float,
    Double,
    Decimal,
    Text,
    Json,
    /// Text that has to be JSON.
    JsonText,
    Bytes,
    Date,
    DateTime,
    Timestamp,
    Time,
    Geometry,
    Null,
}

impl Encoder {
    /// The encoder of a column, for a field of this type in the mapping.
    pub(crate) fn of(type_info: &MySqlTypeInfo, field: Option<&str>) -> Self {
        let form = match type_info.name() {
            "BOOLEAN" | "TINYINT" | "SMALLINT" | "INT" | "MEDIUMINT" | "BIGINT" => Form::Signed,
            "TINYINT UNSIGNED" | "SMALLINT UNSIGNED" | "INT UNSIGNED" | "MEDIUMINT UNSIGNED" | "BIGINT UNSIGNED"
            | "YEAR" => Form::Unsigned,
            "BIT" => Form::Bits,
            "FLOAT" => Form::Float,
            "DOUBLE" => Form::Double,
            "DECIMAL" => Form::Decimal,
            "JSON" => Form::Json,
            "DATE" => Form::Date,
            "DATETIME" => Form::DateTime,
            "TIMESTAMP" => Form::Timestamp,
            "TIME" => Form::Time,
            "NULL" => Form::Null,
            "GEOMETRY" => Form::Geometry,
            // The name does not tell text of a binary collation, such as MariaDB's JSON, from bytes; the collation does.
            _ if !<str as sqlx::Type<MySql>>::compatible(type_info) && type_info.name() != "SET" => Form::Bytes,
            _ if matches!(field, Some("object" | "nested" | "flattened")) => Form::JsonText,
            _ => Form::Text,
        };
        Self { form, boolean: field == Some("boolean") }
    }

    /// What its values become, where the type's name does not tell.
    pub(super) fn kind(&self) -> Option<&'static str> {
        match self.form {
            Form::Signed | Form::Unsigned | Form::Bits if self.boolean => Some("BOOLEAN"),
            // Whatever the driver calls it: TINYINT(1) is a number here.
            Form::Signed => Some("BIGINT"),
            Form::JsonText => Some("JSON"),
            Form::Text => Some("TEXT"),
            Form::Bytes => Some("BLOB"),
            Form::Geometry => Some("GEOMETRY"),
            _ => None,
        }
    }

    /// Whether its values are integers.
    pub(super) fn is_integer(&self) -> bool {
        matches!(self.form, Form::Signed | Form::Unsigned)
    }

    /// Whether its values are texts.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.form, Form::Text)
    }

    /// An integer's value, if it is one of 64 bits with a sign.
    pub(super) fn integer(&self, raw: &[u8]) -> Option<i64> {
        match self.form {
            Form::Signed => Some(signed(raw)),
            Form::Unsigned => i64::try_from(unsigned(raw)).ok(),
            _ => None,
        }
    }

    /// Appends a value that is not NULL.
    pub(super) fn write(&self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        match self.form {
            Form::Signed | Form::Unsigned | Form::Bits if self.boolean => {
                let is_true = raw.iter().any(|byte| *byte != 0);
                out.extend_from_slice(if is_true { b"true" } else { b"false" });
            }
            Form::Signed => write_integer(signed(raw), out),
            Form::Unsigned => write_integer(unsigned(raw), out),
            // The highest byte comes first, unlike in integers.
            Form::Bits => write_integer(raw.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)), out),
            Form::Float => write_float(f32::from_le_bytes(fixed(raw)?), out),
            Form::Double => write_float(f64::from_le_bytes(fixed(raw)?), out),
            Form::Decimal => decimal(utf8(raw)?, out)?,
            Form::Text => write_json_string(utf8(raw)?, out),
            Form::Json => write_json(utf8(raw)?, out),
            Form::JsonText => {
                let text = utf8(raw)?;
                serde_json::from_str::<&RawValue>(text)
                    .map_err(|error| format!("the mapping wants an object, and this is no JSON: {error}"))?;
                write_json(text, out);
            }
            Form::Bytes => write_base64(raw, out),
            Form::Date => date_time(raw, None, out)?,
            Form::DateTime => date_time(raw, Some(""), out)?,
            Form::Timestamp => date_time(raw, Some("Z"), out)?,
            Form::Time => time(raw, out)?,
            Form::Geometry => {
                // The number of the coordinate system comes first.
                let text = raw.get(4..).and_then(wkb::text).ok_or("is no geometry")?;
                write_json_string(&text, out);
            }
            Form::Null => out.extend_from_slice(b"null"),
        }
        Ok(())
    }
}

fn utf8(raw: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(raw).map_err(|_| "is not UTF-8".to_owned())
}

fn fixed<const N: usize>(raw: &[u8]) -> Result<[u8; N], String> {
    raw.try_into().map_err(|_| format!("has {} bytes instead of {N}", raw.len()))
}

/// An integer of 1 to 8 bytes, the lowest first.
fn unsigned(raw: &[u8]) -> u64 {
    raw.iter().take(8).rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn signed(raw: &[u8]) -> i64 {
    let unused = 64 - 8 * raw.len().clamp(1, 8);
    (unsigned(raw) << unused).cast_signed() >> unused
}

/// Digits as they are, but for the zeros that ZEROFILL puts before them, which JSON has not.
fn decimal(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    if whole.len() + fraction.len() == 0
        || fraction.is_empty()
        || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit())
    {
        return Err("is no decimal number".to_owned());
    }
    let digits = digits.trim_start_matches('0');
    out.extend_from_slice(sign.as_bytes());
    if !digits.starts_with(|first: char| first.is_ascii_digit()) {
        out.push(b'0');
    }
    out.extend_from_slice(digits.as_bytes());
    Ok(())
}

/// A date, with the time where it has a `zone`: a length, then year, month, day, then hour, minute, second, microseconds; what
/// is zero at the end may be left out.
fn date_time(raw: &[u8], zone: Option<&str>, out: &mut Vec<u8>) -> Result<(), String> {
    let parts = raw.get(1..).unwrap_or_default();
    if !matches!(parts.len(), 4 | 7 | 11) {
        return Err(format!("is a date of {} bytes", parts.len()));
    }
    let (year, month, day) = (unsigned(&parts[..2]), parts[2], parts[3]);
    if month == 0 || day == 0 {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    let date = format!("\"{year:04}-{month:02}-{day:02}");
    out.extend_from_slice(date.as_bytes());
    if let Some(zone) = zone {
        out.push(b'T');
        write_time_of_day(micros(parts.get(4..).unwrap_or_default()), out);
        out.extend_from_slice(zone.as_bytes());
    }
    out.push(b'"');
    Ok(())
}

/// A time: a length, a sign, days, hour, minute, second, microseconds.
fn time(raw: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    const MICROS_PER_HOUR: i64 = 3_600_000_000;
    let parts = raw.get(1..).unwrap_or_default();
    if !matches!(parts.len(), 0 | 8 | 12) {
        return Err(format!("is a time of {} bytes", parts.len()));
    }
    let negative = parts.first().is_some_and(|sign| *sign == 1);
    let days = unsigned(parts.get(1..5).unwrap_or_default());
    let of_day = micros(parts.get(5..).unwrap_or_default());
    let hours = days.cast_signed() * 24 + of_day / MICROS_PER_HOUR;
    let mut clock = Vec::with_capacity(16);
    write_time_of_day(of_day % MICROS_PER_HOUR, &mut clock);
    out.extend_from_slice(if negative { b"\"-" } else { b"\"" });
    out.extend_from_slice(format!("{hours:02}").as_bytes());
    out.extend_from_slice(&clock[2..]);
    out.push(b'"');
    Ok(())
}

/// Hour, minute, second, microseconds since midnight.
fn micros(parts: &[u8]) -> i64 {
    let part = |place: usize| i64::from(parts.get(place).copied().unwrap_or_default());
    let fraction = unsigned(parts.get(3..7).unwrap_or_default()).cast_signed();
    ((part(0) * 60 + part(1)) * 60 + part(2)) * 1_000_000 + fraction
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORMS: [Form; 16] = [
        Form::Signed,
        Form::Unsigned,
        Form::Bits,
        Form::Float,
        Form::Double,
        Form::Decimal,
        Form::Text,
        Form::Json,
        Form::JsonText,
        Form::Bytes,
        Form::Date,
        Form::DateTime,
        Form::Timestamp,
        Form::Time,
        Form::Geometry,
        Form::Null,
    ];

    fn check(form: Form, raw: &[u8], expected: &str) {
        let mut out = Vec::new();
        Encoder { form, boolean: false }.write(raw, &mut out).expect(expected);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn numbers() {
        check(Form::Signed, &[0xFF], "-1");
        check(Form::Signed, &i64::MIN.to_le_bytes(), "-9223372036854775808");
        check(Form::Signed, &70_000_i32.to_le_bytes(), "70000");
        check(Form::Unsigned, &u64::MAX.to_le_bytes(), "18446744073709551615");
        check(Form::Unsigned, &2024_u16.to_le_bytes(), "2024");
        check(Form::Bits, &[1, 2], "258");
        check(Form::Float, &0.1_f32.to_le_bytes(), "0.1");
        for (text, expected) in [("0.50", "0.50"), ("-12.30", "-12.30"), ("0012", "12"), ("000.10", "0.10"), ("0", "0")]
        {
            check(Form::Decimal, text.as_bytes(), expected);
        }
    }

    #[test]
    fn dates_and_times() {
        let moment = [0xE8, 7, 1, 2, 3, 4, 5, 0x40, 0x42, 0x0F, 0];
        check(Form::Date, &[4, 0xE8, 7, 1, 2], "\"2024-01-02\"");
        check(Form::DateTime, &[4, 0xE8, 7, 1, 2], "\"2024-01-02T00:00:00.000\"");
        check(Form::Timestamp, &[&[7], &moment[..7]].concat(), "\"2024-01-02T03:04:05.000Z\"");
        let mut fraction = [&[11], &moment[..7], &678_901_u32.to_le_bytes()[..]].concat();
        check(Form::DateTime, &fraction, "\"2024-01-02T03:04:05.678901\"");
        fraction[4] = 0;
        check(Form::DateTime, &fraction, "null");
        check(Form::Time, &[0], "\"00:00:00.000\"");
        check(Form::Time, &[8, 1, 34, 0, 0, 0, 22, 59, 59], "\"-838:59:59.000\"");
        check(Form::Time, &[12, 0, 0, 0, 0, 0, 3, 4, 5, 1, 0, 0, 0], "\"03:04:05.000001\"");
    }

    #[test]
    fn what_looks_like_json_has_to_be_it() {
        check(Form::JsonText, b"[1,\n2]", "[1, 2]");
        let encoder = Encoder { form: Form::JsonText, boolean: false };
        for text in ["{\"a\":1},\"b\":2", "x", ""] {
            assert!(encoder.write(text.as_bytes(), &mut Vec::new()).is_err(), "{text}");
        }
    }

    #[test]
    fn booleans_by_the_mapping() {
        for form in [Form::Signed, Form::Unsigned, Form::Bits] {
            let mut out = Vec::new();
            let encoder = Encoder { form, boolean: true };
            encoder.write(&[0], &mut out).expect("a boolean");
            encoder.write(&[1], &mut out).expect("a boolean");
            assert_eq!(out, b"falsetrue");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_json_or_an_error(form in proptest::sample::select(&FORMS[..]), raw in proptest::collection::vec(any::<u8>(), 0..20)) {
            for boolean in [false, true] {
                let mut out = Vec::new();
                let encoder = Encoder { form, boolean };
                if encoder.write(&raw, &mut out).is_ok() {
                    // What is of the server's own type for JSON was checked by it.
                    let is_json = form == Form::Json || serde_json::from_slice::<serde::de::IgnoredAny>(&out).is_ok();
                    prop_assert!(is_json, "{:?} made {:?} of {:?}", form, out, raw);
                    prop_assert!(!out.contains(&b'\n') && !out.contains(&b'\r'), "{:?} made {:?}", form, out);
                }
            }
        }
    }
}
