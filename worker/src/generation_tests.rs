use std::collections::HashMap;

use bytes::Bytes;
use serde_json::Value;

use super::*;
use crate::ports::{BulkAnswer, Future_, StateDocument};

/// State documents in memory, with sequence numbers.
#[derive(Default)]
struct Memory(Mutex<HashMap<String, (Value, u64)>>);

impl Index for Memory {
    fn bulk<'a>(&'a self, _: &'a str, _: Bytes, _: usize) -> Future_<'a, BulkAnswer> {
        unreachable!("generations send no bulks")
    }

    fn state<'a>(&'a self, _: &'a str, id: &'a str) -> Future_<'a, Result<Option<StateDocument>, Fault>> {
        let stored = self.0.lock().expect("unpoisoned").get(id).cloned();
        Box::pin(async move { Ok(stored.map(|(source, seq)| StateDocument { source, seq_no: (seq, 1) })) })
    }

    fn put_state<'a>(
        &'a self,
        _: &'a str,
        id: &'a str,
        source: &'a Value,
        expected: Option<(u64, u64)>,
    ) -> Future_<'a, Result<bool, Fault>> {
        let mut stored = self.0.lock().expect("unpoisoned");
        let present = stored.get(id).map(|(_, seq)| (*seq, 1));
        let fits = present == expected;
        if fits {
            stored.insert(id.to_owned(), (source.clone(), present.map_or(0, |(seq, _)| seq + 1)));
        }
        Box::pin(async move { Ok(fits) })
    }

    fn ping(&self) -> Future_<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

fn position(timeline: u32, at: u64) -> Position {
    Position { identity: Identity { system: 7, timeline }, at, text: "".into(), asked_at: tokio::time::Instant::now() }
}

fn worker(memory: &Arc<Memory>) -> Generations {
    Generations::new("shop", memory.clone(), "pinion-sources".to_owned())
}

#[tokio::test]
async fn a_failover_raises_the_generation_for_all_workers() {
    let memory = Arc::new(Memory::default());
    let (left, right) = (worker(&memory), worker(&memory));
    assert_eq!(left.of(&position(1, 100)).await.expect("known"), 1);
    assert_eq!(right.of(&position(1, 90)).await.expect("known"), 1);
    let doubted = left.of(&position(2, 50)).await.expect_err("asked again first");
    assert!(matches!(doubted, Fault::Again { .. }), "{doubted}");
    assert_eq!(left.of(&position(2, 50)).await.expect("raised"), 2);
    assert_eq!(right.of(&position(2, 60)).await.expect("raised once"), 2);
    let old = right.of(&position(1, 200)).await.expect_err("failed over from");
    assert!(old.to_string().contains("was failed over from"), "{old}");
    let before = left.version(1, 1 << 40).expect("a version");
    assert!(left.version(2, 50).expect("a version") > before);
}

/// Two failovers within one question: the answer of the primary in between comes last.
#[tokio::test]
async fn an_answer_that_is_older_than_what_is_kept_raises_nothing() {
    let memory = Arc::new(Memory::default());
    let (left, right) = (worker(&memory), worker(&memory));
    let late = position(2, 500);
    assert_eq!(left.of(&position(3, 100)).await.expect("the first"), 1);
    for _ in 0..3 {
        let refused = right.of(&late).await.expect_err("older than what is kept");
        assert!(matches!(refused, Fault::Again { .. }), "{refused}");
    }
    assert_eq!(right.of(&position(3, 110)).await.expect("the present one"), 1);
}

/// A worker that goes on meanwhile remembers the generation before.
#[tokio::test]
async fn a_generation_that_an_operator_raises_is_known_once_the_old_one_is_forgotten() {
    let memory = Arc::new(Memory::default());
    let worker = worker(&memory);
    assert_eq!(worker.of(&position(1, 100)).await.expect("known"), 1);
    let (state, seq_no) = worker.load().await.expect("readable").expect("there");
    assert!(worker.store(&state.raised(&position(1, 100)), Some(seq_no)).await.expect("written"));
    assert_eq!(worker.of(&position(1, 110)).await.expect("remembered"), 1);
    worker.forget();
    assert_eq!(worker.of(&position(1, 120)).await.expect("looked up"), 2);
}

#[tokio::test]
async fn a_position_that_falls_on_the_same_history_is_refused() {
    let memory = Arc::new(Memory::default());
    let first = worker(&memory);
    first.of(&position(1, 1000)).await.expect("known");
    first.keep_mark().await.expect("kept");
    // What was seen since the last call is not kept yet: answers overtake each other.
    first.of(&position(1, 900)).await.expect("an overtaken answer");
    first.keep_mark().await.expect("kept");
    let restored = worker(&memory).of(&position(1, 500)).await.expect_err("restored");
    assert!(restored.to_string().contains("--raise-generation shop"), "{restored}");
    worker(&memory).of(&position(1, 1000)).await.expect("at the mark");
}
