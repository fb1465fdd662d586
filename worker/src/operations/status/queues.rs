//! How full the queues are, asked of the broker over AMQP.

use std::collections::BTreeSet;

use anyhow::Context as _;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, ErrorKind};
use pinion_client::connection::in_time;
use serde::Serialize;

use crate::operations::Context;
use crate::operations::topology::Broker;
use crate::pipeline::settle::LADDER_S;

/// AMQP's reply code for a queue that is not there.
const NOT_FOUND: u16 = 404;

/// All queues.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Queues {
    /// Those of the jobs.
    pub jobs: Vec<JobQueues>,
    /// Messages that wait for their time.
    pub delays: Vec<Delay>,
}

/// The queues of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobQueues {
    /// The job.
    pub job: String,
    /// What applications send.
    pub live: Queue,
    /// Rebuilds, fan-outs, second looks.
    pub low: Queue,
    /// Messages that came back more than once.
    pub suspects: Queue,
    /// Suspects that came back again.
    pub alone: Queue,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Messages that nobody has taken; absent where there is no such queue. Those that workers hold are not among them.
    pub ready: Option<u32>,
    /// Who takes from it.
    pub consumers: u32,
}

/// A delay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delay {
    /// How long messages wait there.
    pub delay_s: u64,
    /// The queue.
    pub queue: Queue,
}

impl Queues {
    /// The names of those that are not there.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        let jobs = self.jobs.iter().flat_map(|job| [&job.live, &job.low, &job.suspects, &job.alone]);
        let delays = self.delays.iter().map(|delay| &delay.queue);
        jobs.chain(delays).filter(|queue| queue.ready.is_none()).map(|queue| queue.name.as_str())
    }
}

/// Asks for all queues.
pub(super) async fn queues(context: &Context) -> anyhow::Result<Queues> {
    let mut asking = Asking { broker: Broker::connect(&context.config).await?, channel: None };
    let names = &context.config.names;
    let mut queues = Queues::default();
    for job in &context.jobs {
        queues.jobs.push(JobQueues {
            job: job.name.clone(),
            live: asking.queue(names.queue(&job.name)).await?,
            low: asking.queue(names.low_queue(&job.name)).await?,
            suspects: asking.queue(names.suspects_queue(&job.name)).await?,
            alone: asking.queue(names.alone_queue(&job.name)).await?,
        });
    }
    let delays_s: BTreeSet<u64> = LADDER_S.into_iter().chain([context.config.second_look_after().as_secs()]).collect();
    for delay_s in delays_s {
        let queue = asking.queue(names.delay(&format!("{delay_s}s"))).await?;
        queues.delays.push(Delay { delay_s, queue });
    }
    asking.broker.close().await;
    Ok(queues)
}

struct Asking {
    broker: Broker,
    /// A question for a queue that is not there closes it.
    channel: Option<Channel>,
}

impl Asking {
    async fn queue(&mut self, name: String) -> anyhow::Result<Queue> {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => self.broker.channel().await?,
        };
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        match in_time(channel.queue_declare(name.as_str().into(), passive, FieldTable::default())).await {
            Ok(queue) => {
                self.channel = Some(channel);
                Ok(Queue { name, ready: Some(queue.message_count()), consumers: queue.consumer_count() })
            }
            Err(error) => match error.kind() {
                ErrorKind::ProtocolError(said) if said.get_id() == NOT_FOUND => {
                    Ok(Queue { name, ready: None, consumers: 0 })
                }
                _ => Err(self.broker.failure(&error)).with_context(|| format!("queue {name}")),
            },
        }
    }
}
