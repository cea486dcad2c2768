//! Walking a TOML document with positions: what is taken, what is left over, and a sentence for each problem.

use std::cell::RefCell;
use std::collections::HashMap;

use toml::de::{DeTable, DeValue};

/// The problems found so far.
pub(super) struct Problems<'a> {
    file: &'a str,
    text: &'a str,
    found: RefCell<Vec<(usize, String)>>,
    /// What is no mistake and worth a look; one about what is not there has no place.
    remarks: RefCell<Vec<(Option<usize>, String)>>,
    /// Values that may stand only once, with the place of the first.
    once: RefCell<HashMap<String, usize>>,
}

/// A table that is being read.
pub(super) struct Section<'a, 'p> {
    name: String,
    table: &'a DeTable<'a>,
    problems: &'p Problems<'p>,
    known: Vec<&'static str>,
    at: usize,
}

impl<'a> Problems<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, found: RefCell::default(), remarks: RefCell::default(), once: RefCell::default() }
    }

    pub(super) fn add(&self, at: usize, sentence: String) {
        self.found.borrow_mut().push((at, sentence));
    }

    pub(super) fn remark(&self, at: Option<usize>, sentence: String) {
        self.remarks.borrow_mut().push((at, sentence));
    }

    fn line(&self, at: usize) -> usize {
        self.text[..self.text.floor_char_boundary(at)].matches('\n').count() + 1
    }

    /// `FILE:LINE: sentence`, in the order in which they were made.
    pub(super) fn remarks(&self) -> Vec<String> {
        let place = |at: &Option<usize>| at.map(|at| format!(":{}", self.line(at))).unwrap_or_default();
        let remarks = self.remarks.borrow();
        remarks.iter().map(|(at, sentence)| format!("{}{}: {sentence}", self.file, place(at))).collect()
    }

    /// `FILE:LINE: sentence`, in the order of lines.
    pub(super) fn into_sentences(self) -> Vec<String> {
        let mut found = self.found.take();
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().map(|(at, sentence)| format!("{}:{}: {sentence}", self.file, self.line(at))).collect()
    }
}

impl<'a, 'p> Section<'a, 'p> {
    pub(super) fn new(name: &str, table: &'a DeTable<'a>, problems: &'p Problems<'p>) -> Self {
        Self { name: name.to_owned(), table, problems, known: Vec::new(), at: 0 }
    }

    fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn find(&self, key: &str) -> Option<(usize, &'a DeValue<'a>)> {
        self.table.get(key).map(|value| (value.span().start, value.get_ref()))
    }

    /// Where a key's value stands, where it is there.
    pub(super) fn place_of(&self, key: &str) -> Option<usize> {
        self.find(key).map(|(at, _)| at)
    }

    /// Where each entry of a key's list stands, where it is one.
    pub(super) fn places_in(&self, key: &str) -> Vec<usize> {
        let array = self.find(key).and_then(|(_, value)| value.as_array());
        array.map(|array| array.iter().map(|entry| entry.span().start).collect()).unwrap_or_default()
    }

    /// What is wrong with a key, or with a part of its value.
    pub(super) fn wrong(&self, key: &str, at: usize, why: &str) {
        self.problems.add(at, format!("{}: {why}", self.key(key)));
    }

    /// What is no mistake of a key, and worth a look.
    pub(super) fn remark(&self, key: &str, at: usize, what: &str) {
        self.problems.remark(Some(at), format!("{}: {what}", self.key(key)));
    }

    /// In which line that is.
    pub(super) fn line(&self, at: usize) -> usize {
        self.problems.line(at)
    }

    /// Reads a key into its place, where it is there.
    pub(super) fn set<T>(
        &mut self,
        key: &'static str,
        place: &mut T,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) {
        self.known.push(key);
        let Some((at, value)) = self.find(key) else { return };
        match read(value) {
            Ok(value) => *place = value,
            Err(why) => self.problems.add(at, format!("{}: {why}", self.key(key))),
        }
    }

    /// Reads each entry of a list of strings into its place, where it is there; what is wrong with one is told at its own place. Whether nothing is.
    pub(super) fn set_list<T, C: FromIterator<T>>(
        &mut self,
        key: &'static str,
        place: &mut C,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> bool {
        self.known.push(key);
        let Some((at, value)) = self.find(key) else { return true };
        let Some(array) = value.as_array() else {
            let hint = value.as_str().map(|text| format!(": write [{text:?}]")).unwrap_or_default();
            self.wrong(key, at, &format!("must be a list of strings, and is {}{hint}", what_it_is(value)));
            return false;
        };
        let mut is_good = true;
        let entries = array.iter().filter_map(|entry| match text(entry.get_ref()).and_then(&read) {
            Ok(entry) => Some(entry),
            Err(why) => {
                is_good = false;
                self.wrong(key, entry.span().start, &why);
                None
            }
        });
        let entries: C = entries.collect();
        if is_good {
            *place = entries;
        }
        is_good
    }

    /// A key that has to be there.
    pub(super) fn need(&self, key: &'static str) {
        if self.find(key).is_none() {
            self.problems.add(self.at, format!("[[{}]] has no {key:?}", self.name));
        }
    }

    /// Two keys of which neither is of use without the other.
    pub(super) fn both_or_none(&self, one: &'static str, other: &'static str) {
        for (here, missing) in [(one, other), (other, one)] {
            if let (Some((at, _)), None) = (self.find(here), self.find(missing)) {
                let sentence = format!("{} is of no use without {missing:?}; give both", self.key(here));
                self.problems.add(at, sentence);
            }
        }
    }

    /// A value that may stand only once in the file.
    pub(super) fn once(&self, key: &'static str, value: &str, what: &str) {
        let Some((at, _)) = self.find(key) else { return };
        if value.is_empty() {
            return;
        }
        let mut once = self.problems.once.borrow_mut();
        match once.get(value) {
            None => drop(once.insert(value.to_owned(), at)),
            Some(first) => {
                // Looked for only here: for each of ten thousand domains it would take seconds.
                let line = self.problems.line(*first);
                self.problems.add(at, format!("{what} {value:?} stands in line {line} already; join the two"));
            }
        }
    }

    /// Reads a table of its own, where it is there.
    pub(super) fn section(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'a, 'p>)) {
        self.known.push(key);
        let Some((at, value)) = self.find(key) else { return };
        let DeValue::Table(table) = value else {
            self.problems.add(at, format!("{} must be a table, [{}]", self.key(key), self.key(key)));
            return;
        };
        let mut section = Section::new(&self.key(key), table, self.problems);
        section.at = at;
        read(&mut section);
        section.finish();
    }

    /// Reads each of an array of tables; `read` has to finish them.
    pub(super) fn sections(&mut self, key: &'static str, mut read: impl FnMut(&mut Section<'a, 'p>)) {
        self.known.push(key);
        let Some((at, value)) = self.find(key) else { return };
        let wrong = || self.problems.add(at, format!("{0} must be an array of tables, [[{0}]]", self.key(key)));
        let DeValue::Array(array) = value else { return wrong() };
        for entry in array.iter() {
            let DeValue::Table(table) = entry.get_ref() else { return wrong() };
            let mut section = Section::new(key, table, self.problems);
            section.at = entry.span().start;
            read(&mut section);
        }
    }

    /// Whatever was not read is unknown.
    pub(super) fn finish(&self) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if !self.known.contains(&name) {
                let hint = did_you_mean(name, self.known.iter().copied());
                let place = if self.name.is_empty() { "here".to_owned() } else { format!("in [{}]", self.name) };
                self.problems.add(key.span().start, format!("there is no key {name:?} {place}{hint}"));
            }
        }
    }
}

/// `; did you mean "x"?`, where something is near enough.
pub(super) fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = known.map(|name| (strsim::damerau_levenshtein(word, name), name)).min();
    match near {
        Some((distance, name)) if distance <= 1 + name.len() / 4 => format!("; did you mean {name:?}?"),
        _ => String::new(),
    }
}

/// A value's type with its article.
pub(super) fn what_it_is(value: &DeValue<'_>) -> String {
    let kind = value.type_str();
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// A string.
pub(super) fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("must be a string in quotes, and is {}", what_it_is(value)))
}
