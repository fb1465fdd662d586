//! Numbers.

use super::range::End;
use super::reader::{Problem, Reader};

/// `numeric`'s special values come as signs (`numeric.c` in PostgreSQL's source).
const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const MINUS_INFINITY: u16 = 0xF000;

/// The most digits after the point that a `numeric` can show.
const SCALE_MAX: u16 = 0x3FFF;

/// Digits are sent in groups of four.
const GROUP_DIGITS: usize = 4;

/// Appends an integer.
#[inline]
pub(crate) fn integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends the shortest digits that read back as the same number. JSON has no word for what is not finite: null.
pub(crate) fn float<F: ryu::Float>(value: F, out: &mut Vec<u8>) {
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format(value);
    // What is finite begins with a digit or a minus and a digit; the others are NaN, inf and -inf.
    let finite = text.as_bytes()[text.len() - 1].is_ascii_digit();
    out.extend_from_slice(if finite { text.as_bytes() } else { b"null" });
}

/// Appends a `numeric` with as many digits after the point as its scale says.
pub(super) fn numeric(mut reader: Reader<'_>, out: &mut Vec<u8>) -> Result<(), Problem> {
    let groups_count = reader.u16()?;
    let weight = reader.i16()?;
    let sign = reader.u16()?;
    let scale = reader.u16()?;
    let (groups, rest) = reader.rest().as_chunks::<2>();
    if groups.len() != usize::from(groups_count) || !rest.is_empty() {
        return Err(Problem::Wrong("has another number of digits than it says"));
    }
    match sign {
        POSITIVE => (),
        NEGATIVE => out.push(b'-'),
        NAN | INFINITY | MINUS_INFINITY => {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        _ => return Err(Problem::Wrong("has an unknown sign")),
    }
    if scale > SCALE_MAX {
        return Err(Problem::Wrong("has more digits after the point than there can be"));
    }
    // The group at `position` counts 10000^(weight - position); groups that are not sent are zero.
    let group = |position: i32| match usize::try_from(position).ok().and_then(|position| groups.get(position)) {
        None => Ok(0),
        Some(&bytes) => match u16::from_be_bytes(bytes) {
            value @ 0..10_000 => Ok(value),
            _ => Err(Problem::Wrong("has a digit group over 9999")),
        },
    };
    let weight = i32::from(weight);

    let mut position = 0;
    while position < weight && group(position)? == 0 {
        position += 1;
    }
    integer(if position <= weight { group(position)? } else { 0 }, out);
    while position < weight {
        position += 1;
        out.extend_from_slice(&group_digits(group(position)?));
    }

    let mut digits_left = usize::from(scale);
    if digits_left > 0 {
        out.push(b'.');
    }
    let mut position = weight;
    while digits_left > 0 {
        position += 1;
        let count = digits_left.min(GROUP_DIGITS);
        out.extend_from_slice(&group_digits(group(position)?)[..count]);
        digits_left -= count;
    }
    Ok(())
}

/// Which end of all numbers a `numeric` is.
pub(super) fn numeric_end(mut reader: Reader<'_>) -> Result<Option<End>, Problem> {
    let _groups_and_weight = reader.array::<4>()?;
    Ok(match reader.u16()? {
        NAN | INFINITY => Some(End::Highest),
        MINUS_INFINITY => Some(End::Lowest),
        _ => None,
    })
}

/// Which end of all numbers a float is.
pub(super) fn float_end(value: f64) -> Option<End> {
    if value.is_nan() {
        return Some(End::Highest);
    }
    End::of(value, f64::NEG_INFINITY, f64::INFINITY)
}

fn group_digits(group: u16) -> [u8; GROUP_DIGITS] {
    [group / 1000, group / 100 % 10, group / 10 % 10, group % 10].map(|digit| b'0' + digit as u8)
}
