//! Where deliveries come from: four lanes a job, each a channel of its own.
//!
//! Suspects are read together, but with nothing else of their job in this worker: most are innocent, and done at once. If they kill
//! it, each is then read alone, so that what kills it is that one.

mod ahead;
pub mod alone;
pub mod envelope;
mod intake;
mod judge;
pub mod notes;
pub mod rabbitmq;
mod set_aside;
pub mod suspects;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::ahead::Ahead;
use self::alone::Alone;
use self::intake::{InHand, Intake};
use self::set_aside::Aside;
use self::suspects::Suspects;
use crate::error::Fault;
use crate::pipeline::delivery::{Delivery, Ledger};
use crate::pipeline::job::Job;
use crate::ports::{Channel, Queues};
use crate::tracker::Run;

/// A queue of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// What applications send.
    Live,
    /// Rebuilds, fan-outs, second looks.
    Low,
    /// Messages that came back more than once.
    Suspects,
    /// Suspects that came back again, read one at a time.
    Alone,
}

impl Lane {
    /// Those that are read at the same time.
    pub const OPEN: &[Self] = &[Self::Live, Self::Low];
    /// Those that are read when nothing else is, each by itself.
    const APART: [&[Self]; 2] = [&[Self::Suspects], &[Self::Alone]];

    /// Batches that may be on their way: of the low lane all but a quarter, so that live ones find a place.
    pub fn places(self, job: &Job) -> usize {
        let all = job.batches.places();
        match self {
            Self::Live => all,
            Self::Low => (all - all / 4).max(1),
            Self::Suspects | Self::Alone => 1,
        }
    }

    /// Entries of a full batch, for now: of lanes that are read apart never more than may be in hand, since no others would come.
    pub fn batch_size(self, job: &Job) -> usize {
        match self {
            Self::Live | Self::Low => job.batch_size(),
            Self::Suspects => job.batch_size().min(SUSPECTS_TOGETHER.into()),
            Self::Alone => 1,
        }
    }

    fn queue(self, job: &Job) -> String {
        let names = &job.settings.names;
        match self {
            Self::Live => names.queue(job.name()),
            Self::Low => names.low_queue(job.name()),
            Self::Suspects => names.suspects_queue(job.name()),
            Self::Alone => names.alone_queue(job.name()),
        }
    }
}

/// A delivery that comes back this often goes to the suspects. After a crash every message that
/// was held comes back, innocent ones too, so the count condemns nobody here.
const REDELIVERIES_OF_A_SUSPECT: u64 = 2;

/// Suspects that are read together. One that kills its worker sends so many on to be read alone, which takes a hundred times as long
/// for each: with a whole batch of them, ten minutes of faults left 20,000 there.
const SUSPECTS_TOGETHER: u16 = 32;

/// Batches ahead for two that may be on their way: messages are acknowledged in their order, so one slow batch holds up the room of those
/// behind it, and what comes in the place of what is done has to be there before it is needed. With less than one for each, batches of
/// messages of one id were not full; each costs a megabyte, of such messages.
const BATCHES_PER_TWO_PLACES: usize = 3;

/// The queues as a source, for all jobs of a worker.
#[derive(Clone)]
pub struct Source {
    queues: Arc<dyn Queues>,
    jobs: Arc<[String]>,
}

impl Source {
    /// A source for a worker that knows these jobs.
    pub fn new(queues: Arc<dyn Queues>, jobs: &[String]) -> Self {
        Self { queues, jobs: jobs.into() }
    }

    /// The suspects that wait to be read, if there are some: those that may be read together first.
    ///
    /// # Errors
    /// The broker is away, or a queue is missing or not to be read.
    pub async fn suspects(&self, job: &Job) -> Result<Option<&'static [Lane]>, Fault> {
        for lanes in Lane::APART {
            if self.waits(job, lanes).await? {
                return Ok(Some(lanes));
            }
        }
        Ok(None)
    }

    /// Whether something waits in one of these lanes.
    ///
    /// # Errors
    /// The broker is away, or a queue is missing or not to be read.
    pub async fn waits(&self, job: &Job, lanes: &[Lane]) -> Result<bool, Fault> {
        for lane in lanes {
            if self.waiting(job, *lane).await? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many messages wait in this lane.
    ///
    /// # Errors
    /// The broker is away, or the queue is missing or not to be read.
    pub async fn waiting(&self, job: &Job, lane: Lane) -> Result<u32, Fault> {
        self.queues.waiting(&lane.queue(job)).await
    }

    /// Begins to consume these lanes of the job.
    ///
    /// # Errors
    /// The broker is away, or the job's queues are missing or not to be read.
    pub async fn open(&self, job: &Arc<Job>, lanes: &'static [Lane]) -> Result<Session, Fault> {
        let (lost, is_lost) = watch::channel(None);
        let (aside, set_aside) = mpsc::channel(set_aside::WAITING_MAX);
        let mut session = Session { lanes: Vec::new(), lost: is_lost, set_aside: None };
        for lane in lanes {
            match self.open_lane(*lane, job.clone(), aside.clone(), lost.clone()).await {
                Ok(lane) => session.lanes.push(lane),
                Err(fault) => {
                    // A lane that is open already would hold messages that nobody works on.
                    session.close().await;
                    return Err(fault);
                }
            }
        }
        session.set_aside = Some(tokio::spawn(set_aside::run(job.clone(), set_aside)));
        Ok(session)
    }

    async fn open_lane(
        &self,
        lane: Lane,
        job: Arc<Job>,
        aside: mpsc::Sender<Aside>,
        lost: watch::Sender<Option<String>>,
    ) -> Result<OpenLane, Fault> {
        let ids_ahead = BATCHES_PER_TWO_PLACES * lane.places(&job) * job.settings.batch_max / 2;
        let ahead = match lane {
            Lane::Live | Lane::Low => Ahead::of_ids(ids_ahead, &job.speed),
            Lane::Suspects => Ahead::fixed(SUSPECTS_TOGETHER),
            Lane::Alone => Ahead::fixed(1),
        };
        let consumer = self.queues.consume(&lane.queue(&job), ahead.messages()).await?;
        let channel = consumer.channel.clone();
        // A channel's first delivery has the tag 1.
        let ledger = Ledger::new(1);
        // All that the broker gives is taken up at once: as deliveries messages need a part of the memory.
        let (sender, deliveries) = mpsc::channel(ids_ahead.max(ahead.messages().into()));
        let in_hand = match lane {
            Lane::Live | Lane::Low => InHand::Uncounted,
            Lane::Suspects => InHand::Suspects(Suspects::new(job.clone())),
            Lane::Alone => InHand::Alone(Alone::new(job.clone())),
        };
        let intake = Intake {
            lane,
            job,
            jobs: self.jobs.clone(),
            aside,
            ledger: ledger.clone(),
            deliveries: sender,
            in_hand: in_hand.clone(),
        };
        let task = tokio::spawn(intake.run(consumer, ahead, lost.clone()));
        let (finish, finished) = watch::channel(false);
        let acknowledger = tokio::spawn(acknowledge(channel.clone(), ledger.clone(), finished, lost));
        Ok(OpenLane { lane, channel, ledger, deliveries: Some(deliveries), in_hand, task, acknowledger, finish })
    }
}

/// Acknowledges the settled prefix as it rises. Only here, one after the other: a lower tag
/// after a higher one would close the channel.
async fn acknowledge(
    channel: Arc<dyn Channel>,
    ledger: Arc<Ledger>,
    mut finished: watch::Receiver<bool>,
    lost: watch::Sender<Option<String>>,
) {
    let mut settled = ledger.acknowledgements();
    let mut last = *settled.borrow_and_update();
    loop {
        let finishing = tokio::select! {
            biased;
            changed = settled.changed() => changed.is_err(),
            _ = finished.wait_for(|finished| *finished) => true,
        };
        let tag = *settled.borrow_and_update();
        if tag > last {
            last = tag;
            if let Err(error) = channel.acknowledge(tag).await {
                // The channel is gone, and with it every claim to its messages: they come again.
                tracing::debug!(error, "not acknowledged");
                lost.send_replace(Some(error));
                return;
            }
        }
        if finishing {
            return;
        }
    }
}

/// At the end, acknowledges what is done behind a message that is not. It would come back: what was put elsewhere would be there twice,
/// and what comes back again and again is suspected.
///
/// A run at a time, and those before it go back first: a quorum queue keeps what goes beyond 32 commands under way in the channel, and
/// forgets it with the channel (RabbitMQ's `rabbit_fifo_client`, `SOFT_LIMIT`).
async fn acknowledge_apart(channel: &dyn Channel, ledger: &Ledger) {
    let runs = ledger.runs();
    if !runs.is_empty() {
        // What goes back must not come here.
        channel.cancel().await;
    }
    for Run { last, is_settled } in runs {
        let told = if is_settled { channel.acknowledge(last).await } else { channel.give_back(last).await };
        if told.is_err() {
            return;
        }
    }
}

struct OpenLane {
    lane: Lane,
    channel: Arc<dyn Channel>,
    ledger: Arc<Ledger>,
    deliveries: Option<mpsc::Receiver<Delivery>>,
    in_hand: InHand,
    task: JoinHandle<()>,
    acknowledger: JoinHandle<()>,
    finish: watch::Sender<bool>,
}

/// A job that is being consumed.
pub struct Session {
    lanes: Vec<OpenLane>,
    lost: watch::Receiver<Option<String>>,
    set_aside: Option<JoinHandle<()>>,
}

impl Session {
    /// The deliveries of each lane; to be taken once.
    pub fn take_deliveries(&mut self) -> Vec<(Lane, mpsc::Receiver<Delivery>)> {
        self.lanes.iter_mut().filter_map(|lane| Some((lane.lane, lane.deliveries.take()?))).collect()
    }

    /// When the oldest unsettled message came.
    pub fn oldest(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(|lane| lane.ledger.oldest()).min()
    }

    /// Whether nothing that was received is unsettled.
    pub fn is_settled(&self) -> bool {
        self.lanes.iter().all(|lane| lane.ledger.is_settled())
    }

    /// Waits until a channel is gone; why.
    pub async fn lost(&self) -> String {
        let mut lost = self.lost.clone();
        match lost.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the consumers have ended".to_owned(),
        }
    }

    /// Cancels the consumers: what was received is still delivered, then the lanes end.
    pub async fn stop_intake(&self) {
        for lane in &self.lanes {
            lane.channel.cancel().await;
        }
    }

    /// After the intake was stopped: waits until what was set aside has arrived.
    pub async fn drained(&mut self) {
        for lane in &mut self.lanes {
            let ended = (&mut lane.task).await;
            tracing::trace!(?ended, "intake");
        }
        if let Some(set_aside) = self.set_aside.take() {
            let ended = set_aside.await;
            tracing::trace!(?ended, "set aside");
        }
    }

    /// Sends the last acknowledgements and closes the channels: unsettled messages go back.
    pub async fn close(mut self) {
        for lane in &self.lanes {
            let is_done = lane.ledger.is_settled();
            lane.in_hand.end(is_done, lane.channel.is_open()).await;
        }
        if let Some(set_aside) = self.set_aside {
            set_aside.abort();
        }
        for lane in self.lanes.drain(..) {
            lane.task.abort();
            lane.finish.send_replace(true);
            let ended = lane.acknowledger.await;
            tracing::trace!(?ended, "acknowledger");
            acknowledge_apart(&*lane.channel, &lane.ledger).await;
            lane.channel.close().await;
        }
    }
}
