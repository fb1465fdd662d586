//! The queues of RabbitMQ.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use lapin::Connection;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use pinion_client::connection::in_time;
use tokio::sync::Mutex;

use super::envelope;
use crate::config::Config;
use crate::error::{Fault, Service};
use crate::ports::{Channel, Consumer, Future_, Message, Messages, Queues};

/// The broker as a source, for all jobs of a worker, on one connection.
pub struct Rabbitmq {
    url: crate::config::Secret,
    ca_file: Option<std::path::PathBuf>,
    worker: Arc<str>,
    connection: Mutex<Option<Connection>>,
    /// Where the broker is asked how much waits: opening and closing a channel for each question costs two more answers.
    asking: Mutex<Option<lapin::Channel>>,
}

impl Rabbitmq {
    /// The broker of `config`, for a worker of this name.
    pub fn new(config: &Config, worker: Arc<str>) -> Self {
        Self {
            url: config.rabbitmq.url.clone(),
            ca_file: config.rabbitmq.ca_file.clone(),
            worker,
            connection: Mutex::new(None),
            asking: Mutex::new(None),
        }
    }

    async fn channel(&self) -> Result<lapin::Channel, Fault> {
        let away = |reason: String| Fault::Away { service: Service::Rabbitmq, reason };
        let mut held = self.connection.lock().await;
        if !held.as_ref().is_some_and(|connection| connection.status().connected()) {
            let name = format!("pinion worker {}", self.worker);
            let opened = pinion_client::connect(self.url.expose(), &name, self.ca_file.as_deref()).await;
            *held = Some(opened.map_err(|error| away(error.to_string()))?);
        }
        let connection = held.as_ref().expect("it was just opened");
        let opened = in_time(connection.create_channel()).await;
        if opened.is_err() {
            // It may be one that has ended and does not know it.
            *held = None;
        }
        opened.map_err(|error| away(error.to_string()))
    }
}

impl Queues for Rabbitmq {
    fn consume<'a>(&'a self, queue: &'a str, prefetch: u16) -> Future_<'a, Result<Consumer, Fault>> {
        Box::pin(async move {
            let channel = self.channel().await?;
            let tag = format!("{}.{queue}", self.worker);
            let consumed = Consumed { channel, queue: queue.into(), tag, times: Mutex::new(Some(0)) };
            let messages = consumed.consume(0, prefetch).await.map_err(|error| refusal(queue, &error))?;
            Ok(Consumer { messages, channel: Arc::new(consumed) })
        })
    }

    fn waiting<'a>(&'a self, queue: &'a str) -> Future_<'a, Result<u32, Fault>> {
        Box::pin(async move {
            let mut asking = self.asking.lock().await;
            let channel = match asking.take().filter(|channel| channel.status().connected()) {
                Some(channel) => channel,
                None => self.channel().await?,
            };
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let declared = in_time(channel.queue_declare(queue.into(), options, FieldTable::default())).await;
            let waiting = declared.map_err(|error| refusal(queue, &error))?.message_count();
            // One that was refused, or did not answer, is not asked again.
            *asking = Some(channel);
            Ok(waiting)
        })
    }

    fn ping(&self) -> Future_<'_, Result<(), String>> {
        Box::pin(async move {
            let channel = self.channel().await.map_err(|fault| fault.to_string())?;
            in_time(channel.close(200, "ping".into())).await.map_err(|error| error.to_string())
        })
    }
}

impl From<lapin::message::Delivery> for Message {
    fn from(delivery: lapin::message::Delivery) -> Self {
        Self {
            envelope: envelope::read(&delivery.properties),
            redeliveries: envelope::redeliveries(&delivery.properties),
            payload: delivery.data,
        }
    }
}

/// A channel with its one consumer.
struct Consumed {
    channel: lapin::Channel,
    queue: ShortString,
    tag: String,
    /// How often it was consumed again: each consumer has a tag of its own, since the broker knows those before until their messages are
    /// acknowledged. `None` once it is cancelled.
    times: Mutex<Option<u32>>,
}

impl Consumed {
    fn tag(&self, times: u32) -> ShortString {
        format!("{}.{times}", self.tag).into()
    }

    async fn consume(&self, times: u32, prefetch: u16) -> Result<Messages, lapin::Error> {
        in_time(self.channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let options = BasicConsumeOptions::default();
        let consuming = self.channel.basic_consume(self.queue.clone(), self.tag(times), options, FieldTable::default());
        let consumer = in_time(consuming).await?;
        Ok(Box::pin(consumer.map(|message| message.map(Message::from).map_err(|error| error.to_string()))))
    }
}

impl Channel for Consumed {
    fn acknowledge(&self, tag: u64) -> Future_<'_, Result<(), String>> {
        Box::pin(async move {
            let acknowledged = in_time(self.channel.basic_ack(tag, BasicAckOptions { multiple: true })).await;
            acknowledged.map_err(|error| error.to_string())
        })
    }

    fn give_back(&self, tag: u64) -> Future_<'_, Result<(), String>> {
        Box::pin(async move {
            let options = BasicNackOptions { multiple: true, requeue: true };
            in_time(self.channel.basic_nack(tag, options)).await.map_err(|error| error.to_string())
        })
    }

    fn consume_again(&self, prefetch: u16) -> Future_<'_, Result<Messages, String>> {
        Box::pin(async move {
            // Held, so that nobody cancels what is not there yet.
            let mut times = self.times.lock().await;
            let Some(times) = times.as_mut() else { return Ok(Box::pin(stream::empty()) as Messages) };
            let again = async {
                in_time(self.channel.basic_cancel(self.tag(*times), BasicCancelOptions::default())).await?;
                *times += 1;
                self.consume(*times, prefetch).await
            };
            again.await.map_err(|error| error.to_string())
        })
    }

    fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    fn cancel(&self) -> Future_<'_, ()> {
        Box::pin(async move {
            let Some(times) = self.times.lock().await.take() else { return };
            let cancelled = in_time(self.channel.basic_cancel(self.tag(times), BasicCancelOptions::default())).await;
            if let Err(error) = cancelled {
                tracing::debug!(%error, "consumer not cancelled");
            }
        })
    }

    fn close(&self) -> Future_<'_, ()> {
        Box::pin(close(&self.channel))
    }
}

async fn close(channel: &lapin::Channel) {
    if let Err(error) = in_time(channel.close(200, "done".into())).await {
        tracing::debug!(%error, "channel not closed");
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
