use serde_json::json;

use super::*;

fn words(difference: &Difference<Value>) -> Vec<String> {
    let changes = difference.changes.iter().map(|text| format!("~ {text}"));
    changes.chain(difference.rebuilds.iter().map(|text| format!("! {text}"))).collect()
}

/// Compares with what was applied, which is what Elasticsearch has.
fn check(applied: Value, wanted: Value, expected: &[&str]) -> Value {
    let difference = mappings(&wanted, Some(&applied), &applied);
    assert_eq!(words(&difference), expected);
    difference.result
}

#[test]
fn the_same_mapping_is_the_same_however_it_is_written() {
    let written = json!({"dynamic": false, "properties": {
        "customer.name": {"type": "text", "copy_to": "all", "index": true},
        "customer.city": {"type": "keyword", "ignore_above": "256"},
        "all": {"type": "text"},
        "items": {"type": "nested"},
        "delivery": {"type": "object", "properties": {"rider": {"type": "keyword"}}},
    }});
    let otherwise = json!({"dynamic": "false", "properties": {
        "customer": {"properties": {
            "name": {"type": "text", "copy_to": ["all"]},
            "city": {"type": "keyword", "ignore_above": 256},
        }},
        "all": {"type": "text"},
        "items": {"type": "nested"},
        "delivery": {"properties": {"rider": {"type": "keyword"}}},
    }});
    check(written, otherwise, &[]);
}

#[test]
fn new_fields_and_sub_fields_are_added_in_place() {
    let applied =
        json!({"properties": {"name": {"type": "text"}, "customer": {"properties": {"id": {"type": "long"}}}}});
    let wanted = json!({"properties": {
        "name": {"type": "text", "fields": {"keyword": {"type": "keyword"}}},
        "customer": {"properties": {"id": {"type": "long"}, "city": {"type": "keyword"}}},
        "delivery": {"properties": {"rider": {"type": "keyword"}}},
    }});
    let expected =
        ["~ new field customer.city (keyword)", "~ new field delivery (object)", "~ new field name.keyword (keyword)"];
    let result = check(applied, wanted.clone(), &expected);
    assert_eq!(result, wanted);
}

#[test]
fn what_cannot_be_changed_in_place_is_kept_as_it_was() {
    let applied = json!({"properties": {
        "total": {"type": "double"},
        "name": {"type": "text", "analyzer": "standard"},
        "code": {"type": "keyword", "ignore_above": 10},
        "old": {"type": "keyword"},
        "hidden": {"type": "keyword", "index": false},
    }});
    let wanted = json!({"dynamic": "strict", "properties": {
        "total": {"type": "long"},
        "name": {"type": "text", "analyzer": "english"},
        "code": {"type": "keyword", "ignore_above": 20},
        "hidden": {"type": "keyword"},
        "fresh": {"type": "date"},
    }});
    let result = check(
        applied,
        wanted,
        &[
            "~ the mapping: dynamic not set -> \"strict\"",
            "~ the field code: ignore_above \"10\" -> \"20\"",
            "~ new field fresh (date)",
            "! the field hidden: index \"false\" -> not set",
            "! the field name: analyzer \"standard\" -> \"english\"",
            "! the field total: type double -> long",
            "! the field old is not in mapping.json any more",
        ],
    );
    assert_eq!(result["properties"]["total"], json!({"type": "double"}));
    assert_eq!(result["properties"]["code"]["ignore_above"], json!(20));
    assert_eq!(result["properties"]["old"], json!({"type": "keyword"}));
}

#[test]
fn a_field_that_elasticsearch_added_by_itself_counts() {
    let applied = json!({"properties": {"id": {"type": "long"}}});
    let live = json!({"properties": {"id": {"type": "long"}, "city": {"type": "text"}, "note": {"type": "text"}}});
    let wanted = json!({"properties": {"id": {"type": "long"}, "city": {"type": "keyword"}}});
    let difference = mappings(&wanted, Some(&applied), &live);
    assert_eq!(words(&difference), ["! the field city: type text -> keyword"]);
}

#[test]
fn an_index_of_somebody_else_keeps_its_fields() {
    let live = json!({"properties": {"id": {"type": "long"}, "note": {"type": "text"}}});
    let wanted = json!({"properties": {"id": {"type": "long"}, "city": {"type": "keyword"}}});
    let difference = mappings(&wanted, None, &live);
    assert_eq!(words(&difference), ["~ new field city (keyword)"]);
    assert_eq!(difference.result["properties"]["note"], json!({"type": "text"}));
}

fn named(settings: &[(&str, Value)]) -> Settings {
    settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

#[test]
fn settings_are_put_in_place_where_that_is_possible() {
    let applied = named(&[
        ("index.number_of_shards", json!(1)),
        ("index.refresh_interval", json!("1s")),
        ("index.max_result_window", json!(20_000)),
    ]);
    let live = named(&[
        ("index.number_of_shards", json!("1")),
        ("index.refresh_interval", json!("1s")),
        ("index.max_result_window", json!("20000")),
        ("index.gc_deletes", json!("60s")),
        ("index.translog.durability", json!("async")),
        ("index.analysis.filter.x.stopwords", json!(["a", "b"])),
        ("index.uuid", json!("abc")),
    ]);
    let wanted = named(&[
        ("index.number_of_shards", json!(2)),
        ("index.refresh_interval", json!("5s")),
        ("index.gc_deletes", json!("1h")),
        ("index.analysis.filter.x.stopwords", json!(["a", "b"])),
    ]);
    let (difference, put) = settings(&wanted, &applied, &live);
    assert_eq!(
        difference.changes,
        [
            "index.gc_deletes 60s -> 1h",
            "index.refresh_interval 1s -> 5s",
            "index.max_result_window 20000 -> default",
            "index.translog.durability async -> default",
        ]
    );
    assert_eq!(difference.rebuilds, ["index.number_of_shards 1 -> 2"]);
    assert_eq!(put["index.max_result_window"], Value::Null);
    assert_eq!(difference.result["index.number_of_shards"], json!(1));
    assert_eq!(difference.result["index.refresh_interval"], json!("5s"));
    assert!(!difference.result.contains_key("index.max_result_window"));
}
