//! The applications: they change rows, and their hooks publish after the commit.

use std::sync::Arc;
use std::time::Duration;

use pinion_schemas::Job;
use pinion_worker::ports::Envelope;
use tokio::time::Instant;

use crate::broker::{JOB, live_queue, low_queue};
use crate::database::shown;
use crate::world::World;

/// Changes rows until then, and sends what its hooks send.
pub(crate) async fn write(world: Arc<World>, until: Instant) {
    while Instant::now() < until {
        world.pause(1..=400).await;
        transaction(&world).await;
    }
}

/// One transaction on a few rows that nobody else holds; some are rolled back, some commit late.
async fn transaction(world: &Arc<World>) {
    let rows = world.with(|state| {
        let count = state.dice.of(1..=3);
        let keys: Vec<i64> = (0..count).map(|_| state.dice.of(1..=world.plan.keys)).collect();
        state.cluster.lock(keys)
    });
    let late = world.with(|state| state.dice.percent(10));
    world.pause(if late { 100..=3000 } else { 0..=10 }).await;
    let committed = world.with(|state| {
        let changes: Vec<(i64, bool)> = rows.iter().map(|row| (*row, !state.dice.percent(30))).collect();
        let (bytes, rolled_back) = (state.dice.of(8..=400), state.dice.percent(10));
        if rolled_back || rows.is_empty() {
            state.cluster.show(0, &rows);
            return None;
        }
        let (lsn, changes) = state.cluster.commit(&changes, bytes);
        for change in &changes {
            state.history.note("commit", Some(change.key), &[change.number, lsn], || {
                let what = if change.live { "" } else { ", which deletes the row" };
                format!("at {lsn}: {}{what}", shown(Some(change.number)))
            });
        }
        Some(lsn)
    });
    let Some(lsn) = committed else { return };
    world.pause(0..=5).await;
    world.with(|state| state.cluster.show(lsn, &rows));
    hook(world, &rows);
}

/// Sends the messages of a commit that has returned: some late, some twice, some in one.
fn hook(world: &Arc<World>, rows: &[i64]) {
    let (together, twice) = world.with(|state| (state.dice.percent(50), state.dice.percent(10)));
    let messages: Vec<Vec<i64>> =
        if together { vec![rows.to_vec()] } else { rows.iter().map(|row| vec![*row]).collect() };
    for message in messages.iter().chain(messages.iter().filter(|_| twice)) {
        let delay_ms = world.with(|state| {
            let rarely = state.dice.percent(3);
            state.dice.of(0..=if rarely { 120_000 } else { world.plan.hook_delay_ms_max })
        });
        let (world, message) = (world.clone(), message.clone());
        world.clone().with(|state| state.hooks_under_way += 1);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(delay_ms.unsigned_abs())).await;
            enqueue(&world, &live_queue(), &message);
            world.with(|state| state.hooks_under_way -= 1);
        });
    }
}

/// Publishes one message.
fn enqueue(world: &World, queue: &str, rows: &[i64]) {
    let payload = Job::many(JOB, rows.iter().copied()).to_bytes().expect("a few numbers");
    world.with(|state| {
        let sent_ms = state.dice.percent(world.plan.old_percent).then_some(0);
        let envelope = Envelope { sent_ms, ..Envelope::default() };
        let message = state.publish(queue, payload, envelope, None);
        for row in rows {
            state.history.note("enqueue", Some(*row), &[message], || format!("message {message}"));
        }
    });
}

/// What an operator does after a failover: `pinion enqueue --all`.
pub(crate) fn enqueue_all(world: &World) {
    for row in 1..=world.plan.keys {
        enqueue(world, &low_queue(), &[row]);
    }
}
