//! Connections that have not said a request yet. Where no more are allowed, the one that has kept silent for longest makes room: it is
//! no client, or one that can come again; and those who hold connections keep nobody out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// All of one listener, in the order in which they came; at most as many as connections are allowed.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    waiting: Mutex<(u64, BTreeMap<u64, CancellationToken>)>,
}

/// One of them, until it is dropped or has said a request.
#[derive(Debug)]
pub(crate) struct Newcomer {
    all: Arc<Newcomers>,
    number: u64,
    token: CancellationToken,
}

impl Newcomers {
    fn waiting(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, CancellationToken>)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Newcomer {
        let token = CancellationToken::new();
        let mut waiting = self.waiting();
        waiting.0 += 1;
        let number = waiting.0;
        waiting.1.insert(number, token.clone());
        Newcomer { all: Arc::clone(self), number, token }
    }

    /// Tells the one that has waited for longest to go; whether there was one.
    pub(crate) fn make_room(&self) -> bool {
        self.waiting().1.pop_first().map(|(_, token)| token.cancel()).is_some()
    }
}

impl Newcomer {
    /// It has said a request, and is not told to go any more.
    pub(crate) fn has_asked(&self) {
        self.all.waiting().1.remove(&self.number);
    }

    /// Waits until it has to go.
    pub(crate) async fn told_to_go(&self) {
        self.token.cancelled().await;
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.has_asked();
    }
}
