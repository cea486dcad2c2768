//! Whether the process can serve, and how the last reload of its configuration went.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// What `/readyz` tells, besides what it finds out itself. Not ready until [`Readiness::set_started`].
#[derive(Debug)]
pub struct Readiness {
    began: SystemTime,
    started: AtomicBool,
    draining: AtomicBool,
    /// Seconds since 1970, or 0 before the first.
    reloaded_at: AtomicU64,
    reload_error: Mutex<Option<String>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            began: SystemTime::now(),
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            reloaded_at: AtomicU64::new(0),
            reload_error: Mutex::default(),
        }
    }
}

impl Readiness {
    /// All listeners are up.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// The process is stopping: whoever balances load should send nothing more.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// The configuration was read again: well, or with this error, and then nothing was changed.
    pub fn set_reloaded(&self, error: Option<String>) {
        self.reloaded_at.store(seconds(SystemTime::now()), Ordering::Relaxed);
        *self.reload_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// The last reload's error; `None` where it went well, or where there was none.
    pub fn reload_error(&self) -> Option<String> {
        self.reload_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn reloaded_at(&self) -> u64 {
        self.reloaded_at.load(Ordering::Relaxed)
    }

    pub(crate) fn began_at(&self) -> u64 {
        seconds(self.began)
    }

    /// Why it is not ready; empty where it is.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.started.load(Ordering::Acquire) {
            reasons.push("not all listeners are up yet".to_owned());
        }
        if self.draining.load(Ordering::Acquire) {
            reasons.push("the process is stopping".to_owned());
        }
        reasons
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
