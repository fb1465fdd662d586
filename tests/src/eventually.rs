use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Asks again and again until `condition` gives a value. An error counts as "not yet", since servers come and go in these tests.
///
/// Fails after `timeout` with `what` was waited for and the last error, if there was one.
pub async fn eventually<T>(
    what: &str,
    timeout: Duration,
    mut condition: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    let mut last_error = None;
    loop {
        match timeout_at(deadline, condition()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => last_error = None,
            Ok(Err(error)) => last_error = Some(error),
            Err(_elapsed) => {}
        }
        if Instant::now() >= deadline {
            match last_error {
                Some(error) => {
                    bail!("waited {timeout:?} in vain for {what}; the last try failed: {error:#}")
                }
                None => bail!("waited {timeout:?} in vain for {what}"),
            }
        }
        sleep(POLL_INTERVAL).await;
    }
}
