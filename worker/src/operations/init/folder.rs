//! The files of a job for one table. Pure.

use anyhow::bail;
use pinion_schemas::KeyType;
use serde_json::Value;

use super::table::{Table, TableColumn};

/// The content of a job's folder.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) job: String,
    pub(super) document: String,
    pub(super) mapping: String,
    /// Columns that are in none of them, with the reason.
    pub(super) left_out: Vec<String>,
}

/// A job with one document a row.
pub(super) fn files(table: &Table, job: &str, source: &str, mysql: bool) -> anyhow::Result<Files> {
    let among = if mysql { "IN (:ids)" } else { "= ANY(:ids)" };
    let Some(key) = table.columns.iter().find(|column| column.name == table.key) else {
        bail!("the primary key of {} is no column of it", table.quoted);
    };
    let key_type = key_type(key)?;
    let mut selected = vec![format!("    t.{} AS _id", key.quoted)];
    let mut properties = Vec::new();
    let mut left_out = Vec::new();
    for column in &table.columns {
        match field(column) {
            Ok(field) => {
                selected.push(format!("    t.{}", column.quoted));
                properties.push(format!("      {}: {field}", Value::from(column.name.as_str())));
            }
            Err(reason) => left_out.push(format!("{} ({reason})", column.name)),
        }
    }
    let document = format!(
        "-- One row a document; every column is a field, \"customer.name\" as a column's name nests.\n\
         -- Join what else belongs into the document, and name the joined tables in job.toml.\n\
         SELECT\n{}\nFROM {} t\nWHERE t.{} {among}\n",
        selected.join(",\n"),
        table.quoted,
        key.quoted
    );
    let mapping = format!(
        "{{\n  \"settings\": {{ \"number_of_shards\": 1, \"gc_deletes\": \"1h\" }},\n  \"mappings\": {{\n    \
         \"dynamic\": \"strict\",\n    \"properties\": {{\n{}\n    }}\n  }}\n}}\n",
        properties.join(",\n")
    );
    Ok(Files { job: job_toml(table, job, source, key_type, among), document, mapping, left_out })
}

fn job_toml(table: &Table, job: &str, source: &str, key: KeyType, among: &str) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    format!(
        "index = {index}  # the alias that is queried\n\
         source = {source}  # [sources.{source_name}] in pinion.toml\n\
         key = {key}\n\
         # owner = \"\"\n\
         description = {description}\n\
         # freshness_s_max = 30\n\
         # age_s_max = 604800\n\
         \n\
         # Which documents does a changed row touch? Add a [[watch]] for every table that document.sql reads, with\n\
         # the column that holds the document's id, or sql = \"SELECT id FROM … WHERE … {among}\" for a fan-out.\n\
         [[watch]]\n\
         table = {table_name}\n\
         key = {key_column}\n",
        index = quoted(job),
        source = quoted(source),
        source_name = source,
        key = quoted(&key.to_string()),
        description = quoted(&format!("One document a row of {}.{}.", table.schema, table.name)),
        table_name = quoted(&format!("{}.{}", table.schema, table.name)),
        key_column = quoted(&table.key),
    )
}

fn key_type(key: &TableColumn) -> anyhow::Result<KeyType> {
    match key.kind.as_str() {
        "int2" | "int4" | "int8" => Ok(KeyType::Bigint),
        "uuid" => Ok(KeyType::Uuid),
        "text" | "varchar" => Ok(KeyType::Text),
        other => bail!(
            "the key {} is of type {other}: write the job's folder by hand, with {} cast to a text as _id, and key = \"text\"",
            key.name,
            key.quoted
        ),
    }
}

/// Texts that are longer on average are prose, not names or codes.
const PROSE_BYTES: i32 = 64;

/// The field of a column, as JSON.
///
/// # Errors
/// Why it is left out.
fn field(column: &TableColumn) -> Result<&'static str, &'static str> {
    if column.name.starts_with('_') {
        return Err("columns that begin with _ are no fields");
    }
    match column.class.as_str() {
        "c" => return Ok(OPAQUE),
        "m" => return Err("a multirange can't be read; ARRAY(SELECT unnest(…)) makes an array of ranges of it"),
        _ => {}
    }
    Ok(match column.kind.as_str() {
        "int2" | "int4" | "int8" | "oid" => r#"{ "type": "long" }"#,
        "float4" | "float8" | "numeric" => r#"{ "type": "double" }"#,
        "bool" => r#"{ "type": "boolean" }"#,
        "date" | "timestamp" | "timestamptz" => r#"{ "type": "date" }"#,
        "json" | "jsonb" => OPAQUE,
        "bytea" => r#"{ "type": "binary" }"#,
        "inet" => r#"{ "type": "ip" }"#,
        "int4range" => r#"{ "type": "integer_range" }"#,
        "int8range" => r#"{ "type": "long_range" }"#,
        "numrange" => r#"{ "type": "double_range" }"#,
        "tsrange" | "tstzrange" | "daterange" => r#"{ "type": "date_range" }"#,
        "tsvector" => return Err("a search vector of the database"),
        "text" | "varchar" if column.width_bytes > PROSE_BYTES => r#"{ "type": "text" }"#,
        _ => r#"{ "type": "keyword", "ignore_above": 1024 }"#,
    })
}

/// What it is made of is not known here, so nothing of it can be searched before somebody writes its fields.
const OPAQUE: &str = r#"{ "type": "object", "enabled": false }"#;
