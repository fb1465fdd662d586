//! Bugs that can be planted, so that the tests can show that they would be found.
//!
//! Each takes back one rule that keeps documents true (the history that breaks without it is told at the variant). They exist
//! only in a build with the feature `planted-bugs`, which nothing turns on by default; without it [`planted`] is `false` at
//! compile time.

/// A rule taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// Rows are read wherever a server answers, without waiting until it shows the job's change.
    NoFence = 1,
    /// A position that the worker has seen before serves as the fence: a change that was committed since may not be read.
    EarlierFence,
    /// `external` instead of `external_gte`: of two reads at one position the newer one loses.
    TiesLost,
    /// Messages are acknowledged before Elasticsearch has answered.
    AcknowledgedEarly,
    /// A bulk request that failed is sent again as it is, however old it has become.
    StaleBody,
    /// Deletes carry no version.
    UnversionedDeletes,
    /// Every version conflict counts as superseded, whatever version the index holds.
    EveryConflictSuperseded,
    /// A deleted document's id is not looked at again.
    NoSecondLook,
    /// The count of the job's queue condemns: innocents that a crashing worker held are dead letters, too.
    CondemnedByTheJobQueue,
    /// On a PostgreSQL replica the position is asked for after the snapshot of the rows: it may lie beyond what they show.
    PositionAfterTheSnapshot,
    /// Rows are read under REPEATABLE READ: their snapshot is that of the question for the position, from before the fence.
    RepeatableRead,
    /// A replica that follows a primary from before the failover is taken at its position.
    DeadTimeline,
    /// On a PostgreSQL primary the version is a position that is not flushed: after a crash others get it again.
    UnflushedPosition,
    /// The feed publishes what the primary does not show yet.
    FeedBeforeVisible,
    /// Elasticsearch may make an index for whoever writes to it.
    IndexMadeByBulk,
}

impl Bug {
    /// Those in the pipeline, which the twin finds.
    pub const IN_THE_PIPELINE: [Self; 9] = [
        Self::NoFence,
        Self::EarlierFence,
        Self::TiesLost,
        Self::AcknowledgedEarly,
        Self::StaleBody,
        Self::UnversionedDeletes,
        Self::EveryConflictSuperseded,
        Self::NoSecondLook,
        Self::CondemnedByTheJobQueue,
    ];
    /// Those in what speaks with the servers: only real ones show them.
    pub const IN_THE_ADAPTERS: [Self; 6] = [
        Self::RepeatableRead,
        Self::DeadTimeline,
        Self::UnflushedPosition,
        Self::FeedBeforeVisible,
        Self::IndexMadeByBulk,
        Self::PositionAfterTheSnapshot,
    ];
}

/// Whether `bug` is planted.
#[cfg(not(feature = "planted-bugs"))]
pub const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
mod chosen {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Bug;

    /// The planted bug's number; 0: none. Written by tests, read everywhere.
    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Plants `bug`, in the place of one that was planted before.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
    }

    /// Whether `bug` is planted.
    pub fn planted(bug: Bug) -> bool {
        PLANTED.load(Ordering::Relaxed) == bug as u8
    }
}

#[cfg(feature = "planted-bugs")]
pub use chosen::{plant, planted};
