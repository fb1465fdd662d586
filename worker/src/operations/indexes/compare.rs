//! What has to change in an index: which of it can be done in place, and which needs a rebuild. Pure.
//!
//! A mapping is compared with the one that was last applied, as it was written then (it is kept in the index's
//! `_meta`), because Elasticsearch gives mappings back in a form of its own. Fields that are not in it, and an index
//! that Pinion has not made, are compared with what Elasticsearch has.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What differs, in words, and what the index will have.
#[derive(Debug, Default, PartialEq)]
pub struct Difference<T> {
    /// Can be done in place.
    pub changes: Vec<String>,
    /// Needs a new index.
    pub rebuilds: Vec<String>,
    /// What the index has once `changes` are made.
    pub result: T,
}

/// Parameters that Elasticsearch changes in place, of fields and of the whole mapping.
const IN_PLACE: [&str; 18] = [
    "boost",
    "coerce",
    "copy_to",
    "date_detection",
    "depth_limit",
    "dynamic",
    "dynamic_date_formats",
    "dynamic_templates",
    "eager_global_ordinals",
    "fielddata",
    "fielddata_frequency_filter",
    "ignore_above",
    "ignore_malformed",
    "meta",
    "numeric_detection",
    "runtime",
    "search_analyzer",
    "search_quote_analyzer",
];

/// What holds where nothing is written.
const DEFAULTS: [(&str, bool); 7] = [
    ("coerce", true),
    ("doc_values", true),
    ("enabled", true),
    ("fielddata", false),
    ("ignore_malformed", false),
    ("index", true),
    ("store", false),
];

/// Compares mappings. `applied` is the mapping as it was last written, `None` where that is not known; `live` is
/// what Elasticsearch has.
pub fn mappings(wanted: &Value, applied: Option<&Value>, live: &Value) -> Difference<Value> {
    let mut difference = Difference::default();
    let wanted = expanded(wanted);
    let live = expanded(live);
    let base = applied.map_or_else(|| live.clone(), expanded);
    let mut comparison = Comparison { ours: applied.is_some(), difference: &mut difference };
    let result = comparison.field("", &wanted, &base, Some(&live));
    difference.result = Value::Object(result);
    difference
}

struct Comparison<'a> {
    /// Whether the mapping compared with is what was written; else fields in it may be of anybody.
    ours: bool,
    difference: &'a mut Difference<Value>,
}

impl Comparison<'_> {
    /// One field, or the whole mapping where `path` is empty; gives what the index will have.
    fn field(
        &mut self,
        path: &str,
        wanted: &Map<String, Value>,
        base: &Map<String, Value>,
        live: Option<&Map<String, Value>>,
    ) -> Map<String, Value> {
        let mut result = base.clone();
        let place = if path.is_empty() { "the mapping".to_owned() } else { format!("the field {path}") };
        let (before, after) = (kind(base), kind(wanted));
        if before != after {
            self.difference.rebuilds.push(format!("{place}: type {before} -> {after}"));
            return result;
        }
        let parameters = wanted.keys().chain(base.keys().filter(|key| !wanted.contains_key(*key)));
        for key in parameters.filter(|key| !["type", "properties", "fields", "_meta"].contains(&key.as_str())) {
            let (before, after) = (parameter(base, key), parameter(wanted, key));
            if before == after {
                continue;
            }
            let shown = |value: Option<Value>| value.map_or_else(|| "not set".to_owned(), |value| value.to_string());
            let text = format!("{place}: {key} {} -> {}", shown(before), shown(after));
            if IN_PLACE.contains(&key.as_str()) {
                self.difference.changes.push(text);
                match wanted.get(key) {
                    Some(value) => result.insert(key.clone(), value.clone()),
                    None => result.remove(key),
                };
            } else {
                self.difference.rebuilds.push(text);
            }
        }
        for group in ["properties", "fields"] {
            let members = self.members(path, group, wanted, base, live);
            if !members.is_empty() {
                result.insert(group.to_owned(), Value::Object(members));
            }
        }
        result
    }

    /// The fields within a field.
    fn members(
        &mut self,
        path: &str,
        group: &str,
        wanted: &Map<String, Value>,
        base: &Map<String, Value>,
        live: Option<&Map<String, Value>>,
    ) -> Map<String, Value> {
        let none = Map::new();
        let of = |parent: &Map<String, Value>| parent.get(group).and_then(Value::as_object).cloned();
        let (wanted, base) = (of(wanted).unwrap_or_default(), of(base).unwrap_or_default());
        let live = live.and_then(of).unwrap_or_default();
        let mut result = base.clone();
        for (name, field) in &wanted {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let field = field.as_object().unwrap_or(&none);
            let known = base.get(name).or_else(|| live.get(name)).and_then(Value::as_object);
            let member = match known {
                Some(known) => self.field(&path, field, known, live.get(name).and_then(Value::as_object)),
                None => {
                    self.difference.changes.push(format!("new field {path} ({})", kind(field)));
                    field.clone()
                }
            };
            result.insert(name.clone(), Value::Object(member));
        }
        for name in base.keys().filter(|name| self.ours && !wanted.contains_key(*name)) {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            self.difference.rebuilds.push(format!("the field {path} is not in mapping.json any more"));
        }
        result
    }
}

fn kind(field: &Map<String, Value>) -> &str {
    field.get("type").and_then(Value::as_str).unwrap_or("object")
}

/// A parameter in one form of the several that Elasticsearch takes; its default counts as not set.
fn parameter(field: &Map<String, Value>, key: &str) -> Option<Value> {
    let value = match field.get(key)? {
        Value::Bool(value) => Value::String(value.to_string()),
        Value::Number(value) => Value::String(value.to_string()),
        Value::String(value) if key == "copy_to" => Value::Array(vec![Value::String(value.clone())]),
        value => value.clone(),
    };
    let written = |value: bool| if value { "true" } else { "false" };
    let is_default = DEFAULTS.iter().any(|(name, default)| *name == key && value == written(*default));
    (!is_default).then_some(value)
}

/// The mapping with dotted names written as objects within each other.
pub(crate) fn expanded(mapping: &Value) -> Map<String, Value> {
    let mut field = mapping.as_object().cloned().unwrap_or_default();
    if let Some(Value::Object(properties)) = field.get("properties") {
        let mut nested = Map::new();
        for (name, inner) in properties {
            place(&mut nested, name, expanded(inner));
        }
        field.insert("properties".to_owned(), Value::Object(nested));
    }
    field
}

fn place(properties: &mut Map<String, Value>, name: &str, field: Map<String, Value>) {
    let (head, rest) = match name.split_once('.') {
        Some((head, rest)) => (head, Some(rest)),
        None => (name, None),
    };
    let entry = properties.entry(head).or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(entry) = entry else { return };
    match rest {
        None => merge(entry, field),
        Some(rest) => {
            let inner = entry.entry("properties").or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                place(inner, rest, field);
            }
        }
    }
}

/// `a` and `a.b` may both be written: they are one object.
fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(known)), Value::Object(value)) => merge(known, value),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Settings that an open index does not change; a dot at the end stands for all below.
const STATIC: [&str; 13] = [
    "index.analysis.",
    "index.codec",
    "index.load_fixed_bitset_filters_eagerly",
    "index.mode",
    "index.number_of_routing_shards",
    "index.number_of_shards",
    "index.routing_partition_size",
    "index.routing_path",
    "index.shard.check_on_startup",
    "index.similarity.",
    "index.soft_deletes.enabled",
    "index.sort.",
    "index.store.type",
];

/// Settings by their full dotted names.
pub type Settings = BTreeMap<String, Value>;

const DURABILITY: &str = "index.translog.durability";

/// Compares settings. `applied` are those that were last written, `live` those that the index has, as texts. Gives
/// what is to be put, too: `null` for a default.
pub fn settings(wanted: &Settings, applied: &Settings, live: &Settings) -> (Difference<Settings>, Settings) {
    let mut difference = Difference { result: applied.clone(), ..Difference::default() };
    let mut put = Settings::new();
    let removed = applied.keys().filter(|key| !wanted.contains_key(*key) && live.contains_key(*key));
    let unsafe_ = [DURABILITY.to_owned()];
    let is_async = live.get(DURABILITY).is_some_and(|value| plain(value).eq_ignore_ascii_case("async"));
    let unsafe_ = unsafe_.iter().filter(|key| is_async && !wanted.contains_key(*key) && !applied.contains_key(*key));
    for key in wanted.keys().chain(removed).chain(unsafe_) {
        let (before, after) = (live.get(key), wanted.get(key).filter(|value| !value.is_null()));
        if before.map(plain) == after.map(plain) {
            difference.result.extend(after.map(|value| (key.clone(), value.clone())));
            continue;
        }
        let shown = |value: Option<&Value>| value.map_or_else(|| "default".to_owned(), plain);
        let text = format!("{key} {} -> {}", shown(before), shown(after));
        if STATIC.iter().any(|name| key == name || (name.ends_with('.') && key.starts_with(name))) {
            difference.rebuilds.push(text);
            continue;
        }
        difference.changes.push(text);
        put.insert(key.clone(), after.cloned().unwrap_or_default());
        match after {
            Some(value) => difference.result.insert(key.clone(), value.clone()),
            None => difference.result.remove(key),
        };
    }
    (difference, put)
}

/// Elasticsearch gives every setting back as a text, or a list of texts.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        value => value.to_string(),
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
