//! Tools that the model calls: the one that every line needs, hanging up, and handing the caller to a person.
//!
//! Each call is answered exactly once, at once, with its result or with what is wrong with it; a call that a cut-off
//! response left is answered as well, as the server's history would be broken without. The answer to all results
//! of a response is asked for once, when the response is done: that is the sequencer's (`Session::ask`).

use std::time::{Duration, Instant};

use super::io::Effect;
use super::responses::Ask;
use super::{Session, recap};
use crate::ai::client::{ClientEvent, END_CALL, NewItem, TRANSFER};
use crate::ai::events::ToolCall;
use crate::media::playout::Playout;
use crate::now::Now;
use crate::pii::Pii;

/// Air after the last word before the line is dead: a network's worth, so that the word is heard.
const LAST_WORD_AIR: Duration = Duration::from_millis(300);
/// Calls that are remembered, against repetition.
const REMEMBERED: usize = 16;

/// The result of a tool that does what it is asked to.
const OK: &str = r#"{"ok":true}"#;

/// What the model wants once its words were heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// End the call.
    HangUp,
    /// Hand the caller to a person.
    HandOver,
}

/// Whether the caller may be handed to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HandOver {
    /// Nobody is there: the model has no such tool.
    #[default]
    Nobody,
    /// She may.
    Possible,
    /// Somebody is there, and not for this call; the model is told why.
    Refused(&'static str),
}

/// The model leaves the call.
#[derive(Debug)]
pub(super) struct Leave {
    pub(super) then: Then,
    /// It was asked for a word, as it had said none.
    asked: bool,
    /// Since when all that it said has been heard.
    heard_at: Option<Instant>,
}

/// What is known of the model's tool calls.
#[derive(Debug, Default)]
pub(super) struct Tools {
    answered: Vec<String>,
    pub(super) hand_over: HandOver,
    /// The caller is being handed on: the model neither hears nor speaks.
    pub(super) away: bool,
    pub(super) leave: Option<Leave>,
}

impl Session {
    /// The model calls a tool.
    pub(super) fn tool_call(&mut self, now: Now, call: &ToolCall<'_>, playout: &mut Playout, out: &mut Vec<Effect>) {
        let response = self.response_seen(now, &call.response_id, None, playout, out);
        if self.tools.answered.iter().any(|id| *id == call.call_id) {
            return;
        }
        if self.tools.answered.len() >= REMEMBERED {
            self.tools.answered.remove(0);
        }
        self.tools.answered.push(call.call_id.clone().into_owned());
        let discarded = self.responses.get(response).is_none_or(|response| response.discarded);
        let output = if discarded {
            r#"{"error":"the caller spoke; do what is wanted now"}"#.to_owned()
        } else if call.name == END_CALL {
            self.leave(Then::HangUp);
            OK.to_owned()
        } else if call.name == TRANSFER && self.tools.hand_over == HandOver::Possible {
            self.leave(Then::HandOver);
            OK.to_owned()
        } else if let (TRANSFER, HandOver::Refused(why)) = (&*call.name, self.tools.hand_over) {
            out.push(Effect::TransferRefused);
            self.want_answer();
            format!(r#"{{"error":"{why}"}}"#)
        } else {
            self.want_answer();
            r#"{"error":"there is no such tool"}"#.to_owned()
        };
        let item = NewItem::FunctionCallOutput { call_id: call.call_id.clone().into_owned(), output: Pii::new(output) };
        let event_id = self.event_id("it");
        out.push(Effect::Send(ClientEvent::ItemCreate { event_id, item }));
    }

    const fn leave(&mut self, then: Then) {
        self.tools.leave = Some(Leave { then, asked: false, heard_at: None });
    }

    /// The last words were heard.
    pub(super) fn left(&mut self, now: Instant, out: &mut Vec<Effect>) {
        match self.tools.leave.take().map(|leave| leave.then) {
            Some(Then::HangUp) => out.push(Effect::Concluded),
            Some(Then::HandOver) => {
                self.tools.away = true;
                self.patience.hold(now, true);
                out.push(Effect::Transfer);
            }
            None => {}
        }
    }

    /// Nobody took the caller: the model is told, and says so.
    pub(super) fn missed(&mut self, now: Instant, why: &str, out: &mut Vec<Effect>) {
        if !std::mem::take(&mut self.tools.away) {
            return;
        }
        self.patience.hold(now, false);
        let text =
            format!("The transfer did not work. {why} Tell the caller so, and offer to help as well as you can.");
        let event_id = self.event_id("it");
        out.push(Effect::Send(recap::create(event_id, NewItem::system(Pii::new(text)))));
        self.want_answer();
    }

    /// Owes an answer once, however often it is asked for.
    pub(super) fn want_answer(&mut self) {
        if !self.wanted.contains(&Ask::Answer) {
            self.wanted.push(Ask::Answer);
        }
    }

    /// The response in which the model took leave is done: nobody leaves without a word.
    pub(super) fn leave_after(&mut self, completed: bool, said_something: bool) {
        let Some(leave) = &mut self.tools.leave else { return };
        if !completed {
            self.tools.leave = None;
        } else if !said_something && !leave.asked {
            leave.asked = true;
            self.want_answer();
        }
    }

    /// When the call is to end, once the last word was heard.
    pub(super) fn leave_at(&self) -> Option<Instant> {
        self.tools.leave.as_ref()?.heard_at.map(|at| at + LAST_WORD_AIR)
    }

    /// Notes that all of the last words was heard.
    pub(super) fn note_leave(&mut self, now: Instant, playout: &Playout) {
        let quiet = self.is_quiet(playout);
        if let Some(leave) = &mut self.tools.leave {
            leave.heard_at = quiet.then(|| leave.heard_at.unwrap_or(now));
        }
    }
}
