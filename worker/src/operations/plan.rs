//! What would change on the broker and in Elasticsearch: a list of steps, each of which can be carried out.

use std::fmt;

use pinion_schemas::JobDefinition;
use serde_json::{Value, json};

use super::Context;
use super::indexes::{self, Live};
use super::topology::{Broker, Declaration, Presence, wanted};
use crate::clock::now_ms;
use crate::elasticsearch::Method;

/// What kind of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Something is missing and will be made.
    Create,
    /// Something is changed in place.
    Change,
    /// Can't be done in place: `pinion rebuild` makes a new index.
    Rebuild,
    /// Can't be done before somebody has mended something.
    Blocked,
}

impl Sign {
    fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Rebuild => "rebuild",
            Self::Blocked => "blocked",
        }
    }

    fn symbol(self) -> char {
        match self {
            Self::Create => '+',
            Self::Change => '~',
            Self::Rebuild | Self::Blocked => '!',
        }
    }
}

/// One difference between what is wanted and what there is.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What kind.
    pub sign: Sign,
    /// The job that it is about, if it is about one.
    pub job: Option<String>,
    /// The name of what is made or changed, on its server.
    pub name: String,
    /// What is made or changed.
    pub what: String,
    /// The parts of it, and for what can't be done what to do.
    pub details: Vec<String>,
    /// How it is carried out; `None` for what can't be done here.
    pub action: Option<Action>,
}

/// How a step is carried out.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Declared on the broker.
    Declare(Declaration),
    /// Requests to Elasticsearch, one after the other.
    Requests(Vec<Request>),
}

/// A request to Elasticsearch.
#[derive(Debug, Clone)]
pub struct Request {
    /// HTTP method.
    pub method: Method,
    /// Path.
    pub path: String,
    /// Body.
    pub body: Value,
}

impl PartialEq for Request {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.body == other.body
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {} {}", self.sign.symbol(), self.what)?;
        for detail in &self.details {
            write!(f, "\n      {detail}")?;
        }
        Ok(())
    }
}

impl Step {
    /// A step that something has to be mended for first.
    pub fn blocked(job: Option<&str>, name: &str, what: String, details: Vec<String>) -> Self {
        Self { sign: Sign::Blocked, job: job.map(str::to_owned), name: name.to_owned(), what, details, action: None }
    }

    /// As `--json` shows it.
    pub fn json(&self) -> Value {
        json!({"step": self.sign.word(), "job": self.job, "name": self.name, "what": self.what, "details": self.details})
    }
}

/// All steps, in the order in which they are carried out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Compares what the job folders say with the servers. Changes nothing.
    ///
    /// # Errors
    /// A server can't be reached, or refuses the question.
    pub async fn make(context: &Context) -> anyhow::Result<Self> {
        let mut steps: Vec<Step> = context.jobs.iter().filter_map(broken).collect();
        let broker = Broker::connect(&context.config).await?;
        let declared = Self::broker_steps(context, &broker).await;
        broker.close().await;
        steps.extend(declared?);
        steps.extend(Self::index_steps(context).await?);
        Ok(Self { steps })
    }

    /// What is missing or different on the broker.
    ///
    /// # Errors
    /// The broker is away, or refuses the question.
    pub async fn broker_steps(context: &Context, broker: &Broker) -> anyhow::Result<Vec<Step>> {
        let mut steps = Vec::new();
        let jobs: Vec<&str> = context.definitions().map(|job| job.name.as_str()).collect();
        for declaration in wanted(&context.config, &jobs) {
            let presence = broker.look(&declaration).await?;
            steps.extend(broker_step(declaration, presence));
        }
        Ok(steps)
    }

    /// What is missing or different in Elasticsearch.
    ///
    /// # Errors
    /// Elasticsearch is away, or refuses the question.
    pub async fn index_steps(context: &Context) -> anyhow::Result<Vec<Step>> {
        let stamp = indexes::stamp(now_ms());
        let definitions: Vec<&JobDefinition> = context.definitions().collect();
        let mut steps = Vec::new();
        for template in indexes::templates(&context.config.names, &definitions) {
            let live = indexes::live_template(&context.elasticsearch, &template.name).await?;
            steps.extend(template.step(live.as_ref()));
        }
        for index in indexes::wanted(&context.config.names, &definitions) {
            let live: Live = indexes::live(&context.elasticsearch, &index.name).await?;
            steps.extend(index.steps(&live, &stamp));
        }
        Ok(steps)
    }

    /// How many steps `apply` can carry out.
    pub fn pending(&self) -> usize {
        self.steps.iter().filter(|step| step.action.is_some()).count()
    }

    /// As `--json` shows it.
    pub fn json(&self) -> Value {
        json!({
            "pending": self.pending(),
            "remaining": self.steps.len() - self.pending(),
            "steps": self.steps.iter().map(Step::json).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            return f.write_str("Nothing to do.");
        }
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        let count = |sign| self.steps.iter().filter(|step| step.sign == sign).count();
        let words = [
            (count(Sign::Create), "to create"),
            (count(Sign::Change), "to change"),
            (count(Sign::Rebuild), "for `pinion rebuild`"),
            (count(Sign::Blocked), "to be mended first"),
        ];
        let words: Vec<String> =
            words.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        write!(f, "\n{}.", words.join(", "))?;
        if self.pending() > 0 { write!(f, " `pinion apply` does it.") } else { Ok(()) }
    }
}

fn broken(job: &pinion_schemas::LoadedJob) -> Option<Step> {
    if job.definition.is_some() {
        return None;
    }
    let what = format!("the job {} can't be read and is left out", job.name);
    let details = job.findings.iter().map(ToString::to_string).collect();
    Some(Step::blocked(Some(&job.name), &job.name, what, details))
}

fn broker_step(declaration: Declaration, presence: Presence) -> Option<Step> {
    match presence {
        Presence::There => None,
        Presence::Missing => Some(Step {
            sign: Sign::Create,
            job: None,
            name: declaration.name().to_owned(),
            what: declaration.to_string(),
            details: Vec::new(),
            action: Some(Action::Declare(declaration)),
        }),
        Presence::Different(said) => {
            let (kind, mend) = match &declaration {
                Declaration::Exchange { .. } => ("exchange", "delete it, or choose another namespace"),
                Declaration::Queue { .. } => {
                    ("queue", "let its messages be worked off, delete it, and apply again; or choose another namespace")
                }
            };
            let what = format!("the {kind} {} is declared differently", declaration.name());
            Some(Step::blocked(None, declaration.name(), what, vec![said, mend.to_owned()]))
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
