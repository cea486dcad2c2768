//! `callahead token`: tokens for the API.

use anyhow::Context as _;
use callahead_config::parse_duration;
use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

use crate::admin_client::{AdminClient, encoded, pages};
use crate::cache_command::field;
use crate::cli::{DONE, NO, SocketArgs};
use crate::domain_command::done;
use crate::output;

/// What `token` can do.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// List tokens, without their secrets.
    #[command(after_help = "Example:\n  callahead token list")]
    List {
        /// Tokens at most.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Of which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Make a token and print it. It is shown this once.
    #[command(
        after_help = "Examples:\n  callahead token create --account root\n  callahead token create --account panel --scope clear --label \"cPanel hook\" \
                      --expires-in 365d"
    )]
    Create {
        /// Whose rights it has. With --server, one's own account where it is left out.
        #[arg(long)]
        account: Option<String>,
        /// What it is for.
        #[arg(long, default_value = "")]
        label: String,
        /// What it may be used for: read, check, clear, lists, domains, accounts, tokens, node, clear_all. May be given several times; without
        /// it, all that the account may do.
        #[arg(long)]
        scope: Vec<String>,
        /// For how long it works, such as 30d; without it, until it is removed.
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<String>,
        /// For which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Take a token back. It ends to work at once. Exit status 1 where there is none.
    #[command(after_help = "Example:\n  callahead token remove 3f2a6c0d9b1e4a77")]
    Remove {
        /// Its public id, as `list` shows it.
        id: String,
        /// From which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
}

/// Does it.
///
/// # Errors
/// When the daemon can't be reached or refuses.
pub async fn run(command: TokenCommand) -> anyhow::Result<u8> {
    match command {
        TokenCommand::List { limit, socket } => {
            let client = AdminClient::new(&socket)?;
            let listed = pages(&client, "/api/v1/tokens", "tokens", &[], limit).await?;
            let row = |token: &Value| {
                let scopes: Vec<&str> =
                    token["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let mut row = vec![field(token, "id"), field(token, "account"), scopes.join(",")];
                row.extend(["expires_at", "last_used_at", "last_used_from", "label"].map(|name| field(token, name)));
                row
            };
            let header = ["ID", "ACCOUNT", "SCOPES", "EXPIRES AT", "LAST USED AT", "FROM", "LABEL"];
            listed.print(socket.json, &header, row);
            Ok(DONE)
        }
        TokenCommand::Create { account, label, scope, expires_in, socket } => {
            let mut body = json!({"label": label});
            if let Some(account) = account {
                body["account"] = json!(account);
            }
            if !scope.is_empty() {
                body["scopes"] = json!(scope);
            }
            if let Some(text) = expires_in {
                let duration = parse_duration(&text).map_err(|why| anyhow::anyhow!("--expires-in: {why}"))?;
                let end = jiff::Timestamp::now().checked_add(duration).context("--expires-in: that is too long")?;
                body["expires_at"] = json!(format!("{end:.3}"));
            }
            let client = AdminClient::new(&socket)?;
            let made = client.make("/api/v1/tokens", &body, "token").await?;
            if socket.json {
                output::print(&format!("{made}\n"));
                return Ok(DONE);
            }
            // The secret alone on standard output, so that a script can take it.
            output::remark(&format!(
                "the token {} of {}; it is not shown again:",
                field(&made, "id"),
                field(&made, "account")
            ));
            output::print(&format!("{}\n", field(&made, "token")));
            Ok(DONE)
        }
        TokenCommand::Remove { id, socket } => {
            let client = AdminClient::new(&socket)?;
            let tokens = pages(&client, "/api/v1/tokens", "tokens", &[], u64::MAX).await?;
            if !tokens.entries.iter().any(|token| token["id"] == id.as_str()) {
                output::remark(&format!("there is no token {}", output::printable(&id)));
                return Ok(NO);
            }
            client.ask(Method::DELETE, &format!("/api/v1/tokens/{}", encoded(&id)), &[]).await?;
            done(None, socket.json, &format!("{id} is taken back"));
            Ok(DONE)
        }
    }
}
