//! Drives the emulated Realtime server through a rich session in virtual time and prints every frame, one a line:
//! `> {...}` from the client, `< {...}` from the server. The outside checker of `tests/interop/sdk_strict.py` reads it.
//!
//! `cargo run -p sauti-sim --example realtime_replay > replay.jsonl`

use std::{
    io::{self, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use sauti_sim::openai::{
    BadResponse, Clip, ExpectedKey, Fault, Line, Out, RateLimits, RateLimitsAt, RealtimeServer, RequestFacts, Say,
    Script, ServerSettings, Trouble, When,
};
use serde_json::{Value, json};

/// A client and a server on one virtual clock.
struct Replay<'a> {
    server: RealtimeServer,
    now: Instant,
    print: &'a mut dyn Write,
    last: Vec<(String, Value)>,
}

impl<'a> Replay<'a> {
    #[expect(clippy::disallowed_methods, reason = "the origin of the virtual clock; only differences from it count")]
    fn open(settings: ServerSettings, query: &str, print: &'a mut dyn Write) -> io::Result<Self> {
        let now = Instant::now();
        let facts = RequestFacts { path: settings.path.clone(), query: query.into(), ..RequestFacts::default() };
        let server = RealtimeServer::new(now, Arc::new(settings), &facts);
        let mut replay = Self { server, now, print, last: Vec::new() };
        let mut out = Vec::new();
        replay.server.open(now, &mut out);
        replay.take(out)?;
        replay.run(100)?;
        Ok(replay)
    }

    fn take(&mut self, out: Vec<Out>) -> io::Result<()> {
        for out in out {
            if let Out::Text(text) = out {
                writeln!(self.print, "< {text}")?;
                let event: Value = serde_json::from_str(&text)?;
                let kind = event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
                self.last.retain(|(known, _)| *known != kind);
                self.last.push((kind, event));
            }
        }
        Ok(())
    }

    fn send(&mut self, event: &Value) -> io::Result<()> {
        let text = event.to_string();
        writeln!(self.print, "> {text}")?;
        let mut out = Vec::new();
        self.server.receive(self.now, &text, &mut out);
        self.take(out)
    }

    /// Sends what a correct client never sends: printed with `!`, so that no checker takes it for ours.
    fn send_wrong(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.print, "! {}", text.chars().take(200).collect::<String>())?;
        let mut out = Vec::new();
        self.server.receive(self.now, text, &mut out);
        self.take(out)
    }

    fn run(&mut self, ms: u64) -> io::Result<()> {
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.server.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let mut out = Vec::new();
            self.server.handle_timeout(self.now, &mut out);
            self.take(out)?;
        }
        self.now = end;
        Ok(())
    }

    /// Appends 20 ms pieces at the pace of a call.
    fn say(&mut self, level: i16, ms: u64) -> io::Result<()> {
        let piece: Vec<u8> =
            (0..480).flat_map(|index| (if index % 80 < 40 { level } else { -level }).to_le_bytes()).collect();
        let audio = STANDARD.encode(piece);
        for _ in 0..ms / 20 {
            self.send(&json!({"type": "input_audio_buffer.append", "audio": audio}))?;
            self.run(20)?;
        }
        Ok(())
    }

    /// A value from the last event of a type.
    fn of(&self, kind: &str, pointer: &str) -> Value {
        let event = self.last.iter().find(|(known, _)| known == kind).map(|(_, event)| event);
        event.and_then(|event| event.pointer(pointer)).cloned().unwrap_or_default()
    }
}

fn settings() -> ServerSettings {
    let clip = |words: &str, ms: u64| Clip::tone(words, 300, Duration::from_millis(ms));
    let call = |name: &str| Say::Call { name: name.into(), arguments: r#"{"to":"Kigali"}"#.into(), pieces: 3 };
    let mut script = Script::tones(2, Duration::from_millis(1_500));
    script.turns = vec![
        Line {
            items: vec![Say::Clip(clip("let me see", 500)), Say::Clip(clip("it leaves at nine", 900))],
            after_tools: Vec::new(),
        },
        Line { items: vec![call("book_ride"), call("price")], after_tools: vec![Say::Clip(clip("booked", 400))] },
        Line::clip(clip("a long answer that will be interrupted somewhere in the middle", 20_000)),
    ];
    ServerSettings::new(ExpectedKey::new("canary-openai-key"), script)
}

/// Everything a good client sends, once.
fn update(transcription: &str, more: &Value) -> Value {
    let mut session = json!({
        "type": "realtime",
        "output_modalities": ["audio"],
        "instructions": "You take bookings for rides.",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24_000},
                "noise_reduction": {"type": "near_field"},
                "transcription": {"model": transcription},
                "turn_detection": {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300,
                    "silence_duration_ms": 500, "create_response": true, "interrupt_response": true,
                    "idle_timeout_ms": 6_000},
            },
            "output": {"format": {"type": "audio/pcm", "rate": 24_000}, "voice": "marin", "speed": 1.0},
        },
        "tools": [{"type": "function", "name": "book_ride", "description": "Books a ride.",
            "parameters": {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}}],
        "tool_choice": "auto",
        "max_output_tokens": 1_024,
        "truncation": {"type": "retention_ratio", "retention_ratio": 0.8},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        session[key.as_str()] = value.clone();
    }
    json!({"type": "session.update", "event_id": "update", "session": session})
}

/// A call as it should go: greeting, turns, tools, an interruption, a question into silence, a summary, a goodbye.
fn conversation(print: &mut dyn Write) -> io::Result<()> {
    let mut call = Replay::open(settings(), "model=gpt-realtime-2.1", print)?;
    call.send(&update("gpt-transcribe", &json!({"include": ["item.input_audio_transcription.logprobs"]})))?;
    call.run(50)?;
    let greeting = "Say exactly this: Hello! How can I help you today?";
    call.send(&json!({"type": "response.create", "event_id": "greet", "response": {"instructions": greeting}}))?;
    call.say(0, 3_000)?;
    for _ in 0..2 {
        call.say(5_000, 900)?;
        call.say(0, 2_500)?;
    }
    let calls = call.of("response.done", "/response/output");
    for (index, made) in calls.as_array().into_iter().flatten().enumerate() {
        call.send(&json!({"type": "conversation.item.create", "event_id": format!("result{index}"),
            "item": {"type": "function_call_output", "call_id": made["call_id"], "output": "{\"ok\":true}"}}))?;
    }
    call.send(&json!({"type": "response.create"}))?;
    call.say(0, 2_000)?;
    // The long answer, interrupted while it is still being sent.
    call.say(5_000, 500)?;
    call.say(0, 1_500)?;
    call.say(5_000, 600)?;
    let spoken = call.of("response.done", "/response/output/0/id");
    call.send(&json!({"type": "conversation.item.truncate", "event_id": "cut", "item_id": spoken, "content_index": 0,
        "audio_end_ms": 820}))?;
    call.send(&json!({"type": "conversation.item.retrieve", "item_id": spoken}))?;
    call.say(0, 12_000)?;
    call.send(&json!({"type": "response.create", "response": {"conversation": "none", "output_modalities": ["text"],
        "tools": [], "tool_choice": "none", "metadata": {"purpose": "call_summary"}, "max_output_tokens": 600,
        "instructions": "Summarise the call as JSON."}}))?;
    call.send(&json!({"type": "response.create", "response": {"instructions": "Say goodbye."}}))?;
    call.say(0, 3_000)
}

/// What goes wrong on either side, and the errors that follow.
fn errors(print: &mut dyn Write) -> io::Result<()> {
    let mut settings = settings();
    settings.session_limit = Duration::from_secs(40);
    settings.failed_transcriptions = vec![0];
    settings.bad_responses =
        vec![(1, BadResponse::rate_limited()), (4, BadResponse::ContentFilter { after: Duration::from_millis(300) })];
    settings.rate_limits = RateLimits { at: RateLimitsAt::BeforeContent, ..RateLimits::default() };
    settings.batch_audio_done = true;
    let quota = Trouble::Error {
        kind: "insufficient_quota".into(),
        code: Some("insufficient_quota".into()),
        message: "You exceeded your current quota, please check your plan and billing details.".into(),
    };
    let outage = Trouble::Error { kind: "server_error".into(), code: None, message: "The server had an error.".into() };
    settings.faults = vec![
        Fault { when: When::AtResponse(1), trouble: quota },
        Fault { when: When::AtResponse(2), trouble: outage },
        Fault { when: When::AtDelta(3), trouble: Trouble::OrphanDelta },
    ];
    let mut call = Replay::open(settings, "model=gpt-realtime-2.1-mini", print)?;
    call.send(&update("whisper-1", &json!({"max_output_tokens": "inf", "reasoning": {"effort": "low"}})))?;
    call.send(&json!({"type": "response.create"}))?;
    call.send(&json!({"type": "response.create", "event_id": "twice"}))?;
    call.run(1_000)?;
    let item = call.of("response.done", "/response/output/0/id");
    call.send(&json!({"type": "conversation.item.truncate", "event_id": "far", "item_id": item, "content_index": 0,
        "audio_end_ms": 99_000}))?;
    call.send(&json!({"type": "conversation.item.delete", "item_id": item}))?;
    for kind in ["delete", "retrieve"] {
        call.send(&json!({"type": format!("conversation.item.{kind}"), "event_id": kind, "item_id": item}))?;
    }
    call.send(&json!({"type": "conversation.item.truncate", "item_id": item, "content_index": 0, "audio_end_ms": 1}))?;
    call.send(&json!({"type": "response.cancel"}))?;
    call.send(&json!({"type": "input_audio_buffer.commit"}))?;
    let greeting = json!({"id": "typed_1", "type": "message", "role": "user",
        "content": [{"type": "input_text", "text": "Muraho"}]});
    for _ in 0..2 {
        call.send(&json!({"type": "conversation.item.create", "previous_item_id": "root", "item": greeting}))?;
    }
    call.send(&json!({"type": "conversation.item.create", "item": {"type": "message", "role": "system",
        "content": [{"type": "input_text", "text": "The caller is on hold."}]}}))?;
    call.send(&json!({"type": "conversation.item.create", "item": {"type": "message", "role": "assistant",
        "content": [{"type": "output_text", "text": "Earlier answer."}]}}))?;
    for _ in 0..2 {
        call.send(&json!({"type": "response.create", "response": {"max_output_tokens": 40}}))?;
        call.run(2_000)?;
    }
    call.send(&json!({"type": "response.create", "response": {"max_output_tokens": 20,
        "instructions": "Say exactly this: Hello! How can I help you today?"}}))?;
    call.run(2_000)?;
    call.say(5_000, 600)?;
    call.say(0, 1_500)?;
    call.send(&json!({"type": "input_audio_buffer.clear"}))?;
    for wrong in [
        r#"{"type":"session.update","session":{"type":"realtime","modalities":["audio"]}}"#,
        r#"{"type":"session.update","session":{"instructions":"no type"}}"#,
        r#"{"type":"response.audio.delta","delta":""}"#,
        "{",
    ] {
        call.send_wrong(wrong)?;
    }
    call.run(60_000)
}

/// Telephone coding, semantic turn detection, text answers, a commit by hand.
fn variants(print: &mut dyn Write) -> io::Result<()> {
    let mut call = Replay::open(settings(), "model=gpt-realtime-2.1", print)?;
    let format = json!({"type": "audio/pcmu"});
    call.send(&json!({"type": "session.update", "session": {"type": "realtime", "audio": {
        "input": {"format": format, "turn_detection": {"type": "semantic_vad", "eagerness": "high"}},
        "output": {"format": format, "voice": {"id": "voice_1234"}}}}}))?;
    call.send(&json!({"type": "response.create"}))?;
    call.run(2_000)?;
    call.send(&json!({"type": "session.update", "session": {"type": "realtime", "output_modalities": ["text"],
        "audio": {"input": {"turn_detection": null, "transcription": {"model": "gpt-live-transcribe",
            "languages": ["en", "rw"], "keywords": ["Kigali"]}}}}}))?;
    let audio = STANDARD.encode([0x10_u8; 1_600]);
    call.send(&json!({"type": "input_audio_buffer.append", "event_id": "a1", "audio": audio}))?;
    call.send(&json!({"type": "input_audio_buffer.commit"}))?;
    call.send(&json!({"type": "response.create"}))?;
    call.run(3_000)?;
    drop(call);
    let mut transcription = Replay::open(settings(), "intent=transcription", print)?;
    transcription.send(&json!({"type": "session.update", "session": {"type": "transcription", "audio": {"input": {
        "format": {"type": "audio/pcm", "rate": 24_000}, "transcription": {"model": "gpt-transcribe"}}}}}))?;
    transcription.say(5_000, 600)?;
    transcription.say(0, 1_500)
}

fn main() -> io::Result<()> {
    let mut print = io::BufWriter::new(io::stdout().lock());
    conversation(&mut print)?;
    errors(&mut print)?;
    variants(&mut print)?;
    print.flush()
}
