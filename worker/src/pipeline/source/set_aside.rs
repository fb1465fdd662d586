//! Messages that are not for the pipeline: dead letters, and those that go to another queue.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::dead_letter::{self, DeadLetter};
use crate::error::Fault;
use crate::pipeline::delivery::Receipt;
use crate::pipeline::job::Job;
use crate::ports::Requeue;
use crate::retry::Backoff;

/// How many may wait; then the lane that they come from waits too.
pub(super) const WAITING_MAX: usize = 256;

/// A message that leaves the pipeline's way, with the receipt to settle when it has arrived.
#[derive(Debug)]
pub(super) enum Aside {
    /// Goes to the dead letters.
    Dead(DeadLetter, Receipt),
    /// Goes to another queue; the suspects get each id by itself.
    Move(Vec<Requeue>, Receipt),
}

/// Carries messages away until their lanes end, through every fault.
pub(super) async fn run(job: Arc<Job>, mut asides: mpsc::Receiver<Aside>) {
    let mut waiting = Vec::new();
    while asides.recv_many(&mut waiting, WAITING_MAX).await > 0 {
        let (mut letters, mut moves, mut receipts) = (Vec::new(), Vec::new(), Vec::new());
        for aside in waiting.drain(..) {
            match aside {
                Aside::Dead(letter, receipt) => {
                    tracing::warn!(job = letter.job, reason = letter.reason, "dead letter");
                    letters.push(letter);
                    receipts.push(receipt);
                }
                Aside::Move(requeues, receipt) => {
                    moves.extend(requeues);
                    receipts.push(receipt);
                }
            }
        }
        let mut backoff = Backoff::for_server();
        while let Err(fault) = carry(&job, &letters, &mut moves).await {
            tracing::warn!(job = job.name(), %fault, "messages wait to be set aside");
            backoff.wait().await;
            job.gates_opened().await;
        }
        Receipt::settle_all(&receipts);
    }
}

async fn carry(job: &Job, letters: &[DeadLetter], moves: &mut Vec<Requeue>) -> Result<(), Fault> {
    if !moves.is_empty() {
        job.broker.requeue(moves.clone()).await?;
        moves.clear();
    }
    dead_letter::write(job.index.as_ref(), &job.settings.dead_letters, letters).await
}
