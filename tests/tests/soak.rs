//! Random changes to the shop while everything around the feed breaks; at the end every document equals the query's answer.
//!
//! `make soak` takes its time, the short ones together a minute. A seed repeats what happens, not when.

mod changes;
pub(crate) mod dice;
mod mischief;
mod shop;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pinion_client::{Publisher, PublisherConfig};
use pinion_schemas::{Job, Names};
use pinion_tests::{PrivateKafka, Setup, eventually};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::changes::{Once, Transaction};
use self::dice::Dice;
use self::mischief::Workers;
use self::shop::{Connection, Kind, Shop};
use crate::shop::{applied, dead_letters};

/// Applications that change the shop at the same time.
const WRITERS: usize = 3;
/// How often each of them does.
const EVERY: Duration = Duration::from_millis(60);
/// How often it is told what has happened.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long the documents may take to be equal when nothing breaks any more.
const PATIENCE: Duration = Duration::from_secs(240);
const JOBS: [&str; 3] = ["orders", "customers", "merchants"];

/// A soak.
struct Plan {
    kind: Kind,
    seed: u64,
    duration: Duration,
    /// Whether an application's hooks send messages as well.
    with_queue: bool,
}

/// What has happened, and how often.
#[derive(Default)]
struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    fn add(&self, what: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        f.write_str(&counts.join(", "))
    }
}

/// A short one, of half a minute of changes.
async fn short(kind: Kind, with_queue: bool) -> Result<()> {
    Plan { kind, seed: seed()?, duration: Duration::from_secs(30), with_queue }.run().await
}

/// One of `PINION_SOAK_MINUTES`.
async fn long(kind: Kind, with_queue: bool) -> Result<()> {
    let minutes: f64 = std::env::var("PINION_SOAK_MINUTES").unwrap_or("10".to_owned()).parse()?;
    Plan { kind, seed: seed()?, duration: Duration::from_secs_f64(minutes * 60.0), with_queue }.run().await
}

#[tokio::test]
async fn short_postgres_with_queue_and_feed() -> Result<()> {
    short(Kind::Postgres, true).await
}

#[tokio::test]
async fn short_mariadb_with_the_feed_alone() -> Result<()> {
    short(Kind::Mariadb, false).await
}

#[tokio::test]
#[ignore = "takes PINION_SOAK_MINUTES: make soak"]
async fn long_postgres_with_the_feed_alone() -> Result<()> {
    long(Kind::Postgres, false).await
}

#[tokio::test]
#[ignore = "takes PINION_SOAK_MINUTES: make soak"]
async fn long_postgres_with_queue_and_feed() -> Result<()> {
    long(Kind::Postgres, true).await
}

#[tokio::test]
#[ignore = "takes PINION_SOAK_MINUTES: make soak"]
async fn long_mariadb_with_the_feed_alone() -> Result<()> {
    long(Kind::Mariadb, false).await
}

#[tokio::test]
#[ignore = "takes PINION_SOAK_MINUTES: make soak"]
async fn long_mariadb_with_queue_and_feed() -> Result<()> {
    long(Kind::Mariadb, true).await
}

/// `PINION_SOAK_SEED`, else a new one.
fn seed() -> Result<u64> {
    use std::hash::{BuildHasher, RandomState};
    match std::env::var("PINION_SOAK_SEED") {
        Ok(seed) => seed.parse().context("PINION_SOAK_SEED"),
        Err(_) => Ok(RandomState::new().hash_one(())),
    }
}

impl Plan {
    async fn run(&self) -> Result<()> {
        /// Each has a broker and a Connect of its own, and many workers.
        static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let _turn = ONE_AT_A_TIME.lock().await;
        eprintln!(
            "soak: PINION_SOAK_SEED={}, {:?}, {} s, {}",
            self.seed,
            self.kind,
            self.duration.as_secs(),
            if self.with_queue { "queue and feed" } else { "the feed alone" }
        );
        let tally = Tally::default();
        let soaked = self.soak(&tally).await;
        eprintln!("soak: {tally}");
        soaked.with_context(|| format!("the soak with PINION_SOAK_SEED={}", self.seed))
    }

    async fn soak(&self, tally: &Tally) -> Result<()> {
        let mut dice = Dice::new(self.seed);
        let shop = Shop::start(self.kind).await?;
        let kafka = PrivateKafka::start().await?;
        create_topics(&shop, &kafka, &mut dice).await?;
        let feed = shop.feed(&kafka).await?;
        let setup = feed.configure(Setup {
            // Deleted documents and truncated tables are looked at again after these, and ten seconds.
            worker: "document_age_s_max = 5\n".to_owned(),
            elasticsearch_more: "bulk_s_max = 5\n".to_owned(),
            ..shop.setup()?
        });
        let pinion = applied(&shop.namespace, &setup).await?;
        let mut workers = Workers::start(&pinion, tally).await?;
        for job in JOBS {
            pinion.command(&["enqueue", job, "--all"]).await?.ok()?;
        }

        let until = Instant::now() + self.duration;
        let writers =
            (0..WRITERS).map(|writer| self.change(&shop, writer, dice.split(), tally, until)).collect::<Vec<_>>();
        tokio::try_join!(
            futures_util::future::try_join_all(writers),
            workers.come_and_go(dice.split(), until),
            mischief::servers(&kafka, dice.split(), tally, until),
            mischief::rewind(&pinion, tally, until - self.duration / 2),
            tell(tally, until),
        )?;
        workers.at_least(2).await?;
        feed.mend().await?;
        eprintln!("soak: {tally}\nsoak: nothing changes or breaks any more");
        equal(&shop, &setup).await?;
        done(&shop, &workers).await?;
        workers.end().await?;
        // What was still on its way has changed nothing.
        for job in JOBS {
            let compared = shop.compare(&setup, job).await?;
            eprintln!("soak: {compared} documents of {job} are equal");
        }
        let letters = dead_letters(&shop.namespace).await?;
        ensure!(letters.is_empty(), "there are dead letters: {letters:?}");
        drop(feed);
        drop(kafka);
        shop.finish().await
    }

    /// One application: changes the shop, and tells of it after the commit if there are hooks.
    async fn change(&self, shop: &Shop, writer: usize, mut dice: Dice, tally: &Tally, until: Instant) -> Result<()> {
        let mut once = Once::new(writer);
        let mut database = shop.connect().await?;
        let namespace = &shop.namespace;
        let config = PublisherConfig::new(namespace.rabbit().url()).namespace(Names::new(namespace.name())?);
        let hooks = if self.with_queue { Some(Publisher::connect(config).await?) } else { None };
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < until {
            ticks.tick().await;
            let transaction = Transaction::new(&mut dice, &mut once, Instant::now() < until - self.duration / 2);
            if !carry_out(&mut database, &transaction, tally).await? {
                continue;
            }
            let Some(hooks) = &hooks else { continue };
            for (job, id) in &transaction.touched {
                hooks.publish(&Job::new(*job, *id)).await?;
            }
        }
        Ok(())
    }
}

/// Waits until all documents are equal.
async fn equal(shop: &Shop, setup: &Setup) -> Result<()> {
    let mut told = Instant::now();
    for job in JOBS {
        eventually(&format!("the documents of {job} to be equal"), PATIENCE, async || {
            let compared = shop.compare(setup, job).await;
            if let (Err(error), true) = (&compared, told.elapsed() > TELL_EVERY) {
                told = Instant::now();
                eprintln!("soak: {job}: {}", error.to_string().lines().next().unwrap_or_default());
            }
            compared.map(Some)
        })
        .await?;
    }
    Ok(())
}

/// Topics of one partition and of six.
async fn create_topics(shop: &Shop, kafka: &PrivateKafka, dice: &mut Dice) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create()?;
    // One of each at least: items and orders are in different ones.
    let items = dice.percent(50);
    let partitions = [
        ("orders", if items { 1 } else { 6 }),
        ("order_items", if items { 6 } else { 1 }),
        ("deliveries", if dice.percent(50) { 6 } else { 1 }),
        ("customers", if dice.percent(50) { 6 } else { 1 }),
        ("merchants", if dice.percent(50) { 6 } else { 1 }),
    ];
    eprintln!("soak: partitions: {partitions:?}");
    let names = partitions.map(|(table, partitions)| (shop.topic(table), partitions));
    let topics = names.iter().map(|(name, partitions)| NewTopic::new(name, *partitions, TopicReplication::Fixed(1)));
    let topics: Vec<_> = topics.collect();
    for created in admin.create_topics(&topics, &AdminOptions::new()).await? {
        created.map_err(|(topic, error)| anyhow::anyhow!("{topic}: {error}"))?;
    }
    Ok(())
}

/// Whether it was committed. What the database refuses is rolled back.
async fn carry_out(database: &mut Connection, transaction: &Transaction, tally: &Tally) -> Result<bool> {
    database.run("BEGIN").await?;
    for statement in &transaction.statements {
        if !database.run(statement).await? {
            tally.add("transactions refused");
            database.run("ROLLBACK").await?;
            return Ok(false);
        }
    }
    let committed = transaction.commit && database.run("COMMIT").await?;
    if !transaction.commit {
        database.run("ROLLBACK").await?;
    }
    tally.add(if committed { "transactions committed" } else { "transactions rolled back" });
    Ok(committed)
}

async fn tell(tally: &Tally, until: Instant) -> Result<()> {
    while Instant::now() < until {
        tokio::time::sleep_until((Instant::now() + TELL_EVERY).min(until)).await;
        let left = until.saturating_duration_since(Instant::now());
        eprintln!("soak: {} s to go: {tally}", left.as_secs());
    }
    Ok(())
}

/// Waits until no event is open and no message waits.
async fn done(shop: &Shop, workers: &Workers<'_>) -> Result<()> {
    eventually("nothing to be under way any more", PATIENCE, async || {
        for worker in workers.running() {
            let open = worker.metrics().await?.sum("pinion_feed_open", &[]);
            ensure!(open == 0.0, "{open} events are open");
        }
        for job in JOBS {
            for queue in ["", ".low", ".suspects"] {
                let waiting = shop.namespace.rabbit().ready(&format!("{}.{job}{queue}", shop.namespace.name())).await?;
                ensure!(waiting == 0, "{waiting} messages wait in {job}{queue}");
            }
        }
        Ok(Some(()))
    })
    .await
}
