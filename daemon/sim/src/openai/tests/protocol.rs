//! Strictness: what is refused, with which code and parameter, and what stays untouched.

use serde_json::{Value, json};

use super::{
    super::{ClientFaultKind, KeyOrder, Out},
    RequestFacts, Rig, ServerSettings, quiet, settings, voice,
};

fn refusal(rig: &mut Rig, event: Value) -> (String, String) {
    rig.send(event);
    let error = &rig.last("error")["error"];
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    (text("code"), text("param"))
}

#[test]
fn the_first_event_is_the_whole_session_with_its_surprising_default() {
    let rig = Rig::new(settings());
    assert_eq!(rig.kinds(), ["session.created"]);
    let session = &rig.events[0].1["session"];
    assert!(session["id"].as_str().unwrap().starts_with("sess_"));
    assert_eq!(session["object"], "realtime.session");
    assert_eq!(session["model"], "gpt-realtime-2.1");
    assert_eq!(session["expires_at"], 1_800_003_600_u64);
    assert_eq!(session["audio"]["input"]["turn_detection"]["silence_duration_ms"], 200);
}

#[test]
fn an_update_is_answered_with_the_whole_session() {
    let mut rig = Rig::new(settings());
    rig.update(json!({"instructions": "Be brief.", "max_output_tokens": 1024}));
    let session = &rig.last("session.updated")["session"];
    assert_eq!((&session["instructions"], &session["max_output_tokens"]), (&json!("Be brief."), &json!(1024)));
    assert_eq!(session["audio"]["output"]["voice"], "marin");
}

#[test]
fn one_unknown_key_rejects_the_whole_update() {
    let mut rig = Rig::new(settings());
    let session = json!({"type": "realtime", "instructions": "new", "temperature": 0.8});
    let event = json!({"type": "session.update", "event_id": "e1", "session": session});
    assert_eq!(refusal(&mut rig, event), ("unknown_parameter".into(), "session.temperature".into()));
    assert_eq!(rig.last("error")["error"]["event_id"], "e1");
    let deep = json!({"type": "session.update", "session": {"type": "realtime",
        "audio": {"input": {"turn_detection": {"type": "server_vad", "silence_ms": 1}}}}});
    let param = "session.audio.input.turn_detection.silence_ms";
    assert_eq!(refusal(&mut rig, deep), ("unknown_parameter".into(), param.into()));
    rig.update(json!({}));
    assert_eq!(rig.last("session.updated")["session"]["instructions"], "");
}

#[test]
fn wrong_sessions_are_refused_by_name() {
    let mut rig = Rig::new(settings());
    let mut session = |session: Value| refusal(&mut rig, json!({"type": "session.update", "session": session}));
    let missing = "missing_required_parameter";
    assert_eq!(session(json!({"instructions": "x"})), (missing.into(), "session.type".into()));
    let rate = json!({"type": "realtime", "audio": {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}}});
    assert_eq!(session(rate), ("invalid_value".into(), "session.audio.input.format.rate".into()));
    let both = json!({"type": "realtime", "output_modalities": ["audio", "text"]});
    assert_eq!(session(both), ("invalid_value".into(), "session.output_modalities".into()));
    let many = json!({"type": "realtime", "max_output_tokens": 5_000});
    assert_eq!(session(many), ("invalid_value".into(), "session.max_output_tokens".into()));
    let idle = json!({"type": "realtime", "audio": {"input": {"turn_detection":
        {"type": "server_vad", "idle_timeout_ms": 100}}}});
    let param = "session.audio.input.turn_detection.idle_timeout_ms";
    assert_eq!(session(idle), ("invalid_value".into(), param.into()));
    assert_eq!(session(json!({"type": "realtime", "id": "sess_1"})), ("unknown_parameter".into(), "session.id".into()));
}

#[test]
fn the_voice_cannot_change_after_the_greeting() {
    let mut rig = Rig::new(settings());
    rig.create();
    rig.run_ms(1_000);
    rig.update(json!({"audio": {"output": {"voice": "cedar"}}}));
    assert_eq!(rig.error_code(), "cannot_update_voice");
}

#[test]
fn frames_that_are_no_events_are_refused_and_the_session_lives() {
    let mut rig = Rig::new(settings());
    for text in ["", "null", "[1]", "{", "\u{0}", "{\"type\":5}", "{\"type\":\"no.such\"}", "{\"audio\":\"\"}"] {
        rig.send_text(text);
    }
    assert_eq!(rig.all("error").len(), 8);
    let record = rig.server.record();
    assert_eq!(record.count(ClientFaultKind::Malformed), 5);
    assert_eq!(record.count(ClientFaultKind::UnknownEventType), 3);
    rig.create();
    assert_eq!(rig.all("response.created").len(), 1);
}

#[test]
fn deeply_nested_and_very_long_input_is_refused_without_harm() {
    let mut rig = Rig::new(settings());
    let deep = format!("{{\"type\":\"session.update\",\"session\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
    rig.send_text(&deep);
    assert_eq!(rig.error_code(), "invalid_event");
    let audio = "A".repeat(22 << 20);
    rig.send(json!({"type": "input_audio_buffer.append", "audio": audio}));
    assert_eq!(rig.error_code(), "invalid_value");
    rig.send(json!({"type": "input_audio_buffer.append", "audio": "no base64!"}));
    assert_eq!(rig.last("error")["error"]["param"], "audio");
    assert!(rig.server.record().appends.is_empty());
}

#[test]
fn binary_frames_are_refused() {
    let mut rig = Rig::new(settings());
    let mut out = Vec::new();
    rig.server.receive_binary(rig.now, 640, &mut out);
    assert!(matches!(&out[..], [Out::Text(text)] if text.contains("invalid_event")));
}

#[test]
fn keys_stand_in_the_order_asked_for() {
    let mut last = settings();
    last.key_order = KeyOrder::TypeLast;
    for (settings, start, end) in
        [(settings(), r#"{"type":""#, ""), (last, "{\"", r#"","type":"response.output_audio.delta"}"#)]
    {
        let mut rig = Rig::new(settings);
        rig.create();
        rig.run_ms(300);
        let delta = rig.texts.iter().find(|text| text.contains("response.output_audio.delta")).unwrap();
        assert!(delta.starts_with(start) && delta.ends_with(end), "{}", &delta[..80]);
    }
}

#[test]
fn beta_names_replace_the_current_ones_everywhere() {
    let mut beta = settings();
    beta.beta_names = true;
    let mut rig = Rig::new(beta);
    rig.create();
    rig.run_ms(2_000);
    let kinds = rig.kinds();
    assert!(kinds.contains(&"conversation.item.created") && kinds.contains(&"response.audio.done"));
    assert!(!kinds.iter().any(|kind| kind.contains("output_audio") || *kind == "conversation.item.done"));
    assert_eq!(rig.last("response.done")["response"]["output"][0]["content"][0]["type"], "audio");
    assert!(rig.texts.iter().any(|text| text.contains(r#""type":"response.audio.delta""#)));
}

#[test]
fn transcription_sessions_commit_turns_and_never_answer() {
    let mut rig = Rig::with_query(settings(), "intent=transcription");
    assert_eq!(rig.events[0].1["session"]["type"], "transcription");
    rig.send(json!({"type": "session.update", "session": {"type": "transcription",
        "audio": {"input": {"transcription": {"model": "gpt-transcribe"}}}}}));
    rig.say(&[voice(300), quiet(400)].concat());
    assert_eq!(rig.all("conversation.item.input_audio_transcription.completed").len(), 1);
    rig.create();
    assert_eq!(rig.error_code(), "invalid_event");
    assert!(rig.all("response.created").is_empty());
}

#[test]
fn a_sideband_takes_no_audio() {
    let mut rig = Rig::with_query(settings(), "call_id=rtc_1");
    rig.append(&voice(20));
    assert_eq!(rig.error_code(), "invalid_event");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let story = || {
        let mut rig = Rig::new(settings());
        rig.create();
        rig.say(&[voice(400), quiet(900)].concat());
        rig.texts
    };
    assert_eq!(story(), story());
}

#[test]
fn client_frames_are_kept_only_when_asked_for() {
    let mut keeping = settings();
    keeping.recording.client_frames = true;
    for (settings, frames) in [(settings(), 0), (keeping, 2)] {
        let mut rig = Rig::new(settings);
        rig.create();
        rig.append(&voice(20));
        assert_eq!(rig.server.record().client_log.len(), frames);
    }
}

#[test]
fn a_session_that_belongs_to_nobody_yet_must_not_be_spoken_to() {
    let faults = |identifier: Option<&str>, updates: usize, event: Value| {
        let settings = ServerSettings { owned_sessions: true, ..settings() };
        let headers = identifier.map(|hash| ("OpenAI-Safety-Identifier".to_owned(), hash.to_owned()));
        let query = "model=gpt-realtime-2.1".to_owned();
        let mut rig = Rig::with_request(
            settings,
            RequestFacts { query, headers: headers.into_iter().collect(), ..RequestFacts::default() },
        );
        (0..updates).for_each(|_| rig.update(json!({})));
        rig.send(event.clone());
        rig.send(event);
        rig.server.record().count(ClientFaultKind::NotOwned)
    };
    let create = || json!({"type": "response.create"});
    let append = || json!({"type": "input_audio_buffer.append", "audio": "AAAA"});
    for event in [create(), append()] {
        assert_eq!(faults(Some("a3f8"), 0, event.clone()), 1, "not configured, noted once");
        assert_eq!(faults(Some("a3f8"), 1, event.clone()), 0);
        assert_eq!(faults(None, 1, event.clone()), 1, "opened ahead of its call and not taken over");
        assert_eq!(faults(None, 2, event), 0);
    }
    let mut rig = Rig::new(settings());
    rig.send(create());
    assert_eq!(rig.server.record().count(ClientFaultKind::NotOwned), 0, "other clients are not bound to it");
}
