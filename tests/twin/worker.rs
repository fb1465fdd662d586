//! A worker: the pipeline as it is, on lines that can be cut.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use pinion_schemas::{JobDefinition, Names, load_job};
use pinion_worker::backlog::Backlog;
use pinion_worker::control::Controls;
use pinion_worker::error::Service;
use pinion_worker::gate::Gate;
use pinion_worker::generation::Generations;
use pinion_worker::limit::{AdaptiveLimit, Share};
use pinion_worker::metrics::Metrics;
use pinion_worker::pipeline::job::{Job, Parts, Settings};
use pinion_worker::pipeline::runner::{Surroundings, run_job};
use pinion_worker::pipeline::source::Source;
use pinion_worker::ports::{Broker, Database, Index, Queues};
use pinion_worker::shutdown::Shutdown;
use pinion_worker::status::Statuses;

use crate::broker::{self, JOB};
use crate::database;
use crate::index::{self, DEAD_LETTERS};
use crate::plan::{BULK_TIMEOUT, FETCH, SECOND_LOOK_MARGIN_S};
use crate::world::{Line, World};

/// Fetches and bulks that may be in flight.
const FETCHES: usize = 2;
const BULKS: usize = 4;
/// How often the highest position is kept, as `operations/work/watch.rs` does.
const MARK_EVERY: Duration = Duration::from_secs(10);

static DEFINITION: LazyLock<JobDefinition> = LazyLock::new(|| {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/shop/orders");
    load_job(&folder).0.expect("the shop's job is good")
});

/// Runs one worker until it is asked to end, or killed.
pub(crate) async fn work(world: &Arc<World>, number: usize, shutdown: Shutdown) {
    let line = Line::new(world, number);
    let database: Arc<dyn Database> = Arc::new(database::Connections { line: line.clone() });
    let index: Arc<dyn Index> = Arc::new(index::Connection { line: line.clone() });
    let connection = Arc::new(broker::Connection { line: line.clone() });
    let queues: Arc<dyn Queues> = connection.clone();
    let generations = Arc::new(Generations::new("shop", index.clone(), "pinion-sources".to_owned()));
    let share = |total| Share::among(total, 1).pop().expect("one job, one share");
    let parts = Parts {
        definition: DEFINITION.clone(),
        settings: settings(world, number),
        gates: gates(&database, &index, &queues, &generations),
        database,
        generations: generations.clone(),
        index,
        broker: connection as Arc<dyn Broker>,
        batches: share(FETCHES + BULKS),
        live: Arc::default(),
        backlog: Backlog::default(),
        fetches: share(FETCHES),
        bulks: AdaptiveLimit::new(BULKS),
    };
    let job = Arc::new(Job::new(parts, Arc::new(Metrics::default())));
    let surroundings = Surroundings {
        source: Source::new(queues, &[JOB.to_owned()]),
        controls: Controls::default(),
        statuses: Arc::new(Statuses::default()),
        shutdown,
    };
    let kept = tokio::spawn(async move {
        loop {
            tokio::time::sleep(MARK_EVERY).await;
            let _kept = generations.keep_mark().await.is_ok();
        }
    });
    world.with(|state| state.lines.push(line.clone()));
    let running = tokio::spawn(run_job(job, surroundings));
    tokio::select! {
        biased;
        () = line.killed() => {}
        ended = running => ended.expect("the worker does not panic"),
    }
    // An ended process, too, leaves nothing behind that could still do something.
    line.kill();
    kept.abort();
    world.pause(0..=500).await;
    world.with(|state| {
        state.lines.retain(|line| line.worker != number);
        state.queues.cut(Some(number));
    });
}

fn settings(world: &World, number: usize) -> Settings {
    let plan = &world.plan;
    Settings {
        names: Names::new("pinion").expect("a good name"),
        dead_letters: DEAD_LETTERS.to_owned(),
        worker: number.to_string().into(),
        batch_max: plan.batch_max,
        low_in_flight_max: 1,
        linger: Duration::from_millis(200),
        bulk_bytes_max: 1024 * 1024,
        fetch: FETCH,
        document_age: plan.document_age,
        attempts_max: 5,
        deliveries_max: 5,
        hold: Duration::from_secs(20),
        second_look_s: (plan.document_age + BULK_TIMEOUT).as_secs() + SECOND_LOOK_MARGIN_S,
    }
}

/// As in `operations/work.rs`.
fn gates(
    database: &Arc<dyn Database>,
    index: &Arc<dyn Index>,
    queues: &Arc<dyn Queues>,
    generations: &Arc<Generations>,
) -> Vec<Gate> {
    let (index, queues) = (index.clone(), queues.clone());
    let (database, generations) = (database.clone(), generations.clone());
    vec![
        Gate::new(
            Service::Elasticsearch,
            Box::new(move || {
                let index = index.clone();
                Box::pin(async move { index.ping().await })
            }),
        ),
        Gate::new(
            Service::Rabbitmq,
            Box::new(move || {
                let queues = queues.clone();
                Box::pin(async move { queues.ping().await })
            }),
        ),
        Gate::new(
            Service::Source("shop".to_owned()),
            Box::new(move || {
                let (database, generations) = (database.clone(), generations.clone());
                Box::pin(async move {
                    let position = database.position().await.map_err(|fault| fault.to_string())?;
                    generations.of(&position).await.map(|_| ()).map_err(|fault| fault.to_string())
                })
            }),
        ),
    ]
}
