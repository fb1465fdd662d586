//! The job message: what a hook puts on the broker and what the worker reads from it.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::id::Id;
use crate::names::{JOB_NAME_BYTES_MAX, valid_job_name};

/// The largest message that is read: 1 MiB.
pub const MESSAGE_BYTES_MAX: usize = 1_048_576;

/// At most this many ids in one message.
pub const IDS_MAX: usize = 100_000;

/// Header: when the message was sent, an integer of milliseconds since 1970. AMQP's own `timestamp` has whole seconds
/// only.
pub const HEADER_SENT_MS: &str = "sent_ms";
/// Header: the W3C trace context of the sender.
pub const HEADER_TRACEPARENT: &str = "traceparent";
/// Header, the worker's own: how often the job was tried.
pub const HEADER_ATTEMPTS: &str = "pinion-attempts";
/// Header, the worker's own: the message asks for the second look after a delete.
pub const HEADER_SECOND_LOOK: &str = "pinion-second-look";
/// Header, the worker's own: the message fills the index that a rebuild makes, and no other.
pub const HEADER_LOAD: &str = "pinion-load";

/// A message as it was read. The ids are still raw: only the job knows their type (`KeyType::id_from_json`).
#[derive(Debug)]
pub struct JobMessage<'a> {
    /// The job's name; it decides, not the routing key.
    pub job_name: Cow<'a, str>,
    /// One id or many, never none.
    pub ids: Ids<'a>,
    /// The position of the change's commit, where the sender gave it.
    pub after: Option<Cow<'a, str>>,
}

/// The ids of a message.
#[derive(Debug)]
pub enum Ids<'a> {
    /// `"id": …`
    One(&'a RawValue),
    /// `"ids": […]`
    Many(Vec<&'a RawValue>),
}

impl<'a> Ids<'a> {
    /// The ids in the message's order.
    pub fn iter(&self) -> impl Iterator<Item = &'a RawValue> + '_ {
        match self {
            Ids::One(id) => std::slice::from_ref(id),
            Ids::Many(ids) => ids.as_slice(),
        }
        .iter()
        .copied()
    }

    /// How many there are: at least one.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        match self {
            Ids::One(_) => 1,
            Ids::Many(ids) => ids.len(),
        }
    }
}

/// Why bytes are no job message. Each becomes a dead letter with this text as its reason.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// Larger than [`MESSAGE_BYTES_MAX`].
    #[error("the message has {bytes} bytes, {MESSAGE_BYTES_MAX} are allowed: send fewer ids in one message")]
    TooLarge {
        /// The message's size.
        bytes: usize,
    },
    /// Not UTF-8, and so not JSON.
    #[error("the message is not UTF-8: byte {at} is wrong")]
    NotUtf8 {
        /// The first wrong byte, from 0.
        at: usize,
    },
    /// Not JSON; the text names line and column.
    #[error("the message is not JSON: {0}")]
    NotJson(serde_json::Error),
    /// JSON of another shape: a field is missing, given twice or of a wrong type.
    #[error("the message is not a job such as {{\"id\": 42, \"job_name\": \"orders\"}}: {0}")]
    NotAJob(serde_json::Error),
    /// Both `id` and `ids`.
    #[error("the message has both `id` and `ids`: send one of them")]
    IdAndIds,
    /// Neither `id` nor `ids`.
    #[error("the message has neither `id` nor `ids`: send one of them")]
    NoId,
    /// An empty `ids`.
    #[error("the message's `ids` is empty: send at least one id")]
    EmptyIds,
    /// More than [`IDS_MAX`] ids.
    #[error("the message has {count} ids, {IDS_MAX} are allowed in one message")]
    TooManyIds {
        /// How many there are.
        count: usize,
    },
    /// No job can have this name.
    #[error(
        "`job_name` {name:?} can't be a job's name: it starts with a letter a-z and goes on with a-z, 0-9, _ and -, \
         {JOB_NAME_BYTES_MAX} characters at most"
    )]
    JobName {
        /// The name, shortened to its first 100 characters.
        name: String,
    },
}

/// Reads a message. Fields that it doesn't know are ignored, so that old and new senders and workers run side by side.
pub fn decode(bytes: &[u8]) -> Result<JobMessage<'_>, DecodeError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(DecodeError::TooLarge { bytes: bytes.len() });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| DecodeError::NotUtf8 { at: error.valid_up_to() })?;
    let read: AsRead<'_> = serde_json::from_str(text)
        .map_err(|error| if error.is_data() { DecodeError::NotAJob(error) } else { DecodeError::NotJson(error) })?;
    check_job_name(&read.job_name)?;
    let ids = match (read.id, read.ids) {
        (Some(id), None) => Ids::One(id),
        (None, Some(ids)) => {
            check_id_count(ids.len())?;
            Ids::Many(ids)
        }
        (Some(_), Some(_)) => return Err(DecodeError::IdAndIds),
        (None, None) => return Err(DecodeError::NoId),
    };
    Ok(JobMessage { job_name: read.job_name, ids, after: read.after })
}

/// A job to send: the documents to bring up to date.
///
/// Send it *after* the change's commit returned. A message sent inside its transaction may be worked off before the
/// change can be seen, and nobody can notice that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Job {
    /// The job's name: the name of its folder.
    #[schemars(regex(pattern = "^[a-z][a-z0-9_-]*$"), length(max = JOB_NAME_BYTES_MAX))]
    job_name: String,
    #[serde(flatten)]
    target: Target,
    /// Optional: the position of the change's commit, a PostgreSQL LSN such as `16/B374D848` or a GTID. Read it after
    /// the commit returned; inside the transaction it is too low.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Target {
    /// The id of one document.
    Id(Id),
    /// The ids of several documents, at most 100,000.
    Ids(#[schemars(length(min = 1, max = IDS_MAX))] Vec<Id>),
}

impl Job {
    /// The job for one document.
    pub fn new(job_name: impl Into<String>, id: impl Into<Id>) -> Job {
        Job { job_name: job_name.into(), target: Target::Id(id.into()), after: None }
    }

    /// The job for several documents in one message.
    pub fn many<I: Into<Id>>(job_name: impl Into<String>, ids: impl IntoIterator<Item = I>) -> Job {
        let ids = ids.into_iter().map(Into::into).collect();
        Job { job_name: job_name.into(), target: Target::Ids(ids), after: None }
    }

    /// Adds the commit's position, an LSN or a GTID.
    #[must_use]
    pub fn after(mut self, position: impl ToString) -> Job {
        self.after = Some(position.to_string());
        self
    }

    /// The job's name.
    pub fn job_name(&self) -> &str {
        &self.job_name
    }

    /// How many ids it has.
    pub fn id_count(&self) -> usize {
        match &self.target {
            Target::Id(_) => 1,
            Target::Ids(ids) => ids.len(),
        }
    }

    /// Whether one message can be about both: the same job, after the same commit.
    pub fn goes_with(&self, other: &Job) -> bool {
        (&self.job_name, &self.after) == (&other.job_name, &other.after)
    }

    /// Takes in the ids of a job that [goes with](Job::goes_with) it.
    pub fn join(&mut self, other: Job) {
        let mut ids = match std::mem::replace(&mut self.target, Target::Ids(Vec::new())) {
            Target::Id(id) => vec![id],
            Target::Ids(ids) => ids,
        };
        match other.target {
            Target::Id(id) => ids.push(id),
            Target::Ids(more) => ids.extend(more),
        }
        self.target = Target::Ids(ids);
    }

    /// The message's body. What [`decode`] would refuse is refused here, with the same error.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DecodeError> {
        check_job_name(&self.job_name)?;
        if let Target::Ids(ids) = &self.target {
            check_id_count(ids.len())?;
        }
        let bytes = serde_json::to_vec(self).map_err(DecodeError::NotAJob)?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(DecodeError::TooLarge { bytes: bytes.len() });
        }
        Ok(bytes)
    }
}

#[derive(Deserialize)]
struct AsRead<'a> {
    #[serde(borrow)]
    job_name: Cow<'a, str>,
    // A null counts as given, so that the id's own error can name it.
    #[serde(borrow, default, deserialize_with = "given")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    ids: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    after: Option<Cow<'a, str>>,
}

fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

fn check_job_name(name: &str) -> Result<(), DecodeError> {
    if valid_job_name(name) {
        Ok(())
    } else {
        Err(DecodeError::JobName { name: name.chars().take(JOB_NAME_BYTES_MAX).collect() })
    }
}

fn check_id_count(count: usize) -> Result<(), DecodeError> {
    match count {
        0 => Err(DecodeError::EmptyIds),
        1..=IDS_MAX => Ok(()),
        _ => Err(DecodeError::TooManyIds { count }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::KeyType;
    use proptest::prelude::*;

    fn refused(bytes: impl AsRef<[u8]>, text: &str) {
        let error = decode(bytes.as_ref()).expect_err(text);
        assert!(error.to_string().contains(text), "{error} should contain {text}");
    }

    #[test]
    fn the_smallest_message() {
        let message = decode(br#"{"id": 42, "job_name": "orders"}"#).expect("a message");
        assert!(matches!(message.job_name, Cow::Borrowed("orders")));
        let ids: Vec<&str> = message.ids.iter().map(RawValue::get).collect();
        assert_eq!(ids, ["42"]);
        assert_eq!(message.after, None);
    }

    #[test]
    fn jobs_of_one_name_and_position_are_put_together() {
        let mut job = Job::new("orders", 1).after("0/1");
        for other in [Job::new("orders", 2), Job::new("orders", 2).after("0/2"), Job::new("merchants", 2).after("0/1")]
        {
            assert!(!job.goes_with(&other), "{other:?}");
        }
        for other in [Job::new("orders", 2), Job::many("orders", [3, 4])] {
            let other = other.after("0/1");
            assert!(job.goes_with(&other));
            job.join(other);
        }
        assert_eq!((&job, job.id_count()), (&Job::many("orders", [1, 2, 3, 4]).after("0/1"), 4));
    }

    #[test]
    fn every_field_and_unknown_ones() {
        let json = br#" {"new":{"a":[1,{}]},"ids":[1,"b",null],"job_name":"o\u0072ders","after":"0/1"} "#;
        let message = decode(json).expect("a message");
        assert_eq!(message.job_name, "orders");
        assert_eq!(message.after.as_deref(), Some("0/1"));
        let ids: Vec<&str> = message.ids.iter().map(RawValue::get).collect();
        assert_eq!(ids, ["1", "\"b\"", "null"]);
        assert_eq!(message.ids.len(), 3);
    }

    #[test]
    fn what_is_refused() {
        refused("", "not JSON: EOF while parsing a value at line 1 column 0");
        refused("{\"id\": 1,\n x}", "not JSON: key must be a string at line 2 column 2");
        refused([b'{', b'"', 0xff], "not UTF-8: byte 2 is wrong");
        refused(r#"{"id":1,"job_name":"a"} 1"#, "trailing characters");
        refused("[1]", "not a job");
        refused(r#"{"id":1}"#, "missing field `job_name`");
        refused(r#"{"id":1,"job_name":7}"#, "invalid type: integer `7`, expected a string");
        refused(r#"{"id":1,"id":2,"job_name":"a"}"#, "duplicate field `id`");
        refused(r#"{"ids":3,"job_name":"a"}"#, "invalid type: integer `3`, expected a sequence");
        refused(r#"{"ids":null,"job_name":"a"}"#, "invalid type: null, expected a sequence");
        refused(r#"{"ids":[],"job_name":"a"}"#, "`ids` is empty");
        refused(r#"{"id":1,"ids":[2],"job_name":"a"}"#, "both `id` and `ids`");
        refused(r#"{"job_name":"a"}"#, "neither `id` nor `ids`");
        refused(r#"{"id":1,"job_name":"Orders"}"#, "`job_name` \"Orders\" can't be a job's name");
        refused(r#"{"id":1,"job_name":"a","after":5}"#, "expected a string");
    }

    #[test]
    fn a_null_id_is_given_and_left_to_the_key_type() {
        let message = decode(br#"{"id":null,"job_name":"a"}"#).expect("a message");
        assert_eq!(message.ids.iter().next().map(RawValue::get), Some("null"));
    }

    #[test]
    fn the_limits() {
        let many = |count| Job::many("a", 0..count).to_bytes();
        let most = many(IDS_MAX as i64).expect("the most ids");
        assert_eq!(decode(&most).expect("the most ids").ids.len(), IDS_MAX);
        refused(format!("{{\"job_name\":\"a\",\"ids\":[1{}]}}", ",1".repeat(IDS_MAX)), "has 100001 ids");
        refused(vec![b' '; MESSAGE_BYTES_MAX + 1], "has 1048577 bytes");
        assert!(matches!(many(0), Err(DecodeError::EmptyIds)));
        assert!(matches!(many(100_001), Err(DecodeError::TooManyIds { count: 100_001 })));
        let large = Job::new("a", "x".repeat(MESSAGE_BYTES_MAX)).to_bytes();
        assert!(matches!(large, Err(DecodeError::TooLarge { .. })));
        assert!(matches!(Job::new("A", 1).to_bytes(), Err(DecodeError::JobName { .. })));
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let deep = format!("{{\"x\":{}1{},\"id\":1,\"job_name\":\"a\"}}", "[".repeat(300_000), "]".repeat(300_000));
        assert!(decode(deep.as_bytes()).is_ok());
        refused("[".repeat(1_000_000), "not a job");
    }

    #[test]
    fn a_job_is_sent_as_the_document_says() {
        let body = |job: Job| String::from_utf8(job.to_bytes().expect("a job")).expect("UTF-8");
        assert_eq!(body(Job::new("orders", 42)), r#"{"job_name":"orders","id":42}"#);
        assert_eq!(
            body(Job::many("orders", ["a", "b"]).after("0/1")),
            r#"{"job_name":"orders","ids":["a","b"],"after":"0/1"}"#
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = decode(&bytes);
        }

        #[test]
        fn nothing_like_a_message_panics(text in r#"\{("(id|ids|job_name|after|x)":("a"|\[1,?"b"?\]|1|null|\{),?){0,4}\}?"#) {
            if let Ok(message) = decode(text.as_bytes()) {
                prop_assert!(message.ids.len() > 0);
            }
        }

        /// Whatever is done to a message: it is one or it is none, and so is each of its ids.
        #[test]
        fn no_changed_message_panics(at in any::<prop::sample::Index>(), gone in 0_usize..10, added in proptest::collection::vec(any::<u8>(), 0..10)) {
            let whole = br#"{"ids":[1,"b\u00e4",null,{"a":[]}],"job_name":"orders","after":"16/B374D848","x":1e400}"#;
            let at = at.index(whole.len());
            let mut bytes = whole.to_vec();
            bytes.splice(at..(at + gone).min(whole.len()), added);
            if let Ok(message) = decode(&bytes) {
                prop_assert!(valid_job_name(&message.job_name));
                for raw in message.ids.iter() {
                    for key in [KeyType::Bigint, KeyType::Uuid, KeyType::Text] {
                        let _id = key.id_from_json(raw).is_ok();
                    }
                }
            }
            let _torn = decode(&bytes[..at]).is_ok();
        }

        #[test]
        fn a_job_comes_back(name in "[a-z][a-z0-9_-]{0,20}", ids in proptest::collection::vec(any::<i64>(), 1..50), after in any::<Option<String>>()) {
            let mut job = Job::many(&name, ids.clone());
            if let Some(after) = &after {
                job = job.after(after);
            }
            let bytes = job.to_bytes().expect("a job");
            let message = decode(&bytes).expect("its message");
            prop_assert_eq!(message.job_name.as_ref(), name);
            prop_assert_eq!(message.after.as_deref(), after.as_deref());
            let read: Vec<i64> = message.ids.iter().map(|raw| raw.get().parse().expect("an integer")).collect();
            prop_assert_eq!(read, ids);
        }
    }
}
