//! The three steps of an orderly end: stop the intake, drain what is in flight, cancel the rest.

use tokio::sync::watch;

/// Tells every task that the intake has to stop. Written once, by the signal handler (or a test).
#[derive(Debug, Clone)]
pub struct Shutdown {
    asked: watch::Sender<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { asked: watch::Sender::new(false) }
    }
}

impl Shutdown {
    /// Asks for the end: the intake stops at once.
    pub fn ask(&self) {
        self.asked.send_replace(true);
    }

    /// Whether the end was asked for.
    pub fn is_asked(&self) -> bool {
        *self.asked.borrow()
    }

    /// Waits until the end is asked for.
    pub async fn asked(&self) {
        let mut asked = self.asked.subscribe();
        // The sender lives in self, so the wait can't fail.
        let _closed = asked.wait_for(|asked| *asked).await.is_err();
    }

    /// Asks for the end at SIGTERM or SIGINT (Ctrl-C).
    ///
    /// # Errors
    /// When the operating system refuses the handler.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "stopping: finishing what is in flight");
            shutdown.ask();
        });
        Ok(())
    }
}
