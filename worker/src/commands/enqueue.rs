//! `pinion enqueue`

use std::os::fd::AsFd as _;

use anyhow::Context as _;
use clap::Args;
use pinion_client::Lane;
use tokio::io::BufReader;

use super::output::{counted, print, print_json, progress, set_total};
use super::range::Range;
use super::{Failure, Global};
use crate::operations::enqueue::{EnqueueOptions, Enqueued, Event, Ids, enqueue};

/// Ids in a message where all are read from the source.
const IDS_PER_MESSAGE_OF_ALL: u16 = 100;

/// Ids that were not confirmed and are named to people; `--json` names more.
const NAMED_MAX: usize = 20;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinion enqueue orders 42 43                         these
  psql -Atc 'SELECT id FROM orders WHERE …' | pinion enqueue orders -
                                                      one id a line, from standard input
  pinion enqueue orders --all                         all that the source has, into the low queue
  pinion enqueue orders --all --by updated_at --from 2025-11-20T18:00:00
                                                      those that have changed since then, in UTC
  pinion enqueue orders --low - < ids.txt             live changes overtake them

The ids of --all come from the table whose column document.sql selects as _id, read page by page from a server that shows
everything committed so far. A line that is no id is told with its number; the others go on, and the exit code is 1.
It returns when the broker has confirmed every message. Enqueuing an id twice does no harm.")]
pub(crate) struct Enqueue {
    /// The job.
    #[arg(value_name = "JOB")]
    job: String,
    /// The documents' ids; `-` alone reads them from standard input, one a line.
    #[arg(value_name = "ID", allow_negative_numbers = true, required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All ids that the source has, into the low queue.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    range: Range,
    /// Into the low queue, which live changes overtake.
    #[arg(long)]
    low: bool,
    /// How many ids one message carries [default: 1, with --all 100].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    ids_per_message: Option<u16>,
}

impl Enqueue {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let context = global.context()?;
        let from_stdin = self.ids == ["-"];
        if !from_stdin && self.ids.iter().any(|id| id == "-") {
            let error = anyhow::anyhow!("`-` stands alone: give ids as arguments, or on standard input");
            return Err(Failure::Usage(error));
        }
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
        let mut stdin = BufReader::with_capacity(1 << 16, tokio::fs::File::from_std(stdin.into()));
        let range = self.range.into_columns()?;
        if range.is_some() && !self.all {
            return Err(Failure::Usage(anyhow::anyhow!("--from and --to choose among --all ids of the source")));
        }
        let ids = match () {
            () if self.all => Ids::All(range),
            () if from_stdin => Ids::Lines(&mut stdin),
            () => Ids::Given(&self.ids),
        };
        let per_message = self.ids_per_message.unwrap_or(if self.all { IDS_PER_MESSAGE_OF_ALL } else { 1 });
        let options = EnqueueOptions {
            lane: if self.all || self.low { Lane::Low } else { Lane::Live },
            ids_per_message: usize::from(per_message),
        };
        let bar = progress(None, global.json);
        let tell = |event| match event {
            Event::Expected(total) => set_total(&bar, Some(total).filter(|total| *total > 0)),
            Event::Confirmed(ids) => bar.inc(ids),
            Event::BadLine(line, problem) => bar.suspend(|| eprintln!("pinion: line {line}: {problem}")),
        };
        let enqueued = enqueue(&context, &self.job, ids, options, &tell).await;
        bar.finish_and_clear();
        let enqueued = enqueued?;
        if global.json {
            print_json(&enqueued)?;
        } else {
            print(&told(&enqueued))?;
        }
        if enqueued.is_complete() { Ok(()) } else { Err(Failure::Found) }
    }
}

fn told(enqueued: &Enqueued) -> String {
    let Enqueued { ids, seconds, bad_lines, unconfirmed, unconfirmed_ids, stopped, .. } = enqueued;
    let rate = *ids as f64 / seconds.max(0.001);
    let mut text = format!("{ids} {} enqueued in {seconds:.1} s ({rate:.0}/s)\n", if *ids == 1 { "id" } else { "ids" });
    if *bad_lines > 0 {
        text.push_str(&format!("{} left out: no ids of this job\n", counted(*bad_lines, "line")));
    }
    if *unconfirmed > 0 {
        let named = unconfirmed_ids.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(" ");
        let more = if *unconfirmed > NAMED_MAX as u64 { " …" } else { "" };
        text.push_str(&format!("{} not confirmed: {named}{more}\n", counted(*unconfirmed, "id")));
    }
    if let Some(stopped) = stopped {
        text.push_str(&format!(
            "stopped: {stopped}\nwhat comes after was not sent; send all again, twice does no harm\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_and_what_was_not() {
        let enqueued = Enqueued { ids: 200_000, seconds: 4.25, ..Enqueued::default() };
        assert_eq!(told(&enqueued), "200000 ids enqueued in 4.2 s (47059/s)\n");
        let enqueued = Enqueued {
            ids: 1,
            bad_lines: 2,
            unconfirmed: 21,
            unconfirmed_ids: (1..=21).map(|id| id.to_string()).collect(),
            stopped: Some("the broker did not take the message".to_owned()),
            ..Enqueued::default()
        };
        insta::assert_snapshot!(told(&enqueued), @r"
        1 id enqueued in 0.0 s (1000/s)
        2 lines left out: no ids of this job
        21 ids not confirmed: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 …
        stopped: the broker did not take the message
        what comes after was not sent; send all again, twice does no harm
        ");
    }
}
