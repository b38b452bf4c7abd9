//! Tools that the model calls: today the one that every line needs, hanging up.
//!
//! Each call is answered exactly once, at once, with its result or with what is wrong with it; a call that a cut-off
//! response left is answered as well, as the server's history would be broken without. The answer to all results
//! of a response is asked for once, when the response is done: that is the sequencer's (`Session::ask`).

use std::time::{Duration, Instant};

use super::Session;
use super::io::Effect;
use super::responses::Ask;
use crate::ai::client::{ClientEvent, END_CALL, NewItem};
use crate::ai::events::ToolCall;
use crate::media::playout::Playout;
use crate::now::Now;
use crate::pii::Pii;

/// Air after the last word before the line is dead: a network's worth, so that the word is heard.
const LAST_WORD_AIR: Duration = Duration::from_millis(300);
/// Calls that are remembered, against repetition.
const REMEMBERED: usize = 16;

/// The model wants to end the call.
#[derive(Debug, Default)]
pub(super) struct Leave {
    /// It was asked to say goodbye, as it had not.
    asked: bool,
    /// Since when all that it said has been heard.
    heard_at: Option<Instant>,
}

/// What is known of the model's tool calls.
#[derive(Debug, Default)]
pub(super) struct Tools {
    answered: Vec<String>,
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
            r#"{"error":"the caller spoke; do what is wanted now"}"#
        } else if call.name == END_CALL {
            self.tools.leave = Some(Leave::default());
            r#"{"ok":true}"#
        } else {
            self.want_answer();
            r#"{"error":"there is no such tool"}"#
        };
        let item = NewItem::FunctionCallOutput { call_id: call.call_id.clone().into_owned(), output: Pii::new(output) };
        let event_id = self.event_id("it");
        out.push(Effect::Send(ClientEvent::ItemCreate { event_id, item }));
    }

    /// Owes an answer once, however often it is asked for.
    pub(super) fn want_answer(&mut self) {
        if !self.wanted.contains(&Ask::Answer) {
            self.wanted.push(Ask::Answer);
        }
    }

    /// The response in which the model took leave is done: a leave without a word is not one.
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
