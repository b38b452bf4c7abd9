//! The log as its readers see it, and what must never be in it.

use std::sync::{Arc, Mutex};

use sauti_core::pii::BoxKey;
use serde_json::Map;

use super::*;

/// What callers, Meta and the provider hand us, and what no line may hold.
const CANARIES: [&str; 8] = [
    "250780000001",
    "+250780000001",
    "MjUwNzgwMDAwMDAx",
    "RW.13491208655302741918",
    "Test Caller",
    "canary-whatsapp-token",
    "wacid.HBgMMjUwNzgwMDAwMDAxFQIAEhggMTIzNDU2Nzg5MAA=",
    "a=ice-pwd:canaryicepassword==",
];

/// Runs `work` with a log of its own and returns the lines.
pub(crate) fn logged(work: impl FnOnce()) -> Vec<String> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&lines);
    let sink = Sink::Lines(Box::new(move |line| writer.lock().unwrap().push(line.to_owned())));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(Gate { sink }), work);
    Arc::into_inner(lines).unwrap().into_inner().unwrap()
}

fn parsed(line: &str) -> Map<String, Json> {
    assert!(line.ends_with("}\n"), "{line}");
    serde_json::from_str(line).unwrap()
}

#[test]
fn an_event_is_one_json_line_with_name_call_and_values() {
    let call = CallId::new(Timestamp::UNIX_EPOCH, [7; 10]);
    let caller = BoxKey::new([1; 32]).hash("caller", "250780000001");
    let lines = logged(|| {
        log_event(
            EventName::CallEnded,
            Some(call),
            &[
                (Field::Outcome, "completed".into()),
                (Field::Caller, caller.into()),
                (Field::Seconds, 12.5.into()),
                (Field::HeardMs, Duration::from_millis(1234).into()),
                (Field::Warm, true.into()),
                (Field::Model, SafeName::new("gpt-realtime-2.1").into()),
            ],
        );
    });
    assert_eq!(lines.len(), 1);
    let line = parsed(&lines[0]);
    assert_eq!(line["EVENT"], "CALL_ENDED");
    assert_eq!(line["CALL_ID"], call.to_string());
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["OUTCOME"], "completed");
    assert_eq!(line["CALLER"], caller.to_string());
    assert_eq!((&line["SECONDS"], &line["HEARD_MS"]), (&Json::from(12.5), &Json::from(1234)));
    assert_eq!((&line["WARM"], &line["MODEL"]), (&Json::from(true), &Json::from("gpt-realtime-2.1")));
    assert!(line["ts"].as_str().unwrap().parse::<Timestamp>().is_ok());
    assert_eq!(line.len(), 10, "no further field: {line:?}");
    assert!(lines[0].starts_with(r#"{"ts":""#), "{}", lines[0]);
}

#[test]
fn an_event_without_a_call_has_no_call_id() {
    let lines = logged(|| log_event(EventName::ServiceReady, None, &[(Field::CallEvent, "ringing".into())]));
    let line = parsed(&lines[0]);
    assert!(!line.contains_key("CALL_ID"));
    assert_eq!(line["event"], "ringing", "operators know this key in lower case");
}

#[test]
fn a_library_cannot_say_anything_but_where_it_is() {
    let lines = logged(|| {
        for canary in CANARIES {
            tracing::warn!(target: "hyper::proto", "odd request from {canary}");
            tracing::error!(target: "rustls::conn", peer = canary, debug = ?canary, display = %canary);
            let span = tracing::error_span!(target: "tungstenite", "frame", payload = canary);
            span.in_scope(|| tracing::warn!(payload = %canary, "inside"));
            span.in_scope(|| log_event(EventName::ServiceReady, None, &[]));
            tracing::info!(target: "hyper::proto", "quiet {canary}");
            tracing::debug!(target: "sauti::event2", "quiet {canary}");
        }
    });
    assert_eq!(lines.len(), CANARIES.len() * 4);
    for line in &lines {
        for canary in CANARIES {
            assert!(!line.contains(canary), "{line}");
        }
    }
    let first = parsed(&lines[0]);
    assert_eq!((&first["EVENT"], &first["SOURCE"]), (&Json::from("LIBRARY_WARNING"), &Json::from("hyper::proto")));
    assert_eq!(first["level"], "WARN");
    assert!(first["LINE"].is_u64());
    assert_eq!(parsed(&lines[1])["level"], "ERROR");
}

#[test]
fn a_panic_is_logged_by_its_place_alone() {
    let lines = logged(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(log_panic));
        let outcome = std::panic::catch_unwind(|| panic!("no room for {}", CANARIES[0]));
        std::panic::set_hook(before);
        assert!(outcome.is_err());
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = parsed(&lines[0]);
    assert_eq!((&line["EVENT"], &line["level"]), (&Json::from("PANICKED"), &Json::from("ERROR")));
    assert_eq!(line["SOURCE"], "logging_tests.rs");
    assert!(line["LINE"].is_u64() && !lines[0].contains(CANARIES[0]), "{}", lines[0]);
}

#[test]
fn a_name_that_could_be_something_else_is_hidden() {
    for canary in CANARIES.into_iter().filter(|canary| *canary != "canary-whatsapp-token") {
        assert_eq!(SafeName::new(canary).0, "‹hidden›", "{canary}");
    }
    for name in ["gpt-realtime-2.1", "kgl-edge-1", "127.0.0.1:8080", "[::]:9090", "hyper::proto", "store.rs"] {
        assert_eq!(SafeName::new(name).0, name);
    }
    assert_eq!(SafeName::new("").0, "‹hidden›");
    assert_eq!(SafeName::new(&"a".repeat(65)).0, "‹hidden›");
}

#[test]
fn every_event_has_a_name_of_its_own_and_the_known_ones_are_there() {
    let names: std::collections::BTreeSet<_> = EventName::ALL.iter().map(|name| name.as_str()).collect();
    assert_eq!(names.len(), EventName::ALL.len());
    for known in [
        "WA_VOICE_WEBHOOK_RECEIVED",
        "WA_CALL_CONNECT",
        "MEDIA_BRIDGE_CREATE_REQUEST",
        "WA_CALL_PRE_ACCEPTED",
        "WEBRTC_CONNECTION_ESTABLISHED",
        "OPENAI_WEBSOCKET_CONNECTED",
        "AUDIO_BRIDGE_ACTIVE",
        "WA_CALL_ACCEPTED",
        "CONVERSATION_STARTED",
        "WA_VOICE_ERROR",
        "OPENAI_SIP_CALL_ACCEPTED",
        "WA_VOICE_CALL_EVENT",
        "WA_VOICE_CALL_ACCEPTED",
        "WA_VOICE_WEBSOCKET_CONNECTED",
        "CALL_ENDED",
    ] {
        assert!(names.contains(known), "{known}");
    }
    assert!(!names.contains("WA_CALL_MEDIA_BRIDGE_NEEDED"));
}

#[test]
fn the_journal_is_known_by_the_device_and_inode_of_its_stream() {
    let file = tempfile::tempfile().unwrap();
    let metadata = file.metadata().unwrap();
    let stream = format!("{}:{}", metadata.dev(), metadata.ino());
    assert!(is_stream(&stream, &metadata));
    assert!(!is_stream(&format!("{}:{}", metadata.dev(), metadata.ino() + 1), &metadata));
    assert!(!is_stream("", &metadata) && !is_stream("8", &metadata) && !is_stream("a:b", &metadata));
}
