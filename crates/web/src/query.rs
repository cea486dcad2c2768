//! Query parameters, each known by name: one that is misspelt is an error and not ignored, since it may be what
//! narrows a clear.

use std::net::IpAddr;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;

use crate::problem::Problem;

/// The parameters of a request that nobody has asked for yet.
pub(crate) struct Parameters {
    /// A `?` came, though perhaps with nothing behind it.
    present: bool,
    given: Vec<(String, String)>,
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let present = parts.uri.query().is_some();
        match Query::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(Query(given)) => Ok(Self { present, given }),
            Err(_) => Err(Problem::bad_request("the query can't be read: write it as ?name=value&name=value")),
        }
    }
}

impl Parameters {
    /// Whether the request has no query at all.
    pub(crate) fn is_absent(&self) -> bool {
        !self.present
    }

    /// Takes a parameter out; empty values count as given.
    pub(crate) fn take(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let Some(at) = self.given.iter().position(|(given, _)| given == name) else { return Ok(None) };
        let (_, value) = self.given.swap_remove(at);
        if self.given.iter().any(|(given, _)| given == name) {
            return Err(Problem::bad_request(format!("{name} is given twice: give it once")));
        }
        Ok(Some(value))
    }

    /// Takes `true` or `false` out; false where it is not given.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, Problem> {
        match self.take(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Problem::bad_request(format!("{name} is {other:?}: write true or false"))),
        }
    }

    /// Takes an IP address out.
    pub(crate) fn ip(&mut self, name: &str) -> Result<Option<IpAddr>, Problem> {
        let Some(value) = self.take(name)? else { return Ok(None) };
        match value.parse() {
            Ok(ip) => Ok(Some(ip)),
            Err(_) => Err(Problem::bad_request(format!("{name} is {value:?}: write an IP address"))),
        }
    }

    /// Takes a number in a range out.
    pub(crate) fn number(&mut self, name: &str, default: usize, most: usize) -> Result<usize, Problem> {
        let Some(value) = self.take(name)? else { return Ok(default) };
        match value.parse() {
            Ok(number) if (1..=most).contains(&number) => Ok(number),
            _ => Err(Problem::bad_request(format!("{name} is {value:?}: write a number from 1 to {most}"))),
        }
    }

    /// Says that nothing else is known here.
    pub(crate) fn end(self, known: &[&str]) -> Result<(), Problem> {
        match self.given.first() {
            None => Ok(()),
            Some((name, _)) if known.is_empty() => {
                Err(Problem::bad_request(format!("{name:?} is no parameter: none are known here")))
            }
            Some((name, _)) => {
                Err(Problem::bad_request(format!("{name:?} is no parameter: known here are {}", known.join(", "))))
            }
        }
    }
}
