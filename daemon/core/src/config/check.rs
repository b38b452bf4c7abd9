//! From the text of the file to a [`Config`], or to every problem at once.
//!
//! The file is read section by section (`sections`), then judged as a whole (`cross`). A problem in one key never
//! hides another; only "is missing" is held back while the text itself is broken, since the missing key may stand
//! in the broken line. Driven by `sauti check`, by the daemon's start and by `simulate`.

use std::path::Path;

use secrecy::SecretString;
use toml::de::DeTable;

use super::file::{Book, Section};
use super::problem::Problems;
use super::{Config, cross, sections};

/// What a configuration depends on beside its text; the shell provides it.
pub struct Environment<'e> {
    /// The default of `[node] id`.
    pub host_name: &'e str,
    /// CPU cores; what `[media] threads = 0` is counted from.
    pub cores: usize,
    /// A secret by its name, if it was given.
    pub secrets: &'e dyn Fn(&str) -> Option<String>,
    /// The text of a file that the configuration names, or why it cannot be read.
    pub read_file: &'e dyn Fn(&Path) -> Result<String, String>,
}

/// Reads a configuration.
///
/// # Errors
///
/// All problems of the file and of the secrets that it needs, in the order of the file.
pub fn read(text: &str, environment: &Environment<'_>) -> Result<Config, Problems> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let book = Book::new(text);
    for error in &errors {
        let line = error.span().map(|span| book.line(&span));
        // the parser's own rendering would repeat the line, and a secret with it
        book.problem("", line, format!("is no TOML: {}", error.message()), "mend the line; text needs quotes");
    }
    let config = read_sections(environment, &book, table.get_ref(), errors.is_empty());
    cross::judge(&config, &book);
    let (problems, notes) = book.close();
    if problems.is_empty() { Ok(Config { notes, ..config }) } else { Err(Problems { problems, notes }) }
}

pub(super) fn read_sections<'d>(
    environment: &Environment<'_>,
    book: &Book<'d>,
    table: &DeTable<'d>,
    whole: bool,
) -> Config {
    let secrets = Secrets { environment, book };
    let context = Context { environment, book, secrets: &secrets, whole };
    sections::read(&context, Section::root(book, table))
}

/// What the readers of the sections share.
pub(super) struct Context<'c, 'd> {
    pub(super) environment: &'c Environment<'c>,
    pub(super) book: &'c Book<'d>,
    pub(super) secrets: &'c Secrets<'c, 'd>,
    /// True when the text was TOML throughout: only then is a missing key surely missing.
    pub(super) whole: bool,
}

/// The secrets, with the complaints about those that are missing.
pub(super) struct Secrets<'c, 'd> {
    environment: &'c Environment<'c>,
    book: &'c Book<'d>,
}

impl Secrets<'_, '_> {
    /// A secret that may be absent; white space at its ends is no part of it.
    pub(super) fn optional(&self, name: &str) -> Option<SecretString> {
        let secret = (self.environment.secrets)(name)?;
        let trimmed = secret.trim();
        if trimmed.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') || !trimmed.is_ascii() {
            let reason = "has white space or unprintable characters inside (its value is not shown)";
            self.book.problem(name, None, reason, "copy the secret again, in one piece and on one line");
            return None;
        }
        (!trimmed.is_empty()).then(|| SecretString::from(trimmed))
    }

    /// A secret that `section` cannot do without; an empty one stands in after the complaint.
    pub(super) fn required(&self, name: &str, section: &str) -> SecretString {
        let given = (self.environment.secrets)(name).is_some_and(|secret| !secret.trim().is_empty());
        if !given {
            let upper = name.to_ascii_uppercase();
            let fix = format!("give it as the systemd credential {name} or in the environment as SAUTI_{upper}");
            self.book.problem(name, None, format!("is missing; {section} needs this secret"), fix);
        }
        self.optional(name).unwrap_or_default()
    }

    /// Whether a secret was given.
    pub(super) fn is_set(&self, name: &str) -> bool {
        (self.environment.secrets)(name).is_some_and(|secret| !secret.trim().is_empty())
    }
}
