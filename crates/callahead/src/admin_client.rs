//! The CLI's way into a running daemon: HTTP over its admin socket, or over the network with a token.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use callahead_config::{Config, DEFAULT_PATH};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::CONTENT_TYPE;
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

use crate::cli::SocketArgs;
use crate::output::{self, Style};

/// Where the socket is when nobody says otherwise.
const DEFAULT_SOCKET: &str = "/run/callahead/admin.sock";
/// The environment variable with the token for `--server`.
const TOKEN: &str = "CALLAHEAD_TOKEN";
/// How long a connection to the daemon may take, with its TLS handshake.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);
/// How long an answer may take to begin. A test of a route with many hosts takes longest.
const ANSWERS_WITHIN: Duration = Duration::from_secs(300);

/// The daemon can't be reached, gives no answer, or fails itself (5xx), or what answers is something else: nothing that the command line could be blamed for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Untold(String);

impl Untold {
    pub(crate) fn new(sentence: String) -> Self {
        Self(sentence)
    }
}

/// A daemon, and the way to it.
pub(crate) struct AdminClient {
    way: Way,
}

enum Way {
    Socket(PathBuf),
    /// With `tls` where it is https.
    Network {
        tls: Option<Arc<rustls::ClientConfig>>,
        host: String,
        port: u16,
        token: String,
    },
}

/// What the daemon says where it does not do what it is asked (RFC 9457: `detail` is the sentence).
struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    /// Only in the form that the daemon has: whatever else answers there, a proxy or another server, does not speak for it.
    fn read(head: &Parts, body: &[u8]) -> Option<Self> {
        let body: Value = serde_json::from_slice(body).ok().filter(|_| is_of_type(head, "application/problem+json"))?;
        let detail = output::printable(body["detail"].as_str()?);
        (body["status"] == head.status.as_u16()).then_some(Self { status: head.status, detail })
    }

    fn error(self) -> anyhow::Error {
        if self.status.is_server_error() { Untold(self.detail).into() } else { anyhow::Error::msg(self.detail) }
    }
}

fn is_of_type(head: &Parts, name: &str) -> bool {
    head.headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(name.as_bytes()))
}

impl AdminClient {
    /// By `--server`, by `--socket`, else by the configuration, else the usual socket.
    pub(crate) fn new(args: &SocketArgs) -> anyhow::Result<Self> {
        if let Some(server) = &args.server {
            return Ok(Self { way: network(server, args.token.clone(), args.ca.as_deref())? });
        }
        if let Some(socket) = &args.socket {
            return Ok(Self { way: Way::Socket(socket.clone()) });
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
        Ok(Self { way: Way::Socket(configured.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))) })
    }

    /// Asks. `None` where the daemon says that there is no such thing (404).
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<Option<Value>> {
        self.send(method, path, query, None).await
    }

    /// Asks with a body. `None` where the daemon says that there is no such thing (404); null where it has nothing to say (204).
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Option<Value>> {
        match self.answer(method, path, query, body).await? {
            Ok(answer) => Ok(Some(answer)),
            Err(problem) if problem.status == StatusCode::NOT_FOUND => Ok(None),
            Err(problem) => Err(problem.error()),
        }
    }

    /// Has something made, and gives it as it is then: a record that has `key`.
    pub(crate) async fn make(&self, path: &str, body: &Value, key: &str) -> anyhow::Result<Value> {
        let made = self.answer(Method::POST, path, &[], Some(body)).await?.map_err(Problem::error)?;
        if made[key].is_string() { Ok(made) } else { Err(self.no_callahead(&format!("its answer has no {key:?}"))) }
    }

    async fn answer(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Result<Value, Problem>> {
        let (head, body) = self.response(method, path, query, body).await?.into_parts();
        let octets = self.whole(body).await?;
        if !head.status.is_success() {
            return Problem::read(&head, &octets).map(Err).ok_or_else(|| self.not_in_its_form(head.status));
        }
        if head.status == StatusCode::NO_CONTENT {
            return Ok(Ok(Value::Null));
        }
        serde_json::from_slice(&octets).map(Ok).map_err(|_| self.not_in_its_form(head.status))
    }

    /// Hands CSV, which may be large, to `take`, piece by piece.
    pub(crate) async fn stream(
        &self,
        path: &str,
        query: &[(&str, &str)],
        mut take: impl FnMut(&[u8]),
    ) -> anyhow::Result<()> {
        let (head, mut body) = self.response(Method::GET, path, query, None).await?.into_parts();
        if !head.status.is_success() || !is_of_type(&head, "text/csv") {
            let octets = self.whole(body).await?;
            return Err(Problem::read(&head, &octets).map_or_else(|| self.not_in_its_form(head.status), Problem::error));
        }
        while let Some(frame) = body.frame().await {
            if let Ok(octets) = frame.map_err(|error| self.broken_off(&error))?.into_data() {
                take(&octets);
            }
        }
        Ok(())
    }

    async fn whole(&self, body: Incoming) -> anyhow::Result<Bytes> {
        Ok(body.collect().await.map_err(|error| self.broken_off(&error))?.to_bytes())
    }

    fn broken_off(&self, error: &hyper::Error) -> anyhow::Error {
        Untold(format!("the answer of {} broke off before its end: {error}", self.place())).into()
    }

    fn not_in_its_form(&self, status: StatusCode) -> anyhow::Error {
        self.no_callahead(&format!("it says {status} in another form; --server and --socket name another place"))
    }

    fn no_callahead(&self, why: &str) -> anyhow::Error {
        Untold(format!("what answers at {} is no callahead: {why}", self.place())).into()
    }

    async fn response(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Response<Incoming>> {
        let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
        let mut request = Request::builder().method(method).uri(uri);
        request = match &self.way {
            Way::Socket(_) => request.header("host", "callahead"),
            Way::Network { host, token, .. } => {
                request.header("host", host).header("authorization", format!("Bearer {token}"))
            }
        };
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let octets = body.map(Value::to_string).unwrap_or_default();
        let request =
            request.body(Full::new(Bytes::from(octets))).context("the token has characters that no token has")?;
        let at = self.place();
        let connected = tokio::time::timeout(CONNECTS_WITHIN, self.connect()).await;
        let mut sender = connected.unwrap_or_else(|_| {
            let seconds = CONNECTS_WITHIN.as_secs();
            Err(Untold(format!("the daemon can't be reached at {at}: no connection within {seconds} s")).into())
        })?;
        match tokio::time::timeout(ANSWERS_WITHIN, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Untold(format!("the daemon at {at} gave no answer: {error}")).into()),
            Err(_) => {
                let seconds = ANSWERS_WITHIN.as_secs();
                Err(Untold(format!("the daemon at {at} gave no answer within {seconds} s")).into())
            }
        }
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let at = self.place();
        match &self.way {
            Way::Socket(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(|error| {
                    Untold(format!(
                        "the daemon can't be reached at {at} ({error}): is it running, and may you use its socket? --socket names another"
                    ))
                })?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Ok(sender)
            }
            Way::Network { tls, host, port, .. } => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                let stream = TcpStream::connect((bare, *port)).await.map_err(|error| {
                    Untold(format!("the daemon can't be reached at {at} ({error}): is it running there?"))
                })?;
                let Some(tls) = tls else {
                    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                    tokio::spawn(connection);
                    return Ok(sender);
                };
                let name = ServerName::try_from(bare.to_owned()).with_context(|| format!("{host} is no host name"))?;
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls));
                let stream = connector.connect(name, stream).await.map_err(|error| {
                    Untold(format!("no TLS session with {at} ({error}): --ca names its authority, where the system does not know it"))
                })?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Ok(sender)
            }
        }
    }

    fn place(&self) -> String {
        match &self.way {
            Way::Socket(socket) => socket.display().to_string(),
            Way::Network { tls, host, port, .. } => {
                format!("http{}://{host}:{port}", if tls.is_some() { "s" } else { "" })
            }
        }
    }
}

/// `http://HOST[:PORT]` or `https://HOST[:PORT]`, and a token.
fn network(server: &str, token: Option<String>, ca: Option<&Path>) -> anyhow::Result<Way> {
    let wrong = || format!("{server:?} is no server: write http://HOST:PORT or https://HOST");
    let uri: Uri = server.parse().with_context(wrong)?;
    let (Some(scheme @ ("http" | "https")), Some(host)) = (uri.scheme_str(), uri.host()) else { bail!(wrong()) };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        bail!(wrong());
    }
    let tls = scheme == "https";
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let token = token.or_else(|| std::env::var(TOKEN).ok()).filter(|token| !token.is_empty());
    let token = token.with_context(|| format!("--server needs a token: give --token, or set {TOKEN}"))?;
    if ca.is_some() && !tls {
        bail!("--ca is for https:// servers, and {server} is not one");
    }
    let tls = if tls { Some(trust(ca)?) } else { None };
    Ok(Way::Network { tls, host: host.to_owned(), port, token })
}

/// The authorities of a file, or the system's.
fn trust(ca: Option<&Path>) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(file) = ca {
        let unreadable = || format!("--ca {} can't be read as certificates in PEM", file.display());
        for certificate in CertificateDer::pem_file_iter(file).with_context(unreadable)? {
            roots.add(certificate.with_context(unreadable)?).with_context(unreadable)?;
        }
        if roots.is_empty() {
            bail!("--ca {} has no certificate in it: it has to be PEM", file.display());
        }
    } else {
        for certificate in rustls_native_certs::load_native_certs().certs {
            // One that can't be read is none that is needed.
            let _ = roots.add(certificate);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Percent-encoding for a path segment or a query value (RFC 3986 2.3).
pub(crate) fn encoded(text: &str) -> String {
    let encode = |octet: u8| match octet {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(octet).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// Entries of a list, and whether there are more than were wanted.
pub(crate) struct Listed {
    pub(crate) entries: Vec<Value>,
    more: bool,
}

impl Listed {
    /// As JSON, one a line, or as a table; where there are more, standard error says so.
    pub(crate) fn print(&self, json: bool, header: &[&str], row: impl Fn(&Value) -> Vec<String>) {
        if json {
            self.entries.iter().for_each(|entry| output::print(&format!("{entry}\n")));
        } else {
            let rows: Vec<Vec<String>> = self.entries.iter().map(row).collect();
            output::print(&output::table(Style::stdout(), header, &rows));
        }
        if self.more {
            output::remark(&format!("… and more than these {}: --limit N shows up to N", self.entries.len()));
        }
    }
}

/// All entries of a list that comes in pages, up to `limit`.
///
/// # Errors
/// When the daemon can't be reached or refuses.
pub(crate) async fn pages(
    client: &AdminClient,
    path: &str,
    key: &str,
    query: &[(&str, &str)],
    limit: u64,
) -> anyhow::Result<Listed> {
    /// Entries on one page of the daemon's lists at most.
    const PAGE: usize = 1000;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut entries = Vec::new();
    let mut cursor: Option<String> = None;
    // One more than is wanted: a page can be followed by one that is empty.
    while entries.len() <= limit {
        let page = (limit - entries.len()).saturating_add(1).min(PAGE).to_string();
        let mut query = query.to_vec();
        query.push(("limit", page.as_str()));
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let mut answer = client.ask(Method::GET, path, &query).await?.unwrap_or_default();
        let Value::Array(page) = answer[key].take() else {
            return Err(client.no_callahead(&format!("its answer has no {key:?}")));
        };
        entries.extend(page);
        match answer["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    let more = entries.len() > limit;
    entries.truncate(limit);
    Ok(Listed { entries, more })
}
