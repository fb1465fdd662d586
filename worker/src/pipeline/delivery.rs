//! What a source hands to the pipeline: an id of a job, with the acknowledgement inside.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pinion_schemas::Id;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::ports::Envelope;
use crate::tracker::{PrefixTracker, Run};

/// One id to be brought up to date.
#[derive(Debug)]
pub struct Delivery {
    /// Which document.
    pub id: Id,
    /// The commit position that the message named, if any.
    pub after: Option<u64>,
    /// What else the message carried.
    pub envelope: Envelope,
    /// To be settled when the document is, and not before.
    pub receipt: Receipt,
}

/// The accounts of one channel (or partition): what was received and what is settled.
#[derive(Debug)]
pub struct Ledger {
    tracker: Mutex<PrefixTracker>,
    /// The highest tag to acknowledge; written by whoever settles, read by the source.
    acknowledge: watch::Sender<u64>,
}

/// The acknowledgement of one part of one message. Dropping it settles nothing: the message
/// goes back to where it came from when its channel closes.
#[derive(Debug, Clone)]
#[must_use]
pub struct Receipt {
    ledger: Arc<Ledger>,
    tag: u64,
}

impl Ledger {
    /// Accounts whose first message has the tag `first`.
    pub fn new(first: u64) -> Arc<Self> {
        Arc::new(Self {
            tracker: Mutex::new(PrefixTracker::new(first)),
            acknowledge: watch::Sender::new(first.saturating_sub(1)),
        })
    }

    /// Takes note of the next message, of `parts` ids. One without any is settled already.
    pub fn receive(self: &Arc<Self>, parts: u32) -> Receipt {
        let mut tracker = self.lock();
        let tag = tracker.receive(parts, Instant::now());
        if parts == 0 {
            self.advance(&mut tracker);
        }
        Receipt { ledger: self.clone(), tag }
    }

    /// The highest tag up to which everything is settled, as it rises.
    pub fn acknowledgements(&self) -> watch::Receiver<u64> {
        self.acknowledge.subscribe()
    }

    /// When the oldest unsettled message came.
    pub fn oldest(&self) -> Option<Instant> {
        self.lock().oldest()
    }

    /// Whether everything received is settled.
    pub fn is_settled(&self) -> bool {
        self.lock().is_empty()
    }

    /// Everything up to the last settled message, in runs. Empty if nothing is settled behind one that is not.
    pub fn runs(&self) -> Vec<Run> {
        self.lock().runs()
    }

    /// Tells the source how far it may acknowledge; under the lock, so that tags only rise.
    fn advance(&self, tracker: &mut PrefixTracker) {
        if let Some(tag) = tracker.advance() {
            self.acknowledge.send_replace(tag);
        }
    }

    fn lock(&self) -> MutexGuard<'_, PrefixTracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Receipt {
    /// Settles all of `receipts`, with one look at each run of the same accounts.
    pub fn settle_all<'a>(receipts: impl IntoIterator<Item = &'a Self>) {
        let mut receipts = receipts.into_iter().peekable();
        while let Some(first) = receipts.next() {
            let ledger = &first.ledger;
            let mut tracker = ledger.lock();
            tracker.settle(first.tag);
            while let Some(next) = receipts.next_if(|next| Arc::ptr_eq(&next.ledger, ledger)) {
                tracker.settle(next.tag);
            }
            ledger.advance(&mut tracker);
        }
    }

    /// Settles every part of the message: it has gone elsewhere as a whole.
    pub fn settle_message(&self) {
        let mut tracker = self.ledger.lock();
        tracker.settle_whole(self.tag);
        self.ledger.advance(&mut tracker);
    }
}
