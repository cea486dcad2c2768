//! The REST API, `/api/v1`: the same on the `http` listener, where tokens say who asks, and on the admin socket, where the
//! file's permissions do.
//!
//! Each handler stands with its OpenAPI description; [`access::RULES`] says who may use it. Addresses in paths are percent-decoded once, so
//! `/` and `%` in a local part come as `%2F` and `%25`.

pub(crate) mod access;
pub(crate) mod accounts;
mod audit;
mod cache;
mod document;
mod domains;
mod events;
mod log;
mod recipients;
pub(crate) mod request;
mod route_test;
mod schema;
mod session;
mod stats;
mod tokens;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{Json, Response};
use axum::routing::get;
use rand::RngExt as _;
use utoipa::OpenApi as _;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::State;
use crate::problem::Problem;

/// How a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// By the admin socket.
    Socket,
    /// By the `http` listener.
    Http,
    /// From a page of the web interface, which knows who it is.
    Page,
}

/// The longest request id that is taken over from a client.
const MAX_REQUEST_ID: usize = 64;

/// The endpoints with their document.
fn endpoints() -> OpenApiRouter<State> {
    OpenApiRouter::with_openapi(document::Document::openapi())
        .routes(routes!(recipients::verdict))
        .routes(routes!(cache::list, cache::clear))
        .routes(routes!(cache::show, cache::clear_address))
        .routes(routes!(domains::list, domains::create))
        .routes(routes!(domains::show, domains::replace, domains::change, domains::delete))
        .routes(routes!(route_test::test))
        .routes(routes!(stats::destinations))
        .routes(routes!(log::search))
        .routes(routes!(events::watch))
        .routes(routes!(stats::stats))
        .routes(routes!(stats::domains))
        .routes(routes!(stats::nodes))
        .routes(routes!(audit::list))
        .routes(routes!(accounts::list, accounts::create))
        .routes(routes!(accounts::show, accounts::change, accounts::delete))
        .routes(routes!(accounts::login_link))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::delete))
        .routes(routes!(session::create, session::delete).layer(DefaultBodyLimit::max(session::MAX_BODY)))
}

/// The OpenAPI 3.1 document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    document::complete(endpoints().split_for_parts().1)
}

/// The API for one door, with its documentation.
pub(crate) fn router(state: State, door: Door) -> Router {
    let (endpoints, document) = endpoints().split_for_parts();
    let document = document::complete(document);
    let json = serde_json::to_value(&document).unwrap_or_default();
    endpoints
        .route_layer(middleware::from_fn_with_state((state.clone(), door), access::enter))
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this method is not known here; the Allow header names those that are",
            )
        })
        .layer(DefaultBodyLimit::max(request::MAX_BODY))
        .layer(axum::Extension(door))
        .with_state(state)
        .route("/api/v1/openapi.json", get(move || async move { Json(json) }))
        .merge(SwaggerUi::new("/api/docs").config(utoipa_swagger_ui::Config::from("/api/v1/openapi.json")))
        .layer(middleware::from_fn(identify))
}

/// Gives each answer the id of its request: the client's, or a new one.
async fn identify(request: Request, next: Next) -> Response {
    const NAME: HeaderName = HeaderName::from_static("x-request-id");
    let is_good = |value: &HeaderValue| {
        let octets = value.as_bytes();
        octets.len() <= MAX_REQUEST_ID
            && !octets.is_empty()
            && octets.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.'))
    };
    let given = request.headers().get(NAME).filter(|value| is_good(value)).cloned();
    let id = given.or_else(|| HeaderValue::from_str(&format!("{:016x}", rand::rng().random::<u64>())).ok());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    if let Some(id) = id {
        tracing::debug!(%method, path, status = response.status().as_u16(), request_id = ?id, "answered");
        response.headers_mut().insert(NAME, id);
    }
    response
}
