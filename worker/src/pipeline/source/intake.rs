//! What comes from a queue, judged and handed on.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch};

use super::Lane;
use super::ahead::Ahead;
use super::alone::Alone;
use super::judge::{Judgement, MessageIds, POISON};
use super::set_aside::Aside;
use super::suspects::Suspects;
use crate::metrics::verdict_label;
use crate::pipeline::delivery::{Delivery, Ledger};
use crate::pipeline::job::Job;
use crate::ports::{Consumer, Destination, Message, Requeue};

/// Turns a lane's messages into deliveries.
pub(super) struct Intake {
    pub(super) lane: Lane,
    pub(super) job: Arc<Job>,
    /// The jobs that this worker knows.
    pub(super) jobs: Arc<[String]>,
    pub(super) aside: mpsc::Sender<Aside>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) deliveries: mpsc::Sender<Delivery>,
    pub(super) in_hand: InHand,
}

/// What is kept of the messages in hand, so that they are not blamed for what was not their doing.
#[derive(Clone)]
pub(super) enum InHand {
    /// Of the live and the low lane: nothing.
    Uncounted,
    /// Those that are read together.
    Suspects(Suspects),
    /// The one that is read alone.
    Alone(Alone),
}

impl InHand {
    /// Ends with everything done, or with something that goes back: see [`Alone::end`], [`Suspects::end`].
    pub(super) async fn end(&self, is_done: bool, is_ours: bool) {
        match self {
            Self::Uncounted => {}
            Self::Suspects(suspects) => suspects.end(is_done).await,
            Self::Alone(alone) => alone.end(is_done, is_ours).await,
        }
    }
}

impl Intake {
    /// Takes messages until there are no more.
    pub(super) async fn run(self, consumer: Consumer, mut ahead: Ahead, lost: watch::Sender<Option<String>>) {
        let Consumer { mut messages, channel } = consumer;
        // What was under way comes first.
        let mut following = None;
        loop {
            let Some(message) = messages.next().await else {
                let Some(next) = following.take() else { break };
                messages = next;
                continue;
            };
            let accepted = match message {
                Ok(message) => self.accept(message).await,
                Err(error) => {
                    lost.send_replace(Some(error));
                    return;
                }
            };
            let Some(ids) = accepted else { return };
            if following.is_none() && ahead.changes(ids, &self.job.speed) {
                match channel.consume_again(ahead.messages()).await {
                    Ok(next) => following = Some(next),
                    Err(error) => {
                        lost.send_replace(Some(error));
                        return;
                    }
                }
            }
        }
        // Cancelled: by us, when nobody listens to this any more, or by the broker (the queue was deleted).
        lost.send_replace(Some(format!("the broker ended the consumer of {}", self.lane.queue(&self.job))));
    }

    /// Hands the message's ids on, and tells how many there are; `None` when nobody takes them any more.
    async fn accept(&self, message: Message) -> Option<usize> {
        let mut judgement = self.judge(&message);
        if let (Judgement::Deliver(ids), InHand::Suspects(suspects)) = (&judgement, &self.in_hand)
            && !self.may_stay(suspects, ids, message.redeliveries).await
        {
            judgement = self.read_alone(&message);
        }
        let ids = match judgement {
            Judgement::Deliver(ids) => ids,
            Judgement::SetAside(label, aside) => {
                self.count(label);
                let receipt = self.ledger.receive(1);
                return self.aside.send(aside(receipt)).await.ok().map(|()| 1);
            }
        };
        self.job.meters.accepted.inc();
        let count = ids.good.len() + ids.bad.len();
        let receipt = self.ledger.receive(u32::try_from(count).unwrap_or(u32::MAX));
        let envelope = message.envelope;
        if let InHand::Alone(alone) = &self.in_hand {
            let requeue = Requeue {
                job: self.job.name().to_owned(),
                destination: Destination::Alone,
                payload: message.payload.clone(),
                envelope: envelope.clone(),
            };
            alone.take_up(requeue, receipt.clone()).await;
            if let [id] = &*ids.good
                && message.redeliveries > 0
                && let Some(letter) = self.condemn(alone.note(&id.to_string()).await, &message.payload)
            {
                self.count(POISON);
                return self.aside.send(Aside::Dead(letter, receipt)).await.ok().map(|()| count);
            }
        }
        for letter in ids.bad {
            self.aside.send(Aside::Dead(letter, receipt.clone())).await.ok()?;
        }
        for id in ids.good {
            let delivery = Delivery { id, after: ids.after, envelope: envelope.clone(), receipt: receipt.clone() };
            self.deliveries.send(delivery).await.ok()?;
        }
        Some(count)
    }

    /// Whether a suspect may be read with others: it comes for the first time, or whoever lost it lives.
    async fn may_stay(&self, suspects: &Suspects, ids: &MessageIds, redeliveries: u64) -> bool {
        let id = match &*ids.good {
            [id] => id.to_string(),
            // Sent there by hand.
            _ => return redeliveries == 0,
        };
        let stays = redeliveries == 0 || suspects.is_pardoned(&id, redeliveries).await;
        if stays {
            suspects.take_up(id, redeliveries);
        }
        stays
    }

    fn count(&self, verdict: &'static str) {
        self.job.meters.all.messages.get_or_create(&verdict_label(self.job.name(), verdict)).inc();
    }
}
