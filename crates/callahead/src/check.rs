//! `callahead check`: a live callout, for people and programs.
//!
//! Domains that are not in the file may be in the daemon's control database: the daemon is asked for those, so that nobody is told what the
//! domain's public MX says, which usually is the filter itself.

use std::time::Duration;

use callahead_cache::StoredReply;
use callahead_callout::{Ask as _, Outcome, Request};
use callahead_engine::{Decision, Listener, Question, Source, Verdict};
use callahead_smtp::{About, AddressError, Recipient};
use hyper::Method;
use serde_json::Value;

use crate::admin_client::{AdminClient, Untold, encoded};
use crate::ask::Asker;
use crate::cli::{CheckArgs, DONE, NO, SocketArgs, UNTOLD, USAGE};
use crate::output::{self, Style};

/// The row by which `postmaster` is accepted without a question.
const POSTMASTER: u8 = 5;

/// Asks for each address in turn.
///
/// # Errors
/// When the configuration is wrong.
pub async fn run(args: CheckArgs) -> anyhow::Result<u8> {
    let recipients = args.addresses.iter().filter_map(|address| Recipient::parse_as_written(address.as_bytes()).ok());
    let asker = Asker::new(&args.ask, recipients.map(|recipient| recipient.domain().clone()))?;
    let style = Style::stdout();
    let (mut no, mut untold, mut refused) = (false, false, false);
    for address in &args.addresses {
        let parsed = Recipient::parse_as_written(address.as_bytes());
        let is_local_part = || format!("{address}@domain.invalid").parse::<Recipient>().is_ok();
        if parsed == Err(AddressError::NoDomain) && is_local_part() {
            output::error(&anyhow::anyhow!("{0} has no domain: write {0}@DOMAIN", output::printable(address)));
            refused = true;
            continue;
        }
        let recipient = parsed.ok();
        let asked = match recipient.as_ref().filter(|recipient| asker.is_elsewhere(recipient.domain())) {
            Some(elsewhere) => by_daemon(&args, elsewhere).await,
            None => Ok(serde_json::to_value(by_itself(&asker, address, recipient.as_ref()).await)?),
        };
        let mut decision = match asked {
            Ok(decision) => decision,
            Err(error) => {
                output::error(&error);
                *(if error.is::<Untold>() { &mut untold } else { &mut refused }) = true;
                continue;
            }
        };
        match decision["verdict"].as_str() {
            // All are accepted there, so this says nothing of this one.
            Some("valid") if decision["accept_all"] == true => untold = true,
            Some("valid") => {}
            Some("invalid") | None => no = true,
            Some(_) => untold = true,
        }
        let transcript = match decision.as_object_mut().and_then(|decision| decision.remove("transcript")) {
            Some(Value::Array(lines)) if args.transcript => Some(lines),
            _ => None,
        };
        if args.json {
            if let Some(lines) = transcript {
                decision["transcript"] = Value::Array(lines);
            }
            output::print(&format!("{decision}\n"));
            continue;
        }
        output::print(&output::decision(style, &decision));
        output::print(&output::transcript(style, &transcript.unwrap_or_default()));
    }
    asker.node.shutdown(Duration::ZERO).await;
    Ok(if refused {
        USAGE
    } else if untold {
        UNTOLD
    } else if no {
        NO
    } else {
        DONE
    })
}

/// Asks the destination in this process.
async fn by_itself(asker: &Asker, address: &str, recipient: Option<&Recipient>) -> Decision {
    let question = Question { live: true, ..Question::new(address.as_bytes(), Listener::Cli) };
    let mut decision = asker.node.engine.decide(question).await;
    if let Some(recipient) = recipient.filter(|_| decision.row == POSTMASTER)
        && let Some(domain) = asker.directory.find(recipient.domain())
    {
        let (recipient, route) = (recipient.clone(), domain.route.clone());
        let report = asker.node.callouts.ask(Request { recipient, route, probe: true, background: false }).await;
        let (verdict, said) = match &report.outcome {
            Outcome::Accepted(_) => (Verdict::Valid, "the destination accepts it"),
            Outcome::AcceptsAll(_) => (Verdict::Valid, "the destination accepts every local part"),
            Outcome::Rejected(reply) => match About::from(reply) {
                About::Protocol => {
                    (Verdict::Unknown, "the destination refuses what this node says, whoever the recipient is")
                }
                about if about.is_of_a_closed_mailbox() => {
                    (Verdict::Invalid, "the destination refuses it: the mailbox is full or disabled")
                }
                _ => (Verdict::Invalid, "the destination refuses it"),
            },
            Outcome::NullMx => (Verdict::Invalid, "the domain has a null MX"),
            _ => (Verdict::Unknown, "the destination can't be asked now"),
        };
        decision.verdict = Some(verdict);
        decision.accept_all = matches!(report.outcome, Outcome::AcceptsAll(_));
        decision.reason = format!("{}; asked all the same, {said}", decision.reason).into();
        decision.source = Source::Callout;
        decision.reply = report.outcome.reply().map(StoredReply::from);
        decision.destination = report.destination;
        decision.elapsed = report.elapsed;
        decision.transcript = Some(report.transcript);
    }
    decision
}

/// Has the running daemon ask the destination, for a domain that is not in the file.
async fn by_daemon(args: &CheckArgs, recipient: &Recipient) -> anyhow::Result<Value> {
    let (domain, file) = (recipient.domain(), args.ask.file().display());
    let way_out = "give --route HOST, or \"--route mx\" for its public MX";
    if args.ask.tls.is_some() {
        anyhow::bail!("{domain} is not in {file}, and --tls is for destinations that are: {way_out}");
    }
    let socket = SocketArgs { config: args.ask.config.clone(), ..SocketArgs::default() };
    let path = format!("/api/v1/recipients/{}/verdict", encoded(&recipient.to_string()));
    let answered = match AdminClient::new(&socket) {
        Ok(client) => client.ask(Method::GET, &path, &[("live", "true"), ("transcript", "true")]).await,
        Err(error) => Err(error),
    };
    let decision = match answered {
        Ok(Some(decision)) => decision,
        Ok(None) => anyhow::bail!("{domain} is not in {file}, and the daemon has no verdicts: {way_out}"),
        Err(error) => {
            let why = output::sentence(&error);
            let sentence = format!("{domain} is not in {file}, and no daemon can be asked for it ({why}): {way_out}");
            return Err(Untold::new(sentence).into());
        }
    };
    match (decision["verdict"].as_str(), decision["row"].as_u64()) {
        (Some("not_ours"), _) => {
            anyhow::bail!("{domain} is neither in {file} nor one of the daemon's domains: {way_out}")
        }
        (_, Some(row)) if row == u64::from(POSTMASTER) => {
            anyhow::bail!("the daemon accepts {recipient} without asking the destination: {way_out}")
        }
        _ => Ok(decision),
    }
}
