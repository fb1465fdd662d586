use pinion_schemas::load_job;

use super::*;

const STAMP: &str = "20260102030405";

fn orders() -> IndexWanted {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/shop/merchants");
    let (job, findings) = load_job(&folder);
    assert_eq!(findings, []);
    IndexWanted::of_job(&job.expect("the example job is good"))
}

/// What Elasticsearch shows of an index that `steps` makes: settings as texts.
fn made(steps: &[Step]) -> Live {
    let [Step { action: Some(Action::Requests(requests)), .. }] = steps else { panic!("one step: {steps:?}") };
    let mut body = requests[0].body.clone();
    for value in body["settings"].as_object_mut().expect("settings").values_mut() {
        *value = match &*value {
            Value::String(text) => json!(text),
            other => json!(other.to_string()),
        };
    }
    [(requests[0].path.trim_start_matches('/').to_owned(), body)].into_iter().collect()
}

fn shown(steps: &[Step]) -> String {
    steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_stamp_is_the_time_in_utc() {
    assert_eq!(stamp(0), "19700101000000");
    assert_eq!(stamp(1_709_210_096_789), "20240229123456");
}

#[test]
fn what_was_made_needs_nothing() {
    let index = orders();
    let steps = index.steps(&Live::new(), STAMP);
    insta::assert_snapshot!(shown(&steps), @"  + index merchants-20260102030405, 9 fields, with the alias merchants");
    let live = made(&steps);
    assert_eq!(index.steps(&live, STAMP), []);
}

#[test]
fn changes_and_what_needs_a_rebuild_are_told_apart() {
    let before = orders();
    let live = made(&before.steps(&Live::new(), STAMP));
    let mapping = json!({
        "settings": {"number_of_shards": 3, "number_of_replicas": 0, "refresh_interval": "2s"},
        "mappings": {"dynamic": "strict", "properties": {
            "id": {"type": "keyword"},
            "name": {"type": "text", "fields": {"keyword": {"type": "keyword"}}},
            "category": {"type": "keyword"},
            "city": {"type": "keyword"},
            "rating": {"type": "float"},
            "lifetime": before.mapping.mappings()["properties"]["lifetime"],
        }},
    });
    let mapping = Mapping::parse(&mapping.to_string()).expect("a mapping");
    let after = IndexWanted { mapping, definition: Some("another".to_owned()), ..before };
    let steps = after.steps(&live, STAMP);
    insta::assert_snapshot!(shown(&steps), @r"
      ~ index merchants-20260102030405
          new field rating (float)
          index.refresh_interval 1s -> 2s
      ! index merchants-20260102030405: needs `pinion rebuild merchants`
          the field id: type long -> keyword
          index.number_of_shards 1 -> 3
          document.sql has changed: the new index has its documents
    ");
    let Some(Action::Requests(requests)) = &steps[0].action else { panic!("{steps:?}") };
    let kept = &requests[1].body["_meta"]["pinion"];
    assert_eq!(kept["mappings"]["properties"]["id"], json!({"type": "long"}));
    assert_eq!(kept["mappings"]["properties"]["rating"], json!({"type": "float"}));
    assert_eq!(kept["settings"]["index.number_of_shards"], json!(1));
    // Its documents are still made by the query that it was made with.
    assert_ne!(kept["definition"], "another");
    let body = after.to_be_loaded();
    assert_eq!((&body["settings"]["index.refresh_interval"], &body["aliases"]), (&json!("5s"), &json!({})));
    assert_eq!(body["mappings"]["_meta"]["pinion"]["settings"]["index.refresh_interval"], "2s");
    let settings = json!({"index.number_of_replicas": 0, "index.refresh_interval": "2s"});
    assert_eq!(after.loaded_settings(), settings);
}

#[test]
fn a_name_that_is_taken_blocks() {
    let live: Live =
        [("merchants".to_owned(), json!({"aliases": {}, "mappings": {}, "settings": {}}))].into_iter().collect();
    insta::assert_snapshot!(shown(&orders().steps(&live, STAMP)), @r"
      ! merchants is an index, but has to be the alias of the job merchants
          choose another `index` in its job.toml; or move the index away: delete it, or clone it under another name (POST /merchants/_clone/NAME) and delete it then
    ");
    let behind = json!({"aliases": {"merchants": {}}, "mappings": {}, "settings": {}});
    let live: Live = ["a", "b"].into_iter().map(|name| (name.to_owned(), behind.clone())).collect();
    insta::assert_snapshot!(shown(&orders().steps(&live, STAMP)), @r"
      ! the alias merchants stands for several indexes and writes to none: a, b
          take it from all but one of them (POST /_aliases)
    ");
}

#[test]
fn overlapping_templates_have_different_priorities() {
    let priority = |index: &str| {
        TemplateWanted::new("t".to_owned(), None, &patterns(index)).body["priority"].as_u64().expect("a number")
    };
    assert!(priority("orders-2024") > priority("orders"));
}

#[test]
fn a_template_that_was_loosened_is_put_again() {
    let template = TemplateWanted::new("pinion-orders".to_owned(), Some("orders".to_owned()), &patterns("orders"));
    let shown = |live| template.step(live).map(|step| step.to_string()).unwrap_or_default();
    insta::assert_snapshot!(shown(None), @"  + index template pinion-orders: a bulk request can't create orders, orders-20*");
    assert_eq!(template.step(Some(&template.body)), None);
    let mut loosened = template.body.clone();
    loosened["allow_auto_create"] = json!(true);
    insta::assert_snapshot!(shown(Some(&loosened)), @"  ~ index template pinion-orders: a bulk request can't create orders, orders-20*");
}

#[test]
fn pinions_own_indexes_are_good_mappings() {
    for index in wanted(&Names::default(), &[]) {
        let steps = index.steps(&Live::new(), STAMP);
        assert_eq!(index.steps(&made(&steps), STAMP), [], "{}", index.name);
    }
}

/// Every field of `value` that the index has no field for: it is strict, and would refuse the document.
fn unmapped(kind: StateIndex, value: &Value) -> Vec<String> {
    fn walk(path: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    found.push(path.clone());
                    walk(&path, value, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(path, item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk("", value, &mut found);
    let known = own::mapping(kind).fields();
    found.retain(|path| !known.contains_key(path));
    found
}

#[test]
fn what_pinion_writes_has_fields() {
    use crate::dead_letter::DeadLetter;
    use crate::generation::SourceState;
    use crate::operations::heartbeat::{Heartbeat, JobBeat};
    use crate::operations::pause::Hold;
    use crate::pipeline::source::alone::Interruption;
    use crate::pipeline::source::notes::Interrupted;
    use crate::pipeline::source::suspects::Pardon;
    use crate::ports::{Identity, Position};
    use crate::status::JobState;

    let letter = DeadLetter::of_document("orders", &pinion_schemas::Id::Int(1), b"{}", &"worker".into());
    assert_eq!(unmapped(StateIndex::DeadLetters, &json!(letter)), [""; 0]);
    let identity = Identity { system: u64::MAX, timeline: 1 };
    let mut state =
        SourceState::first(&Position { identity, at: 1, text: "0/1".into(), asked_at: tokio::time::Instant::now() });
    state.earlier.push(identity);
    assert_eq!(unmapped(StateIndex::Sources, &json!(state)), [""; 0]);
    let hold = Hold { job: "orders".to_owned(), paused: true, by: "me".to_owned(), reason: None, at: 1 };
    assert_eq!(unmapped(StateIndex::Jobs, &json!(hold)), [""; 0]);
    let interruption = Interruption { id: "1".to_owned(), deaths: 1, worker: Some("worker".to_owned()), at: 1 };
    let pardon = Pardon { id: "1".to_owned(), redeliveries: 1, at: 1 };
    let interrupted = Interrupted { job: "orders".to_owned(), interrupted: vec![interruption], pardoned: vec![pardon] };
    assert_eq!(unmapped(StateIndex::Jobs, &json!(interrupted)), [""; 0]);
    let beat = JobBeat {
        job: "orders".to_owned(),
        state: JobState::Starting,
        reason: None,
        since: 1,
        definition: Some("1".to_owned()),
    };
    let heartbeat = Heartbeat {
        worker: "worker".to_owned(),
        version: "1".to_owned(),
        admin: "127.0.0.1:1".to_owned(),
        started: 1,
        last: 2,
        bulk_limit: 1,
        bulks_in_flight: 0,
        jobs: vec![beat],
    };
    assert_eq!(unmapped(StateIndex::Workers, &json!(heartbeat)), [""; 0]);
}
