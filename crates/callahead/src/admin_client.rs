//! The CLI's way into a running daemon: HTTP over its admin socket.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::cli::SocketArgs;
use crate::config::{Config, DEFAULT_PATH};

/// Where the socket is when nobody says otherwise.
const DEFAULT_SOCKET: &str = "/run/callahead/admin.sock";

/// A daemon's admin socket.
pub(crate) struct AdminClient {
    socket: PathBuf,
}

impl AdminClient {
    /// By `--socket`, else by the configuration, else the usual one.
    pub(crate) fn new(args: &SocketArgs) -> anyhow::Result<Self> {
        if let Some(socket) = &args.socket {
            return Ok(Self { socket: socket.clone() });
        }
        let config = match &args.config {
            Some(path) => Some(Config::load(path)?),
            None => Config::load(Path::new(DEFAULT_PATH)).ok(),
        };
        let configured = config.and_then(|config| {
            config.listen.admin.into_iter().find_map(|listen| match listen {
                callahead_listeners::Listen::Unix(path) => Some(path),
                callahead_listeners::Listen::Tcp(_) => None,
            })
        });
        if configured.is_none() && args.config.is_some() {
            bail!("the configuration has no listen.admin, so there is no daemon to ask; add one, or give --socket");
        }
        Ok(Self { socket: configured.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)) })
    }

    /// Asks. `None` where the daemon says that there is no such thing (404).
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<Option<Value>> {
        let socket = self.socket.display();
        let stream = UnixStream::connect(&self.socket).await.with_context(|| {
            format!("the daemon can't be reached at {socket}: is it running, and may you use its socket? --socket names another")
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
        let request =
            Request::builder().method(method).uri(uri).header("host", "callahead").body(Empty::<Bytes>::new())?;
        let response =
            sender.send_request(request).await.with_context(|| format!("the daemon at {socket} gave no answer"))?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status == hyper::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let body: Value =
            serde_json::from_slice(&body).with_context(|| format!("what answers at {socket} is no callahead"))?;
        if !status.is_success() {
            // RFC 9457: "detail" is the sentence.
            let said = body["detail"].as_str().or(body["title"].as_str()).unwrap_or("no reason given");
            bail!("{said}");
        }
        Ok(Some(body))
    }
}

/// Percent-encoding for a path segment or a query value (RFC 3986 2.3).
pub(crate) fn encoded(text: &str) -> String {
    let encode = |octet: u8| match octet {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(octet).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}
