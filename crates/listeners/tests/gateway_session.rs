//! The session by itself, without a socket: its order as tables, and that pieces make no difference.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use callahead_listeners::gateway::session::{Event, Session, Terms};
use callahead_smtp::{EnhancedCode, Reply};
use proptest::prelude::*;

fn terms() -> Arc<Terms> {
    Arc::new(Terms {
        node: "filter.example".parse().unwrap(),
        message_size: 200,
        commands: 50,
        errors: 5,
        recipients: 3,
        dsn: true,
        starttls: true,
    })
}

fn reply(code: u16) -> Reply {
    Reply::new(code, EnhancedCode::new(u8::try_from(code / 100).unwrap(), 0, 0), "told")
}

/// All that was said, and all that had to be done, of octets that come in pieces. Recipients are accepted, but those with `bad`;
/// messages too. It ends where a handshake would begin.
fn dialogue(octets: &[u8], piece: usize) -> (String, Vec<String>) {
    let mut session = Session::new(terms(), "192.0.2.7".parse().unwrap(), true);
    let (mut said, mut events, mut content) = (String::new(), Vec::new(), Vec::new());
    let mut pieces = octets.chunks(piece.max(1));
    loop {
        let event = session.next();
        said.push_str(&String::from_utf8(session.take_output()).unwrap());
        let Some(event) = event else {
            let Some(piece) = pieces.next() else { return (said, events) };
            session.push(piece);
            continue;
        };
        let shown = match &event {
            Event::Content(more) => {
                content.extend_from_slice(more);
                continue;
            }
            // How far a message came that is not wanted depends on its pieces, and is nobody's affair.
            Event::Unfit(unfit) => format!("{unfit:?}"),
            Event::End | Event::ChunkEnd { .. } => format!("{event:?} {:?}", String::from_utf8_lossy(&content)),
            other => format!("{other:?}"),
        };
        if !matches!(event, Event::ChunkEnd { last: false } | Event::Chunk { .. }) {
            content.clear();
        }
        events.push(shown);
        match event {
            Event::Recipient(rcpt) => {
                let bad = rcpt.address.windows(3).any(|three| three == b"bad");
                session.answer(&reply(if bad { 550 } else { 250 }));
            }
            Event::Data => session.data_goes(),
            Event::Chunk { .. } => session.chunk_goes(),
            Event::End | Event::ChunkEnd { .. } => session.answer(&reply(250)),
            Event::StartTls | Event::Close => return (said, events),
            _ => {}
        }
    }
}

#[test]
fn commands_out_of_order_are_refused_and_in_order_taken() {
    for (octets, codes) in [
        ("MAIL FROM:<>\r\n", "503"),
        ("EHLO x\r\nRCPT TO:<a@b.example>\r\nDATA\r\nBDAT 0 LAST\r\n", "250 503 503 503"),
        ("EHLO x\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n", "250 250 503"),
        ("EHLO x\r\nMAIL FROM:<>\r\nDATA\r\n", "250 250 503"),
        ("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<bad@b.example>\r\nDATA\r\nBDAT 1\r\nx", "250 250 550 554 554"),
        ("EHLO x\r\nMAIL FROM:<>\r\nEHLO x\r\nRCPT TO:<a@b.example>\r\n", "250 250 250 503"),
        ("EHLO x\r\nMAIL FROM:<>\r\nRSET\r\nRCPT TO:<a@b.example>\r\n", "250 250 250 503"),
        ("HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n.\r\nMAIL FROM:<>\r\n", "250 250 250 354 250 250"),
        (
            "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nBDAT 1\r\nxDATA\r\nRSET\r\nMAIL FROM:<>\r\n",
            "250 250 250 250 503 250 250",
        ),
        ("EHLO x\r\nMAIL FROM:<> SIZE=201\r\nMAIL FROM:<> SIZE=200\r\n", "250 552 250"),
        (
            "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nRCPT TO:<bad@b.example>\r\nRCPT TO:<c@b.example>\r\nRCPT TO:<d@b.example>\r\n",
            "250 250 250 550 250 452",
        ),
        ("EHLO x\r\nXCLIENT ADDR=192.0.2.9\r\nMAIL FROM:<>\r\n", "250 220 503"),
        ("STARTTLS\r\n", "220"),
        ("QUIT\r\nNOOP\r\n", "221"),
        ("\r\n\r\n\r\n\r\n\r\n\r\n", "500 500 500 500 500 500 421"),
        ("NOOP\n", "521"),
        ("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\na\nb\r\n.\r\nNOOP\r\n", "250 250 250 354 550 250"),
    ] {
        let (said, _) = dialogue(octets.as_bytes(), usize::MAX);
        let last_lines = said.lines().skip(1).filter(|line| line.as_bytes()[3] == b' ');
        let given: Vec<&str> = last_lines.map(|line| &line[..3]).collect();
        assert_eq!(given.join(" "), codes, "{octets:?}\n{said}");
    }
}

#[test]
fn events_tell_what_is_to_be_done() {
    let octets = b"EHLO x\r\nMAIL FROM:<s@e.example>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n..x\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nBDAT 3\r\n.\r\nBDAT 1 LAST\r\nyMAIL FROM:<>\r\nRSET\r\nQUIT\r\n";
    let (_, events) = dialogue(octets, usize::MAX);
    let kinds: Vec<&str> = events.iter().map(|event| event.split(['(', '{']).next().unwrap().trim()).collect();
    assert_eq!(
        kinds,
        [
            "Recipient",
            "Data",
            "End \".x\\r\\n\"",
            "Recipient",
            "Chunk",
            "ChunkEnd",
            "Chunk",
            "ChunkEnd",
            "Reset",
            "Close"
        ]
    );
    assert_eq!(events[7], "ChunkEnd { last: true } \".\\r\\ny\"");
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        "EHLO x",
        "HELO x",
        "MAIL FROM:<>",
        "MAIL FROM:<s@e.example> SIZE=10",
        "RCPT TO:<a@b.example>",
        "RCPT TO:<bad@b.example>",
        "DATA",
        "DATA",
        "BDAT 5",
        "BDAT 5 LAST",
        "BDAT 0 LAST",
        "BDAT 900",
        "RSET",
        "NOOP",
        "QUIT",
        "XCLIENT ADDR=192.0.2.9",
        ".",
        "..",
        "x",
        "Received: y",
        "",
        "a\rb",
        "nul\0",
    ];
    prop_oneof![
        8 => proptest::sample::select(known.to_vec()).prop_map(|line| format!("{line}\r\n").into_bytes()),
        1 => proptest::sample::select(vec!["x\n", "\r", "\n.\r\n", "\0.\r\n"]).prop_map(|line| line.as_bytes().to_vec()),
        1 => (2040_usize..2060).prop_map(|length| [vec![b'N'; length], b"\r\n".to_vec()].concat()),
    ]
}

proptest! {
    #[test]
    fn any_pieces_of_the_same_octets_give_the_same_dialogue(lines in proptest::collection::vec(line(), 0..25), greeted: bool, piece in 1_usize..50) {
        let mut octets = if greeted { b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n".to_vec() } else { Vec::new() };
        octets.extend(lines.concat());
        prop_assert_eq!(dialogue(&octets, usize::MAX), dialogue(&octets, piece));
    }
}
