//! A truncated table: every document of the index goes, but for those of later changes.

use super::write::{Patience, Writer};
use crate::elasticsearch::Walk;
use crate::error::{Fault, Service};
use crate::pipeline::build::Builder;
use crate::pipeline::bulk::{Request, send};
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
        let definition = &self.job.definition;
        let version = self.version(position).await?;
        let mut walk = Walk::begin(self.elasticsearch, &definition.index, definition.key, PAGE).await?;
        while let Some(ids) = walk.next().await? {
            let mut builder = Builder::new(&[], version, self.job.settings.bulk_bytes_max);
            ids.iter().enumerate().for_each(|(entry, id)| builder.delete(entry, id));
            let (body, actions, _) = builder.finish();
            if actions.is_empty() {
                continue;
            }
            let place = self.job.bulks.place().await;
            for item in
                send(self.job, place, Request { index: &self.job.definition.index, body, actions: actions.len() })
                    .await?
            {
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
        Ok(())
    }
}
