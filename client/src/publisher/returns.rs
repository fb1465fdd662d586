//! Tells which of the confirmed messages the broker returned.
//!
//! The broker returns a message that no queue takes, and then confirms it. lapin keeps the returns in a queue and
//! hands the first one to whichever confirm comes next, which may be another message's. Taken at its word it would
//! call a lost message published and a published one lost. So each message carries its number, and a confirm is
//! believed only when it is sure that no return for its number can still turn up.
//!
//! What is known: a message's return comes before its confirm; every confirm that lapin handles takes the first
//! return in the queue, if there is one; and the futures of a session are polled in the order in which they were
//! woken, which is lapin's, except that one may be seen early that was already in line for another reason. A marker
//! that is put at the end of that line when an answer has been seen comes out after all that lapin handled before
//! that answer. So, when the marker comes:
//!
//! - an answer that carried no return had an empty queue behind it: its own return was taken by an answer seen by
//!   now, or there is none;
//! - an answer that carried another's return may have its own still in the queue. It is held until an answer carries
//!   none that lapin certainly handled later (two markers on), or until no answer is missing: as many answers as
//!   returns have then taken them all.

use std::collections::HashSet;

/// What became of a message that the broker confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// A queue has it.
    Taken,
    /// The broker returned it, no queue has it.
    Returned,
}

/// The answers of one channel that are not settled.
#[derive(Default)]
pub(super) struct Returns {
    /// The numbers of returned messages that are not settled.
    returned: HashSet<u64>,
    /// Seen before the marker that is under way was put in line.
    covered: Vec<Answer>,
    /// Seen since.
    uncovered: Vec<Answer>,
    /// Carried another's return: the number, and the marker that covered it.
    held: Vec<(u64, u64)>,
    marker_under_way: bool,
    markers: u64,
}

struct Answer {
    /// None where nothing is to be settled: a nack is certain by itself.
    number: Option<u64>,
    carried: Carried,
}

#[derive(PartialEq)]
enum Carried {
    Nothing,
    Own,
    Anothers,
}

impl Returns {
    /// Takes an answer: the number that it settles, and the number of the returned message that it carries. True if a
    /// marker is to be put in line now.
    pub(super) fn answered(&mut self, number: Option<u64>, carries: Option<u64>) -> bool {
        self.returned.extend(carries);
        let carried = match carries {
            None => Carried::Nothing,
            Some(_) if carries == number => Carried::Own,
            Some(_) => Carried::Anothers,
        };
        self.uncovered.push(Answer { number, carried });
        self.put_marker()
    }

    /// Takes the marker; `unsettled` is how many messages are published and not settled. What is settled now, and
    /// whether the next marker is to be put in line.
    pub(super) fn marker(&mut self, unsettled: usize) -> (Vec<(u64, Settled)>, bool) {
        self.marker_under_way = false;
        self.markers += 1;
        let covered = std::mem::take(&mut self.covered);
        let queue_was_empty = covered.iter().any(|answer| answer.carried == Carried::Nothing);
        let (released, mut held): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|(number, marker)| {
                self.returned.contains(number) || queue_was_empty && marker + 2 <= self.markers
            });
        let mut sure: Vec<u64> = numbers(released).collect();
        for Answer { number, carried } in covered {
            match (number, carried) {
                (Some(number), Carried::Anothers) => held.push((number, self.markers)),
                (Some(number), _) => sure.push(number),
                (None, _) => {}
            }
        }
        if self.uncovered.is_empty() && sure.len() + held.len() == unsettled {
            sure.extend(numbers(std::mem::take(&mut held)));
        }
        self.held = held;
        let settled = sure.into_iter().map(|number| (number, self.outcome(number))).collect();
        let again = !self.uncovered.is_empty() && self.put_marker();
        (settled, again)
    }

    fn put_marker(&mut self) -> bool {
        if self.marker_under_way {
            return false;
        }
        self.marker_under_way = true;
        self.covered = std::mem::take(&mut self.uncovered);
        true
    }

    fn outcome(&mut self, number: u64) -> Settled {
        if self.returned.remove(&number) { Settled::Returned } else { Settled::Taken }
    }
}

fn numbers(held: Vec<(u64, u64)>) -> impl Iterator<Item = u64> {
    held.into_iter().map(|(number, _)| number)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    /// lapin and the line of woken futures, as the module describes them.
    struct Model {
        routable: Vec<bool>,
        /// Messages whose return the broker has not sent, and those that it has not confirmed.
        unreturned: Vec<u64>,
        unconfirmed: Vec<u64>,
        queue_of_returns: VecDeque<u64>,
        /// What lapin has handled: the return that each confirm carries.
        confirms: BTreeMap<u64, Option<u64>>,
        /// Woken futures; none is a marker.
        line: VecDeque<Option<u64>>,
        returns: Returns,
        unsettled: usize,
        settled: BTreeMap<u64, Settled>,
    }

    impl Model {
        fn new(routable: Vec<bool>) -> Model {
            let numbers = || 0..routable.len() as u64;
            Model {
                unreturned: numbers().filter(|&n| !routable[n as usize]).collect(),
                unconfirmed: numbers().collect(),
                queue_of_returns: VecDeque::new(),
                confirms: BTreeMap::new(),
                line: VecDeque::new(),
                returns: Returns::default(),
                unsettled: routable.len(),
                settled: BTreeMap::new(),
                routable,
            }
        }

        fn broker_returns(&mut self, choice: usize) {
            if !self.unreturned.is_empty() {
                let number = self.unreturned.remove(choice % self.unreturned.len());
                self.queue_of_returns.push_back(number);
            }
        }

        fn broker_confirms(&mut self, choice: usize) {
            let ready: Vec<u64> = self.unconfirmed.iter().copied().filter(|n| !self.unreturned.contains(n)).collect();
            if !ready.is_empty() {
                let number = ready[choice % ready.len()];
                self.unconfirmed.retain(|&n| n != number);
                self.confirms.insert(number, self.queue_of_returns.pop_front());
                self.wake(number);
            }
        }

        /// A future is in line once, whatever it was woken for.
        fn wake(&mut self, number: u64) {
            if !self.line.contains(&Some(number)) && !self.settled.contains_key(&number) {
                self.line.push_back(Some(number));
            }
        }

        fn wake_early(&mut self, choice: usize) {
            if !self.unconfirmed.is_empty() {
                self.wake(self.unconfirmed[choice % self.unconfirmed.len()]);
            }
        }

        fn poll(&mut self) {
            let again = match self.line.pop_front() {
                None => false,
                Some(None) => {
                    let (settled, again) = self.returns.marker(self.unsettled);
                    self.unsettled -= settled.len();
                    self.settled.extend(settled);
                    again
                }
                Some(Some(number)) => match self.confirms.remove(&number) {
                    None => false,
                    Some(carries) => self.returns.answered(Some(number), carries),
                },
            };
            if again {
                self.line.push_back(None);
            }
        }

        fn check(&self) {
            for (&number, &outcome) in &self.settled {
                let expected = if self.routable[number as usize] { Settled::Taken } else { Settled::Returned };
                assert_eq!(outcome, expected, "message {number}");
            }
        }
    }

    /// The rarest history, too rare for random ones: an answer without a return is seen after, but was handled before.
    #[test]
    fn an_older_answer_proves_nothing_about_a_held_one() {
        let (held, other) = (0, 1);
        let mut model = Model::new(vec![false, false, true]);
        model.wake_early(held);
        model.broker_confirms(0); // of the only one that can be routed: it carries nothing
        model.broker_returns(other);
        model.broker_returns(held);
        model.broker_confirms(held); // it carries the other's return
        for _ in 0..4 {
            model.poll(); // the held one, the routable one, two markers
            model.check();
        }
        model.broker_confirms(0); // of the other: it carries the held one's return
        while !model.line.is_empty() {
            model.poll();
        }
        model.check();
        assert_eq!(model.settled.len(), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn no_message_is_taken_for_another(
            routable in proptest::collection::vec(any::<bool>(), 1..12),
            steps in proptest::collection::vec((0..4_u8, any::<usize>()), 0..120),
        ) {
            let count = routable.len();
            let mut model = Model::new(routable);
            for (step, choice) in steps {
                match step {
                    0 => model.broker_returns(choice),
                    1 => model.broker_confirms(choice),
                    2 => model.wake_early(choice),
                    _ => model.poll(),
                }
                model.check();
            }
            while !model.unreturned.is_empty() || !model.unconfirmed.is_empty() || !model.line.is_empty() {
                model.broker_returns(0);
                model.broker_confirms(0);
                model.poll();
            }
            model.check();
            prop_assert_eq!(model.settled.len(), count, "every message is settled in the end");
        }
    }
}
