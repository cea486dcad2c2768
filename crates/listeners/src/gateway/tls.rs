//! TLS towards clients: a certificate and its key from files, read again when they change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// A file can't be read, or has no such thing in it.
    #[error("{path}: {what} can't be read: {why}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What went wrong.
        why: String,
    },
    /// The certificate and the key do not go together, or are of a kind that is not supported.
    #[error("{path}: the certificate can't be used with its key: {why}", path = .path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        why: rustls::Error,
    },
}

/// A certificate in use. Clones share it.
#[derive(Clone)]
pub struct TlsServer {
    inner: Arc<Inner>,
}

struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    config: ArcSwap<ServerConfig>,
    /// How the files looked when they were read last, with or without success.
    seen: Mutex<Stamps>,
}

/// When the files were changed, and how long they are.
type Stamps = [Option<(SystemTime, u64)>; 2];

impl TlsServer {
    /// Reads a certificate, with the ones that sign it behind it, and its private key, both PEM.
    ///
    /// # Errors
    /// What can't be read or used.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsFileError> {
        // Before they are read: a change in between is found the next time.
        let seen = Mutex::new(stamps(certificate, key));
        let config = ArcSwap::from_pointee(load(certificate, key)?);
        Ok(Self { inner: Arc::new(Inner { certificate: certificate.into(), key: key.into(), config, seen }) })
    }

    /// Reads the files again if they have changed since they were read last; whether they had. Files that can't be used are told of once.
    ///
    /// # Errors
    /// As [`load`](Self::load); what was in use stays in use then.
    pub fn refresh(&self) -> Result<bool, TlsFileError> {
        let inner = &self.inner;
        let now = stamps(&inner.certificate, &inner.key);
        let seen = std::mem::replace(&mut *inner.seen.lock().unwrap_or_else(PoisonError::into_inner), now);
        if seen == now {
            return Ok(false);
        }
        inner.config.store(Arc::new(load(&inner.certificate, &inner.key)?));
        Ok(true)
    }

    /// Where the certificate and the key are.
    pub fn files(&self) -> (&Path, &Path) {
        (&self.inner.certificate, &self.inner.key)
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.inner.config.load_full()
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").field("certificate", &self.inner.certificate).finish_non_exhaustive()
    }
}

fn stamps(certificate: &Path, key: &Path) -> Stamps {
    [certificate, key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn load(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsFileError> {
    let read = |path: &Path, what, why: String| TlsFileError::Read { path: path.into(), what, why };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| read(certificate, "the certificate", error.to_string()))?;
    if chain.is_empty() {
        return Err(read(certificate, "the certificate", "there is none in it".into()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| read(key, "the private key", error.to_string()))?;
    let unusable = |why| TlsFileError::Unusable { path: certificate.into(), why };
    ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unusable)
}
