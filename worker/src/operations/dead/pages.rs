//! Letters page by page, the oldest first, as they were when the first page was asked for.

use serde_json::{Value, json};

use super::Filter;
use crate::dead_letter::DeadLetter;
use crate::elasticsearch::Method;
use crate::operations::state::{Document, State};

/// Letters in a page. They carry whole messages, of up to a mebibyte each.
const PAGE: u64 = 100;

/// How long Elasticsearch keeps the view between two pages.
const KEEP: &str = "5m";

/// A view of the index that what is written meanwhile does not change: a letter that comes back is not met twice.
pub(super) struct Pages<'a> {
    state: &'a State<'a>,
    query: Value,
    view: String,
    after: Option<Value>,
    left: u64,
}

impl<'a> Pages<'a> {
    pub(super) async fn open(state: &'a State<'a>, filter: &Filter, limit: Option<u64>) -> anyhow::Result<Self> {
        state.request(Method::Post, "/_refresh", None).await?;
        let opened = state.request(Method::Post, &format!("/_pit?keep_alive={KEEP}"), None).await?;
        let view = opened["id"].as_str().unwrap_or_default().to_owned();
        Ok(Self { state, query: filter.query(), view, after: None, left: limit.unwrap_or(u64::MAX) })
    }

    /// The next page; empty behind the last one.
    pub(super) async fn next(&mut self) -> anyhow::Result<Vec<Document<DeadLetter>>> {
        if self.left == 0 {
            return Ok(Vec::new());
        }
        let mut search = json!({
            "query": self.query,
            "size": PAGE.min(self.left),
            "pit": {"id": self.view, "keep_alive": KEEP},
            "sort": [{"last_at": "asc"}, {"_shard_doc": "asc"}],
            "seq_no_primary_term": true,
            "track_total_hits": false,
        });
        if let Some(after) = &self.after {
            search["search_after"] = after.clone();
        }
        let mut answer = self.state.cluster(Method::Post, "/_search", &search).await?;
        if let Some(view) = answer["pit_id"].as_str() {
            self.view = view.to_owned();
        }
        self.after = answer["hits"]["hits"].as_array_mut().and_then(|hits| Some(hits.last_mut()?["sort"].take()));
        let page = self.state.documents(answer)?;
        self.left -= (page.len() as u64).min(self.left);
        Ok(page)
    }

    /// Lets Elasticsearch forget the view; it would do so by itself after a while.
    pub(super) async fn close(self) {
        let closed = self.state.cluster(Method::Delete, "/_pit", &json!({"id": self.view})).await;
        if let Err(error) = closed {
            tracing::debug!(%error, "the view was not closed");
        }
    }
}
