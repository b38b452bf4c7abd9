//! Takes numbers, addresses and names out of a text that readers elsewhere will see.
//!
//! Words alone, no model: what it does not know it leaves. Its limits, said plainly: a name counts only when the caller
//! introduced herself with it in one of our four languages, or when the text itself says "named" before it; a street
//! only when its kind stands beside it; a number when it has four digits or more, spoken or written, so that a year or
//! a price goes with it. The model is asked to leave all of it out as well ([`super::summary`]).

use std::collections::BTreeSet;

/// Digits from which on a number says who or where somebody is.
const TELLING: usize = 4;
/// Names that are remembered of one call.
const MOST_NAMES: usize = 32;

/// What stands in place of a number.
pub const NUMBER: &str = "[number]";
/// What stands in place of a street or a mail address.
pub const ADDRESS: &str = "[address]";
/// What stands in place of a name.
pub const NAME: &str = "[name]";

/// Phrases after which somebody's name stands, in lower case.
const CUES: [&str; 22] = [
    "my name is",
    "my name's",
    "name is",
    "i am called",
    "they call me",
    "named",
    "je m'appelle",
    "je m’appelle",
    "mon nom est",
    "moi c'est",
    "nommé",
    "nommée",
    "s'appelle",
    "jina langu ni",
    "ninaitwa",
    "naitwa",
    "anaitwa",
    "nitwa",
    "yitwa",
    "witwa",
    "izina ryanjye ni",
    "amazina yanjye ni",
];

/// Words that follow such a phrase without being a name.
const NO_NAMES: [&str; 20] = [
    "and", "the", "a", "not", "on", "in", "under", "it", "et", "pas", "la", "le", "na", "ni", "kwa", "ya", "mu", "ku",
    "so", "but",
];

/// Words that say "this is a street" in the places where the box stands.
const STREETS: [&str; 15] = [
    "street",
    "st",
    "road",
    "rd",
    "avenue",
    "ave",
    "lane",
    "boulevard",
    "rue",
    "umuhanda",
    "mtaa",
    "barabara",
    "triq",
    "kg",
    "kn",
];

/// Number words of our languages, with how many digits each stands for at least.
const SPOKEN: [(&str, usize); 79] = [
    ("zero", 1),
    ("oh", 1),
    ("one", 1),
    ("two", 1),
    ("three", 1),
    ("four", 1),
    ("five", 1),
    ("six", 1),
    ("seven", 1),
    ("eight", 1),
    ("nine", 1),
    ("ten", 2),
    ("eleven", 2),
    ("twelve", 2),
    ("thirteen", 2),
    ("fourteen", 2),
    ("fifteen", 2),
    ("sixteen", 2),
    ("seventeen", 2),
    ("eighteen", 2),
    ("nineteen", 2),
    ("twenty", 1),
    ("thirty", 1),
    ("forty", 1),
    ("fifty", 1),
    ("sixty", 1),
    ("seventy", 1),
    ("eighty", 1),
    ("ninety", 1),
    ("hundred", 1),
    ("thousand", 1),
    ("double", 1),
    ("triple", 2),
    ("zéro", 1),
    ("un", 1),
    ("deux", 1),
    ("trois", 1),
    ("quatre", 1),
    ("cinq", 1),
    ("sept", 1),
    ("huit", 1),
    ("neuf", 1),
    ("dix", 1),
    ("onze", 2),
    ("douze", 2),
    ("treize", 2),
    ("quatorze", 2),
    ("quinze", 2),
    ("seize", 2),
    ("vingt", 1),
    ("vingts", 1),
    ("trente", 1),
    ("quarante", 1),
    ("cinquante", 1),
    ("soixante", 1),
    ("cent", 1),
    ("mille", 1),
    ("sifuri", 1),
    ("moja", 1),
    ("mbili", 1),
    ("tatu", 1),
    ("nne", 1),
    ("tano", 1),
    ("sita", 1),
    ("saba", 1),
    ("nane", 1),
    ("tisa", 1),
    ("kumi", 1),
    ("zeru", 1),
    ("rimwe", 1),
    ("kabiri", 1),
    ("gatatu", 1),
    ("kane", 1),
    ("gatanu", 1),
    ("gatandatu", 1),
    ("karindwi", 1),
    ("umunani", 1),
    ("icyenda", 1),
    ("icumi", 1),
];

/// The names that a caller gave in one utterance, in lower case.
#[must_use]
pub fn names_in(utterance: &str) -> BTreeSet<String> {
    let words = split(utterance);
    let mut names = BTreeSet::new();
    for at in after_cues(&words) {
        for place in named(&words, at) {
            names.insert(words[place].plain());
        }
    }
    names
}

/// Adds the names of one utterance to those of a call, up to a bound.
pub fn remember_names(names: &mut BTreeSet<String>, utterance: &str) {
    let room = MOST_NAMES.saturating_sub(names.len());
    names.extend(names_in(utterance).into_iter().take(room));
}

/// The text without what it should not say; `names` are those of [`names_in`].
#[must_use]
pub fn redact(text: &str, names: &BTreeSet<String>) -> String {
    let words = split(text);
    let mut verdicts = vec![None; words.len()];
    mark_addresses(&words, &mut verdicts);
    mark_numbers(&words, &mut verdicts);
    for (word, verdict) in words.iter().zip(&mut verdicts) {
        if names.contains(&word.plain()) {
            *verdict = verdict.or(Some(NAME));
        }
    }
    for at in after_cues(&words) {
        for place in named(&words, at) {
            verdicts[place] = verdicts[place].or(Some(NAME));
        }
    }
    let mut written = String::new();
    for (place, (word, verdict)) in words.iter().zip(&verdicts).enumerate() {
        match verdict {
            None => written.push_str(word.whole),
            // One mark for a run of words that go for the same reason.
            Some(mark) => {
                let begins = place == 0 || verdicts[place - 1] != Some(*mark);
                if begins {
                    written.push_str(word.before());
                    written.push_str(mark);
                }
                if verdicts.get(place + 1) != Some(&Some(*mark)) {
                    written.push_str(word.after());
                }
            }
        }
    }
    written
}

/// A word with the white space behind it.
#[derive(Debug, Clone, Copy)]
struct Word<'a> {
    whole: &'a str,
}

impl<'a> Word<'a> {
    /// The word without punctuation around it.
    fn core(&self) -> &'a str {
        self.whole.trim_matches(|c: char| !c.is_alphanumeric())
    }

    fn plain(&self) -> String {
        let core = self.core().to_lowercase();
        core.strip_suffix("'s").or_else(|| core.strip_suffix("’s")).map_or_else(|| core.clone(), str::to_owned)
    }

    fn before(&self) -> &'a str {
        let length = self.whole.len() - self.whole.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '+').len();
        self.whole.get(..length).unwrap_or_default()
    }

    fn after(&self) -> &'a str {
        let kept = self.whole.trim_end_matches(|c: char| !c.is_alphanumeric()).len();
        self.whole.get(kept..).unwrap_or_default()
    }

    fn digits(&self) -> usize {
        self.whole.chars().filter(|c| c.is_numeric()).count()
    }

    /// Digits and what stands between the groups of a number, nothing else.
    fn is_figure(&self) -> bool {
        let core = self.core();
        self.digits() > 0 && core.chars().all(|c| c.is_numeric() || "-./,()+".contains(c))
    }

    /// How many digits its number words stand for; `None` when one of them is no number word.
    fn spoken(&self) -> Option<usize> {
        let plain = self.core().to_lowercase();
        let parts = plain.split(['-', ',']).filter(|part| !part.is_empty() && *part != "et");
        let mut total = None;
        for part in parts {
            let (_, digits) = SPOKEN.iter().find(|(word, _)| *word == part)?;
            total = Some(total.unwrap_or(0) + digits);
        }
        total
    }

    fn is_capitalised(&self) -> bool {
        self.core().chars().next().is_some_and(char::is_uppercase)
    }

    /// Something between it and the next word ends a phrase.
    fn ends_phrase(&self) -> bool {
        self.after().contains(['.', ',', ';', '!', '?', ':'])
    }
}

fn split(text: &str) -> Vec<Word<'_>> {
    text.split_inclusive(char::is_whitespace).map(|whole| Word { whole }).collect()
}

/// Places of the words behind each phrase that introduces a name.
fn after_cues(words: &[Word<'_>]) -> Vec<usize> {
    let plain: Vec<String> = words.iter().map(|word| word.core().to_lowercase()).collect();
    let mut places = Vec::new();
    for cue in CUES {
        let cue: Vec<&str> = cue.split(' ').collect();
        for at in 0..plain.len().saturating_sub(cue.len()) {
            if plain.iter().skip(at).zip(&cue).all(|(word, cue)| word == cue) {
                places.push(at + cue.len());
            }
        }
    }
    places
}

/// The words of a name that begins at `at`: the first one however it is written, and capitalised ones after it.
fn named(words: &[Word<'_>], at: usize) -> Vec<usize> {
    let mut places = Vec::new();
    for (place, word) in words.iter().enumerate().skip(at).take(3) {
        let plain = word.plain();
        if plain.chars().count() < 2 || NO_NAMES.contains(&plain.as_str()) || word.digits() > 0 {
            break;
        }
        if place > at && !word.is_capitalised() {
            break;
        }
        places.push(place);
        if word.ends_phrase() {
            break;
        }
    }
    places
}

fn mark_numbers(words: &[Word<'_>], verdicts: &mut [Option<&'static str>]) {
    let mut place = 0;
    while place < words.len() {
        let (mut end, mut digits) = (place, 0);
        while let Some(word) = words.get(end) {
            if let Some(spoken) = word.spoken() {
                digits += spoken;
            } else if word.is_figure() {
                digits += word.digits();
            } else if !(end > place && matches!(word.plain().as_str(), "and" | "et" | "na" | "")) {
                break;
            }
            end += 1;
        }
        // A connecting word at the end belongs to what follows.
        while end > place && words[end - 1].spoken().is_none() && !words[end - 1].is_figure() {
            end -= 1;
        }
        if digits >= TELLING {
            for verdict in verdicts.iter_mut().take(end).skip(place) {
                *verdict = verdict.or(Some(NUMBER));
            }
        } else if words[place].digits() >= TELLING && !words[place].whole.contains(':') {
            // Digits inside a word, as in a booking code; a time of the day is none.
            verdicts[place] = verdicts[place].or(Some(NUMBER));
        }
        place = end.max(place + 1);
    }
}

fn mark_addresses(words: &[Word<'_>], verdicts: &mut [Option<&'static str>]) {
    for place in 0..words.len() {
        let word = words[place];
        let core = word.core();
        if core.contains('@') && core.contains('.') {
            verdicts[place] = Some(ADDRESS);
        }
        if !STREETS.contains(&word.plain().as_str()) {
            continue;
        }
        let belongs = |word: &Word<'_>| word.is_capitalised() || word.digits() > 0;
        let behind =
            words.iter().take(place).rev().take_while(|word| belongs(word) && !word.ends_phrase()).take(4).count();
        let ahead = if word.ends_phrase() {
            0
        } else {
            let mut over = false;
            words
                .iter()
                .skip(place + 1)
                .take_while(|word| belongs(word) && !std::mem::replace(&mut over, word.ends_phrase()))
                .take(4)
                .count()
        };
        // "down the road" names no place.
        if behind + ahead > 0 {
            for verdict in verdicts.iter_mut().take(place + ahead + 1).skip(place - behind) {
                *verdict = Some(ADDRESS);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        redact(text, &BTreeSet::new())
    }

    #[test]
    fn numbers_go_however_they_are_written() {
        for number in [
            "250780000001",
            "+250 780 000 001",
            "0780-000-001",
            "078 000.00.01",
            "zero seven eight zero, zero zero zero",
            "zéro sept quatre-vingt-dix-huit douze",
            "sifuri saba nane sifuri",
            "zeru karindwi umunani zeru",
            "double seven four and nine",
        ] {
            let text = format!("The caller wants a call back at {number}, tomorrow.");
            assert_eq!(plain(&text), "The caller wants a call back at [number], tomorrow.", "{number}");
        }
        assert_eq!(plain("Booking AB12345 is late."), "Booking [number] is late.");
    }

    #[test]
    fn what_is_no_such_number_stays() {
        for text in ["A table for two at 10:30.", "Three teas, one coffee and two cakes.", "It costs 500 francs."] {
            assert_eq!(plain(text), text);
        }
    }

    #[test]
    fn addresses_go() {
        assert_eq!(plain("She writes from test.caller@example.org today."), "She writes from [address] today.");
        assert_eq!(plain("Pick up at 12 KG 7 Ave, at noon."), "Pick up at [address], at noon.");
        assert_eq!(plain("He waits at 5 Rue Victor Hugo."), "He waits at [address].");
        assert_eq!(plain("It is down the road."), "It is down the road.");
    }

    #[test]
    fn a_name_that_the_caller_gave_goes_in_every_language() {
        for (said, name) in [
            ("Hello, my name is Test Caller and I need a ride.", "Test Caller"),
            ("Bonjour, je m'appelle Aline.", "Aline"),
            ("Jina langu ni Juma Hassan.", "Juma Hassan"),
            ("Nitwa Uwase, ndashaka imodoka.", "Uwase"),
            ("my name is bosco", "Bosco"),
        ] {
            let summary = format!("{name} asks for a ride. Call {name}'s driver.");
            let shown = redact(&summary, &names_in(said));
            assert!(name.split(' ').all(|part| !shown.contains(part)), "{shown}");
            assert!(shown.starts_with("[name] asks for a ride."), "{shown}");
        }
        assert_eq!(plain("A man named Peter Pan asks."), "A man named [name] asks.");
        assert!(names_in("My name is not on the list.").is_empty());
    }

    #[test]
    fn names_of_a_call_are_bounded() {
        let mut names = BTreeSet::new();
        for n in 0..200_u8 {
            remember_names(
                &mut names,
                &format!("my name is A{}", char::from(b'a' + n % 26).to_string().repeat(usize::from(n))),
            );
        }
        assert!(names.len() <= MOST_NAMES);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic_and_no_long_number_survives(text in "\\PC{0,200}", number in "[0-9]{4,16}") {
            let shown = redact(&format!("{text} {number} {text}"), &names_in(&text));
            proptest::prop_assert!(!shown.split_whitespace().any(|word| word == number));
        }
    }
}
