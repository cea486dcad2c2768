//! Where listeners listen: the forms, and what happens where somebody was before.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;

use callahead_listeners::{BindError, Listen, MODE_EVERYONE, MODE_GROUP};

fn error(text: &str) -> String {
    text.parse::<Listen>().unwrap_err().to_string()
}

#[test]
fn both_forms_print_as_they_are_written() {
    for text in ["127.0.0.1:10040", "[::1]:10040", "0.0.0.0:0", "unix:/run/callahead/policy.sock"] {
        assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
    }
}

#[test]
fn each_wrong_form_has_a_sentence_with_the_right_one() {
    assert!(error("127.0.0.1").ends_with("has no port: write it as \"127.0.0.1:10040\""), "{}", error("127.0.0.1"));
    assert!(error("::1").contains("[::1]:10040"), "{}", error("::1"));
    assert!(error("localhost:25").contains("127.0.0.1:25"), "{}", error("localhost:25"));
    assert!(error("unix:policy.sock").contains("relative"), "{}", error("unix:policy.sock"));
    assert!(error(&format!("unix:/{}", "x".repeat(100))).contains("too long"));
    for text in ["", ":25", "127.0.0.1:99999", "unix:", "/run/x.sock", "1.2.3.4:"] {
        assert!(error(text).contains("write \"127.0.0.1:10040\""), "{text}: {}", error(text));
    }
}

#[tokio::test]
async fn port_0_becomes_the_port_that_the_system_chose() {
    let bound = "127.0.0.1:0".parse::<Listen>().unwrap().bind(MODE_EVERYONE).await.unwrap();
    assert_ne!(bound.tcp_addr().unwrap().port(), 0);
    assert_eq!(bound.local_addr().to_string(), bound.tcp_addr().unwrap().to_string());
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let first = "127.0.0.1:0".parse::<Listen>().unwrap().bind(MODE_EVERYONE).await.unwrap();
    let error = first.local_addr().bind(MODE_EVERYONE).await.unwrap_err();
    assert!(matches!(error, BindError::PortTaken(_)));
    assert!(error.to_string().contains(&first.local_addr().to_string()));
}

#[tokio::test]
async fn a_socket_has_its_mode_and_goes_with_its_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let bound = Listen::Unix(path.clone()).bind(MODE_GROUP).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    drop(bound);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn a_dead_process_socket_is_replaced_and_a_living_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    // The standard library's listener leaves its file, as a killed process does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listen = Listen::Unix(path.clone());
    let bound = listen.bind(MODE_EVERYONE).await.unwrap();
    assert!(matches!(listen.bind(MODE_EVERYONE).await, Err(BindError::SocketTaken(_))));
    tokio::net::UnixStream::connect(&path).await.expect("the first one still has it");
    drop(bound);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let error = Listen::Unix(path.clone()).bind(MODE_EVERYONE).await.unwrap_err();
    assert!(matches!(error, BindError::NotASocket(_)));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    let error = Listen::Unix(folder.path().join("no/such.sock")).bind(MODE_EVERYONE).await.unwrap_err();
    assert!(error.to_string().contains("its folder does not exist"), "{error}");
}

#[tokio::test]
async fn a_socket_of_another_kind_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    // As a syslog daemon has it: nobody can connect to it as a stream, and it is somebody's all the same.
    let theirs = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let error = Listen::Unix(path.clone()).bind(MODE_EVERYONE).await.unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
    sender.send_to(b"still there", &path).unwrap();
    assert_eq!(theirs.recv(&mut [0; 64]).unwrap(), "still there".len());
}

#[tokio::test]
async fn the_longest_path_that_is_allowed_can_be_bound() {
    let folder = tempfile::tempdir().unwrap();
    let path = |length: usize| {
        let start = format!("unix:{}/", folder.path().display());
        format!("{start}{}", "x".repeat("unix:".len() + length - start.len()))
    };
    let longest = (50..120).rev().find(|length| path(*length).parse::<Listen>().is_ok()).unwrap();
    let bound = path(longest).parse::<Listen>().unwrap().bind(MODE_EVERYONE).await.unwrap();
    let at = path(longest);
    tokio::net::UnixStream::connect(at.strip_prefix("unix:").unwrap()).await.unwrap();
    drop(bound);
    assert!(error(&path(longest + 1)).contains(&format!("too long for a socket: {longest} octets at most")));
}

#[tokio::test]
async fn a_client_is_named_by_its_address_or_its_user() {
    let bound = "127.0.0.1:0".parse::<Listen>().unwrap().bind(MODE_EVERYONE).await.unwrap();
    let client = tokio::net::TcpStream::connect(bound.tcp_addr().unwrap()).await.unwrap();
    assert_eq!(bound.accept().await.unwrap().peer(), client.local_addr().unwrap().to_string());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let bound = Listen::Unix(path.clone()).bind(MODE_EVERYONE).await.unwrap();
    let _client = tokio::net::UnixStream::connect(&path).await.unwrap();
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&path).unwrap());
    assert_eq!(bound.accept().await.unwrap().peer(), format!("uid {own}"));
}
