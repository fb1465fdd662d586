//! `pinion dead`

mod page;

use clap::{Args, Subcommand};

use super::output::{counted, print, print_json, progress};
use super::since;
use super::{Failure, Global};
use crate::clock::now_ms;
use crate::operations::Context;
use crate::operations::dead::{Filter, count, drop_letters, list, replay, show};

#[derive(Debug, Args)]
pub(crate) struct Dead {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the newest dead letters, with counts by job and reason.
    #[command(after_help = "\
Examples:
  pinion dead list                                 the newest 20, of all jobs
  pinion dead list --job orders --since 2h         of the last two hours
  pinion dead list --reason refused --limit 1000")]
    List(List),
    /// Show one dead letter whole, with its message.
    #[command(after_help = "\
Examples:
  pinion dead show orders/42      the keys are those that `pinion dead list` shows")]
    Show(Show),
    /// Publish the messages of dead letters again.
    #[command(after_help = "\
Examples:
  pinion dead replay --job orders                  counts only
  pinion dead replay --job orders --yes            after the cause is mended
  pinion dead replay --id 42 --yes                 the letters of one document

A letter is deleted once the broker has confirmed its message. A document that fails again keeps its letter. Killed
half-way, the same command goes on where it was. Letters of a job that there is no longer can't be replayed.")]
    Replay(Change),
    /// Delete dead letters: their documents stay as they are.
    #[command(after_help = "\
Examples:
  pinion dead drop --job orders --reason wrong_id          counts only
  pinion dead drop --job orders --reason wrong_id --yes")]
    Drop(Change),
}

#[derive(Debug, Args)]
struct Which {
    /// Of this job.
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// With this reason: the words that `pinion dead list` counts by.
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Of this document.
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    id: Option<String>,
    /// Given up last within this time (30s, 5min, 2h, 7d) or since this date (2025-11-21, 2025-11-21T13:00:00Z).
    #[arg(long, value_name = "TIME", value_parser = since::since)]
    since: Option<since::Since>,
}

impl Which {
    fn filter(self) -> Filter {
        let since_ms = self.since.map(|since| since.at_ms(now_ms()));
        Filter { job: self.job, reason: self.reason, id: self.id, since_ms }
    }
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    which: Which,
    /// At most this many.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    limit: u32,
}

#[derive(Debug, Args)]
struct Show {
    /// The letter's key.
    #[arg(value_name = "KEY")]
    key: String,
}

#[derive(Debug, Args)]
struct Change {
    #[command(flatten)]
    which: Which,
    /// At most this many, the oldest first.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Do it; without this the letters are only counted.
    #[arg(long)]
    yes: bool,
}

impl Dead {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let context = global.context()?;
        match self.command {
            Command::List(list) => list.run(global, &context).await,
            Command::Show(show) => show.run(global, &context).await,
            Command::Replay(change) => change.replay(global, &context).await,
            Command::Drop(change) => change.drop(global, &context).await,
        }
    }
}

impl List {
    async fn run(self, global: &Global, context: &Context) -> Result<(), Failure> {
        let (counts, letters) = list(context, &self.which.filter(), self.limit).await?;
        if global.json {
            print_json(&serde_json::json!({"counts": counts, "letters": letters}))?;
        } else {
            print(&page::list(&counts, &letters, now_ms()))?;
        }
        Ok(())
    }
}

impl Show {
    async fn run(self, global: &Global, context: &Context) -> Result<(), Failure> {
        let Some(letter) = show(context, &self.key).await? else {
            let error = anyhow::anyhow!("there is no dead letter {}; `pinion dead list` shows the keys", self.key);
            return Err(Failure::Failed(error));
        };
        if global.json {
            print_json(&letter)?;
        } else {
            print(&page::letter(&letter))?;
        }
        Ok(())
    }
}

impl Change {
    async fn replay(self, global: &Global, context: &Context) -> Result<(), Failure> {
        let (yes, limit, filter) = (self.yes, self.limit, self.which.filter());
        let Some(letters) = counted_only(global, context, &filter, limit, yes, "replayed").await? else {
            return Ok(());
        };
        let bar = progress(Some(letters), global.json);
        let outcome = replay(context, &filter, limit, &|letters| bar.inc(letters)).await;
        bar.finish_and_clear();
        let replayed = outcome?;
        if global.json {
            print_json(&replayed)?;
        } else {
            print(&page::replayed(&replayed))?;
        }
        if replayed.refused.is_empty() { Ok(()) } else { Err(Failure::Found) }
    }

    async fn drop(self, global: &Global, context: &Context) -> Result<(), Failure> {
        let (yes, limit, filter) = (self.yes, self.limit, self.which.filter());
        let Some(letters) = counted_only(global, context, &filter, limit, yes, "dropped").await? else { return Ok(()) };
        let bar = progress(Some(letters), global.json);
        let outcome = drop_letters(context, &filter, limit, &|letters| bar.inc(letters)).await;
        bar.finish_and_clear();
        let dropped = outcome?;
        if global.json {
            print_json(&dropped)?;
        } else {
            print(&page::dropped(&dropped))?;
        }
        Ok(())
    }
}

/// How many letters there are to change; none where that was all that was asked.
async fn counted_only(
    global: &Global,
    context: &Context,
    filter: &Filter,
    limit: Option<u64>,
    yes: bool,
    done: &str,
) -> anyhow::Result<Option<u64>> {
    let counts = count(context, filter).await?;
    let letters = counts.total.min(limit.unwrap_or(u64::MAX));
    if yes {
        return Ok(Some(letters));
    }
    if global.json {
        print_json(&serde_json::json!({"would_be": done, "letters": letters, "counts": counts}))?;
    } else {
        let counts = page::counts(&counts, now_ms());
        let advice = if letters > 0 { "; --yes does it" } else { "" };
        print(&format!("{counts}{} would be {done}{advice}\n", counted(letters, "dead letter")))?;
    }
    Ok(None)
}
