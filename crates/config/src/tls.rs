//! `tls_certificate` and `tls_key` of the sections that have them.

use std::path::PathBuf;

use callahead_listeners::{TlsFiles, TlsFilesError, TlsServer};
use toml::de::DeValue;

use super::document::{Section, text};
use super::{Config, ConfigError};

impl Config {
    /// What the gateway shows at STARTTLS; `None` where it has no certificate.
    ///
    /// # Errors
    /// When the certificate or its key can't be used.
    pub fn gateway_tls(&self) -> Result<Option<TlsServer>, ConfigError> {
        load(self.gateway.tls.as_ref(), &[]).map_err(|wrong| sentences("gateway", &wrong))
    }

    /// What the http listener shows, with the protocols that its server speaks (ALPN, RFC 7301); `None` where it has no certificate.
    ///
    /// # Errors
    /// When the certificate or its key can't be used.
    pub fn http_tls(&self, protocols: &[&[u8]]) -> Result<Option<TlsServer>, ConfigError> {
        load(self.http.tls.as_ref(), protocols).map_err(|wrong| sentences("http", &wrong))
    }
}

/// Which key names what can't be used, and why it can't.
type Wrong = Vec<(&'static str, String)>;

fn sentences(section: &str, wrong: &Wrong) -> ConfigError {
    ConfigError(wrong.iter().map(|(key, why)| format!("{section}.{key}: {why}")).collect())
}

/// Reads both, of which neither is of use without the other.
pub(super) fn read(section: &mut Section<'_, '_>, files: &mut Option<TlsFiles>) {
    let path = |value: &DeValue<'_>| {
        let path = PathBuf::from(text(value)?);
        if path.is_absolute() { Ok(Some(path)) } else { Err("must be an absolute path".to_owned()) }
    };
    let (mut certificate, mut key) = (None, None);
    section.set("tls_certificate", &mut certificate, path);
    section.set("tls_key", &mut key, path);
    section.both_or_none("tls_certificate", "tls_key");
    *files = certificate.zip(key).map(|(certificate, key)| TlsFiles { certificate, key });
}

/// Whether what both name can be used.
pub(super) fn check(section: &Section<'_, '_>, files: Option<&TlsFiles>) {
    for (key, why) in load(files, &[]).err().unwrap_or_default() {
        section.wrong(key, section.place_of(key).unwrap_or_default(), &why);
    }
}

fn load(files: Option<&TlsFiles>, protocols: &[&[u8]]) -> Result<Option<TlsServer>, Wrong> {
    let Some(files) = files else { return Ok(None) };
    // What is not there, or not for this user, is told apart from what is no PEM.
    let both = [("tls_certificate", &files.certificate), ("tls_key", &files.key)];
    let unreadable = both.into_iter().filter_map(|(key, file)| {
        let error = std::fs::File::open(file).err()?;
        Some((key, format!("{} can't be read: {error}", file.display())))
    });
    let unreadable: Wrong = unreadable.collect();
    if !unreadable.is_empty() {
        return Err(unreadable);
    }
    TlsServer::load(files.clone(), protocols).map(Some).map_err(|why| {
        let key = if matches!(why, TlsFilesError::Key { .. }) { "tls_key" } else { "tls_certificate" };
        vec![(key, why.to_string())]
    })
}
