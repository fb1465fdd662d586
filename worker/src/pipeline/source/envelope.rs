//! What a message carries besides its body, from and to AMQP.

use std::sync::Arc;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use pinion_schemas::message::{HEADER_ATTEMPTS, HEADER_LOAD, HEADER_SECOND_LOOK, HEADER_SENT_MS, HEADER_TRACEPARENT};

use crate::ports::Envelope;

const PERSISTENT: u8 = 2;

/// Reads the envelope of a message. Headers of another type than expected are ignored: they
/// are for people and traces, nothing is decided by them but attempts, second looks and loads.
pub fn read(properties: &BasicProperties) -> Envelope {
    let header = |name: &str| properties.headers().as_ref().and_then(|headers| headers.inner().get(name));
    let stamp_ms = properties.timestamp().map(|seconds| seconds.saturating_mul(1000));
    Envelope {
        message_id: properties.message_id().as_ref().map(|id| Arc::from(id.as_str())),
        sent_ms: header(HEADER_SENT_MS).and_then(integer).or(stamp_ms),
        traceparent: header(HEADER_TRACEPARENT).and_then(text),
        attempts: header(HEADER_ATTEMPTS)
            .and_then(integer)
            .and_then(|attempts| u32::try_from(attempts).ok())
            .unwrap_or_default(),
        second_look: matches!(header(HEADER_SECOND_LOOK), Some(AMQPValue::Boolean(true))),
        load: matches!(header(HEADER_LOAD), Some(AMQPValue::Boolean(true))),
    }
}

/// The properties of a message with this envelope.
pub fn write(envelope: &Envelope) -> BasicProperties {
    let mut headers = FieldTable::default();
    let number = |number: u64| AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX));
    if let Some(sent_ms) = envelope.sent_ms {
        headers.insert(HEADER_SENT_MS.into(), number(sent_ms));
    }
    if let Some(traceparent) = &envelope.traceparent {
        headers.insert(HEADER_TRACEPARENT.into(), AMQPValue::LongString(traceparent.as_bytes().into()));
    }
    if envelope.attempts > 0 {
        headers.insert(HEADER_ATTEMPTS.into(), number(u64::from(envelope.attempts)));
    }
    for (header, is_set) in [(HEADER_SECOND_LOOK, envelope.second_look), (HEADER_LOAD, envelope.load)] {
        if is_set {
            headers.insert(header.into(), AMQPValue::Boolean(true));
        }
    }
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into())
        .with_headers(headers);
    let properties = match &envelope.message_id {
        Some(id) => properties.with_message_id(id.as_ref().into()),
        None => properties,
    };
    match envelope.sent_ms {
        Some(sent_ms) => properties.with_timestamp(sent_ms / 1000),
        None => properties,
    }
}

/// How often a quorum queue has delivered the message before.
pub fn redeliveries(properties: &BasicProperties) -> u64 {
    let count = properties.headers().as_ref().and_then(|headers| headers.inner().get("x-delivery-count"));
    count.and_then(integer).unwrap_or_default()
}

fn integer(value: &AMQPValue) -> Option<u64> {
    match value {
        AMQPValue::ShortShortInt(number) => u64::try_from(*number).ok(),
        AMQPValue::ShortShortUInt(number) => Some(u64::from(*number)),
        AMQPValue::ShortInt(number) => u64::try_from(*number).ok(),
        AMQPValue::ShortUInt(number) => Some(u64::from(*number)),
        AMQPValue::LongInt(number) => u64::try_from(*number).ok(),
        AMQPValue::LongUInt(number) => Some(u64::from(*number)),
        AMQPValue::LongLongInt(number) => u64::try_from(*number).ok(),
        AMQPValue::Timestamp(seconds) => Some(*seconds),
        _ => None,
    }
}

fn text(value: &AMQPValue) -> Option<Arc<str>> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(Arc::from),
        AMQPValue::ShortString(text) => Some(Arc::from(text.as_str())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_survives_the_broker() {
        let envelope = Envelope {
            message_id: Some("m-1".into()),
            sent_ms: Some(1_700_000_000_123),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
            attempts: 3,
            second_look: true,
            load: true,
        };
        assert_eq!(read(&write(&envelope)), envelope);
        assert_eq!(read(&write(&Envelope::default())), Envelope::default());
    }

    #[test]
    fn the_timestamp_serves_where_sent_ms_is_missing() {
        let properties = BasicProperties::default().with_timestamp(1_700_000_000);
        assert_eq!(read(&properties).sent_ms, Some(1_700_000_000_000));
    }
}
