//! The rebuilds that are under way, or not finished yet.

use pinion_schemas::StateIndex;
use serde::Serialize;
use serde_json::{Value, json};

use crate::operations::Context;
use crate::operations::rebuild::Kept;
use crate::operations::state::State;
use crate::operations::work::walk;
use crate::pipeline::targets::{Phase, Rebuild};

/// A rebuild.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebuilding {
    /// The job.
    pub job: String,
    /// How far it is.
    pub phase: Phase,
    /// The index that the alias had before.
    pub old: String,
    /// The index that is built.
    pub new: String,
    /// When it began, in milliseconds since 1970.
    pub started_at: u64,
    /// Who began it.
    pub by: String,
    /// Why it can't go on.
    pub failed: Option<String>,
    /// Whether its loading is paused.
    pub paused: bool,
    /// Ids that were handed to the workers.
    pub ids: u64,
    /// About how many there are.
    pub expected: u64,
}

/// Those of all jobs.
pub(super) async fn rebuilds(context: &Context) -> anyhow::Result<Vec<Rebuilding>> {
    let names = context.jobs.iter().map(|job| job.name.as_str());
    let documents: Vec<String> = names.flat_map(|job| [Kept::document(job), Kept::walk_document(job)]).collect();
    let state = State::of(context, StateIndex::Jobs);
    let found: Vec<Value> = state.all(json!({"ids": {"values": documents}})).await?;
    let (walks, rebuilds): (Vec<Value>, Vec<Value>) = found.into_iter().partition(|kept| kept["rebuild"].is_null());
    let walks: Vec<walk::Kept> = walks.into_iter().filter_map(|kept| serde_json::from_value(kept).ok()).collect();
    let rebuilding = rebuilds.into_iter().map(|kept| {
        let Kept { job, rebuild } = serde_json::from_value(kept)?;
        let walk = walks.iter().find(|kept| kept.job == job && kept.walk.started_at == rebuild.started_at);
        let (ids, expected) = walk.map(|kept| (kept.walk.ids, kept.walk.expected)).unwrap_or_default();
        let Rebuild { phase, old, new, started_at, by, failed, paused, .. } = rebuild;
        Ok(Rebuilding { job, phase, old, new, started_at, by, failed, paused, ids, expected })
    });
    rebuilding.collect()
}

/// What keeps one from going on.
pub(super) fn problem(rebuild: &Rebuilding) -> Option<String> {
    let reason = rebuild.failed.as_ref()?;
    Some(format!("the rebuild of {} can't go on: {reason}; `pinion rebuild {} --cancel`", rebuild.job, rebuild.job))
}
