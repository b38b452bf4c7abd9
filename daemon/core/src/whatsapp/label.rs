//! A short word from the network that may be shown: the name of an unknown event, a status, a trace id.
//!
//! It is no place for free text: what could be a number, a name or an address is blotted out on the way in.

use std::fmt;

/// Longest label kept, in characters; names of Meta's fields and events stay well below.
const LONGEST: usize = 64;

/// A run of digits this long could be a phone number or an account, so it is blotted out.
const TELLING_DIGITS: usize = 7;

/// A name from the wire, fit for log and ledger: ASCII letters, digits and `_ - . :`, at most 64 characters.
///
/// Any other character becomes `?`, a run of seven or more digits becomes `#`; a label of a label is the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Label(String);

impl Label {
    /// Makes a label of any text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut kept = String::new();
        let mut digits = String::new();
        for letter in text.chars().take(LONGEST).map(Some).chain([None]) {
            if let Some(digit) = letter.filter(char::is_ascii_digit) {
                digits.push(digit);
                continue;
            }
            if digits.len() >= TELLING_DIGITS {
                kept.push('#');
            } else {
                kept.push_str(&digits);
            }
            digits.clear();
            let plain = |letter: char| letter.is_ascii_alphabetic() || "_-.:#".contains(letter);
            kept.extend(letter.map(|letter| if plain(letter) { letter } else { '?' }));
        }
        Self(kept)
    }

    /// The text, safe to show.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_events_pass_unchanged() {
        for name in ["call_created", "account_update", "RESTRICTED_USER_INITIATED_CALLING", "v26.0", "Az8or2_-x"] {
            assert_eq!(Label::new(name).as_str(), name);
        }
    }

    #[test]
    fn numbers_and_free_text_are_blotted_out() {
        assert_eq!(Label::new("call from 250780000001!").as_str(), "call?from?#?");
        assert_eq!(Label::new("RW.13491208655302741918").as_str(), "RW.#");
        assert_eq!(Label::new("250780000001").as_str(), "#");
        assert_eq!(Label::new("{\"a\":1}\n\0").as_str(), "??a?:1???");
    }

    #[test]
    fn a_label_is_never_longer_than_sixty_four_characters() {
        assert_eq!(Label::new(&"x".repeat(5000)).as_str().len(), 64);
        assert_eq!(Label::new(&"é".repeat(5000)).as_str().len(), 64);
    }
}
