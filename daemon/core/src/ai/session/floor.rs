//! Who has the floor, as two of them heard it: the lane and the model.
//!
//! Used where the box judges interruptions (`interrupt_response = false`). The lane pauses by itself and says what it
//! hears; only when it heard words and the model heard speech, in either order, is the AI cut off. The model alone cuts
//! nothing: it cannot tell the caller from her loudspeaker, the lane can. The lane alone cuts nothing either: a turn
//! that the server did not hear has nobody who answers it; the lane goes on after a while. A turn over the AI of which
//! the lane heard no words is no turn: what the server says to it is dropped.

use std::time::{Duration, Instant};

use super::io::{Effect, Line};
use super::responses::Ask;
use super::{Phase, Session};
use crate::ai::events::ResponseStatus;
use crate::media::floor::Overlap;
use crate::media::playout::Playout;
use crate::now::Now;
use crate::pii::Pii;

/// How long the word of one waits for the other's: a model 300 ms away takes that, twice, and its own onset.
const TOGETHER: Duration = Duration::from_millis(1_500);
/// How long a server may take to begin an answer after the caller is quiet, before it is asked for one.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What is known of the caller's side.
#[derive(Debug, Default)]
pub(super) struct Caller {
    /// The lane hears the caller at all.
    judged: bool,
    /// The lane heard a sound over the AI.
    over_at: Option<Instant>,
    /// The lane hears words now; and when it did last.
    speaks: bool,
    words_at: Option<Instant>,
    /// The model hears speech now; and when it said so last, or said the end of it.
    model_hears: bool,
    model_at: Option<Instant>,
    /// The turn that the model hears began over the AI; both have heard it.
    over: bool,
    confirmed: bool,
    /// What the server begins next answers a turn that was none.
    unwanted: bool,
    /// The caller was given the floor, and nobody has begun to answer.
    unanswered: bool,
    quiet_at: Option<Instant>,
    /// A line that is heard to its end whatever the caller says.
    firm: Option<(Line, Pii)>,
}

fn lately(at: Option<Instant>, now: Now) -> bool {
    at.is_some_and(|at| now.mono.saturating_duration_since(at) <= TOGETHER)
}

impl Session {
    /// Says that a lane hears the caller and pauses the AI by itself: its word is waited for. Where nothing of the box
    /// hears the caller, the model's word alone cuts the AI off.
    pub const fn judge_with_lane(&mut self, yes: bool) {
        self.caller.judged = yes;
    }

    /// The lane heard something of the caller.
    pub(super) fn overlap(&mut self, now: Now, overlap: Overlap, playout: &mut Playout, out: &mut Vec<Effect>) {
        if self.interrupts {
            return;
        }
        let caller = &mut self.caller;
        caller.judged = true;
        match overlap {
            Overlap::Began => {
                caller.over_at = Some(now.mono);
                caller.over |= caller.model_hears;
            }
            Overlap::Words => {
                caller.speaks = true;
                caller.words_at = Some(now.mono);
            }
            Overlap::Ended { .. } if caller.speaks => {
                caller.speaks = false;
                caller.words_at = Some(now.mono);
            }
            Overlap::Ended { .. } => out.push(Effect::Resume),
        }
        self.confirm(now, playout, out);
    }

    /// The model hears the caller.
    pub(super) fn model_hears(&mut self, now: Now, playout: &mut Playout, out: &mut Vec<Effect>) {
        let sounds = !playout.is_drained();
        if self.interrupts || !self.caller.judged {
            if !self.is_firm() {
                self.caller.unanswered |= sounds || self.active.is_some();
                self.interrupted(now, playout, out);
            }
            self.caller.model_hears = true;
            return;
        }
        let caller = &mut self.caller;
        caller.model_hears = true;
        caller.model_at = Some(now.mono);
        caller.confirmed = false;
        caller.over = sounds || lately(caller.over_at, now);
        if !sounds && self.active.is_none() {
            self.interrupted(now, playout, out);
        }
        self.confirm(now, playout, out);
    }

    /// The model hears nothing any more.
    pub(super) fn model_heard_the_end(&mut self, now: Now) {
        let caller = &mut self.caller;
        caller.model_hears = false;
        caller.model_at = Some(now.mono);
        caller.quiet_at = Some(now.mono);
        if caller.confirmed && !caller.speaks {
            // These words had their turn.
            caller.words_at = None;
        }
    }

    /// Since when the lane has been hearing words, if it does.
    pub(super) fn lane_hears_words(&self) -> Option<Instant> {
        self.caller.words_at.filter(|_| self.caller.speaks)
    }

    /// The connection is lost: what the model heard is gone, and nothing that it would say is to be dropped.
    pub(super) const fn forget_the_model(&mut self) {
        let caller = &mut self.caller;
        (caller.model_hears, caller.model_at) = (false, None);
        (caller.over, caller.unwanted, caller.unanswered) = (false, false, false);
    }

    /// Cuts the AI off once both have heard the caller.
    fn confirm(&mut self, now: Now, playout: &mut Playout, out: &mut Vec<Effect>) {
        let caller = &mut self.caller;
        let words = caller.speaks || lately(caller.words_at, now);
        let model = caller.model_hears || lately(caller.model_at, now);
        if caller.confirmed || !words || !model {
            return;
        }
        caller.confirmed = true;
        if self.is_firm() || (playout.is_drained() && self.active.is_none()) {
            return;
        }
        self.caller.unanswered = true;
        self.interrupted(now, playout, out);
    }

    /// A turn was committed of which the lane heard no words, over the AI: nobody is to answer it.
    pub(super) fn is_no_turn(&mut self, now: Now) -> bool {
        let (interrupts, creates) = (self.interrupts, self.creates);
        let caller = &mut self.caller;
        let over = std::mem::take(&mut caller.over);
        let words = caller.confirmed || caller.speaks || lately(caller.words_at, now);
        if interrupts || !caller.judged || !over || words {
            caller.unwanted = false;
            return false;
        }
        caller.unwanted = creates;
        true
    }

    /// The server may leave the turn unanswered that was committed while a response ran.
    pub(super) const fn note_unanswered(&mut self) {
        self.caller.unanswered = true;
    }

    /// A response began: true when nobody wants it, as it answers a turn that was none.
    pub(super) fn is_unwanted(&mut self, by_server: bool) -> bool {
        if by_server && std::mem::take(&mut self.caller.unwanted) {
            return true;
        }
        self.caller.unanswered = false;
        false
    }

    /// The server could not begin an answer beside a response that runs.
    pub(super) fn answer_refused(&mut self) {
        if !std::mem::take(&mut self.caller.unwanted)
            && std::mem::take(&mut self.caller.unanswered)
            && !self.wanted.contains(&Ask::Answer)
        {
            self.wanted.push(Ask::Answer);
        }
    }

    /// When a caller who was given the floor, and whom nobody answers, is to be answered after all.
    pub(super) fn answer_at(&self) -> Option<Instant> {
        let caller = &self.caller;
        let asked = self.requested.is_some() || self.retry.is_some() || !self.wanted.is_empty();
        let comes = asked || self.active.is_some() || self.turn_owed.is_some();
        if self.phase != Phase::Ready || !caller.unanswered || caller.model_hears || caller.speaks || comes {
            return None;
        }
        Some(caller.quiet_at? + ANSWER_WITHIN)
    }

    /// [`Session::answer_at`] has come.
    pub(super) fn answer_now(&mut self) {
        self.caller.unanswered = false;
        self.wanted.push(Ask::Answer);
    }

    /// A line that is heard to its end: neither paused nor cut.
    pub(super) fn say_firmly(&mut self, now: Now, line: Line, text: Pii, playout: &mut Playout, out: &mut Vec<Effect>) {
        self.say(now, line, text.clone(), playout, out);
        self.caller.firm = Some((line, text));
    }

    pub(super) fn is_firm(&self) -> bool {
        self.caller.firm.is_some() && self.spoken.is_some()
    }

    /// The server cut a firm line off by itself, as it does where it judges: it is said again. True then.
    pub(super) fn say_again(&mut self, response: u64, status: ResponseStatus) -> bool {
        let (Some((line, text)), Some(spoken)) = (self.caller.firm.clone(), self.spoken.as_mut()) else { return false };
        if status != ResponseStatus::Cancelled || spoken.response != Some(response) {
            return false;
        }
        (spoken.response, spoken.done) = (None, None);
        self.wanted.insert(0, Ask::Say(line, text));
        true
    }

    /// Marks what must not be paused, after each input.
    pub(super) fn mark_firm(&mut self, playout: &mut Playout) {
        if self.caller.firm.is_none() {
            return;
        }
        match &self.spoken {
            Some(spoken) => playout.set_firm(spoken.response),
            None => {
                self.caller.firm = None;
                playout.set_firm(None);
            }
        }
    }
}
