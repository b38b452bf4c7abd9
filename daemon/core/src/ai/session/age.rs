//! A session that nears the greatest age which providers allow: it is replaced in a quiet moment of ours, before theirs
//! comes in the middle of a word.
//!
//! It is given up like one that broke, and opened again with what was said (`recap`): there is no second way to go on.
//! The caller speaks or not, in the tenths of a second without a session her words are held and nothing of ours is
//! missing, as nothing was being said.

use std::time::{Duration, Instant};

use super::io::{Effect, Timer};
use super::{Phase, Session};
use crate::ai::verdict::Failure;
use crate::media::playout::Playout;
use crate::now::Now;

/// From this age on the next quiet moment is taken. OpenAI ends a session after 60 minutes (protocol reference §2.5), and
/// one that waited for its call was up to 5 minutes old by then.
const OLD: Duration = Duration::from_secs(45 * 60);
/// Nothing has come from the server for so long: no news of a turn is half told.
const CALM: Duration = Duration::from_secs(1);
/// At this age it is replaced whatever is being said: what is owed is asked for again.
const TOO_OLD: Duration = Duration::from_secs(52 * 60);

impl Session {
    /// When the session is too old.
    pub(super) fn aged_at(&self) -> Option<(Instant, Timer)> {
        let opened = self.opened.filter(|_| self.phase == Phase::Ready)?;
        Some((opened + TOO_OLD, Timer::Aged))
    }

    /// Replaces an old session if nobody would notice.
    pub(super) fn renew(&mut self, now: Now, playout: &Playout, out: &mut Vec<Effect>) {
        let old = self.opened.is_some_and(|opened| now.mono.saturating_duration_since(opened) >= OLD);
        let ours = self.spoken.is_some() || self.tools.leave.is_some() || !self.is_quiet(playout);
        let hers = self.caller_speaks || self.lane_hears_words().is_some() || self.answer_at().is_some();
        let calm = self.last_event.is_none_or(|last| now.mono.saturating_duration_since(last) >= CALM);
        if self.phase == Phase::Ready && old && calm && !ours && !hers {
            self.too_old(now, out);
        }
    }

    pub(super) fn too_old(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.fail(now, Failure::aged(), out);
    }
}
