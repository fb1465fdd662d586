//! Names of what tests create: they tell when, so that leftovers can be told from what is in use.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A name is this, the second of its creation in 6 digits of base 36, and 4 random ones.
const PREFIX: &str = "pintest";
const TIME_DIGITS: usize = 6;
const RANDOM_DIGITS: usize = 4;
const NAME_BYTES: usize = PREFIX.len() + TIME_DIGITS + RANDOM_DIGITS;

/// A name that nobody else has: 17 bytes of `[a-z0-9]`, the first a letter.
pub(crate) fn unique_name() -> String {
    name_of(now_s())
}

/// A name as one made at that second.
fn name_of(created_s: u64) -> String {
    let random = RandomState::new().hash_one(());
    format!("{PREFIX}{}{}", base36(created_s, TIME_DIGITS), base36(random, RANDOM_DIGITS))
}

/// How long ago the thing was made whose name begins with a test's name; `None` when it is no test's.
pub(crate) fn age(name: &str) -> Option<Duration> {
    let own = name.get(..NAME_BYTES)?;
    let separated = name[NAME_BYTES..].bytes().next().is_none_or(|byte| !byte.is_ascii_alphanumeric());
    let digits = own.strip_prefix(PREFIX)?;
    if !(separated && digits.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())) {
        return None;
    }
    let created_s = u64::from_str_radix(&digits[..TIME_DIGITS], 36).ok()?;
    now_s().checked_sub(created_s).map(Duration::from_secs)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs()
}

/// The last `digits` digits of a number in base 36.
fn base36(mut number: u64, digits: usize) -> String {
    let mut text = vec![b'0'; digits];
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
        number /= 36;
    }
    text.into_iter().map(char::from).collect()
}

/// A name as a test of that long ago made it.
#[cfg(test)]
pub(crate) fn name_of_age(age: Duration) -> String {
    name_of(now_s() - age.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_age() {
        let name = unique_name();
        assert_eq!(name.len(), NAME_BYTES);
        for own in [name.clone(), format!("{name}-orders-1"), format!("{name}.orders")] {
            assert!(age(&own).is_some_and(|age| age < Duration::from_secs(5)), "{own}");
        }
        let hour = Duration::from_secs(3600);
        assert!(age(&name_of_age(hour)).is_some_and(|age| age >= hour));
        for other in ["postgres", "t", "template0", "transaction", "pintest", "pinion-sources", &format!("{name}x")] {
            assert_eq!(age(other), None, "{other}");
        }
    }
}
