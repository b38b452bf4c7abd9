//! Whether the server still hears the caller.
//!
//! While she speaks a server has nothing to say, so a socket that went dead in her sentence looks like a long sentence:
//! she would end it and wait in silence until the link's slow heartbeat found out. So the server is asked for a sign of
//! life whenever somebody is heard to speak and nothing has come from it for a moment. What does not answer is deaf: the
//! caller is told to wait, and a connection that stays deaf is given up. Any message is a sign as good as the answer.

use std::time::{Duration, Instant};

use super::io::{Effect, Timer};
use super::{Phase, Session};
use crate::ai::verdict::{Code, Failure};
use crate::now::Now;

/// Silence of the server, while the caller speaks, after which it is asked.
const ASK_AFTER: Duration = Duration::from_millis(700);
/// How long the answer may take before the caller is told to wait: three round trips to a model 250 ms away.
const DEAF_AFTER: Duration = Duration::from_millis(1_500);
/// How long it may take before the connection is given up: a stall of a few seconds passes.
const GONE_AFTER: Duration = Duration::from_secs(8);

/// What the server's silence amounts to.
#[derive(Debug, Default)]
pub(super) struct Signs {
    last: Option<Instant>,
    /// It was asked and has not answered.
    asked: Option<Instant>,
    /// It has not answered for so long that nobody can be taken to listen.
    pub(super) deaf: bool,
}

impl Session {
    /// Something came from the server.
    pub(super) fn sign_of_life(&mut self, now: Now) {
        self.signs.last = Some(now.mono);
        self.signs.asked = None;
        if std::mem::take(&mut self.signs.deaf) && self.caller_speaks {
            self.patience.heard_again();
        }
    }

    /// When the server is asked, and what follows if it does not answer.
    pub(super) fn sign_at(&self) -> Option<(Instant, Timer)> {
        if self.phase != Phase::Ready {
            return None;
        }
        match self.signs.asked {
            Some(asked) if self.signs.deaf => Some((asked + GONE_AFTER, Timer::Gone)),
            Some(asked) => Some((asked + DEAF_AFTER, Timer::Deaf)),
            None => {
                let words = self.lane_hears_words();
                if !self.caller_speaks && words.is_none() {
                    return None;
                }
                let since = self.signs.last.map(|last| last + ASK_AFTER).or(words)?;
                Some((since, Timer::Ask))
            }
        }
    }

    /// One of those times has come.
    pub(super) fn no_sign(&mut self, now: Now, timer: Timer, out: &mut Vec<Effect>) {
        match timer {
            Timer::Ask => {
                self.signs.asked = Some(now.mono);
                out.push(Effect::AskAlive);
            }
            Timer::Deaf => {
                self.signs.deaf = true;
                self.patience.unheard(now.mono);
            }
            _ => self.fail(now, Failure::broken(Code::known("no_sign_of_life")), out),
        }
    }
}
