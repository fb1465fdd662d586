//! How many messages of a lane are taken ahead of the work: as many as have the ids that the worker needs.
//!
//! A queue counts messages, but what a worker needs in hand, what it takes memory for and what no other worker can have meanwhile are ids,
//! and a message has one, or thousands. So a lane begins with few messages, looks at what it got, and asks for more or less.

use crate::pipeline::speed::Speed;

/// What a message is taken to have before any came: fan-outs put as many together, walks some more.
const IDS_PER_MESSAGE_AT_FIRST: usize = 100;

/// After so many messages it is looked at what they had. Another number costs a few answers of the broker, which is nothing beside these.
const LOOKED_AT_AFTER: usize = 2_000;

/// The number of messages to take ahead, as a lane's messages come.
#[derive(Debug)]
pub(super) struct Ahead {
    /// How many ids are to be in hand; `None` where the number of messages is fixed.
    ids: Option<usize>,
    messages: u16,
    /// Messages that came since this was last looked at.
    seen: usize,
    /// The ids in them.
    seen_ids: usize,
}

impl Ahead {
    /// Always so many messages.
    pub(super) fn fixed(messages: u16) -> Self {
        Self { ids: None, messages, seen: 0, seen_ids: 0 }
    }

    /// As many messages as have so many ids; fewer for a job that was too slow for them.
    pub(super) fn of_ids(ids: usize, speed: &Speed) -> Self {
        Self { ids: Some(ids), ..Self::fixed(speed.ahead(ids / IDS_PER_MESSAGE_AT_FIRST)) }
    }

    /// How many messages to take ahead.
    pub(super) fn messages(&self) -> u16 {
        self.messages
    }

    /// Takes note of a message of so many ids. `true` if the number of messages has changed by it: to more than twice, or to less than half.
    pub(super) fn changes(&mut self, ids: usize, speed: &Speed) -> bool {
        let Some(wanted) = self.ids else { return false };
        self.seen += 1;
        self.seen_ids += ids;
        // No more than can come: the first of them may be the one that holds up the rest.
        if self.seen < LOOKED_AT_AFTER.min(self.messages.into()) {
            return false;
        }
        let messages = speed.ahead(wanted * self.seen / self.seen_ids.max(1));
        (self.seen, self.seen_ids) = (0, 0);
        let changes = messages > self.messages.saturating_mul(2) || messages < self.messages / 2;
        if changes {
            self.messages = messages;
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// After how many messages of so many ids another number is asked for, and which.
    fn change(ahead: &mut Ahead, ids: usize, speed: &Speed) -> Option<(usize, u16)> {
        let after = (1..=10_000).find(|_| ahead.changes(ids, speed))?;
        Some((after, ahead.messages()))
    }

    #[test]
    fn as_many_messages_as_have_the_ids() {
        let speed = Speed::new(Duration::from_secs(30));
        let mut ahead = Ahead::of_ids(24_000, &speed);
        assert_eq!(ahead.messages(), 240);
        assert_eq!(change(&mut ahead, 100, &speed), None, "as it was taken to be");
        assert_eq!(change(&mut ahead, 1, &speed), Some((320, 24_000)), "the end of a look, then one");
        assert_eq!(change(&mut ahead, 1, &speed), None);
        assert_eq!(change(&mut ahead, 3, &speed), Some((2_000, 8_000)));
        assert_eq!(change(&mut ahead, 5, &speed), None, "less than half as many, or nothing changes");
        assert_eq!(change(&mut ahead, 100_000, &speed), Some((2_000, 1)));
        assert_eq!(change(&mut ahead, 1, &speed), Some((1, 24_000)));
    }

    #[test]
    fn few_are_looked_at_as_they_come() {
        let speed = Speed::new(Duration::from_secs(30));
        let mut ahead = Ahead::of_ids(240, &speed);
        assert_eq!(ahead.messages(), 2);
        assert_eq!(change(&mut ahead, 1, &speed), Some((2, 240)));
        assert_eq!(change(&mut Ahead::fixed(32), 1, &speed), None);
    }

    #[test]
    fn a_slow_job_takes_fewer() {
        let speed = Speed::new(Duration::from_secs(30));
        speed.take_less();
        let mut ahead = Ahead::of_ids(24_000, &speed);
        assert_eq!(ahead.messages(), 30);
        assert_eq!(change(&mut ahead, 1, &speed), Some((30, 3_000)));
    }
}
