//! Ids that looked wrong, and when they are looked at again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pinion_schemas::{Id, Version};

/// After this a difference is first looked at again: most are gone by then.
const SOON: Duration = Duration::from_secs(1);

/// An id that looked wrong.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) id: Id,
    /// The version of the first reading that showed the difference; none before it was looked at closely.
    pub(super) first_read: Option<Version>,
    /// When that was, or when it came here.
    since: Instant,
}

impl Suspect {
    /// Whether it has been wrong for so long since the first reading.
    pub(super) fn is_out_of_patience(&self, patience: Duration) -> bool {
        self.first_read.is_some() && self.since.elapsed() >= patience
    }
}

/// All of them, by when their time comes.
#[derive(Debug)]
pub(super) struct Suspects {
    patience: Duration,
    /// Not looked at closely yet.
    fresh: VecDeque<Suspect>,
    /// Looked at once, to be looked at soon.
    soon: VecDeque<Suspect>,
    /// To be looked at when they are out of patience.
    last: VecDeque<Suspect>,
}

impl Suspects {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, fresh: VecDeque::new(), soon: VecDeque::new(), last: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.fresh.len() + self.soon.len() + self.last.len()
    }

    /// Ids that look wrong.
    pub(super) fn add(&mut self, ids: Vec<Id>) {
        let since = Instant::now();
        self.fresh.extend(ids.into_iter().map(|id| Suspect { id, first_read: None, since }));
    }

    /// It was read, and is wrong.
    pub(super) fn saw(&mut self, suspect: Suspect, read: Version) {
        self.soon.push_back(Suspect { first_read: Some(read), since: Instant::now(), ..suspect });
    }

    /// It is still wrong, but not for long enough.
    pub(super) fn wait(&mut self, suspect: Suspect) {
        self.last.push_back(suspect);
    }

    /// Those whose time has come, `max` at the most.
    pub(super) fn due(&mut self, max: usize) -> Option<Vec<Suspect>> {
        let (soon, last) = (SOON.min(self.patience), self.patience);
        for (queue, after) in [(&mut self.fresh, Duration::ZERO), (&mut self.soon, soon), (&mut self.last, last)] {
            let count = queue.iter().take(max).take_while(|suspect| suspect.since.elapsed() >= after).count();
            if count > 0 {
                return Some(queue.drain(..count).collect());
            }
        }
        None
    }

    /// When the next ones are due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let soon = SOON.min(self.patience);
        let due = [(&self.fresh, Duration::ZERO), (&self.soon, soon), (&self.last, self.patience)];
        due.into_iter().filter_map(|(queue, after)| Some(queue.front()?.since + after)).min()
    }
}
