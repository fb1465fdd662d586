//! The columns of a query against the fields of a mapping. Pure.

use std::collections::BTreeSet;

use pinion_schemas::{Finding, JobDefinition, Mapping, Severity};
use serde_json::{Map, Value};

use super::{Place, place};
use crate::operations::indexes::compare::expanded;

/// A column as the database describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ColumnSeen {
    /// Its name, dots included.
    pub(super) name: String,
    /// Its type, as the database's driver names it.
    pub(super) kind: String,
}

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) at: At,
    pub(super) severity: Severity,
    pub(super) problem: String,
    pub(super) mend: String,
}

/// Which of the two files it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum At {
    Column(String),
    Field(String),
}

/// The columns of the job's query, in the file `sql`, against its mapping.
pub(super) fn findings(columns: &[ColumnSeen], job: &JobDefinition, sql: &Place) -> Vec<Finding> {
    let mapping = Place::of_job(job, "mapping.json");
    let lines = place::field_lines(&mapping.text);
    let finding = |misfit: Misfit| match &misfit.at {
        At::Column(name) => {
            sql.finding(misfit.severity, place::column_line(&sql.text, name), misfit.problem, misfit.mend)
        }
        At::Field(name) => mapping.finding(misfit.severity, lines.get(name).copied(), misfit.problem, misfit.mend),
    };
    check(columns, &job.mapping).into_iter().map(finding).collect()
}

/// Everything that does not fit, columns first.
fn check(columns: &[ColumnSeen], mapping: &Mapping) -> Vec<Misfit> {
    let fields: Vec<&ColumnSeen> = columns.iter().filter(|column| !column.name.starts_with('_')).collect();
    let root = expanded(mapping.mappings());
    let mut misfits: Vec<Misfit> = fields.iter().filter_map(|column| column_misfit(column, &root)).collect();
    misfits.extend(unfilled(&fields, mapping, &root));
    misfits
}

fn column_misfit(column: &ColumnSeen, root: &Map<String, Value>) -> Option<Misfit> {
    let name = &column.name;
    let misfit = |severity, problem: String, mend: String| {
        Some(Misfit { at: At::Column(name.clone()), severity, problem, mend })
    };
    match destination(root, name) {
        Destination::Within => None,
        Destination::Scalar(parent, kind) => misfit(
            Severity::Error,
            format!("the column \"{name}\" lies within the field {parent}, which is of type {kind}"),
            format!("make {parent} an object in mapping.json, or rename the column"),
        ),
        Destination::Unmapped(dynamic) => match dynamic.as_str() {
            "strict" => misfit(
                Severity::Error,
                format!(
                    "the column \"{name}\" has no field in mapping.json, which is strict: every document would be refused"
                ),
                "add the field to mapping.json, or take the column out of the query".to_owned(),
            ),
            "false" => misfit(
                Severity::Warning,
                format!("the column \"{name}\" has no field in mapping.json: it is stored, but can't be searched"),
                "add the field to mapping.json, or take the column out of the query".to_owned(),
            ),
            _ => None,
        },
        Destination::Field(kind) => {
            let (severity, problem) = type_misfit(&column.kind, &kind)?;
            misfit(
                severity,
                format!(
                    "the column \"{name}\" is of type {}, its field of type {kind}: {problem}",
                    column.kind.to_lowercase()
                ),
                "change the field's type in mapping.json, or cast the column".to_owned(),
            )
        }
    }
}

/// Where a column's value goes.
enum Destination {
    /// To a field of that type.
    Field(String),
    /// Into a field that takes anything below it.
    Within,
    /// Below a field that has nothing below it: its name and type.
    Scalar(String, String),
    /// To no field; what `dynamic` says there.
    Unmapped(String),
}

fn destination(root: &Map<String, Value>, name: &str) -> Destination {
    let mut here = root;
    let mut dynamic = dynamic_of(root).unwrap_or_else(|| "true".to_owned());
    let mut parts = name.split('.').peekable();
    let mut path = String::new();
    while let Some(part) = parts.next() {
        let field = here.get("properties").and_then(|properties| properties.get(part)).and_then(Value::as_object);
        let Some(field) = field else { return Destination::Unmapped(dynamic) };
        path = if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") };
        let kind = field.get("type").and_then(Value::as_str).unwrap_or("object");
        let takes_anything =
            kind == "flattened" || field.get("enabled").is_some_and(|enabled| enabled == false || enabled == "false");
        match (takes_anything, parts.peek()) {
            (true, _) => return Destination::Within,
            (false, None) => return Destination::Field(kind.to_owned()),
            (false, Some(_)) if !["object", "nested", "passthrough"].contains(&kind) => {
                return Destination::Scalar(path, kind.to_owned());
            }
            (false, Some(_)) => {}
        }
        dynamic = dynamic_of(field).unwrap_or(dynamic);
        here = field;
    }
    Destination::Unmapped(dynamic)
}

fn dynamic_of(field: &Map<String, Value>) -> Option<String> {
    match field.get("dynamic")? {
        Value::String(text) => Some(text.clone()),
        value => Some(value.to_string()),
    }
}

/// What a column holds, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Integer,
    Decimal,
    Bool,
    Text,
    Time,
    Range,
}

/// What a type holds; `None` where that can't be told, as of JSON. An array holds what its elements do.
fn content(kind: &str) -> Option<Content> {
    let kind = kind.trim_end_matches("[]");
    Some(match kind {
        "INT2" | "INT4" | "INT8" | "OID" | "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" | "YEAR" | "BIT" => {
            Content::Integer
        }
        "FLOAT4" | "FLOAT8" | "NUMERIC" | "FLOAT" | "DOUBLE" | "DECIMAL" => Content::Decimal,
        "BOOL" | "BOOLEAN" => Content::Bool,
        "TEXT" | "VARCHAR" | "CHAR" | "\"CHAR\"" | "NAME" | "UUID" | "CITEXT" | "citext" | "BYTEA" | "INTERVAL"
        | "TIME" | "TIMETZ" | "ENUM" | "SET" | "BLOB" => Content::Text,
        "TIMESTAMP" | "TIMESTAMPTZ" | "DATE" | "DATETIME" => Content::Time,
        "INT4RANGE" | "INT8RANGE" | "NUMRANGE" | "TSRANGE" | "TSTZRANGE" | "DATERANGE" => Content::Range,
        _ => return None,
    })
}

/// Why values of a column obviously don't fit into a field; `None` where they may.
fn type_misfit(column: &str, field: &str) -> Option<(Severity, &'static str)> {
    const WHOLE: [&str; 5] = ["long", "integer", "short", "byte", "unsigned_long"];
    const FRACTIONS: [&str; 4] = ["double", "float", "half_float", "scaled_float"];
    const REFUSED: &str = "documents may be refused";
    let content = content(column)?;
    let is_number = WHOLE.contains(&field) || FRACTIONS.contains(&field);
    if field == "object" || field == "nested" {
        let is_object = content == Content::Range && field == "object";
        return (!is_object).then_some((Severity::Error, "every document with a value would be refused"));
    }
    if field.ends_with("_range") || content == Content::Range {
        return (!(field.ends_with("_range") && content == Content::Range)).then_some((Severity::Warning, REFUSED));
    }
    let refused = match content {
        Content::Integer => ["boolean", "ip", "binary", "geo_point"].contains(&field),
        Content::Decimal if WHOLE.contains(&field) => {
            return Some((Severity::Warning, "decimals are cut off when it is searched"));
        }
        Content::Decimal => ["boolean", "date", "date_nanos", "ip", "binary", "geo_point"].contains(&field),
        Content::Bool => is_number || ["date", "date_nanos", "ip", "binary", "geo_point"].contains(&field),
        Content::Text => is_number || field == "boolean",
        Content::Time => is_number || ["boolean", "ip", "binary", "geo_point"].contains(&field),
        Content::Range => false,
    };
    refused.then_some((Severity::Warning, REFUSED))
}

/// Fields that stay empty; of an object that stays empty only itself.
fn unfilled(columns: &[&ColumnSeen], mapping: &Mapping, root: &Map<String, Value>) -> Vec<Misfit> {
    let mut copies = BTreeSet::new();
    collect_copies(root, &mut copies);
    let below = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let mut empty: Vec<String> = Vec::new();
    for (field, kind) in mapping.fields() {
        let filled = columns.iter().any(|column| below(&field, &column.name) || below(&column.name, &field));
        let by_itself = kind == "alias" || kind == "constant_keyword" || copies.contains(&field);
        let told = empty.iter().any(|outer| below(&field, outer));
        if !filled && !by_itself && !told {
            empty.push(field);
        }
    }
    let misfit = |field: String| Misfit {
        severity: Severity::Warning,
        problem: format!("no column of document.sql fills the field {field}"),
        mend: "select it, or take the field out of mapping.json".to_owned(),
        at: At::Field(field),
    };
    empty.into_iter().map(misfit).collect()
}

/// Fields that `copy_to` fills.
fn collect_copies(field: &Map<String, Value>, copies: &mut BTreeSet<String>) {
    match field.get("copy_to") {
        Some(Value::String(target)) => drop(copies.insert(target.clone())),
        Some(Value::Array(targets)) => copies.extend(targets.iter().filter_map(Value::as_str).map(str::to_owned)),
        _ => {}
    }
    let properties = field.get("properties").and_then(Value::as_object);
    for inner in properties.into_iter().flat_map(Map::values).filter_map(Value::as_object) {
        collect_copies(inner, copies);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(columns: &[(&str, &str)], mapping: &str) -> String {
        let columns: Vec<ColumnSeen> = columns
            .iter()
            .map(|(name, kind)| ColumnSeen { name: (*name).to_owned(), kind: (*kind).to_owned() })
            .collect();
        let mapping = Mapping::parse(&format!(r#"{{"mappings":{mapping}}}"#)).expect("a mapping");
        let lines = check(&columns, &mapping)
            .into_iter()
            .map(|misfit| format!("{:?}: {:?}: {}; {}", misfit.at, misfit.severity, misfit.problem, misfit.mend));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_fits_is_not_told() {
        let mapping = r#"{"dynamic": "strict", "properties": {
            "id": {"type": "long"}, "name": {"type": "text", "copy_to": "all"}, "all": {"type": "text"},
            "customer": {"properties": {"city": {"type": "keyword"}}},
            "items": {"type": "nested", "properties": {"sku": {"type": "keyword"}}},
            "extra": {"type": "flattened"}, "raw": {"type": "object", "enabled": false},
            "valid": {"type": "date_range"}, "tags": {"type": "keyword"}, "at": {"type": "date"},
            "kind": {"type": "keyword"}, "other_name": {"type": "alias", "path": "name"}}}"#;
        let columns = [
            ("_id", "INT8"),
            ("_note", "TEXT"),
            ("id", "INT8"),
            ("name", "TEXT"),
            ("customer.city", "TEXT"),
            ("items", "JSON"),
            ("extra.a.b", "INT4"),
            ("raw", "JSONB"),
            ("valid", "TSTZRANGE"),
            ("tags", "TEXT[]"),
            ("at", "TIMESTAMPTZ"),
            ("kind", "order_kind"),
        ];
        assert_eq!(shown(&columns, mapping), "");
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let mapping = r#"{"dynamic": "strict", "properties": {
            "total": {"type": "long"}, "name": {"type": "keyword"}, "code": {"type": "integer"},
            "customer": {"dynamic": false, "properties": {"id": {"type": "long"}}},
            "delivery": {"properties": {"rider": {"type": "keyword"}, "at": {"type": "date"}}},
            "free": {"dynamic": true, "properties": {"x": {"type": "boolean"}}}}}"#;
        let columns = [
            ("_id", "INT8"),
            ("total", "NUMERIC"),
            ("name", "TEXT"),
            ("name.first", "TEXT"),
            ("code", "TEXT"),
            ("status", "TEXT"),
            ("customer.city", "TEXT"),
            ("customer.id", "TIMESTAMPTZ"),
            ("free.any", "TEXT"),
            ("free", "TEXT"),
        ];
        insta::assert_snapshot!(shown(&columns, mapping), @r#"
        Column("total"): Warning: the column "total" is of type numeric, its field of type long: decimals are cut off when it is searched; change the field's type in mapping.json, or cast the column
        Column("name.first"): Error: the column "name.first" lies within the field name, which is of type keyword; make name an object in mapping.json, or rename the column
        Column("code"): Warning: the column "code" is of type text, its field of type integer: documents may be refused; change the field's type in mapping.json, or cast the column
        Column("status"): Error: the column "status" has no field in mapping.json, which is strict: every document would be refused; add the field to mapping.json, or take the column out of the query
        Column("customer.city"): Warning: the column "customer.city" has no field in mapping.json: it is stored, but can't be searched; add the field to mapping.json, or take the column out of the query
        Column("customer.id"): Warning: the column "customer.id" is of type timestamptz, its field of type long: documents may be refused; change the field's type in mapping.json, or cast the column
        Column("free"): Error: the column "free" is of type text, its field of type object: every document with a value would be refused; change the field's type in mapping.json, or cast the column
        Field("delivery"): Warning: no column of document.sql fills the field delivery; select it, or take the field out of mapping.json
        "#);
    }
}
