//! Any octets are a mailbox or an error; a mailbox has one form, and its command is one line with one path.
#![no_main]

use callahead_smtp::{Command, Recipient};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let Ok(recipient) = Recipient::parse(octets) else { return };
    let form = recipient.to_string();
    assert_eq!(Recipient::parse(form.as_bytes()).as_ref(), Ok(&recipient));
    let mut line = Vec::new();
    Command::RcptTo(&recipient).write(&mut line);
    assert_eq!(line, format!("RCPT TO:<{form}>\r\n").as_bytes());
    assert!(!form.contains(['\r', '\n', '\0']));
    assert!(recipient.local_part().starts_with('"') || !form.contains(['>', '<', ' ']));
    let folded = recipient.fold_local_part();
    assert_eq!(folded.fold_local_part(), folded);
});
