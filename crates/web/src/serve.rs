//! HTTP/1.1 on a bound listener: bounded in connections, header size and time, and stopped gracefully.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{BoxError, Router};
use callahead_listeners::{Accepting, Bound, Open, TlsServer};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::newcomers::{Newcomer, Newcomers};
use crate::problem::Problem;

/// What clients may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at the same time. For a further one the one makes room that has said no request yet for longest; where there is
    /// none, the further one is closed at once. Default 512.
    pub connections: usize,
    /// How long a request's head may take, and a connection be idle before it. Default 15 s.
    pub head: Duration,
    /// Octets of a request's head. Default 32 KiB; at least 8 KiB.
    pub head_bytes: usize,
    /// How long a request's body may take, from the end of the head to its own; then the answer is 408. Default 30 s.
    pub body: Duration,
    /// How long a connection may last altogether; clients come again. Default 10 min.
    pub lifetime: Duration,
    /// How long a stop waits for requests under way. Default 35 s.
    pub grace: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 512,
            head: Duration::from_secs(15),
            head_bytes: 32 * 1024,
            body: Duration::from_secs(30),
            lifetime: Duration::from_secs(600),
            grace: Duration::from_secs(35),
        }
    }
}

/// Who asks, for the log: `127.0.0.1:1234`, or `uid 0` on a Unix socket.
#[derive(Clone, Debug)]
pub(crate) struct Peer(pub(crate) String);

/// How long a connection that makes room for another may take for it; it has nothing left to do.
const ROOM_WITHIN: Duration = Duration::from_millis(500);

/// What [`serve_https`] speaks, by its names in ALPN (RFC 7301).
pub const HTTP_PROTOCOLS: &[&[u8]] = &[b"http/1.1"];

/// Serves a router until `shutdown`; comes back when the requests under way are answered, or after [`HttpLimits::grace`].
pub async fn serve_http(bound: Bound, router: Router, limits: HttpLimits, shutdown: CancellationToken) {
    serve(bound, router, limits, None, shutdown).await;
}

/// The same over TLS.
pub async fn serve_https(
    bound: Bound,
    router: Router,
    limits: HttpLimits,
    tls: TlsServer,
    shutdown: CancellationToken,
) {
    serve(bound, router, limits, Some(tls), shutdown).await;
}

async fn serve(bound: Bound, router: Router, limits: HttpLimits, tls: Option<TlsServer>, shutdown: CancellationToken) {
    let counters = bound.counters();
    let room = Arc::new(Semaphore::new(limits.connections));
    let newcomers = Arc::<Newcomers>::default();
    let mut accepting = Accepting::new("http", bound, Arc::clone(&room));
    while let Some((stream, mut permit)) = accepting.accept(&shutdown).await {
        if permit.is_none() && newcomers.make_room() {
            counters.timed_out.fetch_add(1, Ordering::Relaxed);
            let freed = tokio::time::timeout(ROOM_WITHIN, Arc::clone(&room).acquire_owned()).await;
            permit = freed.ok().and_then(Result::ok);
        }
        let Some(permit) = permit else {
            accepting.refuse(&stream, b"");
            continue;
        };
        let open = Open::count(&counters);
        // One of its own: all connections wait for the stop, and would take turns at one token's lock.
        let (router, shutdown) = (router.clone(), shutdown.child_token());
        let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls.config()));
        let newcomer = Arc::new(newcomers.enter());
        accepting.spawn(async move {
            let peer = Peer(stream.peer());
            let handling = async {
                let newcomer = Arc::clone(&newcomer);
                match acceptor {
                    None => converse(stream, peer, router, limits, newcomer, shutdown).await,
                    // The handshake may take as long as a request's head.
                    Some(acceptor) => match tokio::time::timeout(limits.head, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => converse(stream, peer, router, limits, newcomer, shutdown).await,
                        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    },
                }
            };
            tokio::select! {
                () = handling => {}
                () = newcomer.told_to_go() => tracing::debug!("a connection without a request made room for another"),
            }
            drop((open, permit));
        });
    }
    accepting.finish(limits.grace).await;
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: Peer,
    router: Router,
    limits: HttpLimits,
    newcomer: Arc<Newcomer>,
    shutdown: CancellationToken,
) {
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        newcomer.has_asked();
        let (router, peer) = (router.clone(), peer.clone());
        async move {
            let late = Arc::<AtomicBool>::default();
            let mut request: Request = request.map(|body| Timely::body(body, limits.body, &late));
            request.extensions_mut().insert(peer);
            let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
            // Whoever read the body could only tell that it broke off.
            Ok::<_, Infallible>(if late.load(Ordering::Relaxed) { too_late(limits.body) } else { response })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_bytes.max(8192))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = tokio::time::sleep(limits.lifetime) => {
            connection.as_mut().graceful_shutdown();
            // A client that does not even read its answer is not waited for.
            tokio::time::timeout(limits.grace, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

/// A request's body that breaks off when it takes too long, whatever reads it: a body that never ends would hold its connection's place.
struct Timely {
    body: Incoming,
    within: Pin<Box<Sleep>>,
    late: Arc<AtomicBool>,
}

impl Timely {
    /// The body as routers take it; `late` is set when it broke off.
    fn body(body: Incoming, within: Duration, late: &Arc<AtomicBool>) -> Body {
        if hyper::body::Body::is_end_stream(&body) {
            return Body::empty();
        }
        Body::new(Self { body, within: Box::pin(tokio::time::sleep(within)), late: Arc::clone(late) })
    }
}

impl hyper::body::Body for Timely {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.within.as_mut().poll(context));
        self.late.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err("the body did not arrive in time".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn too_late(within: Duration) -> Response {
    let detail = format!("the body did not arrive within {} s; send it again", within.as_secs_f64());
    Problem::new(StatusCode::REQUEST_TIMEOUT, detail).into_response()
}
