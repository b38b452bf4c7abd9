//! What goes wrong at the model's side: failed responses, error events, the loss of the session.

use super::io::{Effect, Odd};
use super::responses::{Active, Ask};
use super::{ABANDONED, Phase, RETRY_AFTER, Session, Unfinished};
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
            self.fail(now, Failure::refused(shown), out);
            return false;
        }
        if self.failures > 0 {
            self.fail(now, Failure::broken(shown), out);
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
            ErrorClass::Fatal => return self.fail(now, Failure::refused(shown), out),
            ErrorClass::Expired => return self.fail(now, Failure::broken(shown), out),
            ErrorClass::Bug | ErrorClass::Transient if matches!(self.phase, Phase::Opening { .. }) => {
                let retry = class == ErrorClass::Transient;
                return self.fail(now, Failure { loss: Loss::Broken, code: shown, retry }, out);
            }
            _ => {}
        }
        out.push(Effect::Odd(Odd::Error { class, code: shown, param }));
        if busy && event_id.is_none() {
            self.turn_owed = None;
            self.answer_refused();
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
        } else if let Some(active) = self.active {
            // The server was quicker with an answer of its own: a second one would be heard after it.
            let answered = requested.ask == Ask::Answer
                && self.responses.get_mut(active.response).is_some_and(|it| it.ask.is_none() && !it.discarded);
            if !answered {
                self.wanted.insert(0, requested.ask);
            }
        } else {
            self.retry = Some((now.mono + RETRY_AFTER, requested.ask));
        }
    }

    /// A response was asked for and nothing is to be heard of it: asks once more, then gives the connection up.
    pub(super) fn no_audio(&mut self, now: Now, out: &mut Vec<Effect>) {
        let discarded = |active: Active| self.responses.get(active.response).is_none_or(|response| response.discarded);
        if self.active.is_some_and(discarded) {
            // Its end was lost on the way; nobody waits for it.
            self.active = None;
            return;
        }
        if self.stalls > 0 {
            self.fail(now, Failure::broken(Code::known("no_audio")), out);
            return;
        }
        self.stalls += 1;
        self.progress = Some(now.mono);
        if let Some(active) = self.active
            && let Some(response) = self.responses.get_mut(active.response)
        {
            let ask = response.ask.take();
            // The end of what is cancelled is not the end of the line that is asked for anew.
            if let Some(spoken) = self.spoken.as_mut().filter(|spoken| spoken.response == Some(active.response)) {
                spoken.response = None;
            }
            self.discard_active(true, out);
            self.wanted.insert(0, ask.unwrap_or(Ask::Answer));
        } else if let Some(requested) = self.requested.take() {
            if self.abandoned.len() >= ABANDONED {
                self.abandoned.remove(0);
            }
            self.abandoned.push(requested.event_id);
            self.wanted.insert(0, requested.ask);
        } else if self.turn_owed.take().is_some() {
            self.wanted.insert(0, Ask::Answer);
        }
    }

    pub(super) fn fail(&mut self, now: Now, failure: Failure, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Failed | Phase::Ended) {
            return;
        }
        // A connection that was lost before it was ready leaves what the one before it left.
        if self.phase == Phase::Ready {
            self.unfinished = Some(self.unfinished());
        }
        self.phase = Phase::Failed;
        self.active = None;
        self.requested = None;
        self.turn_owed = None;
        self.retry = None;
        self.wanted.clear();
        self.abandoned.clear();
        (self.stalls, self.failures, self.progress) = (0, 0, None);
        // What was said into a deaf connection has its word of patience behind it.
        if !std::mem::take(&mut self.signs).deaf {
            // Nobody will say that she stopped.
            self.patience.caller_stopped(now.mono);
        }
        self.caller_speaks = false;
        self.forget_the_model();
        out.push(Effect::Failed(failure));
    }

    /// What the caller would miss if nobody took it up again.
    fn unfinished(&mut self) -> Unfinished {
        let answers = |ask: Option<&Ask>| !matches!(ask, Some(Ask::Say(..)));
        let active = self.active.is_some_and(|active| {
            self.responses
                .get(active.response)
                .is_some_and(|response| !response.discarded && answers(response.ask.as_ref()))
        });
        let requested = self.requested.as_ref().is_some_and(|requested| answers(Some(&requested.ask)));
        let retry = self.retry.as_ref().is_some_and(|(_, ask)| answers(Some(ask)));
        let wanted = self.wanted.iter().any(|ask| answers(Some(ask)));
        let words_lost = self.transcripts.cut_off() || self.signs.deaf;
        let speaks = self.caller_speaks || self.signs.deaf;
        let answer = active || requested || retry || wanted || self.turn_owed.is_some() || speaks;
        Unfinished { answer, words_lost }
    }
}
