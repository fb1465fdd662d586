//! One seed from its beginning to its verdict.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pinion_worker::shutdown::Shutdown;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::database;
use crate::history::{Kind, Violation};
use crate::plan::Plan;
use crate::shop;
use crate::worker;
use crate::world::{State, World};

/// When nothing happens any more, everything is done within this; the longest rung of the ladder of retries is ten minutes.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How far a version may be ahead of the log, if somebody else wrote it.
const TAMPERED_MAX: i64 = 2000;

/// What came of a seed.
pub(crate) struct Outcome {
    /// The same for two runs of a seed.
    pub(crate) digest: u64,
    /// What must not be.
    pub(crate) violation: Option<Violation>,
    /// How often each kind of event was seen.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// The history of the document of the violation, if it was to be shown.
    pub(crate) lines: Vec<String>,
}

/// Plays one seed; `shown`: with its lines.
pub(crate) fn play(seed: u64, shown: bool) -> Outcome {
    play_changed(seed, shown, |_| {})
}

/// Plays one seed with a plan that was changed.
pub(crate) fn play_changed(seed: u64, shown: bool, change: impl FnOnce(&mut Plan)) -> Outcome {
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without input and output");
    runtime.block_on(async {
        let world = World::new(seed, shown, change);
        if shown {
            eprintln!("{:?}", world.plan);
        }
        live(&world).await;
        world.with(|state| {
            // Lines hold the world, which holds them.
            state.lines.clear();
            let violation = state.history.violation.clone();
            let key = violation.as_ref().and_then(|violation| violation.key);
            Outcome {
                digest: state.history.digest,
                violation,
                counts: state.history.counts.clone(),
                lines: state.history.of(key).map(str::to_owned).collect(),
            }
        })
    })
}

/// Everything happens; then nothing more does, and the index is looked at.
async fn live(world: &Arc<World>) {
    let until = Instant::now() + world.plan.duration;
    let mut parts = JoinSet::new();
    for replica in 0..world.plan.replicas {
        parts.spawn(database::replay(world.clone(), replica));
    }
    for slot in 0..world.plan.workers {
        parts.spawn(employ(world.clone(), slot));
    }
    let mut writers = JoinSet::new();
    for _ in 0..world.plan.writers {
        writers.spawn(shop::write(world.clone(), until));
    }
    writers.spawn(mischief(world.clone(), until));
    while writers.join_next().await.is_some() {}
    world.with(|state| {
        state.healed = true;
        state.history.note("healed", None, &[], String::new);
    });
    quiet(world, true).await;
    let plan = &world.plan;
    world.with(|state| state.judge(plan.keys, plan.poison));
    // The log passes what somebody has tampered with, and then stands still: the definition is changed, and all rows are read
    // again at a position at which they were read before.
    world.with(|state| state.cluster.emit(TAMPERED_MAX * 2));
    for edition in [1, 2] {
        world.with(|state| {
            state.edition = edition;
            state.history.note("edition", None, &[edition], || edition.to_string());
        });
        shop::enqueue_all(world);
        quiet(world, false).await;
    }
    world.with(|state| state.judge(plan.keys, plan.poison));
}

/// Waits until nothing is under way any more; `others_write`: the log goes on meanwhile.
async fn quiet(world: &Arc<World>, others_write: bool) {
    let deadline = Instant::now() + PATIENCE;
    while !world.with(|state| state.is_quiet()) && world.with(|state| state.history.violation.is_none()) {
        if Instant::now() > deadline {
            world.with(|state| {
                let text = format!("{} hooks under way, {}", state.hooks_under_way, state.queues.left());
                state.history.violated(Kind::Stuck, None, text);
            });
        }
        if others_write {
            world.with(|state| state.cluster.emit(64));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

impl State {
    fn is_quiet(&self) -> bool {
        self.hooks_under_way == 0 && self.queues.is_empty()
    }

    /// The index equals the rows, both ways, and only poison is a dead letter.
    fn judge(&mut self, keys: i64, poison: Option<i64>) {
        let innocent = |rows: &[i64]| rows.iter().any(|row| Some(*row) != poison);
        let condemned = self.documents.letters.values().find(|letter| innocent(&letter.rows));
        if let Some(letter) = condemned {
            let text = format!("rows {:?} are a dead letter: {}", letter.rows, letter.reason);
            self.history.violated(Kind::Condemned, letter.rows.first().copied(), text);
        }
        for key in self.documents.keys().into_iter().filter(|key| !(1..=keys).contains(key)) {
            self.history.violated(Kind::Extra, Some(key), "there never was such a row".to_owned());
        }
        for key in (1..=keys).filter(|key| Some(*key) != poison) {
            let (row, shown) = (self.cluster.row(key), self.documents.content(key));
            let kind = match (row, shown) {
                (row, shown) if row == shown && self.documents.edition(key).is_none_or(|of| of == self.edition) => {
                    continue;
                }
                (Some(_), None) => Kind::Lost,
                (None, Some(_)) => Kind::Resurrected,
                (Some(row), Some(shown)) if shown <= row => Kind::Stale,
                _ => Kind::Extra,
            };
            let edition = self.documents.edition(key);
            let text = format!("in the end the row is {row:?} and the document {shown:?} of edition {edition:?}");
            self.history.violated(kind, Some(key), text);
        }
    }
}

/// Keeps one worker running.
async fn employ(world: Arc<World>, slot: usize) {
    for life in 0.. {
        let shutdown = Shutdown::default();
        world.with(|state| {
            state.shutdowns.resize_with(state.shutdowns.len().max(slot + 1), Shutdown::default);
            state.shutdowns[slot] = shutdown.clone();
        });
        worker::work(&world, slot + 100 * life, shutdown).await;
        world.with(|state| state.history.note("worker", None, &[slot as u64], || format!("{slot} ended")));
        world.pause(0..=2000).await;
    }
}

/// Breaks something every now and then, and mends it.
async fn mischief(world: Arc<World>, until: Instant) {
    let mean = world.plan.fault_every.as_millis() as i64;
    loop {
        world.pause(1..=2 * mean).await;
        if Instant::now() > until {
            break;
        }
        let kind = world.with(|state| state.dice.of(1..=10));
        strike(&world, kind).await;
    }
    if world.plan.failovers && world.plan.replicas > 0 {
        shop::enqueue_all(&world);
    }
}

async fn strike(world: &Arc<World>, kind: i64) {
    let told = |what: &'static str| world.with(|state| state.history.note(what, None, &[], String::new));
    match kind {
        1 | 2 | 10 => world.with(|state| {
            if state.lines.is_empty() {
                return;
            }
            let chosen = state.dice.of(0..=state.lines.len() as i64 - 1);
            let part_ms = state.dice.of(1000..=60_000).unsigned_abs();
            let line = &state.lines[usize::try_from(chosen).unwrap_or_default()];
            let worker = line.worker;
            if kind == 10 {
                line.part(Duration::from_millis(part_ms));
                state.history.note("parted", None, &[], || format!("worker {worker} from the index for {part_ms} ms"));
            } else {
                line.kill();
                state.history.note("kill -9", None, &[], || format!("worker {worker}"));
            }
        }),
        3 => world.with(|state| {
            let chosen = state.dice.of(0..=state.shutdowns.len() as i64 - 1);
            state.history.note("SIGTERM", None, &[], || format!("worker in place {chosen}"));
            state.shutdowns[usize::try_from(chosen).unwrap_or_default()].ask();
        }),
        4 => {
            told("index away");
            world.with(|state| state.documents.away = true);
            world.pause(100..=8000).await;
            world.with(|state| {
                state.documents.restart();
                state.documents.away = false;
            });
            told("index back");
        }
        5 => {
            told("broker away");
            world.with(|state| {
                state.queues.away = true;
                state.queues.cut(None);
            });
            world.pause(100..=5000).await;
            world.with(|state| state.queues.away = false);
            told("broker back");
        }
        6 => {
            told("cut");
            world.with(|state| state.queues.cut(None));
        }
        7 => {
            let (pause_ms, replica) = world.with(|state| (state.dice.of(100..=6000), state.dice.of(0..=1)));
            told("lag");
            let pause = Duration::from_millis(pause_ms.unsigned_abs());
            world.with(|state| state.cluster.stand(usize::try_from(replica).unwrap_or_default(), pause));
        }
        8 if world.plan.failovers && world.plan.replicas > 0 => world.with(|state| {
            let restored = state.dice.percent(30);
            let undone = state.cluster.fail_over(restored);
            state.documents.undone(&undone);
            let identity = state.cluster.identity;
            state.history.note("failover", None, &[], || identity.to_string());
        }),
        9 if world.plan.tampering => world.with(|state| {
            let key = state.dice.of(1..=world.plan.keys);
            let ahead = state.dice.of(1..=TAMPERED_MAX).unsigned_abs();
            if let Some(version) = state.documents.version(key) {
                state.documents.tamper(key, version + ahead);
                state.history.note("tamper", Some(key), &[ahead], || format!("its version rises by {ahead}"));
            }
        }),
        _ => {}
    }
}
