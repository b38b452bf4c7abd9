//! The caller speaks while the agent does.

use super::*;

/// A response of one second, done at the server, of which `heard` ms were consumed.
fn answering(heard: u64) -> Scene {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 1000);
    scene.words("resp_1", "item_1", "one two three four five six seven eight nine ten");
    scene.done("resp_1", "completed");
    scene.hear(heard);
    scene.out.clear();
    scene
}

#[test]
fn an_answer_that_the_server_has_finished_is_still_cut_to_what_was_heard() {
    let mut scene = answering(400);
    scene.speech("item_2");
    let out = scene.take();
    assert_eq!(out[0], Effect::SpeechStarted);
    assert_eq!(out[1], Effect::Flush { epoch: 2 });
    assert_eq!(
        wire(&out[2]).unwrap(),
        json!({"type": "conversation.item.truncate", "event_id": "tr_2", "item_id": "item_1", "content_index": 0,
            "audio_end_ms": 400})
    );
    assert_eq!(turns(&out), [(Speaker::Agent, "one two three four".to_owned(), true)]);
    assert!(scene.playout.is_drained());
}

#[test]
fn frames_that_the_lane_holds_and_did_not_play_do_not_count_as_heard() {
    let mut scene = answering(0);
    let mut frame = Frame::SILENCE;
    for _ in 0..10 {
        assert!(scene.playout.next_frame(&mut frame));
    }
    scene.input(Input::Consumed(Consumed { epoch: 1, frames: 3 }));
    scene.speech("item_2");
    assert_eq!(scene.sent()[0]["audio_end_ms"], 60);
}

#[test]
fn audio_that_comes_late_of_an_answer_that_was_cut_is_not_played() {
    let mut scene = answering(400);
    scene.speech("item_2");
    scene.audio("resp_1", "item_1", 0, 500);
    scene.audio("resp_1", "item_3", 1, 500);
    assert!(scene.playout.is_drained());
}

#[test]
fn an_answer_of_which_nothing_was_heard_is_deleted() {
    let mut scene = answering(0);
    scene.speech("item_2");
    let out = scene.take();
    assert_eq!(
        wire(&out[2]).unwrap(),
        json!({"type": "conversation.item.delete", "event_id": "dl_2", "item_id": "item_1"})
    );
    assert_eq!(turns(&out), []);
}

#[test]
fn an_answer_that_was_heard_to_its_end_is_left_alone() {
    let mut scene = answering(1000);
    scene.speech("item_2");
    assert_eq!(scene.take(), [Effect::SpeechStarted]);
}

#[test]
fn speech_into_silence_cuts_nothing() {
    let mut scene = Scene::ready();
    scene.speech("item_1");
    scene.speech("item_1");
    assert_eq!(scene.take(), [Effect::SpeechStarted, Effect::SpeechStarted]);
}

#[test]
fn what_still_comes_of_a_cut_answer_is_neither_played_nor_believed() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 500);
    let mut delta = Scene::part("response.output_audio_transcript.delta", "resp_1", "item_1", 0);
    delta["delta"] = Value::from("one two ");
    scene.event(delta);
    scene.hear(200);
    scene.out.clear();
    scene.speech("item_3");
    assert_eq!(turns(&scene.out), [], "its words are not all known yet");
    scene.audio("resp_1", "item_1", 0, 500);
    scene.audio("resp_1", "item_2", 1, 100);
    assert!(scene.playout.is_drained());
    scene.words("resp_1", "item_1", "one two three four five six seven eight nine ten");
    assert_eq!(
        turns(&scene.out),
        [(Speaker::Agent, "one two".to_owned(), true)],
        "200 of 1000 ms, dropped audio included"
    );
    scene.done("resp_1", "cancelled");
    let kinds: Vec<Value> = scene.sent().iter().map(|event| event["item_id"].clone()).collect();
    assert_eq!(kinds, ["item_1", "item_2"], "the first cut once, the second deleted once, no cancel");
}

#[test]
fn when_the_server_does_not_cancel_we_do() {
    let mut config = openai();
    config.turn.interrupt_response = false;
    let mut scene = Scene::ready_with(&config);
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 500);
    scene.hear(100);
    scene.out.clear();
    scene.speech("item_2");
    let sent = scene.sent();
    assert_eq!(sent[0]["type"], "response.cancel");
    assert_eq!(sent[0]["response_id"], "resp_1");
    assert_eq!(sent[1]["audio_end_ms"], 100);
    scene.speech("item_2");
    assert_eq!(scene.sent(), [] as [Value; 0], "once");
}

#[test]
fn of_two_items_the_heard_one_stays_the_playing_one_is_cut_and_the_next_is_deleted() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    for (index, item) in ["item_1", "item_2", "item_3"].into_iter().enumerate() {
        scene.audio("resp_1", item, u32::try_from(index).unwrap(), 100);
    }
    scene.done("resp_1", "completed");
    scene.hear(140);
    scene.out.clear();
    scene.speech("item_4");
    let sent = scene.sent();
    assert_eq!(sent.len(), 2);
    assert_eq!((sent[0]["item_id"].as_str(), sent[0]["audio_end_ms"].as_u64()), (Some("item_2"), Some(40)));
    assert_eq!(
        (sent[1]["type"].as_str(), sent[1]["item_id"].as_str()),
        (Some("conversation.item.delete"), Some("item_3"))
    );
}

#[test]
fn an_interrupted_line_is_over_and_incomplete() {
    let mut scene = Scene::ready();
    scene.say(Line::Greeting, "Hello!");
    scene.created_for("resp_1", "rc_2");
    scene.audio("resp_1", "item_1", 0, 500);
    scene.done("resp_1", "completed");
    scene.hear(100);
    scene.out.clear();
    scene.speech("item_2");
    assert!(scene.take().contains(&Effect::LineOver { line: Line::Greeting, complete: false }));
}

#[test]
fn errors_about_a_truncation_are_counted_and_harmless() {
    let mut scene = answering(400);
    scene.speech("item_2");
    scene.out.clear();
    scene.error("invalid_value", Some("tr_2"));
    scene.error("item_truncate_invalid_item_id", None);
    scene.error("response_cancel_not_active", Some("rx_9"));
    for effect in scene.take() {
        assert!(matches!(effect, Effect::Odd(Odd::Error { class: ErrorClass::Benign, .. })), "{effect:?}");
    }
    assert!(scene.session.is_ready());
}

#[test]
fn the_end_writes_down_what_was_heard_until_then() {
    let mut scene = answering(400);
    scene.input(Input::End);
    assert_eq!(
        scene.take(),
        [Effect::Turn(Turn {
            who: Speaker::Agent,
            began: scene.now,
            text: Pii::new("one two three four"),
            interrupted: true,
            heard: Some(Duration::from_millis(400)),
        })]
    );
    scene.speech("item_2");
    scene.input(Input::End);
    scene.input(Input::Closed { code: None, reason: "" });
    assert_eq!(scene.take(), [], "after the end nothing comes out");
}
