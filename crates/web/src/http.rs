//! What the `http` listener shows: metrics and health.

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;

use crate::problem::Problem;
use crate::{State, scrape};

/// The content type of `/metrics`.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `/metrics` (OpenMetrics), `/healthz` (the process lives) and `/readyz` (it serves; else 503 with the reasons).
pub fn http_router(state: State) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/readyz", get(readyz))
        .fallback(|| async { Problem::not_found("nothing is here: try /metrics, /healthz or /readyz") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "only GET is known here")
        })
        .with_state(state)
}

async fn metrics(axum::extract::State(state): axum::extract::State<State>) -> Response {
    match scrape::encode(state) {
        Ok(text) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics can't be written");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics can't be written; see the log").into_response()
        }
    }
}

async fn readyz(axum::extract::State(state): axum::extract::State<State>) -> Response {
    let mut reasons = state.readiness.reasons();
    let health = state.engine.cache().health();
    if let Some(error) = health.write_error {
        reasons.push(format!("the cache can't be written: {error}"));
    }
    reasons.extend(health.read_error);
    if let Err(error) = state.engine.cache().stats(None) {
        reasons.push(error.to_string());
    }
    if reasons.is_empty() {
        return Json(json!({"status": "ready"})).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "not ready", "reasons": reasons}))).into_response()
}
