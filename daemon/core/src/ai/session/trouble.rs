//! What goes wrong at the model's side: failed responses, error events, the loss of the session.

use super::io::{Effect, Odd};
use super::responses::Ask;
use super::{Phase, RETRY_AFTER, Session};
use crate::ai::verdict::{Code, ErrorClass, Failure, Loss, classify};
use crate::now::Now;

impl Session {
    /// Silence instead of an answer: asks once more, then gives the session up. True while it goes on.
    pub(super) fn failed_response(
        &mut self,
        now: Now,
        code: Option<&Code>,
        kind: Option<&Code>,
        ask: Ask,
        out: &mut Vec<Effect>,
    ) -> bool {
        let class = classify(code, kind);
        let shown = code.or(kind).cloned().unwrap_or_else(|| Code::known("response_failed"));
        if class == ErrorClass::Fatal {
            self.fail(Failure::refused(shown), out);
            return false;
        }
        if self.failures > 0 {
            self.fail(Failure::broken(shown), out);
            return false;
        }
        self.failures += 1;
        self.retry = Some((now.mono + RETRY_AFTER, ask));
        true
    }

    pub(super) fn error(
        &mut self,
        now: Now,
        code: Option<Code>,
        kind: Option<Code>,
        param: Option<Code>,
        event_id: Option<&str>,
        out: &mut Vec<Effect>,
    ) {
        let mut class = classify(code.as_ref(), kind.as_ref());
        let is = |word: &str| code.as_ref().is_some_and(|code| code.as_str() == word);
        // A truncate that lost a race with the server's own clock says `invalid_value`; nothing of ours is wrong.
        let of_ours = |prefix: &str| event_id.is_some_and(|id| id.starts_with(prefix));
        if class == ErrorClass::Bug && (of_ours("tr_") || of_ours("dl_") || of_ours("rx_")) {
            class = ErrorClass::Benign;
        }
        let busy = is("conversation_already_has_active_response");
        let shown = code.clone().or_else(|| kind.clone()).unwrap_or_else(|| Code::known("other"));
        let about_request = self.requested.as_ref().is_some_and(|requested| match event_id {
            Some(id) => requested.event_id == id,
            None => busy || class == ErrorClass::Transient,
        });
        match class {
            ErrorClass::Fatal => return self.fail(Failure::refused(shown), out),
            ErrorClass::Expired => return self.fail(Failure::broken(shown), out),
            ErrorClass::Bug | ErrorClass::Transient if matches!(self.phase, Phase::Opening { .. }) => {
                let retry = class == ErrorClass::Transient;
                return self.fail(Failure { loss: Loss::Broken, code: shown, retry }, out);
            }
            _ => {}
        }
        out.push(Effect::Odd(Odd::Error { class, code: shown, param }));
        if busy && event_id.is_none() {
            self.turn_owed = None;
        }
        if !about_request {
            // The server was to answer by itself and could not.
            if class == ErrorClass::Transient && event_id.is_none() && self.turn_owed.take().is_some() {
                self.failed_response(now, code.as_ref(), kind.as_ref(), Ask::Answer, out);
            }
            return;
        }
        let Some(requested) = self.requested.take() else { return };
        if !busy {
            self.failed_response(now, code.as_ref(), kind.as_ref(), requested.ask, out);
        } else if self.active.is_some() {
            self.wanted.insert(0, requested.ask);
        } else {
            self.retry = Some((now.mono + RETRY_AFTER, requested.ask));
        }
    }

    pub(super) fn fail(&mut self, failure: Failure, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Failed | Phase::Ended) {
            return;
        }
        self.phase = Phase::Failed;
        self.active = None;
        self.requested = None;
        self.turn_owed = None;
        self.retry = None;
        self.wanted.clear();
        out.push(Effect::Failed(failure));
    }
}
