//! What the model says: server events of the Realtime API, read without a tree of JSON values.
//!
//! Two steps: the `type` is found first, then the text is read into the borrowed shape of that event. The audio of
//! a delta stays base64 until [`decode_audio`] writes it into a buffer that is used again. Names of the beta are
//! aliases; unknown events and unknown keys are ignored. An error tells where, never what the text said.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, Visitor};
use serde_json::value::RawValue;

use super::verdict::Code;
use crate::call::cost::Usage;

/// Longest message that is read, bytes; the largest delta that a reservoir could take is a fifth of it.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// Longest id that is believed to be one.
const MAX_ID: usize = 256;
/// Indices beyond this are not believed.
const MAX_INDEX: u64 = 4096;
/// Token counts beyond this are not believed.
const MAX_TOKENS: u64 = 100_000_000;
/// Words of one item beyond this are cut off, bytes.
pub const MAX_WORDS: usize = 64 * 1024;

/// Some servers leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("a message of {bytes} bytes is over the limit of {MAX_MESSAGE} bytes; it was dropped")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// No JSON object with a `type`.
    #[error("a message is no JSON object with a type (line {line}, column {column}); it was dropped")]
    NotJson {
        /// Where reading stopped, from 1.
        line: usize,
        /// Where reading stopped, from 1.
        column: usize,
    },
    /// A known event without a key that it must have, or with one of the wrong type.
    #[error("{event}: a key is missing or has the wrong type (line {line}, column {column}); it was dropped")]
    Shape {
        /// The event.
        event: &'static str,
        /// Where reading stopped, from 1.
        line: usize,
        /// Where reading stopped, from 1.
        column: usize,
    },
    /// A number that cannot be meant.
    #[error("{event}: {field} is negative or absurdly high; it was dropped")]
    Number {
        /// The event.
        event: &'static str,
        /// The key.
        field: &'static str,
    },
    /// An id that is empty or far too long.
    #[error("{event}: {field} is empty or longer than {MAX_ID} bytes; it was dropped")]
    Id {
        /// The event.
        event: &'static str,
        /// The key.
        field: &'static str,
    },
    /// Audio that is no base64.
    #[error("response.output_audio.delta: the audio is no base64; it was dropped")]
    Base64,
}

impl EventError {
    /// The word for counters.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::NotJson { .. } => "not_json",
            Self::Shape { .. } => "shape",
            Self::Number { .. } => "number",
            Self::Id { .. } => "id",
            Self::Base64 => "base64",
        }
    }
}

/// A text of the wire that is not shown: a transcript or audio.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Words<'a>(#[serde(borrow)] Cow<'a, str>);

impl Words<'_> {
    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "‹{} bytes›", self.0.len())
    }
}

/// Which part of which item an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place<'a> {
    /// The response.
    pub response_id: Cow<'a, str>,
    /// The item.
    pub item_id: Cow<'a, str>,
    /// The item's place in its response.
    pub output_index: u32,
    /// The part within the item.
    pub content_index: u32,
}

/// An event of the server, as far as a session needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent<'a> {
    /// `session.created`.
    SessionCreated,
    /// `session.updated`.
    SessionUpdated,
    /// `input_audio_buffer.speech_started`.
    SpeechStarted {
        /// The item that the speech will be.
        item_id: Cow<'a, str>,
    },
    /// `input_audio_buffer.speech_stopped`.
    SpeechStopped {
        /// The item that the speech will be.
        item_id: Cow<'a, str>,
    },
    /// `input_audio_buffer.committed`: the caller's turn is over.
    Committed {
        /// The item that it became.
        item_id: Cow<'a, str>,
    },
    /// `conversation.item.input_audio_transcription.completed`.
    CallerWords {
        /// The caller's item.
        item_id: Cow<'a, str>,
        /// What was understood.
        transcript: Words<'a>,
        /// What it is billed by.
        usage: Option<Usage>,
    },
    /// `conversation.item.input_audio_transcription.failed`.
    CallerWordsFailed {
        /// Why.
        code: Code,
    },
    /// `response.created`.
    ResponseCreated {
        /// The response.
        response_id: Cow<'a, str>,
        /// Our `event_id` if we asked for it and the server echoes metadata.
        client_event_id: Option<Cow<'a, str>>,
    },
    /// `response.output_audio.delta`; the audio is base64.
    Audio {
        /// Where it belongs.
        place: Place<'a>,
        /// See [`decode_audio`].
        delta: Words<'a>,
    },
    /// `response.output_audio.done`.
    AudioDone {
        /// Where.
        place: Place<'a>,
    },
    /// `response.output_audio_transcript.delta`.
    AgentWordsDelta {
        /// Where it belongs.
        place: Place<'a>,
        /// The next words.
        delta: Words<'a>,
    },
    /// `response.output_audio_transcript.done`.
    AgentWords {
        /// Where it belongs.
        place: Place<'a>,
        /// All words of the part.
        transcript: Words<'a>,
    },
    /// `response.output_item.done`.
    ItemDone {
        /// The item.
        item_id: Cow<'a, str>,
        /// The item is a tool call with all of its arguments; `None` for a call that was cut off.
        call: Option<ToolCall<'a>>,
    },
    /// `response.done`, whatever its status.
    ResponseDone(ResponseDone<'a>),
    /// `error`.
    Error {
        /// `error.code`.
        code: Option<Code>,
        /// `error.type`.
        kind: Option<Code>,
        /// `error.param`, which names a key of ours.
        param: Option<Code>,
        /// The `event_id` of the event of ours that caused it.
        event_id: Option<Cow<'a, str>>,
    },
    /// Known or unknown, it changes nothing for us.
    Other,
}

/// A tool that the model calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall<'a> {
    /// The response that it is part of.
    pub response_id: Cow<'a, str>,
    /// What its result has to name.
    pub call_id: Cow<'a, str>,
    /// Which tool.
    pub name: Cow<'a, str>,
}

/// `response.done`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseDone<'a> {
    /// The response.
    pub response_id: Cow<'a, str>,
    /// How it ended.
    pub status: ResponseStatus,
    /// `status_details.error.code`, else `status_details.reason`.
    pub code: Option<Code>,
    /// `status_details.error.type`.
    pub kind: Option<Code>,
    /// What it is billed by; `None` when it was missing or could not be believed.
    pub usage: Option<Usage>,
    /// Our `event_id` if we asked for it and the server echoes metadata.
    pub client_event_id: Option<Cow<'a, str>>,
}

crate::call::outcome::labels! {
    /// How a response ended.
    ResponseStatus {
        /// Said to the end.
        Completed => "completed",
        /// Stopped by us or by the caller's speech.
        Cancelled => "cancelled",
        /// Stopped by `max_output_tokens` or the content filter.
        Incomplete => "incomplete",
        /// Nothing, or not all, could be said.
        Failed => "failed",
    }
}

/// Decodes the audio of a delta into `out`, in place of what it holds.
///
/// # Errors
/// [`EventError::Base64`] when it is none.
pub fn decode_audio(delta: &str, out: &mut Vec<u8>) -> Result<(), EventError> {
    out.clear();
    BASE64.decode_vec(delta, out).map_err(|_| EventError::Base64)
}

/// Reads one message.
///
/// # Errors
/// [`EventError`] when it is too large, no JSON, or a known event in a shape that it never has.
pub fn read(text: &str) -> Result<ServerEvent<'_>, EventError> {
    if text.len() > MAX_MESSAGE {
        return Err(EventError::TooLarge { bytes: text.len() });
    }
    let kind = event_type(text)?;
    match kind.as_ref() {
        "response.output_audio.delta" | "response.audio.delta" => audio(text),
        "response.output_audio_transcript.delta" | "response.audio_transcript.delta" => {
            const EVENT: &str = "response.output_audio_transcript.delta";
            let wire: DeltaWire<'_> = shape(text, EVENT)?;
            let (place, delta) = wire.split(EVENT)?;
            Ok(ServerEvent::AgentWordsDelta { place, delta })
        }
        "response.output_audio_transcript.done" | "response.audio_transcript.done" => {
            const EVENT: &str = "response.output_audio_transcript.done";
            let wire: TranscriptWire<'_> = shape(text, EVENT)?;
            let place = place(EVENT, wire.response_id, wire.item_id, wire.output_index, wire.content_index)?;
            Ok(ServerEvent::AgentWords { place, transcript: wire.transcript })
        }
        "response.output_audio.done" | "response.audio.done" => {
            const EVENT: &str = "response.output_audio.done";
            let wire: PlaceWire<'_> = shape(text, EVENT)?;
            let place = place(EVENT, wire.response_id, wire.item_id, wire.output_index, wire.content_index)?;
            Ok(ServerEvent::AudioDone { place })
        }
        "input_audio_buffer.speech_started" => {
            Ok(ServerEvent::SpeechStarted { item_id: item(text, "input_audio_buffer.speech_started")? })
        }
        "input_audio_buffer.speech_stopped" => {
            Ok(ServerEvent::SpeechStopped { item_id: item(text, "input_audio_buffer.speech_stopped")? })
        }
        "input_audio_buffer.committed" => {
            Ok(ServerEvent::Committed { item_id: item(text, "input_audio_buffer.committed")? })
        }
        "conversation.item.input_audio_transcription.completed" => caller_words(text),
        "conversation.item.input_audio_transcription.failed" => {
            let wire: ErrorWire<'_> = shape(text, "conversation.item.input_audio_transcription.failed")?;
            let code = word(wire.error.code).or_else(|| word(wire.error.kind));
            Ok(ServerEvent::CallerWordsFailed { code: code.unwrap_or_else(|| Code::known("other")) })
        }
        "response.created" => {
            const EVENT: &str = "response.created";
            let wire: ResponseWire<'_> = shape(text, EVENT)?;
            let response_id = id(EVENT, "response.id", wire.response.id)?;
            Ok(ServerEvent::ResponseCreated { response_id, client_event_id: echoed(wire.response.metadata) })
        }
        "response.output_item.done" => {
            const EVENT: &str = "response.output_item.done";
            let wire: OutputItemWire<'_> = shape(text, EVENT)?;
            let called = wire.item.kind.as_deref() == Some("function_call")
                && wire.item.status.as_deref().is_none_or(|status| status == "completed");
            let call = match (called, wire.response_id, wire.item.call_id, wire.item.name) {
                (true, Some(response_id), Some(call_id), Some(name)) => Some(ToolCall {
                    response_id: id(EVENT, "response_id", response_id)?,
                    call_id: id(EVENT, "item.call_id", call_id)?,
                    name: id(EVENT, "item.name", name)?,
                }),
                _ => None,
            };
            Ok(ServerEvent::ItemDone { item_id: id(EVENT, "item.id", wire.item.id)?, call })
        }
        "response.done" => response_done(text),
        "error" => {
            let wire: ErrorWire<'_> = shape(text, "error")?;
            Ok(ServerEvent::Error {
                code: word(wire.error.code),
                kind: word(wire.error.kind),
                param: word(wire.error.param),
                event_id: wire.error.event_id.and_then(|raw| serde_json::from_str(raw.get()).ok()),
            })
        }
        "session.created" => whole(text).map(|()| ServerEvent::SessionCreated),
        "session.updated" => whole(text).map(|()| ServerEvent::SessionUpdated),
        _ => whole(text).map(|()| ServerEvent::Other),
    }
}

/// Finds the `type`. The server writes it first, so the common case looks at a few bytes of a long message.
fn event_type(text: &str) -> Result<Cow<'_, str>, EventError> {
    #[derive(Deserialize)]
    struct Probe<'a> {
        #[serde(borrow, rename = "type")]
        kind: Cow<'a, str>,
    }
    let Some(inside) = text.trim_start().strip_prefix('{') else {
        return Err(EventError::NotJson { line: 1, column: 1 });
    };
    let first = Some(inside.trim_start()).and_then(|rest| {
        let rest = rest.strip_prefix(r#""type""#)?.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
        let (kind, _) = rest.split_once('"')?;
        kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_').then_some(kind)
    });
    if let Some(kind) = first {
        return Ok(Cow::Borrowed(kind));
    }
    let probe: Probe<'_> = serde_json::from_str(text).map_err(|error| not_json(&error))?;
    Ok(probe.kind)
}

fn not_json(error: &serde_json::Error) -> EventError {
    EventError::NotJson { line: error.line(), column: error.column() }
}

fn shape<'a, T: Deserialize<'a>>(text: &'a str, event: &'static str) -> Result<T, EventError> {
    serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => EventError::Shape { event, line: error.line(), column: error.column() },
        _ => not_json(&error),
    })
}

/// Checks that a message whose content does not matter is JSON to its end.
fn whole(text: &str) -> Result<(), EventError> {
    serde_json::from_str::<IgnoredAny>(text).map(|_| ()).map_err(|error| not_json(&error))
}

fn audio(text: &str) -> Result<ServerEvent<'_>, EventError> {
    const EVENT: &str = "response.output_audio.delta";
    let wire: DeltaWire<'_> = shape(text, EVENT)?;
    let (place, delta) = wire.split(EVENT)?;
    Ok(ServerEvent::Audio { place, delta })
}

fn item<'a>(text: &'a str, event: &'static str) -> Result<Cow<'a, str>, EventError> {
    let wire: ItemWire<'_> = shape(text, event)?;
    id(event, "item_id", wire.item_id)
}

fn caller_words(text: &str) -> Result<ServerEvent<'_>, EventError> {
    const EVENT: &str = "conversation.item.input_audio_transcription.completed";
    let wire: CallerWordsWire<'_> = shape(text, EVENT)?;
    Ok(ServerEvent::CallerWords {
        item_id: id(EVENT, "item_id", wire.item_id)?,
        transcript: wire.transcript,
        usage: wire.usage.and_then(usage),
    })
}

fn response_done(text: &str) -> Result<ServerEvent<'_>, EventError> {
    const EVENT: &str = "response.done";
    let wire: ResponseWire<'_> = shape(text, EVENT)?;
    let response = wire.response;
    let details: DetailsWire<'_> =
        response.status_details.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    let error = details.error.unwrap_or_default();
    let status = match response.status.as_deref() {
        Some("completed") => ResponseStatus::Completed,
        Some("failed") => ResponseStatus::Failed,
        Some("incomplete") => ResponseStatus::Incomplete,
        _ => ResponseStatus::Cancelled,
    };
    Ok(ServerEvent::ResponseDone(ResponseDone {
        response_id: id(EVENT, "response.id", response.id)?,
        status,
        code: word(error.code).or_else(|| word(details.reason)),
        kind: word(error.kind),
        usage: response.usage.and_then(usage),
        client_event_id: echoed(response.metadata),
    }))
}

fn id<'a>(event: &'static str, field: &'static str, id: Cow<'a, str>) -> Result<Cow<'a, str>, EventError> {
    if id.is_empty() || id.len() > MAX_ID {
        return Err(EventError::Id { event, field });
    }
    Ok(id)
}

fn place<'a>(
    event: &'static str,
    response_id: Cow<'a, str>,
    item_id: Cow<'a, str>,
    output_index: Index,
    content_index: Index,
) -> Result<Place<'a>, EventError> {
    Ok(Place {
        response_id: id(event, "response_id", response_id)?,
        item_id: id(event, "item_id", item_id)?,
        output_index: output_index.0.ok_or(EventError::Number { event, field: "output_index" })?,
        content_index: content_index.0.ok_or(EventError::Number { event, field: "content_index" })?,
    })
}

/// A code that some servers write as a number and others leave out.
fn word(raw: Option<&RawValue>) -> Option<Code> {
    let raw = raw?.get();
    if raw == "null" {
        return None;
    }
    let text: Option<Cow<'_, str>> = serde_json::from_str::<Words<'_>>(raw).ok().map(|words| words.0);
    // A parameter is a path; its dots and brackets are no reason to hide it.
    let plain = text.as_deref().unwrap_or(raw).replace(['.', '['], "_").replace(']', "");
    Some(Code::from_wire(&plain))
}

fn echoed(metadata: Option<&RawValue>) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Metadata<'a> {
        #[serde(borrow)]
        client_event_id: Cow<'a, str>,
    }
    serde_json::from_str::<Metadata<'_>>(metadata?.get()).ok().map(|metadata| metadata.client_event_id)
}

/// Reads usage of either shape; what cannot be believed is as good as missing.
fn usage(raw: &RawValue) -> Option<Usage> {
    // serde would take an array for a struct.
    let object = raw.get().starts_with('{').then_some(raw.get())?;
    let wire: UsageWire = serde_json::from_str(object).ok()?;
    if let Some(seconds) = wire.seconds {
        let duration = Duration::try_from_secs_f64(seconds).ok().filter(|length| length.as_secs() < 86_400)?;
        return Some(Usage { duration, ..Usage::default() });
    }
    let (input, output) = (wire.input_token_details, wire.output_token_details);
    let cached = input.cached_tokens_details.unwrap_or_default();
    // A transcription has no output details; what it puts out is text.
    let text_out = output.map_or(wire.output_tokens, |output| output.text_tokens);
    let usage = Usage {
        text_in: input.text_tokens,
        text_cached: cached.text_tokens.min(input.text_tokens),
        text_out,
        audio_in: input.audio_tokens,
        audio_cached: cached.audio_tokens.min(input.audio_tokens),
        audio_out: output.map_or(0, |output| output.audio_tokens),
        duration: Duration::ZERO,
    };
    let counts = [usage.text_in, usage.text_out, usage.audio_in, usage.audio_out];
    counts.iter().all(|count| *count <= MAX_TOKENS).then_some(usage)
}

/// An index that is there and a number; `None` when the number cannot be meant. Some servers write `0.0`.
#[derive(Debug, Clone, Copy, Default)]
struct Index(Option<u32>);

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Index;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Index, E> {
                Ok(Index(u32::try_from(value).ok().filter(|_| value <= MAX_INDEX)))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Index, E> {
                Ok(Index(None))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Index, E> {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked by the guard")]
                let index = (value.fract() == 0.0 && (0.0..=4096.0).contains(&value)).then_some(value as u32);
                Ok(Index(index))
            }
        }
        deserializer.deserialize_any(Number)
    }
}

#[derive(Deserialize)]
struct PlaceWire<'a> {
    #[serde(borrow)]
    response_id: Cow<'a, str>,
    #[serde(borrow)]
    item_id: Cow<'a, str>,
    output_index: Index,
    content_index: Index,
}

#[derive(Deserialize)]
struct DeltaWire<'a> {
    #[serde(borrow)]
    response_id: Cow<'a, str>,
    #[serde(borrow)]
    item_id: Cow<'a, str>,
    output_index: Index,
    content_index: Index,
    #[serde(borrow)]
    delta: Words<'a>,
}

impl<'a> DeltaWire<'a> {
    fn split(self, event: &'static str) -> Result<(Place<'a>, Words<'a>), EventError> {
        let place = place(event, self.response_id, self.item_id, self.output_index, self.content_index)?;
        Ok((place, self.delta))
    }
}

#[derive(Deserialize)]
struct TranscriptWire<'a> {
    #[serde(borrow)]
    response_id: Cow<'a, str>,
    #[serde(borrow)]
    item_id: Cow<'a, str>,
    output_index: Index,
    content_index: Index,
    #[serde(borrow)]
    transcript: Words<'a>,
}

#[derive(Deserialize)]
struct ItemWire<'a> {
    #[serde(borrow)]
    item_id: Cow<'a, str>,
}

#[derive(Deserialize)]
struct OutputItemWire<'a> {
    #[serde(borrow, default)]
    response_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    item: DoneItemWire<'a>,
}

#[derive(Deserialize)]
struct DoneItemWire<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    call_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct CallerWordsWire<'a> {
    #[serde(borrow)]
    item_id: Cow<'a, str>,
    #[serde(borrow)]
    transcript: Words<'a>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ResponseWire<'a> {
    #[serde(borrow)]
    response: ResponseBody<'a>,
}

/// The rest of a response is read only when it is needed, and then it may be missing or odd.
#[derive(Deserialize)]
struct ResponseBody<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    status_details: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct DetailsWire<'a> {
    #[serde(borrow, default)]
    reason: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<ErrorBody<'a>>,
}

#[derive(Deserialize)]
struct ErrorWire<'a> {
    #[serde(borrow)]
    error: ErrorBody<'a>,
}

#[derive(Deserialize, Default)]
struct ErrorBody<'a> {
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    param: Option<&'a RawValue>,
    #[serde(borrow, default)]
    event_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct UsageWire {
    #[serde(default)]
    seconds: Option<f64>,
    #[serde(default)]
    output_tokens: u64,
    #[serde(default)]
    input_token_details: InputTokens,
    #[serde(default)]
    output_token_details: Option<OutputTokens>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct InputTokens {
    text_tokens: u64,
    audio_tokens: u64,
    cached_tokens_details: Option<OutputTokens>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(default)]
struct OutputTokens {
    text_tokens: u64,
    audio_tokens: u64,
}

#[cfg(test)]
mod tests;
