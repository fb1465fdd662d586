//! Readers that poll the index all the time: no document's version may fall under their eyes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, Result};
use pinion_tests::{Dice, Namespace};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::JOBS;
use super::changes::{CLOCKS, CUSTOMERS, MERCHANTS, ORDERS};
use super::record::{Kind, Record};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at the clocks: one that shows too much does so until the next write.
const TICK: Duration = Duration::from_millis(10);
/// Documents that are asked for by their ids at a time.
const ASKED: i64 = 40;
/// How a document was seen that a search gave.
const SEARCHED: &str = "searched";

/// What a reader has seen of a document.
#[derive(Debug, Clone)]
struct Seen {
    version: u64,
    is_there: bool,
    /// Where it was found.
    index: String,
}

/// By job and id.
type Marks = HashMap<(&'static str, String), Seen>;

/// A reader that asks by id and one that searches: each remembers what it has seen itself.
pub(super) struct Readers<'a> {
    namespace: &'a Namespace,
    record: &'a Record,
    by_id: Mutex<Marks>,
    by_search: Mutex<Marks>,
}

impl<'a> Readers<'a> {
    pub(super) fn new(namespace: &'a Namespace, record: &'a Record) -> Self {
        Self { namespace, record, by_id: Mutex::default(), by_search: Mutex::default() }
    }

    /// Reads for ever.
    pub(super) async fn run(&self, dice: Dice) -> Infallible {
        tokio::select! {
            never = self.look_at_documents(dice) => never,
            never = self.look_at_clocks() => never,
        }
    }

    async fn look_at_documents(&self, mut dice: Dice) -> Infallible {
        loop {
            for job in JOBS {
                let mut marks = self.by_id.lock().await;
                // An index that is away or not there shows nothing.
                if let Ok(answer) = self.ask(job, &mut dice).await {
                    self.look(job, &mut marks, answer["docs"].as_array(), "asked by id");
                }
                drop(marks);
                let mut marks = self.by_search.lock().await;
                if let Ok(answer) = self.search(job).await {
                    self.look(job, &mut marks, answer["hits"]["hits"].as_array(), SEARCHED);
                }
                drop(marks);
                sleep(PAUSE).await;
            }
        }
    }

    /// Removes an index under their eyes, after which its documents begin anew.
    pub(super) async fn forget(&self, job: &'static str, remove: impl Future<Output = Result<()>>) -> Result<()> {
        let mut by_id = self.by_id.lock().await;
        let mut by_search = self.by_search.lock().await;
        remove.await?;
        by_id.retain(|(of, _), _| *of != job);
        by_search.retain(|(of, _), _| *of != job);
        Ok(())
    }

    async fn ask(&self, job: &str, dice: &mut Dice) -> Result<Value> {
        let last = match job {
            "orders" => ORDERS,
            "customers" => CUSTOMERS,
            _ => MERCHANTS,
        };
        let some: Vec<i64> = (0..ASKED).map(|_| dice.of(1..=last)).collect();
        self.get(job, &some, "false").await
    }

    async fn get(&self, job: &str, ids: &[i64], fields: &str) -> Result<Value> {
        let path = format!("/{}/_mget?_source={fields}", self.namespace.index(job));
        let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
        self.namespace.elastic().ok(Method::POST, &path, Some(json!({"ids": ids}))).await
    }

    async fn search(&self, job: &str) -> Result<Value> {
        let query = json!({"size": 10_000, "version": true, "_source": false, "sort": ["_doc"]});
        self.namespace.elastic().search(&self.namespace.index(job), query).await.context("a search")
    }

    async fn look_at_clocks(&self) -> Infallible {
        let clocks: Vec<i64> = (1..=CLOCKS).collect();
        loop {
            let answer = self.get("orders", &clocks, "total").await.unwrap_or_default();
            for document in answer["docs"].as_array().into_iter().flatten() {
                let clock = document["_id"].as_str().and_then(|id| id.parse::<i64>().ok());
                let (version, total) = (document["_version"].as_u64(), document["_source"]["total"].as_f64());
                if let (Some(clock), Some(version), Some(total)) = (clock, version, total) {
                    self.record.read_clock(clock, version, (total * 100.0).round() as i64);
                }
            }
            sleep(TICK).await;
        }
    }

    fn look(&self, job: &'static str, marks: &mut Marks, documents: Option<&Vec<Value>>, how: &str) {
        for document in documents.into_iter().flatten().filter(|document| document["error"].is_null()) {
            let Some(id) = document["_id"].as_str() else { continue };
            let key = (job, id.to_owned());
            if document["found"] == false {
                if let Some(seen) = marks.get_mut(&key) {
                    seen.is_there = false;
                }
                continue;
            }
            let Some(version) = document["_version"].as_u64() else { continue };
            let index = document["_index"].as_str().unwrap_or_default();
            // Each index shows to a search what was there when it was last refreshed: where the alias has moved, that may be less.
            let is_elsewhere = how == SEARCHED && marks.get(&key).is_some_and(|seen| seen.index != index);
            if let Some(seen) = marks.get(&key).filter(|_| !is_elsewhere) {
                let came_back = !seen.is_there && version <= seen.version;
                if version < seen.version || came_back {
                    let text = format!("{how}: version {version} after {seen:?}");
                    self.record.violated(Kind::Backward, id.parse().ok().map(|id| (job, id)), text);
                }
                if version > seen.version
                    && let Ok(id) = id.parse()
                {
                    self.record.note([(job, id)], format!("{how}: version {version}"));
                }
            }
            marks.insert(key, Seen { version, is_there: true, index: index.to_owned() });
        }
    }
}
