//! What has happened, and what must not have.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often a violation is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A job's document.
pub(super) type Document = (&'static str, i64);

/// What a history violates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A row is there, its document is not.
    Lost,
    /// The document is not what its row says now.
    Stale,
    /// The row was deleted, its document is there.
    Resurrected,
    /// A reader saw a document's version fall, or a deleted document come back.
    Backward,
    /// A document of a row that never was, or an index that nobody made.
    Extra,
    /// A dead letter of a job that nothing was wrong with.
    Condemned,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Lost, Self::Stale, Self::Resurrected, Self::Backward, Self::Extra, Self::Condemned];
}

/// A violation.
#[derive(Debug, Clone)]
pub(super) struct Violation {
    pub(super) kind: Kind,
    /// The document, if it is about one.
    pub(super) document: Option<Document>,
    pub(super) text: String,
}

/// What a clock showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tick {
    /// The order's total, in cents.
    pub(super) time: i64,
    /// Documents of this version, or a higher one, show that time or a later one.
    pub(super) shown_from: u64,
}

/// The documents that an event is about; none: it is about all of them.
type About = Vec<Document>;

struct Line {
    ms: u128,
    about: About,
    text: String,
}

/// What has happened so far.
pub(super) struct Record {
    began: Instant,
    lines: Mutex<Vec<Line>>,
    tally: Mutex<BTreeMap<&'static str, u64>>,
    violations: Mutex<Vec<Violation>>,
    /// By order: the times by the version that shows them.
    clocks: Mutex<HashMap<i64, BTreeMap<u64, i64>>>,
}

impl Record {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            lines: Mutex::default(),
            tally: Mutex::default(),
            violations: Mutex::default(),
            clocks: Mutex::default(),
        }
    }

    /// Counts an event of this kind.
    pub(super) fn count(&self, what: &'static str) {
        *lock(&self.tally).entry(what).or_default() += 1;
    }

    /// Notes what happened to these documents, or to all.
    pub(super) fn note(&self, about: impl Into<About>, text: String) {
        let ms = self.began.elapsed().as_millis();
        lock(&self.lines).push(Line { ms, about: about.into(), text });
    }

    /// Notes a violation; the first of its kind of a document counts.
    pub(super) fn violated(&self, kind: Kind, document: Option<Document>, text: String) {
        let known = |violation: &Violation| (violation.kind, violation.document) == (kind, document);
        if lock(&self.violations).iter().any(known) {
            return;
        }
        self.note(document.into_iter().collect::<Vec<_>>(), format!("{kind:?}: {text}"));
        lock(&self.violations).push(Violation { kind, document, text });
    }

    pub(super) fn ticked(&self, clock: i64, tick: Tick) {
        self.note([("orders", clock)], format!("its total is {} cents from version {} on", tick.time, tick.shown_from));
        lock(&self.clocks).entry(clock).or_default().insert(tick.shown_from, tick.time);
    }

    /// A reader saw the document of a clock: it has to be as new as its version says.
    pub(super) fn read_clock(&self, clock: i64, version: u64, time: i64) {
        let shown = lock(&self.clocks).get(&clock).and_then(|ticks| {
            ticks.range(..=version).next_back().map(|(shown_from, time)| Tick { time: *time, shown_from: *shown_from })
        });
        if let Some(tick) = shown.filter(|tick| tick.time > time) {
            let text = format!(
                "version {version} shows a total of {time} cents, and {} are shown from {} on",
                tick.time, tick.shown_from
            );
            self.violated(Kind::Stale, Some(("orders", clock)), text);
        }
    }

    /// Waits for a violation.
    pub(super) async fn is_violated(&self) {
        while lock(&self.violations).is_empty() {
            sleep(LOOK_EVERY).await;
        }
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        lock(&self.violations).clone()
    }

    /// Whether anybody ever told of the document: its row was there.
    pub(super) fn knows(&self, document: Document) -> bool {
        lock(&self.lines).iter().any(|line| line.about.contains(&document))
    }

    /// The end of a document's history: from the last commit but one that touched it, with the faults since.
    pub(super) fn shortest(&self, document: Document) -> String {
        let lines = lock(&self.lines);
        let of_it = |line: &&Line| line.about.contains(&document);
        let commits = lines.iter().enumerate().filter(|(_, line)| of_it(line) && line.text.starts_with(COMMITTED));
        let first = commits.map(|(at, _)| at).rev().nth(1).unwrap_or_default();
        let told = lines[first..].iter().filter(|line| line.about.is_empty() || of_it(line));
        let told: Vec<String> = told.map(|line| format!("{:>9.3} s  {}", line.ms as f64 / 1000.0, line.text)).collect();
        told.join("\n")
    }
}

/// What the line of a commit begins with.
pub(super) const COMMITTED: &str = "committed";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often each kind of event was seen.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> = lock(&self.tally).iter().map(|(what, count)| format!("{count} {what}")).collect();
        f.write_str(&counts.join(", "))
    }
}
