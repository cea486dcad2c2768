//! `callahead log`: what a running daemon has decided.

use anyhow::Context as _;
use callahead_config::parse_duration;
use serde_json::Value;

use crate::admin_client::{AdminClient, pages};
use crate::cache_command::field;
use crate::cli::{DONE, NO, SocketArgs};
use crate::output;

/// What `log` takes.
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// Recipients of this domain.
    #[arg(long)]
    pub domain: Option<String>,
    /// This recipient, or a part of it.
    #[arg(long, value_name = "TEXT")]
    pub recipient: Option<String>,
    /// A part of the sender.
    #[arg(long, value_name = "TEXT")]
    pub sender: Option<String>,
    /// The client's IP address.
    #[arg(long, value_name = "ADDRESS")]
    pub client: Option<String>,
    /// valid, invalid, unknown, not_ours, or none for what was no address.
    #[arg(long)]
    pub verdict: Option<String>,
    /// Decided then or later: a time as RFC 3339 has it, or so long ago, such as 1h.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Decided before then; likewise.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Decisions at most; an export with --csv has all, up to 1,000,000.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// Export as CSV.
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Of which daemon.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Does it.
///
/// # Errors
/// When the daemon can't be reached or refuses.
pub async fn run(args: LogArgs) -> anyhow::Result<u8> {
    let (since, until) = (moment(args.since.as_deref())?, moment(args.until.as_deref())?);
    let given = [
        ("domain", &args.domain),
        ("recipient", &args.recipient),
        ("sender", &args.sender),
        ("client", &args.client),
        ("verdict", &args.verdict),
        ("since", &since),
        ("until", &until),
    ];
    let mut query: Vec<(&str, &str)> =
        given.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    let client = AdminClient::new(&args.socket)?;
    if args.csv {
        query.push(("format", "csv"));
        let mut lines = 0;
        let print = |octets: &[u8]| {
            lines += octets.iter().filter(|octet| **octet == b'\n').count();
            output::print_octets(octets);
        };
        client.stream("/api/v1/log", &query, print).await?;
        // The first one has the columns' names.
        return Ok(if lines > 1 { DONE } else { NO });
    }
    let listed = pages(&client, "/api/v1/log", "rows", &query, args.limit).await?;
    if listed.entries.is_empty() {
        return Ok(NO);
    }
    let header = ["AT", "CLIENT", "SENDER", "RECIPIENT", "VERDICT", "ROW", "FROM", "ANSWER"];
    listed.print(args.socket.json, &header, row);
    Ok(DONE)
}

fn row(row: &Value) -> Vec<String> {
    let decision = &row["decision"];
    let answer = &decision["answer"];
    let said = [field(answer, "action"), field(answer, "code"), field(answer, "enhanced")].join(" ");
    vec![
        field(row, "at"),
        field(row, "client"),
        field(row, "sender"),
        field(decision, "recipient"),
        field(decision, "verdict"),
        field(decision, "row"),
        field(decision, "source"),
        said.trim().to_owned(),
    ]
}

/// A time as it is, or so long ago.
fn moment(text: Option<&str>) -> anyhow::Result<Option<String>> {
    let Some(text) = text else { return Ok(None) };
    if text.parse::<jiff::Timestamp>().is_ok() {
        return Ok(Some(text.to_owned()));
    }
    let ago = parse_duration(text).ok().and_then(|duration| jiff::Timestamp::now().checked_sub(duration).ok());
    let at = ago.with_context(|| {
        format!("{text:?} is no time: write it as 2026-11-25T08:00:00Z, or as a duration before now, such as \"1h\"")
    })?;
    Ok(Some(format!("{at:.3}")))
}
