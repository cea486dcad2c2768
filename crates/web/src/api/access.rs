//! Who may do what: one table of all endpoints, and the one place that lets requests in by it.
//!
//! A request goes through here before its handler runs: who is it (a token, or the admin socket), what does the table ask for, and is
//! the thing in the path theirs. An endpoint that does not stand in the table is refused, so a forgotten line
//! is a test that fails and not a door that is open.

use axum::extract::{FromRequestParts as _, MatchedPath, RawPathParams, Request, State as Given};
use axum::http::header::{AUTHORIZATION, IF_MATCH, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use callahead_control::{Digest, DomainSpec, Permission, Principal};
use callahead_smtp::{Domain, Recipient};

use crate::State;
use crate::api::Door;
use crate::problem::Problem;
use crate::query::Parameters;
use crate::serve::Peer;
use crate::throttle::Key;

/// What a request is about, and so what has to be the asker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// Nothing that belongs to anybody, or a list that the handler narrows to what is theirs.
    Own,
    /// The domain of the address in the path.
    Address,
    /// The domain named in the path.
    Domain,
    /// The domain in the query; without one this permission is needed instead.
    DomainQuery(Permission),
    /// The account named in the path.
    Account,
    /// The token named in the path.
    Token,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The method, in capitals.
    pub method: &'static str,
    /// The path, as in the OpenAPI document.
    pub path: &'static str,
    /// What has to be allowed; `None` lets everybody in.
    pub permission: Option<Permission>,
    /// What has to be theirs.
    pub object: Object,
}

const fn rule(method: &'static str, path: &'static str, permission: Permission, object: Object) -> Rule {
    Rule { method, path, permission: Some(permission), object }
}

/// Every endpoint of the API.
pub const RULES: &[Rule] = &{
    use Object::{Account, Address, Domain, DomainQuery, Own, Token};
    use Permission::{Accounts, Check, Clear, ClearAll, Domains, Lists, Node, Read, Tokens};
    [
        rule("GET", "/api/v1/recipients/{address}/verdict", Check, Address),
        rule("GET", "/api/v1/cache", Read, DomainQuery(Node)),
        rule("DELETE", "/api/v1/cache", Clear, DomainQuery(ClearAll)),
        rule("GET", "/api/v1/cache/{address}", Read, Address),
        rule("DELETE", "/api/v1/cache/{address}", Clear, Address),
        rule("GET", "/api/v1/domains", Read, Own),
        rule("POST", "/api/v1/domains", Domains, Own),
        rule("GET", "/api/v1/domains/{name}", Read, Domain),
        rule("PUT", "/api/v1/domains/{name}", Domains, Domain),
        rule("PATCH", "/api/v1/domains/{name}", Lists, Domain),
        rule("DELETE", "/api/v1/domains/{name}", Domains, Domain),
        rule("POST", "/api/v1/domains/{name}/test", Check, Domain),
        rule("GET", "/api/v1/destinations", Node, Own),
        rule("GET", "/api/v1/log", Read, DomainQuery(Read)),
        rule("GET", "/api/v1/events", Read, Own),
        rule("GET", "/api/v1/stats", Read, DomainQuery(Node)),
        rule("GET", "/api/v1/stats/domains", Node, Own),
        rule("GET", "/api/v1/nodes", Node, Own),
        rule("GET", "/api/v1/audit", Read, Own),
        rule("GET", "/api/v1/accounts", Read, Own),
        rule("POST", "/api/v1/accounts", Accounts, Own),
        rule("GET", "/api/v1/accounts/{name}", Read, Account),
        rule("PATCH", "/api/v1/accounts/{name}", Accounts, Account),
        rule("DELETE", "/api/v1/accounts/{name}", Accounts, Account),
        rule("POST", "/api/v1/accounts/{name}/login-link", Accounts, Account),
        rule("GET", "/api/v1/tokens", Read, Own),
        rule("POST", "/api/v1/tokens", Tokens, Own),
        rule("DELETE", "/api/v1/tokens/{id}", Tokens, Token),
        Rule { method: "POST", path: "/api/v1/session", permission: None, object: Own },
        rule("DELETE", "/api/v1/session", Read, Own),
    ]
};

/// Lets a request in, or answers it.
pub(crate) async fn enter(Given((state, door)): Given<(State, Door)>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match admit(&state, door, &mut parts).await {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Why a request does not reach its handler.
pub(crate) enum Refusal {
    Problem(Problem),
    /// What was to be deleted is not there, or is somebody else's, which nobody can tell apart: it is done already.
    Done,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem.into_response(),
            Self::Done => StatusCode::NO_CONTENT.into_response(),
        }
    }
}

async fn admit(state: &State, door: Door, parts: &mut Parts) -> Result<(), Refusal> {
    let path = parts.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    // HEAD is answered by GET's handler.
    let method = if parts.method == Method::HEAD { &Method::GET } else { &parts.method };
    let rule = RULES.iter().find(|rule| rule.method == method.as_str() && rule.path == path);
    let Some(rule) = rule else {
        tracing::error!(%method, path, "an endpoint has no line in the table of who may do what, so nobody may");
        return Err(Problem::forbidden("nobody may do this: the endpoint has no rule").into());
    };
    let Some(permission) = rule.permission else { return Ok(()) };
    let principal = match door {
        Door::Socket => Principal::socket(),
        Door::Http => authenticate(state, parts)?,
        Door::Page => {
            let visitor = parts.extensions.get::<Principal>().cloned();
            let visitor = visitor.ok_or_else(|| Problem::forbidden("nobody was let in here"))?;
            // The form may have come long after its head, by which the session was found.
            if !state.administration.control.local().lets_in(&visitor) {
                return Err(Problem::forbidden("the session was ended meanwhile; log in again").into());
            }
            visitor
        }
    };
    if !principal.may(permission) {
        return Err(missing(permission).into());
    }
    owns(state, &principal, rule, parts).await?;
    parts.extensions.insert(principal);
    Ok(())
}

fn missing(permission: Permission) -> Problem {
    let name = permission.as_str();
    Problem::forbidden(format!(
        "this needs the permission {name:?}, which the account's role or the token's scopes do not have; use another token"
    ))
}

/// By `Authorization: Bearer TOKEN`. A failure counts against the client's address.
fn authenticate(state: &State, parts: &Parts) -> Result<Principal, Problem> {
    let peer = peer(parts);
    let given = parts.headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let token = given.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let administration = &state.administration;
    let now = state.engine.now();
    if let Some(token) = token {
        let local = administration.control.local();
        if let Some((token, account)) = local.find_token(&Digest::of(token))
            && token.is_good_at(now)
        {
            let principal = Principal::by_token(account.clone(), token).as_of(local.revision());
            administration.control.token_used(&token.id, now, &peer);
            return Ok(principal);
        }
    }
    drop(administration.throttle.attempt([Key::of_peer(&peer)]).map_err(too_many)?);
    let detail = match given {
        None => "this needs a token: send Authorization: Bearer TOKEN; \"callahead token create\" makes one",
        Some(_) => "the token is unknown or has expired: \"callahead token create\" makes a new one",
    };
    let scheme = HeaderValue::from_static("Bearer realm=\"callahead\"");
    Err(Problem::new(StatusCode::UNAUTHORIZED, detail).with(WWW_AUTHENTICATE, scheme))
}

/// 429, with how long to wait.
pub(crate) fn too_many(wait: std::time::Duration) -> Problem {
    let seconds = wait.as_secs() + 1;
    let detail = format!("too many attempts; wait {seconds} s, then try again");
    Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).with(RETRY_AFTER, HeaderValue::from(seconds))
}

/// Who asks, as the listener knows it.
pub(crate) fn peer(parts: &Parts) -> String {
    parts.extensions.get::<Peer>().map_or_else(|| "unknown".to_owned(), |Peer(peer)| peer.clone())
}

/// Whether the thing in the path or the query is theirs. What is somebody else's is answered as what does not exist.
pub(crate) async fn owns(state: &State, principal: &Principal, rule: &Rule, parts: &mut Parts) -> Result<(), Refusal> {
    let administration = &state.administration;
    let own_domain = |domain: &Domain| administration.sees(principal, &state.engine, domain);
    match rule.object {
        Object::Own => Ok(()),
        Object::Address => {
            let address = segment(parts, "address").await?;
            // What is no address belongs to nobody; the handler says what is wrong with it.
            let domain = Recipient::parse_as_written(address.as_bytes()).map(|recipient| recipient.domain().clone());
            match domain {
                Ok(domain) if !own_domain(&domain) => Err(not_yours(&domain.to_string())),
                _ => Ok(()),
            }
        }
        Object::DomainQuery(without) => {
            let mut query = Parameters::from_request_parts(parts, &()).await?;
            match query.take("domain")? {
                // Where wildcards mean nothing the handler says so.
                Some(wildcard) if wildcard.starts_with("*.") => match DomainSpec::canonical_name(&wildcard) {
                    Ok(name) if !principal.owns_domain(&name, administration.owner(&name).as_deref()) => {
                        Err(not_yours(&name))
                    }
                    _ => Ok(()),
                },
                Some(domain) => match Domain::parse(&domain) {
                    Ok(domain) if !own_domain(&domain) => Err(not_yours(&domain.to_string())),
                    _ => Ok(()),
                },
                None if principal.may(without) => Ok(()),
                None => {
                    let detail =
                        "without a domain this is about the whole node, which the account may not; give domain=";
                    Err(Problem::forbidden(detail).into())
                }
            }
        }
        Object::Domain => {
            let name = segment(parts, "name").await?;
            let name = DomainSpec::canonical_name(&name).unwrap_or(name);
            let exists = administration.domains.is_in_file(&name)
                || administration.control.local().domains().contains_key(&name);
            let owner = administration.owner(&name);
            match exists && principal.owns_domain(&name, owner.as_deref()) {
                true => Ok(()),
                false => Err(gone(parts, format!("there is no domain {name:?} here; look at the list of domains"))),
            }
        }
        Object::Account => {
            let name = segment(parts, "name").await?;
            let local = administration.control.local();
            match local.accounts().get(&name).is_some_and(|account| principal.owns_account(&account.value)) {
                true => Ok(()),
                false => Err(gone(parts, format!("there is no account {name:?} here; look at the list of accounts"))),
            }
        }
        Object::Token => {
            let id = segment(parts, "id").await?;
            let local = administration.control.local();
            let account = local.tokens().get(&id).and_then(|token| local.accounts().get(&token.value.account));
            match account.is_some_and(|account| principal.owns_account(&account.value)) {
                true => Ok(()),
                false => Err(gone(parts, format!("there is no token {id:?} here; look at the list of tokens"))),
            }
        }
    }
}

fn not_yours(domain: &str) -> Refusal {
    Problem::forbidden(format!("the account has no domain {domain:?}; look at the list of domains")).into()
}

/// What does not exist, or is somebody else's. Deleting it is done already, unless a certain version was meant.
fn gone(parts: &Parts, detail: String) -> Refusal {
    if parts.method != Method::DELETE {
        return Problem::not_found(detail).into();
    }
    if parts.headers.contains_key(IF_MATCH) {
        return Problem::new(StatusCode::PRECONDITION_FAILED, detail).into();
    }
    Refusal::Done
}

async fn segment(parts: &mut Parts, name: &str) -> Result<String, Problem> {
    let wrong = || Problem::bad_request("the path is not percent-encoded UTF-8");
    let params = RawPathParams::from_request_parts(parts, &()).await.map_err(|_| wrong())?;
    params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).ok_or_else(wrong)
}
