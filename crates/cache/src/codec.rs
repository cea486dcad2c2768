//! How slots and the header look on disk. Little-endian, one version octet first, and a CRC-32 of key and value last, since LMDB has none:
//! octets that changed on the disk, and a value that stands under another's key, are found when they are read. What can't be read
//! is never served; who reads treats it as cleared just now.

use callahead_smtp::EnhancedCode;

use crate::record::{self, DomainState, Epoch, RecipientState, Record, StoredReply, Timestamp};

/// The version octet of slots. Another one is not read.
const VERSION: u8 = 2;
/// Octets of the checksum behind a value.
const CHECKSUM: usize = 4;

/// A recipient's slot: a record, or only the epoch of a clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecipientSlot {
    /// The latest clear that covers it: what was learned under a smaller one does not count. It is not the epoch under which the record was
    /// learned, which may come of a clear of something else and would keep out what was learned later under the one before.
    pub(crate) epoch: Epoch,
    /// When it was learned or cleared.
    pub(crate) at: Timestamp,
    pub(crate) record: Option<Record<RecipientState>>,
}

/// A domain's slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DomainSlot {
    /// The latest clear of the whole domain.
    pub(crate) cleared: Epoch,
    /// When something was last written here.
    pub(crate) at: Timestamp,
    /// Records of recipients that no clear covers. They hold only while the header's `all_cleared` is `counted_under`.
    pub(crate) valid: u64,
    pub(crate) invalid: u64,
    pub(crate) counted_under: Epoch,
    pub(crate) record: Option<(Epoch, Record<DomainState>)>,
}

/// What holds for the whole file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// The last epoch given out.
    pub(crate) last_epoch: Epoch,
    /// The latest clear of everything.
    pub(crate) all_cleared: Epoch,
    /// The latest time seen.
    pub(crate) latest: Timestamp,
    /// Records that no clear covers.
    pub(crate) valid: u64,
    pub(crate) invalid: u64,
    pub(crate) domains: u64,
}

/// The CRC-32 of key and value.
fn checksum(key: &[u8], value: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().to_le_bytes()
}

/// Puts the checksum behind a value that is whole.
fn seal(key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let sum = checksum(key, &value);
    value.extend_from_slice(&sum);
    value
}

/// A route's text under its name.
pub(crate) fn encode_route(key: &[u8], hops: &str) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(hops.as_bytes());
    seal(key, out)
}

pub(crate) fn decode_route(key: &[u8], bytes: &[u8]) -> Option<String> {
    String::from_utf8(Reader::open(key, bytes)?.0.to_vec()).ok()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The value behind its version octet; `None` where it is of another version, or not what was written under the key.
    fn open(key: &[u8], bytes: &'a [u8]) -> Option<Self> {
        let (value, sum) = bytes.split_last_chunk::<CHECKSUM>()?;
        let mut reader = Self(value);
        (*sum == checksum(key, value) && reader.u8()? == VERSION).then_some(reader)
    }
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }
    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }
    fn text(&mut self) -> Option<String> {
        let len = self.u16()?;
        String::from_utf8(self.take(usize::from(len))?.to_vec()).ok()
    }
    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

fn write_text(out: &mut Vec<u8>, text: &str, octets: usize) {
    let text = &text[..text.floor_char_boundary(octets)];
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn write_record<S: record::State>(out: &mut Vec<u8>, state: u8, record: &Record<S>) {
    out.push(state);
    out.extend_from_slice(&record.checked_at.0.to_le_bytes());
    out.extend_from_slice(&record.expires_at.0.to_le_bytes());
    write_text(out, &record.destination, 255);
    match &record.reply {
        None => out.push(0),
        Some(reply) => {
            out.push(1);
            out.extend_from_slice(&reply.code.to_le_bytes());
            let (class, subject, detail) = reply.enhanced.map_or((0, 0, 0), |e| (e.class(), e.subject(), e.detail()));
            out.push(class);
            out.extend_from_slice(&subject.to_le_bytes());
            out.extend_from_slice(&detail.to_le_bytes());
            write_text(out, &reply.text, record::MAX_REPLY_TEXT);
        }
    }
}

fn read_record<S>(reader: &mut Reader<'_>, state: S) -> Option<Record<S>> {
    let checked_at = Timestamp(reader.u64()?);
    let expires_at = Timestamp(reader.u64()?);
    let destination = reader.text()?;
    let reply = match reader.u8()? {
        0 => None,
        1 => {
            let code = reader.u16()?;
            let (class, subject, detail) = (reader.u8()?, reader.u16()?, reader.u16()?);
            let enhanced = if class == 0 { None } else { Some(EnhancedCode::new(class, subject, detail)?) };
            Some(StoredReply { code, enhanced, text: reader.text()? })
        }
        _ => return None,
    };
    Some(Record { state, checked_at, expires_at, destination, reply })
}

impl RecipientSlot {
    pub(crate) fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.at.0.to_le_bytes());
        match &self.record {
            None => out.push(0),
            Some(record) => {
                let state = match record.state {
                    RecipientState::Valid => 1,
                    RecipientState::Invalid => 2,
                };
                write_record(&mut out, state, record);
            }
        }
        seal(key, out)
    }

    pub(crate) fn decode(key: &[u8], bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::open(key, bytes)?;
        let epoch = Epoch(reader.u64()?);
        let at = Timestamp(reader.u64()?);
        let record = match reader.u8()? {
            0 => None,
            1 => Some(read_record(&mut reader, RecipientState::Valid)?),
            2 => Some(read_record(&mut reader, RecipientState::Invalid)?),
            _ => return None,
        };
        reader.end()?;
        Some(Self { epoch, at, record })
    }
}

impl DomainSlot {
    pub(crate) fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut out = vec![VERSION];
        for number in [self.cleared.0, self.at.0, self.valid, self.invalid, self.counted_under.0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        match &self.record {
            None => out.push(0),
            Some((epoch, record)) => {
                let state = match record.state {
                    DomainState::AcceptAll => 1,
                    DomainState::NotAcceptAll => 2,
                    DomainState::RefusesNullSender => 3,
                    DomainState::NullMx => 4,
                };
                write_record(&mut out, state, record);
                out.extend_from_slice(&epoch.0.to_le_bytes());
            }
        }
        seal(key, out)
    }

    pub(crate) fn decode(key: &[u8], bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::open(key, bytes)?;
        let mut slot = Self {
            cleared: Epoch(reader.u64()?),
            at: Timestamp(reader.u64()?),
            valid: reader.u64()?,
            invalid: reader.u64()?,
            counted_under: Epoch(reader.u64()?),
            record: None,
        };
        let state = match reader.u8()? {
            0 => None,
            1 => Some(DomainState::AcceptAll),
            2 => Some(DomainState::NotAcceptAll),
            3 => Some(DomainState::RefusesNullSender),
            4 => Some(DomainState::NullMx),
            _ => return None,
        };
        if let Some(state) = state {
            let record = read_record(&mut reader, state)?;
            slot.record = Some((Epoch(reader.u64()?), record));
        }
        reader.end()?;
        Some(slot)
    }

    /// What is read under a domain's key. A slot that can't be read may have held any clear, so it counts as cleared just now.
    pub(crate) fn read(key: &[u8], bytes: Option<&[u8]>, last_epoch: Epoch) -> Self {
        match bytes.map(|bytes| Self::decode(key, bytes)) {
            None => Self::default(),
            Some(None) => Self { cleared: last_epoch, ..Self::default() },
            Some(Some(slot)) => slot,
        }
    }

    /// The latest clear that covers the whole domain.
    pub(crate) fn floor(&self, all_cleared: Epoch) -> Epoch {
        self.cleared.max(all_cleared)
    }

    /// Brings the counters up to a clear of everything.
    pub(crate) fn recount(&mut self, all_cleared: Epoch) {
        if self.counted_under != all_cleared {
            self.valid = 0;
            self.invalid = 0;
            self.counted_under = all_cleared;
        }
    }

    pub(crate) fn counter(&mut self, state: RecipientState) -> &mut u64 {
        match state {
            RecipientState::Valid => &mut self.valid,
            RecipientState::Invalid => &mut self.invalid,
        }
    }
}

impl Header {
    pub(crate) fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut out = vec![VERSION];
        for number in [self.last_epoch.0, self.all_cleared.0, self.latest.0, self.valid, self.invalid, self.domains] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        seal(key, out)
    }

    pub(crate) fn decode(key: &[u8], bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::open(key, bytes)?;
        let header = Self {
            last_epoch: Epoch(reader.u64()?),
            all_cleared: Epoch(reader.u64()?),
            latest: Timestamp(reader.u64()?),
            valid: reader.u64()?,
            invalid: reader.u64()?,
            domains: reader.u64()?,
        };
        reader.end()?;
        Some(header)
    }

    pub(crate) fn counter(&mut self, state: RecipientState) -> &mut u64 {
        match state {
            RecipientState::Valid => &mut self.valid,
            RecipientState::Invalid => &mut self.invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record<S: std::fmt::Debug + Clone>(state: impl Strategy<Value = S>) -> impl Strategy<Value = Record<S>> {
        let enhanced = proptest::option::of((prop_oneof![Just(2u8), Just(4), Just(5)], 0u16..1000, 0u16..1000))
            .prop_map(|e| e.and_then(|(a, b, c)| EnhancedCode::new(a, b, c)));
        let reply = proptest::option::of((200u16..600, enhanced, ".{0,40}"))
            .prop_map(|r| r.map(|(code, enhanced, text)| StoredReply { code, enhanced, text }));
        (state, any::<u64>(), any::<u64>(), "[a-z.:0-9]{0,30}", reply).prop_map(|(state, c, e, destination, reply)| {
            Record { state, checked_at: Timestamp(c), expires_at: Timestamp(e), destination, reply }
        })
    }

    fn recipient_states() -> impl Strategy<Value = RecipientState> {
        prop_oneof![Just(RecipientState::Valid), Just(RecipientState::Invalid)]
    }

    fn domain_states() -> impl Strategy<Value = DomainState> {
        prop_oneof![
            Just(DomainState::AcceptAll),
            Just(DomainState::NotAcceptAll),
            Just(DomainState::RefusesNullSender),
            Just(DomainState::NullMx)
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_back(
            epoch: u64, at: u64, record in proptest::option::of(record(recipient_states())),
            key: [u8; 5], numbers: [u64; 5], domain in proptest::option::of((any::<u64>(), record(domain_states()))),
            hops in ".{0,40}",
        ) {
            let slot = RecipientSlot { epoch: Epoch(epoch), at: Timestamp(at), record };
            prop_assert_eq!(RecipientSlot::decode(&key, &slot.encode(&key)), Some(slot));
            let slot = DomainSlot {
                cleared: Epoch(numbers[0]), at: Timestamp(numbers[1]), valid: numbers[2], invalid: numbers[3],
                counted_under: Epoch(numbers[4]), record: domain.map(|(e, r)| (Epoch(e), r)),
            };
            prop_assert_eq!(DomainSlot::decode(&key, &slot.encode(&key)), Some(slot));
            prop_assert_eq!(decode_route(&key, &encode_route(&key, &hops)), Some(hops));
        }

        #[test]
        fn any_bytes_and_any_torn_value_are_read_or_refused_but_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), record in record(recipient_states()), cut in 0usize..200,
        ) {
            let _ = (RecipientSlot::decode(b"", &bytes), DomainSlot::decode(b"", &bytes), Header::decode(b"", &bytes));
            let _ = decode_route(b"", &bytes);
            // With a checksum that is right, it is read to its end.
            let mut value = vec![VERSION];
            value.extend_from_slice(&bytes);
            let value = seal(b"", value);
            let _ = (RecipientSlot::decode(b"", &value), DomainSlot::decode(b"", &value), Header::decode(b"", &value));
            let whole = RecipientSlot { epoch: Epoch(1), at: Timestamp(2), record: Some(record) }.encode(b"key");
            if cut < whole.len() {
                prop_assert_eq!(RecipientSlot::decode(b"key", &whole[..cut]), None);
            }
        }

        #[test]
        fn a_value_with_a_changed_bit_or_under_another_key_is_not_read(
            record in record(recipient_states()), at: prop::sample::Index, bit in 0u8..8,
        ) {
            let mut value = RecipientSlot { epoch: Epoch(1), at: Timestamp(2), record: Some(record) }.encode(b"key");
            prop_assert_eq!(RecipientSlot::decode(b"kez", &value), None);
            let at = at.index(value.len());
            value[at] ^= 1 << bit;
            prop_assert_eq!(RecipientSlot::decode(b"key", &value), None);
        }
    }
}
