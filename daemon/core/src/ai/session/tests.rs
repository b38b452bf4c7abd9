//! Stories of a session in virtual time, told by the events of the wire.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::*;
use crate::ai::events::EventError;
use crate::ai::verdict::{ErrorClass, Loss};
use crate::call::cost::Usage;
use crate::config::{Detection, Language, OpenAi, Turn as TurnConfig};
use crate::media::frame::Frame;
use crate::media::playout::Consumed;

/// The defaults of `[openai]`.
pub(crate) fn openai() -> OpenAi {
    OpenAi {
        url: "https://api.openai.com/v1".to_owned(),
        model: "gpt-realtime-2.1".to_owned(),
        voice: "marin".to_owned(),
        max_output_tokens: 1024,
        transcription: Some("gpt-transcribe".to_owned()),
        noise_reduction: None,
        idle_timeout: None,
        reasoning: None,
        organization: None,
        project: None,
        turn: TurnConfig {
            detection: Detection::ServerVad {
                threshold: 0.5,
                prefix: Duration::from_millis(300),
                silence: Duration::from_millis(500),
            },
            create_response: true,
            interrupt_response: true,
            barge_in: crate::media::floor::BargeIn::Normal,
        },
        warm: 0,
        fallback: Vec::new(),
        api_key: SecretString::from("canary-openai-key"),
    }
}

/// A session with its reservoir, a lane that plays what it is given, and the effects so far.
struct Scene {
    session: Session,
    playout: Playout,
    now: Now,
    played: u32,
    out: Vec<Effect>,
}

impl Scene {
    /// A session whose socket is being opened.
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant can only be had from the clock; the rest is counted on it"
    )]
    fn new(config: &OpenAi) -> Self {
        let update = SessionUpdate::new(config, Pii::new("Be kind."), Language::En, &[Language::En]);
        Self {
            session: Session::new(update),
            playout: Playout::new(config.max_output_tokens),
            now: Now { mono: Instant::now(), wall: Timestamp::UNIX_EPOCH },
            played: 0,
            out: Vec::new(),
        }
    }

    /// A session that is ready.
    fn ready() -> Self {
        Self::ready_with(&openai())
    }

    fn ready_with(config: &OpenAi) -> Self {
        let mut scene = Self::new(config);
        scene.input(Input::Opened);
        scene.event(json!({"type": "session.created", "session": {}}));
        scene.event(json!({"type": "session.updated", "session": {}}));
        assert!(scene.session.is_ready());
        scene.out.clear();
        scene
    }

    fn input(&mut self, input: Input<'_>) {
        self.session.handle(self.now, input, &mut self.playout, &mut self.out);
    }

    /// Nothing is due but the end of the session's life.
    fn is_at_rest(&self) -> bool {
        matches!(self.session.deadline(), None | Some((_, Timer::Aged)))
    }

    fn event(&mut self, event: Value) {
        self.input(Input::Message(&event.to_string()));
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.after(Duration::from_millis(ms));
    }

    /// Lets the lane consume up to `ms` of what there is.
    fn hear(&mut self, ms: u64) {
        let mut frame = Frame::SILENCE;
        for _ in 0..ms / 20 {
            if self.playout.next_frame(&mut frame) {
                self.played += 1;
            }
        }
        self.pass(ms);
        let consumed = Consumed { epoch: self.playout.epoch(), frames: self.played };
        self.input(Input::Consumed(consumed));
    }

    fn created(&mut self, response: &str) {
        self.event(json!({"type": "response.created", "response": {"id": response, "metadata": null}}));
    }

    fn created_for(&mut self, response: &str, event_id: &str) {
        let metadata = json!({"client_event_id": event_id});
        self.event(json!({"type": "response.created", "response": {"id": response, "metadata": metadata}}));
    }

    fn part(kind: &str, response: &str, item: &str, index: u32) -> Value {
        json!({"type": kind, "response_id": response, "item_id": item, "output_index": index, "content_index": 0})
    }

    fn audio(&mut self, response: &str, item: &str, index: u32, ms: usize) {
        let mut event = Self::part("response.output_audio.delta", response, item, index);
        event["delta"] = Value::from(base64(&vec![1; ms * 48]));
        self.event(event);
    }

    fn words(&mut self, response: &str, item: &str, text: &str) {
        let mut event = Self::part("response.output_audio_transcript.done", response, item, 0);
        event["transcript"] = Value::from(text);
        self.event(event);
    }

    fn done(&mut self, response: &str, status: &str) {
        self.event(json!({"type": "response.done", "response": {"id": response, "status": status}}));
    }

    fn failed(&mut self, response: &str, code: &str) {
        let details = json!({"type": "failed", "error": {"type": "invalid_request_error", "code": code}});
        self.event(json!({"type": "response.done",
            "response": {"id": response, "status": "failed", "status_details": details}}));
    }

    fn error(&mut self, code: &str, event_id: Option<&str>) {
        self.event(json!({"type": "error",
            "error": {"type": "invalid_request_error", "code": code, "event_id": event_id}}));
    }

    fn speech(&mut self, item: &str) {
        self.played_restart(|scene| {
            scene.event(json!({"type": "input_audio_buffer.speech_started", "item_id": item, "audio_start_ms": 0}));
        });
    }

    fn committed(&mut self, item: &str) {
        self.event(json!({"type": "input_audio_buffer.speech_stopped", "item_id": item}));
        self.event(json!({"type": "input_audio_buffer.committed", "item_id": item}));
    }

    /// A lane counts from zero in each epoch.
    fn played_restart(&mut self, act: impl FnOnce(&mut Self)) {
        let epoch = self.playout.epoch();
        act(self);
        if self.playout.epoch() != epoch {
            self.played = 0;
        }
    }

    fn say(&mut self, line: Line, text: &str) {
        self.played_restart(|scene| scene.input(Input::Say(line, Pii::new(text))));
    }

    /// Takes the effects, without the noise of audio.
    fn take(&mut self) -> Vec<Effect> {
        let mut out = std::mem::take(&mut self.out);
        out.retain(|effect| !matches!(effect, Effect::Audio { .. }));
        out
    }

    /// Takes the effects and returns what was sent.
    fn sent(&mut self) -> Vec<Value> {
        self.take().iter().filter_map(wire).collect()
    }
}

fn wire(effect: &Effect) -> Option<Value> {
    let Effect::Send(event) = effect else { return None };
    let mut text = String::new();
    event.write_json(&mut text);
    Some(serde_json::from_str(&text).unwrap())
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn turns(effects: &[Effect]) -> Vec<(Speaker, String, bool)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Turn(turn) => Some((turn.who, turn.text.expose().to_owned(), turn.interrupted)),
            _ => None,
        })
        .collect()
}

fn failure(effects: &[Effect]) -> Option<&Failure> {
    effects.iter().find_map(|effect| match effect {
        Effect::Failed(failure) => Some(failure),
        _ => None,
    })
}

mod again;
mod age;
mod answers;
mod broken;
mod floor;
mod golden;
mod interruption;
mod keys;
mod memory;
mod opening;
mod signs;
