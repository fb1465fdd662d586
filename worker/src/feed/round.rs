//! A round of events, sorted by what they touch.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pinion_schemas::Id;
use pinion_schemas::change::{self, Change, Operation, Origin, RowChange};

use super::format::Text;
use super::kafka::Events;
use super::touch::{Event, Gap, Touch, touched};
use super::{Feed, NAME};
use crate::dead_letter::DeadLetter;
use crate::metrics::FeedLabel;
use crate::pipeline::delivery::Receipt;
use crate::ports::Transaction;

/// How often the tables' replica identities are looked up.
const IDENTITIES_EVERY: Duration = Duration::from_secs(60);

/// What a round of events touches.
#[derive(Default)]
pub(super) struct Round {
    /// Those of the rows themselves, by the job's number.
    pub(super) documents: HashMap<usize, Documents>,
    /// What may wait, with the commit and the event of each.
    pub(super) others: Vec<(Touch, Option<u64>, Receipt)>,
    pub(super) letters: Vec<DeadLetter>,
    /// By the source's name.
    pub(super) transactions: BTreeMap<String, Transactions>,
    pub(super) receipts: Vec<Receipt>,
    /// When the changes were committed whose documents do not wait, in milliseconds since 1970.
    pub(super) committed_ms: Vec<u64>,
}

/// What has to be visible before jobs are published.
#[derive(Default)]
pub(super) struct Transactions {
    pub(super) told: BTreeSet<Transaction>,
    /// Whether an event did not tell its own: then it is any of those in progress.
    pub(super) untold: bool,
}

#[derive(Default)]
pub(super) struct Documents {
    pub(super) ids: Vec<Id>,
    known: HashSet<Id>,
    /// When the oldest change was committed.
    pub(super) sent_ms: Option<u64>,
}

/// The tables whose events tell whole old rows, by their source.
#[derive(Default)]
pub(super) struct OldRows {
    tables: Arc<HashSet<(String, String)>>,
    read_at: Option<Instant>,
}

impl OldRows {
    pub(super) async fn get(&mut self, feed: &Feed) -> Arc<HashSet<(String, String)>> {
        if self.read_at.is_none_or(|read_at| read_at.elapsed() > IDENTITIES_EVERY) {
            let mut tables = HashSet::new();
            for (name, database) in &feed.sources {
                let read = feed.insist(|| database.tables_with_old_rows()).await;
                tables.extend(read.into_iter().map(|table| (name.clone(), table)));
            }
            self.tables = Arc::new(tables);
            self.read_at = Some(Instant::now());
        }
        self.tables.clone()
    }
}

/// What is remembered of events that have gone by.
#[derive(Default)]
pub(super) struct Memory {
    /// The key of a partition's last event, if that was a delete: a tombstone for it says nothing new.
    deleted: HashMap<(String, i32), Vec<u8>>,
    /// What was warned of: once a table is enough, all are counted.
    warned: HashSet<(String, &'static str)>,
}

impl Memory {
    /// Whether a message has the key of the delete before it, as the tombstone that follows one.
    fn follows_delete(&mut self, text: &Text<'_>) -> bool {
        let deleted = self.deleted.remove(&(text.topic.to_owned(), text.partition));
        text.key.is_some() && deleted.as_deref() == text.key.as_deref()
    }

    fn remember(&mut self, text: &Text<'_>, operation: Operation) {
        if let Some(key) = text.key.as_deref().filter(|_| operation == Operation::Delete) {
            self.deleted.insert((text.topic.to_owned(), text.partition), key.to_vec());
        }
    }
}

impl Feed {
    /// Sorts a round of events by what they touch.
    ///
    /// # Errors
    /// An event of a source that the configuration does not have: to pass it over would leave documents stale.
    pub(super) fn sort(
        &self,
        events: &Events,
        texts: &[(Text<'_>, Result<(), String>)],
        old_rows: &HashSet<(String, String)>,
        memory: &mut Memory,
    ) -> Result<Round, String> {
        let mut round = Round::default();
        for (text, readable) in texts {
            let receipt = |parts: u32| events.receive(text, parts);
            let change = match readable {
                Ok(()) => self.change(text, memory).map_err(|error| error.to_string()),
                Err(problem) => Err(problem.clone()),
            };
            match change {
                Ok(Change::Row(row)) => {
                    memory.remember(text, row.operation);
                    let touches = self.touches(text, &row, old_rows, memory, &mut round)?;
                    round.add(touches, row.source.ts_ms, receipt);
                }
                Ok(other) => {
                    let kind = if let Change::Other(kind) = other { kind } else { "tombstone" };
                    self.count(text.topic, kind);
                    let _nothing = receipt(0);
                }
                Err(error) => {
                    self.count(text.topic, "undecodable");
                    let letter = DeadLetter::of_message(NAME, text.raw, &self.worker);
                    round.letters.push(letter.because("undecodable_event", format!("{}: {error}", text.place())));
                    round.receipts.push(receipt(1));
                }
            }
        }
        Ok(round)
    }

    /// What a message tells.
    fn change<'t>(&'t self, text: &'t Text<'_>, memory: &mut Memory) -> Result<Change<'t>, change::ChangeError> {
        let follows_delete = memory.follows_delete(text);
        let table = self.config.table_of(text.topic);
        let told = text.value.as_deref().map_or(Ok(Change::Tombstone), |value| change::decode(value, table))?;
        match told {
            Change::Tombstone if table.is_some() && text.key.is_some() && !follows_delete => {
                Ok(Change::Row(Box::new(change::tombstone(table))))
            }
            told => Ok(told),
        }
    }

    /// What a changed row touches; its transaction is noted, and what its event does not tell is told.
    fn touches(
        &self,
        text: &Text<'_>,
        row: &RowChange<'_>,
        old_rows: &HashSet<(String, String)>,
        memory: &mut Memory,
        round: &mut Round,
    ) -> Result<Vec<Touch>, String> {
        let source = self.config.source_of(text.topic);
        let source = source
            .ok_or_else(|| format!("the topic {} is of no source: a source needs its topic_prefix", text.topic))?;
        let table = row.source.table().unwrap_or_default();
        self.count(&table, row.operation.word());
        let has_old_rows = old_rows.contains(&(source.to_owned(), table.clone()));
        let key = text.key.as_deref().and_then(change::decode_key);
        let event = Event { table: &table, change: row, key: key.as_ref(), has_old_rows };
        let (touches, mut gaps) = touched(&self.jobs, source, &event);
        if !touches.is_empty() {
            let transactions = round.transactions.entry(source.to_owned()).or_default();
            match transaction(&row.source) {
                Some(transaction) => transactions.told.extend([transaction]),
                None if row.flat && row.operation != Operation::Read => {
                    transactions.untold = true;
                    gaps.push(Gap::Transaction);
                }
                None => {}
            }
        }
        for gap in gaps {
            self.count(&table, gap.word());
            if memory.warned.insert((table.clone(), gap.word())) {
                tracing::warn!(table, %gap, "an event does not tell all that is needed; others of its table are only counted");
            }
        }
        Ok(touches)
    }

    fn count(&self, table: &str, operation: &'static str) {
        self.metrics.feed_events.get_or_create(&FeedLabel { table: table.to_owned(), operation }).inc();
    }
}

/// The transaction of an event.
fn transaction(source: &Origin<'_>) -> Option<Transaction> {
    // Debezium gives PostgreSQL's lower 32 bits.
    let xid = source.transaction.map(|transaction| Transaction::Xid(transaction as u32));
    xid.or_else(|| Some(Transaction::Gtid(source.gtid.as_deref()?.into())))
}

impl Round {
    /// Takes what an event touches: one part of its receipt for the row's own documents, one for each of the others.
    fn add(&mut self, touches: Vec<Touch>, sent_ms: Option<u64>, receipt: impl FnOnce(u32) -> Receipt) {
        let others = touches.iter().filter(|touch| !matches!(touch, Touch::Own(..))).count();
        let has_own = touches.len() > others;
        let receipt = receipt(u32::try_from(usize::from(has_own) + others).unwrap_or(u32::MAX));
        for touch in touches {
            match touch {
                Touch::Own(job, id) => self.documents.entry(job).or_default().add(id, sent_ms),
                other => self.others.push((other, sent_ms, receipt.clone())),
            }
        }
        if has_own {
            self.committed_ms.extend(sent_ms);
            self.receipts.push(receipt);
        }
    }
}

impl Documents {
    pub(super) fn add(&mut self, id: Id, sent_ms: Option<u64>) {
        if self.known.insert(id.clone()) {
            self.ids.push(id);
        }
        self.sent_ms = [self.sent_ms, sent_ms].into_iter().flatten().min();
    }
}
