//! The schema registry, by Confluent's API: a message names its schema by a number, the registry gives the schema.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use url::Url;

use super::avro::AvroSchema;
use crate::config::Secret;
use crate::error::{Fault, Service};

/// How long the registry has to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The API's own code for a schema that it does not have; any other 404 is not the registry's.
const SCHEMA_NOT_FOUND: u32 = 40403;

/// A registry, and the schemas that it gave: a number's schema never changes.
pub(crate) struct Registry {
    url: Url,
    client: reqwest::Client,
    known: Mutex<HashMap<u32, Arc<AvroSchema>>>,
}

/// What a number of a schema leads to: the schema, or why it is of no use.
pub(crate) type Found = Result<Arc<AvroSchema>, String>;

#[derive(Deserialize)]
struct Written {
    schema: String,
    #[serde(default, rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Refusal {
    error_code: u32,
}

impl Registry {
    /// The registry at an address, which may hold a name and a password. Does not connect yet.
    ///
    /// # Errors
    /// No address.
    pub(crate) fn new(address: &Secret) -> Result<Self, String> {
        let url = Url::parse(address.expose()).map_err(|error| format!("kafka.registry: {error}"))?;
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_MAX).build();
        let client = client.map_err(|error| format!("kafka.registry: {error}"))?;
        Ok(Self { url, client, known: Mutex::default() })
    }

    /// Whether it answers as a registry does.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn ping(&self) -> Result<(), String> {
        let (status, _) = self.ask("schemas/types").await.map_err(|fault| fault.reason().to_owned())?;
        if status.is_success() { Ok(()) } else { Err(format!("it answers {status} to /schemas/types")) }
    }

    /// The schema of a number.
    ///
    /// # Errors
    /// The registry does not answer, or not as one.
    pub(crate) async fn schema(&self, id: u32) -> Result<Found, Fault> {
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Ok(known.clone()));
        }
        let (status, body) = self.ask(&format!("schemas/ids/{id}")).await?;
        if status == StatusCode::NOT_FOUND
            && serde_json::from_slice(&body).is_ok_and(|refusal: Refusal| refusal.error_code == SCHEMA_NOT_FOUND)
        {
            let hint = "; a number of 8 bytes begins so: has Apicurio's converter apicurio.registry.as-confluent?";
            return Ok(Err(format!("the registry has no schema {id}{}", if id == 0 { hint } else { "" })));
        }
        if !status.is_success() {
            return Err(away(format!("{} answers {status} to /schemas/ids/{id}", self.address())));
        }
        let written: Written = serde_json::from_slice(&body)
            .map_err(|error| away(format!("{} does not answer as a schema registry: {error}", self.address())))?;
        let found = written.read().map_err(|problem| format!("schema {id}: {problem}"));
        if let Ok(schema) = &found {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(id, schema.clone());
        }
        Ok(found)
    }

    async fn ask(&self, path: &str) -> Result<(StatusCode, bytes::Bytes), Fault> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        let asked = async {
            let answer = self.client.get(url).send().await?;
            Ok((answer.status(), answer.bytes().await?))
        };
        asked.await.map_err(|error: reqwest::Error| {
            // The error names the address, which may hold a password.
            let reason = error.without_url();
            away(format!("{} does not answer: {}", self.address(), crate::elasticsearch::chain(&reason)))
        })
    }

    fn address(&self) -> String {
        let port = self.url.port_or_known_default().unwrap_or_default();
        format!("{}:{port}", self.url.host_str().unwrap_or_default())
    }
}

impl Written {
    fn read(self) -> Found {
        match self.kind.as_deref() {
            None | Some("AVRO") if self.references.is_empty() => AvroSchema::parse(&self.schema).map(Arc::new),
            None | Some("AVRO") => Err("it refers to other schemas, which is not read".to_owned()),
            Some(kind) => Err(format!("it is {kind}, not AVRO")),
        }
    }
}

fn away(reason: String) -> Fault {
    Fault::Away { service: Service::Registry, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(answer: &str) -> Result<(), String> {
        let written: Written = serde_json::from_str(answer).expect("an answer");
        written.read().map(|_| ())
    }

    #[test]
    fn what_is_not_avro_by_itself_is_said_to_be_of_no_use() {
        assert_eq!(found(r#"{"schema":"\"string\""}"#), Ok(()));
        assert_eq!(found(r#"{"schema":"\"string\"","schemaType":"AVRO","references":[]}"#), Ok(()));
        assert_eq!(found(r#"{"schema":"{}","schemaType":"JSON"}"#), Err("it is JSON, not AVRO".to_owned()));
        let refers = found(r#"{"schema":"\"string\"","references":[{"name":"a","subject":"b","version":1}]}"#);
        assert!(refers.is_err_and(|problem| problem.contains("refers to other schemas")));
    }

    #[test]
    fn no_password_is_shown() {
        let address: Secret = serde_json::from_str("\"http://user:secret@127.0.0.1:1/api\"").expect("an address");
        let registry = Registry::new(&address).expect("an address");
        assert_eq!(registry.address(), "127.0.0.1:1");
    }
}
