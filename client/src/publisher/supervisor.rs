//! The task behind a publisher: it owns the connection, makes it anew when it is lost, and holds what waits for it.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lapin::types::ShortString;
use lapin::{BasicProperties, Connection};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use crate::connection::{ConnectError, connect};
use crate::error::PublishError;
use crate::publisher::session::{End, Session};

const RECONNECT_MS_MIN: u64 = 100;
const RECONNECT_MS_MAX: u64 = 5_000;

/// How to connect.
pub(super) struct Broker {
    pub(super) url: String,
    pub(super) name: String,
    pub(super) ca_file: Option<PathBuf>,
}

/// What a message is, but for the number that it gets when it is published.
pub(super) struct Message {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
}

/// A message on its way, with the one who waits for it. Whoever gave up has dropped the other end of `answer`.
pub(super) struct Outgoing {
    pub(super) message: Arc<Message>,
    pub(super) answer: oneshot::Sender<Result<(), PublishError>>,
    /// Held until the message is settled.
    pub(super) _room: [OwnedSemaphorePermit; 2],
}

impl Outgoing {
    /// Says what became of the message. Nobody may be waiting any more, which is all the same.
    pub(super) fn settle(self, outcome: Result<(), PublishError>) {
        if self.answer.send(outcome).is_err() {
            debug!("a message was settled after its sender had given up");
        }
    }
}

/// From the handles to the supervisor.
pub(super) enum Command {
    Publish(Outgoing),
    Close,
}

/// Whether the broker takes messages. Written by the supervisor and its session, read by the handles.
#[derive(Debug)]
pub(super) enum Link {
    Up,
    /// It does not, and why.
    Down(String),
}

/// The task's state.
pub(super) struct Supervisor {
    broker: Broker,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) link: watch::Sender<Link>,
    /// What is not published, the oldest first. As long as the handles have room.
    pub(super) waiting: VecDeque<Outgoing>,
    /// So many of the first in `waiting` are published one at a time: one of them made the broker close the channel.
    pub(super) suspects: usize,
    /// Whether no further commands come.
    pub(super) closing: bool,
}

impl Supervisor {
    pub(super) fn new(broker: Broker, commands: mpsc::Receiver<Command>, link: watch::Sender<Link>) -> Supervisor {
        Supervisor { broker, commands, link, waiting: VecDeque::new(), suspects: 0, closing: false }
    }

    /// Runs until the publisher is closed, or all its handles are gone, and nothing is outstanding.
    pub(super) async fn run(mut self, mut connection: Connection) {
        loop {
            match Session::run(&mut self, &connection).await {
                End::Finished => break,
                End::ChannelClosed => {}
                End::ConnectionLost(reason) => {
                    drop(connection);
                    warn!(%reason, unconfirmed = self.waiting.len(), "the broker's connection is lost");
                    match self.reconnect(reason).await {
                        Some(new) => connection = new,
                        None => return,
                    }
                    info!("connected to the broker again");
                }
            }
        }
        if let Err(error) = connection.close(200, "OK".into()).await {
            debug!(%error, "the connection was gone before it was closed");
        }
    }

    /// Connects again, however long it takes; none if there is no longer a reason to.
    async fn reconnect(&mut self, reason: String) -> Option<Connection> {
        let mut pause_ms = RECONNECT_MS_MIN;
        self.link.send_replace(Link::Down(reason));
        while !self.finished() {
            match self.attempt(jittered(pause_ms)).await? {
                Ok(connection) => return Some(connection),
                Err(error) => {
                    debug!(%error, "no connection to the broker yet");
                    self.link.send_replace(Link::Down(error.to_string()));
                }
            }
            pause_ms = (pause_ms * 2).min(RECONNECT_MS_MAX);
        }
        None
    }

    /// Waits and connects once, taking commands meanwhile; none if there is no longer a reason to.
    async fn attempt(&mut self, pause: Duration) -> Option<Result<Connection, ConnectError>> {
        let Broker { url, name, ca_file } = &self.broker;
        let (url, name, ca_file) = (url.clone(), name.clone(), ca_file.clone());
        let mut attempt = std::pin::pin!(async move {
            tokio::time::sleep(pause).await;
            connect(&url, &name, ca_file.as_deref()).await
        });
        while !self.finished() {
            tokio::select! {
                connected = &mut attempt => return Some(connected),
                command = self.commands.recv(), if !self.closing => self.take(command),
                () = given_up(&mut self.waiting) => {
                    self.waiting.pop_front();
                    self.suspects = self.suspects.saturating_sub(1);
                }
            }
        }
        None
    }

    /// Takes a command, or that there will be no more.
    pub(super) fn take(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Publish(outgoing)) => self.waiting.push_back(outgoing),
            // What was sent before still comes, and then the end.
            Some(Command::Close) => self.commands.close(),
            None => self.closing = true,
        }
    }

    /// Whether nothing waits and nothing will come.
    pub(super) fn finished(&self) -> bool {
        self.closing && self.waiting.is_empty()
    }
}

/// Ends when the sender of the oldest message has given up. It is the first to do so: all wait for the same time.
async fn given_up(waiting: &mut VecDeque<Outgoing>) {
    match waiting.front_mut() {
        Some(oldest) => oldest.answer.closed().await,
        None => std::future::pending().await,
    }
}

/// Between half of the time and all of it, so that many clients don't come back at once.
fn jittered(pause_ms: u64) -> Duration {
    // The hasher's keys are random.
    let random = RandomState::new().hash_one(pause_ms);
    Duration::from_millis(pause_ms / 2 + random % (pause_ms / 2 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jitter_stays_within_its_half() {
        for pause_ms in [RECONNECT_MS_MIN, RECONNECT_MS_MAX, 1] {
            for _ in 0..100 {
                let jittered_ms = jittered(pause_ms).as_millis() as u64;
                assert!((pause_ms / 2..=pause_ms).contains(&jittered_ms), "{jittered_ms}");
            }
        }
    }
}
