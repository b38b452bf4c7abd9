//! The lane and the model say what they hear of the caller; together they cut the AI off.

use crate::media::floor::Overlap;

use super::*;

/// A response of three seconds, done at the server, of which one was heard; the box judges.
fn speaking() -> Scene {
    let mut config = openai();
    config.turn.interrupt_response = false;
    let mut scene = Scene::ready_with(&config);
    scene.session.judge_with_lane(true);
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 3000);
    scene.done("resp_1", "completed");
    scene.hear(1000);
    scene.out.clear();
    scene
}

fn lane(scene: &mut Scene, overlap: Overlap) {
    scene.input(Input::Overlap(overlap));
}

fn stopped(scene: &mut Scene) {
    scene.event(json!({"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 1, "item_id": "item_2"}));
}

fn committed(scene: &mut Scene) {
    scene.event(json!({"type": "input_audio_buffer.committed", "item_id": "item_2"}));
}

fn refused(scene: &mut Scene) {
    scene.event(json!({"type": "error", "error": {"type": "invalid_request_error", "message": "",
        "code": "conversation_already_has_active_response"}}));
}

fn is_flush(effect: &Effect) -> bool {
    matches!(effect, Effect::Flush { .. })
}

fn sent(effects: &[Effect], kind: &str) -> usize {
    effects.iter().filter_map(wire).filter(|event| event["type"] == kind).count()
}

/// The clock goes to the next deadline.
fn due(scene: &mut Scene) {
    let (at, _) = scene.session.deadline().unwrap();
    let wait = at.saturating_duration_since(scene.now.mono);
    scene.pass(u64::try_from(wait.as_millis()).unwrap() + 1);
    scene.input(Input::Timer);
}

const COUGH: Overlap = Overlap::Ended { voiced: Duration::from_millis(200) };

#[test]
fn words_and_speech_started_cut_the_ai_off_in_either_order() {
    for lane_first in [true, false] {
        let mut scene = speaking();
        lane(&mut scene, Overlap::Began);
        if lane_first {
            lane(&mut scene, Overlap::Words);
            scene.pass(700);
            assert!(!scene.out.iter().any(is_flush));
            scene.speech("item_2");
        } else {
            scene.speech("item_2");
            assert!(!scene.out.iter().any(is_flush));
            scene.pass(300);
            lane(&mut scene, Overlap::Words);
        }
        let out = scene.take();
        assert!(out.iter().any(is_flush), "{lane_first}");
        let cut = out.iter().filter_map(wire).find(|event| event["type"] == "conversation.item.truncate").unwrap();
        assert_eq!(cut["audio_end_ms"], 1000);
        assert!(!out.contains(&Effect::Resume));
    }
}

#[test]
fn a_cough_goes_on_where_it_was_and_nobody_answers_it() {
    let mut scene = speaking();
    lane(&mut scene, Overlap::Began);
    scene.pass(300);
    scene.speech("item_2");
    lane(&mut scene, COUGH);
    scene.pass(400);
    stopped(&mut scene);
    committed(&mut scene);
    let out = scene.take();
    assert!(out.contains(&Effect::Resume));
    assert!(!out.iter().any(is_flush));
    scene.created("resp_2");
    let out = scene.take();
    assert_eq!(sent(&out, "response.cancel"), 1);
    scene.audio("resp_2", "item_3", 0, 500);
    scene.done("resp_2", "cancelled");
    scene.hear(3000);
    let out = scene.take();
    assert!(scene.playout.is_drained() && !out.iter().any(is_flush), "the rest of the sentence was heard");
    assert_eq!(sent(&out, "response.create"), 0);
    scene.speech("item_4");
    committed(&mut scene);
    scene.created("resp_3");
    assert_eq!(sent(&scene.take(), "response.cancel"), 0, "the next turn is answered");
}

#[test]
fn speech_that_only_the_model_hears_cuts_nothing() {
    let mut scene = speaking();
    scene.speech("item_2");
    scene.pass(5000);
    scene.input(Input::Timer);
    assert!(!scene.out.iter().any(is_flush));
}

#[test]
fn words_that_only_the_lane_hears_cut_nothing() {
    let mut scene = speaking();
    lane(&mut scene, Overlap::Began);
    lane(&mut scene, Overlap::Words);
    scene.pass(1000);
    lane(&mut scene, Overlap::Ended { voiced: Duration::from_millis(900) });
    scene.pass(5000);
    scene.speech("item_2");
    assert!(!scene.out.iter().any(is_flush), "what the model hears so much later is something else");
}

#[test]
fn a_turn_refused_beside_a_running_response_is_answered_once() {
    let mut scene = speaking();
    scene.created("resp_2");
    scene.audio("resp_2", "item_5", 0, 500);
    lane(&mut scene, Overlap::Began);
    lane(&mut scene, Overlap::Words);
    scene.speech("item_2");
    assert_eq!(sent(&scene.take(), "response.cancel"), 1);
    stopped(&mut scene);
    committed(&mut scene);
    refused(&mut scene);
    scene.done("resp_2", "cancelled");
    assert_eq!(sent(&scene.take(), "response.create"), 1);
}

#[test]
fn a_turn_queued_behind_a_running_response_is_not_asked_for_again() {
    let mut scene = speaking();
    scene.created("resp_2");
    lane(&mut scene, Overlap::Began);
    lane(&mut scene, Overlap::Words);
    scene.speech("item_2");
    stopped(&mut scene);
    committed(&mut scene);
    scene.done("resp_2", "cancelled");
    scene.created("resp_3");
    scene.audio("resp_3", "item_6", 0, 500);
    scene.done("resp_3", "completed");
    assert_eq!(sent(&scene.take(), "response.create"), 0);
    assert!(!scene.playout.is_drained());
}

#[test]
fn an_interruption_without_words_is_answered_after_all() {
    let mut scene = speaking();
    lane(&mut scene, Overlap::Began);
    lane(&mut scene, Overlap::Words);
    scene.speech("item_2");
    lane(&mut scene, Overlap::Ended { voiced: Duration::from_millis(300) });
    stopped(&mut scene);
    assert_eq!(sent(&scene.take(), "response.create"), 0);
    due(&mut scene);
    assert_eq!(sent(&scene.take(), "response.create"), 1);
}

#[test]
fn a_firm_line_is_heard_out_and_the_turn_over_it_is_kept() {
    let mut scene = speaking();
    scene.hear(3000);
    scene.input(Input::SayFirmly(Line::Greeting, Pii::new("This call is recorded.")));
    let ask = scene.take().iter().filter_map(wire).find(|event| event["type"] == "response.create").unwrap();
    scene.created_for("resp_2", ask["event_id"].as_str().unwrap());
    scene.audio("resp_2", "item_7", 0, 1000);
    scene.done("resp_2", "completed");
    let mut frame = Frame::SILENCE;
    assert!(scene.playout.next_frame(&mut frame) && frame.firm);
    lane(&mut scene, Overlap::Words);
    scene.speech("item_2");
    assert!(!scene.take().iter().any(is_flush));
    stopped(&mut scene);
    committed(&mut scene);
    scene.created("resp_3");
    assert_eq!(sent(&scene.take(), "response.cancel"), 0);
}

#[test]
fn a_firm_line_that_the_server_cut_off_is_said_again() {
    let mut scene = Scene::ready();
    scene.input(Input::SayFirmly(Line::Greeting, Pii::new("This call is recorded.")));
    let ask = scene.take().iter().filter_map(wire).find(|event| event["type"] == "response.create").unwrap();
    scene.created_for("resp_1", ask["event_id"].as_str().unwrap());
    scene.audio("resp_1", "item_1", 0, 400);
    scene.speech("item_2");
    scene.done("resp_1", "cancelled");
    let out = scene.take();
    assert!(!out.iter().any(is_flush));
    assert_eq!(sent(&out, "response.create"), 1);
}
