//! Where a rebuild is, in Pinion's own index: for all workers, and for whoever calls the command again.

use anyhow::{Context as _, bail};
use pinion_schemas::StateIndex;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::Fault;
use crate::operations::Context;
use crate::operations::state::{insist, unusable};
use crate::pipeline::targets::Rebuild;
use crate::ports::Index as _;

/// The document that tells of a job's rebuild.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The job.
    pub job: String,
    /// Its rebuild.
    pub rebuild: Rebuild,
}

impl Kept {
    /// The document's id. No job is called so.
    pub fn document(job: &str) -> String {
        format!("rebuild:{job}")
    }

    /// The id of the document that tells how far the loading is.
    pub fn walk_document(job: &str) -> String {
        format!("rebuild-walk:{job}")
    }
}

/// What is kept, with what it takes to replace it.
pub(super) async fn kept(context: &Context, job: &str) -> anyhow::Result<Option<(Kept, (u64, u64))>> {
    let index = context.state_index(StateIndex::Jobs);
    let document = Kept::document(job);
    let ask = async || context.elasticsearch.state(&index, &document).await.map_err(|fault| unusable(&index, fault));
    let Some(state) = insist(ask).await? else { return Ok(None) };
    let kept =
        serde_json::from_value(state.source).with_context(|| format!("the rebuild of {job}, kept in {index}"))?;
    Ok(Some((kept, state.seq_no)))
}

/// Writes it; `None` if somebody else was faster.
pub(super) async fn put(context: &Context, kept: &Kept, expected: Option<(u64, u64)>) -> anyhow::Result<Option<Kept>> {
    let index = context.state_index(StateIndex::Jobs);
    let written = context.elasticsearch.put_state(&index, &Kept::document(&kept.job), &json!(kept), expected).await;
    match written {
        Ok(written) => Ok(written.then(|| kept.clone())),
        // The index of an older version has no place for it.
        Err(Fault::Documents(reason) | Fault::Job(reason)) => bail!("{index}: {reason}; run `pinion apply` first"),
        Err(fault) => Err(unusable(&index, fault)),
    }
}

/// Changes what is kept, whoever else does at the same time.
pub(super) async fn change(
    context: &Context,
    job: &str,
    change: impl Fn(&mut Rebuild) -> anyhow::Result<()>,
) -> anyhow::Result<Rebuild> {
    loop {
        let (mut kept, seq_no) = kept(context, job).await?.with_context(|| format!("there is no rebuild of {job}"))?;
        change(&mut kept.rebuild)?;
        if let Some(kept) = put(context, &kept, Some(seq_no)).await? {
            return Ok(kept.rebuild);
        }
    }
}
