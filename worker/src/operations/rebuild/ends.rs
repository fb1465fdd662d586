//! The ways out of a rebuild: taking it back, giving it up, and finishing it.

use anyhow::{Context as _, ensure};
use pinion_schemas::StateIndex;

use super::kept::{Kept, change, kept};
use super::{behind, definition, move_alias, request};
use crate::elasticsearch::{Method, segment};
use crate::operations::Context;
use crate::operations::heartbeat::{Heartbeat, running};
use crate::pipeline::targets::{LEASE, Phase, Rebuild};

/// Gives the alias back to the old index, which has had all writes meanwhile. The new one is written to as before, so that the
/// alias can move again.
///
/// # Errors
/// The alias has not moved, the old index can't be used any more, or Elasticsearch is away.
pub async fn rollback(context: &Context, job: &str) -> anyhow::Result<Rebuild> {
    let definition = definition(context, job)?;
    let index = &definition.index;
    let (behind, _) = behind(context, definition).await?;
    let rebuild = change(context, job, |rebuild| {
        ensure!(behind == rebuild.new, "the alias {index} has not moved: there is nothing to take back");
        ensure!(rebuild.phase != Phase::Ended, "that rebuild was ended: there is no way back");
        if let Some(reason) = &rebuild.failed {
            anyhow::bail!("{} has not had all writes and can't be gone back to: {reason}", rebuild.old);
        }
        rebuild.phase = Phase::Loading;
        Ok(())
    })
    .await?;
    move_alias(context, index, &rebuild.new, &rebuild.old).await?;
    Ok(rebuild)
}

/// Ends a rebuild whose alias has moved, and deletes the old index; its name.
///
/// # Errors
/// The alias has not moved, a worker has another `document.sql`, or Elasticsearch is away.
pub async fn finish(context: &Context, job: &str) -> anyhow::Result<String> {
    let definition = definition(context, job)?;
    let (_, index) = behind(context, definition).await?;
    let made_by = index["mappings"]["_meta"]["pinion"]["definition"].as_str();
    let is_another = |worker: &Heartbeat| worker.job(job).is_some_and(|beat| beat.definition.as_deref() != made_by);
    let others = running(context, job).await?.into_iter().filter(is_another);
    let others: Vec<String> = others.map(|worker| worker.worker).collect();
    ensure!(
        others.is_empty(),
        "these workers have another document.sql of {job} than the new index, and would go on with it: {}; start them anew with the \
         new files first",
        others.join(", ")
    );
    end(context, job, true).await
}

/// Ends a rebuild whose alias has not moved, and deletes the new index; its name.
///
/// # Errors
/// The alias has moved, or Elasticsearch is away.
pub async fn cancel(context: &Context, job: &str) -> anyhow::Result<String> {
    end(context, job, false).await
}

async fn end(context: &Context, job: &str, swapped: bool) -> anyhow::Result<String> {
    let definition = definition(context, job)?;
    let (before, _) = kept(context, job).await?.with_context(|| format!("there is no rebuild of {job}"))?;
    let Rebuild { old, new, .. } = before.rebuild;
    let behind = behind(context, definition).await?.0;
    let (stays, goes) = if swapped { (&new, &old) } else { (&old, &new) };
    let other = if swapped {
        format!("it has not moved yet: `pinion rebuild {job}` goes on, `--cancel` gives up")
    } else {
        format!("it has moved: `pinion rebuild {job} --finish` deletes the old index, `--rollback` goes back to it")
    };
    ensure!(behind == *stays, "the alias {} is {behind}'s; {other}", definition.index);
    change(context, job, |rebuild| {
        let is_between = rebuild.phase == Phase::Swapped && !swapped;
        ensure!(!is_between, "the alias {} is about to move: `pinion rebuild {job}` goes on", definition.index);
        rebuild.phase = Phase::Ended;
        Ok(())
    })
    .await?;
    // A worker that has not heard of it may still write there.
    tokio::time::sleep(2 * LEASE).await;
    let gone = context.elasticsearch.request(Method::Delete, &format!("/{goes}"), None).await?;
    if gone.status != 404 {
        gone.success().with_context(|| format!("deleting {goes}"))?;
    }
    let jobs = context.state_index(StateIndex::Jobs);
    for document in [Kept::walk_document(job), Kept::document(job)] {
        let path = format!("/{jobs}/_doc/{}", segment(&document));
        let removed = context.elasticsearch.request(Method::Delete, &path, None).await?;
        if removed.status != 404 {
            removed.success().with_context(|| format!("deleting {document} in {jobs}"))?;
        }
    }
    // The documents of a job without a rebuild, as commands see them.
    request(context, Method::Post, &format!("/{jobs}/_refresh"), None).await?;
    Ok(goes.clone())
}
