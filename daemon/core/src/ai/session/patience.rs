//! How long the caller has been hearing nothing, and what is done about it: a word of patience while an answer is
//! owed, a question when nothing is owed and nobody speaks.
//!
//! It measures silence at the caller's ear, not at the server: audio that waits in the reservoir is sound to come.
//! What is said is the driver's (a clip, a line); here is only when.

use std::time::{Duration, Instant};

use super::io::Silence;

/// Silence before the first word of patience. With the second after it no wait is dead air for 4 s.
const FIRST_WORD: Duration = Duration::from_millis(2500);
/// Silence after a word of patience before the next one.
const NEXT_WORD: Duration = Duration::from_millis(3500);
/// No live turn is shorter than the silence that ends it (200 ms is the least that a server can be told).
const SHORTEST_TURN: Duration = Duration::from_millis(200);
/// How often a silent caller is asked before the call is ended.
const QUESTIONS: u8 = 1;

/// Watches the silence of one call.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// How long nobody says anything before the caller is asked; `None` = never.
    pub(super) still_there_after: Option<Duration>,
    /// When the server says that she stopped she has been silent for so long already.
    silence_ends_turn: Duration,
    /// Frames reach the caller.
    on_air: bool,
    /// She is on hold: whatever is said now nobody hears.
    held: bool,
    caller_speaks: bool,
    began: Option<Instant>,
    /// The last moment at which either side was heard.
    sound: Option<Instant>,
    /// Nothing of ours was heard since the caller spoke or the call was accepted: any wait has lasted since then.
    hers: bool,
    /// Since when something of ours is waited for.
    waits_since: Option<Instant>,
    words: u8,
    questions: u8,
    left: bool,
}

/// What the silence has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Say that it takes a moment.
    Word,
    /// Nobody speaks.
    Silence(Silence),
}

impl Patience {
    /// When the server says that the caller stopped, she has been silent for `silence_ends_turn` already.
    pub(super) fn new(silence_ends_turn: Duration) -> Self {
        Self { silence_ends_turn, ..Self::default() }
    }

    pub(super) fn on_air(&mut self, now: Instant) {
        self.on_air = true;
        (self.sound, self.hers) = (Some(now), true);
    }

    /// Says after each input whether something of ours is waited for.
    pub(super) fn waits(&mut self, now: Instant, waiting: bool) {
        self.waits_since = if waiting { self.waits_since.or(Some(now)) } else { None };
    }

    pub(super) fn hold(&mut self, now: Instant, held: bool) {
        self.held = held;
        if self.sound.is_some() {
            self.sound = Some(now);
        }
    }

    pub(super) fn caller_began(&mut self, now: Instant) {
        self.caller_speaks = true;
        self.began = Some(now);
        self.questions = 0;
        self.words = 0;
        self.left = false;
    }

    pub(super) fn caller_stopped(&mut self, now: Instant) {
        let began = self.began.take();
        // A server that is told of both at once hears late what she said long ago: her wait has begun already.
        let live = began.is_none_or(|began| now.saturating_duration_since(began) >= SHORTEST_TURN);
        if self.caller_speaks && live {
            (self.sound, self.hers) = (now.checked_sub(self.silence_ends_turn).or(Some(now)), true);
        }
        self.caller_speaks = false;
    }

    /// She pressed a key: she is there, and waits from now on.
    pub(super) fn keyed(&mut self, now: Instant) {
        (self.questions, self.words, self.left) = (0, 0, false);
        if self.sound.is_some() {
            (self.sound, self.hers) = (Some(now), true);
        }
    }

    /// Nobody hears the caller, whatever she says: she is told to wait, at once unless something of ours is being heard.
    pub(super) fn unheard(&mut self, now: Instant) {
        self.caller_speaks = false;
        (self.sound, self.hers) = (now.checked_sub(FIRST_WORD).or(self.sound), true);
    }

    /// Somebody heard the caller all the time, and she still speaks.
    pub(super) const fn heard_again(&mut self) {
        self.caller_speaks = true;
    }

    /// The model's own audio came.
    pub(super) const fn answered(&mut self) {
        self.words = 0;
    }

    /// Something is being heard at this moment.
    pub(super) const fn sounds(&mut self, now: Instant) {
        (self.sound, self.hers) = (Some(now), false);
    }

    /// When [`Patience::fire`] is due; `waiting` while the model owes an answer.
    pub(super) fn deadline(&self, waiting: bool) -> Option<Instant> {
        let since = self.sound.filter(|_| self.on_air && !self.held && !self.caller_speaks)?;
        if waiting {
            // A silence in which nobody waited is none of the wait.
            let since = self.waits_since.filter(|_| !self.hers).map_or(since, |waits| waits.max(since));
            return Some(since + if self.words == 0 { FIRST_WORD } else { NEXT_WORD });
        }
        self.still_there_after.filter(|_| !self.left).map(|after| since + after)
    }

    /// Its time has come: says what is to be done, and counts anew.
    pub(super) fn fire(&mut self, now: Instant, waiting: bool) -> Due {
        (self.sound, self.hers) = (Some(now), false);
        if waiting {
            self.words = self.words.saturating_add(1);
            return Due::Word;
        }
        if self.questions < QUESTIONS {
            self.questions += 1;
            return Due::Silence(Silence::Ask);
        }
        self.left = true;
        Due::Silence(Silence::Leave)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    fn patience() -> (Patience, Instant) {
        let now = Instant::now();
        let mut patience = Patience { still_there_after: Some(ms(12_000)), ..Patience::default() };
        assert_eq!(patience.deadline(true), None, "nobody hears anything before the call is accepted");
        patience.on_air(now);
        (patience, now)
    }

    #[test]
    fn a_wait_is_never_silent_for_four_seconds() {
        let (mut patience, mut now) = patience();
        for _ in 0..5 {
            let due = patience.deadline(true).unwrap();
            assert!(due - now < ms(4_000));
            now = due;
            assert_eq!(patience.fire(now, true), Due::Word);
        }
        patience.answered();
        assert_eq!(patience.deadline(true), Some(now + FIRST_WORD));
    }

    #[test]
    fn a_wait_counts_from_its_beginning_and_not_from_a_silence_before_it() {
        let (mut patience, now) = patience();
        patience.sounds(now);
        let line = now + ms(10_000);
        patience.waits(line, true);
        assert_eq!(patience.deadline(true), Some(line + FIRST_WORD));
        // A caller waits since her own last word, however late the server says that it owes her something.
        patience.waits(line, false);
        patience.caller_began(now);
        patience.caller_stopped(line);
        patience.waits(line + ms(900), true);
        assert_eq!(patience.deadline(true), Some(line + FIRST_WORD));
    }

    #[test]
    fn a_caller_who_says_nothing_is_asked_once_and_then_left() {
        let (mut patience, now) = patience();
        let asked = patience.deadline(false).unwrap();
        assert_eq!(asked, now + ms(12_000));
        assert_eq!(patience.fire(asked, false), Due::Silence(Silence::Ask));
        patience.sounds(asked + ms(1_500));
        let left = patience.deadline(false).unwrap();
        assert_eq!(left, asked + ms(13_500));
        assert_eq!(patience.fire(left, false), Due::Silence(Silence::Leave));
        assert_eq!(patience.deadline(false), None);
        assert_eq!(patience.deadline(true), Some(left + FIRST_WORD), "the last words may take long as well");
    }

    #[test]
    fn she_has_been_silent_for_as_long_as_it_takes_the_server_to_be_sure() {
        let (mut patience, now) = patience();
        patience.silence_ends_turn = ms(500);
        patience.caller_began(now);
        patience.caller_stopped(now + ms(2_000));
        assert_eq!(patience.deadline(true), Some(now + ms(1_500) + FIRST_WORD));
    }

    #[test]
    fn a_caller_who_speaks_is_neither_asked_nor_told_to_wait() {
        let (mut patience, now) = patience();
        patience.fire(now, false);
        patience.caller_began(now);
        assert_eq!(patience.deadline(false), None);
        assert_eq!(patience.deadline(true), None);
        patience.caller_stopped(now + ms(30_000));
        assert_eq!(patience.deadline(false), Some(now + ms(42_000)));
        assert_eq!(patience.fire(now + ms(42_000), false), Due::Silence(Silence::Ask), "asked anew");
    }
}
