//! Deliveries from RabbitMQ: three lanes a job, each a channel of its own.

mod judge;

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use self::judge::Judgement;
use super::envelope;
use super::set_aside::{Aside, Suspect};
use crate::config::Config;
use crate::error::{Fault, Service};
use crate::metrics::verdict_label;
use crate::pipeline::delivery::{Delivery, Ledger};
use crate::pipeline::job::Job;
use crate::ports::{Destination, Requeue};

/// A queue of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// What applications send.
    Live,
    /// Rebuilds, fan-outs, second looks.
    Low,
    /// Messages that came back more than once, read one at a time.
    Suspects,
}

impl Lane {
    /// All lanes.
    pub const ALL: [Self; 3] = [Self::Live, Self::Low, Self::Suspects];

    fn queue(self, job: &Job) -> String {
        let names = &job.settings.names;
        match self {
            Self::Live => names.queue(job.name()),
            Self::Low => names.low_queue(job.name()),
            Self::Suspects => names.suspects_queue(job.name()),
        }
    }
}

/// A delivery that comes back this often goes to the suspects. After a crash every message that
/// was held comes back, innocent ones too, so the count condemns nobody here.
const REDELIVERIES_OF_A_SUSPECT: u64 = 2;

/// The broker as a source, for all jobs of a worker, on one connection.
pub struct Rabbitmq {
    url: crate::config::Secret,
    ca_file: Option<std::path::PathBuf>,
    worker: Arc<str>,
    /// Batches on their way at the most, which the prefetch follows.
    places: usize,
    jobs: Vec<String>,
    connection: Mutex<Option<Connection>>,
}

impl Rabbitmq {
    /// The broker of `config`, for a worker of this name that knows these jobs.
    pub fn new(config: &Config, worker: Arc<str>, jobs: Vec<String>) -> Self {
        Self {
            url: config.rabbitmq.url.clone(),
            ca_file: config.rabbitmq.ca_file.clone(),
            worker,
            places: config.worker.fetches_in_flight_max + config.worker.bulks_in_flight_max,
            jobs,
            connection: Mutex::new(None),
        }
    }

    /// Batches of the low lane that may be on their way: a quarter, so that live ones find a place.
    pub fn low_places(&self) -> usize {
        (self.places / 4).max(1)
    }

    /// Whether the broker answers.
    ///
    /// # Errors
    /// Why not.
    pub async fn ping(&self) -> Result<(), String> {
        let channel = self.channel().await.map_err(|fault| fault.to_string())?;
        channel.close(200, "ping".into()).await.map_err(|error| error.to_string())
    }

    async fn channel(&self) -> Result<Channel, Fault> {
        let away = |reason: String| Fault::Away { service: Service::Rabbitmq, reason };
        let mut held = self.connection.lock().await;
        if !held.as_ref().is_some_and(|connection| connection.status().connected()) {
            let name = format!("pinion worker {}", self.worker);
            let opened = pinion_client::connect(self.url.expose(), &name, self.ca_file.as_deref()).await;
            *held = Some(opened.map_err(|error| away(error.to_string()))?);
        }
        let connection = held.as_ref().expect("it was just opened");
        connection.create_channel().await.map_err(|error| away(error.to_string()))
    }

    /// Begins to consume the job's lanes.
    ///
    /// # Errors
    /// The broker is away, or the job's queues are missing or not to be read.
    pub async fn open(self: &Arc<Self>, job: &Arc<Job>) -> Result<Session, Fault> {
        let (lost, is_lost) = watch::channel(None);
        let (aside, set_aside) = mpsc::channel(super::set_aside::WAITING_MAX);
        let mut session = Session { job: job.clone(), lanes: Vec::new(), lost: is_lost, set_aside: None };
        for lane in Lane::ALL {
            let intake = Intake { lane, job: job.clone(), jobs: self.jobs.clone(), aside: aside.clone() };
            session.lanes.push(self.open_lane(intake, lost.clone()).await?);
        }
        session.set_aside = Some(tokio::spawn(super::set_aside::run(job.clone(), set_aside)));
        Ok(session)
    }

    async fn open_lane(&self, intake: Intake, lost: watch::Sender<Option<String>>) -> Result<OpenLane, Fault> {
        let job = intake.job.clone();
        let lane = intake.lane;
        let queue = lane.queue(&job);
        let channel = self.channel().await?;
        let refused = |error: lapin::Error| refusal(&queue, &error);
        channel.basic_qos(self.prefetch(lane, &job), BasicQosOptions::default()).await.map_err(refused)?;
        let consumer = channel
            .basic_consume(
                queue.as_str().into(),
                format!("{}.{queue}", self.worker).into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(refused)?;
        let tag = consumer.tag();
        // A channel's first delivery has the tag 1.
        let ledger = Ledger::new(1);
        let (sender, deliveries) = mpsc::channel(job.settings.batch_max);
        let suspect = Suspect::default();
        let task = tokio::spawn(intake.run(consumer, ledger.clone(), sender, suspect.clone(), lost));
        let (finish, finished) = watch::channel(false);
        let acknowledger = tokio::spawn(acknowledge(channel.clone(), ledger.clone(), finished));
        Ok(OpenLane { lane, channel, tag, ledger, deliveries: Some(deliveries), suspect, task, acknowledger, finish })
    }

    /// Enough that every place has a full batch and the next one is there.
    fn prefetch(&self, lane: Lane, job: &Job) -> u16 {
        let batches = match lane {
            Lane::Live => self.places + 1,
            Lane::Low => self.low_places() + 1,
            Lane::Suspects => return 1,
        };
        u16::try_from(batches * job.settings.batch_max).unwrap_or(u16::MAX)
    }
}

/// A queue that is missing or not to be read is the job's trouble, everything else the broker's.
fn refusal(queue: &str, error: &lapin::Error) -> Fault {
    const NOT_FOUND: u16 = 404;
    const ACCESS_REFUSED: u16 = 403;
    if let lapin::ErrorKind::ProtocolError(protocol) = error.kind() {
        match protocol.get_id() {
            NOT_FOUND => return Fault::Job(format!("the queue {queue} is missing: run `pinion apply`")),
            ACCESS_REFUSED => {
                return Fault::Job(format!(
                    "the user of [rabbitmq] may not read the queue {queue}: {}",
                    protocol.get_message()
                ));
            }
            _ => {}
        }
    }
    Fault::Away { service: Service::Rabbitmq, reason: error.to_string() }
}

/// Acknowledges the settled prefix as it rises. Only here, one after the other: a lower tag
/// after a higher one would close the channel.
async fn acknowledge(channel: Channel, ledger: Arc<Ledger>, mut finished: watch::Receiver<bool>) {
    let mut settled = ledger.acknowledgements();
    let mut last = *settled.borrow_and_update();
    loop {
        let finishing = tokio::select! {
            changed = settled.changed() => changed.is_err(),
            _ = finished.wait_for(|finished| *finished) => true,
        };
        let tag = *settled.borrow_and_update();
        if tag > last {
            last = tag;
            if let Err(error) = channel.basic_ack(tag, BasicAckOptions { multiple: true }).await {
                // The channel is gone, and with it every claim to its messages: they come again.
                tracing::debug!(%error, "not acknowledged");
                return;
            }
        }
        if finishing {
            return;
        }
    }
}

struct OpenLane {
    lane: Lane,
    channel: Channel,
    tag: lapin::types::ShortString,
    ledger: Arc<Ledger>,
    deliveries: Option<mpsc::Receiver<Delivery>>,
    suspect: Suspect,
    task: JoinHandle<()>,
    acknowledger: JoinHandle<()>,
    finish: watch::Sender<bool>,
}

/// A job that is being consumed.
pub struct Session {
    job: Arc<Job>,
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
            if let Err(error) = lane.channel.basic_cancel(lane.tag.clone(), BasicCancelOptions::default()).await {
                tracing::debug!(%error, "consumer not cancelled");
            }
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
            self.return_suspect(lane).await;
        }
        for lane in self.lanes.drain(..) {
            lane.task.abort();
            lane.finish.send_replace(true);
            let ended = lane.acknowledger.await;
            tracing::trace!(?ended, "acknowledger");
            if let Err(error) = lane.channel.close(200, "done".into()).await {
                tracing::debug!(%error, "channel not closed");
            }
        }
        if let Some(set_aside) = self.set_aside {
            set_aside.abort();
        }
    }

    /// An orderly end must not count against the suspect that is being looked at: it goes to the
    /// end of its queue as a new message. Where the channel is gone the broker has put it back already,
    /// and there would be two of it.
    async fn return_suspect(&self, lane: &OpenLane) {
        let ours = !lane.ledger.is_settled() && lane.channel.status().connected();
        let Some((requeue, receipt)) = lane.suspect.take().filter(|_| ours) else { return };
        if self.job.broker.requeue(vec![requeue]).await.is_ok() {
            receipt.settle_message();
        }
    }
}

/// Turns a lane's messages into deliveries.
struct Intake {
    lane: Lane,
    job: Arc<Job>,
    jobs: Vec<String>,
    aside: mpsc::Sender<Aside>,
}

impl Intake {
    async fn run(
        self,
        mut consumer: Consumer,
        ledger: Arc<Ledger>,
        deliveries: mpsc::Sender<Delivery>,
        suspect: Suspect,
        lost: watch::Sender<Option<String>>,
    ) {
        while let Some(message) = consumer.next().await {
            let message = match message {
                Ok(message) => message,
                Err(error) => {
                    lost.send_replace(Some(error.to_string()));
                    return;
                }
            };
            if self.accept(message, &ledger, &deliveries, &suspect).await.is_none() {
                return;
            }
        }
        // Cancelled: by us, when nobody listens to this any more, or by the broker (the queue was deleted).
        lost.send_replace(Some(format!("the broker ended the consumer of {}", self.lane.queue(&self.job))));
    }

    /// Hands the message's ids on; `None` when nobody takes them any more.
    async fn accept(
        &self,
        message: lapin::message::Delivery,
        ledger: &Arc<Ledger>,
        deliveries: &mpsc::Sender<Delivery>,
        suspect: &Suspect,
    ) -> Option<()> {
        let redeliveries = envelope::redeliveries(&message.properties);
        let verdict = self.judge(&message, redeliveries);
        let ids = match verdict {
            Judgement::Deliver(ids) => ids,
            Judgement::SetAside(label, aside) => {
                let label = verdict_label(self.job.name(), label);
                self.job.meters.all.messages.get_or_create(&label).inc();
                let receipt = ledger.receive(1);
                return self.aside.send(aside(receipt)).await.ok();
            }
        };
        self.job.meters.accepted.inc();
        let receipt = ledger.receive(u32::try_from(ids.good.len() + ids.bad.len()).unwrap_or(u32::MAX));
        let envelope = envelope::read(&message.properties);
        if self.lane == Lane::Suspects {
            let requeue = Requeue {
                job: self.job.name().to_owned(),
                destination: Destination::Suspects,
                payload: message.data,
                envelope: envelope.clone(),
            };
            suspect.set(requeue, receipt.clone());
        }
        for letter in ids.bad {
            self.aside.send(Aside::Dead(letter, receipt.clone())).await.ok()?;
        }
        for id in ids.good {
            let delivery = Delivery { id, after: ids.after, envelope: envelope.clone(), receipt: receipt.clone() };
            deliveries.send(delivery).await.ok()?;
        }
        Some(())
    }
}
