//! Everything that can go wrong at a destination, and what it then says of a recipient by the design's sections 3 and 4.

use std::time::Duration;

use callahead_callout::{MxAnswer, ResolveError, TlsPolicy};
use callahead_testbed::tls::TestCa;
use callahead_testbed::{Fault, Place, Script, Step, Tls};

/// What comes of a callout, in the words of the decision table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// The fault does not bear on it: a mailbox that exists is accepted, one that does not is refused.
    Truth,
    /// Row 9.
    AcceptsAll,
    /// Row 10.
    Accepts,
    /// Row 11.
    Refuses,
    /// Row 11, in words that are about the filter: nothing that is known to exist is turned over by that.
    ShutsOut,
    /// Row 12.
    Later,
    /// Row 13.
    RefusesNullSender,
    /// Row 14.
    NoAnswer,
    /// Row 15.
    NullMx,
}

/// What comes of a recipient that the engine accepted, and that the gateway repeats at the destination with the real sender: the
/// design's section 7, and docs/gateway.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// As the mailbox exists or not.
    Truth,
    /// 2xx to RCPT.
    Accepts,
    /// 5xx to RCPT, or null MX.
    Refuses,
    /// 5xx to MAIL: the destination takes nothing from this sender, whoever it is for.
    RefusesSender,
    /// 4xx, or no answer that is one.
    PutsOff,
}

/// What the domain's route leads to.
#[derive(Clone, Debug)]
pub enum Where {
    Server(Box<Script>),
    Place(Place),
    /// The first host refuses connections, and the second one is well.
    SecondHost,
    /// Nothing is there at all.
    Nowhere,
    Mx(Option<Result<MxAnswer, ResolveError>>),
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub place: Where,
    pub tls: TlsPolicy,
    /// Where a random local part is asked first, because nothing is known of the domain: for a mailbox that exists, and for one
    /// that does not.
    pub fresh: [Says; 2],
    /// Where the domain is known to tell recipients apart.
    pub known: [Says; 2],
    /// The random local part is refused whatever becomes of the recipient, or never gets an answer. `None`: it is refused where the
    /// recipient gets an answer.
    pub tells_apart: Option<bool>,
    /// For the gateway, which asks a second time: for a mailbox that exists, and for one that does not.
    pub relayed: [Relayed; 2],
}

/// The mailboxes that are asked for; only the first exists.
pub const MAILBOXES: [&str; 2] = ["anna@one.example", "carol@one.example"];

fn sound() -> Script {
    Script::with_mailboxes([MAILBOXES[0]])
}

fn server(script: Script) -> Where {
    Where::Server(Box::new(script))
}

fn case(name: impl Into<String>, place: Where, says: Says) -> Case {
    let name = name.into();
    let relayed = match says {
        // A real sender is no null sender.
        Says::Truth | Says::RefusesNullSender => Relayed::Truth,
        Says::AcceptsAll | Says::Accepts => Relayed::Accepts,
        Says::Refuses | Says::ShutsOut | Says::NullMx => Relayed::Refuses,
        Says::Later | Says::NoAnswer => Relayed::PutsOff,
    };
    let (tls, both) = (TlsPolicy::Opportunistic, [says; 2]);
    Case { name, place, tls, fresh: both, known: both, tells_apart: None, relayed: [relayed; 2] }
}

impl Case {
    fn known(self, says: Says) -> Self {
        Self { known: [says; 2], ..self }
    }
    fn tls(self, tls: TlsPolicy) -> Self {
        Self { tls, ..self }
    }
    fn relayed(self, relayed: [Relayed; 2]) -> Self {
        Self { relayed, ..self }
    }
}

/// The faults of one step, with their names.
fn faults() -> Vec<(&'static str, Fault)> {
    let reply = |text: &str| Fault::Reply(text.to_owned());
    let and_close = |text: &str| Fault::ReplyAndClose(text.to_owned());
    vec![
        ("550", reply("550 5.7.1 no")),
        ("450", reply("450 4.3.0 later")),
        ("421", reply("421 4.3.2 closing")),
        ("354", reply("354 go on")),
        ("550, and closes", and_close("550 5.7.1 no")),
        ("421, and closes", and_close("421 4.3.2 closing")),
        ("two replies", reply("250 one\n550 5.1.1 two")),
        ("hangs", Fault::Hang),
        ("closes", Fault::CloseAfter(0)),
        ("closes within the reply", Fault::CloseAfter(5)),
        ("slow, an octet in 20 ms", Fault::SlowBytes(Duration::from_millis(20))),
        ("slow, an octet in 4 s", Fault::SlowBytes(Duration::from_secs(4))),
        ("no reply at all", Fault::Garbage(b"this is no reply\r\n".to_vec())),
        ("octets that are no text", Fault::Garbage(b"\x00\xff\xfe\r\n".to_vec())),
        ("a line of 9,000 octets", Fault::OverlongLine(9000)),
        ("lines without end", Fault::EndlessLines),
    ]
}

/// What a fault at a step comes to, where a random local part is asked first and where not.
fn by_design(step: Step, fault: &str) -> (Says, Says) {
    use Says::{Accepts, AcceptsAll, Later, NoAnswer, RefusesNullSender, ShutsOut, Truth};
    let both = |says| (says, says);
    match (step, fault) {
        // Slowness within the deadline is no fault, and after the answer nothing is.
        (_, "slow, an octet in 20 ms") | (Step::Quit, _) => both(Truth),
        // HELO is said where EHLO is refused for good.
        (Step::Ehlo, "550") => both(Truth),
        // Opportunistic: without TLS where it is refused.
        (Step::StartTls, "550" | "450") => both(Truth),
        (Step::Mail, "550" | "550, and closes") => both(RefusesNullSender),
        (Step::Mail, "450") => both(Later),
        (Step::Rcpt, "550") => both(ShutsOut),
        (Step::Rcpt, "450") => both(Later),
        // The random local part takes the connection with it; the recipient is asked for in another, and refused in full.
        (Step::Rcpt, "550, and closes") => both(ShutsOut),
        // The first reply to RCPT counts, and it is a 250 to whoever is asked for.
        (Step::Rcpt, "two replies") => (AcceptsAll, Accepts),
        // RSET stands between the random local part and the recipient: where it takes no time to fail, the recipient is asked for in
        // another session, without the one and so without the other.
        (Step::Rset, "hangs" | "slow, an octet in 4 s") => (NoAnswer, Truth),
        (Step::Rset, _) => both(Truth),
        _ => both(NoAnswer),
    }
}

/// Where that is another thing for the gateway: it says no RSET in a new session, waits 90 s for a step, and has a sender.
fn by_design_relayed(step: Step, fault: &str) -> Option<[Relayed; 2]> {
    use Relayed::{Accepts, PutsOff, RefusesSender, Truth};
    match (step, fault) {
        (Step::Mail, "550" | "550, and closes") => Some([RefusesSender; 2]),
        (Step::Rset, _) | (Step::Mail, "slow, an octet in 4 s") => Some([Truth; 2]),
        // The refusal has more octets than 90 s are enough for.
        (Step::Rcpt, "slow, an octet in 4 s") => Some([Accepts, PutsOff]),
        _ => None,
    }
}

fn step_name(step: Step) -> &'static str {
    match step {
        Step::Greeting => "greeting",
        Step::Ehlo => "EHLO",
        Step::Helo => "HELO",
        Step::StartTls => "STARTTLS",
        Step::Mail => "MAIL",
        Step::Rcpt => "RCPT",
        Step::Rset => "RSET",
        Step::Quit => "QUIT",
        // A callout never comes so far; `Step::ALL` does not have them.
        Step::Data | Step::Message => "message",
    }
}

/// All of them.
pub fn catalogue() -> Vec<Case> {
    use Says::{Accepts, AcceptsAll, Later, NoAnswer, NullMx, Refuses, RefusesNullSender, ShutsOut, Truth};
    let ca = TestCa::new();
    let certificate = || Tls::Certificate(ca.server("mail.example"));
    let mut cases = vec![case("none", server(sound()), Truth)];
    for step in Step::ALL {
        for (name, fault) in faults() {
            let mut script = sound().fault(step, fault);
            match step {
                Step::Helo => script = script.fault(Step::Ehlo, Fault::Reply("502 5.5.2 what?".into())),
                Step::StartTls => script.tls = certificate(),
                _ => {}
            }
            let (fresh, known) = by_design(step, name);
            let mut case = case(format!("{}: {name}", step_name(step)), server(script), fresh).known(known);
            // The random local part was refused before RSET, in a whole reply.
            case.tells_apart = (step == Step::Rset && fresh == NoAnswer).then_some(true);
            let relayed = by_design_relayed(step, name).unwrap_or(case.relayed);
            cases.push(case.relayed(relayed));
        }
    }
    let mut script = |name: &str, says, change: &dyn Fn(&mut Script)| {
        let mut script = sound();
        change(&mut script);
        cases.push(case(name, server(script), says));
    };
    script("greylisting", Later, &|s| s.greylist = Some(Duration::from_secs(300)));
    script("null sender: 550", RefusesNullSender, &|s| s.null_sender_reply = Some("550 5.7.1 no bounces".into()));
    script("null sender: 451", Later, &|s| s.null_sender_reply = Some("451 4.7.1 later".into()));
    script("takes no connection now (421)", NoAnswer, &|s| s.max_connections = Some(0));
    script("421 to the first MAIL", NoAnswer, &|s| s.drop_after_uses = Some(0));
    script("answers the first of pipelined commands only", Truth, &|s| s.broken_pipelining = true);
    script("no PIPELINING", Truth, &|s| s.extensions.retain(|keyword| keyword != "PIPELINING"));
    script("no extensions at all", Truth, &|s| s.extensions.clear());
    script("answers recipients from memory within a session", Truth, &|s| s.remembers = true);
    script("answers after 1 s", Truth, &|s| s.reply_delay = Duration::from_secs(1));
    script("answers after 20 s", NoAnswer, &|s| s.reply_delay = Duration::from_secs(20));
    for (reply, says) in [
        ("550 5.1.1 no such user", Refuses),
        ("554-no\r\n554 at all", Refuses),
        ("552 5.2.2 mailbox full", Refuses),
        ("550 5.7.1 your address is blocked", ShutsOut),
        ("553 your IP address is listed at a block list", ShutsOut),
        ("550 5.4.1 Recipient address rejected: Access denied", Refuses),
        ("553", Refuses),
        ("450 4.2.1 busy", Later),
        ("452 4.2.2 full", Later),
        ("251 2.1.5 will forward", Accepts),
        ("252 perhaps", Accepts),
        ("552", Later),
        ("530 5.7.0 must issue a STARTTLS command first", NoAnswer),
        ("504 5.5.2 <filter>: Helo command rejected: need fully-qualified hostname", Later),
        ("500 5.5.2 what?", NoAnswer),
        ("503 5.5.1 bad sequence", NoAnswer),
        ("421 4.3.2 closing", NoAnswer),
        ("354 go on", NoAnswer),
        ("999 what", NoAnswer),
        ("550-no\r\n250 yes", NoAnswer),
    ] {
        let shown = reply.replace("\r\n", " / ");
        script(&format!("to the recipient: {shown}"), says, &|s| {
            s.rcpt_replies = MAILBOXES.map(|mailbox| (mailbox.to_owned(), reply.to_owned())).into();
        });
    }
    for case in &mut cases {
        if case.name.starts_with("to the recipient: ") {
            case.tells_apart = Some(true);
        }
        if case.name == "null sender: 451" {
            case.relayed = [Relayed::Truth; 2];
        }
    }
    cases.push(case("accepts every recipient", server(Script::accept_all()), AcceptsAll).known(Accepts));
    // Who is not refused in a word can't be told from who is not there.
    let script = Script { drop_after_errors: Some(0), ..sound() };
    let dropped = case("421 instead of the first refusal", server(script), NoAnswer);
    let relayed = [Relayed::Accepts, Relayed::PutsOff];
    let says = [Accepts, NoAnswer];
    cases.push(Case { fresh: says, known: says, tells_apart: Some(false), relayed, ..dropped });
    let script = Script { drop_after_uses: Some(1), ..sound() };
    cases.push(case("421 to the second MAIL", server(script), Truth));
    for (policy, named) in [
        (TlsPolicy::Opportunistic, "opportunistic"),
        (TlsPolicy::Required, "required"),
        (TlsPolicy::Verified, "verified"),
    ] {
        for (tls, name) in [
            (Tls::None, "not offered"),
            (certificate(), "a certificate of an unknown authority"),
            (Tls::GarbageAfter220, "garbage behind 220"),
            (Tls::CloseAfter220, "closes behind 220"),
            (Tls::HangAfter220, "hangs behind 220"),
            (Tls::CloseAfterHandshake(ca.server("mail.example")), "closes behind the handshake"),
            (Tls::Injection(ca.server("mail.example")), "a reply in clear behind 220"),
        ] {
            let encrypts = matches!(tls, Tls::Certificate(_)) && policy == TlsPolicy::Required;
            let says = if encrypts || policy == TlsPolicy::Opportunistic { Truth } else { NoAnswer };
            let script = Script { tls, ..sound() };
            cases.push(case(format!("TLS {named}: {name}"), server(script), says).tls(policy));
        }
    }
    // What a session says of itself is no word on a mailbox: the recipient is asked for in a session of its own.
    let script = Script { rcpt_limit: Some((1, "550 5.7.1 too many recipients".into())), ..sound() };
    cases.push(case("550 to each recipient of a session but the first", server(script), Truth));
    let script = Script { wrong_rcpt_limit: Some((1, "571 5.7.1 too many unknown recipients".into())), ..sound() };
    cases.push(case("571 to each recipient behind an unknown one", server(script), Truth));
    let in_clear = |tls| Script { refuses_in_clear: Some("550 5.7.1 encryption is required".into()), tls, ..sound() };
    cases.push(case("550 in clear, and TLS works", server(in_clear(certificate())), Truth));
    cases.push(case("550 in clear, and STARTTLS fails", server(in_clear(Tls::CloseAfter220)), NoAnswer));
    cases.push(case("550 in clear, and STARTTLS is not offered", server(in_clear(Tls::None)), ShutsOut));
    let failed = |what: &str| ResolveError::Failed("one.example".into(), what.into());
    let dns = |name: &str, answer, says| case(format!("MX: {name}"), Where::Mx(answer), says);
    cases.extend([
        case("connection refused", Where::Place(Place::Refused), NoAnswer),
        case("packets are swallowed", Where::Place(Place::BlackHole), NoAnswer),
        case("no way there", Where::Nowhere, NoAnswer),
        case("the first host refuses connections, the second is well", Where::SecondHost, Truth),
        dns("null (RFC 7505)", Some(Ok(MxAnswer::Null)), NullMx),
        dns("SERVFAIL", Some(Err(failed("SERVFAIL"))), NoAnswer),
        dns("no such domain", Some(Err(ResolveError::NoSuchDomain("one.example".into()))), NoAnswer),
        dns("none, and no address", Some(Ok(MxAnswer::None)), NoAnswer),
        dns("the DNS never answers", None, NoAnswer),
    ]);
    cases
}
