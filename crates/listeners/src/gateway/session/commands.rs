//! What each command does: the order of RFC 5321 4.1.4, and the replies.

use super::super::command::{Command, Mail, Rcpt, Xclient, say};
use super::super::content::Guard;
use super::{Event, Session, State, Transaction, Wait, too_large, unfit_reply};

impl Session {
    pub(super) fn command(&mut self, command: Command) -> Option<Event> {
        match command {
            Command::Ehlo(name) => self.hello(name, true),
            Command::Helo(name) => self.hello(name, false),
            Command::StartTls => self.start_tls(),
            Command::Xclient(xclient) => self.xclient(xclient),
            Command::Mail(mail) => self.mail_from(mail),
            Command::Rcpt(rcpt) => self.rcpt_to(rcpt),
            Command::Data => self.data(),
            Command::Bdat { size, last } => self.bdat(size, last),
            Command::Rset => {
                self.reply(&say(250, (2, 0, 0), "Ok"));
                self.transaction.take().map(|_| Event::Reset)
            }
            Command::Noop => self.note(&say(250, (2, 0, 0), "Ok")),
            Command::Vrfy => self.note(&say(252, (2, 0, 0), "Ask by RCPT")),
            Command::Help => {
                self.note(&say(214, (2, 0, 0), "RFC 5321 tells all: EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT"))
            }
            Command::Quit => self.end(&say(221, (2, 0, 0), "Bye")),
        }
    }

    fn hello(&mut self, name: Box<str>, esmtp: bool) -> Option<Event> {
        self.client.helo = Some(name);
        self.client.esmtp = esmtp;
        let node = self.terms.node.to_string();
        if esmtp {
            let mut lines = vec![node, "PIPELINING".into(), format!("SIZE {}", self.terms.message_size)];
            if self.terms.starttls && !self.client.encrypted {
                lines.push("STARTTLS".into());
            }
            if self.trusted {
                lines.push("XCLIENT NAME ADDR PORT PROTO HELO".into());
            }
            lines.extend(["ENHANCEDSTATUSCODES".into(), "8BITMIME".into(), "SMTPUTF8".into()]);
            if self.terms.dsn {
                lines.push("DSN".into());
            }
            lines.push("CHUNKING".into());
            let last = lines.len() - 1;
            for (nth, line) in lines.iter().enumerate() {
                let mark = if nth == last { ' ' } else { '-' };
                self.output.extend_from_slice(format!("250{mark}{line}\r\n").as_bytes());
            }
        } else {
            // The replies to EHLO and HELO have no enhanced codes (RFC 2034 3).
            self.output.extend_from_slice(format!("250 {node}\r\n").as_bytes());
        }
        // RFC 5321 4.1.4: as if RSET had been said.
        self.transaction.take().map(|_| Event::Reset)
    }

    fn start_tls(&mut self) -> Option<Event> {
        if !self.terms.starttls {
            return self.refuse(&say(502, (5, 5, 1), "TLS is not offered here"));
        }
        if self.client.encrypted {
            return self.refuse(&say(503, (5, 5, 1), "The session is encrypted already"));
        }
        if self.start < self.input.len() {
            // What stands behind it came in clear, from whomever (CVE-2011-0411 and its kin).
            return self.end(&say(421, (4, 7, 0), "Nothing may follow STARTTLS before the handshake; closing"));
        }
        self.reply(&say(220, (2, 0, 0), "Ready to start TLS"));
        self.state = State::Waiting(Wait::Tls);
        Some(Event::StartTls)
    }

    fn xclient(&mut self, xclient: Xclient) -> Option<Event> {
        if !self.trusted {
            return self.refuse(&say(550, (5, 7, 0), "You are not one whose XCLIENT counts"));
        }
        if self.transaction.is_some() {
            return self.refuse(&say(503, (5, 5, 1), "XCLIENT can't be said within a transaction"));
        }
        if let Some(address) = xclient.address {
            self.client.address = address.to_canonical();
        }
        self.client.helo = xclient.helo;
        self.client.esmtp = xclient.esmtp;
        // From here on it is as if the client had just connected.
        self.greet();
        None
    }

    fn mail_from(&mut self, mail: Mail) -> Option<Event> {
        if self.client.helo.is_none() {
            return self.refuse(&say(503, (5, 5, 1), "Say EHLO first"));
        }
        if self.transaction.is_some() {
            return self.refuse(&say(503, (5, 5, 1), "A transaction is open already"));
        }
        if !self.terms.dsn && (mail.ret.is_some() || mail.envid.is_some()) {
            return self.refuse(&say(555, (5, 5, 4), "DSN is not offered here"));
        }
        if mail.size.is_some_and(|size| size > self.terms.message_size) {
            return self.note(&too_large(self.terms.message_size));
        }
        self.reply(&say(250, (2, 1, 0), "Ok"));
        self.transaction = Some(Box::new(Transaction {
            mail,
            tried: 0,
            accepted: 0,
            chunked: false,
            spoiled: false,
            guard: Guard::default(),
            ascii_header: None,
            octets: 0,
        }));
        None
    }

    fn rcpt_to(&mut self, rcpt: Rcpt) -> Option<Event> {
        let Some(transaction) = self.transaction.as_deref_mut().filter(|transaction| !transaction.chunked) else {
            // No error: it may have been said together with a MAIL that was refused, as DATA below may.
            return self.note(&say(503, (5, 5, 1), "RCPT comes behind MAIL"));
        };
        if !self.terms.dsn && (rcpt.notify.is_some() || rcpt.orcpt.is_some()) {
            return self.refuse(&say(555, (5, 5, 4), "DSN is not offered here"));
        }
        if !transaction.mail.smtputf8 && !rcpt.address.is_ascii() {
            return self.note(&say(553, (5, 6, 7), "The address needs SMTPUTF8, and MAIL did not say it"));
        }
        if transaction.tried >= self.terms.recipients {
            return self.note(&say(452, (4, 5, 3), "Too many recipients; send to the others by themselves"));
        }
        transaction.tried += 1;
        self.state = State::Waiting(Wait::Recipient);
        Some(Event::Recipient(rcpt))
    }

    fn data(&mut self) -> Option<Event> {
        match self.transaction.as_deref() {
            None => self.note(&say(503, (5, 5, 1), "DATA comes behind MAIL and RCPT")),
            Some(transaction) if transaction.chunked => {
                self.refuse(&say(503, (5, 5, 1), "DATA can't be mixed with BDAT"))
            }
            Some(transaction) if transaction.tried == 0 => self.refuse(&say(503, (5, 5, 1), "DATA comes behind RCPT")),
            Some(transaction) if transaction.accepted == 0 => {
                self.note(&say(554, (5, 5, 1), "No recipient was accepted"))
            }
            Some(_) => {
                self.state = State::Waiting(Wait::Data);
                Some(Event::Data)
            }
        }
    }

    fn bdat(&mut self, size: u64, last: bool) -> Option<Event> {
        let room = self.terms.message_size;
        let refusal = match self.transaction.as_deref_mut() {
            None => Some(say(503, (5, 5, 1), "BDAT comes behind MAIL and RCPT")),
            Some(transaction) if transaction.spoiled => {
                Some(say(503, (5, 5, 1), "A chunk before this one failed; say RSET"))
            }
            Some(transaction) if transaction.accepted == 0 => Some(say(554, (5, 5, 1), "No recipient was accepted")),
            Some(transaction) if transaction.octets.saturating_add(size) > room => Some(too_large(room)),
            Some(transaction) => {
                transaction.chunked = true;
                None
            }
        };
        if size > room.saturating_mul(2) {
            // Not worth swallowing.
            return self.end(&say(521, (5, 3, 4), "The chunk is larger than any message here; closing"));
        }
        // `BDAT 0 LAST` brings no octets to look at, and ends what the chunks before it left open.
        if refusal.is_none()
            && (size, last) == (0, true)
            && let Some(transaction) = &mut self.transaction
            && let Err(unfit) = transaction.guard.end()
        {
            self.state = State::Chunk { left: 0, last, refused: Some(unfit_reply(unfit)) };
            return Some(Event::Unfit(unfit));
        }
        // The octets come all the same (RFC 3030 2), and are swallowed.
        match refusal {
            None => {
                self.state = State::Waiting(Wait::Chunk { size, last });
                Some(Event::Chunk { size, last })
            }
            Some(reply) => {
                self.count_error();
                if let Some(transaction) = &mut self.transaction {
                    transaction.spoiled |= transaction.chunked;
                }
                self.state = State::Chunk { left: size, last, refused: Some(reply) };
                None
            }
        }
    }
}
