//! Pinion's own indexes: strict mappings, one shard. Times are milliseconds since 1970.

use pinion_schemas::{Mapping, StateIndex};
use serde_json::{Value, json};

/// The definition of one of Pinion's own indexes.
pub(super) fn mapping(kind: StateIndex) -> Mapping {
    let properties = match kind {
        StateIndex::DeadLetters => dead_letters(),
        StateIndex::Sources => sources(),
        StateIndex::Workers => workers(),
        StateIndex::Jobs => jobs(),
        StateIndex::Verifications => verifications(),
    };
    let body = json!({
        "settings": {"number_of_shards": 1, "auto_expand_replicas": "0-1"},
        "mappings": {"dynamic": "strict", "properties": properties},
    });
    Mapping::parse(&body.to_string()).expect("each of these is a good mapping")
}

/// A text to filter and count by. What is longer is stored and not indexed: a message may name anything as its job.
fn keyword() -> Value {
    json!({"type": "keyword", "ignore_above": 1024})
}

/// [`DeadLetter`](crate::dead_letter::DeadLetter)
fn dead_letters() -> Value {
    json!({
        "job": keyword(),
        "id": keyword(),
        "reason": keyword(),
        "error": {"type": "text"},
        "attempts": {"type": "integer"},
        "first_at": {"type": "date"},
        "last_at": {"type": "date"},
        "worker": keyword(),
        "message": {"type": "binary"},
        "message_bytes": {"type": "long"},
        "replaying": {"type": "boolean"},
    })
}

/// [`SourceState`](crate::generation::SourceState)
fn sources() -> Value {
    // A system identifier uses all 64 bits, a long of Elasticsearch has 63 and the sign.
    let identity = json!({"properties": {"system": {"type": "keyword"}, "timeline": {"type": "long"}}});
    json!({
        "generation": {"type": "integer"},
        "identity": identity,
        "mark": {"type": "long"},
        "earlier": identity,
    })
}

/// The heartbeats of `operations/work/watch.rs`.
fn workers() -> Value {
    json!({
        "worker": keyword(),
        "pid": {"type": "long"},
        "version": keyword(),
        "admin": keyword(),
        "started": {"type": "date"},
        "last": {"type": "date"},
        "bulk_limit": {"type": "long"},
        "bulks_in_flight": {"type": "long"},
        "jobs": {"properties": {
            "job": keyword(),
            "state": keyword(),
            "reason": {"type": "text"},
            "since": {"type": "date"},
            "definition": keyword(),
        }},
    })
}

/// What holds for a job on all workers; and its [`Interrupted`](crate::pipeline::source::notes::Interrupted),
/// its [`Rebuild`](crate::pipeline::targets::Rebuild), and where its walks are (`operations/work/walk.rs`).
fn jobs() -> Value {
    json!({
        "job": keyword(),
        "paused": {"type": "boolean"},
        "by": keyword(),
        "reason": {"type": "text"},
        "at": {"type": "date"},
        "interrupted": {"properties": {
            "id": keyword(),
            "deaths": {"type": "long"},
            "worker": keyword(),
            "at": {"type": "date"},
        }},
        "walk": {"properties": {
            "started_at": {"type": "date"},
            "worker": keyword(),
            "at": {"type": "date"},
            "last": keyword(),
            "ids": {"type": "long"},
            "expected": {"type": "long"},
            "done": {"type": "boolean"},
        }},
        "rebuild": {"type": "object", "enabled": false},
        "pardoned": {"properties": {"id": keyword(), "redeliveries": {"type": "long"}, "at": {"type": "date"}}},
    })
}

/// What [`verify`](crate::operations::verify) found, as it told it, and what to search it by; and each job's last turn
/// (`operations/work/verifying.rs`).
fn verifications() -> Value {
    json!({
        "job": keyword(),
        "started_at": {"type": "date"},
        "full": {"type": "boolean"},
        "sampled": {"type": "boolean"},
        "looked": {"type": "long"},
        "wrong": {"type": "long"},
        "worker": keyword(),
        "result": {"type": "object", "enabled": false},
    })
}
