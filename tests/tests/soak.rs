//! Random changes to the shop while everything around the feed breaks; at the end every document equals the query's answer.
//!
//! `make soak` takes its time, the test without it a minute. A seed repeats what happens, not when.

mod changes;
mod dice;
mod mischief;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pinion_client::{Publisher, PublisherConfig};
use pinion_schemas::{Job, Names};
use pinion_tests::{Feed, Namespace, PrivateKafka, Setup, eventually};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::changes::{CUSTOMERS, MERCHANTS, ORDERS, Transaction};
use self::dice::Dice;
use self::mischief::Workers;
use crate::shop::{applied, compare_all, dead_letters};

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

#[tokio::test]
async fn half_a_minute_of_random_changes_with_the_feed_alone() -> Result<()> {
    Plan { seed: seed()?, duration: Duration::from_secs(30), with_queue: false }.run().await
}

#[tokio::test]
async fn half_a_minute_of_random_changes_with_queue_and_feed() -> Result<()> {
    Plan { seed: seed()?, duration: Duration::from_secs(30), with_queue: true }.run().await
}

#[tokio::test]
#[ignore = "takes PINION_SOAK_MINUTES: make soak"]
async fn long_with_the_feed_alone() -> Result<()> {
    Plan { seed: seed()?, duration: long()?, with_queue: false }.run().await
}

#[tokio::test]
#[ignore = "takes PINION_SOAK_MINUTES: make soak"]
async fn long_with_queue_and_feed() -> Result<()> {
    Plan { seed: seed()?, duration: long()?, with_queue: true }.run().await
}

/// `PINION_SOAK_SEED`, else a new one.
fn seed() -> Result<u64> {
    use std::hash::{BuildHasher, RandomState};
    match std::env::var("PINION_SOAK_SEED") {
        Ok(seed) => seed.parse().context("PINION_SOAK_SEED"),
        Err(_) => Ok(RandomState::new().hash_one(())),
    }
}

fn long() -> Result<Duration> {
    let minutes: f64 = std::env::var("PINION_SOAK_MINUTES").unwrap_or("10".to_owned()).parse()?;
    Ok(Duration::from_secs_f64(minutes * 60.0))
}

impl Plan {
    async fn run(&self) -> Result<()> {
        eprintln!(
            "soak: PINION_SOAK_SEED={}, {} s, {}",
            self.seed,
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
        let namespace = Namespace::shop(u32::try_from(ORDERS)?).await?;
        // Few customers and merchants, so that each has many orders.
        let few = format!("UPDATE orders SET customer_id = 1 + id % {CUSTOMERS}, merchant_id = 1 + id % {MERCHANTS}");
        namespace.execute(&few).await?;
        let kafka = PrivateKafka::start().await?;
        create_topics(&namespace, &kafka, &mut dice).await?;
        let feed = Feed::start_on(&namespace, Some(&kafka), serde_json::json!({})).await?;
        let setup = feed.configure(Setup::shop(&namespace)?);
        let pinion = applied(&namespace, &setup).await?;
        let mut workers = Workers::start(&pinion, tally).await?;
        for job in JOBS {
            pinion.command(&["enqueue", job, "--all"]).await?.ok()?;
        }

        let until = Instant::now() + self.duration;
        let writers = (0..WRITERS).map(|_| self.change(&namespace, dice.split(), tally, until)).collect::<Vec<_>>();
        tokio::try_join!(
            futures_util::future::try_join_all(writers),
            workers.come_and_go(dice.split(), until),
            mischief::servers(&kafka, dice.split(), tally, until),
            tell(tally, until),
        )?;
        workers.at_least(2).await?;
        feed.mend().await?;
        eprintln!("soak: {tally}\nsoak: nothing changes or breaks any more");
        self.equal(&namespace, &setup).await?;
        done(&namespace, &workers).await?;
        workers.end().await?;
        // What was still on its way has changed nothing.
        for job in JOBS {
            let compared = compare_all(&namespace, &setup, job, job).await?;
            eprintln!("soak: {compared} documents of {job} are equal");
        }
        let letters = dead_letters(&namespace).await?;
        ensure!(letters.is_empty(), "there are dead letters: {letters:?}");
        drop(feed);
        drop(kafka);
        namespace.finish().await
    }

    /// One application: changes the shop, and tells of it after the commit if there are hooks.
    async fn change(&self, namespace: &Namespace, mut dice: Dice, tally: &Tally, until: Instant) -> Result<()> {
        let mut database = PgConnection::connect(&namespace.superuser_url()).await?;
        sqlx::query("SET timezone = 'UTC'").execute(&mut database).await?;
        let config = PublisherConfig::new(namespace.rabbit().url()).namespace(Names::new(namespace.name())?);
        let hooks = if self.with_queue { Some(Publisher::connect(config).await?) } else { None };
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < until {
            ticks.tick().await;
            let transaction = Transaction::new(&mut dice);
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

    async fn equal(&self, namespace: &Namespace, setup: &Setup) -> Result<()> {
        let mut told = Instant::now();
        for job in JOBS {
            eventually(&format!("the documents of {job} to be equal"), PATIENCE, async || {
                let compared = compare_all(namespace, setup, job, job).await;
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
}

/// Topics of one partition and of six.
async fn create_topics(namespace: &Namespace, kafka: &PrivateKafka, dice: &mut Dice) -> Result<()> {
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
    let names = partitions.map(|(table, partitions)| (format!("{}.public.{table}", namespace.name()), partitions));
    let topics = names.iter().map(|(name, partitions)| NewTopic::new(name, *partitions, TopicReplication::Fixed(1)));
    let topics: Vec<_> = topics.collect();
    for created in admin.create_topics(&topics, &AdminOptions::new()).await? {
        created.map_err(|(topic, error)| anyhow::anyhow!("{topic}: {error}"))?;
    }
    Ok(())
}

/// Whether it was committed. What the database refuses (a key that is there, a parent that is not, a deadlock) is rolled back.
async fn carry_out(database: &mut PgConnection, transaction: &Transaction, tally: &Tally) -> Result<bool> {
    let run = async |database: &mut PgConnection, sql: &str| {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(database).await.map(drop)
    };
    run(database, "BEGIN").await?;
    for statement in &transaction.statements {
        match run(database, statement).await {
            Ok(()) => {}
            Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| refusal(&code)) => {
                tally.add("transactions refused");
                run(database, "ROLLBACK").await?;
                return Ok(false);
            }
            Err(error) => return Err(error).context(statement.clone()),
        }
    }
    run(database, if transaction.commit { "COMMIT" } else { "ROLLBACK" }).await?;
    tally.add(if transaction.commit { "transactions committed" } else { "transactions rolled back" });
    Ok(transaction.commit)
}

/// Constraints, and deadlocks.
fn refusal(code: &str) -> bool {
    code.starts_with("23") || code == "40P01"
}

async fn tell(tally: &Tally, until: Instant) -> Result<()> {
    while Instant::now() < until {
        tokio::time::sleep_until((Instant::now() + TELL_EVERY).min(until)).await;
        eprintln!("soak: {tally}");
    }
    Ok(())
}

/// Waits until no event is open and no message waits.
async fn done(namespace: &Namespace, workers: &Workers<'_>) -> Result<()> {
    eventually("nothing to be under way any more", PATIENCE, async || {
        for worker in workers.running() {
            let open = worker.metrics().await?.sum("pinion_feed_open", &[]);
            ensure!(open == 0.0, "{open} events are open");
        }
        for job in JOBS {
            for queue in ["", ".low", ".suspects"] {
                let waiting = namespace.rabbit().ready(&format!("{}.{job}{queue}", namespace.name())).await?;
                ensure!(waiting == 0, "{waiting} messages wait in {job}{queue}");
            }
        }
        Ok(Some(()))
    })
    .await
}
