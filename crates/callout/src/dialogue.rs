//! One question in a session: the commands, and what their replies mean.
//!
//! Where the host offers PIPELINING all commands leave in one write, else one at a time; the replies are read against the same
//! list either way. RCPT's reply counts only behind a MAIL that was accepted.

use callahead_smtp::{Command, Recipient, Reply};
use tokio::time::Instant;

use crate::outcome::{Failure, Outcome, Step};
use crate::refusal::Refusal;
use crate::session::{Session, Surplus, Trouble};
use crate::transcript::Transcript;

/// What a question brought.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) outcome: Outcome,
    /// The random local part was refused by a 5xx.
    pub(crate) not_accept_all: bool,
    /// The session may be used again.
    pub(crate) reusable: bool,
    /// Recipients that the session had been asked for before this one, the random one too.
    pub(crate) asked_before: u32,
    /// How the session's first recipient was refused, where it is of this question.
    pub(crate) first_refusal: Option<Refusal>,
}

/// What went wrong, and how far it had come.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) trouble: Trouble,
    /// Commands were pipelined, and not all of them were answered, or one was answered as if those before had not been said. Another
    /// session without pipelining may fare better.
    pub(crate) pipelining_suspect: bool,
    /// It broke at the random local part's RCPT or behind it, so that without one the host might have answered.
    pub(crate) at_probe: bool,
    /// The random local part was refused by a 5xx before that.
    pub(crate) not_accept_all: bool,
}

/// Of which transaction a command is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Probe,
    Recipient,
}

/// Asks in a session that is open and idle.
///
/// `pipeline` is whether commands may leave together where the host offers it.
pub(crate) async fn ask(
    session: &mut Session,
    recipient: &Recipient,
    probe: Option<&Recipient>,
    pipeline: bool,
    deadline: Instant,
    transcript: &mut Transcript,
) -> Result<Found, Broken> {
    let smtputf8 = recipient.needs_smtputf8();
    if smtputf8 && !session.offers.smtputf8 {
        let outcome = Outcome::NeedsSmtpUtf8;
        return Ok(Found { outcome, not_accept_all: false, reusable: true, asked_before: 0, first_refusal: None });
    }
    let mut commands: Vec<(Of, Step, Command<'_>)> = Vec::with_capacity(6);
    if session.uses > 0 {
        commands.push((Of::Recipient, Step::Rset, Command::Rset));
    }
    if let Some(probe) = probe {
        commands.push((Of::Probe, Step::Mail, Command::MailFromNull { smtputf8: false }));
        commands.push((Of::Probe, Step::Rcpt, Command::RcptTo(probe)));
        commands.push((Of::Recipient, Step::Rset, Command::Rset));
    }
    commands.push((Of::Recipient, Step::Mail, Command::MailFromNull { smtputf8 }));
    commands.push((Of::Recipient, Step::Rcpt, Command::RcptTo(recipient)));

    let pipelined = pipeline && session.offers.pipelining;
    let asked_before = session.uses + u32::from(probe.is_some());
    let begins = session.uses == 0;
    let first = if probe.is_some() { Of::Probe } else { Of::Recipient };
    session.uses = asked_before + 1;
    let probe_at = commands.iter().position(|(of, step, _)| *of == Of::Probe && *step == Step::Rcpt);
    let at_probe = |answered: usize| probe_at.is_some_and(|at| answered >= at);
    let broken = |trouble: Trouble, answered: usize, not_accept_all: bool| {
        let short = matches!(trouble.failure, Failure::Timeout(_)) && answered > 0;
        Broken { pipelining_suspect: pipelined && short, at_probe: at_probe(answered), not_accept_all, trouble }
    };
    let mut octets = Vec::with_capacity(256);
    if pipelined {
        commands.iter().for_each(|(_, _, command)| command.write(&mut octets));
        let first = commands[0].1;
        // One that was handed on by another question may have heard something since.
        session.nothing_else_came(first, transcript).await.map_err(|trouble| broken(trouble, 0, false))?;
        let sent = session.send(first, &octets, deadline, transcript).await;
        sent.map_err(|trouble| broken(trouble, 0, false))?;
    }
    // What is known once it is known; the rest of a pipelined group is only read then.
    let mut outcome = None;
    let mut first_refusal = None;
    let mut not_accept_all = false;
    let mut mail_accepted = false;
    for (answered, (of, step, command)) in commands.iter().enumerate() {
        if !pipelined {
            if outcome.is_some() {
                break;
            }
            let quiet = session.nothing_else_came(*step, transcript).await;
            quiet.map_err(|trouble| broken(trouble, answered, not_accept_all))?;
            octets.clear();
            command.write(&mut octets);
            let sent = session.send(*step, &octets, deadline, transcript).await;
            sent.map_err(|trouble| broken(trouble, answered, not_accept_all))?;
        }
        let reply = match session.reply(*step, deadline, transcript).await {
            Ok(reply) => reply,
            Err(trouble) => match outcome {
                // A group that is answered in part, if only by a 421: which reply was to which command is not certain then.
                Some(_) => {
                    return Err(Broken { pipelining_suspect: true, ..broken(trouble, answered, not_accept_all) });
                }
                None => return Err(broken(trouble, answered, not_accept_all)),
            },
        };
        if reply.is_permanent() && *step == Step::Rcpt {
            session.rejected += 1;
        }
        if outcome.is_some() {
            continue;
        }
        if begins && mail_accepted && *of == first && *step == Step::Rcpt && reply.is_permanent() {
            first_refusal = Some(Refusal::of(&reply, probe.unwrap_or(recipient)));
        }
        let senseless = |reply| {
            let trouble = Trouble { failure: Failure::UnexpectedReply(*step), reply: Some(reply) };
            Broken { pipelining_suspect: pipelined, ..broken(trouble, answered, not_accept_all) }
        };
        match (*step, reply.code()) {
            (Step::Rset, 200..=299) => mail_accepted = false,
            // The first of all is said in sessions that were used before only: the host has had enough of this one.
            (Step::Rset, 400..=599) if answered == 0 => {
                return Err(Broken { pipelining_suspect: false, ..senseless(reply) });
            }
            (Step::Mail, 200..=299) => mail_accepted = true,
            (Step::Mail, 400..=499) => outcome = Some(Outcome::Deferred(reply)),
            (Step::Mail, 503) if pipelined => return Err(senseless(reply)),
            (Step::Mail | Step::Rcpt, _) if reply.wants_tls_or_login() => {
                return Err(Broken { pipelining_suspect: false, ..senseless(reply) });
            }
            (Step::Mail, 500..=599) => outcome = Some(Outcome::NullSenderRefused(reply)),
            // "Bad sequence of commands" although MAIL was accepted: the host has lost track. That is no word on the recipient.
            (Step::Rcpt, 503) => return Err(senseless(reply)),
            // Nor is that it does not know the command.
            (Step::Rcpt, 500 | 502) => return Err(senseless(reply)),
            (Step::Rcpt, code) if mail_accepted => match (of, code / 100) {
                (Of::Probe, 2) if ACCEPTED.contains(&code) => outcome = Some(Outcome::AcceptsAll(reply)),
                (Of::Probe, 5) => not_accept_all = true,
                // Greylisting, most often: nothing is learned of the domain.
                (Of::Probe, 4) => {}
                (Of::Recipient, _) => outcome = Some(answer(reply).map_err(senseless)?),
                _ => return Err(senseless(reply)),
            },
            _ => return Err(senseless(reply)),
        }
    }
    // More replies than commands: which of a group's replies answers which command can't be told any more.
    let owes = session.what_else_came(transcript).await;
    if pipelined && owes == Surplus::Reply {
        let trouble = Failure::Unsolicited(Step::Rcpt).into();
        return Err(Broken { pipelining_suspect: true, ..broken(trouble, 0, false) });
    }
    match outcome {
        Some(outcome) => {
            let reusable = owes == Surplus::Nothing;
            Ok(Found { outcome, not_accept_all, reusable, asked_before, first_refusal })
        }
        // The last command is RCPT for the recipient, and it was answered behind a MAIL that was not accepted by a 2xx.
        None => {
            let trouble = Failure::UnexpectedReply(Step::Rcpt).into();
            Err(Broken { pipelining_suspect: pipelined, ..broken(trouble, commands.len(), not_accept_all) })
        }
    }
}

/// The positive replies to RCPT (RFC 5321 4.3.2, and 252 as some say it). Any other is out of place: a 221 ends a session and takes no recipient.
const ACCEPTED: [u16; 3] = [250, 251, 252];

fn answer(reply: Reply) -> Result<Outcome, Reply> {
    match reply.code() / 100 {
        2 if ACCEPTED.contains(&reply.code()) => Ok(Outcome::Accepted(reply)),
        4 => Ok(Outcome::Deferred(reply)),
        5 if reply.is_bare_552() => Ok(Outcome::Deferred(reply)),
        5 => Ok(Outcome::Rejected(reply)),
        _ => Err(reply),
    }
}
