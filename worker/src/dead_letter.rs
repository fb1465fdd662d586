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
    /// The message's body in base64. Lists leave it out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Set while it is being replayed.
    #[serde(default)]
    pub replaying: bool,
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
            message: STANDARD.encode(message),
            replaying: false,
        }
    }

    /// The same letter with why it is one.
    pub fn because(self, reason: &str, error: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), error: error.into(), ..self }
    }

    /// Its `_id` in the index: one letter a document, so that a crash between writing the letter
    /// and acknowledging its message makes no second one.
    pub fn key(&self) -> String {
        let digest = |text: &str| Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).simple();
        match &self.id {
            Some(id) if id.len() <= 200 => format!("{}/{id}", self.job),
            Some(id) => format!("{}/{}", self.job, digest(id)),
            None => format!("{}/message-{}", self.job, digest(&self.message)),
        }
    }
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
