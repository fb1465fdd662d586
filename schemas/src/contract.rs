//! The message's contract for other languages: a JSON Schema and an AsyncAPI document, both generated from the types.
//!
//! They are committed under `schemas/json`; a test fails when they differ from what is generated here.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::message::{HEADER_SENT_MS, HEADER_TRACEPARENT, Job, MESSAGE_BYTES_MAX};
use crate::names::Names;

/// The JSON Schema (draft 7, which most languages' validators and AsyncAPI's tools know) of the message's body.
pub fn job_message_schema() -> Value {
    let generator = SchemaSettings::draft07().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<Job>();
    schema.insert("title".to_owned(), "Pinion job message".into());
    schema.to_value()
}

/// The AsyncAPI 3.0 document of what a hook does: publish a job to RabbitMQ.
pub fn asyncapi() -> Value {
    let names = Names::default();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Pinion",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A job names documents that a committed change has touched. Publish it after the commit returned, \
                persistent, mandatory and with publisher confirms. Sending it again is harmless.",
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "channels": {
            "jobs": lane("The live lane of a job.", &names, "{job}"),
            "jobs_low": lane("The low lane of a job: rebuilds and fan-outs, behind all live work.", &names, "{job}.low"),
        },
        "operations": {
            "publish_job": publish("jobs"),
            "publish_job_low": publish("jobs_low"),
        },
        "components": {
            "messages": {
                "job": {
                    "name": "job",
                    "title": "Documents to bring up to date",
                    "summary": format!("At most {MESSAGE_BYTES_MAX} bytes. Unknown fields are ignored."),
                    "contentType": "application/json",
                    "headers": headers(),
                    "payload": {
                        "schemaFormat": "application/schema+json;version=draft-07",
                        "schema": { "$ref": "job-message.schema.json" },
                    },
                    "examples": [
                        { "name": "smallest", "payload": { "id": 42, "job_name": "orders" } },
                        { "name": "many", "payload": { "ids": [42, 43], "job_name": "orders", "after": "16/B374D848" } },
                    ],
                },
            },
        },
    })
}

fn lane(description: &str, names: &Names, routing_key: &str) -> Value {
    json!({
        "address": routing_key,
        "description": description,
        "parameters": { "job": { "description": "The job's name." } },
        "messages": { "job": { "$ref": "#/components/messages/job" } },
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": { "name": names.exchange(), "type": "direct", "durable": true, "autoDelete": false },
                "bindingVersion": "0.3.0",
            },
        },
    })
}

fn publish(channel: &str) -> Value {
    json!({
        "action": "send",
        "channel": { "$ref": format!("#/channels/{channel}") },
        "messages": [{ "$ref": format!("#/channels/{channel}/messages/job") }],
        "bindings": { "amqp": { "deliveryMode": 2, "mandatory": true, "timestamp": true, "bindingVersion": "0.3.0" } },
    })
}

fn headers() -> Value {
    json!({
        "type": "object",
        "properties": {
            HEADER_SENT_MS: {
                "type": "integer",
                "description": "Optional: when the message was sent, in milliseconds since 1970.",
            },
            HEADER_TRACEPARENT: {
                "type": "string",
                "description": "Optional: the sender's W3C trace context.",
            },
        },
    })
}
