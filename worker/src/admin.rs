//! `/healthz`, `/readyz` and `/metrics`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Value, json};

use crate::feed;
use crate::gate::Gate;
use crate::limit::AdaptiveLimit;
use crate::metrics::Metrics;
use crate::status::{JobState, JobStatus, Statuses};

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    metrics: Arc<Metrics>,
    bulks: Arc<AdaptiveLimit>,
    statuses: Arc<Statuses>,
    gates: Vec<Gate>,
}

impl Admin {
    /// Shows these.
    pub fn new(metrics: Arc<Metrics>, bulks: Arc<AdaptiveLimit>, statuses: Arc<Statuses>, gates: Vec<Gate>) -> Self {
        Self { metrics, bulks, statuses, gates }
    }

    /// Ready means that progress is possible: no server is away, at least one job runs, or is only held by an operator, and each
    /// partition of the change feed that this worker has moves or is at its end. A silent feed is told, but it is the
    /// connector that does not go on.
    fn readiness(&self) -> (bool, Value) {
        let away: BTreeMap<String, String> =
            self.gates.iter().filter_map(|gate| Some((gate.service().to_string(), gate.reason()?))).collect();
        let jobs = self.statuses.all();
        let able = |status: &JobStatus| matches!(status.state, JobState::Running | JobState::Paused);
        let feed_moves =
            jobs.get(feed::NAME).is_none_or(|feed| !matches!(feed.state, JobState::Waiting | JobState::Broken));
        let a_job_runs = jobs.iter().any(|(name, status)| name != feed::NAME && able(status));
        let ready = away.is_empty() && a_job_runs && feed_moves;
        (ready, json!({"ready": ready, "away": away, "jobs": jobs}))
    }
}

/// Serves the admin port until the process ends; the address that was taken.
///
/// # Errors
/// The port is taken.
pub async fn serve(admin: Admin, listen: SocketAddr) -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| {
        format!("the admin port {listen} can't be taken; give another one with --listen or [admin] listen")
    })?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(admin);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// Live means that the runtime answers; it shares its threads with the pipeline.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    let (ready, body) = admin.readiness();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n"))
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    admin.metrics.limit.set(i64::try_from(admin.bulks.places()).unwrap_or(i64::MAX));
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], admin.metrics.encode())
}
