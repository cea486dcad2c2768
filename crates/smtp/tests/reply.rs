//! Replies: what is one, in pieces of any size, within limits, and against another reader.
#![allow(clippy::unwrap_used, missing_docs)]

use callahead_smtp::{EnhancedCode, Reply, ReplyError, ReplyLimits, ReplyReader};
use proptest::prelude::*;

fn read(octets: &[u8], piece: usize) -> (Vec<Reply>, Option<ReplyError>) {
    let mut reader = ReplyReader::new(ReplyLimits::default());
    let mut replies = Vec::new();
    for piece in octets.chunks(piece.max(1)) {
        reader.push(piece);
        loop {
            match reader.next_reply() {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(reader.next_reply(), Err(error.clone()), "an error stays");
                    return (replies, Some(error));
                }
            }
        }
    }
    (replies, None)
}

fn one(text: &str) -> Reply {
    let (replies, error) = read(text.as_bytes(), 4096);
    assert_eq!((replies.len(), error), (1, None), "{text:?}");
    replies.into_iter().next().unwrap()
}

#[test]
fn replies_are_read_as_servers_write_them() {
    let code = |a, b, c| EnhancedCode::new(a, b, c);
    for (text, number, enhanced, said) in [
        ("250 2.1.5 Ok\r\n", 250, code(2, 1, 5), "Ok"),
        ("250 Ok\r\n", 250, None, "Ok"),
        ("250\r\n", 250, None, ""),
        ("250 \r\n", 250, None, ""),
        ("550 5.7.509 Access denied\r\n", 550, code(5, 7, 509), "Access denied"),
        ("550 5.4.310 DNS\r\n", 550, code(5, 4, 310), "DNS"),
        ("550-5.1.1 No such\r\n550 5.1.1 user\r\n", 550, code(5, 1, 1), "No such user"),
        ("550-Hello\r\n550 5.1.1 user\r\n", 550, code(5, 1, 1), "Hello user"),
        ("550 4.1.1 of another class\r\n", 550, None, "4.1.1 of another class"),
        ("550 5.01.1 with a zero\r\n", 550, None, "5.01.1 with a zero"),
        ("550 5.1.1\r\n", 550, code(5, 1, 1), ""),
        ("571 sorry (#5.7.1)\r\n", 571, code(5, 7, 1), "sorry (#5.7.1)"),
        ("522 full (#5.2.2 - chkuser)\r\n", 522, code(5, 2, 2), "full (#5.2.2 - chkuser)"),
        (
            "550-a (#4.1.1), (#5.x), (#)\r\n550 b (#5.1.1) (#5.7.1)\r\n",
            550,
            code(5, 1, 1),
            "a (#4.1.1), (#5.x), (#) b (#5.1.1) (#5.7.1)",
        ),
        ("550-5.1.1 a (#5.7.1)\r\n550 b\r\n", 550, code(5, 1, 1), "a (#5.7.1) b"),
        ("550 ticket (5.7.1), #5.7.1, (#5.7.1.2), (#5.7\r\n", 550, None, "ticket (5.7.1), #5.7.1, (#5.7.1.2), (#5.7"),
        ("250-one\n250 two\n", 250, None, "one two"),
        ("250 a\rb\u{7}c\r\n", 250, None, "a?b?c"),
        ("550 \u{fc}n\u{ef}\r\n", 550, None, "\u{fc}n\u{ef}"),
    ] {
        let reply = one(text);
        assert_eq!((reply.code(), reply.enhanced(), reply.text().as_str()), (number, enhanced, said), "{text:?}");
    }
    assert_eq!(read(b"550 \xff\xfe\r\n", 3).0[0].text(), "\u{fffd}\u{fffd}");
    assert_eq!(one("550-5.1.1 No such\r\n550 5.1.1 user\r\n").to_string(), "550 5.1.1 No such user");
}

#[test]
fn what_is_no_reply_is_an_error() {
    for text in [
        "199 x\r\n",
        "600 x\r\n",
        "999 x\r\n",
        "25 x\r\n",
        "2500 x\r\n",
        "abc x\r\n",
        "\r\n",
        "250_x\r\n",
        " 250 x\r\n",
        "250\tx\r\n",
    ] {
        assert!(matches!(read(text.as_bytes(), 4096).1, Some(ReplyError::NotAReply { .. })), "{text:?}");
    }
    assert_eq!(read(b"550-a\r\n551 b\r\n", 7).1, Some(ReplyError::CodeChanged { first: 550, then: 551 }));
    assert!(matches!(read(&[b'2'; 5000], 100).1, Some(ReplyError::LineTooLong { limit: 4096 })));
    let endless = "250-x\r\n".repeat(101);
    assert_eq!(read(endless.as_bytes(), 50).1, Some(ReplyError::TooManyLines { limit: 100 }));
    let long = format!("250-{}\r\n", "x".repeat(4000)).repeat(20);
    assert_eq!(read(long.as_bytes(), 1000).1, Some(ReplyError::TooLong { limit: 65_536 }));
}

#[test]
fn limits_are_met_to_the_octet() {
    let read = |octets: &str| {
        let mut reader = ReplyReader::new(ReplyLimits { line: 10, lines: 2, total: 19 });
        reader.push(octets.as_bytes());
        reader.next_reply()
    };
    let line_too_long = Err(ReplyError::LineTooLong { limit: 10 });
    assert!(read("250 1234\r\n").unwrap().is_some());
    assert_eq!(read("250 12345\r\n"), line_too_long);
    assert_eq!(read("250 12345"), Ok(None), "it may end with the next octet");
    assert_eq!(read("250 123456"), line_too_long, "it can't");
    assert_eq!(read("250-1\r\n250 123456"), line_too_long, "whatever came before");
    assert_eq!(read("250-1\r\n250 12345"), Ok(None));
    assert!(read("250-1234\r\n250 123\r\n").unwrap().is_some());
    assert_eq!(read("250-1234\r\n250 1234\r\n"), Err(ReplyError::TooLong { limit: 19 }));
    assert!(read("250-\r\n250 \r\n").unwrap().is_some());
    assert_eq!(read("250-\r\n250-\r\n250 "), Ok(None));
    assert_eq!(read("250-\r\n250-\r\n250\n"), Err(ReplyError::TooManyLines { limit: 2 }));
}

#[test]
fn a_reply_is_of_the_class_of_its_first_digit() {
    for (code, classes) in [
        (200, [true, false, false]),
        (299, [true, false, false]),
        (354, [false; 3]),
        (400, [false, true, false]),
        (499, [false, true, false]),
        (500, [false, false, true]),
        (599, [false, false, true]),
    ] {
        let reply = Reply::new(code, None, "x");
        assert_eq!([reply.is_positive(), reply.is_transient(), reply.is_permanent()], classes, "{code}");
    }
}

#[test]
fn what_is_no_reply_is_shown_without_what_a_terminal_would_obey() {
    let error = read(b"2x0 \x1b[2J\x07 \xff", 100).1;
    assert_eq!(error, None, "its line may go on");
    let error = read(b"2x0 \x1b[2J\x07 \xff\r\n", 100).1.unwrap();
    assert_eq!(error, ReplyError::NotAReply { line: "2x0 ?[2J? \u{fffd}".into() });
}

#[test]
fn enhanced_codes_have_three_numbers_of_three_digits_at_most() {
    for (text, is_one) in [
        ("5.1.1", true),
        ("5.999.999", true),
        ("5.0.0", true),
        ("5.1000.1", false),
        ("5.1.1000", false),
        ("5..1", false),
        ("5.1.", false),
        ("5.00.1", false),
        ("5.1.1.1", false),
        ("5.+1.1", false),
        ("5.1.x", false),
        ("3.1.1", false),
    ] {
        let reply = one(&format!("{}50 {text} words\r\n", &text[..1]));
        assert_eq!(reply.enhanced().is_some(), is_one, "{text}");
    }
}

#[test]
fn what_is_left_over_is_told() {
    let mut reader = ReplyReader::new(ReplyLimits::default());
    reader.push(b"250 Ok\r\n550 more");
    assert!(reader.next_reply().unwrap().is_some());
    assert!(reader.has_partial());
    assert_eq!(reader.next_reply(), Ok(None));
    reader.push(b"\r\n");
    assert!(reader.next_reply().unwrap().is_some());
    assert!(!reader.has_partial());
    // All that came is read, and it is the beginning of something.
    reader.push(b"250-first\r\n");
    assert_eq!(reader.next_reply(), Ok(None));
    assert!(reader.has_partial());
}

fn sessions() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        8 => "[2-5][0-9][0-9][ -][ -~]{0,30}\r\n",
        2 => "[245][0-9][0-9] [245]\\.[0-9]{1,3}\\.[0-9]{1,3} [ -~]{0,20}\r\n",
        1 => "[2-5][0-9][0-9]\n",
        1 => "\\PC{0,12}\r\n",
    ];
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_the_same_octets_gives_the_same_replies(octets in sessions(), piece in 1usize..40) {
        prop_assert_eq!(read(&octets, piece), read(&octets, usize::MAX));
    }

    #[test]
    fn any_octets_in_any_pieces_are_replies_or_an_error(octets in proptest::collection::vec(any::<u8>(), 0..2000), piece in 1usize..300) {
        prop_assert_eq!(read(&octets, piece), read(&octets, usize::MAX));
    }

    /// smtp-proto is known to cut codes above 255 and to take replies whose code changes, so neither is asked here.
    #[test]
    fn another_reader_reads_the_same(
        code in 200u16..600, enhanced in proptest::option::of((0u16..256, 0u16..256)),
        texts in proptest::collection::vec("[a-zA-Z][a-zA-Z ]{0,20}[a-zA-Z]", 1..4),
    ) {
        let class = code / 100;
        prop_assume!(class != 3 && code % 100 / 10 < 6);
        let mut octets = Vec::new();
        for (n, text) in texts.iter().enumerate() {
            let mark = if n + 1 == texts.len() { ' ' } else { '-' };
            let enhanced = enhanced.map(|(a, b)| format!("{class}.{a}.{b} ")).unwrap_or_default();
            octets.extend_from_slice(format!("{code}{mark}{enhanced}{text}\r\n").as_bytes());
        }
        let theirs = smtp_proto::response::parser::ResponseReceiver::default().parse(&mut octets.iter());
        let (ours, error) = read(&octets, 7);
        prop_assert_eq!(error, None);
        let theirs = theirs.map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
        prop_assert_eq!(theirs.code, ours[0].code());
        let ours = ours[0].enhanced().map_or([0, 0, 0], |e| [u16::from(e.class()), e.subject(), e.detail()]);
        prop_assert_eq!(theirs.esc.map(u16::from), ours);
    }
}
