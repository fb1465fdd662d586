//! A job's index built anew while live writes go on: versions make it the same in whichever order they and the loading come.
//!
//! A second index is made; once every worker writes to both (see [`LEASE`]), workers load all ids into the new one; it is compared with
//! the source; the alias moves in one step. The old one is written to until somebody ends it, so the way back loses nothing. All of
//! this is kept in Elasticsearch: whatever ends in the middle, the same command goes on.

mod ends;
mod kept;
mod run;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use pinion_schemas::{From, JobDefinition};
use serde::Serialize;
use serde_json::{Value, json};

pub use self::ends::{cancel, finish, rollback};
pub use self::kept::Kept;
use self::kept::{change, kept, put};
use self::run::Run;
use super::heartbeat::running;
use super::indexes::{self, IndexWanted};
use super::pause::operator;
use super::plan::Sign;
use super::state::{insist, unusable};
use super::verify::{self, Verified};
use super::{Context, host};
use crate::clock::now_ms;
use crate::elasticsearch::{Answer, Method};
use crate::pipeline::targets::{LEASE, Phase, Rebuild};
use crate::ports::WhichKeys;

/// How often it is looked how far the workers are.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// So long a worker is waited for.
const WORKERS_WITHIN: Duration = Duration::from_secs(10);
/// Whole documents that are compared where not all are.
const SAMPLED: f64 = 10_000.0;

/// How to rebuild.
#[derive(Debug, Clone, Default)]
pub struct RebuildOptions {
    /// Whether all whole documents are compared before the alias moves, or which there are and some of them.
    pub full: bool,
    /// Ids a second that are loaded at the most, where that is to be another number, or none.
    pub ids_per_s_max: Option<Option<u32>>,
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum Event {
    /// What is done now.
    Now(&'static str),
    /// So many ids of about so many are on their way into the new index.
    Loading {
        /// How many.
        ids: u64,
        /// Of how many.
        expected: u64,
        /// Whether an operator has paused it.
        paused: bool,
        /// Whether no worker runs the job.
        alone: bool,
    },
    /// Of the comparison with the source.
    Verify(verify::Event),
}

/// What became of it.
#[derive(Debug, Serialize)]
pub struct Rebuilt {
    /// The job.
    pub job: String,
    /// The index that the alias has now.
    pub index: String,
    /// The one that it had, which is written to until the rebuild is finished.
    pub old: String,
    /// Ids that were loaded.
    pub ids: u64,
    /// How long the loading took, if it was seen from its beginning.
    pub load_seconds: f64,
    /// The last comparison with the source.
    pub verified: Verified,
    /// A comparison of some whole documents, where not all were compared.
    pub sampled: Option<Verified>,
    /// How long it took since it began.
    pub seconds: f64,
}

/// What a rebuild would do.
#[derive(Debug, Serialize)]
pub struct Planned {
    /// The job.
    pub job: String,
    /// The index behind the alias.
    pub old: String,
    /// The one that would be made.
    pub new: String,
    /// About so many rows.
    pub expected: u64,
    /// What can't be changed in place, field by field; empty where nothing asks for a rebuild.
    pub reasons: Vec<String>,
}

/// What a rebuild would do now.
///
/// # Errors
/// There is no such job, it has no index, or a server is away.
pub async fn planned(context: &Context, job: &str) -> anyhow::Result<Planned> {
    let definition = definition(context, job)?;
    let (old, _) = behind(context, definition).await?;
    let keys = context
        .source(definition)?
        .keys(definition, WhichKeys::default())
        .await
        .with_context(|| format!("job {job}"))?;
    let live = indexes::live(&context.elasticsearch, &definition.index).await?;
    let steps = IndexWanted::of_job(definition).steps(&live, "");
    let rebuilds = steps.into_iter().filter(|step| step.sign == Sign::Rebuild);
    Ok(Planned {
        job: job.to_owned(),
        old,
        new: format!("{}-{}", definition.index, indexes::stamp(now_ms())),
        expected: keys.estimate(),
        reasons: rebuilds.flat_map(|step| step.details).collect(),
    })
}

/// The job's rebuild, if there is one.
///
/// # Errors
/// There is no such job, or Elasticsearch is away.
pub async fn current(context: &Context, job: &str) -> anyhow::Result<Option<Rebuild>> {
    context.job(job)?;
    Ok(kept(context, job).await?.map(|(kept, _)| kept.rebuild))
}

/// Rebuilds the job's index and moves the alias, from wherever an earlier attempt has come to.
///
/// # Errors
/// There is no such job, no worker runs it, the new index refuses documents or is not true to the source in the end, or a server is
/// away. What was done stays; the same command goes on.
pub async fn rebuild(
    context: &Context,
    job: &str,
    options: &RebuildOptions,
    tell: &(dyn Fn(Event) + Sync),
) -> anyhow::Result<Rebuilt> {
    let definition = definition(context, job)?;
    let began = Instant::now();
    // One that has just begun tells of itself within seconds.
    while running(context, job).await?.is_empty() {
        ensure!(
            began.elapsed() < WORKERS_WITHIN,
            "no worker runs the job {job}, and workers load the new index: start some"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut rebuild = match kept(context, job).await? {
        Some((kept, _)) => kept.rebuild,
        None => begin(context, definition, options).await?,
    };
    if let Some(rate) = options.ids_per_s_max {
        rebuild = adjust(context, job, None, Some(rate)).await?;
    }
    let run = Run { context, definition, tell };
    if rebuild.phase == Phase::Making {
        tell(Event::Now("making the new index"));
        run.make(&rebuild).await?;
        rebuild = run.advance(Phase::Making, Phase::Prepared).await?;
    }
    if rebuild.phase == Phase::Prepared {
        tell(Event::Now("waiting until all workers write to both indexes"));
        tokio::time::sleep(2 * LEASE).await;
        rebuild = run.advance(Phase::Prepared, Phase::Loading).await?;
    }
    let since = rebuild.started_at;
    match rebuild.phase {
        Phase::Ended => {
            bail!("the rebuild of {job} was ended: `pinion rebuild {job} --cancel` removes what is left of it")
        }
        Phase::Swapped => {
            let hint = format!("`pinion rebuild {job} --finish` ends that rebuild, `--rollback` takes it back");
            let behind = behind(context, definition).await?.0;
            ensure!(behind == rebuild.old, "the alias {} is {behind}'s already: {hint}", definition.index);
        }
        _ => {}
    }
    let began = Instant::now();
    let ids = run.loaded(since).await?;
    let load_seconds = began.elapsed().as_secs_f64();
    tell(Event::Now("putting its settings back"));
    run.settle(&rebuild.new).await?;
    let gentle = run.is_live(&rebuild.old).await?;
    let verified = run.verified(&rebuild.new, options.full, 1.0, gentle).await?;
    let sample = SAMPLED / verified.source_ids.max(1) as f64;
    let sampled = match options.full {
        true => None,
        false => Some(run.verified(&rebuild.new, true, sample.min(1.0), gentle).await?),
    };
    run.still_whole().await?;
    tell(Event::Now("moving the alias"));
    let rebuild = change(context, job, |rebuild| run.whole(rebuild).map(|()| rebuild.phase = Phase::Swapped)).await?;
    request(context, Method::Post, &format!("/{}/_refresh", rebuild.new), None).await?;
    move_alias(context, &definition.index, &rebuild.old, &rebuild.new).await?;
    let seconds = now_ms().saturating_sub(since) as f64 / 1000.0;
    Ok(Rebuilt {
        job: job.to_owned(),
        index: rebuild.new,
        old: rebuild.old,
        ids,
        load_seconds,
        verified,
        sampled,
        seconds,
    })
}

/// Pauses or resumes the loading, or changes its pace, while it goes on.
///
/// # Errors
/// There is no rebuild, or Elasticsearch is away.
pub async fn adjust(
    context: &Context,
    job: &str,
    paused: Option<bool>,
    ids_per_s_max: Option<Option<u32>>,
) -> anyhow::Result<Rebuild> {
    change(context, job, |rebuild| {
        rebuild.paused = paused.unwrap_or(rebuild.paused);
        rebuild.ids_per_s_max = ids_per_s_max.unwrap_or(rebuild.ids_per_s_max);
        Ok(())
    })
    .await
}

fn definition<'a>(context: &'a Context, job: &str) -> anyhow::Result<&'a JobDefinition> {
    let definition = context.definition(job)?;
    ensure!(
        definition.from == From::Query,
        "the documents of {job} come from change events (from = \"event\"): let the connector read its table anew instead"
    );
    Ok(definition)
}

/// The index behind the job's alias, with what there is of it.
async fn behind(context: &Context, definition: &JobDefinition) -> anyhow::Result<(String, Value)> {
    let alias = &definition.index;
    let ask = async || indexes::live(&context.elasticsearch, alias).await.map_err(|fault| unusable(alias, fault));
    let live = insist(ask).await?;
    ensure!(!live.is_empty(), "the alias {alias} is missing: run `pinion apply`");
    let writes = |index: &Value| live.len() == 1 || index["aliases"][alias]["is_write_index"] == json!(true);
    let found = live.iter().find(|(name, index)| *name != alias && writes(index));
    let (name, index) =
        found.with_context(|| format!("{alias} is not the alias of one index: `pinion plan` says more"))?;
    Ok((name.clone(), index.clone()))
}

async fn begin(context: &Context, definition: &JobDefinition, options: &RebuildOptions) -> anyhow::Result<Rebuild> {
    let (old, live) = behind(context, definition).await?;
    let sql = definition.sql.text();
    let rebuild = Rebuild {
        phase: Phase::Making,
        old,
        // Indexes of an older version don't tell; what workers use then is what they have.
        old_sql: live["mappings"]["_meta"]["pinion"]["sql"].as_str().map_or_else(|| sql.clone(), str::to_owned),
        new: format!("{}-{}", definition.index, indexes::stamp(now_ms())),
        new_sql: sql,
        started_at: now_ms(),
        by: format!("{} on {}", operator(), host()),
        failed: None,
        paused: false,
        ids_per_s_max: options.ids_per_s_max.flatten(),
    };
    put(context, &Kept { job: definition.name.clone(), rebuild }, None)
        .await?
        .with_context(|| {
            format!("another rebuild of {} has just begun: call the command again to follow it", definition.name)
        })
        .map(|kept| kept.rebuild)
}

/// Moves an alias from one index to another, in one step; done already is as good.
async fn move_alias(context: &Context, alias: &str, from: &str, to: &str) -> anyhow::Result<()> {
    let actions = json!({"actions": [
        {"remove": {"index": from, "alias": alias, "must_exist": false}},
        {"add": {"index": to, "alias": alias, "is_write_index": true}},
    ]});
    request(context, Method::Post, "/_aliases", Some(&actions)).await.map(drop)
}

async fn request(context: &Context, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    // All of them may be made twice.
    insist(async || {
        let asked = context.elasticsearch.request(method, path, body).await;
        asked.and_then(Answer::success).with_context(|| path.to_owned())
    })
    .await
}
