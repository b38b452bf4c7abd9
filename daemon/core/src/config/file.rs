//! The TOML as it stands in the file: tables that are read key by key, remembering what was asked for.
//!
//! serde stops at its first error and knows no line for the second; here every key is looked at, each complaint
//! keeps its place, and a key that nobody asked for is unknown, with the nearest known one named. [`super::check`]
//! drives it. Nothing here knows what a key means.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Note, Problem};

/// Why a value cannot be used, and what to write.
#[derive(Debug)]
pub(super) struct Complaint {
    /// Completes "path: value …".
    pub(super) reason: String,
    /// An instruction.
    pub(super) fix: String,
    /// False when the value must not be repeated.
    pub(super) show: bool,
}

impl Complaint {
    pub(super) fn new(reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { reason: reason.into(), fix: fix.into(), show: true }
    }

    /// The same without repeating the value.
    pub(super) fn hidden(self) -> Self {
        Self { show: false, ..self }
    }
}

/// Where problems and notes are gathered while a file is read.
#[derive(Debug)]
pub(super) struct Book<'d> {
    text: &'d str,
    problems: RefCell<Vec<Problem>>,
    notes: RefCell<Vec<Note>>,
    places: RefCell<BTreeMap<String, Option<usize>>>,
}

impl<'d> Book<'d> {
    pub(super) const fn new(text: &'d str) -> Self {
        Self {
            text,
            problems: RefCell::new(Vec::new()),
            notes: RefCell::new(Vec::new()),
            places: RefCell::new(BTreeMap::new()),
        }
    }

    pub(super) fn push(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// A problem without a value.
    pub(super) fn problem(&self, path: &str, line: Option<usize>, reason: impl Into<String>, fix: impl Into<String>) {
        let (reason, fix) = (reason.into(), fix.into());
        self.push(Problem { path: path.to_owned(), line, value: None, reason, fix, nearest: None });
    }

    pub(super) fn note(&self, path: &str, text: impl Into<String>) {
        self.notes.borrow_mut().push(Note { path: path.to_owned(), text: text.into() });
    }

    /// The line of a key that was read, when it stands in the file.
    pub(super) fn place(&self, path: &str) -> Option<usize> {
        self.places.borrow().get(path).copied().flatten()
    }

    /// Keys that were asked for and do not stand in the file.
    #[cfg(test)]
    pub(super) fn never_found(&self) -> Vec<String> {
        let places = self.places.borrow();
        places.iter().filter(|(_, line)| line.is_none()).map(|(path, _)| path.clone()).collect()
    }

    /// True when nothing was said against any of `paths`: only then can they be compared with each other.
    pub(super) fn is_sound(&self, paths: &[&str]) -> bool {
        !self.problems.borrow().iter().any(|problem| paths.contains(&problem.path.as_str()))
    }

    /// The line, counted from 1, in which `span` begins.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        before.split(|byte| *byte == b'\n').count()
    }

    /// All that was gathered, in the order of the lines; what has no line comes last.
    pub(super) fn close(self) -> (Vec<Problem>, Vec<Note>) {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        (problems, self.notes.into_inner())
    }
}

/// One table of the file, or the place where an absent one would stand.
#[derive(Debug)]
pub(super) struct Section<'d, 'b> {
    book: &'b Book<'d>,
    path: String,
    line: Option<usize>,
    table: Option<&'b DeTable<'d>>,
    known: RefCell<Vec<&'static str>>,
}

/// A value that was read, with its place, for the checks that look at several.
#[derive(Debug, Clone)]
pub(super) struct Given<T> {
    /// The value.
    pub(super) value: T,
    /// Its dotted path.
    pub(super) path: String,
    /// Its line; `None` when it is a default.
    pub(super) line: Option<usize>,
}

impl<'d, 'b> Section<'d, 'b> {
    /// The file itself.
    pub(super) const fn root(book: &'b Book<'d>, table: &'b DeTable<'d>) -> Self {
        Self { book, path: String::new(), line: None, table: Some(table), known: RefCell::new(Vec::new()) }
    }

    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    pub(super) const fn line(&self) -> Option<usize> {
        self.line
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value behind `key`, which counts as known from now on.
    fn entry(&self, key: &'static str) -> Option<(usize, &'b Spanned<DeValue<'d>>)> {
        self.known.borrow_mut().push(key);
        let found = self.table.and_then(|table| table.iter().find(|(name, _)| name.get_ref().as_ref() == key));
        let found = found.map(|(name, value)| (self.book.line(&name.span()), value));
        self.book.places.borrow_mut().insert(self.path_of(key), found.map(|(line, _)| line));
        found
    }

    /// True when the key stands in the file; it is not marked as known by this.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.iter().any(|(name, _)| name.get_ref().as_ref() == key))
    }

    /// A table inside this one; absent ones give their defaults all the same.
    pub(super) fn section(&self, key: &'static str) -> Self {
        let (line, table) = match self.entry(key) {
            Some((line, value)) => {
                if let DeValue::Table(table) = value.get_ref() {
                    (Some(line), Some(table))
                } else {
                    let fix = format!("write a table: [{}]", self.path_of(key));
                    self.book.problem(&self.path_of(key), Some(line), wrong_kind(value.get_ref(), "a table"), fix);
                    (Some(line), None)
                }
            }
            None => (None, None),
        };
        Section { book: self.book, path: self.path_of(key), line, table, known: RefCell::new(Vec::new()) }
    }

    /// The tables of an array of tables, `[[key]]`.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Self> {
        let Some((line, value)) = self.entry(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let fix = format!("write [[{}]] above each of them", self.path_of(key));
            self.book.problem(&self.path_of(key), Some(line), wrong_kind(value.get_ref(), "a list of tables"), fix);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(key));
            let line = Some(self.book.line(&item.span()));
            if let DeValue::Table(table) = item.get_ref() {
                let known = RefCell::new(Vec::new());
                sections.push(Section { book: self.book, path, line, table: Some(table), known });
            } else {
                let reason = wrong_kind(item.get_ref(), "a table");
                self.book.problem(&path, line, reason, format!("write [[{key}]] above each of them"));
            }
        }
        sections
    }

    /// Reads a key; `None` when it is absent or cannot be used, and then the complaint is in the book.
    pub(super) fn read<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Complaint>,
    ) -> Option<Given<T>> {
        let (line, value) = self.entry(key)?;
        let (path, line) = (self.path_of(key), Some(line));
        match parse(value.get_ref()) {
            Ok(value) => Some(Given { value, path, line }),
            Err(complaint) => {
                let value = (complaint.show && !hides(key, value.get_ref())).then(|| shown(value.get_ref()));
                let Complaint { reason, fix, .. } = complaint;
                self.book.push(Problem { path, line, value, reason, fix, nearest: None });
                None
            }
        }
    }

    /// Reads a key that has a default.
    pub(super) fn read_or<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Complaint>,
        default: impl FnOnce() -> T,
    ) -> Given<T> {
        self.read(key, parse).unwrap_or_else(|| Given { value: default(), path: self.path_of(key), line: None })
    }

    /// A problem with one of this table's keys that only shows beside others; `key` may be absent.
    pub(super) fn complain(&self, key: &str, reason: impl Into<String>, fix: impl Into<String>) {
        let line = self.line_of(key).or(self.line);
        self.book.problem(&self.path_of(key), line, reason, fix);
    }

    /// True when nothing was said against any of this table's `keys`.
    pub(super) fn is_sound(&self, keys: &[&str]) -> bool {
        let paths: Vec<_> = keys.iter().map(|key| self.path_of(key)).collect();
        self.book.is_sound(&paths.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn line_of(&self, key: &str) -> Option<usize> {
        let (name, _) = self.table?.iter().find(|(name, _)| name.get_ref().as_ref() == key)?;
        Some(self.book.line(&name.span()))
    }

    /// Reports every key that was never asked for. Call it when all known keys were read.
    pub(super) fn finish(self) {
        let Some(table) = self.table else { return };
        let known = self.known.borrow();
        for (name, value) in table {
            let key = name.get_ref().as_ref();
            if !known.contains(&key) {
                self.unknown(key, self.book.line(&name.span()), value.get_ref(), &known);
            }
        }
    }

    fn unknown(&self, key: &str, line: usize, value: &DeValue<'_>, known: &[&'static str]) {
        let (path, line) = (self.path_of(key), Some(line));
        let secret_value = value.as_str().is_some_and(looks_like_secret);
        if secret_value || looks_like_secret_key(key) {
            let reason = "secrets never stand in the file";
            let name = super::SECRETS.iter().find(|secret| **secret == key).copied().unwrap_or("NAME");
            let fix = format!(
                "take the line out, change the secret if others could read it, and give it as the systemd \
                 credential {name} or in the environment as SAUTI_{}",
                name.to_ascii_uppercase()
            );
            self.book.push(Problem { path, line, value: None, reason: reason.to_owned(), fix, nearest: None });
            return;
        }
        let place = if self.path.is_empty() { "the file".to_owned() } else { format!("[{}]", self.path) };
        let nearest = nearest(key, known);
        let fix = nearest.map_or_else(
            || format!("take it out; known here: {}", known.join(", ")),
            |nearest| format!("did you mean {nearest}?"),
        );
        let kind = if matches!(value, DeValue::Table(_)) { "table" } else { "key" };
        let (reason, nearest) = (format!("is no {kind} of {place}"), nearest.map(str::to_owned));
        self.book.push(Problem { path, line, value: None, reason, fix, nearest });
    }
}

/// The known key that `key` resembles most, if it resembles any.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(key, candidate), *candidate))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// "is a string, not a whole number", for the reason of a problem.
pub(super) fn wrong_kind(value: &DeValue<'_>, wanted: &str) -> String {
    let kind = match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    format!("is {kind} where {wanted} belongs")
}

/// A value as a reader would recognise it, in one short line.
fn shown(value: &DeValue<'_>) -> String {
    const LONGEST: usize = 60;
    let whole = match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(_) => "the list".to_owned(),
        DeValue::Table(_) => "the table".to_owned(),
    };
    if whole.chars().count() <= LONGEST {
        return whole;
    }
    whole.chars().take(LONGEST).chain(['…']).collect()
}

/// True when a value must not be repeated in a report: its key or the value itself looks like a secret.
fn hides(key: &str, value: &DeValue<'_>) -> bool {
    looks_like_secret_key(key) || value.as_str().is_some_and(|text| looks_like_secret(text) || text.contains('@'))
}

/// True for the names of secrets and for keys that end like one.
fn looks_like_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "_");
    super::SECRETS.contains(&key.as_str())
        || ["token", "secret", "password", "passwd", "api_key", "apikey", "box_key", "credential", "credentials"]
            .iter()
            .any(|end| key.ends_with(end))
}

/// True for texts that begin as the tokens and keys of the services that we talk to.
pub(super) fn looks_like_secret(text: &str) -> bool {
    const BEGINNINGS: [&str; 7] = ["sk-", "ek_", "EAA", "whsec_", "Bearer ", "postgres://", "postgresql://"];
    let text = text.trim_start();
    BEGINNINGS.iter().any(|beginning| text.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_named_and_a_stranger_has_none() {
        let known = ["opus_bitrate", "opus_complexity", "ports"];
        assert_eq!(nearest("opus_compexity", &known), Some("opus_complexity"));
        assert_eq!(nearest("port", &known), Some("ports"));
        assert_eq!(nearest("wibble", &known), None);
    }

    #[test]
    fn keys_and_values_that_look_like_secrets_are_known() {
        for key in
            ["openai_api_key", "whatsapp-access-token", "Password", "trunk_mtn_password", "verify_token", "box_key"]
        {
            assert!(looks_like_secret_key(key), "{key}");
        }
        for key in ["key", "certificate", "max_output_tokens", "path"] {
            assert!(!looks_like_secret_key(key), "{key}");
        }
        assert!(looks_like_secret("sk-proj-1"));
        assert!(!looks_like_secret("marin"));
    }
}
