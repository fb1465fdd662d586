//! Carries out a plan.

use pinion_schemas::StateIndex;

use super::Context;
use super::plan::{Action, Plan, Step};
use super::topology::{self, Broker};
use crate::generation::SourceState;
use crate::ports::Index as _;

/// Carries out every step that can be, and tells each with why it failed, if it did; steps that can't be carried out are
/// not told. A failure does not keep the others from being tried. Gives the number of failures.
///
/// # Errors
/// The broker can't be reached, or what is told can't be.
pub async fn apply(
    context: &Context,
    plan: &Plan,
    mut told: impl FnMut(&Step, Option<String>) -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    let broker = Broker::connect(&context.config).await?;
    let mut failures = 0;
    for step in &plan.steps {
        let Some(action) = &step.action else { continue };
        let failure = carry_out(context, &broker, action).await.err();
        failures += usize::from(failure.is_some());
        told(step, failure)?;
    }
    if failures == 0 {
        bind_all(context, &broker, plan).await?;
    }
    broker.close().await;
    Ok(failures)
}

/// AMQP does not tell whether a queue is still bound, and a publisher's messages depend on it: bound are all that can be.
async fn bind_all(context: &Context, broker: &Broker, plan: &Plan) -> anyhow::Result<()> {
    let jobs: Vec<&str> = context.definitions().map(|job| job.name.as_str()).collect();
    for declaration in topology::wanted(&context.config, &jobs) {
        let is_stuck = |step: &Step| step.action.is_none() && step.name == declaration.name();
        if !plan.steps.iter().any(is_stuck) {
            broker.bind(&declaration).await?;
        }
    }
    Ok(())
}

async fn carry_out(context: &Context, broker: &Broker, action: &Action) -> Result<(), String> {
    match action {
        Action::Declare(declaration) => broker.make(declaration).await.map_err(|error| error.to_string()),
        Action::Requests(requests) => {
            for request in requests {
                let asked = context.elasticsearch.request(request.method, &request.path, Some(&request.body)).await;
                asked.and_then(|answer| answer.success()).map_err(|fault| fault.to_string())?;
            }
            Ok(())
        }
    }
}

/// Raises the generation of a source, after its primary's disk was restored to an earlier state: what is read from now
/// on then counts as newer than all that was written before. Gives the new generation.
///
/// # Errors
/// No such source, nothing is known of it yet, or its primary or Elasticsearch can't be asked.
pub async fn raise_generation(context: &Context, source: &str) -> anyhow::Result<u16> {
    let Some(database) = context.sources.get(source) else {
        let known: Vec<&str> = context.sources.keys().map(String::as_str).collect();
        anyhow::bail!("there is no source {source}; {} has {}", context.config.file.display(), known.join(", "));
    };
    let state_index = context.state_index(StateIndex::Sources);
    let Some(stored) = context.elasticsearch.state(&state_index, source).await? else {
        anyhow::bail!("the source {source} has no generation yet: a worker gives it the first one");
    };
    let state: SourceState = serde_json::from_value(stored.source)
        .map_err(|error| anyhow::anyhow!("the document {source} in {state_index} can't be read: {error}"))?;
    let position = database.database().position().await?;
    let raised = state.raised(&position);
    let document = serde_json::to_value(&raised)?;
    let written = context.elasticsearch.put_state(&state_index, source, &document, Some(stored.seq_no)).await?;
    anyhow::ensure!(
        written,
        "the generation of {source} was changed meanwhile, by a worker or by somebody else: try again"
    );
    Ok(raised.generation)
}
