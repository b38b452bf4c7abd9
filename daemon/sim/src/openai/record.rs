//! What one connection leaves behind for a judge: audio both ways with its instants, and what the client did wrong.

use std::{sync::Arc, time::Instant};

/// Speech that the model sent as one item.
#[derive(Debug, Clone)]
pub struct SpokenItem {
    /// The response it belongs to.
    pub response_id: String,
    /// The item.
    pub item_id: String,
    /// The samples that the item was planned to hold, 24 kHz; empty in echo mode.
    pub samples: Arc<[i16]>,
    /// Bytes sent, in the session's output coding.
    pub bytes_sent: usize,
    /// Whole samples at 24 kHz that the sent bytes stand for.
    pub samples_sent: usize,
    /// Each delta's emission and the bytes sent up to and including it.
    pub deltas: Vec<(Instant, usize)>,
    /// The words sent.
    pub transcript: String,
    /// Where the client cut it, in milliseconds of the item.
    pub truncated_at_ms: Option<u64>,
    /// The client deleted the item.
    pub deleted: bool,
    /// The response was cancelled (interrupted or by the client) before the item was complete.
    pub cancelled: bool,
}

/// One `input_audio_buffer.append`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Append {
    /// When it arrived.
    pub at: Instant,
    /// Samples at 24 kHz that it brought.
    pub samples: usize,
    /// Position of its first sample in the appended audio of the connection.
    pub from: u64,
}

/// An event of the server other than a delta, and when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// When it left.
    pub at: Instant,
    /// `type` of the event, under its current name.
    pub event: &'static str,
    /// The item, or else the response, that it is about.
    pub subject: String,
}

/// What a client did that the real service, or a careful reviewer, would mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientFaultKind {
    /// A frame that is no JSON object, or a binary frame.
    Malformed,
    /// An event type that does not exist.
    UnknownEventType,
    /// Any other event that was refused: an unknown key, a wrong value, a duplicate.
    Refused,
    /// A cancel with nothing to cancel, a commit with nothing to commit: a lost race, benign in small numbers.
    TooLate,
    /// `response.create` while the default conversation had an active response.
    CreateWhileActive,
    /// A truncation beyond the audio that had been sent for the item.
    TruncateBeyondReceived,
    /// A reference to an item that does not exist.
    UnknownItem,
    /// The result of a tool call that was never made, or a second result.
    UnexpectedToolResult,
    /// A tool call that was still unanswered when the connection ended.
    UnansweredToolCall,
    /// An append with half a sample.
    OddAppend,
    /// Appended audio ran ahead of or behind the clock by more than the tolerance.
    Pacing,
    /// Audio, an item or a request for a response in a session that belongs to no caller yet.
    NotOwned,
    /// A header holds something that looks like a telephone number, a WhatsApp id or a listed private text.
    PrivateHeader,
}

/// One such finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFault {
    /// When.
    pub at: Instant,
    /// What kind.
    pub kind: ClientFaultKind,
    /// Which event, item, header or size; never a private value.
    pub detail: String,
}

/// Everything kept about one connection.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// What the model said, in order.
    pub spoken: Vec<SpokenItem>,
    /// All appended audio, 24 kHz (G.711 is raised to that rate); empty unless asked for.
    pub appended: Vec<i16>,
    /// Every append.
    pub appends: Vec<Append>,
    /// Events of the server, deltas left out.
    pub marks: Vec<Mark>,
    /// What the client did wrong.
    pub client_faults: Vec<ClientFault>,
    /// Client frames as they came; empty unless asked for.
    pub client_log: Vec<(Instant, String)>,
    /// Largest lead of the appended audio over the clock, in milliseconds.
    pub most_ahead_ms: u64,
    /// Largest lag of the appended audio behind the clock, in milliseconds.
    pub most_behind_ms: u64,
    /// Total tokens reported by all responses.
    pub tokens: u64,
}

impl Record {
    /// Counts the findings of one kind.
    #[must_use]
    pub fn count(&self, kind: ClientFaultKind) -> usize {
        self.client_faults.iter().filter(|fault| fault.kind == kind).count()
    }

    /// Returns when each event of this type was written.
    pub fn instants_of<'a>(&'a self, event: &'a str) -> impl Iterator<Item = Instant> + 'a {
        self.marks.iter().filter(move |mark| mark.event == event).map(|mark| mark.at)
    }

    pub(super) fn spoken_mut(&mut self, item_id: &str) -> Option<&mut SpokenItem> {
        self.spoken.iter_mut().rev().find(|item| item.item_id == item_id)
    }
}
