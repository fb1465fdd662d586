//! What a seed decides before anything begins.

use std::time::Duration;

use pinion_tests::Dice;

/// The sizes of one history, and how much goes wrong in it.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Workers at a time; a killed one is replaced.
    pub(crate) workers: usize,
    /// Applications that change rows at the same time.
    pub(crate) writers: usize,
    /// Rows that there may be: few, so that their histories are long.
    pub(crate) keys: i64,
    /// Without any, rows are read from the primary.
    pub(crate) replicas: usize,
    /// How long rows change and things break.
    pub(crate) duration: Duration,
    /// Of a hundred trips between a worker and a server, so many are cut; a request may have arrived.
    pub(crate) cuts_percent: i64,
    /// Of a hundred bulk requests, so many are refused or slow.
    pub(crate) pushback_percent: i64,
    /// The mean pause between two faults.
    pub(crate) fault_every: Duration,
    /// Whether the primary may be replaced.
    pub(crate) failovers: bool,
    /// Whether somebody else writes to the index.
    pub(crate) tampering: bool,
    /// The row whose reading kills its worker.
    pub(crate) poison: Option<i64>,
    /// How long the index knows the version of a deleted document.
    pub(crate) gc_deletes: Duration,
    /// See `[worker]`.
    pub(crate) batch_max: usize,
    /// See `[worker]`.
    pub(crate) document_age: Duration,
    /// How long the database takes for a row.
    pub(crate) row: Duration,
    /// The longest delay between a commit and its message.
    pub(crate) hook_delay_ms_max: i64,
    /// Of a hundred messages, so many say that they were sent long ago, and wait for a full batch.
    pub(crate) old_percent: i64,
}

/// When a read is cancelled.
pub(crate) const FETCH: Duration = Duration::from_secs(30);
/// How long a bulk request may take before the worker gives it up.
pub(crate) const BULK_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer one that was given up may still be under way.
pub(crate) const BULK_AFTERLIFE_MS: i64 = 8_000;
/// The margin of a second look, as in `Config::second_look_after`.
pub(crate) const SECOND_LOOK_MARGIN_S: u64 = 10;

impl Plan {
    /// The plan of a seed.
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let keys = dice.of(2..=6);
        Self {
            workers: count(dice, 1, 3),
            writers: count(dice, 1, 3),
            keys,
            replicas: count(dice, 0, 2),
            duration: Duration::from_secs(dice.of(2..=8).unsigned_abs()),
            cuts_percent: *pick(dice, &[0, 0, 1, 4]),
            pushback_percent: *pick(dice, &[0, 2, 10]),
            fault_every: Duration::from_millis(dice.of(300..=3000).unsigned_abs()),
            failovers: dice.percent(20),
            tampering: dice.percent(10),
            poison: dice.percent(8).then(|| dice.of(1..=keys)),
            gc_deletes: Duration::from_secs(*pick(dice, &[2, 10, 3600])),
            batch_max: *pick(dice, &[1, 4, 100]),
            document_age: Duration::from_secs(*pick(dice, &[2, 30])),
            row: Duration::ZERO,
            hook_delay_ms_max: *pick(dice, &[0, 50, 5000]),
            old_percent: *pick(dice, &[0, 0, 30]),
        }
    }
}

fn count(dice: &mut Dice, least: i64, most: i64) -> usize {
    usize::try_from(dice.of(least..=most)).expect("the range is not negative")
}

fn pick<'a, T>(dice: &mut Dice, choices: &'a [T]) -> &'a T {
    &choices[count(dice, 0, choices.len() as i64 - 1)]
}
