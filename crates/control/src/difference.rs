//! What an entry of the audit log keeps of a record that was changed: what differs, and of that as much as fits.
//!
//! A domain's lists may have 10,000 names each, and whoever may change one name may do so again and again: entries with the whole record before and
//! afterwards would fill the disk. So of a long list an entry has what was added and what was removed, and says of how many it is silent.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

/// Octets that are kept of what was there before, and likewise of what was there afterwards: 16 KiB an entry.
const MAX_SIDE: usize = 8 * 1024;
/// Lists up to so long are kept whole: in a route the order counts.
const SHORT: usize = 20;
/// Octets of a long list's frame.
const FRAME: usize = 64;

/// What of a record was there before, and what afterwards, where the two differ.
pub(crate) fn difference(before: Option<&Value>, after: Option<&Value>) -> (Option<String>, Option<String>) {
    let of = |own: Option<&Value>, other: Option<&Value>, word: &str| match own? {
        Value::Object(own) => Some(Value::Object(side(own, other.and_then(Value::as_object), word)).to_string()),
        // No record is anything else.
        _ => None,
    };
    (of(before, after, "removed"), of(after, before, "added"))
}

/// One side of it. `word` is what became of a list's entries that only this side has.
fn side(own: &Map<String, Value>, other: Option<&Map<String, Value>>, word: &str) -> Map<String, Value> {
    let mut kept = Map::new();
    let mut long = Vec::new();
    let mut room = MAX_SIDE;
    for (key, value) in own {
        let there = other.and_then(|other| other.get(key));
        if there == Some(value) {
            continue;
        }
        let (mine, theirs) = (entries(Some(value)), entries(there));
        if value.is_array() && mine.len().max(theirs.len()) > SHORT {
            room = room.saturating_sub(key.len() + FRAME);
            long.push((key, mine, theirs));
            continue;
        }
        let octets = value.to_string().len();
        let is_cut = key.len() + octets > room;
        kept.insert(key.clone(), if is_cut { json!({"left_out_octets": octets}) } else { value.clone() });
        room = room.saturating_sub(key.len() + if is_cut { FRAME } else { octets });
    }
    let share = room / long.len().max(1);
    for (key, mine, theirs) in long {
        let theirs: HashSet<&Value> = theirs.iter().collect();
        let mut differing: Vec<&Value> = mine.iter().filter(|entry| !theirs.contains(entry)).collect();
        let count = differing.len();
        let mut left = share;
        let fitting = differing.iter().take_while(|entry| {
            let octets = entry.to_string().len() + 1;
            let fits = octets <= left;
            left = left.saturating_sub(octets);
            fits
        });
        let fitting = fitting.count();
        differing.truncate(fitting);
        let mut told = json!({"entries": mine.len(), word: differing});
        if fitting < count {
            told["left_out"] = json!(count - fitting);
        }
        kept.insert(key.clone(), told);
    }
    kept
}

fn entries(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told(before: Option<Value>, after: Option<Value>) -> (Option<Value>, Option<Value>) {
        let (before, after) = difference(before.as_ref(), after.as_ref());
        let read = |text: Option<String>| text.map(|text| serde_json::from_str(&text).unwrap());
        (read(before), read(after))
    }

    fn names(range: std::ops::Range<usize>) -> Value {
        range.map(|number| Value::from(format!("name-{number:05}"))).collect()
    }

    #[test]
    fn what_is_the_same_is_left_out_and_short_lists_are_whole() {
        let before = json!({"name": "a", "route": ["a", "b"], "valid": ["x"], "callouts": "off"});
        let after = json!({"name": "a", "route": ["b", "a"], "valid": ["x"], "log_days": 3});
        let (before, after) = told(Some(before), Some(after));
        assert_eq!(before.unwrap(), json!({"route": ["a", "b"], "callouts": "off"}));
        assert_eq!(after.unwrap(), json!({"route": ["b", "a"], "log_days": 3}));
        assert_eq!(told(None, Some(json!({"name": "a"}))), (None, Some(json!({"name": "a"}))));
    }

    #[test]
    fn of_a_long_list_it_is_told_what_was_added_and_removed() {
        let (before, after) = told(Some(json!({"valid": names(0..1_000)})), Some(json!({"valid": names(2..1_003)})));
        assert_eq!(before.unwrap(), json!({"valid": {"entries": 1_000, "removed": ["name-00000", "name-00001"]}}));
        let added = ["name-01000", "name-01001", "name-01002"];
        assert_eq!(after.unwrap(), json!({"valid": {"entries": 1_001, "added": added}}));
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let whole = json!({"valid": names(0..10_000), "invalid": names(0..9_000), "note": "x".repeat(20_000), "z": 1});
        for (before, after) in [(Some(&whole), None), (None, Some(&whole)), (Some(&whole), Some(&json!({"z": 1})))] {
            let (before, after) = difference(before, after);
            let octets = before.as_ref().map_or(0, String::len) + after.as_ref().map_or(0, String::len);
            assert!((4_000..=MAX_SIDE).contains(&octets), "{octets}");
            let side: Value = serde_json::from_str(&before.filter(|text| text.len() > 2).or(after).unwrap()).unwrap();
            assert_eq!(side["note"], json!({"left_out_octets": 20_002}));
            let told = side["valid"].get("added").or(side["valid"].get("removed")).unwrap().as_array().unwrap().len();
            assert_eq!(side["valid"]["left_out"], 10_000 - told);
            assert_eq!(side["invalid"]["entries"], 9_000);
        }
    }
}
