//! `callahead domain`: the domains of a running daemon, seen and changed.

use anyhow::{Context as _, bail};
use clap::Subcommand;
use hyper::Method;
use serde_json::{Map, Value, json};

use crate::admin_client::{AdminClient, encoded, pages};
use crate::cache_command::{field, tree};
use crate::cli::{DONE, NO, SocketArgs};
use crate::output;

/// What `domain` can do.
#[derive(Debug, Subcommand)]
pub enum DomainCommand {
    /// List the domains, those of the configuration file too.
    #[command(after_help = "Example:\n  callahead domain list --prefix example")]
    List {
        /// What the name starts with.
        #[arg(long)]
        prefix: Option<String>,
        /// Domains at most.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Of which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Show a domain as it is in force. Exit status 1 where there is none.
    #[command(after_help = "Example:\n  callahead domain show example.com")]
    Show {
        /// The name under which it is configured.
        name: String,
        /// Of which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Add a domain. It is in force when the command ends.
    #[command(
        after_help = "Examples:\n  callahead domain add example.com --route mail1.example.net --route mail2.example.net:2525\n  \
                      callahead domain add example.org --route mx --set callouts=observe --valid sales"
    )]
    Add {
        /// `example.com`, or `*.example.com` for all its subdomains.
        name: String,
        /// What it says.
        #[command(flatten)]
        what: DomainArgs,
        /// To which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Change a domain: what is not named stays as it is.
    #[command(
        after_help = "Examples:\n  callahead domain set example.com --set callouts=enforce\n  callahead domain set example.com --unset callouts"
    )]
    Set {
        /// The name under which it is configured.
        name: String,
        /// What it says from now on.
        #[command(flatten)]
        what: DomainArgs,
        /// Back to the default: a key of the configuration file, or relay, valid, invalid, owner.
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
        /// Of which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Remove a domain, and clear what is kept of its recipients. Exit status 1 where there is none.
    #[command(after_help = "Example:\n  callahead domain remove example.com")]
    Remove {
        /// The name under which it is configured.
        name: String,
        /// From which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Test a domain's route step by step. Exit status 1 where a step failed.
    #[command(after_help = "Example:\n  callahead domain test example.com --transcript")]
    Test {
        /// The name under which it is configured.
        name: String,
        /// Print the dialogue with times.
        #[arg(long)]
        transcript: bool,
        /// By which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
}

/// What a domain says itself.
#[derive(Debug, clap::Args)]
pub struct DomainArgs {
    /// Where its destination is, tried in order: mx, HOST, HOST:PORT. May be given several times.
    #[arg(long, value_name = "HOST")]
    pub route: Vec<String>,
    /// Where the gateway delivers its mail, if not to the route: mx, HOST, HOST:PORT. May be given several times.
    #[arg(long, value_name = "HOST")]
    pub relay: Vec<String>,
    /// A key of a domain in the configuration file: tls, callouts, reject_code, valid_ttl, tempfail, log_days, ... May be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// A local part that exists whatever the destination says. May be given several times; replaces the list.
    #[arg(long, value_name = "LOCAL_PART")]
    pub valid: Vec<String>,
    /// A local part that does not exist. May be given several times; replaces the list.
    #[arg(long, value_name = "LOCAL_PART")]
    pub invalid: Vec<String>,
    /// The reseller whose it is.
    #[arg(long, value_name = "ACCOUNT")]
    pub owner: Option<String>,
}

impl DomainArgs {
    fn body(&self) -> anyhow::Result<Map<String, Value>> {
        let mut body = Map::new();
        for (key, list) in
            [("route", &self.route), ("relay", &self.relay), ("valid", &self.valid), ("invalid", &self.invalid)]
        {
            if !list.is_empty() {
                body.insert(key.into(), json!(list));
            }
        }
        if let Some(owner) = &self.owner {
            body.insert("owner".into(), json!(owner));
        }
        for pair in &self.set {
            let (key, value) = pair.split_once('=').with_context(|| format!("--set {pair}: write KEY=VALUE"))?;
            let value = match (key, value) {
                ("reject_code" | "log_days", number) => {
                    json!(number.parse::<u32>().with_context(|| format!("--set {pair}: {number:?} is no number"))?)
                }
                ("pass_reply_text", "true") => json!(true),
                ("pass_reply_text", "false") => json!(false),
                (_, text) => json!(text),
            };
            body.insert(key.into(), value);
        }
        Ok(body)
    }
}

fn path(name: &str) -> String {
    format!("/api/v1/domains/{}", encoded(name))
}

/// Does it.
///
/// # Errors
/// When the daemon can't be reached or refuses.
pub async fn run(command: DomainCommand) -> anyhow::Result<u8> {
    match command {
        DomainCommand::List { prefix, limit, socket } => {
            let client = AdminClient::new(&socket)?;
            let query: Vec<_> = prefix.as_deref().map(|prefix| ("prefix", prefix)).into_iter().collect();
            let listed = pages(&client, "/api/v1/domains", "domains", &query, limit).await?;
            let row = |domain: &Value| {
                let route: Vec<&str> =
                    domain["route"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let place = if domain["read_only"] == true { "file" } else { "database" };
                vec![
                    field(domain, "name"),
                    field(domain, "callouts"),
                    place.into(),
                    field(domain, "owner"),
                    route.join(" "),
                ]
            };
            listed.print(socket.json, &["DOMAIN", "CALLOUTS", "FROM", "OWNER", "ROUTE"], row);
            Ok(DONE)
        }
        DomainCommand::Show { name, socket } => {
            let client = AdminClient::new(&socket)?;
            let Some(domain) = client.ask(Method::GET, &path(&name), &[]).await? else { return Ok(none(&name)) };
            print(&domain, socket.json);
            Ok(DONE)
        }
        DomainCommand::Add { name, what, socket } => {
            let mut body = what.body()?;
            body.insert("name".into(), json!(name));
            if what.route.is_empty() {
                bail!("a domain needs a route: give --route HOST, or --route mx");
            }
            let client = AdminClient::new(&socket)?;
            let added = client.make("/api/v1/domains", &Value::Object(body), "name").await?;
            done(Some(&added), socket.json, &format!("{name} is in force"));
            Ok(DONE)
        }
        DomainCommand::Set { name, what, unset, socket } => {
            let mut body = what.body()?;
            for key in unset {
                body.insert(key, Value::Null);
            }
            if body.is_empty() {
                bail!("nothing is to be changed: give --route, --relay, --set, --unset, --valid, --invalid or --owner");
            }
            let client = AdminClient::new(&socket)?;
            let changed = client.send(Method::PATCH, &path(&name), &[], Some(&Value::Object(body))).await?;
            let Some(changed) = changed else { return Ok(none(&name)) };
            done(Some(&changed), socket.json, &format!("{name} is changed and in force"));
            Ok(DONE)
        }
        DomainCommand::Remove { name, socket } => {
            let client = AdminClient::new(&socket)?;
            if client.ask(Method::GET, &path(&name), &[]).await?.is_none() {
                return Ok(none(&name));
            }
            client.ask(Method::DELETE, &path(&name), &[]).await?;
            done(None, socket.json, &format!("{name} is removed"));
            Ok(DONE)
        }
        DomainCommand::Test { name, transcript, socket } => {
            let client = AdminClient::new(&socket)?;
            let tested = client.send(Method::POST, &format!("{}/test", path(&name)), &[], None).await?;
            let Some(tested) = tested else { return Ok(none(&name)) };
            if socket.json {
                output::print(&format!("{tested}\n"));
            } else {
                output::print(&report(&tested, transcript));
            }
            Ok(if tested["ok"] == true { DONE } else { NO })
        }
    }
}

fn none(name: &str) -> u8 {
    output::remark(&format!("there is no domain {}", output::printable(name)));
    NO
}

/// Says what was done: to people in a sentence, to programs with the record.
pub(crate) fn done(record: Option<&Value>, json: bool, sentence: &str) {
    match (json, record) {
        (true, Some(record)) => output::print(&format!("{record}\n")),
        (true, None) => {}
        (false, _) => output::print(&format!("{}\n", output::printable(sentence))),
    }
}

/// A record, for people or programs.
pub(crate) fn print(record: &Value, json: bool) {
    output::print(&if json { format!("{record}\n") } else { tree(record, 0) });
}

fn report(tested: &Value, transcript: bool) -> String {
    if tested["null_mx"] == true {
        return "the domain has a null MX: it takes no mail\n".to_owned();
    }
    let mut out = String::new();
    for host in tested["hosts"].as_array().into_iter().flatten() {
        out.push_str(&format!("{}\n", field(host, "host")));
        for step in host["steps"].as_array().into_iter().flatten() {
            let mark = match (step["ok"] == true, step["warning"] == true) {
                (true, false) => "ok",
                (true, true) => "note",
                (false, _) => "FAILED",
            };
            let (name, ms) = (field(step, "step"), step["ms"].as_f64().unwrap_or(0.0));
            out.push_str(&format!("  {name:<12}  {mark:<6}  {ms:>7.1} ms  {}\n", field(step, "detail")));
        }
        for line in host["transcript"].as_array().into_iter().flatten().filter(|_| transcript) {
            let mark = match line["who"].as_str() {
                Some("us") => '>',
                Some("them") => '<',
                _ => '*',
            };
            out.push_str(&format!("  {:>9.1} ms {mark} {}\n", line["ms"].as_f64().unwrap_or(0.0), field(line, "line")));
        }
    }
    out
}
