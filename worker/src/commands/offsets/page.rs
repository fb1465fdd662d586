//! The feed's offsets as people read them.

use super::super::output::{Table, counted, span, thousands};
use crate::operations::offsets::{FeedPartition, Move, PartitionOffsets, Rewound};

/// Each partition.
pub(super) fn offsets(partitions: &[FeedPartition], now_ms: u64) -> String {
    if partitions.is_empty() {
        return "there is no such topic: it comes with the table's first event\n".to_owned();
    }
    let mut table = Table::new(&[2, 3, 4, 5, 6]);
    table.row(["source", "topic", "partition", "position", "end", "behind", "oldest"]);
    for FeedPartition { source, offsets } in partitions {
        let number = |offset: i64| thousands(offset.max(0).cast_unsigned());
        table.row([
            source.clone().unwrap_or_else(|| "none".to_owned()),
            offsets.topic.clone(),
            offsets.partition.to_string(),
            offsets.position.map_or_else(|| "-".to_owned(), number),
            number(offsets.end),
            thousands(offsets.lag),
            oldest([offsets], now_ms),
        ]);
    }
    let mut text = table.lines(0);
    for PartitionOffsets { topic, partition, lost, .. } in lost(partitions) {
        text.push_str(&format!(
            "{topic} partition {partition}: Kafka removed {} before they were done; `pinion enqueue JOB --all` brings all documents up to date\n",
            counted(*lost, "event")
        ));
    }
    text
}

fn lost(partitions: &[FeedPartition]) -> impl Iterator<Item = &PartitionOffsets> {
    partitions.iter().map(|partition| &partition.offsets).filter(|offsets| offsets.lost > 0)
}

/// The age of the oldest event that is not done.
pub(in crate::commands) fn oldest<'a>(
    partitions: impl IntoIterator<Item = &'a PartitionOffsets>,
    now_ms: u64,
) -> String {
    let oldest = partitions.into_iter().filter_map(|offsets| offsets.oldest_at).min();
    oldest.map_or_else(|| "-".to_owned(), |oldest| span(now_ms.saturating_sub(oldest)))
}

/// What comes, or would come, again.
pub(super) fn moves(moves: &[Move], what: &str) -> String {
    if moves.is_empty() {
        return "no event: no partition is further than that\n".to_owned();
    }
    let mut table = Table::new(&[1, 2, 3, 4]);
    table.row(["topic", "partition", "from", "back to", "events"]);
    for moved in moves {
        let Move { topic, partition, from, to } = moved;
        let [from, to] = [from, to].map(|offset| thousands(offset.unsigned_abs()));
        table.row([topic.clone(), partition.to_string(), from, to, thousands(moved.events())]);
    }
    let events = moves.iter().map(Move::events).sum();
    format!("{}{} {what}\n", table.lines(0), counted(events, "event"))
}

/// What a rewind did.
pub(super) fn rewound(rewound: &Rewound) -> String {
    let Rewound { moves: moved, workers_paused, late } = rewound;
    let what = match (workers_paused, moved.is_empty()) {
        (_, true) => "",
        (true, false) => "come again: the workers have let go of the feed and take it up from there",
        (false, false) => "come again: nobody followed the feed",
    };
    let mut text = moves(moved, what);
    for worker in late {
        text.push_str(&format!("{worker} has not taken the feed up again\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_763_731_487_000;

    fn partition(topic: &str, position: Option<i64>, lost: u64) -> FeedPartition {
        let offsets = PartitionOffsets {
            topic: topic.to_owned(),
            partition: 0,
            position,
            begin: 0,
            end: 12_345,
            lag: position.map_or(12_345, |position| position.abs_diff(12_345)),
            oldest_at: position.filter(|position| *position < 12_345).map(|_| NOW - 3_000_000),
            lost,
        };
        FeedPartition { source: Some("shop".to_owned()), offsets }
    }

    #[test]
    fn partitions_in_a_table() {
        let partitions = [
            partition("shop.public.customers", Some(12_345), 0),
            partition("shop.public.merchants", None, 0),
            partition("shop.public.orders", Some(12_000), 7),
        ];
        insta::assert_snapshot!(offsets(&partitions, NOW), @r"
        source  topic                  partition  position     end  behind  oldest
        shop    shop.public.customers          0    12,345  12,345       0       -
        shop    shop.public.merchants          0         -  12,345  12,345       -
        shop    shop.public.orders             0    12,000  12,345     345  50 min
        shop.public.orders partition 0: Kafka removed 7 events before they were done; `pinion enqueue JOB --all` brings all documents up to date
        ");
    }

    #[test]
    fn what_comes_again() {
        let moved = |topic: &str, from, to| Move { topic: topic.to_owned(), partition: 3, from, to };
        let list = [moved("shop.public.orders", 12_345, 345), moved("shop.public.order_items", 7, 6)];
        insta::assert_snapshot!(moves(&list, "would come again; --yes does it"), @r"
        topic                    partition    from  back to  events
        shop.public.orders               3  12,345      345  12,000
        shop.public.order_items          3       7        6       1
        12,001 events would come again; --yes does it
        ");
        assert_eq!(moves(&[], "come again"), "no event: no partition is further than that\n");
        let late = Rewound { moves: list[1..].to_vec(), workers_paused: true, late: vec!["web1-7".to_owned()] };
        insta::assert_snapshot!(rewound(&late), @r"
        topic                    partition  from  back to  events
        shop.public.order_items          3     7        6       1
        1 event come again: the workers have let go of the feed and take it up from there
        web1-7 has not taken the feed up again
        ");
    }
}
