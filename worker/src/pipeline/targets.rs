//! The indexes that a job writes to: the one behind its alias, and while it is rebuilt a second one.
//!
//! Which these are is a lease. A worker that has not looked for longer than [`LEASE`] sends nothing, and a command that changes them
//! waits for twice as long: what was read before that is older than all that is read afterwards, by whomever.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pinion_schemas::{JobDefinition, SqlTemplate};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::{Fault, Service};

/// For how long what a worker has read of its indexes holds.
pub const LEASE: Duration = Duration::from_secs(6);

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The new index is being made: nobody writes to it.
    Making,
    /// Live writes go to both indexes, as soon as every worker knows.
    Prepared,
    /// All ids go through the low lane into the new one.
    Loading,
    /// The alias is the new one's; writes still go to both.
    Swapped,
    /// Writes go to the alias alone.
    Ended,
}

/// A rebuild, as it is kept for all workers and commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuild {
    /// How far it is.
    pub phase: Phase,
    /// The index that the alias had.
    pub old: String,
    /// The query that its documents are made by.
    pub old_sql: String,
    /// The index that is built.
    pub new: String,
    /// The query that its documents are made by.
    pub new_sql: String,
    /// When it began, in milliseconds since 1970.
    pub started_at: u64,
    /// Who began it.
    pub by: String,
    /// Why the index that is not behind the alias is no longer written to: it can't be used.
    #[serde(default)]
    pub failed: Option<String>,
    /// Whether the loading is paused.
    #[serde(default)]
    pub paused: bool,
    /// Ids a second that are loaded at the most.
    #[serde(default)]
    pub ids_per_s_max: Option<u32>,
}

impl Rebuild {
    /// Whether writes go to both indexes.
    pub fn writes_both(&self) -> bool {
        matches!(self.phase, Phase::Prepared | Phase::Loading | Phase::Swapped) && self.failed.is_none()
    }

    /// The index that is not behind the alias.
    pub fn beside(&self) -> &str {
        if self.phase == Phase::Swapped { &self.old } else { &self.new }
    }
}

/// An index with how its documents are made.
#[derive(Debug, Clone)]
pub struct Target {
    /// The index or alias.
    pub index: String,
    /// The job, with the query of this index's documents.
    pub definition: Arc<JobDefinition>,
}

impl Target {
    /// Whether its documents are those of the other one.
    pub fn is_same_query(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.definition, &other.definition)
    }
}

/// The indexes that are written to.
#[derive(Debug)]
pub struct Targets {
    /// The one behind the alias: what it refuses is the job's trouble, or the document's.
    pub alias: Target,
    /// The one beside it: what it refuses ends the rebuild.
    pub beside: Option<Target>,
}

/// What a worker knows of a job's indexes. Written by its watch, read by batches.
#[derive(Debug)]
pub struct Lease {
    own: Target,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    targets: Arc<Targets>,
    rebuild: Option<Rebuild>,
    /// When the last look began; `None` where nobody looks, and nothing changes.
    looked_at: Option<Instant>,
    /// Why the last look has found nothing out.
    trouble: Option<String>,
    /// The index beside, and why it can't be written to, until everybody knows.
    failure: Option<(String, String)>,
}

impl Lease {
    /// A job that writes to its alias, for good.
    pub fn new(definition: &JobDefinition) -> Self {
        let own = Target { index: definition.index.clone(), definition: Arc::new(definition.clone()) };
        let targets = Arc::new(Targets { alias: own.clone(), beside: None });
        Self { own, known: Mutex::new(Known { targets, rebuild: None, looked_at: None, trouble: None, failure: None }) }
    }

    /// From now on the targets have to be looked up: until they were, nothing is sent.
    pub fn begin(&self) {
        let long_ago = Instant::now().checked_sub(2 * LEASE);
        self.lock().looked_at = Some(long_ago.unwrap_or_else(Instant::now));
    }

    /// Takes note of what a look that began at `looked_at` has found.
    pub fn renew(&self, looked_at: Instant, rebuild: Option<Rebuild>) {
        let mut known = self.lock();
        known.looked_at = Some(looked_at);
        known.trouble = None;
        if known.rebuild == rebuild {
            return;
        }
        let beside = rebuild.as_ref().map(Rebuild::beside);
        if known.failure.as_ref().is_some_and(|(index, _)| Some(index.as_str()) != beside)
            || rebuild.as_ref().is_some_and(|rebuild| rebuild.failed.is_some())
        {
            known.failure = None;
        }
        match self.targets(rebuild.as_ref()) {
            Ok(targets) => known.targets = Arc::new(targets),
            Err(reason) => known.failure = beside.map(|beside| (beside.to_owned(), reason)),
        }
        known.rebuild = rebuild;
    }

    /// Takes note of why a look has found nothing out.
    pub fn keep_trouble(&self, reason: &str) {
        self.lock().trouble = Some(reason.to_owned());
    }

    fn targets(&self, rebuild: Option<&Rebuild>) -> Result<Targets, String> {
        let Some(rebuild) = rebuild.filter(|rebuild| rebuild.writes_both()) else {
            return Ok(Targets { alias: self.own.clone(), beside: None });
        };
        let old = self.target(&rebuild.old, &rebuild.old_sql)?;
        let mut new = self.target(&rebuild.new, &rebuild.new_sql)?;
        if rebuild.new_sql == rebuild.old_sql {
            new.definition = old.definition.clone();
        }
        let (alias, beside) = if rebuild.phase == Phase::Swapped { (new, old) } else { (old, new) };
        Ok(Targets { alias, beside: Some(beside) })
    }

    fn target(&self, index: &str, sql: &str) -> Result<Target, String> {
        let mut definition = self.own.definition.clone();
        if sql != definition.sql.text() {
            let parsed = SqlTemplate::parse(sql).map_err(|error| format!("the query of {index}: {error}"))?;
            definition = Arc::new(JobDefinition { sql: parsed, ..(*definition).clone() });
        }
        Ok(Target { index: index.to_owned(), definition })
    }

    /// The rebuild that is known.
    pub fn rebuild(&self) -> Option<Rebuild> {
        self.lock().rebuild.clone()
    }

    /// Whether the index beside can't be written to, and why: to be told to all workers.
    pub fn failure(&self) -> Option<(String, String)> {
        self.lock().failure.clone()
    }

    /// Where a batch goes. A load is for the index beside, and goes nowhere if there is none.
    ///
    /// # Errors
    /// The lease is over.
    pub fn route(&self, load: bool) -> Result<Option<Route>, Fault> {
        let known = self.lock();
        known.check()?;
        Ok((!load || known.targets.beside.is_some()).then(|| Route { targets: known.targets.clone(), load }))
    }

    /// Whether a batch that was read for this route may be sent.
    ///
    /// # Errors
    /// The lease is over, or the indexes are others now.
    pub fn confirm(&self, route: &Route) -> Result<(), Fault> {
        let known = self.lock();
        known.check()?;
        if Arc::ptr_eq(&known.targets, &route.targets) {
            return Ok(());
        }
        Err(again("the job writes to other indexes than when the rows were read"))
    }

    /// The index beside can't be written to. Its batches run again until all workers know.
    pub fn fail(&self, route: &Route, reason: &str) -> Fault {
        let mut known = self.lock();
        if let Some(beside) = &route.targets.beside {
            known.failure.get_or_insert_with(|| (beside.index.clone(), reason.to_owned()));
        }
        again(&format!("the rebuild is given up: {reason}"))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn check(&self) -> Result<(), Fault> {
        match self.looked_at {
            Some(looked_at) if looked_at.elapsed() > LEASE => {
                let trouble = self.trouble.as_deref().unwrap_or("no answer yet");
                let reason = format!("which indexes the job writes to can't be looked up: {trouble}");
                Err(Fault::Away { service: Service::Elasticsearch, reason })
            }
            _ => Ok(()),
        }
    }
}

fn again(reason: &str) -> Fault {
    Fault::Again { service: Service::Elasticsearch, reason: reason.to_owned() }
}

/// The way of a batch into its indexes.
#[derive(Debug)]
pub struct Route {
    targets: Arc<Targets>,
    /// Whether it fills the index beside, and nothing else.
    pub load: bool,
}

impl Route {
    /// The index whose answer decides.
    pub fn first(&self) -> &Target {
        match &self.targets.beside {
            Some(beside) if self.load => beside,
            _ => &self.targets.alias,
        }
    }

    /// The other one.
    pub fn beside(&self) -> Option<&Target> {
        self.targets.beside.as_ref().filter(|_| !self.load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> JobDefinition {
        let shop = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/shop/orders");
        pinion_schemas::load_job(&shop).0.expect("the shop's job is good")
    }

    fn rebuild(definition: &JobDefinition, phase: Phase) -> Rebuild {
        Rebuild {
            phase,
            old: "orders-1".to_owned(),
            old_sql: definition.sql.text(),
            new: "orders-2".to_owned(),
            new_sql: "SELECT id AS _id FROM orders WHERE id = ANY(:ids)".to_owned(),
            started_at: 1,
            by: "a test".to_owned(),
            failed: None,
            paused: false,
            ids_per_s_max: None,
        }
    }

    /// Where a batch goes.
    fn ways(lease: &Lease, load: bool) -> Option<(String, Option<String>)> {
        let route = lease.route(load).expect("the lease holds")?;
        Some((route.first().index.clone(), route.beside().map(|beside| beside.index.clone())))
    }

    #[tokio::test(start_paused = true)]
    async fn live_writes_go_to_both_and_loads_to_the_one_beside() {
        let definition = definition();
        let lease = Lease::new(&definition);
        let alone = Some(("orders".to_owned(), None));
        assert_eq!(ways(&lease, false), alone);
        let now = Instant::now();
        for (phase, live, load) in [
            (Phase::Making, alone.clone(), None),
            (Phase::Loading, Some(("orders-1".into(), Some("orders-2".into()))), Some(("orders-2".into(), None))),
            (Phase::Swapped, Some(("orders-2".into(), Some("orders-1".into()))), Some(("orders-1".into(), None))),
            (Phase::Ended, alone.clone(), None),
        ] {
            lease.renew(now, Some(rebuild(&definition, phase)));
            assert_eq!((ways(&lease, false), ways(&lease, true)), (live, load), "{phase:?}");
        }
        let failed = Rebuild { failed: Some("no".to_owned()), ..rebuild(&definition, Phase::Loading) };
        lease.renew(now, Some(failed));
        assert_eq!(ways(&lease, false), alone);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_by_a_worker_that_does_not_look() {
        let definition = definition();
        let lease = Lease::new(&definition);
        let route = lease.route(false).expect("nobody looks").expect("to the alias");
        lease.begin();
        assert!(lease.route(false).is_err(), "nobody has looked yet");
        lease.renew(Instant::now(), None);
        assert!(lease.confirm(&route).is_ok());
        tokio::time::advance(LEASE + Duration::from_millis(1)).await;
        assert!(lease.confirm(&route).is_err(), "it is over");
        lease.renew(Instant::now(), Some(rebuild(&definition, Phase::Prepared)));
        assert!(lease.confirm(&route).is_err(), "it was read for one index, and there are two");
        let route = lease.route(false).expect("it holds").expect("to both");
        assert!(!route.first().is_same_query(route.beside().expect("two")));
        lease.fail(&route, "no");
        assert_eq!(lease.failure(), Some(("orders-2".to_owned(), "no".to_owned())));
        lease.renew(Instant::now(), None);
        assert_eq!(lease.failure(), None);
    }
}
