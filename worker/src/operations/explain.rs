//! Why is this document as it is: what the source gives now beside what the index holds.

pub mod difference;

use std::cmp::Ordering;

use bytes::Bytes;
use pinion_schemas::{Id, JobDefinition, StateIndex, Version};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use self::difference::{Difference, differences};
use super::Context;
use super::dead::Letter;
use super::state::{State, unusable};
use crate::dead_letter::DeadLetter;
use crate::elasticsearch::Method;
use crate::generation::SourceState;
use crate::pipeline::build::Builder;
use crate::ports::{Database, Position};

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
    let database = context.source(job)?;
    let primary = database.position().await?;
    let generation = generation(context, &job.source, &primary).await?;
    let mut reading = database.open(primary).await?;
    let version = Version::new(generation, reading.position())?;
    // One document, however large: what would be too large for a worker is shown all the same.
    let mut builder = Builder::new(std::slice::from_ref(id), version, usize::MAX);
    reading.rows(job, std::slice::from_ref(id), &mut builder).await?;
    reading.finish().await;
    if let [(_, problem)] = builder.unwritable() {
        anyhow::bail!("the row makes no document: {problem}");
    }
    let document = builder.body().split(|byte| *byte == b'\n').nth(1);
    let document = document.map(serde_json::from_slice).transpose()?;
    Ok((SourceSide { source: job.source.clone(), document, version: VersionParts::new(version, database) }, version))
}

/// The generation that a worker would write with.
async fn generation(context: &Context, source: &str, primary: &Position) -> anyhow::Result<u16> {
    let state: Option<SourceState> = State::of(context, StateIndex::Sources).get(source).await?;
    Ok(match state {
        None => 1,
        Some(state) if state.identity == primary.identity => state.generation,
        // What the next worker makes of it.
        Some(state) => state.raised(primary).generation,
    })
}

#[derive(Deserialize)]
struct Found {
    docs: [Hit; 1],
}

#[derive(Deserialize)]
struct Hit {
    #[serde(rename = "_index")]
    index: Option<String>,
    #[serde(rename = "_version")]
    version: Option<u64>,
    #[serde(rename = "_source")]
    source: Option<Box<RawValue>>,
    #[serde(default)]
    error: Value,
}

async fn index_side(context: &Context, job: &JobDefinition, id: &Id, now: Version) -> anyhow::Result<IndexSide> {
    // The id in the body: in a path, some texts would mean something else.
    let query = json!({"ids": [id.to_string()]});
    let asked = context.elasticsearch.request(Method::Post, &format!("/{}/_mget", job.index), Some(&query)).await;
    let answer = asked.map_err(|fault| unusable(&job.index, fault))?;
    let body: Bytes = answer.body.clone();
    if answer.status >= 300 {
        answer.success().map_err(|fault| unusable(&job.index, fault))?;
    }
    let Found { docs: [hit] } = serde_json::from_slice(&body)?;
    match hit.error["type"].as_str() {
        Some("index_not_found_exception") => anyhow::bail!("the index {} is missing: run `pinion apply`", job.index),
        Some(_) => anyhow::bail!("index {}: {}", job.index, hit.error["reason"].as_str().unwrap_or_default()),
        None => {}
    }
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
