//! Settling: every entry of the batch gets its verdict, and only then its acknowledgement.

mod beside;

use std::collections::HashMap;

use pinion_schemas::{Job as JobMessage, Version};

use super::batch::{Batch, Entry};
use super::build::{Action, Request};
use super::bulk::Outcome;
use super::delivery::Receipt;
use super::job::Job;
use super::verdict::{Verdict, common_reason, verdict};
use crate::clock::now_ms;
use crate::dead_letter::{self, DeadLetter};
use crate::error::{Fault, Service};
use crate::metrics::{job_label, verdict_label};
use crate::planted::{Bug, planted};
use crate::ports::{BulkError, BulkItem, Destination, Requeue};

/// Refusals of one kind in a batch of at least this size are the job's fault when they are more
/// than half of it: a broken mapping must not turn a queue into dead letters.
const BATCH_THAT_JUDGES_A_JOB: usize = 20;

/// What is left of a batch.
#[derive(Debug)]
pub struct Rest {
    /// Entries that have to run again at once: their rows were not read.
    pub unread: Option<Batch>,
    /// Entries that have to run again, and why.
    pub failed: Option<super::Failed>,
}

/// What is decided for one entry.
enum Decision {
    /// Nothing more to do.
    Done(&'static str),
    /// Run again in this worker.
    Again(Fault),
    /// Read again in this worker, nobody's fault.
    Unread,
    /// Read again in this worker, since the index holds a newer version.
    Overtaken,
    /// Published for later, then done.
    Later(&'static str, Box<Requeue>),
    /// A dead letter, then done.
    Dead(Box<DeadLetter>),
}

/// There is one of these an entry, and what is rare is large: it is kept elsewhere.
impl Decision {
    fn later(name: &'static str, requeue: Requeue) -> Self {
        Self::Later(name, Box::new(requeue))
    }

    fn dead(letter: DeadLetter) -> Self {
        Self::Dead(Box::new(letter))
    }
}

/// Settles what Elasticsearch's answers settle.
pub async fn settle(outcome: Outcome) -> Rest {
    let Outcome { built, items, beside } = outcome;
    let job = built.batch.job.clone();
    let verdicts = verdicts(&built.first, &items);
    if built.route.load {
        let decisions = beside::loaded(&job, &built, verdicts);
        return carry_out(built.batch, decisions).await;
    }
    job.conflicts.count(&job, &verdicts);
    let ceiling = match ceiling(&job, &verdicts).await {
        Ok(ceiling) => ceiling,
        Err(fault) => {
            return Rest { unread: None, failed: Some(super::Failed { batch: built.batch, fault }) };
        }
    };
    let broken = job_is_broken(&verdicts);
    let mut decisions: Vec<Option<Decision>> = built.batch.entries.iter().map(|_| None).collect();
    for (action, verdict) in verdicts {
        let entry = &built.batch.entries[action.entry];
        decisions[action.entry] = Some(match (&verdict, ceiling) {
            // Compared with another generation's its position says nothing: what the index holds may be older.
            (Verdict::Conflict(_), Some(ceiling)) if ceiling.generation() != built.version.generation() => {
                Decision::Unread
            }
            _ => decide(&job, entry, verdict, ceiling, broken.as_deref()),
        });
    }
    for (place, bytes) in &built.first.oversized {
        decisions[*place] = Some(Decision::dead(too_large(&job, &built.batch.entries[*place], *bytes)));
    }
    let (rows, unwritable) = (built.batch.entries.len(), built.first.unwritable.len());
    for (place, problem) in &built.first.unwritable {
        decisions[*place] = Some(if rows >= BATCH_THAT_JUDGES_A_JOB && unwritable * 2 > rows {
            let mend = "mend document.sql, or what mapping.json says of that field";
            Decision::Again(Fault::Job(format!("{unwritable} of {rows} rows make no document: {problem}; {mend}")))
        } else {
            Decision::dead(letter(&job, &built.batch.entries[*place]).because("unwritable", problem))
        });
    }
    for place in &built.first.unread {
        decisions[*place] = Some(Decision::Unread);
    }
    for (place, decision) in beside::undone(&job, &built, &beside) {
        decisions[place] = Some(decision);
    }
    carry_out(built.batch, decisions).await
}

fn verdicts(request: &Request, items: &[BulkItem]) -> Vec<(Action, Verdict)> {
    request.actions.iter().zip(items).map(|(action, item)| (*action, verdict(item, action.delete))).collect()
}

fn too_large(job: &Job, entry: &Entry, bytes: usize) -> DeadLetter {
    let error = format!(
        "the document takes {bytes} bytes, bulk_bytes_max is {}: raise it in [worker], or select less",
        job.settings.bulk_bytes_max
    );
    letter(job, entry).because("too_large", error)
}

/// A load for an index that nobody builds any more.
pub fn nothing_to_load(batch: Batch) -> Rest {
    let entries: Vec<_> = batch.entries.into_iter().map(|entry| ("not_loaded", entry)).collect();
    done(&batch.job, &entries);
    Rest { unread: None, failed: None }
}

/// The highest version that the index can rightly hold: what the primary gives now. Asked only
/// when there was a conflict. A version above it may be of a generation that was raised by somebody else,
/// so it is believed only after that was looked up.
async fn ceiling(job: &Job, verdicts: &[(Action, Verdict)]) -> Result<Option<Version>, Fault> {
    let mut held = verdicts.iter().filter_map(|(_, verdict)| match verdict {
        Verdict::Conflict(held) => Some(*held),
        _ => None,
    });
    let Some(first) = held.next() else { return Ok(None) };
    let highest = held.fold(first, Option::max);
    let now = job.database.position().await?;
    let ceiling = job.generations.version(job.generations.of(&now).await?, now.at)?;
    if highest <= Some(ceiling) {
        return Ok(Some(ceiling));
    }
    job.generations.forget();
    job.generations.version(job.generations.of(&now).await?, now.at).map(Some)
}

/// Why the whole job is to be paused, if most of a batch was refused for one reason.
pub(crate) fn job_is_broken(verdicts: &[(Action, Verdict)]) -> Option<String> {
    if verdicts.len() < BATCH_THAT_JUDGES_A_JOB {
        return None;
    }
    let mut counts: HashMap<String, usize> = HashMap::new();
    for (_, verdict) in verdicts {
        if let Verdict::Refused(error) = verdict {
            *counts.entry(common_reason(error)).or_default() += 1;
        }
    }
    let (reason, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (count * 2 > verdicts.len()).then(|| format!("{count} of {} documents were refused: {reason}", verdicts.len()))
}

fn decide(job: &Job, entry: &Entry, verdict: Verdict, ceiling: Option<Version>, broken: Option<&str>) -> Decision {
    let again = |reason: String| Decision::Again(Fault::Again { service: Service::Elasticsearch, reason });
    match verdict {
        Verdict::Indexed => Decision::Done("indexed"),
        Verdict::Deleted if planted(Bug::NoSecondLook) => Decision::Done("deleted"),
        Verdict::Deleted if !entry.envelope.second_look => Decision::later("deleted", second_look(job, entry)),
        Verdict::Deleted => Decision::Done("deleted"),
        Verdict::Conflict(_) if planted(Bug::EveryConflictSuperseded) => Decision::Done("superseded"),
        Verdict::Conflict(Some(held)) if ceiling.is_some_and(|ceiling| held <= ceiling) => overtaken(entry),
        Verdict::Conflict(held) => from_the_future(job, entry, held),
        Verdict::Again(reason) => again(reason),
        Verdict::JobBroken(reason) => Decision::Again(Fault::Job(format!(
            "the index {} does not take documents: {reason}; look at it with `pinion plan`, mend it, the job then goes on by itself",
            job.definition.index
        ))),
        Verdict::Refused(error) => match broken {
            Some(reason) => {
                Decision::Again(Fault::Job(format!("{reason}; mend mapping.json or document.sql, then `pinion apply`")))
            }
            None => Decision::dead(letter(job, entry).because("refused", format!("{}: {}", error.kind, error.reason))),
        },
        Verdict::Failed(error) => failed_by_itself(job, entry, &error),
    }
}

fn message_of(job: &Job, entry: &Entry) -> Vec<u8> {
    let message = JobMessage::new(job.name(), entry.id.clone());
    match entry.after {
        Some(after) => message.after(pinion_schemas::Lsn(after).to_string()),
        None => message,
    }
    .to_bytes()
    .expect("a message of one valid id is small and names a valid job")
}

fn letter(job: &Job, entry: &Entry) -> DeadLetter {
    let letter = DeadLetter::of_document(job.name(), &entry.id, &message_of(job, entry), &job.settings.worker);
    DeadLetter { attempts: entry.envelope.attempts + 1, ..letter }
}

fn requeue(job: &Job, entry: &Entry, destination: Destination) -> Requeue {
    Requeue {
        job: job.name().to_owned(),
        destination,
        payload: message_of(job, entry),
        envelope: entry.envelope.clone(),
    }
}

/// Elasticsearch forgets a deleted document's version after `gc_deletes` and at a restart, and
/// then takes any. So its id is looked at once more, when nothing older can be under way.
fn second_look(job: &Job, entry: &Entry) -> Requeue {
    let mut requeue = requeue(job, entry, Destination::LowAfter(job.settings.second_look_s));
    requeue.envelope.second_look = true;
    requeue.envelope.load = false;
    requeue
}

/// The index holds a version that a read may have had. Whether one had it, the version does not tell: somebody else may have
/// written it before the log came to it. What is read now is at least as new and wins, unless another read is newer still;
/// then there is one.
fn overtaken(entry: &Entry) -> Decision {
    if entry.overtaken { Decision::Done("superseded") } else { Decision::Overtaken }
}

/// No read could have had this version: never acknowledged, tried again, and told loudly.
fn from_the_future(job: &Job, entry: &Entry, held: Option<Version>) -> Decision {
    job.meters.all.versions_from_the_future.get_or_create(&job_label(job.name())).inc();
    let held = held.map_or_else(|| "an unreadable version".to_owned(), |held| held.to_string());
    tracing::error!(
        job = job.name(),
        id = %entry.id,
        held,
        "the index holds a version from the future: somebody else wrote the document, or a generation is wrong"
    );
    let mut requeue = requeue(job, entry, Destination::LiveAfter(ladder(entry.envelope.attempts)));
    requeue.envelope.attempts += 1;
    Decision::later("from_the_future", requeue)
}

fn failed_by_itself(job: &Job, entry: &Entry, error: &BulkError) -> Decision {
    let attempts = entry.envelope.attempts + 1;
    if attempts >= job.settings.attempts_max {
        let error = format!("{}: {}", error.kind, error.reason);
        return Decision::dead(letter(job, entry).because("failed", error));
    }
    let mut requeue = requeue(job, entry, Destination::LiveAfter(ladder(entry.envelope.attempts)));
    requeue.envelope.attempts = attempts;
    Decision::later("retried", requeue)
}

/// The delays of the broker's queues for retries, in seconds.
pub const LADDER_S: [u64; 4] = [1, 10, 60, 600];

fn ladder(attempts: u32) -> u64 {
    LADDER_S[usize::try_from(attempts).map_or(LADDER_S.len() - 1, |rung| rung.min(LADDER_S.len() - 1))]
}

/// An entry that can't be read or sent, alone in its batch: a dead letter.
pub async fn give_up(batch: Batch, reason: &str, error: &str) -> Rest {
    let decisions = batch
        .entries
        .iter()
        .map(|entry| Some(Decision::dead(letter(&batch.job, entry).because(reason, error))))
        .collect();
    carry_out(batch, decisions).await
}

/// Writes what has to be written, then settles. What can't be written runs again.
async fn carry_out(batch: Batch, decisions: Vec<Option<Decision>>) -> Rest {
    let job = batch.job;
    let mut sorted = Sorted::default();
    for (entry, decision) in batch.entries.into_iter().zip(decisions) {
        sorted.add(entry, decision);
    }
    done(&job, &sorted.done);
    let mut failed = sorted.again;
    if !sorted.later.is_empty() {
        let (messages, entries): (Vec<_>, Vec<_>) =
            sorted.later.into_iter().map(|(requeue, name, entry)| (requeue, (name, entry))).unzip();
        match job.broker.requeue(messages).await {
            Ok(()) => done(&job, &entries),
            Err(fault) => failed.extend(entries.into_iter().map(|(_, entry)| (fault.clone(), entry))),
        }
    }
    if !sorted.dead.is_empty() {
        let (letters, entries): (Vec<_>, Vec<_>) =
            sorted.dead.into_iter().map(|(letter, entry)| (letter, ("dead_letter", entry))).unzip();
        for letter in &letters {
            tracing::warn!(job = letter.job, id = letter.id, reason = letter.reason, "dead letter");
        }
        match dead_letter::write(job.index.as_ref(), &job.settings.dead_letters, &letters).await {
            Ok(()) => done(&job, &entries),
            Err(fault) => failed.extend(entries.into_iter().map(|(_, entry)| (fault.clone(), entry))),
        }
    }
    let unread = (!sorted.unread.is_empty()).then(|| Batch { job: job.clone(), entries: sorted.unread });
    // A fault of the job outweighs one of a server: the job is paused either way.
    failed.sort_by_key(|(fault, _)| !matches!(fault, Fault::Job(_)));
    let fault = failed.first().map(|(fault, _)| fault.clone());
    let failed = fault.map(|fault| super::Failed {
        batch: Batch { job, entries: failed.into_iter().map(|(_, entry)| entry).collect() },
        fault,
    });
    Rest { unread, failed }
}

/// Entries by what happens to them.
#[derive(Default)]
struct Sorted {
    done: Vec<(&'static str, Entry)>,
    later: Vec<(Requeue, &'static str, Entry)>,
    dead: Vec<(DeadLetter, Entry)>,
    unread: Vec<Entry>,
    again: Vec<(Fault, Entry)>,
}

impl Sorted {
    fn add(&mut self, entry: Entry, decision: Option<Decision>) {
        let probe = entry.receipt.is_none();
        match decision {
            // What a probe shows is told, not carried out.
            Some(Decision::Dead(letter)) if probe => self.again.push((Fault::Job(letter.error), entry)),
            Some(Decision::Later(name, _)) if probe => self.done.push((name, entry)),
            Some(Decision::Done(name)) => self.done.push((name, entry)),
            Some(Decision::Later(name, requeue)) => self.later.push((*requeue, name, entry)),
            Some(Decision::Dead(letter)) => self.dead.push((*letter, entry)),
            Some(Decision::Again(fault)) => self.again.push((fault, entry)),
            // An entry that nobody decided is read again; it must never count as done.
            Some(Decision::Unread) | None => self.unread.push(entry),
            Some(Decision::Overtaken) => self.unread.push(Entry { overtaken: true, ..entry }),
        }
    }
}

/// Counts the documents and settles their messages.
pub(crate) fn done(job: &Job, entries: &[(&'static str, Entry)]) {
    let mut counts: HashMap<&'static str, u64> = HashMap::new();
    let now = now_ms();
    for (name, entry) in entries {
        *counts.entry(name).or_default() += 1;
        if let Some(sent_ms) = entry.envelope.sent_ms {
            job.meters.end_to_end_seconds.observe(now.saturating_sub(sent_ms) as f64 / 1000.0);
        }
    }
    for (name, count) in counts {
        job.meters.all.documents.get_or_create(&verdict_label(job.name(), name)).inc_by(count);
    }
    Receipt::settle_all(entries.iter().flat_map(|(_, entry)| entry.receipts()));
}
