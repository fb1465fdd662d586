//! What comes from a queue, judged and handed on.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch};

use super::Lane;
use super::judge::Judgement;
use super::set_aside::{Aside, Suspect};
use crate::metrics::verdict_label;
use crate::pipeline::delivery::{Delivery, Ledger};
use crate::pipeline::job::Job;
use crate::ports::{Destination, Message, Messages, Requeue};

/// Turns a lane's messages into deliveries.
pub(super) struct Intake {
    pub(super) lane: Lane,
    pub(super) job: Arc<Job>,
    /// The jobs that this worker knows.
    pub(super) jobs: Arc<[String]>,
    pub(super) aside: mpsc::Sender<Aside>,
}

impl Intake {
    /// Takes messages until there are no more.
    pub(super) async fn run(
        self,
        mut messages: Messages,
        ledger: Arc<Ledger>,
        deliveries: mpsc::Sender<Delivery>,
        suspect: Suspect,
        lost: watch::Sender<Option<String>>,
    ) {
        while let Some(message) = messages.next().await {
            let message = match message {
                Ok(message) => message,
                Err(error) => {
                    lost.send_replace(Some(error));
                    return;
                }
            };
            if self.accept(message, &ledger, &deliveries, &suspect).await.is_none() {
                return;
            }
        }
        // Cancelled: by us, when nobody listens to this any more, or by the broker (the queue was deleted).
        lost.send_replace(Some(format!("the broker ended the consumer of {}", self.lane.queue(&self.job))));
    }

    /// Hands the message's ids on; `None` when nobody takes them any more.
    async fn accept(
        &self,
        message: Message,
        ledger: &Arc<Ledger>,
        deliveries: &mpsc::Sender<Delivery>,
        suspect: &Suspect,
    ) -> Option<()> {
        let ids = match self.judge(&message) {
            Judgement::Deliver(ids) => ids,
            Judgement::SetAside(label, aside) => {
                let label = verdict_label(self.job.name(), label);
                self.job.meters.all.messages.get_or_create(&label).inc();
                let receipt = ledger.receive(1);
                return self.aside.send(aside(receipt)).await.ok();
            }
        };
        self.job.meters.accepted.inc();
        let receipt = ledger.receive(u32::try_from(ids.good.len() + ids.bad.len()).unwrap_or(u32::MAX));
        let envelope = message.envelope;
        if self.lane == Lane::Suspects {
            let requeue = Requeue {
                job: self.job.name().to_owned(),
                destination: Destination::Suspects,
                payload: message.payload,
                envelope: envelope.clone(),
            };
            suspect.set(requeue, receipt.clone());
        }
        for letter in ids.bad {
            self.aside.send(Aside::Dead(letter, receipt.clone())).await.ok()?;
        }
        for id in ids.good {
            let delivery = Delivery { id, after: ids.after, envelope: envelope.clone(), receipt: receipt.clone() };
            deliveries.send(delivery).await.ok()?;
        }
        Some(())
    }
}
