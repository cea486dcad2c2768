//! Adding and changing a domain.

use std::collections::HashMap;

use askama::Template;
use axum::extract::{Form, Path};
use axum::http::StatusCode;
use callahead_control::{Permission, Role};
use serde_json::{Map, Value, json};

use super::frame::{Answer, Page, Refusal, Visitor, go, show_as};
use super::view::{encode, texts};

/// The policies in the order in which pages have them, by their keys in the configuration.
pub(super) const POLICIES: [(&str, &str); 14] = [
    ("callouts", "Callouts"),
    ("reject_code", "Refuse with"),
    ("tempfail", "Destination can't be asked"),
    ("accept_all", "Destination accepts all"),
    ("unverifiable", "Destination refuses bounces"),
    ("policy_rejects", "Refusals that talk of the filter"),
    ("pass_reply_text", "Senders see the destination's words"),
    ("local_part_case", "Upper and lower case"),
    ("valid_ttl", "Existing recipients are kept"),
    ("valid_refresh", "and asked for again after"),
    ("invalid_ttl", "Others are kept"),
    ("invalid_refresh", "and asked for again after"),
    ("log_days", "Decisions are logged for, in days"),
    ("log_recipients", "What is logged of recipients"),
];

/// What may be chosen: the key, and each value in words.
const CHOICES: [(&str, &[(&str, &str)]); 10] = [
    (
        "tls",
        &[
            ("off", "never encrypted"),
            ("opportunistic", "encrypted where offered"),
            ("required", "always encrypted"),
            ("verified", "always, with a verified certificate"),
        ],
    ),
    ("callouts", &[("enforce", "enforce"), ("observe", "observe: refuse nothing"), ("off", "off: accept everything")]),
    ("reject_code", &[("550", "550, for good"), ("450", "450, senders try again")]),
    ("tempfail", &[("defer", "defer"), ("accept", "accept")]),
    ("accept_all", &[("accept", "accept"), ("defer", "defer")]),
    ("unverifiable", &[("accept", "accept"), ("defer", "defer")]),
    ("policy_rejects", &[("reject", "refuse the recipient"), ("defer", "defer")]),
    ("pass_reply_text", &[("false", "no"), ("true", "yes")]),
    ("local_part_case", &[("keep", "two mailboxes"), ("fold", "one mailbox")]),
    ("log_recipients", &[("full", "the whole address"), ("domain", "the domain only")]),
];

const AGES: [(&str, &str); 5] = [
    ("valid_ttl", "1 min to 30 days, such as 96h"),
    ("valid_refresh", "in the background, such as 12h"),
    ("invalid_ttl", "at most 2h"),
    ("invalid_refresh", "in the background, such as 30m"),
    ("log_days", "at most the node's own; 0 logs nothing"),
];

/// The keys whose form fields are lists, one a line.
const LISTS: [&str; 4] = ["route", "relay", "valid", "invalid"];

#[derive(Template)]
#[template(path = "domain_form.html")]
struct DomainForm {
    page: Page,
    error: Option<String>,
    action: String,
    back: String,
    is_new: bool,
    may_route: bool,
    may_own: bool,
    owners: Vec<String>,
    f: Fields,
    choices: Vec<Choice>,
    ages: Vec<Age>,
}

#[derive(Default)]
struct Fields {
    name: String,
    revision: String,
    route: String,
    relay: String,
    owner: String,
    valid: String,
    invalid: String,
}

struct Choice {
    key: &'static str,
    label: &'static str,
    default: String,
    value: String,
    options: &'static [(&'static str, &'static str)],
}

struct Age {
    key: &'static str,
    label: &'static str,
    hint: &'static str,
    default: String,
    value: String,
}

type Given = HashMap<String, String>;

fn label(key: &str) -> &'static str {
    match key {
        "tls" => "TLS to the destination",
        _ => POLICIES.iter().find(|(known, _)| *known == key).map_or("", |(_, label)| label),
    }
}

/// A value of a domain's JSON in words.
pub(super) fn value_words(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "true".into(),
        Value::Bool(false) => "false".into(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let words = CHOICES.iter().flat_map(|(_, options)| *options).find(|(value, _)| *value == text);
    words.map_or(text, |(_, words)| (*words).to_owned())
}

impl DomainForm {
    fn new(visitor: &Visitor, given: &Given, name: Option<&str>) -> Self {
        let administration = &visitor.ui.state.administration;
        let (policy, tls) = administration.domains.defaults();
        let nowhere = callahead_engine::DomainConfig {
            policy,
            ..callahead_engine::DomainConfig::new("a.example", callahead_callout::Route { hops: Vec::new(), tls })
        };
        let defaults = crate::json::domain(&nowhere);
        let of = |key: &str| given.get(key).cloned().unwrap_or_default();
        let may_own = visitor.principal.is_admin();
        let owners = match may_own {
            true => {
                let local = administration.control.local();
                let resellers = local.accounts().values().filter(|account| account.value.role == Role::Reseller);
                resellers.map(|account| account.value.name.clone()).collect()
            }
            false => Vec::new(),
        };
        let (title, action, back) = match name {
            None => ("Add a domain".to_owned(), "/domain/new".to_owned(), "/domains".to_owned()),
            Some(name) => {
                let link = encode(name);
                (format!("Edit {name}"), format!("/domains/{link}/edit"), format!("/domains/{link}"))
            }
        };
        Self {
            page: visitor.page(&title, "/domains"),
            error: None,
            action,
            back,
            is_new: name.is_none(),
            may_route: visitor.may(Permission::Domains),
            may_own,
            owners,
            f: Fields {
                name: of("name"),
                revision: of("revision"),
                route: of("route"),
                relay: of("relay"),
                owner: of("owner"),
                valid: of("valid"),
                invalid: of("invalid"),
            },
            choices: CHOICES
                .iter()
                .map(|(key, options)| Choice {
                    key,
                    label: label(key),
                    default: value_words(&defaults[*key]),
                    value: of(key),
                    options,
                })
                .collect(),
            ages: AGES
                .iter()
                .map(|(key, hint)| Age {
                    key,
                    label: label(key),
                    hint,
                    default: value_words(&defaults[*key]),
                    value: of(key),
                })
                .collect(),
        }
    }

    fn show(self) -> Answer {
        let status = if self.error.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
        show_as(status, &self)
    }
}

pub(super) async fn new(visitor: Visitor) -> Answer {
    let given = Given::from([("route".to_owned(), "mx".to_owned()), ("callouts".to_owned(), "observe".to_owned())]);
    DomainForm::new(&visitor, &given, None).show()
}

pub(super) async fn create(visitor: Visitor, Form(given): Form<Given>) -> Answer {
    let mut body = body(&given);
    let name = given.get("name").map(|name| name.trim()).unwrap_or_default();
    body.insert("name".into(), json!(name));
    body.retain(|_, value| !value.is_null());
    match visitor.ui.api.post(&visitor, "/api/v1/domains", Some(&Value::Object(body))).await {
        Ok(made) => {
            let name = made["name"].as_str().unwrap_or(name);
            visitor.say("good", format!("{name} is added and in force. Test its route next."));
            Ok(go(&format!("/domains/{}", encode(name))))
        }
        Err(refused) => {
            let error = Some(refused.sentence);
            DomainForm { error, ..DomainForm::new(&visitor, &given, None) }.show()
        }
    }
}

pub(super) async fn edit(visitor: Visitor, Path(name): Path<String>) -> Answer {
    let shown = visitor.ui.api.get(&visitor, &format!("/api/v1/domains/{}", encode(&name))).await?;
    if shown["read_only"].as_bool() == Some(true) {
        let text = format!("{name} is written in the configuration file: change it there.");
        return Err(Refusal::says(StatusCode::CONFLICT, text));
    }
    let mut given = Given::from([("revision".to_owned(), shown["revision"].to_string())]);
    let own = texts(&shown, "own_keys");
    // As the domain says it, and not as it is in force: what is more than the node allows now would be cut for good by saving the form.
    let record = visitor
        .ui
        .state
        .administration
        .control
        .local()
        .domains()
        .get(shown["name"].as_str().unwrap_or_default())
        .cloned();
    let said = record.and_then(|record| serde_json::to_value(&record.value).ok()).unwrap_or_default();
    for (key, _) in CHOICES.iter().map(|(key, _)| (key, ())).chain(AGES.iter().map(|(key, _)| (key, ()))) {
        if own.iter().any(|own| own == key) {
            let text = match &said[*key] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            given.insert((*key).to_owned(), text);
        }
    }
    for key in LISTS {
        given.insert(key.to_owned(), texts(&shown, key).join("\n"));
    }
    given.insert("owner".into(), shown["owner"].as_str().unwrap_or_default().to_owned());
    DomainForm::new(&visitor, &given, Some(&name)).show()
}

pub(super) async fn change(visitor: Visitor, Path(name): Path<String>, Form(given): Form<Given>) -> Answer {
    let mut body = body(&given);
    if !visitor.may(Permission::Domains) {
        body.retain(|key, _| matches!(key.as_str(), "valid" | "invalid"));
    }
    if !visitor.principal.is_admin() {
        body.remove("owner");
    }
    let path = format!("/api/v1/domains/{}", encode(&name));
    let revision = given.get("revision").map(String::as_str);
    match visitor.ui.api.send(&visitor, "PATCH", &path, Some(&Value::Object(body)), revision).await {
        Ok(_) => {
            visitor.say("good", format!("{name} is changed, and the change is in force."));
            Ok(go(&format!("/domains/{}", encode(&name))))
        }
        Err(refused) => {
            let error = Some(refused.sentence);
            DomainForm { error, ..DomainForm::new(&visitor, &given, Some(&name)) }.show()
        }
    }
}

/// The form as a merge patch: an empty field goes back to the default.
fn body(given: &Given) -> Map<String, Value> {
    let mut body = Map::new();
    for key in LISTS {
        if let Some(text) = given.get(key) {
            let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            body.insert(key.to_owned(), json!(lines));
        }
    }
    let keys = CHOICES.iter().map(|(key, _)| *key).chain(AGES.iter().map(|(key, _)| *key)).chain(["owner"]);
    for key in keys {
        let Some(text) = given.get(key) else { continue };
        let value = match (key, text.trim()) {
            (_, "") => Value::Null,
            ("reject_code" | "log_days", text) => text.parse::<u64>().map_or_else(|_| json!(text), |code| json!(code)),
            ("pass_reply_text", text) => json!(text == "true"),
            (_, text) => json!(text),
        };
        body.insert(key.to_owned(), value);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_field_goes_back_to_the_default_and_lists_are_lines() {
        let given = [("route", "mx\r\n\r\n mail.example.net:2525 \r\n"), ("callouts", ""), ("reject_code", "450")];
        let given: Given = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let body = Value::Object(body(&given));
        assert_eq!(body, json!({"route": ["mx", "mail.example.net:2525"], "callouts": null, "reject_code": 450}));
    }
}
