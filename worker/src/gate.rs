//! A gate before each server: closed while it is away, so that nothing hammers it.
//!
//! Whoever finds a server away closes its gate; one prober asks until the server answers and
//! opens it; everybody else waits at the gate.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::error::Service;
use crate::retry::Backoff;

/// Asks a server whether it is there; the error says why not.
pub type Probe = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// One server's gate. Cheap to clone; clones are the same gate.
#[derive(Clone)]
pub struct Gate {
    service: Service,
    inner: Arc<Inner>,
}

struct Inner {
    /// Why it is closed; `None`: open. Written by whoever sees the server away and by the
    /// prober, read by all.
    closed: Mutex<Option<String>>,
    /// Told when it opens. Who waits is woken in turn; a `watch` would choose the order by chance, and a simulation could
    /// not be repeated.
    opened: Notify,
    probe: Probe,
}

impl Gate {
    /// An open gate.
    pub fn new(service: Service, probe: Probe) -> Self {
        Self { service, inner: Arc::new(Inner { closed: Mutex::new(None), opened: Notify::new(), probe }) }
    }

    /// Whose gate this is.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Why the gate is closed, if it is.
    pub fn reason(&self) -> Option<String> {
        self.closed().clone()
    }

    /// Closes the gate and begins to probe, unless it is closed already.
    pub fn close(&self, reason: &str) {
        let was_open = self.closed().replace(reason.to_owned()).is_none();
        if was_open {
            tracing::warn!(service = %self.service, reason, "away: waiting for it");
            tokio::spawn(self.clone().reopen());
        }
    }

    /// Waits until the gate is open.
    pub async fn opened(&self) {
        let mut opened = std::pin::pin!(self.inner.opened.notified());
        loop {
            // Before the look, so that an opening in between is not missed.
            opened.as_mut().enable();
            if self.closed().is_none() {
                return;
            }
            opened.as_mut().await;
            opened.set(self.inner.opened.notified());
        }
    }

    fn closed(&self) -> MutexGuard<'_, Option<String>> {
        self.inner.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reopen(self) {
        let mut backoff = Backoff::for_server();
        loop {
            backoff.wait().await;
            match (self.inner.probe)().await {
                Ok(()) => break,
                Err(reason) => *self.closed() = Some(reason),
            }
        }
        *self.closed() = None;
        self.inner.opened.notify_waiters();
        tracing::info!(service = %self.service, "back: going on");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn opens_when_the_server_answers_and_probes_alone() {
        let asked = Arc::new(AtomicU32::new(0));
        let counter = asked.clone();
        let gate = Gate::new(
            Service::Elasticsearch,
            Box::new(move || {
                let nth = counter.fetch_add(1, Ordering::Relaxed);
                Box::pin(async move { if nth < 3 { Err("refused".to_owned()) } else { Ok(()) } })
            }),
        );
        gate.opened().await;
        gate.close("connection lost");
        gate.close("connection lost again");
        assert_eq!(gate.reason().as_deref(), Some("connection lost again"));
        gate.opened().await;
        assert_eq!(gate.reason(), None);
        assert_eq!(asked.load(Ordering::Relaxed), 4);
    }
}
