//! The session object: its defaults, the strict merge of a client's update, and what the rest of the server reads
//! from it.

use serde_json::{Map, Value, json};

use super::schema::Rejection;
use crate::audio::g711::Law;

/// What a connection was opened for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionKind {
    /// A conversation with this model.
    Realtime {
        /// The model asked for.
        model: String,
    },
    /// Transcription only: no responses.
    Transcription,
    /// A second socket on a call whose audio runs elsewhere: no appends.
    Sideband,
}

/// Coding of audio in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// 16 bit little endian at 24 kHz, 48 bytes a millisecond.
    Pcm24,
    /// G.711 at 8 kHz, 8 bytes a millisecond.
    G711(Law),
}

impl Format {
    /// Bytes per millisecond.
    pub(super) const fn bytes_per_ms(self) -> usize {
        match self {
            Self::Pcm24 => 48,
            Self::G711(_) => 8,
        }
    }

    /// Reads a format object; what is no format is PCM.
    pub(super) fn read(value: &Value) -> Self {
        match value.get("type").and_then(Value::as_str) {
            Some("audio/pcmu") => Self::G711(Law::Mu),
            Some("audio/pcma") => Self::G711(Law::A),
            _ => Self::Pcm24,
        }
    }
}

/// How turns are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TurnDetection {
    pub(super) threshold: f64,
    pub(super) prefix_ms: u64,
    pub(super) silence_ms: u64,
    pub(super) create_response: bool,
    pub(super) interrupt_response: bool,
    pub(super) idle_timeout_ms: Option<u64>,
}

/// The session of one connection.
#[derive(Debug)]
pub(super) struct Session {
    value: Value,
    default: Value,
}

impl Session {
    /// A fresh session with the defaults that captured `session.created` events show, silence 200 ms among them.
    pub(super) fn new(kind: &SessionKind, id: &str, expires_at: u64, extra_keys: bool) -> Self {
        let input = json!({
            "format": {"type": "audio/pcm", "rate": 24_000},
            "transcription": null,
            "noise_reduction": null,
            "turn_detection": default_detection("server_vad"),
        });
        let mut value = match kind {
            SessionKind::Transcription => json!({
                "type": "transcription", "object": "realtime.transcription_session", "id": id,
                "expires_at": expires_at, "audio": {"input": input}, "include": null,
            }),
            SessionKind::Realtime { .. } | SessionKind::Sideband => json!({
                "type": "realtime", "object": "realtime.session", "id": id, "expires_at": expires_at,
                "model": match kind { SessionKind::Realtime { model } => model.as_str(), _ => "gpt-realtime-2.1" },
                "output_modalities": ["audio"],
                "instructions": "",
                "tools": [],
                "tool_choice": "auto",
                "max_output_tokens": "inf",
                "tracing": null,
                "truncation": "auto",
                "prompt": null,
                "audio": {
                    "input": input,
                    "output": {"format": {"type": "audio/pcm", "rate": 24_000}, "voice": "marin", "speed": 1.0},
                },
                "include": null,
            }),
        };
        if extra_keys && let Some(object) = value.as_object_mut() {
            object.insert("sampling_region".into(), json!("emulated"));
        }
        Self { default: value.clone(), value }
    }

    /// The whole effective session, as `session.created` and `session.updated` carry it.
    pub(super) fn json(&self) -> &Value {
        &self.value
    }

    /// Merges an update that has passed the shape check: objects key by key, lists and plain values as a whole,
    /// `null` back to the default.
    ///
    /// # Errors
    /// What the API refuses although the shape fits; then nothing of the update is applied.
    pub(super) fn update(&mut self, patch: &Value, state: Activity) -> Result<(), Rejection> {
        let kind = patch.get("type").and_then(Value::as_str).unwrap_or_default();
        if Some(kind) != self.value.get("type").and_then(Value::as_str) {
            let message = format!("Passing a '{kind}' session update event to another type of session is not allowed.");
            return Err(Rejection::invalid_value("session.type", message));
        }
        let mut merged = self.value.clone();
        if let Some(changes) = patch.as_object() {
            for (key, change) in changes.iter().filter(|(key, _)| !matches!(key.as_str(), "type" | "model")) {
                let before = merged.get(key).cloned().unwrap_or_default();
                let default = self.default.get(key).cloned().unwrap_or_default();
                merged[key.as_str()] = merge(key, &before, change, &default);
            }
        }
        check_voice(&self.value, &merged, state)?;
        check_transcription(&merged)?;
        check_tracing(&self.value, &merged)?;
        self.value = merged;
        Ok(())
    }

    fn at(&self, pointer: &str) -> &Value {
        self.value.pointer(pointer).unwrap_or(&Value::Null)
    }

    pub(super) fn input_format(&self) -> Format {
        Format::read(self.at("/audio/input/format"))
    }

    pub(super) fn turn_detection(&self) -> Option<TurnDetection> {
        let found = self.at("/audio/input/turn_detection");
        let flag = |key: &str| found.get(key).and_then(Value::as_bool).unwrap_or(true);
        let whole = |key: &str| found.get(key).and_then(Value::as_u64);
        let (create_response, interrupt_response) = (flag("create_response"), flag("interrupt_response"));
        match found.get("type").and_then(Value::as_str)? {
            "server_vad" => Some(TurnDetection {
                threshold: found.get("threshold").and_then(Value::as_f64).unwrap_or(0.5),
                prefix_ms: whole("prefix_padding_ms").unwrap_or(300),
                silence_ms: whole("silence_duration_ms").unwrap_or(200),
                idle_timeout_ms: whole("idle_timeout_ms"),
                create_response,
                interrupt_response,
            }),
            // Nobody here understands what is said: eagerness becomes a fixed window well inside the documented
            // longest waits of 8, 4 and 2 s.
            _ => Some(TurnDetection {
                threshold: 0.5,
                prefix_ms: 300,
                silence_ms: match found.get("eagerness").and_then(Value::as_str) {
                    Some("low") => 1_600,
                    Some("high") => 400,
                    _ => 800,
                },
                idle_timeout_ms: None,
                create_response,
                interrupt_response,
            }),
        }
    }

    /// Name of the transcription model when transcription is on.
    pub(super) fn transcription_model(&self) -> Option<&str> {
        let found = self.at("/audio/input/transcription");
        found.is_object().then(|| found.get("model").and_then(Value::as_str).unwrap_or("gpt-transcribe"))
    }

    /// The first language hint of the transcription settings.
    pub(super) fn transcription_language(&self) -> Option<&str> {
        let found = self.at("/audio/input/transcription");
        let listed = || found.get("languages").and_then(|list| list.get(0)).and_then(Value::as_str);
        found.get("language").and_then(Value::as_str).or_else(listed)
    }

    pub(super) fn wants_logprobs(&self) -> bool {
        self.at("/include").as_array().is_some_and(|list| !list.is_empty())
    }

    pub(super) fn instructions(&self) -> &str {
        self.at("/instructions").as_str().unwrap_or_default()
    }

    /// Field of the session that a response inherits unless it names its own.
    pub(super) fn inherited(&self, pointer: &str) -> Value {
        self.at(pointer).clone()
    }

    pub(super) fn tools_bytes(&self) -> usize {
        match self.at("/tools").as_array() {
            Some(tools) if !tools.is_empty() => self.at("/tools").to_string().len(),
            _ => 0,
        }
    }
}

/// What of the conversation bears on an update.
#[derive(Debug, Clone, Copy)]
pub(super) struct Activity {
    /// The model has been heard in this session.
    pub(super) has_spoken: bool,
    /// A response is in progress.
    pub(super) speaking: bool,
}

fn default_detection(kind: &str) -> Value {
    match kind {
        "semantic_vad" => {
            json!({"type": kind, "eagerness": "auto", "create_response": true, "interrupt_response": true})
        }
        _ => json!({
            "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 200,
            "idle_timeout_ms": null, "create_response": true, "interrupt_response": true,
        }),
    }
}

fn merge(key: &str, before: &Value, change: &Value, default: &Value) -> Value {
    match key {
        _ if change.is_null() => match key {
            "turn_detection" => Value::Null,
            _ => default.clone(),
        },
        // One of several shapes, chosen by its type: keys of another type must not survive.
        "turn_detection" => {
            let kind = change.get("type").and_then(Value::as_str).unwrap_or("server_vad");
            let same = before.get("type").and_then(Value::as_str) == Some(kind);
            let base = if same { before.clone() } else { default_detection(kind) };
            overlay(&base, change, &default_detection(kind))
        }
        "format" => match change.get("type").and_then(Value::as_str) {
            Some("audio/pcm") => json!({"type": "audio/pcm", "rate": 24_000}),
            _ => change.clone(),
        },
        "noise_reduction" => {
            let base = if before.is_null() { json!({"type": "near_field", "strength": 1.0}) } else { before.clone() };
            overlay(&base, change, &Value::Null)
        }
        "transcription" => overlay(before, change, &Value::Null),
        "audio" | "input" | "output" | "reasoning" => overlay(before, change, default),
        _ => change.clone(),
    }
}

fn overlay(before: &Value, change: &Value, default: &Value) -> Value {
    let mut result = before.as_object().cloned().unwrap_or_else(Map::new);
    for (key, entry) in change.as_object().into_iter().flatten() {
        let old = result.get(key).cloned().unwrap_or_default();
        let fallback = default.get(key).cloned().unwrap_or_default();
        result.insert(key.clone(), merge(key, &old, entry, &fallback));
    }
    Value::Object(result)
}

fn check_voice(before: &Value, after: &Value, state: Activity) -> Result<(), Rejection> {
    let differs = |pointer: &str| before.pointer(pointer) != after.pointer(pointer);
    if state.has_spoken && differs("/audio/output/voice") {
        let message = "Cannot update a conversation's voice if assistant audio is present.";
        return Err(Rejection {
            code: "cannot_update_voice",
            message: message.into(),
            param: Some("session.audio.output.voice".into()),
        });
    }
    if state.speaking && differs("/audio/output/speed") {
        let message = "The speed can only be changed in between model turns.";
        return Err(Rejection::invalid_value("session.audio.output.speed", message));
    }
    Ok(())
}

fn check_transcription(after: &Value) -> Result<(), Rejection> {
    let Some(wanted) = after.pointer("/audio/input/transcription").filter(|wanted| wanted.is_object()) else {
        return Ok(());
    };
    let model = wanted.get("model").and_then(Value::as_str).unwrap_or("gpt-transcribe");
    let hints = matches!(model, "gpt-transcribe" | "gpt-live-transcribe");
    let streaming = model == "gpt-realtime-whisper";
    let allowed = [("languages", hints), ("keywords", hints), ("delay", streaming), ("prompt", !streaming)];
    for (key, fits) in allowed {
        if !fits && wanted.get(key).is_some_and(|entry| !entry.is_null()) {
            let param = format!("session.audio.input.transcription.{key}");
            let message = format!("'{param}' is not supported by this transcription model.");
            return Err(Rejection::invalid_value(&param, message));
        }
    }
    Ok(())
}

fn check_tracing(before: &Value, after: &Value) -> Result<(), Rejection> {
    let (old, new) = (before.get("tracing"), after.get("tracing"));
    if old.is_some_and(|old| !old.is_null()) && old != new {
        let message = "Tracing cannot be modified once it is enabled.";
        return Err(Rejection::invalid_value("session.tracing", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Activity = Activity { has_spoken: false, speaking: false };
    const SPOKEN: Activity = Activity { has_spoken: true, speaking: false };

    fn session() -> Session {
        Session::new(&SessionKind::Realtime { model: "gpt-realtime-2.1".into() }, "sess_1", 1, false)
    }

    #[test]
    fn an_update_merges_deeply_and_leaves_the_rest() {
        let mut session = session();
        let patch = json!({"type": "realtime", "instructions": "Be kind.",
            "audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 500}}}});
        session.update(&patch, IDLE).unwrap();
        let turn = session.turn_detection().unwrap();
        assert_eq!((turn.silence_ms, turn.prefix_ms, turn.threshold), (500, 300, 0.5));
        assert_eq!(session.instructions(), "Be kind.");
        assert_eq!(session.json()["audio"]["output"]["voice"], "marin");
    }

    #[test]
    fn null_clears_what_can_be_off_and_resets_the_rest() {
        let mut session = session();
        let on = json!({"type": "realtime", "instructions": "x", "audio": {"input": {
            "transcription": {"model": "gpt-transcribe"}, "noise_reduction": {"type": "far_field"}}}});
        session.update(&on, IDLE).unwrap();
        assert_eq!(session.json()["audio"]["input"]["noise_reduction"]["strength"], 1.0);
        let off = json!({"type": "realtime", "instructions": null, "audio": {"input": {
            "transcription": null, "noise_reduction": null, "turn_detection": null}}});
        session.update(&off, IDLE).unwrap();
        assert_eq!(session.turn_detection(), None);
        assert_eq!(session.transcription_model(), None);
        assert_eq!(session.json()["audio"]["input"]["noise_reduction"], Value::Null);
        assert_eq!(session.instructions(), "");
    }

    #[test]
    fn changing_the_kind_of_detection_drops_the_other_kinds_keys() {
        let mut session = session();
        let semantic = json!({"type": "realtime",
            "audio": {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "high"}}}});
        session.update(&semantic, IDLE).unwrap();
        assert!(session.json()["audio"]["input"]["turn_detection"].get("threshold").is_none());
        assert_eq!(session.turn_detection().unwrap().silence_ms, 400);
    }

    #[test]
    fn the_voice_is_fixed_once_the_model_has_spoken() {
        let mut session = session();
        let cedar = json!({"type": "realtime", "audio": {"output": {"voice": "cedar"}}});
        session.update(&cedar, IDLE).unwrap();
        session.update(&cedar, SPOKEN).unwrap();
        let marin = json!({"type": "realtime", "instructions": "new", "audio": {"output": {"voice": "marin"}}});
        let refused = session.update(&marin, SPOKEN).unwrap_err();
        assert_eq!(refused.param.as_deref(), Some("session.audio.output.voice"));
        assert_eq!(session.instructions(), "", "nothing of a refused update is applied");
    }

    #[test]
    fn the_model_never_changes_and_the_type_must_match() {
        let mut session = session();
        session.update(&json!({"type": "realtime", "model": "other"}), IDLE).unwrap();
        assert_eq!(session.json()["model"], "gpt-realtime-2.1");
        assert!(session.update(&json!({"type": "transcription"}), IDLE).is_err());
    }

    #[test]
    fn language_lists_need_a_transcription_model_that_takes_them() {
        let mut session = session();
        let with = |model: &str| {
            json!({"type": "realtime", "audio": {"input": {
                "transcription": {"model": model, "languages": ["rw", "en"]}}}})
        };
        let refused = session.update(&with("whisper-1"), IDLE).unwrap_err();
        assert_eq!(refused.param.as_deref(), Some("session.audio.input.transcription.languages"));
        session.update(&with("gpt-transcribe"), IDLE).unwrap();
        assert_eq!(session.transcription_language(), Some("rw"));
    }
}
