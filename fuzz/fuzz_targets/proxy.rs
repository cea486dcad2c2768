//! Any octets are a PROXY header, the start of one, or none; and a header is the same whatever follows it.
#![no_main]

use callahead_listeners::gateway::proxy::{MAX_HEADER, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    match read(octets) {
        Ok(Some(header)) => {
            assert!(header.length <= octets.len() && header.length <= MAX_HEADER);
            assert_eq!(read(&octets[..header.length]), Ok(Some(header)));
            assert_eq!(read(&octets[..header.length - 1]), Ok(None));
        }
        // More octets are not asked for without an end.
        Ok(None) => assert!(octets.len() < MAX_HEADER),
        Err(_) => {}
    }
});
