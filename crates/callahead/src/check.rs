//! `callahead check`: a live callout, for people and programs.

use callahead_engine::{Listener, Question, Verdict};
use callahead_smtp::Recipient;

use crate::ask::Asker;
use crate::cli::{CheckArgs, DONE, NO, UNTOLD};
use crate::output::{self, Style};

/// Asks for each address in turn.
///
/// # Errors
/// When the configuration is wrong.
pub async fn run(args: CheckArgs) -> anyhow::Result<u8> {
    let domains = args.addresses.iter().filter_map(|address| {
        let recipient: Recipient = address.parse().ok()?;
        Some(recipient.domain().clone())
    });
    let asker = Asker::new(&args.ask, domains)?;
    let style = Style::stdout();
    let (mut no, mut untold) = (false, false);
    for address in &args.addresses {
        let question = Question { live: true, ..Question::new(address.as_bytes(), Listener::Cli) };
        let mut decision = asker.node.engine.decide(question).await;
        match decision.verdict {
            Some(Verdict::Valid) => {}
            Some(Verdict::Invalid) | None => no = true,
            Some(Verdict::Unknown | Verdict::NotOurs) => untold = true,
        }
        let transcript = decision.transcript.take().filter(|_| args.transcript);
        if args.json {
            decision.transcript = transcript;
            output::print(&format!("{}\n", serde_json::to_string(&decision)?));
            continue;
        }
        output::print(&output::decision(style, &decision));
        if let Some(transcript) = transcript {
            output::print(&output::transcript(style, &transcript));
        }
    }
    asker.node.shutdown(std::time::Duration::ZERO).await;
    Ok(if untold {
        UNTOLD
    } else if no {
        NO
    } else {
        DONE
    })
}
