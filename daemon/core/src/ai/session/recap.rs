//! What was said so far, kept for a session that has to be opened again: a new one knows nothing (protocol
//! reference §2.5).

use std::collections::VecDeque;
use std::time::Instant;

use super::io::{Speaker, Turn};
use crate::ai::client::{ClientEvent, NewItem};
use crate::pii::Pii;

/// Turns that are replayed: more would be billed with every answer and help little.
const MOST_TURNS: usize = 40;
/// Bytes of text that are replayed; a turn that is longer by itself is left out.
const MOST_BYTES: usize = 8 * 1024;

const GO_ON: &str = "This call goes on after a short interruption of the line. The caller was greeted already: do \
     not greet and do not introduce yourself again. Stay in the language of the conversation so far.";
const WORDS_LOST: &str =
    " What the caller said last did not reach you: say so in a few words and ask for it once more.";

/// The latest turns, as heard, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct Recap {
    turns: VecDeque<(Instant, Speaker, Pii)>,
    bytes: usize,
}

impl Recap {
    pub(super) fn note(&mut self, turn: &Turn) {
        let length = turn.text.expose().len();
        if length > MOST_BYTES {
            return;
        }
        // The words of a caller become known later than those of the answer.
        let began = turn.began.mono;
        let place = self.turns.iter().rposition(|(at, ..)| *at <= began).map_or(0, |place| place + 1);
        self.turns.insert(place, (began, turn.who, turn.text.clone()));
        self.bytes += length;
        while self.turns.len() > MOST_TURNS || self.bytes > MOST_BYTES {
            if let Some((_, _, text)) = self.turns.pop_front() {
                self.bytes -= text.expose().len();
            }
        }
    }

    /// The items that make a new session know what was said: the turns, what is `under_way` at the caller's ear,
    /// and how to go on. `words_lost` when the caller's latest words never became text.
    pub(super) fn items(&self, under_way: Vec<Pii>, words_lost: bool) -> impl Iterator<Item = NewItem> {
        let agent = under_way.into_iter().map(|text| (Speaker::Agent, text));
        let said = self.turns.iter().map(|(_, who, text)| (*who, text.clone())).chain(agent);
        let how = Pii::new(format!("{GO_ON}{}", if words_lost { WORDS_LOST } else { "" }));
        let turns = said.map(|(who, text)| match who {
            Speaker::Caller => NewItem::caller(text),
            Speaker::Agent => NewItem::agent(text),
        });
        turns.chain(std::iter::once(NewItem::system(how)))
    }
}

/// The event that adds an item.
pub(super) const fn create(event_id: String, item: NewItem) -> ClientEvent {
    ClientEvent::ItemCreate { event_id, item }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::now::Now;

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    fn turn(text: &str) -> Turn {
        let began = Now { mono: Instant::now(), wall: Timestamp::UNIX_EPOCH };
        Turn { who: Speaker::Caller, began, text: Pii::new(text), interrupted: false, heard: None }
    }

    #[test]
    fn the_oldest_turns_go_first_and_the_bounds_hold() {
        let mut recap = Recap::default();
        for number in 0..500 {
            recap.note(&turn(&format!("{number} {}", "x".repeat(number))));
            assert!(recap.turns.len() <= MOST_TURNS && recap.bytes <= MOST_BYTES);
        }
        recap.note(&turn(&"y".repeat(MOST_BYTES + 1)));
        assert!(recap.turns.back().unwrap().2.expose().starts_with("499 "));
    }
}
