//! Any text is a configuration, or a list of what is wrong with it: sentences of one line that say in which file. A configuration that
//! is shown as TOML is the same configuration.
#![no_main]

use callahead_config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    match Config::parse(text, "callahead.toml") {
        Ok(config) => {
            let shown = config.to_toml();
            match Config::parse(&shown, "shown.toml") {
                Ok(again) => assert_eq!(again.to_toml(), shown),
                Err(error) => panic!("what is shown is refused: {error}\n{shown}"),
            }
        }
        Err(error) => {
            assert!(!error.0.is_empty(), "it is refused and nothing is wrong with it");
            for sentence in &error.0 {
                assert!(sentence.starts_with("callahead.toml"), "{sentence:?} names no file");
                assert!(!sentence.chars().any(char::is_control), "{sentence:?} is more than a line");
            }
        }
    }
});
