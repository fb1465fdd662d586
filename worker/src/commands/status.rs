//! `pinion status`

mod page;

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;

use super::output::{clear_terminal, print, print_json};
use super::{Failure, Global};
use crate::operations::status::status;

pub(super) use self::page::{dead_letters, state_word};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinion status                          queues, workers, sources, dead letters
  pinion status --watch                  again every 2 s, until Ctrl-C
  pinion status --json | jq .problems    for scripts

Whatever part is down, the others are shown. The exit code is 1 if anything keeps jobs from being worked off: a part
that is down or missing, a job that is paused or broken, one that no live worker has, a change feed that stands still, is
silent or has lost events. Dead letters are none of that.")]
pub(crate) struct Status {
    /// Look again every 2 s.
    #[arg(long)]
    watch: bool,
}

impl Status {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let context = global.context()?;
        let mut ticks = tokio::time::interval(WATCH_EVERY);
        loop {
            ticks.tick().await;
            let status = status(&context).await;
            if global.json && self.watch {
                // A line a look, for scripts that read along.
                print(&(serde_json::to_string(&status).map_err(anyhow::Error::from)? + "\n"))?;
            } else if global.json {
                print_json(&status)?;
            } else {
                if self.watch && std::io::stdout().is_terminal() {
                    clear_terminal()?;
                }
                print(&page::page(&status))?;
            }
            if !self.watch {
                return if status.problems.is_empty() { Ok(()) } else { Err(Failure::Found) };
            }
        }
    }
}
