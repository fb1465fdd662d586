//! One typed verdict for each item of Elasticsearch's answer.

use pinion_schemas::Version;

use crate::ports::{BulkError, BulkItem};

/// What an item's answer means for its document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// In the index as sent.
    Indexed,
    /// Not in the index, as it should be.
    Deleted,
    /// The index holds a version that is at least as new.
    Conflict(Option<Version>),
    /// The server wants to be asked later.
    Again(String),
    /// The document itself was refused.
    Refused(BulkError),
    /// The job's index refuses everything.
    JobBroken(String),
    /// It failed for a reason of its own that may pass.
    Failed(BulkError),
}

/// The kinds of error that concern the whole index, whatever their status: the flood stage of a
/// full disk comes as 429.
const OF_THE_INDEX: [&str; 4] =
    ["cluster_block_exception", "index_not_found_exception", "index_closed_exception", "security_exception"];

/// The verdict of `item`, the answer to an index or (`delete`) a delete action.
pub fn verdict(item: &BulkItem, delete: bool) -> Verdict {
    let Some(error) = &item.error else {
        return match (item.status, delete) {
            (200 | 201, false) => Verdict::Indexed,
            (200, true) => Verdict::Deleted,
            (404, true) if item.not_found => Verdict::Deleted,
            (status, _) => Verdict::Failed(BulkError {
                kind: "unexpected_status".to_owned(),
                reason: format!("status {status} without an error"),
            }),
        };
    };
    if OF_THE_INDEX.contains(&error.kind.as_str()) {
        return Verdict::JobBroken(format!("{}: {}", error.kind, error.reason));
    }
    match item.status {
        409 => Verdict::Conflict(held_version(&error.reason)),
        429 | 503 => Verdict::Again(format!("{}: {}", error.kind, error.reason)),
        403 | 404 => Verdict::JobBroken(format!("{}: {}", error.kind, error.reason)),
        500..=599 => Verdict::Failed(error.clone()),
        _ => Verdict::Refused(error.clone()),
    }
}

/// The version that the index holds, out of the reason of a version conflict:
/// `[42]: version conflict, current version [7] is higher than the one provided [5]`.
fn held_version(reason: &str) -> Option<Version> {
    let (_, after) = reason.rsplit_once("current version [")?;
    let (number, _) = after.split_once(']')?;
    Version::from_u64(number.parse().ok()?).ok()
}

/// A reason without what belongs to one document, to see whether many were refused alike:
/// `[1:23] failed to parse field [total] of type [double] in document with id '7'. …` of all ids is one.
pub fn common_reason(error: &BulkError) -> String {
    let reason = error.reason.split(" in document with id").next().unwrap_or_default();
    let reason = match reason.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((place, rest)) if place.bytes().all(|byte| byte.is_ascii_digit() || byte == b':') => rest,
        _ => reason,
    };
    format!("{}: {reason}", error.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(status: u16, error: Option<(&str, &str)>) -> BulkItem {
        let error = error.map(|(kind, reason)| BulkError { kind: kind.to_owned(), reason: reason.to_owned() });
        BulkItem { status, not_found: false, error }
    }

    #[test]
    fn every_row_of_the_table() {
        let conflict = "[42]: version conflict, current version [9007199254740993] is higher than the one provided [5]";
        let held = Version::from_u64(9_007_199_254_740_993).expect("a version");
        let refused = BulkError { kind: "document_parsing_exception".to_owned(), reason: "r".to_owned() };
        let cases = [
            (item(200, None), false, Verdict::Indexed),
            (item(201, None), false, Verdict::Indexed),
            (item(200, None), true, Verdict::Deleted),
            (item(409, Some(("version_conflict_engine_exception", conflict))), false, Verdict::Conflict(Some(held))),
            (item(409, Some(("version_conflict_engine_exception", "?"))), true, Verdict::Conflict(None)),
            (
                item(429, Some(("es_rejected_execution_exception", "r"))),
                false,
                Verdict::Again("es_rejected_execution_exception: r".to_owned()),
            ),
            (
                item(429, Some(("cluster_block_exception", "r"))),
                false,
                Verdict::JobBroken("cluster_block_exception: r".to_owned()),
            ),
            (
                item(200, Some(("index_not_found_exception", "r"))),
                true,
                Verdict::JobBroken("index_not_found_exception: r".to_owned()),
            ),
            (item(400, Some(("document_parsing_exception", "r"))), false, Verdict::Refused(refused)),
        ];
        for (item, delete, expected) in cases {
            assert_eq!(verdict(&item, delete), expected, "{item:?}");
        }
        let not_found = BulkItem { not_found: true, ..item(404, None) };
        assert_eq!(verdict(&not_found, true), Verdict::Deleted);
        assert!(matches!(verdict(&item(404, None), true), Verdict::Failed(_)));
        assert!(matches!(verdict(&item(200, Some(("boom", "r"))), false), Verdict::Refused(_)));
    }

    #[test]
    fn reasons_are_compared_without_ids_and_places() {
        let reason = |text: &str| common_reason(&BulkError { kind: "k".to_owned(), reason: text.to_owned() });
        let left = reason("[1:23] failed to parse field [total] of type [double] in document with id '7'. Preview 'a'");
        let right = reason("[1:9] failed to parse field [total] of type [double] in document with id '8'. Preview 'b'");
        assert_eq!(left, right);
        assert_ne!(left, reason("[1:9] failed to parse field [status] of type [long] in document with id '8'"));
    }
}
