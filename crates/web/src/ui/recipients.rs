//! Check a recipient: why is this address refused, and until when? The page that a domain owner lands on.

use askama::Template;
use axum::extract::{Path, Query};
use callahead_control::Permission;
use callahead_smtp::Recipient;
use serde::Deserialize;

use super::confirm::Confirm;
use super::domains::config_name;
use super::frame::{Answer, Page, Refusal, Visitor, go, show};
use super::log::latest;
use super::view::{DecisionView, EntryView, LogView, each, encode};

#[derive(Template)]
#[template(path = "recipients.html")]
struct RecipientPage {
    page: Page,
    address: String,
    decision: Option<DecisionView>,
    /// The address is one, and its domain is configured here.
    is_ours: bool,
    domain: Option<String>,
    may_clear: bool,
    entries: Vec<EntryView>,
    rows: Vec<LogView>,
    /// Where the log goes on, if it does.
    more: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Address {
    #[serde(default)]
    address: String,
}

/// The form; with an address, the page of that address.
pub(super) async fn begin(visitor: Visitor, Query(Address { address }): Query<Address>) -> Answer {
    let address = address.trim();
    if !address.is_empty() {
        return Ok(go(&format!("/recipients/{}", encode(address))));
    }
    show(&RecipientPage {
        page: visitor.page("Check a recipient", "/recipients"),
        address: String::new(),
        decision: None,
        is_ours: false,
        domain: None,
        may_clear: false,
        entries: Vec::new(),
        rows: Vec::new(),
        more: None,
    })
}

/// What is known without asking anybody.
pub(super) async fn kept(visitor: Visitor, Path(address): Path<String>) -> Answer {
    let decision = visitor.ui.state.engine.explain(address.as_bytes());
    let decision = decision.map(|decision| DecisionView::of(&serde_json::to_value(&decision).unwrap_or_default()));
    page(&visitor, address, decision).await
}

/// Asks the destination, whatever is kept, and shows the dialogue.
pub(super) async fn ask(visitor: Visitor, Path(address): Path<String>) -> Answer {
    let path = format!("/api/v1/recipients/{}/verdict?live=true&transcript=true", encode(&address));
    let verdict = visitor.ui.api.get(&visitor, &path).await?;
    // So that what is shown as kept below is what was just learned.
    visitor.ui.state.engine.cache().flush().await?;
    page(&visitor, address, Some(DecisionView::of(&verdict))).await
}

async fn page(visitor: &Visitor, address: String, decision: Option<DecisionView>) -> Answer {
    let recipient = Recipient::parse_as_written(address.as_bytes()).ok();
    let domain = recipient.as_ref().and_then(|recipient| config_name(visitor, recipient.domain()));
    let entries = match &domain {
        Some(_) => {
            let kept = visitor.ui.api.get(visitor, &format!("/api/v1/cache/{}", encode(&address))).await;
            // Nothing is kept: 404.
            kept.map(|kept| each(&kept, "entries", EntryView::of)).unwrap_or_default()
        }
        None => Vec::new(),
    };
    let (rows, more) = match &recipient {
        Some(recipient) => {
            let whole = recipient.to_string();
            let (mut rows, more) = latest(visitor, ("recipient", &whole)).await?;
            if domain.is_none() {
                // It was looked for as a part: what is not configured here may be written to its end or not.
                rows.retain(|row| row.decision.recipient == whole);
            }
            (rows, more)
        }
        None => (Vec::new(), None),
    };
    show(&RecipientPage {
        page: visitor.page("Check a recipient", "/recipients"),
        may_clear: visitor.may(Permission::Clear),
        is_ours: domain.is_some(),
        address,
        decision,
        domain,
        entries,
        rows,
        more,
    })
}

pub(super) async fn confirm_clear(visitor: Visitor, Path(address): Path<String>) -> Answer {
    parsed(&address)?;
    Confirm::new(&visitor, "/recipients", format!("Clear {address} from the cache?"))
        .sentence("What is kept of this recipient is forgotten. The next question about it asks the destination.")
        .button("Clear from the cache")
        .paths(format!("/recipients/{}/clear", encode(&address)), format!("/recipients/{}", encode(&address)))
        .show()
}

pub(super) async fn clear(visitor: Visitor, Path(address): Path<String>) -> Answer {
    parsed(&address)?;
    let done = visitor.ui.api.delete(&visitor, &format!("/api/v1/cache/{}", encode(&address))).await?;
    match done["entries"].as_u64() {
        Some(0) => visitor.say(
            "good",
            format!("{address} is cleared: nothing learned before is used any more. It had no entry of its own."),
        ),
        _ => visitor.say("good", format!("{address} is cleared: nothing learned before is used any more.")),
    }
    Ok(go(&format!("/recipients/{}", encode(&address))))
}

fn parsed(address: &str) -> Result<(), Refusal> {
    match Recipient::parse_as_written(address.as_bytes()) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(Refusal::says(axum::http::StatusCode::BAD_REQUEST, format!("{address:?} is no address: {error}.")))
        }
    }
}
