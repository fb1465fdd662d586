//! What a worker does beside its jobs: heartbeat, what operators ask for, the sources' marks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pinion_schemas::StateIndex;
use serde_json::{Value, json};

use super::Shared;
use crate::clock::now_ms;
use crate::control::Controls;
use crate::elasticsearch::{Elasticsearch, Method, segment};
use crate::error::Fault;
use crate::generation::Generations;
use crate::limit::AdaptiveLimit;
use crate::operations::Context;
use crate::operations::indexes::definition_digest;
use crate::status::{JobState, Statuses};

/// How often operators' wishes are looked up.
const CONTROL_EVERY: Duration = Duration::from_secs(2);
/// Heartbeats and marks come every so many looks, a heartbeat also when a job's state has changed.
const HEARTBEAT_EVERY: u32 = 3;

/// The worker's side tasks.
pub(super) struct Watch {
    elasticsearch: Arc<Elasticsearch>,
    workers: String,
    jobs: String,
    worker: String,
    admin: SocketAddr,
    started_ms: u64,
    controls: Controls,
    statuses: Arc<Statuses>,
    bulks: Arc<AdaptiveLimit>,
    generations: Vec<Arc<Generations>>,
    /// What makes each job's documents, as a digest.
    definitions: BTreeMap<String, String>,
}

impl Watch {
    pub(super) fn new(context: &Context, worker: &str, admin: SocketAddr, shared: &Shared) -> Self {
        Self {
            elasticsearch: context.elasticsearch.clone(),
            workers: context.state_index(StateIndex::Workers),
            jobs: context.state_index(StateIndex::Jobs),
            worker: worker.to_owned(),
            admin,
            started_ms: now_ms(),
            controls: shared.surroundings.controls.clone(),
            statuses: shared.surroundings.statuses.clone(),
            bulks: shared.bulks.clone(),
            generations: shared.generations.iter().map(|(_, generations)| generations.clone()).collect(),
            definitions: context.definitions().map(|job| (job.name.clone(), definition_digest(job))).collect(),
        }
    }

    /// Before the jobs begin: a paused one must not take a single message. Without Elasticsearch none can do its work anyway.
    pub(super) async fn first_look(&self) {
        let looked = tokio::time::timeout(CONTROL_EVERY, self.look_at_controls()).await;
        if !matches!(looked, Ok(Ok(()))) {
            tracing::warn!("which jobs are paused is not known yet");
        }
    }

    /// Until it is aborted. A failure is of no consequence here: whoever needs the server notices.
    pub(super) async fn run(self) {
        let mut ticks = tokio::time::interval(CONTROL_EVERY);
        let mut round = 0_u32;
        let mut told = Vec::new();
        loop {
            ticks.tick().await;
            let mut outcome = self.look_at_controls().await;
            let states: Vec<JobState> = self.statuses.all().into_values().map(|status| status.state).collect();
            // Operators wait for a change of state, as after `pinion pause`.
            if round.is_multiple_of(HEARTBEAT_EVERY) || states != told {
                outcome = outcome.and(self.beat().await);
                told = states;
            }
            if round.is_multiple_of(HEARTBEAT_EVERY) {
                for generations in &self.generations {
                    outcome = outcome.and(generations.keep_mark().await);
                }
            }
            if let Err(fault) = outcome {
                tracing::debug!(%fault, "state not written");
            }
            round = round.wrapping_add(1);
        }
    }

    async fn look_at_controls(&self) -> Result<(), Fault> {
        let path = format!("/{}/_search?size=1000", self.jobs);
        let query = json!({"query": {"term": {"paused": true}}, "_source": ["job"]});
        let answer = self.elasticsearch.request(Method::Post, &path, Some(&query)).await?.success()?;
        let hits = answer["hits"]["hits"].as_array().into_iter().flatten();
        let paused: BTreeSet<String> =
            hits.filter_map(|hit| hit["_source"]["job"].as_str()).map(str::to_owned).collect();
        self.controls.set(paused);
        Ok(())
    }

    async fn beat(&self) -> Result<(), Fault> {
        let heartbeat = self.heartbeat();
        let path = format!("/{}/_doc/{}", self.workers, segment(&self.worker));
        self.elasticsearch.request(Method::Put, &path, Some(&heartbeat)).await?.success().map(|_| ())
    }

    fn heartbeat(&self) -> Value {
        let jobs = self.statuses.all();
        let jobs: Vec<Value> = jobs
            .iter()
            .map(|(name, status)| {
                let definition = self.definitions.get(name);
                json!({
                    "job": name, "state": status.state, "reason": status.reason, "since": status.since_ms, "definition": definition
                })
            })
            .collect();
        json!({
            "worker": self.worker,
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "admin": self.admin.to_string(),
            "started": self.started_ms,
            "last": now_ms(),
            "bulk_limit": self.bulks.places(),
            "bulks_in_flight": self.bulks.in_flight(),
            "jobs": jobs,
        })
    }
}

/// Takes the heartbeat away: a worker that ended in order is not a dead one.
pub(super) async fn sign_off(context: &Context, worker: &str) {
    let path = format!("/{}/_doc/{}", context.state_index(StateIndex::Workers), segment(worker));
    let removed = context.elasticsearch.request(Method::Delete, &path, None);
    if tokio::time::timeout(Duration::from_secs(2), removed).await.is_err() {
        tracing::debug!("heartbeat not removed");
    }
}
