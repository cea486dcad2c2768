#![allow(clippy::unwrap_used)]

use callahead_smtp::EnhancedCode;
use proptest::prelude::*;

use super::*;
use crate::reader::{Reader, read_in_pieces};

fn packet(command: u8, data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    [&u32::try_from(data.len() + 1).unwrap().to_be_bytes()[..], &[command], data].concat()
}

fn optneg(version: u32, actions: u32, protocol: u32) -> Vec<u8> {
    packet(b'O', [version, actions, protocol].map(u32::to_be_bytes).concat())
}

/// What Sendmail 8.17 and Postfix 3.7 offer.
fn modern() -> Vec<u8> {
    optneg(6, 0x1ff, 0x1f_ffff)
}

fn events(packets: &[Vec<u8>]) -> Vec<Event> {
    let (events, error) = read_in_pieces::<Session>(&packets.concat(), &[]);
    assert_eq!(error, None, "{events:?}");
    events
}

fn error(packets: &[Vec<u8>]) -> MilterError {
    read_in_pieces::<Session>(&packets.concat(), &[]).1.expect("an error")
}

fn ask(packets: &[Vec<u8>]) -> Ask {
    let packets = [&[modern()], packets].concat();
    match events(&packets).pop() {
        Some(Event::Ask(ask)) => ask,
        other => panic!("no question: {other:?}"),
    }
}

fn client_of(connect: &[u8]) -> Option<String> {
    ask(&[packet(b'C', connect), packet(b'R', "<a@b.example>\0")]).client.map(|ip| ip.to_string())
}

const CONTINUE: Event = Event::Reply(Reply::Continue);
const ACCEPT: Event = Event::Reply(Reply::Accept);

/// One of each step of a message, in their order.
fn all_steps() -> [Vec<u8>; 10] {
    [
        packet(b'C', b"mail.sender.example\x004\x1f\x90192.0.2.7\0"),
        packet(b'H', "mail.sender.example\0"),
        packet(b'M', "<s@sender.example>\0SIZE=10\0"),
        packet(b'U', "FOO\0"),
        packet(b'T', ""),
        packet(b'L', "Subject\0 x\0"),
        packet(b'N', ""),
        packet(b'B', "hello\r\n"),
        packet(b'E', ""),
        packet(b'A', ""),
    ]
}

#[test]
fn what_is_agreed_is_what_is_needed_of_what_is_offered() {
    // Version, actions and steps as offered; version, steps and macro lists as agreed.
    for (offered, version, protocol, macros) in [
        ((2, 0x3f, 0x7f), 2, 0x72, false),
        ((3, 0x3f, 0x17f), 3, 0x172, false),
        ((4, 0x3f, 0x37f), 4, 0x172, false),
        ((6, 0x1ff, 0x1f_ffff), 6, 0x5172, true),
        ((6, 0xff, 0x1f_ffff), 6, 0x5172, false),
        ((6, 0x1ff, 0), 6, 0, true),
        // No step can be left out, but none needs a reply.
        ((6, 0, 0xff_f080), 6, 0xe_7080, false),
        // With the bits for larger packets (SMFIP_MDS_1M), and all that may come.
        ((6, 0x1ff, 0x301f_ffff), 6, 0x5172, true),
        ((7, u32::MAX, u32::MAX), 6, 0x5172, true),
    ] {
        let agreed = events(&[optneg(offered.0, offered.1, offered.2)]).remove(0);
        assert_eq!(agreed, Event::Reply(Reply::Agreed(Agreement { version, protocol, macros })), "{offered:x?}");
        assert_eq!(protocol & !offered.2, 0, "nothing is asked for that is not offered");
    }
}

#[test]
fn versions_before_2_are_refused() {
    for version in [0, 1] {
        assert_eq!(error(&[optneg(version, 0x3f, 0x7f)]), MilterError::Version(version));
    }
    assert_eq!(error(&[packet(b'O', [0; 11])]), MilterError::CutOff("negotiation"));
}

#[test]
fn each_step_has_its_reply_unless_it_was_agreed_that_it_has_none() {
    let every = [CONTINUE, CONTINUE, CONTINUE, CONTINUE, ACCEPT, CONTINUE, CONTINUE, CONTINUE, CONTINUE, Event::Quiet];
    let mut modern_replies = every.clone();
    (modern_replies[0], modern_replies[2]) = (Event::Quiet, Event::Quiet);
    let mut quiet = [const { Event::Quiet }; 10];
    // The end of a message always has a reply, and so has DATA, with which its content is done with here.
    (quiet[4], quiet[8]) = (ACCEPT, CONTINUE);
    for (offered, replies) in [
        (optneg(2, 0x3f, 0x7f), &every),
        (optneg(6, 0, 0), &every),
        // Steps that were to be left out and come all the same are answered.
        (modern(), &modern_replies),
        (optneg(6, 0, 0xff_f080), &quiet),
    ] {
        let given = events(&[&[offered], &all_steps()[..]].concat());
        assert_eq!(&given[1..], replies);
    }
}

#[test]
fn the_answer_to_the_negotiation_asks_for_no_action_and_lists_the_macros() {
    let Event::Reply(reply) = events(&[modern()]).remove(0) else { panic!() };
    let lists = b"\0\0\0\0{client_addr}\0\0\0\0\x01\0\0\0\0\x02i\0\0\0\0\x03i {rcpt_addr}\0\0\0\0\x04\0\0\0\0\x05\0\0\0\0\x06\0";
    let expected = [b"\0\0\0\x06\0\0\0\0\0\0\x51\x72", &lists[..]].concat();
    assert_eq!(reply.encode(), packet(b'O', expected));
    let Event::Reply(reply) = events(&[optneg(2, 0x3f, 0x7f)]).remove(0) else { panic!() };
    assert_eq!(reply.encode(), packet(b'O', b"\0\0\0\x02\0\0\0\0\0\0\0\x72"));
    assert_eq!(Reply::Continue.encode(), b"\0\0\0\x01c");
    assert_eq!(Reply::Accept.encode(), b"\0\0\0\x01a");
}

#[test]
fn percent_signs_are_doubled_because_sendmail_takes_the_text_for_a_format() {
    let reply = Reply::Code("451 4.4.0 100% full, %s".into());
    assert_eq!(reply.encode(), packet(b'y', "451 4.4.0 100%% full, %%s\0"));
}

#[test]
fn a_question_has_the_recipient_the_client_and_the_sender() {
    let asked = ask(&[
        packet(b'D', b"C{client_addr}\x00192.0.2.99\0"),
        packet(b'C', b"mail.sender.example\x004\x1f\x90192.0.2.7\0"),
        packet(b'D', b"Mi\0QUEUE1\0"),
        packet(b'M', "<s@sender.example>\0SIZE=10\0BODY=8BITMIME\0"),
        packet(b'D', b"R"),
        packet(b'R', "<anna@example.com>\0NOTIFY=NEVER\0"),
    ]);
    assert_eq!(
        asked,
        Ask {
            recipient: b"anna@example.com".to_vec(),
            resolved: None,
            client: Some("192.0.2.7".parse().unwrap()),
            client_name: Some("mail.sender.example".into()),
            sender: Some("s@sender.example".into()),
            queue_id: Some("QUEUE1".into()),
        }
    );
}

#[test]
fn addresses_are_taken_out_of_their_brackets_and_parameters_are_left() {
    for (given, recipient) in [
        ("<anna@example.com>\0", "anna@example.com"),
        ("anna@example.com\0NOTIFY=NEVER\0", "anna@example.com"),
        (" <anna@example.com> \0", "anna@example.com"),
        ("<\"a>b\"@example.com>\0ORCPT=rfc822;x@y\0", "\"a>b\"@example.com"),
        ("<@relay.example:anna@example.com>\0", "@relay.example:anna@example.com"),
        ("<d\u{f6}ner@example.com>\0", "d\u{f6}ner@example.com"),
        ("<>\0", ""),
        ("<anna@example.com\0", "<anna@example.com"),
    ] {
        assert_eq!(ask(&[packet(b'R', given)]).recipient, recipient.as_bytes(), "{given:?}");
    }
}

#[test]
fn the_client_is_known_in_each_form_that_mtas_write() {
    let known = |text: &str| Some(text.to_owned());
    assert_eq!(client_of(b"x\x004\0\x19192.0.2.7\0"), known("192.0.2.7"));
    assert_eq!(client_of(b"x\x006\0\x19IPv6:2001:db8::7\0"), known("2001:db8::7"));
    assert_eq!(client_of(b"x\x006\0\x192001:db8::7\0"), known("2001:db8::7"));
    assert_eq!(client_of(b"x\x006\0\x19fe80::7%eth0\0"), known("fe80::7"));
    assert_eq!(client_of(b"x\x006\0\x19::ffff:192.0.2.7\0"), known("192.0.2.7"));
    assert_eq!(client_of(b"x\x00L\0\0/run/x.sock\0"), None);
    assert_eq!(client_of(b"x\x00U"), None);
    assert_eq!(client_of(b"\x004\0\x19unknown\0"), None);
    let macros = packet(b'D', b"Cj\0mx.example\0{client_addr}\x002001:db8::8\0");
    let asked = ask(&[macros, packet(b'C', b"localhost\0U"), packet(b'R', "<a@b.example>\0")]);
    assert_eq!(asked.client, Some("2001:db8::8".parse().unwrap()), "from the macro, where CONNECT has none");
    let earlier = packet(b'D', b"C{client_addr}\x00192.0.2.99\0");
    let asked = ask(&[earlier, packet(b'D', b"C"), packet(b'C', b"localhost\0U"), packet(b'R', "<a@b.example>\0")]);
    assert_eq!(asked.client, None, "the macros before CONNECT are the last ones");
}

#[test]
fn nothing_of_one_message_or_client_is_left_for_the_next() {
    let mail = packet(b'M', "<s@sender.example>\0");
    let rcpt = packet(b'R', "<a@b.example>\0");
    let connect = packet(b'C', b"one.example\x004\0\x19192.0.2.7\0");
    let id = packet(b'D', b"Mi\0ONE\0");
    for end in [b'A', b'E'] {
        let asked = ask(&[connect.clone(), id.clone(), mail.clone(), packet(end, ""), rcpt.clone()]);
        assert_eq!((asked.sender, asked.queue_id), (None, None));
        assert!(asked.client.is_some(), "the client is still there");
    }
    let asked = ask(&[id.clone(), mail.clone(), packet(b'D', b"M"), packet(b'M', "<>\0"), rcpt.clone()]);
    assert_eq!((asked.sender.as_deref(), asked.queue_id), (Some(""), None));
    for new in [vec![packet(b'K', "")], vec![packet(b'K', ""), packet(b'C', b"two.example\0U")]] {
        let asked = ask(&[vec![connect.clone(), id.clone(), mail.clone()], new, vec![rcpt.clone()]].concat());
        assert_eq!((asked.client, asked.sender, asked.queue_id), (None, None, None));
        assert_ne!(asked.client_name.as_deref(), Some("one.example"));
    }
}

#[test]
fn what_the_mta_makes_of_a_recipient_is_for_that_one_only() {
    let macros = |value: &str| packet(b'D', format!("R{{rcpt_addr}}\0{value}\0"));
    let rcpt = packet(b'R', "<a%b.example@mx.example>\0");
    let resolved = |packets: &[Vec<u8>]| ask(packets).resolved.map(|address| String::from_utf8(address).unwrap());
    assert_eq!(resolved(&[macros("a@b.example"), rcpt.clone()]).as_deref(), Some("a@b.example"));
    assert_eq!(resolved(&[macros("a"), rcpt.clone()]), None, "a mailbox of the MTA's own");
    assert_eq!(resolved(&[macros("a@b.example"), rcpt.clone(), rcpt.clone()]), None);
    assert_eq!(resolved(&[macros("a@b.example"), packet(b'D', "R"), rcpt.clone()]), None, "of one that was refused");
    assert_eq!(resolved(&[macros("a@b.example"), packet(b'A', ""), rcpt]), None);
}

#[test]
fn after_quit_nothing_is_read_any_more() {
    let mut session = Reader::<Session>::default();
    session.push(&[modern(), packet(b'Q', ""), b"garbage".to_vec()].concat());
    while session.read().unwrap().is_some() {}
    assert!(session.is_over() && !session.has_partial());
    session.push(b"\0\0\0\0more garbage");
    assert_eq!(session.read(), Ok(None));
    assert_eq!(session.buffered(), 0);
}

#[test]
fn what_is_no_dialogue_is_an_error_that_stays() {
    for (packets, expected) in [
        (vec![vec![0, 0, 0, 0]], MilterError::NoCommand),
        (vec![b"GET / HTTP/1.1\r\n".to_vec()], MilterError::TooLong),
        (vec![vec![255; 4]], MilterError::TooLong),
        (vec![packet(b'z', "")], MilterError::UnknownCommand(b'z')),
        (vec![packet(b'R', "<a@b.example>\0")], MilterError::NotNegotiated),
        (vec![packet(b'Q', "")], MilterError::NotNegotiated),
        (vec![modern(), modern()], MilterError::NegotiatedTwice),
        (vec![modern(), packet(b'R', "")], MilterError::CutOff("RCPT")),
        (vec![modern(), packet(b'R', "<a@b.example>")], MilterError::CutOff("RCPT")),
        (vec![modern(), packet(b'M', "<a@b.example>")], MilterError::CutOff("MAIL")),
        (vec![modern(), packet(b'C', "name")], MilterError::CutOff("CONNECT")),
        (vec![modern(), packet(b'C', "name\0")], MilterError::CutOff("CONNECT")),
        (vec![modern(), packet(b'C', b"name\x004\0")], MilterError::CutOff("CONNECT")),
        (vec![modern(), packet(b'C', b"name\x004\0\x19192.0.2.7")], MilterError::CutOff("CONNECT")),
        (vec![modern(), packet(b'D', "")], MilterError::CutOff("macros")),
        (vec![modern(), packet(b'D', "Ci")], MilterError::CutOff("macros")),
        (vec![modern(), packet(b'D', "Ci\0")], MilterError::CutOff("macros")),
        (vec![modern(), packet(b'D', "Ci\0x")], MilterError::CutOff("macros")),
    ] {
        assert_eq!(error(&packets), expected, "{packets:?}");
        let mut session = Reader::<Session>::default();
        session.push(&packets.concat());
        while session.read().is_ok() {}
        session.push(&modern());
        assert_eq!(session.read(), Err(expected), "{packets:?}");
        assert_eq!(session.buffered(), 0);
    }
}

#[test]
fn every_bound_holds_at_its_number() {
    let rcpt = |length: usize| [vec![b'x'; length - 1], vec![0]].concat();
    assert_eq!(ask(&[packet(b'R', rcpt(MAX_DATA))]).recipient.len(), MAX_DATA - 1);
    assert_eq!(error(&[modern(), packet(b'R', rcpt(MAX_DATA + 1))]), MilterError::TooLong);
    let body = |length: usize| packet(b'B', vec![b'x'; length]);
    assert_eq!(events(&[modern(), body(MAX_PACKET - 1)])[1], CONTINUE);
    assert_eq!(error(&[modern(), body(MAX_PACKET)]), MilterError::TooLong);
}

#[test]
fn a_message_that_comes_all_the_same_is_read_over_and_never_held() {
    let mut session = Reader::<Session>::default();
    session.push(&[modern(), packet(b'B', vec![b'x'; 65_535])].concat()[..60_000]);
    while session.read().unwrap().is_some() {}
    assert_eq!(session.buffered(), 0);
    assert!(session.has_partial());
}

#[test]
fn each_answer_is_one_reply_whatever_its_text_holds() {
    let answer = |action, code, class, text: &'static str| Answer {
        action,
        code,
        enhanced: EnhancedCode::new(class, 1, 1),
        text: text.into(),
    };
    let reply = said(&answer(Action::Reject, Some(550), 5, "no\r\n550 \0%"));
    assert_eq!(reply.encode(), packet(b'y', "550 5.1.1 no  550  %%\0"));
    let reply = said(&answer(Action::Reject, Some(450), 4, "a trial"));
    assert_eq!(reply, Reply::Code("450 4.1.1 a trial".into()));
    assert_eq!(said(&Answer::accept()), Reply::Continue);
    assert_eq!(said(&answer(Action::None, None, 2, "")), Reply::Continue);
}

/// Packets that make sense mixed with ones that don't.
fn some_packet() -> impl Strategy<Value = Vec<u8>> {
    let command = prop::sample::select(&b"ABCDEHKLMNOQRTUz"[..]);
    let texts: [&[u8]; 5] =
        [b"<a@b.example>\0", b"mail.example\x004\0\x19192.0.2.7\0", b"C{client_addr}\x00192.0.2.8\0", b"Ri\0X\0", b""];
    let text = prop::sample::select(texts.to_vec());
    prop_oneof![
        2 => Just(modern()),
        6 => (command.clone(), text).prop_map(|(command, data)| packet(command, data)),
        2 => (command, prop::collection::vec(any::<u8>(), 0..24)).prop_map(|(command, data)| packet(command, data)),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn any_bytes_in_any_pieces_give_the_same_dialogue_and_never_panic(
        packets in prop::collection::vec(some_packet(), 0..12),
        negotiated in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let first = if negotiated { modern() } else { Vec::new() };
        let bytes = [first, packets.concat()].concat();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = read_in_pieces::<Session>(&bytes, &[]);
        prop_assert_eq!(&whole, &read_in_pieces::<Session>(&bytes, &cuts));
        let each: Vec<_> = (0..bytes.len()).collect();
        prop_assert_eq!(&whole, &read_in_pieces::<Session>(&bytes, &each));
    }

    #[test]
    fn whatever_an_mta_offers_only_that_is_asked_of_it(version in 2_u32.., actions: u32, offered: u32) {
        let Event::Reply(Reply::Agreed(agreed)) = events(&[optneg(version, actions, offered)]).remove(0) else { panic!() };
        prop_assert_eq!(agreed.protocol & !offered, 0);
        prop_assert!(agreed.version <= version && agreed.version <= VERSION);
        // RCPT and DATA are never left out, and always have a reply.
        prop_assert_eq!(agreed.protocol & (0x8 | 0x200 | 0x8000 | 0x1_0000), 0);
    }
}
