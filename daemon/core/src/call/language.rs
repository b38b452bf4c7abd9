//! Which language a call is answered in.
//!
//! Never derived from a number or a country prefix: a caller's own choice counts, else the box's order.

use crate::config::{Agent, Language, Texts};

/// The language of a call, with its texts.
///
/// `known` is the caller's own language, if anything has told us; it counts when there is a table for it. Else the
/// first of `preferred` (the `languages` of `[node]`) with a table. `None` only when none of them has one, which a
/// checked configuration excludes.
#[must_use]
pub fn of_call<'a>(known: Option<Language>, preferred: &[Language], agent: &'a Agent) -> Option<(Language, &'a Texts)> {
    known
        .into_iter()
        .chain(preferred.iter().copied())
        .find_map(|language| Some((language, agent.texts.get(&language)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(languages: &[Language]) -> Agent {
        let texts = |language: &Language| {
            let greeting = language.code().to_owned();
            (*language, Texts { greeting, ..Texts::default() })
        };
        Agent { texts: languages.iter().map(texts).collect(), ..Agent::default() }
    }

    fn chosen(known: Option<Language>, preferred: &[Language], tables: &[Language]) -> Option<Language> {
        of_call(known, preferred, &agent(tables)).map(|(language, texts)| {
            assert_eq!(texts.greeting, language.code());
            language
        })
    }

    #[test]
    fn a_callers_own_language_wins_when_there_are_texts_for_it() {
        use Language::{En, Fr, Rw, Sw};
        assert_eq!(chosen(Some(Sw), &[Rw, En], &[En, Rw, Sw]), Some(Sw));
        assert_eq!(chosen(Some(Sw), &[Rw, En], &[En, Rw]), Some(Rw));
        assert_eq!(chosen(None, &[Rw, En, Fr], &[En, Fr]), Some(En), "the first of the box's with a table");
        assert_eq!(chosen(None, &[Rw], &[En]), None);
    }
}
