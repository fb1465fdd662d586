//! The task behind a publisher: it owns the connection, makes it anew when it is lost, and holds what waits for it.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::time::Duration;

use lapin::Connection;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::connection::connect;
use crate::error::PublishError;
use crate::publisher::message::Outgoing;
use crate::publisher::session::{End, Session};

const RECONNECT_MS_MIN: u64 = 100;
const RECONNECT_MS_MAX: u64 = 5_000;
const CLOSE_MS_MAX: u64 = 1_000;

/// How to connect, and how long a message may take.
pub(super) struct Broker {
    pub(super) url: String,
    pub(super) name: String,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) confirm_timeout_ms: u64,
    pub(super) ids_joined_max: usize,
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
    /// The connection is there, and the broker takes nothing from it: which alarm it has.
    Blocked(String),
    /// There is no connection, and why.
    Down(String),
}

impl Link {
    /// What it means that a message's time is over.
    pub(super) fn too_late(&self, waited_ms: u64) -> PublishError {
        match self {
            Link::Up => PublishError::TimedOut { waited_ms },
            Link::Blocked(reason) => PublishError::Blocked { waited_ms, reason: reason.clone() },
            Link::Down(reason) => PublishError::Unavailable { waited_ms, reason: reason.clone() },
        }
    }
}

/// The task's state.
pub(super) struct Supervisor {
    broker: Broker,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) link: watch::Sender<Link>,
    /// What is not published, the oldest first. As long as there is room.
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

    /// Runs until the publisher is closed, or all its handles are gone, and everything is answered.
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
        // A courtesy: everything is answered, and a broker that stands still must not hold up the caller.
        match timeout(Duration::from_millis(CLOSE_MS_MAX), connection.close(200, "OK".into())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "the connection was gone before it was closed"),
            Err(_elapsed) => debug!("the broker did not answer to the closing of the connection"),
        }
    }

    /// Connects again, however long it takes; none if there is no longer a reason to.
    async fn reconnect(&mut self, reason: String) -> Option<Connection> {
        let mut pause_ms = RECONNECT_MS_MIN;
        self.link.send_replace(Link::Down(reason));
        loop {
            let Broker { url, name, ca_file, .. } = &self.broker;
            let (url, name, ca_file) = (url.clone(), name.clone(), ca_file.clone());
            let attempt = async move {
                sleep(jittered(pause_ms)).await;
                connect(&url, &name, ca_file.as_deref()).await
            };
            match self.meanwhile(attempt).await? {
                Ok(connection) => return Some(connection),
                Err(error) => {
                    debug!(%error, "no connection to the broker yet");
                    self.link.send_replace(Link::Down(error.to_string()));
                }
            }
            pause_ms = (pause_ms * 2).min(RECONNECT_MS_MAX);
        }
    }

    /// Waits for something of the broker's, takes commands meanwhile and answers the messages whose time is over;
    /// none if there is no longer a reason to wait.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        while !self.finished() {
            let oldest = self.waiting.front().and_then(Outgoing::deadline);
            tokio::select! {
                done = &mut work => return Some(done),
                command = self.commands.recv(), if !self.closing => self.take(command),
                () = sleep_to(oldest), if oldest.is_some() => self.expire_waiting(),
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

    /// Answers the messages whose time is over before they could be published.
    pub(super) fn expire_waiting(&mut self) {
        let now = Instant::now();
        let too_late = Err(self.too_late());
        while self.waiting.front_mut().is_some_and(|oldest| oldest.expire(now, &too_late) || oldest.is_over()) {
            self.take_waiting();
        }
    }

    /// Takes the oldest of the waiting.
    pub(super) fn take_waiting(&mut self) -> Option<Outgoing> {
        self.suspects = self.suspects.saturating_sub(1);
        self.waiting.pop_front()
    }

    /// Puts those that wait behind `outgoing` into its message, as far as they go with it. Nothing waits for that: what came while
    /// another one was published is there already.
    pub(super) fn join_waiting(&mut self, outgoing: &mut Outgoing) {
        let ids_joined_max = self.broker.ids_joined_max;
        while self.suspects == 0 && self.waiting.front().is_some_and(|next| outgoing.goes_with(next, ids_joined_max)) {
            self.waiting.pop_front().into_iter().for_each(|next| outgoing.join(next));
        }
    }

    /// What it means now that a message's time is over.
    pub(super) fn too_late(&self) -> PublishError {
        self.link.borrow().too_late(self.broker.confirm_timeout_ms)
    }
}

/// Sleeps until then; for ever where there is no such time.
pub(super) async fn sleep_to(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
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
