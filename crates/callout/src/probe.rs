//! Random local parts that a person might have, to find out whether a destination accepts every one.

use rand::RngExt as _;

/// Where random local parts come from.
pub trait Probe: Send + Sync + 'static {
    /// A local part of 20 characters that nobody has and nobody can guess.
    fn local_part(&self) -> String;
}

/// Local parts like `veronulasotimi.73184`: syllables, a dot, digits, from the system's random numbers; about 72 bits.
///
/// It has to look like a person's, because some servers refuse what looks generated and accept all else.
#[derive(Clone, Copy, Debug, Default)]
pub struct PersonProbe;

impl Probe for PersonProbe {
    fn local_part(&self) -> String {
        const CONSONANTS: &[u8] = b"bdfghjklmnprstvwz";
        const VOWELS: &[u8] = b"aeiou";
        let mut random = rand::rng();
        let mut local_part = String::with_capacity(20);
        for _ in 0..7 {
            local_part.push(char::from(CONSONANTS[random.random_range(0..CONSONANTS.len())]));
            local_part.push(char::from(VOWELS[random.random_range(0..VOWELS.len())]));
        }
        local_part.push('.');
        for _ in 0..5 {
            local_part.push(char::from(random.random_range(b'0'..=b'9')));
        }
        local_part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_has_20_characters_and_never_repeats() {
        let probes: std::collections::HashSet<String> = (0..10_000).map(|_| PersonProbe.local_part()).collect();
        assert_eq!(probes.len(), 10_000);
        assert!(
            probes
                .iter()
                .all(|p| p.len() == 20 && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.'))
        );
    }
}
