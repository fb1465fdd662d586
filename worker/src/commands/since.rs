//! A time in the past, as `--since` and `--rewind-to` take it: a length of time, or a date.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// From when on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// So many milliseconds ago.
    Ago(u64),
    /// This many milliseconds after 1970.
    At(u64),
}

impl Since {
    pub(super) fn at_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::Ago(ms) => now_ms.saturating_sub(ms),
            Self::At(ms) => ms,
        }
    }
}

/// Reads `30s`, `5min`, `2h`, `7d`, an RFC 3339 time, or a day, which begins at midnight in UTC.
pub(super) fn since(text: &str) -> Result<Since, String> {
    if let Some(ms) = length_ms(text) {
        return Ok(Since::Ago(ms));
    }
    let time = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let time = OffsetDateTime::parse(&time, &Rfc3339).map_err(
        |_| "give a length of time such as 30s, 5min, 2h or 7d, or a date such as 2025-11-21 or 2025-11-21T13:00:00Z",
    )?;
    Ok(Since::At(u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default()))
}

fn length_ms(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let unit_ms: u64 = match unit.trim_start() {
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_dates() {
        let cases = [
            ("30s", Since::Ago(30_000)),
            ("5min", Since::Ago(300_000)),
            ("5m", Since::Ago(300_000)),
            ("2 h", Since::Ago(7_200_000)),
            ("7d", Since::Ago(604_800_000)),
            ("2025-11-21", Since::At(1_763_683_200_000)),
            ("2025-11-21T13:24:47Z", Since::At(1_763_731_487_000)),
            ("2025-11-21T14:24:47.5+01:00", Since::At(1_763_731_487_500)),
            ("1969-12-31", Since::At(0)),
        ];
        for (text, expected) in cases {
            assert_eq!(since(text), Ok(expected), "{text}");
        }
        for text in
            ["", "h", "2", "-2h", "2 weeks", "99999999999999999d", "2025-13-01", "2025-11-21 13:00", "yesterday"]
        {
            assert!(since(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_length_goes_back_from_now() {
        assert_eq!(Since::Ago(1000).at_ms(5000), 4000);
        assert_eq!(Since::Ago(9000).at_ms(5000), 0);
        assert_eq!(Since::At(7).at_ms(5000), 7);
    }
}
