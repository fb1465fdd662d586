//! The part of an index that belongs to a range of its source's rows.

use anyhow::{Context as _, ensure};
use pinion_schemas::{Id, JobDefinition, KeyType};
use serde_json::{Value, json};

use super::super::Context;
use super::super::state::unusable;
use crate::elasticsearch::{Method, segment};
use crate::ports::ColumnRange;

/// The types of fields whose values Elasticsearch puts in the same order as a database: not texts, which each collation puts in its own.
const ORDERED: [&str; 10] =
    ["long", "integer", "short", "byte", "unsigned_long", "double", "float", "scaled_float", "date", "date_nanos"];

/// Which documents are looked at.
pub(super) enum Part {
    /// All of them.
    All,
    /// Those with ids in a range. Elasticsearch can't search for such, so all ids are walked over.
    Ids { from: Option<Id>, to: Option<Id> },
    /// Those that a query finds, about so many.
    Found { query: Value, documents: u64 },
}

impl Part {
    /// The documents of this range.
    ///
    /// # Errors
    /// The index has no such field, or none whose order is the database's; a limit is no value of it.
    pub(super) async fn of(
        context: &Context,
        job: &JobDefinition,
        range: Option<&ColumnRange>,
    ) -> anyhow::Result<Self> {
        let Some(range) = range else { return Ok(Self::All) };
        let ColumnRange { field, from, to } = range;
        if field == "_id" {
            ensure!(
                job.key != KeyType::Text,
                "the ids of {} are texts, which each collation puts in its own order: give a column of numbers or dates (--by)",
                job.name
            );
            let id = |text: &Option<String>| text.as_ref().map(|text| job.key.id_from_text(text)).transpose();
            return Ok(Self::Ids { from: id(from)?, to: id(to)? });
        }
        let index = &job.index;
        let types = ask(context, index, &format!("_field_caps?fields={}", segment(field)), None).await?;
        let types = types["fields"][field].as_object();
        let types: Vec<&str> = types.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        ensure!(!types.is_empty(), "index {index} has no field {field}: see its mapping.json");
        ensure!(
            types.iter().all(|name| ORDERED.contains(name)),
            "{field} is of type {} in index {index}: only numbers and dates have the same order as in the database",
            types.join(" and ")
        );
        let mut limits = json!({});
        for (operator, value) in [("gte", from), ("lt", to)] {
            if let Some(value) = value {
                limits[operator] = json!(value);
            }
        }
        let query = json!({"range": {field: limits}});
        let counted = ask(context, index, "_count", Some(&json!({"query": query}))).await?;
        Ok(Self::Found { query, documents: counted["count"].as_u64().context("_count tells no count")? })
    }

    /// What Elasticsearch has to be asked for.
    pub(super) fn query(&self) -> Option<&Value> {
        match self {
            Self::Found { query, .. } => Some(query),
            Self::All | Self::Ids { .. } => None,
        }
    }

    /// Whether a document that the query found belongs to it.
    pub(super) fn has(&self, id: &Id) -> bool {
        match self {
            Self::Ids { from, to } => {
                from.as_ref().is_none_or(|from| id >= from) && to.as_ref().is_none_or(|to| id < to)
            }
            Self::All | Self::Found { .. } => true,
        }
    }

    /// About how many there are, where that was asked.
    pub(super) fn documents(&self) -> Option<u64> {
        match self {
            Self::All => None,
            // Nobody has counted.
            Self::Ids { .. } => Some(0),
            Self::Found { documents, .. } => Some(*documents),
        }
    }
}

async fn ask(context: &Context, index: &str, what: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    let asked = context.elasticsearch.request(Method::Post, &format!("/{index}/{what}"), body).await;
    asked.and_then(|answer| answer.success()).map_err(|fault| unusable(index, fault))
}
