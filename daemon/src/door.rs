//! The far side of a call's signalling, as its task talks to it: Graph for a WhatsApp call, a dialog for one of SIP.
//!
//! The call machine says what is to be done ([`Action`]), in words that every door knows; here stands what that means at
//! each: whom to ask, which leg answers the offer, which events it writes. It decides nothing and keeps no state of the call.

use std::sync::Arc;
use std::time::Duration;

use sauti_core::call::machine::{Action, DoorVerdict};
use sauti_core::call::milestones::Milestone;
use sauti_core::call::outcome::{Door, Fault, Outcome};
use sauti_core::pii::Pii;
use sauti_core::record::LiveDialog;
use sauti_core::whatsapp::graph::{GraphError, Opaque};

use crate::house::Setup;
use crate::lanes::{CallerLink, Lanes, OpenError, RtpLegSettings};
use crate::obs::logging::{EventName, Field, LogValue, SafeName};
use crate::sip::{Dialog, DialogError, Messages, Refuse};
use crate::whatsapp::graph::{Graph, graph_error_fields};

/// When a caller who was refused for lack of room may try again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Where a call's signalling goes.
#[derive(Debug)]
pub enum FarSide {
    /// Meta's Graph.
    Graph {
        /// The way there.
        graph: Graph,
        /// Its id of the call.
        wacid: Pii,
    },
    /// A SIP dialog.
    Sip {
        /// The dialog.
        dialog: Dialog,
        /// [`Door::Trunk`] or [`Door::WhatsappSip`].
        door: Door,
        /// The trunk's name.
        trunk: Arc<str>,
        /// What may be agreed on with it.
        media: Arc<RtpLegSettings>,
    },
}

/// A caller leg that was made.
#[derive(Debug)]
pub struct OpenLeg {
    /// The task's side of it.
    pub link: CallerLink,
    /// Our answer; our offer where the far side made none.
    pub sdp: Pii,
}

impl FarSide {
    /// How the call reached the box.
    #[must_use]
    pub const fn door(&self) -> Door {
        match self {
            Self::Graph { .. } => Door::Whatsapp,
            Self::Sip { door, .. } => *door,
        }
    }

    /// Graph's id of the call, where it has one.
    #[must_use]
    pub const fn wacid(&self) -> Option<&Pii> {
        match self {
            Self::Graph { wacid, .. } => Some(wacid),
            Self::Sip { .. } => None,
        }
    }

    /// Its dialog, where the call came by SIP.
    #[must_use]
    pub const fn dialog(&self) -> Option<&Dialog> {
        match self {
            Self::Graph { .. } => None,
            Self::Sip { dialog, .. } => Some(dialog),
        }
    }

    /// What it takes to end the call at the far side after a crash, where its wacid does not.
    #[must_use]
    pub fn journal(&self) -> Option<LiveDialog> {
        match self {
            Self::Graph { .. } => None,
            Self::Sip { dialog, .. } => Some(dialog.journal()),
        }
    }

    /// What went by on the line, where the call came by SIP.
    #[must_use]
    pub fn messages(&self) -> Option<Messages> {
        match self {
            Self::Graph { .. } => None,
            Self::Sip { dialog, .. } => Some(dialog.messages()),
        }
    }

    /// True where what the model's session speaks follows from the offer, so that the leg is made before it.
    #[must_use]
    pub const fn decides_format(&self) -> bool {
        matches!(self, Self::Sip { .. })
    }

    /// Makes the caller leg. Some milliseconds of work: not for a worker of the runtime.
    ///
    /// # Errors
    /// The offer cannot be answered, or the box has nothing to answer it with.
    pub fn open_leg(&self, lanes: &Arc<Lanes>, offer: Option<&Pii>) -> Result<OpenLeg, OpenError> {
        let offer = offer.map(Pii::expose);
        // WhatsApp by SIP asks for DTLS by a fingerprint, and speaks ICE then too (whatsapp-calling §4). A trunk has
        // what its `srtp` says.
        let fingerprint = offer.is_some_and(|offer| offer.contains("a=fingerprint:"));
        match (self, offer) {
            (Self::Sip { media, door, .. }, offer) if *door == Door::Trunk || !fingerprint => {
                let (link, opened) = lanes.open_rtp(offer, media)?;
                Ok(OpenLeg { link, sdp: Pii::new(opened.sdp) })
            }
            (_, offer) => {
                let (link, answer) = lanes.open(offer.unwrap_or_default())?;
                Ok(OpenLeg { link, sdp: Pii::new(answer) })
            }
        }
    }

    /// Does what the call machine decided; `answer` is our SDP, `why` how the call ends, where they are known.
    ///
    /// # Errors
    /// The far side refused, or did not answer in time; retries are behind it.
    pub async fn act(
        &self,
        setup: &Setup,
        action: Action,
        answer: Option<&Pii>,
        why: Option<(Outcome, Fault)>,
    ) -> Result<(), DoorError> {
        match self {
            Self::Graph { graph, wacid } => {
                let opaque = matches!(action, Action::PreAccept | Action::Accept)
                    .then(|| Opaque::new(setup.call_id.to_string()))
                    .flatten();
                graph.act(action, wacid, answer, opaque.as_ref()).await.map_err(DoorError::Graph)
            }
            Self::Sip { dialog, door, .. } => {
                let done = match action {
                    // It rings since the INVITE was let in.
                    Action::PreAccept => {
                        dialog.answer_early(answer.map(Pii::expose).unwrap_or_default());
                        Ok(())
                    }
                    Action::Accept => dialog.answer(answer.map(Pii::expose).unwrap_or_default()).await,
                    Action::Reject => dialog.refuse(refusal(why)).await,
                    Action::Terminate => dialog.bye().await,
                };
                done.map_err(|error| DoorError::Sip(action, error, *door))
            }
        }
    }

    /// Values that name the far side in the log.
    #[must_use]
    pub fn fields(&self) -> Vec<(Field, LogValue)> {
        match self {
            Self::Graph { .. } => Vec::new(),
            Self::Sip { trunk, .. } => vec![(Field::Trunk, SafeName::new(trunk).into())],
        }
    }
}

/// What a caller of SIP is told who is not served (RFC 3261 §21).
const fn refusal(why: Option<(Outcome, Fault)>) -> Refuse {
    let (code, retry_after) = match why {
        Some((Outcome::RefusedConfig, Fault::Carrier | Fault::Whatsapp)) => return Refuse::not_acceptable(),
        Some((Outcome::Internal, _)) | None => (500, None),
        Some((Outcome::NoMedia, _)) => (480, None),
        Some(_) => (503, Some(TRY_AGAIN)),
    };
    Refuse { code, retry_after }
}

/// The far side did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// Graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A dialog.
    #[error("{0}: {1}")]
    Sip(Action, DialogError, Door),
}

impl DoorError {
    /// What the log says of it; the remedy is what the operator reads first.
    #[must_use]
    pub fn fields(&self) -> Vec<(Field, LogValue)> {
        match self {
            Self::Graph(error) => graph_error_fields(error),
            Self::Sip(action, error, door) => {
                let mut values = vec![
                    (Field::Stage, action.label().into()),
                    (Field::Reason, error.label().into()),
                    (Field::Fault, fault_at(*door, error.fault()).label().into()),
                ];
                if let DialogError::Refused { code, .. } = error {
                    values.push((Field::Status, (*code).into()));
                }
                values
            }
        }
    }

    /// True when the call is over anyway: nothing that the log should say.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Sip(_, DialogError::Gone, _))
    }
}

/// What became of an action, for the call machine.
#[must_use]
pub fn door_verdict(result: &Result<(), DoorError>) -> DoorVerdict {
    match result {
        Ok(()) => DoorVerdict::Done,
        Err(DoorError::Graph(error)) => error.verdict(),
        Err(DoorError::Sip(_, DialogError::Gone, _)) => DoorVerdict::Ended,
        Err(DoorError::Sip(..)) => DoorVerdict::Refused,
    }
}

/// True for calls that came by WhatsApp, whatever carried their signalling.
#[must_use]
pub const fn is_whatsapp(door: Door) -> bool {
    matches!(door, Door::Whatsapp | Door::WhatsappSip)
}

/// Whose affair a trouble of SIP and its media is at this door: the carrier's, or Meta's.
#[must_use]
pub const fn fault_at(door: Door, fault: Fault) -> Fault {
    match fault {
        Fault::Carrier => door.far_side(),
        other => other,
    }
}

/// The event of a milestone. What came by WhatsApp keeps the names that operators know, also over SIP.
#[must_use]
pub const fn milestone_event(door: Door, milestone: Milestone) -> EventName {
    match (milestone, is_whatsapp(door)) {
        (Milestone::WebhookReceived, true) => EventName::WaVoiceWebhookReceived,
        (Milestone::WebhookReceived, false) => EventName::TrunkInviteReceived,
        (Milestone::CallConnect, true) => EventName::WaCallConnect,
        (Milestone::CallConnect, false) => EventName::TrunkCallConnect,
        (Milestone::BridgeRequested, _) => EventName::MediaBridgeCreateRequest,
        (Milestone::LegUp, true) => EventName::WebrtcConnectionEstablished,
        (Milestone::LegUp, false) => EventName::RtpConnectionEstablished,
        (Milestone::ModelUp, _) => EventName::OpenaiWebsocketConnected,
        (Milestone::BridgeActive, _) => EventName::AudioBridgeActive,
        (Milestone::Accepted, true) => EventName::WaCallAccepted,
        (Milestone::Accepted, false) => EventName::TrunkCallAccepted,
        (Milestone::ConversationStarted, _) => EventName::ConversationStarted,
    }
}

/// The event of a trouble in a call.
#[must_use]
pub const fn trouble_event(door: Door) -> EventName {
    if is_whatsapp(door) { EventName::WaVoiceError } else { EventName::TrunkCallError }
}

/// The event of whatever else the far side tells of a call.
#[must_use]
pub const fn further_event(door: Door) -> EventName {
    if is_whatsapp(door) { EventName::WaVoiceCallEvent } else { EventName::TrunkCallEvent }
}
