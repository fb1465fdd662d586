//! Positions in a binary log: GTIDs of MariaDB, sets of GTIDs of MySQL. Pure.

use std::collections::BTreeMap;

/// A GTID of MariaDB: `0-5306-123`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gtid {
    pub(super) domain: u32,
    /// The `server_id` of the primary that committed it.
    pub(super) server: u32,
    pub(super) sequence: u64,
}

impl Gtid {
    /// Reads a position such as `gtid_binlog_pos`. One of several domains is refused: their sequence numbers have no common
    /// order, so none is a version.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it has no position: is log_bin on, and was anything committed since?".to_owned());
        }
        if text.contains(',') {
            return Err(format!("{text} is of several GTID domains, whose commits have no common order: use one"));
        }
        let mut parts = text.split('-');
        let gtid = Some(()).and_then(|()| {
            Some(Self {
                domain: parts.next()?.parse().ok()?,
                server: parts.next()?.parse().ok()?,
                sequence: parts.next()?.parse().ok()?,
            })
        });
        gtid.filter(|_| parts.next().is_none()).ok_or_else(|| format!("{text:?} is no GTID such as 0-1-42"))
    }
}

/// MySQL's set of GTIDs: `3e11fa47-…:1-5:7, …`, the transactions of each server by its uuid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct GtidSet(BTreeMap<String, Vec<(u64, u64)>>);

impl GtidSet {
    /// Reads a set such as `gtid_executed`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no set of GTIDs; tags are not known here");
        let mut servers: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for server in text.split(',').map(str::trim).filter(|server| !server.is_empty()) {
            let (uuid, intervals) = server.split_once(':').ok_or_else(wrong)?;
            let known = servers.entry(uuid.trim().to_ascii_lowercase()).or_default();
            for interval in intervals.split(':') {
                let (first, last) = interval.split_once('-').unwrap_or((interval, interval));
                let (first, last) =
                    (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
                if first == 0 || last < first {
                    return Err(wrong());
                }
                known.push((first, last));
            }
            known.sort_unstable();
        }
        Ok(Self(servers))
    }

    /// How many transactions it has.
    pub(super) fn count(&self) -> u64 {
        self.0.values().flatten().map(|(first, last)| last - first + 1).sum()
    }

    /// How many transactions of a common history a replica shows at the least, which has all of `fence` and perhaps more:
    /// those of `fence`, and what follows them of `primary` without a gap.
    ///
    /// # Errors
    /// It has transactions that neither `fence` has nor `primary` can have committed since: it is left over from before a
    /// failover, or was written to itself.
    pub(super) fn shown_beyond(&self, fence: &Self, primary: &str) -> Result<u64, String> {
        for (uuid, intervals) in self.0.iter().filter(|(uuid, _)| *uuid != primary) {
            let fence = fence.intervals(uuid);
            let strange = intervals.iter().find(|(first, last)| {
                !fence.iter().any(|(known_first, known_last)| known_first <= first && last <= known_last)
            });
            if let Some((first, last)) = strange {
                return Err(format!("it has transactions that the primary has not: {uuid}:{first}-{last}"));
            }
        }
        let fenced = fence.intervals(primary).last().map_or(0, |(_, last)| *last);
        let following = self.intervals(primary).iter().find(|(first, last)| *first <= fenced + 1 && *last > fenced);
        Ok(fence.count() + following.map_or(0, |(_, last)| last - fenced))
    }

    fn intervals(&self, uuid: &str) -> &[(u64, u64)] {
        self.0.get(uuid).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_domain_is_a_position() {
        assert_eq!(Gtid::parse("0-5306-123"), Ok(Gtid { domain: 0, server: 5306, sequence: 123 }));
        for (text, problem) in [
            ("", "log_bin"),
            ("0-1-5,1-1-7", "several GTID domains"),
            ("0-1", "no GTID"),
            ("0-1-2-3", "no GTID"),
            ("a-b-c", "no GTID"),
        ] {
            let error = Gtid::parse(text).expect_err(text);
            assert!(error.contains(problem), "{text:?}: {error}");
        }
    }

    fn set(text: &str) -> GtidSet {
        GtidSet::parse(text).expect(text)
    }

    #[test]
    fn sets_are_read_and_counted() {
        assert_eq!(set("").count(), 0);
        assert_eq!(set("AA:1-5:7,\nbb:3").count(), 7);
        for wrong in ["aa", "aa:", "aa:0", "aa:5-3", "aa:tag:1-5", "aa:x"] {
            assert!(GtidSet::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_replica_shows_the_fence_and_what_follows_it() {
        let check = |replica: &str, fence: &str, expected| {
            let shown = set(replica).shown_beyond(&set(fence), "bb");
            assert_eq!(shown.ok(), expected, "{replica} at {fence}");
        };
        check("aa:1-100,bb:1-5", "aa:1-100,bb:1-5", Some(105));
        check("aa:1-100,bb:1-8", "aa:1-100,bb:1-5", Some(108));
        check("aa:1-100,bb:1-5:8-9", "aa:1-100,bb:1-5", Some(105));
        check("aa:1-100,bb:1-3", "aa:1-100", Some(103));
        check("aa:1-100", "aa:1-100", Some(100));
        // Left over from before the failover: commits of the old primary that the new one never had.
        check("aa:1-105", "aa:1-100", None);
        check("aa:1-100,bb:1-5,cc:1", "aa:1-100,bb:1-5", None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9a-f:,-]{0,30}") {
            let _either = (GtidSet::parse(&text).is_ok(), Gtid::parse(&text).is_ok());
        }
    }
}
