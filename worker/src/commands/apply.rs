//! `pinion apply`

use clap::Args;
use serde_json::json;

use super::output::{print, print_json};
use super::{Failure, Global};
use crate::operations::apply::{apply, raise_generation};
use crate::operations::plan::{Plan, Step};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinion apply                           make what is missing, change what can be changed in place
  pinion apply --raise-generation shop   after the primary of [sources.shop] was restored from a snapshot of its
                                         disk: stop the workers, raise, start them; nothing else is applied then

Applying again does nothing. What can't be done in place is listed and left: the exit code is then 1, as it is
when a step fails.")]
pub(crate) struct Apply {
    /// Only raise the generation of this source: what is read from now on is newer than all before.
    #[arg(long, value_name = "SOURCE")]
    raise_generation: Option<String>,
}

impl Apply {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let context = global.context()?;
        if let Some(source) = &self.raise_generation {
            let generation = raise_generation(&context, source).await?;
            if global.json {
                print_json(&json!({"source": source, "generation": generation}))?;
            } else {
                print(&format!("The generation of {source} is now {generation}.\n"))?;
            }
            return Ok(());
        }
        let plan = Plan::make(&context).await?;
        let mut done = Vec::new();
        let failures = apply(&context, &plan, |step, failure| {
            if global.json {
                done.push(with_failure(step, failure));
                return Ok(());
            }
            print(&format!("{step}{}\n", failure.map(|reason| format!("\n      FAILED: {reason}")).unwrap_or_default()))
        });
        let failures = failures.await?;
        let remaining: Vec<&Step> = plan.steps.iter().filter(|step| step.action.is_none()).collect();
        if global.json {
            let remaining: Vec<_> = remaining.iter().map(|step| step.json()).collect();
            print_json(&json!({"done": done, "failed": failures, "remaining": remaining}))?;
        } else {
            print(&summary(&plan, failures, &remaining))?;
        }
        if failures + remaining.len() > 0 { Err(Failure::Found) } else { Ok(()) }
    }
}

fn with_failure(step: &Step, failure: Option<String>) -> serde_json::Value {
    let mut json = step.json();
    json["error"] = json!(failure);
    json
}

fn summary(plan: &Plan, failures: usize, remaining: &[&Step]) -> String {
    if plan.steps.is_empty() {
        return "Nothing to do.\n".to_owned();
    }
    let mut lines = Vec::new();
    if !remaining.is_empty() {
        lines.push("Not done:".to_owned());
        lines.extend(remaining.iter().map(ToString::to_string));
        lines.push(String::new());
    }
    let failed = if failures > 0 { format!(", {failures} failed") } else { String::new() };
    let left = if remaining.is_empty() { String::new() } else { format!(", {} not done", remaining.len()) };
    lines.push(format!("{} done{failed}{left}.\n", plan.pending() - failures));
    lines.join("\n")
}
