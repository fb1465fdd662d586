//! What has to be in Elasticsearch: Pinion's own indexes, and for each job an index behind its alias, with a template
//! that keeps bulk requests from creating one by themselves.

pub mod compare;
mod own;

use pinion_schemas::{JobDefinition, Mapping, Names, StateIndex};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use self::compare::Settings;
use super::plan::{Action, Request, Sign, Step};
use crate::elasticsearch::{Elasticsearch, Method};
use crate::error::Fault;
use crate::planted::{Bug, planted};
use crate::postgres::json::civil_from_days;

/// An index as it has to be.
#[derive(Debug, Clone)]
pub struct IndexWanted {
    /// The job whose documents it holds; `None` for Pinion's own.
    pub job: Option<String>,
    /// A job's alias, or the name of an index of Pinion's own.
    pub name: String,
    /// Settings and mappings.
    pub mapping: Mapping,
    /// A digest of what makes the documents, to notice that it changed.
    pub definition: Option<String>,
    /// The query that makes the documents.
    pub sql: Option<String>,
}

/// What Elasticsearch has under a name: the indexes behind it, with aliases, mappings and settings.
pub type Live = Map<String, Value>;

/// An index template as it has to be.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateWanted {
    /// Its name.
    pub name: String,
    /// The job that it is of.
    pub job: Option<String>,
    /// Its body.
    pub body: Value,
}

/// While an index is loaded, nobody searches it, and it can be loaded again. It is refreshed seldom, but not never: Elasticsearch would
/// keep all of it in memory until there is no room, and then write for a second in which live writes wait.
const WHILE_LOADED: [(&str, &str); 2] = [("index.number_of_replicas", "0"), ("index.refresh_interval", "5s")];

/// The end of a new index's name: year to second, in UTC.
pub fn stamp(ms: u64) -> String {
    let seconds = ms / 1000;
    let (year, month, day) = civil_from_days(i64::try_from(seconds / 86_400).unwrap_or_default());
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

/// A digest of what makes the documents of a job.
pub(super) fn definition_digest(job: &JobDefinition) -> String {
    let made_by = format!("{}\n{}", job.key, job.sql.text());
    Uuid::new_v5(&Uuid::NAMESPACE_OID, made_by.as_bytes()).simple().to_string()
}

/// The names that a job's alias and indexes may have, as patterns.
pub fn patterns(index: &str) -> [String; 2] {
    // Stamps begin so until the year 2099; a wider pattern would catch other people's indexes.
    [index.to_owned(), format!("{index}-20*")]
}

/// The templates that keep bulk requests from creating indexes.
pub fn templates(names: &Names, jobs: &[&JobDefinition]) -> Vec<TemplateWanted> {
    let own = StateIndex::ALL.map(|kind| names.state_index(kind));
    // No job's template is called so: a job's name has no dot.
    let own_name = format!("{}.state", names.namespace());
    let mut templates = vec![TemplateWanted::new(own_name, None, &own)];
    for job in jobs {
        let patterns = patterns(&job.index);
        templates.push(TemplateWanted::new(names.template(&job.name), Some(job.name.clone()), &patterns));
    }
    templates
}

/// The indexes that have to be there.
pub fn wanted(names: &Names, jobs: &[&JobDefinition]) -> Vec<IndexWanted> {
    let own = StateIndex::ALL.into_iter().map(|kind| IndexWanted {
        job: None,
        name: names.state_index(kind),
        mapping: own::mapping(kind),
        definition: None,
        sql: None,
    });
    own.chain(jobs.iter().map(|job| IndexWanted::of_job(job))).collect()
}

/// What there is of the index or alias `name`.
///
/// # Errors
/// Elasticsearch is away, or refuses the question.
pub async fn live(elasticsearch: &Elasticsearch, name: &str) -> Result<Live, Fault> {
    let answer = elasticsearch.request(Method::Get, &format!("/{name}?flat_settings=true"), None).await?;
    if answer.status == 404 {
        return Ok(Live::new());
    }
    Ok(answer.success()?.as_object().cloned().unwrap_or_default())
}

/// What there is of the index template `name`.
///
/// # Errors
/// Elasticsearch is away, or refuses the question.
pub async fn live_template(elasticsearch: &Elasticsearch, name: &str) -> Result<Option<Value>, Fault> {
    let answer = elasticsearch.request(Method::Get, &format!("/_index_template/{name}"), None).await?;
    if answer.status == 404 {
        return Ok(None);
    }
    Ok(Some(answer.success()?["index_templates"][0]["index_template"].take()))
}

impl TemplateWanted {
    fn new(name: String, job: Option<String>, patterns: &[String]) -> Self {
        // Elasticsearch refuses two templates of one priority whose patterns overlap, as those of `orders` and
        // `orders-20s` do. Of those the longer name is the more special one.
        let longest = patterns.iter().map(String::len).max().unwrap_or_default();
        let body = json!({
            "index_patterns": patterns,
            "priority": 500 + longest,
            "allow_auto_create": planted(Bug::IndexMadeByBulk),
            "_meta": {"pinion": {"job": job}},
        });
        Self { name, job, body }
    }

    /// What has to be done, if anything.
    pub fn step(&self, live: Option<&Value>) -> Option<Step> {
        let same = |live: &Value| {
            let keys = self.body.as_object().into_iter().flatten();
            let mut others = ["template", "composed_of", "data_stream"].iter();
            keys.into_iter().all(|(key, value)| live[key] == *value) && others.all(|key| is_empty(&live[*key]))
        };
        if live.is_some_and(same) {
            return None;
        }
        let patterns: Vec<&str> =
            self.body["index_patterns"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let path = format!("/_index_template/{}", self.name);
        Some(Step {
            sign: if live.is_some() { Sign::Change } else { Sign::Create },
            job: self.job.clone(),
            name: self.name.clone(),
            what: format!("index template {}: a bulk request can't create {}", self.name, patterns.join(", ")),
            details: Vec::new(),
            action: Some(Action::Requests(vec![Request { method: Method::Put, path, body: self.body.clone() }])),
        })
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

impl IndexWanted {
    /// The index of a job.
    pub(super) fn of_job(job: &JobDefinition) -> Self {
        Self {
            job: Some(job.name.clone()),
            name: job.index.clone(),
            mapping: job.mapping.clone(),
            definition: Some(definition_digest(job)),
            sql: Some(job.sql.text()),
        }
    }

    /// What has to be done, given what there is and the end of a new index's name.
    pub fn steps(&self, live: &Live, stamp: &str) -> Vec<Step> {
        let Some(job) = &self.job else {
            return match live.get(&self.name) {
                None => vec![self.create(&self.name, json!({}))],
                Some(index) => self.change(&self.name, index),
            };
        };
        if live.is_empty() {
            let name = format!("{}-{stamp}", self.name);
            return vec![self.create(&name, json!({self.name.as_str(): {"is_write_index": true}}))];
        }
        if live.contains_key(&self.name) {
            let what = format!("{} is an index, but has to be the alias of the job {job}", self.name);
            let mend = format!(
                "choose another `index` in its job.toml; or move the index away: delete it, or clone it under another name \
                 (POST /{}/_clone/NAME) and delete it then",
                self.name
            );
            return vec![Step::blocked(Some(job), &self.name, what, vec![mend])];
        }
        let writes = |index: &Value| index["aliases"][&self.name]["is_write_index"] == json!(true);
        let behind: Vec<(&String, &Value)> = live.iter().collect();
        match behind.iter().find(|(_, index)| writes(index)).or(if behind.len() == 1 { behind.first() } else { None }) {
            Some((name, index)) => self.change(name, index),
            None => {
                let names: Vec<&str> = live.keys().map(String::as_str).collect();
                let what = format!(
                    "the alias {} stands for several indexes and writes to none: {}",
                    self.name,
                    names.join(", ")
                );
                let mend = "take it from all but one of them (POST /_aliases)".to_owned();
                vec![Step::blocked(Some(job), &self.name, what, vec![mend])]
            }
        }
    }

    fn settings(&self) -> Settings {
        let mut settings = self.mapping.flat_settings();
        settings.entry("index.gc_deletes".to_owned()).or_insert_with(|| "1h".into());
        settings
    }

    /// What is kept in the index's `_meta`, beside what the job's mapping has there.
    fn meta(&self, settings: &Settings, mappings: &Value) -> Value {
        let mut meta = self.mapping.mappings()["_meta"].as_object().cloned().unwrap_or_default();
        let mut pinion =
            json!({"job": self.job, "definition": self.definition, "settings": settings, "mappings": mappings});
        if let Some(sql) = &self.sql {
            pinion["sql"] = json!(sql);
        }
        meta.insert("pinion".to_owned(), pinion);
        Value::Object(meta)
    }

    /// The body of a request that makes it.
    fn body(&self, settings: &Settings, aliases: Value) -> Value {
        let mut mappings = self.mapping.mappings().clone();
        mappings["_meta"] = self.meta(&self.settings(), &without_meta(&mappings));
        json!({"settings": settings, "mappings": mappings, "aliases": aliases})
    }

    /// The body of a request that makes it as it is loaded fastest, and without an alias.
    pub(super) fn to_be_loaded(&self) -> Value {
        let mut settings = self.settings();
        settings.extend(WHILE_LOADED.map(|(setting, value)| (setting.to_owned(), value.into())));
        self.body(&settings, json!({}))
    }

    /// What its settings are to be when it is loaded: `null` for a default.
    pub(super) fn loaded_settings(&self) -> Value {
        let settings = self.settings();
        let wanted = |setting: &str| settings.get(setting).cloned().unwrap_or_default();
        json!(
            WHILE_LOADED
                .map(|(setting, _)| (setting, wanted(setting)))
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>()
        )
    }

    fn create(&self, name: &str, aliases: Value) -> Step {
        let body = self.body(&self.settings(), aliases);
        let what = match &self.job {
            Some(_) => format!("index {name}, {} fields, with the alias {}", self.mapping.fields().len(), self.name),
            None => format!("index {name}"),
        };
        self.step(Sign::Create, name, what, Vec::new(), vec![request(format!("/{name}"), body)])
    }

    fn change(&self, name: &str, live: &Value) -> Vec<Step> {
        let known = &live["mappings"]["_meta"]["pinion"];
        let applied = Some(&known["mappings"]).filter(|mappings| mappings.is_object());
        let mappings =
            compare::mappings(&without_meta(self.mapping.mappings()), applied, &without_meta(&live["mappings"]));
        let flat = |value: &Value| -> Settings {
            value.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let (settings, put) = compare::settings(&self.settings(), &flat(&known["settings"]), &flat(&live["settings"]));

        let needs_rebuild = !mappings.rebuilds.is_empty() || !settings.rebuilds.is_empty();
        let mut meta = self.meta(&settings.result, &mappings.result);
        // The index may not take what the new query gives: it is a new one's.
        if needs_rebuild {
            for what in ["definition", "sql"] {
                meta["pinion"][what] = known[what].clone();
            }
        }
        let mut details = mappings.changes.clone();
        let has_another_query =
            known["definition"].as_str().is_some_and(|before| self.definition.as_deref() != Some(before));
        if has_another_query && !needs_rebuild {
            let job = self.job.as_deref().unwrap_or_default();
            details.push(format!(
                "document.sql has changed: documents follow when they are next indexed, \
                 all of them after `pinion enqueue {job} --all`"
            ));
        }
        let meta_differs = meta != live["mappings"]["_meta"];
        if meta_differs && details.is_empty() && settings.changes.is_empty() {
            details.push("what is kept in _meta".to_owned());
        }
        let mut requests = Vec::new();
        if !put.is_empty() {
            requests.push(request(format!("/{name}/_settings"), json!(put)));
        }
        // What is kept must never be ahead of what the index has, so it comes last.
        if meta_differs || !mappings.changes.is_empty() {
            let mut body = mappings.result.clone();
            body["_meta"] = meta;
            requests.push(request(format!("/{name}/_mapping"), body));
        }
        details.extend(settings.changes);
        let mut steps = Vec::new();
        if !requests.is_empty() {
            steps.push(self.step(Sign::Change, name, format!("index {name}"), details, requests));
        }
        let mut rebuilds: Vec<String> = mappings.rebuilds.into_iter().chain(settings.rebuilds).collect();
        if has_another_query && needs_rebuild {
            rebuilds.push("document.sql has changed: the new index has its documents".to_owned());
        }
        if !rebuilds.is_empty() {
            let what = match &self.job {
                Some(job) => format!("index {name}: needs `pinion rebuild {job}`"),
                None => format!("index {name}: is of another version of Pinion, delete it where it can be spared"),
            };
            steps.push(Step { action: None, ..self.step(Sign::Rebuild, name, what, rebuilds, Vec::new()) });
        }
        steps
    }

    fn step(&self, sign: Sign, name: &str, what: String, details: Vec<String>, requests: Vec<Request>) -> Step {
        Step {
            sign,
            job: self.job.clone(),
            name: name.to_owned(),
            what,
            details,
            action: Some(Action::Requests(requests)),
        }
    }
}

fn request(path: String, body: Value) -> Request {
    Request { method: Method::Put, path, body }
}

fn without_meta(mappings: &Value) -> Value {
    let mut mappings = mappings.clone();
    if let Some(mappings) = mappings.as_object_mut() {
        mappings.remove("_meta");
    }
    mappings
}

#[cfg(test)]
#[path = "indexes/tests.rs"]
mod tests;
