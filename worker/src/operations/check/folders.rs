//! What the files say of each other, without any server.

use pinion_schemas::{Finding, From, Severity, StateIndex};

use super::{Context, Place};
use crate::operations::indexes::patterns;

pub(super) fn check(context: &Context) -> Vec<Finding> {
    let mut findings: Vec<Finding> = context.jobs.iter().flat_map(|job| job.findings.clone()).collect();
    if context.jobs.is_empty() {
        let place = Place::config(context);
        let problem = format!("{} has no job folder", context.config.schemas.display());
        let mend = "write the first with `pinion init --table SCHEMA.TABLE`, or name another folder";
        findings.push(place.finding(Severity::Warning, place.toml_line(&["schemas"]), problem, mend));
    }
    for job in context.definitions() {
        let place = Place::of_job(job, "job.toml");
        if !context.sources.contains_key(&job.source) {
            let known: Vec<&str> = context.sources.keys().map(String::as_str).collect();
            let problem = format!("there is no [sources.{}] in {}", job.source, context.config.file.display());
            let mend = format!("name one that is there ({}), or add it", known.join(", "));
            findings.push(place.finding(Severity::Error, place.toml_line(&["source"]), problem, mend));
        }
        if let Some(other) = taken_by(context, &job.name, &job.index) {
            let problem = format!("the index {:?} is also {other}", job.index);
            let line = place.toml_line(&["index"]);
            findings.push(place.finding(Severity::Error, line, problem, "give the job another index"));
        }
        if job.from == From::Event && context.config.kafka.is_none() {
            let problem = "from = \"event\" needs the change feed";
            let line = place.toml_line(&["from"]);
            findings.push(place.finding(Severity::Error, line, problem, "add [kafka] to the configuration"));
        }
    }
    findings
}

/// Who else has indexes of this name.
fn taken_by(context: &Context, job: &str, index: &str) -> Option<String> {
    let own = StateIndex::ALL.into_iter().map(|kind| context.state_index(kind));
    if own.into_iter().any(|name| name == index) {
        return Some("one of Pinion's own".to_owned());
    }
    let other = context.definitions().find(|other| {
        let [_, stamped] = patterns(&other.index);
        other.name != job && index.starts_with(stamped.trim_end_matches('*'))
    });
    other.map(|other| format!("a name that the job {}'s indexes have ({})", other.name, patterns(&other.index)[1]))
}
