//! The bulk requests that Elasticsearch's own speed is measured with: what the worker would send, made by the worker's own stages.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use pinion_schemas::{Id, StateIndex};
use pinion_worker::backlog::Backlog;
use pinion_worker::broker::RabbitmqBroker;
use pinion_worker::config::Config;
use pinion_worker::generation::Generations;
use pinion_worker::limit::{AdaptiveLimit, Share};
use pinion_worker::metrics::Metrics;
use pinion_worker::operations::Context;
use pinion_worker::pipeline::Failed;
use pinion_worker::pipeline::batch::{Batch, Entry};
use pinion_worker::pipeline::job::{Job, Parts, Settings};
use pinion_worker::pipeline::{build, fence, fetch};

use crate::pinion::JOB;

/// Documents in a body.
pub(crate) const BODY_DOCUMENTS: usize = 2_000;

/// Room for that many documents of any ordinary size.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Prepared bulk requests.
pub(crate) struct Documents {
    /// NDJSON, [`BODY_DOCUMENTS`] documents each, the last one fewer.
    pub(crate) bodies: Vec<Bytes>,
    /// Documents in all of them.
    pub(crate) count: usize,
}

impl Documents {
    /// Reads the documents of `ids` past the fence and keeps their bulk requests in memory.
    pub(crate) async fn prepare(config: Config, ids: &[i64]) -> Result<Self> {
        let job = job(config)?;
        let mut bodies = Vec::with_capacity(ids.len().div_ceil(BODY_DOCUMENTS));
        for ids in ids.chunks(BODY_DOCUMENTS) {
            let entries = ids.iter().map(|id| Entry::probe(Id::Int(*id))).collect();
            let batch = Batch { job: job.clone(), entries };
            let failed = |failed: Failed| anyhow!("the documents can't be read: {}", failed.fault);
            let fenced = fence::fence(batch).await.map_err(failed)?;
            let route = job.lease.route(false)?.context("a batch that is no load goes somewhere")?;
            let built = build::build(fetch::fetch(fenced, route).await.map_err(failed)?).first;
            let indexed = built.actions.iter().filter(|action| !action.delete).count();
            ensure!(indexed == ids.len(), "{} of {} orders make no document that fits", ids.len() - indexed, ids.len());
            bodies.push(built.body);
        }
        Ok(Self { bodies, count: ids.len() })
    }

    /// Bytes of all bodies.
    pub(crate) fn bytes(&self) -> usize {
        self.bodies.iter().map(Bytes::len).sum()
    }
}

/// The job as the worker has it, with room for a whole body in a request.
fn job(config: Config) -> Result<Arc<Job>> {
    let context = Context::open(config)?;
    let loaded = context.jobs.iter().find(|job| job.name == JOB).with_context(|| format!("no job is called {JOB}"))?;
    let definition =
        loaded.definition.clone().with_context(|| format!("the job {JOB} is broken: {:?}", loaded.findings))?;
    let database = context.sources.get(&definition.source).context("the job's source is not configured")?;
    let index = context.elasticsearch.clone();
    let generations = Generations::new(&definition.source, index.clone(), context.state_index(StateIndex::Sources));
    let name: Arc<str> = "pinion-bench".into();
    let share = || Share::among(1, 1).pop().expect("a share for each job");
    let parts = Parts {
        settings: Settings { bulk_bytes_max: BODY_BYTES_MAX, ..Settings::new(&context.config, name.clone()) },
        database: database.database(),
        generations: Arc::new(generations),
        index,
        broker: Arc::new(RabbitmqBroker::new(&context.config, &name)),
        batches: share(),
        fetches: share(),
        live: Arc::default(),
        backlog: Backlog::default(),
        bulks: AdaptiveLimit::new(1),
        gates: Vec::new(),
        definition,
    };
    Ok(Arc::new(Job::new(parts, Arc::new(Metrics::default()))))
}
