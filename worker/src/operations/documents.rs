//! Documents from both sides: what the source gives now, and what the index holds.

use bytes::Bytes;
use pinion_schemas::{Id, JobDefinition, StateIndex, Version};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Context;
use super::state::{State, unusable};
use crate::elasticsearch::Method;
use crate::generation::SourceState;
use crate::pipeline::build::Builder;
use crate::ports::Position;

/// What a worker would send now.
pub(super) struct Sourced {
    /// For each id, in order.
    pub(super) documents: Vec<SourceDocument>,
    /// The version that they would get.
    pub(super) version: Version,
}

/// What the source gives for an id.
#[derive(Debug)]
pub(super) enum SourceDocument {
    /// No row.
    Gone,
    /// Its document.
    Document(Box<RawValue>),
    /// A row that makes no document, and why.
    Unwritable(String),
}

/// Reads the rows of `ids` past the fence, all in one snapshot, however large their documents are.
pub(super) async fn sourced(context: &Context, job: &JobDefinition, ids: &[Id]) -> anyhow::Result<Sourced> {
    let database = context.source(job)?;
    let primary = database.position().await?;
    let generation = generation(context, &job.source, &primary).await?;
    let mut reading = database.open(primary).await?;
    let version = Version::new(generation, reading.position())?;
    let mut builder = Builder::new(ids, version, usize::MAX);
    reading.rows(job, ids, &mut builder).await?;
    reading.finish().await;
    let mut documents: Vec<SourceDocument> = ids.iter().map(|_| SourceDocument::Gone).collect();
    for (entry, problem) in builder.unwritable() {
        documents[*entry] = SourceDocument::Unwritable(problem.clone());
    }
    let (body, actions, _) = builder.finish();
    // An action and its document in turn.
    let lines = body.split(|byte| *byte == b'\n').skip(1).step_by(2);
    for (action, line) in actions.iter().zip(lines) {
        documents[action.entry] = SourceDocument::Document(serde_json::from_slice(line)?);
    }
    Ok(Sourced { documents, version })
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

/// What an index holds for an id.
#[derive(Debug, Deserialize)]
pub(super) struct Indexed {
    /// The index that was asked.
    #[serde(rename = "_index")]
    pub(super) index: Option<String>,
    /// Of the document; absent where there is none.
    #[serde(rename = "_version")]
    pub(super) version: Option<u64>,
    /// The document, if it was asked for.
    #[serde(rename = "_source")]
    pub(super) source: Option<Box<RawValue>>,
    #[serde(default)]
    error: Value,
}

#[derive(Deserialize)]
struct Found {
    docs: Vec<Indexed>,
}

/// What an index, or the one behind an alias, holds for each of `ids`, in order, searchable or not.
pub(super) async fn indexed(
    context: &Context,
    index: &str,
    ids: &[Id],
    with_source: bool,
) -> anyhow::Result<Vec<Indexed>> {
    // The ids in the body: in a path, some texts would mean something else.
    let query = json!({"ids": ids.iter().map(Id::to_string).collect::<Vec<_>>()});
    let path = format!("/{index}/_mget?_source={with_source}");
    let asked = context.elasticsearch.request(Method::Post, &path, Some(&query)).await;
    let answer = asked.map_err(|fault| unusable(index, fault))?;
    let body: Bytes = answer.body.clone();
    if answer.status >= 300 {
        answer.success().map_err(|fault| unusable(index, fault))?;
    }
    let Found { docs } = serde_json::from_slice(&body)?;
    anyhow::ensure!(docs.len() == ids.len(), "index {index}: {} documents for {} ids", docs.len(), ids.len());
    if let Some(hit) = docs.iter().find(|hit| !hit.error.is_null()) {
        match hit.error["type"].as_str() {
            Some("index_not_found_exception") => anyhow::bail!("the index {index} is missing: run `pinion apply`"),
            _ => anyhow::bail!("index {index}: {}", hit.error["reason"].as_str().unwrap_or_default()),
        }
    }
    Ok(docs)
}
