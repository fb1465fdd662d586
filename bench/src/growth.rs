//! How the worker grows: more workers, a longer queue, larger documents, more jobs. Bulk requests go to a null sink ([`crate::sink`]), so
//! that the worker's own CPU is what is left.

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::Bench;
use crate::cpu::CpuSeconds;
use crate::metrics::{Metrics, Stages};
use crate::pinion::{Pinion, Setup, Workers, job_name};
use crate::sink::Sink;
use crate::whole_way::{LOOK, PATIENCE, Sending, send, settled, settled_at_least};

const WORKERS: [u32; 4] = [1, 2, 4, 8];
const QUEUED: [usize; 3] = [100_000, 1_000_000, 5_000_000];
const DOCUMENT_BYTES: [usize; 4] = [200, 1_000, 20_000, 1_000_000];
const JOBS: [usize; 3] = [1, 10, 50];
/// How often all orders are queued, where nothing else is said, and at most timed.
const TIMES_QUEUED: usize = 2;
/// So much of what there is for each worker is done before it is timed: they open their connections meanwhile.
const WARM_UP: f64 = 0.1;
/// Of large documents so many that they are this together.
const BYTES_MAX: usize = 1_000_000_000;

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Grows {
    /// Workers that share a queue.
    Workers,
    /// The queue's length, where ids come as applications send them, each by a call of its own.
    Queue,
    /// The queue's length, of messages of one id.
    Messages,
    /// The size of a document.
    Documents,
    /// Jobs of one worker.
    Jobs,
}

/// One way to grow.
pub(crate) struct Growth {
    pub(crate) what: Grows,
    pub(crate) cases: Vec<Grown>,
}

/// A case, as often as it was measured.
pub(crate) struct Grown {
    pub(crate) label: String,
    pub(crate) runs: Vec<GrowthRun>,
}

/// What the workers needed.
pub(crate) struct GrowthRun {
    /// That were timed.
    pub(crate) documents: f64,
    pub(crate) seconds: f64,
    /// Of the same time.
    pub(crate) cpu: CpuSeconds,
    /// How their batches fared, from the first on.
    pub(crate) stages: Stages,
    /// The most of one worker.
    pub(crate) memory_peak_bytes: u64,
}

/// What is different from one worker, one job and the shop's documents, all of them queued.
struct Case {
    label: String,
    workers: u32,
    jobs: usize,
    queued: usize,
    sending: Sending,
    document_bytes: Option<usize>,
}

impl Grows {
    /// The end of a title.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Workers => "more workers",
            Self::Queue => "a longer queue, one id a call",
            Self::Messages => "a longer queue, one id a message",
            Self::Documents => "larger documents",
            Self::Jobs => "more jobs",
        }
    }

    fn cases(self, bench: &Bench<'_>) -> Vec<Case> {
        let ids = TIMES_QUEUED * bench.ids.len();
        let sending = Sending::Together(1);
        let case = |label: String| Case { label, workers: 1, jobs: 1, queued: ids, sending, document_bytes: None };
        let longer = |sending| QUEUED.map(|queued| Case { queued, sending, ..case(format!("{queued} queued")) }).into();
        match self {
            Self::Workers => WORKERS.map(|workers| Case { workers, ..case(format!("{workers} worker(s)")) }).into(),
            Self::Queue => longer(Sending::Called),
            Self::Messages => longer(sending),
            Self::Documents => {
                let of = |bytes: usize| Case {
                    document_bytes: Some(bytes),
                    queued: ids.min(BYTES_MAX / bytes),
                    ..case(format!("{bytes} bytes a document"))
                };
                DOCUMENT_BYTES.map(of).into()
            }
            Self::Jobs => JOBS.map(|jobs| Case { jobs, ..case(format!("{jobs} job(s)")) }).into(),
        }
    }
}

/// Measures what is asked for. The cases of one way to grow take turns, run by run: a slow minute is then one of them all.
pub(crate) async fn run(bench: &Bench<'_>) -> Result<Vec<Growth>> {
    let mut growths = Vec::new();
    for what in &bench.options.growth {
        let cases = what.cases(bench);
        let mut grown: Vec<Grown> =
            cases.iter().map(|case| Grown { label: case.label.clone(), runs: Vec::new() }).collect();
        for _ in 0..bench.options.runs {
            for (case, grown) in cases.iter().zip(&mut grown) {
                let run = measure(bench, case).await?;
                eprintln!(
                    "growth, {}: {:.0} documents/s, {:.2} µs of the workers' CPU a document",
                    case.label,
                    run.documents / run.seconds,
                    run.cpu.workers / run.documents * 1e6
                );
                grown.runs.push(run);
            }
        }
        growths.push(Growth { what: *what, cases: grown });
    }
    Ok(growths)
}

async fn measure(bench: &Bench<'_>, case: &Case) -> Result<GrowthRun> {
    bench.servers.clean().await?;
    let sink = Sink::before(bench.servers.elasticsearch.url()).await?;
    let setup = Setup { jobs: case.jobs, document_bytes: case.document_bytes, ..Setup::new(sink.url()) };
    let folder = tempfile::Builder::new().prefix("pinion-bench-growth").tempdir()?;
    let pinion = Pinion::new(bench.options, folder.path(), &setup)?;
    pinion.apply().await?;
    let each = case.queued / case.jobs;
    for job in 0..case.jobs {
        let ids: Vec<i64> = bench.ids.iter().copied().cycle().skip(job * each).take(each).collect();
        send(bench, &job_name(job), &ids, case.sending).await?;
    }
    // Of a queue that is longer, that is enough to be timed.
    let documents = (each * case.jobs).min(TIMES_QUEUED * bench.ids.len()) as f64;
    let workers = pinion.work(case.workers).await?;
    let (first_at, first) = all_have_settled(&workers, documents / f64::from(case.workers) * WARM_UP).await?;
    let pids = workers.pids();
    let before = bench.services.read(&pids)?;
    let (last_at, last, metrics) = settled_at_least(&workers, documents).await?;
    let cpu = bench.services.read(&pids)? - before;
    ensure!(last > first, "{documents} documents are too few to be timed");
    let run = GrowthRun {
        documents: last - first,
        seconds: (last_at - first_at).as_secs_f64(),
        cpu,
        stages: Stages::between(&Metrics::default(), &metrics)?,
        memory_peak_bytes: workers.memory_peak_bytes()?,
    };
    if documents < case.queued as f64 {
        // Nobody waits for the rest.
        drop(workers);
    } else {
        workers.end().await?;
    }
    bench.servers.rabbitmq.clean().await?;
    Ok(run)
}

/// Waits until each worker has settled so many, so that their start is not counted; when that was, and how much all of them had.
async fn all_have_settled(workers: &Workers, documents: f64) -> Result<(Instant, f64)> {
    let began = Instant::now();
    loop {
        let each: Vec<f64> = workers.metrics_of_each().await?.iter().map(settled).collect();
        if each.iter().all(|settled| *settled >= documents) {
            return Ok((Instant::now(), each.iter().sum()));
        }
        ensure!(began.elapsed() < PATIENCE, "a worker settles too little{}", workers.last_words());
        tokio::time::sleep(LOOK).await;
    }
}
