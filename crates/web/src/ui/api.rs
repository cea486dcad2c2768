//! The way from a page to the API: the very router that serves it, called in the process, with the visitor as the one who asks. So the
//! API's table decides once more, and a page can do nothing that the API would not.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{ACCEPT, CONTENT_TYPE, IF_MATCH};
use axum::http::request::Builder;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use serde_json::Value;
use tower::ServiceExt as _;

use super::frame::{Refusal, Visitor, sentence};
use crate::State;
use crate::api::{Door, router};
use crate::serve::Peer;

/// Octets of an answer that are read at most: a page of domains with full lists.
const MAX_ANSWER: usize = 64 << 20;

/// The API as pages use it.
#[derive(Clone, Debug)]
pub(super) struct Api(Router);

/// What the API refused, and why.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) sentence: String,
}

impl Api {
    pub(super) fn new(state: State) -> Self {
        Self(router(state, Door::Page))
    }

    pub(super) async fn get(&self, visitor: &Visitor, path: &str) -> Result<Value, Refused> {
        self.send(visitor, "GET", path, None, None).await
    }

    pub(super) async fn delete(&self, visitor: &Visitor, path: &str) -> Result<Value, Refused> {
        self.send(visitor, "DELETE", path, None, None).await
    }

    pub(super) async fn post(&self, visitor: &Visitor, path: &str, body: Option<&Value>) -> Result<Value, Refused> {
        self.send(visitor, "POST", path, body, None).await
    }

    /// With a body, and for this revision where one is given.
    pub(super) async fn send(
        &self,
        visitor: &Visitor,
        method: &str,
        path: &str,
        body: Option<&Value>,
        revision: Option<&str>,
    ) -> Result<Value, Refused> {
        let response = self.pass(visitor, method, path, body, revision).await?;
        let octets = to_bytes(response.into_body(), MAX_ANSWER).await.map_err(|error| Refused::broken(&error))?;
        if octets.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&octets).map_err(|error| Refused::broken(&error))
    }

    /// The answer as it is, which may be a stream.
    pub(super) async fn pass(
        &self,
        visitor: &Visitor,
        method: &str,
        path: &str,
        body: Option<&Value>,
        revision: Option<&str>,
    ) -> Result<Response, Refused> {
        let mut request = by(visitor, method, path);
        if let Some(revision) = revision.filter(|revision| !revision.is_empty()) {
            request = request.header(IF_MATCH, format!("\"{revision}\""));
        }
        let body = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.answer(request.body(body).map_err(|error| Refused::broken(&error))?).await
    }

    /// A POST whose answer is a stream of events.
    pub(super) async fn stream(&self, visitor: &Visitor, path: &str) -> Result<Response, Refused> {
        let request = by(visitor, "POST", path).header(ACCEPT, "text/event-stream").body(Body::empty());
        self.answer(request.map_err(|error| Refused::broken(&error))?).await
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response, Refused> {
        let response = self.0.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let octets = to_bytes(response.into_body(), MAX_ANSWER).await.unwrap_or_default();
        let problem: Value = serde_json::from_slice(&octets).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("this can't be done now; see the log");
        if status == StatusCode::PRECONDITION_FAILED {
            let sentence = "Somebody else changed this meanwhile. Open the page again, then change it.".to_owned();
            return Err(Refused { status, sentence });
        }
        Err(Refused { status, sentence: sentence(detail) })
    }
}

fn by(visitor: &Visitor, method: &str, path: &str) -> Builder {
    let request = Request::builder().method(method).uri(path);
    request.extension(visitor.principal.clone()).extension(Peer(visitor.from.clone()))
}

impl Refused {
    fn broken(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a page could not use the API");
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, sentence: "This can't be done now; see the log.".into() }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self::says(refused.status, refused.sentence)
    }
}
