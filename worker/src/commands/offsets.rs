//! `pinion offsets`

mod page;

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::output::{print, print_json};
use super::{Failure, Global, since};
use crate::clock::now_ms;
use crate::operations::Context;
use crate::operations::offsets::{Target, Which, offsets, rewind, would_rewind};

pub(super) use self::page::oldest;

/// How long may be waited for the oldest events.
const PEEK_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinion offsets                                  each partition: position, end, what is behind and how old it is
  pinion offsets --topic 'shop.public.order*'     of some topics
  pinion offsets --rewind-to 2h                   says how many events would come again
  pinion offsets --rewind-to 2h --yes             lets them come again
  pinion offsets --rewind-to 2025-11-21T13:00:00Z --topic shop.public.orders --yes
  pinion offsets --from-start --yes               all that Kafka still has
  pinion offsets --job customers_flat             of a job with from = \"event\", which has a consumer group of its own

Events that come again only make documents be read again: nothing goes back to an older state. A time is compared with when
Kafka got an event, which is after its commit. The feed is only ever moved back: a partition that is not that far yet stays.
No worker need be stopped: they let go of the feed, within seconds, and take it up again from there; a worker that was killed
is a member of the group for 10 s more. Where nobody follows the feed, it is moved at once. If the command is killed in the
middle, the feed stays paused, and `pinion status` says so: run the command again, or `pinion resume 'change feed'`.

The exit code is 1 if events were removed by Kafka before they were done, or a rewind failed.")]
pub(crate) struct Offsets {
    /// Of this job from events, instead of the change feed's.
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// Only topics like this one; * stands for any text.
    #[arg(long, value_name = "PATTERN")]
    topic: Option<String>,
    /// Let all events come again since this time (RFC 3339, or a day), or of so long (30s, 5min, 2h, 7d).
    #[arg(long, value_name = "TIME", value_parser = since::since, conflicts_with = "from_start")]
    rewind_to: Option<since::Since>,
    /// Let all events come again that Kafka still has.
    #[arg(long)]
    from_start: bool,
    /// Do it; without this it is only said what would be done.
    #[arg(long)]
    yes: bool,
}

impl Offsets {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let context = global.context()?;
        let target = match self.rewind_to {
            Some(since) => Some(Target::Time(since.at_ms(now_ms()))),
            None => self.from_start.then_some(Target::Start),
        };
        match target {
            Some(target) if self.yes => self.rewind(global, &context, target).await,
            Some(target) => {
                let moves = would_rewind(&context, self.which(), target).await?;
                let text =
                    if global.json { None } else { Some(page::moves(&moves, "would come again; --yes does it")) };
                tell(text, &json!({"would_be": "rewound", "moves": moves}))
            }
            None if self.yes => {
                let error = anyhow::anyhow!("--yes is for --rewind-to or --from-start");
                Err(Failure::Usage(error))
            }
            None => self.show(global, &context).await,
        }
    }

    fn which(&self) -> Which<'_> {
        Which { job: self.job.as_deref(), topics: self.topic.as_deref() }
    }

    async fn show(&self, global: &Global, context: &Context) -> Result<(), Failure> {
        let partitions = offsets(context, self.which(), PEEK_MAX).await?;
        let text = if global.json { None } else { Some(page::offsets(&partitions, now_ms())) };
        tell(text, &json!({"at": now_ms(), "partitions": partitions}))?;
        let has_lost = partitions.iter().any(|partition| partition.offsets.lost > 0);
        if has_lost { Err(Failure::Found) } else { Ok(()) }
    }

    async fn rewind(&self, global: &Global, context: &Context, target: Target) -> Result<(), Failure> {
        let rewound = rewind(context, self.which(), target).await?;
        let text = if global.json { None } else { Some(page::rewound(&rewound)) };
        tell(text, &json!(rewound))?;
        if rewound.late.is_empty() { Ok(()) } else { Err(Failure::Found) }
    }
}

fn tell(text: Option<String>, json: &serde_json::Value) -> Result<(), Failure> {
    match text {
        Some(text) => print(&text)?,
        None => print_json(json)?,
    }
    Ok(())
}
