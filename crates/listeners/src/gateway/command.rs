//! The commands of a client: one line in, one value out (RFC 5321 4.1, RFC 3030, RFC 3461, RFC 6531, Postfix's XCLIENT_README).
//!
//! Whatever is repeated to a destination is of a type that can't hold a CR, an LF or what would end its place in a command:
//! [`ReversePath`], [`Xtext`], [`Notify`]. Recipients become [`Recipient`](callahead_smtp::Recipient) later.

use std::fmt;
use std::net::IpAddr;

use callahead_smtp::{EnhancedCode, Reply, without_source_route};

/// The longest reverse-path taken, in octets: RFC 5321 4.5.3.1.3 says 256 with its brackets, and senders go beyond it.
pub const MAX_PATH: usize = 512;
/// The longest ENVID (RFC 3461 4.4) and ORCPT (RFC 3461 4.2), in octets.
pub const MAX_XTEXT: usize = 500;

/// A command with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `EHLO name`; the name is any text without control characters.
    Ehlo(Box<str>),
    /// `HELO name`.
    Helo(Box<str>),
    /// `STARTTLS`.
    StartTls,
    /// `XCLIENT attribute=value ...`.
    Xclient(Xclient),
    /// `MAIL FROM:<path> parameters`.
    Mail(Mail),
    /// `RCPT TO:<path> parameters`.
    Rcpt(Rcpt),
    /// `DATA`.
    Data,
    /// `BDAT size [LAST]`.
    Bdat {
        /// Octets that follow the line.
        size: u64,
        /// Whether the message ends with them.
        last: bool,
    },
    /// `RSET`.
    Rset,
    /// `NOOP`.
    Noop,
    /// `VRFY string`.
    Vrfy,
    /// `HELP`.
    Help,
    /// `QUIT`.
    Quit,
}

/// What MAIL says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mail {
    /// The sender.
    pub sender: ReversePath,
    /// `SIZE=`: octets, as the client estimates them.
    pub size: Option<u64>,
    /// `BODY=8BITMIME`.
    pub eight_bit: bool,
    /// `SMTPUTF8`.
    pub smtputf8: bool,
    /// `RET=`.
    pub ret: Option<Ret>,
    /// `ENVID=`.
    pub envid: Option<Xtext>,
}

/// What RCPT says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rcpt {
    /// What stands between the brackets, unchecked.
    pub address: Box<[u8]>,
    /// `NOTIFY=`.
    pub notify: Option<Notify>,
    /// `ORCPT=`, with its type.
    pub orcpt: Option<Xtext>,
}

/// How much of a message a notification has (RFC 3461 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// All of it.
    Full,
    /// Its header.
    Headers,
}

/// The sender as it goes into MAIL, without its brackets; empty for the null sender. Printable, at most [`MAX_PATH`] octets, and
/// with no bracket outside of quotes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReversePath(Box<str>);

/// A value in xtext (RFC 3461 4), still encoded: printable ASCII without spaces and `=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xtext(Box<str>);

/// When a notification is wanted: `NEVER`, or some of `SUCCESS`, `FAILURE`, `DELAY` (RFC 3461 4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify(Box<str>);

/// What XCLIENT says, of what is of use here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xclient {
    /// `ADDR=`.
    pub address: Option<IpAddr>,
    /// `HELO=`.
    pub helo: Option<Box<str>>,
    /// `PROTO=ESMTP`.
    pub esmtp: bool,
}

/// A reply put together from its parts. The codes in this crate are right by writing; a wrong one would be left out.
pub(crate) fn say(code: u16, (class, subject, detail): (u8, u16, u16), text: &str) -> Reply {
    Reply::new(code, EnhancedCode::new(class, subject, detail), text)
}

type Parsed<T> = Result<T, Reply>;

fn syntax(text: &str) -> Reply {
    say(501, (5, 5, 4), text)
}

impl Command {
    /// Reads a line without its CRLF.
    ///
    /// # Errors
    /// The reply that says what is wrong.
    pub fn parse(line: &[u8]) -> Parsed<Self> {
        if line.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
            return Err(say(500, (5, 5, 2), "A command can't have a bare CR, a bare LF or a NUL in it"));
        }
        let end = line.iter().position(|octet| *octet == b' ').unwrap_or(line.len());
        let verb = line[..end].to_ascii_uppercase();
        let rest = line[end..].trim_ascii();
        let bare = |command: Self| match rest {
            [] => Ok(command),
            _ => Err(syntax("This command takes no arguments")),
        };
        match verb.as_slice() {
            b"EHLO" => name(rest).map(Self::Ehlo),
            b"HELO" => name(rest).map(Self::Helo),
            b"MAIL" => mail(rest).map(Self::Mail),
            b"RCPT" => rcpt(rest).map(Self::Rcpt),
            b"BDAT" => bdat(rest),
            b"XCLIENT" => xclient(rest).map(Self::Xclient),
            b"DATA" => bare(Self::Data),
            b"RSET" => bare(Self::Rset),
            b"QUIT" => bare(Self::Quit),
            b"STARTTLS" => bare(Self::StartTls),
            b"NOOP" => Ok(Self::Noop),
            b"HELP" => Ok(Self::Help),
            b"VRFY" if rest.is_empty() => Err(syntax("VRFY what?")),
            b"VRFY" => Ok(Self::Vrfy),
            b"EXPN" | b"ETRN" | b"AUTH" | b"TURN" | b"SEND" | b"SOML" | b"SAML" => {
                Err(say(502, (5, 5, 1), "This command is not implemented here"))
            }
            _ => Err(say(500, (5, 5, 1), "There is no such command")),
        }
    }

    /// Whether a line is how another protocol begins: a browser or a proxy that was led here (Postfix: `smtpd_forbidden_commands`).
    pub(crate) fn is_another_protocol(line: &[u8]) -> bool {
        let verb = line.split(|octet| *octet == b' ').next().unwrap_or_default();
        matches!(verb, b"GET" | b"POST" | b"PUT" | b"HEAD" | b"CONNECT" | b"OPTIONS") || line.starts_with(b"Host:")
    }
}

/// The argument of EHLO. Real clients say names that are none, `my pc` among them; what can be written down is taken (RFC 5321 4.1.4 forbids
/// refusing mail because of the name). What is no UTF-8 is some other encoding of letters.
fn name(argument: &[u8]) -> Parsed<Box<str>> {
    const MAX_NAME: usize = 255;
    let name = String::from_utf8_lossy(argument);
    match &*name {
        name if (1..=MAX_NAME).contains(&name.len()) && !name.contains(char::is_control) => Ok(name.into()),
        _ => Err(syntax("Say your name with it: a domain name or an address literal")),
    }
}

fn mail(rest: &[u8]) -> Parsed<Mail> {
    let rest = strip_keyword(rest, b"FROM:").ok_or_else(|| syntax("Syntax: MAIL FROM:<address>"))?;
    let (path, parameters) = path(rest).ok_or_else(|| syntax("Syntax: MAIL FROM:<address>"))?;
    let mut mail = Mail::default();
    for parameter in parameters_of(parameters) {
        let (key, value) = parameter?;
        match (key.as_str(), value) {
            ("SIZE", Some(value)) => {
                let digits = (1..=20).contains(&value.len()) && value.bytes().all(|octet| octet.is_ascii_digit());
                // Twenty digits may be more than a number holds; that is beyond any limit too.
                let size = digits.then(|| value.parse().unwrap_or(u64::MAX));
                mail.size = Some(size.ok_or_else(|| syntax("SIZE is a number of octets"))?);
            }
            ("BODY", Some(value)) if value.eq_ignore_ascii_case("7BIT") => mail.eight_bit = false,
            ("BODY", Some(value)) if value.eq_ignore_ascii_case("8BITMIME") => mail.eight_bit = true,
            ("SMTPUTF8", None) => mail.smtputf8 = true,
            ("RET", Some(value)) if value.eq_ignore_ascii_case("FULL") => mail.ret = Some(Ret::Full),
            ("RET", Some(value)) if value.eq_ignore_ascii_case("HDRS") => mail.ret = Some(Ret::Headers),
            ("ENVID", Some(value)) => {
                mail.envid = Some(Xtext::parse(value).ok_or_else(|| syntax("ENVID is no xtext"))?);
            }
            _ => return Err(unknown_parameter(&key)),
        }
    }
    mail.sender = ReversePath::parse(path, mail.smtputf8)?;
    Ok(mail)
}

fn rcpt(rest: &[u8]) -> Parsed<Rcpt> {
    let rest = strip_keyword(rest, b"TO:").ok_or_else(|| syntax("Syntax: RCPT TO:<address>"))?;
    let (path, parameters) = path(rest).ok_or_else(|| syntax("Syntax: RCPT TO:<address>"))?;
    let mut rcpt = Rcpt { address: path.into(), notify: None, orcpt: None };
    for parameter in parameters_of(parameters) {
        let (key, value) = parameter?;
        match (key.as_str(), value) {
            ("NOTIFY", Some(value)) => {
                rcpt.notify =
                    Some(Notify::parse(value).ok_or_else(|| syntax("NOTIFY has a word that is none of its"))?);
            }
            ("ORCPT", Some(value)) => {
                let typed = value.split_once(';').filter(|(kind, address)| !kind.is_empty() && !address.is_empty());
                let orcpt = typed.and_then(|_| Xtext::parse(value));
                rcpt.orcpt = Some(orcpt.ok_or_else(|| syntax("ORCPT is written as rfc822;address in xtext"))?);
            }
            _ => return Err(unknown_parameter(&key)),
        }
    }
    Ok(rcpt)
}

fn unknown_parameter(key: &str) -> Reply {
    let shown: String = key.chars().filter(char::is_ascii_graphic).take(40).collect();
    say(555, (5, 5, 4), &format!("The parameter {shown} or its value is not known here"))
}

fn bdat(rest: &[u8]) -> Parsed<Command> {
    let wrong = || syntax("Syntax: BDAT size [LAST]");
    let text = std::str::from_utf8(rest).map_err(|_| wrong())?;
    let mut words = text.split_ascii_whitespace();
    let size = words.next().filter(|word| word.bytes().all(|octet| octet.is_ascii_digit()));
    let size = size.and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(wrong()),
    };
    if words.next().is_some() { Err(wrong()) } else { Ok(Command::Bdat { size, last }) }
}

fn xclient(rest: &[u8]) -> Parsed<Xclient> {
    let text = std::str::from_utf8(rest).map_err(|_| syntax("Syntax: XCLIENT attribute=value ..."))?;
    let mut xclient = Xclient::default();
    for word in text.split_ascii_whitespace() {
        let (key, value) = word.split_once('=').ok_or_else(|| syntax("Syntax: XCLIENT attribute=value ..."))?;
        let known = !matches!(value.to_ascii_uppercase().as_str(), "[UNAVAILABLE]" | "[TEMPUNAVAIL]");
        let value = Xtext::parse(value).ok_or_else(|| syntax("An XCLIENT value is no xtext"))?.decode();
        match key.to_ascii_uppercase().as_str() {
            "ADDR" if known => {
                let bare =
                    value.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPV6:")).map_or(&*value, |_| &value[5..]);
                xclient.address = Some(bare.parse().map_err(|_| syntax("ADDR is no IP address"))?);
            }
            "HELO" if known => xclient.helo = Some(name(value.as_bytes())?),
            "PROTO" => xclient.esmtp = value.eq_ignore_ascii_case("ESMTP"),
            "ADDR" | "HELO" | "NAME" | "PORT" | "LOGIN" | "DESTADDR" | "DESTPORT" | "REVERSE_NAME" => {}
            _ => return Err(syntax("An XCLIENT attribute is not known here")),
        }
    }
    Ok(xclient)
}

/// `FROM:` or `TO:` in any case, and spaces behind it, which RFC 5321 does not allow and clients say all the same.
fn strip_keyword<'a>(text: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = text.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| rest.trim_ascii_start())
}

/// `<path>`, by its quotes, and what follows; or a path that lacks its brackets, as some devices say it, up to the first space.
fn path(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let Some(inner) = text.strip_prefix(b"<") else {
        let (path, rest) = text.split_at(text.iter().position(|octet| *octet == b' ').unwrap_or(text.len()));
        let is_one = !path.is_empty() && !path.iter().any(|octet| matches!(octet, b'<' | b'>' | b'"'));
        return is_one.then_some((path, rest));
    };
    let (mut quoted, mut escaped) = (false, false);
    for (at, octet) in inner.iter().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'<' if !quoted => return None,
            b'>' if !quoted => {
                let rest = &inner[at + 1..];
                return (rest.is_empty() || rest[0] == b' ').then_some((&inner[..at], rest));
            }
            _ => {}
        }
    }
    None
}

/// `KEYWORD` or `KEYWORD=value`, one after another (RFC 5321 4.1.2, `esmtp-param`).
fn parameters_of(text: &[u8]) -> impl Iterator<Item = Parsed<(String, Option<&str>)>> {
    text.split(|octet| *octet == b' ').filter(|word| !word.is_empty()).map(|word| {
        let wrong = || syntax("A parameter is malformed");
        let word = std::str::from_utf8(word).ok().filter(|word| word.bytes().all(|octet| octet.is_ascii_graphic()));
        let word = word.ok_or_else(wrong)?;
        let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
        let proper = key.starts_with(|c: char| c.is_ascii_alphanumeric())
            && key.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
        if proper { Ok((key.to_ascii_uppercase(), value)) } else { Err(wrong()) }
    })
}

// === impl ReversePath ===

impl ReversePath {
    /// Takes what stood between the brackets. It need not be a mailbox by RFC 5321, since senders with two dots in a row exist and the
    /// destination is who decides; it has to be one that can be repeated.
    fn parse(path: &[u8], smtputf8: bool) -> Parsed<Self> {
        let wrong = |text| Err(say(501, (5, 1, 7), text));
        let Ok(text) = std::str::from_utf8(without_source_route(path)) else {
            return wrong("The sender's address is no UTF-8");
        };
        if text.is_empty() {
            return Ok(Self::default());
        }
        if text.len() > MAX_PATH {
            return wrong("The sender's address is too long");
        }
        if !text.is_ascii() && !smtputf8 {
            return Err(say(553, (5, 6, 7), "The sender's address needs SMTPUTF8, and MAIL does not say it"));
        }
        let (mut quoted, mut escaped) = (false, false);
        for c in text.chars() {
            match c {
                c if c.is_control() => return wrong("The sender's address has a control character"),
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ' ' | '<' | '>' if !quoted => return wrong("The sender's address has a space or a bracket in it"),
                _ => {}
            }
        }
        if text.starts_with('@') {
            return wrong("The sender's address has a source route that is none");
        }
        let full = text.rsplit_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
        if full { Ok(Self(text.into())) } else { wrong("The sender's address has no domain") }
    }

    /// The address; empty for the null sender.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it needs SMTPUTF8.
    pub fn needs_smtputf8(&self) -> bool {
        !self.0.is_ascii()
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Xtext ===

impl Xtext {
    fn parse(text: &str) -> Option<Self> {
        let octets = text.as_bytes();
        if octets.is_empty() || octets.len() > MAX_XTEXT {
            return None;
        }
        let mut at = 0;
        while let Some(octet) = octets.get(at) {
            match octet {
                b'+' => {
                    let hex = octets.get(at + 1..at + 3)?;
                    let upper = |octet: &u8| octet.is_ascii_digit() || (b'A'..=b'F').contains(octet);
                    if !hex.iter().all(upper) {
                        return None;
                    }
                    at += 3;
                }
                b'=' => return None,
                b'!'..=b'~' => at += 1,
                _ => return None,
            }
        }
        Some(Self(text.into()))
    }

    /// As it is written, encoded.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn decode(&self) -> String {
        let mut out = Vec::with_capacity(self.0.len());
        let mut rest = self.0.as_bytes();
        while let [octet, tail @ ..] = rest {
            let hex = (*octet == b'+').then(|| tail.get(..2)).flatten();
            let decoded = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
            out.push(decoded.unwrap_or(*octet));
            rest = if decoded.is_some() { &tail[2..] } else { tail };
        }
        String::from_utf8_lossy(&out).into_owned()
    }
}

// === impl Notify ===

impl Notify {
    fn parse(text: &str) -> Option<Self> {
        let words: Vec<String> = text.split(',').map(str::to_ascii_uppercase).collect();
        let known = words.iter().all(|word| matches!(word.as_str(), "SUCCESS" | "FAILURE" | "DELAY"));
        let never = words == ["NEVER"];
        (never || (known && words.len() <= 3)).then(|| Self(words.join(",").into()))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn code(line: &str) -> u16 {
        Command::parse(line.as_bytes()).map_or_else(|reply| reply.code(), |_| 250)
    }

    #[test]
    fn commands_are_read_as_clients_write_them_and_refused_with_the_reply_that_fits() {
        for (line, expected) in [
            ("EHLO client.example", 250),
            ("ehlo [192.0.2.1]", 250),
            ("EHLO my_pc", 250),
            ("EHLO", 501),
            ("EHLO two words", 250),
            ("HELO caf\u{e9}", 250),
            ("HELO a\tb", 501),
            ("MAIL FROM:<>", 250),
            ("mail from: <a@b.example> SIZE=1000 BODY=8BITMIME", 250),
            ("MAIL FROM:<a..b@b.example>", 250),
            ("MAIL FROM:<\"a> SIZE=1\"@b.example>", 250),
            ("MAIL FROM:a@b.example", 250),
            ("MAIL FROM:a@b.example SIZE=1", 250),
            ("MAIL FROM:a b@c.example", 501),
            ("MAIL FROM:a@b.example>", 501),
            ("MAIL FROM:", 501),
            ("MAIL FROM:root", 501),
            ("MAIL FROM:<a@b.example", 501),
            ("MAIL FROM:<a b@c.example>", 501),
            ("MAIL FROM:<<a@b.example>>", 501),
            ("MAIL FROM:<\"a<b\"@c.example>", 250),
            ("MAIL FROM:<\"a\\\" b\"@c.example>", 250),
            ("MAIL FROM:<a\\ b@c.example>", 501),
            ("MAIL FROM:<a\tb@c.example>", 501),
            ("MAIL FROM:<a\x7fb@c.example>", 501),
            ("MAIL FROM:<a@b.example>SIZE=1", 501),
            ("MAIL FROM:<a@b.example> X-Y=1", 555),
            ("MAIL FROM:<a@b.example> X_Y=1", 501),
            ("MAIL FROM:<a@b.example> -X=1", 501),
            ("MAIL FROM:<@relay:a@b.example>", 250),
            ("MAIL FROM:<@relay..x:a@b.example>", 501),
            ("MAIL FROM:<@relay:>", 501),
            ("MAIL FROM:<root>", 501),
            ("MAIL FROM:<root@>", 501),
            ("MAIL FROM:<\u{e4}@b.example>", 553),
            ("MAIL FROM:<\u{e4}@b.example> SMTPUTF8", 250),
            ("MAIL FROM:<a@b.example> BODY=BINARYMIME", 555),
            ("MAIL FROM:<a@b.example> AUTH=<>", 555),
            ("MAIL FROM:<a@b.example> SIZE=x", 501),
            ("MAIL FROM:<a@b.example> SIZE=99999999999999999999", 250),
            ("MAIL FROM:<a@b.example> RET=HDRS ENVID=QQ314159", 250),
            ("MAIL FROM:<a@b.example> RET=BODY", 555),
            ("MAIL FROM:<a@b.example> ENVID=+2B+41b", 250),
            ("MAIL FROM:<a@b.example> ENVID=", 501),
            ("MAIL FROM:<a@b.example> ENVID=a+0", 501),
            ("MAIL FROM:<a@b.example> ENVID=a+2B+zz", 501),
            ("RCPT TO:<a@b.example> NOTIFY=SUCCESS,delay ORCPT=rfc822;Bob+2Bx@b.example", 250),
            ("RCPT TO:<a@b.example> NOTIFY=NEVER,FAILURE", 501),
            ("RCPT TO:<a@b.example> ORCPT=nobody", 501),
            ("RCPT TO:<a@b.example> ORCPT=rfc822;a=b", 501),
            ("RCPT TO:<a@b.example> ORCPT=rfc822;", 501),
            ("RCPT TO:<a@b.example> ORCPT=;a@b.example", 501),
            ("RCPT TO:<a@b.example>,<c@d.example>", 501),
            ("RCPT TO:<a<b@c.example>", 501),
            ("RCPT TO:<a@b.example\\>", 250),
            ("RCPT TO:", 501),
            ("BDAT 10", 250),
            ("bdat 0 last", 250),
            ("BDAT -1", 501),
            ("BDAT +1", 501),
            ("BDAT 18446744073709551616", 501),
            ("BDAT 10 LAST 3", 501),
            ("BDAT 10 FIRST", 501),
            ("DATA x", 501),
            ("DATA", 250),
            ("VRFY", 501),
            ("VRFY a@b.example", 250),
            ("HELP", 250),
            ("HELP MAIL", 250),
            ("NOOP whatever", 250),
            ("EXPN list", 502),
            ("AUTH PLAIN", 502),
            ("FOO", 500),
            ("", 500),
            ("XCLIENT ADDR=192.0.2.7 NAME=[UNAVAILABLE] HELO=a+2Eb", 250),
            ("XCLIENT ADDR=IPV6:2001:db8::1", 250),
            ("XCLIENT ADDR=home", 501),
            ("XCLIENT WHO=me", 501),
        ] {
            assert_eq!(code(line), expected, "{line}");
        }
        let path = |octets| format!("MAIL FROM:<{}@b.example>", "a".repeat(octets - "@b.example".len()));
        assert_eq!((code(&path(MAX_PATH)), code(&path(MAX_PATH + 1))), (250, 501));
        let envid = |octets| format!("MAIL FROM:<> ENVID={}", "a".repeat(octets));
        assert_eq!((code(&envid(MAX_XTEXT)), code(&envid(MAX_XTEXT + 1))), (250, 501));
        assert_eq!(Command::parse(b"NOOP a\rb").unwrap_err().code(), 500);
        assert_eq!(Command::parse(b"NOOP a\0b").unwrap_err().code(), 500);
    }

    #[test]
    fn parameters_say_what_they_say() {
        let mail = |parameters: &str| match Command::parse(format!("MAIL FROM:<a@b.example> {parameters}").as_bytes()) {
            Ok(Command::Mail(mail)) => mail,
            other => panic!("{parameters}: {other:?}"),
        };
        for (parameters, eight_bit, ret) in [
            ("", false, None),
            ("BODY=7bit RET=full", false, Some(Ret::Full)),
            ("body=8BITMIME ret=hdrs", true, Some(Ret::Headers)),
        ] {
            let mail = mail(parameters);
            assert_eq!((mail.eight_bit, mail.ret), (eight_bit, ret), "{parameters}");
        }
        let sender = mail("SMTPUTF8").sender;
        assert_eq!((sender.as_str(), &*sender.to_string()), ("a@b.example", "a@b.example"));
        assert!(!sender.needs_smtputf8());
        let Ok(Command::Mail(other)) = Command::parse("MAIL FROM:<\u{e4}@b.example> SMTPUTF8".as_bytes()) else {
            panic!("no MAIL")
        };
        assert!(other.sender.needs_smtputf8());
        assert_eq!(mail("ENVID=a+2Bb").envid.as_ref().map(Xtext::as_str), Some("a+2Bb"));
        assert_eq!(mail("SIZE=1000").size, Some(1000));
        assert_eq!(mail("SIZE=99999999999999999999").size, Some(u64::MAX));
        for unknown in ["[UNAVAILABLE]", "[tempunavail]"] {
            let line = format!("XCLIENT ADDR={unknown} HELO={unknown}");
            assert_eq!(Command::parse(line.as_bytes()), Ok(Command::Xclient(Xclient::default())), "{line}");
        }
    }

    #[test]
    fn what_browsers_and_proxies_begin_with_is_another_protocol() {
        for line in ["GET / HTTP/1.1", "POST /x HTTP/1.0", "CONNECT a.example:25 HTTP/1.1", "Host: a.example"] {
            assert!(Command::is_another_protocol(line.as_bytes()), "{line}");
        }
        for line in ["EHLO GET", "GETTING", "get", "HELO Host:", ""] {
            assert!(!Command::is_another_protocol(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn a_recipient_keeps_the_octets_between_its_brackets() {
        let Command::Rcpt(rcpt) = Command::parse(b"RCPT TO:<\"a\\\" >b\"@c.example> NOTIFY=never").unwrap() else {
            panic!("no RCPT")
        };
        assert_eq!(&*rcpt.address, b"\"a\\\" >b\"@c.example");
        assert_eq!(rcpt.notify.unwrap().as_str(), "NEVER");
        let Command::Xclient(xclient) = Command::parse(b"XCLIENT ADDR=IPv6:2001:db8::1 HELO=x+2Dy.example").unwrap()
        else {
            panic!("no XCLIENT")
        };
        assert_eq!(xclient.address, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(xclient.helo.as_deref(), Some("x-y.example"));
    }
}
