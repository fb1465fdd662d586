//! Ranges (`range_send` in PostgreSQL's `rangetypes.c`), as Elasticsearch's range types take them.

use super::reader::{Problem, Reader, fixed};
use super::{Encoder, Form, number, time};

/// The flags of a range (`utils/rangetypes.h` in PostgreSQL's source).
const EMPTY: u8 = 0x01;
const LOWER_INCLUSIVE: u8 = 0x02;
const UPPER_INCLUSIVE: u8 = 0x04;
const LOWER_UNBOUNDED: u8 = 0x08;
const UPPER_UNBOUNDED: u8 = 0x10;
const KNOWN: u8 = EMPTY | LOWER_INCLUSIVE | UPPER_INCLUSIVE | LOWER_UNBOUNDED | UPPER_UNBOUNDED;

/// The end of all values of a type, which lies beyond everything that has a JSON: an infinity (and `NaN`, which PostgreSQL
/// sorts above it).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    Lowest,
    Highest,
}

impl End {
    pub(super) fn of<T: PartialEq>(value: T, lowest: T, highest: T) -> Option<Self> {
        if value == lowest {
            Some(Self::Lowest)
        } else if value == highest {
            Some(Self::Highest)
        } else {
            None
        }
    }
}

/// Appends a range whose bounds `bound` encodes.
///
/// A bound that is an infinity has no JSON, and needs none: as the outer end it bounds nothing, and is left out. As the inner
/// end (from `infinity` on) no value that can be written lies in the range, so it is null, as the empty range is.
pub(super) fn write(bound: &Encoder, mut reader: Reader<'_>, out: &mut Vec<u8>) -> Result<(), Problem> {
    let flags = reader.u8()?;
    if flags & !KNOWN != 0 {
        return Err(Problem::Wrong("has unknown flags"));
    }
    let mut side = |unbounded: u8| match flags & (EMPTY | unbounded) {
        0 => reader.value()?.ok_or(Problem::Wrong("has a NULL as a bound")).map(Some),
        _ => Ok(None),
    };
    let lower = side(LOWER_UNBOUNDED)?;
    let upper = side(UPPER_UNBOUNDED)?;
    reader.end()?;

    let lower_end = lower.map_or(Ok(None), |value| end_of(bound, value))?;
    let upper_end = upper.map_or(Ok(None), |value| end_of(bound, value))?;
    if flags & EMPTY != 0 || lower_end == Some(End::Highest) || upper_end == Some(End::Lowest) {
        out.extend_from_slice(b"null");
        return Ok(());
    }

    out.push(b'{');
    let lower = lower.filter(|_| lower_end.is_none());
    if let Some(value) = lower {
        out.extend_from_slice(if flags & LOWER_INCLUSIVE != 0 { b"\"gte\":" } else { b"\"gt\":" });
        bound.append(value, out)?;
    }
    if let Some(value) = upper.filter(|_| upper_end.is_none()) {
        if lower.is_some() {
            out.push(b',');
        }
        out.extend_from_slice(if flags & UPPER_INCLUSIVE != 0 { b"\"lte\":" } else { b"\"lt\":" });
        bound.append(value, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn end_of(bound: &Encoder, raw: &[u8]) -> Result<Option<End>, Problem> {
    Ok(match bound.form {
        Form::Date => time::date_end(i32::from_be_bytes(fixed(raw)?)),
        Form::Timestamp | Form::TimestampTz => time::timestamp_end(i64::from_be_bytes(fixed(raw)?)),
        Form::Interval => time::interval_end(Reader::new(raw))?,
        Form::Numeric => number::numeric_end(Reader::new(raw))?,
        Form::Float4 => number::float_end(f32::from_be_bytes(fixed(raw)?).into()),
        Form::Float8 => number::float_end(f64::from_be_bytes(fixed(raw)?)),
        _ => None,
    })
}
