#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::reader::read_in_pieces;

fn netstring(content: &str) -> Vec<u8> {
    format!("{}:{content},", content.len()).into_bytes()
}

fn read_split(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Request>, RequestError> {
    let (requests, error) = read_in_pieces::<Netstrings>(bytes, cuts);
    error.map_or(Ok(requests), Err)
}

#[test]
fn a_map_and_a_key_are_read_in_any_pieces() {
    let bytes = [netstring("recipients joe@example.com"), netstring("x"), netstring("")].concat();
    let whole = read_split(&bytes, &[]).unwrap();
    assert_eq!(whole[0], Request { map: b"recipients".to_vec(), key: Some(b"joe@example.com".to_vec()) });
    assert_eq!(whole[1], Request { map: b"x".to_vec(), key: None });
    assert_eq!(whole[2], Request { map: Vec::new(), key: None });
    for cut in 0..=bytes.len() {
        assert_eq!(read_split(&bytes, &[cut]).unwrap(), whole, "cut at {cut}");
    }
}

#[test]
fn a_key_may_hold_spaces_and_commas() {
    let requests = read_split(&netstring("recipients \"a b,c\"@example.com"), &[]).unwrap();
    assert_eq!(requests[0].key.as_deref(), Some(&b"\"a b,c\"@example.com"[..]));
}

#[test]
fn what_is_no_netstring_is_an_error_as_soon_as_it_can_be_told() {
    for (bytes, error) in [
        (&b"GET / HTTP/1.1"[..], RequestError::NoLength),
        (b":", RequestError::NoLength),
        (b"-1:", RequestError::NoLength),
        (b"01:a,", RequestError::NoLength),
        (b"3:abcd", RequestError::NoComma),
        (b"10001", RequestError::TooLong),
        (b"99999999999999999999", RequestError::TooLong),
    ] {
        assert_eq!(read_split(bytes, &[]), Err(error), "{}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(read_split(&netstring(&"x".repeat(MAX_REQUEST)), &[]).unwrap().len(), 1);
}

#[test]
fn a_full_address_has_something_on_both_sides() {
    for (address, full) in
        [("a@b", true), ("a@b@c", true), ("@@b", true), ("@b", false), ("a@", false), ("a@b@", false), ("a", false)]
    {
        assert_eq!(is_full(address.as_bytes()), full, "{address}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_bytes_in_any_pieces_give_the_same_and_never_panic(
        bytes in prop::collection::vec(prop_oneof![
            3 => "[a-z ]{0,8}".prop_map(|content| netstring(&content)), 1 => prop::collection::vec(any::<u8>(), 0..8),
            1 => "[0-9]{1,6}:".prop_map(String::into_bytes),
        ], 0..8).prop_map(|parts| parts.concat()),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(read_split(&bytes, &[]), read_split(&bytes, &cuts));
    }
}
