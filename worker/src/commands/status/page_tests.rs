use super::*;
use crate::operations::dead::JobCount;
use crate::operations::status::{Delay, JobQueues, Replica};

fn partition(topic: &str, number: i32, position: i64) -> FeedPartition {
    let offsets = PartitionOffsets {
        topic: topic.to_owned(),
        partition: number,
        position: Some(position),
        begin: 0,
        end: 2000,
        lag: position.abs_diff(2000),
        oldest_at: (position < 2000).then_some(NOW - 150_000),
        lost: 0,
    };
    FeedPartition { source: Some("shop".to_owned()), offsets }
}

fn feed() -> Feed {
    let partitions = vec![
        partition("shop.public.customers", 0, 2000),
        partition("shop.public.orders", 0, 0),
        partition("shop.public.orders", 1, 1999),
    ];
    Feed { lag: 2001, oldest_at: Some(NOW - 150_000), partitions }
}

const NOW: u64 = 1_763_731_487_000;

fn queue(ready: u32) -> Queue {
    Queue { name: "q".to_owned(), ready: Some(ready), consumers: 2 }
}

fn worker(name: &str, last: u64) -> Heartbeat {
    let beat = |job: &str, state, reason: Option<&str>, ms| JobBeat {
        job: job.to_owned(),
        state,
        reason: reason.map(str::to_owned),
        since: NOW - ms,
        definition: None,
    };
    Heartbeat {
        worker: name.to_owned(),
        version: "0.1.0".to_owned(),
        admin: "127.0.0.1:9600".to_owned(),
        started: NOW - 3 * 3_600_000,
        last,
        bulk_limit: 8,
        bulks_in_flight: 2,
        jobs: vec![
            beat("customers", JobState::Broken, Some("document.sql: column \"x\" does not exist (42703)"), 720_000),
            beat("orders", JobState::Running, None, 10_800_000),
        ],
    }
}

fn status() -> Status {
    let jobs = [("customers", 0), ("orders", 12_345)];
    let jobs = jobs.map(|(job, live)| JobQueues {
        job: job.to_owned(),
        live: queue(live),
        low: queue(0),
        suspects: queue(20),
        alone: queue(1),
    });
    Status {
        at: NOW,
        queues: Part::Known(Queues {
            jobs: jobs.to_vec(),
            delays: vec![Delay { delay_s: 1, queue: queue(0) }, Delay { delay_s: 60, queue: queue(7) }],
        }),
        workers: Part::Known(vec![worker("web1-4711-19ab3", NOW - 2000), worker("web2-7-19ab2", NOW - 60_000)]),
        paused: Part::Known(Vec::new()),
        rebuilds: Part::Known(vec![Rebuilding {
            job: "orders".to_owned(),
            phase: Phase::Loading,
            old: "orders-20251101".to_owned(),
            new: "orders-20251121".to_owned(),
            started_at: NOW - 90_000,
            by: "ada on web1".to_owned(),
            failed: None,
            paused: false,
            ids: 12_000,
            expected: 200_000,
        }]),
        sources: vec![Source {
            source: "shop".to_owned(),
            generation: Part::Known(Some(1)),
            primary: Part::Known("0/16B3748".to_owned()),
            replicas: vec![
                Replica { server: "10.0.0.2:5432".to_owned(), behind: Part::Known(Some(0)), unit: LogUnit::Bytes },
                Replica {
                    server: "10.0.0.3:5432".to_owned(),
                    behind: Part::Known(Some(123_456)),
                    unit: LogUnit::Bytes,
                },
                Replica {
                    server: "10.0.0.4:5432".to_owned(),
                    behind: Part::Down("Connection refused".to_owned()),
                    unit: LogUnit::Bytes,
                },
            ],
        }],
        feed: Some(Part::Known(feed())),
        dead_letters: Part::Known(Counts {
            total: 12,
            jobs: vec![JobCount {
                job: "orders".to_owned(),
                letters: 12,
                last_at: NOW - 300_000,
                reasons: vec![("refused".to_owned(), 10), ("poison".to_owned(), 2)],
            }],
        }),
        problems: vec!["source shop, replica 10.0.0.4:5432: Connection refused".to_owned()],
    }
}

#[test]
fn everything_at_a_glance() {
    let page = page(&status());
    assert!(page.lines().all(|line| line.chars().count() <= WIDTH), "{page}");
    insta::assert_snapshot!(page);
}

#[test]
fn what_is_down_hides_nothing_else() {
    let refused = "RabbitMQ at 127.0.0.1:1 can't be reached: Connection refused (os error 111)";
    let status = Status {
        queues: Part::Down(format!("[rabbitmq] {refused}")),
        feed: None,
        workers: Part::Down("Elasticsearch is away: no answer".to_owned()),
        rebuilds: Part::Down("Elasticsearch is away: no answer".to_owned()),
        dead_letters: Part::Down("Elasticsearch is away: no answer".to_owned()),
        problems: vec![format!("queues: [rabbitmq] {refused}"), "state: Elasticsearch is away: no answer".to_owned()],
        sources: vec![Source {
            source: "shop".to_owned(),
            generation: Part::Down("away".to_owned()),
            primary: Part::Down("no answer within 2s".to_owned()),
            replicas: vec![Replica {
                server: "10.0.0.2:5432".to_owned(),
                behind: Part::Known(None),
                unit: LogUnit::Bytes,
            }],
        }],
        ..status()
    };
    insta::assert_snapshot!(page(&status));
}
