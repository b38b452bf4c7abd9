//! What we say to the model: client events of the Realtime API in their GA shape, and the audio writer.
//!
//! Nothing here that the server does not know: one unknown field makes it refuse a whole `session.update`.
//! Audio goes past serde: [`write_append`] builds its event in a text that is used again and again.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::config::{Detection, Language, OpenAi};
use crate::media::frame::{AudioFormat, Frame};
use crate::pii::Pii;

/// An event that we send, apart from audio. `event_id` comes back in the error that an event causes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type")]
pub enum ClientEvent {
    /// Configures the session; the server answers with `session.updated`.
    #[serde(rename = "session.update")]
    SessionUpdate {
        /// Ours.
        event_id: String,
        /// The values.
        session: Box<SessionUpdate>,
    },
    /// Asks for a response.
    #[serde(rename = "response.create")]
    ResponseCreate {
        /// Ours.
        event_id: String,
        /// What it shall be.
        response: ResponseCreate,
    },
    /// Stops a response.
    #[serde(rename = "response.cancel")]
    ResponseCancel {
        /// Ours.
        event_id: String,
        /// Which one.
        response_id: String,
    },
    /// Cuts an item of the model to what was heard.
    #[serde(rename = "conversation.item.truncate")]
    Truncate {
        /// Ours.
        event_id: String,
        /// Which item.
        item_id: String,
        /// Which part of it.
        content_index: u32,
        /// Where its audio ends, milliseconds; never beyond what was received.
        audio_end_ms: u64,
    },
    /// Adds an item to the conversation.
    #[serde(rename = "conversation.item.create")]
    ItemCreate {
        /// Ours.
        event_id: String,
        /// The item.
        item: NewItem,
    },
    /// Takes an item out of the conversation that was never heard.
    #[serde(rename = "conversation.item.delete")]
    Delete {
        /// Ours.
        event_id: String,
        /// Which item.
        item_id: String,
    },
}

impl ClientEvent {
    /// Writes the event as JSON in place of what `out` holds.
    pub fn write_json(&self, out: &mut String) {
        out.clear();
        // Structs with plain keys: serialising them cannot fail, and an empty text is not sent.
        if let Ok(json) = serde_json::to_string(self) {
            out.push_str(&json);
        }
    }

    /// Which event it is, for counters.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::SessionUpdate { .. } => "session.update",
            Self::ResponseCreate { .. } => "response.create",
            Self::ResponseCancel { .. } => "response.cancel",
            Self::Truncate { .. } => "conversation.item.truncate",
            Self::ItemCreate { .. } => "conversation.item.create",
            Self::Delete { .. } => "conversation.item.delete",
        }
    }
}

/// An item that we put into the conversation. Audio of the model cannot be put there, only its words.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum NewItem {
    /// Something that was said.
    Message {
        /// `user`, `assistant` or `system`.
        role: &'static str,
        /// The words.
        content: [Text; 1],
    },
    /// The result of a tool.
    FunctionCallOutput {
        /// The call that it answers.
        call_id: String,
        /// JSON, or plain words.
        output: Pii,
    },
}

/// Words in an item.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Text {
    r#type: &'static str,
    text: Pii,
}

impl NewItem {
    /// Words of the caller.
    #[must_use]
    pub const fn caller(text: Pii) -> Self {
        Self::Message { role: "user", content: [Text { r#type: "input_text", text }] }
    }

    /// Words of the model.
    #[must_use]
    pub const fn agent(text: Pii) -> Self {
        Self::Message { role: "assistant", content: [Text { r#type: "output_text", text }] }
    }

    /// Words of ours to the model.
    #[must_use]
    pub const fn system(text: Pii) -> Self {
        Self::Message { role: "system", content: [Text { r#type: "input_text", text }] }
    }
}

/// The `response` of a `response.create`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResponseCreate {
    /// Replaces the session's instructions for this one response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<Pii>,
    /// Comes back in `response.created` and `response.done`.
    pub metadata: ResponseMetadata,
}

/// How we know a response again that we asked for: success does not echo the `event_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResponseMetadata {
    /// The `event_id` of the `response.create`.
    pub client_event_id: String,
}

/// Instructions that make the model say `text` as it stands.
#[must_use]
pub fn word_for_word(text: &str) -> Pii {
    Pii::new(format!(
        "Say the sentence below to the caller, word for word, in the language in which it is written. \
         Add nothing, leave nothing out, and do not answer it.\n\n{text}"
    ))
}

/// The name of the tool by which the model ends a call.
pub const END_CALL: &str = "end_call";
/// The name of the tool by which it hands the caller to a person.
pub const TRANSFER: &str = "transfer_to_human";

/// A tool, flat as the Realtime API wants it: the name does not stand in a `function` of its own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Tool {
    r#type: &'static str,
    name: &'static str,
    description: &'static str,
    parameters: NoParameters,
}

/// A JSON schema of an object without keys.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct NoParameters {
    r#type: &'static str,
    properties: Nothing,
    required: [(); 0],
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Nothing {}

const HANG_UP: Tool = Tool {
    r#type: "function",
    name: END_CALL,
    description: "Ends this telephone call. Call it when the caller has said goodbye or wants nothing more, right after \
                  your own short goodbye.",
    parameters: NoParameters { r#type: "object", properties: Nothing {}, required: [] },
};

const HAND_OVER: Tool = Tool {
    r#type: "function",
    name: TRANSFER,
    description: "Connects the caller with a person. Call it when the caller asks for one, or when you cannot help; first \
                  say in one short sentence that you are connecting them.",
    parameters: NoParameters { r#type: "object", properties: Nothing {}, required: [] },
};

/// The `session` of a `session.update`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionUpdate {
    r#type: &'static str,
    output_modalities: [&'static str; 1],
    instructions: Pii,
    audio: Audio,
    tools: Vec<Tool>,
    tool_choice: &'static str,
    max_output_tokens: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Reasoning>,
    #[serde(skip)]
    format: AudioFormat,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Audio {
    input: AudioInput,
    output: AudioOutput,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct AudioInput {
    format: Format,
    /// `null` turns it off; the key is always sent.
    noise_reduction: Option<NoiseReduction>,
    transcription: Option<Transcription>,
    turn_detection: TurnDetection,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct AudioOutput {
    format: Format,
    voice: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Format {
    r#type: &'static str,
    /// PCM alone has one; G.711 is 8 kHz by definition, and the server knows no such key there.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
}

impl From<AudioFormat> for Format {
    fn from(format: AudioFormat) -> Self {
        let rate = format.law().is_none().then(|| format.sample_rate());
        Self { r#type: format.mime(), rate }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct NoiseReduction {
    r#type: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Transcription {
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    languages: Option<Vec<&'static str>>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Reasoning {
    effort: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum TurnDetection {
    ServerVad {
        threshold: f32,
        prefix_padding_ms: u64,
        silence_duration_ms: u64,
        /// `null` = never; the key is always sent.
        idle_timeout_ms: Option<u64>,
        create_response: bool,
        interrupt_response: bool,
    },
    SemanticVad {
        eagerness: &'static str,
        create_response: bool,
        interrupt_response: bool,
    },
}

impl SessionUpdate {
    /// The session that `[openai]` describes, with what the model is told about its job.
    ///
    /// `language` is the call's, `languages` are those that the box serves: transcription models that take several
    /// hints get the call's first and the others after it, all others get the call's alone.
    #[must_use]
    pub fn new(openai: &OpenAi, instructions: Pii, language: Language, languages: &[Language]) -> Self {
        let turn = &openai.turn;
        let turn_detection = match turn.detection {
            Detection::ServerVad { threshold, prefix, silence } => TurnDetection::ServerVad {
                threshold,
                prefix_padding_ms: millis(prefix),
                silence_duration_ms: millis(silence),
                idle_timeout_ms: openai.idle_timeout.map(millis),
                create_response: turn.create_response,
                interrupt_response: turn.interrupt_response,
            },
            Detection::SemanticVad => TurnDetection::SemanticVad {
                eagerness: "auto",
                create_response: turn.create_response,
                interrupt_response: turn.interrupt_response,
            },
        };
        Self {
            r#type: "realtime",
            output_modalities: ["audio"],
            instructions,
            audio: Audio {
                input: AudioInput {
                    format: AudioFormat::default().into(),
                    noise_reduction: openai.noise_reduction.clone().map(|r#type| NoiseReduction { r#type }),
                    transcription: openai.transcription.as_deref().map(|model| hints(model, language, languages)),
                    turn_detection,
                },
                output: AudioOutput { format: AudioFormat::default().into(), voice: openai.voice.clone() },
            },
            tools: vec![HANG_UP],
            tool_choice: "auto",
            max_output_tokens: openai.max_output_tokens,
            reasoning: openai.reasoning.clone().map(|effort| Reasoning { effort }),
            format: AudioFormat::default(),
        }
    }

    /// The same with audio of `format` both ways.
    #[must_use]
    pub fn in_format(mut self, format: AudioFormat) -> Self {
        self.format = format;
        self.audio.input.format = format.into();
        self.audio.output.format = format.into();
        self
    }

    /// The same with the tool that hands the caller to a person.
    #[must_use]
    pub fn with_transfer(mut self) -> Self {
        self.tools.push(HAND_OVER);
        self
    }

    /// What the session speaks.
    #[must_use]
    pub const fn format(&self) -> AudioFormat {
        self.format
    }
}

impl SessionUpdate {
    /// True when the server answers each turn by itself.
    #[must_use]
    pub const fn creates_responses(&self) -> bool {
        match self.audio.input.turn_detection {
            TurnDetection::ServerVad { create_response, .. } | TurnDetection::SemanticVad { create_response, .. } => {
                create_response
            }
        }
    }

    /// How long the caller has been silent when the server says so; zero where it does not go by silence.
    #[must_use]
    pub const fn silence_ends_turn(&self) -> Duration {
        match self.audio.input.turn_detection {
            TurnDetection::ServerVad { silence_duration_ms, .. } => Duration::from_millis(silence_duration_ms),
            TurnDetection::SemanticVad { .. } => Duration::ZERO,
        }
    }

    /// True when the server cancels a response when the caller speaks.
    #[must_use]
    pub const fn interrupts_responses(&self) -> bool {
        match self.audio.input.turn_detection {
            TurnDetection::ServerVad { interrupt_response, .. }
            | TurnDetection::SemanticVad { interrupt_response, .. } => interrupt_response,
        }
    }
}

/// Only `gpt-transcribe` and `gpt-live-transcribe` know `languages` (protocol reference §1.4).
fn hints(model: &str, language: Language, languages: &[Language]) -> Transcription {
    let several = model.starts_with("gpt-transcribe") || model.starts_with("gpt-live-transcribe");
    if !several {
        return Transcription { model: model.to_owned(), language: Some(language.code()), languages: None };
    }
    let mut codes = vec![language.code()];
    for other in languages {
        if !codes.contains(&other.code()) {
            codes.push(other.code());
        }
    }
    Transcription { model: model.to_owned(), language: None, languages: Some(codes) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Samples that are encoded at a time; their bytes are a multiple of three, so no padding stands inside.
const BLOCK: usize = 480;
const _: () = assert!(BLOCK.is_multiple_of(3));

/// Writes `input_audio_buffer.append` with the samples as PCM in place of what `out` holds; 20 ms make 1.3 kB.
pub fn write_append(out: &mut String, samples: &[i16]) {
    write(out, AudioFormat::Pcm24, samples);
}

/// Writes `input_audio_buffer.append` with a frame in place of what `out` holds; 20 ms of G.711 make 260 bytes.
pub fn write_append_as(format: AudioFormat, out: &mut String, frame: &Frame) {
    write(out, format, frame.audio(format));
}

fn write(out: &mut String, format: AudioFormat, samples: &[i16]) {
    out.clear();
    out.push_str(r#"{"type":"input_audio_buffer.append","audio":""#);
    for block in samples.chunks(BLOCK) {
        let mut bytes = [0_u8; BLOCK * 2];
        let used = match format.law() {
            None => {
                for (pair, sample) in bytes.chunks_exact_mut(2).zip(block) {
                    pair.copy_from_slice(&sample.to_le_bytes());
                }
                block.len() * 2
            }
            Some(law) => {
                for (code, sample) in bytes.iter_mut().zip(block) {
                    *code = law.encode(*sample);
                }
                block.len()
            }
        };
        STANDARD.encode_string(bytes.get(..used).unwrap_or_default(), out);
    }
    out.push_str(r#""}"#);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ai::session::tests::openai;

    fn json(event: &ClientEvent) -> serde_json::Value {
        let mut text = String::from("left over");
        event.write_json(&mut text);
        serde_json::from_str(&text).unwrap()
    }

    fn update(openai: &OpenAi) -> serde_json::Value {
        let session = SessionUpdate::new(openai, Pii::new("Be kind."), Language::Fr, &[Language::Rw, Language::Fr]);
        json(&ClientEvent::SessionUpdate { event_id: "up_1".to_owned(), session: Box::new(session) })
    }

    #[test]
    fn a_session_update_sends_every_value_of_the_turn() {
        let mut config = openai();
        config.idle_timeout = Some(Duration::from_secs(8));
        config.noise_reduction = Some("near_field".to_owned());
        config.reasoning = Some("low".to_owned());
        assert_eq!(
            update(&config),
            serde_json::json!({"type": "session.update", "event_id": "up_1", "session": {
                "type": "realtime", "output_modalities": ["audio"], "instructions": "Be kind.",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24000},
                        "noise_reduction": {"type": "near_field"},
                        "transcription": {"model": "gpt-transcribe", "languages": ["fr", "rw"]},
                        "turn_detection": {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300,
                            "silence_duration_ms": 500, "idle_timeout_ms": 8000, "create_response": true,
                            "interrupt_response": true}},
                    "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin"}},
                "tools": [{"type": "function", "name": "end_call", "description": HANG_UP.description,
                    "parameters": {"type": "object", "properties": {}, "required": []}}],
                "tool_choice": "auto", "max_output_tokens": 1024, "reasoning": {"effort": "low"}}})
        );
    }

    #[test]
    fn what_is_off_is_sent_as_null_and_not_left_to_the_server() {
        let mut config = openai();
        config.transcription = None;
        let input = update(&config)["session"]["audio"]["input"].take();
        for key in ["noise_reduction", "transcription"] {
            assert!(input.get(key).unwrap().is_null(), "{key}");
        }
        assert!(input["turn_detection"].get("idle_timeout_ms").unwrap().is_null());
    }

    #[test]
    fn older_transcription_models_get_one_language() {
        let mut config = openai();
        config.transcription = Some("gpt-4o-transcribe".to_owned());
        let hints = update(&config)["session"]["audio"]["input"]["transcription"].take();
        assert_eq!(hints, serde_json::json!({"model": "gpt-4o-transcribe", "language": "fr"}));
    }

    #[test]
    fn the_semantic_detector_has_no_value_of_the_other() {
        let mut config = openai();
        config.turn.detection = Detection::SemanticVad;
        let turn = update(&config)["session"]["audio"]["input"]["turn_detection"].take();
        assert_eq!(
            turn,
            serde_json::json!({"type": "semantic_vad", "eagerness": "auto", "create_response": true,
                "interrupt_response": true})
        );
    }

    #[test]
    fn an_append_holds_the_samples_in_little_endian() {
        let mut text = String::new();
        for count in [0, 1, 479, 480, 481, 4800] {
            let samples: Vec<i16> = (0..count).map(|n| n * 5 - 300).collect();
            write_append(&mut text, &samples);
            let event: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(event["type"], "input_audio_buffer.append");
            let bytes = STANDARD.decode(event["audio"].as_str().unwrap()).unwrap();
            assert_eq!(bytes, samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<u8>>());
        }
    }

    #[test]
    fn a_session_of_g711_says_so_both_ways_and_without_a_rate() {
        let update = SessionUpdate::new(&openai(), Pii::new("Be kind."), Language::Fr, &[Language::Fr]);
        for (format, mime) in [(AudioFormat::Pcma, "audio/pcma"), (AudioFormat::Pcmu, "audio/pcmu")] {
            let session = Box::new(update.clone().in_format(format));
            assert_eq!(session.format(), format);
            let sent = json(&ClientEvent::SessionUpdate { event_id: "up_1".to_owned(), session });
            for way in ["input", "output"] {
                assert_eq!(sent["session"]["audio"][way]["format"], serde_json::json!({"type": mime}));
            }
        }
    }

    #[test]
    fn codes_of_a_trunk_reach_the_model_as_they_came() {
        let mut text = String::new();
        for format in [AudioFormat::Pcma, AudioFormat::Pcmu] {
            let law = format.law().unwrap();
            let codes: Vec<u8> = (0..160).map(|n: u8| n.wrapping_mul(37)).collect();
            let mut frame = Frame::SILENCE;
            for (sample, code) in frame.samples.iter_mut().zip(&codes) {
                *sample = law.decode(*code);
            }
            write_append_as(format, &mut text, &frame);
            let event: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(STANDARD.decode(event["audio"].as_str().unwrap()).unwrap(), codes);
        }
    }

    #[test]
    fn an_append_in_a_used_text_allocates_nothing_more() {
        let mut text = String::new();
        write_append(&mut text, &[1; 480]);
        let room = text.capacity();
        write_append(&mut text, &[2; 480]);
        assert_eq!(text.capacity(), room);
    }

    #[test]
    fn debug_output_shows_no_instructions() {
        let event = ClientEvent::ResponseCreate {
            event_id: "rc_1".to_owned(),
            response: ResponseCreate {
                instructions: Some(word_for_word("Hello Test Caller")),
                metadata: ResponseMetadata { client_event_id: "rc_1".to_owned() },
            },
        };
        assert!(!format!("{event:?}").contains("Test Caller"));
    }
}
