//! `pinion rebuild`

use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::output::{counted, print, print_json, print_line, progress, set_total, set_waiting, thousands};
use super::{Failure, Global};
use crate::operations::Context;
use crate::operations::rebuild::{
    Event, Planned, RebuildOptions, Rebuilt, adjust, cancel, finish, planned, rebuild, rollback,
};
use crate::operations::verify;

/// How often progress is printed as JSON.
const PRINT_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinion rebuild orders --dry-run               what would be done, and why
  pinion rebuild orders                         a new index beside the old one, loaded, compared, and then the alias moves
  pinion rebuild orders customers               several at once
  pinion rebuild orders --ids-per-second 5000   gentle on the replica; from another terminal: changes the pace under way
  pinion rebuild orders --pause                 from any terminal; --resume goes on, --cancel gives up
  pinion rebuild orders --rollback              the alias goes back to the old index, which has had all writes meanwhile
  pinion rebuild orders --finish                the old index is deleted: there is no way back then

The new index is made from the job's folder as it is here: its mapping.json, and documents by its document.sql. Workers load it
and go on with live writes to both, each by its own query. Call this with the new files first, give them to the workers before
--finish. Whatever ends in the middle, this command or a worker: call it again and it goes on. Needs workers that run.
The exit code is 0 if what was asked for is done; without another word that is the alias, which has moved then.")]
pub(crate) struct RebuildCommand {
    /// The jobs.
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<String>,
    /// Only say what would be done.
    #[arg(long, group = "what")]
    dry_run: bool,
    /// Compare all whole documents with the source before the alias moves, not only which there are and 10,000 of them.
    #[arg(long, group = "what")]
    full: bool,
    /// Pause the loading; live writes go on to both indexes.
    #[arg(long, group = "what")]
    pause: bool,
    /// Go on loading.
    #[arg(long, group = "what")]
    resume: bool,
    /// Give up before the alias has moved: the new index is deleted.
    #[arg(long, group = "what")]
    cancel: bool,
    /// Give the alias back to the old index.
    #[arg(long, group = "what")]
    rollback: bool,
    /// Delete the old index, once the alias has moved.
    #[arg(long, group = "what")]
    finish: bool,
    /// Load no more ids in a second; 0 takes the limit away.
    #[arg(long, value_name = "N", conflicts_with_all = ["dry_run", "cancel", "rollback", "finish"])]
    ids_per_second: Option<u32>,
}

impl RebuildCommand {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let context = global.context()?;
        // A misspelt name does not begin with the others.
        for job in &self.jobs {
            context.definition(job)?;
        }
        let done = join_all(self.jobs.iter().map(|job| self.one(&context, job, global.json))).await;
        let mut failures = done.into_iter().filter_map(Result::err).peekable();
        if self.jobs.len() == 1 || failures.peek().is_none() {
            return failures.next().map_or(Ok(()), |error| Err(error.into()));
        }
        let told: Vec<String> = failures.map(|error| format!("{error:#}")).collect();
        Err(anyhow::anyhow!("{}", told.join("\n")).into())
    }

    async fn one(&self, context: &Context, job: &str, json: bool) -> anyhow::Result<()> {
        let rate = self.ids_per_second.map(|rate| Some(rate).filter(|rate| *rate > 0));
        if self.dry_run {
            let planned = planned(context, job).await?;
            return if json { print_json(&planned) } else { print(&plan_page(&planned)) };
        }
        if self.pause || self.resume {
            let rebuild = adjust(context, job, Some(self.pause), rate).await?;
            let does = if self.pause { "is paused; live writes go to both indexes" } else { "goes on" };
            return say(json, job, &format!("the loading of {} {does}", rebuild.new));
        }
        if self.cancel {
            let deleted = cancel(context, job).await?;
            return say(json, job, &format!("given up, {deleted} is deleted"));
        }
        if self.finish {
            let deleted = finish(context, job).await?;
            return say(json, job, &format!("finished, {deleted} is deleted"));
        }
        if self.rollback {
            let rebuild = rollback(context, job).await?;
            let (old, new) = (&rebuild.old, &rebuild.new);
            let text = format!(
                "the alias is {old}'s again; {new} is written to as before: `pinion rebuild {job}` moves it once more, `--cancel` deletes it"
            );
            return say(json, job, &text);
        }
        let options = RebuildOptions { full: self.full, ids_per_s_max: rate };
        let shown = Shown::new(job, json, self.jobs.len() == 1);
        let rebuilt = rebuild(context, job, &options, &|event| shown.event(event)).await;
        shown.bar.finish_and_clear();
        let rebuilt = rebuilt?;
        if json { print_line(&json!({"job": job, "rebuilt": rebuilt})) } else { print(&page(&rebuilt)) }
    }
}

fn say(json: bool, job: &str, text: &str) -> anyhow::Result<()> {
    if json { print_line(&json!({"job": job, "done": text})) } else { print(&format!("{job}: {text}\n")) }
}

/// How far it is: a bar on a terminal, lines where there is none or there are several jobs, JSON for scripts.
struct Shown {
    job: String,
    json: bool,
    bar: ProgressBar,
    lines: bool,
    state: Mutex<State>,
}

struct State {
    now: &'static str,
    printed_at: Option<Instant>,
    /// When the first ids were seen, and how many there were.
    began: Option<(Instant, u64)>,
}

impl Shown {
    fn new(job: &str, json: bool, alone: bool) -> Self {
        let bar = progress(None, json || !alone);
        let lines = !json && bar.is_hidden();
        Self {
            job: job.to_owned(),
            json,
            bar,
            lines,
            state: Mutex::new(State { now: "", printed_at: None, began: None }),
        }
    }

    fn event(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::Now(what) => {
                set_waiting(&self.bar, what.to_owned());
                self.now(&mut state, what, json!({}));
            }
            Event::Loading { ids, expected, paused, alone } => {
                let what = match (paused, alone) {
                    (true, _) => "loading (paused by an operator)",
                    (_, true) => "loading (no worker runs the job: start one)",
                    _ => "loading",
                };
                let (since, first) = *state.began.get_or_insert((Instant::now(), ids));
                let rate = (ids - first.min(ids)) as f64 / since.elapsed().as_secs_f64().max(0.001);
                let left = expected.saturating_sub(ids) as f64 / rate.max(0.001);
                if what == "loading" {
                    set_total(&self.bar, Some(expected.max(ids)));
                    self.bar.set_position(ids);
                } else {
                    set_waiting(&self.bar, what.to_owned());
                }
                let seconds_left = (rate > 0.0).then_some(left.round());
                self.now(
                    &mut state,
                    what,
                    json!({"ids": ids, "expected": expected, "ids_per_s": rate.round(), "s_left": seconds_left}),
                );
            }
            Event::Verify(verify::Event::Expected(rows)) => {
                set_total(&self.bar, Some(2 * rows).filter(|total| *total > 0));
                self.bar.set_position(0);
            }
            Event::Verify(verify::Event::Looked(ids)) => self.bar.inc(ids),
            Event::Verify(verify::Event::Waiting(ids)) => {
                set_waiting(&self.bar, format!("{} to be looked at again", counted(ids as u64, "difference")));
            }
        }
    }

    /// Prints what is done now: each new thing, and how far it is once a second.
    fn now(&self, state: &mut State, what: &'static str, more: Value) {
        let is_new = state.now != what;
        let is_due = self.json && state.printed_at.is_none_or(|printed| printed.elapsed() >= PRINT_EVERY);
        if !is_new && !is_due {
            return;
        }
        state.now = what;
        state.printed_at = Some(Instant::now());
        let printed = if self.json {
            let mut line = json!({"job": self.job, "now": what});
            if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
                line.extend(more.clone());
            }
            print_line(&line)
        } else if self.lines {
            print(&format!("{}: {what}\n", self.job))
        } else {
            Ok(())
        };
        if let Err(error) = printed {
            tracing::debug!(%error, "progress not printed");
        }
    }
}

fn plan_page(planned: &Planned) -> String {
    let Planned { job, old, new, expected, reasons } = planned;
    let why = if reasons.is_empty() {
        "nothing asks for it: what has changed, if anything, can be applied in place (`pinion plan`)\n".to_owned()
    } else {
        format!(
            "what can't be changed in place:\n{}",
            reasons.iter().map(|reason| format!("  ! {reason}\n")).collect::<String>()
        )
    };
    format!(
        "{job}: would build {new} from about {} and move the alias from {old} to it\n{why}",
        counted(*expected, "row")
    )
}

fn page(rebuilt: &Rebuilt) -> String {
    let Rebuilt { job, index, old, ids, verified, sampled, seconds, .. } = rebuilt;
    let compared = if verified.full { "compared value by value" } else { "compared by ids" };
    let mut text = format!(
        "{job}: the alias is {index}'s now ({} loaded, {} and {} {compared}; {seconds:.0} s in all)\n",
        counted(*ids, "id"),
        counted(verified.source_ids, "row"),
        counted(verified.index_ids, "document"),
    );
    if let Some(sampled) = sampled {
        text.push_str(&format!("{} were compared value by value\n", counted(sampled.index_ids, "document")));
    }
    if verified.unwritable.count > 0 {
        text.push_str(&format!("{} make no document: dead letters\n", thousands(verified.unwritable.count)));
    }
    text.push_str(&format!(
        "{old} is written to as well, until `pinion rebuild {job} --finish` deletes it; `--rollback` goes back to it\n"
    ));
    text
}
