//! What a webhook says, once read: one value per call event, status or message, in the order of the body.
//!
//! These are facts only; [`super::webhook`] makes them, the call machine and the ledger judge them.

use std::time::Duration;

use jiff::Timestamp;

use super::label::Label;
use super::wacid::wacid_hash;
use crate::pii::{BoxKey, CallerAddress, KeyedHash, Pii};

/// Everything one webhook body holds for this box.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WebhookBody {
    /// The events, in the order of the body; Meta promises no order between bodies.
    pub events: Vec<WebhookEvent>,
    /// What was odd about the body, counted.
    pub oddities: Oddities,
}

/// Counts of what could not be used. None of them makes the rest of a body unreadable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Oddities {
    /// Parts that are not of the JSON type that they should be (an entry that is a string, a call without body).
    pub malformed: u32,
    /// Calls, statuses and messages without an id.
    pub nameless: u32,
    /// Updates for another phone number than ours.
    pub other_number: u32,
    /// Fields and events that this program does not know.
    pub unknown: u32,
    /// Bodies whose text had to be mended (broken UTF-8, half a surrogate pair) before it was JSON.
    pub mended: u32,
}

impl Oddities {
    /// Each count with its word, for the metrics.
    #[must_use]
    pub const fn counts(&self) -> [(&'static str, u32); 5] {
        [
            ("malformed", self.malformed),
            ("nameless", self.nameless),
            ("other_number", self.other_number),
            ("unknown", self.unknown),
            ("mended", self.mended),
        ]
    }

    /// True when nothing was odd.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// One thing that happened at Meta.
#[derive(Debug, Clone, PartialEq)]
pub enum WebhookEvent {
    /// A call is offered, or (business-initiated) answered by the relay.
    Connect(CallConnect),
    /// A call is over, whoever ended it.
    Terminate(CallTerminate),
    /// How a business-initiated call rings.
    CallStatus(CallStatus),
    /// What became of a message that we sent.
    MessageStatus(MessageStatus),
    /// Somebody wrote to us.
    Message(InboundMessage),
    /// The number or the account changed, or was warned.
    Account(AccountEvent),
    /// Errors that belong to no call, status or message: for instance 131044, no payment method.
    Errors(FieldErrors),
    /// An event or a field that this program does not know: kept, acknowledged, otherwise without effect.
    Unknown(Unknown),
}

/// By what a repeated delivery of an event is known: the call, hashed, and the name of the event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey {
    /// The keyed hash of the `wacid`.
    pub call: KeyedHash,
    /// `connect`, `terminate`, `status:ringing`, or the name of an unknown event.
    pub event: String,
}

impl WebhookEvent {
    /// The name of the event for log and counters: `connect`, `terminate`, `status:ringing`, `message` and so on.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Connect(_) => "connect".to_owned(),
            Self::Terminate(_) => "terminate".to_owned(),
            Self::CallStatus(status) => format!("status:{}", status.status.as_str()),
            Self::MessageStatus(status) => format!("message:{}", status.status.as_str()),
            Self::Message(_) => "message".to_owned(),
            Self::Account(account) => account.event.as_str().to_owned(),
            Self::Errors(_) => "errors".to_owned(),
            Self::Unknown(unknown) => unknown.event.as_ref().unwrap_or(&unknown.field).as_str().to_owned(),
        }
    }

    /// The call that the event is about.
    #[must_use]
    pub const fn wacid(&self) -> Option<&Pii> {
        match self {
            Self::Connect(connect) => Some(&connect.wacid),
            Self::Terminate(terminate) => Some(&terminate.wacid),
            Self::CallStatus(status) => Some(&status.wacid),
            Self::Unknown(unknown) => unknown.wacid.as_ref(),
            Self::MessageStatus(_) | Self::Message(_) | Self::Account(_) | Self::Errors(_) => None,
        }
    }

    /// The key by which a second delivery is recognised; `None` for events that are about no call.
    #[must_use]
    pub fn key(&self, key: &BoxKey) -> Option<EventKey> {
        Some(EventKey { call: wacid_hash(key, self.wacid()?), event: self.name() })
    }
}

/// Who began a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A person called the business.
    UserInitiated,
    /// The business called a person.
    BusinessInitiated,
}

/// A `connect` event.
#[derive(Debug, Clone, PartialEq)]
pub struct CallConnect {
    /// Meta's name for the call, to be sent back as it came.
    pub wacid: Pii,
    /// The person: by number, by BSUID, by both, or (contacts left out) by nothing at all.
    pub caller: CallerAddress,
    /// The name in the profile; may equal the number.
    pub name: Option<Pii>,
    /// The business number, digits without `+`.
    pub to: Option<Pii>,
    /// The number's id at Graph; absent only if the body lacks it.
    pub phone_number_id: Option<String>,
    /// The webhook's own time, whole seconds.
    pub timestamp: Option<Timestamp>,
    /// Who began the call; when the field is absent, an offer means the user.
    pub direction: Direction,
    /// The offer of a user-initiated call, byte for byte.
    pub offer: Option<Pii>,
    /// The answer to a business-initiated call, byte for byte.
    pub answer: Option<Pii>,
    /// What the deep link carried.
    pub deeplink_payload: Option<Pii>,
    /// What the call button carried.
    pub cta_payload: Option<Pii>,
    /// What we gave when we began the call.
    pub opaque: Option<Pii>,
}

/// A `terminate` event.
#[derive(Debug, Clone, PartialEq)]
pub struct CallTerminate {
    /// Meta's name for the call.
    pub wacid: Pii,
    /// The person, as far as the body tells.
    pub caller: CallerAddress,
    /// The number's id at Graph.
    pub phone_number_id: Option<String>,
    /// The webhook's own time, whole seconds.
    pub timestamp: Option<Timestamp>,
    /// How Meta sees the end; `COMPLETED` also covers calls that nobody answered.
    pub status: TerminateStatus,
    /// When the call was picked up; absent if it was not.
    pub start_time: Option<Timestamp>,
    /// When it ended; absent if it was not picked up.
    pub end_time: Option<Timestamp>,
    /// Its length by Meta's count, whole seconds; absent if it was not picked up.
    pub duration: Option<Duration>,
    /// The error codes, each once, in order; a failed call may have none.
    pub error_codes: Vec<i64>,
    /// What we gave when we accepted or began the call.
    pub opaque: Option<Pii>,
}

impl CallTerminate {
    /// True when the call was picked up: only then do start time or duration stand in the event.
    #[must_use]
    pub const fn was_answered(&self) -> bool {
        self.start_time.is_some() || self.duration.is_some()
    }
}

/// The `status` of a terminate, whatever its case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TerminateStatus {
    /// Ended without an error.
    Completed,
    /// Ended by an error.
    Failed,
    /// Absent.
    Missing,
    /// Anything else.
    Other(Label),
}

/// How a business-initiated call rings, and for whom.
#[derive(Debug, Clone, PartialEq)]
pub struct CallStatus {
    /// Meta's name for the call.
    pub wacid: Pii,
    /// Ringing, accepted or rejected.
    pub status: RingStatus,
    /// The webhook's own time, whole seconds.
    pub timestamp: Option<Timestamp>,
    /// The person called.
    pub recipient: CallerAddress,
    /// What we gave when we began the call.
    pub opaque: Option<Pii>,
}

/// The status of a business-initiated call, whatever its case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RingStatus {
    /// The phone rings.
    Ringing,
    /// The person answered; may come after the first media.
    Accepted,
    /// The person declined; a terminate follows.
    Rejected,
    /// Anything else.
    Other(Label),
}

impl RingStatus {
    /// The word for log and counters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Ringing => "ringing",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Other(label) => label.as_str(),
        }
    }
}

/// What became of a message that was sent from our number.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageStatus {
    /// The id that Graph gave the message (it holds the recipient's number).
    pub id: Pii,
    /// How far it came; `Delivered` may be skipped.
    pub status: Delivery,
    /// The webhook's own time, whole seconds.
    pub timestamp: Option<Timestamp>,
    /// Our `biz_opaque_callback_data`: by it an owed text is recognised after a crash.
    pub opaque: Option<Pii>,
    /// The error codes of a failed message, each once.
    pub error_codes: Vec<i64>,
}

/// How far a message came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// Left Meta.
    Sent,
    /// Reached the phone.
    Delivered,
    /// Was opened.
    Read,
    /// A voice message was played.
    Played,
    /// Did not arrive.
    Failed,
    /// Anything else.
    Other(Label),
}

impl Delivery {
    /// The word for log and counters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Read => "read",
            Self::Played => "played",
            Self::Failed => "failed",
            Self::Other(label) => label.as_str(),
        }
    }

    /// True when Meta took the message in: it was sent, whatever became of it.
    #[must_use]
    pub const fn was_sent(&self) -> bool {
        matches!(self, Self::Sent | Self::Delivered | Self::Read | Self::Played)
    }
}

/// Somebody wrote to the number: who and when; what was written is not read here.
#[derive(Debug, Clone, PartialEq)]
pub struct InboundMessage {
    /// Meta's id of the message (it holds the sender's number).
    pub id: Pii,
    /// The sender.
    pub from: CallerAddress,
    /// The name in the sender's profile.
    pub name: Option<Pii>,
    /// The webhook's own time, whole seconds.
    pub timestamp: Option<Timestamp>,
    /// `text`, `audio`, `interactive` and so on.
    pub kind: Label,
}

/// A change of the number's settings, or a word of warning about the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountEvent {
    /// `account_update` or `account_settings_update`.
    pub field: Label,
    /// `ACCOUNT_VIOLATION`, `ACCOUNT_RESTRICTION`, `phone_number_settings` and so on.
    pub event: Label,
    /// Violation and restriction types, or the calling settings as `status:DISABLED`.
    pub details: Vec<Label>,
}

impl AccountEvent {
    /// True when calls stop reaching us, or soon may: somebody should look.
    #[must_use]
    pub fn is_alarming(&self) -> bool {
        self.event.as_str().eq_ignore_ascii_case("account_violation")
            || self.event.as_str().eq_ignore_ascii_case("account_restriction")
            || self.details.iter().any(|detail| {
                let detail = detail.as_str();
                detail.eq_ignore_ascii_case("status:disabled") || detail.eq_ignore_ascii_case("sip.status:enabled")
            })
    }
}

/// Errors at the level of a value, without a call, status or message beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldErrors {
    /// The field of the change.
    pub field: Label,
    /// The codes, each once.
    pub codes: Vec<i64>,
}

/// An event that this program does not know.
#[derive(Debug, Clone, PartialEq)]
pub struct Unknown {
    /// The field of the change; empty if it has none.
    pub field: Label,
    /// The event in it, if it names one.
    pub event: Option<Label>,
    /// The call that it is about, if it names one.
    pub wacid: Option<Pii>,
}
