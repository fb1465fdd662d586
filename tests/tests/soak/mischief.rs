//! What goes wrong meanwhile: workers come and are killed, Connect is killed, the broker of Kafka restarts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pinion_tests::{Pinion, PrivateKafka, Worker, eventually};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Tally;
use pinion_tests::Dice;

const WORKERS_MAX: usize = 4;
/// The broker is restarted meanwhile, and each try may find it away.
const REWIND_TIMEOUT: Duration = Duration::from_secs(300);

/// The workers, of which some are ended every few seconds.
pub(super) struct Workers<'a> {
    pinion: &'a Pinion,
    tally: &'a Tally,
    running: Vec<Worker>,
    ending: JoinSet<Result<i32>>,
}

impl<'a> Workers<'a> {
    pub(super) async fn start(pinion: &'a Pinion, tally: &'a Tally) -> Result<Self> {
        let mut workers = Self { pinion, tally, running: Vec::new(), ending: JoinSet::new() };
        workers.at_least(2).await?;
        Ok(workers)
    }

    pub(super) fn running(&self) -> &[Worker] {
        &self.running
    }

    pub(super) async fn at_least(&mut self, count: usize) -> Result<()> {
        while self.running.len() < count {
            self.running.push(self.pinion.work(&[]).await?);
        }
        Ok(())
    }

    /// Starts, kills and ends workers until then.
    pub(super) async fn come_and_go(&mut self, mut dice: Dice, until: Instant) -> Result<()> {
        while Instant::now() < until {
            sleep(Duration::from_millis(dice.of(1500..=5000).unsigned_abs())).await;
            let one = usize::try_from(dice.of(0..=self.running.len() as i64 - 1))?;
            if self.running.len() == WORKERS_MAX || (self.running.len() > 1 && dice.percent(50)) {
                let worker = self.running.swap_remove(one);
                if dice.percent(60) {
                    self.tally.add("workers killed with -9");
                    worker.kill().await?;
                } else {
                    self.tally.add("workers ended in good order");
                    self.ending.spawn(worker.terminate());
                }
            } else {
                self.tally.add("workers added");
                self.at_least(self.running.len() + 1).await?;
            }
        }
        Ok(())
    }

    /// Ends all of them in good order.
    pub(super) async fn end(mut self) -> Result<()> {
        for worker in self.running {
            self.ending.spawn(worker.terminate());
        }
        while let Some(code) = self.ending.join_next().await {
            ensure!(code?? == 0, "a worker did not end in good order");
        }
        Ok(())
    }
}

/// Lets the last events come again, once, in the middle of it all. A broker that is away then, or workers that come and go, only
/// make it another try.
pub(super) async fn rewind(pinion: &Pinion, tally: &Tally, at: Instant) -> Result<()> {
    tokio::time::sleep_until(at).await;
    eventually("the feed to be rewound", REWIND_TIMEOUT, async || {
        let rewound = pinion.command(&["offsets", "--rewind-to", "20s", "--yes", "--json"]).await?;
        let moves = rewound.json().with_context(|| rewound.stderr.clone())?["moves"].as_array().map_or(0, Vec::len);
        ensure!(moves > 0, "no partition was moved: {}", rewound.stdout);
        Ok(Some(()))
    })
    .await?;
    tally.add("the feed rewound by 20 s");
    Ok(())
}

/// Kills Connect, so that events come again, and restarts the broker, in turn, until then; each at least once.
pub(super) async fn servers(kafka: &PrivateKafka, mut dice: Dice, tally: &Tally, until: Instant) -> Result<()> {
    for turn in 0.. {
        let left = until.saturating_duration_since(Instant::now());
        if turn > 1 && left.is_zero() {
            return Ok(());
        }
        sleep(Duration::from_millis(dice.of(4000..=12_000).unsigned_abs()).min(left)).await;
        if turn % 2 == 0 {
            tally.add("Connect killed with -9");
            kafka.connect().kill()?;
            kafka.connect().start().await?;
        } else {
            tally.add("the broker of Kafka restarted");
            kafka.broker().stop().await?;
            kafka.broker().start().await?;
        }
    }
    Ok(())
}
