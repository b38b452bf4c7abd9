//! Keys that the caller presses: collected until she is done, then told to the model as what she did.
//!
//! The Realtime API hears keys by itself only where OpenAI has the SIP leg; over a WebSocket they are an item of text
//! (protocol reference §1.3). A key is meant, as no cough is: what the AI says is cut off at once, as people press keys
//! to get on. A line that has to be heard out is, and so is a goodbye. Nobody answers before the last key: while the
//! caller speaks, the answer to her turn answers the keys too. What was pressed may be a PIN: it goes to the model and
//! nowhere else; the turn that is written down says how many keys it were.

use std::time::{Duration, Instant};

use super::io::{Effect, Line, Speaker, Turn};
use super::responses::Ask;
use super::{Phase, Session, recap};
use crate::ai::client::NewItem;
use crate::media::playout::Playout;
use crate::now::Now;
use crate::pii::Pii;

/// Quiet after a key that ends what is entered.
const ENTERED_AFTER: Duration = Duration::from_millis(1_500);
/// The key that ends it at once.
const ENTER: char = '#';
/// Keys that are taken in one go: a card number and more. What a stuck key adds is dropped.
const MOST: usize = 32;

/// What is being entered.
#[derive(Debug, Default)]
pub(super) struct Keys {
    entered: Pii,
    count: usize,
    /// When its first key came.
    began: Option<Now>,
    /// When it is complete.
    due: Option<Instant>,
}

impl Session {
    /// The caller pressed a key.
    pub(super) fn key(&mut self, now: Now, key: &Pii, playout: &mut Playout, out: &mut Vec<Effect>) {
        let mut signs = key.expose().chars();
        let (Some(sign), None) = (signs.next(), signs.next()) else { return };
        if self.takes_leave() {
            return;
        }
        self.patience.keyed(now.mono);
        self.keys.began.get_or_insert(now);
        let ends = sign == ENTER && self.keys.count > 0;
        if !ends && self.keys.count < MOST {
            self.keys.entered = Pii::new(format!("{}{sign}", self.keys.entered.expose()));
            self.keys.count += 1;
        }
        let alone = sign == ENTER;
        self.keys.due = Some(if ends || alone { now.mono } else { now.mono + ENTERED_AFTER });
        self.hush(now, playout, out);
        if ends || alone {
            self.entered(now, playout, out);
        }
    }

    /// When what was entered is complete; not before there is somebody to be told.
    pub(super) fn keys_at(&self) -> Option<Instant> {
        self.keys.due.filter(|_| self.phase == Phase::Ready)
    }

    /// It is complete: the model is told, and asked for the answer.
    pub(super) fn entered(&mut self, now: Now, playout: &mut Playout, out: &mut Vec<Effect>) {
        if self.phase != Phase::Ready {
            return;
        }
        let keys = std::mem::take(&mut self.keys);
        let Some(began) = keys.began else { return };
        let told = format!("[the caller pressed {} on the telephone; do not read it out]", keys.entered.expose());
        let turn =
            |text: String| Turn { who: Speaker::Caller, began, text: Pii::new(text), interrupted: false, heard: None };
        // A connection that has to be made anew is told as well; the ledger is not.
        self.recap.note(&turn(told.clone()));
        out.push(Effect::Turn(turn(format!("[keys: {}]", keys.count))));
        // What began in the meantime is about something else.
        self.hush(now, playout, out);
        let event_id = self.event_id("it");
        out.push(Effect::Send(recap::create(event_id, NewItem::caller(Pii::new(told)))));
        if self.caller_speaks {
            // Her turn is answered when it ends; if nobody does, as with a cough, the session asks.
            self.note_unanswered();
        } else if !self.takes_leave() {
            self.want_answer();
        }
    }

    /// Cuts off what the AI says, unless it is to be heard out.
    fn hush(&mut self, now: Now, playout: &mut Playout, out: &mut Vec<Effect>) {
        if !self.is_firm() && (self.active.is_some() || !playout.is_drained()) {
            self.interrupted_by(true, now, playout, out);
        }
    }

    /// A goodbye is being said, or will be next.
    fn takes_leave(&self) -> bool {
        let goodbye = |line: Line| line == Line::Goodbye;
        self.spoken.as_ref().is_some_and(|spoken| goodbye(spoken.line))
            || self.wanted.iter().any(|ask| matches!(ask, Ask::Say(line, _) if goodbye(*line)))
    }
}
