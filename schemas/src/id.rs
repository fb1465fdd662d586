//! A document's id: what a message carries, what the query is asked for, and what Elasticsearch calls `_id`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use thiserror::Error;
use uuid::Uuid;

/// At most this many bytes in a text id: Elasticsearch's limit for `_id`.
pub const TEXT_ID_BYTES_MAX: usize = 512;

const GIVEN_CHARS_MAX: usize = 60;

/// The type of a job's key, as `job.toml` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// A signed integer of 64 bits.
    Bigint,
    /// A UUID.
    Uuid,
    /// A text.
    Text,
}

/// One document's id. It displays as the document's `_id` and serialises as a number (`Int`) or a string (the others).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Id {
    /// Of a `bigint` key.
    Int(i64),
    /// Of a `uuid` key.
    Uuid(Uuid),
    /// Of a `text` key.
    Text(Box<str>),
}

/// An id that is not of the job's key type.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("id {given} {reason}; the job's key is {key}: expected {}", key.expects())]
pub struct IdError {
    /// What was given, shortened.
    pub given: String,
    /// What is wrong with it.
    pub reason: &'static str,
    /// The job's key type.
    pub key: KeyType,
}

impl KeyType {
    /// What an id of this type looks like in a message.
    pub fn expects(self) -> &'static str {
        match self {
            KeyType::Bigint => {
                "an integer from -9223372036854775808 to 9223372036854775807, or a string of its decimal digits"
            }
            KeyType::Uuid => "a string such as \"6f1c2f9e-0c5b-4b1a-9d5e-2f6f0a3c7b11\"",
            KeyType::Text => "a string of 1 to 512 bytes without a NUL",
        }
    }

    /// Reads an id as it stands in a message. A number never passes through a float.
    pub fn id_from_json(self, raw: &RawValue) -> Result<Id, IdError> {
        let json = raw.get();
        self.read_json(json).map_err(|reason| self.error(json, reason))
    }

    /// Reads an id from plain text: a command's argument, or the `_id` of a document.
    pub fn id_from_text(self, text: &str) -> Result<Id, IdError> {
        self.read_text(text).map_err(|reason| self.error(&format!("{text:?}"), reason))
    }

    fn read_json(self, json: &str) -> Result<Id, &'static str> {
        match json.as_bytes().first() {
            Some(b'"') => self.read_text(&unquote(json)?),
            Some(b'-' | b'0'..=b'9') if self == KeyType::Bigint => read_integer(json).map(Id::Int),
            Some(b'-' | b'0'..=b'9') => Err("is a number"),
            Some(b't' | b'f') => Err("is a boolean"),
            Some(b'n') => Err("is null"),
            Some(b'{') => Err("is an object"),
            Some(b'[') => Err("is an array"),
            _ => Err("is not JSON"),
        }
    }

    fn read_text(self, text: &str) -> Result<Id, &'static str> {
        match self {
            KeyType::Bigint => read_integer(text).map(Id::Int),
            KeyType::Uuid => Uuid::try_parse(text).map(Id::Uuid).map_err(|_| "is not a UUID"),
            KeyType::Text if text.is_empty() => Err("is empty"),
            KeyType::Text if text.len() > TEXT_ID_BYTES_MAX => Err("is longer than 512 bytes"),
            // PostgreSQL can't hold it.
            KeyType::Text if text.contains('\0') => Err("contains a NUL"),
            KeyType::Text => Ok(Id::Text(text.into())),
        }
    }

    fn error(self, given: &str, reason: &'static str) -> IdError {
        let mut chars = given.chars();
        let mut given: String = chars.by_ref().take(GIVEN_CHARS_MAX).collect();
        if chars.next().is_some() {
            given.push('…');
        }
        IdError { given, reason, key: self }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyType::Bigint => "bigint",
            KeyType::Uuid => "uuid",
            KeyType::Text => "text",
        })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Int(int) => int.fmt(f),
            Id::Uuid(uuid) => uuid.hyphenated().fmt(f),
            Id::Text(text) => f.pad(text),
        }
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Id::Int(int) => serializer.serialize_i64(*int),
            Id::Uuid(uuid) => serializer.collect_str(&uuid.hyphenated()),
            Id::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl JsonSchema for Id {
    fn schema_name() -> Cow<'static, str> {
        "Id".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Which form a job takes is decided by its key: bigint takes an integer or the string of its decimal \
                digits, uuid and text take a string.",
            "anyOf": [
                { "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX },
                { "type": "string", "minLength": 1, "maxLength": TEXT_ID_BYTES_MAX },
            ],
        })
    }
}

impl From<i64> for Id {
    fn from(id: i64) -> Id {
        Id::Int(id)
    }
}

impl From<i32> for Id {
    fn from(id: i32) -> Id {
        Id::Int(id.into())
    }
}

impl From<u32> for Id {
    fn from(id: u32) -> Id {
        Id::Int(id.into())
    }
}

impl From<&str> for Id {
    fn from(id: &str) -> Id {
        Id::Text(id.into())
    }
}

impl From<String> for Id {
    fn from(id: String) -> Id {
        Id::Text(id.into())
    }
}

impl From<Uuid> for Id {
    fn from(id: Uuid) -> Id {
        Id::Uuid(id)
    }
}

/// The text of a JSON string, borrowed where it has no escapes.
fn unquote(json: &str) -> Result<Cow<'_, str>, &'static str> {
    match json.get(1..json.len() - 1) {
        Some(inner) if !inner.contains('\\') => Ok(Cow::Borrowed(inner)),
        // A lone surrogate is JSON but no text.
        _ => serde_json::from_str(json).map(Cow::Owned).map_err(|_| "is not a valid string"),
    }
}

/// `-?[0-9]+` within 64 bits. Leading zeros are taken: the number is what counts.
fn read_integer(text: &str) -> Result<i64, &'static str> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("is not a whole number in plain digits");
    }
    text.parse().map_err(|_| "does not fit into 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from_json(key: KeyType, json: &str) -> Result<Id, IdError> {
        let raw: &RawValue = serde_json::from_str(json).expect("the test gives JSON");
        key.id_from_json(raw)
    }

    fn refused(key: KeyType, json: &str, reason: &str) {
        let error = from_json(key, json).expect_err(json);
        assert_eq!(error.reason, reason, "{json}");
        assert!(error.to_string().contains(key.expects()), "{error}");
    }

    #[test]
    fn bigint() {
        for (json, id) in [
            ("42", 42),
            (" 42 ", 42),
            ("-0", 0),
            ("\"42\"", 42),
            ("\"007\"", 7),
            ("\"-7\"", -7),
            ("\"\\u0034\\u0032\"", 42),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("9007199254740993", 9007199254740993),
        ] {
            assert_eq!(from_json(KeyType::Bigint, json), Ok(Id::Int(id)), "{json}");
        }
        let digits = "is not a whole number in plain digits";
        for json in ["1.0", "1e3", "1E3", "-1.5", "\"\"", "\"+1\"", "\" 1\"", "\"1_0\"", "\"-\"", "\"٣\""] {
            refused(KeyType::Bigint, json, digits);
        }
        for json in ["9223372036854775808", "\"-9223372036854775809\"", "18446744073709551616"] {
            refused(KeyType::Bigint, json, "does not fit into 64 bits");
        }
        refused(KeyType::Bigint, "true", "is a boolean");
        refused(KeyType::Bigint, "null", "is null");
        refused(KeyType::Bigint, "{\"id\":1}", "is an object");
        refused(KeyType::Bigint, "[1]", "is an array");
    }

    #[test]
    fn text() {
        assert_eq!(from_json(KeyType::Text, "\"a\\nä\""), Ok(Id::from("a\nä")));
        assert_eq!(from_json(KeyType::Text, "\"42\""), Ok(Id::from("42")));
        let longest = format!("\"{}\"", "a".repeat(512));
        assert!(from_json(KeyType::Text, &longest).is_ok());
        refused(KeyType::Text, &format!("\"{}\"", "ä".repeat(257)), "is longer than 512 bytes");
        refused(KeyType::Text, "\"\"", "is empty");
        refused(KeyType::Text, "\"a\\u0000\"", "contains a NUL");
        refused(KeyType::Text, "\"\\ud800\"", "is not a valid string");
        refused(KeyType::Text, "42", "is a number");
    }

    #[test]
    fn uuid() {
        let id = from_json(KeyType::Uuid, "\"6F1C2F9E-0C5B-4B1A-9D5E-2F6F0A3C7B11\"").expect("a UUID");
        assert_eq!(id.to_string(), "6f1c2f9e-0c5b-4b1a-9d5e-2f6f0a3c7b11");
        refused(KeyType::Uuid, "\"6f1c2f9e\"", "is not a UUID");
        refused(KeyType::Uuid, "7", "is a number");
    }

    #[test]
    fn an_error_names_what_was_given() {
        let error = from_json(KeyType::Bigint, "1.5").expect_err("a fraction");
        assert!(error.to_string().starts_with("id 1.5 is not a whole number"), "{error}");
        let error = KeyType::Bigint.id_from_text("x").expect_err("a letter");
        assert!(error.to_string().starts_with("id \"x\" is not a whole number"), "{error}");
        let long = format!("\"{}\"", "ä".repeat(10_000));
        let error = from_json(KeyType::Bigint, &long).expect_err("letters");
        assert!(error.given.chars().count() <= GIVEN_CHARS_MAX + 1);
    }

    fn any_id() -> impl Strategy<Value = (KeyType, Id)> {
        prop_oneof![
            any::<i64>().prop_map(|int| (KeyType::Bigint, Id::Int(int))),
            any::<u128>().prop_map(|bits| (KeyType::Uuid, Id::Uuid(Uuid::from_u128(bits)))),
            "[^\0]{1,100}".prop_map(|text| (KeyType::Text, Id::from(text))),
        ]
    }

    proptest! {
        #[test]
        fn an_id_comes_back_from_json_and_from_text((key, id) in any_id()) {
            let json = serde_json::to_string(&id).expect("an id serialises");
            prop_assert_eq!(from_json(key, &json), Ok(id.clone()));
            prop_assert_eq!(key.id_from_text(&id.to_string()), Ok(id));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            for key in [KeyType::Bigint, KeyType::Uuid, KeyType::Text] {
                if let Ok(id) = key.id_from_text(&text) {
                    prop_assert_eq!(key.id_from_text(&id.to_string()), Ok(id));
                }
            }
        }
    }
}
