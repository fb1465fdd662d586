//! The message that is read alone, and the note that its worker keeps of it.
//!
//! The broker tells that a message came back, not why: its worker may have died of it, or only lost a connection. So a worker that
//! takes up such a message notes it in Elasticsearch, and takes the note back when it lives on. What another worker has noted and
//! not taken back counts as a death.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::notes::{Notes, made};
use crate::clock::now_ms;
use crate::pipeline::delivery::Receipt;
use crate::pipeline::job::Job;
use crate::ports::Requeue;

/// A note that nobody came back to for so long is dropped: its worker died between the message's end and the note's.
const FORGOTTEN_MS: u64 = 24 * 60 * 60 * 1000;

/// A message that was interrupted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interruption {
    /// The id that it names.
    pub id: String,
    /// Workers that have died with it in hand.
    pub deaths: u64,
    /// The worker that has it in hand.
    pub worker: Option<String>,
    /// When one took it up last, in milliseconds since 1970.
    pub at: u64,
}

/// The message of a lane that is read alone.
#[derive(Clone)]
pub(super) struct Alone {
    notes: Notes,
    in_hand: Arc<Mutex<Option<InHand>>>,
}

struct InHand {
    requeue: Requeue,
    receipt: Receipt,
    /// The id, where it is noted.
    noted: Option<String>,
}

impl Alone {
    /// No message yet.
    pub(super) fn new(job: Arc<Job>) -> Self {
        Self { notes: Notes::of(job), in_hand: Arc::default() }
    }

    /// Takes up the next message; the one before is done.
    pub(super) async fn take_up(&self, requeue: Requeue, receipt: Receipt) {
        let before = self.replace(Some(InHand { requeue, receipt, noted: None }));
        if let Some(id) = before.and_then(|before| before.noted) {
            self.forget(&id).await;
        }
    }

    /// Notes that this worker reads the message in hand, which names `id` and was interrupted before; how many have died of it.
    pub(super) async fn note(&self, id: &str) -> u64 {
        if let Some(in_hand) = &mut *self.in_hand.lock().unwrap_or_else(PoisonError::into_inner) {
            in_hand.noted = Some(id.to_owned());
        }
        let worker = &*self.notes.job().settings.worker;
        self.notes.change(|notes| taken_up(&mut notes.interrupted, id, worker, now_ms())).await
    }

    /// Ends with a message that is done, or goes back. An orderly end must not count against it: it goes to the end of its queue as a
    /// new message. Where the channel is gone (`is_ours` is false) the broker has put it back already, and there would be two of it.
    pub(super) async fn end(&self, is_done: bool, is_ours: bool) {
        let Some(InHand { requeue, receipt, noted }) = self.replace(None) else { return };
        if !is_done && is_ours && self.notes.job().broker.requeue(vec![requeue]).await.is_ok() {
            receipt.settle_message();
        }
        let Some(id) = noted else { return };
        let this = self.clone();
        made(async move { if is_done { this.forget(&id).await } else { this.give_back(&id).await } }).await;
    }

    fn replace(&self, next: Option<InHand>) -> Option<InHand> {
        std::mem::replace(&mut *self.in_hand.lock().unwrap_or_else(PoisonError::into_inner), next)
    }

    fn forget<'a>(&'a self, id: &'a str) -> impl Future<Output = ()> + 'a {
        self.notes.change(move |notes| notes.interrupted.retain(|note| note.id != id))
    }

    fn give_back<'a>(&'a self, id: &'a str) -> impl Future<Output = ()> + 'a {
        let worker = &*self.notes.job().settings.worker;
        self.notes.change(move |notes| given_back(&mut notes.interrupted, id, worker))
    }
}

/// The deaths of the message that `worker` takes up now. The first interruption left no note: it counts.
fn taken_up(notes: &mut Vec<Interruption>, id: &str, worker: &str, now_ms: u64) -> u64 {
    notes.retain(|note| now_ms.saturating_sub(note.at) < FORGOTTEN_MS);
    let Some(note) = notes.iter_mut().find(|note| note.id == id) else {
        notes.push(Interruption { id: id.to_owned(), deaths: 1, worker: Some(worker.to_owned()), at: now_ms });
        return 1;
    };
    if note.worker.as_ref().is_some_and(|before| before != worker) {
        note.deaths += 1;
    }
    note.worker = Some(worker.to_owned());
    note.at = now_ms;
    note.deaths
}

/// The message is no longer in the hands of `worker`, which lives. Another one may have it by now, and have taken this one for dead.
fn given_back(notes: &mut [Interruption], id: &str, worker: &str) {
    for note in notes.iter_mut().filter(|note| note.id == id) {
        if note.worker.as_deref() == Some(worker) {
            note.worker = None;
        } else {
            note.deaths = note.deaths.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_workers_that_do_not_come_back_count() {
        let mut notes = Vec::new();
        // Nobody noted the first interruption.
        assert_eq!(taken_up(&mut notes, "7", "a", 10), 1);
        // It lost its connection, and has it again.
        assert_eq!(taken_up(&mut notes, "7", "a", 20), 1);
        // It lost its connection, took its note back, and another one has the message.
        given_back(&mut notes, "7", "a");
        assert_eq!(taken_up(&mut notes, "7", "b", 30), 1);
        // That one died, and so did the next.
        assert_eq!(taken_up(&mut notes, "7", "c", 40), 2);
        assert_eq!(taken_up(&mut notes, "7", "d", 50), 3);
        // This one, too, was taken for dead, but lives.
        assert_eq!(taken_up(&mut notes, "7", "e", 60), 4);
        given_back(&mut notes, "7", "d");
        assert_eq!(taken_up(&mut notes, "7", "e", 70), 3);
        assert_eq!(taken_up(&mut notes, "8", "e", 60), 1);
        assert_eq!(notes.len(), 2);
    }

    #[test]
    fn what_nobody_came_back_to_is_dropped() {
        let mut notes = Vec::new();
        taken_up(&mut notes, "7", "a", 10);
        taken_up(&mut notes, "8", "b", 10 + FORGOTTEN_MS);
        let left: Vec<&str> = notes.iter().map(|note| note.id.as_str()).collect();
        assert_eq!(left, ["8"]);
    }
}
