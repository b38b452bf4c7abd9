//! The inside of a response: items opened and closed, audio in bursts of odd pieces with its words running ahead,
//! texts, tool calls, and the echo.

use std::{sync::Arc, time::Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::audio::g711;

use super::{
    Phase, RealtimeServer, Task,
    brain::{Clip, Say},
    conversation::{Body, Item, Part, Voice},
    record::SpokenItem,
    response::{Ending, Response},
    session::Format,
    settings::BadResponse,
    usage::Tokens,
    wire::{DeltaOf, render_audio},
};

/// An output item that is being sent.
#[derive(Debug)]
pub(super) struct OpenItem {
    pub(super) id: String,
    previous: Option<String>,
    what: What,
}

#[derive(Debug)]
enum What {
    Speech(Speech),
    Text { words: Vec<String>, said: String },
    Call { call_id: String, name: String, arguments: String, pieces: usize },
}

#[derive(Debug)]
struct Speech {
    voice: Voice,
    sent: usize,
    words: Vec<String>,
    words_sent: usize,
    said: String,
}

/// What came of going on with an item.
enum Step {
    /// The item is complete.
    Closed,
    /// The burst is spent; the item goes on with the next.
    Rest(OpenItem),
    /// The response ends in the middle of the item.
    End(OpenItem, Ending),
}

impl Speech {
    fn new(clip: &Clip, format: Format) -> Self {
        let voice = match format {
            Format::Pcm24 => Voice::Samples(Arc::clone(&clip.samples)),
            Format::G711(law) => Voice::Coded(g711::encode_from_24k(law, &clip.samples).into()),
        };
        Self { voice, sent: 0, words: spaced_words(&clip.transcript), words_sent: 0, said: String::new() }
    }

    /// How many words are due once `sent` bytes are out.
    fn words_due(&self, lead: usize) -> usize {
        let spoken = self.words.len().saturating_mul(self.sent) / self.voice.len().max(1);
        spoken.saturating_add(lead).min(self.words.len())
    }
}

impl OpenItem {
    fn json(&self, status: &str) -> Value {
        let content = match &self.what {
            What::Speech(speech) => json!([{"type": "output_audio", "transcript": speech.said}]),
            What::Text { said, .. } => json!([{"type": "output_text", "text": said}]),
            What::Call { call_id, name, arguments, .. } => {
                return json!({"id": self.id, "object": "realtime.item", "type": "function_call", "status": status,
                    "name": name, "call_id": call_id, "arguments": arguments});
            }
        };
        json!({"id": self.id, "object": "realtime.item", "type": "message", "status": status, "role": "assistant",
            "content": content})
    }

    /// The item before anything of it was said.
    fn blank(&self) -> Value {
        let mut blank = self.json("in_progress");
        if let Some(object) = blank.as_object_mut() {
            match self.what {
                What::Call { .. } => object.insert("arguments".into(), json!("")),
                What::Speech(_) | What::Text { .. } => object.insert("content".into(), json!([])),
            };
        }
        blank
    }
}

impl RealtimeServer {
    /// Sends the next burst of a response.
    pub(super) fn speak(&mut self, due: Instant, number: u64) {
        let Some(mut response) = self.responses.remove(&number) else { return };
        if let Some(BadResponse::Failed { kind, code, message }) = response.bad.take_if(|bad| bad.is_failure()) {
            return self.finish(number, response, &Ending::Failed { kind, code, message });
        }
        let burst = &self.settings.burst;
        let per_burst = burst.interval.as_millis() * u128::from(burst.speed_percent) / 100;
        let bytes = per_burst.saturating_mul(response.format.bytes_per_ms() as u128).max(1);
        response.credit = response.credit.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        response.bursts = response.bursts.wrapping_add(1);
        loop {
            let Some(item) = response.open.take() else {
                match response.plan.pop_front() {
                    Some(say) => self.open_item(&mut response, say),
                    None => return self.finish(number, response, &Ending::Completed),
                }
                continue;
            };
            match self.go_on(&mut response, item) {
                Step::Closed => {}
                Step::Rest(item) => {
                    response.open = Some(item);
                    break;
                }
                Step::End(item, ending) => {
                    response.open = Some(item);
                    return self.finish(number, response, &ending);
                }
            }
        }
        let burst = &self.settings.burst;
        let pause = burst.rest.filter(|(every, _)| response.bursts % (*every).max(1) == 0);
        let at = due + burst.interval + pause.map(|(_, length)| length).unwrap_or_default();
        self.responses.insert(number, response);
        self.plan(at, Task::Speak(number));
    }

    fn open_item(&mut self, response: &mut Response, say: Say) {
        let what = match say {
            Say::Call { name, arguments, pieces } => {
                let call_id = self.dice.id("call");
                self.calls.insert(call_id.clone(), false);
                What::Call { call_id, name, arguments, pieces }
            }
            Say::Clip(clip) => spoken_or_written(&clip, response),
            Say::Lasting(clip, length) => spoken_or_written(&clip.lasting(length), response),
        };
        let previous = self.conversation.last_id();
        let item = OpenItem { id: self.dice.id("item"), previous, what };
        let output_index = response.finished.len();
        self.emit(
            "response.output_item.added",
            json!({"response_id": response.id, "output_index": output_index, "item": item.blank()}),
        );
        if response.in_conversation {
            let body = match &item.what {
                What::Call { call_id, name, arguments, .. } => {
                    Body::Call { call_id: call_id.clone(), name: name.clone(), arguments: arguments.clone() }
                }
                What::Text { .. } => message(Part::OutputText(String::new())),
                What::Speech(speech) => message(Part::OutputAudio {
                    voice: speech.voice.clone(),
                    bytes: 0,
                    format: response.format,
                    transcript: Some(String::new()),
                    truncated: false,
                }),
            };
            self.conversation.push(Item { id: item.id.clone(), status: "in_progress", body });
            self.emit("conversation.item.added", json!({"previous_item_id": item.previous, "item": item.blank()}));
        }
        let part = match &item.what {
            What::Speech(speech) => {
                self.has_spoken = true;
                self.record.spoken.push(spoken_item(response, &item.id, speech));
                Some(json!({"type": "audio", "transcript": ""}))
            }
            What::Text { .. } => Some(json!({"type": "text", "text": ""})),
            What::Call { .. } => None,
        };
        if let Some(part) = part {
            let mut body = place(response, &item.id);
            body["part"] = part;
            self.emit("response.content_part.added", body);
        }
        response.open = Some(item);
    }

    fn go_on(&mut self, response: &mut Response, mut item: OpenItem) -> Step {
        let (id, what) = (&item.id, &mut item.what);
        let ending = match what {
            What::Speech(speech) => match self.speak_on(response, id, speech) {
                Ok(true) => None,
                Ok(false) => return Step::Rest(item),
                Err(ending) => Some(ending),
            },
            What::Text { words, said } => {
                let mut ending = None;
                for word in std::mem::take(words) {
                    if response.max_tokens.is_some_and(|most| response.produced().total() >= most) {
                        ending = Some(Ending::Incomplete("max_output_tokens"));
                        break;
                    }
                    response.text_bytes += word.len();
                    said.push_str(&word);
                    let body = self.with_delta(place(response, id), word);
                    self.emit("response.output_text.delta", body);
                }
                ending
            }
            What::Call { call_id, arguments, pieces, .. } => {
                response.text_bytes += arguments.len();
                let output_index = response.finished.len();
                for piece in split(arguments, *pieces) {
                    let body = json!({"response_id": response.id, "item_id": id, "output_index": output_index,
                        "call_id": call_id});
                    let body = self.with_delta(body, piece.to_owned());
                    self.emit("response.function_call_arguments.delta", body);
                }
                None
            }
        };
        match ending {
            Some(ending) => Step::End(item, ending),
            None => {
                self.close_item(response, item, true);
                Step::Closed
            }
        }
    }

    /// Sends audio and words while the burst lasts; says whether the item is complete.
    fn speak_on(&mut self, response: &mut Response, id: &str, speech: &mut Speech) -> Result<bool, Ending> {
        while speech.sent < speech.voice.len() {
            if response.credit <= 0 || !matches!(self.phase, Phase::Open) {
                return Ok(false);
            }
            self.send_words(response, id, speech, self.settings.transcript_lead_words);
            let (allowed, reason) = allowance(response);
            if allowed == 0 {
                return Err(Ending::Incomplete(reason));
            }
            let sizes = &self.settings.burst.chunk_bytes;
            let size = response.pieces.checked_rem(sizes.len()).and_then(|index| sizes.get(index)).copied();
            let size = size.unwrap_or_else(|| usize::try_from(response.credit).unwrap_or(usize::MAX)).max(1);
            let end = speech.sent.saturating_add(size.min(allowed)).min(speech.voice.len());
            let mut bytes = Vec::with_capacity(end - speech.sent);
            speech.voice.read(speech.sent, end, &mut bytes);
            response.pieces = response.pieces.wrapping_add(1);
            response.credit -= i64::try_from(bytes.len()).unwrap_or(i64::MAX);
            self.send_audio(response, id, speech, &STANDARD.encode(&bytes), bytes.len());
        }
        self.send_words(response, id, speech, usize::MAX);
        Ok(true)
    }

    fn send_words(&mut self, response: &mut Response, id: &str, speech: &mut Speech, lead: usize) {
        let due = speech.words_due(lead);
        while speech.words_sent < due {
            let word = speech.words.get(speech.words_sent).cloned().unwrap_or_default();
            speech.words_sent += 1;
            speech.said.push_str(&word);
            response.text_bytes += word.len();
            let body = self.with_delta(place(response, id), word);
            self.emit("response.output_audio_transcript.delta", body);
        }
    }

    fn send_audio(&mut self, response: &mut Response, id: &str, speech: &mut Speech, base64: &str, bytes: usize) {
        let event_id = self.dice.id("event");
        let of = DeltaOf { response_id: &response.id, item_id: id, output_index: response.finished.len() };
        let text = render_audio(&self.settings, &event_id, of, base64);
        self.push_text(text);
        speech.sent = speech.sent.saturating_add(bytes);
        response.audio_bytes = response.audio_bytes.saturating_add(bytes);
        self.conversation.grow(id, speech.sent, &speech.said);
        let now = self.now;
        if let Some(spoken) = self.record.spoken_mut(id) {
            spoken.bytes_sent = speech.sent;
            spoken.samples_sent = match response.format {
                Format::Pcm24 => speech.sent / 2,
                Format::G711(_) => speech.sent.saturating_mul(3),
            };
            spoken.deltas.push((now, speech.sent));
            spoken.transcript.clone_from(&speech.said);
        }
        self.strike_at_delta();
    }

    /// Closes an item, complete or broken off, and announces it.
    pub(super) fn close_item(&mut self, response: &mut Response, item: OpenItem, complete: bool) {
        let status = if complete { "completed" } else { "incomplete" };
        let at = place(response, &item.id);
        let part = match &item.what {
            What::Speech(speech) => {
                if self.settings.batch_audio_done {
                    response.audio_done_owed.push(at.clone());
                } else {
                    self.emit("response.output_audio.done", at.clone());
                }
                self.emit("response.output_audio_transcript.done", with(&at, "transcript", json!(speech.said)));
                Some(json!({"type": "audio", "transcript": speech.said}))
            }
            What::Text { said, .. } => {
                self.emit("response.output_text.done", with(&at, "text", json!(said)));
                Some(json!({"type": "text", "text": said}))
            }
            What::Call { call_id, name, arguments, .. } => {
                let body = json!({"response_id": response.id, "item_id": item.id, "call_id": call_id, "name": name,
                    "output_index": response.finished.len(), "arguments": arguments});
                self.emit("response.function_call_arguments.done", body);
                None
            }
        };
        if let Some(part) = part {
            self.emit("response.content_part.done", with(&at, "part", part));
        }
        let shown = item.json(status);
        if response.in_conversation {
            if let Some(kept) = self.conversation.find_mut(&item.id) {
                kept.status = status;
                if let (What::Text { said, .. }, Body::Message { parts, .. }) = (&item.what, &mut kept.body) {
                    *parts = vec![Part::OutputText(said.clone())];
                }
            }
            self.emit("conversation.item.done", json!({"previous_item_id": item.previous, "item": shown}));
        }
        let output_index = response.finished.len();
        self.emit(
            "response.output_item.done",
            json!({"response_id": response.id, "output_index": output_index, "item": shown}),
        );
        response.finished.push(shown);
    }

    /// Returns an append in the long response of echo mode.
    pub(super) fn echo(&mut self, base64: &str, bytes: usize) {
        self.start_echo();
        let Some(number) = self.default_response else { return };
        let Some(mut response) = self.responses.remove(&number) else { return };
        if response.endless {
            if response.open.is_none() {
                self.open_item(&mut response, Say::Clip(Clip::new("", [].into())));
            }
            if let Some(mut item) = response.open.take() {
                if let What::Speech(speech) = &mut item.what {
                    self.send_audio(&mut response, &item.id, speech, base64, bytes);
                }
                response.open = Some(item);
            }
        }
        self.responses.insert(number, response);
    }

    fn with_delta(&self, mut body: Value, delta: String) -> Value {
        body["delta"] = Value::String(delta);
        if self.settings.extra_keys {
            body["obfuscation"] = json!("bQ8zR2");
        }
        body
    }
}

fn spoken_or_written(clip: &Clip, response: &Response) -> What {
    if response.text_only {
        What::Text { words: spaced_words(&clip.transcript), said: String::new() }
    } else {
        What::Speech(Speech::new(clip, response.format))
    }
}

fn spoken_item(response: &Response, item_id: &str, speech: &Speech) -> SpokenItem {
    let samples = match &speech.voice {
        Voice::Samples(samples) => Arc::clone(samples),
        Voice::Coded(bytes) => {
            let (mut raised, mut last) = (Vec::new(), 0);
            if let Format::G711(law) = response.format {
                g711::decode_to_24k(law, bytes, &mut last, &mut raised);
            }
            raised.into()
        }
    };
    SpokenItem {
        response_id: response.id.clone(),
        item_id: item_id.to_owned(),
        samples,
        bytes_sent: 0,
        samples_sent: 0,
        deltas: Vec::new(),
        transcript: String::new(),
        truncated_at_ms: None,
        deleted: false,
        cancelled: false,
    }
}

fn message(part: Part) -> Body {
    Body::Message { role: "assistant", parts: vec![part] }
}

/// The keys that say where in a response something belongs.
fn place(response: &Response, item_id: &str) -> Value {
    json!({"response_id": response.id, "item_id": item_id, "output_index": response.finished.len(),
        "content_index": 0})
}

fn with(body: &Value, key: &str, value: Value) -> Value {
    let mut body = body.clone();
    body[key] = value;
    body
}

/// Bytes of audio that the response may still send, and why not more.
fn allowance(response: &Response) -> (usize, &'static str) {
    let left = |ms: u64| {
        let bytes = usize::try_from(ms).unwrap_or(usize::MAX).saturating_mul(response.format.bytes_per_ms());
        bytes.saturating_sub(response.audio_bytes)
    };
    let by_tokens = response.max_tokens.map_or(usize::MAX, |most| {
        left(most.saturating_sub(Tokens::of_text(response.text_bytes).text).saturating_mul(50))
    });
    let by_filter = match &response.bad {
        Some(BadResponse::ContentFilter { after }) => left(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        _ => usize::MAX,
    };
    if by_filter < by_tokens { (by_filter, "content_filter") } else { (by_tokens, "max_output_tokens") }
}

/// Words with the space that follows them, so that joining them gives the text.
fn spaced_words(text: &str) -> Vec<String> {
    text.trim().split_inclusive(' ').map(str::to_owned).collect()
}

/// Splits a text into `pieces` parts of about equal length, at character borders.
fn split(text: &str, pieces: usize) -> Vec<&str> {
    let size = text.len().div_ceil(pieces.max(1)).max(1);
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let at = (size..=rest.len()).find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
        let (part, after) = rest.split_at(at);
        parts.push(part);
        rest = after;
    }
    parts
}
