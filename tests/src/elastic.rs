use anyhow::{Context, Result, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};

/// What tests ask of Elasticsearch, over plain HTTP: not the worker's own client, so that the two can't share a fault.
#[derive(Clone)]
pub struct Elastic {
    url: String,
    http: reqwest::Client,
}

impl Elastic {
    /// A client of the node on `url`, which need not be there yet.
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), http: reqwest::Client::new() }
    }

    /// The node's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The node's version, such as `8.18.8`.
    pub async fn version(&self) -> Result<String> {
        let answer = self.ok(Method::GET, "/", None).await?;
        Ok(answer["version"]["number"].as_str().context("no version in the answer")?.to_owned())
    }

    /// The number of documents that a search would find now: refreshes first. Fails where the index is missing.
    pub async fn count(&self, index: &str) -> Result<u64> {
        self.refresh(index).await?;
        let answer = self.ok(Method::GET, &format!("/{index}/_count"), None).await?;
        answer["count"].as_u64().context("no count in the answer")
    }

    /// A document with its `_version` and `_source`, as it is now, refreshed or not; `None` when it isn't there.
    /// Fails where the index is missing.
    pub async fn get(&self, index: &str, id: &str) -> Result<Option<Value>> {
        let (status, answer) = self.request(Method::GET, &format!("/{index}/_doc/{id}"), None).await?;
        match status {
            200 => Ok(Some(answer)),
            404 if answer["found"] == json!(false) => Ok(None),
            _ => bail!("GET {index}/_doc/{id}: {status} {answer}"),
        }
    }

    /// A search; the body is Elasticsearch's own. Refresh first to see what was just written.
    pub async fn search(&self, index: &str, body: Value) -> Result<Value> {
        self.ok(Method::POST, &format!("/{index}/_search"), Some(body)).await
    }

    /// Makes everything written so far visible to searches.
    pub async fn refresh(&self, index: &str) -> Result<()> {
        self.ok(Method::POST, &format!("/{index}/_refresh"), None).await.map(drop)
    }

    /// Any request that must succeed: its answer.
    pub async fn ok(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let (status, answer) = self.request(method.clone(), path, body).await?;
        ensure!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        Ok(answer)
    }

    /// Any request: status and answer, null where that is empty.
    pub async fn request(&self, method: Method, path: &str, body: Option<Value>) -> Result<(u16, Value)> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        let answer = if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? };
        Ok((status, answer))
    }

    /// Deletes the indexes and index templates of which `ours` says so by their name.
    pub(crate) async fn delete_where(&self, ours: impl Fn(&str) -> bool) -> Result<()> {
        let indexes = self.ok(Method::GET, "/_cat/indices?format=json&h=index&expand_wildcards=all", None).await?;
        for name in names(&indexes, "index").filter(|name| ours(name)) {
            self.delete(&format!("/{name}")).await?;
        }
        let templates = self.ok(Method::GET, "/_index_template", None).await?;
        for name in names(&templates["index_templates"], "name").filter(|name| ours(name)) {
            self.delete(&format!("/_index_template/{name}")).await?;
        }
        Ok(())
    }

    /// Deletes what may be gone already.
    async fn delete(&self, path: &str) -> Result<()> {
        let (status, answer) = self.request(Method::DELETE, path, None).await?;
        ensure!(status == 200 || status == 404, "DELETE {path}: {status} {answer}");
        Ok(())
    }
}

fn names<'a>(list: &'a Value, key: &'a str) -> impl Iterator<Item = &'a str> {
    list.as_array().into_iter().flatten().filter_map(move |entry| entry[key].as_str())
}
