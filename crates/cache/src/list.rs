//! Looking through the cache: entries in key order, page by page, and counts by domain.

use std::ops::Bound;

use callahead_smtp::Domain;

use crate::codec::{DomainSlot, RecipientSlot};
use crate::key::{self, Cursor};
use crate::record::{DomainState, Epoch, RecipientState, Record};
use crate::store::{Cache, CacheError};

/// Slots that are looked at for one page. A page of a rare state may so be short, or empty, and still have a next one.
const EXAMINED: usize = 20_000;

/// Which entries are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this domain only.
    pub domain: Option<Domain>,
    /// What the local part starts with, where a domain is given; else what the domain starts with.
    pub prefix: Option<String>,
    /// In this state only.
    pub state: Option<EntryState>,
}

/// An entry's state, of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryState {
    /// A recipient's.
    Recipient(RecipientState),
    /// A domain's.
    Domain(DomainState),
}

/// Something that is kept; no clear covers it. It may have expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Of a recipient, by its address.
    Recipient(String, Record<RecipientState>),
    /// Of a domain, by its name.
    Domain(String, Record<DomainState>),
}

/// Some entries, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In key order: domain, then local part; a domain's own entry before its recipients'.
    pub entries: Vec<Entry>,
    /// Set while there may be more.
    pub next: Option<Cursor>,
}

/// How many recipients of a domain are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainCounts {
    /// The domain.
    pub domain: String,
    /// Recipients kept as valid.
    pub valid: u64,
    /// Recipients kept as invalid.
    pub invalid: u64,
    /// What is known of the domain itself.
    pub state: Option<DomainState>,
}

impl Entry {
    /// Its state.
    pub fn state(&self) -> EntryState {
        match self {
            Self::Recipient(_, record) => EntryState::Recipient(record.state),
            Self::Domain(_, record) => EntryState::Domain(record.state),
        }
    }
}

impl Cache {
    /// One page of what is kept, after `cursor`. `limit` is brought into 1 to 1,000.
    ///
    /// Pages are stable: what comes and goes between two of them neither hides nor doubles another entry.
    ///
    /// # Errors
    /// When LMDB can't read.
    pub fn list(&self, filter: &Filter, cursor: Option<&Cursor>, limit: usize) -> Result<Page, CacheError> {
        let limit = limit.clamp(1, 1000);
        let prefix = match (&filter.domain, &filter.prefix) {
            (Some(domain), local) => {
                let mut prefix = key::domain(domain);
                prefix.extend_from_slice(local.as_deref().unwrap_or_default().as_bytes());
                prefix
            }
            (None, domain) => domain.as_deref().unwrap_or_default().to_ascii_lowercase().into_bytes(),
        };
        let (env, store) = self.parts();
        let txn = env.read_txn().map_err(CacheError::Read)?;
        let header = store.header(&txn)?;
        let start = match cursor {
            Some(Cursor(key)) if *key >= prefix => Bound::Excluded(key.as_slice()),
            // LMDB knows no empty key.
            _ if prefix.is_empty() => Bound::Unbounded,
            _ => Bound::Included(prefix.as_slice()),
        };
        let mut page = Page::default();
        let mut floor = (Vec::new(), Epoch(0));
        let slots = store.slots.range(&txn, &(start, Bound::Unbounded)).map_err(CacheError::Read)?;
        for (examined, slot) in slots.enumerate() {
            let (key, value) = slot.map_err(CacheError::Read)?;
            if !key.starts_with(&prefix) {
                return Ok(Page { next: None, ..page });
            }
            let domain_key = &key[..key::domain_len(key).unwrap_or(key.len())];
            if floor.0 != domain_key {
                let slot = store.slots.get(&txn, domain_key).map_err(CacheError::Read)?;
                // As in a lookup: a recipient whose domain is not there has lost a slot.
                let slot = slot.or((key != domain_key).then_some(&[]));
                let slot = DomainSlot::read(domain_key, slot, header.last_epoch);
                floor = (domain_key.to_vec(), slot.floor(header.all_cleared));
            }
            if let Some(entry) = entry(key, value, floor.1)
                && filter.state.is_none_or(|state| state == entry.state())
            {
                page.entries.push(entry);
            }
            if page.entries.len() == limit || examined + 1 == EXAMINED {
                page.next = Some(Cursor(key.to_vec()));
                return Ok(page);
            }
        }
        Ok(page)
    }

    /// Counts by domain, one page in the order of names, after `cursor`; domains of which nothing is kept are left out.
    ///
    /// # Errors
    /// When LMDB can't read.
    pub fn domain_counts(
        &self,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<(Vec<DomainCounts>, Option<Cursor>), CacheError> {
        let limit = limit.clamp(1, 1000);
        let (env, store) = self.parts();
        let txn = env.read_txn().map_err(CacheError::Read)?;
        let header = store.header(&txn)?;
        let mut counts = Vec::new();
        // The key after all recipients of a domain: its own, with the zero octet raised by one.
        let mut from = cursor.map_or_else(|| vec![1], |cursor| cursor.0.clone());
        while let Some((key, value)) =
            store.slots.get_greater_than_or_equal_to(&txn, &from).map_err(CacheError::Read)?
        {
            let Some(end) = key::domain_len(key) else {
                // Damaged; the next one is behind it.
                from = [key, &[0]].concat();
                continue;
            };
            from = key[..end].to_vec();
            if let Some(last) = from.last_mut() {
                *last = 1;
            }
            if key.len() == end
                && let (Some(mut slot), Some((domain, _))) = (DomainSlot::decode(key, value), key::split(key))
            {
                slot.recount(header.all_cleared);
                let floor = slot.floor(header.all_cleared);
                let state = slot.record.as_ref().filter(|(epoch, _)| *epoch >= floor).map(|(_, record)| record.state);
                if slot.valid + slot.invalid > 0 || state.is_some() {
                    let (valid, invalid) = (slot.valid, slot.invalid);
                    counts.push(DomainCounts { domain: domain.to_owned(), valid, invalid, state });
                }
            }
            if counts.len() == limit {
                return Ok((counts, Some(Cursor(from))));
            }
        }
        Ok((counts, None))
    }
}

fn entry(key: &[u8], value: &[u8], floor: Epoch) -> Option<Entry> {
    match key::split(key)? {
        (domain, None) => {
            let (epoch, record) = DomainSlot::decode(key, value)?.record?;
            (epoch >= floor).then(|| Entry::Domain(domain.to_owned(), record))
        }
        (domain, Some(local)) => {
            let slot = RecipientSlot::decode(key, value).filter(|slot| slot.epoch >= floor)?;
            slot.record.map(|record| Entry::Recipient(format!("{local}@{domain}"), record))
        }
    }
}
