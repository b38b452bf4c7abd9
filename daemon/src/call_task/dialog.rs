//! What the dialog of a call by SIP tells its task: hang-ups, keys, holds, new offers.

use std::time::Duration;

use sauti_core::ai::session;
use sauti_core::call::machine::Input;
use sauti_core::call::transfer::Input as ToTransfer;
use sauti_core::pii::Pii;

use super::{CallTask, Done};
use crate::door::{fault_at, further_event, is_whatsapp};
use crate::obs::logging::Field;
use crate::sip::{Broken, DialogError, DialogEvent, NO_ACK, NO_ACK_META, Reply};

/// A way that keys come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyPath {
    /// RFC 4733.
    Rtp,
    /// INFO.
    Info,
}

/// Whose dialog it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Caller,
    /// Whom the caller is handed to.
    Person,
}

impl Side {
    /// How long to wait when both sides offered at once: 0 to 2 s for a call that came, 2.1 to 4 s for one that we made
    /// (RFC 3261 §14.1).
    const fn waits_after_glare(self) -> Duration {
        match self {
            Self::Caller => Duration::from_millis(1_500),
            Self::Person => Duration::from_secs(3),
        }
    }
}

impl CallTask {
    /// Takes an event of the dialog; `None` when the dialog is gone. Mostly it has said why before; a BYE ahead of the
    /// answer ends it without a word. After the answer the media tell when she has gone.
    pub(super) async fn dialog_event(&mut self, event: Option<DialogEvent>) {
        let Some(event) = event else {
            self.events = None;
            if self.accepted.is_none() {
                self.input(Input::Terminated { failure: None });
            }
            return;
        };
        if matches!(event, DialogEvent::Confirmed { .. }) {
            self.note_answer();
        }
        match event {
            DialogEvent::Cancelled | DialogEvent::Bye => {
                // She may have heard something since the last tick.
                self.note_consumed();
                self.input(Input::Terminated { failure: None });
            }
            DialogEvent::Confirmed { sdp: Some(sdp) } => {
                // The answer to the offer that went out with our 200.
                let taken = self.leg.as_mut().map(|leg| leg.accept_answer(sdp.expose()));
                match taken {
                    Some(Ok(agreed)) => self.hold(agreed.held),
                    Some(Err(error)) => {
                        self.leg_trouble(&error);
                        self.input(Input::LegRefused(fault_at(self.setup.door(), error.fault())));
                    }
                    None => {}
                }
            }
            DialogEvent::NoAck => {
                let remedy = if is_whatsapp(self.setup.door()) { NO_ACK_META } else { NO_ACK };
                self.trouble("ack", &[(Field::Reason, "no_ack".into()), (Field::Remedy, remedy.into())]);
                self.input(Input::LegLost);
            }
            DialogEvent::Broken(broken) => {
                let reason = match broken {
                    Broken::SessionExpired => "session_expired",
                    Broken::Silent => "silent",
                };
                self.trouble("dialog", &[(Field::Reason, reason.into())]);
                self.input(Input::LegLost);
            }
            DialogEvent::Reoffer { sdp, reply } => self.reoffer(sdp.as_ref().map(Pii::expose), reply).await,
            DialogEvent::Answered { sdp } => self.reoffer_answered(Side::Caller, &sdp),
            DialogEvent::RefreshDue => self.refresh(Side::Caller),
            DialogEvent::Dtmf(key) => self.key(KeyPath::Info, key),
            DialogEvent::Referred { code, is_final } => self.transfer_input(ToTransfer::News { code, is_final }),
            // Of calls that we make.
            DialogEvent::Confirmed { sdp: None } | DialogEvent::Ringing { .. } | DialogEvent::Refused { .. } => {}
        }
    }

    /// What the box itself took for its 200. One that went out without a session says nothing of that.
    fn note_answer(&self) {
        let answered = self.setup.far_side.messages().and_then(|messages| messages.answered());
        if let (Some(answered), Some(waited)) = (answered, self.model_wait) {
            self.house.metrics.sip_answer(answered.saturating_sub(waited));
        }
    }

    /// The caller pressed a key. A telephone that sends each one both ways is heard by the way that came first.
    pub(super) fn key(&mut self, by: KeyPath, key: char) {
        self.house.metrics.packets("dtmf_digit", 1);
        if *self.keys_by.get_or_insert(by) != by {
            return;
        }
        if self.is_apart() {
            // They are for the person's far end, once there is one; the model does not hear what is pressed meanwhile.
            self.press_on(key);
        } else if self.accepted.is_some() {
            self.note_consumed();
            self.session_input(session::Input::Key(Pii::new(key)));
        }
    }

    /// Seals what a BYE needs if this process dies. Told before the 200 goes out, which makes the dialog one that needs it.
    pub(super) fn journal(&self) {
        if let Some(dialog) = self.setup.far_side.journal() {
            self.house.store.dialog(self.setup.call_id, 0, Some(dialog));
        }
    }

    /// A re-INVITE or UPDATE: hold, another address, another codec. What cannot be taken is refused, and the call goes on
    /// as it was (RFC 3261 §14.2).
    async fn reoffer(&mut self, offer: Option<&str>, reply: Reply) {
        let Some(leg) = self.leg.as_mut() else { return };
        let answered = match offer {
            Some(offer) => leg.reoffer(offer).map(|(sdp, agreed)| (sdp, Some(agreed))),
            None => leg.make_offer(false).map(|sdp| (sdp, None)),
        };
        match answered {
            Ok((sdp, agreed)) => {
                reply.answer(&sdp).await;
                // It may have moved.
                self.journal();
                if let Some(agreed) = agreed {
                    self.hold(agreed.held);
                }
            }
            Err(error) => {
                self.leg_trouble(&error);
                reply.refuse(488).await;
            }
        }
    }

    /// The far end's answer to an offer of ours within the call. A bad one changes nothing.
    fn reoffer_answered(&mut self, side: Side, sdp: &Pii) {
        match side {
            Side::Caller => match self.leg.as_mut().map(|leg| leg.accept_answer(sdp.expose())) {
                Some(Ok(agreed)) => self.hold(agreed.held),
                Some(Err(error)) => self.leg_trouble(&error),
                None => {}
            },
            Side::Person => self.person_reoffer_answered(sdp),
        }
    }

    /// Refreshes the session where UPDATE does not: by an offer of what is in force.
    pub(super) fn refresh(&mut self, side: Side) {
        let (leg, dialog) = match side {
            Side::Caller => (self.leg.as_mut(), self.setup.far_side.dialog()),
            Side::Person => self.person_line(),
        };
        let (Some(offer), Some(dialog)) = (leg.and_then(|leg| leg.make_offer(false).ok()), dialog) else { return };
        let dialog = dialog.clone();
        self.pending.push(Box::pin(async move { Done::Reinvited(side, dialog.reinvite(&offer).await) }));
    }

    /// A re-INVITE of ours was answered, or was not: then the session timer ends the call when it is time.
    pub(super) fn reinvited(&mut self, side: Side, answer: Result<Pii, DialogError>) {
        match answer {
            Ok(sdp) => self.reoffer_answered(side, &sdp),
            // Theirs was under way; what is in force may be something else after it, so the offer is made anew.
            Err(DialogError::Refused { code: 491, .. }) => self.pending.push(Box::pin(async move {
                tokio::time::sleep(side.waits_after_glare()).await;
                Done::Again(side)
            })),
            Err(error) => self.trouble("refresh", &[(Field::Reason, error.label().into())]),
        }
    }

    /// Notes that the far side put the call on hold, or took it off.
    fn hold(&mut self, held: bool) {
        if std::mem::replace(&mut self.held_by_far_side, held) == held {
            return;
        }
        let word = if held { "held" } else { "resumed" };
        let name = further_event(self.setup.door());
        self.event(name, jiff::Timestamp::now(), &[(Field::CallEvent, word.into())]);
        self.input(Input::Held(held));
        self.session_input(session::Input::Hold(held));
    }
}
