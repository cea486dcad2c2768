//! Any octets in any pieces give the same replies and the same events; what is to go out never has a bare CR or LF in it. The first octet
//! says how long the pieces are.
#![no_main]

use std::sync::Arc;

use callahead_listeners::gateway::session::{Event, Session, Terms};
use callahead_smtp::Reply;
use libfuzzer_sys::fuzz_target;

fn dialogue(terms: &Arc<Terms>, octets: &[u8], piece: usize) -> (Vec<u8>, Vec<String>) {
    let mut session = Session::new(Arc::clone(terms), [192, 0, 2, 7].into(), true);
    let (mut said, mut events, mut content) = (Vec::new(), Vec::new(), Vec::new());
    let mut pieces = octets.chunks(piece);
    loop {
        let event = session.next();
        said.extend(session.take_output());
        let Some(event) = event else {
            let Some(piece) = pieces.next() else { return (said, events) };
            session.push(piece);
            continue;
        };
        match event {
            Event::Content(more) => {
                content.extend(more);
                continue;
            }
            // How far it came depends on its pieces.
            Event::Unfit(_) => {}
            Event::End | Event::ChunkEnd { last: true } => {
                let bare = content.iter().enumerate().any(|(at, octet)| match octet {
                    b'\r' => content.get(at + 1) != Some(&b'\n'),
                    b'\n' => at == 0 || content[at - 1] != b'\r',
                    _ => false,
                });
                assert!(!bare, "a bare CR or LF would go out");
                events.push(format!("{event:?} {content:?}"));
            }
            ref other => events.push(format!("{other:?}")),
        }
        match event {
            Event::Recipient(ref rcpt) => {
                let code = if rcpt.address.starts_with(b"x") { 550 } else { 250 };
                session.answer(&Reply::new(code, None, ""));
            }
            Event::Data => session.data_goes(),
            Event::Chunk { .. } => session.chunk_goes(),
            Event::ChunkEnd { last: false } => {
                session.answer(&Reply::new(250, None, ""));
                continue;
            }
            Event::End | Event::ChunkEnd { last: true } => session.answer(&Reply::new(250, None, "")),
            Event::StartTls | Event::Close => return (said, events),
            Event::Content(_) | Event::Unfit(_) | Event::Failed(_) | Event::Reset => {}
        }
        if !matches!(event, Event::Chunk { .. }) {
            content.clear();
        }
    }
}

fuzz_target!(|octets: &[u8]| {
    let Some((piece, octets)) = octets.split_first() else { return };
    let Ok(node) = "filter.example".parse() else { return };
    let terms = Terms { node, message_size: 300, commands: 60, errors: 8, recipients: 4, dsn: true, starttls: true };
    let terms = Arc::new(terms);
    // STARTTLS looks at what has come behind it, which is a matter of pieces.
    if octets.to_ascii_uppercase().windows(8).any(|word| word == b"STARTTLS") {
        return;
    }
    assert_eq!(dialogue(&terms, octets, usize::from(*piece).max(1)), dialogue(&terms, octets, octets.len().max(1)));
});
