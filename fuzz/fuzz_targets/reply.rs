//! Any octets in any pieces give the same replies and the same error. The first octet says how long the pieces are.
#![no_main]

use callahead_fuzz::in_pieces;
use callahead_smtp::{Reply, ReplyError, ReplyLimits, ReplyReader};
use libfuzzer_sys::fuzz_target;

fn read(octets: &[u8], piece: usize) -> (Vec<Reply>, Option<ReplyError>) {
    let reader = ReplyReader::new(ReplyLimits { line: 64, lines: 5, total: 200 });
    in_pieces(reader, ReplyReader::push, ReplyReader::next_reply, octets, piece)
}

fuzz_target!(|octets: &[u8]| {
    let Some((piece, octets)) = octets.split_first() else { return };
    let whole = read(octets, octets.len());
    assert_eq!(read(octets, usize::from(*piece)), whole);
    for reply in &whole.0 {
        assert!((200..600).contains(&reply.code()) && reply.lines().count() <= 5);
        assert!(!reply.text().chars().any(char::is_control));
    }
});
