//! Ids that looked wrong, and when they are looked at again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pinion_schemas::{Id, Version};

/// So long after the first reading a difference is looked at again, and again: most are gone by then, and few are looked at often.
const AGAIN_S: [u64; 4] = [1, 4, 16, 64];

/// An id that looked wrong.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) id: Id,
    /// The version of the first reading that showed the difference; none before it was looked at closely.
    pub(super) first_read: Option<Version>,
    /// When that was, or when it came here.
    since: Instant,
    /// How often it has been looked at closely.
    looks: usize,
}

impl Suspect {
    /// Whether it has been wrong for so long since the first reading.
    pub(super) fn is_out_of_patience(&self, patience: Duration) -> bool {
        self.first_read.is_some() && self.since.elapsed() >= patience
    }
}

/// All of them, by how often they were looked at, and so by when their time comes.
#[derive(Debug)]
pub(super) struct Suspects {
    patience: Duration,
    /// Not looked at closely yet; looked at once, twice and so on; to be looked at when they are out of patience.
    by_looks: [VecDeque<Suspect>; AGAIN_S.len() + 2],
}

impl Suspects {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, by_looks: Default::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.by_looks.iter().map(VecDeque::len).sum()
    }

    /// Ids that look wrong.
    pub(super) fn add(&mut self, ids: Vec<Id>) {
        let since = Instant::now();
        self.by_looks[0].extend(ids.into_iter().map(|id| Suspect { id, first_read: None, since, looks: 0 }));
    }

    /// It was read, and is wrong.
    pub(super) fn saw(&mut self, suspect: Suspect, read: Version) {
        self.wait(Suspect { first_read: Some(read), since: Instant::now(), ..suspect });
    }

    /// It is still wrong, but not for long enough.
    pub(super) fn wait(&mut self, suspect: Suspect) {
        let looks = (suspect.looks + 1).min(self.by_looks.len() - 1);
        self.by_looks[looks].push_back(Suspect { looks, ..suspect });
    }

    /// Those whose time has come, `max` at the most.
    pub(super) fn due(&mut self, max: usize) -> Option<Vec<Suspect>> {
        let patience = self.patience;
        self.by_looks.iter_mut().enumerate().find_map(|(looks, queue)| {
            let is_due = |suspect: &&Suspect| suspect.since.elapsed() >= due_after(looks, patience);
            let count = queue.iter().take(max).take_while(is_due).count();
            (count > 0).then(|| queue.drain(..count).collect())
        })
    }

    /// When the next ones are due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let queues = self.by_looks.iter().enumerate();
        queues.filter_map(|(looks, queue)| Some(queue.front()?.since + due_after(looks, self.patience))).min()
    }
}

/// When one is looked at that was looked at so often.
fn due_after(looks: usize, patience: Duration) -> Duration {
    match looks.checked_sub(1) {
        None => Duration::ZERO,
        Some(again) => AGAIN_S.get(again).map_or(patience, |after_s| patience.min(Duration::from_secs(*after_s))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_looked_at_ever_more_seldom() {
        let after =
            |patience| [0, 1, 2, 3, 4, 5].map(|looks| due_after(looks, Duration::from_secs(patience)).as_secs());
        assert_eq!(after(180), [0, 1, 4, 16, 64, 180]);
        assert_eq!(after(2), [0, 1, 2, 2, 2, 2]);
    }

    #[test]
    fn each_look_moves_it_on_until_the_last() {
        let mut suspects = Suspects::new(Duration::ZERO);
        suspects.add(vec![Id::Int(1), Id::Int(2)]);
        for looks in [0, 1, 2, 3, 4, 5, 5] {
            let due = suspects.due(10).expect("both are due");
            assert_eq!(due.iter().map(|suspect| suspect.looks).collect::<Vec<_>>(), [looks; 2]);
            assert!(suspects.due(10).is_none() && suspects.next_due().is_none());
            due.into_iter().for_each(|suspect| suspects.wait(suspect));
            assert_eq!(suspects.len(), 2);
        }
    }
}
