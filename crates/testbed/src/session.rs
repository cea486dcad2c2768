//! The server: runs a script over a stream, and writes down what it is told.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::record::{Ended, Record, SessionRecord};
use crate::script::{Fault, Script, Step, Tls};
use crate::take::Taking;

/// The longest line of input that is read.
const MAX_LINE: usize = 65_536;

/// A simulated destination. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Destination {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    script: Mutex<Script>,
    record: Mutex<Record>,
    greylisted: Mutex<HashMap<String, Instant>>,
    watcher: Mutex<Option<Arc<dyn Watch>>>,
}

/// Whoever is told of the replies that a destination gives to MAIL and RCPT, whole ones only: the truth that what was learned of
/// it is held against.
pub trait Watch: Send + Sync {
    /// The destination has decided on its reply to MAIL (with an empty address) or RCPT, and says it next. Gives a mark
    /// to tell it apart by.
    fn decided(&self, address: &str, reply: &str) -> u64;
    /// The reply with this mark is on its way.
    fn sent(&self, mark: u64);
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("script", &self.script).field("record", &self.record).finish_non_exhaustive()
    }
}

/// A destination that listens on a TCP port; it ends when dropped.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    task: JoinHandle<()>,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What becomes of the session after a step.
#[derive(PartialEq, Eq)]
pub(crate) enum Next {
    Go,
    /// No more replies; what comes is read and written down.
    Mute,
    Close,
}

pub(crate) struct Session {
    pub(crate) destination: Destination,
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) number: usize,
    pub(crate) input: Vec<u8>,
    output: Vec<u8>,
    pub(crate) mail: bool,
    mails: u32,
    rcpts: u32,
    /// A MAIL with another sender than the null one: fit only to ask whether others' mail is relayed.
    foreign_sender: Option<String>,
    refused: u32,
    greeted: bool,
    tls: bool,
    mute: bool,
    pub(crate) taking: Taking,
    /// The client has said QUIT.
    quit: bool,
    /// It was offered in this session.
    pipelining: bool,
    /// Replies decided on that are not on their way yet.
    unsent: Vec<u64>,
    /// What was said of whom in this session, with its mark.
    remembered: HashMap<String, (String, Option<u64>)>,
    pub(crate) within_message: bool,
    within_handshake: bool,
}

impl Destination {
    /// A destination with a script.
    pub fn new(script: Script) -> Self {
        Self { shared: Arc::new(Shared { script: Mutex::new(script), ..Shared::default() }) }
    }

    /// The behaviour, to be changed while it runs.
    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells this watcher of every reply to MAIL and RCPT from now on.
    pub fn watch(&self, watcher: Arc<dyn Watch>) {
        *self.shared.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
    }

    fn watcher(&self) -> Option<Arc<dyn Watch>> {
        self.shared.watcher.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a mailbox exist.
    pub fn add_mailbox(&self, address: &str) {
        self.script().mailboxes.insert(address.to_lowercase());
    }

    /// Makes a mailbox not exist.
    pub fn remove_mailbox(&self, address: &str) {
        self.script().mailboxes.remove(&address.to_lowercase());
    }

    /// What it was told until now.
    pub fn record(&self) -> Record {
        self.recorder().clone()
    }

    /// What it was told until now, looked at without a copy: for a record with many messages.
    pub fn look<R>(&self, at: impl FnOnce(&Record) -> R) -> R {
        at(&self.recorder())
    }

    /// See [`Record::assert_polite`].
    ///
    /// # Panics
    /// With the dialogue.
    pub fn assert_polite(&self) {
        self.record().assert_polite();
    }

    pub(crate) fn recorder(&self) -> MutexGuard<'_, Record> {
        self.shared.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens on 127.0.0.1, on a port that the system picks.
    ///
    /// # Errors
    /// When no socket is to be had.
    pub async fn listen(&self) -> io::Result<Listening> {
        self.listen_on(IpAddr::V4(Ipv4Addr::LOCALHOST)).await
    }

    /// Listens on an address, on a port that the system picks.
    ///
    /// # Errors
    /// When no socket is to be had.
    pub async fn listen_on(&self, ip: IpAddr) -> io::Result<Listening> {
        self.listen_at(SocketAddr::new(ip, 0)).await
    }

    /// Listens on an address and port: again on one that it had before, say, as a server that was restarted.
    ///
    /// # Errors
    /// When it is taken.
    pub async fn listen_at(&self, address: SocketAddr) -> io::Result<Listening> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let destination = self.clone();
        let task = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                sessions.spawn(destination.clone().run(Box::new(stream)));
                while sessions.try_join_next().is_some() {}
            }
        });
        Ok(Listening { address, task })
    }

    /// Serves a stream.
    pub fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) -> JoinHandle<()> {
        tokio::spawn(self.clone().run(Box::new(stream)))
    }

    /// A connection to it in memory.
    pub fn connect(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(65_536);
        self.serve(far);
        near
    }

    async fn run(self, stream: Box<dyn Stream>) {
        let (number, too_many) = {
            let mut record = self.recorder();
            record.connections += 1;
            record.open += 1;
            record.most_at_once = record.most_at_once.max(record.open);
            if record.sessions.len() < Record::MAX_SESSIONS {
                record.sessions.push(SessionRecord::default());
            }
            let limit = self.script().max_connections;
            (record.connections - 1, limit.is_some_and(|limit| record.open > limit as usize))
        };
        let mut session = Session {
            destination: self.clone(),
            stream,
            number,
            input: Vec::new(),
            output: Vec::new(),
            mail: false,
            mails: 0,
            rcpts: 0,
            foreign_sender: None,
            refused: 0,
            greeted: false,
            tls: false,
            mute: false,
            taking: Taking::default(),
            quit: false,
            pipelining: false,
            unsent: Vec::new(),
            remembered: HashMap::new(),
            within_message: false,
            within_handshake: false,
        };
        let ended = match session.converse(too_many).await {
            Ended::Closed if session.quit => Ended::Quit,
            Ended::Closed if session.within_message => Ended::WithinMessage,
            _ if session.within_handshake => Ended::WithinHandshake,
            ended => ended,
        };
        session.note(|record| record.ended = ended);
        self.recorder().open -= 1;
    }
}

impl Session {
    fn note(&self, write: impl FnOnce(&mut SessionRecord)) {
        if let Some(record) = self.destination.recorder().sessions.get_mut(self.number) {
            write(record);
        }
    }

    pub(crate) fn offence(&self, what: String) {
        self.note(|record| record.offences.push(what));
    }

    async fn converse(&mut self, too_many: bool) -> Ended {
        if too_many {
            self.output.extend(b"421 4.7.0 destination.example too many connections\r\n");
            let _ = self.flush().await;
            return Ended::ByUs;
        }
        match self.reply(Step::Greeting, "220 destination.example ESMTP").await {
            Ok(Next::Go) => {}
            Ok(Next::Mute) => self.mute = true,
            Ok(Next::Close) => return Ended::ByUs,
            Err(_) => self.mute = true,
        }
        loop {
            let line = match self.line().await {
                Ok(Some(line)) => line,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ended::ByUs,
                _ => return Ended::Closed,
            };
            let quit = line.eq_ignore_ascii_case("QUIT");
            self.quit |= quit;
            match self.command(&line).await {
                Ok(Next::Close) if quit => return Ended::Quit,
                Ok(Next::Close) => return Ended::ByUs,
                Ok(Next::Mute) => self.mute = true,
                Ok(Next::Go) => {}
                // The client said QUIT and did not wait: not polite to the letter, but it said so.
                Err(_) if quit => return Ended::Quit,
                // It does not want the replies any more; QUIT may be among what it said before.
                Err(_) => self.mute = true,
            }
        }
    }

    /// The next line, without its CRLF. What was answered goes out before this waits.
    async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(at) = self.input.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..at + 2).take(at).collect();
                if line.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
                    self.offence(format!("a bare CR, LF or NUL in {:?}", String::from_utf8_lossy(&line)));
                }
                let chunk = line.len() > 5 && line[..5].eq_ignore_ascii_case(b"BDAT ");
                if !self.input.is_empty() && !self.pipelining && !self.mute && !chunk {
                    self.offence(format!("{:?} was followed by another command", String::from_utf8_lossy(&line)));
                }
                if self.destination.script().broken_pipelining {
                    // Lost here, but said.
                    self.quit |= self.input.windows(6).any(|six| six == b"QUIT\r\n");
                    self.input.clear();
                }
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            if self.input.len() > MAX_LINE {
                self.offence("a line without an end".into());
                return Ok(None);
            }
            // A client that does not want the replies any more may have said QUIT all the same: that is still to be read.
            if self.flush().await.is_err() {
                self.mute = true;
            }
            // Else a Vec grows by 64 octets, and a pipelined group is seen in pieces.
            self.input.reserve(4096);
            let idle = self.destination.script().idle;
            let reading = self.stream.read_buf(&mut self.input);
            let read = match idle {
                None => reading.await?,
                Some(idle) => match tokio::time::timeout(idle, reading).await {
                    Ok(read) => read?,
                    Err(elapsed) => {
                        self.close_with("421 4.4.2 destination.example Error: timeout exceeded").await?;
                        return Err(elapsed.into());
                    }
                },
            };
            if read == 0 {
                return Ok(None);
            }
        }
    }

    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let delay = self.destination.script().reply_delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let output = std::mem::take(&mut self.output);
        // Before they can be read.
        self.tell_sent();
        self.stream.write_all(&output).await?;
        self.stream.flush().await
    }

    /// What this step's reply will be, to whoever watches; nothing where a fault leaves no whole reply.
    fn tell_decided(&mut self, step: Step, address: &str, proper: &str) -> Option<u64> {
        let watcher = self.destination.watcher()?;
        let fault = self.destination.script().faults.get(&step).filter(|(_, times)| *times != Some(0)).cloned();
        let as_it_is = || first_reply(&proper.replace("\r\n", "\n"));
        let said = match fault {
            None | Some((Fault::SlowBytes(_), _)) => as_it_is()?,
            Some((Fault::Reply(reply) | Fault::ReplyAndClose(reply), _)) => first_reply(&reply)?,
            Some((Fault::CloseAfter(octets), _)) if octets >= proper.len() + 2 => as_it_is()?,
            Some(_) => return None,
        };
        let mark = watcher.decided(address, &said);
        self.unsent.push(mark);
        Some(mark)
    }

    fn tell_sent(&mut self) {
        if let Some(watcher) = self.destination.watcher() {
            self.unsent.drain(..).for_each(|mark| watcher.sent(mark));
        }
    }

    async fn command(&mut self, line: &str) -> io::Result<Next> {
        self.note(|record| record.commands.push(line.to_owned()));
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        if self.mute {
            // QUIT is all that still counts.
            return Ok(if verb == "QUIT" { Next::Close } else { Next::Mute });
        }
        match verb.as_str() {
            "EHLO" => {
                self.greeted = true;
                self.mail = false;
                let (extensions, tls) = {
                    let script = self.destination.script();
                    (script.extensions.clone(), !self.tls && !matches!(script.tls, Tls::None))
                };
                self.pipelining = extensions.iter().any(|extension| extension == "PIPELINING");
                let mut lines = vec!["destination.example".to_owned()];
                lines.extend(extensions);
                if tls {
                    lines.push("STARTTLS".into());
                }
                let last = lines.len() - 1;
                let reply: Vec<String> = lines
                    .iter()
                    .enumerate()
                    .map(|(n, l)| format!("250{}{l}", if n == last { ' ' } else { '-' }))
                    .collect();
                self.reply(Step::Ehlo, &reply.join("\r\n")).await
            }
            "HELO" => {
                self.greeted = true;
                self.reply(Step::Helo, "250 destination.example").await
            }
            "STARTTLS" => self.start_tls().await,
            "MAIL" => self.mail(line).await,
            "RCPT" => self.rcpt(line).await,
            "RSET" => {
                self.mail = false;
                self.within_message = false;
                self.taking = Taking::default();
                self.reply(Step::Rset, "250 2.0.0 Ok").await
            }
            "QUIT" => {
                let next = self.reply(Step::Quit, "221 2.0.0 Bye").await?;
                self.flush().await?;
                Ok(if next == Next::Mute { Next::Mute } else { Next::Close })
            }
            "NOOP" => self.say("250 2.0.0 Ok"),
            "VRFY" => self.say("252 2.0.0 Ask by RCPT"),
            "DATA" if self.destination.script().takes_messages => self.data().await,
            "BDAT" if self.destination.script().takes_messages => self.bdat(line).await,
            "DATA" | "BDAT" => {
                self.offence(format!("{verb} was said"));
                self.say("554 5.5.1 No message is taken here")
            }
            _ => {
                self.offence(format!("{line:?} is no command"));
                self.say("500 5.5.2 What?")
            }
        }
    }

    async fn mail(&mut self, line: &str) -> io::Result<Next> {
        self.destination.recorder().mail += 1;
        self.mails += 1;
        let (limit, null) = {
            let script = self.destination.script();
            (script.drop_after_uses, script.null_sender_reply.clone())
        };
        if !self.greeted || self.mail {
            // Where commands get lost here, their order is no fault of the client's.
            if !self.destination.script().broken_pipelining {
                self.offence(format!("{line:?} out of order"));
            }
            return self.say("503 5.5.1 Error: nested MAIL command");
        }
        if limit.is_some_and(|limit| self.mails > limit) {
            return self.close_with("421 4.7.0 too many transactions").await;
        }
        let takes = self.destination.script().takes_messages;
        self.taking = Taking::new(line.get(10..).unwrap_or_default());
        self.foreign_sender = (!takes && !line.starts_with("MAIL FROM:<>")).then(|| line.to_owned());
        if let Some(reply) = null.filter(|_| line.starts_with("MAIL FROM:<>")) {
            if let Some(watcher) = self.destination.watcher() {
                self.unsent.push(watcher.decided("", &reply));
            }
            return self.say(&reply);
        }
        // A faulty step leaves the transaction closed, as a server that refused MAIL does; slowness is no refusal.
        let proper = match self.destination.script().faults.get(&Step::Mail) {
            Some((fault, times)) => *times == Some(0) || matches!(fault, Fault::SlowBytes(_)),
            None => true,
        };
        self.mail = proper;
        self.tell_decided(Step::Mail, "", "250 2.1.0 Ok");
        self.reply(Step::Mail, "250 2.1.0 Ok").await
    }

    async fn rcpt(&mut self, line: &str) -> io::Result<Next> {
        self.destination.recorder().rcpt += 1;
        if !self.mail {
            // No offence: a pipelined group goes on after a refused MAIL.
            return self.say("503 5.5.1 Error: need MAIL command");
        }
        let takes = self.destination.script().takes_messages;
        let path = line.strip_prefix("RCPT TO:<").and_then(|rest| match takes {
            true => rest.rsplit_once('>').map(|(path, _)| path),
            false => rest.strip_suffix('>'),
        });
        let Some(address) = path else {
            self.offence(format!("{line:?} is malformed"));
            return self.say("501 5.1.3 Bad recipient address syntax");
        };
        let is_others = address.ends_with(".invalid");
        if let Some(line) = self.foreign_sender.take().filter(|_| !is_others) {
            self.offence(format!("{line:?} is no null sender"));
        }
        let in_clear = self.destination.script().refuses_in_clear.clone().filter(|_| !self.tls);
        let over = {
            let script = self.destination.script();
            let over = |limit: &Option<(u32, String)>, count: u32| limit.clone().filter(|(limit, _)| count >= *limit);
            let over = over(&script.rcpt_limit, self.rcpts).or_else(|| over(&script.wrong_rcpt_limit, self.refused));
            over.map(|(_, reply)| reply)
        };
        self.rcpts += 1;
        if let Some(reply) = in_clear.or(over) {
            if let Some(watcher) = self.destination.watcher() {
                self.unsent.push(watcher.decided(address, &reply));
            }
            return self.say(&reply);
        }
        if let Some((reply, mark)) = self.remembered.get(address).cloned() {
            self.unsent.extend(mark);
            self.refused += u32::from(!reply.starts_with('2'));
            self.note(|record| record.refused += usize::from(reply.starts_with('5')));
            return self.say(&reply);
        }
        let (reply, limit, remembers) = {
            let script = self.destination.script();
            let known = script.accept_all || script.mailboxes.contains(&address.to_lowercase());
            let reply = if let Some(reply) = script.rcpt_replies.get(&address.to_lowercase()) {
                reply.clone()
            } else if script.greylist.is_some_and(|wait| self.is_greylisted(address, wait)) {
                format!("450 4.2.0 <{address}>: Recipient address rejected: Greylisted")
            } else if is_others && !script.relays {
                format!("550 5.7.1 <{address}>: Relaying denied")
            } else if known || is_others {
                "250 2.1.5 Ok".to_owned()
            } else {
                format!("550 5.1.1 <{address}>: Recipient address rejected: User unknown in local recipient table")
            };
            (reply, script.drop_after_errors, script.remembers)
        };
        if !reply.starts_with('2') {
            self.refused += 1;
            if limit.is_some_and(|limit| self.refused > limit) {
                return self.close_with("421 4.7.0 destination.example Error: too many errors").await;
            }
        }
        let mark = self.tell_decided(Step::Rcpt, address, &reply);
        let sound = self.destination.script().faults.get(&Step::Rcpt).is_none_or(|(_, times)| *times == Some(0));
        self.note(|record| record.refused += usize::from(sound && reply.starts_with('5')));
        if takes && reply.starts_with('2') && sound {
            self.taking.recipients.push(line.get(8..).unwrap_or_default().to_owned());
        }
        if remembers && sound {
            self.remembered.insert(address.to_owned(), (reply.clone(), mark));
        }
        self.reply(Step::Rcpt, &reply).await
    }

    fn is_greylisted(&self, address: &str, wait: std::time::Duration) -> bool {
        let mut seen = self.destination.shared.greylisted.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *seen.entry(address.to_lowercase()).or_insert_with(Instant::now);
        first.elapsed() < wait
    }

    async fn start_tls(&mut self) -> io::Result<Next> {
        let tls = self.destination.script().tls.clone();
        let next = self.reply(Step::StartTls, "220 2.0.0 Ready to start TLS").await?;
        // Slowness alone is no refusal.
        let faulty = match self.destination.script().faults.get(&Step::StartTls) {
            Some((fault, times)) => *times != Some(0) && !matches!(fault, Fault::SlowBytes(_)),
            None => false,
        };
        if next != Next::Go || faulty {
            return Ok(next);
        }
        let mut closes = false;
        let config = match tls {
            Tls::None => return self.say("454 4.7.0 TLS not available"),
            Tls::CloseAfter220 => {
                self.flush().await?;
                return Ok(Next::Close);
            }
            Tls::HangAfter220 => {
                self.flush().await?;
                self.within_handshake = true;
                let mut unread = [0; 1024];
                while self.stream.read(&mut unread).await? > 0 {}
                return Ok(Next::Close);
            }
            Tls::GarbageAfter220 => {
                self.flush().await?;
                self.stream.write_all(b"this is no TLS record at all\r\n").await?;
                self.flush().await?;
                return Ok(Next::Close);
            }
            Tls::CloseAfterHandshake(config) => {
                closes = true;
                config
            }
            Tls::Injection(config) => {
                self.output.extend(b"250 2.1.5 injected in clear\r\n");
                config
            }
            Tls::Certificate(config) => config,
        };
        self.flush().await?;
        if !self.input.is_empty() {
            self.offence("commands in clear behind STARTTLS".into());
            self.input.clear();
        }
        let (plain, _) = tokio::io::duplex(1);
        let stream = std::mem::replace(&mut self.stream, Box::new(plain));
        match tokio_rustls::TlsAcceptor::from(config).accept(stream).await {
            Ok(_) if closes => Ok(Next::Close),
            Ok(stream) => {
                self.stream = Box::new(stream);
                self.tls = true;
                self.greeted = false;
                self.note(|record| record.tls = true);
                Ok(Next::Go)
            }
            Err(_) => Ok(Next::Close),
        }
    }

    pub(crate) fn say(&mut self, reply: &str) -> io::Result<Next> {
        self.output.extend(reply.as_bytes());
        self.output.extend(b"\r\n");
        Ok(Next::Go)
    }

    pub(crate) async fn close_with(&mut self, reply: &str) -> io::Result<Next> {
        self.say(reply)?;
        self.flush().await?;
        Ok(Next::Close)
    }

    /// The proper reply, or the fault that is due.
    pub(crate) async fn reply(&mut self, step: Step, proper: &str) -> io::Result<Next> {
        let fault = self.destination.script().due(step);
        let Some(fault) = fault else { return self.say(proper) };
        match fault {
            Fault::Reply(reply) => self.say(&reply.replace('\n', "\r\n")),
            Fault::ReplyAndClose(reply) => self.close_with(&reply.replace('\n', "\r\n")).await,
            Fault::Hang => {
                self.flush().await?;
                Ok(Next::Mute)
            }
            Fault::CloseAfter(octets) => {
                let whole = format!("{proper}\r\n");
                self.output.extend(&whole.as_bytes()[..octets.min(whole.len())]);
                self.flush().await?;
                Ok(Next::Close)
            }
            Fault::SlowBytes(pause) => {
                self.flush().await?;
                let octets = format!("{proper}\r\n").into_bytes();
                for (nth, octet) in octets.iter().copied().enumerate() {
                    tokio::time::sleep(pause).await;
                    if nth + 1 == octets.len() {
                        self.tell_sent();
                    }
                    let written = self.stream.write_all(&[octet]).await;
                    if written.is_err() || self.stream.flush().await.is_err() {
                        // The client gave up; what it said before is still to be read.
                        return Ok(Next::Mute);
                    }
                }
                Ok(Next::Go)
            }
            Fault::Garbage(octets) => {
                self.output.extend(octets);
                Ok(Next::Go)
            }
            Fault::OverlongLine(octets) => {
                let code = &proper[..3];
                self.say(&format!("{code} {}", "x".repeat(octets.saturating_sub(6))))
            }
            Fault::EndlessLines => {
                let code = proper[..3].to_owned();
                self.flush().await?;
                // A client that gives up closes, and then writing fails.
                let line = format!("{code}-and another line\r\n");
                while self.stream.write_all(line.as_bytes()).await.is_ok() && self.stream.flush().await.is_ok() {
                    tokio::task::yield_now().await;
                }
                Ok(Next::Close)
            }
        }
    }
}

/// The first whole reply in lines divided by `\n`: its code and the lines' texts, joined by a space.
fn first_reply(lines: &str) -> Option<String> {
    let mut whole = lines.get(..3)?.to_owned();
    for line in lines.split('\n') {
        whole.push(' ');
        whole.push_str(line.get(4..).unwrap_or_default());
        match line.as_bytes().get(3) {
            _ if line.get(..3) != whole.get(..3) => return None,
            Some(b'-') => {}
            Some(b' ') | None => return Some(whole),
            _ => return None,
        }
    }
    None
}

impl Listening {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}
