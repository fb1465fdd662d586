//! The servers of a source: which replica is tried next, and which was too late.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Fault;
use crate::ports::Future_;

/// A replica that was too late, or away, is tried by one batch in this time.
const LATE_TRY_EVERY: Duration = Duration::from_millis(500);
/// And no longer than this.
pub(crate) const GLANCE: Duration = Duration::from_millis(250);

/// A server with its pool of connections.
pub(crate) struct Server<Pool> {
    /// Host and port, as operators see it.
    pub(crate) name: String,
    /// The connections.
    pub(crate) pool: Pool,
    /// When it was last tried, since it was too late or away; `None`: it is in time.
    late: Mutex<Option<Instant>>,
}

impl<Pool> Server<Pool> {
    pub(crate) fn new(name: String, pool: Pool) -> Self {
        Self { name, pool, late: Mutex::new(None) }
    }

    /// How long a batch may try it now; `None`: somebody else just did, in vain.
    fn patience(&self, lag: Duration) -> Option<Duration> {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        match *late {
            None => Some(lag),
            Some(tried) if tried.elapsed() < LATE_TRY_EVERY => None,
            Some(_) => {
                *late = Some(Instant::now());
                Some(GLANCE.min(lag))
            }
        }
    }

    fn set_late(&self, late: bool) {
        *self.late.lock().unwrap_or_else(PoisonError::into_inner) = late.then(Instant::now);
    }
}

/// The replicas of a source.
pub(crate) struct Replicas<Pool> {
    servers: Vec<Server<Pool>>,
    /// How long a batch waits for one of them.
    lag: Duration,
    next: AtomicUsize,
}

impl<Pool> Replicas<Pool> {
    pub(crate) fn new(servers: Vec<Server<Pool>>, lag: Duration) -> Self {
        Self { servers, lag, next: AtomicUsize::new(0) }
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
            let opened = tokio::time::timeout(patience + GLANCE, open(replica, patience)).await;
            replica.set_late(!matches!(opened, Ok(Ok(_))));
            match opened {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(fault)) => reasons.push(fault.to_string()),
                Err(_) => reasons.push(format!("{} does not answer in time", replica.name)),
            }
        }
        Err(reasons.join("; "))
    }
}
