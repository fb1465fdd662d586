//! The servers in memory behind one lock, and the lines to them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pinion_tests::Dice;
use pinion_worker::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::broker::Queues;
use crate::database::Cluster;
use crate::history::{History, Kind};
use crate::index::Documents;
use crate::plan::Plan;

/// Everything that is not a worker.
pub(crate) struct World {
    /// What the seed decided.
    pub(crate) plan: Plan,
    state: Mutex<State>,
}

/// The servers' state.
pub(crate) struct State {
    /// What happens next.
    pub(crate) dice: Dice,
    /// The database.
    pub(crate) cluster: Cluster,
    /// The index.
    pub(crate) documents: Documents,
    /// The broker.
    pub(crate) queues: Queues,
    /// What has happened.
    pub(crate) history: History,
    /// Nothing breaks any more.
    pub(crate) healed: bool,
    /// Messages that hooks have yet to send.
    pub(crate) hooks_under_way: u64,
    /// The running workers.
    pub(crate) lines: Vec<Line>,
    /// What the rows' query gives besides: an operator changes the definition in the end.
    pub(crate) edition: u64,
    /// How to end each worker in good order.
    pub(crate) shutdowns: Vec<Shutdown>,
}

impl World {
    /// A world of `seed`, its plan changed by `change`.
    pub(crate) fn new(seed: u64, shown: bool, change: impl FnOnce(&mut Plan)) -> Arc<Self> {
        let mut dice = Dice::new(seed);
        let mut plan = Plan::new(&mut dice);
        change(&mut plan);
        let state = State {
            dice,
            cluster: Cluster::new(plan.replicas),
            documents: Documents::default(),
            queues: Queues::default(),
            history: History::new(shown),
            healed: false,
            hooks_under_way: 0,
            lines: Vec::new(),
            edition: 1,
            shutdowns: Vec::new(),
        };
        Arc::new(Self { plan, state: Mutex::new(state) })
    }

    /// Looks at the state, or changes it. Never held while waiting.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for a random time.
    pub(crate) async fn pause(&self, range_ms: std::ops::RangeInclusive<i64>) {
        let ms = self.with(|state| state.dice.of(range_ms));
        tokio::time::sleep(Duration::from_millis(ms.unsigned_abs())).await;
    }

    /// Whether it comes to pass; nothing does when all is healed.
    pub(crate) fn happens(&self, percent: i64) -> bool {
        self.with(|state| !state.healed && state.dice.percent(percent))
    }
}

impl State {
    /// Whether the index shows the row as of its change `number`, or later. What a failover has undone need not be shown.
    pub(crate) fn shows(&self, key: i64, number: u64) -> Result<(), (Kind, String)> {
        let changes = self.cluster.changes(key);
        let number = if self.cluster.has(key, number) { number } else { 0 };
        match self.documents.content(key) {
            Some(shown) if shown >= number => Ok(()),
            Some(shown) => {
                let gone = changes.iter().all(|change| change.number < number || !change.live);
                let kind = if gone { Kind::Resurrected } else { Kind::Stale };
                Err((kind, format!("change {number} was done, the index shows {shown}")))
            }
            None if number == 0 || changes.iter().any(|change| change.number >= number && !change.live) => Ok(()),
            None => Err((Kind::Lost, format!("change {number} was done, the index shows nothing"))),
        }
    }
}

/// A worker's lines to the servers. When they are dead, so is the worker for everybody else: nothing that it does
/// has an effect any more, but for what is under way.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) world: Arc<World>,
    pub(crate) worker: usize,
    alive: watch::Sender<bool>,
    /// No way leads to the index until then.
    parted_until: Arc<Mutex<Option<Instant>>>,
}

/// A connection was cut.
pub(crate) struct Cut;

impl Line {
    pub(crate) fn new(world: &Arc<World>, worker: usize) -> Self {
        Self { world: world.clone(), worker, alive: watch::Sender::new(true), parted_until: Arc::default() }
    }

    /// Parts the worker from the index for a while.
    pub(crate) fn part(&self, pause: Duration) {
        *self.parted_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause);
    }

    /// The way of a request to the index, or of its answer.
    pub(crate) async fn trip_to_index(&self) -> Result<(), Cut> {
        self.trip().await?;
        let parted_until = *self.parted_until.lock().unwrap_or_else(PoisonError::into_inner);
        if parted_until.is_some_and(|until| until > Instant::now()) { Err(Cut) } else { Ok(()) }
    }

    /// Kills the worker.
    pub(crate) fn kill(&self) {
        self.alive.send_replace(false);
    }

    /// Waits until the worker is killed.
    pub(crate) async fn killed(&self) {
        let mut alive = self.alive.subscribe();
        let _closed = alive.wait_for(|alive| !alive).await.is_err();
    }

    /// Returns only to the living.
    pub(crate) async fn live(&self) {
        if !*self.alive.borrow() {
            std::future::pending::<()>().await;
        }
    }

    /// The way of a request to its server, or of the answer back.
    pub(crate) async fn trip(&self) -> Result<(), Cut> {
        let slow = self.world.happens(3);
        self.world.pause(if slow { 20..=400 } else { 0..=3 }).await;
        self.live().await;
        if self.world.happens(self.world.plan.cuts_percent) { Err(Cut) } else { Ok(()) }
    }
}
