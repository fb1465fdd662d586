//! A primary with replicas, as far as the order of its log and the visibility of its commits go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pinion_schemas::{Id, JobDefinition};
use pinion_worker::error::{Fault, Service};
use pinion_worker::pipeline::build::{Builder, DocumentPlan, Room};
use pinion_worker::ports::{
    Database, Future_, Identity, Keys, Lag, LogUnit, Position, Reading, Record, TouchedPage, Transaction, WhichKeys,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::plan::FETCH;
use crate::world::{Cut, Line, World};

/// How long a batch waits for a replica before it reads from the primary.
const LAG_MAX: Duration = Duration::from_millis(500);

/// The primary's log, which the replicas replay.
pub(crate) struct Cluster {
    pub(crate) identity: Identity,
    log: Vec<Commit>,
    /// The end of the log, flushed.
    lsn: u64,
    replicas: Vec<Replica>,
    /// Rows that a transaction holds.
    locked: BTreeSet<i64>,
    numbers: u64,
    /// The log has grown.
    grown: Arc<Notify>,
}

/// A committed transaction.
struct Commit {
    lsn: u64,
    changes: Vec<Change>,
    /// On the primary a commit is in the log before others see it, and two of them may be seen in another order.
    visible: bool,
}

/// What a transaction did to a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) key: i64,
    /// Rises with each change of any row: what the document shows.
    pub(crate) number: u64,
    /// Whether the row is there after it.
    pub(crate) live: bool,
}

#[derive(Default)]
struct Replica {
    /// Commits that it shows.
    applied: usize,
    /// How far it says that it is: behind what it shows, if anything.
    replayed: u64,
    /// Replay stands still until then.
    stands_until: Option<Instant>,
}

impl Cluster {
    pub(crate) fn new(replicas: usize) -> Self {
        Self {
            identity: Identity { system: 7, timeline: 1 },
            log: Vec::new(),
            lsn: 1000,
            replicas: (0..replicas).map(|_| Replica::default()).collect(),
            locked: BTreeSet::new(),
            numbers: 0,
            grown: Arc::default(),
        }
    }

    /// All changes of a row in the log.
    pub(crate) fn changes(&self, key: i64) -> Vec<Change> {
        self.log.iter().flat_map(|commit| &commit.changes).filter(|change| change.key == key).copied().collect()
    }

    /// Whether the change is in the log: a failover undoes some.
    pub(crate) fn has(&self, key: i64, number: u64) -> bool {
        self.changes(key).iter().any(|change| change.number == number)
    }

    /// The number of the row's last change whose commit has returned.
    pub(crate) fn returned(&self, key: i64) -> u64 {
        let visible = self.log.iter().filter(|commit| commit.visible).flat_map(|commit| &commit.changes);
        visible.filter(|change| change.key == key).map(|change| change.number).max().unwrap_or_default()
    }

    /// The row in the end: the number of its last change, if it is there.
    pub(crate) fn row(&self, key: i64) -> Option<u64> {
        self.changes(key).last().filter(|change| change.live).map(|change| change.number)
    }

    /// Locks the rows that are free.
    pub(crate) fn lock(&mut self, keys: impl IntoIterator<Item = i64>) -> Vec<i64> {
        keys.into_iter().filter(|key| self.locked.insert(*key)).collect()
    }

    /// Writes something to the log that changes no row.
    pub(crate) fn emit(&mut self, bytes: i64) -> u64 {
        self.lsn += bytes.unsigned_abs();
        self.grown.notify_waiters();
        self.lsn
    }

    /// Puts a commit into the log: flushed, replicated, but not yet to be seen here.
    pub(crate) fn commit(&mut self, rows: &[(i64, bool)], bytes: i64) -> (u64, Vec<Change>) {
        let lsn = self.emit(bytes);
        let mut changes = Vec::new();
        for (key, live) in rows {
            self.numbers += 1;
            changes.push(Change { key: *key, number: self.numbers, live: *live });
        }
        self.log.push(Commit { lsn, changes: changes.clone(), visible: false });
        (lsn, changes)
    }

    /// The commit is seen by others, and its rows are free again.
    pub(crate) fn show(&mut self, lsn: u64, rows: &[i64]) {
        for commit in self.log.iter_mut().filter(|commit| commit.lsn == lsn) {
            commit.visible = true;
        }
        for row in rows {
            self.locked.remove(row);
        }
    }

    /// Replay of a replica stands still for a while.
    pub(crate) fn stand(&mut self, replica: usize, pause: Duration) {
        if let Some(replica) = self.replicas.get_mut(replica) {
            replica.stands_until = Some(Instant::now() + pause);
        }
    }

    /// A replica becomes the primary; what it had not replayed is gone. `restored`: as another system, whose log begins anew.
    /// Gives the rows of which changes are gone.
    pub(crate) fn fail_over(&mut self, restored: bool) -> BTreeSet<i64> {
        let Some(promoted) = self.replicas.first() else { return BTreeSet::new() };
        let gone = self.log.split_off(promoted.applied);
        let end = self.log.last().map_or(0, |commit| commit.lsn).max(promoted.replayed);
        if restored {
            self.identity = Identity { system: self.identity.system + 1, timeline: 1 };
            self.lsn = 500;
        } else {
            self.identity.timeline += 1;
            self.lsn = end;
        }
        for commit in &mut self.log {
            commit.visible = true;
            if restored {
                commit.lsn = 400;
            }
        }
        for replica in &mut self.replicas {
            *replica = Replica { applied: self.log.len(), replayed: self.lsn, stands_until: None };
        }
        gone.iter().flat_map(|commit| &commit.changes).map(|change| change.key).collect()
    }

    fn state(&self, server: Server, key: i64) -> Option<u64> {
        let seen: &[Commit] = match server {
            Server::Primary => &self.log,
            Server::Replica(replica) => &self.log[..self.replicas[replica].applied],
        };
        let seen = seen.iter().filter(|commit| server != Server::Primary || commit.visible);
        let last = seen.flat_map(|commit| &commit.changes).rfind(|change| change.key == key);
        last.filter(|change| change.live).map(|change| change.number)
    }
}

/// Replays the log on one replica.
pub(crate) async fn replay(world: Arc<World>, replica: usize) {
    let slow = world.with(|state| state.dice.of(0..=60));
    loop {
        let grown = world.with(|state| state.cluster.grown.clone());
        let mut grown = std::pin::pin!(grown.notified());
        grown.as_mut().enable();
        if let Some(until) = world.with(|state| state.cluster.replicas[replica].stands_until.take()) {
            tokio::time::sleep_until(until).await;
        }
        // A commit is seen on a replica before its position is passed.
        let (identity, shown) = world.with(|state| {
            let replica = &mut state.cluster.replicas[replica];
            let lsn = state.cluster.log.get(replica.applied).map(|commit| commit.lsn);
            replica.applied += usize::from(lsn.is_some());
            (state.cluster.identity, lsn.ok_or(state.cluster.lsn))
        });
        if shown.is_ok() {
            world.pause(0..=2).await;
        }
        let behind = world.with(|state| {
            let cluster = &mut state.cluster;
            let replica = &mut cluster.replicas[replica];
            let (Ok(to) | Err(to)) = shown;
            if cluster.identity == identity {
                replica.replayed = replica.replayed.max(to);
            }
            replica.applied < cluster.log.len() || replica.replayed < cluster.lsn
        });
        if behind {
            world.pause(0..=slow).await;
        } else {
            grown.await;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Primary,
    Replica(usize),
}

/// A worker's connections to the database.
pub(crate) struct Connections {
    pub(crate) line: Line,
}

fn fault(reason: &str, away: bool) -> Fault {
    let (service, reason) = (Service::Source("shop".to_owned()), reason.to_owned());
    if away { Fault::Away { service, reason } } else { Fault::Again { service, reason } }
}

impl From<Cut> for Fault {
    fn from(_: Cut) -> Self {
        fault("the connection was cut", false)
    }
}

impl Connections {
    async fn ask(&self) -> Result<Position, Fault> {
        let asked_at = Instant::now();
        self.line.trip().await?;
        let (identity, at) = self.line.world.with(|state| (state.cluster.identity, state.cluster.lsn));
        self.line.trip().await?;
        Ok(Position { identity, at, text: "".into(), asked_at })
    }

    /// As `postgres.rs` does it: a replica that shows the fence, or else the primary, after a record of its own.
    async fn open_reading(&self, fence: Position) -> Result<Snapshot, Fault> {
        self.line.trip().await?;
        let world = &self.line.world;
        let replicas = world.plan.replicas as i64;
        if replicas > 0 {
            let chosen = usize::try_from(world.with(|state| state.dice.of(0..=replicas - 1))).unwrap_or_default();
            let deadline = Instant::now() + LAG_MAX;
            let mut pause = Duration::from_millis(1);
            while Instant::now() < deadline {
                let (identity, replayed) =
                    world.with(|state| (state.cluster.identity, state.cluster.replicas[chosen].replayed));
                if identity != fence.identity {
                    return Err(fault("the replica is on another history", false));
                }
                if replayed >= fence.at {
                    self.line.trip().await?;
                    return Ok(self.snapshot(Server::Replica(chosen), replayed, identity));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(20));
            }
        }
        let (identity, at) = world.with(|state| {
            let bytes = state.dice.of(8..=64);
            (state.cluster.identity, state.cluster.emit(bytes))
        });
        if identity != fence.identity {
            return Err(fault("the primary is on another history", false));
        }
        self.line.trip().await?;
        Ok(self.snapshot(Server::Primary, at - 1, identity))
    }

    fn snapshot(&self, server: Server, position: u64, identity: Identity) -> Snapshot {
        Snapshot { line: self.line.clone(), server, position, identity }
    }
}

impl Database for Connections {
    fn position(&self) -> Future_<'_, Result<Position, Fault>> {
        Box::pin(self.ask())
    }

    fn open<'a>(&'a self, fence: Position) -> Future_<'a, Result<Box<dyn Reading>, Fault>> {
        Box::pin(async move { Ok(Box::new(self.open_reading(fence).await?) as Box<dyn Reading>) })
    }

    fn in_progress(&self) -> Future_<'_, Result<Vec<Transaction>, Fault>> {
        unreachable!("only the change feed asks this")
    }

    fn visible<'a>(&'a self, _: &'a [Transaction]) -> Future_<'a, Result<(), Fault>> {
        unreachable!("only the change feed asks this")
    }

    fn tables_with_old_rows(&self) -> Future_<'_, Result<Vec<String>, Fault>> {
        unreachable!("only the change feed asks this")
    }

    fn keys<'a>(&'a self, _: &'a JobDefinition, _: WhichKeys) -> Future_<'a, Result<Box<dyn Keys + 'a>, Fault>> {
        unreachable!("only commands ask this")
    }

    fn replica_lags<'a>(&'a self, _: Option<&'a Position>, _: Duration) -> Future_<'a, Vec<(String, Lag)>> {
        unreachable!("only commands ask this")
    }

    fn log_unit(&self) -> LogUnit {
        LogUnit::Bytes
    }

    fn position_text(&self, at: u64) -> String {
        at.to_string()
    }

    fn ping(&self) -> Future_<'_, Result<(), String>> {
        Box::pin(async move { self.ask().await.map(|_| ()).map_err(|fault| fault.to_string()) })
    }
}

/// A transaction on one server.
struct Snapshot {
    line: Line,
    server: Server,
    position: u64,
    identity: Identity,
}

impl Snapshot {
    async fn read(&self, ids: &[Id], builder: &mut Builder) -> Result<(), Fault> {
        self.line.trip().await?;
        let world = &self.line.world;
        let keys: Vec<i64> = ids.iter().filter_map(key_of).collect();
        if !world.with(|state| state.healed) && world.plan.poison.is_some_and(|poison| keys.contains(&poison)) {
            self.line.kill();
            self.line.live().await;
        }
        let takes = world.plan.row * u32::try_from(keys.len()).unwrap_or(u32::MAX);
        if !takes.is_zero() {
            tokio::time::sleep(takes.min(FETCH)).await;
        }
        if takes > FETCH {
            return Err(fault("canceling statement due to statement timeout", false));
        }
        if world.happens(2) {
            return Err(fault("canceled by a conflict with recovery", false));
        }
        let rows = world.with(|state| {
            let same = state.cluster.identity == self.identity;
            same.then(|| keys.iter().map(|key| (*key, state.cluster.state(self.server, *key))).collect::<Vec<_>>())
        });
        self.line.trip().await?;
        let edition = world.with(|state| state.edition);
        let rows = rows.ok_or_else(|| fault("the server went away", true))?;
        let plan = DocumentPlan::new(&["_id", "number", "edition"]).expect("it has an _id");
        for (key, number) in rows {
            let (worker, position) = (self.line.worker as u64, self.position);
            world.with(|state| {
                state.history.note("read", Some(key), &[worker, number.unwrap_or_default(), position], || {
                    format!("worker {worker} at {position}: {}", shown(number))
                });
            });
            let Some(number) = number else { continue };
            let pushed = builder.push(&plan, &Row { key, number, edition }).expect("it was asked for once");
            assert_eq!(pushed, Room::More);
        }
        Ok(())
    }
}

/// A document's content, as a history shows it.
pub(crate) fn shown(number: Option<u64>) -> String {
    number.map_or_else(|| "no row".to_owned(), |number| format!("change {number}"))
}

pub(crate) fn key_of(id: &Id) -> Option<i64> {
    match id {
        Id::Int(key) => Some(*key),
        Id::Text(_) | Id::Uuid(_) => None,
    }
}

struct Row {
    key: i64,
    number: u64,
    edition: u64,
}

impl Record for Row {
    fn write_column(&self, column: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let value = if column == 1 { self.number } else { self.edition };
        out.extend_from_slice(value.to_string().as_bytes());
        Ok(())
    }

    fn id(&self, _: usize) -> Result<Option<Id>, String> {
        Ok(Some(Id::Int(self.key)))
    }
}

impl Reading for Snapshot {
    fn position(&self) -> u64 {
        self.position
    }

    fn rows<'a>(
        &'a mut self,
        _: &'a JobDefinition,
        ids: &'a [Id],
        builder: &'a mut Builder,
    ) -> Future_<'a, Result<(), Fault>> {
        Box::pin(self.read(ids, builder))
    }

    fn touched<'a>(&'a mut self, _: TouchedPage<'a>) -> Future_<'a, Result<Vec<Id>, Fault>> {
        unreachable!("only the change feed asks this")
    }

    fn finish(self: Box<Self>) -> Future_<'static, ()> {
        Box::pin(async {})
    }
}
