//! What is to be done with a message, before any of its ids is looked at in the database.

use pinion_schemas::{From, Id, JobMessage, decode, position_of};
use serde_json::json;
use serde_json::value::RawValue;

use super::intake::Intake;
use super::set_aside::Aside;
use super::{Lane, REDELIVERIES_OF_A_SUSPECT};
use crate::dead_letter::DeadLetter;
use crate::metrics::job_label;
use crate::pipeline::delivery::Receipt;
use crate::pipeline::job::Settings;
use crate::planted::{Bug, planted};
use crate::ports::{Destination, Message, Requeue};

/// Why a message that crashes its worker is a dead letter.
pub(super) const POISON: &str = "poison";

/// What a message is.
pub(super) enum Judgement {
    /// Ids for this job.
    Deliver(MessageIds),
    /// Not for the pipeline; with the word it is counted under.
    SetAside(&'static str, Box<dyn FnOnce(Receipt) -> Aside + Send>),
}

/// The ids of a message.
pub(super) struct MessageIds {
    pub(super) good: Vec<Id>,
    /// One letter for each id that is not of the job's key type.
    pub(super) bad: Vec<DeadLetter>,
    pub(super) after: Option<u64>,
}

impl Judgement {
    fn dead(label: &'static str, letter: DeadLetter) -> Self {
        Self::SetAside(label, Box::new(move |receipt| Aside::Dead(letter, receipt)))
    }

    fn moved(label: &'static str, requeues: Vec<Requeue>) -> Self {
        Self::SetAside(label, Box::new(move |receipt| Aside::Move(requeues, receipt)))
    }
}

impl Intake {
    /// The body's `job_name` decides, not the queue that it came through.
    pub(super) fn judge(&self, message: &Message) -> Judgement {
        let data = message.payload.as_slice();
        let redeliveries = message.redeliveries;
        let worker = &self.job.settings.worker;
        let decoded = match decode(data) {
            Ok(decoded) => decoded,
            Err(error) => {
                let letter = DeadLetter::of_message(self.job.name(), data, worker);
                return Judgement::dead("undecodable", letter.because("undecodable", error.to_string()));
            }
        };
        if decoded.job_name != self.job.name() {
            if !self.jobs.iter().any(|job| *job == decoded.job_name) {
                let letter = DeadLetter::of_message(&decoded.job_name, data, worker);
                let error =
                    format!("no job is called {:?}; this worker knows {}", decoded.job_name, self.jobs.join(", "));
                return Judgement::dead("unknown_job", letter.because("unknown_job", error));
            }
            let to = self.requeue(&decoded.job_name, Destination::Live, message);
            return Judgement::moved("moved", vec![to]);
        }
        if self.job.definition.from == From::Event {
            let error = "the job's documents come from change events (from = \"event\"), messages do nothing";
            let letter = DeadLetter::of_message(self.job.name(), data, worker);
            return Judgement::dead("from_event", letter.because("from_event", error));
        }
        match self.lane {
            Lane::Live | Lane::Low
                if planted(Bug::CondemnedByTheJobQueue) && redeliveries >= self.job.settings.deliveries_max =>
            {
                let letter = DeadLetter::of_message(self.job.name(), data, worker);
                return Judgement::dead(POISON, letter.because(POISON, "delivered too often"));
            }
            Lane::Live | Lane::Low if planted(Bug::CondemnedByTheJobQueue) => {}
            Lane::Live | Lane::Low if redeliveries >= REDELIVERIES_OF_A_SUSPECT => {
                return Judgement::moved("suspect", self.suspects(&decoded, message));
            }
            // Only sent there by hand: of several ids, each is suspected by itself.
            Lane::Alone if decoded.ids.len() > 1 => {
                return Judgement::moved("suspect", self.suspects(&decoded, message));
            }
            Lane::Live | Lane::Low | Lane::Suspects | Lane::Alone => {}
        }
        let after = decoded.after.as_deref().and_then(|after| self.position(after));
        let mut ids = MessageIds { good: Vec::with_capacity(decoded.ids.len()), bad: Vec::new(), after };
        for raw in decoded.ids.iter() {
            match self.job.definition.key.id_from_json(raw) {
                Ok(id) => ids.good.push(id),
                Err(error) => {
                    let letter = DeadLetter::of_message(self.job.name(), &of_one(&decoded, raw), worker);
                    ids.bad.push(letter.because("wrong_id", error.to_string()));
                }
            }
        }
        Judgement::Deliver(ids)
    }

    /// A suspect that came back is read alone.
    pub(super) fn read_alone(&self, message: &Message) -> Judgement {
        Judgement::moved("alone", vec![self.requeue(self.job.name(), Destination::Alone, message)])
    }

    /// The dead letter of a message that was read alone by workers of which so many have died.
    pub(super) fn condemn(&self, deaths: u64, payload: &[u8]) -> Option<DeadLetter> {
        let Settings { deliveries_max, worker, .. } = &self.job.settings;
        (deaths >= *deliveries_max).then(|| {
            let error = format!(
                "{deaths} workers have ended while they read it, and nothing else of the job: it may crash them"
            );
            DeadLetter::of_message(self.job.name(), payload, worker).because(POISON, error)
        })
    }

    fn requeue(&self, job: &str, destination: Destination, message: &Message) -> Requeue {
        Requeue {
            job: job.to_owned(),
            destination,
            payload: message.payload.clone(),
            envelope: message.envelope.clone(),
        }
    }

    /// Each id of the message by itself: one that crashes its worker must not condemn those that came with it.
    fn suspects(&self, decoded: &JobMessage<'_>, message: &Message) -> Vec<Requeue> {
        let one = |raw| Requeue {
            payload: of_one(decoded, raw),
            ..self.requeue(self.job.name(), Destination::Suspects, message)
        };
        decoded.ids.iter().map(one).collect()
    }

    /// A position that can't be read changes nothing: the fence is asked anyway.
    fn position(&self, after: &str) -> Option<u64> {
        let position = position_of(after);
        if position.is_none() {
            self.job.meters.all.after_ignored.get_or_create(&job_label(self.job.name())).inc();
        }
        position
    }
}

/// The message as it would be about one of its ids alone.
fn of_one(message: &JobMessage<'_>, id: &RawValue) -> Vec<u8> {
    let after = message.after.as_ref().map(|after| format!(",\"after\":{}", json!(after))).unwrap_or_default();
    format!("{{\"job_name\":{},\"id\":{}{after}}}", json!(message.job_name), id.get()).into_bytes()
}
