//! The ids of all documents of an index, page by page, as they were when the walk began.

use pinion_schemas::{Id, KeyType};
use serde_json::{Value, json};

use super::{Elasticsearch, Method};
use crate::error::Fault;

/// How long Elasticsearch keeps the view between two pages.
const KEEP: &str = "5m";

/// A walk over an index.
pub(crate) struct Walk<'a> {
    elasticsearch: &'a Elasticsearch,
    key: KeyType,
    query: Value,
}

impl<'a> Walk<'a> {
    /// Begins, with what was written just now: no search finds that before a refresh.
    pub(crate) async fn begin(
        elasticsearch: &'a Elasticsearch,
        index: &str,
        key: KeyType,
        page_ids_max: usize,
    ) -> Result<Self, Fault> {
        let mut walk = Self { elasticsearch, key, query: Value::Null };
        walk.ask(&format!("/{index}/_refresh"), None).await?;
        let opened = walk.ask(&format!("/{index}/_pit?keep_alive={KEEP}"), None).await?;
        walk.query = json!({
            "size": page_ids_max, "_source": false, "track_total_hits": false, "sort": ["_shard_doc"],
            "pit": {"id": opened["id"], "keep_alive": KEEP},
        });
        Ok(walk)
    }

    /// Leaves out the documents that do not match `query`. To be called before the first page.
    pub(crate) fn only(&mut self, query: &Value) {
        self.query["query"] = query.clone();
    }

    /// The next ids; `None` behind the last page.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Id>>, Fault> {
        let answer = self.ask("/_search", Some(&self.query)).await?;
        self.query["pit"]["id"] = answer["pit_id"].clone();
        let hits = answer["hits"]["hits"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(last) = hits.last() else {
            self.end().await;
            return Ok(None);
        };
        self.query["search_after"] = last["sort"].clone();
        // What is no id of the job's was not written by it.
        Ok(Some(hits.iter().filter_map(|hit| self.key.id_from_text(hit["_id"].as_str()?).ok()).collect()))
    }

    /// Lets Elasticsearch forget the view. It would by itself, but keeps what was deleted on disk until then.
    async fn end(&self) {
        let view = json!({"id": self.query["pit"]["id"]});
        let closed = self.elasticsearch.request(Method::Delete, "/_pit", Some(&view)).await;
        tracing::debug!(closed = closed.is_ok_and(|answer| answer.status == 200), "point in time");
    }

    async fn ask(&self, path: &str, body: Option<&Value>) -> Result<Value, Fault> {
        self.elasticsearch.request(Method::Post, path, body).await?.success()
    }
}
