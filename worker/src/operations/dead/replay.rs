//! Replaying and dropping.
//!
//! A letter is marked, its message published and confirmed, then the letter deleted, if it is still as it was marked: a document that
//! failed again meanwhile has written its letter anew, and keeps it. Whoever is killed half-way leaves marked letters, which
//! the next replay takes like all others; a message that was published twice does no harm.

use std::collections::BTreeMap;

use anyhow::Context as _;
use futures_util::future::join_all;
use pinion_client::{PublishError, Publisher};
use pinion_schemas::{From, Job, KeyType, StateIndex};
use serde::Serialize;
use serde_json::{Value, json};

use super::Filter;
use super::pages::Pages;
use crate::broker::publisher_config;
use crate::clock::now_ms;
use crate::dead_letter::{DeadLetter, MESSAGE_KEPT_BYTES_MAX};
use crate::operations::Context;
use crate::operations::state::{Document, Item, State};
use crate::pipeline::source::envelope;
use crate::ports::Envelope;

/// Reasons beyond these are counted together.
const REASONS_MAX: usize = 50;

/// What became of a replay.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Published, confirmed, and no letters any more.
    pub replayed: u64,
    /// Published; they failed again at once and stay.
    pub failed_again: u64,
    /// Changed by somebody else before they were published; they stay.
    pub changed: u64,
    /// Not published, by why; they stay.
    pub refused: BTreeMap<String, u64>,
}

/// What became of dropping.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Letters that are gone.
    pub dropped: u64,
    /// Letters that were written anew meanwhile; they stay.
    pub changed: u64,
}

/// Publishes the messages of the letters that the filter finds, the oldest first, `limit` at the most. `done` is told how many
/// letters are done with, page by page.
///
/// # Errors
/// Elasticsearch or RabbitMQ is away; letters that are not done with stay, and a later replay takes them.
pub async fn replay(
    context: &Context,
    filter: &Filter,
    limit: Option<u64>,
    done: &(dyn Fn(u64) + Sync),
) -> anyhow::Result<Replayed> {
    let state = State::of(context, StateIndex::DeadLetters);
    let mut pages = Pages::open(&state, filter, limit).await?;
    let publisher =
        Publisher::connect(publisher_config(&context.config, "pinion dead replay")).await.context("[rabbitmq]")?;
    let replayer = Replayer { context, state: &state, publisher };
    let mut replayed = Replayed::default();
    let outcome = async {
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                return anyhow::Ok(());
            }
            let letters = page.len() as u64;
            replayer.page(page, &mut replayed).await?;
            done(letters);
        }
    };
    let outcome = outcome.await;
    pages.close().await;
    replayer.publisher.close().await;
    outcome.map(|()| replayed)
}

struct Replayer<'a> {
    context: &'a Context,
    state: &'a State<'a>,
    publisher: Publisher,
}

/// A letter that is about to be published.
struct Marked {
    key: String,
    job: String,
    message: Vec<u8>,
    seq_no: u64,
    primary_term: u64,
}

impl Replayer<'_> {
    async fn page(&self, page: Vec<Document<DeadLetter>>, replayed: &mut Replayed) -> anyhow::Result<()> {
        let mut letters = Vec::new();
        for document in page {
            match self.read(document) {
                Ok(letter) => letters.push(letter),
                Err(why) => replayed.refuse(why),
            }
        }
        let marked = self.mark(letters, replayed).await?;
        let published = join_all(marked.iter().map(|letter| self.publish(letter))).await;
        let mut confirmed = Vec::new();
        let mut broker_away = None;
        for (letter, outcome) in marked.into_iter().zip(published) {
            match outcome {
                Ok(()) => confirmed.push(letter),
                Err(error) if error.is_transient() => broker_away = Some(error),
                Err(error) => replayed.refuse(error.to_string()),
            }
        }
        self.delete(confirmed, replayed).await?;
        match broker_away {
            Some(error) => Err(anyhow::Error::new(error)
                .context("[rabbitmq] letters that were not confirmed stay; replay again later")),
            None => Ok(()),
        }
    }

    fn read(&self, document: Document<DeadLetter>) -> Result<Marked, String> {
        let Document { id: key, source: letter, seq_no, primary_term } = document;
        if self.context.job(&letter.job).is_err() {
            return Err(format!("no job is called {:?}", letter.job));
        }
        let definition = self.context.definition(&letter.job).ok();
        if definition.is_some_and(|definition| definition.from == From::Event) {
            return Err(format!(
                "{} takes no messages (from = \"event\"): its events have to be read again",
                letter.job
            ));
        }
        let message = message_of(&letter, definition.map(|definition| definition.key))?;
        Ok(Marked { key, job: letter.job, message, seq_no, primary_term })
    }

    /// Marks the letters that are still as they were read.
    async fn mark(&self, letters: Vec<Marked>, replayed: &mut Replayed) -> anyhow::Result<Vec<Marked>> {
        let mut marked = Vec::new();
        let items = bulk(self.state, "update", &letters, Some(&json!({"doc": {"replaying": true}}))).await?;
        for (letter, item) in letters.into_iter().zip(items) {
            match item.status {
                200 => marked.push(Marked { seq_no: item.seq_no, primary_term: item.primary_term, ..letter }),
                404 | 409 => replayed.changed += 1,
                _ => anyhow::bail!("{} did not take the mark of {}: {}", self.state.name(), letter.key, item.error),
            }
        }
        Ok(marked)
    }

    /// As it was received, to the job's live queue, with its attempts anew.
    async fn publish(&self, letter: &Marked) -> Result<(), PublishError> {
        let names = &self.context.config.names;
        let properties = envelope::write(&Envelope { sent_ms: Some(now_ms()), ..Envelope::default() });
        let routing_key = names.routing_key(&letter.job);
        self.publisher.publish_raw(names.exchange(), &routing_key, properties, letter.message.clone()).await
    }

    async fn delete(&self, letters: Vec<Marked>, replayed: &mut Replayed) -> anyhow::Result<()> {
        let items = bulk(self.state, "delete", &letters, None).await?;
        for (letter, item) in letters.iter().zip(items) {
            match item.status {
                200 | 404 => replayed.replayed += 1,
                409 => replayed.failed_again += 1,
                _ => anyhow::bail!("{} did not delete {}: {}", self.state.name(), letter.key, item.error),
            }
        }
        Ok(())
    }
}

/// The message of a letter: as it was received, or a new one of the letter's id where only its beginning is kept.
fn message_of(letter: &DeadLetter, key: Option<KeyType>) -> Result<Vec<u8>, String> {
    if !letter.is_cut() {
        return letter.message().ok_or_else(|| "what is kept of the message can't be read".to_owned());
    }
    let id = letter.id.as_ref().and_then(|id| key?.id_from_text(id).ok());
    let rebuilt = id.and_then(|id| Job::new(&letter.job, id).to_bytes().ok());
    rebuilt.ok_or_else(|| {
        format!("only the first {MESSAGE_KEPT_BYTES_MAX} bytes of the message are kept: enqueue its ids, or let its sender send it again")
    })
}

impl Replayed {
    fn refuse(&mut self, why: String) {
        let known = self.refused.len() < REASONS_MAX || self.refused.contains_key(&why);
        *self.refused.entry(if known { why } else { "other reasons".to_owned() }).or_default() += 1;
    }
}

/// Deletes the letters that the filter finds, `limit` at the most. `done` is told how many letters are done with, page by page.
///
/// # Errors
/// Elasticsearch is away, or the index is missing.
pub async fn drop_letters(
    context: &Context,
    filter: &Filter,
    limit: Option<u64>,
    done: &(dyn Fn(u64) + Sync),
) -> anyhow::Result<Dropped> {
    let state = State::of(context, StateIndex::DeadLetters);
    let mut pages = Pages::open(&state, filter, limit).await?;
    let mut dropped = Dropped::default();
    let outcome = async {
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                return anyhow::Ok(());
            }
            let letters: Vec<Marked> = page.into_iter().map(Marked::unread).collect();
            for (letter, item) in letters.iter().zip(bulk(&state, "delete", &letters, None).await?) {
                match item.status {
                    200 | 404 => dropped.dropped += 1,
                    409 => dropped.changed += 1,
                    _ => anyhow::bail!("{} did not delete {}: {}", state.name(), letter.key, item.error),
                }
            }
            done(letters.len() as u64);
        }
    };
    let outcome = outcome.await;
    pages.close().await;
    outcome.map(|()| dropped)
}

impl Marked {
    fn unread(document: Document<DeadLetter>) -> Self {
        let Document { id: key, source: letter, seq_no, primary_term } = document;
        Self { key, job: letter.job, message: Vec::new(), seq_no, primary_term }
    }
}

/// One action on each letter, if it is still as it was read; one answer for each.
async fn bulk(state: &State<'_>, action: &str, letters: &[Marked], body: Option<&Value>) -> anyhow::Result<Vec<Item>> {
    if letters.is_empty() {
        return Ok(Vec::new());
    }
    let mut lines = String::new();
    for letter in letters {
        let head =
            json!({action: {"_id": letter.key, "if_seq_no": letter.seq_no, "if_primary_term": letter.primary_term}});
        for line in std::iter::once(&head).chain(body) {
            lines.push_str(&line.to_string());
            lines.push('\n');
        }
    }
    let items = state.bulk(lines.into_bytes()).await?;
    anyhow::ensure!(
        items.len() == letters.len(),
        "{} answered {} of {} actions",
        state.name(),
        items.len(),
        letters.len()
    );
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_was_cut_is_made_anew_of_its_id() {
        let large = format!(r#"{{"id":"a\n","job_name":"things","more":"{}"}}"#, "x".repeat(100_000));
        let letter = |message: &str| DeadLetter::of_message("things", message.as_bytes(), &"w".into());
        assert_eq!(message_of(&letter("no job"), None), Ok(b"no job".to_vec()), "what is whole goes as it is");
        let cut = DeadLetter { id: Some("a\n".to_owned()), ..letter(&large) };
        let rebuilt = message_of(&cut, Some(KeyType::Text)).expect("the id is known");
        assert_eq!(String::from_utf8_lossy(&rebuilt), r#"{"job_name":"things","id":"a\n"}"#);
        for (letter, key) in [(cut.clone(), Some(KeyType::Bigint)), (cut, None), (letter(&large), Some(KeyType::Text))]
        {
            let why = message_of(&letter, key).expect_err("there is no id of this job");
            assert!(why.starts_with("only the first 65536 bytes of the message are kept: "), "{why}");
        }
    }
}
