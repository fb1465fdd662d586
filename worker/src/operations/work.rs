//! The worker: every good job in a runner of its own, with what they share.

mod age;
mod lease;
mod load;
mod verifying;
pub(super) mod walk;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pinion_schemas::{From, JobDefinition, LoadedJob, StateIndex};
use tokio::task::JoinSet;

use self::lease::Leases;
use self::watch::Watch;
use super::Context;
use crate::admin::{self, Admin};
use crate::backlog::Backlog;
use crate::broker::RabbitmqBroker;
use crate::clock::now_ms;
use crate::control::Controls;
use crate::error::Service;
use crate::event_job::{self, EventJob};
use crate::feed::{self, Feed};
use crate::gate::Gate;
use crate::generation::Generations;
use crate::limit::{AdaptiveLimit, LiveTraffic, Share};
use crate::metrics::Metrics;
use crate::pipeline::job::{Job, Parts, Settings};
use crate::pipeline::runner::{Surroundings, run_job};
use crate::pipeline::source::Source;
use crate::pipeline::source::rabbitmq::Rabbitmq;
use crate::ports::{Broker, Database, Index, Queues};
use crate::shutdown::Shutdown;
use crate::status::{JobState, Statuses};

/// What `pinion work` was asked for.
#[derive(Debug, Clone, Default)]
pub struct WorkOptions {
    /// Only these jobs; empty: all.
    pub jobs: Vec<String>,
    /// Instead of `[admin] listen`.
    pub listen: Option<SocketAddr>,
    /// Where the runtime's threads look before they wait.
    pub backlog: Backlog,
}

/// Works until `shutdown` is asked for; what was taken is then finished or given back.
///
/// # Errors
/// No job can be run at all, or the admin port is taken.
pub async fn work(context: Context, options: WorkOptions, shutdown: Shutdown) -> anyhow::Result<()> {
    let worker: Arc<str> = worker_name().into();
    let chosen = chosen(&context, &options.jobs)?;
    let shared = Shared::new(&context, worker.clone(), &chosen, shutdown.clone());
    let listen = options.listen.unwrap_or(context.config.admin.listen);
    let gates: Vec<Gate> = shared.gates.clone();
    let admin = Admin::new(shared.metrics.clone(), shared.bulks.clone(), shared.surroundings.statuses.clone(), gates);
    let admin_addr = admin::serve(admin, listen).await?;
    tracing::info!(%admin_addr, worker = &*worker, jobs = shared.names.join(","), "working");

    let watch = Watch::new(&context, &worker, admin_addr, &shared);
    watch.first_look().await;
    let jobs = shared.jobs(&context, chosen, &options.backlog);
    let from_queries = jobs.iter().filter(|job| job.definition.from == From::Query).cloned().collect();
    let leases =
        Leases::begin(context.elasticsearch.clone(), context.state_index(StateIndex::Jobs), from_queries).await;
    let leasing = tokio::spawn(leases.run());
    let mut runners = JoinSet::new();
    for job in jobs {
        if job.definition.from == From::Event {
            runners.spawn(event_job::run(event_job_of(&context, job.clone()), shared.surroundings.clone()));
        } else {
            runners.spawn(load::run(job.clone(), shared.surroundings.clone()));
        }
        if job.definition.age_s_max.is_some() {
            runners.spawn(age::run(job.clone(), shared.surroundings.clone()));
        }
        runners.spawn(run_job(job, shared.surroundings.clone()));
    }
    if let Some(feed) = shared.feed(&context, worker.clone()) {
        runners.spawn(feed::run(Arc::new(feed), shutdown.clone()));
    }
    let watching = tokio::spawn(watch.run());
    tokio::select! {
        biased;
        () = shutdown.asked() => {}
        () = verifying::run(&context, &shared.names, &worker, &shared.metrics) => {}
    }
    let limit = Duration::from_secs(context.config.worker.shutdown_s_max);
    let drained = tokio::time::timeout(limit, async { while runners.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!("not everything was finished within shutdown_s_max: the rest goes back to its queue");
        runners.shutdown().await;
    }
    watching.abort();
    leasing.abort();
    watch::sign_off(&context, &worker).await;
    tracing::info!("stopped");
    Ok(())
}

fn event_job_of(context: &Context, job: Arc<Job>) -> EventJob {
    let config = &context.config;
    EventJob {
        kafka: config.kafka.clone(),
        topic_prefix: config.topic_prefix(&job.definition.source).to_owned(),
        elasticsearch: context.elasticsearch.clone(),
        job,
    }
}

/// Host, process and start: two workers never share one, not even in containers.
fn worker_name() -> String {
    format!("{}-{}-{:x}", super::host(), std::process::id(), now_ms())
}

/// The jobs that can run, out of those asked for; broken ones are told and left out.
fn chosen(context: &Context, wanted: &[String]) -> anyhow::Result<Vec<JobDefinition>> {
    if let Some(unknown) = wanted.iter().find(|name| !context.jobs.iter().any(|job| job.name == **name)) {
        anyhow::bail!("no job is called {unknown}; {} has no such folder", context.config.schemas.display());
    }
    let mut chosen = Vec::new();
    for LoadedJob { name, definition, findings } in &context.jobs {
        if !wanted.is_empty() && !wanted.contains(name) {
            continue;
        }
        match definition {
            Some(definition) if context.sources.contains_key(&definition.source) => chosen.push(definition.clone()),
            Some(definition) => {
                tracing::error!(
                    job = name,
                    "left out: there is no [sources.{}] in the configuration",
                    definition.source
                );
            }
            None => {
                for finding in findings {
                    tracing::error!(job = name, %finding, "left out");
                }
            }
        }
    }
    anyhow::ensure!(
        !chosen.is_empty(),
        "no job can be run: `pinion check` says what is wrong with those in {}",
        context.config.schemas.display()
    );
    Ok(chosen)
}

/// What all jobs of a worker share.
struct Shared {
    settings: Settings,
    names: Vec<String>,
    index: Arc<dyn Index>,
    broker: Arc<dyn Broker>,
    bulks: Arc<AdaptiveLimit>,
    metrics: Arc<Metrics>,
    gates: Vec<Gate>,
    generations: Vec<(String, Arc<Generations>)>,
    surroundings: Surroundings,
}

impl Shared {
    fn new(context: &Context, worker: Arc<str>, chosen: &[JobDefinition], shutdown: Shutdown) -> Self {
        let config = &context.config;
        let index: Arc<dyn Index> = context.elasticsearch.clone();
        let known: Vec<String> = context.jobs.iter().map(|job| job.name.clone()).collect();
        let queues: Arc<dyn Queues> = Arc::new(Rabbitmq::new(config, worker.clone()));
        let sources = context.state_index(StateIndex::Sources);
        let generations: Vec<(String, Arc<Generations>)> = context
            .sources
            .keys()
            .filter(|name| chosen.iter().any(|job| job.source == **name))
            .map(|name| (name.clone(), Arc::new(Generations::new(name, index.clone(), sources.clone()))))
            .collect();
        let statuses = Arc::new(Statuses::default());
        for job in chosen {
            statuses.set(&job.name, JobState::Starting, None);
        }
        Self {
            settings: Settings::new(config, worker.clone()),
            names: chosen.iter().map(|job| job.name.clone()).collect(),
            index: index.clone(),
            broker: Arc::new(RabbitmqBroker::new(config, &worker)),
            bulks: AdaptiveLimit::new(config.worker.bulks_in_flight_max),
            metrics: Arc::new(Metrics::default()),
            gates: gates(context, &index, &queues, &generations),
            generations,
            surroundings: Surroundings {
                source: Source::new(queues, &known),
                controls: Controls::default(),
                statuses,
                shutdown,
            },
        }
    }

    /// The change feed, where one is configured. It publishes jobs of all definitions, whichever this worker runs; those from
    /// events have their own.
    fn feed(&self, context: &Context, worker: Arc<str>) -> Option<Feed> {
        context.config.kafka.as_ref()?;
        let statuses = self.surroundings.statuses.clone();
        if let Some(broken) = context.jobs.iter().find(|job| job.definition.is_none()) {
            let reason = format!("the job {} can't be read, and its events would be lost: `pinion check`", broken.name);
            tracing::error!(reason, "the change feed stands still");
            statuses.set(feed::NAME, JobState::Broken, Some(reason));
            return None;
        }
        let followed = |job: &&JobDefinition| job.from == From::Query && context.sources.contains_key(&job.source);
        let jobs: Vec<JobDefinition> = context.definitions().filter(followed).cloned().collect();
        if jobs.is_empty() {
            return None;
        }
        let sources = context.sources.iter().map(|(name, source)| (name.clone(), source.database()));
        Some(Feed {
            jobs,
            config: context.config.clone(),
            sources: sources.collect(),
            broker: self.broker.clone(),
            elasticsearch: context.elasticsearch.clone(),
            worker,
            controls: self.surroundings.controls.clone(),
            statuses,
            metrics: self.metrics.clone(),
        })
    }

    /// The jobs, with their shares of what is bounded.
    fn jobs(&self, context: &Context, chosen: Vec<JobDefinition>, backlog: &Backlog) -> Vec<Arc<Job>> {
        let limits = &context.config.worker;
        let batches = Share::among(limits.fetches_in_flight_max + limits.bulks_in_flight_max, chosen.len());
        let live = Arc::new(LiveTraffic::default());
        let mut fetches: Vec<(&str, Vec<Share>)> = self
            .generations
            .iter()
            .map(|(source, _)| {
                let of_source = chosen.iter().filter(|job| job.source == *source).count();
                (source.as_str(), Share::among(limits.fetches_in_flight_max, of_source))
            })
            .collect();
        let mut jobs = Vec::new();
        for (definition, batches) in chosen.into_iter().zip(batches) {
            let source = definition.source.clone();
            let of_source = fetches.iter_mut().find(|(name, _)| *name == source);
            let fetches = of_source.and_then(|(_, shares)| shares.pop()).expect("one share for each job of a source");
            let (_, generations) =
                self.generations.iter().find(|(name, _)| *name == source).expect("each job's source has generations");
            let database: Arc<dyn Database> = context.sources[&source].database();
            let away = Service::Source(source);
            let gates = self
                .gates
                .iter()
                .filter(|gate| !matches!(gate.service(), Service::Source(_)) || *gate.service() == away);
            let parts = Parts {
                settings: self.settings.clone(),
                database,
                generations: generations.clone(),
                index: self.index.clone(),
                broker: self.broker.clone(),
                batches,
                live: live.clone(),
                backlog: backlog.clone(),
                fetches,
                bulks: self.bulks.clone(),
                gates: gates.cloned().collect(),
                definition,
            };
            jobs.push(Arc::new(Job::new(parts, self.metrics.clone())));
        }
        jobs
    }
}

/// A gate for each server, with the question that opens it again.
fn gates(
    context: &Context,
    index: &Arc<dyn Index>,
    queues: &Arc<dyn Queues>,
    generations: &[(String, Arc<Generations>)],
) -> Vec<Gate> {
    let index = index.clone();
    let elasticsearch = Gate::new(
        Service::Elasticsearch,
        Box::new(move || {
            let index = index.clone();
            Box::pin(async move { index.ping().await })
        }),
    );
    let queues = queues.clone();
    let rabbitmq = Gate::new(
        Service::Rabbitmq,
        Box::new(move || {
            let queues = queues.clone();
            Box::pin(async move { queues.ping().await })
        }),
    );
    let databases = generations.iter().map(|(name, generations)| {
        let database = context.sources[name].database();
        let generations = generations.clone();
        Gate::new(
            Service::Source(name.clone()),
            Box::new(move || {
                let (database, generations) = (database.clone(), generations.clone());
                Box::pin(async move {
                    let position = database.position().await.map_err(|fault| fault.to_string())?;
                    generations.of(&position).await.map(|_| ()).map_err(|fault| fault.to_string())
                })
            }),
        )
    });
    [elasticsearch, rabbitmq].into_iter().chain(databases).collect()
}
