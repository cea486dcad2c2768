//! What is wrong with this node itself: its stores, its listeners, its configuration.

use crate::State;

/// Domains that can't be used of which the names are told.
const UNUSABLE_SHOWN: usize = 20;

/// A part of the node that has something to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Which part.
    pub(crate) part: Part,
    /// What is wrong: a sentence without its full stop.
    pub(crate) what: String,
    /// Why, where that is for those alone who may see the node: the configuration's own words.
    pub(crate) why: Option<String>,
    /// What follows from it, and what to do.
    pub(crate) advice: &'static str,
    /// It is so now, and not only known to have been.
    pub(crate) is_bad: bool,
    /// Whoever balances load should send nothing here.
    pub(crate) is_unready: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Cache,
    Log,
    Control,
    Process,
}

impl Trouble {
    /// What is wrong and why, for those who may see the node.
    pub(crate) fn whole(&self) -> String {
        match &self.why {
            Some(why) => format!("{}: {why}", self.what),
            None => self.what.clone(),
        }
    }
}

/// All of it, the worst first; empty where all is well.
pub(crate) fn troubles(state: &State) -> Vec<Trouble> {
    let mut all: Vec<Trouble> = state
        .readiness
        .reasons()
        .into_iter()
        .map(|what| Trouble { part: Part::Process, what, why: None, advice: "", is_bad: true, is_unready: true })
        .collect();
    let cache = state.engine.cache();
    let health = cache.health();
    let unwritable = health.write_error.map(|error| format!("the cache can't be written: {error}"));
    let unreadable = cache.stats(None).err().map(|error| error.to_string());
    let advice = "Answers go on from callouts, and what they bring is not kept. Look at the disk.";
    let whats = [unwritable, health.read_error, unreadable].into_iter().flatten();
    all.extend(whats.map(|what| Trouble {
        part: Part::Cache,
        what,
        why: None,
        advice,
        is_bad: true,
        is_unready: true,
    }));
    let trouble = |part, what, advice, is_bad| Trouble { part, what, why: None, advice, is_bad, is_unready: false };
    if let Some(error) = state.administration.control.write_error() {
        let advice = "Nothing can be changed in the web interface or through the API. Look at the disk.";
        all.push(trouble(Part::Control, format!("the control database can't be written: {error}"), advice, true));
    }
    let unusable = state.administration.domains.unusable();
    if !unusable.is_empty() {
        let advice = "Recipients there are deferred. Start the version of Callahead that wrote them again, or replace or delete them through the API.";
        let what = match unusable.len() {
            1 => "a domain of the control database can't be used".to_owned(),
            many => format!("{many} domains of the control database can't be used"),
        };
        let shown = unusable.iter().take(UNUSABLE_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = unusable.len().saturating_sub(UNUSABLE_SHOWN);
        let why = if more == 0 { shown } else { format!("{shown} and {more} more, which the log names") };
        all.push(Trouble { why: Some(why), ..trouble(Part::Control, what, advice, true) });
    }
    let log = state.administration.log.counters();
    if let Some(error) = log.write_error {
        let advice = "Decisions go on and are not logged. Look at the disk.";
        let what = format!("the decision log can't be written, and {} decisions were not logged: {error}", log.lost);
        all.push(trouble(Part::Log, what, advice, true));
    }
    if let Some(error) = state.readiness.reload_error() {
        let advice = "The configuration from before stays in force. Mend the file, then reload it.";
        let what = "the configuration can't be read again".to_owned();
        all.push(Trouble { why: Some(error), ..trouble(Part::Process, what, advice, true) });
    }
    if state.administration.domains.is_unsettled() {
        let what = "what the cache holds of domains that lead elsewhere now is not cleared yet".to_owned();
        all.push(trouble(Part::Cache, what, "It is tried every minute; the log says why.", true));
    }
    if log.lost > 0 {
        let what = format!("{} decisions were not logged since the start", log.lost);
        all.push(trouble(
            Part::Log,
            what,
            "They came faster than log.rate lets them be written, or the disk was full or slow.",
            false,
        ));
    }
    if log.begun_anew {
        let advice = "It lies beside the new one as log.db.damaged; the log began anew.";
        all.push(trouble(Part::Log, "the decision log's file was damaged".to_owned(), advice, false));
    }
    if health.damaged {
        let advice = "Answers go on, but what is wrong with it may end the process. The next start moves it aside and begins with an \
                      empty cache.";
        all.push(trouble(Part::Cache, "the cache file is damaged".to_owned(), advice, true));
    }
    if cache.opened().replaced {
        let advice = "It lies beside the new one as data.mdb.damaged; the cache began empty.";
        all.push(trouble(Part::Cache, "the cache file was damaged at the start".to_owned(), advice, false));
    }
    all.sort_by_key(|trouble| !trouble.is_bad);
    all
}
