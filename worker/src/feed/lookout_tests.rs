use super::*;
use crate::ports::Identity;

const MAX: Duration = Duration::from_secs(60);

fn standing(position: Option<i64>, open_since_ms: Option<u64>, drained_to: Option<i64>) -> Standing {
    Standing { key: ("t".to_owned(), 0), position, open_since_ms, last_ms: position.map(|_| 1_000), drained_to }
}

#[test]
fn what_is_behind() {
    let (now, at_ms) = (Instant::now(), 10_000);
    let lag = |standing: &Standing, end| Progress::new(now).lag(standing, end, now, at_ms);
    let behind = |events, s| Lag { events, age: Duration::from_secs(s) };
    assert_eq!(lag(&standing(Some(5), Some(4_000), None), Some(9)), behind(4, 6));
    assert_eq!(lag(&standing(Some(5), None, None), Some(9)), behind(4, 9), "as old as the last one, at the most");
    assert_eq!(lag(&standing(Some(9), None, None), Some(9)), Lag::default());
    assert_eq!(lag(&standing(Some(8), None, Some(9)), Some(9)), Lag::default(), "a marker is no event");
    assert_eq!(lag(&standing(None, None, Some(9)), Some(9)), Lag::default());
    assert_eq!(lag(&standing(None, None, None), Some(9)), behind(1, 0), "how many is not known yet");
    assert_eq!(lag(&standing(Some(5), None, None), None), Lag::default());
}

#[test]
fn an_event_after_a_quiet_time_is_young() {
    let began = Instant::now();
    let mut progress = Progress::new(began);
    assert_eq!(progress.lag(&standing(Some(9), None, None), Some(9), began, 3_600_000), Lag::default());
    let later = began + Duration::from_secs(5);
    let lag = progress.lag(&standing(Some(9), None, None), Some(10), later, 3_605_000);
    assert_eq!(lag, Lag { events: 1, age: Duration::from_secs(5) });
}

#[test]
fn a_partition_moves_or_is_at_its_end() {
    let began = Instant::now();
    let mut progress = Progress::new(began);
    let mut still_after = |s, position, end| {
        let now = began + Duration::from_secs(s);
        progress.lag(&standing(Some(position), None, None), Some(end), now, 0);
        now.saturating_duration_since(progress.moved_at).as_secs()
    };
    assert_eq!(still_after(10, 5, 9), 0);
    assert_eq!(still_after(20, 5, 9), 10);
    assert_eq!(still_after(30, 6, 9), 0);
    assert_eq!(still_after(40, 9, 9), 0);
    assert_eq!(still_after(90, 9, 9), 0, "at its end it need not move");
    assert_eq!(still_after(100, 9, 10), 10);
}

#[test]
fn silence_is_only_told_while_the_database_moves() {
    let began = Instant::now();
    let at = |at| {
        Some(Position {
            identity: Identity { system: 1, timeline: 1 },
            at,
            text: "".into(),
            asked_at: tokio::time::Instant::now(),
        })
    };
    let mut silence = Silence::new(began);
    let mut hear = |s, heard, position| {
        silence.hear(heard, position, began + Duration::from_secs(s), MAX);
        silence.is_silent
    };
    assert!(!hear(0, 10, at(100)));
    assert!(!hear(50, 10, at(200)), "not yet");
    assert!(!hear(70, 10, at(100)), "the database is where it was");
    assert!(!hear(80, 10, None), "the database does not answer");
    assert!(hear(90, 10, at(200)));
    assert!(hear(95, 10, None), "only an event ends it");
    assert!(!hear(100, 11, at(300)));
    assert!(!hear(150, 11, at(400)));
    assert!(hear(170, 11, at(400)));
}

#[test]
fn partitions_that_stand_still_are_named() {
    let named = |stalled: &[&str]| stall_reason(&stalled.iter().map(ToString::to_string).collect::<Vec<_>>(), MAX);
    assert_eq!(named(&[]), None);
    let one = "stands still for more than 60 s, with events to take: a partition 0";
    assert_eq!(named(&["a partition 0"]).as_deref(), Some(one));
    assert_eq!(named(&["a partition 0", "b partition 1", "c partition 2"]), Some(format!("{one} and 2 more")));
}
