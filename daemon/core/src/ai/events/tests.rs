//! Server events as they are, as they once were, and as they must never be.

use super::*;

const DELTA: &str = r#"{"type":"response.output_audio.delta","event_id":"event_9","response_id":"resp_1",
    "item_id":"item_2","output_index":0,"content_index":0,"delta":"AAECAw==","obfuscation":"x"}"#;

#[test]
fn an_audio_delta_is_borrowed_and_decoded_into_the_given_buffer() {
    let ServerEvent::Audio { place, delta } = read(DELTA).unwrap() else { panic!("no audio") };
    assert!(matches!(place.item_id, Cow::Borrowed("item_2")));
    assert!(matches!(delta.0, Cow::Borrowed(_)));
    let mut pcm = vec![9; 100];
    decode_audio(delta.expose(), &mut pcm).unwrap();
    assert_eq!(pcm, [0, 1, 2, 3]);
    decode_audio("AAECAw", &mut pcm).unwrap();
    assert_eq!(pcm, [0, 1, 2, 3], "some servers leave the padding out");
    assert_eq!(decode_audio("AA!=", &mut pcm), Err(EventError::Base64));
}

#[test]
fn names_of_the_beta_are_aliases() {
    for (new, old) in [
        ("response.output_audio.delta", "response.audio.delta"),
        ("response.output_audio.done", "response.audio.done"),
        ("response.output_audio_transcript.delta", "response.audio_transcript.delta"),
        ("response.output_audio_transcript.done", "response.audio_transcript.done"),
    ] {
        let text = DELTA.replace("response.output_audio.delta", new).replace("\"obfuscation\"", "\"transcript\"");
        let aged = text.replace(new, old);
        assert_ne!(read(&text).unwrap(), ServerEvent::Other);
        assert_eq!(read(&text), read(&aged));
    }
}

#[test]
fn the_type_may_stand_anywhere() {
    let text =
        r#" { "event_id":"e", "item_id":"item_1", "audio_start_ms":-5, "type" : "input_audio_buffer.speech_started" }"#;
    assert_eq!(read(text), Ok(ServerEvent::SpeechStarted { item_id: "item_1".into() }));
    let escaped = r#"{"type":"input_audio_buffer\u002espeech_started","item_id":"item_1"}"#;
    assert_eq!(read(escaped), Ok(ServerEvent::SpeechStarted { item_id: "item_1".into() }));
}

#[test]
fn unknown_events_are_other_and_unknown_keys_are_ignored() {
    assert_eq!(
        read(r#"{"type":"response.brand_new","deep":[[{"a":1e400}]]}"#).map(|_| ()).map_err(|e| e.label()),
        Ok(())
    );
    assert_eq!(read(r#"{"type":"rate_limits.updated","rate_limits":[]}"#), Ok(ServerEvent::Other));
    let text = r#"{"type":"session.updated","session":{"x":{"y":null}},"more":1}"#;
    assert_eq!(read(text), Ok(ServerEvent::SessionUpdated));
}

#[test]
fn a_finished_response_tells_status_cause_and_usage() {
    let text = r#"{"type":"response.done","response":{"id":"resp_1","status":"failed",
        "status_details":{"type":"failed","error":{"type":"invalid_request_error",
        "code":"inference_rate_limit_exceeded","message":"too many tokens"}},"output":[{"id":"x","content":[1]}],
        "metadata":{"client_event_id":"rc_7"},
        "usage":{"total_tokens":253,"input_tokens":132,"output_tokens":121,
        "input_token_details":{"text_tokens":119,"audio_tokens":13,"cached_tokens":64,
        "cached_tokens_details":{"text_tokens":64,"audio_tokens":0}},
        "output_token_details":{"text_tokens":30,"audio_tokens":91}}}}"#;
    let ServerEvent::ResponseDone(done) = read(text).unwrap() else { panic!("not done") };
    assert_eq!(done.status, ResponseStatus::Failed);
    assert_eq!(done.code.unwrap().as_str(), "inference_rate_limit_exceeded");
    assert_eq!(done.client_event_id.as_deref(), Some("rc_7"));
    assert_eq!(
        done.usage.unwrap(),
        Usage { text_in: 119, text_cached: 64, audio_in: 13, text_out: 30, audio_out: 91, ..Usage::default() }
    );
}

#[test]
fn both_shapes_of_transcription_usage_are_read() {
    let tokens = r#"{"type":"conversation.item.input_audio_transcription.completed","item_id":"i","content_index":0,
        "transcript":"Muraho","usage":{"type":"tokens","total_tokens":22,"input_tokens":13,
        "input_token_details":{"text_tokens":0,"audio_tokens":13},"output_tokens":9}}"#;
    let ServerEvent::CallerWords { usage, transcript, .. } = read(tokens).unwrap() else { panic!("no words") };
    assert_eq!(usage.unwrap(), Usage { audio_in: 13, text_out: 9, ..Usage::default() });
    assert_eq!(transcript.expose(), "Muraho");
    let time = r#"{"type":"conversation.item.input_audio_transcription.completed","item_id":"i","transcript":"",
        "usage":{"type":"duration","seconds":2.5}}"#;
    let ServerEvent::CallerWords { usage, .. } = read(time).unwrap() else { panic!("no words") };
    assert_eq!(usage.unwrap().duration, Duration::from_millis(2500));
}

#[test]
fn usage_that_cannot_be_believed_is_missing_and_the_response_is_done_all_the_same() {
    for usage in [
        r#"{"input_token_details":{"text_tokens":-5}}"#,
        r#"{"input_token_details":{"text_tokens":900000000000}}"#,
        r#"{"seconds":1e300}"#,
        r#"{"seconds":-1}"#,
        r#""many""#,
        "null",
        "[1]",
    ] {
        let text =
            format!(r#"{{"type":"response.done","response":{{"id":"r","status":"completed","usage":{usage}}}}}"#);
        let ServerEvent::ResponseDone(done) = read(&text).unwrap() else { panic!("not done") };
        assert_eq!((done.status, done.usage), (ResponseStatus::Completed, None), "{usage}");
    }
}

#[test]
fn an_error_event_keeps_words_and_no_message() {
    let text = r#"{"type":"error","event_id":"e","error":{"type":"invalid_request_error","code":"unknown_parameter",
        "message":"Incorrect key canary-openai-key","param":"session.tools[0]","event_id":"up_1"}}"#;
    let event = read(text).unwrap();
    assert!(!format!("{event:?}").contains("canary"));
    let ServerEvent::Error { code, kind, param, event_id } = event else { panic!("no error") };
    assert_eq!(code.unwrap().as_str(), "unknown_parameter");
    assert_eq!(kind.unwrap().as_str(), "invalid_request_error");
    assert_eq!(param.unwrap().as_str(), "session_tools_0");
    assert_eq!(event_id.as_deref(), Some("up_1"));
    let odd = r#"{"type":"error","error":{"code":429,"type":null,"event_id":7}}"#;
    let ServerEvent::Error { code, kind, event_id, .. } = read(odd).unwrap() else { panic!("no error") };
    assert_eq!((code.unwrap().as_str().to_owned(), kind, event_id), ("429".to_owned(), None, None));
}

#[test]
fn garbage_is_an_error_that_quotes_nothing() {
    for text in [
        "",
        "canary-openai-key",
        "[]",
        "[\"session.created\"]",
        "{}",
        "null",
        "{\"type\":7}",
        "{\"type\":\"error\"",
        "{\"type\":\"session.created\",\"canary-openai-key\"",
        "{\"type\":\"response.created\",\"response\":\"canary-openai-key\"}",
        "{\"type\":\"response.done\",\"response\":{\"id\":7}}",
        "{\"type\":\"input_audio_buffer.committed\"}",
        "{\"type\":\"error\",\"error\":null}",
        "\u{0}\u{1}",
    ] {
        let error = read(text).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"), "{text}");
    }
    assert_eq!(read("{\"type\":\"error\"").unwrap_err().label(), "not_json");
    assert_eq!(read("{\"type\":\"error\"}").unwrap_err().label(), "shape");
}

#[test]
fn negative_and_absurd_indices_are_errors() {
    for number in ["-1", "4294967296", "99999999999999999999", "1e30", "0.5", "4097"] {
        let text = DELTA.replace("\"output_index\":0", &format!("\"output_index\":{number}"));
        assert_eq!(read(&text).unwrap_err().label(), "number", "{number}");
    }
    let text = DELTA.replace("\"content_index\":0", "\"content_index\":\"0\"");
    assert_eq!(read(&text).unwrap_err().label(), "shape");
    assert!(read(&DELTA.replace("\"output_index\":0", "\"output_index\":1.0")).is_ok());
}

#[test]
fn ids_are_neither_empty_nor_endless() {
    for id in [String::new(), "x".repeat(257)] {
        assert_eq!(read(&DELTA.replace("item_2", &id)).unwrap_err().label(), "id");
    }
}

#[test]
fn ten_megabytes_in_one_delta_are_read_and_seventeen_are_not() {
    let large = DELTA.replace("AAECAw==", &"AAAA".repeat(10 * 1024 * 1024 / 4));
    let ServerEvent::Audio { delta, .. } = read(&large).unwrap() else { panic!("no audio") };
    let mut pcm = Vec::new();
    decode_audio(delta.expose(), &mut pcm).unwrap();
    assert_eq!(pcm.len(), 10 * 1024 * 1024 / 4 * 3);
    let larger = DELTA.replace("AAECAw==", &"AAAA".repeat(17 * 1024 * 1024 / 4));
    assert_eq!(read(&larger).unwrap_err().label(), "too_large");
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let deep = format!(r#"{{"type":"x","a":{}{}}}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
    drop(read(&deep));
    let deep = format!(r#"{{"a":{}1{},"type":"x"}}"#, "{\"b\":".repeat(100_000), "}".repeat(100_000));
    drop(read(&deep));
    let deep = DELTA.replace("\"x\"", &"[".repeat(1_000_000));
    assert!(read(&deep).is_err());
}

#[test]
fn debug_output_shows_no_words_and_no_audio() {
    let text = r#"{"type":"response.output_audio_transcript.done","response_id":"r","item_id":"i","output_index":0,
        "content_index":0,"transcript":"Hello Test Caller"}"#;
    let event = read(text).unwrap();
    assert!(matches!(event, ServerEvent::AgentWords { .. }));
    assert!(!format!("{event:?}").contains("Test Caller"));
    assert!(!format!("{:?}", read(DELTA).unwrap()).contains("AAEC"));
}

proptest::proptest! {
    /// Cut anywhere and with any byte changed, a message never panics.
    #[test]
    fn a_damaged_message_never_panics(cut in 0_usize..300, place in 0_usize..300, byte in 0_u8..128) {
        let mut text = DELTA.to_owned().into_bytes();
        if let Some(spot) = text.get_mut(place) { *spot = byte; }
        text.truncate(cut);
        if let Ok(text) = std::str::from_utf8(&text) { drop(read(text)); }
    }
}
