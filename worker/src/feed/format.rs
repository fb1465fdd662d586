//! What comes from Kafka, as JSON: messages in Avro are turned into it with the registry's schemas.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pinion_schemas::ColumnType;
use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;

use super::avro;
use super::registry::{Found, Registry};
use crate::clock::now_ms;
use crate::retry::Backoff;

/// What the columns of a row are, by their names.
pub(crate) type ColumnTypes = BTreeMap<String, ColumnType>;

/// A message of Kafka, its key and value as JSON.
pub(crate) struct Text<'m> {
    pub(crate) topic: &'m str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// When Kafka got it, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    pub(crate) key: Option<Cow<'m, [u8]>>,
    /// `None`: a tombstone.
    pub(crate) value: Option<Cow<'m, [u8]>>,
    /// The value as it came.
    pub(crate) raw: &'m [u8],
    /// What the columns are, where the registry tells it.
    pub(crate) types: Option<Arc<ColumnTypes>>,
}

impl Text<'_> {
    /// Where it lies.
    pub(crate) fn place(&self) -> String {
        format!("topic {}, partition {}, offset {}", self.topic, self.partition, self.offset)
    }
}

/// The messages as JSON, in their order; where one can't be had in it, why. A registry that is away is waited for, and told.
///
/// # Errors
/// Avro comes and no registry is configured: to pass it over would leave documents stale.
pub(crate) async fn texts<'m>(
    tell: impl Fn(String),
    registry: Option<&Registry>,
    messages: &'m [BorrowedMessage<'_>],
) -> Result<Vec<(Text<'m>, Result<(), String>)>, String> {
    let mut schemas: HashMap<u32, Found> = HashMap::new();
    for message in messages {
        for bytes in [message.key(), message.payload()].into_iter().flatten() {
            let Some((id, _)) = avro::split(bytes) else { continue };
            let registry = registry.ok_or_else(|| {
                format!(
                    "topic {}, partition {}, offset {}: the event is Avro; set [kafka] registry to its schema registry's address",
                    message.topic(),
                    message.partition(),
                    message.offset()
                )
            })?;
            if let Entry::Vacant(place) = schemas.entry(id) {
                let mut backoff = Backoff::for_server();
                let found = loop {
                    match registry.schema(id).await {
                        Ok(found) => break found,
                        Err(fault) => {
                            tell(fault.to_string());
                            backoff.wait().await;
                        }
                    }
                };
                place.insert(found);
            }
        }
    }
    Ok(messages.iter().map(|message| text(message, &schemas)).collect())
}

fn text<'m>(message: &'m BorrowedMessage<'_>, schemas: &HashMap<u32, Found>) -> (Text<'m>, Result<(), String>) {
    let (key, value) = (json(message.key(), schemas), json(message.payload(), schemas));
    let problem = match (&key, &value) {
        (Err(problem), _) => Err(format!("the key: {problem}")),
        (_, Err(problem)) => Err(problem.clone()),
        _ => Ok(()),
    };
    let text = Text {
        topic: message.topic(),
        partition: message.partition(),
        offset: message.offset(),
        at_ms: message.timestamp().to_millis().and_then(|ms| u64::try_from(ms).ok()).unwrap_or_else(now_ms),
        key: key.unwrap_or_default(),
        value: value.unwrap_or_default(),
        raw: message.payload().unwrap_or_default(),
        types: message.payload().and_then(|payload| {
            let (id, _) = avro::split(payload)?;
            Some(schemas.get(&id)?.as_ref().ok()?.types().clone())
        }),
    };
    (text, problem)
}

fn json<'m>(bytes: Option<&'m [u8]>, schemas: &HashMap<u32, Found>) -> Result<Option<Cow<'m, [u8]>>, String> {
    let Some(bytes) = bytes else { return Ok(None) };
    let Some((id, datum)) = avro::split(bytes) else { return Ok(Some(bytes.into())) };
    match schemas.get(&id) {
        Some(Ok(schema)) => {
            let json = schema.to_json(datum).map_err(|problem| format!("it is not of schema {id}: {problem}"))?;
            Ok(Some(json.into()))
        }
        Some(Err(problem)) => Err(problem.clone()),
        None => Err(format!("schema {id} was not looked up")),
    }
}
