//! Passwords: argon2id (RFC 9106), never on a thread of the runtime, and never many at a time.

use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use tokio::sync::Semaphore;

/// Hashes at the same time: each takes 19 MiB and some 30 ms of a processor.
const AT_A_TIME: usize = 2;
/// The shortest password, in characters (NIST SP 800-63B 3.1.1.2 for a password that stands alone).
const SHORTEST: usize = 15;
/// The longest password, in octets.
const LONGEST: usize = 1024;

/// Makes and checks the hashes of passwords. Clones share the bound.
#[derive(Clone, Debug)]
pub struct Passwords {
    room: Arc<Semaphore>,
    /// Checked in place of a password that does not exist, so that both take as long.
    nobody: Arc<str>,
}

/// Why a password is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too short.
    #[error("the password is too short: take at least {SHORTEST} characters")]
    TooShort,
    /// Too long.
    #[error("the password is too long: take at most {LONGEST} octets")]
    TooLong,
    /// Argon2 failed, for want of memory.
    #[error("the password can't be hashed: {0}")]
    Failed(String),
}

impl Passwords {
    /// With the parameters of RFC 9106's second choice, as OWASP has them: 19 MiB, 2 passes, 1 lane.
    ///
    /// # Errors
    /// When there is no memory for one hash.
    pub fn new() -> Result<Self, PasswordError> {
        let nobody = hash(b"a password that nobody has")?;
        Ok(Self { room: Arc::new(Semaphore::new(AT_A_TIME)), nobody: nobody.into() })
    }

    /// The hash to keep, a PHC string with its own random salt.
    ///
    /// # Errors
    /// When it is too short or too long.
    pub async fn hash(&self, password: &str) -> Result<String, PasswordError> {
        if password.chars().count() < SHORTEST {
            return Err(PasswordError::TooShort);
        }
        if password.len() > LONGEST {
            return Err(PasswordError::TooLong);
        }
        let password = password.as_bytes().to_vec();
        self.run(move || hash(&password)).await
    }

    /// Whether a password is the one that is kept; without one to compare with it takes as long and says no.
    pub async fn is_right(&self, password: &str, kept: Option<&str>) -> bool {
        if password.len() > LONGEST {
            return false;
        }
        let exists = kept.is_some();
        let kept = kept.unwrap_or(&self.nobody).to_owned();
        let password = password.as_bytes().to_vec();
        let checked = self.run(move || {
            let kept = PasswordHash::new(&kept).map_err(|error| PasswordError::Failed(error.to_string()))?;
            Ok(Argon2::default().verify_password(&password, &kept).is_ok())
        });
        checked.await.unwrap_or(false) && exists
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let room = Arc::clone(&self.room);
        let place = room.acquire_owned().await.map_err(|error| PasswordError::Failed(error.to_string()))?;
        let work = move || {
            // Here, and not with who waits: the work goes on when they have gone, and so its place is taken.
            let _place = place;
            work()
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => Err(PasswordError::Failed(error.to_string())),
        }
    }
}

fn hash(password: &[u8]) -> Result<String, PasswordError> {
    match Argon2::default().hash_password(password) {
        Ok(hash) => Ok(hash.to_string()),
        Err(error) => Err(PasswordError::Failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_more_still_takes_its_place() {
        let passwords = Passwords::new().unwrap();
        let mut ends = Vec::new();
        for _ in 0..AT_A_TIME {
            let (end, ended) = mpsc::channel::<u8>();
            let mut work = Box::pin(passwords.run(move || Ok(ended.recv())));
            assert!(poll_fn(|context| Poll::Ready(work.as_mut().poll(context).is_pending())).await);
            // As hyper does with a request's handler when the client has closed.
            drop(work);
            ends.push(end);
        }
        let mut next = pin!(passwords.run(|| Ok(())));
        assert!(poll_fn(|context| Poll::Ready(next.as_mut().poll(context).is_pending())).await);
        assert_eq!(passwords.room.available_permits(), 0);
        ends.pop().unwrap().send(0).unwrap();
        next.await.unwrap();
        ends.pop().unwrap().send(0).unwrap();
    }
}
