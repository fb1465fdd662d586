//! Positions in a database's log.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A log sequence number, such as `16/B374D848`: a byte position in the log, ordered as the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lsn(pub u64);

/// A text that is no log sequence number.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{given:?} is no log sequence number: expected two hexadecimal numbers of 32 bits, such as 16/B374D848")]
pub struct LsnError {
    /// What was given.
    pub given: String,
}

impl FromStr for Lsn {
    type Err = LsnError;

    /// Takes what PostgreSQL's `pg_lsn` takes: one to eight hexadecimal digits on each side of the slash.
    fn from_str(text: &str) -> Result<Lsn, LsnError> {
        text.split_once('/')
            .and_then(|(high, low)| Some(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
            .map(Lsn)
            .ok_or_else(|| LsnError { given: text.to_owned() })
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The position that a message's `after` names, as versions count it: an LSN of PostgreSQL's (`16/B374D848`), or the number in a
/// GTID of MariaDB's (`0-5306-42`) or MySQL's (`3e11fa47-71ca-11e1-9e33-c80aa9429562:42`).
pub fn position_of(after: &str) -> Option<u64> {
    if let Ok(lsn) = after.parse::<Lsn>() {
        return Some(lsn.0);
    }
    let number = match after.split_once(':') {
        Some((uuid, number)) => uuid::Uuid::try_parse(uuid).ok().map(|_| number)?,
        None => {
            let mut parts = after.splitn(3, '-');
            let _domain: u32 = parts.next()?.parse().ok()?;
            let _server: u32 = parts.next()?.parse().ok()?;
            parts.next()?
        }
    };
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok()).flatten()
}

fn half(text: &str) -> Option<u32> {
    // from_str_radix alone would take a sign.
    let digits = (1..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if digits { u32::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_reads_what_postgresql_writes() {
        assert_eq!("16/B374D848".parse(), Ok(Lsn(0x16_B374_D848)));
        assert_eq!("0/0".parse(), Ok(Lsn(0)));
        assert_eq!("ffffffff/ffffffff".parse(), Ok(Lsn(u64::MAX)));
        assert_eq!("0/00000001".parse(), Ok(Lsn(1)));
        assert_eq!(Lsn(0x16_0000_0848).to_string(), "16/848");
    }

    #[test]
    fn a_message_names_a_position_of_any_database() {
        let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        for (text, expected) in [
            ("0/2A", Some(42)),
            ("0-5306-42", Some(42)),
            (&format!("{uuid}:42"), Some(42)),
            (&format!("{uuid}:1-42"), None),
            ("0-1", None),
            ("0-1-2-3", None),
            ("0-1-+3", None),
            ("42", None),
            ("", None),
        ] {
            assert_eq!(position_of(text), expected, "{text}");
        }
    }

    #[test]
    fn it_refuses_the_rest() {
        for bad in ["", "/", "1/", "/1", "16B374D848", "+1/1", "1/-1", "g/1", "123456789/0", "1/2/3", " 1/2"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn it_comes_back(position in any::<u64>()) {
            prop_assert_eq!(Lsn(position).to_string().parse(), Ok(Lsn(position)));
        }

        #[test]
        fn no_text_panics(text in "[0-9a-fA-F/+ä-]{0,12}") {
            if let Ok(lsn) = text.parse::<Lsn>() {
                prop_assert_eq!(lsn.to_string().parse(), Ok(lsn));
            }
        }
    }
}
