//! The traits at the edges: what the pipeline asks of a database, an index and a broker.
//!
//! Each has one implementation for the real server (`postgres.rs`, `elasticsearch.rs`, `broker.rs`,
//! `pipeline/source/rabbitmq.rs`), the database two (`mysql.rs`), and one in memory for the simulation in `tests/`;
//! the pipeline knows only these.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use pinion_schemas::{Id, JobDefinition, KeyType, SqlTemplate};
use tokio::time::Instant;

use crate::error::Fault;
use crate::pipeline::build::Builder;

/// A future behind a trait object; one a batch, never one a document.
pub type Future_<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Which history a position belongs to: a promoted or restored server starts another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// PostgreSQL's system identifier; MariaDB's GTID domain; the first half of MySQL's `server_uuid`.
    pub system: u64,
    /// The timeline within it; MariaDB's and MySQL's `server_id`.
    pub timeline: u32,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "system {} timeline {}", self.system, self.timeline)
    }
}

/// Where the primary was after a batch was closed: whoever shows this shows the batch's changes.
#[derive(Debug, Clone)]
pub struct Position {
    /// The primary's history.
    pub identity: Identity,
    /// The position in its log: bytes in PostgreSQL, transactions in MariaDB and MySQL.
    pub at: u64,
    /// As the server writes it: an LSN, a GTID, a set of GTIDs.
    pub text: Arc<str>,
    /// When the primary was asked: it was there then, or later.
    pub asked_at: Instant,
}

impl Position {
    /// Whether the primary was at this place then, too.
    pub fn is_same_place(&self, other: &Self) -> bool {
        (self.identity, self.at, &self.text) == (other.identity, other.at, &other.text)
    }
}

/// A transaction that a change event names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transaction {
    /// The lower 32 bits of PostgreSQL's `xid8`.
    Xid(u32),
    /// Of MariaDB or MySQL.
    Gtid(Box<str>),
}

/// What positions of a source count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogUnit {
    /// Of the write-ahead log.
    Bytes,
    /// In the binary log.
    Transactions,
}

/// How far behind the primary a replica is, in the source's [`LogUnit`]; none where the primary's position is not known.
/// The error says why it can't be read from.
pub type Lag = Result<Option<u64>, String>;

/// A database that documents are read from.
pub trait Database: Send + Sync {
    /// Asks the primary for its present position.
    fn position(&self) -> Future_<'_, Result<Position, Fault>>;

    /// Opens a reading on a server that shows everything up to `fence`, and keeps to it.
    fn open<'a>(&'a self, fence: Position) -> Future_<'a, Result<Box<dyn Reading>, Fault>>;

    /// Writes to the primary's log until it is past `at`, if that is near; `false` where it is not, or where this can't be done.
    fn pass(&self, _at: u64) -> Future_<'_, Result<bool, Fault>> {
        Box::pin(async { Ok(false) })
    }

    /// The transactions that are in progress on the primary now, as far as the feed may be ahead of what others see of them.
    fn in_progress(&self) -> Future_<'_, Result<Vec<Transaction>, Fault>>;

    /// Waits until none of these transactions is in progress on the primary.
    fn visible<'a>(&'a self, transactions: &'a [Transaction]) -> Future_<'a, Result<(), Fault>>;

    /// The tables whose changes come with the whole old row, with their schemas.
    fn tables_with_old_rows(&self) -> Future_<'_, Result<Vec<String>, Fault>>;

    /// A job's keys from a server that shows everything committed so far: those of the table's column that the job's query selects as
    /// `_id`. A [`Fault::Job`] says why they can't be listed from the query.
    fn keys<'a>(&'a self, job: &'a JobDefinition, which: WhichKeys) -> Future_<'a, Result<Box<dyn Keys + 'a>, Fault>>;

    /// Asks all replicas at once how far behind the primary's position they are; each has `patience` to answer. Their names
    /// come first.
    fn replica_lags<'a>(&'a self, primary: Option<&'a Position>, patience: Duration)
    -> Future_<'a, Vec<(String, Lag)>>;

    /// What positions count.
    fn log_unit(&self) -> LogUnit;

    /// A position as people know it.
    fn position_text(&self, at: u64) -> String;

    /// Whether the servers answer; the error says which does not, and why.
    fn ping(&self) -> Future_<'_, Result<(), String>>;
}

/// Which of a job's keys.
#[derive(Debug, Clone, Default)]
pub struct WhichKeys {
    /// Those after this one.
    pub after: Option<Id>,
    /// Those of the rows in this range.
    pub range: Option<ColumnRange>,
}

/// The rows of which a column lies between two values, as text that the database and Elasticsearch both read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ColumnRange {
    /// The column, by its name in the job's query; `_id` is the key. It has to be one of the table that the key is of.
    pub field: String,
    /// The first that belongs to it.
    pub from: Option<String>,
    /// The first after it that does not.
    pub to: Option<String>,
}

impl ColumnRange {
    /// Its conditions, each an operator and the value that it compares with.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let from = self.from.as_deref().map(|from| (">=", from));
        from.into_iter().chain(self.to.as_deref().map(|to| ("<", to)))
    }
}

/// The keys of a job, page by page in their order.
pub trait Keys: Send {
    /// About how many there are, as the database estimates.
    fn estimate(&self) -> u64;

    /// The next page; empty behind the last one. After an error the same page may be asked again.
    fn page(&mut self) -> Future_<'_, Result<Vec<Id>, Fault>>;

    /// Those of `ids` that are among the keys now, on a server that shows everything committed so far.
    fn present<'a>(&'a self, ids: &'a [Id]) -> Future_<'a, Result<Vec<Id>, Fault>>;
}

/// One snapshot of a database, with the position that was read before it was taken.
pub trait Reading: Send {
    /// A lower bound of what the rows show: the version of its documents.
    fn position(&self) -> u64;

    /// Reads the rows of `ids` into `builder`, until it is full or there are no more.
    fn rows<'a>(
        &'a mut self,
        job: &'a JobDefinition,
        ids: &'a [Id],
        builder: &'a mut Builder,
    ) -> Future_<'a, Result<(), Fault>>;

    /// The ids of the documents that changed rows touch by a watch rule's query: a page of them, in their order.
    fn touched<'a>(&'a mut self, page: TouchedPage<'a>) -> Future_<'a, Result<Vec<Id>, Fault>>;

    /// Ends the reading and frees its connection.
    fn finish(self: Box<Self>) -> Future_<'static, ()>;
}

/// A page of what a watch rule's query finds.
#[derive(Debug, Clone, Copy)]
pub struct TouchedPage<'a> {
    /// The query.
    pub rule: &'a SqlTemplate,
    /// The keys of the changed rows, as JSON.
    pub keys: &'a [String],
    /// The type of the ids that it finds.
    pub key: KeyType,
    /// The last id of the page before.
    pub after: Option<&'a Id>,
    /// Ids in the page at the most.
    pub limit: usize,
}

/// One row of a job's query, its columns numbered as in the query.
pub trait Record {
    /// Appends the column's JSON (`null` for NULL).
    ///
    /// # Errors
    /// What could not be read.
    fn write_column(&self, column: usize, out: &mut Vec<u8>) -> Result<(), String>;

    /// The row's `_id`; `None` when it is NULL.
    ///
    /// # Errors
    /// What could not be read.
    fn id(&self, column: usize) -> Result<Option<Id>, String>;
}

/// The answer to a whole bulk request, an item for each action in order.
pub type BulkAnswer = Result<Vec<BulkItem>, Fault>;

/// What Elasticsearch said of one action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkItem {
    /// The HTTP status.
    pub status: u16,
    /// Whether a delete found nothing to delete.
    pub not_found: bool,
    /// Present when the action failed, whatever its status.
    pub error: Option<BulkError>,
}

/// Why an action failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkError {
    /// Elasticsearch's class of the error (`document_parsing_exception`, …).
    pub kind: String,
    /// Its reason, with those of its causes.
    pub reason: String,
}

/// A JSON document of Pinion's own state, with what a compare-and-set needs.
#[derive(Debug, Clone)]
pub struct StateDocument {
    /// The document.
    pub source: serde_json::Value,
    /// Its sequence number and primary term.
    pub seq_no: (u64, u64),
}

/// The index that documents go to.
pub trait Index: Send + Sync {
    /// Sends NDJSON to the index (or alias) `index`; the answer has as many items as `actions`.
    fn bulk<'a>(&'a self, index: &'a str, body: Bytes, actions: usize) -> Future_<'a, BulkAnswer>;

    /// Reads a document of Pinion's own state.
    fn state<'a>(&'a self, index: &'a str, id: &'a str) -> Future_<'a, Result<Option<StateDocument>, Fault>>;

    /// Writes a document of Pinion's own state if it is still at `expected` (`None`: if it is not
    /// there); `false`: somebody else was faster.
    fn put_state<'a>(
        &'a self,
        index: &'a str,
        id: &'a str,
        source: &'a serde_json::Value,
        expected: Option<(u64, u64)>,
    ) -> Future_<'a, Result<bool, Fault>>;

    /// Whether the cluster answers; the error says why not.
    fn ping(&self) -> Future_<'_, Result<(), String>>;
}

/// Where a message is to be put again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// To a job's queue.
    Live,
    /// To a job's low queue.
    Low,
    /// To the queue of suspects, read with nothing but each other.
    Suspects,
    /// To the queue of those that are read one at a time.
    Alone,
    /// To a job's low queue, after the given delay in seconds.
    LowAfter(u64),
    /// To a job's queue, after the given delay in seconds.
    LiveAfter(u64),
}

/// A message that goes to the broker again.
#[derive(Debug, Clone)]
pub struct Requeue {
    /// The job that it names.
    pub job: String,
    /// Where to.
    pub destination: Destination,
    /// The body.
    pub payload: Vec<u8>,
    /// Headers and properties that it keeps.
    pub envelope: Envelope,
}

/// What a message carries besides its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// AMQP `message_id`.
    pub message_id: Option<Arc<str>>,
    /// When it was sent, in milliseconds since 1970 (header `sent_ms`, else `timestamp`).
    pub sent_ms: Option<u64>,
    /// W3C trace context.
    pub traceparent: Option<Arc<str>>,
    /// How often the document failed by itself before.
    pub attempts: u32,
    /// Whether this is the second look after a delete.
    pub second_look: bool,
    /// Whether it fills the index that a rebuild makes, and no other.
    pub load: bool,
}

/// The broker, as far as it is written to.
pub trait Broker: Send + Sync {
    /// Publishes with confirms; returns when the broker has all of them.
    fn requeue(&self, messages: Vec<Requeue>) -> Future_<'_, Result<(), Fault>>;
}

/// The broker, as far as it is read from.
pub trait Queues: Send + Sync {
    /// Begins to consume `queue` on a channel of its own, with so many unacknowledged messages at the most.
    fn consume<'a>(&'a self, queue: &'a str, prefetch: u16) -> Future_<'a, Result<Consumer, Fault>>;

    /// How many messages wait in `queue`, those that are held by a consumer not counted.
    fn waiting<'a>(&'a self, queue: &'a str) -> Future_<'a, Result<u32, Fault>>;

    /// Whether the broker answers; the error says why not.
    fn ping(&self) -> Future_<'_, Result<(), String>>;
}

/// The messages of a queue, as they come.
pub type Messages = Pin<Box<dyn Stream<Item = Result<Message, String>> + Send>>;

/// A queue that is being consumed.
pub struct Consumer {
    /// What it gives, in its order: the first message has the tag 1, the next 2. An error, or the end, is the end of the channel.
    pub messages: Messages,
    /// Where its messages are acknowledged.
    pub channel: Arc<dyn Channel>,
}

/// A message as a queue gives it.
#[derive(Debug, Clone)]
pub struct Message {
    /// The body.
    pub payload: Vec<u8>,
    /// What else it carries.
    pub envelope: Envelope,
    /// How often the queue has given it before.
    pub redeliveries: u64,
}

/// The channel of a [`Consumer`]. When it ends, what is not acknowledged goes back to the queue.
pub trait Channel: Send + Sync {
    /// Acknowledges all messages up to `tag`.
    fn acknowledge(&self, tag: u64) -> Future_<'_, Result<(), String>>;

    /// Gives all messages up to `tag` that are not acknowledged back to the queue, in their order.
    fn give_back(&self, tag: u64) -> Future_<'_, Result<(), String>>;

    /// Asks for `prefetch` messages ahead from now on, in place of what was asked for before. Ends the stream that was there, after what is
    /// under way; the one that this gives goes on after it. Of a cancelled channel it gives nothing.
    fn consume_again(&self, prefetch: u16) -> Future_<'_, Result<Messages, String>>;

    /// Whether it has not ended, as far as is known here.
    fn is_open(&self) -> bool;

    /// Asks for no more messages: those under way still come, then the stream ends.
    fn cancel(&self) -> Future_<'_, ()>;

    /// Ends the channel.
    fn close(&self) -> Future_<'_, ()>;
}

/// The databases by the names of their sources.
pub type Databases = BTreeMap<String, Arc<dyn Database>>;

/// When a snapshot was opened: a document may be sent only for so long.
pub type ReadAt = Instant;
