//! What is said to a destination, and what its replies mean, with every fault at every step.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::Duration;

use callahead_callout::{Failure, Outcome, TlsPolicy};
use callahead_testbed::{Fault, Place, Script, Step};
use common::*;
use tokio::time::Instant;

fn normal() -> Script {
    Script::with_mailboxes(["anna@one.example", "ben@one.example"])
}

#[tokio::test(start_paused = true)]
async fn a_session_says_what_is_documented_and_ends_in_quit() {
    let (bench, destination) = Bench::one(normal());
    let report = bench.probe("anna@one.example").await;
    assert_eq!(kind(&report.outcome), "accepted");
    assert!(report.not_accept_all);
    assert_eq!(report.destination.as_deref(), Some("10.0.0.1:25"));
    assert_eq!(kind(&bench.ask("carol@one.example").await.outcome), "rejected");
    bench.end().await;
    destination.assert_polite();
    let record = destination.record();
    let commands = &record.sessions[0].commands;
    assert_eq!(record.connections, 1);
    assert_eq!(commands[..2], ["EHLO filter.example", "MAIL FROM:<>"]);
    assert!(
        commands[2].starts_with("RCPT TO:<") && commands[2].len() == "RCPT TO:<@one.example>".len() + 20,
        "{}",
        commands[2]
    );
    let rest = [
        "RSET",
        "MAIL FROM:<>",
        "RCPT TO:<anna@one.example>",
        "RSET",
        "MAIL FROM:<>",
        "RCPT TO:<carol@one.example>",
        "QUIT",
    ];
    assert_eq!(commands[3..], rest);
}

#[tokio::test(start_paused = true)]
async fn the_replies_to_rcpt_and_mail_mean_what_the_table_says() {
    for (reply, expected) in [
        ("250 2.1.5 Ok", "accepted"),
        ("251 User not local; will forward", "accepted"),
        ("252 2.5.2 Can't VRFY", "accepted"),
        ("550 5.1.1 No such user", "rejected"),
        ("554 5.7.1 Blocked", "rejected"),
        ("550 5.7.509 Access denied", "rejected"),
        ("599", "rejected"),
        ("552 5.2.2 Over quota", "rejected"),
        ("552 Too many recipients", "deferred"),
        ("501 5.1.3 Bad address syntax", "rejected"),
        ("500 5.5.2 What?", "unreachable"),
        ("502 Command not implemented", "unreachable"),
        ("530 5.7.0 Must issue a STARTTLS command first", "unreachable"),
        ("538 5.7.11 Encryption required", "unreachable"),
        ("450 4.2.0 Greylisted", "deferred"),
        ("452 4.2.2 Full", "deferred"),
        ("221 2.0.0 Bye", "unreachable"),
        ("235 What?", "unreachable"),
        ("354 Go ahead", "unreachable"),
        ("199 Hm", "unreachable"),
        ("hello", "unreachable"),
    ] {
        let (bench, destination) = Bench::one(normal().fault(Step::Rcpt, Fault::Reply(reply.into())));
        assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), expected, "{reply}");
        bench.end().await;
        destination.assert_polite();
    }
    for (reply, expected) in [
        ("550 5.7.1 No bounces", "null sender refused"),
        ("530 5.7.0 Must issue STARTTLS", "unreachable"),
        ("538 5.7.11 Encryption required", "unreachable"),
        ("451 4.3.0 Later", "deferred"),
        ("354 What", "unreachable"),
    ] {
        let (bench, destination) = Bench::one(normal().fault(Step::Mail, Fault::Reply(reply.into())));
        assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), expected, "{reply}");
        bench.end().await;
        destination.assert_polite();
    }
}

#[tokio::test(start_paused = true)]
async fn accept_all_greylisting_and_missing_smtputf8_are_told() {
    let (bench, destination) = Bench::one(Script::accept_all());
    assert_eq!(kind(&bench.probe("anna@one.example").await.outcome), "accepts all");
    bench.end().await;
    destination.assert_polite();

    let (bench, _) = Bench::one(Script { greylist: Some(Duration::from_secs(300)), ..normal() });
    let report = bench.probe("anna@one.example").await;
    assert_eq!((kind(&report.outcome), report.not_accept_all), ("deferred", false));
    tokio::time::sleep(Duration::from_secs(301)).await;
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");

    let (bench, _) = Bench::one(normal().without("SMTPUTF8"));
    assert_eq!(kind(&bench.ask("äöü@one.example").await.outcome), "needs smtputf8");
    let (bench, destination) = Bench::one(Script::with_mailboxes(["äöü@one.example"]));
    assert_eq!(kind(&bench.ask("äöü@one.example").await.outcome), "accepted");
    assert!(destination.record().sessions[0].commands.contains(&"MAIL FROM:<> SMTPUTF8".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn without_pipelining_one_command_leaves_at_a_time() {
    let (bench, destination) = Bench::one(normal().without("PIPELINING"));
    assert_eq!(kind(&bench.probe("carol@one.example").await.outcome), "rejected");
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
    bench.end().await;
    destination.assert_polite();
    // An accepted random local part says all there is to say.
    let (bench, destination) = Bench::one(Script::accept_all().without("PIPELINING"));
    bench.probe("anna@one.example").await;
    assert_eq!(destination.record().rcpt, 1);
}

#[tokio::test(start_paused = true)]
async fn helo_is_said_where_ehlo_is_refused() {
    let (bench, destination) = Bench::one(normal().fault(Step::Ehlo, Fault::Reply("502 5.5.1 Not implemented".into())));
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
    bench.end().await;
    destination.assert_polite();
    assert_eq!(destination.record().sessions[0].commands[1], "HELO filter.example");
}

fn faults() -> Vec<Fault> {
    vec![
        Fault::Hang,
        Fault::ReplyAndClose("421 4.3.2 Shutting down".into()),
        Fault::Reply("421 4.3.2 Busy".into()),
        Fault::CloseAfter(0),
        Fault::CloseAfter(5),
        Fault::Garbage(b"\x00\xff\xfe garbage\r\n".to_vec()),
        Fault::Garbage(vec![b'x'; 5000]),
        Fault::Garbage(b"250-one\r\n251 two\r\n".to_vec()),
        Fault::OverlongLine(5000),
        Fault::EndlessLines,
        Fault::Reply("999 What".into()),
        Fault::SlowBytes(Duration::from_secs(20)),
    ]
}

#[tokio::test(start_paused = true)]
async fn row_14_every_fault_at_every_step_is_unreachable_within_the_deadline() {
    for step in [Step::Greeting, Step::Ehlo, Step::Mail, Step::Rcpt] {
        for fault in faults() {
            let (bench, destination) = Bench::one(normal().fault(step, fault.clone()));
            let began = Instant::now();
            let report = bench.probe("carol@one.example").await;
            assert_eq!(kind(&report.outcome), "unreachable", "{step:?} {fault:?}\n{}", dialogue(&report));
            assert!(began.elapsed() <= Duration::from_secs(30), "{step:?} {fault:?} took {:?}", began.elapsed());
            bench.end().await;
            destination.assert_polite();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn row_14_a_reply_cut_at_any_octet_never_rejects() {
    // Every reply of the dialogue, cut short after every octet; the recipient does not exist, so a mistake would show.
    for step in [Step::Greeting, Step::Ehlo, Step::Mail, Step::Rcpt, Step::Rset] {
        for octets in 0..100 {
            let (bench, destination) = Bench::one(normal().fault(step, Fault::CloseAfter(octets)));
            let report =
                bench.ask_route("carol@one.example", &route(&["10.0.0.1"], TlsPolicy::Off), step == Step::Rset).await;
            let whole = report
                .transcript
                .lines()
                .any(|line| line.line.starts_with(b"550 5.1.1 <carol") && line.line.ends_with(b"table"));
            match kind(&report.outcome) {
                "unreachable" => {}
                "rejected" => assert!(whole, "{step:?} cut at {octets}\n{}", dialogue(&report)),
                other => panic!("{step:?} cut at {octets} gave {other}\n{}", dialogue(&report)),
            }
            bench.end().await;
            destination.assert_polite();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn broken_pipelining_is_asked_again_one_by_one_and_remembered() {
    let (bench, destination) = Bench::one(Script { broken_pipelining: true, ..normal() });
    let report = bench.probe("anna@one.example").await;
    assert_eq!(kind(&report.outcome), "accepted", "{}", dialogue(&report));
    let began = Instant::now();
    assert_eq!(kind(&bench.ask("carol@one.example").await.outcome), "rejected");
    assert!(began.elapsed() < Duration::from_secs(1));
    bench.end().await;
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn pipelining_is_tried_again_after_five_minutes() {
    let round_trip = Duration::from_millis(50);
    let (bench, destination) = Bench::one(Script { broken_pipelining: true, ..normal() });
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
    *destination.script() = Script { reply_delay: round_trip, ..normal() };
    bench.end_sessions().await;
    // Greeting, EHLO, and the rest in one or in two.
    assert_eq!(bench.ask("anna@one.example").await.elapsed, 4 * round_trip);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(bench.ask("anna@one.example").await.elapsed, 3 * round_trip);
}

#[tokio::test(start_paused = true)]
async fn a_used_session_that_does_not_take_rset_has_had_enough_and_can_pipeline_all_the_same() {
    for reply in ["450 4.7.0 no more here", "550 5.7.0 no more here", "503 5.5.1 what?"] {
        let (bench, destination) = Bench::one(Script { reply_delay: Duration::from_millis(50), ..normal() });
        for _ in 0..3 {
            assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
        }
        destination.script().faults.insert(Step::Rset, (Fault::Reply(reply.into()), Some(1)));
        let report = bench.ask("anna@one.example").await;
        assert_eq!(kind(&report.outcome), "accepted", "{}", dialogue(&report));
        let status = bench.callouts.destinations().remove(0);
        assert_eq!((status.learned_uses, status.failures), (Some(2), 0));
        // RSET; then greeting, EHLO, and the rest in one.
        assert_eq!(report.elapsed.as_millis(), 50 + 150, "{}", dialogue(&report));
        bench.end().await;
        destination.assert_polite();
    }
}

#[tokio::test(start_paused = true)]
async fn a_503_behind_an_accepted_mail_is_asked_again_without_pipelining() {
    let script = normal().fault_times(Step::Rcpt, Fault::Reply("503 5.5.1 Bad sequence".into()), 1);
    let (bench, _) = Bench::one(script);
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
}

#[tokio::test(start_paused = true)]
async fn a_503_to_mail_refuses_the_null_sender_only_where_nothing_was_pipelined() {
    let bad_sequence = || Fault::Reply("503 5.5.1 Bad sequence".into());
    let (bench, _) = Bench::one(normal().fault_times(Step::Mail, bad_sequence(), 1));
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted", "one by one it is another answer");
    for script in [normal(), normal().without("PIPELINING")] {
        let (bench, _) = Bench::one(script.fault(Step::Mail, bad_sequence()));
        assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "null sender refused");
    }
}

#[tokio::test(start_paused = true)]
async fn a_random_local_part_that_is_put_off_tells_nothing_and_the_recipient_is_asked_for() {
    for script in [normal(), normal().without("PIPELINING")] {
        let (bench, destination) =
            Bench::one(script.fault_times(Step::Rcpt, Fault::Reply("450 4.2.0 Greylisted".into()), 1));
        let report = bench.probe("anna@one.example").await;
        assert_eq!((kind(&report.outcome), report.not_accept_all), ("accepted", false), "{}", dialogue(&report));
        assert_eq!(destination.record().connections, 1);
        bench.end().await;
        destination.assert_polite();
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_nobody_asked_for_is_not_taken_for_an_answer() {
    let (bench, _) =
        Bench::one(normal().fault(Step::Greeting, Fault::Garbage(b"220 hello\r\n550 5.1.1 gone\r\n".to_vec())));
    let report = bench.ask("anna@one.example").await;
    let Outcome::Unreachable(hosts) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert!(matches!(hosts[0].failure, Failure::Unsolicited(_)));
    // And one more than was asked for in a pipelined group: it is asked again, one by one, in another session.
    let (bench, destination) =
        Bench::one(normal().fault_times(Step::Rcpt, Fault::Garbage(b"250 Ok\r\n550 5.1.1 gone\r\n".to_vec()), 1));
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
    assert_eq!(kind(&bench.ask("ben@one.example").await.outcome), "accepted");
    assert_eq!(destination.record().connections, 2);
}

#[tokio::test(start_paused = true)]
async fn a_reply_too_many_to_mail_is_never_taken_for_the_answer_to_rcpt() {
    for extensions in [vec!["PIPELINING".to_owned()], vec![]] {
        let script = normal().fault(Step::Mail, Fault::Reply("250 one\n550 5.1.1 two".into()));
        let (bench, destination) = Bench::one(Script { extensions, ..script });
        for recipient in ["anna@one.example", "carol@one.example"] {
            let report = bench.probe(recipient).await;
            assert_eq!(kind(&report.outcome), "unreachable", "{}", dialogue(&report));
            assert!(!report.not_accept_all, "nor for that to the random local part's\n{}", dialogue(&report));
        }
        bench.end().await;
        destination.assert_polite();
    }
}

#[tokio::test(start_paused = true)]
async fn a_pipelined_group_that_is_cut_off_after_a_reply_too_many_is_asked_again_one_by_one() {
    // Read in order, the 550 would be the answer to MAIL, and the destination one that refuses the null sender.
    let script = normal().fault_times(Step::Rset, Fault::ReplyAndClose("250 one\n550 5.1.1 two".into()), 1);
    let (bench, _) = Bench::one(script);
    let report = bench.probe("anna@one.example").await;
    assert_eq!(kind(&report.outcome), "accepted", "{}", dialogue(&report));
}

#[tokio::test(start_paused = true)]
async fn a_reply_too_many_before_a_421_is_never_taken_for_an_answer() {
    // A 421 to the second MAIL; before that, RSET gets two replies. Read in order the 550 would be the answer to MAIL.
    let script = normal().fault_times(Step::Rset, Fault::Reply("250 one\n550 5.1.1 two".into()), 1);
    let (bench, _) = Bench::one(Script { drop_after_uses: Some(1), ..script });
    let report = bench.probe("anna@one.example").await;
    assert_eq!(kind(&report.outcome), "accepted", "{}", dialogue(&report));
    // And behind a whole group: MAIL gets two replies and RCPT a 421.
    let script = normal().fault(Step::Mail, Fault::Reply("250 one\n550 5.1.1 two".into()));
    let (bench, _) = Bench::one(script.fault(Step::Rcpt, Fault::ReplyAndClose("421 4.3.2 closing".into())));
    let report = bench.ask("anna@one.example").await;
    assert_eq!(kind(&report.outcome), "unreachable", "{}", dialogue(&report));
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_ends_the_session_with_the_random_local_part_is_asked_without_one() {
    // Whether the random local part was refused before that.
    for (script, refused) in [
        (Script { drop_after_errors: Some(0), ..normal() }, false),
        (Script { drop_after_uses: Some(1), ..normal() }, true),
        (normal().fault_times(Step::Rcpt, Fault::ReplyAndClose("550 5.1.1 no".into()), 1), true),
        (normal().fault(Step::Rset, Fault::Reply("502 5.5.1 what?".into())), true),
    ] {
        let (bench, destination) = Bench::one(script);
        let report = bench.probe("anna@one.example").await;
        assert_eq!(kind(&report.outcome), "accepted", "{}", dialogue(&report));
        assert_eq!(report.not_accept_all, refused, "{}", dialogue(&report));
        assert_eq!(bench.callouts.destinations()[0].failures, 0, "that is no failure of the host");
        bench.end().await;
        destination.assert_polite();
    }
}

const POLICY: &str = "571 sorry, you are violating our security policies (#5.7.1 - chkuser)";

/// As qmail with chkuser refuses.
fn chkuser() -> Script {
    let unknown = |n: u32| {
        let who = format!("user{n}@one.example");
        (who.clone(), format!("511 sorry, no mailbox here by that name <{who}> (#5.1.1 - chkuser)"))
    };
    Script { rcpt_replies: (0..100).map(unknown).collect(), ..normal() }
}

#[tokio::test(start_paused = true)]
async fn row_11_a_refusal_for_what_was_asked_before_in_the_session_is_not_believed() {
    // With a bare code, as a server has it that answers all the same.
    for policy in [POLICY, "550 5.7.1 too many wrong recipients", "550 too many wrong recipients", "550"] {
        for extensions in [vec!["PIPELINING".to_owned()], vec![]] {
            let limit = Some((3, policy.to_owned()));
            let (bench, destination) = Bench::one(Script { wrong_rcpt_limit: limit, extensions, ..chkuser() });
            for n in 0..3 {
                let report = bench.ask(&format!("user{n}@one.example")).await;
                assert_eq!(kind(&report.outcome), "rejected", "{}", dialogue(&report));
            }
            assert_eq!(destination.record().connections, 1);
            let report = bench.ask("anna@one.example").await;
            assert_eq!(kind(&report.outcome), "accepted", "{policy}\n{}", dialogue(&report));
            assert_eq!(report.destination.as_deref(), Some("10.0.0.1:25"));
            assert_eq!(destination.record().connections, 2);
            let status = bench.callouts.destinations().remove(0);
            assert_eq!((status.learned_uses, status.failures), (Some(2), 0), "others end before that");
            bench.end().await;
            destination.assert_polite();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn row_11_a_recipient_that_the_session_made_be_refused_is_refused_in_its_own_words() {
    let limit = Some((3, POLICY.to_owned()));
    let (bench, destination) = Bench::one(Script { wrong_rcpt_limit: limit, ..chkuser() });
    for n in 0..40 {
        let report = bench.ask(&format!("user{n}@one.example")).await;
        assert!(matches!(&report.outcome, Outcome::Rejected(reply) if reply.code() == 511), "{}", dialogue(&report));
    }
    let connections = destination.record().connections;
    assert!(connections <= 22, "two recipients a session, once it is known: {connections}");
    // With the random local part in front, and a limit below which no session of this kind comes.
    let limit = Some((1, POLICY.to_owned()));
    let (bench, destination) = Bench::one(Script { wrong_rcpt_limit: limit, ..chkuser() });
    let report = bench.probe("anna@one.example").await;
    assert_eq!((kind(&report.outcome), report.not_accept_all), ("accepted", true), "{}", dialogue(&report));
    bench.end().await;
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn row_09_a_random_local_part_that_the_session_made_be_refused_says_nothing_of_its_domain() {
    let accepts_two = Script { accept_all: true, ..Script::default() };
    let refused = (0..3).map(|n| (format!("user{n}@one.example"), "550 5.1.1 unknown".to_owned())).collect();
    let limit = Some((3, POLICY.to_owned()));
    let (bench, _) = Bench::one(Script { wrong_rcpt_limit: limit, rcpt_replies: refused, ..accepts_two });
    for n in 0..3 {
        assert_eq!(kind(&bench.ask(&format!("user{n}@one.example")).await.outcome), "rejected");
    }
    let report = bench.probe("anna@two.example").await;
    assert_eq!((kind(&report.outcome), report.not_accept_all), ("accepts all", false), "{}", dialogue(&report));
}

#[tokio::test(start_paused = true)]
async fn row_14_a_refusal_that_asks_for_authentication_says_nothing() {
    for reply in ["530 5.7.0 authenticate first", "534 5.7.9 too weak", "535 5.7.8 who are you", "523 5.7.10 encrypt"] {
        let (bench, _) =
            Bench::one(Script { rcpt_replies: [("anna@one.example".into(), reply.into())].into(), ..normal() });
        let report = bench.ask("anna@one.example").await;
        assert_eq!(kind(&report.outcome), "unreachable", "{}", dialogue(&report));
    }
}

#[tokio::test(start_paused = true)]
async fn row_11_recipients_are_counted_as_servers_do_and_the_random_ones_too() {
    let reached = "571 sorry, reached maximum number of recipients for one session (#5.7.1 - chkuser)";
    let (bench, destination) = Bench::one(Script { rcpt_limit: Some((50, reached.to_owned())), ..normal() });
    // A random local part and 98 recipients.
    assert_eq!(kind(&bench.probe("anna@one.example").await.outcome), "accepted");
    for _ in 0..97 {
        assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
    }
    let record = destination.record();
    assert_eq!((record.connections, record.rcpt), (2, 99), "the limit is never met");
    // There is room for one more in that session, and none for two.
    assert_eq!(kind(&bench.probe("anna@one.example").await.outcome), "accepted");
    assert_eq!((destination.record().connections, destination.record().rcpt), (3, 101));
}

#[tokio::test(start_paused = true)]
async fn row_11_ordinary_refusals_cost_one_connection_more_for_each_kind_and_host() {
    let unknown = |n: u32| {
        let text = match n % 2 {
            0 => format!("550 no such user: user{n} (ref 4f{n}ac9d, see https://help.example/?r=xYz{n})"),
            _ => format!(
                "550 5.7.1 <user{n}@one.example> Recipient address rejected: Access denied [HOST{n}.example 08DC{n}]"
            ),
        };
        (format!("user{n}@one.example"), text)
    };
    let (bench, destination) = Bench::one(Script { rcpt_replies: (0..800).map(unknown).collect(), ..normal() });
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
    for n in 0..800 {
        let report = bench.ask(&format!("user{n}@one.example")).await;
        assert_eq!(kind(&report.outcome), "rejected", "{}", dialogue(&report));
    }
    let connections = destination.record().connections;
    assert!(connections <= 102, "8 refused recipients in a session, and two to learn the kinds: {connections}");
    assert_eq!(bench.callouts.destinations()[0].learned_uses, None, "it says the same to the first of a session");
    bench.end().await;
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn row_11_a_refusal_that_is_not_believed_and_can_not_be_asked_again_says_nothing() {
    let (bench, destination) = Bench::one(normal());
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
    destination.script().max_connections = Some(0);
    let report = bench.ask("carol@one.example").await;
    assert_eq!(kind(&report.outcome), "unreachable", "{}", dialogue(&report));
}

#[tokio::test(start_paused = true)]
async fn row_09_a_reply_that_accepts_nobody_makes_no_domain_accept_all() {
    for reply in ["221 2.0.0 Bye", "220 What?"] {
        let (bench, _) = Bench::one(normal().fault_times(Step::Rcpt, Fault::Reply(reply.into()), 1));
        let report = bench.probe("carol@one.example").await;
        assert_eq!((kind(&report.outcome), report.not_accept_all), ("rejected", true), "{}", dialogue(&report));
    }
}

#[tokio::test(start_paused = true)]
async fn that_a_random_local_part_was_refused_is_told_whatever_became_of_the_recipient() {
    let (bench, destination) = Bench::one(normal());
    destination.script().rcpt_replies.insert("anna@one.example".into(), "999 what".into());
    let report = bench.probe("anna@one.example").await;
    assert_eq!((kind(&report.outcome), report.not_accept_all), ("unreachable", true), "{}", dialogue(&report));
}

#[tokio::test(start_paused = true)]
async fn the_next_host_is_asked_when_one_does_not_offer_smtputf8() {
    let bench = Bench::new(settings());
    bench.server(1, normal().without("SMTPUTF8"));
    bench.server(2, Script::with_mailboxes(["äöü@one.example"]));
    let route = route(&["10.0.0.1", "10.0.0.2"], TlsPolicy::Off);
    let report = bench.ask_route("äöü@one.example", &route, false).await;
    assert_eq!((kind(&report.outcome), report.destination.as_deref()), ("accepted", Some("10.0.0.2:25")));
    bench.net.set(address(2), Place::Refused);
    bench.end_sessions().await;
    let report = bench.ask_route("äöü@one.example", &route, false).await;
    assert_eq!((kind(&report.outcome), report.destination.as_deref()), ("needs smtputf8", Some("10.0.0.1:25")));
}

#[tokio::test(start_paused = true)]
async fn a_503_to_rcpt_is_no_word_on_the_recipient() {
    // RFC 5321 4.2.3: bad sequence of commands.
    let script = normal().without("PIPELINING").fault(Step::Rcpt, Fault::Reply("503 5.5.1 need MAIL".into()));
    let (bench, destination) = Bench::one(script);
    let report = bench.ask("anna@one.example").await;
    assert_eq!(kind(&report.outcome), "unreachable", "{}", dialogue(&report));
    bench.end().await;
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_never_stops_talking_is_left_behind_at_once() {
    let (bench, destination) = Bench::one(normal().fault(Step::Quit, Fault::EndlessLines));
    let began = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
        bench.end_sessions().await;
    }
    assert!(began.elapsed() < Duration::from_secs(10), "64 KiB of it are read each time, once: {:?}", began.elapsed());
    assert_eq!(destination.record().connections, 20);
}

#[tokio::test(start_paused = true)]
async fn the_next_host_is_asked_when_one_cannot_be() {
    for place in [Place::Refused, Place::BlackHole] {
        let bench = Bench::new(settings());
        bench.net.set(address(1), place);
        let second = bench.server(2, normal());
        let route = route(&["10.0.0.1", "10.0.0.9", "10.0.0.2"], TlsPolicy::Off);
        let report = bench.ask_route("anna@one.example", &route, false).await;
        assert_eq!(kind(&report.outcome), "accepted", "{}", dialogue(&report));
        assert_eq!(report.destination.as_deref(), Some("10.0.0.2:25"));
        assert!(report.elapsed < Duration::from_secs(30));
        bench.end().await;
        second.assert_polite();
    }
    let bench = Bench::new(settings());
    bench.server(1, normal().fault(Step::Greeting, Fault::Hang));
    bench.server(2, normal());
    let report = bench.ask_route("anna@one.example", &route(&["10.0.0.1", "10.0.0.2"], TlsPolicy::Off), false).await;
    assert_eq!(kind(&report.outcome), "accepted", "a host that hangs leaves time for the next");
}

#[tokio::test(start_paused = true)]
async fn a_cold_question_with_its_probe_takes_four_round_trips_and_a_warm_one_takes_one() {
    // The destination answers 50 ms after it was asked; the connection in memory itself takes none, in the world it takes one more.
    let (bench, _) = Bench::one(Script { reply_delay: Duration::from_millis(50), ..normal() });
    let cold = bench.probe("anna@one.example").await.elapsed;
    assert_eq!(cold.as_millis(), 150, "greeting, EHLO, and all the rest in one");
    let warm = bench.ask("ben@one.example").await.elapsed;
    assert_eq!(warm.as_millis(), 50);
}

#[tokio::test(start_paused = true)]
async fn the_transcript_is_what_was_said() {
    let (bench, _) = Bench::one(normal());
    let report = bench.ask("anna@one.example").await;
    let said = dialogue(&report);
    for line in [
        "* connected to 10.0.0.1:25",
        "< 220 destination.example ESMTP",
        "> EHLO filter.example",
        "< 250-PIPELINING",
        "> RCPT TO:<anna@one.example>",
        "< 250 2.1.5 Ok",
    ] {
        assert!(said.contains(line), "{line} is not in\n{said}");
    }
}
