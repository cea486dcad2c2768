//! The one place that lets requests for pages in: who is it, may they, is it theirs.

use axum::extract::{MatchedPath, Request, State as Given};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use callahead_control::Permission;

use super::accounts::Host;
use super::frame::Refusal;
use super::pages::{PAGES, PageRule};
use super::session::{self, Client};
use super::{Ui, view};
use crate::api::access::{self, Object, Rule};

/// Nothing from elsewhere, nothing inline, no frames, and forms lead back here only.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What a page asks of whoever wants to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: the way in.
    Nothing,
    /// To be logged in.
    Login,
    /// A permission, and that what is named in the path is theirs.
    May(Permission, Object),
}

/// Lets a request in, or answers it.
pub(super) async fn enter(Given(ui): Given<Ui>, mut request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    let client = Client::of(&request);
    request.extensions_mut().insert(client.clone());
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    request.extensions_mut().insert(Host(host));
    // HEAD is answered by GET's handler.
    let method = if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
    let rule = PAGES.iter().find(|rule| rule.method == method.as_str() && rule.path == path);
    let Some(PageRule { needs, .. }) = rule else {
        tracing::error!(%method, path, "a page has no line in the table of who may see it, so nobody may");
        return Refusal::says(StatusCode::FORBIDDEN, "Nobody may see this page: it has no rule.").into_response();
    };
    let visitor = session::find(&ui, request.headers(), &client);
    if let Some(visitor) = &visitor {
        request.extensions_mut().insert(visitor.clone());
    }
    match (needs, visitor) {
        (Needs::Nothing, _) | (Needs::Login, Some(_)) => next.run(request).await,
        (_, None) => {
            let wanted = request.uri().path_and_query().map(|target| target.as_str()).filter(|_| method == Method::GET);
            let to = match wanted {
                Some("/") | None => "/login".to_owned(),
                Some(wanted) => format!("/login?next={}", view::encode(wanted)),
            };
            Refusal::Elsewhere(to).into_response()
        }
        (Needs::May(permission, object), Some(visitor)) => {
            if !visitor.may(*permission) {
                let sentence = match visitor.principal.account() {
                    Some(account) if account.read_only => "Your account may look and change nothing.",
                    _ => "Your account's role does not allow this.",
                };
                return Refusal::says(StatusCode::FORBIDDEN, sentence).into_response();
            }
            // The API's own rule of what is whose, as for a reading request: what is not theirs does not exist.
            let rule = Rule { method: "GET", path: "", permission: Some(*permission), object: *object };
            let (mut parts, body) = request.into_parts();
            if access::owns(&ui.state, &visitor.principal, &rule, &mut parts).await.is_err() {
                let sentence = "There is nothing here by that name, or it is not yours.";
                return Refusal::says(StatusCode::NOT_FOUND, sentence).into_response();
            }
            next.run(Request::from_parts(parts, body)).await
        }
    }
}

/// What every answer carries.
pub(super) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // Not "no-referrer": browsers would send "Origin: null" with forms then, which the check of origins refuses.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
