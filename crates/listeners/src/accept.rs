//! Accepting connections, alike for all listeners: a bound on them, a rest where the system refuses more, and either said once each time it
//! comes to that.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::listen::{Bound, Stream};
use crate::server::Counters;

/// How long accepting rests after the system refused it: no file descriptors left, most often.
const PAUSE: Duration = Duration::from_millis(100);

/// A place where clients come in, and the tasks of those who have.
#[derive(Debug)]
pub struct Accepting {
    listener: &'static str,
    bound: Bound,
    counters: Arc<Counters>,
    /// Connections at the same time.
    room: Arc<Semaphore>,
    connections: JoinSet<()>,
    said_full: bool,
    said_failing: bool,
}

/// One connection counted as open, for as long as this lives.
#[derive(Debug)]
pub struct Open(Arc<Counters>);

impl Accepting {
    /// For a listener of this name, in the log; `room` has a permit for each connection that there may be.
    pub fn new(listener: &'static str, bound: Bound, room: Arc<Semaphore>) -> Self {
        let counters = bound.counters();
        Self { listener, bound, counters, room, connections: JoinSet::new(), said_full: false, said_failing: false }
    }

    /// The next client and its right to be there, or `None` at the stop. One beyond the bound is refused.
    ///
    /// `sorry` is what such a client is told; nothing where the protocol has no words for it.
    pub(crate) async fn next(
        &mut self,
        stop: &CancellationToken,
        sorry: &[u8],
    ) -> Option<(Stream, OwnedSemaphorePermit)> {
        loop {
            match self.accept(stop).await? {
                (stream, Some(permit)) => return Some((stream, permit)),
                (stream, None) => self.refuse(&stream, sorry),
            }
        }
    }

    /// The next client, with its right to be there if there is room; `None` at the stop.
    pub async fn accept(&mut self, stop: &CancellationToken) -> Option<(Stream, Option<OwnedSemaphorePermit>)> {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                Some(ended) = self.connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(listener = self.listener, %error, "a connection's task ended in a panic");
                    }
                    continue;
                }
                accepted = self.bound.accept() => accepted,
            };
            match accepted {
                Ok(stream) => {
                    self.said_failing = false;
                    let permit = Arc::clone(&self.room).try_acquire_owned().ok();
                    self.said_full &= permit.is_none();
                    return Some((stream, permit));
                }
                Err(error) => {
                    if !self.said_failing {
                        tracing::warn!(
                            listener = self.listener,
                            at = %self.bound.local_addr(),
                            %error,
                            "connections can't be accepted: they wait until the system allows it again"
                        );
                        self.said_failing = true;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Counts a client for whom there is no room, and says `sorry` to it. Its connection is to be closed.
    pub fn refuse(&mut self, stream: &Stream, sorry: &[u8]) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        // A new connection's buffer is empty: there is room for a line, and nobody waits for it.
        stream.try_write(sorry);
        if !self.said_full {
            tracing::warn!(
                listener = self.listener,
                at = %self.bound.local_addr(),
                connections = self.connections.len(),
                "as many connections are open as are allowed: further ones are closed at once"
            );
            self.said_full = true;
        }
    }

    /// Works on a connection, while others are accepted.
    pub fn spawn(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.connections.spawn(connection);
    }

    /// Accepts nobody any more and waits for the connections that there are, for so long; then they are cut off.
    pub async fn finish(self, grace: Duration) {
        let Self { listener, bound, mut connections, .. } = self;
        let at = bound.local_addr().clone();
        // Closed first, so that whoever comes now goes to the next server, or hears at once that there is none.
        drop(bound);
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all_ended).await.is_err() {
            tracing::warn!(
                listener,
                %at,
                connections = connections.len(),
                "connections are cut off: what they had begun took longer than a stop waits"
            );
        }
        connections.shutdown().await;
    }
}

impl Open {
    /// Counts it, as accepted too.
    pub fn count(counters: &Arc<Counters>) -> Self {
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        counters.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
