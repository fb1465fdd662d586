//! Two JSON documents, compared value by value. Numbers are compared as numbers, with all their digits.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

/// A place where two documents differ.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// Which value: `customer.name`, `items[2].sku`.
    pub field: String,
    /// What the source gives; absent where the field is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Box<RawValue>>,
    /// What the index holds; absent where the field is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<Box<RawValue>>,
}

/// Where `source` and `index` differ, the smallest values that do, in the order of their names.
///
/// # Errors
/// A text in one of them is no text, as a lone surrogate.
pub fn differences(source: &RawValue, index: &RawValue) -> serde_json::Result<Vec<Difference>> {
    let mut found = Vec::new();
    compare("", Some(source), Some(index), &mut found)?;
    Ok(found)
}

fn compare(
    field: &str,
    source: Option<&RawValue>,
    index: Option<&RawValue>,
    found: &mut Vec<Difference>,
) -> serde_json::Result<()> {
    if let (Some(left), Some(right)) = (source, index) {
        match (Json::read(left)?, Json::read(right)?) {
            (Json::Object(left), Json::Object(right)) => {
                let added = right.keys().filter(|name| !left.contains_key(*name));
                for name in left.keys().chain(added) {
                    let path = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
                    compare(&path, left.get(name).copied(), right.get(name).copied(), found)?;
                }
                return Ok(());
            }
            (Json::Array(left), Json::Array(right)) => {
                for place in 0..left.len().max(right.len()) {
                    compare(&format!("{field}[{place}]"), left.get(place).copied(), right.get(place).copied(), found)?;
                }
                return Ok(());
            }
            (left, right) if left == right => return Ok(()),
            _ => {}
        }
    }
    found.push(Difference {
        field: field.to_owned(),
        source: source.map(ToOwned::to_owned),
        index: index.map(ToOwned::to_owned),
    });
    Ok(())
}

/// A value, read one level deep.
enum Json<'a> {
    Object(BTreeMap<String, &'a RawValue>),
    Array(Vec<&'a RawValue>),
    Text(String),
    Number(Decimal),
    /// `true`, `false`, `null`.
    Word(&'a str),
}

impl<'a> Json<'a> {
    fn read(raw: &'a RawValue) -> serde_json::Result<Self> {
        let text = raw.get();
        Ok(match text.as_bytes().first() {
            Some(b'{') => Self::Object(serde_json::from_str(text)?),
            Some(b'[') => Self::Array(serde_json::from_str(text)?),
            Some(b'"') => Self::Text(serde_json::from_str(text)?),
            Some(b'-' | b'0'..=b'9') => Self::Number(Decimal::read(text)),
            _ => Self::Word(text),
        })
    }
}

impl PartialEq for Json<'_> {
    /// Objects and arrays are compared by their parts, not here.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(left), Self::Text(right)) => left == right,
            (Self::Number(left), Self::Number(right)) => left == right,
            (Self::Word(left), Self::Word(right)) => left == right,
            _ => false,
        }
    }
}

/// `0.digits` times ten to the `exponent`, without zeros at either end: equal numbers are equal here.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// Reads a JSON number.
    fn read(text: &str) -> Self {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_start_matches('0');
        let leading = digits.len() - significant.len();
        let significant = significant.trim_end_matches('0');
        if significant.is_empty() {
            return Self { negative: false, digits: String::new(), exponent: 0 };
        }
        let places = i64::try_from(whole.len()).unwrap_or(i64::MAX) - i64::try_from(leading).unwrap_or(i64::MAX);
        let exponent = exponent.parse::<i64>().unwrap_or(i64::MAX).saturating_add(places);
        Self { negative, digits: significant.to_owned(), exponent }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(source: &str, index: &str, expected: &[(&str, &str, &str)]) {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("the test gives JSON");
        let found = differences(&raw(source), &raw(index)).expect("texts are texts");
        let shown =
            |value: &Option<Box<RawValue>>| value.as_ref().map_or("-".to_owned(), |value| value.get().to_owned());
        let found: Vec<(String, String, String)> =
            found.iter().map(|found| (found.field.clone(), shown(&found.source), shown(&found.index))).collect();
        let expected: Vec<(String, String, String)> =
            expected.iter().map(|(field, left, right)| ((*field).into(), (*left).into(), (*right).into())).collect();
        assert_eq!(found, expected, "{source} {index}");
    }

    #[test]
    fn documents_differ_where_their_values_do() {
        check(r#"{"a":1,"b":{"c":"x"}}"#, r#"{ "b" : {"c":"\u0078"}, "a" : 1.0 }"#, &[]);
        check(r#"{"a":{"b":1,"c":2}}"#, r#"{"a":{"b":1,"c":3}}"#, &[("a.c", "2", "3")]);
        check(r#"{"a":null}"#, r#"{"b":false}"#, &[("a", "null", "-"), ("b", "-", "false")]);
        check(
            r#"{"i":[{"s":1},{"s":2}]}"#,
            r#"{"i":[{"s":1},{"s":3},4]}"#,
            &[("i[1].s", "2", "3"), ("i[2]", "-", "4")],
        );
        check(r#"{"a":"1"}"#, r#"{"a":1}"#, &[("a", "\"1\"", "1")]);
        check(r#"{"a":{}}"#, r#"{"a":[]}"#, &[("a", "{}", "[]")]);
        check(r#"{"a":[]}"#, r#"{"a":[]}"#, &[]);
    }

    #[test]
    fn numbers_are_numbers_with_all_their_digits() {
        for (left, right) in
            [("1", "1.000"), ("1e3", "1000"), ("-0", "0"), ("0.00012", "1.2E-4"), ("120", "1.20e2"), ("0e9", "0.0")]
        {
            check(left, right, &[]);
        }
        for (left, right) in [
            ("9007199254740992", "9007199254740993"),
            ("0.1", "0.10000000000000000000000000001"),
            ("1", "-1"),
            ("1e400", "1e401"),
            ("10", "1"),
        ] {
            check(left, right, &[("", left, right)]);
        }
    }

    proptest! {
        #[test]
        fn a_number_equals_itself_however_it_is_written(digits in 1..i64::MAX, shift in 0..30_u32) {
            let moved = format!("{digits}{}e-{shift}", "0".repeat(shift as usize));
            prop_assert_eq!(Decimal::read(&digits.to_string()), Decimal::read(&moved));
            prop_assert_ne!(Decimal::read(&digits.to_string()), Decimal::read(&format!("{digits}e1")));
        }
    }
}
