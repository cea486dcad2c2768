//! Errors as problem details (RFC 9457).

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use callahead_cache::CacheError;
use callahead_control::ControlError;
use serde_json::json;

/// An error as it is told: a status, and one sentence on what is wrong and what to do.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    header: Option<(HeaderName, HeaderValue)>,
    is_overtaken: bool,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), header: None, is_overtaken: false }
    }

    /// With a header that this status asks for.
    pub(crate) fn with(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    /// The same sentence with another status.
    pub(crate) fn at(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether the record was at another version than the change was for when it came to be made.
    pub(crate) fn is_overtaken(&self) -> bool {
        self.is_overtaken
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// What was sent can be read and is wrong.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }
}

impl From<CacheError> for Problem {
    fn from(error: CacheError) -> Self {
        tracing::error!(%error, "a request to the API failed");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("{error}; see the log, then try again"))
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let status = match &error {
            ControlError::Exists { .. } | ControlError::Changed { .. } | ControlError::Owns { .. } => {
                StatusCode::CONFLICT
            }
            ControlError::NoOwner { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            ControlError::Withdrawn { .. } => StatusCode::FORBIDDEN,
            ControlError::Write(_) | ControlError::Read(_) | ControlError::ReadLog(_) | ControlError::Closed => {
                tracing::error!(%error, "a request to the API failed");
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("{error}; see the log, then try again"));
            }
        };
        let is_overtaken = matches!(error, ControlError::Changed { .. });
        Self { is_overtaken, ..Self::new(status, error.to_string()) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body =
            json!({"type": "about:blank", "title": title, "status": self.status.as_u16(), "detail": self.detail});
        let mut response = (self.status, body.to_string()).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
