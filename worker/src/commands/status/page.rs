//! The status as people read it, in 100 columns.

use std::collections::BTreeMap;

use crate::operations::dead::Counts;
use crate::operations::heartbeat::{Heartbeat, JobBeat};
use crate::operations::offsets::{FeedPartition, PartitionOffsets};
use crate::operations::status::{Feed, Part, Queue, Queues, Rebuilding, Source, Status};
use crate::pipeline::targets::Phase;
use crate::ports::LogUnit;
use crate::status::JobState;

use super::super::offsets::oldest;
use super::super::output::{Table, ago, counted, shortened, span, thousands, utc};

/// The width that is kept to.
const WIDTH: usize = 100;

/// The whole page.
pub(super) fn page(status: &Status) -> String {
    let mut page = format!("{}\n", utc(status.at));
    let mut section = |title: &str, lines: String| page.push_str(&format!("\n{title}\n{lines}"));
    if !status.problems.is_empty() {
        let lines = status.problems.iter().map(|problem| format!("  {}\n", shortened(problem, WIDTH - 2)));
        section("PROBLEMS", lines.collect());
    }
    section("QUEUES", known(&status.queues, queues));
    section("WORKERS", known(&status.workers, |workers| workers_lines(workers, status.at)));
    if let Some(rebuilds) = status.rebuilds.known().filter(|rebuilds| !rebuilds.is_empty()) {
        section("REBUILDS", rebuilds.iter().map(|rebuild| rebuild_line(rebuild, status.at)).collect());
    }
    section("SOURCES", status.sources.iter().map(source).collect());
    if let Some(feed) = &status.feed {
        section("CHANGE FEED", known(feed, |feed| feed_lines(feed, status.at)));
    }
    section("DEAD LETTERS", known(&status.dead_letters, |counts| dead_letters(counts, status.at)));
    page
}

/// A state as people call it.
pub(in crate::commands) fn state_word(state: &JobState) -> &'static str {
    match state {
        JobState::Starting => "starting",
        JobState::Running => "running",
        JobState::Waiting => "waiting",
        JobState::Paused => "paused",
        JobState::Broken => "broken",
        JobState::Stopped => "stopped",
    }
}

fn known<T>(part: &Part<T>, lines: impl Fn(&T) -> String) -> String {
    match part {
        Part::Known(known) => lines(known),
        Part::Down(error) => format!("  {}\n", shortened(error, WIDTH - 2)),
    }
}

fn queues(queues: &Queues) -> String {
    let mut table = Table::new(&[1, 2, 3, 4, 5]);
    table.row(["job", "live", "low", "suspects", "alone", "consumers"]);
    for job in &queues.jobs {
        let consumers = job.live.consumers.to_string();
        let waiting = [&job.live, &job.low, &job.suspects, &job.alone].map(ready);
        table.row([job.job.clone()].into_iter().chain(waiting).chain([consumers]));
    }
    let waiting: u64 = queues.delays.iter().filter_map(|delay| delay.queue.ready).map(u64::from).sum();
    let delays = queues.delays.iter().filter(|delay| delay.queue.ready.is_some_and(|ready| ready > 0));
    let delays: Vec<String> = delays.map(|delay| format!("{} for {} s", ready(&delay.queue), delay.delay_s)).collect();
    let delays = if waiting == 0 { "none".to_owned() } else { delays.join(", ") };
    format!("{}  waiting to be tried again or looked at once more: {delays}\n", table.lines(2))
}

fn ready(queue: &Queue) -> String {
    queue.ready.map_or_else(|| "missing".to_owned(), |ready| thousands(u64::from(ready)))
}

fn workers_lines(workers: &[Heartbeat], now_ms: u64) -> String {
    if workers.is_empty() {
        return "  none\n".to_owned();
    }
    let mut lines = String::new();
    for worker in workers {
        let Heartbeat { worker: name, version, admin, started, last, bulk_limit, bulks_in_flight, jobs } = worker;
        if !worker.is_alive(now_ms) {
            lines.push_str(&format!("  {name}  silent since {}\n", span(now_ms.saturating_sub(*last))));
            continue;
        }
        lines.push_str(&format!(
            "  {name}  {version}  up {}  bulks {bulks_in_flight} of {bulk_limit}  admin {admin}  heard {}\n",
            span(now_ms.saturating_sub(*started)),
            ago(now_ms, *last)
        ));
        lines.push_str(&jobs_lines(jobs, now_ms));
    }
    lines
}

fn jobs_lines(jobs: &[JobBeat], now_ms: u64) -> String {
    let mut table = Table::new(&[]);
    for JobBeat { job, state, reason, since, .. } in jobs {
        let since = format!("for {}", span(now_ms.saturating_sub(*since)));
        let reason = shortened(reason.as_deref().unwrap_or_default(), 60);
        table.row([job.as_str(), state_word(state), &since, &reason]);
    }
    table.lines(4)
}

fn source(source: &Source) -> String {
    let generation = match &source.generation {
        Part::Known(Some(generation)) => format!("generation {generation}"),
        Part::Known(None) => "no generation yet".to_owned(),
        Part::Down(_) => "generation unknown".to_owned(),
    };
    let primary = match &source.primary {
        Part::Known(position) => format!("primary at {position}"),
        Part::Down(error) => format!("primary away: {error}"),
    };
    let mut lines = format!("  {}\n", shortened(&format!("{}: {generation}, {primary}", source.source), WIDTH - 2));
    for replica in &source.replicas {
        let state = match &replica.behind {
            Part::Known(Some(0)) => "up to date".to_owned(),
            Part::Known(Some(behind)) => format!("{} {} behind", thousands(*behind), unit(replica.unit)),
            Part::Known(None) => "there; its lag is unknown without the primary".to_owned(),
            Part::Down(error) => error.clone(),
        };
        lines.push_str(&format!("    {}\n", shortened(&format!("replica {}: {state}", replica.server), WIDTH - 4)));
    }
    lines
}

fn unit(unit: LogUnit) -> &'static str {
    match unit {
        LogUnit::Bytes => "bytes",
        LogUnit::Transactions => "transactions",
    }
}

fn feed_lines(feed: &Feed, now_ms: u64) -> String {
    const TOPICS_MAX: usize = 10;
    let mut topics: BTreeMap<&str, Vec<&PartitionOffsets>> = BTreeMap::new();
    for FeedPartition { offsets, .. } in &feed.partitions {
        topics.entry(&offsets.topic).or_default().push(offsets);
    }
    let partitions = counted(feed.partitions.len() as u64, "partition");
    let of = format!("{partitions} of {}", counted(topics.len() as u64, "topic"));
    let mut lines = match feed.lag {
        0 => format!("  {of}, all at their ends\n"),
        lag => {
            let oldest = oldest(topics.values().flatten().copied(), now_ms);
            format!("  {of}, {} behind, the oldest for {oldest}\n", counted(lag, "event"))
        }
    };
    let lag = |partitions: &[&PartitionOffsets]| partitions.iter().map(|offsets| offsets.lag).sum::<u64>();
    let mut behind: Vec<_> = topics.iter().filter(|(_, partitions)| lag(partitions) > 0).collect();
    behind.sort_by_key(|(_, partitions)| std::cmp::Reverse(lag(partitions)));
    let mut table = Table::new(&[1, 2]);
    for (topic, partitions) in behind.iter().take(TOPICS_MAX) {
        let oldest = oldest(partitions.iter().copied(), now_ms);
        table.row([(**topic).to_owned(), thousands(lag(partitions)), oldest]);
    }
    lines.push_str(&table.lines(4));
    if behind.len() > TOPICS_MAX {
        lines.push_str(&format!("    and {} more: `pinion offsets`\n", behind.len() - TOPICS_MAX));
    }
    lines
}

/// How far a rebuild is.
fn rebuild_line(rebuild: &Rebuilding, now_ms: u64) -> String {
    let Rebuilding { job, phase, new, started_at, failed, paused, ids, expected, .. } = rebuild;
    let loaded = format!("{} of about {} ids are on their way", thousands(*ids), thousands((*expected).max(*ids)));
    let doing = match phase {
        _ if failed.is_some() => "can't go on".to_owned(),
        Phase::Making => "makes its index".to_owned(),
        Phase::Prepared => "waits until all workers write to both indexes".to_owned(),
        Phase::Loading if *paused => format!("paused, {loaded}"),
        Phase::Loading => loaded,
        Phase::Swapped => "the alias has moved: --finish or --rollback".to_owned(),
        Phase::Ended => "ended: --cancel removes what is left".to_owned(),
    };
    let line = format!("{job}: {doing}; {new}, begun {}", ago(now_ms, *started_at));
    format!("  {}\n", shortened(&line, WIDTH - 2))
}

/// Counts by job and reason.
pub(in crate::commands) fn dead_letters(counts: &Counts, now_ms: u64) -> String {
    if counts.total == 0 {
        return "  none\n".to_owned();
    }
    let mut table = Table::new(&[1]);
    for job in &counts.jobs {
        let reasons: Vec<String> =
            job.reasons.iter().map(|(reason, letters)| format!("{reason} {}", thousands(*letters))).collect();
        let name = if job.job.is_empty() { "(unknown)" } else { &job.job };
        let reasons = format!("{}, last {}", reasons.join(", "), ago(now_ms, job.last_at));
        table.row([name.to_owned(), thousands(job.letters), shortened(&reasons, 70)]);
    }
    table.lines(2)
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
