//! Octets in, in any pieces; requests out: what the readers of all question protocols have in common.

use std::fmt;

use bytes::BytesMut;

/// How a protocol's requests lie in what a client sends. It knows no socket and no clock, and the same octets in other pieces give the
/// same requests.
pub trait Format: Default {
    /// A request.
    type Request;
    /// Why what came is none.
    type Error: Copy + fmt::Display;

    /// Takes the next whole request out of what has arrived; `None` until more has.
    ///
    /// # Errors
    /// When what arrived can't be a request.
    fn take(&mut self, arrived: &mut BytesMut) -> Result<Option<Self::Request>, Self::Error>;

    /// Whether a request has begun and is not whole, given what has arrived and was not taken.
    fn has_partial(&self, arrived: &BytesMut) -> bool {
        !arrived.is_empty()
    }

    /// Whether the client has said that it is done. Most protocols have no word for it: the client closes.
    fn is_over(&self) -> bool {
        false
    }
}

/// Reads what one client sends. After an error it gives that error again: where the next request would begin is unknown.
#[derive(Debug)]
pub struct Reader<F: Format> {
    format: F,
    arrived: BytesMut,
    failed: Option<F::Error>,
}

// === impl Reader ===

impl<F: Format> Default for Reader<F> {
    fn default() -> Self {
        Self { format: F::default(), arrived: BytesMut::new(), failed: None }
    }
}

impl<F: Format> Reader<F> {
    /// Takes what has arrived. What comes behind an error, or the client's last word, is dropped.
    pub fn push(&mut self, octets: &[u8]) {
        if self.failed.is_none() && !self.format.is_over() {
            self.arrived.extend_from_slice(octets);
        }
    }

    /// The next whole request; `None` until more has arrived.
    ///
    /// # Errors
    /// When what arrived can't be a request.
    pub fn read(&mut self) -> Result<Option<F::Request>, F::Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let taken = self.format.take(&mut self.arrived);
        if let Err(error) = &taken {
            self.failed = Some(*error);
        }
        if taken.is_err() || self.format.is_over() {
            self.arrived = BytesMut::new();
        }
        taken
    }

    /// Octets that have arrived and were not taken yet.
    pub fn buffered(&self) -> usize {
        self.arrived.len()
    }

    /// Whether a request has begun and is not whole.
    pub fn has_partial(&self) -> bool {
        self.failed.is_none() && self.format.has_partial(&self.arrived)
    }

    /// Whether the client has said that it is done.
    pub fn is_over(&self) -> bool {
        self.format.is_over()
    }
}

/// Reads `octets` in pieces that end at the given places, each as soon as it is there: the requests, and the error that ended them.
#[cfg(test)]
pub(crate) fn read_in_pieces<F: Format>(octets: &[u8], cuts: &[usize]) -> (Vec<F::Request>, Option<F::Error>) {
    let mut reader = Reader::<F>::default();
    let (mut requests, mut from) = (Vec::new(), 0);
    for cut in cuts.iter().copied().chain([octets.len()]) {
        reader.push(&octets[from..cut]);
        from = cut;
        loop {
            match reader.read() {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
    }
    (requests, None)
}
