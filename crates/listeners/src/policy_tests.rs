#![allow(clippy::unwrap_used)]

use callahead_smtp::EnhancedCode;
use proptest::prelude::*;

use super::*;
use crate::reader::{Reader, read_in_pieces};

const POSTFIX: &str = "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nhelo_name=a.example\n\
    queue_id=8045F2AB23\nsender=foo@bar.example\nrecipient=joe@example.com\nrecipient_count=0\n\
    client_address=2001:db8::7\nclient_name=unknown\ninstance=123.456.7\nsize=12345\n\n";

/// In pieces that end at the given places; requests are taken as soon as they are whole.
fn read_split(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Request>, RequestError> {
    let (requests, error) = read_in_pieces::<Attributes>(bytes, cuts);
    error.map_or(Ok(requests), Err)
}

fn read(bytes: &[u8]) -> Result<Vec<Request>, RequestError> {
    read_split(bytes, &[])
}

#[test]
fn what_postfix_sends_is_read() {
    let request = read(POSTFIX.as_bytes()).unwrap().remove(0);
    assert_eq!(
        request,
        Request {
            is_access_policy: true,
            is_rcpt: true,
            recipient: Some(b"joe@example.com".to_vec()),
            client: Some("2001:db8::7".parse().unwrap()),
            sender: Some("foo@bar.example".into()),
            instance: Some("123.456.7".into()),
        }
    );
}

#[test]
fn a_request_is_begun_by_its_first_octet_and_over_with_its_empty_line() {
    let mut reader = Reader::<Attributes>::default();
    assert!(!reader.has_partial());
    for piece in ["r", "equest=x\n", "protocol_state=RCPT\n"] {
        reader.push(piece.as_bytes());
        assert_eq!(reader.read(), Ok(None));
        assert!(reader.has_partial(), "behind {piece:?}");
    }
    reader.push(b"\n");
    assert!(reader.read().unwrap().is_some() && !reader.has_partial());
}

#[test]
fn empty_lines_before_a_request_are_read_over() {
    assert_eq!(read(format!("\n\r\n{POSTFIX}\n\n{POSTFIX}").as_bytes()).unwrap().len(), 2);
}

#[test]
fn every_split_reads_the_same() {
    let twice = format!("{POSTFIX}{POSTFIX}");
    let whole = read(twice.as_bytes()).unwrap();
    assert_eq!(whole.len(), 2);
    for cut in 0..=twice.len() {
        assert_eq!(read_split(twice.as_bytes(), &[cut]).unwrap(), whole, "cut at {cut}");
    }
    let each: Vec<_> = (0..twice.len()).collect();
    assert_eq!(read_split(twice.as_bytes(), &each).unwrap(), whole);
}

#[test]
fn lines_may_end_in_cr_lf_and_values_may_hold_equals_signs() {
    let request = read(b"request=smtpd_access_policy\r\nrecipient=a=b@example.com\r\n\r\n").unwrap().remove(0);
    assert_eq!(request.recipient.unwrap(), b"a=b@example.com");
}

#[test]
fn a_client_without_an_ip_address_is_unknown_and_a_mapped_one_is_ipv4() {
    let client = |value: &str| read(format!("client_address={value}\n\n").as_bytes()).unwrap().remove(0).client;
    assert_eq!(client("unknown"), None);
    assert_eq!(client(""), None);
    assert_eq!(client("::ffff:192.0.2.1"), Some("192.0.2.1".parse().unwrap()));
}

#[test]
fn a_request_that_was_not_rcpt_does_not_colour_the_next_one() {
    let requests =
        read(b"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=a@b\n\nrequest=other\n\n").unwrap();
    assert_eq!(requests[1], Request::default());
}

#[test]
fn every_limit_holds_at_its_number() {
    let line = |length: usize| format!("a={}\n\n", "x".repeat(length - 2));
    assert_eq!(read(line(MAX_LINE).as_bytes()).unwrap().len(), 1);
    assert_eq!(read(line(MAX_LINE + 1).as_bytes()), Err(RequestError::LineTooLong));
    assert_eq!(read(&vec![b'x'; MAX_LINE + 2]), Err(RequestError::LineTooLong), "without its end, too");
    assert_eq!(read(&vec![b'x'; MAX_LINE + 1]), Ok(Vec::new()), "the last may be the CR of its end");

    assert_eq!(read(format!("{}\n", "a=b\n".repeat(MAX_ATTRIBUTES)).as_bytes()).unwrap().len(), 1);
    assert_eq!(read("a=b\n".repeat(MAX_ATTRIBUTES + 1).as_bytes()), Err(RequestError::TooManyAttributes));

    let lines = format!("a={}\n", "x".repeat(4000)).repeat(16);
    let last = |octets: usize| format!("{lines}b={}", "x".repeat(octets - lines.len() - 2));
    assert_eq!(read((last(MAX_REQUEST - 2) + "\n\n").as_bytes()).unwrap().len(), 1);
    assert_eq!(read((last(MAX_REQUEST - 1) + "\n\n").as_bytes()), Err(RequestError::TooLong));
    assert_eq!(read(last(MAX_REQUEST).as_bytes()), Ok(Vec::new()));
    assert_eq!(read(last(MAX_REQUEST + 1).as_bytes()), Err(RequestError::TooLong), "without its end, too");
}

#[test]
fn what_is_no_attribute_is_an_error_that_stays() {
    for bad in ["GET / HTTP/1.1\n", "=x\n", "a=\0\n"] {
        let mut reader = Reader::<Attributes>::default();
        reader.push(bad.as_bytes());
        let error = reader.read().unwrap_err();
        reader.push(POSTFIX.as_bytes());
        assert_eq!(reader.read(), Err(error), "{bad:?}");
    }
}

#[test]
fn an_answer_is_one_action_whatever_its_text_holds() {
    let answer = |action, code, text: &'static str| Answer {
        action,
        code,
        enhanced: EnhancedCode::new(5, 1, 1),
        text: text.into(),
    };
    let action = |answer: &Answer| {
        let mut output = Vec::new();
        super::action(answer, &mut output);
        output
    };
    let bytes = action(&answer(Action::Reject, Some(550), "no\r\n\r\naction=OK\0"));
    assert_eq!(bytes, b"action=550 5.1.1 no    action=OK \n\n");
    assert_eq!(action(&answer(Action::Accept, Some(250), "fine")), b"action=DUNNO\n\n");
    assert_eq!(action(&answer(Action::None, None, "")), b"action=DUNNO\n\n");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_bytes_in_any_pieces_give_the_same_and_never_panic(
        bytes in prop::collection::vec(prop_oneof![
            3 => Just(b"request=smtpd_access_policy\n".to_vec()), 2 => Just(b"\n".to_vec()), 1 => Just(b"\r\n".to_vec()),
            2 => Just(b"recipient=a@b\n".to_vec()), 2 => prop::collection::vec(any::<u8>(), 0..20),
        ], 0..12).prop_map(|parts| parts.concat()),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        // Requests before an error come out either way; `read` gives them up, so they are compared where there is none.
        prop_assert_eq!(read(&bytes), read_split(&bytes, &cuts));
    }
}
