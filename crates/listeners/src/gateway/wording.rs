//! What a relay says to a server, and what the client is told of the server's replies: words made of values, and nothing else.

use callahead_callout::{ClientSession, Offers};
use callahead_smtp::{EnhancedCode, Recipient, Reply};

use super::command::{Mail, Notify, Rcpt, Ret, ReversePath, Xtext, say};

/// Octets of the server's words that are passed on.
const MAX_PASSED_ON: usize = 200;

/// What a reply of the server is about, for words where its own are not passed on.
#[derive(Clone, Copy)]
pub(super) enum About {
    Sender,
    Recipient,
    Message,
}

// === what is said to the server ===

/// What is said where an address needs SMTPUTF8 and the server lacks it. An address can't be converted (RFC 6531 3.2).
///
/// That MAIL declares SMTPUTF8 or 8BITMIME is no such need: clients declare what they are offered whether they make use of it or not (Go's
/// net/smtp both, always), and it is this gateway that offers it. Whether the header does is seen in the header.
pub(super) fn lacking(session: &ClientSession, mail: &Mail, recipient: &Recipient) -> Option<Reply> {
    let needed = mail.sender.needs_smtputf8() || recipient.needs_smtputf8();
    (needed && !session.offers().smtputf8).then(|| match is_uncertain(session) {
        true => {
            say(451, (4, 6, 7), "The recipient's server does not say now which addresses it takes; try again later")
        }
        false => say(553, (5, 6, 7), "The recipient's server takes no addresses beyond ASCII (SMTPUTF8)"),
    })
}

/// What a message with a header beyond ASCII gets, where MAIL declared one and the server lacks SMTPUTF8. One that MAIL did not declare
/// is passed on, as every MTA does.
pub(super) fn lacking_for_header(session: &ClientSession, mail: &Mail) -> Option<Reply> {
    (mail.smtputf8 && !session.offers().smtputf8).then(|| match is_uncertain(session) {
        true => say(451, (4, 6, 9), "The recipient's server does not say now which headers it takes; try again later"),
        false => say(550, (5, 6, 9), "The recipient's server takes no headers beyond ASCII (SMTPUTF8)"),
    })
}

/// EHLO was refused, if only this once, and HELO was not; or another host of the route could not be opened. What that would have offered is not
/// known, so nobody is refused for good.
fn is_uncertain(session: &ClientSession) -> bool {
    session.offers() == Offers::default() || session.others_may_offer_more()
}

/// MAIL with what the server offers of the client's parameters. 8-bit content goes out without BODY where 8BITMIME is lacking: RFC 6152 3
/// would have it bounced, which costs the mail, and servers that do not say so pass all octets on.
pub(super) fn mail_from(mail: &Mail, offers: Offers) -> Vec<u8> {
    let sender: &ReversePath = &mail.sender;
    let mut line = format!("MAIL FROM:<{sender}>");
    if let Some(size) = mail.size.filter(|_| offers.size) {
        line.push_str(&format!(" SIZE={size}"));
    }
    if mail.eight_bit && offers.eight_bit_mime {
        line.push_str(" BODY=8BITMIME");
    }
    if mail.smtputf8 && offers.smtputf8 {
        line.push_str(" SMTPUTF8");
    }
    if offers.dsn {
        match mail.ret {
            Some(Ret::Full) => line.push_str(" RET=FULL"),
            Some(Ret::Headers) => line.push_str(" RET=HDRS"),
            None => {}
        }
        if let Some(envid) = mail.envid.as_ref().map(Xtext::as_str) {
            line.push_str(&format!(" ENVID={envid}"));
        }
    }
    line.push_str("\r\n");
    line.into_bytes()
}

pub(super) fn rcpt_to(rcpt: &Rcpt, recipient: &Recipient, offers: Offers) -> Vec<u8> {
    let mut line = format!("RCPT TO:<{recipient}>");
    if offers.dsn {
        if let Some(notify) = rcpt.notify.as_ref().map(Notify::as_str) {
            line.push_str(&format!(" NOTIFY={notify}"));
        }
        if let Some(orcpt) = rcpt.orcpt.as_ref().map(Xtext::as_str) {
            line.push_str(&format!(" ORCPT={orcpt}"));
        }
    }
    line.push_str("\r\n");
    line.into_bytes()
}

// === what the client is told ===

/// The server's reply as the client gets it: its code and enhanced code, and its words where they may be passed on. Of a 2xx to RCPT
/// nothing is passed on but that: a 251 names another address.
pub(super) fn passed(reply: &Reply, about: About, words: bool) -> Reply {
    let class = u8::try_from(reply.code() / 100).unwrap_or(5);
    let text = match (about, class) {
        (About::Recipient, 2) => return say(250, (2, 1, 5), "Ok"),
        (About::Message, 2) => "The recipient's server has accepted the message",
        (About::Sender, 4) => "The recipient's server can't take mail from this sender now",
        (About::Sender, _) => "The recipient's server takes no mail from this sender",
        (About::Recipient, 4) => "The recipient's server can't take this recipient now",
        (About::Recipient, _) => "The recipient's server refuses this recipient",
        (About::Message, 4) => "The recipient's server can't take the message now",
        (About::Message, _) => "The recipient's server refuses the message",
    };
    let mut text = text.to_owned();
    if words {
        let said: String = reply.text().chars().filter(|c| matches!(c, ' '..='~')).take(MAX_PASSED_ON).collect();
        if !said.trim().is_empty() {
            text.push_str("; it said: ");
            text.push_str(said.trim());
        }
    }
    let code = if class == 2 { 250 } else { reply.code() };
    Reply::new(code, reply.enhanced().or_else(|| EnhancedCode::new(class, 0, 0)), &text)
}

/// What a recipient gets that the server refuses in words that are none on the recipient: the same in class 4, so that the sender tries again.
pub(super) fn put_off(refusal: &Reply, words: bool) -> Reply {
    let transient = refusal.enhanced().and_then(|code| EnhancedCode::new(4, code.subject(), code.detail()));
    passed(&Reply::new(451, transient, &refusal.text()), About::Recipient, words)
}

/// What a recipient gets that the server may refuse for those before it.
pub(super) fn by_itself() -> Reply {
    say(452, (4, 5, 3), "The recipient's server may refuse this recipient for those before it; send to it by itself")
}

pub(super) fn unreachable() -> Reply {
    say(451, (4, 4, 1), "The recipient's server does not answer; try again later")
}

pub(super) fn lost() -> Reply {
    say(451, (4, 4, 2), "The connection to the recipient's server was lost; try again later")
}
