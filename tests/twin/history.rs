//! What has happened, and what must not.

use std::collections::BTreeMap;
use std::fmt;

use tokio::time::Instant;

/// What a history violates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A row is there, its document is not.
    Lost,
    /// The document is older than a change whose job is done.
    Stale,
    /// The row was deleted, its document is there (again).
    Resurrected,
    /// A write took a document back behind a change whose job was done.
    Backward,
    /// A document of a row that never was, or a state that no row had.
    Extra,
    /// A dead letter of a job that nothing was wrong with.
    Condemned,
    /// Messages are left that nobody works on.
    Stuck,
}

/// A violation.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    /// Of which promise.
    pub(crate) kind: Kind,
    /// The row, if it is about one.
    pub(crate) key: Option<i64>,
    /// What was seen.
    pub(crate) text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            Some(key) => write!(f, "{:?}: row {key}: {}", self.kind, self.text),
            None => write!(f, "{:?}: {}", self.kind, self.text),
        }
    }
}

/// The history of one seed.
pub(crate) struct History {
    began: Instant,
    /// Written only when the history is to be shown.
    lines: Option<Vec<(Option<i64>, String)>>,
    /// Two runs of a seed have the same.
    pub(crate) digest: u64,
    /// The first thing that must not be.
    pub(crate) violation: Option<Violation>,
    /// How often each kind of event was seen.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl History {
    /// An empty one; `shown`: its lines are kept.
    pub(crate) fn new(shown: bool) -> Self {
        Self {
            began: Instant::now(),
            lines: shown.then(Vec::new),
            digest: 0xCBF2_9CE4_8422_2325,
            violation: None,
            counts: BTreeMap::new(),
        }
    }

    /// Notes an event about a row (`None`: about all of them); `numbers` are what tells it from others of its kind.
    pub(crate) fn note(
        &mut self,
        what: &'static str,
        key: Option<i64>,
        numbers: &[u64],
        text: impl FnOnce() -> String,
    ) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        for number in [ms, what.len() as u64, key.unwrap_or_default().unsigned_abs()].iter().chain(numbers) {
            self.digest = (self.digest ^ number).wrapping_mul(0x0100_0000_01B3);
        }
        *self.counts.entry(what).or_default() += 1;
        if let Some(lines) = &mut self.lines {
            lines.push((key, format!("{:>9.3} s  {what:<12} {}", ms as f64 / 1000.0, text())));
        }
    }

    /// Notes a violation; the first one counts.
    pub(crate) fn violated(&mut self, kind: Kind, key: Option<i64>, text: String) {
        self.note("VIOLATED", key, &[kind as u64], || text.clone());
        self.violation.get_or_insert(Violation { kind, key, text });
    }

    /// The lines about one row, and those about all of them.
    pub(crate) fn of(&self, key: Option<i64>) -> impl Iterator<Item = &str> {
        let lines = self.lines.iter().flatten();
        lines.filter(move |(about, _)| about.is_none() || key.is_none() || *about == key).map(|(_, line)| line.as_str())
    }
}
