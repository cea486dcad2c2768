//! Real mail servers, as Debian ships them, for tests: Postfix, Exim, OpenSMTPD and Sendmail beside each other on one
//! machine.
//!
//! Their Debian packages conflict, and a test has no business with the host's `/etc`. So each server runs in a *root of
//! its own*: an overlay over the host's `/`, with what `apt-get install` of the one package changed laid on top, in mount
//! and PID namespaces of its own; see `root.rs`. The network is the host's, so ports on 127.0.0.1 are shared.
//! `cargo xtask test` makes these layers once, into `target/mta`; without them every function here fails with a sentence
//! that says so.
//!
//! - [`Mta::destination`] starts a server that holds a domain's mailboxes, with its limits as they are shipped.
//! - [`Mta::front`] starts one with a configuration of the test's own: the filtering server that asks Callahead.
//! - [`swaks`] sends a message and gives back the dialogue.
//!
//! A server ends when its [`Mta`] is dropped, or when the test's process dies in whatever way: it lives as long as the
//! pipe to its standard input.

mod config;
mod root;
mod service;

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use root::as_root;
pub use service::Service;

/// How long a server may take until it greets.
const START_WITHIN: Duration = Duration::from_secs(30);
/// How often a server is started again because its port was taken by somebody else in between.
const TRIES: u32 = 3;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian's `postfix`.
    Postfix,
    /// Debian's `exim4-daemon-heavy`.
    Exim,
    /// Debian's `opensmtpd`.
    OpenSmtpd,
    /// Debian's `sendmail-bin`.
    Sendmail,
}

/// What a destination holds.
#[derive(Clone, Debug)]
pub struct Mailboxes {
    /// The domain.
    pub domain: String,
    /// Its local parts.
    pub local_parts: Vec<String>,
    /// Whether every other local part is accepted too.
    pub accept_all: bool,
}

/// The `main.cf` lines and the `master.cf` that a Postfix in such a root needs before a test's own.
pub fn postfix_base(port: u16) -> (&'static str, String) {
    (config::POSTFIX_MAIN, config::postfix_master(port))
}

/// The `sendmail.mc` of a Sendmail in such a root that relays everything to `destination`, before a test's own lines.
pub fn sendmail_base(port: u16, destination: SocketAddr) -> String {
    config::sendmail_front(port, destination)
}

/// The files that a front is started with. File names are those below the server's own folder in `/etc`:
/// `main.cf` and `master.cf` for Postfix, `exim4.conf` for Exim, `smtpd.conf` for OpenSMTPD, `sendmail.mc` for Sendmail.
pub type Files = Vec<(&'static str, String)>;

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct Mta {
    kind: Kind,
    port: u16,
    child: Child,
    dir: TempDir,
    boxes: Option<Mailboxes>,
}

// === impl Kind ===

impl Kind {
    /// The Debian package.
    pub fn package(self) -> &'static str {
        match self {
            Self::Postfix => "postfix",
            Self::Exim => "exim4-daemon-heavy",
            Self::OpenSmtpd => "opensmtpd",
            Self::Sendmail => "sendmail-bin",
        }
    }

    /// The shell commands that put the configuration in its place and run the server in the foreground.
    fn commands(self) -> &'static str {
        match self {
            Self::Postfix => "cp /instance/main.cf /instance/master.cf /etc/postfix/ && postfix start-fg",
            Self::Exim => {
                "cp /instance/exim4.conf /etc/exim4/exim4.conf && chmod 644 /etc/exim4/exim4.conf && \
                           exim4 -bdf -q1h"
            }
            Self::OpenSmtpd => "cp /instance/smtpd.conf /etc/smtpd.conf && chmod 644 /etc/smtpd.conf && smtpd -d",
            // The host's name has to have a dot in it, or it waits a minute for a better one. `-X` writes the dialogues down.
            Self::Sendmail => {
                "mkdir -p /var/run/sendmail/mta /var/run/sendmail/stampdir && \
                 printf '127.0.0.1 localhost\\n127.0.1.1 sendmail.example %s\\n' \"$(uname -n)\" >/etc/hosts && \
                 cp /instance/sendmail.mc /etc/mail/ && m4 /etc/mail/sendmail.mc >/etc/mail/sendmail.cf && \
                 touch /instance/mailboxes && makemap hash /etc/mail/virtusertable </instance/mailboxes && \
                 echo 'nobody: /dev/null' >/etc/mail/aliases && newaliases && \
                 /usr/sbin/sendmail -bD -q1h -X /instance/dialogues"
            }
        }
    }

    /// The shell command that makes it read its configuration again, for those that tests do it with.
    fn reload(self) -> Option<&'static str> {
        match self {
            Self::Postfix => Some("postfix reload"),
            // It starts again as the same process, and writes its file anew when it listens.
            Self::Sendmail => Some(
                "file=/var/run/sendmail/mta/sendmail.pid; before=$(stat -c %z $file) && \
                 kill -HUP \"$(head -n 1 $file)\" && \
                 until [ -s $file ] && [ \"$(stat -c %z $file)\" != \"$before\" ]; do sleep 0.05; done",
            ),
            Self::Exim | Self::OpenSmtpd => None,
        }
    }
}

// === impl Mailboxes ===

impl Mailboxes {
    /// A domain with these mailboxes and no others.
    pub fn new(domain: &str, local_parts: &[&str]) -> Self {
        let local_parts = local_parts.iter().map(|&part| part.to_owned()).collect();
        Self { domain: domain.to_owned(), local_parts, accept_all: false }
    }

    /// A domain in which every local part is accepted.
    pub fn accept_all(domain: &str) -> Self {
        Self { domain: domain.to_owned(), local_parts: Vec::new(), accept_all: true }
    }
}

// === impl Mta ===

impl Mta {
    /// Starts a server that holds `mailboxes` and throws away what it is sent. Its limits for clients are the
    /// ones it is shipped with.
    ///
    /// # Errors
    /// When its package is not there ("run cargo xtask test"), root rights are missing, or it does not greet
    /// in time; then with its log.
    pub fn destination(kind: Kind, mailboxes: &Mailboxes) -> io::Result<Self> {
        Self::start(kind, Some(mailboxes.clone()), &|port| config::destination(kind, mailboxes, port))
    }

    /// Starts a server with a configuration of the caller's; `files` is given the port that it shall listen
    /// on, on 127.0.0.1.
    ///
    /// # Errors
    /// As [`Mta::destination`].
    pub fn front(kind: Kind, files: &dyn Fn(u16) -> Files) -> io::Result<Self> {
        Self::start(kind, None, files)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The folder that the server sees as `/instance`: its configuration, its logs, and whatever a front's configuration puts there.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// The first process of its own; all that belongs to the server descends from it.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Creates a mailbox in an Exim destination, which looks at its list for every recipient.
    ///
    /// # Errors
    /// When the list can't be written, or this is no Exim destination.
    pub fn create_mailbox(&mut self, local_part: &str) -> io::Result<()> {
        let (Kind::Exim, Some(boxes)) = (self.kind, &mut self.boxes) else {
            return Err(io::Error::other("only an Exim destination takes new mailboxes while it runs"));
        };
        boxes.local_parts.push(local_part.to_owned());
        fs::write(self.dir.path().join("mailboxes"), config::exim_mailboxes(boxes))
    }

    /// Has it read its configuration again, as an administrator does, and waits until it answers after that.
    ///
    /// # Errors
    /// When it can't be told, does not do it, or does not greet afterwards; for others than Postfix and Sendmail.
    pub fn reload(&mut self) -> io::Result<()> {
        if self.kind.reload().is_none() {
            return Err(io::Error::other(format!("{:?} is not reloaded in tests", self.kind)));
        }
        let done = self.dir.path().join("reloaded");
        let _ = fs::remove_file(&done);
        let stdin = self.child.stdin.as_mut().ok_or_else(|| io::Error::other("the server has ended"))?;
        io::Write::write_all(stdin, b"reload\n")?;
        let until = Instant::now() + START_WITHIN;
        while !done.exists() {
            if Instant::now() > until {
                return Err(io::Error::other(format!("{:?} was not reloaded; its log:\n{}", self.kind, self.log())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.wait_for_greeting()
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        log_in(&self.dir)
    }

    /// Waits until its log has `text` and gives the log back; after 10 s without it, what there is.
    pub fn log_with(&self, text: &str) -> String {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let log = self.log();
            if log.contains(text) || Instant::now() > until {
                return log;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn start(kind: Kind, boxes: Option<Mailboxes>, files: &dyn Fn(u16) -> Files) -> io::Result<Self> {
        let mut tries = 1;
        loop {
            match Self::start_once(kind, boxes.clone(), files) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    fn start_once(kind: Kind, boxes: Option<Mailboxes>, files: &dyn Fn(u16) -> Files) -> io::Result<Self> {
        let port = free_port()?;
        let dir = root::shared_dir()?;
        for (name, text) in files(port) {
            fs::write(dir.path().join(name), text)?;
        }
        // The shell that is the namespace's first process lives as long as its standard input, and everything in
        // the namespace as long as the shell.
        let script = format!(
            "({}) </dev/null >/instance/console.log 2>&1 &
             while read -r word; do ({}) </dev/null >>/instance/console.log 2>&1 && touch /instance/reloaded; done",
            kind.commands(),
            kind.reload().unwrap_or("false")
        );
        let mut command = root::command(kind.package(), dir.path(), &["/bin/sh", "-c", &script])?;
        let output = fs::File::create(dir.path().join("root.log"))?;
        let child = command.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output).spawn()?;
        let mut mta = Self { kind, port, child, dir, boxes };
        mta.wait_for_greeting()?;
        Ok(mta)
    }

    /// Waits for a 220 that comes from this server: a port that another process took is not it.
    fn wait_for_greeting(&mut self) -> io::Result<()> {
        let until = Instant::now() + START_WITHIN;
        while Instant::now() < until {
            if greets(self.address()) {
                return Ok(());
            }
            let log = self.log();
            // Exims beside each other say so of a socket that they do without, too.
            if log.lines().any(|line| line.contains("in use") && !line.contains("daemon_notifier_socket")) {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, log));
            }
            if self.child.try_wait()?.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(io::Error::other(format!("{:?} does not greet on port {}; its log:\n{}", self.kind, self.port, self.log())))
    }
}

impl Drop for Mta {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        if std::thread::panicking() {
            // A failing test's output is where its reader looks first.
            let _ = io::Write::write_all(
                &mut io::stderr(),
                format!("\n--- log of {:?} ---\n{}\n", self.kind, log_in(&self.dir)).as_bytes(),
            );
        }
    }
}

// === swaks ===

/// What `swaks` said and saw.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its exit code: 0 sent, 24 recipient refused.
    pub code: Option<i32>,
    /// The dialogue.
    pub transcript: String,
}

impl Sent {
    /// The reply to RCPT: the line after the last `RCPT TO`, without the arrow that swaks puts before it.
    pub fn rcpt_reply(&self) -> &str {
        let mut lines = self.transcript.lines().skip_while(|line| !line.contains("RCPT TO:"));
        lines.next();
        lines.next().map_or("", |line| line.trim_start_matches(['<', '-', '*', '~', ' ']))
    }
}

/// Sends a message from `sender` to `recipient` through `server` with swaks.
///
/// # Errors
/// When the package is not there ("run cargo xtask test"), or it can't be run.
pub fn swaks(server: SocketAddr, sender: &str, recipient: &str) -> io::Result<Sent> {
    swaks_with(server, sender, recipient, &[])
}

/// Like [`swaks`], with further options of swaks.
///
/// # Errors
/// As [`swaks`].
pub fn swaks_with(server: SocketAddr, sender: &str, recipient: &str, more: &[&str]) -> io::Result<Sent> {
    let dir = root::shared_dir()?;
    let (ip, port) = (server.ip().to_string(), server.port().to_string());
    let words = [
        "swaks",
        "--server",
        &ip,
        "--port",
        &port,
        "--from",
        sender,
        "--to",
        recipient,
        "--ehlo",
        "client.example",
        "--timeout",
        "60s",
    ];
    let words = [&words, more].concat();
    let output = root::command("swaks", dir.path(), &words)?.stdin(Stdio::null()).output()?;
    let mut transcript = String::from_utf8_lossy(&output.stdout).into_owned();
    transcript.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(Sent { code: output.status.code(), transcript })
}

/// Runs a program of a package in a root of its own, and gives its exit code and all that it said: `smtp-source` of `postfix`, say,
/// which sends as many messages as it is told to.
///
/// # Errors
/// When the package is not there ("run cargo xtask test"), or it can't be run.
pub fn run(package: &str, words: &[&str]) -> io::Result<Sent> {
    let dir = root::shared_dir()?;
    let output = root::command(package, dir.path(), words)?.stdin(Stdio::null()).output()?;
    let mut transcript = String::from_utf8_lossy(&output.stdout).into_owned();
    transcript.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(Sent { code: output.status.code(), transcript })
}

// === small things ===

/// The version of a server's Debian package, as its root has it; `None` where that is not installed.
pub fn version(kind: Kind) -> Option<String> {
    let dir = root::shared_dir().ok()?;
    let words = ["dpkg-query", "-W", "-f", "${Version}", kind.package()];
    let output = root::command(kind.package(), dir.path(), &words).ok()?.stdin(Stdio::null()).output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !version.is_empty()).then_some(version)
}

/// A port of 127.0.0.1 that nobody listened on a moment ago.
///
/// # Errors
/// When there is none.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn greets(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect(address) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut line = String::new();
    let greeted = BufReader::new(&stream).read_line(&mut line).is_ok() && line.starts_with("220");
    // Gone properly, so that the tests can assert that nobody else went otherwise.
    let _ = io::Write::write_all(&mut &stream, b"QUIT\r\n");
    line.clear();
    let _ = BufReader::new(&stream).read_line(&mut line);
    greeted
}

fn log_in(dir: &TempDir) -> String {
    let names = ["root.log", "console.log", "mail.log", "mainlog", "rejectlog", "paniclog", "dialogues"];
    let paths = names.iter().map(|name| dir.path().join(name)).filter(|path: &PathBuf| path.exists());
    paths.filter_map(|path| fs::read(path).ok()).map(|log| String::from_utf8_lossy(&log).into_owned()).collect()
}
