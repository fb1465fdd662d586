//! Everything that may be wrong before a worker finds out: configuration and job folders, and on the real servers
//! queries, rights, queues and indexes.

mod broker;
mod cluster;
mod connector;
mod feed;
mod fields;
mod folders;
mod mysql;
mod place;
mod queries;
mod sources;
mod watches;

use std::fmt;
use std::path::PathBuf;

use pinion_schemas::{Finding, From, JobDefinition, Severity};
use serde_json::{Value, json};

use super::Context;
use crate::clock::now_ms;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How many jobs were looked at.
    pub jobs: usize,
    /// All that was found, in the order of the files.
    pub findings: Vec<Finding>,
}

impl Report {
    fn new(jobs: usize, mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|a, b| (&a.file, a.line, &a.problem).cmp(&(&b.file, b.line, &b.problem)));
        // The primary and the replica say the same of a query.
        findings.dedup();
        Self { jobs, findings }
    }

    /// How many findings are of that severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// As `--json` shows it.
    pub fn json(&self) -> Value {
        let findings = self.findings.iter().map(|finding| {
            json!({
                "file": finding.file,
                "line": finding.line,
                "severity": match finding.severity {
                    Severity::Note => "note",
                    Severity::Warning => "warning",
                    Severity::Error => "error",
                },
                "problem": finding.problem,
                "mend": finding.mend,
            })
        });
        json!({
            "jobs": self.jobs,
            "errors": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "findings": findings.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let found: Vec<String> = [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Note, "note")]
            .into_iter()
            .map(|(severity, what)| (self.count(severity), what))
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| counted(count, what))
            .collect();
        let found = if found.is_empty() { "nothing to complain about".to_owned() } else { found.join(", ") };
        write!(f, "{} checked: {found}", counted(self.jobs, "job"))
    }
}

/// Checks everything; `offline` only the files.
pub async fn check(context: &Context, offline: bool) -> Report {
    let mut findings = folders::check(context);
    if !offline {
        let (sources, broker, cluster, feed) = tokio::join!(
            sources::check(context),
            broker::check(context),
            cluster::check(context),
            feed::check(context)
        );
        findings.extend(sources.into_iter().chain(broker).chain(cluster).chain(feed));
    }
    Report::new(context.jobs.len(), findings)
}

/// The jobs that read from a source.
fn jobs_of<'a>(context: &'a Context, source: &str) -> Vec<&'a JobDefinition> {
    context.definitions().filter(|job| job.source == source).collect()
}

/// Where a finding is: a file that is read at most once.
struct Place {
    file: PathBuf,
    text: String,
}

impl Place {
    /// A file that was read before; where it is gone meanwhile, findings have no lines.
    fn of(file: PathBuf) -> Self {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        Self { file, text }
    }

    fn of_job(job: &JobDefinition, file: &str) -> Self {
        Self::of(job.folder.join(file))
    }

    /// Where a job's columns come from; one from events has no query.
    fn of_columns(job: &JobDefinition) -> Self {
        Self::of_job(job, if job.from == From::Event { "job.toml" } else { "document.sql" })
    }

    fn config(context: &Context) -> Self {
        Self::of(context.config.file.clone())
    }

    fn finding(
        &self,
        severity: Severity,
        line: Option<usize>,
        problem: impl Into<String>,
        mend: impl Into<String>,
    ) -> Finding {
        Finding { file: self.file.clone(), line, problem: problem.into(), mend: mend.into(), severity }
    }

    /// The line of a value in a TOML file; see [`place::toml_line`].
    fn toml_line(&self, path: &[&str]) -> Option<usize> {
        place::toml_line(&self.text, path)
    }
}

/// The end of a name that nobody else uses.
fn unique() -> String {
    format!("{:x}-{:x}", std::process::id(), now_ms())
}

/// Some names of many.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
#[path = "check/tests.rs"]
mod tests;
