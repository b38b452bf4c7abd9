//! The default conversation: an ordered list of items, with the audio that really was spoken or heard.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{schema::Rejection, session::Format, usage::Tokens};

/// Audio of an item in its wire coding.
#[derive(Debug, Clone)]
pub(super) enum Voice {
    /// 24 kHz samples, coded little endian when read.
    Samples(Arc<[i16]>),
    /// Bytes as they go over the wire.
    Coded(Arc<[u8]>),
}

impl Voice {
    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Samples(samples) => samples.len().saturating_mul(2),
            Self::Coded(bytes) => bytes.len(),
        }
    }

    /// Appends the bytes from `start` up to `end`; what lies beyond the end is left out.
    pub(super) fn read(&self, start: usize, end: usize, into: &mut Vec<u8>) {
        let end = end.min(self.len());
        match self {
            Self::Coded(bytes) => into.extend_from_slice(bytes.get(start..end).unwrap_or_default()),
            Self::Samples(samples) => {
                let covered = samples.get(start / 2..end.div_ceil(2)).unwrap_or_default();
                let from = into.len();
                into.reserve(covered.len() * 2);
                covered.iter().for_each(|sample| into.extend_from_slice(&sample.to_le_bytes()));
                // Half a sample at either end is somebody else's.
                into.truncate(from + start % 2 + end.saturating_sub(start));
                into.drain(from..into.len().min(from + start % 2));
            }
        }
    }
}

/// One part of a message.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// Typed by the user or given by the system.
    InputText(String),
    /// Spoken by the caller.
    InputAudio {
        /// 24 kHz samples.
        samples: Arc<[i16]>,
        /// What transcription made of it.
        transcript: Option<String>,
    },
    /// An image; its data are not kept.
    InputImage,
    /// Written by the model.
    OutputText(String),
    /// Spoken by the model.
    OutputAudio {
        /// What was planned to be said.
        voice: Voice,
        /// Bytes of it that belong to the item: sent, less what was truncated.
        bytes: usize,
        /// Coding.
        format: Format,
        /// The words; gone after a truncation.
        transcript: Option<String>,
        /// A truncation has fixed the length.
        truncated: bool,
    },
}

/// What an item is.
#[derive(Debug, Clone)]
pub(super) enum Body {
    Message {
        role: &'static str,
        parts: Vec<Part>,
    },
    Call {
        call_id: String,
        name: String,
        arguments: String,
    },
    CallOutput {
        call_id: String,
        output: String,
    },
    /// Kept as the client sent it.
    Other(Value),
}

/// One item of the conversation.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) status: &'static str,
    pub(super) body: Body,
}

impl Item {
    /// The item as events show it; with its audio for `conversation.item.retrieved`.
    pub(super) fn json(&self, with_audio: bool) -> Value {
        let (id, status) = (&self.id, self.status);
        match &self.body {
            Body::Message { role, parts } => {
                let content: Vec<Value> = parts.iter().map(|part| part.json(with_audio)).collect();
                json!({"id": id, "object": "realtime.item", "type": "message", "status": status, "role": role,
                    "content": content})
            }
            Body::Call { call_id, name, arguments } => json!({"id": id, "object": "realtime.item",
                "type": "function_call", "status": status, "name": name, "call_id": call_id, "arguments": arguments}),
            Body::CallOutput { call_id, output } => json!({"id": id, "object": "realtime.item",
                "type": "function_call_output", "call_id": call_id, "output": output, "status": status}),
            Body::Other(value) => value.clone(),
        }
    }

    /// Says whether the model made the item.
    pub(super) fn by_model(&self) -> bool {
        matches!(&self.body, Body::Message { role: "assistant", .. } | Body::Call { .. })
    }

    /// What the item costs as context: the caller's speech 1 token per 100 ms, the model's 1 per 50 ms, text a
    /// quarter token a byte.
    pub(super) fn tokens(&self) -> Tokens {
        match &self.body {
            Body::Message { parts, .. } => parts.iter().map(Part::tokens).fold(Tokens::default(), Tokens::plus),
            Body::Call { name, arguments, .. } => Tokens::of_text(name.len() + arguments.len()),
            Body::CallOutput { output, .. } => Tokens::of_text(output.len()),
            Body::Other(value) => Tokens::of_text(value.to_string().len()),
        }
    }

    /// Typed text of a user message.
    fn typed(&self) -> Option<&str> {
        match &self.body {
            Body::Message { role: "user", parts } => parts.iter().find_map(|part| match part {
                Part::InputText(text) => Some(text.as_str()),
                _ => None,
            }),
            _ => None,
        }
    }
}

impl Part {
    fn json(&self, with_audio: bool) -> Value {
        match self {
            Self::InputText(text) => json!({"type": "input_text", "text": text}),
            Self::InputImage => json!({"type": "input_image"}),
            Self::OutputText(text) => json!({"type": "output_text", "text": text}),
            Self::InputAudio { samples, transcript } => {
                let mut part = json!({"type": "input_audio", "transcript": transcript});
                if with_audio {
                    let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
                    part["audio"] = Value::String(STANDARD.encode(bytes));
                }
                part
            }
            Self::OutputAudio { voice, bytes, transcript, .. } => {
                let mut part = json!({"type": "output_audio"});
                if let Some(words) = transcript {
                    part["transcript"] = json!(words);
                }
                if with_audio {
                    let mut audio = Vec::new();
                    voice.read(0, *bytes, &mut audio);
                    part["audio"] = Value::String(STANDARD.encode(audio));
                }
                part
            }
        }
    }

    fn tokens(&self) -> Tokens {
        match self {
            Self::InputText(text) | Self::OutputText(text) => Tokens::of_text(text.len()),
            Self::InputImage => Tokens::default(),
            Self::InputAudio { samples, .. } => Tokens::of_caller(samples.len() as u64 / 24),
            Self::OutputAudio { bytes, format, transcript, .. } => {
                Tokens::of_model((bytes / format.bytes_per_ms()) as u64)
                    .plus(Tokens::of_text(transcript.as_ref().map_or(0, String::len)))
            }
        }
    }
}

/// The ordered items.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    items: Vec<Item>,
}

/// Outcome of a truncation that the API accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Truncation {
    /// The audio now ends there.
    Done,
    /// Refused: the audio that exists, in milliseconds.
    Beyond(u64),
}

impl Conversation {
    /// The items in order.
    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    /// Id of the last item.
    pub(super) fn last_id(&self) -> Option<String> {
        self.items.last().map(|item| item.id.clone())
    }

    /// The item of this id.
    pub(super) fn find(&self, id: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.id == id)
    }

    /// The item of this id, to change it.
    pub(super) fn find_mut(&mut self, id: &str) -> Option<&mut Item> {
        self.items.iter_mut().find(|item| item.id == id)
    }

    /// Id of the item before this one.
    pub(super) fn before(&self, id: &str) -> Option<String> {
        let index = self.items.iter().position(|item| item.id == id)?;
        self.items.get(index.checked_sub(1)?).map(|item| item.id.clone())
    }

    /// Adds at the end.
    pub(super) fn push(&mut self, item: Item) {
        self.items.push(item);
    }

    /// Inserts after `previous`: `None` = the end, `"root"` = the front.
    ///
    /// # Errors
    /// The previous item does not exist.
    pub(super) fn insert(&mut self, previous: Option<&str>, item: Item) -> Result<(), Rejection> {
        let index = match previous {
            None => self.items.len(),
            Some("root") => 0,
            Some(id) => match self.items.iter().position(|item| item.id == id) {
                Some(index) => index + 1,
                None => {
                    let message = format!("Previous item with id not found: {}", short(id));
                    return Err(Rejection::invalid_value("previous_item_id", message));
                }
            },
        };
        self.items.insert(index.min(self.items.len()), item);
        Ok(())
    }

    /// Removes an item; says whether it was there.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        let before = self.items.len();
        self.items.retain(|item| item.id != id);
        self.items.len() < before
    }

    /// Adds sent bytes to the item's spoken audio.
    pub(super) fn grow(&mut self, id: &str, sent: usize, words: &str) {
        let Some(Item { body: Body::Message { parts, .. }, .. }) = self.find_mut(id) else { return };
        if let Some(Part::OutputAudio { bytes, transcript, truncated: false, .. }) = parts.first_mut() {
            *bytes = sent;
            *transcript = Some(words.to_owned());
        }
    }

    /// Cuts the model's spoken audio to `end_ms` and drops its words, if that much audio exists.
    ///
    /// # Errors
    /// Unknown item, an item without spoken audio, a wrong content index, a negative time.
    pub(super) fn truncate(
        &mut self,
        id: &str,
        index: i64,
        end_ms: i64,
        bias_ms: u64,
    ) -> Result<Truncation, Rejection> {
        let Some(item) = self.find_mut(id) else {
            let message = format!("Item with item_id not found: {}", short(id));
            return Err(Rejection::plain("item_truncate_invalid_item_id", message));
        };
        let Body::Message { role: "assistant", parts } = &mut item.body else {
            let message = "Only model output audio messages can be truncated";
            return Err(Rejection::invalid_value("item_id", message));
        };
        let part = usize::try_from(index).ok().and_then(|index| parts.get_mut(index));
        let Some(Part::OutputAudio { bytes, format, transcript, truncated, .. }) = part else {
            return Err(Rejection::invalid_value("content_index", "Content index does not name an audio part"));
        };
        let Ok(end) = u64::try_from(end_ms) else {
            return Err(Rejection::invalid_value("audio_end_ms", "Audio end must not be negative"));
        };
        let there = (*bytes / format.bytes_per_ms()) as u64;
        let there = there.saturating_sub(bias_ms);
        if end > there {
            return Ok(Truncation::Beyond(there));
        }
        *bytes = usize::try_from(end).unwrap_or(usize::MAX).saturating_mul(format.bytes_per_ms());
        *transcript = None;
        *truncated = true;
        Ok(Truncation::Done)
    }

    /// The latest typed user message that none of the model's items follows.
    pub(super) fn unanswered_text(&self) -> Option<&str> {
        self.items.iter().rev().take_while(|item| !item.by_model()).find_map(Item::typed)
    }

    /// Says whether a tool result follows the model's latest item.
    pub(super) fn has_fresh_tool_result(&self) -> bool {
        let mut fresh = self.items.iter().rev().take_while(|item| !item.by_model());
        fresh.any(|item| matches!(item.body, Body::CallOutput { .. }))
    }
}

/// An id from a client, shortened for an error text.
pub(super) fn short(id: &str) -> String {
    id.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(id: &str) -> Item {
        let parts = vec![Part::InputText(id.to_owned())];
        Item { id: id.into(), status: "completed", body: Body::Message { role: "user", parts } }
    }

    fn spoken(id: &str, ms: usize) -> Item {
        let part = Part::OutputAudio {
            voice: Voice::Samples(vec![7; ms * 24].into()),
            bytes: ms * 48,
            format: Format::Pcm24,
            transcript: Some("words".into()),
            truncated: false,
        };
        Item { id: id.into(), status: "completed", body: Body::Message { role: "assistant", parts: vec![part] } }
    }

    fn order(conversation: &Conversation) -> Vec<&str> {
        conversation.items().iter().map(|item| item.id.as_str()).collect()
    }

    #[test]
    fn items_stand_where_the_client_puts_them() {
        let mut conversation = Conversation::default();
        conversation.insert(None, text("b")).unwrap();
        conversation.insert(Some("root"), text("a")).unwrap();
        conversation.insert(Some("a"), text("ab")).unwrap();
        assert_eq!(order(&conversation), ["a", "ab", "b"]);
        assert!(conversation.insert(Some("nowhere"), text("c")).is_err());
        assert_eq!((conversation.before("a"), conversation.before("b")), (None, Some("ab".into())));
    }

    #[test]
    fn truncation_is_checked_against_the_audio_that_exists() {
        let mut conversation = Conversation::default();
        conversation.push(spoken("s", 900));
        assert_eq!(conversation.truncate("s", 0, 901, 0), Ok(Truncation::Beyond(900)));
        assert_eq!(conversation.truncate("s", 0, 850, 85), Ok(Truncation::Beyond(815)));
        assert_eq!(conversation.truncate("s", 0, 400, 0), Ok(Truncation::Done));
        assert_eq!(conversation.truncate("s", 0, 401, 0), Ok(Truncation::Beyond(400)));
        let json = conversation.find("s").unwrap().json(true);
        assert!(json["content"][0].get("transcript").is_none());
        assert_eq!(json["content"][0]["audio"].as_str().unwrap().len(), 400 * 48 / 3 * 4);
    }

    #[test]
    fn only_spoken_items_of_the_model_can_be_truncated() {
        let mut conversation = Conversation::default();
        conversation.push(text("u"));
        conversation.push(spoken("s", 10));
        let code = |result: Result<Truncation, Rejection>| result.unwrap_err().code;
        assert_eq!(code(conversation.truncate("x", 0, 0, 0)), "item_truncate_invalid_item_id");
        assert_eq!(code(conversation.truncate("u", 0, 0, 0)), "invalid_value");
        assert_eq!(code(conversation.truncate("s", 1, 0, 0)), "invalid_value");
        assert_eq!(code(conversation.truncate("s", 0, -1, 0)), "invalid_value");
    }

    #[test]
    fn audio_is_read_across_odd_byte_borders() {
        let voice = Voice::Samples(vec![0x0201, 0x0403, 0x0605].into());
        let read = |start, end| {
            let mut bytes = Vec::new();
            voice.read(start, end, &mut bytes);
            bytes
        };
        assert_eq!((read(0, 3), read(3, 6), read(1, 2)), (vec![1, 2, 3], vec![4, 5, 6], vec![2]));
        assert_eq!((read(4, 99), read(99, 120)), (vec![5, 6], vec![]));
    }
}
