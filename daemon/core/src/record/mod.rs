//! What the ledger keeps of a call: the rows as plain data, before anybody turns them into SQL.
//!
//! Nothing here is written or read; the shell's store does that. A field that holds something personal is a [`Pii`]
//! or sits in a [`CallerAddress`], and the store seals it, except the words of a [`Turn`]: they are the ledger's content.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::call::cost::{Cost, Usage};
use crate::call::outcome::{Door, Fault, Outcome, labels};
use crate::config::Language;
use crate::ids::CallId;
use crate::pii::{CallerAddress, KeyedHash, Pii};

labels! {
    /// Who dialled whom.
    Direction {
        /// A person called the box.
        Inbound => "inbound",
        /// The box called a person.
        Outbound => "outbound",
    }
}

labels! {
    /// A point that a call passes at most once; its first time counts.
    Stage {
        /// Graph took the pre-accept.
        PreAccepted => "pre_accepted",
        /// ICE and DTLS of the caller leg are up.
        MediaUp => "media_up",
        /// The model's session is configured.
        ModelUp => "model_up",
        /// Graph took the accept.
        Accepted => "accepted",
        /// The first frame of the agent is on the wire.
        FirstAudio => "first_audio",
    }
}

labels! {
    /// Whose words a turn holds.
    Speaker {
        /// The person.
        Caller => "caller",
        /// The model.
        Agent => "agent",
    }
}

labels! {
    /// How far a text message got that was owed instead of an answer.
    TextState {
        /// Not tried yet, or tried and surely not taken by Graph.
        Owed => "owed",
        /// About to be sent; whether it was is not known yet.
        Sending => "sending",
        /// Graph took it, or a status webhook said so.
        Sent => "sent",
        /// It will not be sent any more.
        Failed => "failed",
        /// It may have been sent and will not be sent again; a status webhook may still decide.
        Unknown => "unknown",
    }
}

labels! {
    /// What an attempt to send a text came to.
    TextVerdict {
        /// Graph answered with a message id.
        Sent => "sent",
        /// Graph refused it for good.
        Failed => "failed",
        /// No answer came: it may have been sent.
        Unknown => "unknown",
        /// Graph surely did not take it (connection refused, 429, 5xx with an error object): it is owed as before.
        Again => "again",
    }
}

/// A call at the moment of its admission.
#[derive(Debug, Clone)]
pub struct NewCall {
    /// Its name everywhere.
    pub call_id: CallId,
    /// How it reached the box.
    pub door: Door,
    /// Who dialled.
    pub direction: Direction,
    /// Keyed hash of the `wacid`; the store lets one call have it.
    pub wa_call: Option<KeyedHash>,
    /// The carrier's own id of the call.
    pub mtn_call_sid: Option<String>,
    /// Keyed hash of the caller.
    pub caller: Option<KeyedHash>,
    /// The language it starts in.
    pub language: Option<Language>,
    /// When the offer reached the box.
    pub offered_at: Timestamp,
    /// When the far side made the offer (`o=` of its SDP), where that is believable.
    pub connect_at: Option<Timestamp>,
}

/// What is needed to end a call at Graph and to write to its caller after a crash; kept sealed while the call lives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LiveCall {
    /// Graph's id of the call; `None` for doors without one.
    pub wacid: Option<Pii>,
    /// Where a text would go.
    pub address: CallerAddress,
}

/// What it takes to send a BYE in a dialog after a crash (RFC 3261 §12.2.1.1); kept sealed while the dialog stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LiveDialog {
    /// The trunk's name, `whatsapp` for WhatsApp over SIP.
    pub trunk: String,
    /// `udp`, `tcp` or `tls`: over what the dialog was opened.
    pub transport: String,
    /// Its Call-ID.
    pub call_id: Pii,
    /// Our side with its tag, as `From` of our requests has it.
    pub local: Pii,
    /// The far side with its tag.
    pub remote: Pii,
    /// The number of our last request; 0 = none.
    pub cseq: u32,
    /// The remote target: the URI of the far side's Contact.
    pub target: Pii,
    /// The route set, in our order.
    pub route: Vec<Pii>,
}

/// What the start of the daemon found of its earlier runs.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The doors of the calls that got their outcome, `restart`, just now.
    pub closed: Vec<Door>,
    /// The calls whose far end is still to be told, those of starts before this one included.
    pub unfinished: Vec<Unfinished>,
}

/// A call that an earlier run of the daemon left behind.
#[derive(Debug, Clone)]
pub struct Unfinished {
    /// Its name.
    pub call_id: CallId,
    /// How it had come.
    pub door: Door,
    /// The language it was in.
    pub language: Option<Language>,
    /// True when the call had been answered and the agent was heard.
    pub was_heard: bool,
    /// What to act with; `None` when the row was sealed with another `box_key`.
    pub live: Option<LiveCall>,
    /// The dialogs that stood, where it had come by SIP.
    pub dialogs: Vec<LiveDialog>,
}

/// One event of a call.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// When it happened.
    pub at: Timestamp,
    /// Its name in the log, `WA_CALL_ACCEPTED` and the like.
    pub event: String,
    /// Further values; never a number, a name, words, SDP, a token or a `wacid`.
    pub fields: BTreeMap<String, serde_json::Value>,
}

/// What one model did in one session: running totals, written again whenever they grow.
///
/// A model that transcribes beside the session has a row of its own with the same `ordinal`.
#[derive(Debug, Clone)]
pub struct SessionRow {
    /// 0 for the first session of the call, 1 after the first reconnect.
    pub ordinal: u32,
    /// The provider's id of the session.
    pub openai_session_id: Option<String>,
    /// The model asked for.
    pub model: String,
    /// When the session was configured.
    pub opened_at: Timestamp,
    /// When it was closed.
    pub closed_at: Option<Timestamp>,
    /// What was used so far.
    pub usage: Usage,
    /// Its price; `None` = the model has no known price.
    pub cost: Option<Cost>,
}

/// What one side said in one go, as heard by the other.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The model's id of the item; writing it again replaces the turn.
    pub item: String,
    /// Who spoke.
    pub speaker: Speaker,
    /// When it began.
    pub began_at: Timestamp,
    /// How much of it was played out; `None` for the caller's turns.
    pub heard: Option<Duration>,
    /// The other side broke in.
    pub interrupted: bool,
    /// The words.
    pub text: Pii,
}

/// How a call ended.
#[derive(Debug, Clone)]
pub struct EndRow {
    /// The one outcome.
    pub outcome: Outcome,
    /// Whose fault it was.
    pub fault: Fault,
    /// When.
    pub ended_at: Timestamp,
    /// Time in conversation; `None` = not known.
    pub talked: Option<Duration>,
    /// The text that this end owes the caller, owed in the same transaction.
    pub text: Option<NewText>,
}

/// A text message to be owed.
#[derive(Debug, Clone)]
pub struct NewText {
    /// Our id, sent along as `biz_opaque_callback_data`.
    pub text_id: TextId,
    /// Where it goes.
    pub address: CallerAddress,
    /// What it says.
    pub body: Pii,
}

/// A text message that waits to be sent.
#[derive(Debug, Clone)]
pub struct OwedText {
    /// Our id, sent along as `biz_opaque_callback_data`.
    pub text_id: TextId,
    /// The call it stands in for.
    pub call_id: CallId,
    /// Since when it is owed; Meta's window closes 24 h after the call.
    pub owed_at: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// Where it goes.
    pub address: CallerAddress,
    /// What it says.
    pub body: Pii,
}

/// Names one owed text; a UUIDv7, so that a status webhook can be matched without knowing the caller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TextId(Uuid);

impl TextId {
    /// Makes the id of a text owed at `wall`; `random` comes from the caller of this function.
    #[must_use]
    pub fn new(wall: Timestamp, random: [u8; 10]) -> Self {
        Self(row_uuid(wall, random))
    }

    /// Reads an id as `Display` wrote it; `None` if it is none, as in the callback data of others.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().map(Self)
    }
}

impl fmt::Display for TextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for TextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The UUIDv7 of a row made at `wall`; times before 1970 count as 1970.
#[must_use]
pub fn row_uuid(wall: Timestamp, random: [u8; 10]) -> Uuid {
    let millis = u64::try_from(wall.as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_id_reads_back_and_a_foreign_one_is_none() {
        let id = TextId::new(Timestamp::UNIX_EPOCH, [7; 10]);
        assert_eq!(TextId::parse(&id.to_string()), Some(id));
        assert_eq!(TextId::parse("order-17"), None);
    }

    #[test]
    fn rows_of_a_call_show_nothing_personal_in_debug_output() {
        let live = LiveCall {
            wacid: Some(Pii::new("wacid.HBgMcanary")),
            address: CallerAddress {
                number: Some(Pii::new("250780000001")),
                bsuid: Some(Pii::new("RW.13491208655302741918")),
            },
        };
        let turn = Turn {
            item: "item_1".to_owned(),
            speaker: Speaker::Caller,
            began_at: Timestamp::UNIX_EPOCH,
            heard: None,
            interrupted: false,
            text: Pii::new("Test Caller here"),
        };
        let shown = format!("{live:?} {turn:?}");
        for canary in ["wacid", "250780000001", "13491208655302741918", "Test Caller"] {
            let shown = shown.replace("wacid: ", "");
            assert!(!shown.contains(canary), "{canary} in {shown}");
        }
    }
}
