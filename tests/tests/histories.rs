//! The history checker: a seed decides who changes the shop how, who tells of it when, and what breaks meanwhile, on real servers;
//! readers look at the index all the time; at the end every document is compared with its row, both ways.
//!
//! `make histories SEEDS=…` plays as many, `SEED=…` one; a few short ones are in the tests. A seed repeats what is done and what
//! breaks, not when the servers do what.

mod application;
mod changes;
mod faults;
mod plan;
mod readers;
mod record;
mod servers;
mod shop;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pinion_client::{Publisher, PublisherConfig};
use pinion_schemas::Names;
use pinion_tests::{PrivateKafka, Setup, eventually};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use reqwest::Method;
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep};

use self::application::Application;
use self::changes::{CUSTOMERS, MEND, MERCHANTS, ORDERS};
use self::faults::{Faults, Workers};
use self::plan::Plan;
use self::readers::Readers;
use self::record::{Document, Kind, Record, Violation};
use self::servers::{Servers, Wires};
use self::shop::{Difference, Shop};
use crate::shop::dead_letters;

const JOBS: [&str; 3] = ["orders", "customers", "merchants"];
/// Of the short ones in a run of all tests: PostgreSQL with hooks and the feed, MariaDB with hooks.
const SEEDS: [u64; 2] = [2, 3];
const SECONDS: u64 = 15;
/// How often it is told what has happened.
const TELL_EVERY: Duration = Duration::from_secs(15);
/// How long the documents may take to be equal when nothing breaks any more: some wait for their next try, a minute at the most
/// unless they have failed three times.
const PATIENCE: Duration = Duration::from_secs(240);
/// Between two looks at that, in the end.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[tokio::test]
async fn some_seeds_end_without_a_violation() -> Result<()> {
    let servers = Servers::start().await?;
    for seed in SEEDS {
        play(&servers, &Plan::new(seed, Duration::from_secs(SECONDS)), None, PATIENCE).await?.check()?;
    }
    Ok(())
}

#[tokio::test]
#[ignore = "takes its time: make histories"]
async fn many_seeds_end_without_a_violation() -> Result<()> {
    let setting = |name: &str| -> Result<Option<u64>> {
        std::env::var(name).ok().map(|value| value.parse().with_context(|| format!("{name}={value}"))).transpose()
    };
    let duration = Duration::from_secs(setting("PINION_HISTORIES_SECONDS")?.unwrap_or(30));
    let (first, count) = match setting("PINION_HISTORIES_SEED")? {
        Some(seed) => (seed, setting("PINION_HISTORIES_SEEDS")?.unwrap_or(1)),
        None => (0, setting("PINION_HISTORIES_SEEDS")?.unwrap_or(6)),
    };
    let servers = Servers::start().await?;
    let mut outcome = Outcome::default();
    for seed in first..first + count {
        outcome.add(play(&servers, &Plan::new(seed, duration), None, PATIENCE).await?);
        eprintln!("== {} of {count} seeds: {outcome}", seed + 1 - first);
    }
    outcome.check()
}

/// Within so many seeds that can show it, every planted bug is found.
#[cfg(feature = "planted-bugs")]
const SEEDS_TO_FIND_MAX: usize = 12;

#[cfg(feature = "planted-bugs")]
#[tokio::test]
#[ignore = "takes its time: make planted"]
async fn every_planted_bug_of_the_adapters_is_found() -> Result<()> {
    use pinion_worker::planted::Bug;

    let only = std::env::var("PINION_HISTORIES_BUG").ok();
    let servers = Servers::start().await?;
    let (mut found, mut missed) = (Vec::new(), Vec::new());
    for bug in Bug::IN_THE_ADAPTERS {
        let name = format!("{bug:?}");
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let plans = (0..).map(|seed| Plan::new(seed, Duration::from_secs(SECONDS))).filter(|plan| plan.can_show(bug));
        let mut violation = None;
        for (count, plan) in plans.take(SEEDS_TO_FIND_MAX).enumerate() {
            eprintln!("== planted: {name}");
            let outcome = play(&servers, &plan, Some(&name), PATIENCE).await?;
            if let Some(first) = outcome.violations.first() {
                violation =
                    Some(format!("{name}: found with {} seeds, by seed {}: {:?}", count + 1, plan.seed, first.kind));
                break;
            }
        }
        match violation {
            Some(violation) => found.push(violation),
            None => missed.push(name),
        }
        eprintln!("== {}", found.join("\n== "));
    }
    ensure!(missed.is_empty(), "not found within {SEEDS_TO_FIND_MAX} seeds: {missed:?}");
    ensure!(!found.is_empty(), "there is no bug {only:?}");
    Ok(())
}

/// What came of histories.
#[derive(Default)]
struct Outcome {
    violations: Vec<Violation>,
    histories: Vec<String>,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.violations.extend(other.violations);
        self.histories.extend(other.histories);
    }

    fn check(&self) -> Result<()> {
        ensure!(self.violations.is_empty(), "{self}\n{}", self.histories.join("\n"));
        Ok(())
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |kind| self.violations.iter().filter(|violation| violation.kind == kind).count();
        let counts: Vec<String> =
            Kind::ALL.iter().map(|kind| format!("{} {}", of(*kind), format!("{kind:?}").to_lowercase())).collect();
        f.write_str(&counts.join(", "))
    }
}

/// Plays the history of a plan, with a bug planted or none.
async fn play(servers: &Servers, plan: &Plan, bug: Option<&str>, patience: Duration) -> Result<Outcome> {
    eprintln!("== {plan}");
    let (record, began) = (Record::new(), Instant::now());
    let played = history(servers, plan, bug, patience, &record).await;
    eprintln!("seed {}: {} s: {record}", plan.seed, began.elapsed().as_secs());
    let mut violations = record.violations();
    let outcome = match played {
        Ok(()) => Ok(()),
        // What was violated explains what then did not work.
        Err(error) if !violations.is_empty() => {
            eprintln!("seed {}: {error:#}", plan.seed);
            Ok(())
        }
        Err(error) => Err(error),
    };
    outcome.with_context(|| format!("the history of seed {}", plan.seed))?;
    violations.sort_by_key(|violation| violation.kind);
    let first = violations.first();
    let histories = first.map(|violation| told(plan.seed, violation, &record)).into_iter().collect();
    let outcome = Outcome { violations, histories };
    eprintln!("seed {}: {outcome}", plan.seed);
    outcome.histories.iter().for_each(|history| eprintln!("{history}"));
    Ok(outcome)
}

/// The shortest history that shows a violation.
fn told(seed: u64, violation: &Violation, record: &Record) -> String {
    let history = match violation.document {
        Some((job, id)) => format!("{job}/{id}\n{}", record.shortest((job, id))),
        None => violation.text.clone(),
    };
    format!("seed {seed}: {:?}: {history}", violation.kind)
}

async fn history(servers: &Servers, plan: &Plan, bug: Option<&str>, patience: Duration, record: &Record) -> Result<()> {
    let mut dice = plan.dice.clone();
    let mut shop = servers.shop(plan.database).await?;
    let kafka = servers.kafka(plan.mode).await?;
    let mut setup = Setup {
        // Deleted documents and truncated tables are looked at again after these, and ten seconds.
        worker: "document_age_s_max = 5\n".to_owned(),
        elasticsearch_more: "bulk_s_max = 5\n".to_owned(),
        replica_lag_ms_max: plan.replica_lag_ms_max,
        ..shop.setup()?
    };
    let feed = match kafka {
        Some(kafka) => {
            create_topics(&shop, kafka, plan).await?;
            let feed = shop.feed(kafka).await?;
            setup = feed.configure(setup);
            Some((feed, kafka))
        }
        None => None,
    };
    if plan.synchronous {
        for statement in ["ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"] {
            shop.namespace.execute(statement).await?;
        }
        if plan.hasty_workers {
            shop.namespace.execute("ALTER ROLE pinion SET synchronous_commit = local").await?;
        }
    }
    let wires = Wires::lay(&shop, &mut setup, feed.as_ref().map(|(feed, kafka)| (feed, *kafka)), plan.latency).await?;
    let pinion = setup.write(&shop.namespace)?.with_planted(bug.map(str::to_owned));
    pinion.command(&["apply"]).await?.ok()?;
    let mut workers = Workers::start(&pinion, record).await?;
    for job in JOBS {
        pinion.command(&["enqueue", job, "--all"]).await?.ok()?;
    }

    let gate = RwLock::new(());
    let readers = Readers::new(&shop.namespace, record);
    let hooks = if plan.mode.has_hooks() { Some(hooks(&shop).await?) } else { None };
    let faults = Faults {
        plan,
        record,
        servers,
        kafka,
        shop: &shop,
        wires: &wires,
        pinion: &pinion,
        readers: &readers,
        gate: &gate,
        hooks: hooks.as_ref(),
        zombie: Mutex::default(),
        indexes: tokio::sync::Mutex::default(),
    };
    let application = Application { plan, shop: &shop, record, hooks: hooks.clone(), gate: &gate };
    let reader = readers.run(dice.split());
    let changes = async {
        let writers = (0..plan.writers).map(|number| application.run(number, dice.split())).collect::<Vec<_>>();
        tokio::try_join!(
            futures_util::future::try_join_all(writers),
            faults.run(&mut workers),
            tell(record, plan.duration)
        )?;
        workers.at_least(2).await?;
        if let Some((feed, _)) = &feed {
            feed.mend().await?;
        }
        record.note([], "nothing changes or breaks any more".to_owned());
        shop.connect().await?.run(MEND).await?;
        record.note([], "names are mended, and nobody is told".to_owned());
        compare(&shop, &setup, &faults, patience).await?;
        if record.violations().is_empty() {
            done(&shop, &workers, patience).await?;
            // What was still on its way has changed nothing.
            compare(&shop, &setup, &faults, Duration::ZERO).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::select! {
        changed = changes => changed?,
        never = reader => match never {},
        // What breaks is broken off: the history is long enough.
        () = record.is_violated() => servers.mend().await?,
    }
    drop(faults);
    if record.violations().is_empty() {
        workers.end().await?;
    } else {
        drop(workers);
        shop.namespace.keep_folder();
        eprintln!("seed {}: the workers' logs are in {}", plan.seed, shop.namespace.folder().display());
    }
    drop(feed);
    shop.finish().await
}

async fn hooks(shop: &Shop) -> Result<Publisher> {
    let names = Names::new(shop.namespace.name())?;
    Ok(Publisher::connect(PublisherConfig::new(shop.namespace.rabbit().url()).namespace(names)).await?)
}

async fn create_topics(shop: &Shop, kafka: &PrivateKafka, plan: &Plan) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create()?;
    let names = plan.partitions.map(|(table, partitions)| (shop.topic(table), partitions));
    let topics = names.iter().map(|(name, partitions)| NewTopic::new(name, *partitions, TopicReplication::Fixed(1)));
    let topics: Vec<_> = topics.collect();
    for created in admin.create_topics(&topics, &AdminOptions::new()).await? {
        created.map_err(|(topic, error)| anyhow::anyhow!("{topic}: {error}"))?;
    }
    Ok(())
}

async fn tell(record: &Record, duration: Duration) -> Result<()> {
    let until = Instant::now() + duration;
    while Instant::now() < until {
        tokio::time::sleep_until((Instant::now() + TELL_EVERY).min(until)).await;
        let left = until.saturating_duration_since(Instant::now());
        eprintln!("{} s to go: {record}", left.as_secs());
    }
    Ok(())
}

/// Waits for as long as `patience` until all documents are equal; what then is not, is violated.
async fn compare(shop: &Shop, setup: &Setup, faults: &Faults<'_>, patience: Duration) -> Result<()> {
    let mut deadline = Instant::now() + patience;
    loop {
        // Spoiled documents are mended by nothing else.
        if !dead_letters(&shop.namespace).await?.is_empty() {
            faults.replay().await?;
        }
        let mut compared = BTreeMap::new();
        let mut differences = Vec::new();
        for job in JOBS {
            let (found, count) = shop.differences(setup, job).await?;
            differences.extend(found);
            compared.insert(job, count);
            ensure_made_by_apply(shop, faults.record, job).await?;
        }
        if differences.is_empty() {
            if dead_letters(&shop.namespace).await?.is_empty() {
                eprintln!("seed {}: equal: {compared:?}", faults.plan.seed);
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "dead letters remain");
        } else if Instant::now() >= deadline {
            faults.record.note([], format!("the queues hold {:?}", shop.messages().await?));
            for Difference { kind, document, text } in differences {
                let strange = kind == Kind::Resurrected && !was_ever(faults.record, document);
                faults.record.violated(if strange { Kind::Extra } else { kind }, Some(document), text);
            }
            return Ok(());
        }
        if !faults.plan.mode.has_feed() && shop.messages().await?.is_empty() {
            // Nothing is on its way any more: the next look is the last. (Of the feed's, Connect may have some.)
            deadline = Instant::now();
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Whether the document's row was there at some time.
fn was_ever(record: &Record, (job, id): Document) -> bool {
    let from_the_beginning = match job {
        "orders" => 1..=ORDERS,
        "customers" => 1..=1000.max(CUSTOMERS),
        _ => 1..=500.max(MERCHANTS),
    };
    from_the_beginning.contains(&id) || record.knows((job, id))
}

async fn ensure_made_by_apply(shop: &Shop, record: &Record, job: &'static str) -> Result<()> {
    let alias = shop.namespace.index(job);
    let live = shop.namespace.elastic().ok(Method::GET, &format!("/{alias}"), None).await?;
    let strict = live.as_object().into_iter().flatten().all(|(_, index)| index["mappings"]["dynamic"] == "strict");
    if !live[&alias].is_null() || !strict {
        record.violated(Kind::Extra, None, format!("{alias} is an index that nobody made: {live}"));
    }
    Ok(())
}

/// Waits until no event is open and no message waits: for as long as `patience` while they get no fewer. After minutes of faults many
/// suspects may be left, and servers may be far away.
async fn done(shop: &Shop, workers: &Workers<'_>, patience: Duration) -> Result<()> {
    let mut least = f64::INFINITY;
    while least > 0.0 {
        least = eventually("less to be under way", patience, async || {
            let left = under_way(shop, workers).await?;
            let (sum, what) = left.iter().fold((0.0, String::new()), |(sum, what), (name, count)| {
                (sum + count, format!("{what} {count} in {name}"))
            });
            ensure!(sum < least, "there are still{what}");
            Ok(Some(sum))
        })
        .await?;
    }
    Ok(())
}

/// Events that are open, and messages that wait, by where.
async fn under_way(shop: &Shop, workers: &Workers<'_>) -> Result<Vec<(String, f64)>> {
    let mut left = Vec::new();
    for worker in workers.running() {
        left.push(("a worker's feed".to_owned(), worker.metrics().await?.sum("pinion_feed_open", &[])));
    }
    for job in JOBS {
        for queue in ["", ".low", ".suspects", ".alone"] {
            let waiting = shop.namespace.rabbit().ready(&format!("{}.{job}{queue}", shop.namespace.name())).await?;
            left.push((format!("{job}{queue}"), f64::from(waiting)));
        }
    }
    left.retain(|(_, count)| *count > 0.0);
    Ok(left)
}
