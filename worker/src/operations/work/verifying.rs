//! Verification while the workers run: `[verify]`. Each job has its turn once in a while, and one worker takes it.

use std::time::Duration;

use pinion_schemas::{From, StateIndex};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::clock::now_ms;
use crate::config::Verify;
use crate::error::Fault;
use crate::metrics::{Metrics, job_label, verdict_label};
use crate::operations::Context;
use crate::operations::verify::{Verified, VerifyOptions, patience, verify};
use crate::ports::Index as _;

/// How often it is looked whose turn it is; more often where turns come more often.
const LOOK: Duration = Duration::from_secs(10);
/// A message about differences is not waited for longer.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);
const EXAMPLES_MAX: usize = 10;

/// A job's last turn: a document beside the results.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    /// The job.
    pub(crate) job: String,
    /// When it began, in milliseconds since 1970.
    pub(crate) started_at: u64,
    /// The worker that took it.
    pub(crate) worker: String,
}

/// Verifies jobs until nobody waits for it any more.
pub(super) async fn run(context: &Context, jobs: &[String], worker: &str, metrics: &Metrics) {
    let Some(settings) = &context.config.verify else { return std::future::pending().await };
    let every = Duration::from_secs(settings.every_s);
    loop {
        tokio::time::sleep(LOOK.min(every)).await;
        for job in jobs {
            if context.definition(job).is_ok_and(|definition| definition.from == From::Event) {
                continue;
            }
            match take_turn(context, job, every, worker).await {
                Ok(true) => take(context, settings, job, metrics).await,
                Ok(false) => {}
                Err(fault) => tracing::debug!(job, %fault, "whether it is to be verified is not known"),
            }
        }
    }
}

/// Whether it is the job's turn, and no other worker has taken it.
async fn take_turn(context: &Context, job: &str, every: Duration, worker: &str) -> Result<bool, Fault> {
    let (index, document) = (context.state_index(StateIndex::Verifications), format!("turn:{job}"));
    let kept = context.elasticsearch.state(&index, &document).await?;
    let now = now_ms();
    let last = kept.as_ref().and_then(|kept| kept.source["started_at"].as_u64());
    if last.is_some_and(|last| u128::from(now.saturating_sub(last)) < every.as_millis()) {
        return Ok(false);
    }
    let turn = Turn { job: job.to_owned(), started_at: now, worker: worker.to_owned() };
    context.elasticsearch.put_state(&index, &document, &json!(turn), kept.map(|kept| kept.seq_no)).await
}

async fn take(context: &Context, settings: &Verify, job: &str, metrics: &Metrics) {
    let Ok(definition) = context.definition(job) else { return };
    let options = VerifyOptions {
        index: None,
        range: None,
        full: settings.full,
        sample: settings.sample,
        patience: patience(definition),
        ids_per_second_max: Some(settings.ids_per_second_max),
        gentle: true,
        repair: settings.repair,
        examples_max: EXAMPLES_MAX,
    };
    tracing::info!(job, full = options.full, "verifying");
    let verified = match verify(context, job, &options, &|_| {}).await {
        Ok(verified) => verified,
        Err(error) => return tracing::warn!(job, error = format!("{error:#}"), "could not be verified"),
    };
    count(&verified, &options, metrics);
    if verified.is_true() {
        return tracing::info!(job, ids = verified.source_ids, seconds = verified.seconds, "verified");
    }
    let text = told(&verified);
    tracing::error!(job, wrong = verified.wrong(), "{text}");
    if let Some(webhook) = &settings.webhook
        && let Err(reason) = post(webhook.expose(), &text).await
    {
        tracing::warn!(job, reason, "verify.webhook was not told");
    }
}

fn count(verified: &Verified, options: &VerifyOptions, metrics: &Metrics) {
    let label = job_label(&verified.job);
    metrics.verified.get_or_create(&label).inc_by(verified.source_ids);
    for (kind, of_them) in verified.kinds() {
        metrics.verify_wrong.get_or_create(&verdict_label(&verified.job, kind)).set(of_them.count as i64);
    }
    if options.full && options.sample >= 1.0 && verified.stopped.is_none() {
        metrics.verify_full.get_or_create(&label).set(now_ms() as f64 / 1000.0);
    }
}

/// What people are told of differences.
fn told(verified: &Verified) -> String {
    let kinds = verified.kinds().into_iter().filter(|(_, of_them)| of_them.count > 0).map(|(kind, of_them)| {
        let more = if of_them.count > of_them.examples.len() as u64 { " …" } else { "" };
        format!("{} {kind} ({}{more})", of_them.count, of_them.examples.join(" "))
    });
    let kinds: Vec<String> = kinds.collect();
    let repaired =
        if verified.repaired > 0 { format!("; {} enqueued to be repaired", verified.repaired) } else { String::new() };
    let stopped = verified.stopped.as_ref().map(|stopped| format!("; stopped: {stopped}")).unwrap_or_default();
    format!("pinion verify {}: not true to the source: {}{repaired}{stopped}", verified.job, kinds.join(", "))
}

/// Sends a message as Slack takes it. The error names no address, which may be a secret.
async fn post(webhook: &str, text: &str) -> Result<(), String> {
    let client = reqwest::Client::builder().timeout(WEBHOOK_TIMEOUT).build().map_err(|error| error.to_string())?;
    let sent = client.post(webhook).json(&json!({"text": text})).send().await;
    let answer = sent.map_err(|error| error.without_url().to_string())?;
    if answer.status().is_success() { Ok(()) } else { Err(format!("it answers {}", answer.status())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::diff::Counted;

    #[test]
    fn people_are_told_what_is_wrong() {
        let verified = Verified {
            job: "orders".to_owned(),
            missing: Counted { count: 3, examples: vec!["1".to_owned(), "2".to_owned()] },
            different: Counted { count: 1, examples: vec!["7".to_owned()] },
            repaired: 4,
            ..Verified::default()
        };
        assert_eq!(
            told(&verified),
            "pinion verify orders: not true to the source: 3 missing (1 2 …), 1 different (7); 4 enqueued to be repaired"
        );
    }
}
