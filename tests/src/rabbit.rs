use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::eventually;

const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// What tests ask of RabbitMQ: raw messages, exact counts, and what only the management API knows.
#[derive(Clone)]
pub struct Rabbit {
    amqp: String,
    management: String,
    http: reqwest::Client,
}

impl Rabbit {
    pub(crate) fn new(amqp: &str, management: &str) -> Self {
        Self { amqp: amqp.to_owned(), management: management.to_owned(), http: reqwest::Client::new() }
    }

    /// The broker's address for AMQP clients.
    pub fn url(&self) -> &str {
        &self.amqp
    }

    /// The management API's address.
    pub(crate) fn management_url(&self) -> &str {
        &self.management
    }

    /// A channel with publisher confirms on a connection of its own.
    pub async fn channel(&self) -> Result<Channel> {
        let connection = Connection::connect(&self.amqp, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }

    /// Publishes bodies as they are and waits until the broker has taken them all. Fails where one can't be routed.
    pub async fn publish(&self, exchange: &str, routing_key: &str, bodies: &[Vec<u8>]) -> Result<()> {
        self.publish_with(exchange, routing_key, bodies, BasicProperties::default()).await
    }

    /// The same, of messages with these properties.
    pub async fn publish_with(
        &self,
        exchange: &str,
        routing_key: &str,
        bodies: &[Vec<u8>],
        properties: BasicProperties,
    ) -> Result<()> {
        let channel = self.channel().await?;
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let properties = properties.with_delivery_mode(2).with_content_type("application/json".into());
        let mut confirmations = Vec::with_capacity(bodies.len());
        for body in bodies {
            let sent = channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties.clone());
            confirmations.push(sent.await?);
        }
        for confirmation in confirmations {
            match confirmation.await? {
                Confirmation::Ack(None) => {}
                other => bail!("{exchange}, {routing_key}: the broker did not take the message: {other:?}"),
            }
        }
        Ok(())
    }

    /// The number of messages that wait in a queue; those that a consumer holds are not among them.
    pub async fn ready(&self, queue: &str) -> Result<u32> {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let channel = self.channel().await?;
        let queue = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
        Ok(queue.message_count())
    }

    /// A request to the management API that must succeed, such as `GET /queues/%2f/NAME`. Its counts are up to 5 s old.
    pub async fn management(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let (status, text) = self.request(method.clone(), path, body).await?;
        ensure!(status.is_success(), "{method} {path}: {status} {text}");
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }

    /// Deletes the queues, exchanges and policies of which `ours` says so by their name.
    pub(crate) async fn delete_where(&self, ours: impl Fn(&str) -> bool) -> Result<()> {
        for kind in ["queues", "exchanges", "policies"] {
            // RabbitMQ answers with 500 when another's queue vanishes while it lists them.
            let path = format!("/{kind}/%2f");
            let list = eventually("a list of the broker", LIST_TIMEOUT, async || {
                Ok(Some(self.management(Method::GET, &path, None).await?))
            })
            .await?;
            for entry in list.as_array().context("the management API answers with a list")? {
                let name = entry["name"].as_str().unwrap_or_default();
                if ours(name) {
                    let path = format!("/{kind}/%2f/{name}");
                    let (status, text) = self.request(Method::DELETE, &path, None).await?;
                    let gone = status.is_success() || status == StatusCode::NOT_FOUND;
                    ensure!(gone, "DELETE {path}: {status} {text}");
                }
            }
        }
        Ok(())
    }

    async fn request(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, String)> {
        let url = format!("{}/api{path}", self.management);
        let mut request = self.http.request(method, url).basic_auth("guest", Some("guest"));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        Ok((response.status(), response.text().await?))
    }
}
