//! A truncated table: every document of the index goes, but for those of later changes.

use serde_json::json;

use super::write::{Patience, Writer};
use crate::elasticsearch::Method;
use crate::error::{Fault, Service};
use crate::pipeline::build::Builder;
use crate::pipeline::bulk::send;
use crate::pipeline::delivery::Receipt;
use crate::pipeline::verdict::{Verdict, verdict};
use crate::status::JobState;

/// Documents that are deleted together.
const PAGE: usize = 1000;

impl<T: Fn(JobState, Option<String>) + Sync> Writer<'_, T> {
    /// Deletes all documents with the version of `position`, until it is done.
    pub(super) async fn truncate(&self, position: u64, receipt: &Receipt) {
        let mut patience = Patience::default();
        while let Err(fault) = self.delete_all(position).await {
            self.wait(&fault, &mut patience).await;
        }
        Receipt::settle_all([receipt]);
    }

    async fn delete_all(&self, position: u64) -> Result<(), Fault> {
        let index = &self.job.definition.index;
        let version = self.version(position).await?;
        // What was written just now is not found before that.
        self.ask(&format!("/{index}/_refresh"), None).await?;
        let opened = self.ask(&format!("/{index}/_pit?keep_alive=5m"), None).await?;
        let mut query = json!({
            "size": PAGE, "_source": false, "track_total_hits": false, "sort": ["_shard_doc"],
            "pit": {"id": opened["id"], "keep_alive": "5m"},
        });
        loop {
            let answer = self.ask("/_search", Some(&query)).await?;
            let hits = answer["hits"]["hits"].as_array().map(Vec::as_slice).unwrap_or_default();
            let Some(last) = hits.last() else { break };
            query["search_after"] = last["sort"].clone();
            query["pit"]["id"] = answer["pit_id"].clone();
            let mut builder = Builder::new(&[], version, self.job.settings.bulk_bytes_max);
            // What is no id of the job's was not written by it.
            let ids = hits.iter().filter_map(|hit| self.job.definition.key.id_from_text(hit["_id"].as_str()?).ok());
            ids.enumerate().for_each(|(entry, id)| builder.delete(entry, &id));
            let (body, actions, _) = builder.finish();
            if actions.is_empty() {
                continue;
            }
            let place = self.job.bulks.place().await;
            for item in send(self.job, place, body, actions.len()).await? {
                match verdict(&item, true) {
                    Verdict::Deleted | Verdict::Indexed | Verdict::Conflict(_) => {}
                    Verdict::JobBroken(reason) => return Err(Fault::Job(reason)),
                    Verdict::Again(reason) => {
                        return Err(Fault::Again { service: Service::Elasticsearch, reason });
                    }
                    Verdict::Refused(error) | Verdict::Failed(error) => {
                        let reason = format!("{}: {}", error.kind, error.reason);
                        return Err(Fault::Again { service: Service::Elasticsearch, reason });
                    }
                }
            }
        }
        self.elasticsearch.request(Method::Delete, "/_pit", Some(&json!({"id": query["pit"]["id"]}))).await?;
        Ok(())
    }

    async fn ask(&self, path: &str, body: Option<&serde_json::Value>) -> Result<serde_json::Value, Fault> {
        self.elasticsearch.request(Method::Post, path, body).await?.success()
    }
}
