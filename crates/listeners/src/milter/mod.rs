//! The milter protocol of Sendmail, spoken by Postfix too (libmilter's mfdef.h; Postfix MILTER_README).
//!
//! An MTA holds one connection for each SMTP session and tells what goes on there, step by step; at RCPT it waits
//! for what to say to the client.
//!
//! | step | what comes of it |
//! | --- | --- |
//! | OPTNEG | versions 2 to 6; every step is left out that is not needed here, see [`negotiate`](Agreement) |
//! | CONNECT, MAIL | remembered for the questions; no reply, where the MTA can do without |
//! | RCPT, accepted | "continue": other recipients and other filters go their way |
//! | RCPT, no opinion | likewise, unless the MTA says that it makes another address of it (Sendmail's percent hack): then that one is asked for |
//! | RCPT, rejected | the table's reply, such as `550 5.1.1 ...` |
//! | RCPT, deferred | the table's reply, such as `451 4.4.1 ...` |
//! | DATA | "accept": the message's content does not come here |
//! | ABORT, QUIT, QUIT_NC | forgets the message, the connection, the client |
//! | what is no packet | none: the connection is closed, and the MTA does what it is configured to (`F=T`, `milter_default_action = tempfail`) |
//!
//! Recipients that the MTA refuses by itself are not asked about (`SMFIP_RCPT_REJ` is not requested): they need no callout.

mod negotiate;
mod packet;
mod session;

use std::time::Duration;

use callahead_engine::{Action, Answer, Decision, Engine, Listener, Question, Unanswered};
use tokio_util::sync::CancellationToken;

use crate::listen::Bound;
use crate::server::{self, Limits, Protocol, Replying};

pub use negotiate::{Agreement, OLDEST_VERSION, VERSION};
pub use packet::{MAX_DATA, MAX_PACKET};
pub use session::{Ask, Event, Reply, Session};

/// Why what came is no dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MilterError {
    /// A packet of no octets.
    #[error("a packet is empty")]
    NoCommand,
    /// Longer than [`MAX_PACKET`], or than [`MAX_DATA`] where the data is held.
    #[error("a packet is longer than any that an MTA sends")]
    TooLong,
    /// A command that the protocol does not have.
    #[error("there is no command {:?}", char::from(*.0))]
    UnknownCommand(u8),
    /// The packet ends before its data does.
    #[error("the data of a packet is cut off ({0})")]
    CutOff(&'static str),
    /// Something before OPTNEG.
    #[error("a command comes before the negotiation")]
    NotNegotiated,
    /// OPTNEG again.
    #[error("the negotiation comes a second time")]
    NegotiatedTwice,
    /// A version from before [`OLDEST_VERSION`].
    #[error("the MTA speaks version {0} of the protocol, and {OLDEST_VERSION} to {VERSION} are understood")]
    Version(u32),
}

/// The limits for this listener: those of the others, but for the idle time. An MTA has nothing to say here while its client
/// thinks, for which Sendmail allows an hour (`Timeout.command`), or sends the message; libmilter waits for 7,210 s.
pub fn limits() -> Limits {
    Limits { idle: Duration::from_secs(7210), ..Limits::default() }
}

/// Answers MTAs that come in at `bound`, until `shutdown`; comes back when everything that was asked is answered, or after
/// [`Limits::grace`].
pub async fn serve(bound: Bound, engine: Engine, limits: Limits, shutdown: CancellationToken) {
    server::serve(bound, Milter { engine }, limits, shutdown).await;
}

struct Milter {
    engine: Engine,
}

impl Protocol for Milter {
    const NAME: &'static str = "milter";
    const HAS_QUIET_STEPS: bool = true;
    type Format = Session;

    fn reply(&self, event: Event, output: &mut Vec<u8>) -> Option<Replying> {
        match event {
            Event::Quiet => None,
            Event::Reply(reply) => {
                output.extend_from_slice(&reply.encode());
                None
            }
            Event::Ask(ask) => {
                let decided = self.engine.decide_cached(&question(&ask, &ask.recipient));
                match decided {
                    Ok(decision) if ask.leads_to(&decision).is_none() => {
                        output.extend_from_slice(&answered(&ask, &decision).encode());
                        None
                    }
                    decided => {
                        let engine = self.engine.clone();
                        Some(Box::pin(async move { reply(&engine, &ask, decided).await.encode() }))
                    }
                }
            }
        }
    }
}

impl Ask {
    /// The address that the MTA makes of it, where nobody here has the one that it was given: that may still lead to somebody here.
    fn leads_to(&self, decision: &Decision) -> Option<&[u8]> {
        let resolved = self.resolved.as_deref().filter(|resolved| !resolved.eq_ignore_ascii_case(&self.recipient));
        resolved.filter(|_| decision.answer.action == Action::None)
    }
}

async fn reply(engine: &Engine, ask: &Ask, decided: Result<Decision, Unanswered>) -> Reply {
    let decision = match decided {
        Ok(decision) => decision,
        Err(unanswered) => engine.decide_by_callout(&question(ask, &ask.recipient), unanswered).await,
    };
    match ask.leads_to(&decision) {
        Some(resolved) => answered(ask, &engine.decide(question(ask, resolved)).await),
        None => answered(ask, &decision),
    }
}

fn question<'a>(ask: &'a Ask, recipient: &'a [u8]) -> Question<'a> {
    let sender = ask.sender.as_deref();
    Question { client: ask.client, sender, ..Question::new(recipient, Listener::Milter) }
}

fn answered(ask: &Ask, decision: &Decision) -> Reply {
    tracing::debug!(
        queue_id = ask.queue_id,
        client_name = ask.client_name,
        row = decision.row,
        "milter question answered"
    );
    said(&decision.answer)
}

/// The engine's answer in the protocol's words.
fn said(answer: &Answer) -> Reply {
    let code = |code, enhanced| {
        let mut status = Vec::new();
        server::status(answer, code, enhanced, &mut status);
        Reply::Code(String::from_utf8_lossy(&status).into_owned())
    };
    match answer.action {
        Action::Accept | Action::None => Reply::Continue,
        Action::Reject => code(550, "5.1.1"),
        Action::Defer => code(451, "4.4.0"),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
