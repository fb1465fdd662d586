//! A column's value as an event tells it, in the form that a query of the same row gives: see `postgres/json.rs`. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pinion_schemas::{ColumnType, Unit};
use serde_json::value::RawValue;

use super::decimal::{decimal, unscaled};
use crate::json::{write_date, write_json, write_json_string, write_moment, write_time_of_day};

const MICROS_PER_DAY: i64 = 86_400_000_000;
/// PostgreSQL's first day, counted from 1970; what lies before it is the connector's infinity, or has overflowed.
const FIRST_DAY: i64 = -2_440_588;
/// And its last.
const LAST_DAY: i64 = 2_145_042_905;
/// The connector's `infinity`, in thousandths and millionths of a second.
const INFINITY: [i64; 2] = [9_223_372_036_825_200, 9_223_372_036_825_200_000];
/// PostgreSQL's longest `bit(n)`; of a `bit varying` without a limit the schema says more, which is not how long the value is.
const BITS_MAX: u32 = 83_886_080;

/// Appends a value's JSON.
///
/// # Errors
/// It is not of this type.
pub(super) fn write(kind: &ColumnType, value: &RawValue, out: &mut Vec<u8>) -> Result<(), String> {
    let json = value.get();
    if json == "null" {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    match kind {
        ColumnType::Plain => write_json(json, out),
        ColumnType::Float if json.starts_with('"') => out.extend_from_slice(b"null"),
        ColumnType::Float => write_json(json, out),
        ColumnType::Number => number(&text(value)?, out)?,
        ColumnType::Unsigned => out.extend(integer(value)?.cast_unsigned().to_string().bytes()),
        ColumnType::Char => write_json_string(text(value)?.trim_end_matches(' '), out),
        ColumnType::Decimal(scale) => decimal(&bytes(value)?, *scale, out)?,
        ColumnType::VariableScaleDecimal => variable_decimal(value, out)?,
        ColumnType::Date => date(integer(value)?, out)?,
        ColumnType::Time(unit) => time(micros(integer(value)?, *unit), out),
        ColumnType::Timestamp(unit) => timestamp(integer(value)?, *unit, out),
        ColumnType::ZonedTime => zoned_time(&text(value)?, out)?,
        ColumnType::ZonedTimestamp => zoned_timestamp(&text(value)?, out)?,
        ColumnType::Duration(unit) => interval([0, 0, 0, 0, 0], micros(integer(value)?, *unit), out),
        ColumnType::Interval => interval_text(&text(value)?, out)?,
        ColumnType::Json => {
            let inner = text(value)?;
            serde_json::from_str::<&RawValue>(&inner).map_err(|error| format!("is no JSON: {error}"))?;
            write_json(&inner, out);
        }
        ColumnType::Bits(length) => bits(&bytes(value)?, *length, out),
        ColumnType::Geometry => super::geometry::write(value, out)?,
        ColumnType::Array(items) => {
            let values: Vec<&RawValue> = read(value)?;
            out.push(b'[');
            for (number, item) in values.into_iter().enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                write(items, item, out)?;
            }
            out.push(b']');
        }
    }
    Ok(())
}

pub(super) fn read<'a, T: serde::Deserialize<'a>>(value: &'a RawValue) -> Result<T, String> {
    serde_json::from_str(value.get()).map_err(|error| format!("is of another type: {error}"))
}

fn text(value: &RawValue) -> Result<String, String> {
    read(value)
}

fn integer(value: &RawValue) -> Result<i64, String> {
    read(value)
}

pub(super) fn bytes(value: &RawValue) -> Result<Vec<u8>, String> {
    STANDARD.decode(text(value)?).map_err(|error| format!("is no base64: {error}"))
}

fn number(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let is_finite = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) if is_finite => out.extend_from_slice(text.as_bytes()),
        _ if ["NaN", "Infinity", "-Infinity"].contains(&text) => out.extend_from_slice(b"null"),
        _ => return Err(format!("{text:?} is no number")),
    }
    Ok(())
}

fn variable_decimal(value: &RawValue, out: &mut Vec<u8>) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    struct Written<'a> {
        scale: i32,
        #[serde(borrow)]
        value: &'a RawValue,
    }
    let Written { scale, value } = read(value)?;
    let digits = bytes(value)?;
    match u32::try_from(scale) {
        Ok(scale) => decimal(&digits, scale, out),
        Err(_) => {
            out.extend(unscaled(&digits)?.bytes());
            out.extend(std::iter::repeat_n(b'0', scale.unsigned_abs().min(1000) as usize));
            Ok(())
        }
    }
}

fn date(days: i64, out: &mut Vec<u8>) -> Result<(), String> {
    match days {
        ..FIRST_DAY => out.extend_from_slice(b"null"),
        FIRST_DAY..=LAST_DAY => write_date(days, out),
        _ => return Err("is out of range".to_owned()),
    }
    Ok(())
}

fn micros(count: i64, unit: Unit) -> i64 {
    match unit {
        Unit::Milli => count.saturating_mul(1000),
        Unit::Micro => count,
        Unit::Nano => count.div_euclid(1000),
    }
}

/// MySQL's may be negative, or longer than a day.
fn time(micros: i64, out: &mut Vec<u8>) {
    const MICROS_PER_HOUR: i64 = 3_600_000_000;
    let length = micros.saturating_abs();
    let mut clock = Vec::with_capacity(16);
    write_time_of_day(length % MICROS_PER_HOUR, &mut clock);
    out.extend(format!("\"{}{:02}", if micros < 0 { "-" } else { "" }, length / MICROS_PER_HOUR).bytes());
    out.extend_from_slice(&clock[2..]);
    out.push(b'"');
}

fn timestamp(count: i64, unit: Unit, out: &mut Vec<u8>) {
    let (days, micros_of_day) = match unit {
        Unit::Milli => (count.div_euclid(86_400_000), count.rem_euclid(86_400_000) * 1000),
        Unit::Micro => (count.div_euclid(MICROS_PER_DAY), count.rem_euclid(MICROS_PER_DAY)),
        Unit::Nano => (count.div_euclid(MICROS_PER_DAY * 1000), count.rem_euclid(MICROS_PER_DAY * 1000) / 1000),
    };
    if days < FIRST_DAY || (unit != Unit::Nano && INFINITY.contains(&count)) {
        out.extend_from_slice(b"null");
    } else {
        write_moment(days, micros_of_day, "", out);
    }
}

/// `10:34:56.789+00:00` with three or six digits behind the second, as a query gives it.
fn zoned_time(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let found = clock(text).filter(|(time, _)| *time <= MICROS_PER_DAY);
    let (time, offset) = found.ok_or_else(|| format!("{text:?} is no time"))?;
    out.push(b'"');
    write_time_of_day(time, out);
    let minutes = offset.abs() / 60_000_000;
    let sign = if offset < 0 { '-' } else { '+' };
    out.extend(format!("{sign}{:02}:{:02}\"", minutes / 60, minutes % 60).bytes());
    Ok(())
}

/// ISO 8601 with a zone, as Java prints it: years beyond 9999 have a plus.
fn zoned_timestamp(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    if ["infinity", "-infinity"].contains(&text) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    let (days, micros) = moment(text).ok_or_else(|| format!("{text:?} is no time"))?;
    write_moment(days + micros.div_euclid(MICROS_PER_DAY), micros.rem_euclid(MICROS_PER_DAY), "Z", out);
    Ok(())
}

/// Days since 1970, and microseconds that may lie outside of the day.
fn moment(text: &str) -> Option<(i64, i64)> {
    let (date, time) = text.split_once('T')?;
    let (sign, plain) = match date.strip_prefix('-') {
        Some(plain) => (-1, plain),
        None => (1, date.strip_prefix('+').unwrap_or(date)),
    };
    let mut parts = plain.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let is_date = parts.next().is_none() && year < 1_000_000 && (1..=12).contains(&month) && (1..=31).contains(&day);
    let (time, offset) = clock(time).filter(|_| is_date)?;
    Some((days_from_civil(sign * year, month, day), time - offset))
}

/// The microseconds of `hh:mm:ss.ffffffZ`, and those of its offset.
fn clock(text: &str) -> Option<(i64, i64)> {
    let at = text.find(['Z', '+', '-']).unwrap_or(text.len());
    let (time, zone) = text.split_at_checked(at)?;
    let offset = match zone.strip_prefix(['+', '-']) {
        None => 0,
        Some(plain) => seconds(plain)? * if zone.starts_with('-') { -1_000_000 } else { 1_000_000 },
    };
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    let digits = fraction.len().min(6);
    let fraction: i64 = if digits == 0 { 0 } else { fraction.get(..digits)?.parse().ok()? };
    Some((seconds(whole)? * 1_000_000 + fraction * 10_i64.pow(6 - digits as u32), offset))
}

/// Of `hh:mm` or `hh:mm:ss`.
fn seconds(text: &str) -> Option<i64> {
    let mut parts = text.split(':').map(|part| part.parse::<u32>().ok().filter(|part| *part < 100).map(i64::from));
    let (hours, minutes) = (parts.next()??, parts.next()??);
    let seconds = parts.next().unwrap_or(Some(0))?;
    parts.next().is_none().then_some(hours * 3600 + minutes * 60 + seconds)
}

/// The inverse of `civil_from_days`, by the same author.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// `P1Y2M3DT4H5M6.789S`, where every part is there.
fn interval_text(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let wrong = || format!("{text:?} is no interval");
    let (date, time) = text.strip_prefix('P').ok_or_else(wrong)?.split_once('T').unwrap_or((&text[1..], ""));
    let mut parts = [0_i64; 5];
    let mut micros = 0_i64;
    for (text, names) in [(date, ['Y', 'M', 'D']), (time, ['H', 'M', 'S'])] {
        let offset = if names[2] == 'D' { 0 } else { 3 };
        let mut rest = text;
        while let Some(end) = rest.find(|character: char| character.is_ascii_uppercase()) {
            let (number, unit) = (&rest[..end], rest.as_bytes()[end] as char);
            let place = names.iter().position(|name| *name == unit).ok_or_else(wrong)? + offset;
            if place == 5 {
                micros = seconds_text(number).ok_or_else(wrong)?;
            } else {
                parts[place] = number.parse().map_err(|_| wrong())?;
            }
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            return Err(wrong());
        }
    }
    interval(parts, micros, out);
    Ok(())
}

/// Of `-6.789`, in microseconds.
fn seconds_text(text: &str) -> Option<i64> {
    let (sign, plain) = text.strip_prefix('-').map_or((1, text), |plain| (-1, plain));
    let (whole, fraction) = plain.split_once('.').unwrap_or((plain, ""));
    let digits = fraction.len().min(6);
    let fraction: i64 = if digits == 0 { 0 } else { fraction.get(..digits)?.parse().ok()? };
    let whole: i64 = whole.parse().ok()?;
    Some(sign * whole.checked_mul(1_000_000)?.checked_add(fraction * 10_i64.pow(6 - digits as u32))?)
}

/// Years, months, days, hours, minutes and microseconds, without those that are zero.
fn interval(parts: [i64; 5], micros: i64, out: &mut Vec<u8>) {
    let [years, months, days, hours, minutes] = parts;
    let mut micros = micros;
    let (mut hours, mut minutes) = (hours, minutes);
    if hours == 0 && minutes == 0 {
        (hours, minutes, micros) = (micros / 3_600_000_000, micros / 60_000_000 % 60, micros % 60_000_000);
    }
    out.extend_from_slice(b"\"P");
    let part = |value: i64, unit: char, out: &mut Vec<u8>| {
        if value != 0 {
            out.extend(format!("{value}{unit}").bytes());
        }
    };
    part(years, 'Y', out);
    part(months, 'M', out);
    part(days, 'D', out);
    if (hours, minutes, micros) != (0, 0, 0) {
        out.push(b'T');
        part(hours, 'H', out);
        part(minutes, 'M', out);
        if micros != 0 {
            let sign = if micros < 0 { "-" } else { "" };
            let (whole, fraction) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
            let text = format!("{sign}{whole}.{fraction:06}");
            out.extend(text.trim_end_matches('0').trim_end_matches('.').bytes());
            out.push(b'S');
        }
    } else if (years, months, days) == (0, 0, 0) {
        out.extend_from_slice(b"T0S");
    }
    out.push(b'"');
}

/// As PostgreSQL prints them: the highest first; where the length is not known, from the highest that is set.
fn bits(bytes: &[u8], length: u32, out: &mut Vec<u8>) {
    out.push(b'"');
    let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
    let length = match length {
        ..=BITS_MAX => length as usize,
        _ => (0..bytes.len() * 8).rev().find(|at| bit(*at)).map_or(0, |highest| highest + 1),
    };
    out.extend((0..length).rev().map(|at| if bit(at) { b'1' } else { b'0' }));
    out.push(b'"');
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
