//! A broker: queues that count redeliveries, channels that give back what was not acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pinion_schemas::decode;
use pinion_worker::error::{Fault, Service};
use pinion_worker::ports::{
    Broker, Channel, Consumer, Destination, Envelope, Future_, Message, Messages, Queues as QueuesPort, Requeue,
};
use tokio::sync::mpsc;

use crate::world::{Line, State};

/// The job's name, which its queues are called after.
pub(crate) const JOB: &str = "orders";

/// All queues and the channels that consume them.
#[derive(Default)]
pub(crate) struct Queues {
    ready: BTreeMap<String, VecDeque<Stored>>,
    channels: Vec<Open>,
    next_channel: u64,
    next_message: u64,
    /// Messages that wait in delay queues.
    delayed: BTreeMap<u64, Stored>,
    /// Nobody is served.
    pub(crate) away: bool,
}

/// A message in a queue.
#[derive(Debug, Clone)]
struct Stored {
    number: u64,
    /// The rows it names, with the change that each document has to show when it is done.
    rows: Vec<(i64, u64)>,
    payload: Vec<u8>,
    envelope: Envelope,
    redeliveries: u64,
    /// Put here by this worker, in the place of another.
    by: Option<usize>,
}

/// A channel with one consumer.
struct Open {
    number: u64,
    worker: usize,
    queue: String,
    prefetch: usize,
    delivered: u64,
    unacknowledged: VecDeque<(u64, Stored)>,
    messages: mpsc::UnboundedSender<Result<Message, String>>,
    cancelled: bool,
}

impl Queues {
    /// Whether nothing waits anywhere.
    pub(crate) fn is_empty(&self) -> bool {
        self.delayed.is_empty()
            && self.ready.values().all(VecDeque::is_empty)
            && self.channels.iter().all(|open| open.unacknowledged.is_empty())
    }

    /// What is left, for people.
    pub(crate) fn left(&self) -> String {
        let ready = self.ready.iter().filter(|(_, ready)| !ready.is_empty());
        let ready = ready.map(|(queue, ready)| format!("{} ready in {queue}", ready.len()));
        let held = self.channels.iter().filter(|open| !open.unacknowledged.is_empty());
        let held =
            held.map(|open| format!("{} of {} held by worker {}", open.unacknowledged.len(), open.queue, open.worker));
        ready.chain(held).chain([format!("{} delayed", self.delayed.len())]).collect::<Vec<_>>().join(", ")
    }

    fn stored(&self) -> impl Iterator<Item = &Stored> {
        let held = self.channels.iter().flat_map(|open| open.unacknowledged.iter().map(|(_, stored)| stored));
        self.ready.values().flatten().chain(self.delayed.values()).chain(held)
    }

    /// What the messages are about that a worker holds for a row.
    fn held_by(&self, worker: usize, key: i64) -> u64 {
        let open = self.channels.iter().filter(|open| open.worker == worker);
        let rows = open.flat_map(|open| &open.unacknowledged).flat_map(|(_, stored)| &stored.rows);
        rows.filter(|(row, _)| *row == key).map(|(_, number)| *number).max().unwrap_or_default()
    }

    fn deliver(&mut self, queue: &str) {
        let Some(ready) = self.ready.get_mut(queue) else { return };
        while !ready.is_empty() {
            let free =
                |open: &&mut Open| open.queue == queue && !open.cancelled && open.unacknowledged.len() < open.prefetch;
            // The least busy one: with equal ones, in turn.
            let chosen = self.channels.iter_mut().filter(free).min_by_key(|open| open.delivered);
            let Some(open) = chosen else { break };
            let Some(stored) = ready.pop_front() else { break };
            open.delivered += 1;
            let message = Message {
                payload: stored.payload.clone(),
                envelope: stored.envelope.clone(),
                redeliveries: stored.redeliveries,
            };
            open.unacknowledged.push_back((open.delivered, stored));
            let _read = open.messages.send(Ok(message)).is_ok();
        }
    }

    /// Ends a channel: what it held goes back to where it was, and is counted.
    fn end(&mut self, number: u64, reason: Option<&str>) {
        let Some(place) = self.channels.iter().position(|open| open.number == number) else { return };
        let open = self.channels.remove(place);
        if let Some(reason) = reason {
            let _read = open.messages.send(Err(reason.to_owned())).is_ok();
        }
        self.put_back(&open.queue, open.unacknowledged.into_iter().map(|(_, stored)| stored).collect());
        self.deliver(&open.queue);
    }

    /// Puts messages back to where they were, counted.
    fn put_back(&mut self, queue: &str, messages: Vec<Stored>) {
        let ready = self.ready.entry(queue.to_owned()).or_default();
        for stored in messages.into_iter().rev() {
            ready.push_front(Stored { redeliveries: stored.redeliveries + 1, ..stored });
        }
    }

    /// Cuts the connections of a worker, or of all.
    pub(crate) fn cut(&mut self, worker: Option<usize>) {
        let cut = self.channels.iter().filter(|open| worker.is_none_or(|worker| worker == open.worker));
        for number in cut.map(|open| open.number).collect::<Vec<_>>() {
            self.end(number, Some("the connection was cut"));
        }
    }
}

impl State {
    /// Takes a message into a queue, for an application or a worker.
    pub(crate) fn publish(&mut self, queue: &str, payload: Vec<u8>, envelope: Envelope, by: Option<usize>) -> u64 {
        let stored = self.store(payload, envelope, by);
        let number = stored.number;
        self.queues.ready.entry(queue.to_owned()).or_default().push_back(stored);
        self.queues.deliver(queue);
        number
    }

    fn store(&mut self, payload: Vec<u8>, envelope: Envelope, by: Option<usize>) -> Stored {
        self.queues.next_message += 1;
        let rows = rows_of(&payload).into_iter().map(|key| match by {
            // A copy is about what those messages are about that its worker holds.
            Some(worker) => (key, self.queues.held_by(worker, key)),
            None => (key, self.cluster.returned(key)),
        });
        let rows = rows.collect();
        Stored { number: self.queues.next_message, rows, payload, envelope, redeliveries: 0, by }
    }

    /// A message is acknowledged: its documents have to show what it is about, or a worker has put another in its place.
    fn acknowledged(&mut self, worker: usize, stored: &Stored) {
        for (key, number) in &stored.rows {
            self.history.note("acknowledge", Some(*key), &[worker as u64, stored.number], || {
                format!("worker {worker}, message {} about change {number}", stored.number)
            });
            let covers = |other: &Stored| {
                let about = |(row, change): &(i64, u64)| row == key && change >= number;
                other.by.is_some() && !other.envelope.second_look && other.rows.iter().any(about)
            };
            let mut letters = self.documents.letters.values();
            let covered = self.queues.stored().any(covers) || letters.any(|letter| letter.rows.contains(key));
            if covered {
                continue;
            }
            match self.shows(*key, *number) {
                Ok(()) => self.documents.done(*key, *number),
                Err(_) if self.documents.in_the_window(*key) && self.documents.reached(*key) >= *number => {}
                Err((kind, text)) => {
                    let text = format!("message {} was acknowledged: {text}", stored.number);
                    self.history.violated(kind, Some(*key), text);
                }
            }
        }
    }
}

/// A worker's connection to the broker.
pub(crate) struct Connection {
    pub(crate) line: Line,
}

fn away(reason: &str) -> Fault {
    Fault::Away { service: Service::Rabbitmq, reason: reason.to_owned() }
}

impl Connection {
    async fn trip(&self) -> Result<(), Fault> {
        self.line.trip().await.map_err(|_| away("connection reset"))?;
        if self.line.world.with(|state| state.queues.away) { Err(away("connection refused")) } else { Ok(()) }
    }

    async fn put(&self, messages: Vec<Requeue>) -> Result<(), Fault> {
        for message in messages {
            self.trip().await?;
            let world = &self.line.world;
            let (queue, delay_s) = match message.destination {
                Destination::Live => (format!("pinion.{JOB}"), 0),
                Destination::LiveAfter(delay_s) => (format!("pinion.{JOB}"), delay_s),
                Destination::Low => (format!("pinion.{JOB}.low"), 0),
                Destination::LowAfter(delay_s) => (format!("pinion.{JOB}.low"), delay_s),
                Destination::Suspects => (format!("pinion.{JOB}.suspects"), 0),
                Destination::Alone => (format!("pinion.{JOB}.alone"), 0),
            };
            world.with(|state| {
                let key = rows_of(&message.payload).first().copied();
                state.history.note("put back", key, &[delay_s], || format!("to {queue} in {delay_s} s"));
            });
            if delay_s == 0 {
                world.with(|state| state.publish(&queue, message.payload, message.envelope, Some(self.line.worker)));
            } else {
                self.delay(queue, message, delay_s);
            }
        }
        self.trip().await
    }

    async fn open(&self, queue: &str, prefetch: u16) -> Result<Consumer, Fault> {
        self.trip().await?;
        let (sender, messages) = stream();
        let number = self.line.world.with(|state| {
            let queues = &mut state.queues;
            queues.next_channel += 1;
            queues.channels.push(Open {
                number: queues.next_channel,
                worker: self.line.worker,
                queue: queue.to_owned(),
                prefetch: usize::from(prefetch),
                delivered: 0,
                unacknowledged: VecDeque::new(),
                messages: sender,
                cancelled: false,
            });
            queues.deliver(queue);
            let (number, worker) = (queues.next_channel, self.line.worker);
            state.history.note("consume", None, &[number], || format!("worker {worker}, channel {number}: {queue}"));
            number
        });
        let channel = Lane { line: self.line.clone(), number };
        Ok(Consumer { messages, channel: Arc::new(channel) })
    }

    fn delay(&self, queue: String, message: Requeue, delay_s: u64) {
        let world = &self.line.world;
        let number = world.with(|state| {
            let stored = state.store(message.payload, message.envelope, Some(self.line.worker));
            let number = stored.number;
            state.queues.delayed.insert(number, stored);
            number
        });
        let world = world.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(delay_s)).await;
            world.with(|state| {
                if let Some(stored) = state.queues.delayed.remove(&number) {
                    state.queues.ready.entry(queue.clone()).or_default().push_back(stored);
                    state.queues.deliver(&queue);
                }
            });
        });
    }
}

impl Broker for Connection {
    fn requeue(&self, messages: Vec<Requeue>) -> Future_<'_, Result<(), Fault>> {
        Box::pin(self.put(messages))
    }
}

impl QueuesPort for Connection {
    fn consume<'a>(&'a self, queue: &'a str, prefetch: u16) -> Future_<'a, Result<Consumer, Fault>> {
        Box::pin(self.open(queue, prefetch))
    }

    fn waiting<'a>(&'a self, queue: &'a str) -> Future_<'a, Result<u32, Fault>> {
        Box::pin(async move {
            self.trip().await?;
            let waiting = self.line.world.with(|state| state.queues.ready.get(queue).map_or(0, VecDeque::len));
            self.trip().await?;
            Ok(u32::try_from(waiting).unwrap_or(u32::MAX))
        })
    }

    fn ping(&self) -> Future_<'_, Result<(), String>> {
        Box::pin(async move { self.trip().await.map_err(|fault| fault.to_string()) })
    }
}

/// What a channel gives, and where the broker puts it; it ends with that.
fn stream() -> (mpsc::UnboundedSender<Result<Message, String>>, Messages) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    (sender, Box::pin(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context))))
}

/// The worker's end of a channel.
struct Lane {
    line: Line,
    number: u64,
}

impl Lane {
    /// Takes all up to `tag` off the channel, for `then`, which is also given the queue.
    async fn settle(&self, tag: u64, then: impl FnOnce(&mut State, &str, Vec<Stored>)) -> Result<(), String> {
        self.line.trip().await.map_err(|_| "connection reset".to_owned())?;
        self.line.world.with(|state| {
            let Some(open) = state.queues.channels.iter_mut().find(|open| open.number == self.number) else {
                return Err("the channel is closed".to_owned());
            };
            let settled = open.unacknowledged.partition_point(|(held, _)| *held <= tag);
            let settled = open.unacknowledged.drain(..settled).map(|(_, stored)| stored).collect();
            let queue = open.queue.clone();
            then(state, &queue, settled);
            state.queues.deliver(&queue);
            Ok(())
        })
    }
}

impl Channel for Lane {
    fn acknowledge(&self, tag: u64) -> Future_<'_, Result<(), String>> {
        Box::pin(self.settle(tag, |state, _, settled| {
            for stored in &settled {
                state.acknowledged(self.line.worker, stored);
            }
        }))
    }

    fn give_back(&self, tag: u64) -> Future_<'_, Result<(), String>> {
        Box::pin(self.settle(tag, |state, queue, held| state.queues.put_back(queue, held)))
    }

    fn consume_again(&self, prefetch: u16) -> Future_<'_, Result<Messages, String>> {
        Box::pin(async move {
            self.line.trip().await.map_err(|_| "connection reset".to_owned())?;
            let (sender, messages) = stream();
            self.line.world.with(|state| {
                let Some(open) = state.queues.channels.iter_mut().find(|open| open.number == self.number) else {
                    return Err("the channel is closed".to_owned());
                };
                if open.cancelled {
                    return Ok(());
                }
                state.history.note("prefetch", None, &[self.number], || format!("channel {}: {prefetch}", self.number));
                open.prefetch = usize::from(prefetch);
                open.messages = sender;
                let queue = open.queue.clone();
                state.queues.deliver(&queue);
                Ok(())
            })?;
            self.line.trip().await.map_err(|_| "connection reset".to_owned())?;
            Ok(messages)
        })
    }

    fn is_open(&self) -> bool {
        self.line.world.with(|state| state.queues.channels.iter().any(|open| open.number == self.number))
    }

    fn cancel(&self) -> Future_<'_, ()> {
        Box::pin(async move {
            self.line.live().await;
            self.line.world.with(|state| {
                if let Some(open) = state.queues.channels.iter_mut().find(|open| open.number == self.number) {
                    state.history.note("cancel", None, &[self.number], || format!("channel {}", self.number));
                    open.cancelled = true;
                    // The stream ends with its sender.
                    open.messages = mpsc::unbounded_channel().0;
                }
            });
        })
    }

    fn close(&self) -> Future_<'_, ()> {
        Box::pin(async move {
            self.line.live().await;
            self.line.world.with(|state| {
                state.history.note("close", None, &[self.number], || format!("channel {}", self.number));
                state.queues.end(self.number, None);
            });
        })
    }
}

/// The queue that applications publish to.
pub(crate) fn live_queue() -> String {
    format!("pinion.{JOB}")
}

/// The queue of what is not urgent.
pub(crate) fn low_queue() -> String {
    format!("pinion.{JOB}.low")
}

/// The rows that a message names.
pub(crate) fn rows_of(payload: &[u8]) -> Vec<i64> {
    let decoded = decode(payload).map(|message| message.ids.iter().filter_map(|id| id.get().parse().ok()).collect());
    decoded.unwrap_or_default()
}
