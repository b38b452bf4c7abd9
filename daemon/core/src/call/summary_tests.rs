//! Summaries: what is asked, and what is made of any answer.

use serde_json::json;

use super::*;

#[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
fn now() -> Instant {
    Instant::now()
}

fn done(id: &str, status: &str, words: &str) -> String {
    json!({"type": "response.done", "event_id": "event_9", "response": {
        "object": "realtime.response", "id": "resp_5", "status": status, "status_details": null, "conversation_id": null,
        "output": [{"id": "item_8", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": words}]}],
        "usage": {"total_tokens": 253, "input_tokens": 132, "output_tokens": 30,
            "input_token_details": {"text_tokens": 119, "audio_tokens": 13,
                "cached_tokens_details": {"text_tokens": 64, "audio_tokens": 0}},
            "output_token_details": {"text_tokens": 30, "audio_tokens": 0}},
        "metadata": {"purpose": "call_summary", "client_event_id": id}}})
    .to_string()
}

fn answer(words: &str) -> Result<Summary, Missing> {
    let (asking, _) = Asking::about_session(now());
    asking.message(&done(EVENT_ID, "completed", words)).unwrap().summary
}

fn turn(speaker: Speaker, words: &str) -> Heard {
    (speaker, Pii::new(words))
}

#[test]
fn the_request_stands_outside_the_conversation_and_asks_for_text_alone() {
    let now = now();
    let (asking, text) = Asking::about_session(now);
    let event: Value = serde_json::from_str(&text).unwrap();
    let response = &event["response"];
    assert_eq!(event["type"], "response.create");
    assert_eq!((&response["conversation"], &response["output_modalities"]), (&json!("none"), &json!(["text"])));
    assert_eq!((&response["metadata"]["purpose"], &response["tools"]), (&json!("call_summary"), &json!([])));
    assert!(response.get("input").is_none(), "the session knows what was said");
    assert_eq!(asking.deadline(), now + WITHIN);

    let turns = [turn(Speaker::Agent, "Hello!"), turn(Speaker::Caller, "A ride, please.")];
    let (_, text) = Asking::about_transcript(now, &turns);
    let event: Value = serde_json::from_str(&text).unwrap();
    let content = &event["response"]["input"][0]["content"][0];
    assert_eq!(content, &json!({"type": "input_text", "text": "agent: Hello!\ncaller: A ride, please.\n"}));
}

#[test]
fn of_a_long_transcript_the_end_is_sent() {
    let turns: Vec<_> = (0..2_000).map(|n| turn(Speaker::Caller, &format!("sentence number {n} of many"))).collect();
    let text = transcript(&turns);
    assert!(text.chars().count() <= LONGEST_TRANSCRIPT);
    assert!(text.ends_with("caller: sentence number 1999 of many\n") && !text.contains("number 7 of"));
}

#[test]
fn the_four_values_are_read_and_the_tokens_counted() {
    let words = r#"{"intent":"book_transport","summary":"The caller asked for a ride.","language":"fr","follow_up":"Send a car."}"#;
    let (asking, _) = Asking::about_session(now());
    let answer = asking.message(&done(EVENT_ID, "completed", words)).unwrap();
    let usage = answer.usage.unwrap();
    assert_eq!((usage.text_in, usage.text_cached, usage.text_out, usage.audio_in), (119, 64, 30, 13));
    let summary = answer.summary.unwrap();
    assert_eq!((summary.intent.as_str(), summary.language), ("book_transport", Some(Language::Fr)));
    assert_eq!(summary.text.expose(), "The caller asked for a ride.");
    assert_eq!(summary.follow_up.unwrap().expose(), "Send a car.");
}

#[test]
fn an_answer_in_loose_shape_is_read_all_the_same() {
    for words in [
        "```json\n{\"intent\": \"Order Food!\", \"summary\": \"Tea.\", \"language\": \"EN-us\", \"follow_up\": null}\n```",
        "Here it is: {\"intent\":\"order food\",\"summary_text\":\"Tea.\",\"language\":\"en\",\"more\":[1]} Goodbye.",
        "{\"intent\":\" order-food \",\"summary\":[\"Tea.\"],\"language\":\"en\",\"follow_up\":\"\"}",
    ] {
        let summary = answer(words).unwrap();
        assert_eq!((summary.intent.as_str(), summary.text.expose()), ("order_food", "Tea."), "{words}");
        assert_eq!((summary.language, summary.follow_up), (Some(Language::En), None), "{words}");
    }
    let vague = answer(r#"{"summary":"Tea.","language":"de"}"#).unwrap();
    assert_eq!((vague.intent.as_str(), vague.language), ("unknown", None));
    assert_eq!(answer(r#"{"summary":"Tea.","intent":"call_0780000001"}"#).unwrap().intent, "unknown");
}

#[test]
fn an_answer_without_a_summary_is_none() {
    for words in ["", "I cannot.", "{", "}{", "{\"intent\":\"x\"}", "{\"summary\":\"\"}", "{\"summary\":7}", "[1]"] {
        assert_eq!(answer(words), Err(Missing::Unreadable), "{words}");
    }
    let (asking, _) = Asking::about_session(now());
    for status in ["failed", "cancelled", "incomplete"] {
        assert_eq!(asking.message(&done(EVENT_ID, status, "{}")).unwrap().summary, Err(Missing::Failed));
    }
    let refused =
        json!({"type": "error", "error": {"type": "invalid_request_error", "code": "x", "event_id": EVENT_ID}});
    assert_eq!(asking.message(&refused.to_string()).unwrap().summary, Err(Missing::Failed));
}

#[test]
fn what_belongs_to_others_is_passed_over() {
    let (asking, _) = Asking::about_session(now());
    let stranger = done("rc_7", "completed", &format!("{{\"summary\":\"{EVENT_ID}\"}}"));
    for text in [stranger.as_str(), "", "{", "{\"type\":\"response.output_audio.delta\",\"delta\":\"AAAA\"}"] {
        assert_eq!(asking.message(text), None, "{text}");
    }
    let huge = done(EVENT_ID, "completed", &"x".repeat(LONGEST_MESSAGE));
    assert_eq!(asking.message(&huge), None);
}

#[test]
fn long_values_are_cut_and_debug_output_shows_none_of_them() {
    let words = json!({"summary": "a".repeat(5_000), "intent": "b".repeat(500), "follow_up": "c".repeat(5_000)});
    let summary = answer(&words.to_string()).unwrap();
    assert_eq!(summary.text.expose().len(), LONGEST_TEXT);
    assert!(summary.intent.len() <= LONGEST_INTENT);
    assert_eq!(summary.follow_up.as_ref().unwrap().expose().len(), LONGEST_FOLLOW_UP);
    assert!(!format!("{summary:?}").contains("aaa"));
}

#[test]
fn what_the_model_repeats_of_a_person_is_taken_out() {
    let words = json!({"intent": "call_back_bosco", "summary": "Bosco asks to be called at 0780 000 001.",
        "follow_up": "Call Bosco at zero seven eight zero."});
    let turns = [turn(Speaker::Agent, "My name is Grace."), turn(Speaker::Caller, "my name is Bosco, call me")];
    let summary = answer(&words.to_string()).unwrap().redacted(&turns);
    assert_eq!(summary.intent, "unknown");
    assert_eq!(summary.text.expose(), "[name] asks to be called at [number].");
    assert_eq!(summary.follow_up.unwrap().expose(), "Call [name] at [number].");
}

proptest::proptest! {
    #[test]
    fn no_answer_makes_it_panic(words in "\\PC{0,300}", any in "\\PC{0,300}") {
        drop(answer(&words));
        let (asking, _) = Asking::about_session(now());
        drop(asking.message(&format!("{EVENT_ID}{any}")));
    }
}
