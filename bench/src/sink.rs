//! A null sink for bulk requests: it takes the place of Elasticsearch where it is the worker's growth that is measured. It answers each
//! action of the measured jobs as if it had been done, and hands everything else on to Elasticsearch.

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::task::JoinHandle;

use crate::pinion::INDEX;

/// A sink that listens until it is dropped.
pub(crate) struct Sink {
    url: String,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Behind {
    elasticsearch: String,
    http: reqwest::Client,
}

impl Sink {
    /// Listens on a free port before the Elasticsearch of this address.
    pub(crate) async fn before(elasticsearch: &str) -> Result<Self> {
        let behind = Behind { elasticsearch: elasticsearch.to_owned(), http: reqwest::Client::new() };
        let router = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(behind);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("the null sink can't listen")?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("the null sink ended: {error}");
            }
        });
        Ok(Self { url, server })
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(behind): State<Behind>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let path = uri.path();
    if path.ends_with("/_bulk") && path[1..].starts_with(INDEX) {
        return ([("content-type", "application/json")], taken(&body)).into_response();
    }
    match hand_on(&behind, method, &uri, headers, body).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

/// What Elasticsearch says if every action of these lines was done, as far as workers ask (`filter_path`).
fn taken(body: &[u8]) -> String {
    let mut items = Vec::new();
    let mut lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    while let Some(action) = lines.next() {
        if action.starts_with(br#"{"delete""#) {
            items.push(r#"{"delete":{"result":"deleted","status":200}}"#);
        } else {
            // The document.
            lines.next();
            items.push(r#"{"index":{"status":201}}"#);
        }
    }
    format!(r#"{{"items":[{}]}}"#, items.join(","))
}

async fn hand_on(behind: &Behind, method: Method, uri: &Uri, headers: HeaderMap, body: Bytes) -> Result<Response> {
    let url = format!("{}{uri}", behind.elasticsearch);
    let mut request = behind.http.request(method, url).body(body);
    for name in ["accept", "content-type"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await?;
    let mut response = Response::builder().status(answer.status());
    for name in ["content-type", "x-elastic-product"] {
        if let Some(value) = answer.headers().get(name) {
            response = response.header(name, value);
        }
    }
    Ok(response.body(Body::from(answer.bytes().await?))?)
}

#[cfg(test)]
mod tests {
    use super::taken;

    #[test]
    fn each_action_has_its_item() {
        let body =
            b"{\"index\":{\"_id\":\"1\"}}\n{\"a\":1}\n{\"delete\":{\"_id\":\"2\"}}\n{\"index\":{\"_id\":\"3\"}}\n{}\n";
        let answer: serde_json::Value = serde_json::from_str(&taken(body)).expect("JSON");
        let items = answer["items"].as_array().expect("items");
        let statuses: Vec<i64> = items
            .iter()
            .flat_map(|item| item.as_object().expect("one").values())
            .flat_map(|of| of["status"].as_i64())
            .collect();
        assert_eq!(statuses, [201, 200, 201]);
        assert_eq!(items[1]["delete"]["result"], "deleted");
    }
}
