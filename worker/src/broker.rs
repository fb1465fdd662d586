//! Publishing to RabbitMQ what the pipeline puts back.

use futures_util::future::try_join_all;
use pinion_client::{PublishError, Publisher, PublisherConfig};
use pinion_schemas::Names;
use tokio::sync::OnceCell;

use crate::config::Config;
use crate::error::{Fault, Service};
use crate::pipeline::source::envelope;
use crate::ports::{Broker, Destination, Future_, Requeue};

/// The broker, through a publisher with confirms that connects when it is first needed.
pub struct RabbitmqBroker {
    config: PublisherConfig,
    names: Names,
    publisher: OnceCell<Publisher>,
}

/// How to publish to the broker of `config`, under the given name.
pub fn publisher_config(config: &Config, name: &str) -> PublisherConfig {
    let publisher =
        PublisherConfig::new(config.rabbitmq.url.expose()).namespace(config.names.clone()).connection_name(name);
    match &config.rabbitmq.ca_file {
        Some(ca_file) => publisher.ca_file(ca_file),
        None => publisher,
    }
}

impl RabbitmqBroker {
    /// The broker of `config`, for the worker of this name.
    pub fn new(config: &Config, worker: &str) -> Self {
        Self {
            config: publisher_config(config, &format!("pinion worker {worker} retries")),
            names: config.names.clone(),
            publisher: OnceCell::new(),
        }
    }

    async fn publisher(&self) -> Result<&Publisher, Fault> {
        let connected = self.publisher.get_or_try_init(|| Publisher::connect(self.config.clone())).await;
        connected.map_err(|error| Fault::Away { service: Service::Rabbitmq, reason: error.to_string() })
    }

    async fn publish(&self, message: Requeue) -> Result<(), Fault> {
        let (exchange, routing_key) = self.address(&message);
        let properties = envelope::write(&message.envelope);
        let publisher = self.publisher().await?;
        tokio::select! {
            biased;
            // What is published now would wait for the alarm's end, and hold a batch's place meanwhile.
            reason = publisher.blocked() => Err(Fault::Again {
                service: Service::Rabbitmq,
                reason: format!("the broker blocks publishers: {reason}"),
            }),
            published = publisher.publish_raw(&exchange, &routing_key, properties, message.payload) => {
                published.map_err(|error| fault(&error))
            }
        }
    }

    /// The delay queues hand a message on with its routing key, so that is the final one.
    fn address(&self, message: &Requeue) -> (String, String) {
        let names = &self.names;
        let delayed = |delay_s: u64| names.delay(&format!("{delay_s}s"));
        match message.destination {
            Destination::Live => (names.exchange().to_owned(), names.routing_key(&message.job)),
            Destination::Low => (names.exchange().to_owned(), names.low_routing_key(&message.job)),
            Destination::Suspects => (String::new(), names.suspects_queue(&message.job)),
            Destination::Alone => (String::new(), names.alone_queue(&message.job)),
            Destination::LowAfter(delay_s) => (delayed(delay_s), names.low_routing_key(&message.job)),
            Destination::LiveAfter(delay_s) => (delayed(delay_s), names.routing_key(&message.job)),
        }
    }
}

fn fault(error: &PublishError) -> Fault {
    let reason = error.to_string();
    let service = Service::Rabbitmq;
    if matches!(error, PublishError::Unavailable { .. }) {
        Fault::Away { service, reason }
    } else {
        Fault::Again { service, reason }
    }
}

impl Broker for RabbitmqBroker {
    fn requeue(&self, messages: Vec<Requeue>) -> Future_<'_, Result<(), Fault>> {
        Box::pin(async move {
            try_join_all(messages.into_iter().map(|message| self.publish(message))).await?;
            Ok(())
        })
    }
}
