//! Dates and times. PostgreSQL counts days and microseconds from 2000-01-01, in UTC.

use super::number::integer;
use super::range::End;
use super::reader::{Problem, Reader};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_MINUTE: i64 = 60 * MICROS_PER_SECOND;
const MICROS_PER_HOUR: i64 = 60 * MICROS_PER_MINUTE;
const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;
const MILLIS_PER_DAY: i64 = MICROS_PER_DAY / 1000;

/// Days from 1970-01-01 to 2000-01-01.
const POSTGRES_EPOCH_DAYS: i64 = 10_957;

/// The days and timestamps that PostgreSQL has (`datatype/timestamp.h` in its source): both from 4714-11-24 BC on,
/// days up to the year 5874897, timestamps up to 294276.
const DAYS: std::ops::Range<i32> = -2_451_545..2_145_031_949;
const TIMESTAMPS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// Appends a `date`, given in days.
pub(super) fn date(days: i32, out: &mut Vec<u8>) -> Result<(), Problem> {
    if date_end(days).is_some() {
        out.extend_from_slice(b"null");
    } else if !DAYS.contains(&days) {
        return Err(Problem::Wrong("is out of range"));
    } else {
        day(i64::from(days) + POSTGRES_EPOCH_DAYS, out);
    }
    Ok(())
}

/// Appends a `timestamp` or `timestamptz`, given in microseconds, with `zone` at its end.
pub(super) fn timestamp(micros: i64, zone: &str, out: &mut Vec<u8>) -> Result<(), Problem> {
    if timestamp_end(micros).is_some() {
        out.extend_from_slice(b"null");
    } else if !TIMESTAMPS.contains(&micros) {
        return Err(Problem::Wrong("is out of range"));
    } else {
        let days = micros.div_euclid(MICROS_PER_DAY) + POSTGRES_EPOCH_DAYS;
        moment(days, micros.rem_euclid(MICROS_PER_DAY), zone, out);
    }
    Ok(())
}

/// Appends a date, given in days since 1970-01-01.
pub(crate) fn day(days: i64, out: &mut Vec<u8>) {
    if day_opens_string(days, out) {
        out.push(b'"');
    } else {
        integer(days * MILLIS_PER_DAY, out);
    }
}

/// Appends a moment, given in days since 1970-01-01 and the microseconds of the day, with `zone` at its end.
pub(crate) fn moment(days: i64, micros_of_day: i64, zone: &str, out: &mut Vec<u8>) {
    if day_opens_string(days, out) {
        out.push(b'T');
        clock(micros_of_day, out);
        out.extend_from_slice(zone.as_bytes());
        out.push(b'"');
    } else {
        integer(days * MILLIS_PER_DAY + micros_of_day / 1000, out);
    }
}

/// Appends a `time`, given in microseconds since midnight.
pub(super) fn time(micros: i64, out: &mut Vec<u8>) -> Result<(), Problem> {
    out.push(b'"');
    time_of_day(micros, out)?;
    out.push(b'"');
    Ok(())
}

/// Appends a `timetz`, with its offset from UTC: `+02:00`, with seconds only where it has them.
pub(super) fn time_tz(mut reader: Reader<'_>, out: &mut Vec<u8>) -> Result<(), Problem> {
    let micros = reader.i64()?;
    // Sent with the sign of POSIX: positive is west of Greenwich.
    let seconds_west = reader.i32()?;
    reader.end()?;
    let seconds = seconds_west.unsigned_abs();
    if seconds >= 24 * 3600 {
        return Err(Problem::Wrong("has an offset of a day or more"));
    }
    out.push(b'"');
    time_of_day(micros, out)?;
    let mut text = *b"+00:00:00";
    if seconds_west > 0 {
        text[0] = b'-';
    }
    two_digits(seconds / 3600, &mut text[1..3]);
    two_digits(seconds / 60 % 60, &mut text[4..6]);
    two_digits(seconds % 60, &mut text[7..9]);
    out.extend_from_slice(if seconds % 60 == 0 { &text[..6] } else { &text });
    out.push(b'"');
    Ok(())
}

/// Appends an `interval` as `intervalstyle = iso_8601` prints it (`EncodeInterval` in PostgreSQL's `datetime.c`): every part
/// with its own sign, parts that are zero left out.
pub(super) fn interval(reader: Reader<'_>, out: &mut Vec<u8>) -> Result<(), Problem> {
    let interval = Interval::read(reader)?;
    if interval.end().is_some() {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    let Interval { micros, days, months } = interval;
    out.extend_from_slice(b"\"P");
    interval_part(i64::from(months / 12), b'Y', out);
    interval_part(i64::from(months % 12), b'M', out);
    interval_part(i64::from(days), b'D', out);
    if micros != 0 {
        out.push(b'T');
        interval_part(micros / MICROS_PER_HOUR, b'H', out);
        interval_part(micros / MICROS_PER_MINUTE % 60, b'M', out);
        seconds_part(micros % MICROS_PER_MINUTE, out);
    } else if days == 0 && months == 0 {
        out.extend_from_slice(b"T0S");
    }
    out.push(b'"');
    Ok(())
}

/// Which infinity a `date` is.
pub(super) fn date_end(days: i32) -> Option<End> {
    End::of(days, i32::MIN, i32::MAX)
}

/// Which infinity a `timestamp` or `timestamptz` is.
pub(super) fn timestamp_end(micros: i64) -> Option<End> {
    End::of(micros, i64::MIN, i64::MAX)
}

/// Which infinity an `interval` is; PostgreSQL has these from version 17 on.
pub(super) fn interval_end(reader: Reader<'_>) -> Result<Option<End>, Problem> {
    Ok(Interval::read(reader)?.end())
}

struct Interval {
    micros: i64,
    days: i32,
    months: i32,
}

impl Interval {
    fn read(mut reader: Reader<'_>) -> Result<Self, Problem> {
        let interval = Self { micros: reader.i64()?, days: reader.i32()?, months: reader.i32()? };
        reader.end()?;
        Ok(interval)
    }

    fn end(&self) -> Option<End> {
        let Self { micros, days, months } = *self;
        End::of((months, days, micros), (i32::MIN, i32::MIN, i64::MIN), (i32::MAX, i32::MAX, i64::MAX))
    }
}

fn interval_part(value: i64, unit: u8, out: &mut Vec<u8>) {
    if value != 0 {
        integer(value, out);
        out.push(unit);
    }
}

/// Appends the seconds of an interval: fewer than 60, in microseconds, with no more digits than they need.
fn seconds_part(micros: i64, out: &mut Vec<u8>) {
    if micros == 0 {
        return;
    }
    if micros < 0 {
        out.push(b'-');
    }
    let micros = micros.unsigned_abs();
    integer(micros / 1_000_000, out);
    let mut text = *b".000000";
    six_digits((micros % 1_000_000) as u32, &mut text[1..]);
    let zeros = text.iter().rev().take_while(|digit| **digit == b'0').count();
    // Of ".000000" the point stays behind the zeros: nothing of it is to be written.
    let kept = if zeros == 6 { 0 } else { text.len() - zeros };
    out.extend_from_slice(&text[..kept]);
    out.push(b'S');
}

/// Appends a quote and the date of a day, counted from 1970-01-01; or nothing (false) for years over 9999, which Elasticsearch
/// takes only as milliseconds.
fn day_opens_string(days: i64, out: &mut Vec<u8>) -> bool {
    let (year, month, day) = civil_from_days(days);
    if year > 9999 {
        return false;
    }
    let mut text = *b"\"-0000-00-00";
    let century_and_year = year.unsigned_abs() as u32;
    two_digits(century_and_year / 100, &mut text[2..4]);
    two_digits(century_and_year % 100, &mut text[4..6]);
    two_digits(month, &mut text[7..9]);
    two_digits(day, &mut text[10..12]);
    if year < 0 {
        out.extend_from_slice(&text);
    } else {
        text[1] = b'"';
        out.extend_from_slice(&text[1..]);
    }
    true
}

fn time_of_day(micros: i64, out: &mut Vec<u8>) -> Result<(), Problem> {
    if !(0..=MICROS_PER_DAY).contains(&micros) {
        return Err(Problem::Wrong("is not a time of day"));
    }
    clock(micros, out);
    Ok(())
}

/// Appends microseconds since midnight as a time, with three digits after the second, or six where it has microseconds.
pub(crate) fn clock(micros: i64, out: &mut Vec<u8>) {
    let (seconds, fraction) = ((micros / MICROS_PER_SECOND) as u32, (micros % MICROS_PER_SECOND) as u32);
    let mut text = *b"00:00:00.000000";
    two_digits(seconds / 3600, &mut text[0..2]);
    two_digits(seconds / 60 % 60, &mut text[3..5]);
    two_digits(seconds % 60, &mut text[6..8]);
    six_digits(fraction, &mut text[9..15]);
    let length = if fraction.is_multiple_of(1000) { 12 } else { 15 };
    out.extend_from_slice(&text[..length]);
}

/// Writes a number below a hundred as two digits.
fn two_digits(value: u32, slot: &mut [u8]) {
    slot[0] = b'0' + (value / 10) as u8;
    slot[1] = b'0' + (value % 10) as u8;
}

/// Writes the microseconds of a second as six digits.
fn six_digits(micros: u32, slot: &mut [u8]) {
    two_digits(micros / 10_000, &mut slot[0..2]);
    two_digits(micros / 100 % 100, &mut slot[2..4]);
    two_digits(micros % 100, &mut slot[4..6]);
}

/// Year, month and day of the proleptic Gregorian calendar, from days since 1970-01-01.
///
/// The rule is Howard Hinnant's `civil_from_days` (howardhinnant.github.io/date_algorithms.html): count in eras of 400 years,
/// all of 146,097 days, and begin the year with March, so that the leap day is its last.
pub(crate) fn civil_from_days(days: i64) -> (i64, u32, u32) {
    const DAYS_PER_ERA: i64 = 146_097;
    const DAYS_FROM_0000_03_01: i64 = 719_468;
    let days = days + DAYS_FROM_0000_03_01;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA) as u32;
    // Take away the leap days before it: one in 4 years (1,461 days), none in 100 (36,524), one in 400.
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From March on the lengths of five months are 31, 30, 31, 30, 31: 153 days.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, next_year) = if month_from_march < 10 { (month_from_march + 3, 0) } else { (month_from_march - 9, 1) };
    (era * 400 + i64::from(year_of_era) + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::civil_from_days;

    #[test]
    fn every_day_follows_the_one_before() {
        let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days_in = |year: i64, month: u32| match month {
            4 | 6 | 9 | 11 => 30,
            2 => 28 + u32::from(is_leap(year)),
            _ => 31,
        };
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(10_957), (2000, 1, 1));
        assert_eq!(civil_from_days(-719_468), (0, 3, 1));
        // Julian day 0, PostgreSQL's first date, and a day over 9999.
        let (mut year, mut month, mut day) = (-4713, 11, 24);
        for days in (-2_451_545 + 10_957)..2_932_900 + 400 {
            assert_eq!(civil_from_days(days), (year, month, day), "day {days}");
            day += 1;
            if day > days_in(year, month) {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert!(year > 9999, "the walk passes the last year of four digits");
    }
}
