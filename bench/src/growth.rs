//! How the worker grows: more workers, a longer queue, larger documents, more jobs. Bulk requests go to a null sink ([`crate::sink`]), so
//! that the worker's own CPU is what is left.

use anyhow::{Result, ensure};

use crate::Bench;
use crate::pinion::{Pinion, Setup, job_name};
use crate::sink::Sink;
use crate::whole_way::{publish, settled_at_least};

const WORKERS: [u32; 4] = [1, 2, 4, 8];
const QUEUED: [usize; 3] = [50_000, 500_000, 5_000_000];
const DOCUMENT_BYTES: [usize; 4] = [200, 1_000, 20_000, 1_000_000];
const JOBS: [usize; 3] = [1, 10, 50];
/// Of large documents so many that they are this together.
const BYTES_MAX: usize = 1_000_000_000;

/// One way to grow.
pub(crate) struct Growth {
    pub(crate) title: &'static str,
    pub(crate) runs: Vec<GrowthRun>,
}

/// What the workers needed.
pub(crate) struct GrowthRun {
    pub(crate) label: String,
    /// That were timed.
    pub(crate) documents: f64,
    pub(crate) documents_per_second: f64,
    /// Microseconds, user and system, of all workers.
    pub(crate) worker_cpu_a_document: f64,
    /// The most of one worker.
    pub(crate) memory_peak_bytes: u64,
}

/// What is different from one worker, one job and the shop's documents, all of them queued.
struct Case {
    label: String,
    workers: u32,
    jobs: usize,
    queued: usize,
    document_bytes: Option<usize>,
}

impl Case {
    fn new(bench: &Bench<'_>, label: String) -> Self {
        Self { label, workers: 1, jobs: 1, queued: bench.ids.len(), document_bytes: None }
    }
}

/// Measures all of it.
pub(crate) async fn run(bench: &Bench<'_>) -> Result<Vec<Growth>> {
    let case = |label: String| Case::new(bench, label);
    let workers = WORKERS.map(|workers| Case { workers, ..case(format!("{workers} worker(s)")) });
    let queued = QUEUED.map(|queued| Case { queued, ..case(format!("{queued} queued")) });
    let sizes = DOCUMENT_BYTES.map(|bytes| Case {
        document_bytes: Some(bytes),
        queued: bench.ids.len().min(BYTES_MAX / bytes),
        ..case(format!("{bytes} bytes a document"))
    });
    let jobs = JOBS.map(|jobs| Case { jobs, ..case(format!("{jobs} job(s)")) });
    let mut grown = Vec::new();
    for (title, cases) in [
        ("more workers", Vec::from(workers)),
        ("a longer queue", Vec::from(queued)),
        ("larger documents", Vec::from(sizes)),
        ("more jobs", Vec::from(jobs)),
    ] {
        let mut runs = Vec::new();
        for case in cases {
            let run = measure(bench, case).await?;
            eprintln!(
                "growth, {}: {:.0} documents/s, {:.1} µs of the workers' CPU a document",
                run.label, run.documents_per_second, run.worker_cpu_a_document
            );
            runs.push(run);
        }
        grown.push(Growth { title, runs });
    }
    Ok(grown)
}

async fn measure(bench: &Bench<'_>, case: Case) -> Result<GrowthRun> {
    bench.servers.clean().await?;
    let sink = Sink::before(bench.servers.elasticsearch.url()).await?;
    let setup = Setup { jobs: case.jobs, document_bytes: case.document_bytes, ..Setup::new(sink.url()) };
    let folder = tempfile::Builder::new().prefix("pinion-bench-growth").tempdir()?;
    let pinion = Pinion::new(bench.options, folder.path(), &setup)?;
    pinion.apply().await?;
    let each = case.queued / case.jobs;
    for job in 0..case.jobs {
        let ids: Vec<i64> = bench.ids.iter().copied().cycle().skip(job * each).take(each).collect();
        publish(bench, &job_name(job), &ids, 1).await?;
    }
    // Of a queue that is longer than the table, that is enough to be timed.
    let documents = (each * case.jobs).min(bench.ids.len()) as f64;
    let workers = pinion.work(case.workers).await?;
    let pids = workers.pids();
    let (first_at, first, _) = settled_at_least(&workers, 1.0).await?;
    let before = bench.services.read(&pids)?;
    let (last_at, last, _) = settled_at_least(&workers, documents).await?;
    let cpu = bench.services.read(&pids)? - before;
    ensure!(last > first, "{documents} documents are too few to be timed");
    let run = GrowthRun {
        label: case.label,
        documents: last - first,
        documents_per_second: (last - first) / (last_at - first_at).as_secs_f64(),
        worker_cpu_a_document: cpu.workers / (last - first) * 1e6,
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
