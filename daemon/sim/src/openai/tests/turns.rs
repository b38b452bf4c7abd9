//! Finding turns in appended audio, committing them, interrupting.

use std::time::Duration;

use serde_json::{Value, json};

use super::{super::ClientFaultKind, Rig, quiet, settings, voice};

#[test]
fn a_turn_runs_from_speech_to_answer_in_the_documented_order() {
    let mut rig = Rig::new(settings());
    rig.update(json!({"audio": {"input": {
        "transcription": {"model": "gpt-transcribe", "languages": ["en", "rw"]},
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 500}}}}));
    rig.forget();
    rig.say(&quiet(1_000));
    rig.say(&voice(800));
    rig.say(&quiet(1_500));
    assert_eq!(
        rig.kinds(),
        [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created",
            "conversation.item.input_audio_transcription.delta",
            "conversation.item.input_audio_transcription.completed",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_audio_transcript.delta",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
            "rate_limits.updated",
        ]
    );
}

#[test]
fn padding_and_silence_are_counted_in_appended_audio() {
    let mut rig = Rig::new(settings());
    rig.update(json!({"audio": {"input": {"turn_detection":
        {"type": "server_vad", "prefix_padding_ms": 200, "silence_duration_ms": 400}}}}));
    // A burst: none of this takes time.
    for piece in [quiet(1_000), voice(600), quiet(1_000)].concat().chunks(4_799) {
        rig.append(piece);
    }
    let started = rig.last("input_audio_buffer.speech_started").clone();
    let stopped = rig.last("input_audio_buffer.speech_stopped").clone();
    assert_eq!(started["audio_start_ms"], 800);
    assert_eq!(stopped["audio_end_ms"], 2_000);
    assert_eq!(started["item_id"], stopped["item_id"]);
    assert_eq!(rig.last("input_audio_buffer.committed")["item_id"], started["item_id"]);
    rig.send(json!({"type": "conversation.item.retrieve", "item_id": started["item_id"]}));
    let audio = rig.last("conversation.item.retrieved")["item"]["content"][0]["audio"].as_str().unwrap().len();
    assert_eq!(audio, 1_200 * 48 / 3 * 4, "the item holds prefix, speech and silence");
}

#[test]
fn padding_never_reaches_into_the_turn_before() {
    let mut rig = Rig::new(settings());
    rig.update(json!({"audio": {"input": {"turn_detection": {"type": "server_vad", "prefix_padding_ms": 2_000,
        "silence_duration_ms": 200, "create_response": false}}}}));
    rig.say(&[voice(300), quiet(300), voice(300)].concat());
    let ended = rig.all("input_audio_buffer.speech_stopped")[0]["audio_end_ms"].clone();
    assert_eq!(rig.all("input_audio_buffer.speech_started")[1]["audio_start_ms"], ended);
}

#[test]
fn speech_interrupts_a_running_response_and_closes_its_parts() {
    let mut slow = settings();
    slow.burst.speed_percent = 120;
    let mut rig = Rig::new(slow);
    rig.create();
    rig.run_ms(500);
    rig.forget();
    rig.say(&voice(100));
    assert_eq!(
        rig.kinds(),
        [
            "input_audio_buffer.speech_started",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
            "rate_limits.updated",
        ]
    );
    let done = &rig.last("response.done")["response"];
    assert_eq!(done["status"], "cancelled");
    assert_eq!(done["status_details"], json!({"type": "cancelled", "reason": "turn_detected"}));
    assert_eq!(done["output"][0]["status"], "incomplete");
    let spoken = &rig.server.record().spoken[0];
    assert!(spoken.cancelled && spoken.samples_sent < spoken.samples.len());
    rig.forget();
    rig.run_ms(3_000);
    assert_eq!(rig.kinds(), Vec::<&str>::new(), "nothing of a cancelled response follows");
}

#[test]
fn after_all_audio_was_sent_there_is_nothing_to_cancel_and_truncation_does_the_work() {
    let mut rig = Rig::new(settings());
    rig.create();
    rig.run_ms(600);
    assert_eq!(rig.last("response.done")["response"]["status"], "completed");
    let item = rig.last("response.done")["response"]["output"][0]["id"].clone();
    rig.say(&voice(100));
    assert_eq!(rig.all("response.done").len(), 1);
    rig.send(json!({"type": "conversation.item.truncate", "item_id": item, "content_index": 0, "audio_end_ms": 640}));
    assert_eq!(rig.last("conversation.item.truncated")["audio_end_ms"], 640);
    assert_eq!(rig.server.record().spoken[0].truncated_at_ms, Some(640));
    rig.send(json!({"type": "conversation.item.retrieve", "item_id": item}));
    let part = &rig.last("conversation.item.retrieved")["item"]["content"][0];
    assert_eq!(part["audio"].as_str().map(str::len), Some(640 * 48 / 3 * 4));
    assert!(part.get("transcript").is_none(), "the words of a truncated item are gone");
}

#[test]
fn without_interrupt_response_the_model_talks_on_and_the_new_turn_finds_it_busy() {
    let mut slow = settings();
    slow.burst.speed_percent = 50;
    let mut rig = Rig::new(slow);
    rig.update(json!({"audio": {"input": {"turn_detection": {"type": "server_vad", "interrupt_response": false}}}}));
    rig.create();
    rig.say(&[voice(300), quiet(400)].concat());
    assert_eq!(rig.all("input_audio_buffer.speech_stopped").len(), 1);
    assert_eq!(rig.error_code(), "conversation_already_has_active_response");
    rig.run_ms(5_000);
    assert_eq!(rig.last("response.done")["response"]["status"], "completed");
}

#[test]
fn without_create_response_a_turn_is_committed_and_not_answered() {
    let mut rig = Rig::new(settings());
    rig.update(json!({"audio": {"input": {"turn_detection": {"type": "server_vad", "create_response": false}}}}));
    rig.say(&[voice(300), quiet(400)].concat());
    assert_eq!(rig.all("input_audio_buffer.committed").len(), 1);
    assert!(rig.all("response.created").is_empty());
}

#[test]
fn a_commit_by_hand_needs_a_tenth_of_a_second() {
    let mut rig = Rig::new(settings());
    rig.update(json!({"audio": {"input": {"turn_detection": null}}}));
    rig.append(&voice(99));
    rig.send(json!({"type": "input_audio_buffer.commit", "event_id": "c1"}));
    let error = &rig.last("error")["error"];
    assert_eq!((&error["code"], &error["event_id"]), (&json!("input_audio_buffer_commit_empty"), &json!("c1")));
    assert!(error["message"].as_str().unwrap().ends_with("only has 99.00ms of audio."));
    rig.append(&voice(1));
    rig.send(json!({"type": "input_audio_buffer.commit"}));
    assert_eq!(rig.last("input_audio_buffer.committed")["previous_item_id"], Value::Null);
    assert!(rig.all("response.created").is_empty(), "a commit creates no response");
    rig.send(json!({"type": "input_audio_buffer.commit"}));
    assert_eq!(rig.error_code(), "input_audio_buffer_commit_empty");
}

#[test]
fn audio_that_came_while_detection_was_off_still_counts_in_positions() {
    let mut rig = Rig::new(settings());
    rig.update(json!({"audio": {"input": {"turn_detection": null}}}));
    rig.say(&voice(500));
    rig.update(json!({"audio": {"input": {"turn_detection": {"type": "server_vad", "prefix_padding_ms": 100}}}}));
    rig.say(&[quiet(500), voice(300), quiet(300)].concat());
    assert_eq!(rig.last("input_audio_buffer.speech_started")["audio_start_ms"], 900);
    assert_eq!(rig.last("input_audio_buffer.speech_stopped")["audio_end_ms"], 1_500);
}

#[test]
fn clearing_forgets_running_speech() {
    let mut rig = Rig::new(settings());
    rig.say(&voice(200));
    rig.send(json!({"type": "input_audio_buffer.clear"}));
    rig.say(&quiet(600));
    assert_eq!(rig.all("input_audio_buffer.cleared").len(), 1);
    assert!(rig.all("input_audio_buffer.speech_stopped").is_empty());
}

#[test]
fn a_silent_caller_is_asked_after_the_playback_and_the_timeout() {
    let mut rig = Rig::new(settings());
    rig.update(json!({"audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 6_000}}}}));
    rig.create();
    rig.run_ms(320);
    let (done, _) = rig.events.iter().find(|(_, event)| event["type"] == "response.done").unwrap().clone();
    rig.say(&quiet(8_000));
    let (asked, event) =
        rig.events.iter().find(|(_, event)| event["type"] == "input_audio_buffer.timeout_triggered").unwrap().clone();
    assert_eq!(asked - done, Duration::from_millis(1_600 + 6_000), "counted from the end of playback");
    let span = event["audio_end_ms"].as_u64().unwrap() - event["audio_start_ms"].as_u64().unwrap();
    assert_eq!(span, 6_000);
    assert_eq!(rig.last("input_audio_buffer.committed")["item_id"], event["item_id"]);
    rig.run_ms(1_000);
    let said = &rig.last("response.done")["response"]["output"][0]["content"][0]["transcript"];
    assert_eq!(said, "Are you still there?");
}

#[test]
fn a_speaking_caller_is_not_asked() {
    let mut rig = Rig::new(settings());
    rig.update(json!({"audio": {"input": {"turn_detection":
        {"type": "server_vad", "idle_timeout_ms": 5_000, "create_response": false}}}}));
    rig.create();
    rig.run_ms(1_000);
    rig.say(&voice(8_000));
    assert!(rig.all("input_audio_buffer.timeout_triggered").is_empty());
}

#[test]
fn both_shapes_of_transcription_usage_occur() {
    for (model, shape) in [("gpt-4o-transcribe", "tokens"), ("gpt-transcribe", "duration"), ("whisper-1", "duration")] {
        let mut rig = Rig::new(settings());
        rig.update(json!({"audio": {"input": {"transcription": {"model": model}}}}));
        rig.say(&[voice(300), quiet(400)].concat());
        let completed = rig.last("conversation.item.input_audio_transcription.completed");
        assert_eq!(completed["usage"]["type"], shape, "{model}");
        assert_eq!(completed["transcript"], "I need a ride to the airport");
    }
}

#[test]
fn a_transcription_can_fail() {
    let mut failing = settings();
    failing.failed_transcriptions = vec![0];
    let mut rig = Rig::new(failing);
    rig.update(json!({"audio": {"input": {"transcription": {"model": "gpt-transcribe"}}}}));
    rig.say(&[voice(300), quiet(400)].concat());
    assert_eq!(rig.all("conversation.item.input_audio_transcription.failed").len(), 1);
    assert!(rig.all("conversation.item.input_audio_transcription.completed").is_empty());
}

#[test]
fn telephone_audio_counts_eight_bytes_a_millisecond() {
    let mut rig = Rig::new(settings());
    rig.update(json!({"audio": {"input": {"format": {"type": "audio/pcmu"}},
        "output": {"format": {"type": "audio/pcmu"}}}}));
    // μ-law: 0x00 and 0x80 are the loudest, 0xFF is silence.
    let mut codes: Vec<u8> = (0..8 * 500).map(|index| if index % 16 < 8 { 0x10 } else { 0x90 }).collect();
    codes.extend([0xFF; 8 * 400]);
    use base64::Engine as _;
    let audio = base64::engine::general_purpose::STANDARD.encode(&codes);
    rig.send(json!({"type": "input_audio_buffer.append", "audio": audio}));
    assert_eq!(rig.last("input_audio_buffer.speech_started")["audio_start_ms"], 0);
    // Raising the rate draws a line from the last loud sample, which touches one more decision frame.
    assert_eq!(rig.last("input_audio_buffer.speech_stopped")["audio_end_ms"], 710);
    rig.run_ms(2_000);
    let item = rig.last("response.done")["response"]["output"][0]["id"].clone();
    assert_eq!(rig.audio_of(&item).len(), 1_000 * 8);
    assert_eq!(rig.server.record().spoken[0].samples_sent, 24_000);
}

#[test]
fn pacing_and_half_samples_are_noted() {
    let mut rig = Rig::new(settings());
    rig.say(&quiet(1_000));
    assert_eq!(rig.server.record().count(ClientFaultKind::Pacing), 0);
    rig.run_ms(2_000);
    rig.say(&quiet(200));
    assert_eq!(rig.server.record().count(ClientFaultKind::Pacing), 1, "two seconds of nothing");
    assert!((1_980..=2_000).contains(&rig.server.record().most_behind_ms));
    rig.send(json!({"type": "input_audio_buffer.append", "audio": "AAAA"}));
    assert_eq!(rig.server.record().count(ClientFaultKind::OddAppend), 1);
    assert_eq!(rig.server.record().appended.len(), 1_200 * 24 + 1);
}
