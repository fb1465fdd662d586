//! Events into what has to be written, in their order. Pure, but for the receipts.

use std::collections::HashMap;
use std::sync::Arc;

use pinion_schemas::change::{self, Change, ChangeError, Operation, Row, RowChange};
use pinion_schemas::{ColumnType, Id};
use serde_json::value::RawValue;

use super::document::{Defect, document};
use super::write::Write;
use crate::dead_letter::DeadLetter;
use crate::feed::format::{ColumnTypes, Text};
use crate::feed::kafka::Events;
use crate::pipeline::batch::Entry;
use crate::pipeline::delivery::Receipt;
use crate::pipeline::job::Job;
use crate::ports::Envelope;

/// Schemas beside events that are remembered: a table has one until it is altered.
const SCHEMAS_MAX: usize = 16;

/// A thing to be done before what follows it.
pub(super) enum Step {
    /// Documents to be written or deleted, each id once.
    Write(Vec<Write>),
    /// The table was emptied, at this position.
    Truncate(u64, Receipt),
    /// An event that can't be read, or makes no document.
    Dead(Box<DeadLetter>, Receipt),
}

pub(super) struct Sorter<'j> {
    job: &'j Job,
    table: &'j str,
    key: &'j str,
    /// By the schema's text.
    schemas: HashMap<Box<str>, Arc<ColumnTypes>>,
}

/// What a row's event leads to.
enum Outcome {
    Write(Id, u64, Option<Vec<u8>>),
    Truncate(u64),
    Dead(Option<Id>, &'static str, String),
    Nothing,
}

impl<'j> Sorter<'j> {
    pub(super) fn new(job: &'j Job) -> Result<Self, String> {
        let (table, key) = job.definition.event_table().ok_or("from = \"event\" needs one [[watch]] with `key`")?;
        Ok(Self { job, table, key, schemas: HashMap::new() })
    }

    /// What is to be done, in the events' order; of several changes of one row the last, where nothing else lies between.
    ///
    /// # Errors
    /// Events that lack what every one of them needs: only a change of the connector mends it.
    pub(super) fn sort(
        &mut self,
        events: &Events,
        texts: &[(Text<'_>, Result<(), String>)],
    ) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        let mut writes = Writes::default();
        for (text, readable) in texts {
            let receipt = |parts: u32| events.receive(text, parts);
            let (outcome, sent_ms) = match readable {
                Ok(()) => self.outcome(text).map_err(|reason| format!("{}: {reason}", text.place()))?,
                Err(problem) => (Outcome::Dead(None, "undecodable_event", problem.clone()), None),
            };
            match outcome {
                Outcome::Write(id, position, document) => {
                    writes.add(Write::new(id, position, document, sent_ms, receipt(1), text));
                }
                Outcome::Truncate(position) => {
                    steps.extend(writes.take());
                    steps.push(Step::Truncate(position, receipt(1)));
                }
                Outcome::Dead(id, reason, error) => {
                    let (job, worker) = (self.job.name(), &self.job.settings.worker);
                    let letter = match &id {
                        Some(id) => DeadLetter::of_document(job, id, text.raw, worker),
                        None => DeadLetter::of_message(job, text.raw, worker),
                    };
                    let letter = letter.because(reason, format!("{}: {error}", text.place()));
                    steps.push(Step::Dead(Box::new(letter), receipt(1)));
                }
                Outcome::Nothing => {
                    let _nothing = receipt(0);
                }
            }
        }
        steps.extend(writes.take());
        Ok(steps)
    }

    fn outcome(&mut self, text: &Text<'_>) -> Result<(Outcome, Option<u64>), String> {
        let undecodable = |error: ChangeError| (Outcome::Dead(None, "undecodable_event", error.to_string()), None);
        let Some(value) = text.value.as_deref() else { return Ok((Outcome::Nothing, None)) };
        let row = match change::decode(value, Some(self.table)) {
            Ok(Change::Row(row)) => row,
            // A tombstone says nothing that its delete has not said: events that leave deletes to it are refused.
            Ok(_) => return Ok((Outcome::Nothing, None)),
            Err(error) => return Ok(undecodable(error)),
        };
        let table = row.source.table().unwrap_or_default();
        if table != self.table {
            return Err(format!("it is of the table {table}, the job's is {}", self.table));
        }
        let sent_ms = row.source.ts_ms;
        if row.flat && !["__op", "__deleted"].iter().all(|field| tells(&row, field)) {
            return Err(
                "a flattened event needs `__op` and `__deleted`: add.fields=op,lsn,source.ts_ms (MariaDB, MySQL: \
                        op,file,pos,source.ts_ms) and delete.tombstone.handling.mode=rewrite"
                    .to_owned(),
            );
        }
        let position = row.position().ok_or(
            "the event does not tell its position in the database's log; flattened ones need add.fields=lsn \
             (MariaDB, MySQL: file,pos)",
        )?;
        if row.operation == Operation::Truncate {
            return Ok((Outcome::Truncate(position), sent_ms));
        }
        let id = match self.id(text, &row)? {
            Ok(id) => id,
            Err(error) => return Ok((Outcome::Dead(None, "wrong_id", error), sent_ms)),
        };
        let Some(after) = row.after.as_ref().filter(|_| row.operation != Operation::Delete) else {
            return Ok((Outcome::Write(id, position, None), sent_ms));
        };
        let types = text.types.clone().or_else(|| self.types(change::schema(value)?));
        let outcome = match document(&self.job.definition, types.as_deref(), after) {
            Ok(document) => Outcome::Write(id, position, Some(document)),
            Err(Defect::Missing(column)) => {
                let error = format!(
                    "the value of {column} was left as it was and is not told: ALTER TABLE {} REPLICA IDENTITY FULL",
                    self.table
                );
                Outcome::Dead(Some(id), "value_missing", error)
            }
            Err(Defect::Value(problem)) => Outcome::Dead(Some(id), "unreadable", problem),
        };
        Ok((outcome, sent_ms))
    }

    /// The row's own key, as the message's key tells it.
    fn id(&self, text: &Text<'_>, row: &RowChange<'_>) -> Result<Result<Id, String>, String> {
        let key = text.key.as_deref().and_then(change::decode_key);
        let value = key.as_ref().and_then(|key| key.only().filter(|_| key.has(self.key)));
        let value: &RawValue = value.ok_or_else(|| {
            format!(
                "the events of {} have not {} alone as their key: it has to be the table's primary key",
                self.table, self.key
            )
        })?;
        // The key's column of the row is the same, but for a type that events tell otherwise.
        let image = row.after.as_ref().or(row.before.as_ref()).and_then(|image| image.get(self.key));
        let id = self.job.definition.key.id_from_json(image.unwrap_or(value));
        Ok(id.map_err(|error| format!("{}: {error}", self.key)))
    }

    fn types(&mut self, schema: &str) -> Option<Arc<ColumnTypes>> {
        if let Some(known) = self.schemas.get(schema) {
            return Some(known.clone());
        }
        let types = Arc::new(ColumnType::of_event(&serde_json::from_str(schema).ok()?));
        if self.schemas.len() >= SCHEMAS_MAX {
            self.schemas.clear();
        }
        self.schemas.insert(schema.into(), types.clone());
        Some(types)
    }
}

fn tells(row: &RowChange<'_>, field: &str) -> bool {
    let has = |image: &Row<'_>| image.has(field);
    row.after.as_ref().or(row.before.as_ref()).is_some_and(has)
}

/// Writes of which none waits for another.
#[derive(Default)]
struct Writes {
    writes: Vec<Write>,
    place_of: HashMap<Id, usize>,
}

impl Writes {
    /// A later change of a row takes the place of an earlier one, whose event is then done with it.
    fn add(&mut self, write: Write) {
        match self.place_of.get(&write.entry.id) {
            Some(&place) => self.writes[place].replace_with(write),
            None => {
                self.place_of.insert(write.entry.id.clone(), self.writes.len());
                self.writes.push(write);
            }
        }
    }

    fn take(&mut self) -> Option<Step> {
        self.place_of.clear();
        let writes = std::mem::take(&mut self.writes);
        (!writes.is_empty()).then_some(Step::Write(writes))
    }
}

impl Write {
    fn new(
        id: Id,
        position: u64,
        document: Option<Vec<u8>>,
        sent_ms: Option<u64>,
        receipt: Receipt,
        text: &Text<'_>,
    ) -> Self {
        let envelope = Envelope { sent_ms, ..Envelope::default() };
        let entry = Entry { id, after: None, envelope, receipt: Some(receipt), joined: Vec::new(), overtaken: false };
        Self { entry, position, document, place: text.place(), raw: text.raw.to_vec() }
    }

    fn replace_with(&mut self, later: Write) {
        // A snapshot's row, read beside the changes, is behind those that are there.
        let keeps = later.position < self.position;
        let Entry { receipt, joined, envelope, .. } = later.entry;
        self.entry.joined.extend(receipt.into_iter().chain(joined));
        self.entry.envelope.sent_ms = [self.entry.envelope.sent_ms, envelope.sent_ms].into_iter().flatten().min();
        if !keeps {
            (self.position, self.document, self.place, self.raw) =
                (later.position, later.document, later.place, later.raw);
        }
    }
}
