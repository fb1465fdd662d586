//! The suspects that are read together, and the pardon of those whose worker lost them and lives.
//!
//! What comes back from there is read alone: it may have killed its worker. Where the worker only lost its connection, or gave back
//! what it could not finish, it says so, and they stay suspects.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::SUSPECTS_TOGETHER;
use super::notes::{Notes, made};
use crate::clock::now_ms;
use crate::pipeline::job::Job;

/// Pardons are looked up again after this.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// One that nobody needed for so long is dropped: its message was done by somebody else.
const FORGOTTEN_MS: u64 = 10 * 60 * 1000;

/// A suspect whose worker lost it, and lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pardon {
    /// The id that it names.
    pub id: String,
    /// How often its queue had given it before, when it was lost. It counts for the next time, and for none after that.
    pub redeliveries: u64,
    /// When it was lost, in milliseconds since 1970.
    pub at: u64,
}

/// The suspects that this worker has in hand.
#[derive(Clone)]
pub(super) struct Suspects {
    notes: Notes,
    /// The last ones, with how often each had been given before: no more than are read together.
    in_hand: Arc<Mutex<VecDeque<(String, u64)>>>,
    /// The pardons as they were looked up last.
    known: Arc<tokio::sync::Mutex<Option<Known>>>,
}

/// Pardons, and when they were looked up.
struct Known {
    at: Instant,
    pardons: Vec<Pardon>,
}

impl Suspects {
    /// None yet.
    pub(super) fn new(job: Arc<Job>) -> Self {
        Self { notes: Notes::of(job), in_hand: Arc::default(), known: Arc::default() }
    }

    /// Whether a message that came back so often may stay a suspect. Where that can't be looked up, it may not.
    pub(super) async fn is_pardoned(&self, id: &str, redeliveries: u64) -> bool {
        let mut known = self.known.lock().await;
        if known.as_ref().is_none_or(|known| known.at.elapsed() >= KNOWN_FOR) {
            let Ok(notes) = self.notes.read().await else { return false };
            *known = Some(Known { at: Instant::now(), pardons: notes.pardoned });
        }
        let mut pardons = known.iter().flat_map(|known| &known.pardons);
        pardons.any(|pardon| pardon.id == id && redeliveries <= pardon.redeliveries + 1)
    }

    /// Takes up one.
    pub(super) fn take_up(&self, id: String, redeliveries: u64) {
        let mut in_hand = self.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        if in_hand.len() >= usize::from(SUSPECTS_TOGETHER) {
            in_hand.pop_front();
        }
        in_hand.push_back((id, redeliveries));
    }

    /// Ends with all of them done, or pardons the last ones: among them are those that go back.
    pub(super) async fn end(&self, is_done: bool) {
        let in_hand = std::mem::take(&mut *self.in_hand.lock().unwrap_or_else(PoisonError::into_inner));
        if is_done || in_hand.is_empty() {
            return;
        }
        let notes = self.notes.clone();
        made(async move { notes.change(|notes| pardon(&mut notes.pardoned, &in_hand, now_ms())).await }).await;
    }
}

/// Adds pardons. What was pardoned before and is lost again is pardoned for once more.
fn pardon(pardons: &mut Vec<Pardon>, lost: &VecDeque<(String, u64)>, now_ms: u64) {
    pardons.retain(|pardon| {
        now_ms.saturating_sub(pardon.at) < FORGOTTEN_MS && !lost.iter().any(|(id, _)| *id == pardon.id)
    });
    let lost = lost.iter().map(|(id, redeliveries)| Pardon { id: id.clone(), redeliveries: *redeliveries, at: now_ms });
    pardons.extend(lost);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pardon_is_for_the_next_time_and_is_forgotten() {
        let mut pardons = Vec::new();
        pardon(&mut pardons, &[("7".to_owned(), 0), ("8".to_owned(), 2)].into(), 10);
        pardon(&mut pardons, &[("7".to_owned(), 1)].into(), 20);
        let seen: Vec<(&str, u64)> = pardons.iter().map(|pardon| (pardon.id.as_str(), pardon.redeliveries)).collect();
        assert_eq!(seen, [("8", 2), ("7", 1)]);
        pardon(&mut pardons, &VecDeque::new(), 15 + FORGOTTEN_MS);
        assert_eq!(pardons.iter().map(|pardon| pardon.id.as_str()).collect::<Vec<_>>(), ["7"]);
    }
}
