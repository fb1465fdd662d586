//! A job's definition: the folder with `job.toml`, `document.sql` and `mapping.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::column::ColumnType;
use crate::id::KeyType;
use crate::job::read::Reader;
use crate::mapping::Mapping;
use crate::sql::SqlTemplate;

pub use finding::{Finding, Severity};

mod finding;
mod read;

/// At most this many bytes in `index`: a timestamp is appended to it, and Elasticsearch allows 255.
pub const INDEX_BYTES_MAX: usize = 200;

/// A job as it was read and checked.
#[derive(Clone, Debug)]
pub struct JobDefinition {
    /// The folder's name.
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
    /// The alias that is queried; the index behind it carries a timestamp.
    pub index: String,
    /// The name of the source in `pinion.toml`.
    pub source: String,
    /// The type of the documents' ids.
    pub key: KeyType,
    /// Who answers for it.
    pub owner: Option<String>,
    /// What the documents are.
    pub description: Option<String>,
    /// How old, in seconds, a change may become before its document follows. The change feed takes a tenth of it to gather the
    /// changes of a document that many rows share.
    pub freshness_s_max: Option<u64>,
    /// How old, in seconds, a row's document may become: all ids are enqueued again and again, at such a pace.
    pub age_s_max: Option<u64>,
    /// Which documents a changed row touches.
    pub watch: Vec<Watch>,
    /// Where a document's content comes from.
    pub from: From,
    /// Of a job from events: the types of columns that their events tell without a schema, or otherwise than is wanted.
    pub columns: BTreeMap<String, ColumnType>,
    /// `document.sql`; of a job from events, the query that gives what its documents are.
    pub sql: SqlTemplate,
    /// `mapping.json`.
    pub mapping: Mapping,
}

/// Where a document's content comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// From the job's query.
    #[default]
    Query,
    /// From the change event itself.
    Event,
}

/// A table whose changes touch documents of the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The table with its schema: `public.orders`.
    pub table: String,
    /// How a changed row leads to ids.
    pub rule: WatchRule,
}

/// How a changed row leads to the ids of documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchRule {
    /// The row's column that holds the document's id.
    Key(String),
    /// A query from the ids of changed rows to ids of documents.
    Sql(SqlTemplate),
}

impl JobDefinition {
    /// The table whose rows are the documents, and the column that is their id, where the documents are made of change events.
    pub fn event_table(&self) -> Option<(&str, &str)> {
        match &self.watch[..] {
            [Watch { table, rule: WatchRule::Key(key) }] if self.from == From::Event => Some((table, key)),
            _ => None,
        }
    }

    /// The query of a job from events in the dialect that has no arrays, MariaDB's and MySQL's.
    pub fn ask_by_list(&mut self) {
        if let Some(sql) = self.event_table().and_then(|(table, key)| read::event_query(table, key, "IN (:ids)")) {
            self.sql = sql;
        }
    }
}

/// A job's folder that was read: good, or with the findings that say why not.
#[derive(Clone, Debug)]
pub struct LoadedJob {
    /// The folder's name.
    pub name: String,
    /// There, unless a finding is an error.
    pub definition: Option<JobDefinition>,
    /// Everything that was found, warnings included.
    pub findings: Vec<Finding>,
}

/// The folder of the job folders can't be listed.
#[derive(Debug, Error)]
#[error("the folder of the jobs {} can't be read: {error}; `schemas` in the configuration names it", folder.display())]
pub struct LoadError {
    /// The folder.
    pub folder: PathBuf,
    /// The system's error.
    pub error: std::io::Error,
}

/// Reads one job's folder. The definition is there unless a finding is an error. All of the three files are checked,
/// whatever is wrong in the others; within `job.toml` and the SQL a syntax error hides what follows it.
pub fn load_job(folder: &Path) -> (Option<JobDefinition>, Vec<Finding>) {
    let mut reader = Reader::new(folder);
    let definition = reader.definition();
    let findings = reader.findings;
    let failed = findings.iter().any(|finding| finding.severity == Severity::Error);
    (definition.filter(|_| !failed), findings)
}

/// Reads every sub-folder that contains a `job.toml`, in the order of their names. Two jobs that name one index are
/// both refused.
pub fn load_jobs(schemas_folder: &Path) -> Result<Vec<LoadedJob>, LoadError> {
    let failed = |error| LoadError { folder: schemas_folder.to_owned(), error };
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(schemas_folder).map_err(failed)? {
        let folder = entry.map_err(failed)?.path();
        if folder.join(read::JOB_FILE).exists() {
            folders.push(folder);
        }
    }
    folders.sort();
    let mut jobs: Vec<LoadedJob> = folders
        .iter()
        .map(|folder| {
            let (definition, findings) = load_job(folder);
            LoadedJob { name: read::folder_name(folder), definition, findings }
        })
        .collect();
    refuse_shared_indexes(&mut jobs);
    Ok(jobs)
}

fn refuse_shared_indexes(jobs: &mut [LoadedJob]) {
    let index_of = |job: &LoadedJob| job.definition.as_ref().map(|definition| definition.index.clone());
    let indexes: Vec<Option<String>> = jobs.iter().map(index_of).collect();
    let names: Vec<String> = jobs.iter().map(|job| job.name.clone()).collect();
    for (at, job) in jobs.iter_mut().enumerate() {
        let other = (0..names.len()).find(|&other| other != at && indexes[other] == indexes[at]);
        if let (Some(definition), Some(other)) = (&job.definition, other) {
            job.findings.push(Finding {
                file: definition.folder.join(read::JOB_FILE),
                line: None,
                problem: format!("the index {:?} is also the job {}'s", definition.index, names[other]),
                mend: "give each job an index of its own".to_owned(),
                severity: Severity::Error,
            });
            job.definition = None;
        }
    }
}

#[cfg(test)]
mod tests;
