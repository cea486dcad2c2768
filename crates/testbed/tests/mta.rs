//! The real servers start, answer, and are gone afterwards.
#![allow(clippy::unwrap_used)]

use callahead_testbed::mta::{Kind, Mailboxes, Mta, swaks};

fn accepts_its_mailboxes_only(kind: Kind) {
    let mta = Mta::destination(kind, &Mailboxes::new("real.example", &["anna"])).unwrap();
    let sent = swaks(mta.address(), "someone@sender.example", "anna@real.example").unwrap();
    assert_eq!(sent.code, Some(0), "{}", sent.transcript);
    let refused = swaks(mta.address(), "someone@sender.example", "nobody@real.example").unwrap();
    // OpenSMTPD says 524 5.2.4 of a virtual domain.
    assert!(refused.rcpt_reply().starts_with("5"), "{}", refused.transcript);
    let address = mta.address();
    drop(mta);
    assert!(std::net::TcpStream::connect(address).is_err(), "{kind:?} outlived its handle");
}

#[test]
fn real_postfix_accepts_its_mailboxes_only() {
    accepts_its_mailboxes_only(Kind::Postfix);
}

#[test]
fn real_exim_accepts_its_mailboxes_only() {
    accepts_its_mailboxes_only(Kind::Exim);
}

#[test]
fn real_opensmtpd_accepts_its_mailboxes_only() {
    accepts_its_mailboxes_only(Kind::OpenSmtpd);
}

#[test]
fn real_sendmail_accepts_its_mailboxes_only() {
    accepts_its_mailboxes_only(Kind::Sendmail);
}

#[test]
fn real_postfix_and_sendmail_answer_after_a_reload() {
    for kind in [Kind::Postfix, Kind::Sendmail] {
        let mut mta = Mta::destination(kind, &Mailboxes::new("real.example", &["anna"])).unwrap();
        mta.reload().unwrap();
        let sent = swaks(mta.address(), "someone@sender.example", "anna@real.example").unwrap();
        assert_eq!(sent.code, Some(0), "{}", sent.transcript);
    }
}
