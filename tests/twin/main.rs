//! The fast twin of the tests on real servers: the worker's pipeline as it is, on a broker, a database and an index in
//! memory, under a clock that nobody waits for. A seed decides everything that happens, and when.
//!
//! `PINION_TWIN_SEED=N` shows the history of one seed, `PINION_TWIN_SEEDS=N` plays that many.

mod broker;
mod database;
mod history;
mod index;
mod plan;
mod run;
mod shop;
mod worker;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pinion_worker::planted::{Bug, plant};

use self::history::Violation;
use self::plan::FETCH;
use self::run::{Outcome, play, play_changed};

/// Seeds in a run of all tests.
const SEEDS: u64 = 10_000;
/// Within so many seeds every planted bug is found.
const SEEDS_TO_FIND_MAX: u64 = 2_000;

/// A planted bug is planted for the whole process.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

/// The first seed below `count` that ends in a violation, and what all of them saw; on two threads.
fn first_violation(count: u64) -> (Option<(u64, Violation)>, BTreeMap<&'static str, u64>) {
    let next = AtomicU64::new(0);
    let found = Mutex::new(None::<(u64, Violation)>);
    let counts = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || found.lock().is_ok_and(|found| found.is_some()) {
                        return;
                    }
                    let outcome = play(seed, false);
                    add(&mut counts.lock().unwrap_or_else(PoisonError::into_inner), &outcome);
                    if let Some(violation) = outcome.violation {
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        if found.as_ref().is_none_or(|(first, _)| seed < *first) {
                            *found = Some((seed, violation));
                        }
                    }
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap_or_else(PoisonError::into_inner);
    (found.into_inner().unwrap_or_else(PoisonError::into_inner), counts)
}

fn add(counts: &mut BTreeMap<&'static str, u64>, outcome: &Outcome) {
    for (what, count) in &outcome.counts {
        *counts.entry(what).or_default() += count;
    }
}

/// The lines of a seed's history about the row that it is about.
fn told(seed: u64) -> String {
    let outcome = play(seed, true);
    let verdict = outcome.violation.map_or_else(|| "nothing is violated".to_owned(), |violation| violation.to_string());
    format!("{}\nseed {seed}: {verdict}", outcome.lines.join("\n"))
}

#[test]
fn no_seed_ends_in_a_violation() {
    let _turn = turn();
    plant(None);
    if let Some(seed) = setting("PINION_TWIN_SEED") {
        println!("{}", told(seed));
        return;
    }
    let count = setting("PINION_TWIN_SEEDS").unwrap_or(SEEDS);
    let (found, counts) = first_violation(count);
    println!("{count} seeds: {counts:?}");
    if let Some((seed, _)) = found {
        panic!("{}", told(seed));
    }
    for what in
        ["commit", "kill -9", "SIGTERM", "failover", "tamper", "index back", "broker back", "parted", "dead letter"]
    {
        assert!(counts.get(what).is_some_and(|count| *count > 0), "no {what} in {count} seeds");
    }
}

#[test]
fn every_planted_bug_is_found() {
    let _turn = turn();
    let mut missed = Vec::new();
    for bug in Bug::IN_THE_PIPELINE {
        plant(Some(bug));
        let (found, _) = first_violation(SEEDS_TO_FIND_MAX);
        match found {
            Some((seed, violation)) => println!("{bug:?}: found by seed {seed}: {violation}"),
            None => missed.push(bug),
        }
    }
    plant(None);
    assert!(missed.is_empty(), "not found within {SEEDS_TO_FIND_MAX} seeds: {missed:?}");
}

#[test]
fn rows_that_take_long_are_read_few_at_a_time() {
    let _turn = turn();
    plant(None);
    // Up to ten seconds each: the suspects among them, whose turns have a few seconds, get done too.
    for seed in 0..100 {
        let outcome = play_changed(seed, false, |plan| {
            (plan.keys, plan.batch_max, plan.poison) = (100, 100, None);
            (plan.row, plan.document_age) = (Duration::from_secs(1 + seed % 10), FETCH);
        });
        assert_eq!(outcome.violation.map(|violation| violation.to_string()), None, "seed {seed}");
    }
}

#[test]
fn a_seed_repeats_its_history() {
    let _turn = turn();
    plant(None);
    for seed in 0..100 {
        assert_eq!(play(seed, false).digest, play(seed, false).digest, "seed {seed}");
    }
}
