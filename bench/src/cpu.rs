//! CPU seconds of the services, the workers and the whole machine, from /proc.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::ops::Sub;

use anyhow::{Context as _, Result, ensure};

/// `USER_HZ`, the unit of CPU times in /proc. Linux shows it as 100 on every architecture that Rust's standard library supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// The fixed computation: so many hashes, some tenths of a second.
const FIXED_HASHES: u64 = 20_000_000;

/// The services' first processes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Services {
    pub(crate) elasticsearch: u32,
    pub(crate) primary: u32,
    pub(crate) replica: u32,
    pub(crate) rabbitmq: u32,
    /// Where the change feed is measured.
    pub(crate) kafka: Option<u32>,
}

/// CPU seconds, user and system: since each process began, or between two readings.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CpuSeconds {
    pub(crate) elasticsearch: f64,
    pub(crate) primary: f64,
    pub(crate) replica: f64,
    pub(crate) rabbitmq: f64,
    pub(crate) kafka: f64,
    pub(crate) workers: f64,
    /// This program.
    pub(crate) bench: f64,
    /// Everything that ran, the kernel's interrupts included.
    pub(crate) machine: f64,
    /// What a hypervisor gave to others.
    pub(crate) stolen: f64,
}

impl Services {
    /// Reads all of it now; `workers` are the worker processes.
    pub(crate) fn read(&self, workers: &[u32]) -> Result<CpuSeconds> {
        let table = ProcessTable::read()?;
        let (machine, stolen) = read_machine()?;
        let with_name =
            |pid, name: &str| table.tree_seconds(pid).with_context(|| format!("{name}'s process {pid} is gone"));
        Ok(CpuSeconds {
            elasticsearch: with_name(self.elasticsearch, "Elasticsearch")?,
            primary: with_name(self.primary, "the primary")?,
            replica: with_name(self.replica, "the replica")?,
            rabbitmq: with_name(self.rabbitmq, "RabbitMQ")?,
            kafka: self.kafka.map_or(Ok(0.0), |pid| with_name(pid, "Kafka"))?,
            workers: workers.iter().map(|pid| with_name(*pid, "a worker")).sum::<Result<f64>>()?,
            // Its own time only: the workers are its children.
            bench: table.own_seconds(std::process::id()).context("this process is in /proc")?,
            machine,
            stolen,
        })
    }
}

impl CpuSeconds {
    /// What was done by nobody who takes part.
    pub(crate) fn others(&self) -> f64 {
        self.machine - self.services() - self.workers - self.bench
    }

    /// The services together.
    pub(crate) fn services(&self) -> f64 {
        self.elasticsearch + self.primary + self.replica + self.rabbitmq + self.kafka
    }
}

impl Sub for CpuSeconds {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            elasticsearch: self.elasticsearch - earlier.elasticsearch,
            primary: self.primary - earlier.primary,
            replica: self.replica - earlier.replica,
            rabbitmq: self.rabbitmq - earlier.rabbitmq,
            kafka: self.kafka - earlier.kafka,
            workers: self.workers - earlier.workers,
            bench: self.bench - earlier.bench,
            machine: self.machine - earlier.machine,
            stolen: self.stolen - earlier.stolen,
        }
    }
}

/// The most memory that a process has had, in bytes.
pub(crate) fn memory_peak_bytes(pid: u32) -> Result<u64> {
    let status = read(&format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/PID/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>().context("VmHWM")? * 1024)
}

/// The same for a process with all of its descendants that still run, added up.
pub(crate) fn tree_memory_peak_bytes(root: u32) -> Result<u64> {
    let table = ProcessTable::read()?;
    // One may end meanwhile.
    Ok(table.0.keys().filter(|pid| table.descends(**pid, root)).filter_map(|pid| memory_peak_bytes(*pid).ok()).sum())
}

/// How busy and how fast the machine is just now: the load averages of 1, 5 and 15 minutes, and the CPU time of a fixed computation,
/// which grows when the cores are shared with others.
pub(crate) fn condition() -> Result<String> {
    let load = read("/proc/loadavg")?;
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let before = thread_milliseconds()?;
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let sum = (0..FIXED_HASHES).fold(0_u64, |sum, number| sum.wrapping_add(hasher.hash_one(number)));
    std::hint::black_box(sum);
    let took = thread_milliseconds()? - before;
    Ok(format!("{}, {took:.0} ms", load.join(" ")))
}

/// The CPU time of this thread: the first field of its schedstat, in nanoseconds.
fn thread_milliseconds() -> Result<f64> {
    let text = read("/proc/thread-self/schedstat")?;
    let nanoseconds =
        text.split(' ').next().unwrap_or_default().parse::<f64>().context("/proc/thread-self/schedstat")?;
    Ok(nanoseconds / 1e6)
}

/// The processor's name, as far as /proc tells it.
pub(crate) fn processor() -> String {
    let text = read("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or("an unnamed processor", |(_, name)| name).to_owned()
}

/// All processes at one moment.
struct ProcessTable(HashMap<u32, Process>);

#[derive(Debug, PartialEq)]
struct Process {
    parent: u32,
    own_seconds: f64,
    /// Of children that have ended and were waited for, with theirs.
    reaped_seconds: f64,
}

impl ProcessTable {
    fn read() -> Result<Self> {
        let mut table = HashMap::new();
        for entry in std::fs::read_dir("/proc").context("/proc: this program needs Linux")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            // A process may end between the listing and the reading.
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            table.insert(pid, parse_stat(&stat).with_context(|| format!("/proc/{pid}/stat"))?);
        }
        Ok(Self(table))
    }

    fn own_seconds(&self, pid: u32) -> Option<f64> {
        Some(self.0.get(&pid)?.own_seconds)
    }

    /// A process with all its descendants, those that have ended included.
    fn tree_seconds(&self, root: u32) -> Option<f64> {
        self.0.contains_key(&root).then(|| {
            let in_tree = self.0.iter().filter(|(pid, _)| self.descends(**pid, root));
            in_tree.map(|(_, process)| process.own_seconds + process.reaped_seconds).sum()
        })
    }

    fn descends(&self, pid: u32, root: u32) -> bool {
        // Parents are looked up at slightly different moments, so a circle can't be ruled out; no tree is that deep.
        const DEPTH_MAX: usize = 64;
        let up = std::iter::successors(Some(pid), |pid| self.0.get(pid).map(|process| process.parent));
        up.take(DEPTH_MAX).any(|ancestor| ancestor == root)
    }
}

/// Fields 4 and 14 to 17 of proc_pid_stat(5); they are counted from the parenthesis that ends the name.
fn parse_stat(stat: &str) -> Result<Process> {
    let (_, rest) = stat.rsplit_once(')').context("no process's name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    ensure!(fields.len() > 14, "only {} fields", fields.len());
    let seconds = |first: usize| -> Result<f64> {
        let ticks = fields[first].parse::<u64>()? + fields[first + 1].parse::<u64>()?;
        Ok(ticks as f64 / TICKS_PER_SECOND)
    };
    Ok(Process { parent: fields[1].parse()?, own_seconds: seconds(11)?, reaped_seconds: seconds(13)? })
}

fn read_machine() -> Result<(f64, f64)> {
    parse_machine(&read("/proc/stat")?)
}

/// The first line of proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal.
fn parse_machine(stat: &str) -> Result<(f64, f64)> {
    let line =
        stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("/proc/stat has no line `cpu`")?;
    let ticks: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().context("/proc/stat")?;
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else {
        anyhow::bail!("/proc/stat has too few fields");
    };
    Ok(((user + nice + system + irq + softirq) / TICKS_PER_SECOND, steal / TICKS_PER_SECOND))
}

fn read(file: &str) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| file.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_an_awkward_name() {
        let stat = "7 (a) b (c) S 3 7 7 0 -1 4194560 100 200 0 0 150 50 25 75 20 0 1 0 999 1 2\n";
        let process = parse_stat(stat).expect("a line of /proc/PID/stat");
        assert_eq!(process, Process { parent: 3, own_seconds: 2.0, reaped_seconds: 1.0 });
    }

    #[test]
    fn a_tree_has_its_descendants_and_those_that_ended() {
        let process = |parent, own_seconds, reaped_seconds| Process { parent, own_seconds, reaped_seconds };
        let processes = [
            (1, process(0, 100.0, 0.0)),
            (2, process(1, 1.0, 10.0)),
            (3, process(2, 2.0, 0.0)),
            (4, process(3, 3.0, 0.5)),
        ];
        let table = ProcessTable(processes.into_iter().collect());
        assert_eq!(table.tree_seconds(2), Some(16.5));
        assert_eq!(table.tree_seconds(4), Some(3.5));
        assert_eq!(table.tree_seconds(9), None);
        assert_eq!(table.own_seconds(2), Some(1.0));
    }

    #[test]
    fn the_machine_is_busy_with_all_but_waiting() {
        let stat = "cpu  100 200 300 4000 500 60 40 70 9 9\ncpu0 1 2 3 4 5 6 7 8 9 9\n";
        assert_eq!(parse_machine(stat).expect("a line of /proc/stat"), (7.0, 0.7));
        assert!(parse_machine("intr 1\n").is_err());
    }
}
