//! `pinion pause` and `pinion resume`

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::output::{counted, print, print_json};
use super::status::state_word;
use super::{Failure, Global};
use crate::operations::Context;
use crate::operations::pause::{Followed, Follower, followed, hold, operator};

/// How long the workers have to follow: they look every two seconds, and first finish what they have.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinion pause orders                                   until `pinion resume orders`
  pinion pause 'change feed'                            the feed takes no events, the queues go on
  pinion pause orders --reason 'the disk is full'       `pinion status` shows the reason to the others
  pinion pause orders --no-wait                         does not wait for the workers

No worker takes messages of a paused job, those that start later neither; its messages stay in their queues. The
command returns when every live worker has said so, and fails if one did not within 30 s. The pause holds even then.")]
pub(crate) struct Pause {
    /// The job.
    #[arg(value_name = "JOB")]
    job: String,
    /// Why, for the others.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not wait until the workers have followed.
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinion resume orders              the workers take its messages again
  pinion resume orders --no-wait    does not wait for the workers

The command returns when every live worker has said that it goes on, and fails if one did not within 30 s.")]
pub(crate) struct Resume {
    /// The job.
    #[arg(value_name = "JOB")]
    job: String,
    /// Do not wait until the workers have followed.
    #[arg(long)]
    no_wait: bool,
}

impl Pause {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        switch(global, &self.job, true, self.reason.as_deref(), self.no_wait).await
    }
}

impl Resume {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        switch(global, &self.job, false, None, self.no_wait).await
    }
}

async fn switch(global: &Global, job: &str, paused: bool, reason: Option<&str>, no_wait: bool) -> Result<(), Failure> {
    let context: Context = global.context()?;
    let before = hold(&context, job, paused, &operator(), reason).await?;
    let was_paused = before.is_some_and(|before| before.paused);
    let followed = if no_wait { None } else { Some(followed(&context, job, paused, PATIENCE).await?) };
    if global.json {
        print_json(&json!({"job": job, "paused": paused, "was_paused": was_paused, "workers": followed}))?;
    } else {
        print(&told(job, paused, was_paused, followed.as_ref()))?;
    }
    match followed {
        Some(followed) if !followed.late.is_empty() => Err(Failure::Found),
        _ => Ok(()),
    }
}

fn told(job: &str, paused: bool, was_paused: bool, followed: Option<&Followed>) -> String {
    let state = if paused { "paused" } else { "resumed" };
    let mut text = match (paused, was_paused) {
        (true, true) => format!("{job} was paused already\n"),
        (false, false) => format!("{job} was not paused\n"),
        _ => format!("{job} is {state}\n"),
    };
    let Some(Followed { done, late }) = followed else { return text };
    if done.is_empty() && late.is_empty() {
        text.push_str("no live worker has it; it holds for those that start\n");
    }
    if !done.is_empty() {
        text.push_str(&format!("{} followed\n", counted(done.len() as u64, "worker")));
    }
    for Follower { worker, state, reason } in late {
        let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let (patience_s, state) = (PATIENCE.as_secs(), state_word(state));
        text.push_str(&format!(
            "{worker} did not follow within {patience_s} s: there {job} is {state}{reason}
"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::JobState;

    #[test]
    fn who_followed_and_who_did_not() {
        let follower = |worker: &str, state, reason: Option<&str>| Follower {
            worker: worker.to_owned(),
            state,
            reason: reason.map(str::to_owned),
        };
        let followed = Followed {
            done: vec![follower("web1-1", JobState::Paused, None)],
            late: vec![follower("web2-7", JobState::Waiting, Some("RabbitMQ is away: refused"))],
        };
        insta::assert_snapshot!(told("orders", true, false, Some(&followed)), @r"
        orders is paused
        1 worker followed
        web2-7 did not follow within 30 s: there orders is waiting: RabbitMQ is away: refused
        ");
        insta::assert_snapshot!(told("orders", false, false, Some(&Followed::default())), @r"
        orders was not paused
        no live worker has it; it holds for those that start
        ");
    }
}
