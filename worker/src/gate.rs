//! A gate before each server: closed while it is away, so that nothing hammers it.
//!
//! Whoever finds a server away closes its gate; one prober asks until the server answers and
//! opens it; everybody else waits at the gate.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use crate::error::Service;
use crate::retry::Backoff;

/// Asks a server whether it is there; the error says why not.
pub type Probe = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// One server's gate. Cheap to clone; clones are the same gate.
#[derive(Clone)]
pub struct Gate {
    service: Service,
    /// Why it is closed; `None`: open. Written by whoever sees the server away and by the
    /// prober, read by all.
    closed: watch::Sender<Option<String>>,
    probe: Arc<Probe>,
}

impl Gate {
    /// An open gate.
    pub fn new(service: Service, probe: Probe) -> Self {
        Self { service, closed: watch::Sender::new(None), probe: Arc::new(probe) }
    }

    /// Whose gate this is.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Why the gate is closed, if it is.
    pub fn reason(&self) -> Option<String> {
        self.closed.borrow().clone()
    }

    /// Closes the gate and begins to probe, unless it is closed already.
    pub fn close(&self, reason: &str) {
        let closed_now = self.closed.send_if_modified(|state| {
            let was_open = state.is_none();
            *state = Some(reason.to_owned());
            was_open
        });
        if closed_now {
            tracing::warn!(service = %self.service, reason, "away: waiting for it");
            tokio::spawn(self.clone().reopen());
        }
    }

    /// Waits until the gate is open.
    pub async fn opened(&self) {
        let mut state = self.closed.subscribe();
        // The sender lives in self, so the wait can't fail.
        let _closed = state.wait_for(Option::is_none).await.is_err();
    }

    async fn reopen(self) {
        let mut backoff = Backoff::for_server();
        loop {
            backoff.wait().await;
            match (self.probe)().await {
                Ok(()) => break,
                Err(reason) => {
                    self.closed.send_if_modified(|state| {
                        *state = Some(reason);
                        false
                    });
                }
            }
        }
        self.closed.send_replace(None);
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
