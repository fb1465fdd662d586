//! Why is this document as it is: what the source gives now beside what the index holds.

use std::cmp::Ordering;

use pinion_schemas::{Id, JobDefinition, Version};
use serde::Serialize;
use serde_json::value::RawValue;

use super::Context;
use super::dead::Letter;
use super::difference::{Difference, differences};
use super::documents::{SourceDocument, Sourced, indexed, sourced};
use crate::dead_letter::DeadLetter;
use crate::ports::Database;

/// A document from both sides.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The job.
    pub job: String,
    /// The document's id.
    pub id: String,
    /// Whether the index is true to the source.
    pub equal: bool,
    /// What a worker would send now.
    pub source: SourceSide,
    /// What the index holds.
    pub index: IndexSide,
    /// Where they differ.
    pub differences: Vec<Difference>,
    /// The document's dead letter, where it has one.
    pub dead_letter: Option<Letter>,
}

/// What the source gives now.
#[derive(Debug, Serialize)]
pub struct SourceSide {
    /// Its name in the configuration.
    pub source: String,
    /// The document; absent where there is no such row.
    pub document: Option<Box<RawValue>>,
    /// The version that it would get.
    pub version: VersionParts,
}

/// What the index holds.
#[derive(Debug, Serialize)]
pub struct IndexSide {
    /// The index behind the job's alias.
    pub index: Option<String>,
    /// The document; absent where there is none.
    pub document: Option<Box<RawValue>>,
    /// Its version.
    pub version: Option<VersionParts>,
    /// How that stands to what a read gives now.
    pub age: Option<Age>,
}

/// The index's version beside that of a read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Age {
    /// It was read before.
    Older,
    /// At the same position.
    Same,
    /// Somebody wrote it meanwhile, or its generation is wrong.
    Newer,
}

/// A version, readable. The number is a string: it has more digits than a float can hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionParts {
    /// As Elasticsearch gives it.
    pub number: String,
    /// Its generation.
    pub generation: u16,
    /// Its position: an LSN of PostgreSQL, a number of transactions of MariaDB and MySQL.
    pub position: String,
}

impl VersionParts {
    fn new(version: Version, database: &dyn Database) -> Self {
        Self {
            number: version.as_u64().to_string(),
            generation: version.generation(),
            position: database.position_text(version.position()),
        }
    }
}

/// Reads the document from both sides and compares. Changes nothing.
///
/// # Errors
/// There is no such job, the id is none of it, or a server is away.
pub async fn explain(context: &Context, job: &str, id: &str) -> anyhow::Result<Explanation> {
    let job = context.definition(job)?;
    let id = job.key.id_from_text(id)?;
    // The source first: a document that is indexed between the two reads then looks newer, not older.
    let (source, now) = source_side(context, job, &id).await?;
    let index = index_side(context, job, &id, now).await?;
    let differences = match (&source.document, &index.document) {
        (Some(source), Some(index)) => differences(source, index)?,
        _ => Vec::new(),
    };
    Ok(Explanation {
        job: job.name.clone(),
        id: id.to_string(),
        equal: source.document.is_some() == index.document.is_some() && differences.is_empty(),
        source,
        index,
        differences,
        dead_letter: dead_letter(context, job, &id).await?,
    })
}

async fn source_side(context: &Context, job: &JobDefinition, id: &Id) -> anyhow::Result<(SourceSide, Version)> {
    let Sourced { mut documents, version } = sourced(context, job, std::slice::from_ref(id)).await?;
    let document = match documents.pop() {
        Some(SourceDocument::Unwritable(problem)) => anyhow::bail!("the row makes no document: {problem}"),
        Some(SourceDocument::Document(document)) => Some(document),
        Some(SourceDocument::Gone) | None => None,
    };
    let database = context.source(job)?;
    Ok((SourceSide { source: job.source.clone(), document, version: VersionParts::new(version, database) }, version))
}

async fn index_side(context: &Context, job: &JobDefinition, id: &Id, now: Version) -> anyhow::Result<IndexSide> {
    let hit = indexed(context, &job.index, std::slice::from_ref(id), true).await?.remove(0);
    let database = context.source(job)?;
    let version = hit.version.map(Version::from_u64).transpose()?;
    let age = version.map(|version| match version.cmp(&now) {
        Ordering::Less => Age::Older,
        Ordering::Equal => Age::Same,
        Ordering::Greater => Age::Newer,
    });
    Ok(IndexSide {
        index: hit.index,
        document: hit.source,
        version: version.map(|version| VersionParts::new(version, database)),
        age,
    })
}

async fn dead_letter(context: &Context, job: &JobDefinition, id: &Id) -> anyhow::Result<Option<Letter>> {
    let key = DeadLetter::of_document(&job.name, id, b"", &"".into()).key();
    super::dead::show(context, &key).await
}
