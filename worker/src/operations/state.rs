//! Pinion's own indexes, as operators' commands read and write them.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use bytes::Bytes;
use pinion_schemas::StateIndex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Context;
use crate::elasticsearch::{Answer, Elasticsearch, Method, segment};
use crate::error::Fault;
use crate::retry::Backoff;

/// More documents than this are not read at once.
const HITS_MAX: usize = 1000;

/// One of the state indexes.
pub(super) struct State<'a> {
    elasticsearch: &'a Elasticsearch,
    name: String,
}

/// What was read of a document.
#[derive(Debug, Deserialize)]
pub(super) struct Document<T> {
    #[serde(rename = "_id")]
    pub(super) id: String,
    #[serde(rename = "_source")]
    pub(super) source: T,
    /// Sequence number and primary term, where the request asked for them.
    #[serde(rename = "_seq_no", default)]
    pub(super) seq_no: u64,
    #[serde(rename = "_primary_term", default)]
    pub(super) primary_term: u64,
}

impl<'a> State<'a> {
    pub(super) fn of(context: &'a Context, kind: StateIndex) -> Self {
        Self { elasticsearch: &context.elasticsearch, name: context.state_index(kind) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A request to this index; `path` begins behind its name.
    pub(super) async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let asked = self.elasticsearch.request(method, &format!("/{}{path}", self.name), body).await;
        asked.and_then(Answer::success).map_err(|fault| unusable(&self.name, fault))
    }

    /// A request to the cluster that is about this index.
    pub(super) async fn cluster(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let asked = self.elasticsearch.request(method, path, Some(body)).await;
        asked.and_then(Answer::success).map_err(|fault| unusable(&self.name, fault))
    }

    /// The documents of a small index that a query finds, in no order.
    pub(super) async fn all<T: DeserializeOwned>(&self, query: Value) -> anyhow::Result<Vec<T>> {
        let query = json!({"query": query, "size": HITS_MAX});
        let answer = self.request(Method::Post, "/_search", Some(&query)).await?;
        let documents = self.documents::<T>(answer)?;
        Ok(documents.into_iter().map(|document| document.source).collect())
    }

    /// The documents of a search's answer.
    pub(super) fn documents<T: DeserializeOwned>(&self, mut answer: Value) -> anyhow::Result<Vec<Document<T>>> {
        let hits = answer["hits"]["hits"].take();
        serde_json::from_value(hits).map_err(|error| anyhow!("a document in {} can't be read: {error}", self.name))
    }

    /// A document as it is now, searchable or not; any text can be its id.
    pub(super) async fn get<T: DeserializeOwned>(&self, id: &str) -> anyhow::Result<Option<T>> {
        let mut answer = self.request(Method::Post, "/_mget", Some(&json!({"ids": [id]}))).await?;
        let mut document = answer["docs"][0].take();
        if document["error"]["type"] == "index_not_found_exception" {
            return Err(missing(&self.name));
        }
        if document["found"] != true {
            return Ok(None);
        }
        let source = document["_source"].take();
        let read = serde_json::from_value(source);
        read.map(Some).map_err(|error| anyhow!("the document {id} in {} can't be read: {error}", self.name))
    }

    /// Merges fields into a document, which is made where there is none. Searches see it when this returns.
    pub(super) async fn merge(&self, id: &str, fields: &Value) -> anyhow::Result<()> {
        let path = format!("/_update/{}?refresh=true&retry_on_conflict=5", segment(id));
        self.request(Method::Post, &path, Some(&json!({"doc": fields, "doc_as_upsert": true}))).await.map(drop)
    }

    /// Actions on this index, in NDJSON; one answer for each, in order.
    pub(super) async fn bulk(&self, body: Vec<u8>) -> anyhow::Result<Vec<Item>> {
        let path = format!("/{}/_bulk", self.name);
        let asked = self.elasticsearch.lines(&path, Bytes::from(body)).await;
        let mut answer = asked.and_then(Answer::success).map_err(|fault| unusable(&self.name, fault))?;
        let items: Vec<Action> = serde_json::from_value(answer["items"].take())?;
        Ok(items.into_iter().map(|action| action.item).collect())
    }
}

/// What became of one action.
#[derive(Debug, Deserialize)]
pub(super) struct Item {
    pub(super) status: u16,
    #[serde(rename = "_seq_no", default)]
    pub(super) seq_no: u64,
    #[serde(rename = "_primary_term", default)]
    pub(super) primary_term: u64,
    #[serde(default)]
    pub(super) error: Value,
}

#[derive(Deserialize)]
struct Action {
    #[serde(alias = "delete", alias = "update")]
    item: Item,
}

fn missing(index: &str) -> anyhow::Error {
    anyhow!("the index {index} is missing: run `pinion apply`")
}

/// A fault that may pass, as it is told to an operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Outage(String);

/// For so long a command tries again what a server does not answer.
const OUTAGE_MAX: Duration = Duration::from_secs(60);

/// Tries again for a minute, with growing pauses, while a server is away or busy: a long command outlives a short outage.
pub(super) async fn insist<T>(mut attempt: impl AsyncFnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let began = Instant::now();
    let mut backoff = Backoff::for_server();
    loop {
        match attempt().await {
            Err(error) if began.elapsed() < OUTAGE_MAX && may_pass(&error) => {
                tracing::debug!("again: {error:#}");
                backoff.wait().await;
            }
            outcome => return outcome,
        }
    }
}

fn may_pass(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Outage>() || matches!(cause.downcast_ref(), Some(Fault::Away { .. } | Fault::Again { .. }))
    })
}

/// What a fault means to an operator.
pub(super) fn unusable(index: &str, fault: Fault) -> anyhow::Error {
    match fault {
        Fault::Job(reason) if reason.starts_with("index_not_found_exception") => missing(index),
        Fault::Away { .. } => {
            Outage(format!("{fault}; does it run, and is [elasticsearch] in the configuration right?")).into()
        }
        Fault::Again { .. } => Outage(format!("index {index}: {fault}")).into(),
        fault => anyhow!("index {index}: {fault}"),
    }
}
