//! Rows into the NDJSON of a bulk request. No I/O here, and nothing waits.

use std::collections::HashMap;
use std::fmt::Write as _;

use bytes::Bytes;
use pinion_schemas::{Id, Version};

use super::batch::Batch;
use super::fetch::Fetched;
use super::targets::Route;
use crate::json::write_json_string;
use crate::planted::{Bug, planted};
use crate::ports::{ReadAt, Record};

/// A batch as bulk requests.
#[derive(Debug)]
pub struct Built {
    /// Whose documents these are.
    pub batch: Batch,
    /// Where they go.
    pub route: Route,
    /// For the index whose answer decides.
    pub first: Request,
    /// For the one beside it, where it is another request.
    pub beside: Option<Request>,
    /// The version of all of it.
    pub version: Version,
    /// When it was read.
    pub read_at: ReadAt,
}

/// A bulk request, and what each of its actions is about.
#[derive(Debug)]
pub struct Request {
    /// NDJSON; empty when there is nothing to send.
    pub body: Bytes,
    /// In the body's order.
    pub actions: Vec<Action>,
    /// Entries whose rows are not in the body, because it was full: to be read again.
    pub unread: Vec<usize>,
    /// Entries whose document alone is larger than a bulk request may be, with its bytes.
    pub oversized: Vec<(usize, usize)>,
    /// Entries whose row holds a value that makes no JSON, with which and why.
    pub unwritable: Vec<(usize, String)>,
}

/// One action of a bulk request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    /// The batch's entry that it is about.
    pub entry: usize,
    /// Whether the row is gone.
    pub delete: bool,
}

/// Closes the requests.
pub fn build(fetched: Fetched) -> Built {
    let Fetched { batch, route, rows, beside, version, read_at } = fetched;
    let first = close(&batch, rows);
    let beside = beside.map(|rows| close(&batch, rows));
    Built { batch, route, first, beside, version, read_at }
}

/// What was asked for and did not come back is deleted.
fn close(batch: &Batch, mut rows: Builder) -> Request {
    let missing: Vec<usize> = (0..batch.entries.len()).filter(|entry| !rows.seen[*entry]).collect();
    let unread = if rows.full {
        missing
    } else {
        missing.into_iter().for_each(|entry| rows.delete(entry, &batch.entries[entry].id));
        Vec::new()
    };
    let Builder { body, actions, oversized, unwritable, .. } = rows;
    Request { body: body.into(), actions, unread, oversized, unwritable }
}

/// What is wrong with a job's query; only a change of the definition mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Defect(pub String);

/// Whether more rows are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Go on.
    More,
    /// The request is as large as it may be.
    Full,
}

/// Which columns make the document, and how they nest: `customer.name` becomes
/// `{"customer":{"name":…}}`; columns that begin with `_` are not fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentPlan {
    id_column: usize,
    pieces: Vec<Piece>,
    end: Vec<u8>,
}

/// Text that stands before a column's value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    before: Vec<u8>,
    column: usize,
}

impl DocumentPlan {
    /// Plans the document of a query with these columns.
    ///
    /// # Errors
    /// `_id` is not there or there twice, a column is there twice, or is both a value and an object.
    pub fn new(columns: &[&str]) -> Result<Self, Defect> {
        let ids: Vec<usize> = (0..columns.len()).filter(|column| columns[*column] == "_id").collect();
        let [id_column] = ids[..] else {
            let found = if ids.is_empty() { "no column" } else { "more than one column" };
            return Err(Defect(format!("{found} is called _id; select the key once, as in `SELECT o.id AS _id`")));
        };
        let mut root = Node::default();
        for (column, name) in columns.iter().enumerate().filter(|(_, name)| !name.starts_with('_')) {
            root.insert(name, name, column)?;
        }
        let mut plan = Self { id_column, pieces: Vec::new(), end: Vec::new() };
        let mut text = Vec::new();
        root.write(&mut text, &mut plan.pieces);
        plan.end = text;
        Ok(plan)
    }

    /// The column that is called `_id`.
    pub fn id_column(&self) -> usize {
        self.id_column
    }

    fn write(&self, record: &dyn Record, out: &mut Vec<u8>) -> Result<(), String> {
        for piece in &self.pieces {
            out.extend_from_slice(&piece.before);
            record.write_column(piece.column, out)?;
        }
        out.extend_from_slice(&self.end);
        Ok(())
    }
}

/// An object under construction; fields in the order of their first column.
#[derive(Default)]
struct Node {
    fields: Vec<(String, Field)>,
}

enum Field {
    Column(usize),
    Object(Node),
}

impl Node {
    fn insert(&mut self, full: &str, rest: &str, column: usize) -> Result<(), Defect> {
        let (name, inner) = match rest.split_once('.') {
            Some((name, inner)) => (name, Some(inner)),
            None => (rest, None),
        };
        if name.is_empty() {
            return Err(Defect(format!("the column \"{full}\" has an empty part in its name")));
        }
        let place = self.fields.iter().position(|(field, _)| field == name);
        match (place.map(|place| &mut self.fields[place].1), inner) {
            (None, None) => self.fields.push((name.to_owned(), Field::Column(column))),
            (None, Some(inner)) => {
                let mut node = Self::default();
                node.insert(full, inner, column)?;
                self.fields.push((name.to_owned(), Field::Object(node)));
            }
            (Some(Field::Object(node)), Some(inner)) => node.insert(full, inner, column)?,
            (Some(Field::Column(_)), None) => {
                return Err(Defect(format!("the column \"{full}\" is there twice; give each its own name")));
            }
            (Some(_), _) => {
                return Err(Defect(format!(
                    "\"{full}\" and another column would make one field both a value and an object; rename one"
                )));
            }
        }
        Ok(())
    }

    fn write(&self, text: &mut Vec<u8>, pieces: &mut Vec<Piece>) {
        text.push(b'{');
        for (place, (name, field)) in self.fields.iter().enumerate() {
            if place > 0 {
                text.push(b',');
            }
            write_json_string(name, text);
            text.push(b':');
            match field {
                Field::Column(column) => {
                    pieces.push(Piece { before: std::mem::take(text), column: *column });
                }
                Field::Object(node) => node.write(text, pieces),
            }
        }
        text.push(b'}');
    }
}

/// A bulk request under construction.
#[derive(Debug)]
pub struct Builder {
    entry_of: HashMap<Id, usize>,
    seen: Vec<bool>,
    body: Vec<u8>,
    bytes_max: usize,
    actions: Vec<Action>,
    oversized: Vec<(usize, usize)>,
    unwritable: Vec<(usize, String)>,
    full: bool,
    /// What ends each action line: the version is the same for all.
    action_end: String,
}

impl Builder {
    /// A request for the documents `ids`, all of the version `version`, of `bytes_max` at the most.
    pub fn new(ids: &[Id], version: Version, bytes_max: usize) -> Self {
        let mut builder = Self {
            entry_of: ids.iter().cloned().zip(0..).collect(),
            seen: vec![false; ids.len()],
            body: Vec::new(),
            bytes_max,
            actions: Vec::with_capacity(ids.len()),
            oversized: Vec::new(),
            unwritable: Vec::new(),
            full: false,
            action_end: String::new(),
        };
        builder.set_version(version);
        builder
    }

    /// With room for `bytes` in the body, so that it does not move as it grows.
    pub fn with_room(self, bytes: usize) -> Self {
        Self { body: Vec::with_capacity(bytes), ..self }
    }

    /// The version of what is added from now on.
    pub fn set_version(&mut self, version: Version) {
        self.action_end.clear();
        let version_type = if planted(Bug::TiesLost) { "external" } else { "external_gte" };
        writeln!(self.action_end, ",\"version\":{},\"version_type\":\"{version_type}\"}}}}", version.as_u64())
            .expect("writing to a String does not fail");
    }

    /// Whether this id was asked for.
    pub fn asked_for(&self, id: &Id) -> bool {
        self.entry_of.contains_key(id)
    }

    /// Adds a row's document. A value that can't be written is kept as the row's own trouble: the other rows go on.
    ///
    /// # Errors
    /// The row shows that the query is wrong: no `_id`, one that was not asked for, or twice.
    pub fn push(&mut self, plan: &DocumentPlan, record: &dyn Record) -> Result<Room, Defect> {
        let id = record.id(plan.id_column).map_err(Defect)?;
        let id = id.ok_or_else(|| Defect("the query gave a row whose _id is NULL".to_owned()))?;
        let Some(&entry) = self.entry_of.get(&id) else {
            return Err(Defect(format!(
                "the query gave _id {id}, which was not asked for: its _id has to be the key that :ids restricts"
            )));
        };
        if std::mem::replace(&mut self.seen[entry], true) {
            return Err(Defect(format!(
                "the query gives more than one row for _id {id}: aggregate what is joined, for example with json_agg"
            )));
        }
        let start = self.body.len();
        self.action(false, &id);
        let document = self.body.len();
        if let Err(problem) = plan.write(record, &mut self.body) {
            self.body.truncate(start);
            self.unwritable.push((entry, problem));
            return Ok(Room::More);
        }
        let room = self.close(entry, start, document);
        if room == Room::Full {
            self.seen[entry] = false;
        }
        Ok(room)
    }

    /// Adds a document that is made already: JSON without raw line breaks.
    pub fn push_made(&mut self, entry: usize, id: &Id, json: &[u8]) -> Room {
        let start = self.body.len();
        self.action(false, id);
        let document = self.body.len();
        self.body.extend_from_slice(json);
        self.close(entry, start, document)
    }

    /// Ends a document, or takes it out again: where it alone is too large, it is not to be had back.
    fn close(&mut self, entry: usize, start: usize, document: usize) -> Room {
        self.body.push(b'\n');
        if self.body.len() <= self.bytes_max {
            self.actions.push(Action { entry, delete: false });
            return Room::More;
        }
        let bytes = self.body.len() - document;
        self.body.truncate(start);
        if bytes > self.bytes_max {
            self.oversized.push((entry, bytes));
            return Room::More;
        }
        self.full = true;
        Room::Full
    }

    /// What was added: the body, its actions, and the entries whose document alone is too large, with its bytes.
    pub fn finish(self) -> (Bytes, Vec<Action>, Vec<(usize, usize)>) {
        (self.body.into(), self.actions, self.oversized)
    }

    /// Adds a delete.
    pub fn delete(&mut self, entry: usize, id: &Id) {
        self.action(true, id);
        self.actions.push(Action { entry, delete: true });
    }

    fn action(&mut self, delete: bool, id: &Id) {
        let start: &[u8] = if delete { br#"{"delete":{"_id":"# } else { br#"{"index":{"_id":"# };
        self.body.extend_from_slice(start);
        match id {
            Id::Int(number) => {
                self.body.push(b'"');
                self.body.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes());
                self.body.push(b'"');
            }
            Id::Text(text) => write_json_string(text, &mut self.body),
            Id::Uuid(uuid) => write_json_string(uuid.hyphenated().encode_lower(&mut [0; 36]), &mut self.body),
        }
        let end = if delete && planted(Bug::UnversionedDeletes) { "}}\n" } else { self.action_end.as_str() };
        self.body.extend_from_slice(end.as_bytes());
    }

    /// The entries so far whose row holds a value that makes no JSON, with which and why.
    pub fn unwritable(&self) -> &[(usize, String)] {
        &self.unwritable
    }

    /// NDJSON so far, an action and its document in turn.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Bytes and documents so far: what the next batch's size is estimated from.
    pub fn size(&self) -> (usize, usize) {
        (self.body.len(), self.actions.len())
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
