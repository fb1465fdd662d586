//! What the index that is not behind the alias has said: only that it is busy keeps an entry from being done, and whatever it refuses
//! ends the rebuild.

use super::{Decision, second_look, too_large, verdicts};
use crate::error::{Fault, Service};
use crate::pipeline::build::{Action, Built};
use crate::pipeline::job::Job;
use crate::pipeline::verdict::Verdict;
use crate::ports::BulkItem;

/// The entries that the index beside has not taken, of a batch that goes to both.
pub(super) fn undone(job: &Job, built: &Built, items: &[BulkItem]) -> Vec<(usize, Decision)> {
    if built.route.beside().is_none() {
        return Vec::new();
    }
    let mut undone = Vec::new();
    for (action, verdict) in verdicts(built.beside.as_ref().unwrap_or(&built.first), items) {
        undone.extend(trouble(job, built, &verdict).map(|fault| (action.entry, Decision::Again(fault))));
    }
    let Some(request) = &built.beside else { return undone };
    undone.extend(request.unread.iter().map(|entry| (*entry, Decision::Unread)));
    let oversized = request.oversized.iter().map(|(entry, bytes)| (*entry, format!("a document takes {bytes} bytes")));
    for (entry, problem) in oversized.chain(request.unwritable.iter().cloned()) {
        let problem = format!("{}: {problem}", built.batch.entries[entry].id);
        undone.push((entry, Decision::Again(job.lease.fail(&built.route, &problem))));
    }
    undone
}

/// The decisions of a batch that goes there only.
pub(super) fn loaded(job: &Job, built: &Built, verdicts: Vec<(Action, Verdict)>) -> Vec<Option<Decision>> {
    let entries = &built.batch.entries;
    let mut decisions: Vec<Option<Decision>> = entries.iter().map(|_| None).collect();
    for (action, verdict) in verdicts {
        decisions[action.entry] = Some(match (trouble(job, built, &verdict), &verdict) {
            (Some(fault), _) => Decision::Again(fault),
            (None, Verdict::Deleted) => Decision::later("deleted", second_look(job, &entries[action.entry])),
            // A live write was there before it, as it should be.
            (None, Verdict::Conflict(_)) => Decision::Done("superseded"),
            (None, _) => Decision::Done("loaded"),
        });
    }
    // As live writes of the same rows are.
    for (entry, bytes) in &built.first.oversized {
        decisions[*entry] = Some(Decision::dead(too_large(job, &entries[*entry], *bytes)));
    }
    for (entry, problem) in &built.first.unwritable {
        decisions[*entry] = Some(Decision::dead(super::letter(job, &entries[*entry]).because("unwritable", problem)));
    }
    for entry in &built.first.unread {
        decisions[*entry] = Some(Decision::Unread);
    }
    decisions
}

/// Why an action is to be done again: the index is busy, or it refuses, and the rebuild ends.
fn trouble(job: &Job, built: &Built, verdict: &Verdict) -> Option<Fault> {
    let refused = match verdict {
        Verdict::Indexed | Verdict::Deleted | Verdict::Conflict(_) => return None,
        Verdict::Again(reason) => return Some(again(reason)),
        Verdict::Failed(error) => return Some(again(&error.reason)),
        Verdict::Refused(error) => format!("{}: {}", error.kind, error.reason),
        Verdict::JobBroken(reason) => reason.clone(),
    };
    Some(job.lease.fail(&built.route, &refused))
}

fn again(reason: &str) -> Fault {
    Fault::Again { service: Service::Elasticsearch, reason: reason.to_owned() }
}
