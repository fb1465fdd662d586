//! A job's `mapping.json`: the settings and mappings of its index, as Elasticsearch takes them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use thiserror::Error;

/// The shortest `index.gc_deletes` that is taken, and the one that is set where none is: Elasticsearch forgets the
/// version of a deleted document after it, and would then take an older write.
pub const GC_DELETES_S_MIN: u64 = 3600;

/// A checked `mapping.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    settings: Value,
    mappings: Value,
    dynamic: Dynamic,
}

/// What the index does with a field that its mapping does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dynamic {
    /// It is added to the mapping.
    True,
    /// It is kept in the source and not indexed.
    False,
    /// The document is refused.
    Strict,
    /// It becomes a runtime field.
    Runtime,
}

/// One thing that is wrong in a `mapping.json`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{problem}; {mend}")]
pub struct MappingError {
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub mend: String,
}

impl Mapping {
    /// Reads and checks the text; every problem is reported, not only the first.
    pub fn parse(text: &str) -> Result<Mapping, Vec<MappingError>> {
        let value: Value = serde_json::from_str(text).map_err(|error| {
            let line = Some(error.line());
            vec![MappingError { line, ..problem(format!("not JSON: {error}"), "mend the syntax") }]
        })?;
        let Value::Object(mut parts) = value else {
            let text = "it is not an object";
            return Err(vec![problem(text, "write {\"settings\": {…}, \"mappings\": {…}}")]);
        };
        let mut problems = Vec::new();
        let settings = take_object(&mut parts, "settings", &mut problems);
        let mappings = take_object(&mut parts, "mappings", &mut problems);
        for key in parts.keys() {
            let mend = match key.as_str() {
                "aliases" => "remove it: the alias is `index` in job.toml, and Pinion moves it",
                _ => "only \"settings\" and \"mappings\" may stand here",
            };
            problems.push(problem(format!("the key {key:?} is not allowed"), mend));
        }
        let settings = Value::Object(settings);
        check_settings(&flatten(&settings), &mut problems);
        let dynamic = check_mappings(&mappings, &mut problems);
        if problems.is_empty() {
            Ok(Mapping { settings, mappings: Value::Object(mappings), dynamic })
        } else {
            Err(problems)
        }
    }

    /// The settings as they are written.
    pub fn settings(&self) -> &Value {
        &self.settings
    }

    /// The settings, each under its full dotted name: `index.number_of_shards`.
    pub fn flat_settings(&self) -> BTreeMap<String, Value> {
        flatten(&self.settings)
    }

    /// The mappings as they are written.
    pub fn mappings(&self) -> &Value {
        &self.mappings
    }

    /// What the index does with a field that the mapping does not name; `true` is Elasticsearch's default.
    pub fn dynamic(&self) -> Dynamic {
        self.dynamic
    }

    /// Every field under its dotted name, with its type. What has properties and no type is an `object`. Multi-fields
    /// are left out: a document does not carry them.
    pub fn fields(&self) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        collect_fields("", &self.mappings, &mut fields);
        fields
    }

    /// The body that creates the index: as written, with `index.gc_deletes` of an hour where none is given.
    pub fn effective_body(&self) -> Value {
        let mut settings = self.settings.clone();
        if let Value::Object(settings) = &mut settings
            && !self.flat_settings().contains_key(GC_DELETES)
        {
            settings.insert(GC_DELETES.to_owned(), "1h".into());
        }
        json!({ "settings": settings, "mappings": self.mappings })
    }
}

const GC_DELETES: &str = "index.gc_deletes";

fn problem(problem: impl Into<String>, mend: &str) -> MappingError {
    MappingError { line: None, problem: problem.into(), mend: mend.to_owned() }
}

/// Takes an object out of its parent; what is missing is empty.
fn take_object(parts: &mut Map<String, Value>, key: &str, problems: &mut Vec<MappingError>) -> Map<String, Value> {
    match parts.remove(key) {
        None => Map::new(),
        Some(Value::Object(object)) => object,
        Some(_) => {
            problems.push(problem(format!("{key:?} is not an object"), "write an object, or leave it out"));
            Map::new()
        }
    }
}

/// Elasticsearch takes a setting nested or dotted, with `index.` before it or without.
fn flatten(settings: &Value) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, value: &Value, flat: &mut BTreeMap<String, Value>) {
        if let Value::Object(object) = value {
            for (key, value) in object {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                walk(&name, value, flat);
            }
        } else {
            let name = if prefix.starts_with("index.") { prefix.to_owned() } else { format!("index.{prefix}") };
            flat.insert(name, value.clone());
        }
    }
    let mut flat = BTreeMap::new();
    walk("", settings, &mut flat);
    flat
}

fn check_settings(flat: &BTreeMap<String, Value>, problems: &mut Vec<MappingError>) {
    let durability = flat.get("index.translog.durability").and_then(Value::as_str);
    if durability.is_some_and(|durability| durability.eq_ignore_ascii_case("async")) {
        problems.push(problem(
            "index.translog.durability is async: a write that was acknowledged could be lost",
            "remove it, request is the default",
        ));
    }
    if let Some(gc_deletes) = flat.get(GC_DELETES) {
        let long_enough = gc_deletes.as_str().and_then(seconds).is_some_and(|s| s >= GC_DELETES_S_MIN);
        if !long_enough {
            problems.push(problem(
                format!("{GC_DELETES} is {gc_deletes}: a late write could bring back a document that was deleted"),
                "write a whole number and its unit, \"1h\" or more, or leave it out: one hour is set then",
            ));
        }
    }
}

/// Elasticsearch's notation of a time, whole seconds of it.
fn seconds(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().ok()?;
    match unit {
        "d" => number.checked_mul(86_400),
        "h" => number.checked_mul(3_600),
        "m" => number.checked_mul(60),
        "s" => Some(number),
        "ms" => Some(number / 1_000),
        "micros" => Some(number / 1_000_000),
        "nanos" => Some(number / 1_000_000_000),
        _ => None,
    }
}

fn check_mappings(mappings: &Map<String, Value>, problems: &mut Vec<MappingError>) -> Dynamic {
    let required = mappings.get("_routing").and_then(|routing| routing.get("required"));
    if required.is_some_and(|required| required == true || required == "true") {
        problems.push(problem(
            "_routing.required is true: a document whose routing changes would leave a copy behind",
            "remove _routing, Pinion routes by the id",
        ));
    }
    check_properties("", mappings, problems);
    let Some(dynamic) = mappings.get("dynamic") else { return Dynamic::True };
    let text = dynamic.as_str().map_or_else(|| dynamic.to_string(), str::to_owned);
    match text.as_str() {
        "true" => Dynamic::True,
        "false" => Dynamic::False,
        "strict" => Dynamic::Strict,
        "runtime" => Dynamic::Runtime,
        _ => {
            problems.push(problem(format!("dynamic is {dynamic}"), "write true, false, \"strict\" or \"runtime\""));
            Dynamic::True
        }
    }
}

/// Every property must be an object, or [`collect_fields`] would pass over it in silence.
fn check_properties(path: &str, parent: &Map<String, Value>, problems: &mut Vec<MappingError>) {
    match parent.get("properties") {
        None => {}
        Some(Value::Object(properties)) => {
            for (name, field) in properties {
                let path = join(path, name);
                match field {
                    Value::Object(field) => check_properties(&path, field, problems),
                    _ => problems.push(problem(
                        format!("the field {path} is not an object"),
                        "write its type: {\"type\": \"keyword\"}",
                    )),
                }
            }
        }
        Some(_) => {
            let place = if path.is_empty() { "mappings" } else { path };
            problems.push(problem(format!("the properties of {place} are not an object"), "write {\"field\": {…}}"));
        }
    }
}

fn collect_fields(path: &str, parent: &Value, fields: &mut BTreeMap<String, String>) {
    let Some(properties) = parent.get("properties").and_then(Value::as_object) else { return };
    for (name, field) in properties {
        let path = join(path, name);
        // A dotted name stands for objects within each other.
        for (dot, _) in path.match_indices('.') {
            fields.entry(path[..dot].to_owned()).or_insert_with(|| "object".to_owned());
        }
        let kind = field.get("type").and_then(Value::as_str).unwrap_or("object");
        fields.insert(path.clone(), kind.to_owned());
        collect_fields(&path, field, fields);
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, problem: &str) {
        let errors = Mapping::parse(text).expect_err(text);
        assert!(errors.iter().any(|e| e.problem.contains(problem)), "{errors:?} should contain {problem}");
    }

    #[test]
    fn fields_have_dotted_names() {
        let mapping = Mapping::parse(
            r#"{"mappings": {"dynamic": "strict", "properties": {
                "status": {"type": "keyword", "fields": {"text": {"type": "text"}}},
                "customer": {"properties": {"name": {"type": "text"}}},
                "items": {"type": "nested", "properties": {"sku": {"type": "keyword"}}},
                "delivery.city": {"type": "keyword"}
            }}}"#,
        )
        .expect("a mapping");
        let fields: Vec<String> = mapping.fields().into_iter().map(|(name, kind)| format!("{name} {kind}")).collect();
        assert_eq!(
            fields,
            [
                "customer object",
                "customer.name text",
                "delivery object",
                "delivery.city keyword",
                "items nested",
                "items.sku keyword",
                "status keyword"
            ]
        );
        assert_eq!(mapping.dynamic(), Dynamic::Strict);
    }

    #[test]
    fn dynamic_has_four_values() {
        let dynamic = |json: &str| {
            Mapping::parse(&format!(r#"{{"mappings":{{"dynamic":{json}}}}}"#)).map(|mapping| mapping.dynamic())
        };
        assert_eq!(dynamic("true"), Ok(Dynamic::True));
        assert_eq!(dynamic("\"false\""), Ok(Dynamic::False));
        assert_eq!(dynamic("\"runtime\""), Ok(Dynamic::Runtime));
        assert!(dynamic("1").is_err());
        assert_eq!(Mapping::parse("{}").expect("an empty one").dynamic(), Dynamic::True);
    }

    #[test]
    fn gc_deletes_is_an_hour_at_least() {
        let body =
            Mapping::parse(r#"{"settings":{"index":{"number_of_shards":1}}}"#).expect("a mapping").effective_body();
        assert_eq!(body, json!({"settings":{"index":{"number_of_shards":1},"index.gc_deletes":"1h"},"mappings":{}}));
        for settings in
            [r#"{"gc_deletes":"60m"}"#, r#"{"index":{"gc_deletes":"2d"}}"#, r#"{"index.gc_deletes":"3600000ms"}"#]
        {
            let mapping = Mapping::parse(&format!(r#"{{"settings":{settings}}}"#)).expect(settings);
            assert_eq!(mapping.effective_body()["settings"], *mapping.settings());
        }
        for given in ["\"59m\"", "\"-1\"", "\"0\"", "0", "\"h\"", "\"1.5h\"", "null", "\"99999999999999999999h\""] {
            refused(&format!(r#"{{"settings":{{"index":{{"gc_deletes":{given}}}}}}}"#), "index.gc_deletes is");
        }
    }

    #[test]
    fn what_is_refused() {
        for settings in [
            r#"{"index":{"translog":{"durability":"async"}}}"#,
            r#"{"index.translog.durability":"ASYNC"}"#,
            r#"{"translog.durability":"async"}"#,
            r#"{"index":{"translog.durability":"async"}}"#,
        ] {
            refused(&format!(r#"{{"settings":{settings}}}"#), "could be lost");
        }
        refused("[]", "not an object");
        refused("{\n\"a\":", "not JSON: EOF while parsing a value at line 2");
        refused(r#"{"aliases":{}}"#, "\"aliases\" is not allowed");
        refused(r#"{"properties":{}}"#, "\"properties\" is not allowed");
        refused(r#"{"settings":[]}"#, "\"settings\" is not an object");
        refused(r#"{"mappings":{"_routing":{"required":true}}}"#, "_routing.required");
        refused(r#"{"mappings":{"properties":{"a":"keyword"}}}"#, "the field a is not an object");
        refused(r#"{"mappings":{"properties":{"a":{"properties":1}}}}"#, "the properties of a");
    }

    #[test]
    fn every_problem_is_reported() {
        let text =
            r#"{"aliases":{},"settings":{"gc_deletes":"1s","translog.durability":"async"},"mappings":{"dynamic":1}}"#;
        assert_eq!(Mapping::parse(text).expect_err("four problems").len(), 4);
    }
}
