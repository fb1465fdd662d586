//! What a seed decides before anything begins.

use std::fmt;
use std::time::Duration;

use pinion_tests::Dice;

use super::application::EVERY;
use super::shop::Database;

/// Histories in which indexes are rebuilt.
const LONG: Duration = Duration::from_secs(120);

/// What tells the workers of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The applications' hooks.
    Queue,
    /// The change feed.
    Feed,
    /// Both.
    Both,
}

impl Mode {
    pub(super) fn has_feed(self) -> bool {
        self != Self::Queue
    }

    pub(super) fn has_hooks(self) -> bool {
        self != Self::Feed
    }
}

/// A server with a wire that can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    Rabbitmq,
    Elasticsearch,
    Primary,
    Replica(usize),
    Kafka,
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The worker of that number, counted from the oldest, is killed with -9.
    WorkerKilled(usize),
    /// It is asked to end.
    WorkerEnded(usize),
    WorkerAdded,
    RabbitmqStopped,
    RabbitmqKilled,
    ElasticsearchStopped,
    /// It keeps its connections and answers nothing for that long; then it does what it was asked to.
    ElasticsearchFrozen(Duration),
    /// Its write queue, of 10, is kept full by others.
    WriteQueueFilled(Duration),
    ReplicaPaused(usize, Duration),
    ReplicaRestarted(usize),
    ReplicaKilled(usize),
    /// No replica receives the log; where commits wait for one, they have been told to the feed and nobody sees them yet.
    ReplicationFrozen(Duration),
    /// The first replica becomes the primary, and the source is switched over. The old primary goes on, and the second replica with it.
    Promoted,
    /// The primary is killed in the middle of a large transaction.
    PrimaryKilled,
    Cut(Server),
    Slow(Server, Duration, Duration),
    /// Answers of that wire are cut after so many bytes.
    Torn(Server, usize, Duration),
    /// Nobody listens there.
    Away(Server, Duration),
    ConnectKilled,
    KafkaRestarted,
    FeedRewound,
    DeadLettersReplayed,
    /// An index is deleted; after that time it is made again by `apply`, and filled.
    IndexDropped(&'static str, Duration),
    /// An index is built anew, and its alias moves; the command is killed after that time and called again. Perhaps the alias goes
    /// back once. In the end the other index is deleted.
    IndexRebuilt(&'static str, Duration, bool),
}

impl Fault {
    /// What it is counted as.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::WorkerKilled(_) => "workers killed with -9",
            Self::WorkerEnded(_) => "workers ended in good order",
            Self::WorkerAdded => "workers added",
            Self::RabbitmqStopped => "restarts of RabbitMQ",
            Self::RabbitmqKilled => "RabbitMQ killed with -9",
            Self::ElasticsearchStopped => "restarts of Elasticsearch",
            Self::ElasticsearchFrozen(_) => "Elasticsearch frozen",
            Self::WriteQueueFilled(_) => "write queues filled",
            Self::ReplicaPaused(..) => "replicas paused",
            Self::ReplicaRestarted(_) => "replicas restarted",
            Self::ReplicaKilled(_) => "replicas killed",
            Self::ReplicationFrozen(_) => "replication frozen",
            Self::Promoted => "promotions",
            Self::PrimaryKilled => "primaries killed",
            Self::Cut(_) => "wires cut",
            Self::Slow(..) => "wires slowed",
            Self::Torn(..) => "wires torn",
            Self::Away(..) => "wires gone",
            Self::ConnectKilled => "Connect killed with -9",
            Self::KafkaRestarted => "restarts of Kafka",
            Self::FeedRewound => "feeds rewound",
            Self::DeadLettersReplayed => "dead letters replayed",
            Self::IndexDropped(..) => "indexes dropped",
            Self::IndexRebuilt(..) => "indexes rebuilt",
        }
    }
}

/// Faults of one kind of thing, one after the other; those of different lanes overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Workers,
    Broker,
    Index,
    Database,
    Network,
    Feed,
    Operator,
    Rebuild,
}

/// When something goes wrong, counted from the beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planned {
    pub(super) at: Duration,
    pub(super) lane: Lane,
    pub(super) fault: Fault,
}

/// One history.
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) database: Database,
    pub(super) mode: Mode,
    /// How long things go wrong, and rows change if the machine is fast enough for it.
    pub(super) duration: Duration,
    pub(super) writers: usize,
    /// Of each writer.
    pub(super) transactions: usize,
    /// Whether commits on PostgreSQL wait for a replica.
    pub(super) synchronous: bool,
    /// Whether those of the workers' role wait for none all the same.
    pub(super) hasty_workers: bool,
    /// How long a replica on PostgreSQL is waited for, before documents are read from the primary.
    pub(super) replica_lag_ms_max: u64,
    /// How long the way to the database is.
    pub(super) latency: Duration,
    /// The longest delay between a commit and its message.
    pub(super) hook_delay_max: Duration,
    /// Partitions of the tables' topics.
    pub(super) partitions: [(&'static str, i32); 5],
    pub(super) schedule: Vec<Planned>,
    /// For what happens in it.
    pub(super) dice: Dice,
}

impl Plan {
    /// The plan of a seed: every six of them have each database with each mode.
    pub(super) fn new(seed: u64, duration: Duration) -> Self {
        let database = if seed.is_multiple_of(2) { Database::Postgres } else { Database::Mariadb };
        let mode = [Mode::Queue, Mode::Feed, Mode::Both][(seed % 3) as usize];
        let mut dice = Dice::new(seed);
        let synchronous = database == Database::Postgres && mode.has_feed() && dice.percent(60);
        let mut plan = Self {
            seed,
            database,
            mode,
            duration,
            writers: usize::try_from(dice.of(2..=3)).unwrap_or(2),
            transactions: usize::try_from(duration.as_millis() / EVERY.as_millis()).unwrap_or(usize::MAX),
            synchronous,
            hasty_workers: synchronous && (seed / 6).is_multiple_of(2),
            replica_lag_ms_max: if dice.percent(50) { 500 } else { 5000 },
            latency: Duration::from_millis([0, 3, 12][usize::try_from(dice.of(0..=2)).unwrap_or_default()]),
            // Minutes, in a history that lasts for some.
            hook_delay_max: (duration / 2).min(Duration::from_secs(180)),
            partitions: partitions(&mut dice),
            schedule: Vec::new(),
            dice: dice.split(),
        };
        plan.schedule(&mut dice);
        plan
    }

    /// Whether something in it lets the bug show.
    #[cfg(feature = "planted-bugs")]
    pub(super) fn can_show(&self, bug: pinion_worker::planted::Bug) -> bool {
        use pinion_worker::planted::Bug;

        let has = |fits: fn(Fault) -> bool| self.schedule.iter().any(|planned| fits(planned.fault));
        match bug {
            Bug::DeadTimeline => has(|fault| fault == Fault::Promoted),
            Bug::UnflushedPosition => {
                has(|fault| fault == Fault::Promoted) && has(|fault| fault == Fault::PrimaryKilled)
            }
            Bug::FeedBeforeVisible => {
                self.mode == Mode::Feed
                    && self.hasty_workers
                    && self.replica_lag_ms_max <= 500
                    && self.schedule.iter().any(|planned| self.reads_what_waits(planned))
            }
            Bug::IndexMadeByBulk => has(|fault| matches!(fault, Fault::IndexDropped(..))),
            // No replica is up to date, one is waited for, and rows change meanwhile.
            Bug::RepeatableRead => {
                let stops = |fault| matches!(fault, Fault::ReplicationFrozen(_));
                !self.synchronous && self.replica_lag_ms_max > 500 && has(stops)
            }
            // A question and its answer have to take longer than a commit takes to the replica.
            Bug::PositionAfterTheSnapshot => self.database == Database::Postgres && !self.latency.is_zero(),
            _ => self.database == Database::Postgres,
        }
    }

    /// Whether documents are read on the primary while commits wait for replicas, with nothing in the way, and nothing tells of
    /// them again.
    #[cfg(feature = "planted-bugs")]
    fn reads_what_waits(&self, frozen: &Planned) -> bool {
        let Fault::ReplicationFrozen(time) = frozen.fault else { return false };
        let end = frozen.at + time;
        let lasts = Duration::from_secs(7);
        // A connector that has just begun tells of changes seconds later.
        let is_told_in_time = frozen.at > Duration::from_secs(8) && time > Duration::from_secs(5);
        is_told_in_time
            && self.schedule.iter().filter(|other| other.fault != frozen.fault).all(|other| match other.fault {
                Fault::FeedRewound | Fault::IndexDropped(..) | Fault::ConnectKilled => other.at + lasts < frozen.at,
                Fault::WorkerKilled(_)
                | Fault::WorkerEnded(_)
                | Fault::WorkerAdded
                | Fault::Cut(_)
                | Fault::Slow(..) => true,
                Fault::Torn(Server::Replica(_), ..) | Fault::Away(Server::Replica(_), _) => true,
                _ => other.at + lasts < frozen.at || other.at > end,
            })
    }

    fn schedule(&mut self, dice: &mut Dice) {
        let lanes = [
            (Lane::Workers, 3000),
            (Lane::Broker, 14_000),
            (Lane::Index, 9000),
            (Lane::Database, 5000),
            (Lane::Network, 2500),
            (Lane::Feed, 8000),
            (Lane::Operator, 11_000),
            (Lane::Rebuild, 40_000),
        ];
        for (lane, mean_ms) in lanes {
            let mut dice = dice.split();
            let mut promoted = false;
            let mut at = pause(&mut dice, mean_ms);
            while at < self.duration {
                let fault = match lane {
                    Lane::Workers => Some(worker_fault(&mut dice)),
                    Lane::Broker => Some(broker_fault(&mut dice)),
                    Lane::Index => Some(index_fault(&mut dice)),
                    Lane::Database => Some(self.database_fault(&mut dice, at, &mut promoted)),
                    Lane::Network => Some(self.network_fault(&mut dice)),
                    Lane::Feed => self.mode.has_feed().then(|| feed_fault(&mut dice)),
                    Lane::Operator => Some(operator_fault(&mut dice)),
                    // It takes too long for the others.
                    Lane::Rebuild => (self.duration >= LONG).then(|| rebuild_fault(&mut dice)),
                };
                self.schedule.extend(fault.map(|fault| Planned { at, lane, fault }));
                at += pause(&mut dice, mean_ms);
            }
        }
        self.schedule.sort_by_key(|planned| planned.at);
    }

    fn database_fault(&self, dice: &mut Dice, at: Duration, promoted: &mut bool) -> Fault {
        let replica = usize::from(dice.percent(50));
        if self.database == Database::Mariadb {
            return Fault::ReplicaPaused(0, ms(dice, 500, 4000));
        }
        // Debezium's slot would not be on the new primary: PostgreSQL 15 keeps slots to itself.
        let late = at > self.duration / 3 && !self.mode.has_feed();
        if late && !*promoted {
            *promoted = true;
            return Fault::Promoted;
        }
        match dice.of(1..=100) {
            // What was the first replica is the primary now.
            _ if *promoted => Fault::PrimaryKilled,
            1..=30 => Fault::ReplicaPaused(replica, ms(dice, 500, 4000)),
            31..=45 => Fault::ReplicaRestarted(replica),
            46..=60 => Fault::ReplicaKilled(replica),
            61..=85 => Fault::ReplicationFrozen(ms(dice, 1000, 6000)),
            _ => Fault::PrimaryKilled,
        }
    }

    fn network_fault(&self, dice: &mut Dice) -> Fault {
        let replicas = if self.database == Database::Postgres { 1 } else { 0 };
        let server = match dice.of(1..=if self.mode.has_feed() { 5 } else { 4 }) {
            1 => Server::Rabbitmq,
            2 => Server::Elasticsearch,
            3 => Server::Primary,
            4 => Server::Replica(usize::try_from(dice.of(0..=replicas)).unwrap_or_default()),
            _ => Server::Kafka,
        };
        match dice.of(1..=100) {
            1..=35 => Fault::Cut(server),
            36..=60 => Fault::Slow(server, ms(dice, 2, 80), ms(dice, 500, 3000)),
            61..=85 => {
                let bytes = usize::try_from(dice.of(1..=4000)).unwrap_or(1);
                Fault::Torn(server, bytes, ms(dice, 300, 2000))
            }
            _ => Fault::Away(server, ms(dice, 300, 3000)),
        }
    }
}

/// One line for each fault.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {:?} {:?} away, replicas up to {} ms behind, {:?}, {} writers of {} transactions, hooks up to {:?} late{}",
            self.seed,
            self.database,
            self.latency,
            self.replica_lag_ms_max,
            self.mode,
            self.writers,
            self.transactions,
            self.hook_delay_max,
            match (self.synchronous, self.hasty_workers) {
                (true, true) => ", synchronous replication, but not for the workers",
                (true, false) => ", synchronous replication",
                (false, _) => "",
            }
        )?;
        if self.mode.has_feed() {
            write!(f, ", partitions {:?}", self.partitions)?;
        }
        for planned in &self.schedule {
            write!(f, "\n{:>9.3} s  {:?}", planned.at.as_secs_f64(), planned.fault)?;
        }
        Ok(())
    }
}

fn pause(dice: &mut Dice, mean_ms: i64) -> Duration {
    ms(dice, mean_ms / 2, mean_ms * 3 / 2)
}

fn ms(dice: &mut Dice, least: i64, most: i64) -> Duration {
    Duration::from_millis(dice.of(least..=most).unsigned_abs())
}

/// Topics of one partition and of six: one of each at least, items and orders are in different ones.
fn partitions(dice: &mut Dice) -> [(&'static str, i32); 5] {
    let items = dice.percent(50);
    let mut some = || if dice.percent(50) { 6 } else { 1 };
    [
        ("orders", if items { 1 } else { 6 }),
        ("order_items", if items { 6 } else { 1 }),
        ("deliveries", some()),
        ("customers", some()),
        ("merchants", some()),
    ]
}

fn worker_fault(dice: &mut Dice) -> Fault {
    let one = usize::try_from(dice.of(0..=3)).unwrap_or_default();
    match dice.of(1..=100) {
        1..=35 => Fault::WorkerKilled(one),
        36..=55 => Fault::WorkerEnded(one),
        _ => Fault::WorkerAdded,
    }
}

fn broker_fault(dice: &mut Dice) -> Fault {
    if dice.percent(60) { Fault::RabbitmqStopped } else { Fault::RabbitmqKilled }
}

fn index_fault(dice: &mut Dice) -> Fault {
    match dice.of(1..=100) {
        1..=20 => Fault::ElasticsearchStopped,
        21..=65 => Fault::ElasticsearchFrozen(ms(dice, 500, 7000)),
        _ => Fault::WriteQueueFilled(ms(dice, 500, 3000)),
    }
}

fn feed_fault(dice: &mut Dice) -> Fault {
    match dice.of(1..=100) {
        1..=40 => Fault::ConnectKilled,
        41..=70 => Fault::KafkaRestarted,
        _ => Fault::FeedRewound,
    }
}

fn rebuild_fault(dice: &mut Dice) -> Fault {
    Fault::IndexRebuilt(dice.one(&["orders", "customers", "merchants"]), ms(dice, 1000, 30_000), dice.percent(50))
}

fn operator_fault(dice: &mut Dice) -> Fault {
    if dice.percent(70) {
        Fault::DeadLettersReplayed
    } else {
        Fault::IndexDropped(dice.one(&["orders", "customers", "merchants"]), ms(dice, 0, 3000))
    }
}
