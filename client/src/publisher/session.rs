//! One channel's life: publishes, takes the confirms, and tells who is meant by them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Connection, ErrorKind, Event};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::connection::in_time;
use crate::error::PublishError;
use crate::publisher::message::{Message, Outgoing};
use crate::publisher::returns::{Returns, Settled};
use crate::publisher::supervisor::{Link, Supervisor, sleep_to};

const COMMANDS_AT_ONCE: usize = 256;

/// Why a session ended. What is not settled is back in the supervisor's queue.
pub(super) enum End {
    /// The publisher is closed, everything is settled.
    Finished,
    /// The broker closed the channel, and not the connection: it objects to one of the messages.
    ChannelClosed,
    /// The connection is gone.
    ConnectionLost(String),
}

/// A channel and what was published on it.
pub(super) struct Session<'a> {
    supervisor: &'a mut Supervisor,
    connection: &'a Connection,
    channel: Arc<Channel>,
    next_number: u64,
    /// By their number, the oldest first.
    unsettled: BTreeMap<u64, Outgoing>,
    returns: Returns,
}

/// What one of the futures of a session has come to.
enum Step {
    Answered(u64, lapin::Result<Confirm>),
    /// Everything that was ready before this was pushed has been seen: see [`Returns`].
    Marker,
}

/// The broker's answer.
struct Confirm {
    taken: bool,
    /// The number of the returned message that lapin has put to it: see [`Returns`].
    returned: Option<u64>,
}

impl<'a> Session<'a> {
    /// Opens a channel and publishes on it until it ends.
    pub(super) async fn run(supervisor: &'a mut Supervisor, connection: &'a Connection) -> End {
        let channel = match supervisor.meanwhile(open(connection)).await {
            Some(Ok(channel)) => Arc::new(channel),
            Some(Err(error)) => return End::ConnectionLost(error.to_string()),
            None => return End::Finished,
        };
        let mut session = Session {
            supervisor,
            connection,
            channel,
            next_number: 0,
            unsettled: BTreeMap::new(),
            returns: Returns::default(),
        };
        let ended = session.work().await;
        session.give_back(ended)
    }

    /// Works until there is nothing left to do (none), or the channel fails.
    async fn work(&mut self) -> Option<lapin::Error> {
        let mut steps = FuturesUnordered::new();
        let mut events = std::pin::pin!(self.connection.events_listener());
        // Only now, or the end of an alarm could be missed between the two.
        if !self.connection.status().blocked() {
            self.supervisor.link.send_replace(Link::Up);
        }
        let mut commands = Vec::with_capacity(COMMANDS_AT_ONCE);
        // When the oldest message's time is over. It is set anew when it is reached, not with every message.
        let mut expiry = std::pin::pin!(sleep_to(None));
        let mut expiry_set = false;
        loop {
            while let Some((number, message)) = self.next_to_publish() {
                steps.push(step(Some((self.channel.clone(), message, number))));
            }
            if self.supervisor.finished() && self.unsettled.values().all(Outgoing::is_over) {
                return None;
            }
            if !expiry_set && let Some(deadline) = self.oldest_deadline() {
                expiry.set(sleep_to(Some(deadline)));
                expiry_set = true;
            }
            let closing = self.supervisor.closing;
            tokio::select! {
                Some(step_done) = steps.next(), if !steps.is_empty() => match step_done {
                    Step::Answered(number, Ok(confirm)) => {
                        if self.answered(number, confirm) {
                            steps.push(step(None));
                        }
                    }
                    Step::Answered(_, Err(error)) => return Some(error),
                    Step::Marker => {
                        let (settled, again) = self.returns.marker(self.unsettled.len());
                        self.settle(settled);
                        if again {
                            steps.push(step(None));
                        }
                    }
                },
                count = self.supervisor.commands.recv_many(&mut commands, COMMANDS_AT_ONCE), if !closing => {
                    if count == 0 {
                        self.supervisor.take(None);
                    }
                    for command in commands.drain(..) {
                        self.supervisor.take(Some(command));
                    }
                }
                Some(event) = events.next() => {
                    if let Some(error) = self.event(event) {
                        return Some(error);
                    }
                }
                () = &mut expiry, if expiry_set => {
                    self.expire();
                    expiry_set = false;
                }
            }
        }
    }

    /// The next message that may be published, under its number.
    fn next_to_publish(&mut self) -> Option<(u64, Arc<Message>)> {
        while self.supervisor.suspects == 0 || self.unsettled.is_empty() {
            let mut outgoing = self.supervisor.take_waiting()?;
            if !outgoing.is_over() {
                self.supervisor.join_waiting(&mut outgoing);
                let number = self.next_number;
                self.next_number += 1;
                let message = outgoing.message.clone();
                self.unsettled.insert(number, outgoing);
                return Some((number, message));
            }
        }
        None
    }

    /// The deadline of the oldest message that has no answer.
    fn oldest_deadline(&self) -> Option<Instant> {
        self.unsettled.values().chain(&self.supervisor.waiting).find_map(Outgoing::deadline)
    }

    /// Answers the messages whose time is over. The published ones stay unsettled, and keep their room: the broker
    /// has them, or not.
    fn expire(&mut self) {
        let now = Instant::now();
        let too_late = Err(self.supervisor.too_late());
        // The younger ones' time is over later.
        let mut oldest_first = self.unsettled.values_mut();
        while oldest_first.next().is_some_and(|outgoing| outgoing.expire(now, &too_late)) {}
        self.supervisor.expire_waiting();
    }

    /// Takes a confirm; true if a marker is wanted.
    fn answered(&mut self, number: u64, confirm: Confirm) -> bool {
        if confirm.taken {
            return self.returns.answered(Some(number), confirm.returned);
        }
        if let Some(mut outgoing) = self.unsettled.remove(&number) {
            outgoing.answer(&Err(PublishError::Rejected));
        }
        self.returns.answered(None, confirm.returned)
    }

    fn settle(&mut self, settled: Vec<(u64, Settled)>) {
        for (number, outcome) in settled {
            if let Some(mut outgoing) = self.unsettled.remove(&number) {
                let outcome = match outcome {
                    Settled::Taken => Ok(()),
                    Settled::Returned => Err(outgoing.message.unroutable()),
                };
                outgoing.answer(&outcome);
            }
        }
    }

    /// Takes an event of the connection; an error if the connection is gone.
    fn event(&self, event: Event) -> Option<lapin::Error> {
        let link = &self.supervisor.link;
        match event {
            Event::ConnectionBlocked(reason) => {
                let reason = reason.to_string();
                let held = self.unsettled.len() + self.supervisor.waiting.len();
                warn!(reason, held, "the broker blocks publishers until its alarm is over");
                link.send_replace(Link::Blocked(reason));
            }
            Event::ConnectionUnblocked => {
                info!("the broker's alarm is over, it takes messages again");
                link.send_replace(Link::Up);
            }
            // A channel's error comes here too, and may be an older channel's.
            Event::Error(error) if !self.connection.status().connected() => return Some(error),
            _ => {}
        }
        None
    }

    /// Puts what is unsettled back to the front of the queue, and says what is to be done.
    fn give_back(mut self, ended: Option<lapin::Error>) -> End {
        let Some(error) = ended else { return End::Finished };
        let channel_only = self.connection.status().connected() && !error.is_amqp_hard_error();
        if channel_only
            && self.unsettled.len() == 1
            && let ErrorKind::ProtocolError(objection) = error.kind()
            && let Some((_, mut outgoing)) = self.unsettled.pop_first()
        {
            let outcome = objection_to(&outgoing.message, objection);
            outgoing.answer(&Err(outcome));
        }
        let mut again: VecDeque<Outgoing> = std::mem::take(&mut self.unsettled).into_values().collect();
        again.retain(|outgoing| !outgoing.is_over());
        // Published one at a time, the one that the broker objects to will show.
        self.supervisor.suspects = if channel_only { again.len() } else { 0 };
        again.append(&mut self.supervisor.waiting);
        self.supervisor.waiting = again;
        if channel_only { End::ChannelClosed } else { End::ConnectionLost(error.to_string()) }
    }
}

async fn open(connection: &Connection) -> lapin::Result<Channel> {
    in_time(async {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    })
    .await
}

/// Publishes a message and waits for its confirm. Without work it is a marker: ready at once, in its turn.
async fn step(work: Option<(Arc<Channel>, Arc<Message>, u64)>) -> Step {
    let Some((channel, message, number)) = work else { return Step::Marker };
    Step::Answered(number, publish(&channel, &message, number).await)
}

async fn publish(channel: &Channel, message: &Message, number: u64) -> lapin::Result<Confirm> {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let (exchange, routing_key) = (message.exchange.clone(), message.routing_key.clone());
    let confirm = channel.basic_publish(exchange, routing_key, options, &message.body, message.properties(number));
    let confirmation = confirm.await?.await?;
    Ok(Confirm { taken: confirmation.is_ack(), returned: confirmation.take_message().as_ref().and_then(number_of) })
}

/// The number of a message that the broker returned.
fn number_of(returned: &BasicReturnMessage) -> Option<u64> {
    returned.properties.correlation_id().as_ref()?.as_str().parse().ok()
}

fn objection_to(message: &Message, objection: &lapin::protocol::AMQPError) -> PublishError {
    const NOT_FOUND: u16 = 404;
    match objection.get_id() {
        NOT_FOUND => message.unroutable(),
        code => PublishError::Refused { code, text: objection.get_message().to_string() },
    }
}
