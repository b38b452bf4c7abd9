//! Whether a trunk is there: asked with OPTIONS every so often (`[[trunk]] options_every`).
//!
//! Any answer counts as being there, also 404 or 405: it came from a SIP stack that runs. Only silence, 408 and 503
//! do not. The shell sends what [`Watch::due`] asks for and hands in how it ended.

use std::time::{Duration, Instant};

/// Unanswered questions in a row after which a trunk is down: one may be lost with a packet.
const MISSES: u32 = 2;
/// How often a trunk that is down is asked, if that is oftener than it is asked anyway.
const DOWN_EVERY: Duration = Duration::from_secs(10);

/// What is known of a trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is not asked, or was not yet.
    Unknown,
    /// It answered last time.
    Up,
    /// It does not answer.
    Down,
}

impl State {
    /// The word for status, log and metric.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// The watch over one trunk.
#[derive(Debug)]
pub struct Watch {
    every: Option<Duration>,
    next: Instant,
    asked: bool,
    misses: u32,
    state: State,
}

impl Watch {
    /// Begins; the first question is due `offset` later, so that trunks are not asked in one moment.
    #[must_use]
    pub fn new(now: Instant, every: Option<Duration>, offset: Duration) -> Self {
        Self { every, next: now + offset, asked: false, misses: 0, state: State::Unknown }
    }

    /// When the next question is due; `None` while one is open, or when the trunk is never asked.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        (self.every.is_some() && !self.asked).then_some(self.next)
    }

    /// Whether to ask now; each question must be closed by [`Watch::answered`].
    pub fn due(&mut self, now: Instant) -> bool {
        let due = self.deadline().is_some_and(|next| next <= now);
        self.asked |= due;
        due
    }

    /// A question ended: with a status code, or without an answer. Returns the new state when it has changed.
    pub fn answered(&mut self, now: Instant, code: Option<u16>) -> Option<State> {
        self.asked = false;
        let there = code.is_some_and(|code| code != 408 && code != 503);
        self.misses = if there { 0 } else { self.misses.saturating_add(1) };
        let every = self.every.unwrap_or(DOWN_EVERY);
        self.next = now + if there { every } else { every.min(DOWN_EVERY) };
        let state = match self.state {
            _ if there => State::Up,
            State::Up | State::Unknown if self.misses < MISSES => self.state,
            _ => State::Down,
        };
        let changed = state != self.state;
        self.state = state;
        changed.then_some(state)
    }

    /// What is known.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs some first moment")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn one_lost_answer_is_no_outage_and_two_are() {
        let (start, every) = (start(), Duration::from_secs(30));
        let mut watch = Watch::new(start, Some(every), Duration::from_secs(1));
        assert!(!watch.due(start));
        let mut now = start + Duration::from_secs(1);
        assert!(watch.due(now) && !watch.due(now), "one question at a time");
        assert_eq!(watch.answered(now, Some(404)), Some(State::Up));
        assert_eq!(watch.deadline(), Some(now + every));
        now += every;
        assert!(watch.due(now));
        assert_eq!((watch.answered(now, None), watch.state()), (None, State::Up));
        now += DOWN_EVERY;
        assert!(watch.due(now), "in doubt it is asked again soon");
        assert_eq!(watch.answered(now, Some(503)), Some(State::Down));
        now += DOWN_EVERY;
        assert!(watch.due(now));
        assert_eq!(watch.answered(now, Some(200)), Some(State::Up));
    }

    #[test]
    fn a_trunk_that_is_not_asked_stays_unknown() {
        let mut watch = Watch::new(start(), None, Duration::ZERO);
        assert!(watch.deadline().is_none() && !watch.due(start() + Duration::from_secs(3600)));
        assert_eq!(watch.state().label(), "unknown");
    }
}
