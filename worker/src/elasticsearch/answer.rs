//! What Elasticsearch's answers mean.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Fault, Service};
use crate::ports::{BulkAnswer, BulkError, BulkItem};

#[derive(Deserialize)]
struct Bulk<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, alias = "delete", alias = "update", alias = "create")]
    index: Outcome<'a>,
}

#[derive(Deserialize)]
struct Outcome<'a> {
    status: u16,
    #[serde(borrow)]
    result: Option<Cow<'a, str>>,
    error: Option<Value>,
}

/// The items of a bulk answer, which have to be as many as there were actions: they are matched
/// by their place.
pub(super) fn items(body: &[u8], actions: usize) -> BulkAnswer {
    let unusable = |reason: String| Fault::Again { service: Service::Elasticsearch, reason };
    let bulk: Bulk<'_> =
        serde_json::from_slice(body).map_err(|error| unusable(format!("a bulk answer that can't be read: {error}")))?;
    if bulk.items.len() != actions {
        return Err(unusable(format!("a bulk answer of {} items to {actions} actions", bulk.items.len())));
    }
    Ok(bulk.items.into_iter().map(|item| item.index.into()).collect())
}

impl From<Outcome<'_>> for BulkItem {
    fn from(outcome: Outcome<'_>) -> Self {
        Self {
            status: outcome.status,
            not_found: outcome.result.as_deref() == Some("not_found"),
            error: outcome.error.as_ref().map(bulk_error),
        }
    }
}

/// An error with the reasons of its causes, which often are the telling ones.
fn bulk_error(error: &Value) -> BulkError {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut reason = text(&error["reason"]);
    // Of a search, whose own reason is that its shards failed, the root cause says why.
    for mut cause in [&error["caused_by"], &error["root_cause"][0]] {
        while let Some(inner) = cause["reason"].as_str() {
            if !reason.contains(inner) {
                reason = format!("{reason}: {inner}");
            }
            cause = &cause["caused_by"];
        }
    }
    let kind = error["type"].as_str().unwrap_or("unknown").to_owned();
    if reason.is_empty() {
        reason = error.to_string();
    }
    BulkError { kind, reason: shortened(reason) }
}

/// Elasticsearch quotes the field's value, however long it is.
fn shortened(mut reason: String) -> String {
    const REASON_BYTES_MAX: usize = 1000;
    if reason.len() > REASON_BYTES_MAX {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        reason.push('…');
    }
    reason
}

/// What a refused request means. The body is Elasticsearch's error, or whatever a proxy says.
pub(super) fn fault(status: u16, body: &[u8]) -> Fault {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let reason = if answer["error"].is_object() {
        let error = bulk_error(&answer["error"]);
        format!("{}: {}", error.kind, error.reason)
    } else {
        let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
        format!("status {status} {text}")
    };
    let service = Service::Elasticsearch;
    match status {
        401 => Fault::Away {
            service,
            reason: format!("it refuses the credentials of [elasticsearch] in the configuration: {reason}"),
        },
        429 => Fault::Again { service, reason },
        500 | 502..=504 => Fault::Away { service, reason },
        403 | 404 => Fault::Job(reason),
        _ => Fault::Documents(reason),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWER: &str = r#"{"errors":true,"took":3,"items":[{"index":{"_id":"1","status":201,"result":"created"}},
        {"delete":{"_id":"2","status":404,"result":"not_found"}},{"index":{"_id":"3","status":400,
        "error":{"type":"a","reason":"r","caused_by":{"type":"b","reason":"s","caused_by":{"reason":"t"}}}}}]}"#;

    proptest! {
        /// Whatever comes: an item for each action, or nothing is settled.
        #[test]
        fn no_bytes_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            gone in 0_usize..30,
            status in any::<u16>(),
        ) {
            let at = at.index(ANSWER.len());
            let mut changed = ANSWER.as_bytes().to_vec();
            changed.splice(at..(at + gone).min(ANSWER.len()), bytes.iter().copied().take(gone));
            for body in [&bytes[..], &changed, &changed[..at.min(changed.len())]] {
                match items(body, 3) {
                    Ok(items) => {
                        prop_assert_eq!(items.len(), 3);
                        for item in items {
                            let _verdicts = [true, false].map(|delete| crate::pipeline::verdict::verdict(&item, delete));
                        }
                    }
                    Err(fault) => {
                        let again = matches!(fault, Fault::Again { .. });
                        prop_assert!(again);
                    }
                }
                let _fault = fault(status, body);
            }
        }
    }

    #[test]
    fn items_keep_their_places() {
        let body = br#"{"errors":true,"took":3,"items":[
            {"index":{"_index":"a","_id":"1","status":201,"result":"created"}},
            {"delete":{"_id":"2","status":404,"result":"not_found"}},
            {"index":{"_id":"3","status":400,"error":{"type":"document_parsing_exception","reason":"[1:2] failed",
                "caused_by":{"type":"x","reason":"For input string: \"a\""}}}}]}"#;
        let items = items(body, 3).expect("three items");
        assert_eq!((items[0].status, items[0].error.is_none()), (201, true));
        assert!(items[1].not_found);
        let error = items[2].error.as_ref().expect("an error");
        assert_eq!(error.reason, "[1:2] failed: For input string: \"a\"");
    }

    #[test]
    fn a_search_that_failed_says_why() {
        let body = br#"{"error":{"type":"search_phase_execution_exception","reason":"all shards failed","root_cause":[
            {"type":"parse_exception","reason":"failed to parse date field [yesterday]"}]},"status":400}"#;
        let Fault::Documents(reason) = fault(400, body) else { panic!("another fault") };
        assert!(reason.ends_with("all shards failed: failed to parse date field [yesterday]"), "{reason}");
    }

    #[test]
    fn an_answer_with_too_few_items_settles_nothing() {
        let answer = items(br#"{"items":[{"index":{"status":201}}]}"#, 2);
        assert!(matches!(answer, Err(Fault::Again { .. })));
        assert!(matches!(items(b"<html>", 1), Err(Fault::Again { .. })));
    }

    #[test]
    fn statuses_are_sorted_by_who_is_at_fault() {
        assert!(matches!(fault(401, b""), Fault::Away { .. }));
        assert!(matches!(fault(503, b"busy"), Fault::Away { .. }));
        assert!(matches!(fault(429, b"{}"), Fault::Again { .. }));
        assert!(matches!(fault(404, b"{}"), Fault::Job(_)));
        assert!(matches!(fault(413, b""), Fault::Documents(_)));
        assert!(matches!(fault(400, b"{}"), Fault::Documents(_)));
    }
}
