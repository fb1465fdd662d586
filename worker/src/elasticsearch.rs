//! All HTTP to Elasticsearch.

mod answer;
mod walk;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use elasticsearch::auth::Credentials;
use elasticsearch::cert::{Certificate, CertificateValidation};
pub use elasticsearch::http::Method;
use elasticsearch::http::headers::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use serde_json::Value;
use url::Url;

pub(crate) use self::walk::Walk;
use crate::config;
use crate::error::{Fault, Service};
use crate::ports::{BulkAnswer, Future_, Index, StateDocument};

/// A node that did not answer is passed over for this long.
const NODE_REST: Duration = Duration::from_secs(5);
/// Requests other than bulks are small.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A cluster, through one or more of its nodes.
#[derive(Debug)]
pub struct Elasticsearch {
    nodes: Vec<Node>,
    next: AtomicUsize,
    bulk_timeout: Duration,
}

#[derive(Debug)]
struct Node {
    url: Url,
    transport: Transport,
    /// Until when it is passed over.
    resting_until: Mutex<Option<Instant>>,
}

/// An answer with its status.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body if the request was taken.
    ///
    /// # Errors
    /// What the status and the error in the body mean.
    pub fn success(self) -> Result<Value, Fault> {
        if self.status < 300 { Ok(self.json()) } else { Err(answer::fault(self.status, &self.body)) }
    }
}

impl Elasticsearch {
    /// A client of the cluster of `[elasticsearch]`. Does not connect yet.
    ///
    /// # Errors
    /// The certificate authority can't be read.
    pub fn new(config: &config::Elasticsearch) -> Result<Self, String> {
        let nodes = config.urls.iter().map(|url| Node::new(url, config)).collect::<Result<_, _>>()?;
        Ok(Self { nodes, next: AtomicUsize::new(0), bulk_timeout: Duration::from_secs(config.bulk_s_max) })
    }

    /// Sends a request; any status is an answer.
    ///
    /// # Errors
    /// No node answers.
    pub async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Fault> {
        let body = body.map(|body| Bytes::from(body.to_string()));
        self.send(method, path, body, "application/json", REQUEST_TIMEOUT).await
    }

    /// Sends a request whose body is NDJSON, as bulk requests are; any status is an answer.
    ///
    /// # Errors
    /// No node answers.
    pub async fn lines(&self, path: &str, body: Bytes) -> Result<Answer, Fault> {
        self.send(Method::Post, path, Some(body), "application/x-ndjson", REQUEST_TIMEOUT).await
    }

    /// Tries each node at most once, beginning with the next one that is not resting. Only a request
    /// that did not reach its node is sent to another one.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        content_type: &'static str,
        timeout: Duration,
    ) -> Result<Answer, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut reason = String::new();
        for node in self.turn() {
            let sent =
                node.transport.send(method, path, headers.clone(), None::<&()>, body.clone(), Some(timeout)).await;
            let received = match sent {
                Ok(response) => {
                    let status = response.status_code().as_u16();
                    response.bytes().await.map(|body| Answer { status, body })
                }
                Err(error) => Err(error),
            };
            match received {
                Ok(answer) => {
                    node.rest(None);
                    return Ok(answer);
                }
                Err(error) => {
                    node.rest(Some(Instant::now() + NODE_REST));
                    reason = format!("{}: {}", node.address(), chain(&error));
                    if error.is_timeout() {
                        break;
                    }
                }
            }
        }
        Err(Fault::Away { service: Service::Elasticsearch, reason })
    }

    fn turn(&self) -> Vec<&Node> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut nodes: Vec<&Node> =
            (0..self.nodes.len()).map(|step| &self.nodes[(first + step) % self.nodes.len()]).collect();
        let now = Instant::now();
        nodes.sort_by_key(|node| node.is_resting(now));
        nodes
    }
}

impl Node {
    fn new(url: &Url, config: &config::Elasticsearch) -> Result<Self, String> {
        let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(url.clone())).disable_proxy();
        if let Some(key) = &config.api_key {
            builder = builder.auth(Credentials::EncodedApiKey(key.expose().to_owned()));
        } else if let (Some(username), Some(password)) = (&config.username, &config.password) {
            builder = builder.auth(Credentials::Basic(username.clone(), password.expose().to_owned()));
        }
        if let Some(file) = &config.ca_file {
            let unusable = |error: String| format!("elasticsearch.ca_file {}: {error}", file.display());
            let pem = std::fs::read(file).map_err(|error| unusable(error.to_string()))?;
            let certificate = Certificate::from_pem(&pem).map_err(|error| unusable(error.to_string()))?;
            builder = builder.cert_validation(CertificateValidation::Full(certificate));
        }
        let transport = builder.build().map_err(|error| format!("elasticsearch: {error}"))?;
        Ok(Self { url: url.clone(), transport, resting_until: Mutex::new(None) })
    }

    /// The address without what may be a secret.
    fn address(&self) -> String {
        format!("{}:{}", self.url.host_str().unwrap_or_default(), self.url.port_or_known_default().unwrap_or_default())
    }

    fn rest(&self, until: Option<Instant>) {
        *self.resting_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn is_resting(&self, now: Instant) -> bool {
        self.resting_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| until > now)
    }
}

/// An error with its causes, without the request's address, which may hold a secret.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(inner) = cause {
        causes.push(inner.to_string());
        cause = inner.source();
    }
    // The outermost error of the client names the whole URL.
    match causes.iter().rfind(|cause| !cause.contains("://")) {
        Some(innermost) => innermost.clone(),
        None => "no answer".to_owned(),
    }
}

/// A text as one part of a path, whatever it is made of. The ids of documents, which may be `.` or `..`, go into bodies instead.
pub(crate) fn segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => segment.push(char::from(byte)),
            byte => segment.push_str(&format!("%{byte:02X}")),
        }
    }
    segment
}

/// What of each item's answer is asked for. Its status always, so that none is left out: they are told apart by their place. The rest, such as
/// ids, versions and shards, would be most of the answer.
const TOLD_OF_AN_ITEM: &str = "items.*.status,items.*.error,items.delete.result";

impl Index for Elasticsearch {
    fn bulk<'a>(&'a self, index: &'a str, body: Bytes, actions: usize) -> Future_<'a, BulkAnswer> {
        Box::pin(async move {
            let path = format!("/{index}/_bulk?filter_path={TOLD_OF_AN_ITEM}");
            let answer = self.send(Method::Post, &path, Some(body), "application/x-ndjson", self.bulk_timeout).await?;
            if answer.status == 200 {
                answer::items(&answer.body, actions)
            } else {
                Err(answer::fault(answer.status, &answer.body))
            }
        })
    }

    fn state<'a>(&'a self, index: &'a str, id: &'a str) -> Future_<'a, Result<Option<StateDocument>, Fault>> {
        Box::pin(async move {
            let answer = self.request(Method::Get, &format!("/{index}/_doc/{}", segment(id)), None).await?;
            let body = answer.json();
            if answer.status == 404 && body["found"] == false {
                return Ok(None);
            }
            let mut body = answer.success()?;
            let number = |field: &str| body[field].as_u64().unwrap_or_default();
            let seq_no = (number("_seq_no"), number("_primary_term"));
            Ok(Some(StateDocument { source: body["_source"].take(), seq_no }))
        })
    }

    fn put_state<'a>(
        &'a self,
        index: &'a str,
        id: &'a str,
        source: &'a Value,
        expected: Option<(u64, u64)>,
    ) -> Future_<'a, Result<bool, Fault>> {
        Box::pin(async move {
            let condition = match expected {
                Some((seq_no, primary_term)) => format!("if_seq_no={seq_no}&if_primary_term={primary_term}"),
                None => "op_type=create".to_owned(),
            };
            let path = format!("/{index}/_doc/{}?{condition}", segment(id));
            let answer = self.request(Method::Put, &path, Some(source)).await?;
            if answer.status == 409 {
                return Ok(false);
            }
            answer.success().map(|_| true)
        })
    }

    fn ping(&self) -> Future_<'_, Result<(), String>> {
        Box::pin(async move {
            let asked = self.request(Method::Get, "/_cluster/health?timeout=1s", None).await;
            asked.and_then(Answer::success).map(|_| ()).map_err(|fault| match fault {
                Fault::Away { reason, .. } => reason,
                fault => fault.to_string(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_part_of_a_path() {
        assert_eq!(segment("web-1.shop_2~x"), "web-1.shop_2~x");
        assert_eq!(segment("a/../b?c#d%2f\"\n ä"), "a%2F..%2Fb%3Fc%23d%252f%22%0A%20%C3%A4");
    }
}
