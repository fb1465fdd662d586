//! The steps of a rebuild, each of which can be taken again.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pinion_schemas::JobDefinition;

use super::kept::{Kept, change};
use super::{Event, LOOK_EVERY, current, request};
use crate::elasticsearch::Method;
use crate::operations::Context;
use crate::operations::heartbeat::running;
use crate::operations::indexes::IndexWanted;
use crate::operations::state::{insist, unusable};
use crate::operations::verify::{self, Verified, VerifyOptions, verify};
use crate::operations::work::walk::walked;
use crate::pipeline::source::rabbitmq::Rabbitmq;
use crate::pipeline::targets::{Phase, Rebuild};
use crate::ports::Queues as _;

/// So long it is watched whether live messages are written.
const WATCH: Duration = Duration::from_secs(1);
/// What is missing is given so long at the least: each worker may still have a part of the loading in hand (18,000 ids with the default
/// limits), and where servers are slow it writes some hundred of them a second beside live messages.
const PATIENCE_MIN: Duration = Duration::from_secs(180);
/// What is missing after the loading is enqueued, and looked for again, so often.
const CHECKS_MAX: usize = 3;

/// A rebuild under way.
pub(super) struct Run<'a> {
    pub(super) context: &'a Context,
    pub(super) definition: &'a JobDefinition,
    pub(super) tell: &'a (dyn Fn(Event) + Sync),
}

impl Run<'_> {
    /// Makes the new index, without replicas and with few refreshes: it is loaded faster so, and nobody searches it yet.
    pub(super) async fn make(&self, rebuild: &Rebuild) -> anyhow::Result<()> {
        let path = format!("/{}", rebuild.new);
        let exists = self.context.elasticsearch.request(Method::Head, &path, None).await;
        if exists.map_err(|fault| unusable(&rebuild.new, fault))?.status == 200 {
            return Ok(());
        }
        let body = IndexWanted::of_job(self.definition).to_be_loaded();
        request(self.context, Method::Put, &path, Some(&body)).await.map(drop)
    }

    pub(super) async fn advance(&self, from: Phase, to: Phase) -> anyhow::Result<Rebuild> {
        change(self.context, &self.definition.name, |rebuild| {
            ensure!(rebuild.phase == from, "somebody else goes on with this rebuild");
            rebuild.phase = to;
            Ok(())
        })
        .await
    }

    /// Whether the rebuild can still come to a good end.
    pub(super) fn whole(&self, rebuild: &Rebuild) -> anyhow::Result<()> {
        let job = &self.definition.name;
        if let Some(reason) = &rebuild.failed {
            bail!(
                "{} can't be built: {reason}\nmend mapping.json or document.sql; `pinion rebuild {job} --cancel` removes it, then \
                 begin again. The job goes on with {} meanwhile",
                rebuild.new,
                rebuild.old
            );
        }
        ensure!(rebuild.phase != Phase::Ended, "the rebuild of {job} was ended by somebody else");
        Ok(())
    }

    pub(super) async fn still_whole(&self) -> anyhow::Result<()> {
        let job = &self.definition.name;
        let rebuild = current(self.context, job).await?;
        self.whole(&rebuild.with_context(|| format!("the rebuild of {job} was ended by somebody else"))?)
    }

    /// Waits until all ids are loaded; how many.
    pub(super) async fn loaded(&self, since: u64) -> anyhow::Result<u64> {
        let job = &self.definition.name;
        let mut looks = 0_u32;
        let mut alone = false;
        loop {
            let rebuild =
                current(self.context, job).await?.with_context(|| format!("the rebuild of {job} was ended"))?;
            self.whole(&rebuild)?;
            let walk = walked(self.context, &Kept::walk_document(job)).await?.filter(|walk| walk.started_at == since);
            if looks.is_multiple_of(10) {
                alone = running(self.context, job).await?.is_empty();
            }
            looks = looks.wrapping_add(1);
            let (ids, expected) = walk.as_ref().map(|walk| (walk.ids, walk.expected)).unwrap_or_default();
            (self.tell)(Event::Loading { ids, expected, paused: rebuild.paused, alone });
            if walk.is_some_and(|walk| walk.done) {
                self.drained().await?;
                return Ok(ids);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until nothing waits in the low queue. What workers have in hand then, the comparison looks at again.
    async fn drained(&self) -> anyhow::Result<()> {
        let queues = Rabbitmq::new(&self.context.config, "pinion rebuild".into());
        let queue = self.context.config.names.low_queue(&self.definition.name);
        loop {
            let ask = async || queues.waiting(&queue).await.with_context(|| format!("queue {queue}"));
            let waiting = insist(ask).await?;
            self.still_whole().await?;
            if waiting == 0 {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Gives the new index the settings that it is to have, and lets it be searched.
    pub(super) async fn settle(&self, index: &str) -> anyhow::Result<()> {
        let settings = IndexWanted::of_job(self.definition).loaded_settings();
        request(self.context, Method::Put, &format!("/{index}/_settings"), Some(&settings)).await?;
        request(self.context, Method::Post, &format!("/{index}/_refresh"), None).await.map(drop)
    }

    /// Whether live messages come: whatever else is written goes to the new index alone.
    pub(super) async fn is_live(&self, old: &str) -> anyhow::Result<bool> {
        let written = async || {
            let path = format!("/{old}/_stats/indexing?filter_path=_all.primaries.indexing");
            let stats = request(self.context, Method::Get, &path, None).await?;
            let indexing = &stats["_all"]["primaries"]["indexing"];
            anyhow::Ok((indexing["index_total"].as_u64(), indexing["delete_total"].as_u64()))
        };
        let before = written().await?;
        tokio::time::sleep(WATCH).await;
        Ok(written().await? != before)
    }

    /// Compares the new index with the source. What is not true yet is enqueued, and looked at again.
    pub(super) async fn verified(
        &self,
        index: &str,
        full: bool,
        sample: f64,
        gentle: bool,
    ) -> anyhow::Result<Verified> {
        let job = &self.definition.name;
        let options = VerifyOptions {
            index: Some(index.to_owned()),
            range: None,
            full,
            sample,
            patience: verify::patience(self.definition).max(PATIENCE_MIN),
            ids_per_second_max: None,
            gentle,
            repair: true,
            examples_max: 10,
        };
        for _ in 0..CHECKS_MAX {
            let what =
                if sample < 1.0 { "comparing some documents, value by value" } else { "comparing it with the source" };
            (self.tell)(Event::Now(what));
            let verified = verify(self.context, job, &options, &|event| (self.tell)(Event::Verify(event))).await?;
            // What refuses documents misses them.
            self.still_whole().await?;
            // Rows that make no document are no index's fault.
            if verified.wrong() == verified.unwritable.count && verified.stopped.is_none() {
                return Ok(verified);
            }
            tracing::warn!(
                job,
                index,
                wrong = verified.wrong(),
                stopped = verified.stopped,
                "not true to the source yet"
            );
            self.drained().await?;
            request(self.context, Method::Post, &format!("/{index}/_refresh"), None).await?;
        }
        bail!(
            "{index} is still not true to the source, and the alias stays where it is: `pinion verify {job}`, then call this again"
        )
    }
}
