//! What is wrong with a configuration, told so that it can be put right: where, what, why, and what to write.
//!
//! A problem never carries the value of a secret, nor of a key that looks like one: whoever builds it leaves
//! `value` out. Problems are collected, never thrown one by one.

use std::fmt;

/// One thing that must be changed before the box can start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the key, `media.ports` or `price[0].audio_in`; the name itself for a secret; empty for text
    /// that is no TOML.
    pub path: String,
    /// Line in the file, counted from 1, when it is known.
    pub line: Option<usize>,
    /// The value as it was written, when it may be shown.
    pub value: Option<String>,
    /// Why it cannot be used; completes the sentence that path and value begin.
    pub reason: String,
    /// What to write instead, as an instruction.
    pub fix: String,
    /// For an unknown key: the known one that it resembles most.
    pub nearest: Option<String>,
}

impl Problem {
    /// The sentence: path, value if any, and reason.
    #[must_use]
    pub fn sentence(&self) -> String {
        match (&self.path, &self.value) {
            (path, _) if path.is_empty() => self.reason.clone(),
            (path, Some(value)) => format!("{path}: {value} {}", self.reason),
            (path, None) => format!("{path}: {}", self.reason),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.sentence(), self.fix)
    }
}

/// Something worth knowing that does not keep the box from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What it is about: a key or the name of a variable.
    pub path: String,
    /// What to know.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.text)
    }
}

/// Every problem of one configuration, in the order of the file, and the notes that came up beside them.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
#[error("the configuration has {} problem(s)", .problems.len())]
pub struct Problems {
    /// Never empty when it stands for a refusal.
    pub problems: Vec<Problem>,
    /// Beside the problems.
    pub notes: Vec<Note>,
}

impl Problems {
    /// The report as plain text: two lines for each problem, a count at the end.
    ///
    /// `file` is how the reader knows the file; `paint` may colour the parts, see [`Part`].
    #[must_use]
    pub fn report(&self, file: &str, paint: &dyn Fn(Part, &str) -> String) -> String {
        let mut text = String::new();
        for problem in &self.problems {
            let place = problem.line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
            let (place, sentence) = (paint(Part::Place, &place), paint(Part::Sentence, &problem.sentence()));
            let fix = paint(Part::Fix, "fix:");
            text.push_str(&format!("{place}: {sentence}\n    {fix} {}\n", problem.fix));
        }
        match self.problems.len() {
            1 => text.push_str("1 problem\n"),
            count => text.push_str(&format!("{count} problems\n")),
        }
        text
    }
}

/// A part of the report, for colouring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// File and line.
    Place,
    /// What is wrong.
    Sentence,
    /// The word before the remedy.
    Fix,
}
