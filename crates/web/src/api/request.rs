//! What requests are made of: addresses, bodies, conditions, cursors.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use callahead_cache::{Cache, CacheError, Cursor, Timestamp};
use callahead_control::{Actor, AuditEntry, Change, ControlError, Expected, Principal, Unchanged};
use callahead_smtp::{Domain, Recipient};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::IntoParams;

use crate::State;
use crate::api::access;
use crate::problem::Problem;
use crate::query::Parameters;

/// The header of a change, for the OpenAPI document; [`Named::expects`] reads it.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "a description, read by a macro")]
pub(crate) struct IfMatch {
    /// The version that was read; 412 where it is another one now
    #[param(rename = "If-Match", required = false)]
    if_match: Option<String>,
}

/// Entries on a page where the request does not say.
pub(crate) const PAGE: usize = 100;
/// Entries on a page at most.
pub(crate) const MAX_PAGE: usize = 1000;
/// Octets of a body at most: a domain with full lists.
pub(crate) const MAX_BODY: usize = 4 << 20;

pub(crate) type Answer<T = Json<Value>> = Result<T, Problem>;

/// The one parameter in the path, percent-decoded once.
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        match path {
            Ok(Path(text)) => Ok(Self(text)),
            Err(_) => Err(Problem::bad_request("the address in the path is not percent-encoded UTF-8")),
        }
    }
}

/// Who asks: let in by [`access::enter`], and from where.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) principal: Principal,
    pub(crate) from: String,
}

impl Asker {
    pub(crate) fn actor(&self) -> Actor {
        Actor::of(&self.principal, &self.from)
    }

    /// Makes changes in their name, if they are still let in when it is done, and what else was looked at is as it was.
    pub(crate) async fn apply(
        &self,
        state: &State,
        looked_at: Option<Unchanged>,
        changes: Vec<Change>,
        audit: AuditEntry,
    ) -> Result<u64, ControlError> {
        let mut requires = self.principal.stands_on();
        requires.extend(looked_at);
        state.administration.control.apply_while(requires, changes, vec![audit], state.engine.now()).await
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let from = access::peer(parts);
        // An endpoint that lets everybody in has nobody.
        let principal = parts.extensions.get::<Principal>().cloned();
        let principal = principal.ok_or_else(|| Problem::forbidden("nobody was let in here"))?;
        Ok(Self { principal, from })
    }
}

/// A record that somebody wants to see or to change: who, which, and in what version. Nothing stands behind a `?`.
pub(crate) struct Named {
    pub(crate) asker: Asker,
    pub(crate) name: String,
    if_match: Option<HeaderValue>,
}

impl Named {
    /// What a change expects of the record, which is at this revision.
    ///
    /// # Errors
    /// When the request's `If-Match` names another one: 412.
    pub(crate) fn expects(&self, revision: u64) -> Answer<Expected> {
        expected(self.if_match.as_ref(), revision)
    }

    /// What a change came to: one that was overtaken after its version had been looked at is as one that came too late for it.
    pub(crate) fn outcome<T>(&self, changed: Answer<T>) -> Answer<T> {
        changed.map_err(|problem| match problem.is_overtaken() && self.if_match.is_some() {
            true => problem.at(StatusCode::PRECONDITION_FAILED),
            false => problem,
        })
    }

    /// What a deletion came to: one that somebody else was faster with is done already, unless a certain version was meant.
    pub(crate) fn deletion(&self, deleted: Answer<()>, is_there: bool) -> Answer<StatusCode> {
        match deleted {
            Err(problem) if problem.status() == StatusCode::NOT_FOUND || (problem.is_overtaken() && !is_there) => {
                match self.if_match {
                    None => Ok(StatusCode::NO_CONTENT),
                    Some(_) => Err(problem.at(StatusCode::PRECONDITION_FAILED)),
                }
            }
            deleted => self.outcome(deleted).map(|()| StatusCode::NO_CONTENT),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let asker = Asker::from_request_parts(parts, state).await?;
        let Segment(name) = Segment::from_request_parts(parts, state).await?;
        Parameters::from_request_parts(parts, state).await?.end(&[])?;
        Ok(Self { asker, name, if_match: parts.headers.get(IF_MATCH).cloned() })
    }
}

/// Where a page begins and how much is on it, of what is listed by name.
pub(crate) struct Paging {
    after: String,
    limit: usize,
}

impl Paging {
    /// From a request that has no other parameters than these, and `more`, which were taken already.
    pub(crate) fn of(mut query: Parameters, more: &[&str]) -> Answer<Self> {
        let after = query.take("cursor")?.unwrap_or_default();
        let limit = query.number("limit", PAGE, MAX_PAGE)?;
        query.end(&[more, &["cursor", "limit"]].concat())?;
        Ok(Self { after, limit })
    }

    /// The page of what comes in the order of names, and the cursor of the next.
    pub(crate) fn page<T>(
        &self,
        listed: impl Iterator<Item = T>,
        name: impl Fn(&T) -> &str,
    ) -> (Vec<T>, Option<String>) {
        let mut listed = listed.filter(|one| name(one) > self.after.as_str());
        let page: Vec<T> = listed.by_ref().take(self.limit).collect();
        let next = listed.next().and(page.last()).map(|last| name(last).to_owned());
        (page, next)
    }
}

/// A JSON body. Unknown keys are errors where the type says so.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !matches!(kind.as_str(), "application/json" | "application/merge-patch+json") {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("the body's type is {kind:?}: send Content-Type: application/json"),
            ));
        }
        let octets = match Bytes::from_request(request, state).await {
            Ok(octets) => octets,
            Err(BytesRejection::FailedToBufferBody(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let detail = "the body has more octets than are taken here; send less";
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
            }
            Err(_) => return Err(Problem::bad_request("the body could not be read to its end")),
        };
        // An array would pass for an object with its values in order.
        if octets.iter().find(|octet| !octet.is_ascii_whitespace()) == Some(&b'[') {
            return Err(Problem::invalid("the body must be a JSON object"));
        }
        let mut json = serde_json::Deserializer::from_slice(&octets);
        let value: Result<T, _> = serde_path_to_error::deserialize(&mut json);
        let value = value.map_err(|error| {
            let path = error.path().to_string();
            let place = if path == "." { String::new() } else { format!("{path}: ") };
            match error.inner().classify() {
                serde_json::error::Category::Data => Problem::invalid(format!("{place}{}", in_words(error.inner()))),
                _ => Problem::bad_request(format!("the body is no JSON: {}", error.inner())),
            }
        })?;
        json.end().map_err(|error| Problem::bad_request(format!("the body is no JSON: {error}")))?;
        Ok(Self(value))
    }
}

/// What is wrong with a value, without the place in the text, which its path says better. Of an unknown key the nearest one that is known.
pub(crate) fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    let Some((wrong, known)) = text.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) else {
        return text.to_owned();
    };
    let known = known.split('`').skip(1).step_by(2);
    let near = known.map(|known| (strsim::damerau_levenshtein(wrong, known), known)).min();
    match near {
        Some((distance, near)) if distance <= 1 + near.len() / 4 => {
            format!("unknown field `{wrong}`; did you mean `{near}`?")
        }
        _ => format!("unknown field `{wrong}`; leave it out"),
    }
}

/// Holds a change's `If-Match` (RFC 9110 13.1.1) against the revision that is there: 412 where it is another one.
fn expected(given: Option<&HeaderValue>, revision: u64) -> Answer<Expected> {
    let Some(given) = given else { return Ok(Expected::Revision(revision)) };
    let given = given.to_str().unwrap_or_default().trim();
    let is_tag = |tag: &str| {
        let tag = tag.trim().trim_start_matches("W/");
        tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"')
    };
    if given != "*" && !given.split(',').all(is_tag) {
        return Err(Problem::bad_request("If-Match is no entity tag: send the ETag that was read, with its quotes"));
    }
    let current = etag(revision);
    if given == "*" || given.split(',').any(|tag| tag.trim() == current) {
        return Ok(Expected::Revision(revision));
    }
    Err(Problem::new(
        StatusCode::PRECONDITION_FAILED,
        format!("it is at version {current} and no longer at {given}; read it again, then change it"),
    ))
}

/// A strong entity tag made of the revision.
fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// A record as JSON with its entity tag.
pub(crate) fn tagged(status: StatusCode, revision: u64, body: impl Serialize) -> Response {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&etag(revision)) {
        headers.insert(ETAG, value);
    }
    (status, headers, Json(body)).into_response()
}

pub(crate) fn parse_recipient(address: &str) -> Answer<Recipient> {
    Recipient::parse_as_written(address.as_bytes())
        .map_err(|error| Problem::bad_request(format!("{address:?} is no recipient address: {error}")))
}

pub(crate) fn parse_domain(domain: &str) -> Answer<Domain> {
    Domain::parse(domain).map_err(|error| Problem::bad_request(format!("{domain:?} is no domain: {error}")))
}

pub(crate) fn parse_cursor(cursor: &str) -> Answer<Cursor> {
    Cursor::parse(cursor).ok_or_else(wrong_cursor)
}

/// A cursor that is a number: of the logs.
pub(crate) fn parse_number_cursor(cursor: &str) -> Answer<i64> {
    let number = cursor.parse::<i64>().ok().filter(|number| *number >= 0);
    number.ok_or_else(wrong_cursor)
}

fn wrong_cursor() -> Problem {
    Problem::bad_request("the cursor is not one that was given with a page: begin again without it")
}

/// A moment by RFC 3339.
pub(crate) fn parse_time(name: &str, text: &str) -> Answer<Timestamp> {
    let parsed: Result<jiff::Timestamp, _> = text.parse();
    let millis = parsed.ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    millis.map(Timestamp).ok_or_else(|| {
        Problem::bad_request(format!(
            "{name} is {text:?}: write a time as RFC 3339 has it, such as 2026-11-25T08:00:00Z"
        ))
    })
}

pub(crate) fn with_next(mut page: Value, next: Option<String>) -> Value {
    if let Some(next) = next {
        page["next"] = json!(next);
    }
    page
}

/// Reads of more than a few entries leave the threads that serve questions alone.
pub(crate) async fn read<T: Send + 'static>(
    state: &State,
    read: impl FnOnce(&Cache) -> Result<T, CacheError> + Send + 'static,
) -> Answer<T> {
    let cache = state.engine.cache().clone();
    match tokio::task::spawn_blocking(move || read(&cache)).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "reading failed; see the log")),
    }
}
