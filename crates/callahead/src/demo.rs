//! `callahead demo`: the main job, on loopback, with nothing to set up.
//!
//! Five simulated mail servers behave as real ones do, a daemon stands in front of them, and a client asks through the policy
//! listener as Postfix would. What is printed is what was answered on those sockets, row by row of the decision table. Then a sender
//! sends messages through the gateway, and they arrive.

mod gateway;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use callahead_cache::Scope;
use callahead_config::Config;
use callahead_engine::{Alert, Decision, Observer, Question};
use callahead_listeners::Listen;
use callahead_testbed::{Destination, Listening, Script};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::DONE;
use crate::output::{self, Paint, Style};
use crate::serve::Server;

/// How long the link to the web interface works.
const LINK_FOR: Duration = Duration::from_secs(3600);

/// The destinations, by the domain that leads there.
struct Destinations {
    normal: Destination,
    all: Vec<(&'static str, Destination, Listening)>,
    /// Where nobody listens.
    down: SocketAddr,
}

/// What was decided last, seen beside the policy protocol, which only has the answer.
#[derive(Default)]
struct Last(Mutex<Option<Decision>>);

impl Observer for Last {
    fn decided(&self, _: &Question<'_>, decision: &Decision) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(decision.clone());
    }
    fn alert(&self, _: &Alert) {}
}

/// Plays the session; with `exit` it ends there, else it stays up until SIGINT or SIGTERM.
///
/// # Errors
/// When no port or no folder is to be had.
pub async fn run(exit: bool) -> anyhow::Result<u8> {
    let style = Style::stdout();
    let destinations = Destinations::start().await?;
    let folder = tempfile::Builder::new().prefix("callahead-demo-").tempdir()?;
    let config = destinations.config(folder.path().to_str().context("the temporary folder's name is no UTF-8")?)?;
    let last = Arc::new(Last::default());
    let mut server = Server::start(config, Arc::clone(&last) as Arc<dyn Observer>).await?;
    output::print(&introduction(style, &destinations, &server));

    let policy = match server.address("policy") {
        Some(Listen::Tcp(address)) => *address,
        _ => anyhow::bail!("the demo's policy listener did not start"),
    };
    let mut client = PolicyClient::connect(policy).await?;
    let mut rows = Vec::new();
    for (recipient, remark) in SESSION {
        match *remark {
            "+" => {
                destinations.normal.add_mailbox(recipient);
                rows.push(vec![String::new(), format!("-- {recipient} is created at the destination --")]);
                continue;
            }
            "x" => {
                let cleared = server.node.engine.clear(Scope::Recipient(recipient.parse()?)).await?;
                rows.push(vec![
                    String::new(),
                    format!("-- {recipient} is cleared from the cache ({} entry) --", cleared.entries),
                ]);
                continue;
            }
            _ => {}
        }
        let action = client.ask(recipient).await?;
        // So that the next question finds it on disk, however slow that is.
        server.node.engine.cache().flush().await?;
        let decision = last.0.lock().unwrap_or_else(PoisonError::into_inner).take().context("nothing was decided")?;
        let row = format!("{}", decision.row);
        let time = format!("{:.1}", decision.elapsed.as_secs_f64() * 1e3);
        rows.push(vec![row, (*recipient).into(), decision.source.as_str().into(), time, action]);
    }
    drop(client);
    output::print(&output::table(style, &["ROW", "RECIPIENT", "FROM", "MS", "ANSWER TO POSTFIX"], &rows));
    let asked = rows.iter().filter(|row| row.len() > 2).count();
    output::print(&destinations.summary(style, asked, &server));

    let relayed = mail(style, &server).await?;

    if !exit {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let link = server.web.demonstrate(&server.state, "demo", LINK_FOR).await?;
        output::print(&to_try(style, &destinations, &server, &link));
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        output::print("\n");
    }
    server.stop().await;
    destinations.assert_polite();
    let arrived: usize = destinations.all.iter().map(|(_, destination, _)| destination.record().messages.len()).sum();
    if exit {
        // With somebody at the keyboard more may have been sent.
        anyhow::ensure!(arrived == relayed, "{relayed} messages were relayed, and {arrived} arrived");
    }
    output::print(&format!(
        "stopped; every session ended in QUIT, or was cut off within a message that must not arrive; \
         no callout sent a message: the {arrived} that arrived came through the gateway\n"
    ));
    Ok(DONE)
}

/// Sends messages through the gateway and shows what the sender was told; gives how many were accepted.
async fn mail(style: Style, server: &Server) -> anyhow::Result<usize> {
    let gateway = match server.address("gateway") {
        Some(Listen::Tcp(address)) => *address,
        _ => anyhow::bail!("the demo's gateway did not start"),
    };
    let sent = gateway::send(gateway).await?;
    let mut rows = Vec::new();
    for message in &sent {
        for (nth, (said, reply)) in message.answers.iter().enumerate() {
            let what = if nth == 0 { message.what } else { "" };
            rows.push(vec![what.to_owned(), said.clone(), reply.clone()]);
        }
    }
    output::print("\n");
    output::print(&output::table(style, &["THROUGH THE GATEWAY", "FOR", "ANSWER TO THE SENDER"], &rows));
    Ok(sent.iter().filter(|message| message.accepted).count())
}

/// What is asked, in order; `+` creates the mailbox, `x` clears it.
const SESSION: &[(&str, &str)] = &[
    ("anna@normal.example", ""),
    ("anna@normal.example", "again"),
    ("carol@normal.example", ""),
    ("carol@normal.example", "again"),
    ("someone@all.example", ""),
    ("whoever@all.example", ""),
    ("anna@grey.example", ""),
    ("anna@down.example", ""),
    ("anna@nobounce.example", ""),
    ("postmaster@normal.example", ""),
    ("listed@normal.example", ""),
    ("anna@elsewhere.example", ""),
    ("not an address", ""),
    ("carol@normal.example", "+"),
    ("carol@normal.example", ""),
    ("carol@normal.example", "x"),
    ("carol@normal.example", ""),
];

impl Destinations {
    async fn start() -> anyhow::Result<Self> {
        let normal = Destination::new(Script::taking_messages([
            "anna@normal.example",
            "ben@normal.example",
            "postmaster@normal.example",
        ]));
        let all = Destination::new(Script { accept_all: true, ..Script::taking_messages([]) });
        let grey = Destination::new(Script { greylist: Some(Duration::from_secs(120)), ..Script::accept_all() });
        let refusal = "550 5.7.1 Bounces are not accepted here".to_owned();
        let no_bounce = Destination::new(Script { null_sender_reply: Some(refusal), ..Script::accept_all() });
        let mut running = Vec::new();
        for (domain, destination) in [
            ("normal.example", normal.clone()),
            ("all.example", all),
            ("grey.example", grey),
            ("nobounce.example", no_bounce),
        ] {
            let listening = destination.listen().await.context("no port for a destination")?;
            running.push((domain, destination, listening));
        }
        // A port that was free a moment ago, and where nobody listens.
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let down = gone.local_addr()?;
        Ok(Self { normal, all: running, down })
    }

    fn config(&self, folder: &str) -> anyhow::Result<Config> {
        // Nothing is denied, because domains that are added on the pages lead to the destinations, which are on this host.
        let mut text = format!(
            "node = \"filter.example\"\ndata_dir = {:?}\n[listen]\npolicy = [\"127.0.0.1:0\"]\ngateway = [\"127.0.0.1:0\"]\nsocketmap = [\"127.0.0.1:0\"]\n\
             http = [\"127.0.0.1:0\"]\nadmin = [\"unix:{folder}/admin.sock\"]\n[resolver]\nservers = [\"127.0.0.1:9\"]\n\
             [callout]\ndeny_destinations = []\n",
            format!("{folder}/data")
        );
        for (domain, address) in self.addresses() {
            write!(text, "[[domain]]\nname = {domain:?}\nroute = [\"{address}\"]\n")?;
            if domain == "normal.example" {
                text.push_str("invalid = [\"listed\"]\n");
            }
        }
        Ok(Config::parse(&text, "the demo's configuration")?)
    }

    fn addresses(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let running = self.all.iter().map(|(domain, _, listening)| (*domain, listening.address()));
        running.chain([("down.example", self.down)])
    }

    fn summary(&self, style: Style, asked: usize, server: &Server) -> String {
        let rcpt: usize = self.all.iter().map(|(_, destination, _)| destination.record().rcpt).sum();
        let connections: usize = self.all.iter().map(|(_, destination, _)| destination.record().connections).sum();
        let stats = server.node.engine.stats();
        style.paint(
            Paint::Dim,
            &format!(
                "\n{asked} questions, {} callouts: {connections} sessions with destinations, {rcpt} RCPT commands, random ones included\n",
                stats.flights
            ),
        )
    }

    fn assert_polite(&self) {
        self.all.iter().for_each(|(_, destination, _)| destination.assert_polite());
    }
}

fn introduction(style: Style, destinations: &Destinations, server: &Server) -> String {
    let what = [
        ("normal.example", "has the mailboxes anna, ben and postmaster"),
        ("all.example", "accepts every local part"),
        ("grey.example", "greylists: says 450 for the first 2 minutes"),
        ("nobounce.example", "refuses the null sender"),
        ("down.example", "nobody listens there"),
    ];
    let mut text = style.paint(Paint::Strong, "Destinations, simulated on loopback\n");
    for (domain, address) in destinations.addresses() {
        let what = what.iter().find(|(name, _)| *name == domain).map_or("", |(_, what)| *what);
        let _ = writeln!(text, "  {domain:<17} {:<16} {what}", address.to_string());
    }
    text.push_str(&style.paint(Paint::Strong, "Callahead in front of them\n"));
    for (name, listen) in &server.addresses {
        let _ = writeln!(text, "  {name:<17} {listen}");
    }
    text.push('\n');
    text
}

fn to_try(style: Style, destinations: &Destinations, server: &Server, link: &str) -> String {
    let place = |name: &str| server.address(name).map(ToString::to_string).unwrap_or_default();
    let (host, port) = match server.address("policy") {
        Some(Listen::Tcp(address)) => (address.ip().to_string(), address.port()),
        _ => return String::new(),
    };
    let normal = destinations.addresses().next().map(|(_, address)| address.to_string()).unwrap_or_default();
    let (socket, gateway) = (place("admin"), place("gateway"));
    let socket = socket.trim_start_matches("unix:");
    format!(
        "\n{}\n\
         \x20 the web interface; this link logs you in once, within the hour:\n\
         \x20   {}{link}\n\
         \x20 what Postfix would ask:\n\
         \x20   printf 'request=smtpd_access_policy\\nprotocol_state=RCPT\\nrecipient=ben@normal.example\\n\\n' | nc -q 1 {host} {port}\n\
         \x20 what the destination itself says, in an SMTP session:\n\
         \x20   swaks --server {normal} --from '<>' --to dora@normal.example --quit-after RCPT\n\
         \x20 a message through the gateway, one to nobody, and one to a domain that is not ours:\n\
         \x20   swaks --server {gateway} --from you@sender.example --to anna@normal.example\n\
         \x20   swaks --server {gateway} --from you@sender.example --to nobody@normal.example\n\
         \x20   swaks --server {gateway} --from you@sender.example --to you@elsewhere.example\n\
         \x20 a callout with its dialogue:\n\
         \x20   callahead check --route {normal} --transcript dora@normal.example\n\
         \x20 what is kept, and forgetting it:\n\
         \x20   callahead cache list --socket {socket}\n\
         \x20   callahead cache clear --domain normal.example --socket {socket}\n\
         \x20 metrics:\n\
         \x20   curl http://{}/metrics\n\
         Ctrl-C ends it.\n",
        style.paint(Paint::Strong, "It stays up; from another terminal, try"),
        server.web_address().unwrap_or_default(),
        place("http")
    )
}

/// A client of the policy protocol, as Postfix's smtpd is one.
struct PolicyClient {
    stream: BufReader<TcpStream>,
}

impl PolicyClient {
    async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { stream: BufReader::new(TcpStream::connect(address).await?) })
    }

    async fn ask(&mut self, recipient: &str) -> anyhow::Result<String> {
        let request = format!(
            "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nsender=\nrecipient={recipient}\n\
             client_address=192.0.2.10\ninstance=demo\n\n"
        );
        self.stream.write_all(request.as_bytes()).await?;
        let mut action = String::new();
        loop {
            let mut line = String::new();
            anyhow::ensure!(self.stream.read_line(&mut line).await? > 0, "the policy listener closed the connection");
            match line.trim_end() {
                "" => return Ok(action),
                line => action = line.strip_prefix("action=").unwrap_or(line).to_owned(),
            }
        }
    }
}
