//! The servers of a source: which replica is tried next, and which was too late.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Fault;
use crate::ports::Future_;

/// A replica that was too late, or away, is tried by one batch in this time.
const LATE_TRY_EVERY: Duration = Duration::from_millis(500);
/// And by ever fewer while it stays so, down to one in this time, if documents can be read elsewhere: a replica may be gone for good.
const LATE_TRY_SELDOM: Duration = Duration::from_secs(5);
/// And no longer than this.
pub(crate) const GLANCE: Duration = Duration::from_millis(250);

/// A server with its pool of connections.
pub(crate) struct Server<Pool> {
    /// Host and port, as operators see it.
    pub(crate) name: String,
    /// The connections.
    pub(crate) pool: Pool,
    /// `None`: it is in time.
    late: Mutex<Option<Late>>,
}

/// A server that was too late or away.
struct Late {
    /// When it was last tried.
    tried: Instant,
    /// How long no other batch tries it.
    pause: Duration,
}

impl<Pool> Server<Pool> {
    pub(crate) fn new(name: String, pool: Pool) -> Self {
        Self { name, pool, late: Mutex::new(None) }
    }

    /// How long a batch may try it now; `None`: somebody else just did, in vain.
    fn patience(&self, lag: Duration) -> Option<Duration> {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        match late.as_mut() {
            None => Some(lag),
            Some(late) if late.tried.elapsed() < late.pause => None,
            Some(late) => {
                late.tried = Instant::now();
                Some(GLANCE.min(lag))
            }
        }
    }

    fn in_time(&self) {
        *self.late.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A try that began then was in vain. Of several that were under way together the first counts.
    fn too_late(&self, began: Instant, pause_max: Duration) {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = match late.as_ref() {
            None => LATE_TRY_EVERY,
            Some(late) if late.tried > began => return,
            Some(late) => (late.pause * 2).min(pause_max),
        };
        *late = Some(Late { tried: Instant::now(), pause });
    }
}

/// The replicas of a source.
pub(crate) struct Replicas<Pool> {
    servers: Vec<Server<Pool>>,
    /// How long a batch waits for one of them.
    lag: Duration,
    /// How seldom one that stays late is tried.
    pause_max: Duration,
    next: AtomicUsize,
}

impl<Pool> Replicas<Pool> {
    /// Of which a batch waits for one so long; and whether it can do without.
    pub(crate) fn new(servers: Vec<Server<Pool>>, lag: Duration, dispensable: bool) -> Self {
        let pause_max = if dispensable { LATE_TRY_SELDOM } else { LATE_TRY_EVERY };
        Self { servers, lag, pause_max, next: AtomicUsize::new(0) }
    }

    pub(crate) fn all(&self) -> &[Server<Pool>] {
        &self.servers
    }

    /// What `open` gives of the first replica that is in time. Each call begins with another one. `open` is told how long it
    /// may wait.
    ///
    /// # Errors
    /// Why none is, a reason for each.
    pub(crate) async fn first_in_time<'a, T>(
        &'a self,
        open: impl Fn(&'a Server<Pool>, Duration) -> Future_<'a, Result<T, Fault>>,
    ) -> Result<T, String> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut reasons = Vec::new();
        for step in 0..self.servers.len() {
            let replica = &self.servers[(first + step) % self.servers.len()];
            let Some(patience) = replica.patience(self.lag) else {
                reasons.push(format!("{} was too late or away just now", replica.name));
                continue;
            };
            let began = Instant::now();
            let opened = tokio::time::timeout(patience + GLANCE, open(replica, patience)).await;
            match opened {
                Ok(Ok(opened)) => {
                    replica.in_time();
                    return Ok(opened);
                }
                Ok(Err(fault)) => reasons.push(fault.to_string()),
                Err(_) => reasons.push(format!("{} does not answer in time", replica.name)),
            }
            replica.too_late(began, self.pause_max);
        }
        Err(reasons.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_stays_late_is_tried_ever_more_seldom() {
        let server = Server::new("db2:5432".to_owned(), ());
        let pause = || server.late.lock().expect("no panic").as_ref().map(|late| late.pause);
        let lag = Duration::from_secs(2);
        assert_eq!((server.patience(lag), pause()), (Some(lag), None));
        let before = Instant::now();
        let fail = |began| {
            server.too_late(began, LATE_TRY_SELDOM);
            pause()
        };
        let pauses: Vec<_> = (0..5).map(|_| fail(Instant::now())).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 5000].map(|ms| Some(Duration::from_millis(ms))));
        assert_eq!(server.patience(lag), None, "it was tried just now");
        server.in_time();
        assert_eq!(server.patience(lag), Some(lag));
        server.too_late(Instant::now(), LATE_TRY_EVERY);
        server.too_late(Instant::now(), LATE_TRY_EVERY);
        assert_eq!(pause(), Some(LATE_TRY_EVERY), "nothing else can be read");
        server.too_late(before, LATE_TRY_SELDOM);
        assert_eq!(pause(), Some(LATE_TRY_EVERY), "it was under way with the first");
    }
}
