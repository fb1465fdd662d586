//! From PostgreSQL's binary answers to JSON: one [`Encoder`] a column, chosen once a statement from the column's type.
//!
//! | PostgreSQL | JSON |
//! | --- | --- |
//! | `int2` `int4` `int8` `oid` | number |
//! | `float4` `float8` | the shortest number that reads back the same; `NaN` and the infinities: null |
//! | `numeric` | number with all its digits, trailing zeros too, never with an exponent; `NaN` and the infinities: null |
//! | `bool` | `true`, `false` |
//! | `text` `varchar` `name` `citext` `xml` `"char"` enums | string |
//! | `char(n)` | string without the padding, as PostgreSQL's own cast to `text` gives it |
//! | `uuid` `inet` `cidr` `macaddr` `macaddr8` | string, as PostgreSQL prints it |
//! | `date` | `"2024-01-02"` |
//! | `timestamp` | `"2024-01-02T03:04:05.678"`, without a zone, which Elasticsearch takes as UTC |
//! | `timestamptz` | `"2024-01-02T03:04:05.678901Z"`, always UTC |
//! | `time` `timetz` | `"03:04:05.678"`, `"03:04:05.678+02:00"`; midnight at the day's end is `"24:00:00.000"`, as in PostgreSQL |
//! | `interval` | ISO 8601 with a sign for each part, as `intervalstyle = iso_8601` prints it: `"P1Y2M3DT4H5M6.000007S"` |
//! | `json` `jsonb` | as it is; raw line breaks, legal only between tokens, become spaces |
//! | `bytea` | base64, with padding |
//! | arrays | array, nested for each dimension; lower bounds are not kept |
//! | ranges | `{"gte":…,"lt":…}` with `gt` and `lte` where the bound is of that kind; a side without a bound is left out; the empty range: null |
//! | composite types | object, an attribute a field |
//! | domains | as their base type |
//!
//! Seconds have three digits after them, or six where there are microseconds. Never none: in a range Elasticsearch takes
//! `"gt": "2024-01-02T00:00:00Z"` for "after that whole second", and `lte` for "up to its end".
//!
//! What Elasticsearch's `date` (`strict_date_optional_time||epoch_millis`) takes decides the rest, tried on 8.18. Years before
//! Christ are ISO 8601's: `0000` is 1 BC and `-0001` is 2 BC. Years over 9999 are refused there in every spelling, so such a
//! date or timestamp is the *number* of whole milliseconds since 1970. `infinity` and `-infinity` are null: any date in their
//! place would be invented, and one far-off day stretches a date histogram over millions of buckets. As the bound of a range
//! they leave the side out, which is what they mean there.
//!
//! Not everything that can be written is taken: Elasticsearch refuses numbers of more than 1,000 characters, dates after
//! 9999 in `date_nanos`, and a `date_range` that ends in the millisecond in which it begins, unless its end is inclusive.
//! Multiranges can't be described by sqlx 0.9; `ARRAY(SELECT unnest(column))` makes an array of ranges of one.

mod array;
mod composite;
mod network;
mod number;
mod range;
mod reader;
mod string;
#[cfg(test)]
mod tests;
mod time;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sqlx::TypeInfo as _;
use sqlx::postgres::{PgTypeInfo, PgTypeKind};

use composite::Attribute;
use reader::{Problem, Reader, fixed, utf8};

pub(crate) use number::{float as write_float, integer as write_integer};
pub use string::write_json_string;
pub(crate) use time::{civil_from_days, clock as write_time_of_day, day as write_date, moment as write_moment};

/// Types nest (an array of a composite of a range of …); deeper than this one is not encoded, so that recursion is bounded.
const DEPTH_MAX: usize = 32;

/// How the binary form of one PostgreSQL type becomes JSON. Built once a statement, used for every row.
#[derive(Debug)]
pub struct Encoder {
    /// The type's name, for errors.
    name: Box<str>,
    /// The type's number on this server. Arrays and composites repeat it in each value, where it is compared.
    oid: u32,
    form: Form,
}

/// The binary forms that are known.
#[derive(Debug)]
enum Form {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    Text,
    PaddedText,
    InternalChar,
    Uuid,
    Inet,
    Cidr,
    MacAddress,
    Date,
    Timestamp,
    TimestampTz,
    Time,
    TimeTz,
    Interval,
    Json,
    Jsonb,
    Bytea,
    Array(Box<Encoder>),
    Range(Box<Encoder>),
    Composite(Vec<Attribute>),
}

/// A value's bytes were not of the type that its column was described with.
///
/// A type that was altered after its statement was prepared does this too: a new connection describes it anew.
#[derive(Debug, thiserror::Error)]
#[error("a value of type {type_name} {problem}")]
pub struct EncodeError {
    type_name: Box<str>,
    problem: Problem,
}

impl Encoder {
    /// The encoder of a type.
    ///
    /// None where no binary form is known here: the query must cast that column to `text`, whose encoder then serves.
    pub fn of(type_info: &PgTypeInfo) -> Option<Self> {
        Self::nested(type_info, DEPTH_MAX)
    }

    /// Appends the JSON of one value that is not NULL.
    ///
    /// # Errors
    /// Only for bytes that are not of this type; `out` is then as it was.
    #[inline]
    pub fn write(&self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        self.append(raw, out).map_err(|problem| {
            out.truncate(start);
            EncodeError { type_name: self.name.clone(), problem }
        })
    }

    fn nested(type_info: &PgTypeInfo, depth_left: usize) -> Option<Self> {
        let depth_left = depth_left.checked_sub(1)?;
        let oid = type_info.oid()?.0;
        // sqlx calls a type so that it has not looked up, and panics when asked for its kind.
        if type_info.name() == "?" {
            return None;
        }
        let form = match type_info.kind() {
            PgTypeKind::Simple => Form::simple(oid, type_info.name())?,
            PgTypeKind::Enum(_) => Form::Text,
            PgTypeKind::Domain(base) => Self::nested(base, depth_left)?.form,
            PgTypeKind::Array(element) => Form::Array(Box::new(Self::nested(element, depth_left)?)),
            PgTypeKind::Range(bound) => Form::Range(Box::new(Self::nested(bound, depth_left)?)),
            PgTypeKind::Composite(attributes) => {
                let attribute = |(name, type_info): &(String, PgTypeInfo)| {
                    Some(Attribute::new(name, Self::nested(type_info, depth_left)?))
                };
                Form::Composite(attributes.iter().map(attribute).collect::<Option<_>>()?)
            }
            PgTypeKind::Pseudo => return None,
        };
        Some(Self { name: type_info.name().into(), oid, form })
    }

    /// As `write`, but leaves what it has written of a value that proves wrong.
    fn append(&self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), Problem> {
        match &self.form {
            Form::Bool => boolean(fixed(raw)?, out),
            Form::Int2 => number::integer(i16::from_be_bytes(fixed(raw)?), out),
            Form::Int4 => number::integer(i32::from_be_bytes(fixed(raw)?), out),
            Form::Int8 => number::integer(i64::from_be_bytes(fixed(raw)?), out),
            Form::Oid => number::integer(u32::from_be_bytes(fixed(raw)?), out),
            Form::Float4 => number::float(f32::from_be_bytes(fixed(raw)?), out),
            Form::Float8 => number::float(f64::from_be_bytes(fixed(raw)?), out),
            Form::Numeric => return number::numeric(Reader::new(raw), out),
            Form::Text => write_json_string(utf8(raw)?, out),
            Form::PaddedText => write_json_string(utf8(raw)?.trim_end_matches(' '), out),
            Form::InternalChar => string::internal_char(fixed(raw)?, out),
            Form::Uuid => string::uuid(fixed(raw)?, out),
            Form::Inet => return network::address(Reader::new(raw), network::Kind::Inet, out),
            Form::Cidr => return network::address(Reader::new(raw), network::Kind::Cidr, out),
            Form::MacAddress => return network::mac_address(raw, out),
            Form::Date => return time::date(i32::from_be_bytes(fixed(raw)?), out),
            Form::Timestamp => return time::timestamp(i64::from_be_bytes(fixed(raw)?), "", out),
            Form::TimestampTz => return time::timestamp(i64::from_be_bytes(fixed(raw)?), "Z", out),
            Form::Time => return time::time(i64::from_be_bytes(fixed(raw)?), out),
            Form::TimeTz => return time::time_tz(Reader::new(raw), out),
            Form::Interval => return time::interval(Reader::new(raw), out),
            Form::Json => return json(raw, out),
            Form::Jsonb => return jsonb(raw, out),
            Form::Bytea => write_base64(raw, out),
            Form::Array(element) => return array::write(element, Reader::new(raw), out),
            Form::Range(bound) => return range::write(bound, Reader::new(raw), out),
            Form::Composite(attributes) => return composite::write(attributes, Reader::new(raw), out),
        }
        Ok(())
    }
}

impl Form {
    /// The form of a type that is made of no other. PostgreSQL's own types have the same number on every server
    /// (`pg_type.dat` in its source); an extension's type has only its name.
    fn simple(oid: u32, name: &str) -> Option<Self> {
        Some(match oid {
            16 => Self::Bool,
            17 => Self::Bytea,
            18 => Self::InternalChar,
            20 => Self::Int8,
            21 => Self::Int2,
            23 => Self::Int4,
            // name, text, xml, unknown (an untyped literal), varchar
            19 | 25 | 142 | 705 | 1043 => Self::Text,
            26 => Self::Oid,
            114 => Self::Json,
            650 => Self::Cidr,
            700 => Self::Float4,
            701 => Self::Float8,
            // macaddr8, macaddr
            774 | 829 => Self::MacAddress,
            869 => Self::Inet,
            1042 => Self::PaddedText,
            1082 => Self::Date,
            1083 => Self::Time,
            1114 => Self::Timestamp,
            1184 => Self::TimestampTz,
            1186 => Self::Interval,
            1266 => Self::TimeTz,
            1700 => Self::Numeric,
            2950 => Self::Uuid,
            3802 => Self::Jsonb,
            // Outside the search path the name comes with its schema.
            _ if name.rsplit('.').next() == Some("citext") => Self::Text,
            _ => return None,
        })
    }
}

fn boolean([value]: [u8; 1], out: &mut Vec<u8>) {
    out.extend_from_slice(if value == 0 { b"false" } else { b"true" });
}

fn json(raw: &[u8], out: &mut Vec<u8>) -> Result<(), Problem> {
    if raw.is_empty() {
        return Err(Problem::Wrong("is empty, which no JSON is"));
    }
    write_json(utf8(raw)?, out);
    Ok(())
}

/// Appends text that is JSON, its raw line breaks as spaces.
pub(crate) fn write_json(json: &str, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(json.as_bytes());
    // In NDJSON a line break would end the document, and what follows it could pass for another action.
    for byte in &mut out[start..] {
        // Stored whether it changes or not, so that the compiler takes sixteen at once.
        *byte = if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
    }
}

fn jsonb(raw: &[u8], out: &mut Vec<u8>) -> Result<(), Problem> {
    match raw.split_first() {
        Some((1, text)) => json(text, out),
        _ => Err(Problem::Wrong("is not of jsonb's version 1")),
    }
}

/// Appends bytes as base64, with padding.
pub(crate) fn write_base64(raw: &[u8], out: &mut Vec<u8>) {
    let mut chunk = [0; 1024];
    out.push(b'"');
    // A multiple of three bytes becomes base64 without padding, so that the pieces join.
    for piece in raw.chunks(chunk.len() / 4 * 3) {
        let written = STANDARD.encode_slice(piece, &mut chunk).expect("four bytes for each three are enough");
        out.extend_from_slice(&chunk[..written]);
    }
    out.push(b'"');
}
