use proptest::prelude::*;

use super::*;
use crate::json::write_json;

/// A row of texts that are JSON already.
struct Row<'a>(&'a [&'a str]);

impl Record for Row<'_> {
    fn write_column(&self, column: usize, out: &mut Vec<u8>) -> Result<(), String> {
        out.extend_from_slice(self.0[column].as_bytes());
        Ok(())
    }

    fn id(&self, column: usize) -> Result<Option<Id>, String> {
        Ok(self.0[column].parse().ok().map(Id::Int))
    }
}

const VERSION: u64 = 3 << 53 | 77;

fn version() -> Version {
    Version::from_u64(VERSION).expect("a version")
}

fn document(columns: &[&str], row: &[&str]) -> String {
    let plan = DocumentPlan::new(columns).expect("a plan");
    let mut out = Vec::new();
    plan.write(&Row(row), &mut out).expect("written");
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn dotted_names_nest_wherever_they_stand() {
    let columns = ["_id", "status", "customer.name", "total", "customer.address.city", "_hidden", "customer.id"];
    let row = ["1", "\"paid\"", "\"Ann\"", "12.50", "null", "true", "7"];
    assert_eq!(
        document(&columns, &row),
        r#"{"status":"paid","customer":{"name":"Ann","address":{"city":null},"id":7},"total":12.50}"#
    );
    assert_eq!(document(&["_id"], &["1"]), "{}");
    assert_eq!(document(&["a\"b", "_id"], &["1", "2"]), r#"{"a\"b":1}"#);
}

#[test]
fn columns_that_make_no_document_are_refused() {
    for (columns, expected) in [
        (&["status"][..], "no column is called _id"),
        (&["_id", "_id"], "more than one column is called _id"),
        (&["_id", "a", "a"], "the column \"a\" is there twice"),
        (&["_id", "a", "a.b"], "both a value and an object"),
        (&["_id", "a.b", "a"], "both a value and an object"),
        (&["_id", "a..b"], "an empty part"),
    ] {
        let defect = DocumentPlan::new(columns).expect_err("refused").0;
        assert!(defect.contains(expected), "{columns:?}: {defect}");
    }
}

fn builder(ids: &[i64], bytes_max: usize) -> Builder {
    let ids: Vec<Id> = ids.iter().copied().map(Id::Int).collect();
    Builder::new(&ids, version(), bytes_max)
}

#[test]
fn rows_become_versioned_actions() {
    let plan = DocumentPlan::new(&["_id", "a"]).expect("a plan");
    let mut builder = builder(&[5, 9], 10_000);
    assert_eq!(builder.push(&plan, &Row(&["9", "1"])), Ok(Room::More));
    builder.delete(0, &Id::Text("x\"\n".into()));
    let expected = format!(
        "{{\"index\":{{\"_id\":\"9\",\"version\":{VERSION},\"version_type\":\"external_gte\"}}}}\n{{\"a\":1}}\n\
         {{\"delete\":{{\"_id\":\"x\\\"\\n\",\"version\":{VERSION},\"version_type\":\"external_gte\"}}}}\n"
    );
    assert_eq!(String::from_utf8_lossy(&builder.body), expected);
    let actions = [Action { entry: 1, delete: false }, Action { entry: 0, delete: true }];
    assert_eq!(builder.actions, actions);
}

#[test]
fn a_query_that_gives_wrong_rows_is_refused() {
    let plan = DocumentPlan::new(&["_id", "a"]).expect("a plan");
    let mut builder = builder(&[1], 10_000);
    let refused = |outcome: Result<Room, Defect>| outcome.expect_err("refused").0;
    assert!(refused(builder.push(&plan, &Row(&["2", "1"]))).contains("was not asked for"));
    assert!(refused(builder.push(&plan, &Row(&["null", "1"]))).contains("_id is NULL"));
    assert_eq!(builder.push(&plan, &Row(&["1", "1"])), Ok(Room::More));
    assert!(refused(builder.push(&plan, &Row(&["1", "1"]))).contains("more than one row"));
}

/// A row whose second column makes no JSON, after some of it was written.
struct Spoiled;

impl Record for Spoiled {
    fn write_column(&self, _column: usize, out: &mut Vec<u8>) -> Result<(), String> {
        out.extend_from_slice(b"{\n");
        Err("the column \"a\" is no JSON".to_owned())
    }

    fn id(&self, _column: usize) -> Result<Option<Id>, String> {
        Ok(Some(Id::Int(2)))
    }
}

#[test]
fn a_value_that_cannot_be_written_is_the_trouble_of_its_row() {
    let plan = DocumentPlan::new(&["_id", "a"]).expect("a plan");
    let mut builder = builder(&[1, 2, 3], 10_000);
    assert_eq!(builder.push(&plan, &Row(&["1", "1"])), Ok(Room::More));
    let before = builder.body.clone();
    assert_eq!(builder.push(&plan, &Spoiled), Ok(Room::More));
    assert_eq!(builder.body, before);
    assert_eq!(builder.push(&plan, &Row(&["3", "1"])), Ok(Room::More));
    assert_eq!(builder.unwritable, [(1, "the column \"a\" is no JSON".to_owned())]);
    assert_eq!(builder.actions, [Action { entry: 0, delete: false }, Action { entry: 2, delete: false }]);
    assert_eq!(builder.seen, [true, true, true], "it is not gone, so it is not deleted");
}

#[test]
fn a_full_request_leaves_the_rest_unread_and_a_huge_document_out() {
    let plan = DocumentPlan::new(&["_id", "a"]).expect("a plan");
    let huge = format!("\"{}\"", "x".repeat(1000));
    let large = format!("\"{}\"", "y".repeat(300));
    let mut builder = builder(&[1, 2, 3], 600);
    assert_eq!(builder.push(&plan, &Row(&["1", &huge])), Ok(Room::More));
    assert_eq!(builder.push(&plan, &Row(&["2", &large])), Ok(Room::More));
    assert_eq!(builder.push(&plan, &Row(&["3", &large])), Ok(Room::Full));
    assert_eq!(builder.oversized.len(), 1);
    assert_eq!(builder.oversized[0].0, 0);
    assert_eq!(builder.seen, [true, true, false]);
    assert_eq!(builder.actions, [Action { entry: 1, delete: false }]);
    assert!(builder.full);
}

/// A row of a text key: a text, a JSON as the database gives it, and a text that looks like NDJSON.
struct Hostile<'a> {
    id: &'a str,
    text: &'a str,
    json: &'a str,
}

impl Record for Hostile<'_> {
    fn write_column(&self, column: usize, out: &mut Vec<u8>) -> Result<(), String> {
        match column {
            1 => write_json_string(self.text, out),
            _ => write_json(self.json, out),
        }
        Ok(())
    }

    fn id(&self, _column: usize) -> Result<Option<Id>, String> {
        Ok(Some(Id::from(self.id)))
    }
}

/// Texts that would like to be more than texts.
fn any_text() -> impl Strategy<Value = String> {
    let action = "[\"'\\\\{}\n\r\t ]{0,4}(\n\\{\"delete\":\\{\"_id\":\"2\"\\}\\}\n)?[\u{2028}\u{2029}\u{85}\u{202e}\u{0}a😀]{0,6}";
    prop_oneof![any::<String>(), action]
}

/// JSON with line breaks wherever they may stand.
fn any_json() -> impl Strategy<Value = String> {
    let breaks = "[\n\r\t ]{0,3}";
    (breaks, any_text(), breaks, any::<i64>()).prop_map(|(before, text, after, number)| {
        let text = serde_json::to_string(&text).expect("a text");
        format!("{before}{{{after}{text}{before}:{after}[{number},{before}{text}{after}]}}{before}")
    })
}

proptest! {
    /// Two lines for a document, one for a delete, each of them JSON, whatever the ids and the values are.
    #[test]
    fn no_value_and_no_id_becomes_an_action(
        rows in prop::collection::btree_map(any_text(), (any_text(), any_json(), any::<bool>()), 1..12),
        column in any_text(),
    ) {
        let column = column.replace(['.', '_'], "");
        prop_assume!(!column.is_empty() && column != "data");
        let plan = DocumentPlan::new(&["_id", &column, "data"]).expect("a plan");
        let ids: Vec<Id> = rows.keys().map(|id| Id::from(id.as_str())).collect();
        let mut builder = Builder::new(&ids, version(), usize::MAX);
        let mut expected = Vec::new();
        for (entry, (id, (text, json, delete))) in rows.iter().enumerate() {
            if *delete {
                builder.delete(entry, &ids[entry]);
            } else {
                prop_assert_eq!(builder.push(&plan, &Hostile { id, text, json }), Ok(Room::More));
            }
            expected.push((id, text, *delete));
        }
        let (body, actions, _) = builder.finish();
        prop_assert_eq!(actions.len(), rows.len());
        prop_assert_eq!(body.last(), Some(&b'\n'));
        let mut lines = body[..body.len() - 1].split(|byte| *byte == b'\n');
        for (id, text, delete) in expected {
            let mut line = || serde_json::from_slice::<serde_json::Value>(lines.next().unwrap_or_default());
            let action = line().expect("an action");
            let kind = if delete { "delete" } else { "index" };
            prop_assert_eq!(action[kind]["_id"].as_str(), Some(id.as_str()));
            if !delete {
                let document = line().expect("a document");
                prop_assert_eq!(document[&column].as_str(), Some(text.as_str()));
            }
        }
        prop_assert!(lines.next().is_none());
    }
}
