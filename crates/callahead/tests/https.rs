//! TLS on the http listener of the real program.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use common::{Daemon, configure, program, run};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Writes a new certificate for `filter.example` and 127.0.0.1, and its key.
fn renew(folder: &Path) -> CertificateDer<'static> {
    let names = vec!["filter.example".to_owned(), "127.0.0.1".to_owned()];
    let issued = rcgen::generate_simple_self_signed(names).unwrap();
    std::fs::write(folder.join("cert.pem"), issued.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), issued.signing_key.serialize_pem()).unwrap();
    issued.cert.der().clone()
}

/// Asks over TLS, trusting this certificate only; the error of the handshake where it is another one's.
async fn ask(at: SocketAddr, trusted: &CertificateDer<'static>, request: &str) -> Result<String, std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connector = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    let name = ServerName::try_from("filter.example").unwrap();
    let mut stream = connector.connect(name, TcpStream::connect(at).await?).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // The other side may end without a close_notify, which is an error here and does not matter.
    let _ = stream.read_to_end(&mut answer).await;
    Ok(String::from_utf8(answer).unwrap())
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: filter.example\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn the_pages_come_over_tls_and_a_renewed_certificate_is_taken_over_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = renew(folder.path());
    let place = folder.path().display();
    let tls = format!("[http]\ntls_certificate = \"{place}/cert.pem\"\ntls_key = \"{place}/key.pem\"\n");
    let config = configure(&folder, &tls);
    let mut daemon = Daemon::start(&config);
    let told = daemon.until("there is no account yet")["message"].to_string();
    assert!(told.contains("open https://"), "{told}");
    assert!(ask(daemon.http, &first, HEALTH).await.unwrap().starts_with("HTTP/1.1 200"));

    // The cookie is bound to the host, because the listener itself knows that it is TLS.
    let key = told.split("/setup?key=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let form = format!("key={key}&account=admin&password=correct+horse+battery&again=correct+horse+battery");
    let request = format!(
        "POST /setup HTTP/1.1\r\nHost: filter.example\r\nOrigin: https://filter.example\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    let answer = ask(daemon.http, &first, &request).await.unwrap();
    assert!(answer.contains("set-cookie: __Host-callahead=callahead_") && answer.contains("; Secure"), "{answer}");

    let second = renew(folder.path());
    daemon.signal("HUP");
    daemon.until("the configuration was read again");
    assert!(ask(daemon.http, &second, HEALTH).await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(ask(daemon.http, &first, HEALTH).await.is_err(), "the old certificate is shown no more");

    std::fs::write(folder.path().join("key.pem"), "no key").unwrap();
    daemon.signal("HUP");
    daemon.until("nothing was changed");
    assert!(ask(daemon.http, &second, HEALTH).await.unwrap().starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_over_by_itself_and_other_files_and_proxies_with_a_reload() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = renew(folder.path());
    let http = |place: &Path, more: &str| {
        let place = place.display();
        format!("[http]\ntls_certificate = \"{place}/cert.pem\"\ntls_key = \"{place}/key.pem\"\n{more}")
    };
    let config = configure(&folder, &http(folder.path(), ""));
    let mut daemon = Daemon::start(&config);
    assert!(ask(daemon.http, &first, HEALTH).await.unwrap().starts_with("HTTP/1.1 200"));
    let second = renew(folder.path());
    assert_eq!(daemon.until("the certificate was read again")["listener"], "http");
    assert!(ask(daemon.http, &second, HEALTH).await.unwrap().starts_with("HTTP/1.1 200"));

    assert_eq!(daemon.command(&["account", "add", "root", "--role", "admin"]).0, 0);
    let (_, token, _) = daemon.command(&["token", "create", "--account", "root"]);
    let request = format!(
        "GET /api/v1/tokens HTTP/1.1\r\nHost: filter.example\r\nConnection: close\r\nX-Forwarded-For: 203.0.113.9\r\n\
         Authorization: Bearer {}\r\n\r\n",
        token.trim()
    );
    assert!(!ask(daemon.http, &second, &request).await.unwrap().contains("203.0.113.9"));
    let third = renew(other.path());
    configure(&folder, &http(other.path(), "trusted_proxies = [\"127.0.0.1\"]\n"));
    daemon.signal("HUP");
    daemon.until("the configuration was read again");
    assert!(ask(daemon.http, &third, &request).await.unwrap().contains("\"last_used_from\":\"203.0.113.9"));

    // Files that can't be used are a mistake of the configuration, of which nothing is put into force.
    configure(&folder, &http(Path::new("/nowhere"), ""));
    daemon.signal("HUP");
    daemon.until("http.tls_certificate: /nowhere/cert.pem can't be read");
    daemon.until("nothing was changed");
    assert!(ask(daemon.http, &third, &request).await.unwrap().contains("\"last_used_from\":\"203.0.113.9"));
    configure(&folder, "");
    daemon.signal("HUP");
    assert_eq!(daemon.until("takes effect at the next start")["key"], "http.tls_certificate");
}

#[test]
fn commands_reach_a_daemon_over_tls_by_the_authority_that_they_are_given_and_by_no_other() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    renew(folder.path());
    renew(other.path());
    let place = folder.path().display();
    let tls = format!("[http]\ntls_certificate = \"{place}/cert.pem\"\ntls_key = \"{place}/key.pem\"\n");
    let daemon = Daemon::start(&configure(&folder, &tls));
    assert_eq!(daemon.command(&["account", "add", "root", "--role", "admin"]).0, 0);
    let (_, token, _) = daemon.command(&["token", "create", "--account", "root"]);
    let server = format!("https://{}", daemon.http);
    let list = |server: &str, more: &[&str]| {
        run(&[&["account", "list", "--json", "--server", server, "--token", token.trim()], more].concat())
    };
    let file = |folder: &tempfile::TempDir, name: &str| folder.path().join(name).to_str().unwrap().to_owned();

    let (code, said, error) = list(&server, &["--ca", &file(&folder, "cert.pem")]);
    assert!(code == 0 && said.contains("\"root\""), "{said}{error}");
    for more in [&[][..], &["--ca", &file(&other, "cert.pem")]] {
        let (code, said, error) = list(&server, more);
        assert!(code == 3 && said.is_empty() && error.contains("no TLS session with https://127.0.0.1"), "{error}");
        assert!(error.contains("--ca names its authority") && error.trim_end().lines().count() == 1, "{error}");
    }
    let plain = format!("http://{}", daemon.http);
    let (code, _, error) = list(&plain, &[]);
    assert!(code == 3 && error.contains("gave no answer"), "{error}");
    for (server, ca, words) in [
        (&server, "/nowhere/ca.pem", "--ca /nowhere/ca.pem can't be read"),
        (&server, &*file(&folder, "key.pem"), "has no certificate in it"),
        (&plain, &*file(&folder, "cert.pem"), "--ca is for https:// servers"),
    ] {
        let (code, _, error) = list(server, &["--ca", ca]);
        assert!(code == 2 && error.contains(words), "{code} {error}");
    }
}

#[test]
fn a_certificate_that_is_not_there_is_an_error_of_the_check_and_at_the_start_that_names_key_and_file() {
    let folder = tempfile::tempdir().unwrap();
    for section in ["http", "gateway"] {
        let tls = format!("[{section}]\ntls_certificate = \"/nowhere/cert.pem\"\ntls_key = \"/nowhere/key.pem\"\n");
        let config = configure(&folder, &tls);
        let written = std::fs::read_to_string(&config).unwrap();
        let line = written[..written.find(&tls).unwrap()].lines().count() + 1;
        for command in [&["serve"][..], &["config", "check"]] {
            let output = program().args(command).arg("--config").arg(&config).output().unwrap();
            assert!(!output.status.success());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            for (key, file) in [("tls_certificate", "/nowhere/cert.pem"), ("tls_key", "/nowhere/key.pem")] {
                let told = format!("{section}.{key}: {file} can't be read: No such file or directory (os error 2)");
                assert!(said.contains(&told), "{said}");
            }
            let (certificate, key) =
                (format!(":{}: {section}.tls_certificate", line + 1), format!(":{}: {section}.tls_key", line + 2));
            assert!(command[0] == "serve" || (said.contains(&certificate) && said.contains(&key)), "{said}");
        }
    }
}
