//! Responses: bursts, items, limits, endings.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    super::{BadResponse, Burst, ClientFaultKind, Clip, Line, RateLimits, RateLimitsAt, Say, Script, ServerSettings},
    Rig, settings,
};

fn long_speech(seconds: u64) -> ServerSettings {
    let mut settings = settings();
    settings.script.greeting = Line::clip(Clip::tone("one two three", 300, Duration::from_secs(seconds)));
    settings
}

#[test]
fn audio_leaves_faster_than_it_plays_in_odd_pieces_and_arrives_whole() {
    let mut settings = long_speech(10);
    settings.burst = Burst { chunk_bytes: vec![4_801, 2_399, 7_003], ..Burst::default() };
    let mut rig = Rig::new(settings);
    rig.create();
    rig.run_ms(30_000);
    let item = rig.last("response.done")["response"]["output"][0]["id"].clone();
    let bytes = rig.audio_of(&item);
    let wanted: Vec<u8> = rig.server.record().spoken[0].samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    assert!(bytes == wanted, "{} of {} bytes", bytes.len(), wanted.len());
    let of = |kind: &str| {
        let mut times = rig.events.iter().filter(|(_, event)| event["type"] == kind).map(|(at, _)| *at);
        times.next_back().unwrap()
    };
    let took = of("response.output_audio.delta");
    assert!((1_900..=2_000).contains(&took.as_millis()), "five times real time, took {took:?}");
    let deltas = rig.all("response.output_audio.delta");
    let odd = deltas.iter().filter(|delta| STANDARD.decode(delta["delta"].as_str().unwrap()).unwrap().len() % 2 == 1);
    assert!(odd.count() > 10);
}

#[test]
fn words_run_ahead_of_the_audio_and_add_up_to_the_transcript() {
    let mut rig = Rig::new(settings());
    rig.create();
    rig.run_ms(2_000);
    let kinds: Vec<&str> = rig.events.iter().filter_map(|(_, event)| event["type"].as_str()).collect();
    let first = |kind: &str| kinds.iter().position(|found| *found == kind).unwrap();
    assert!(first("response.output_audio_transcript.delta") < first("response.output_audio.delta"));
    let words = rig.all("response.output_audio_transcript.delta");
    let joined: String = words.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(joined, "Hello! How can I help you today?");
    assert_eq!(rig.last("response.output_audio_transcript.done")["transcript"], joined.as_str());
}

#[test]
fn several_message_items_in_one_response_keep_their_indices() {
    let mut settings = settings();
    let clip = |words: &str| Say::Clip(Clip::tone(words, 300, Duration::from_millis(400)));
    settings.script.greeting = Line { items: vec![clip("let me see"), clip("here it is")], after_tools: vec![] };
    settings.batch_audio_done = true;
    let mut rig = Rig::new(settings);
    rig.create();
    rig.run_ms(2_000);
    let output = rig.last("response.done")["response"]["output"].clone();
    assert_eq!(output.as_array().map(Vec::len), Some(2));
    for (index, added) in rig.all("response.output_item.added").into_iter().enumerate() {
        assert_eq!((&added["output_index"], &added["item"]["id"]), (&json!(index), &output[index]["id"]));
    }
    assert_eq!(rig.all("conversation.item.added")[1]["previous_item_id"], output[0]["id"]);
    let kinds = rig.kinds();
    let before_done = &kinds[kinds.len() - 4..kinds.len() - 1];
    assert_eq!(before_done, ["response.output_audio.done", "response.output_audio.done", "response.done"]);
    let durations: Vec<usize> = rig.server.record().spoken.iter().map(|item| item.samples_sent).collect();
    assert_eq!(durations, [9_600, 9_600]);
}

#[test]
fn only_one_response_speaks_into_the_conversation() {
    let mut rig = Rig::new(settings());
    rig.create();
    rig.send(json!({"type": "response.create", "event_id": "again"}));
    let error = rig.last("error")["error"].clone();
    assert_eq!(error["code"], "conversation_already_has_active_response");
    assert_eq!(error["event_id"], "again");
    let running = rig.last("response.created")["response"]["id"].as_str().unwrap();
    assert!(error["message"].as_str().unwrap().contains(running));
    assert_eq!(rig.server.record().count(ClientFaultKind::CreateWhileActive), 1);
    rig.run_ms(2_000);
    rig.create();
    assert_eq!(rig.all("response.created").len(), 2);
}

#[test]
fn out_of_band_responses_run_beside_it_and_leave_no_item() {
    let mut rig = Rig::new(settings());
    rig.create();
    for purpose in ["a", "b"] {
        rig.send(json!({"type": "response.create", "response": {"conversation": "none",
            "output_modalities": ["text"], "metadata": {"purpose": purpose}, "input": [], "instructions": "Sum up."}}));
    }
    rig.run_ms(3_000);
    let done = rig.all("response.done");
    let aside: Vec<&&Value> = done.iter().filter(|event| event["response"]["conversation_id"].is_null()).collect();
    assert_eq!(aside.len(), 2);
    assert_eq!(aside[0]["response"]["metadata"], json!({"purpose": "a"}));
    let text = aside[0]["response"]["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("book_transport"));
    assert_eq!(rig.all("conversation.item.added").len(), 1, "only the greeting's item");
    assert_eq!(rig.all("response.output_text.done").len(), 2);
}

#[test]
fn a_cancel_ends_the_response_and_a_second_one_finds_nothing() {
    let mut rig = Rig::new(long_speech(20));
    rig.create();
    rig.run_ms(500);
    let id = rig.last("response.created")["response"]["id"].clone();
    rig.send(json!({"type": "response.cancel", "response_id": id}));
    assert_eq!(rig.last("response.done")["response"]["status_details"]["reason"], "client_cancelled");
    rig.send(json!({"type": "response.cancel"}));
    assert_eq!(rig.error_code(), "response_cancel_not_active");
    assert_eq!(rig.server.record().count(ClientFaultKind::TooLate), 1);
    rig.create();
    assert_eq!(rig.all("response.created").len(), 2, "a new response may start at once");
}

#[test]
fn a_response_cancelled_before_its_first_word_has_no_output() {
    let mut settings = settings();
    settings.latency.first_delta = Duration::from_millis(500);
    let mut rig = Rig::new(settings);
    rig.create();
    rig.run_ms(100);
    rig.send(json!({"type": "response.cancel"}));
    rig.run_ms(2_000);
    assert_eq!(rig.last("response.done")["response"]["output"], json!([]));
    assert!(rig.all("response.output_item.added").is_empty());
}

#[test]
fn max_output_tokens_ends_speech_as_incomplete() {
    let mut rig = Rig::new(long_speech(20));
    rig.update(json!({"max_output_tokens": 64}));
    rig.create();
    rig.run_ms(10_000);
    let response = &rig.last("response.done")["response"];
    assert_eq!(response["status_details"], json!({"type": "incomplete", "reason": "max_output_tokens"}));
    assert_eq!(response["usage"]["output_tokens"], 64);
    let sent = rig.server.record().spoken[0].samples_sent;
    assert!(sent <= 64 * 50 * 24, "{sent} samples");
    assert_eq!(response["output"][0]["status"], "incomplete");
}

#[test]
fn bad_responses_end_as_planned() {
    let mut settings = long_speech(5);
    settings.bad_responses = vec![
        (0, BadResponse::rate_limited()),
        (1, BadResponse::ContentFilter { after: Duration::from_millis(700) }),
        (2, BadResponse::NoCreated),
        (3, BadResponse::Hangs),
    ];
    let mut rig = Rig::new(settings);
    rig.create();
    rig.run_ms(5_000);
    let failed = rig.last("response.done")["response"].clone();
    assert_eq!(failed["status_details"]["error"]["code"], "inference_rate_limit_exceeded");
    assert_eq!((&failed["usage"], &failed["output"]), (&Value::Null, &json!([])));
    let script = rig.server.settings.script.greeting.clone();
    let order = match &script.items[0] {
        Say::Clip(clip) => clip.transcript.clone(),
        other => panic!("{other:?}"),
    };
    for _ in 1..=3 {
        rig.send(json!({"type": "response.create", "response": {"instructions": order}}));
        rig.run_ms(5_000);
    }
    let done = rig.all("response.done");
    assert_eq!(done.len(), 3, "the hanging one never ends");
    assert_eq!(done[1]["response"]["status_details"], json!({"type": "incomplete", "reason": "content_filter"}));
    assert_eq!(rig.server.record().spoken[0].samples_sent, 700 * 24);
    assert_eq!(done[2]["response"]["status"], "completed");
    let created: Vec<&Value> = rig.all("response.created").into_iter().map(|event| &event["response"]["id"]).collect();
    assert!(!created.contains(&&done[2]["response"]["id"]));
}

#[test]
fn usage_grows_with_the_conversation_and_its_beginning_is_cached() {
    let mut rig = Rig::new(settings());
    rig.update(json!({"instructions": "You take orders. ".repeat(40)}));
    let mut inputs = Vec::new();
    for _ in 0..4 {
        rig.create();
        rig.run_ms(2_000);
        let usage = &rig.last("response.done")["response"]["usage"];
        inputs.push((usage["input_tokens"].as_u64().unwrap(), usage["input_token_details"]["cached_tokens"].as_u64()));
    }
    assert!(inputs.windows(2).all(|pair| pair[0].0 < pair[1].0), "{inputs:?}");
    assert_eq!(inputs[0].1, Some(0));
    assert!(inputs[3].1 > Some(127), "{inputs:?}");
}

#[test]
fn rate_limits_stand_where_they_are_told_and_can_run_out() {
    for (at, place) in [(RateLimitsAt::BeforeContent, 1), (RateLimitsAt::AfterDone, 9_999), (RateLimitsAt::Never, 0)] {
        let mut settings = settings();
        settings.rate_limits = RateLimits { at, ..RateLimits::default() };
        let mut rig = Rig::new(settings);
        rig.forget();
        rig.create();
        rig.run_ms(2_000);
        let kinds = rig.kinds();
        let found = kinds.iter().position(|kind| *kind == "rate_limits.updated");
        let wanted = match place {
            0 => None,
            9_999 => Some(kinds.len() - 1),
            place => Some(place),
        };
        assert_eq!(found, wanted, "{at:?}");
    }
    let mut poor = settings();
    poor.rate_limits = RateLimits { tokens: 10, enforced: true, ..RateLimits::default() };
    let mut rig = Rig::new(poor);
    rig.create();
    rig.run_ms(1_000);
    assert_eq!(rig.last("response.done")["response"]["status"], "failed");
}

#[test]
fn tool_calls_are_split_answered_and_their_absence_noted() {
    let mut settings = settings();
    let call = |name: &str, arguments: &str| Say::Call { name: name.into(), arguments: arguments.into(), pieces: 3 };
    let booked = Say::Clip(Clip::tone("Booked.", 300, Duration::from_millis(200)));
    settings.script = Script {
        greeting: Line {
            items: vec![call("book", r#"{"to":"Kigali"}"#), call("price", "{}")],
            after_tools: vec![booked],
        },
        ..settings.script
    };
    let mut rig = Rig::new(settings);
    rig.create();
    rig.run_ms(500);
    let calls = rig.last("response.done")["response"]["output"].clone();
    assert_eq!(calls[0]["status"], "completed");
    let pieces = rig.all("response.function_call_arguments.delta");
    let first: String =
        pieces.iter().filter(|p| p["call_id"] == calls[0]["call_id"]).filter_map(|p| p["delta"].as_str()).collect();
    assert_eq!(first, r#"{"to":"Kigali"}"#);
    assert_eq!(rig.all("response.function_call_arguments.done")[1]["name"], "price");
    let result = |id: &Value| {
        json!({"type": "conversation.item.create",
            "item": {"type": "function_call_output", "call_id": id, "output": "{\"ok\":true}"}})
    };
    rig.send(result(&calls[0]["call_id"]));
    rig.send(result(&calls[0]["call_id"]));
    rig.send(result(&json!("call_never_made")));
    assert_eq!(rig.last("error")["error"]["param"], "item.call_id");
    rig.create();
    rig.run_ms(1_000);
    assert_eq!(rig.last("response.done")["response"]["output"][0]["content"][0]["transcript"], "Booked.");
    rig.server.disconnected(rig.now);
    let record = rig.server.record();
    assert_eq!(record.count(ClientFaultKind::UnexpectedToolResult), 2);
    assert_eq!(record.count(ClientFaultKind::UnansweredToolCall), 1);
}

#[test]
fn slow_bursts_with_rests_starve_the_client_as_asked() {
    let mut settings = long_speech(2);
    settings.burst = Burst {
        speed_percent: 100,
        interval: Duration::from_millis(100),
        chunk_bytes: Vec::new(),
        rest: Some((5, Duration::from_millis(400))),
    };
    let mut rig = Rig::new(settings);
    rig.create();
    rig.run_ms(10_000);
    let record = rig.server.record();
    let deltas = &record.spoken[0].deltas;
    assert_eq!(deltas.len(), 20);
    let widest = deltas.windows(2).map(|pair| pair[1].0 - pair[0].0).max();
    assert_eq!(widest, Some(Duration::from_millis(500)));
}
