//! RabbitMQ's share alone: a full queue is read by a client that does nothing but acknowledge.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use crate::Bench;
use crate::pinion::JOB;

const QUEUE: &str = "bench.broker";
/// What a worker with the default settings asks for: see its `pipeline/source.rs`.
const PREFETCH: u16 = 18_000;

/// How a queue is read.
struct Case {
    label: &'static str,
    /// `x-queue-type`.
    kind: &'static str,
    ids_per_message: usize,
    prefetch: u16,
    /// Messages that are acknowledged together.
    together: usize,
}

/// A queue that was read to its end.
pub(crate) struct BrokerRun {
    pub(crate) label: &'static str,
    pub(crate) ids_per_second: f64,
    /// Seconds.
    pub(crate) rabbitmq_cpu_per_100_000: f64,
    /// Microseconds, user and system, of this program.
    pub(crate) client_cpu_an_id: f64,
}

/// Measures each way once.
pub(crate) async fn run(bench: &Bench<'_>) -> Result<Vec<BrokerRun>> {
    let quorum = Case {
        label: "quorum queue, as a worker reads it",
        kind: "quorum",
        ids_per_message: 1,
        prefetch: PREFETCH,
        together: 1_000,
    };
    let cases = [
        Case { label: "the same, 100 ids a message", ids_per_message: 100, together: 10, ..quorum },
        Case { label: "prefetch 1,000, acknowledged by 500", prefetch: 1_000, together: 500, ..quorum },
        Case { label: "prefetch 100, acknowledged by 50", prefetch: 100, together: 50, ..quorum },
        Case { label: "each acknowledged by itself", together: 1, ..quorum },
        Case { label: "classic queue, as a worker reads it", kind: "classic", ..quorum },
        Case { label: "classic queue, each acknowledged by itself", kind: "classic", together: 1, ..quorum },
    ];
    let mut runs = Vec::new();
    for case in std::iter::once(quorum).chain(cases) {
        runs.push(measure(bench, &case).await?);
    }
    Ok(runs)
}

async fn measure(bench: &Bench<'_>, case: &Case) -> Result<BrokerRun> {
    let rabbitmq = &bench.servers.rabbitmq;
    let messages = bench.ids.chunks(case.ids_per_message);
    let count = messages.len();
    rabbitmq.delete(QUEUE).await?;
    rabbitmq.create(QUEUE, Some(case.kind)).await?;
    rabbitmq.fill(QUEUE, messages.map(|ids| json!({"job_name": JOB, "ids": ids}).to_string())).await?;
    let before = bench.services.read(&[])?;
    let began = Instant::now();
    rabbitmq.drain(QUEUE, count, case.prefetch, case.together).await?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = bench.services.read(&[])? - before;
    rabbitmq.delete(QUEUE).await?;
    let ids = bench.ids.len() as f64;
    let run = BrokerRun {
        label: case.label,
        ids_per_second: ids / seconds,
        rabbitmq_cpu_per_100_000: cpu.rabbitmq * 1e5 / ids,
        client_cpu_an_id: cpu.bench * 1e6 / ids,
    };
    eprintln!("RabbitMQ alone, {}: {:.0} ids/s", run.label, run.ids_per_second);
    Ok(run)
}
