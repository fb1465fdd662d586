//! An index with versions, whose requests are refused, slow, cut, or carried out after they were given up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use pinion_worker::error::{Fault, Service};
use pinion_worker::ports::{BulkAnswer, BulkError, BulkItem, Future_, Index, StateDocument};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::broker::rows_of;
use crate::database::shown;
use crate::history::Kind;
use crate::plan::{BULK_AFTERLIFE_MS, BULK_TIMEOUT};
use crate::world::{Line, State};

/// The name of the index of dead letters.
pub(crate) const DEAD_LETTERS: &str = "pinion-dead-letters";

/// All documents.
#[derive(Default)]
pub(crate) struct Documents {
    slots: BTreeMap<i64, Slot>,
    /// Pinion's own state, with sequence numbers.
    states: BTreeMap<(String, String), (Value, u64)>,
    /// Dead letters by their key.
    pub(crate) letters: BTreeMap<String, Letter>,
    /// The change of each row that the index has to show from now on: its job is done.
    done: BTreeMap<i64, u64>,
    /// The latest change of each row that the index has shown at some time.
    reached: BTreeMap<i64, u64>,
    /// The highest version that each document ever had.
    highest: BTreeMap<i64, u64>,
    /// Nobody is served.
    pub(crate) away: bool,
}

/// A dead letter.
pub(crate) struct Letter {
    pub(crate) reason: String,
    pub(crate) rows: Vec<i64>,
}

/// A document, or what is known of a deleted one.
struct Slot {
    version: u64,
    number: Option<u64>,
    edition: u64,
    deleted_at: Option<Instant>,
}

/// One line of a bulk request.
struct Write {
    key: i64,
    number: Option<u64>,
    edition: u64,
    version: Option<u64>,
    /// Whether the same version is taken.
    ties: bool,
}

impl Documents {
    /// What the document of a row shows.
    pub(crate) fn content(&self, key: i64) -> Option<u64> {
        self.slots.get(&key).and_then(|slot| slot.number)
    }

    /// The edition of the definition that a document was made by.
    pub(crate) fn edition(&self, key: i64) -> Option<u64> {
        self.slots.get(&key).filter(|slot| slot.number.is_some()).map(|slot| slot.edition)
    }

    /// The rows that have a document.
    pub(crate) fn keys(&self) -> Vec<i64> {
        self.slots.iter().filter(|(_, slot)| slot.number.is_some()).map(|(key, _)| *key).collect()
    }

    /// The document's version, while it is known.
    pub(crate) fn version(&self, key: i64) -> Option<u64> {
        self.slots.get(&key).map(|slot| slot.version)
    }

    /// The latest change of the row that the index has shown at some time.
    pub(crate) fn reached(&self, key: i64) -> u64 {
        self.reached.get(&key).copied().unwrap_or_default()
    }

    /// Whether a deleted document's version was forgotten, and then an older one was taken: the window that the second look
    /// closes.
    pub(crate) fn in_the_window(&self, key: i64) -> bool {
        self.version(key).is_some_and(|version| version < self.highest.get(&key).copied().unwrap_or_default())
    }

    /// From now on the row's document has to show this change.
    pub(crate) fn done(&mut self, key: i64, number: u64) {
        let done = self.done.entry(key).or_default();
        *done = number.max(*done);
    }

    /// A restart forgets the versions of deleted documents.
    pub(crate) fn restart(&mut self) {
        self.slots.retain(|_, slot| slot.number.is_some());
    }

    /// A failover has undone changes of these rows: what shows them may still come, until an operator enqueues all rows.
    pub(crate) fn undone(&mut self, rows: &BTreeSet<i64>) {
        self.done.retain(|key, _| !rows.contains(key));
        self.reached.retain(|key, _| !rows.contains(key));
    }

    /// Somebody else writes a document.
    pub(crate) fn tamper(&mut self, key: i64, version: u64) {
        if let Some(slot) = self.slots.get_mut(&key).filter(|slot| slot.number.is_some()) {
            slot.version = version.max(slot.version);
        }
    }
}

impl State {
    /// Carries out a bulk request, line by line.
    fn carry_out(&mut self, name: &str, body: &[u8], worker: usize, gc_deletes: Duration, refuse: bool) -> BulkAnswer {
        if self.documents.away {
            return Err(away("connection refused"));
        }
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let lines: Vec<Value> = lines.map(|line| serde_json::from_slice(line).expect("NDJSON")).collect();
        if name == DEAD_LETTERS {
            return Ok(lines.chunks(2).map(|pair| self.letter(&pair[0], &pair[1])).collect());
        }
        let mut items = Vec::new();
        let mut lines = lines.into_iter();
        while let Some(action) = lines.next() {
            let write = read_action(&action, &mut lines);
            items.push(if refuse && self.dice.percent(50) {
                refusal(429, "es_rejected_execution_exception", "the queue is full".to_owned())
            } else {
                self.write(&write, worker, gc_deletes)
            });
        }
        Ok(items)
    }

    fn write(&mut self, write: &Write, worker: usize, gc_deletes: Duration) -> BulkItem {
        let Write { key, number, edition, version, ties } = *write;
        let slot = self.documents.slots.get(&key);
        let slot = slot.filter(|slot| slot.deleted_at.is_none_or(|deleted| deleted.elapsed() < gc_deletes));
        let held = slot.map(|slot| slot.version);
        let was_there = slot.is_some_and(|slot| slot.number.is_some());
        let version = version.unwrap_or_else(|| held.unwrap_or_default() + 1);
        let taken = held.is_none_or(|held| version > held || (ties && version == held));
        let numbers = [worker as u64, number.unwrap_or_default(), version, u64::from(taken)];
        self.history.note("write", Some(key), &numbers, || {
            let taken = if taken { "taken" } else { "refused" };
            format!("worker {worker}, version {version}: {}: {taken}, held {held:?}", shown(number))
        });
        if !taken {
            let held = held.unwrap_or_default();
            let reason = format!(
                "[{key}]: version conflict, current version [{held}] is higher than the one provided [{version}]"
            );
            return refusal(409, "version_conflict_engine_exception", reason);
        }
        let deleted_at = number.is_none().then(Instant::now);
        self.documents.slots.insert(key, Slot { version, number, edition, deleted_at });
        let deleted =
            || self.cluster.changes(key).iter().rfind(|change| !change.live).map_or(0, |change| change.number);
        let reached = self.documents.reached(key);
        let new = number.unwrap_or_else(deleted);
        self.documents.reached.insert(key, new.max(reached));
        let done = self.documents.done.get(&key).copied().unwrap_or_default();
        let highest = self.documents.highest.entry(key).or_default();
        *highest = version.max(*highest);
        if let (false, Err((_, text))) = (self.documents.in_the_window(key), self.shows(key, done)) {
            self.history.violated(Kind::Backward, Some(key), format!("after a write, {text}"));
        }
        let not_found = number.is_none() && !was_there;
        BulkItem { status: if not_found { 404 } else { 200 }, not_found, error: None }
    }

    fn letter(&mut self, action: &Value, body: &Value) -> BulkItem {
        let key = action["update"]["_id"].as_str().unwrap_or_default().to_owned();
        let text = |field: &str| body["upsert"][field].as_str().map(str::to_owned);
        let reason = text("reason").unwrap_or_default();
        let message = STANDARD.decode(text("message").unwrap_or_default()).expect("base64");
        let rows = rows_of(&message);
        self.history.note("dead letter", rows.first().copied(), &[], || format!("rows {rows:?}: {reason}"));
        self.documents.letters.insert(key, Letter { reason, rows });
        BulkItem { status: 200, not_found: false, error: None }
    }
}

fn read_action(action: &Value, lines: &mut impl Iterator<Item = Value>) -> Write {
    let delete = action.get("delete");
    let about = delete.or_else(|| action.get("index")).expect("an action");
    let document = if delete.is_none() { lines.next() } else { None };
    let field = |name: &str| document.as_ref().and_then(|document| document[name].as_u64());
    Write {
        key: about["_id"].as_str().and_then(|id| id.parse().ok()).expect("an _id"),
        number: field("number"),
        edition: field("edition").unwrap_or_default(),
        version: about["version"].as_u64(),
        ties: about["version_type"] != "external",
    }
}

fn refusal(status: u16, kind: &str, reason: String) -> BulkItem {
    BulkItem { status, not_found: false, error: Some(BulkError { kind: kind.to_owned(), reason }) }
}

fn away(reason: &str) -> Fault {
    Fault::Away { service: Service::Elasticsearch, reason: reason.to_owned() }
}

/// A worker's connection to the index.
pub(crate) struct Connection {
    pub(crate) line: Line,
}

impl Connection {
    async fn request(&self, name: &str, body: Bytes, actions: usize) -> BulkAnswer {
        let line = &self.line;
        line.trip_to_index().await.map_err(|_| away("connection reset"))?;
        let world = line.world.clone();
        let pushback = world.plan.pushback_percent;
        if world.happens(pushback) {
            line.trip_to_index().await.map_err(|_| away("connection reset"))?;
            let reason = "429 Too Many Requests".to_owned();
            return Err(Fault::Again { service: Service::Elasticsearch, reason });
        }
        let refuse = world.happens(pushback);
        let took_ms = if world.happens(pushback) {
            world.with(|state| state.dice.of(0..=5000 + BULK_AFTERLIFE_MS))
        } else {
            world.with(|state| state.dice.of(1..=40))
        };
        let (answer, answered) = oneshot::channel();
        let (name, worker) = (name.to_owned(), line.worker);
        // The server's own work: it goes on when nobody waits for it any more.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(took_ms.unsigned_abs())).await;
            let gc_deletes = world.plan.gc_deletes;
            let carried_out = world.with(|state| state.carry_out(&name, &body, worker, gc_deletes, refuse));
            let _waited_for = answer.send(carried_out).is_ok();
        });
        let answer = tokio::time::timeout(BULK_TIMEOUT, answered).await;
        line.live().await;
        let answer = answer.map_err(|_| away("no answer in time"))?.map_err(|_| away("no answer"))?;
        line.trip_to_index().await.map_err(|_| away("connection reset"))?;
        assert!(answer.as_ref().map_or(true, |items| items.len() == actions));
        answer
    }

    async fn asked<T>(&self, answer: impl FnOnce(&mut Documents) -> T) -> Result<T, Fault> {
        self.line.trip_to_index().await.map_err(|_| away("connection reset"))?;
        let given = self.line.world.with(|state| {
            if state.documents.away { Err(away("connection refused")) } else { Ok(answer(&mut state.documents)) }
        })?;
        self.line.trip_to_index().await.map_err(|_| away("connection reset"))?;
        Ok(given)
    }
}

impl Index for Connection {
    fn bulk<'a>(&'a self, index: &'a str, body: Bytes, actions: usize) -> Future_<'a, BulkAnswer> {
        Box::pin(self.request(index, body, actions))
    }

    fn state<'a>(&'a self, index: &'a str, id: &'a str) -> Future_<'a, Result<Option<StateDocument>, Fault>> {
        Box::pin(self.asked(|documents| {
            let found = documents.states.get(&(index.to_owned(), id.to_owned()));
            found.map(|(source, seq_no)| StateDocument { source: source.clone(), seq_no: (*seq_no, 1) })
        }))
    }

    fn put_state<'a>(
        &'a self,
        index: &'a str,
        id: &'a str,
        source: &'a Value,
        expected: Option<(u64, u64)>,
    ) -> Future_<'a, Result<bool, Fault>> {
        Box::pin(self.asked(move |documents| {
            let key = (index.to_owned(), id.to_owned());
            let held = documents.states.get(&key).map(|(_, seq_no)| *seq_no);
            let same = held == expected.map(|(seq_no, _)| seq_no);
            if same {
                documents.states.insert(key, (source.clone(), held.map_or(0, |held| held + 1)));
            }
            same
        }))
    }

    fn ping(&self) -> Future_<'_, Result<(), String>> {
        Box::pin(async move { self.asked(|_| ()).await.map_err(|fault| fault.to_string()) })
    }
}
