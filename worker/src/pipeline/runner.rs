//! One job's life in a worker: it takes messages while it can, and says why when it can't.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::batch::Batcher;
use super::delivery::Delivery;
use super::job::{Job, Settings};
use super::low::{LOW_PART, Rests};
use super::source::{Lane, Session, Source};
use super::{Broken, probe, run};
use crate::control::Controls;
use crate::error::Fault;
use crate::limit::Share;
use crate::metrics::{job_label, verdict_label};
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::status::{JobState, Statuses};

/// How often the age of the oldest message is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How often it is asked whether there are suspects, and so the least that the other lanes have while there is something in them:
/// suspects come after crashes, and are in no hurry.
const LOOK_FOR_SUSPECTS: Duration = Duration::from_secs(5);
/// How long suspects are taken at a time: live messages wait for their turn's end.
const SUSPECTS_AT_MOST: Duration = Duration::from_secs(2);
/// How often it is asked, while they are read, whether there are no more; and after their turn, whether nothing else is left to do.
const LOOK_FOR_MORE: Duration = Duration::from_millis(100);

/// A message is never held longer, whatever the reason.
const HELD_AT_MOST: Duration = Duration::from_secs(25 * 60);

/// How long a paused job may take to finish what it has, so that little comes back as a redelivery.
const PAUSE_AT_MOST: Duration = Duration::from_secs(5);

/// A job that has worked for this long is no longer watched with suspicion.
const QUIET: Duration = Duration::from_secs(60);

/// What a runner works with besides its job.
#[derive(Clone)]
pub struct Surroundings {
    /// Where messages come from.
    pub source: Source,
    /// What operators ask for.
    pub controls: Controls,
    /// Where the job's state is told.
    pub statuses: Arc<Statuses>,
    /// When to end.
    pub shutdown: Shutdown,
}

/// Why a session ended.
enum End {
    /// The worker ends; everything in flight is done.
    Shutdown,
    /// An operator paused the job.
    Paused,
    /// Suspects wait, and are read when nothing else is; or they have had their time.
    Turn,
    /// The job can't go on.
    Broken(Broken),
    /// The connection to the broker is gone, or messages were held too long.
    Lost(String),
}

/// Runs `job` until the worker ends.
pub async fn run_job(job: Arc<Job>, surroundings: Surroundings) {
    let shutdown = surroundings.shutdown.clone();
    let mut runner =
        Runner { job, surroundings, patience: Backoff::for_job(), suspects_had: None, told: String::new() };
    let mut broken = None;
    let mut lost = Backoff::for_server();
    loop {
        tokio::select! {
            biased;
            () = shutdown.asked() => break,
            () = runner.may_run(broken.take()) => {}
        }
        let end = match runner.open().await {
            Ok((session, lanes)) => {
                lost = Backoff::for_server();
                let began = Instant::now();
                let end = runner.session(session, lanes).await;
                runner.suspects_had = (lanes != Lane::OPEN).then(|| began.elapsed());
                if began.elapsed() > QUIET {
                    runner.forgive();
                }
                end
            }
            Err(Fault::Job(reason)) => End::Broken(Broken { reason, sample: None }),
            Err(fault) => End::Lost(fault.to_string()),
        };
        match end {
            End::Shutdown => break,
            End::Paused | End::Turn => {}
            End::Broken(why) => broken = Some(why),
            End::Lost(reason) => {
                runner.tell(JobState::Waiting, Some(reason));
                tokio::select! {
                biased;
                        () = shutdown.asked() => break,
                        () = lost.wait() => {}
                    }
            }
        }
    }
    runner.tell(JobState::Stopped, None);
}

struct Runner {
    job: Arc<Job>,
    surroundings: Surroundings,
    /// The pauses between probes, which grow until the job has worked for a while.
    patience: Backoff,
    /// How long suspects had, if it was their turn just now.
    suspects_had: Option<Duration>,
    /// The trouble that was logged last: the same is not logged again and again.
    told: String,
}

impl Runner {
    fn forgive(&mut self) {
        self.patience = Backoff::for_job();
        self.told.clear();
    }

    fn tell(&self, state: JobState, reason: Option<String>) {
        let (paused, name) = (&self.job.meters.all.paused, self.job.queue_name());
        for (verdict, on) in [("operator", state == JobState::Paused), ("broken", state == JobState::Broken)] {
            paused.get_or_create(&verdict_label(&name, verdict)).set(i64::from(on));
        }
        self.surroundings.statuses.set(&name, state, reason);
    }

    /// Waits until the job works again (if it was broken), no operator holds it and every server is there.
    async fn may_run(&mut self, broken: Option<Broken>) {
        if let Some(broken) = broken {
            self.mended(broken).await;
        }
        loop {
            if self.surroundings.controls.is_paused(self.job.name()) {
                tracing::info!(job = self.job.name(), "paused by an operator");
                self.tell(JobState::Paused, Some("paused by an operator: `pinion resume` lets it go on".to_owned()));
                self.surroundings.controls.resumed(self.job.name()).await;
                tracing::info!(job = self.job.name(), "resumed");
            }
            // It may be paused again while a server is waited for.
            let Some(reason) = self.job.away() else { return };
            self.tell(JobState::Waiting, Some(reason));
            self.job.gates_opened().await;
        }
    }

    /// Probes a broken job, with growing pauses, until it works.
    async fn mended(&mut self, broken: Broken) {
        if self.told != broken.reason {
            tracing::error!(job = self.job.name(), reason = broken.reason, "job paused: it can't go on");
            self.told.clone_from(&broken.reason);
        }
        self.tell(JobState::Broken, Some(broken.reason.clone()));
        loop {
            self.patience.wait().await;
            self.job.gates_opened().await;
            let Some(id) = broken.sample.clone() else { return };
            match probe(&self.job, id).await {
                Ok(()) => break,
                Err(reason) => self.tell(JobState::Broken, Some(reason)),
            }
        }
        tracing::info!(job = self.job.name(), "the job works again");
    }

    /// Begins to consume: suspects, if there are some and it was not their turn just now, else the other lanes.
    async fn open(&mut self) -> Result<(Session, &'static [Lane]), Fault> {
        let source = &self.surroundings.source;
        let suspects = if self.suspects_had.is_some() { None } else { source.suspects(&self.job).await? };
        let lanes = suspects.unwrap_or(Lane::OPEN);
        let session = source.open(&self.job, lanes).await?;
        Ok((session, lanes))
    }

    /// Waits until it is the other lanes' turn. A broker that does not answer ends the session anyway.
    async fn turn(&self, session: &Session, lanes: &[Lane]) {
        let source = &self.surroundings.source;
        let began = Instant::now();
        if lanes == Lane::OPEN {
            // Suspects that had their turn just now go on as soon as nothing else is left to do, or the others had as long.
            let mut look = if self.suspects_had.is_some() { LOOK_FOR_MORE } else { LOOK_FOR_SUSPECTS };
            let at_least = self.suspects_had.unwrap_or_default().max(LOOK_FOR_SUSPECTS);
            loop {
                tokio::time::sleep(look).await;
                if began.elapsed() < at_least && !self.nothing_waits(session, lanes).await {
                    continue;
                }
                if matches!(source.suspects(&self.job).await, Ok(Some(_))) {
                    return;
                }
                look = LOOK_FOR_SUSPECTS;
            }
        }
        // One that is no longer in the queue may not have arrived here yet.
        let mut quiet = 0;
        while quiet < 2 && began.elapsed() < SUSPECTS_AT_MOST {
            tokio::time::sleep(LOOK_FOR_MORE).await;
            let none = self.nothing_waits(session, lanes).await;
            quiet = if none { quiet + 1 } else { 0 };
        }
    }

    /// Whether nothing of these lanes is in hand or waits.
    async fn nothing_waits(&self, session: &Session, lanes: &[Lane]) -> bool {
        session.is_settled() && matches!(self.surroundings.source.waits(&self.job, lanes).await, Ok(false))
    }

    /// Takes messages until something ends it.
    async fn session(&self, mut session: Session, lanes: &'static [Lane]) -> End {
        self.tell(JobState::Running, None);
        // What held up an earlier session says nothing of this one.
        self.job.set_hindrance(None);
        let (report, mut broken) = mpsc::channel(1);
        let mut running = JoinSet::new();
        for (lane, deliveries) in session.take_deliveries() {
            let places = self.job.batches.part(lane.places(&self.job));
            running.spawn(run_lane(self.job.clone(), lane, deliveries, places, report.clone()));
        }
        let name = self.job.name();
        let end = tokio::select! {
            biased;
            () = self.surroundings.shutdown.asked() => End::Shutdown,
            () = self.surroundings.controls.paused(name) => End::Paused,
            Some(why) = broken.recv() => End::Broken(why),
            reason = session.lost() => End::Lost(reason),
            reason = self.held_too_long(&session, lanes) => End::Lost(reason),
            () = self.turn(&session, lanes) => End::Turn,
        };
        if matches!(end, End::Shutdown | End::Paused | End::Turn) {
            session.stop_intake().await;
            let done = async { while running.join_next().await.is_some() {} };
            let is_done = tokio::select! {
                biased;
                () = done => tokio::time::timeout(PAUSE_AT_MOST, session.drained()).await.is_ok(),
                () = self.patience(&end, &session, lanes) => false,
            };
            if !is_done {
                tracing::warn!(job = name, "not everything was finished: the rest goes back to its queue");
            }
        }
        running.shutdown().await;
        session.close().await;
        self.job.meters.all.oldest_unsettled.get_or_create(&job_label(name)).set(0.0);
        end
    }

    /// Waits for as long as a session that has ended may take to finish what it has.
    async fn patience(&self, end: &End, session: &Session, lanes: &[Lane]) {
        match end {
            // The worker's own limit cuts this short.
            End::Shutdown => tokio::time::sleep(HELD_AT_MOST).await,
            // Suspects may wait for a replica, and then for rows that take long: cut off, they would never get done.
            End::Turn if lanes != Lane::OPEN => {
                let Settings { hold, fetch, .. } = self.job.settings;
                tokio::select! {
                    biased;
                    () = self.surroundings.shutdown.asked() => tokio::time::sleep(PAUSE_AT_MOST).await,
                    () = self.surroundings.controls.paused(self.job.name()) => tokio::time::sleep(PAUSE_AT_MOST).await,
                    _reason = self.held_too_long(session, lanes) => {}
                    () = tokio::time::sleep(hold + fetch) => {}
                }
            }
            End::Turn | End::Paused | End::Broken(_) | End::Lost(_) => tokio::time::sleep(PAUSE_AT_MOST).await,
        }
    }

    /// Ends when a message has been held for too long while a server is away: another worker may reach it. And
    /// in any case well before the broker closes channels that hold a message for half an hour.
    async fn held_too_long(&self, session: &Session, lanes: &[Lane]) -> String {
        // What is read alone goes back as a new message as soon as it has to wait: whatever befalls this worker meanwhile is not
        // that message's doing.
        let is_alone = lanes == [Lane::Alone];
        let hold = if is_alone { Duration::ZERO } else { self.job.settings.hold };
        let gauge = self.job.meters.all.oldest_unsettled.get_or_create(&job_label(self.job.name())).clone();
        loop {
            tokio::time::sleep(LOOK).await;
            let age = session.oldest().map(|received| received.elapsed()).unwrap_or_default();
            gauge.set(age.as_secs_f64());
            let away = self.job.away();
            let hindrance = away.clone().or_else(|| self.job.hindrance().filter(|_| !age.is_zero()));
            let state = if hindrance.is_some() { JobState::Waiting } else { JobState::Running };
            self.tell(state, hindrance.clone());
            let waits = if is_alone { hindrance.is_some() } else { away.is_some() };
            if age > HELD_AT_MOST || (waits && age > hold) {
                if hindrance.is_none() {
                    self.job.speed.take_less();
                }
                let reason = hindrance.unwrap_or_else(|| {
                    "the worker is too slow for what it took, and takes less from now on".to_owned()
                });
                tracing::warn!(job = self.job.name(), reason, "messages go back to their queue");
                return reason;
            }
        }
    }
}

/// Makes batches of a lane's deliveries and sends them on their way, several at a time.
async fn run_lane(
    job: Arc<Job>,
    lane: Lane,
    deliveries: mpsc::Receiver<Delivery>,
    places: Share,
    broken: mpsc::Sender<Broken>,
) {
    let mut batcher = Batcher::new(job.clone(), deliveries);
    let running = watch::Sender::new(0_usize);
    let mut observed = running.subscribe();
    let rests = Arc::new(Rests::default());
    let mut batches = JoinSet::new();
    while batcher.wait().await {
        let mut beside_live = None;
        match lane {
            Lane::Live => job.live.came(),
            Lane::Low if job.live.is_there() => {
                rests.over(&job, &mut observed).await;
                beside_live = Some(rests.clone());
            }
            Lane::Low | Lane::Suspects | Lane::Alone => {}
        }
        let part = if beside_live.is_some() { LOW_PART } else { 1 };
        let size = (lane.batch_size(&job) / part).max(1);
        let backlog = beside_live.is_none().then_some(&job.backlog);
        batcher.fill(size, &mut observed, backlog).await;
        // What comes while there is no place fills the batch.
        let place = batcher.until(size, places.place()).await;
        let is_behind = batcher.is_behind();
        let Some(batch) = batcher.close() else { continue };
        running.send_modify(|running| *running += 1);
        let is_full = is_behind || batch.entries.len() >= size;
        let full =
            backlog.filter(|_| is_full).and_then(|backlog| backlog.full_batch(job.bytes_of(batch.entries.len())));
        let (counted, report) = (running.clone(), broken.clone());
        batches.spawn(async move {
            let began = Instant::now();
            run(batch, place, report).await;
            drop(full);
            if let Some(rests) = beside_live {
                rests.took(began.elapsed());
            }
            counted.send_modify(|running| *running -= 1);
        });
        while let Some(ended) = batches.try_join_next() {
            report_panic(ended, &broken);
        }
    }
    while let Some(ended) = batches.join_next().await {
        report_panic(ended, &broken);
    }
}

/// A defect in the worker must not leave messages unsettled in silence.
fn report_panic(ended: Result<(), JoinError>, broken: &mpsc::Sender<Broken>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        let reason = format!("a batch ended in a defect of the worker: {error}");
        // A full channel already holds a reason to stop.
        let _told = broken.try_send(Broken { reason, sample: None }).is_ok();
    }
}
