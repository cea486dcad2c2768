//! Addresses: what is one, its one form, and that none can smuggle anything into a command.
#![allow(clippy::unwrap_used, missing_docs)]

use callahead_smtp::{AddressError, Command, Domain, DomainName, Recipient};
use proptest::prelude::*;

fn parse(text: &str) -> Result<Recipient, AddressError> {
    Recipient::parse(text.as_bytes())
}

#[test]
fn spellings_of_one_mailbox_have_one_form() {
    for (spelling, form) in [
        ("anna@example.com", "anna@example.com"),
        ("Anna@EXAMPLE.Com", "Anna@example.com"),
        ("anna@example.com.", "anna@example.com"),
        ("\"anna\"@example.com", "anna@example.com"),
        ("\"a\\nna\"@example.com", "anna@example.com"),
        ("\"anna b\"@example.com", "\"anna b\"@example.com"),
        ("\"a\\@b\"@example.com", "\"a@b\"@example.com"),
        ("\"a@b\"@example.com", "\"a@b\"@example.com"),
        ("\"\\\"\\\\\"@example.com", "\"\\\"\\\\\"@example.com"),
        ("\"\"@example.com", "\"\"@example.com"),
        ("\"a..b\"@example.com", "\"a..b\"@example.com"),
        ("user+tag@example.com", "user+tag@example.com"),
        ("!#$%&'*+-/=?^_`{|}~@example.com", "!#$%&'*+-/=?^_`{|}~@example.com"),
        ("a@localhost", "a@localhost"),
        ("a@my_host.example", "a@my_host.example"),
        ("a@[192.0.2.1]", "a@[192.0.2.1]"),
        ("a@[ipv6:2001:DB8:0::1]", "a@[IPv6:2001:db8::1]"),
        ("j\u{f6}rg@example.com", "j\u{f6}rg@example.com"),
        ("anna@b\u{fc}cher.example", "anna@xn--bcher-kva.example"),
        ("anna@B\u{dc}CHER.example", "anna@xn--bcher-kva.example"),
        ("anna@xn--BCHER-kva.example", "anna@xn--bcher-kva.example"),
    ] {
        let recipient = parse(spelling).unwrap_or_else(|error| panic!("{spelling}: {error}"));
        assert_eq!(recipient.to_string(), form);
        assert_eq!(parse(form).unwrap(), recipient, "its form is the same mailbox");
    }
}

#[test]
fn a_local_part_that_lacks_its_quotes_is_taken_as_written() {
    for (written, form) in [
        ("a b@example.com", "\"a b\"@example.com"),
        ("a..b@example.com", "\"a..b\"@example.com"),
        (".a@EXAMPLE.com", "\".a\"@example.com"),
        ("a@b@example.com", "\"a@b\"@example.com"),
        ("a\"b@example.com", "\"a\\\"b\"@example.com"),
        ("d\u{f6} ner@example.com", "\"d\u{f6} ner\"@example.com"),
        ("anna@example.com", "anna@example.com"),
        ("\"a b\"@example.com", "\"a b\"@example.com"),
        // A source route is left out.
        ("@relay:anna@example.com", "anna@example.com"),
        ("@relay.example,@[IPv6:2001:db8::1]:a b@example.com", "\"a b\"@example.com"),
        ("@[192.0.2.1]:\"a:b\"@example.com", "\"a:b\"@example.com"),
    ] {
        assert_eq!(
            Recipient::parse_as_written(written.as_bytes()).map(|it| it.to_string()),
            Ok(form.to_owned()),
            "{written}"
        );
    }
    // Quotes don't help, so it is what it was.
    for same in [
        "",
        "anna",
        "@",
        "@example.com",
        "a@",
        "@a,b:a@b.c",
        "@a..b:a@b.c",
        "@a,@b",
        "@[::1:a@b.c",
        "@a@b.c",
        "a b@bad..domain",
        "a b@",
        "a\rb@example.com",
    ] {
        assert_eq!(Recipient::parse_as_written(same.as_bytes()), Err(parse(same).unwrap_err()), "{same:?}");
    }
    assert_eq!(Recipient::parse_as_written(b"a\xff b@example.com"), Err(AddressError::NotUtf8));
}

#[test]
fn what_is_no_mailbox_is_refused_with_a_sentence() {
    use AddressError as E;
    for (text, error) in [
        ("", E::Empty),
        ("anna", E::NoDomain),
        ("\"anna\"", E::NoDomain),
        ("@example.com", E::NoLocalPart),
        ("@a,@b:c@d.example", E::SourceRoute),
        ("a b@example.com", E::BadLocalCharacter(' ')),
        ("<anna@example.com>", E::BadLocalCharacter('<')),
        ("an\rna@example.com", E::BadLocalCharacter('\r')),
        ("\"an\nna\"@example.com", E::BadLocalCharacter('\n')),
        ("\"an\\\nna\"@example.com", E::BadLocalCharacter('\n')),
        (".anna@example.com", E::BadDot),
        ("anna.@example.com", E::BadDot),
        ("an..na@example.com", E::BadDot),
        ("\"anna@example.com", E::BadQuotes),
        ("\"anna\"b@example.com", E::BadQuotes),
        ("\"anna\\", E::BadQuotes),
        ("anna@", E::EmptyLabel),
        ("anna@a..b", E::EmptyLabel),
        ("anna@exa mple.com", E::BadDomainCharacter(' ')),
        ("anna@example.com>", E::BadDomainCharacter('>')),
        ("anna@b@example.com", E::BadDomainCharacter('@')),
        ("anna@-a.example", E::BadHyphen),
        ("anna@[192.0.2.300]", E::BadLiteral),
        ("anna@[x400:a]", E::BadLiteral),
        ("anna@[192.0.2.1", E::BadLiteral),
    ] {
        assert_eq!(parse(text), Err(error), "{text:?}");
    }
    assert_eq!(Recipient::parse(b"an\xffna@example.com"), Err(E::NotUtf8));
    assert_eq!(parse(&format!("{}@example.com", "x".repeat(256))), Err(E::LocalPartTooLong));
    assert_eq!(parse(&format!("a@{}.com", "x".repeat(64))), Err(E::DomainTooLong));
    assert_eq!(parse(&format!("a@{}com", "x.".repeat(126))), Err(E::DomainTooLong));
}

#[test]
fn a_local_part_longer_than_64_octets_is_a_mailbox_all_the_same() {
    // SRS and VERP go beyond what everyone has to support (RFC 5321 4.5.3.1.1), and such mailboxes exist.
    let srs = format!("SRS0=HHH=TT={}=anna@example.com", "very-long-domain.example".repeat(6));
    assert!(parse(&srs).is_ok());
    assert!(parse(&format!("{}@{}", "x".repeat(255), ["y".repeat(63).as_str(); 3].join("."))).is_ok());
}

#[test]
fn postmaster_is_known_in_any_case_and_folding_folds_the_local_part_only() {
    assert!(parse("PostMaster@example.com").unwrap().is_postmaster());
    assert!(!parse("postmaster1@example.com").unwrap().is_postmaster());
    assert_eq!(parse("ANNA+Tag@example.com").unwrap().fold_local_part(), parse("anna+tag@example.com").unwrap());
    assert!(parse("\u{c4}nna@example.com").unwrap().needs_smtputf8());
    assert!(!parse("anna@b\u{fc}cher.example").unwrap().needs_smtputf8(), "the domain is said in A-labels");
    assert_eq!(DomainName::parse("a.b.example").unwrap().parent(), Some("b.example"));
}

#[test]
fn a_local_part_that_no_longer_fits_when_folded_stays_as_it_is() {
    // Three octets in lower case, and two in upper case.
    let grows = "\u{23a}";
    assert_eq!(grows.to_lowercase().len(), 3);
    for (rest, fits) in [(252, true), (253, false)] {
        let address = parse(&format!("{grows}{}@example.com", "x".repeat(rest))).unwrap();
        let folded = address.fold_local_part();
        assert_eq!(folded.local_part().len(), 255, "{rest}");
        assert_eq!(folded != address, fits);
    }
}

#[test]
fn a_domain_has_253_octets_at_most_and_knows_its_name() {
    let long = |last: usize| format!("{}.{}", ["x".repeat(63).as_str(); 3].join("."), "y".repeat(last));
    let domain = Domain::parse(&long(61)).unwrap();
    assert_eq!(domain.name().unwrap().as_str(), long(61));
    assert_eq!(Domain::parse(&long(62)), Err(AddressError::DomainTooLong));
    assert_eq!(Domain::parse("[192.0.2.1]").unwrap().name(), None);
}

/// Reads a command line as a server that trusts nobody would: one line, one path, nothing behind it.
fn path_of(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_prefix(b"RCPT TO:<")?.strip_suffix(b">\r\n")?;
    let (mut quoted, mut escaped) = (false, false);
    for octet in line {
        match octet {
            b'\r' | b'\n' | 0 => return None,
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' | b'<' | b' ' if !quoted => return None,
            _ => {}
        }
    }
    (!quoted && !escaped).then_some(line)
}

fn addresses() -> impl Strategy<Value = String> {
    let local = prop_oneof![
        "[a-zA-Z0-9.+_-]{1,20}",
        "[a-z]{1,8}(\\.[a-z]{1,8}){0,3}",
        "\"([ -~]|\\\\[ -~]){0,20}\"",
        "\\PC{1,12}",
    ];
    let domain = prop_oneof!["[a-z]{1,8}(\\.[a-z-]{1,8}){0,3}", Just("[192.0.2.1]".to_owned()), "\\PC{1,12}"];
    (local, domain).prop_map(|(local, domain)| format!("{local}@{domain}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_octets_are_a_mailbox_or_an_error_and_never_smuggle(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
        check(&octets)?;
    }

    #[test]
    fn what_looks_like_an_address_has_one_form_and_is_one_command(address in addresses()) {
        check(address.as_bytes())?;
    }

    #[test]
    fn quoting_a_local_part_that_needs_none_changes_nothing(local in "[a-z0-9]{1,10}(\\.[a-z0-9]{1,10}){0,2}") {
        let plain = format!("{local}@example.com");
        let quoted = format!("\"{local}\"@example.com");
        prop_assert_eq!(plain.parse::<Recipient>(), quoted.parse::<Recipient>());
    }

    #[test]
    fn quotes_are_put_where_they_make_a_mailbox_of_it_and_nowhere_else(
        local in r#"[a.@ "\\+!-]{0,6}"#, domain in prop_oneof!["[a.-]{0,6}", Just("example.com".to_owned())]
    ) {
        let address = format!("{local}@{domain}");
        let escaped: String = local.chars().flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c])).collect();
        let expected = parse(&address).or_else(|error| match local.is_empty() || local.starts_with('@') {
            true => Err(error),
            false => parse(&format!("\"{escaped}\"@{domain}")).map_err(|_| error),
        });
        prop_assert_eq!(Recipient::parse_as_written(address.as_bytes()), expected);
    }

    #[test]
    fn any_domain_text_is_one_or_an_error(text in "\\PC{0,80}") {
        if let Ok(domain) = Domain::parse(&text) {
            prop_assert_eq!(Domain::parse(&domain.to_string()).unwrap(), domain);
        }
    }
}

fn check(octets: &[u8]) -> Result<(), TestCaseError> {
    let Ok(recipient) = Recipient::parse(octets) else { return Ok(()) };
    let form = recipient.to_string();
    prop_assert_eq!(Recipient::parse(form.as_bytes()), Ok(recipient.clone()), "{:?}", form);
    let mut line = Vec::new();
    Command::RcptTo(&recipient).write(&mut line);
    prop_assert_eq!(path_of(&line), Some(form.as_bytes()), "{:?}", String::from_utf8_lossy(&line));
    prop_assert!(line.len() < 600);
    let folded = recipient.fold_local_part();
    prop_assert_eq!(folded.fold_local_part(), folded.clone());
    prop_assert_eq!(Recipient::new(recipient.local_part(), recipient.domain().clone()), Ok(recipient));
    Ok(())
}
