//! The input audio buffer: appended audio, turns found in it, commits and their transcription.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::audio::g711;

use super::{
    ClientFaultKind, RealtimeServer, Task,
    brain::Cause,
    conversation::{Body, Item, Part},
    dtmf,
    record::Append,
    schema::Rejection,
    session::{Format, SessionKind, TurnDetection},
    settings::{BusyTurn, Mode},
    usage::Tokens,
    vad::{Edge, Vad},
};

/// Samples per millisecond at 24 kHz.
const PER_MS: u64 = 24;
/// Most bytes of audio in one append.
const LARGEST_APPEND: usize = 15 << 20;
/// Least audio in a commit, in milliseconds.
const LEAST_COMMIT_MS: u64 = 100;
/// Silence kept in front of speech that has not come yet.
const KEPT: u64 = 10_000 * PER_MS;

/// The buffer of one connection; positions are samples at 24 kHz since the session began.
#[derive(Debug, Default)]
pub(super) struct Input {
    carry: Option<u8>,
    last_level: i16,
    total: u64,
    samples: Vec<i16>,
    start: u64,
    committed: u64,
    vad: Vad,
    speech: Option<Speech>,
    first_append: Option<(std::time::Instant, u64)>,
    off_pace: bool,
    latest: Latest,
}

/// The latest append of whole samples: one that says the same again (silence, a tone) is not decoded anew.
#[derive(Debug, Default)]
struct Latest {
    base64: String,
    format: Option<Format>,
    bytes: usize,
    samples: Vec<i16>,
}

impl Latest {
    fn is(&self, format: Format, base64: &str) -> bool {
        self.format == Some(format) && self.base64 == base64
    }
}

#[derive(Debug)]
struct Speech {
    item_id: String,
    from: u64,
}

impl Input {
    /// Turns wire bytes to samples at 24 kHz; half a sample waits for its other half.
    fn decode(&mut self, format: Format, bytes: &[u8]) -> Vec<i16> {
        let mut samples = Vec::with_capacity(bytes.len());
        match format {
            Format::G711(law) => g711::decode_to_24k(law, bytes, &mut self.last_level, &mut samples),
            Format::Pcm24 => {
                let mut rest = bytes;
                if let (Some(low), Some((&high, after))) = (self.carry, rest.split_first()) {
                    samples.push(i16::from_le_bytes([low, high]));
                    self.carry = None;
                    rest = after;
                }
                let mut pairs = rest.chunks_exact(2);
                samples.extend(pairs.by_ref().map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
                self.carry = pairs.remainder().first().copied().or(self.carry);
            }
        }
        samples
    }

    fn store(&mut self, samples: &[i16], listening: bool) {
        self.samples.extend_from_slice(samples);
        let kept = self.samples.len() as u64;
        if listening && self.speech.is_none() && kept > 2 * KEPT {
            self.forget(self.start + kept - KEPT);
        }
    }

    /// Drops what lies before `position`.
    fn forget(&mut self, position: u64) {
        let count = usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.samples.len());
        self.samples.drain(..count);
        self.start += count as u64;
    }

    fn take(&mut self, from: u64, to: u64) -> Arc<[i16]> {
        let index = |position: u64| usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let end = index(to).min(self.samples.len());
        let taken: Arc<[i16]> = self.samples.get(index(from)..end).unwrap_or_default().into();
        self.forget(to);
        self.committed = self.committed.max(to);
        taken
    }

    fn stop_listening(&mut self) {
        self.vad.restart();
        self.speech = None;
    }
}

impl RealtimeServer {
    /// Takes the audio of an append.
    pub(super) fn append(&mut self, base64: &str) -> Result<(), Rejection> {
        if self.kind == SessionKind::Sideband {
            return Err(Rejection::plain("invalid_event", "Audio cannot be appended on a sideband connection."));
        }
        if base64.len() / 4 * 3 > LARGEST_APPEND + 3 {
            let message = "Invalid 'audio': at most 15 MiB of audio can be appended at once.";
            return Err(Rejection::invalid_value("audio", message));
        }
        let format = self.session.input_format();
        let latest = std::mem::take(&mut self.input.latest);
        let latest = if latest.is(format, base64) { latest } else { self.decode(format, base64, latest)? };
        self.heard(base64, latest.bytes, &latest.samples);
        self.input.latest = latest;
        Ok(())
    }

    /// Turns an append into samples; what the last one left serves as memory.
    fn decode(&mut self, format: Format, base64: &str, mut latest: Latest) -> Result<Latest, Rejection> {
        let Ok(bytes) = STANDARD.decode(base64) else {
            let message = "Invalid 'audio'. Expected base64-encoded audio bytes of the session's input format.";
            return Err(Rejection::invalid_value("audio", message));
        };
        if format == Format::Pcm24 && bytes.len() % 2 == 1 {
            self.blame(ClientFaultKind::OddAppend, format!("{} bytes", bytes.len()));
        }
        let whole = format == Format::Pcm24 && bytes.len().is_multiple_of(2) && self.input.carry.is_none();
        latest.samples = self.input.decode(format, &bytes);
        latest.bytes = bytes.len();
        latest.format = whole.then_some(format);
        latest.base64.clear();
        if whole {
            latest.base64.push_str(base64);
        }
        Ok(latest)
    }

    fn heard(&mut self, base64: &str, bytes: usize, samples: &[i16]) {
        let from = self.input.total;
        self.input.total += samples.len() as u64;
        self.record.appends.push(Append { at: self.now, samples: samples.len(), from });
        if self.settings.recording.audio {
            self.record.appended.extend_from_slice(samples);
        }
        self.check_pacing(from);
        match self.settings.mode {
            Mode::Echo { delay } => {
                self.start_echo();
                self.plan(self.now + delay, Task::Echo { base64: base64.to_owned(), bytes });
            }
            Mode::Metronome { .. } => {}
            Mode::Conversation => self.listen(samples),
        }
    }

    fn listen(&mut self, samples: &[i16]) {
        let detection = self.session.turn_detection();
        self.input.store(samples, detection.is_some());
        let Some(detection) = detection else { return self.input.vad.skip(samples.len()) };
        let mut edges = Vec::new();
        self.input.vad.push(samples, detection.threshold, detection.silence_ms * PER_MS, &mut edges);
        for edge in edges {
            match edge {
                Edge::Started { onset } => self.speech_started(onset, &detection),
                Edge::Stopped { end } => self.speech_stopped(end, &detection),
            }
        }
    }

    fn speech_started(&mut self, onset: u64, detection: &TurnDetection) {
        let from = onset.saturating_sub(detection.prefix_ms * PER_MS).max(self.input.committed);
        let item_id = self.dice.id("item");
        self.idle_generation += 1;
        self.emit("input_audio_buffer.speech_started", json!({"audio_start_ms": from / PER_MS, "item_id": item_id}));
        self.input.speech = Some(Speech { item_id, from });
        if detection.interrupt_response
            && let Some(number) = self.default_response
        {
            self.cancel(number, "turn_detected");
        }
    }

    fn speech_stopped(&mut self, end: u64, detection: &TurnDetection) {
        let Some(speech) = self.input.speech.take() else { return };
        self.emit(
            "input_audio_buffer.speech_stopped",
            json!({"audio_end_ms": end / PER_MS, "item_id": speech.item_id}),
        );
        let samples = self.commit_item(speech.item_id, speech.from, end);
        if !detection.create_response || self.kind == SessionKind::Transcription {
            return;
        }
        if let Some(number) = self.default_response {
            match self.settings.busy_turn {
                BusyTurn::Refused => {
                    let rejection = self.already_active(number);
                    self.refuse(&rejection, None);
                }
                BusyTurn::Queued => self.turn_waits = true,
            }
        } else {
            let tones = !self.settings.script.on_tone.is_empty();
            self.respond(Cause::Turn(if tones { dtmf::digit(&samples) } else { None }));
        }
    }

    /// Makes a user item of the audio between two positions and announces it.
    fn commit_item(&mut self, item_id: String, from: u64, to: u64) -> Arc<[i16]> {
        let previous = self.conversation.last_id();
        let samples = self.input.take(from, to);
        let ms = samples.len() as u64 / PER_MS;
        self.emit("input_audio_buffer.committed", json!({"previous_item_id": previous, "item_id": item_id}));
        let part = Part::InputAudio { samples: Arc::clone(&samples), transcript: None };
        let body = Body::Message { role: "user", parts: vec![part] };
        let item = Item { id: item_id.clone(), status: "completed", body };
        let shown = json!({"previous_item_id": previous, "item": item.json(false)});
        self.conversation.push(item);
        self.emit("conversation.item.added", shown.clone());
        self.emit("conversation.item.done", shown);
        if self.session.transcription_model().is_some() {
            let (number, text) = self.brain.hear(&self.settings.script);
            let at = self.now + self.settings.latency.transcription;
            self.plan(at, Task::Transcribe { item_id, number, text, ms });
        }
        samples
    }

    /// Reports what transcription claims to have heard.
    pub(super) fn transcribe(&mut self, item_id: &str, number: usize, text: &str, ms: u64) {
        let Some(model) = self.session.transcription_model().map(str::to_owned) else { return };
        if self.settings.failed_transcriptions.iter().any(|failed| usize::try_from(*failed) == Ok(number)) {
            let error = json!({"type": "server_error", "code": "transcription_failed", "param": null,
                "message": "The audio could not be transcribed."});
            self.emit(
                "conversation.item.input_audio_transcription.failed",
                json!({"item_id": item_id, "content_index": 0, "error": error}),
            );
            return;
        }
        for word in text.split_inclusive(' ') {
            let mut body = json!({"item_id": item_id, "content_index": 0, "delta": word});
            if self.session.wants_logprobs() {
                body["logprobs"] = logprobs(word);
            }
            self.emit("conversation.item.input_audio_transcription.delta", body);
        }
        if let Some(Item { body: Body::Message { parts, .. }, .. }) = self.conversation.find_mut(item_id)
            && let Some(Part::InputAudio { transcript, .. }) = parts.first_mut()
        {
            *transcript = Some(text.to_owned());
        }
        let mut body = json!({"item_id": item_id, "content_index": 0, "transcript": text,
            "usage": transcription_usage(&model, text, ms)});
        if model == "gpt-transcribe" {
            let language = self.session.transcription_language().map(|code| json!([{"code": code}]));
            body["languages"] = language.unwrap_or_else(|| json!([]));
        }
        if self.session.wants_logprobs() {
            body["logprobs"] = logprobs(text);
        }
        self.emit("conversation.item.input_audio_transcription.completed", body);
    }

    /// Commits by hand what was appended since the last commit.
    pub(super) fn commit(&mut self) -> Result<(), Rejection> {
        let waiting = self.input.total - self.input.committed;
        if waiting < LEAST_COMMIT_MS * PER_MS {
            let (whole, hundredths) = (waiting / PER_MS, waiting % PER_MS * 100 / PER_MS);
            let message = format!(
                "Error committing input audio buffer: buffer too small. Expected at least {LEAST_COMMIT_MS}ms of audio, \
                 but buffer only has {whole}.{hundredths:02}ms of audio."
            );
            return Err(Rejection::plain("input_audio_buffer_commit_empty", message));
        }
        let running = self.input.speech.take().map(|speech| speech.item_id);
        let item_id = running.unwrap_or_else(|| self.dice.id("item"));
        self.input.stop_listening();
        let (from, to) = (self.input.committed, self.input.total);
        self.commit_item(item_id, from, to);
        Ok(())
    }

    /// Empties the buffer.
    pub(super) fn clear(&mut self) {
        let total = self.input.total;
        self.input.stop_listening();
        self.input.take(total, total);
        self.input.carry = None;
        self.emit("input_audio_buffer.cleared", json!({}));
    }

    /// Adapts to changed turn settings.
    pub(super) fn turn_settings_changed(&mut self) {
        self.idle_generation += 1;
        if self.session.turn_detection().is_none() {
            self.input.stop_listening();
        }
    }

    /// Starts the wait for the caller after a response with so much audio.
    pub(super) fn await_caller(&mut self, audio_ms: u64) {
        self.idle_generation += 1;
        let Some(wait) = self.session.turn_detection().and_then(|turn| turn.idle_timeout_ms) else { return };
        if self.settings.mode == Mode::Conversation && self.input.speech.is_none() {
            let at = self.now + Duration::from_millis(audio_ms.saturating_add(wait));
            self.plan(at, Task::Idle(self.idle_generation));
        }
    }

    /// The caller stayed silent: the silence becomes an item and the model asks.
    pub(super) fn idle_over(&mut self, generation: u64) {
        let detection = self.session.turn_detection();
        let Some(wait) = detection.and_then(|turn| turn.idle_timeout_ms) else { return };
        let busy = self.default_response.is_some() || self.input.speech.is_some() || self.input.vad.speaking();
        if generation != self.idle_generation || busy {
            return;
        }
        let end = self.input.total;
        let from = end.saturating_sub(wait * PER_MS).max(self.input.committed);
        let item_id = self.dice.id("item");
        self.emit(
            "input_audio_buffer.timeout_triggered",
            json!({"audio_start_ms": from / PER_MS, "audio_end_ms": end / PER_MS, "item_id": item_id}),
        );
        self.commit_item(item_id, from, end);
        self.respond(Cause::Idle);
    }

    /// A stall of our own making is no fault of the client: its pace is measured afresh.
    pub(super) fn restart_pacing(&mut self) {
        self.input.first_append = None;
    }

    /// Compares appended audio with the clock; leaving the tolerance is noted once per excursion.
    fn check_pacing(&mut self, before: u64) {
        let (start, base) = *self.input.first_append.get_or_insert((self.now, before));
        let clock = u64::try_from(self.now.saturating_duration_since(start).as_millis()).unwrap_or(u64::MAX);
        // What is there before this append has had its time; the append itself may be any size.
        let audio = (before - base) / PER_MS;
        let (ahead, behind) = (audio.saturating_sub(clock), clock.saturating_sub(audio));
        self.record.most_ahead_ms = self.record.most_ahead_ms.max(ahead);
        self.record.most_behind_ms = self.record.most_behind_ms.max(behind);
        let tolerance = u64::try_from(self.settings.pacing_tolerance.as_millis()).unwrap_or(u64::MAX);
        let off_pace = ahead.max(behind) > tolerance;
        if off_pace && !self.input.off_pace {
            self.blame(ClientFaultKind::Pacing, format!("{ahead} ms ahead, {behind} ms behind"));
        }
        self.input.off_pace = off_pace;
    }
}

/// Transcription is billed by tokens or by length, depending on the model; clients must take both shapes.
fn transcription_usage(model: &str, text: &str, ms: u64) -> Value {
    if model.contains("whisper") || model.contains("live") || model == "gpt-transcribe" {
        // Tenths of a second are exact enough for a bill and need no rounding of floats.
        let tenths = u32::try_from(ms.div_ceil(100)).unwrap_or(u32::MAX);
        return json!({"type": "duration", "seconds": f64::from(tenths) / 10.0});
    }
    let (input, output) = (Tokens::of_caller(ms).audio, Tokens::of_text(text.len()).text);
    json!({"type": "tokens", "total_tokens": input + output, "input_tokens": input,
        "input_token_details": {"text_tokens": 0, "audio_tokens": input}, "output_tokens": output})
}

fn logprobs(text: &str) -> Value {
    let tokens = text.split_inclusive(' ');
    tokens.map(|token| json!({"token": token, "logprob": -0.01, "bytes": token.as_bytes()})).collect()
}
