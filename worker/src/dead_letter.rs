//! Dead letters: what could not be done, kept in Elasticsearch until somebody mends or drops it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pinion_schemas::Id;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::clock::now_ms;
use crate::error::{Fault, Service};
use crate::ports::Index;

/// So much of a message is kept: enough to see what it is, and little beside what Elasticsearch takes in a request.
pub const MESSAGE_KEPT_BYTES_MAX: usize = 64 * 1024;

/// An error that quotes what it is about may be as long as that.
const ERROR_BYTES_MAX: usize = 4 * 1024;

/// A dead letter as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The job that the message named; empty when it could not be read.
    pub job: String,
    /// The document's id; absent when it could not be read.
    pub id: Option<String>,
    /// A short word for the kind of failure, to count by.
    pub reason: String,
    /// The whole error.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was first given up, in milliseconds since 1970.
    pub first_at: u64,
    /// When it was last given up.
    pub last_at: u64,
    /// The worker that gave it up last.
    pub worker: String,
    /// The beginning of the message's body, [`MESSAGE_KEPT_BYTES_MAX`] at the most, in base64. Lists leave it out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How many bytes the message had. 0 in letters of before this was counted, which have it whole.
    #[serde(default)]
    pub message_bytes: u64,
    /// Set while it is being replayed.
    #[serde(default)]
    pub replaying: bool,
    /// Of the whole message: two that begin alike have letters of their own. Not stored.
    #[serde(skip)]
    pub digest: Uuid,
}

impl DeadLetter {
    /// A letter about the document `id` of `job`, whose message was `message`.
    pub fn of_document(job: &str, id: &Id, message: &[u8], worker: &Arc<str>) -> Self {
        Self { id: Some(id.to_string()), ..Self::of_message(job, message, worker) }
    }

    /// A letter about a message whose document is not known.
    pub fn of_message(job: &str, message: &[u8], worker: &Arc<str>) -> Self {
        let now = now_ms();
        Self {
            job: job.to_owned(),
            id: None,
            reason: String::new(),
            error: String::new(),
            attempts: 0,
            first_at: now,
            last_at: now,
            worker: worker.to_string(),
            message: STANDARD.encode(beginning(message)),
            message_bytes: message.len() as u64,
            replaying: false,
            digest: digest(message),
        }
    }

    /// The same letter with why it is one.
    pub fn because(self, reason: &str, error: impl Into<String>) -> Self {
        let mut error = error.into();
        if error.len() > ERROR_BYTES_MAX {
            error.truncate(error.floor_char_boundary(ERROR_BYTES_MAX));
            error.push('…');
        }
        Self { reason: reason.to_owned(), error, ..self }
    }

    /// Its `_id` in the index: one letter a document, so that a crash between writing the letter
    /// and acknowledging its message makes no second one.
    pub fn key(&self) -> String {
        match &self.id {
            Some(id) if id.len() <= 200 => format!("{}/{id}", self.job),
            Some(id) => format!("{}/{}", self.job, digest(id.as_bytes()).simple()),
            None => format!("{}/message-{}", self.job, self.digest.simple()),
        }
    }

    /// The message as it was received; `None` where what is stored is no base64.
    pub fn message(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.message).ok()
    }

    /// Whether only the beginning of the message is kept.
    pub fn is_cut(&self) -> bool {
        self.message().is_some_and(|kept| (kept.len() as u64) < self.message_bytes)
    }
}

fn digest(bytes: &[u8]) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, bytes)
}

/// What is kept of a message: of a text no half character.
fn beginning(message: &[u8]) -> &[u8] {
    let end = match std::str::from_utf8(message) {
        Ok(text) => text.floor_char_boundary(MESSAGE_KEPT_BYTES_MAX),
        Err(_) => message.len().min(MESSAGE_KEPT_BYTES_MAX),
    };
    &message[..end]
}

/// Writes the letters. A document that has one already keeps the time of its first.
///
/// # Errors
/// When Elasticsearch did not take all of them; those that it took stay.
pub async fn write(index: &dyn Index, name: &str, letters: &[DeadLetter]) -> Result<(), Fault> {
    let mut request = Request::default();
    for letter in letters {
        request.add(letter);
        if request.body.len() >= REQUEST_BYTES {
            std::mem::take(&mut request).send(index, name).await?;
        }
    }
    request.send(index, name).await
}

/// Letters are sent in requests of about this size.
const REQUEST_BYTES: usize = 4 * 1024 * 1024;

#[derive(Default)]
struct Request {
    body: Vec<u8>,
    actions: usize,
}

impl Request {
    fn add(&mut self, letter: &DeadLetter) {
        let mut update = json!(letter);
        if let Some(fields) = update.as_object_mut() {
            fields.remove("first_at");
        }
        for line in [json!({"update": {"_id": letter.key()}}), json!({"doc": update, "upsert": letter})] {
            self.body.extend_from_slice(line.to_string().as_bytes());
            self.body.push(b'\n');
        }
        self.actions += 1;
    }

    async fn send(self, index: &dyn Index, name: &str) -> Result<(), Fault> {
        if self.actions == 0 {
            return Ok(());
        }
        let items = index.bulk(name, self.body.into(), self.actions).await?;
        match items.iter().find_map(|item| item.error.as_ref()) {
            None => Ok(()),
            Some(error) => {
                let reason = format!("the index {name} refused a dead letter: {}: {}", error.kind, error.reason);
                Err(Fault::Again { service: Service::Elasticsearch, reason })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn letter(message: &[u8]) -> DeadLetter {
        DeadLetter::of_message("orders", message, &"w".into())
    }

    #[test]
    fn of_a_large_message_the_beginning_is_kept() {
        let small = letter(&[b'x'; MESSAGE_KEPT_BYTES_MAX]);
        assert_eq!((small.is_cut(), small.message_bytes), (false, 65_536));
        let text = "ä".repeat(40_000);
        let cut = letter(format!("x{text}").as_bytes());
        assert_eq!((cut.is_cut(), cut.message_bytes), (true, 80_001));
        let kept = String::from_utf8(cut.message().expect("base64")).expect("no half character");
        assert_eq!((kept.len(), kept.chars().count()), (65_535, 32_768));
        let no_text = letter(&[0xff; 100_000]);
        assert_eq!(no_text.message().map(|kept| kept.len()), Some(MESSAGE_KEPT_BYTES_MAX));
    }

    #[test]
    fn large_messages_that_begin_alike_are_two_letters() {
        let (one, other) = ([vec![b'x'; 100_000], vec![1]].concat(), [vec![b'x'; 100_000], vec![2]].concat());
        assert_eq!(letter(&one).message, letter(&other).message);
        assert_ne!(letter(&one).key(), letter(&other).key());
        assert_eq!(letter(&one).key(), letter(&one).key());
    }

    #[test]
    fn a_letter_of_before_messages_were_cut_is_whole() {
        let mut old = json!(letter(b"abc"));
        old.as_object_mut().expect("an object").remove("message_bytes");
        let old: DeadLetter = serde_json::from_value(old).expect("a letter");
        assert_eq!((old.is_cut(), old.message_bytes), (false, 0));
    }

    proptest! {
        /// Two lines a letter, whatever is in it.
        #[test]
        fn no_letter_becomes_an_action(job in any::<String>(), id in "[a\n\r\"\\\\{}\u{2028}]{0,40}", error in any::<String>(), message in prop::collection::vec(any::<u8>(), 0..50)) {
            let letter = DeadLetter::of_document(&job, &Id::from(id.as_str()), &message, &"w\n".into()).because("refused", error);
            let mut request = Request::default();
            request.add(&letter);
            let lines: Vec<&[u8]> = request.body.split(|byte| *byte == b'\n').collect();
            let [action, update, b""] = lines[..] else { panic!("{} lines", lines.len()) };
            let action: serde_json::Value = serde_json::from_slice(action).expect("an action");
            prop_assert_eq!(&action["update"]["_id"], &json!(letter.key()));
            let update: serde_json::Value = serde_json::from_slice(update).expect("an update");
            prop_assert_eq!(update["upsert"]["id"].as_str(), Some(id.as_str()));
        }
    }

    #[test]
    fn an_error_is_not_as_long_as_what_it_quotes() {
        let quoting = letter(b"").because("undecodable", "ü".repeat(1_000_000));
        assert_eq!(quoting.error.len(), ERROR_BYTES_MAX + '…'.len_utf8());
    }
}
