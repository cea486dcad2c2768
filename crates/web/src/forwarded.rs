//! Who really asks, where a proxy stands before the http listener: the API and the pages see the client that a trusted proxy tells of.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::{self, Next};
use axum::response::Response;
use ipnet::IpNet;

use crate::serve::Peer;

/// How clients reach the http listener. Clones share the proxies.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    tls: bool,
    trusted_proxies: Arc<ArcSwap<Vec<IpNet>>>,
}

/// Whether the client's connection is encrypted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Https(pub(crate) bool);

/// A router whose requests come from the clients themselves, whatever proxies they came through.
pub fn reached(router: Router, reach: Reach) -> Router {
    router.layer(middleware::from_fn(move |mut request: Request, next: Next| {
        let reach = reach.clone();
        async move {
            let peer = request.extensions().get::<Peer>().map(|Peer(peer)| peer.clone()).unwrap_or_default();
            let (client, https) = reach.client(&peer, request.headers());
            if let Some(client) = client {
                // As the listener names those who connect; the port at the proxy is nobody's business.
                request.extensions_mut().insert(Peer(SocketAddr::new(client, 0).to_string()));
            }
            request.extensions_mut().insert(Https(https));
            next.run(request).await as Response
        }
    }))
}

impl Reach {
    /// `tls`: the listener itself speaks it. Of `trusted_proxies` `X-Forwarded-For` and `X-Forwarded-Proto` are believed; of anybody else these
    /// headers mean nothing.
    pub fn new(tls: bool, trusted_proxies: Vec<IpNet>) -> Self {
        Self { tls, trusted_proxies: Arc::new(ArcSwap::from_pointee(trusted_proxies)) }
    }

    /// Believes these from now on.
    pub fn set_trusted_proxies(&self, trusted_proxies: Vec<IpNet>) {
        self.trusted_proxies.store(Arc::new(trusted_proxies));
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted_proxies.load().iter().any(|network| network.contains(&address.to_canonical()))
    }

    /// The client, where a trusted proxy tells of one, and whether it came by TLS. `peer` is who connected, with its port.
    fn client(&self, peer: &str, headers: &HeaderMap) -> (Option<IpAddr>, bool) {
        let direct = peer.parse::<SocketAddr>().ok().map(|peer| peer.ip().to_canonical());
        let Some(proxy) = direct.filter(|address| self.is_trusted(*address)) else { return (None, self.tls) };
        let proto = headers.get("x-forwarded-proto").and_then(|value| value.to_str().ok());
        let https = self.tls || proto.is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"));
        // From the right: each proxy adds the one that it saw, and the first that is no proxy of ours is the client.
        let told = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let told: Vec<&str> = told.flat_map(|value| value.split(',')).map(str::trim).collect();
        let mut client = proxy;
        for hop in told.iter().rev() {
            let Ok(hop) = hop.parse::<IpAddr>() else { break };
            client = hop.to_canonical();
            if !self.is_trusted(client) {
                break;
            }
        }
        (Some(client), https)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn client(peer: &str, forwarded: &[&'static str]) -> Option<String> {
        let trusted_proxies = ["10.0.0.0/8", "::1/128"].iter().filter_map(|text| text.parse().ok()).collect();
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_static(value));
        }
        Reach::new(false, trusted_proxies).client(peer, &headers).0.map(|client| client.to_string())
    }

    #[test]
    fn the_client_is_the_last_one_that_is_no_proxy_of_ours() {
        assert_eq!(client("192.0.2.1:1", &["203.0.113.1"]), None, "anybody can write a header");
        assert_eq!(client("10.0.0.1:1", &["203.0.113.1"]).as_deref(), Some("203.0.113.1"));
        assert_eq!(client("10.0.0.1:1", &["6.6.6.6, 203.0.113.1", "10.0.0.2"]).as_deref(), Some("203.0.113.1"));
        assert_eq!(client("[::1]:1", &["::ffff:203.0.113.1"]).as_deref(), Some("203.0.113.1"));
        assert_eq!(
            client("10.0.0.1:1", &["6.6.6.6, nonsense"]).as_deref(),
            Some("10.0.0.1"),
            "nonsense ends the chain"
        );
        assert_eq!(client("10.0.0.1:1", &[]).as_deref(), Some("10.0.0.1"));
        assert_eq!(client("uid 0", &["203.0.113.1"]), None);
    }
}
