//! What is wrong with destinations now: alerts as the engine tells of them, until the destination shows otherwise. They are kept in a small file,
//! so that a restart forgets none: what is told of a destination is told again only when it is asked again.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use callahead_cache::Timestamp;
use callahead_engine::{Alert, AlertKind, Clock, Decision, Observer, Question, Source};
use serde::{Deserialize, Serialize};

/// Alerts that are kept; further ones push the oldest out.
const KEPT: usize = 2_000;
/// Octets of the file that are read at most.
const MAX_FILE: u64 = 16 << 20;
/// An alert that was not told again is forgotten after this.
const FOR: Duration = Duration::from_secs(24 * 3600);

/// Keeps alerts. Give it to the engine as part of its observer, and to the web interface.
pub struct AlertBoard {
    clock: Arc<dyn Clock>,
    alerts: Mutex<HashMap<(String, AlertKind), Standing>>,
    /// How many there are, so that decisions need no lock while all is well.
    count: AtomicUsize,
    file: Option<PathBuf>,
    /// The file is not as the alerts are.
    changed: AtomicBool,
}

/// An alert in the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    domain: String,
    kind: String,
    /// Milliseconds since 1970.
    since: u64,
    last: u64,
    detail: String,
}

#[derive(Clone, Debug)]
struct Standing {
    since: Timestamp,
    last: Timestamp,
    detail: String,
}

/// An alert that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) domain: String,
    pub(super) kind: AlertKind,
    pub(super) detail: String,
    pub(super) since: Timestamp,
    pub(super) last: Timestamp,
}

impl std::fmt::Debug for AlertBoard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlertBoard").field("alerts", &self.count).finish_non_exhaustive()
    }
}

impl AlertBoard {
    /// An empty one.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            alerts: Mutex::default(),
            count: AtomicUsize::new(0),
            file: None,
            changed: AtomicBool::new(false),
        }
    }

    /// With the alerts that stood when the file was written. A file that is missing, or damaged, is an empty one: alerts are told again.
    pub fn kept(clock: Arc<dyn Clock>, file: &Path) -> Self {
        let board = Self { file: Some(file.to_owned()), ..Self::new(clock) };
        let kept = match read(file) {
            Ok(kept) => kept,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "the alerts from before can't be read, and are told anew");
                Vec::new()
            }
        };
        let now = board.clock.now();
        let standing = kept.into_iter().filter_map(|kept| {
            let kind = AlertKind::ALL.into_iter().find(|kind| kind.as_str() == kept.kind)?;
            let (since, last) = (Timestamp(kept.since), Timestamp(kept.last));
            // What is from the future is from a clock that was wrong.
            let counts = last <= now && now.since(last) < FOR;
            counts.then_some(((kept.domain, kind), Standing { since, last, detail: kept.detail }))
        });
        let alerts: HashMap<_, _> = standing.take(KEPT).collect();
        board.count.store(alerts.len(), Ordering::Relaxed);
        *board.alerts.lock().unwrap_or_else(PoisonError::into_inner) = alerts;
        board
    }

    /// Writes them into the file, where they have changed since.
    ///
    /// # Errors
    /// When it can't be written; the one from before stays then.
    pub fn keep(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        if !self.changed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let kept: Vec<Kept> = {
            let alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
            // Whether a destination greylists is counted anew from a start on, and so it would not be found out that it is over.
            let lasting = alerts.iter().filter(|((_, kind), _)| *kind != AlertKind::Greylists);
            let each = lasting.map(|((domain, kind), standing)| Kept {
                domain: domain.clone(),
                kind: kind.as_str().to_owned(),
                since: standing.since.0,
                last: standing.last.0,
                detail: standing.detail.clone(),
            });
            each.collect()
        };
        let written = write(file, &kept);
        if written.is_err() {
            self.changed.store(true, Ordering::Release);
        }
        written
    }

    /// Those of domains that may be seen, if they were told of since the time from which on, the latest first.
    pub(super) fn standing(&self, seen_since: impl Fn(&str) -> Option<Timestamp>) -> Vec<Shown> {
        let now = self.clock.now();
        let alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shown: Vec<Shown> = alerts
            .iter()
            .filter(|(_, standing)| now.since(standing.last) < FOR)
            .filter_map(|((domain, kind), standing)| {
                let from = seen_since(domain).filter(|from| standing.last >= *from)?;
                Some(Shown {
                    domain: domain.clone(),
                    kind: *kind,
                    detail: standing.detail.clone(),
                    since: standing.since.max(from),
                    last: standing.last,
                })
            })
            .collect();
        shown.sort_by(|a, b| {
            let of_one_time = || (&a.domain, a.kind.as_str()).cmp(&(&b.domain, b.kind.as_str()));
            b.last.cmp(&a.last).then_with(of_one_time)
        });
        shown
    }
}

fn read(file: &Path) -> io::Result<Vec<Kept>> {
    let octets = fs::metadata(file)?.len();
    if octets > MAX_FILE {
        return Err(io::Error::other(format!("it has {octets} octets, and {MAX_FILE} are read at most")));
    }
    Ok(serde_json::from_slice(&fs::read(file)?)?)
}

/// Beside the old one first, so that a kill leaves one or the other.
fn write(file: &Path, kept: &[Kept]) -> io::Result<()> {
    let beside = file.with_extension("new");
    // Who left one behind may have made it for others to read.
    let _ = fs::remove_file(&beside);
    let mut new = fs::File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    new.write_all(&serde_json::to_vec(kept)?)?;
    new.sync_all()?;
    fs::rename(&beside, file)
}

impl Observer for AlertBoard {
    /// A callout that went well takes back what it disproves.
    fn decided(&self, _: &Question<'_>, decision: &Decision) {
        if self.count.load(Ordering::Relaxed) == 0 || decision.source != Source::Callout {
            return;
        }
        let disproved: &[AlertKind] = match decision.row {
            9 => &[AlertKind::Unreachable, AlertKind::RefusesNullSender],
            10 => {
                &[AlertKind::Unreachable, AlertKind::RefusesNullSender, AlertKind::AcceptAll, AlertKind::TalksOfFilter]
            }
            11 => &[AlertKind::Unreachable, AlertKind::RefusesNullSender, AlertKind::AcceptAll],
            12 | 13 => &[AlertKind::Unreachable],
            _ => return,
        };
        let Some((_, domain)) = decision.recipient.rsplit_once('@') else { return };
        let mut alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        for kind in disproved {
            if alerts.remove(&(domain.to_owned(), *kind)).is_some() {
                self.changed.store(true, Ordering::Release);
            }
        }
        self.count.store(alerts.len(), Ordering::Relaxed);
    }

    fn alert(&self, alert: &Alert) {
        let now = self.clock.now();
        let mut alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (alert.domain.clone(), alert.kind);
        if !alerts.contains_key(&key) && alerts.len() >= KEPT {
            alerts.retain(|_, standing| now.since(standing.last) < FOR);
            let oldest = alerts.iter().min_by_key(|(_, standing)| standing.last).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest.filter(|_| alerts.len() >= KEPT) {
                alerts.remove(&oldest);
            }
        }
        let standing = alerts.entry(key).or_insert(Standing { since: now, last: now, detail: String::new() });
        standing.last = now;
        standing.detail.clone_from(&alert.detail);
        self.count.store(alerts.len(), Ordering::Relaxed);
        self.changed.store(true, Ordering::Release);
    }

    fn alert_is_over(&self, domain: &str, kind: AlertKind) {
        let mut alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        alerts.remove(&(domain.to_owned(), kind));
        self.count.store(alerts.len(), Ordering::Relaxed);
        self.changed.store(true, Ordering::Release);
    }
}

/// What it is called, in what tone, and what to do about it.
pub(super) fn words(kind: AlertKind) -> (&'static str, &'static str, &'static str) {
    match kind {
        AlertKind::RefusesNullSender => (
            "refuses bounces",
            "wait",
            "The destination refuses MAIL FROM:<>, so its recipients can't be verified. Its administrator has to accept the null sender (RFC 5321 4.5.5).",
        ),
        AlertKind::TalksOfFilter => (
            "blocks us?",
            "bad",
            "The destination refused a recipient in words that talk of this filter. It may refuse everyone: have this server's address allowed there.",
        ),
        AlertKind::AcceptAll => (
            "accepts all",
            "info",
            "The destination accepts every local part, so recipients that do not exist can't be told there.",
        ),
        AlertKind::Unreachable => {
            ("unreachable", "bad", "No host of the route could be asked. Check the route, then test it.")
        }
        AlertKind::Greylists => (
            "greylists us",
            "wait",
            "The destination defers recipients as greylisting does, so mail for new ones is held up until it lets this server pass. Have this server's address exempted from greylisting there.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use callahead_engine::TestClock;
    use std::os::unix::fs::PermissionsExt as _;

    fn always(_: &str) -> Option<Timestamp> {
        Some(Timestamp(0))
    }

    fn board() -> (AlertBoard, Arc<TestClock>) {
        let clock = Arc::new(TestClock::at(Timestamp(1_800_000_000_000)));
        (AlertBoard::new(clock.clone()), clock)
    }

    fn alert(domain: &str, kind: AlertKind) -> Alert {
        Alert { domain: domain.into(), kind, detail: "words".into() }
    }

    #[test]
    fn an_alert_stands_for_a_day_after_it_was_told_last_and_only_for_those_who_may_see_it() {
        let (board, clock) = board();
        board.alert(&alert("a.example", AlertKind::Unreachable));
        board.alert(&alert("b.example", AlertKind::AcceptAll));
        assert_eq!(board.standing(always).len(), 2);
        assert_eq!(board.standing(|domain| always(domain).filter(|_| domain == "a.example")).len(), 1);
        clock.advance(FOR);
        assert_eq!(board.standing(always), []);
    }

    #[test]
    fn whoever_has_a_domain_since_later_sees_what_was_told_since_then() {
        let (board, clock) = board();
        board.alert(&alert("a.example", AlertKind::Unreachable));
        clock.advance(Duration::from_secs(60));
        let owned = clock.now();
        let seen = || board.standing(|_| Some(owned));
        assert_eq!(seen(), [], "in the words of somebody else's destination");
        clock.advance(Duration::from_secs(60));
        board.alert(&alert("a.example", AlertKind::Unreachable));
        assert_eq!(seen().iter().map(|shown| shown.since).collect::<Vec<_>>(), [owned]);
    }

    #[test]
    fn more_alerts_than_are_kept_push_the_oldest_out() {
        let (board, clock) = board();
        for n in 0..=KEPT {
            board.alert(&alert(&format!("d{n}.example"), AlertKind::Unreachable));
            clock.advance(Duration::from_millis(1));
        }
        let shown = board.standing(always);
        assert_eq!(shown.len(), KEPT);
        assert!(shown.iter().all(|shown| shown.domain != "d0.example"));
    }

    #[test]
    fn alerts_are_found_again_after_a_restart_while_they_stand_and_a_damaged_file_is_an_empty_one() {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let file = folder.path().join("alerts.json");
        let clock = Arc::new(TestClock::at(Timestamp(1_800_000_000_000)));
        let open = || AlertBoard::kept(clock.clone(), &file);
        let keep = |board: &AlertBoard| board.keep().unwrap_or_else(|error| panic!("{error}"));
        let board = open();
        keep(&board);
        assert!(!file.exists(), "nothing has changed");
        for kind in AlertKind::ALL {
            board.alert(&alert("a.example", kind));
        }
        clock.advance(FOR / 2);
        board.alert(&alert("b.example", AlertKind::AcceptAll));
        keep(&board);
        let mode = fs::metadata(&file).unwrap_or_else(|error| panic!("{error}")).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "it names domains, and has destinations' words");
        let mut lasting = board.standing(always);
        lasting.retain(|shown| shown.kind != AlertKind::Greylists);
        assert_eq!(lasting.len(), AlertKind::ALL.len());
        assert_eq!(open().standing(always), lasting);
        board.alert_is_over("a.example", AlertKind::Unreachable);
        keep(&board);
        assert_eq!(open().standing(always).len(), lasting.len() - 1);
        clock.advance(FOR / 2);
        assert_eq!(open().standing(always).len(), 1, "those of a day ago are no news");
        fs::write(&file, b"[{\"domain\":").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(open().standing(always), []);
    }
}
