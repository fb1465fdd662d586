//! The committed contract files are what the types generate.

use std::path::Path;

use pinion_schemas::contract::{asyncapi, job_message_schema};
use serde_json::Value;

#[test]
fn the_message_schema_is_up_to_date() {
    check("job-message.schema.json", &job_message_schema());
}

#[test]
fn the_asyncapi_document_is_up_to_date() {
    check("asyncapi.json", &asyncapi());
}

fn check(file: &str, generated: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("json").join(file);
    let mut generated = serde_json::to_string_pretty(generated).expect("a value serialises");
    generated.push('\n');
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(&path, &generated).expect("the file can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "schemas/json/{file} differs from the types: run UPDATE_SCHEMAS=1 cargo test -p pinion-schemas, look at the difference, commit it"
    );
}
