//! Writes to the index, in order: what can't be done now waits in place, and nothing behind it goes first.

use pinion_schemas::{Id, Version};

use crate::dead_letter::{self, DeadLetter};
use crate::elasticsearch::Elasticsearch;
use crate::error::{Fault, Service};
use crate::metrics::verdict_label;
use crate::pipeline::batch::Entry;
use crate::pipeline::build::{Action, Builder, Room};
use crate::pipeline::bulk::{Request, send};
use crate::pipeline::delivery::Receipt;
use crate::pipeline::job::Job;
use crate::pipeline::settle::{done, job_is_broken};
use crate::pipeline::verdict::{Verdict, verdict};
use crate::retry::Backoff;
use crate::status::JobState;

/// A document as an event tells it.
pub(super) struct Write {
    /// Its id, and the receipts of its events.
    pub(super) entry: Entry,
    /// Of its change in the database's log.
    pub(super) position: u64,
    /// `None`: the row is gone.
    pub(super) document: Option<Vec<u8>>,
    /// Where the event lies.
    pub(super) place: String,
    /// The event as it came.
    pub(super) raw: Vec<u8>,
}

/// Writes for one job; `tell` says what it waits for.
pub(super) struct Writer<'j, T> {
    pub(super) job: &'j Job,
    pub(super) elasticsearch: &'j Elasticsearch,
    pub(super) tell: &'j T,
}

/// What is left of some writes, and why.
struct Left {
    writes: Vec<Write>,
    fault: Option<Fault>,
}

impl<T: Fn(JobState, Option<String>) + Sync> Writer<'_, T> {
    /// Writes until all of it is settled.
    pub(super) async fn write(&self, writes: Vec<Write>) {
        // The batch on top is the next one.
        let mut waiting = vec![writes];
        let mut patience = Patience::default();
        while let Some(writes) = waiting.pop() {
            let Left { writes, fault } = self.attempt(writes).await;
            match fault {
                None => patience = Patience::default(),
                Some(Fault::Documents(reason)) => {
                    waiting.extend(self.isolate(writes, &reason).await);
                    continue;
                }
                Some(fault) => self.wait(&fault, &mut patience).await,
            }
            if !writes.is_empty() {
                waiting.push(writes);
            }
        }
    }

    /// Writes a dead letter and settles its events.
    pub(super) async fn dead<'r>(&self, letter: DeadLetter, receipts: impl IntoIterator<Item = &'r Receipt>) {
        let mut patience = Patience::default();
        tracing::warn!(job = letter.job, id = letter.id, reason = letter.reason, "dead letter");
        let letters = [letter];
        while let Err(fault) = self.write_letters(&letters).await {
            self.wait(&fault, &mut patience).await;
        }
        self.job.meters.all.documents.get_or_create(&verdict_label(self.job.name(), "dead_letter")).inc();
        Receipt::settle_all(receipts);
    }

    async fn write_letters(&self, letters: &[DeadLetter]) -> Result<(), Fault> {
        dead_letter::write(&*self.job.index, &self.job.settings.dead_letters, letters).await
    }

    /// Says what is waited for, and waits: for a server until it answers, else a while.
    pub(super) async fn wait(&self, fault: &Fault, patience: &mut Patience) {
        let is_broken = matches!(fault, Fault::Job(_));
        let state = if is_broken { JobState::Broken } else { JobState::Waiting };
        (self.tell)(state, Some(fault.to_string()));
        self.job.meters.all.retries.get_or_create(&verdict_label(self.job.name(), fault.label())).inc();
        if let Fault::Away { service, reason } = fault {
            for gate in self.job.gates.iter().filter(|gate| *gate.service() == *service) {
                gate.close(reason);
                gate.opened().await;
            }
        }
        let backoff = if is_broken { &mut patience.of_job } else { &mut patience.of_server };
        backoff.wait().await;
    }

    /// The generation of the source's history, asked after the events came: it is not older than theirs.
    pub(super) async fn generation(&self) -> Result<u16, Fault> {
        let position = self.job.database.position().await?;
        self.job.generations.of(&position).await
    }

    /// Sends as many as fit into one request, and settles what the answer settles.
    async fn attempt(&self, writes: Vec<Write>) -> Left {
        let (body, actions, oversized, writes) = match self.built(&writes).await {
            Ok((body, actions, oversized)) => (body, actions, oversized, writes),
            Err(fault) => return Left { writes, fault: Some(fault) },
        };
        let items = if actions.is_empty() {
            Ok(Vec::new())
        } else {
            let place = self.job.bulks.place().await;
            send(self.job, place, Request { index: &self.job.definition.index, body, actions: actions.len() }).await
        };
        let items = match items {
            Ok(items) => items,
            Err(fault) => return Left { writes, fault: Some(fault) },
        };
        let verdicts: Vec<(Action, Verdict)> =
            actions.iter().zip(&items).map(|(action, item)| (*action, verdict(item, action.delete))).collect();
        self.job.conflicts.count(self.job, &verdicts);
        let broken = job_is_broken(&verdicts);
        let mut decisions: Vec<Option<Decision>> = writes.iter().map(|_| None).collect();
        for (action, verdict) in verdicts {
            decisions[action.entry] = Some(self.decide(&writes[action.entry], verdict, broken.as_deref()));
        }
        for (entry, bytes) in oversized {
            let most = self.job.settings.bulk_bytes_max;
            let error = format!("the document takes {bytes} bytes, bulk_bytes_max is {most}: raise it in [worker]");
            decisions[entry] = Some(Decision::Dead("too_large", error));
        }
        self.carry_out(writes, decisions).await
    }

    async fn built(&self, writes: &[Write]) -> Result<(bytes::Bytes, Vec<Action>, Vec<(usize, usize)>), Fault> {
        let generation = self.generation().await?;
        let version = |position| self.job.generations.version(generation, position);
        let mut builder = Builder::new(&[], version(0)?, self.job.settings.bulk_bytes_max);
        for (entry, write) in writes.iter().enumerate() {
            builder.set_version(version(write.position)?);
            match &write.document {
                Some(document) if builder.push_made(entry, &write.entry.id, document) == Room::Full => break,
                Some(_) => {}
                None => builder.delete(entry, &write.entry.id),
            }
        }
        Ok(builder.finish())
    }

    fn decide(&self, write: &Write, verdict: Verdict, broken: Option<&str>) -> Decision {
        let index = &self.job.definition.index;
        match verdict {
            Verdict::Indexed => Decision::Done("indexed"),
            Verdict::Deleted => Decision::Done("deleted"),
            Verdict::Conflict(_) => Decision::Done("superseded"),
            Verdict::Again(reason) => Decision::Again(Fault::Again { service: Service::Elasticsearch, reason }),
            Verdict::JobBroken(reason) => Decision::Again(Fault::Job(format!(
                "the index {index} does not take documents: {reason}; look at it with `pinion plan`, mend it, the job then \
                 goes on by itself"
            ))),
            Verdict::Refused(error) => match broken {
                Some(reason) => Decision::Again(Fault::Job(format!(
                    "{reason}; mend mapping.json or [columns], then `pinion apply`"
                ))),
                None => Decision::Dead("refused", format!("{}: {}", error.kind, error.reason)),
            },
            Verdict::Failed(error) if write.entry.envelope.attempts + 1 >= self.job.settings.attempts_max => {
                Decision::Dead("failed", format!("{}: {}", error.kind, error.reason))
            }
            Verdict::Failed(error) => Decision::Failed(Fault::Again {
                service: Service::Elasticsearch,
                reason: format!("{}: {}", error.kind, error.reason),
            }),
        }
    }

    /// Writes dead letters, then settles. What can't be settled is left, in its order.
    async fn carry_out(&self, writes: Vec<Write>, decisions: Vec<Option<Decision>>) -> Left {
        let (mut left, mut faults) = (Vec::new(), Vec::new());
        let (mut settled, mut dead, mut letters) = (Vec::new(), Vec::new(), Vec::new());
        for (mut write, decision) in writes.into_iter().zip(decisions) {
            match decision {
                Some(Decision::Done(name)) => settled.push((name, write.entry)),
                Some(Decision::Dead(reason, error)) => {
                    letters.push(self.letter(&write, reason, &error));
                    dead.push(write);
                }
                Some(Decision::Again(fault)) => {
                    faults.push(fault);
                    left.push(write);
                }
                Some(Decision::Failed(fault)) => {
                    write.entry.envelope.attempts += 1;
                    faults.push(fault);
                    left.push(write);
                }
                // It did not fit into the request.
                None => left.push(write),
            }
        }
        done(self.job, &settled);
        if !letters.is_empty() {
            for letter in &letters {
                tracing::warn!(job = letter.job, id = letter.id, reason = letter.reason, "dead letter");
            }
            match self.write_letters(&letters).await {
                Ok(()) => {
                    let dead: Vec<_> = dead.into_iter().map(|write| ("dead_letter", write.entry)).collect();
                    done(self.job, &dead);
                }
                Err(fault) => {
                    faults.push(fault);
                    left.extend(dead);
                }
            }
        }
        // A fault of the job outweighs one of a server.
        faults.sort_by_key(|fault| !matches!(fault, Fault::Job(_)));
        Left { writes: left, fault: faults.into_iter().next() }
    }

    fn letter(&self, write: &Write, reason: &'static str, error: &str) -> DeadLetter {
        let (id, worker): (&Id, _) = (&write.entry.id, &self.job.settings.worker);
        let letter = DeadLetter::of_document(self.job.name(), id, &write.raw, worker);
        DeadLetter { attempts: write.entry.envelope.attempts + 1, ..letter }
            .because(reason, format!("{}: {error}", write.place))
    }

    /// Halves writes of which one spoils the request, the first half on top; the one that is alone is a dead letter.
    async fn isolate(&self, mut writes: Vec<Write>, reason: &str) -> Vec<Vec<Write>> {
        if writes.len() > 1 {
            let second = writes.split_off(writes.len() / 2);
            return vec![second, writes];
        }
        for write in writes {
            self.dead(self.letter(&write, "unreadable", reason), write.entry.receipts()).await;
        }
        Vec::new()
    }

    /// The version of a position now.
    pub(super) async fn version(&self, position: u64) -> Result<Version, Fault> {
        self.job.generations.version(self.generation().await?, position)
    }
}

/// How long to wait next.
pub(super) struct Patience {
    of_server: Backoff,
    of_job: Backoff,
}

impl Default for Patience {
    fn default() -> Self {
        Self { of_server: Backoff::for_server(), of_job: Backoff::for_job() }
    }
}

/// What is decided for one write.
enum Decision {
    /// Nothing more to do.
    Done(&'static str),
    /// A dead letter, then done: the kind of failure, and the error.
    Dead(&'static str, String),
    /// To be tried again, nobody counts.
    Again(Fault),
    /// To be tried again, which counts.
    Failed(Fault),
}
