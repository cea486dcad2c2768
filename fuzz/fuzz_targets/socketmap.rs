//! Any octets in any pieces give the same requests and the same error. The first octet says how long the pieces are.
#![no_main]

use callahead_fuzz::requests;
use callahead_listeners::socketmap::Netstrings;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let Some((piece, octets)) = octets.split_first() else { return };
    assert_eq!(requests::<Netstrings>(octets, usize::from(*piece)), requests::<Netstrings>(octets, octets.len()));
});
