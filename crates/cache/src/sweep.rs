//! Removing what will never be served again, a bounded number of slots at a time, so that the file does not grow without end.

use std::ops::Bound;

use heed::RwTxn;

use crate::codec::{DomainSlot, Header, RecipientSlot};
use crate::key;
use crate::record::{Epoch, FLIGHT_MAX, Timestamp};
use crate::store::Store;
use crate::writer::count_out;

/// Slots that one call looks at. The writer does nothing else meanwhile: about 2 ms.
const BATCH: usize = 2000;

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Slots looked at.
    pub examined: u64,
    /// Slots removed.
    pub removed: u64,
    /// Whether the end was reached; the next call begins anew.
    pub done: bool,
}

/// Looks at the next slots after `from`, and leaves in it where to go on. Tells whether anything was changed, too.
///
/// Two things are kept although nothing is served from them, because they hold an epoch that others are compared with: slots
/// younger than [`FLIGHT_MAX`], and a recipient's slot that is newer than its domain's record (it hides that record). Young is also what holds an
/// epoch after `settled`: the slots' times are the clock's, which may have been set forward while a callout from before the clear is under way.
/// A recipient's slot that can't be read may have held any clear: it becomes the mark of one, which goes as any other does.
pub(crate) fn sweep(
    store: &Store,
    txn: &mut RwTxn<'_>,
    header: &mut Header,
    from: &mut Vec<u8>,
    now: Timestamp,
    settled: Epoch,
) -> Result<(Swept, bool), heed::Error> {
    let start = if from.is_empty() { Bound::Unbounded } else { Bound::Excluded(from.as_slice()) };
    let mut batch = Vec::with_capacity(BATCH);
    for slot in store.slots.range(txn, &(start, Bound::Unbounded))?.take(BATCH + 1) {
        let (key, value) = slot?;
        batch.push((key.to_vec(), value.to_vec()));
    }
    let done = batch.len() <= BATCH;
    let mut swept = Swept { done, ..Swept::default() };
    let mut changed = false;
    let mut current: Option<(Vec<u8>, DomainSlot)> = None;
    for at in 0..batch.len().min(BATCH) {
        let (key, value) = &batch[at];
        swept.examined += 1;
        let domain_key = &key[..key::domain_len(key).unwrap_or(key.len())];
        if current.as_ref().is_none_or(|(known, _)| known != domain_key) {
            let slot = store.slots.get(txn, domain_key)?.and_then(|bytes| DomainSlot::decode(domain_key, bytes));
            let lost = DomainSlot { cleared: header.last_epoch, ..DomainSlot::default() };
            let mut slot = slot.unwrap_or(lost);
            slot.recount(header.all_cleared);
            current = Some((domain_key.to_vec(), slot));
        }
        let Some((_, domain)) = &mut current else { continue };
        let floor = domain.floor(header.all_cleared);
        if key.len() == domain_key.len() {
            let dead = domain.record.as_ref().is_some_and(|(epoch, record)| *epoch < floor || record.is_dead(now));
            if dead && let Some((epoch, _)) = domain.record.take() {
                header.domains -= u64::from(epoch >= floor && header.domains > 0);
            }
            let alone = batch.get(at + 1).is_none_or(|(next, _)| !next.starts_with(domain_key));
            let young = now.since(domain.at) <= FLIGHT_MAX || domain.cleared > settled;
            if alone && domain.record.is_none() && !young {
                store.slots.delete(txn, key)?;
                swept.removed += 1;
                changed = true;
            } else if dead {
                store.slots.put(txn, key, &domain.encode(key))?;
                changed = true;
            }
            continue;
        }
        let Some(slot) = RecipientSlot::decode(key, value) else {
            let lost = RecipientSlot { epoch: header.last_epoch, at: now, record: None };
            store.slots.put(txn, key, &lost.encode(key))?;
            changed = true;
            continue;
        };
        let young = now.since(slot.at) <= FLIGHT_MAX || slot.epoch > settled;
        let cleared = slot.epoch < floor;
        let record = slot.record.as_ref();
        let dead = cleared || record.is_none_or(|record| record.is_dead(now));
        if !dead || (young && !cleared) {
            continue;
        }
        if let (Some(record), false) = (record, cleared) {
            count_out(domain.counter(record.state));
            count_out(header.counter(record.state));
            store.slots.put(txn, domain_key, &domain.encode(domain_key))?;
        }
        let hides = !cleared && domain.record.as_ref().is_some_and(|(epoch, _)| *epoch < slot.epoch);
        if !hides {
            store.slots.delete(txn, key)?;
            swept.removed += 1;
            changed = true;
        } else if slot.record.is_some() {
            let tombstone = RecipientSlot { record: None, ..slot };
            store.slots.put(txn, key, &tombstone.encode(key))?;
            changed = true;
        }
    }
    from.clear();
    if !done && let Some((last, _)) = batch.get(BATCH - 1) {
        from.extend_from_slice(last);
    }
    Ok((swept, changed))
}
