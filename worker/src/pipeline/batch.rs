//! Deliveries into batches: several deliveries of one id are one entry.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pinion_schemas::Id;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::delivery::{Delivery, Receipt};
use super::job::Job;
use crate::backlog::Backlog;
use crate::clock::now_ms;
use crate::ports::Envelope;

/// Messages that have waited for less than this times the linger are fresh, and a batch of them waits for this part of it.
const FRESH: u32 = 10;

/// A closed batch: no later delivery joins it, so a fence taken now covers all of it.
#[derive(Debug)]
pub struct Batch {
    /// Whose documents these are.
    pub job: Arc<Job>,
    /// At most `batch_max`, each id once.
    pub entries: Vec<Entry>,
}

/// One id of a batch, with all deliveries that asked for it.
#[derive(Debug)]
pub struct Entry {
    /// Which document.
    pub id: Id,
    /// The latest position that its deliveries named.
    pub after: Option<u64>,
    /// The oldest delivery's times, the fewest attempts.
    pub envelope: Envelope,
    /// The first delivery's receipt; `None` for a probe, which nobody delivered.
    pub receipt: Option<Receipt>,
    /// Those of the deliveries that joined it.
    pub joined: Vec<Receipt>,
    /// Whether the index held a newer version than was read for it, and it is read again.
    pub overtaken: bool,
}

impl Entry {
    /// An entry that no message asked for: to see whether a paused job works again.
    pub fn probe(id: Id) -> Self {
        Self { id, after: None, envelope: Envelope::default(), receipt: None, joined: Vec::new(), overtaken: false }
    }

    /// All receipts, to be settled together.
    pub fn receipts(&self) -> impl Iterator<Item = &Receipt> {
        self.receipt.iter().chain(&self.joined)
    }

    /// Takes in another delivery of the same id. The latest position counts; a newer message
    /// gives the document its attempts again, and makes a second look a full one.
    fn join(&mut self, delivery: Delivery) {
        let envelope = delivery.envelope;
        self.after = self.after.max(delivery.after);
        self.envelope.attempts = self.envelope.attempts.min(envelope.attempts);
        self.envelope.second_look &= envelope.second_look;
        self.envelope.load &= envelope.load;
        self.envelope.sent_ms = match (self.envelope.sent_ms, envelope.sent_ms) {
            (Some(left), Some(right)) => Some(left.min(right)),
            (left, right) => left.or(right),
        };
        self.joined.push(delivery.receipt);
    }
}

impl From<Delivery> for Entry {
    fn from(delivery: Delivery) -> Self {
        let Delivery { id, after, envelope, receipt } = delivery;
        Self { id, after, envelope, receipt: Some(receipt), joined: Vec::new(), overtaken: false }
    }
}

impl Batch {
    /// Whether all of it fills an index that is being built, and goes to no other.
    pub fn is_load(&self) -> bool {
        self.entries.iter().all(|entry| entry.envelope.load)
    }

    /// The ids in the entries' order.
    pub fn ids(&self) -> Vec<Id> {
        self.entries.iter().map(|entry| entry.id.clone()).collect()
    }

    /// Splits off everything behind the first `count` entries.
    pub fn split_off(&mut self, count: usize) -> Option<Self> {
        (count < self.entries.len()).then(|| Self { job: self.job.clone(), entries: self.entries.split_off(count) })
    }
}

/// Collects the deliveries of one lane.
#[derive(Debug)]
pub struct Batcher {
    job: Arc<Job>,
    deliveries: mpsc::Receiver<Delivery>,
    open: Vec<Entry>,
    position_of: HashMap<Id, usize>,
    /// When the first of the open ones came.
    since: Option<Instant>,
    /// When the last of the open ones was sent.
    sent_ms: u64,
}

impl Batcher {
    /// A batcher of `job` that reads from `deliveries`.
    pub fn new(job: Arc<Job>, deliveries: mpsc::Receiver<Delivery>) -> Self {
        Self { job, deliveries, open: Vec::new(), position_of: HashMap::new(), since: None, sent_ms: 0 }
    }

    /// Waits until there is something to do; `false` when the source has ended and everything is
    /// handed out.
    pub async fn wait(&mut self) -> bool {
        if self.open.is_empty() {
            match self.deliveries.recv().await {
                Some(first) => self.take(first),
                None => return false,
            }
        }
        true
    }

    /// Takes what is there, up to `size` entries, and waits for more as long as that does not matter.
    ///
    /// Of fresh messages only a busy worker waits for more, that is while earlier batches are on their way (`running` above 0), and
    /// for a tenth of the linger. Of messages that have waited for ten times the linger already it waits for all of it: they are a
    /// backlog, where workers that share it would each take what little has come, and full batches cost everybody less.
    pub async fn fill(&mut self, size: usize, running: &mut watch::Receiver<usize>, backlog: Option<&Backlog>) {
        while self.open.len() < size {
            let delivery = match self.deliveries.try_recv() {
                Ok(delivery) => Some(delivery),
                Err(TryRecvError::Disconnected) => None,
                Err(TryRecvError::Empty) => self.wait_for_more(size, running, backlog).await,
            };
            match delivery {
                Some(delivery) => self.take(delivery),
                None => break,
            }
        }
    }

    /// Waits for `event`, and meanwhile takes what comes, up to `size` entries.
    pub async fn until<T>(&mut self, size: usize, event: impl Future<Output = T>) -> T {
        let mut event = pin!(event);
        loop {
            tokio::select! {
                biased;
                happened = &mut event => return happened,
                Some(delivery) = self.deliveries.recv(), if self.open.len() < size => self.take(delivery),
            }
        }
    }

    /// Closes the batch, if there is something in it.
    pub fn close(&mut self) -> Option<Batch> {
        self.position_of.clear();
        self.since = None;
        self.sent_ms = 0;
        let entries = std::mem::take(&mut self.open);
        (!entries.is_empty()).then(|| Batch { job: self.job.clone(), entries })
    }

    /// Whether none of the open messages is fresh: another linger matters to none of them.
    pub fn is_behind(&self) -> bool {
        let linger = self.job.settings.linger;
        let waited = Duration::from_millis(now_ms().saturating_sub(self.sent_ms));
        !linger.is_zero() && waited >= linger * FRESH
    }

    /// Waits for another delivery while waiting is worth it.
    async fn wait_for_more(
        &mut self,
        size: usize,
        running: &mut watch::Receiver<usize>,
        backlog: Option<&Backlog>,
    ) -> Option<Delivery> {
        let is_behind = self.is_behind();
        if !is_behind && *running.borrow() == 0 {
            return None;
        }
        let linger = self.job.settings.linger / if is_behind { 1 } else { FRESH };
        let deadline = self.since.unwrap_or_else(Instant::now) + linger;
        let _filling = backlog.filter(|_| is_behind).and_then(|backlog| backlog.full_batch(self.job.bytes_of(size)));
        tokio::select! {
            biased;
            delivery = self.deliveries.recv() => delivery,
            _ = running.wait_for(|running| *running == 0), if !is_behind => None,
            () = tokio::time::sleep_until(deadline) => None,
        }
    }

    fn take(&mut self, delivery: Delivery) {
        self.since.get_or_insert_with(Instant::now);
        // One that does not say when it was sent may have been sent just now.
        self.sent_ms = self.sent_ms.max(delivery.envelope.sent_ms.unwrap_or(u64::MAX));
        match self.position_of.entry(delivery.id.clone()) {
            Slot::Occupied(slot) => {
                self.job.meters.coalesced.inc();
                self.open[*slot.get()].join(delivery);
            }
            Slot::Vacant(slot) => {
                slot.insert(self.open.len());
                self.open.push(delivery.into());
            }
        }
    }
}
