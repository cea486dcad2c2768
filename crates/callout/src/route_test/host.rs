//! The test of one host: its addresses, one session, four transactions at most, QUIT.

use std::net::{IpAddr, SocketAddr};

use callahead_smtp::{Command, Domain, Recipient, Reply};
use tokio::time::{Instant, timeout_at};

use super::{HostTest, Tell, TestEvent, TestStep, TestedStep};
use crate::callouts::{Inner, Key};
use crate::outcome::{Failure, Step};
use crate::probe::{PersonProbe, Probe as _};
use crate::resolve::interleave;
use crate::route::{Host, TlsPolicy};
use crate::session::{Opening, Session, Surplus, Trouble};
use crate::settings::Settings;

/// The domain of the recipient that is nobody's: it can't be local anywhere (RFC 6761 6.4), and nothing can be delivered to it.
const NOBODYS: &str = "callahead-test.invalid";

/// Takes the steps at one host.
pub(super) struct Tester<'a> {
    pub(super) inner: &'a Inner,
    pub(super) settings: &'a Settings,
    pub(super) key: &'a Key,
    pub(super) domain: &'a Domain,
    pub(super) deadline: Instant,
    /// The host was found by the domain's MX.
    pub(super) is_mx: bool,
    /// When the step began that is taken next.
    pub(super) began: Instant,
    pub(super) test: HostTest,
    pub(super) tell: Tell<'a>,
}

/// How a step went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Went {
    Well,
    /// Well enough for callouts, and worth a look.
    Oddly,
    Wrong,
}

/// The step that failed was written down, and the session is over.
struct Over;

impl Tester<'_> {
    pub(super) async fn run(mut self) -> HostTest {
        let Some(addresses) = self.resolve().await else { return self.test };
        for (nth, address) in addresses.iter().enumerate() {
            let is_last = nth + 1 == addresses.len();
            let address = SocketAddr::new(*address, self.key.port);
            let Some(mut session) = self.open(address, is_last).await else { continue };
            let asked = self.ask(&mut session).await;
            self.began = Instant::now();
            let is_said = session.quit(self.settings.quit_timeout, Some(&mut self.test.transcript)).await;
            match is_said {
                _ if asked.is_err() => {}
                true => self.step(TestStep::Quit, Went::Well, "it says 221, and the session is over"),
                false => self.step(TestStep::Quit, Went::Oddly, "the session is over without a 221 to QUIT"),
            }
            return self.test;
        }
        self.test
    }

    fn step(&mut self, step: TestStep, went: Went, detail: impl Into<String>) {
        let (ok, warning, took) = (went != Went::Wrong, went == Went::Oddly, self.began.elapsed());
        let step = TestedStep { step, ok, warning, took, detail: detail.into() };
        (self.tell)(TestEvent::Step(&self.test.host, &step));
        self.test.steps.push(step);
        self.began = Instant::now();
    }

    // === from the name to the session ===

    /// The addresses that a callout would try; there is at least one.
    async fn resolve(&mut self) -> Option<Vec<IpAddr>> {
        let name = match &self.key.host {
            Host::Address(address) => return Some(vec![*address]),
            Host::Name(name) => name,
        };
        let mut addresses = match timeout_at(self.deadline, self.inner.resolve.addresses(name)).await {
            Ok(Ok(addresses)) => interleave(addresses),
            Ok(Err(error)) => {
                self.step(TestStep::Resolve, Went::Wrong, error.to_string());
                return None;
            }
            Err(_) => {
                self.step(TestStep::Resolve, Went::Wrong, format!("the DNS gave no answer for {name} in time"));
                return None;
            }
        };
        addresses.truncate(self.settings.addresses_per_host);
        if addresses.is_empty() {
            self.step(TestStep::Resolve, Went::Wrong, format!("{name} has no address"));
            return None;
        }
        let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let of = if self.is_mx { format!("{name}, from the MX of {},", self.domain) } else { name.to_string() };
        self.step(TestStep::Resolve, Went::Well, format!("{of} is {}", shown.join(", ")));
        Some(addresses)
    }

    /// Connects, and brings the session to where MAIL may be said. Only at the last address a failure is one.
    async fn open(&mut self, address: SocketAddr, is_last: bool) -> Option<Session> {
        let inner = self.inner;
        let (settings, host) = (self.settings, &self.key.host);
        // A host that hangs at one address leaves half of the time to the others.
        let left = self.deadline.saturating_duration_since(Instant::now());
        let deadline = if is_last { self.deadline } else { Instant::now() + left / 2 };
        let mut opening =
            Opening { dial: &*inner.dial, tls: &inner.tls, settings, host, policy: self.key.tls, deadline };
        let mut session = match opening.connect(address, &mut self.test.transcript).await {
            Ok(session) => session,
            Err(trouble) => return self.failed(TestStep::Connect, &trouble, is_last),
        };
        self.step(TestStep::Connect, Went::Well, format!("connected to {address}"));
        match opening.greeting(&mut session, &mut self.test.transcript).await {
            Ok(greeting) => self.step(TestStep::Greeting, Went::Well, format!("it greets: {}", words(&greeting))),
            Err(trouble) => {
                self.failed(TestStep::Greeting, &trouble, is_last);
                session.quit(settings.quit_timeout, Some(&mut self.test.transcript)).await;
                return None;
            }
        }
        let starttls = match session.ehlo(&opening, &mut self.test.transcript).await {
            Ok(starttls) => starttls,
            Err(trouble) => {
                self.failed(TestStep::Ehlo, &trouble, is_last);
                session.quit(settings.quit_timeout, Some(&mut self.test.transcript)).await;
                return None;
            }
        };
        self.step(TestStep::Ehlo, Went::Well, offered(&session, starttls));
        let policy = self.key.tls;
        match opening.encrypt(session, starttls, &mut self.test.transcript).await {
            Ok(session) => {
                let detail = match (session.encrypted, starttls) {
                    (true, _) => "encrypted",
                    (false, false) if policy == TlsPolicy::Opportunistic => {
                        "in clear, since it does not offer STARTTLS"
                    }
                    (false, _) if policy == TlsPolicy::Opportunistic => "in clear, since it refuses STARTTLS",
                    (false, _) => "in clear",
                };
                self.step(TestStep::Tls, Went::Well, format!("{detail}; the route's policy is {policy}"));
                Some(session)
            }
            Err(Trouble { failure: failure @ Failure::TlsFailed(_), .. }) if policy == TlsPolicy::Opportunistic => {
                let detail = format!("{failure}; a callout goes on in clear, as the route's policy allows");
                self.step(TestStep::Tls, Went::Oddly, detail);
                opening.policy = TlsPolicy::Off;
                match opening.open(address, &mut self.test.transcript).await {
                    Ok(session) => Some(session),
                    Err(trouble) => self.failed(TestStep::Connect, &trouble, is_last),
                }
            }
            Err(trouble) => self.failed(TestStep::Tls, &trouble, is_last),
        }
    }

    fn failed(&mut self, step: TestStep, trouble: &Trouble, is_last: bool) -> Option<Session> {
        let said = trouble.reply.as_ref().map(|reply| format!(": {}", words(reply))).unwrap_or_default();
        match is_last {
            true => self.step(step, Went::Wrong, format!("{}{said}", trouble.failure)),
            false => self.step(step, Went::Oddly, format!("{}{said}; the next address is tried", trouble.failure)),
        }
        None
    }

    // === the transactions ===

    async fn ask(&mut self, session: &mut Session) -> Result<(), Over> {
        let Ok(postmaster) = Recipient::new("postmaster", self.domain.clone()) else { return Ok(()) };
        let Ok(random) = Recipient::new(&PersonProbe.local_part(), self.domain.clone()) else { return Ok(()) };
        let null = Command::MailFromNull { smtputf8: false };
        let reply = self.say(session, TestStep::NullSender, Step::Mail, &written(&null)).await?;
        let said = words(&reply);
        if !reply.is_positive() {
            let detail = match reply.is_transient() {
                true => format!("it defers the null sender, so its recipients can't be verified now: {said}"),
                false => format!("it refuses the null sender, so its recipients can't be verified: {said}"),
            };
            self.step(TestStep::NullSender, Went::Wrong, detail);
            return self.ask_to_relay(session, true).await;
        }
        self.step(TestStep::NullSender, Went::Well, "it takes the null sender");

        let reply = self.say(session, TestStep::RandomProbe, Step::Rcpt, &written(&Command::RcptTo(&random))).await?;
        let said = words(&reply);
        if reply.is_positive() {
            self.test.accept_all = Some(true);
            let detail = format!("it accepts every local part, so its recipients can't be told apart: {said}");
            self.step(TestStep::RandomProbe, Went::Wrong, detail);
        } else if reply.is_permanent() {
            self.test.accept_all = Some(false);
            self.step(TestStep::RandomProbe, Went::Well, format!("it refuses a random local part: {said}"));
        } else {
            let detail = format!("a random local part was neither accepted nor refused (greylisting?): {said}");
            self.step(TestStep::RandomProbe, Went::Wrong, detail);
        }

        self.transaction(session, TestStep::Postmaster, &written(&null)).await?;
        let rcpt = written(&Command::RcptTo(&postmaster));
        let reply = self.say(session, TestStep::Postmaster, Step::Rcpt, &rcpt).await?;
        let said = words(&reply);
        match (reply.is_positive(), reply.is_transient()) {
            (true, _) => self.step(TestStep::Postmaster, Went::Well, format!("it accepts postmaster: {said}")),
            (false, true) => {
                self.step(TestStep::Postmaster, Went::Wrong, format!("it defers postmaster (greylisting?): {said}"));
            }
            (false, false) => {
                let detail = format!("it refuses postmaster, which every domain has to have (RFC 5321 4.5.1): {said}");
                self.step(TestStep::Postmaster, Went::Wrong, detail);
            }
        }
        self.ask_to_relay(session, false).await
    }

    /// Whether a recipient that is nobody's is accepted. There is no DATA behind it.
    async fn ask_to_relay(&mut self, session: &mut Session, null_refused: bool) -> Result<(), Over> {
        let Ok(nobody) = format!("{}@{NOBODYS}", PersonProbe.local_part()).parse::<Recipient>() else { return Ok(()) };
        let sender = Recipient::new("postmaster", self.settings.node.clone());
        let mail = match sender {
            // A `Recipient` can't hold a line end.
            Ok(sender) if null_refused => format!("MAIL FROM:<{sender}>\r\n").into_bytes(),
            _ => written(&Command::MailFromNull { smtputf8: false }),
        };
        let reply = match null_refused {
            true => self.say(session, TestStep::OpenRelay, Step::Mail, &mail).await?,
            false => self.transaction(session, TestStep::OpenRelay, &mail).await?,
        };
        if !reply.is_positive() {
            let detail = format!(
                "whether it relays was not found out, since it takes neither the null sender nor postmaster@{}: {}",
                self.settings.node,
                words(&reply)
            );
            self.step(TestStep::OpenRelay, Went::Oddly, detail);
            return Ok(());
        }
        let rcpt = written(&Command::RcptTo(&nobody));
        let reply = self.say(session, TestStep::OpenRelay, Step::Rcpt, &rcpt).await?;
        let said = words(&reply);
        if reply.is_positive() {
            self.test.relays = Some(true);
            let detail = format!(
                "it accepts from this filtering server mail for other people's domains ({nobody}): {said}. Where it sends out mail for this \
                 server, that is intended; where it accepts it from everybody, which can't be told from here, it is an open relay"
            );
            self.step(TestStep::OpenRelay, Went::Oddly, detail);
        } else if reply.is_permanent() {
            self.test.relays = Some(false);
            self.step(TestStep::OpenRelay, Went::Well, format!("it refuses mail for other people's domains: {said}"));
        } else {
            let detail =
                format!("it defers mail for other people's domains, so whether it relays was not found out: {said}");
            self.step(TestStep::OpenRelay, Went::Oddly, detail);
        }
        Ok(())
    }

    /// RSET, and MAIL of the next transaction.
    async fn transaction(&mut self, session: &mut Session, at: TestStep, mail: &[u8]) -> Result<Reply, Over> {
        let reply = self.say(session, at, Step::Rset, &written(&Command::Rset)).await?;
        if !reply.is_positive() {
            return self.over(at, &Failure::UnexpectedReply(Step::Rset), Some(&reply));
        }
        let reply = self.say(session, at, Step::Mail, mail).await?;
        // The same sender was taken a moment ago.
        if !reply.is_positive() {
            return self.over(at, &Failure::UnexpectedReply(Step::Mail), Some(&reply));
        }
        Ok(reply)
    }

    /// One command and its reply; where none comes, that is the step's end and the session's.
    async fn say(&mut self, session: &mut Session, at: TestStep, step: Step, octets: &[u8]) -> Result<Reply, Over> {
        let transcript = &mut self.test.transcript;
        // A reply too many that came by itself would be taken for the one to this command.
        let surplus = match session.what_else_came(transcript).await {
            Surplus::Nothing => None,
            Surplus::End => Some(Failure::Closed(step)),
            Surplus::Reply => Some(Failure::Unsolicited(step)),
        };
        if let Some(failure) = surplus {
            return self.over(at, &failure, None);
        }
        let replied = match session.send(step, octets, self.deadline, transcript).await {
            Ok(()) => session.reply(step, self.deadline, transcript).await,
            Err(trouble) => Err(trouble),
        };
        match replied {
            Ok(reply) if reply.is_positive() || reply.is_transient() || reply.is_permanent() => Ok(reply),
            Ok(reply) => self.over(at, &Failure::UnexpectedReply(step), Some(&reply)),
            Err(Trouble { failure, reply }) => self.over(at, &failure, reply.as_ref()),
        }
    }

    fn over<T>(&mut self, at: TestStep, failure: &Failure, reply: Option<&Reply>) -> Result<T, Over> {
        let said = reply.map(|reply| format!(": {}", words(reply))).unwrap_or_default();
        // A host that ends the session rather than to relay does nothing that callouts mind.
        let went = if at == TestStep::OpenRelay { Went::Oddly } else { Went::Wrong };
        self.step(at, went, format!("{failure}{said}"));
        Err(Over)
    }
}

fn written(command: &Command<'_>) -> Vec<u8> {
    let mut octets = Vec::with_capacity(64);
    command.write(&mut octets);
    octets
}

fn words(reply: &Reply) -> String {
    format!("{} {}", reply.code(), reply.text())
}

/// What of it matters to callouts and relays.
fn offered(session: &Session, starttls: bool) -> String {
    let offers = &session.offers;
    let all = [
        ("STARTTLS", starttls),
        ("PIPELINING", offers.pipelining),
        ("SMTPUTF8", offers.smtputf8),
        ("8BITMIME", offers.eight_bit_mime),
        ("CHUNKING", offers.chunking),
        ("DSN", offers.dsn),
        ("SIZE", offers.size),
    ];
    let given: Vec<&str> = all.into_iter().filter(|(_, is_offered)| *is_offered).map(|(name, _)| name).collect();
    match given.is_empty() {
        true => "it takes EHLO or HELO, and offers none of the extensions that are used here".to_owned(),
        false => format!("it takes EHLO, and offers {}", given.join(", ")),
    }
}
