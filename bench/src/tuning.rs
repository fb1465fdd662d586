//! The curves of the settings that matter most: the whole way, with one setting changed from case to case.

use anyhow::Result;

use crate::Bench;
use crate::pinion::{INDEX, JOB, Pinion, Setup};
use crate::whole_way::{Sending, send, work_off};

const BATCHES: [usize; 6] = [50, 100, 250, 500, 1_000, 2_000];
const BULKS: [usize; 5] = [1, 2, 4, 8, 16];
const IDS_PER_MESSAGE: [usize; 5] = [1, 5, 20, 100, 1_000];

/// A setting's curve.
pub(crate) struct Curve {
    pub(crate) setting: &'static str,
    pub(crate) default: usize,
    pub(crate) points: Vec<Point>,
}

/// The whole way with one value of it.
pub(crate) struct Point {
    pub(crate) value: usize,
    pub(crate) documents_per_second: f64,
    /// Microseconds, user and system.
    pub(crate) worker_cpu_a_document: f64,
    /// Seconds.
    pub(crate) rabbitmq_cpu_per_100_000: f64,
    pub(crate) memory_peak_bytes: u64,
}

/// Measures all of them, each value once.
pub(crate) async fn run(bench: &Bench<'_>) -> Result<Vec<Curve>> {
    let mut curves = Vec::new();
    for (setting, default, values) in [("batch_max", 1_000, &BATCHES[..]), ("bulks_in_flight_max", 8, &BULKS)] {
        let mut points = Vec::new();
        for value in values {
            points.push(measure(bench, *value, &format!("{setting} = {value}\n"), 1).await?);
        }
        curves.push(Curve { setting, default, points });
    }
    let mut points = Vec::new();
    for ids in IDS_PER_MESSAGE {
        points.push(measure(bench, ids, "", ids).await?);
    }
    curves.push(Curve { setting: "ids a message", default: 1, points });
    Ok(curves)
}

async fn measure(bench: &Bench<'_>, value: usize, worker: &str, ids_per_message: usize) -> Result<Point> {
    bench.servers.elasticsearch.delete_indexes(&format!("{INDEX}*")).await?;
    let folder = tempfile::Builder::new().prefix("pinion-bench-tuning").tempdir()?;
    let setup = Setup { worker, ..Setup::new(&bench.options.elasticsearch) };
    let pinion = Pinion::new(bench.options, folder.path(), &setup)?;
    pinion.apply().await?;
    send(bench, JOB, &bench.ids, Sending::Together(ids_per_message)).await?;
    let way = work_off(bench, &pinion, bench.ids.len()).await?;
    let documents = bench.ids.len() as f64;
    let point = Point {
        value,
        documents_per_second: way.documents_per_second,
        worker_cpu_a_document: way.cpu.workers * 1e6 / documents,
        rabbitmq_cpu_per_100_000: way.cpu.rabbitmq * 1e5 / documents,
        memory_peak_bytes: way.memory_peak_bytes,
    };
    let told = if worker.is_empty() { format!("{ids_per_message} ids a message") } else { worker.trim().to_owned() };
    eprintln!("tuning, {told}: {:.0} documents/s", point.documents_per_second);
    Ok(point)
}
