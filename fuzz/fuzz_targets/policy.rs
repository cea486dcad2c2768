//! Any octets in any pieces give the same requests and the same error. The first octet says how long the pieces are.
#![no_main]

use callahead_listeners::policy::{Request, RequestError, RequestReader};
use libfuzzer_sys::fuzz_target;

fn read(octets: &[u8], piece: usize) -> (Vec<Request>, Option<RequestError>) {
    let mut reader = RequestReader::default();
    let mut requests = Vec::new();
    for piece in octets.chunks(piece) {
        reader.push(piece);
        loop {
            match reader.next_request() {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
    }
    (requests, None)
}

fuzz_target!(|octets: &[u8]| {
    let Some((piece, octets)) = octets.split_first() else { return };
    assert_eq!(read(octets, usize::from(*piece).max(1)), read(octets, octets.len().max(1)));
});
