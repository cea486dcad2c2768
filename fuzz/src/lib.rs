//! What the targets share: octets that arrive in pieces.

use callahead_listeners::{Format, Reader};

/// Pushes `octets` into a reader in pieces of one length, and takes from it what is whole as soon as it is: what came, and the error that
/// ended it.
pub fn in_pieces<R, V, E>(
    mut reader: R,
    push: impl Fn(&mut R, &[u8]),
    next: impl Fn(&mut R) -> Result<Option<V>, E>,
    octets: &[u8],
    piece: usize,
) -> (Vec<V>, Option<E>) {
    let mut values = Vec::new();
    for piece in octets.chunks(piece.max(1)) {
        push(&mut reader, piece);
        loop {
            match next(&mut reader) {
                Ok(Some(value)) => values.push(value),
                Ok(None) => break,
                Err(error) => return (values, Some(error)),
            }
        }
    }
    (values, None)
}

/// The requests in `octets`, which come in pieces of one length.
pub fn requests<F: Format>(octets: &[u8], piece: usize) -> (Vec<F::Request>, Option<F::Error>) {
    in_pieces(Reader::<F>::default(), Reader::push, Reader::read, octets, piece)
}
