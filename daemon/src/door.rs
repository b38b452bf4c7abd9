//! The far side of a call's signalling, as its task talks to it: Graph for a WhatsApp call.
//!
//! The call machine says what is to be done ([`Action`]), in words that every door knows; here stands what that means at
//! each. It decides nothing and keeps no state of the call.

use sauti_core::call::machine::{Action, DoorVerdict};
use sauti_core::call::milestones::Milestone;
use sauti_core::call::outcome::Door;
use sauti_core::pii::Pii;
use sauti_core::whatsapp::graph::{GraphError, Opaque};

use crate::house::{House, Setup};
use crate::obs::logging::{EventName, Field, LogValue};
use crate::whatsapp::graph::graph_error_fields;

/// Where a call's signalling goes.
#[derive(Debug)]
pub enum FarSide {
    /// Meta's Graph.
    Graph {
        /// Its id of the call.
        wacid: Pii,
    },
}

impl FarSide {
    /// How the call reached the box.
    #[must_use]
    pub const fn door(&self) -> Door {
        match self {
            Self::Graph { .. } => Door::Whatsapp,
        }
    }

    /// Graph's id of the call, where it has one.
    #[must_use]
    pub const fn wacid(&self) -> Option<&Pii> {
        match self {
            Self::Graph { wacid } => Some(wacid),
        }
    }

    /// Does what the call machine decided; `answer` is our SDP, where there is one.
    ///
    /// # Errors
    /// The far side refused, or did not answer in time; retries are behind it.
    pub async fn act(
        &self,
        house: &House,
        setup: &Setup,
        action: Action,
        answer: Option<&Pii>,
    ) -> Result<(), DoorError> {
        match self {
            Self::Graph { wacid } => {
                let opaque = matches!(action, Action::PreAccept | Action::Accept)
                    .then(|| Opaque::new(setup.call_id.to_string()))
                    .flatten();
                house.graph.act(action, wacid, answer, opaque.as_ref()).await.map_err(DoorError::Graph)
            }
        }
    }
}

/// The far side did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// Graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl DoorError {
    /// What the log says of it; the remedy is what the operator reads first.
    #[must_use]
    pub fn fields(&self) -> Vec<(Field, LogValue)> {
        match self {
            Self::Graph(error) => graph_error_fields(error),
        }
    }
}

/// What became of an action, for the call machine.
#[must_use]
pub fn door_verdict(result: &Result<(), DoorError>) -> DoorVerdict {
    match result {
        Ok(()) => DoorVerdict::Done,
        Err(DoorError::Graph(error)) => error.verdict(),
    }
}

const fn is_whatsapp(door: Door) -> bool {
    matches!(door, Door::Whatsapp | Door::WhatsappSip)
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
