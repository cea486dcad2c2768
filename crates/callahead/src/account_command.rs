//! `callahead account`: who may use the API.

use std::io::Read as _;

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use hyper::{Method, Uri};
use serde_json::{Map, Value, json};

use crate::admin_client::{AdminClient, encoded, pages};
use crate::cache_command::field;
use crate::cli::{DONE, NO, SocketArgs};
use crate::domain_command::{done, print};
use crate::output;

/// What an account may do at most.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RoleArg {
    /// Everything.
    Admin,
    /// Its own domains and the accounts that it makes.
    Reseller,
    /// The domains that are named: see, check, clear, lists, log.
    Domain,
}

/// What `account` can do.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// List the accounts.
    #[command(after_help = "Example:\n  callahead account list")]
    List {
        /// Accounts at most.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Of which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Show an account. Exit status 1 where there is none.
    #[command(after_help = "Example:\n  callahead account show anna")]
    Show {
        /// Its name.
        name: String,
        /// Of which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Make an account.
    #[command(
        after_help = "Examples:\n  callahead account add root --role admin\n  callahead account add anna --role domain --domain example.com"
    )]
    Add {
        /// Its name: a-z, 0-9, dot, underscore, hyphen and @.
        name: String,
        /// What it may do at most.
        #[arg(long, value_enum)]
        role: RoleArg,
        /// It may look and ask, and change nothing.
        #[arg(long)]
        read_only: bool,
        /// The reseller whose account it is.
        #[arg(long, value_name = "ACCOUNT")]
        owner: Option<String>,
        /// A domain that is its own, for the role domain. May be given several times.
        #[arg(long, value_name = "DOMAIN")]
        domain: Vec<String>,
        /// Read its password from standard input. Without one it only has tokens.
        #[arg(long)]
        password_stdin: bool,
        /// At which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Change an account: what is not named stays as it is.
    #[command(after_help = "Example:\n  callahead account set anna --read-only true")]
    Set {
        /// Its name.
        name: String,
        /// Whether it may change nothing.
        #[arg(long, value_name = "true|false")]
        read_only: Option<bool>,
        /// A domain that is its own. May be given several times; replaces the list.
        #[arg(long, value_name = "DOMAIN")]
        domain: Vec<String>,
        /// Read its new password from standard input; ends its sessions.
        #[arg(long)]
        password_stdin: bool,
        /// At which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Print a link that logs its first user in to the web interface as an account, once, within five minutes.
    #[command(
        name = "login-link",
        after_help = "Example:\n  callahead account login-link anna --web https://filter.example"
    )]
    LoginLink {
        /// The account's name.
        name: String,
        /// Where people find the web interface; without it only the path is printed.
        #[arg(long, value_name = "URL", value_parser = web_address)]
        web: Option<String>,
        /// Of which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Remove an account and its tokens. Exit status 1 where there is none.
    #[command(after_help = "Example:\n  callahead account remove anna")]
    Remove {
        /// Its name.
        name: String,
        /// From which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
}

/// Where a link can lead.
fn web_address(text: &str) -> Result<String, String> {
    let uri = text.parse::<Uri>().ok().filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
    match uri.filter(|uri| uri.query().is_none()) {
        Some(_) => Ok(text.to_owned()),
        None => Err("a link needs the whole address: write https://HOST, or http://HOST:PORT".to_owned()),
    }
}

fn path(name: &str) -> String {
    format!("/api/v1/accounts/{}", encoded(name))
}

/// Does it.
///
/// # Errors
/// When the daemon can't be reached or refuses.
pub async fn run(command: AccountCommand) -> anyhow::Result<u8> {
    match command {
        AccountCommand::List { limit, socket } => {
            let client = AdminClient::new(&socket)?;
            let listed = pages(&client, "/api/v1/accounts", "accounts", &[], limit).await?;
            let row = |account: &Value| {
                let domains: Vec<&str> =
                    account["domains"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let may = if account["read_only"] == true { "look" } else { "change" };
                vec![
                    field(account, "name"),
                    field(account, "role"),
                    may.into(),
                    field(account, "owner"),
                    domains.join(" "),
                ]
            };
            listed.print(socket.json, &["ACCOUNT", "ROLE", "MAY", "OWNER", "DOMAINS"], row);
            Ok(DONE)
        }
        AccountCommand::LoginLink { name, web, socket } => {
            let client = AdminClient::new(&socket)?;
            let Some(link) = client.ask(Method::POST, &format!("{}/login-link", path(&name)), &[]).await? else {
                return Ok(none(&name));
            };
            if socket.json {
                output::print(&format!("{link}\n"));
            } else {
                let web = web.unwrap_or_default();
                output::print(&format!("{}{}\n", web.trim_end_matches('/'), field(&link, "path")));
            }
            Ok(DONE)
        }
        AccountCommand::Show { name, socket } => {
            let client = AdminClient::new(&socket)?;
            let Some(account) = client.ask(Method::GET, &path(&name), &[]).await? else { return Ok(none(&name)) };
            print(&account, socket.json);
            Ok(DONE)
        }
        AccountCommand::Add { name, role, read_only, owner, domain, password_stdin, socket } => {
            let role = match role {
                RoleArg::Admin => "admin",
                RoleArg::Reseller => "reseller",
                RoleArg::Domain => "domain",
            };
            let mut body = json!({"name": name, "role": role, "read_only": read_only, "domains": domain});
            if let Some(owner) = owner {
                body["owner"] = json!(owner);
            }
            if password_stdin {
                body["password"] = json!(password()?);
            }
            let client = AdminClient::new(&socket)?;
            let added = client.make("/api/v1/accounts", &body, "name").await?;
            let hint = format!("{name} is there; \"callahead token create --account {name}\" makes a token for it");
            done(Some(&added), socket.json, &hint);
            Ok(DONE)
        }
        AccountCommand::Set { name, read_only, domain, password_stdin, socket } => {
            let mut body = Map::new();
            if let Some(read_only) = read_only {
                body.insert("read_only".into(), json!(read_only));
            }
            if !domain.is_empty() {
                body.insert("domains".into(), json!(domain));
            }
            if password_stdin {
                body.insert("password".into(), json!(password()?));
            }
            if body.is_empty() {
                bail!("nothing is to be changed: give --read-only, --domain or --password-stdin");
            }
            let client = AdminClient::new(&socket)?;
            let changed = client.send(Method::PATCH, &path(&name), &[], Some(&Value::Object(body))).await?;
            let Some(changed) = changed else { return Ok(none(&name)) };
            done(Some(&changed), socket.json, &format!("{name} is changed"));
            Ok(DONE)
        }
        AccountCommand::Remove { name, socket } => {
            let client = AdminClient::new(&socket)?;
            if client.ask(Method::GET, &path(&name), &[]).await?.is_none() {
                return Ok(none(&name));
            }
            client.ask(Method::DELETE, &path(&name), &[]).await?;
            done(None, socket.json, &format!("{name} is removed, and its tokens with it"));
            Ok(DONE)
        }
    }
}

fn none(name: &str) -> u8 {
    output::remark(&format!("there is no account {}", output::printable(name)));
    NO
}

/// One line of standard input.
fn password() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().take(4096).read_to_string(&mut text).context("the password can't be read from standard input")?;
    let password = text.lines().next().unwrap_or_default();
    if password.is_empty() {
        bail!("standard input has no password in its first line");
    }
    Ok(password.to_owned())
}
