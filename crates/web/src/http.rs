//! What each listener serves: metrics and health, and the API.

use axum::Router;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;

use crate::api::{self, Door};
use crate::problem::Problem;
use crate::{State, health, scrape};

/// The content type of `/metrics`.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The API, for whoever may open the admin socket.
pub fn admin_router(state: State) -> Router {
    api::router(state, Door::Socket)
        .fallback(|| async { Problem::not_found("nothing is here: the API begins with /api/v1/") })
}

/// `/metrics` (OpenMetrics), `/healthz` (the process lives), `/readyz` (it serves; else 503 with the reasons), and the API for tokens.
pub fn http_router(state: State) -> Router {
    let api = api::router(state.clone(), Door::Http);
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "only GET is known here")
        })
        .with_state(state)
        .merge(api)
        .fallback(nothing)
}

/// A page for people, a problem for programs.
async fn nothing(headers: HeaderMap) -> Response {
    let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    if accepted.contains("text/html") {
        return crate::ui::nothing().await;
    }
    Problem::not_found("nothing is here: try /metrics, /healthz, /readyz or /api/docs").into_response()
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
    let troubles = health::troubles(&state).into_iter().filter(|trouble| trouble.is_unready);
    let reasons: Vec<String> = troubles.map(|trouble| trouble.what).collect();
    if reasons.is_empty() {
        return Json(json!({"status": "ready"})).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "not ready", "reasons": reasons}))).into_response()
}
