//! Dead letters: looked at, counted, replayed, dropped.

mod pages;
mod replay;

use pinion_schemas::StateIndex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Context;
use super::state::{Document, State};
use crate::dead_letter::DeadLetter;
use crate::elasticsearch::Method;

pub use self::replay::{Dropped, Replayed, drop_letters, replay};

/// Jobs and reasons beyond these are not counted apart.
const BUCKETS_MAX: u32 = 100;

/// Which letters; nothing means all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this job.
    pub job: Option<String>,
    /// With this reason.
    pub reason: Option<String>,
    /// Of this document.
    pub id: Option<String>,
    /// Given up last at this time or later, in milliseconds since 1970.
    pub since_ms: Option<u64>,
}

impl Filter {
    fn query(&self) -> Value {
        let terms = [("job", &self.job), ("reason", &self.reason), ("id", &self.id)];
        let terms = terms.into_iter().filter_map(|(field, value)| Some(json!({"term": {field: value.as_ref()?}})));
        let since = self.since_ms.map(|since_ms| json!({"range": {"last_at": {"gte": since_ms}}}));
        json!({"bool": {"filter": terms.chain(since).collect::<Vec<_>>()}})
    }
}

/// A letter with its key, by which `show` finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Letter {
    /// `JOB/ID`, or `JOB/message-DIGEST` where the message could not be read.
    pub key: String,
    /// The letter. Its message is left out of lists.
    #[serde(flatten)]
    pub letter: DeadLetter,
}

/// How many letters there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// In all.
    pub total: u64,
    /// By job, those with the most first.
    pub jobs: Vec<JobCount>,
}

/// How many letters a job has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCount {
    /// The job that the messages named; empty where they named none.
    pub job: String,
    /// In all.
    pub letters: u64,
    /// When the last one was given up, in milliseconds since 1970.
    pub last_at: u64,
    /// By reason, the most frequent first.
    pub reasons: Vec<(String, u64)>,
}

/// How many letters the filter finds.
///
/// # Errors
/// Elasticsearch is away, or the index is missing.
pub async fn count(context: &Context, filter: &Filter) -> anyhow::Result<Counts> {
    let state = State::of(context, StateIndex::DeadLetters);
    let answer = state.request(Method::Post, "/_search", Some(&search(filter, 0))).await?;
    Ok(counts(&answer))
}

/// The newest letters that the filter finds, `limit` at the most, and how many there are.
///
/// # Errors
/// Elasticsearch is away, or the index is missing.
pub async fn list(context: &Context, filter: &Filter, limit: u32) -> anyhow::Result<(Counts, Vec<Letter>)> {
    let state = State::of(context, StateIndex::DeadLetters);
    let answer = state.request(Method::Post, "/_search", Some(&search(filter, limit))).await?;
    let counts = counts(&answer);
    let documents = state.documents(answer)?;
    Ok((counts, documents.into_iter().map(|Document { id, source, .. }| Letter { key: id, letter: source }).collect()))
}

/// One letter.
///
/// # Errors
/// Elasticsearch is away, or the index is missing.
pub async fn show(context: &Context, key: &str) -> anyhow::Result<Option<Letter>> {
    let letter = State::of(context, StateIndex::DeadLetters).get(key).await?;
    Ok(letter.map(|letter| Letter { key: key.to_owned(), letter }))
}

fn search(filter: &Filter, size: u32) -> Value {
    let reasons = json!({"terms": {"field": "reason", "size": BUCKETS_MAX}});
    json!({
        "query": filter.query(),
        "size": size,
        "track_total_hits": true,
        "sort": [{"last_at": "desc"}],
        "_source": {"excludes": ["message"]},
        "aggs": {"jobs": {
            "terms": {"field": "job", "size": BUCKETS_MAX},
            "aggs": {"reasons": reasons, "last_at": {"max": {"field": "last_at"}}},
        }},
    })
}

fn counts(answer: &Value) -> Counts {
    let buckets = |value: &Value| value["buckets"].as_array().cloned().unwrap_or_default();
    let key = |bucket: &Value| bucket["key"].as_str().unwrap_or_default().to_owned();
    let count = |bucket: &Value| bucket["doc_count"].as_u64().unwrap_or_default();
    let jobs = buckets(&answer["aggregations"]["jobs"]).into_iter().map(|bucket| JobCount {
        job: key(&bucket),
        letters: count(&bucket),
        // An aggregation's number is a float; times in milliseconds fit into it.
        last_at: bucket["last_at"]["value"].as_f64().unwrap_or_default() as u64,
        reasons: buckets(&bucket["reasons"]).iter().map(|bucket| (key(bucket), count(bucket))).collect(),
    });
    Counts { total: answer["hits"]["total"]["value"].as_u64().unwrap_or_default(), jobs: jobs.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_becomes_a_query() {
        assert_eq!(Filter::default().query(), json!({"bool": {"filter": []}}));
        let filter = Filter {
            job: Some("orders".to_owned()),
            id: Some("9007199254740993".to_owned()),
            since_ms: Some(7),
            ..Filter::default()
        };
        let expected = json!([
            {"term": {"job": "orders"}},
            {"term": {"id": "9007199254740993"}},
            {"range": {"last_at": {"gte": 7}}},
        ]);
        assert_eq!(filter.query()["bool"]["filter"], expected);
    }
}
