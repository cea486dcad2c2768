//! Nothing is lost and nothing is doubled: each way for the destination, the client and ourselves to fail, at each point of a
//! message. Either it was delivered once and the client was told 250, or the client was not told 250.
#![allow(clippy::unwrap_used)]

mod world;

use std::sync::atomic::Ordering;
use std::time::Duration;

use callahead_listeners::gateway::Settings;
use callahead_testbed::{Destination, Ended, Fault, Script, Step, Tls};
use world::{Client, MAIL, World, settings, settle, taking, without_trace};

/// What a destination was told that begins so.
fn commands(destination: &Destination, beginning: &str) -> Vec<String> {
    let sessions = destination.record().sessions;
    sessions.into_iter().flat_map(|session| session.commands).filter(|line| line.starts_with(beginning)).collect()
}

/// What a client does after each way of failing: it comes again, and the message arrives once.
async fn arrives_at_the_next_try(client: &mut Client, destination: &Destination) {
    *destination.script() = taking();
    // The circuit breaker's pause.
    settle().await;
    let before = destination.record().messages.len();
    client.envelope("anna@one.example").await;
    assert!(client.data("again\r\n.\r\n").await.starts_with("250 2.0.0"));
    assert_eq!(destination.record().messages.len(), before + 1, "{}", destination.record().dialogue());
}

/// A client whose recipient is in the cache, so that faults hit the relay and not a callout.
async fn warm() -> (World, Destination, Client) {
    let (world, destination) = World::one();
    let mut client = world.client_with("anna@one.example").await;
    client.expect("RSET", "250").await;
    client.quit().await;
    // Sessions of callouts and of the client before are over.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let client = world.client().await;
    (world, destination, client)
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_fails_before_the_message_puts_the_recipient_off() {
    let close = |octets| Fault::CloseAfter(octets);
    // With how often the sender is said: once more only where the group of commands may have been too much for the server.
    for (step, fault, told, said) in [
        (Step::Greeting, close(0), "451 4.4.1", 0),
        (Step::Greeting, Fault::Reply("554 5.3.2 no".into()), "451 4.4.1", 0),
        (Step::Greeting, Fault::Hang, "451 4.4.1", 0),
        (Step::Ehlo, close(3), "451 4.4.1", 0),
        (Step::Ehlo, Fault::Garbage(b"hello?\r\n".to_vec()), "451 4.4.1", 0),
        (Step::Mail, close(0), "451 4.4.1", 1),
        (Step::Mail, Fault::Hang, "451 4.4.1", 1),
        (Step::Mail, Fault::Reply("421 4.3.2 stopping".into()), "451 4.4.1", 1),
        (Step::Mail, Fault::Reply("452 4.3.1 full".into()), "452 4.3.1", 1),
        (Step::Mail, Fault::ReplyAndClose("550 5.7.1 not you".into()), "550 5.7.1", 1),
        (Step::Mail, Fault::Reply("250 yes\n550 5.1.1 and no".into()), "451 4.4.1", 2),
        (Step::Mail, Fault::Reply("503 5.5.1 bad sequence".into()), "451 4.4.1", 2),
        // Words on the session.
        (Step::Mail, Fault::Reply("500 5.5.1 what?".into()), "451 4.4.1", 2),
        (Step::Mail, Fault::Reply("502 5.5.1 not here".into()), "451 4.4.1", 2),
        (Step::Mail, Fault::Reply("504 5.5.4 SIZE?".into()), "451 4.4.1", 1),
        (Step::Mail, Fault::Reply("530 5.7.0 Must issue a STARTTLS command first".into()), "451 4.4.1", 1),
        (Step::Mail, Fault::ReplyAndClose("530 5.7.0 Must issue a STARTTLS command first".into()), "451 4.4.1", 1),
        (Step::Mail, Fault::Reply("538 5.7.11 Encryption required".into()), "451 4.4.1", 1),
        (Step::Mail, Fault::Reply("523 5.7.10 Encryption needed".into()), "451 4.4.1", 1),
        (Step::Rcpt, Fault::Reply("535 5.7.8 Authentication failed".into()), "451 4.4.1", 1),
        (Step::Rcpt, Fault::Reply("500 5.5.1 what?".into()), "451 4.4.1", 2),
        (Step::Rcpt, Fault::Reply("530 5.7.0 Must issue a STARTTLS command first".into()), "451 4.4.1", 1),
        // On what this node said, and on how many there are.
        (Step::Rcpt, Fault::Reply("504 5.5.2 need fully-qualified hostname".into()), "451 4.5.2", 1),
        (Step::Rcpt, Fault::Reply("550 5.5.4 mx7: what?".into()), "451 4.5.4", 1),
        (Step::Rcpt, Fault::Reply("552 too many recipients".into()), "451 4.0.0", 1),
        (Step::Rcpt, Fault::Reply("550 5.5.0 mailbox unavailable".into()), "550 5.5.0", 1),
        (Step::Rcpt, close(0), "451 4.4.1", 1),
        (Step::Rcpt, Fault::Reply("354 go on".into()), "451 4.4.1", 2),
        (Step::Rcpt, Fault::Reply("450 4.2.1 later".into()), "450 4.2.1", 1),
        (Step::Rcpt, Fault::Reply("550 5.7.1 mx7: no".into()), "550 5.7.1", 1),
        (Step::Rcpt, Fault::Reply("550 no".into()), "550 5.0.0", 1),
        (Step::Rcpt, Fault::EndlessLines, "451 4.4.1", 1),
        (Step::Rcpt, Fault::Reply("503 5.5.1 bad sequence".into()), "451 4.4.1", 2),
    ] {
        let (_world, destination, mut client) = warm().await;
        let before = commands(&destination, MAIL).len();
        destination.script().faults.insert(step, (fault.clone(), None));
        client.expect(MAIL, "250").await;
        let reply = client.say("RCPT TO:<anna@one.example>").await;
        assert!(reply.starts_with(told) && !reply.contains("mx7"), "{step:?} {fault:?}: {reply}");
        client.expect("DATA", "554 5.5.1").await;
        client.expect("RSET", "250").await;
        settle().await;
        let record = destination.record();
        assert_eq!(commands(&destination, MAIL).len() - before, said, "{step:?} {fault:?}\n{}", record.dialogue());
        destination.assert_polite();
        arrives_at_the_next_try(&mut client, &destination).await;
    }
}

/// The handshake fails once, and the server wants TLS: that it refuses the sender in clear is no word on the sender.
#[tokio::test(start_paused = true)]
async fn what_is_refused_in_clear_for_want_of_tls_is_put_off() {
    for (step, reply, told) in [
        (Step::Mail, "550 5.7.1 mx7: not in clear", "451 4.4.1"),
        (Step::Mail, "554 no", "451 4.4.1"),
        (Step::Mail, "553 5.1.8 no such sender", "553 5.1.8"),
        (Step::Rcpt, "550 5.7.1 mx7: not in clear", "451 4.4.1"),
        (Step::Rcpt, "550 5.1.1 nobody", "550 5.1.1"),
    ] {
        for lacks in ["", "PIPELINING"] {
            let (_world, destination, mut client) = warm().await;
            *destination.script() = Script { tls: Tls::GarbageAfter220, ..taking().without(lacks) };
            destination.script().faults.insert(step, (Fault::Reply(reply.into()), None));
            client.expect(MAIL, "250").await;
            client.expect("RCPT TO:<anna@one.example>", told).await;
            client.expect("RSET", "250").await;
            settle().await;
            arrives_at_the_next_try(&mut client, &destination).await;
        }
    }
    let (_world, destination, mut client) = warm().await;
    destination.script().tls = Tls::GarbageAfter220;
    client.envelope("ben@one.example").await;
    client.expect("RSET", "250").await;
    client.envelope("anna@one.example").await;
    destination.script().faults.insert(Step::Rcpt, (Fault::Reply("550 5.7.1 mx7: not in clear".into()), Some(1)));
    client.expect("RCPT TO:<ben@one.example>", "451 4.4.2").await;
}

/// As chkuser of qmail does: neither RSET nor MAIL starts its count anew.
#[tokio::test(start_paused = true)]
async fn what_is_refused_for_what_was_asked_before_in_the_session_costs_nobody_a_mail() {
    const LIMIT: &str = "571 sorry, you have reached the maximum number of recipients (#5.7.1 - chkuser)";
    let (_world, destination, mut client) = warm().await;
    client.envelope("ben@one.example").await;
    client.expect("RSET", "250").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    destination.script().rcpt_limit = Some((1, LIMIT.into()));
    // In one transaction: those who were accepted are not given up.
    client.envelope("anna@one.example").await;
    client.expect("RCPT TO:<ben@one.example>", "452 4.5.3").await;
    assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    // In the session that is kept for the next.
    let connections = destination.record().connections;
    client.envelope("ben@one.example").await;
    assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    assert_eq!(destination.record().connections, connections + 1);
    // The sender likewise.
    destination.script().faults.insert(Step::Mail, (Fault::Reply("554 too many messages".into()), Some(1)));
    client.envelope("anna@one.example").await;
    assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    let recipients: Vec<_> = destination.record().messages.into_iter().flat_map(|message| message.recipients).collect();
    assert_eq!(recipients, ["<anna@one.example>", "<ben@one.example>", "<anna@one.example>"]);
    client.quit().await;
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_can_be_for_nobody_else_is_passed_on_wherever_it_comes() {
    for (first, second, told) in [
        // The first of a session was refused so.
        ("550 we have no anna", "550 we have no ben", "550 5.0.0"),
        ("550 5.7.1 not from your sender", "550 5.7.1 not from your sender", "550 5.7.1"),
        // It says that it is the address.
        ("250 2.1.5 Ok", "553 5.1.3 ben?", "553 5.1.3"),
        // Callouts were told so of a session's first.
        ("250 2.1.5 Ok", "550 5.3.0 nobody", "550 5.3.0"),
        ("550 we have no anna", "550 that is enough", "452 4.5.3"),
        ("250 2.1.5 Ok", "550 5.1.8 ben: what a sender", "452 4.5.3"),
    ] {
        let (_world, destination, mut client) = warm().await;
        client.envelope("ben@one.example").await;
        client.expect("RSET", "250").await;
        destination.script().rcpt_replies.insert("carl@also.example".into(), "550 5.3.0 nobody".into());
        // `also.example` is known to tell its recipients apart, so that none is asked before.
        for recipient in ["anna@also.example", "carl@also.example"] {
            tokio::time::sleep(Duration::from_secs(30)).await;
            client.expect(MAIL, "250").await;
            client.say(&format!("RCPT TO:<{recipient}>")).await;
            client.expect("RSET", "250").await;
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        destination.script().rcpt_replies.insert("anna@one.example".into(), first.into());
        destination.script().rcpt_replies.insert("ben@one.example".into(), second.into());
        client.expect(MAIL, "250").await;
        client.expect("RCPT TO:<anna@one.example>", &first[..3]).await;
        client.expect("RCPT TO:<ben@one.example>", told).await;
    }
}

#[tokio::test(start_paused = true)]
async fn behind_a_sender_that_is_refused_no_recipient_is_said_where_commands_go_one_by_one() {
    let world = World::new(settings());
    let destination = world.server(1, taking().without("PIPELINING"));
    let mut client = world.client_with("anna@one.example").await;
    client.expect("RSET", "250").await;
    destination.script().faults.insert(Step::Mail, (Fault::Reply("550 5.7.1 not you".into()), None));
    let before = commands(&destination, "RCPT").len();
    client.expect(MAIL, "250").await;
    client.expect("RCPT TO:<anna@one.example>", "550 5.7.1").await;
    client.expect("RCPT TO:<anna@one.example>", "550 5.7.1").await;
    assert_eq!(commands(&destination, "RCPT").len(), before, "{}", destination.record().dialogue());
    client.expect("RSET", "250").await;
    arrives_at_the_next_try(&mut client, &destination).await;
}

/// A recipient is accepted behind one that the server refused: going to another server then would lose it.
#[tokio::test(start_paused = true)]
async fn who_was_accepted_behind_one_that_was_refused_gets_the_message() {
    let (world, destination, mut client) = warm().await;
    let elsewhere = world.server(2, taking());
    for recipient in ["ben@one.example", "anna@two.example"] {
        client.envelope(recipient).await;
        client.expect("RSET", "250").await;
    }
    client.expect(MAIL, "250").await;
    destination.script().faults.insert(Step::Rcpt, (Fault::Reply("450 4.2.1 later".into()), Some(1)));
    client.expect("RCPT TO:<anna@one.example>", "450 4.2.1").await;
    client.expect("RCPT TO:<ben@one.example>", "250").await;
    client.expect("RCPT TO:<anna@two.example>", "452 4.5.3").await;
    assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    assert_eq!(destination.record().messages[0].recipients, ["<ben@one.example>"]);
    assert!(elsewhere.record().messages.is_empty());
}

#[tokio::test(start_paused = true)]
async fn where_nobody_was_accepted_the_next_recipient_may_be_on_another_server() {
    let (world, destination, mut client) = warm().await;
    let elsewhere = world.server(2, taking());
    client.expect(MAIL, "250").await;
    destination.script().faults.insert(Step::Rcpt, (Fault::Reply("450 4.2.1 later".into()), Some(1)));
    client.expect("RCPT TO:<anna@one.example>", "450 4.2.1").await;
    client.expect("RCPT TO:<anna@two.example>", "250").await;
    assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    assert_eq!(elsewhere.record().messages.len(), 1);
    assert!(destination.record().messages.is_empty());
    settle().await;
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_refused_before_it_began_leaves_its_session_for_the_next() {
    let (_world, destination, mut client) = warm().await;
    client.envelope("anna@one.example").await;
    let connections = destination.record().connections;
    destination.script().faults.insert(Step::Data, (Fault::Reply("451 4.3.0 not now".into()), Some(1)));
    client.expect("DATA", "451 4.3.0").await;
    client.envelope("anna@one.example").await;
    assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    assert_eq!(destination.record().connections, connections);
    client.quit().await;
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_is_refused_is_the_end_of_its_message() {
    for (reply, told) in [
        ("552 5.3.4 mx7: too much", "552 5.3.4"),
        ("451 4.3.0 mx7: not now", "451 4.3.0"),
        ("354 go on", "451 4.4.2"),
        ("503 5.5.1 bad sequence", "451 4.4.2"),
    ] {
        let (world, destination, mut client) = warm().await;
        client.envelope("anna@one.example").await;
        client.send("BDAT 3\r\nx\r\n").await;
        assert!(client.reply().await.starts_with("250"));
        destination.script().faults.insert(Step::Data, (Fault::Reply(reply.into()), Some(1)));
        client.send("BDAT 3\r\ny\r\n").await;
        let said = client.reply().await;
        assert!(said.starts_with(told) && !said.contains("mx7"), "{reply}: {said}");
        client.send("BDAT 3 LAST\r\nz\r\n").await;
        let said = client.reply().await;
        assert!(!said.starts_with('2'), "behind {reply}: {said}");
        client.expect("RSET", "250").await;
        assert!(destination.record().messages.is_empty());
        assert_eq!(world.counters.messages_refused.load(Ordering::Relaxed), 1);
        arrives_at_the_next_try(&mut client, &destination).await;
    }
}

/// To a destination without CHUNKING the chunks before it have gone out as DATA, and RSET is a line of that.
#[tokio::test(start_paused = true)]
async fn a_message_that_is_given_up_between_chunks_is_cut_off_and_the_next_arrives() {
    for lacks in ["", "CHUNKING"] {
        for command in ["RSET", "EHLO client.example"] {
            let (_world, destination, mut client) = warm().await;
            *destination.script() = taking().without(lacks);
            client.envelope("anna@one.example").await;
            client.send("BDAT 3\r\nx\r\n").await;
            assert!(client.reply().await.starts_with("250"));
            client.expect(command, "250").await;
            let began = tokio::time::Instant::now();
            client.envelope("anna@one.example").await;
            assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
            assert!(client.data("y\r\n.\r\n").await.starts_with("250"));
            client.quit().await;
            settle().await;
            let record = destination.record();
            let [arrived] = record.messages.as_slice() else { panic!("{}", record.dialogue()) };
            assert_eq!(without_trace(arrived), b"y\r\n");
            let ended = &record.sessions[record.sessions.len() - 2].ended;
            assert_eq!(*ended, Ended::WithinMessage, "{command} without {lacks}: {}", record.dialogue());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_too_many_to_the_reset_of_a_session_refuses_nobody_in_the_next_message() {
    let (_world, destination, mut client) = warm().await;
    client.envelope("anna@one.example").await;
    client.expect("RSET", "250").await;
    destination.script().faults.insert(Step::Rset, (Fault::Reply("250 yes\n550 5.7.1 and no".into()), Some(1)));
    client.envelope("anna@one.example").await;
    assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    client.quit().await;
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn what_a_destination_says_unasked_is_no_answer_to_what_comes_next() {
    const NOTICE: &str = "554 5.7.1 mx7: idle for too long";
    for next in ["RCPT TO:<ben@one.example>\r\n", "DATA\r\n", "BDAT 3 LAST\r\nx\r\n"] {
        let (world, destination, mut client) = warm().await;
        client.envelope("ben@one.example").await;
        client.expect("RSET", "250").await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        client.envelope("anna@one.example").await;
        world.unasked.say(NOTICE);
        client.send(next).await;
        let reply = client.reply().await;
        assert!(reply.starts_with("451 4.4.2"), "{next:?}: {reply}");
        client.expect("RSET", "250").await;
        settle().await;
        assert!(destination.record().messages.is_empty());
        destination.assert_polite();
        arrives_at_the_next_try(&mut client, &destination).await;
    }
    // Where commands go one by one, from one to the next.
    let (world, destination, mut client) = warm().await;
    *destination.script() = taking().without("PIPELINING");
    client.expect(MAIL, "250").await;
    world.unasked.say_behind("MAIL", "550 5.1.1 mx7: nobody");
    client.expect("RCPT TO:<anna@one.example>", "451 4.4.1").await;
    client.expect("RSET", "250").await;
    settle().await;
    destination.assert_polite();
    arrives_at_the_next_try(&mut client, &destination).await;
}

#[tokio::test(start_paused = true)]
async fn a_250_before_the_last_chunk_is_there_is_no_acceptance_and_a_5xx_no_refusal() {
    for early in ["250 2.0.0 taken", "552 5.3.4 too much"] {
        for last in [true, false] {
            let (world, destination, mut client) = warm().await;
            client.envelope("anna@one.example").await;
            client.send(format!("BDAT 20{}\r\nten octets", if last { " LAST" } else { "" })).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.unasked.say(early);
            client.send("ten octets").await;
            let reply = client.reply().await;
            assert!(reply.starts_with("451 4.4.2"), "{early}, last {last}: {reply}");
            client.expect("RSET", "250").await;
            settle().await;
            assert!(destination.record().messages.is_empty());
            assert_eq!(destination.record().sessions.last().unwrap().ended, Ended::WithinMessage);
            arrives_at_the_next_try(&mut client, &destination).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_owed_behind_a_sender_that_is_refused_is_not_the_next_transactions() {
    let (_world, destination, mut client) = warm().await;
    destination.script().faults.insert(Step::Mail, (Fault::Reply("550 5.1.8 no such sender".into()), Some(1)));
    // RCPT's reply does not come in time.
    destination.script().broken_pipelining = true;
    client.expect(MAIL, "250").await;
    for _ in 0..2 {
        client.expect("RCPT TO:<anna@one.example>", "550 5.1.8").await;
    }
    settle().await;
    let record = destination.record();
    assert_eq!(record.sessions.last().unwrap().ended, Ended::Quit, "{}", record.dialogue());
    destination.assert_polite();
    client.expect("RSET", "250").await;
    arrives_at_the_next_try(&mut client, &destination).await;
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_loses_pipelined_commands_is_asked_again_without_and_stays_so() {
    let (world, destination, mut client) = warm().await;
    destination.script().broken_pipelining = true;
    let began = tokio::time::Instant::now();
    client.envelope("anna@one.example").await;
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    client.quit().await;
    let mut client = world.client().await;
    let began = tokio::time::Instant::now();
    client.envelope("anna@one.example").await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    client.quit().await;
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn a_word_on_the_session_to_a_further_recipient_is_no_word_on_it() {
    for reply in ["503 5.5.1 bad sequence", "500 5.5.1 what?", "530 5.7.0 Must issue a STARTTLS command first"] {
        let (_world, destination, mut client) = warm().await;
        client.envelope("anna@one.example").await;
        client.expect("RCPT TO:<ben@one.example>", "250").await;
        client.expect("RSET", "250").await;
        client.envelope("anna@one.example").await;
        destination.script().faults.insert(Step::Rcpt, (Fault::Reply(reply.into()), Some(1)));
        client.expect("RCPT TO:<ben@one.example>", "451 4.4.2").await;
        settle().await;
        destination.assert_polite();
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_nobody_reaches_puts_the_recipient_off() {
    use callahead_testbed::Place;
    let address = "10.0.0.1:25".parse().unwrap();
    for place in [Place::Refused, Place::BlackHole] {
        let (world, destination, mut client) = warm().await;
        world.net.set(address, place);
        client.expect(MAIL, "250").await;
        client.expect("RCPT TO:<anna@one.example>", "451 4.4.1").await;
        client.expect("RSET", "250").await;
        world.net.set(address, Place::Server(destination.clone()));
        arrives_at_the_next_try(&mut client, &destination).await;
    }
    // One host of two is enough.
    let (world, _destination, mut client) = warm().await;
    world.net.set("10.0.0.9:25".parse().unwrap(), Place::Refused);
    client.envelope("anna@three.example").await;
}

#[tokio::test(start_paused = true)]
async fn a_session_lost_between_recipients_loses_the_transaction_and_nothing_else() {
    let (_world, destination, mut client) = warm().await;
    client.envelope("anna@one.example").await;
    client.expect("RCPT TO:<ben@one.example>", "250").await;
    client.expect("RSET", "250").await;
    client.envelope("anna@one.example").await;
    destination.script().faults.insert(Step::Rcpt, (Fault::CloseAfter(0), Some(1)));
    client.expect("RCPT TO:<ben@one.example>", "451 4.4.2").await;
    client.expect("RCPT TO:<anna@one.example>", "451 4.4.2").await;
    client.expect("DATA", "451 4.4.2").await;
    assert!(destination.record().messages.is_empty());
    arrives_at_the_next_try(&mut client, &destination).await;
}

#[tokio::test(start_paused = true)]
async fn a_reused_session_that_has_gone_is_replaced_without_the_client_noticing() {
    for fault in [Fault::CloseAfter(0), Fault::ReplyAndClose("421 4.4.2 timeout".into())] {
        let (_world, destination, mut client) = warm().await;
        client.envelope("anna@one.example").await;
        assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
        destination.script().faults.insert(Step::Rset, (fault, Some(1)));
        client.envelope("anna@one.example").await;
        client.expect("RSET", "250").await;
        client.envelope("anna@one.example").await;
        assert!(client.data("y\r\n.\r\n").await.starts_with("250"));
        assert_eq!(destination.record().messages.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_fails_at_data_is_not_given_the_message() {
    for (fault, told) in [
        (Fault::CloseAfter(0), "451 4.4.2"),
        (Fault::Hang, "451 4.4.2"),
        (Fault::Reply("250 2.0.0 what?".into()), "451 4.4.2"),
        (Fault::Reply("421 4.3.2 stopping".into()), "451 4.4.2"),
        (Fault::Reply("503 5.5.1 bad sequence".into()), "451 4.4.2"),
        (Fault::Reply("502 5.5.1 not here".into()), "451 4.4.2"),
        (Fault::Reply("530 5.7.0 Must issue a STARTTLS command first".into()), "451 4.4.2"),
        (Fault::Reply("451 4.3.0 mx7 not now".into()), "451 4.3.0"),
        (Fault::Reply("554 5.7.1 mx7 never".into()), "554 5.7.1"),
    ] {
        let (world, destination, mut client) = warm().await;
        client.envelope("anna@one.example").await;
        destination.script().faults.insert(Step::Data, (fault.clone(), None));
        let reply = client.say("DATA").await;
        assert!(reply.starts_with(told) && !reply.contains("mx7"), "{fault:?}: {reply}");
        assert!(destination.record().messages.is_empty());
        assert_eq!(world.counters.messages_refused.load(Ordering::Relaxed), 1);
        arrives_at_the_next_try(&mut client, &destination).await;
        // The same by BDAT; its octets are no commands.
        destination.script().faults.insert(Step::Data, (fault.clone(), None));
        client.envelope("anna@one.example").await;
        client.send("BDAT 6 LAST\r\nRSET\r\n").await;
        let reply = client.reply().await;
        let told = if matches!(&fault, Fault::Reply(reply) if reply.starts_with("250")) { "250" } else { told };
        assert!(reply.starts_with(told), "{fault:?} by BDAT: {reply}");
        arrives_at_the_next_try(&mut client, &destination).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_goes_within_the_message_is_told_at_its_end_and_nothing_was_delivered() {
    for chunked in [false, true] {
        for octets in [1, 1000, 300_000] {
            let (world, destination, mut client) = warm().await;
            client.envelope("anna@one.example").await;
            destination.script().close_within_message = Some(octets);
            let body = "0123456789abcde\r\n".repeat(40_000);
            let reply = if chunked {
                client.send(format!("BDAT {} LAST\r\n{body}", body.len())).await;
                client.reply().await
            } else {
                client.data(body + ".\r\n").await
            };
            assert!(reply.starts_with("451 4.4.2"), "{reply}");
            assert!(destination.record().messages.is_empty());
            assert!(world.counters.messages_refused.load(Ordering::Relaxed) == 1);
            arrives_at_the_next_try(&mut client, &destination).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_stops_reading_is_given_up_in_time() {
    let (_world, destination, mut client) = warm().await;
    client.envelope("anna@one.example").await;
    destination.script().read_pause = Duration::from_secs(3600);
    client.expect("DATA", "354").await;
    let began = tokio::time::Instant::now();
    client.send("0123456789abcde\r\n".repeat(40_000) + ".\r\n").await;
    assert!(client.reply().await.starts_with("451 4.4.2"));
    assert!(began.elapsed() < Duration::from_secs(100), "{:?}", began.elapsed());
    assert!(destination.record().messages.is_empty());
    arrives_at_the_next_try(&mut client, &destination).await;
}

#[tokio::test(start_paused = true)]
async fn the_destinations_word_on_the_message_is_the_clients() {
    for (fault, told) in [
        (Fault::Reply("452 4.3.1 mx7 full".into()), "452 4.3.1 The recipient's server can't take the message now"),
        (Fault::Reply("550-5.7.1 mx7\n550 5.7.1 spam".into()), "550 5.7.1 The recipient's server refuses the message"),
        (Fault::ReplyAndClose("554 5.6.0 mx7 no".into()), "554 5.6.0 The recipient's server refuses the message"),
        (Fault::Reply("250 ok id mx7".into()), "250 2.0.0 The recipient's server has accepted the message"),
        (Fault::SlowBytes(Duration::from_secs(10)), "250 2.0.0 The recipient's server has accepted the message"),
    ] {
        let (_world, destination, mut client) = warm().await;
        client.envelope("anna@one.example").await;
        destination.script().faults.insert(Step::Message, (fault.clone(), Some(1)));
        assert_eq!(client.data("x\r\n.\r\n").await, told, "{fault:?}");
        let delivered = usize::from(told.starts_with("250"));
        assert_eq!(destination.record().messages.len(), delivered, "{fault:?}");
        arrives_at_the_next_try(&mut client, &destination).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_destinations_own_words_on_the_message_are_passed_on_where_all_its_domains_say_so() {
    let (_world, destination, mut client) = warm().await;
    for (recipients, passed) in [
        (&["anna@spoken.example"][..], true),
        (&["anna@spoken.example", "anna@one.example"], false),
        (&["anna@one.example", "anna@spoken.example"], false),
    ] {
        client.expect(MAIL, "250").await;
        for recipient in recipients {
            client.expect(&format!("RCPT TO:<{recipient}>"), "250").await;
        }
        let refusal = Fault::Reply("554 5.7.1 mx7: no such thing here".into());
        destination.script().faults.insert(Step::Message, (refusal, Some(1)));
        let told = client.data("x\r\n.\r\n").await;
        assert!(
            told.starts_with("554 5.7.1") && told.contains("no such thing here") == passed,
            "{recipients:?}: {told}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_to_the_message_is_put_off_though_it_was_delivered_which_smtp_cant_tell() {
    for fault in [
        Fault::CloseAfter(0),
        Fault::CloseAfter(10),
        Fault::Hang,
        Fault::Garbage(b"thanks\r\n".to_vec()),
        Fault::Reply("421 4.3.2 stopping".into()),
        Fault::Reply("503 5.5.1 bad sequence".into()),
        Fault::Reply("354 go on".into()),
    ] {
        for chunked in [false, true] {
            let (_world, destination, mut client) = warm().await;
            client.envelope("anna@one.example").await;
            destination.script().faults.insert(Step::Message, (fault.clone(), Some(1)));
            let reply = if chunked {
                client.send("BDAT 3 LAST\r\nx\r\n").await;
                client.reply().await
            } else {
                client.data("x\r\n.\r\n").await
            };
            assert!(reply.starts_with("451 4.4.2"), "{fault:?}: {reply}");
            arrives_at_the_next_try(&mut client, &destination).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_for_nine_minutes_behind_its_end_however_slowly_the_destination_reads() {
    let (_world, destination, mut client) = warm().await;
    client.envelope("anna@one.example").await;
    destination.script().faults.insert(Step::Message, (Fault::Hang, Some(1)));
    destination.script().read_pause = Duration::from_secs(60);
    client.expect("DATA", "354").await;
    // As much as there is room for on the way, so that the rest waits for a minute.
    client.send("0123456789abc\r\n".repeat(4333)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = tokio::time::Instant::now();
    client.send("0123456789abc\r\n".repeat(60) + ".\r\n").await;
    assert!(client.reply().await.contains("gave no answer"));
    assert_eq!(began.elapsed().as_secs(), 540);
    arrives_at_the_next_try(&mut client, &destination).await;
}

#[tokio::test(start_paused = true)]
async fn a_250_before_the_end_of_the_message_is_no_acceptance() {
    let (_world, destination, mut client) = warm().await;
    client.envelope("anna@one.example").await;
    destination.script().faults.insert(Step::Data, (Fault::Reply("354 go\n250 2.0.0 taken".into()), Some(1)));
    client.expect("DATA", "354").await;
    client.send("x\r\n").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.send(".\r\n").await;
    assert!(client.reply().await.starts_with("451 4.4.2"));
    assert!(destination.record().messages.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_within_its_message_delivers_nothing() {
    for (sent, chunked) in
        [("", false), ("half a li", false), ("a line\r\n", false), ("a line\r\n.", false), ("ten octets", true)]
    {
        let (world, destination, mut client) = warm().await;
        client.envelope("anna@one.example").await;
        if chunked {
            client.send(format!("BDAT 20 LAST\r\n{sent}")).await;
        } else {
            client.expect("DATA", "354").await;
            client.send(sent).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        client.vanish().await;
        settle().await;
        let record = destination.record();
        assert!(record.messages.is_empty(), "{sent:?}");
        assert_eq!(
            record.sessions.last().unwrap().ended,
            Ended::WithinMessage,
            "closed within the message, without QUIT"
        );
        assert_eq!(world.counters.open.load(Ordering::Relaxed), 0);
        assert_eq!(world.counters.messages_refused.load(Ordering::Relaxed), u64::from(!sent.is_empty()), "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_between_messages_leaves_the_destination_by_quit() {
    let (_world, destination, mut client) = warm().await;
    client.envelope("anna@one.example").await;
    client.vanish().await;
    settle().await;
    assert!(destination.record().messages.is_empty());
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_while_the_destination_thinks_has_delivered_once() {
    let (_world, destination, mut client) = warm().await;
    client.envelope("anna@one.example").await;
    destination.script().faults.insert(Step::Message, (Fault::SlowBytes(Duration::from_secs(5)), Some(1)));
    client.expect("DATA", "354").await;
    client.send("x\r\n.\r\n").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.vanish().await;
    assert_eq!(destination.record().messages.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_has_so_much_time_for_a_command_for_its_message_and_in_all() {
    let (world, destination, mut client) = warm().await;
    client.envelope("anna@one.example").await;
    let began = tokio::time::Instant::now();
    assert!(client.reply().await.starts_with("421 4.4.2"), "no command for 5 min");
    assert_eq!(began.elapsed().as_secs(), 300);
    assert!(client.is_closed().await);
    assert_eq!(world.counters.messages_refused.load(Ordering::Relaxed), 0, "there was no message yet");

    let mut client = world.client().await;
    client.envelope("anna@one.example").await;
    client.expect("DATA", "354").await;
    client.send("half").await;
    let began = tokio::time::Instant::now();
    assert!(client.reply().await.starts_with("421 4.4.2"), "nothing of the message for 3 min");
    assert_eq!(began.elapsed().as_secs(), 180);
    settle().await;
    assert!(destination.record().messages.is_empty());

    let mut client = world.client_with("anna@one.example").await;
    client.expect("DATA", "354").await;
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_secs(4000) && client.try_send(b"x\r\n").await {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    assert!((3590..3670).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(destination.record().messages.is_empty());
    assert_eq!(world.counters.timed_out.load(Ordering::Relaxed), 3);
    assert_eq!(world.counters.messages_refused.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn neither_half_a_command_nor_one_that_brings_nothing_on_wins_a_client_time() {
    let (world, destination) = World::one();
    for (transaction, said, lasts) in [
        (false, "N", 320),
        (false, "NOOP\r\n", 1200),
        (true, "N", 320),
        (true, "NOOP\r\n", 320),
        (true, "VRFY x\r\n", 320),
        (true, "FOO\r\n", 320),
        (true, "RCPT TO:<anna@one.example>\r\n", 1200),
    ] {
        let mut client = world.client().await;
        if transaction {
            client.envelope("anna@one.example").await;
        }
        let began = tokio::time::Instant::now();
        while began.elapsed().as_secs() < 1200 && !client.serving.is_finished() {
            client.try_send(said.as_bytes()).await;
            tokio::time::sleep(Duration::from_secs(40)).await;
        }
        // It is looked every 40 s whether the 5 min were over.
        assert_eq!(began.elapsed().as_secs(), lasts, "{transaction} {said:?}");
    }
    // Nor does a server wait for a client that only says NOOP: its session is ended as if the client said nothing.
    settle().await;
    let mut client = world.client_with("anna@one.example").await;
    assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    for _ in 0..5 {
        client.expect("NOOP", "250").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(destination.record().sessions.iter().all(|session| session.ended != Ended::NotYet));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_replies_is_given_up() {
    let world = World::new(Settings { commands: u32::MAX, ..settings() });
    let mut client = world.client().await;
    // More replies than there is room for on their way.
    client.send("NOOP\r\n".repeat(8_000)).await;
    let began = tokio::time::Instant::now();
    (&mut client.serving).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 180);
    assert_eq!(world.counters.timed_out.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_pauses_is_ended_with_its_session_all_the_same() {
    let world = World::new(Settings { session_timeout: Duration::from_secs(60), commands: u32::MAX, ..settings() });
    world.server(1, taking());
    let mut client = world.client().await;
    let began = tokio::time::Instant::now();
    let mut replies = 0;
    loop {
        // There is something to read whenever the gateway looks.
        client.try_send(b"NOOP\r\n").await;
        tokio::time::advance(Duration::from_millis(100)).await;
        let reply = client.reply().await;
        if !reply.starts_with("250") {
            assert!(reply.starts_with("421 4.4.2 The session has gone on"), "{reply}");
            break;
        }
        replies += 1;
    }
    assert!(replies > 500 && began.elapsed() < Duration::from_secs(61), "{replies} {:?}", began.elapsed());
    // One that has said it all at once, while a recipient takes a second.
    let destination = world.server(1, Script { reply_delay: Duration::from_secs(1), ..taking() });
    let mut client = world.client().await;
    let began = tokio::time::Instant::now();
    client.send("RSET\r\nMAIL FROM:<>\r\nRCPT TO:<anna@one.example>\r\n".repeat(600)).await;
    let mut last = String::new();
    loop {
        match client.reply().await {
            reply if reply.is_empty() => break,
            reply => last = reply,
        }
    }
    assert!(last.starts_with("421 4.4.2 The session has gone on"), "{last}");
    assert!((60..64).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!((10..64).contains(&destination.record().rcpt), "{}", destination.record().rcpt);
    // One that says nothing, though it would have longer for its next command.
    let mut client = world.client().await;
    let began = tokio::time::Instant::now();
    assert!(client.reply().await.starts_with("421 4.4.2 The session has gone on"));
    assert!((59..=61).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_a_transaction_finish_and_tells_everyone_else() {
    let (world, destination, mut busy) = warm().await;
    let mut idle = world.client().await;
    let mut greeted = world.connect_from("192.0.2.8");
    greeted.reply().await;
    busy.envelope("anna@one.example").await;
    busy.expect("DATA", "354").await;
    world.shutdown.cancel();
    for client in [&mut idle, &mut greeted] {
        assert!(client.reply().await.starts_with("421 4.3.2"));
        assert!(client.is_closed().await);
    }
    busy.send("x\r\n.\r\n").await;
    assert!(busy.reply().await.starts_with("250 2.0.0"));
    assert!(busy.reply().await.starts_with("421 4.3.2"));
    settle().await;
    assert_eq!(destination.record().messages.len(), 1);
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_over_after_its_grace_and_what_is_cut_off_is_not_delivered() {
    use callahead_listeners::{Listen, MODE_EVERYONE};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = World::new(Settings { grace: Duration::from_millis(200), ..settings() });
    let destination = world.server(1, taking());
    let bound = Listen::Tcp(([127, 0, 0, 1], 0).into()).bind(MODE_EVERYONE).await.unwrap();
    let address = bound.tcp_addr().unwrap();
    tokio::time::resume();
    let serving = tokio::spawn(world.gateway.clone().serve(bound, world.shutdown.clone()));
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let dialogue = "EHLO x\r\nMAIL FROM:<s@e.example>\r\nRCPT TO:<anna@one.example>\r\nDATA\r\n";
    client.write_all(dialogue.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("354 ") {
        assert!(client.read_buf(&mut said).await.unwrap() > 0);
    }
    client.write_all(b"half of it\r\n").await.unwrap();
    world.shutdown.cancel();
    serving.await.unwrap();
    said.clear();
    let _ = client.read_to_end(&mut said).await;
    assert!(!String::from_utf8_lossy(&said).contains("250"));
    assert!(destination.record().messages.is_empty());
}

/// The big run in small: a destination that goes and comes while a client delivers, and everything counted.
#[tokio::test(start_paused = true)]
async fn five_hundred_messages_to_a_destination_that_fails_all_the_time_arrive_once_each_but_for_lost_replies() {
    let (world, destination, client) = warm().await;
    client.quit().await;
    let faults: [&dyn Fn(&mut Script); 8] = [
        &|script| drop(script.faults.insert(Step::Greeting, (Fault::CloseAfter(0), Some(1)))),
        &|script| drop(script.faults.insert(Step::Mail, (Fault::CloseAfter(0), Some(1)))),
        &|script| drop(script.faults.insert(Step::Rcpt, (Fault::Reply("450 4.2.0 later".into()), Some(1)))),
        &|script| drop(script.faults.insert(Step::Data, (Fault::CloseAfter(0), Some(1)))),
        &|script| script.close_within_message = Some(2000),
        &|script| drop(script.faults.insert(Step::Message, (Fault::Reply("451 4.3.0 later".into()), Some(1)))),
        &|script| drop(script.faults.insert(Step::Message, (Fault::CloseAfter(0), Some(1)))),
        &|_| {},
    ];
    let (mut put_off, mut lost) = (0, 0);
    for n in 0..500_usize {
        faults[n % faults.len()](&mut destination.script());
        let body = format!("Subject: message {n}\r\n\r\n{}.\r\n", "0123456789\r\n".repeat(1000));
        let mut tries = 0;
        loop {
            tries += 1;
            assert!(tries < 10, "message {n} does not arrive\n{}", destination.record().dialogue());
            let mut client = world.client().await;
            client.expect(MAIL, "250").await;
            let rcpt = client.say("RCPT TO:<anna@one.example>").await;
            let told = if rcpt.starts_with("250") {
                let told = client.say("DATA").await;
                if told.starts_with("354") {
                    client.send(&body).await;
                    client.reply().await
                } else {
                    told
                }
            } else {
                rcpt
            };
            client.quit().await;
            if told.starts_with("250") {
                break;
            }
            assert!(told.starts_with('4'), "message {n} is lost by {told}");
            put_off += 1;
            lost += usize::from(told.contains("gave no answer"));
            destination.script().close_within_message = None;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }
    let mut arrived = vec![0; 500];
    for message in destination.record().messages {
        let text = String::from_utf8(without_trace(&message)).unwrap();
        let number = text.strip_prefix("Subject: message ").unwrap().lines().next().unwrap();
        arrived[number.parse::<usize>().unwrap()] += 1;
    }
    assert!(arrived.iter().all(|count| *count >= 1), "{arrived:?}");
    let doubled: usize = arrived.iter().map(|count| count - 1).sum();
    assert_eq!(doubled, lost, "twice only where the reply to the end was lost");
    assert!(put_off >= 370 && lost >= 60, "{put_off} {lost}");
}
