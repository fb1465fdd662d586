//! Logs to standard error: text on a terminal, JSON otherwise. Never a document's content or a secret.

use std::io::IsTerminal as _;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging at `level`, which may name targets too.
///
/// # Errors
/// A level that is none.
pub(crate) fn start(level: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.finish().with(filter_fn(may_be_told)).init();
    } else {
        builder.json().flatten_event(true).finish().with(filter_fn(may_be_told)).init();
    }
    Ok(())
}

/// What libraries tell at `trace` is never logged, whatever the level: it is what goes over the wire. lapin's has the password in
/// it, and every message.
fn may_be_told(metadata: &Metadata<'_>) -> bool {
    *metadata.level() != Level::TRACE || metadata.target().starts_with("pinion")
}
