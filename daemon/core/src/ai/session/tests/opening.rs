//! From the socket to the greeting.

use super::*;

#[test]
fn the_update_goes_out_with_the_open_socket_and_the_greeting_with_its_answer() {
    let mut scene = Scene::new(&openai());
    scene.say(Line::Greeting, "Hello!");
    assert_eq!(scene.take(), [], "nothing can be sent yet");
    scene.input(Input::Opened);
    let sent = scene.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0]["type"], "session.update");
    scene.event(json!({"type": "session.created", "session": {}}));
    assert_eq!(scene.take(), []);
    scene.event(json!({"type": "session.updated", "session": {}}));
    let out = scene.take();
    assert_eq!(out[0], Effect::Ready);
    let create = wire(&out[1]).unwrap();
    assert_eq!(create["type"], "response.create");
    assert!(create["response"]["instructions"].as_str().unwrap().ends_with("\n\nHello!"));
    assert_eq!(create["response"]["metadata"]["client_event_id"], create["event_id"]);
}

#[test]
fn a_repeated_session_updated_changes_nothing() {
    let mut scene = Scene::ready();
    scene.event(json!({"type": "session.updated", "session": {}}));
    scene.input(Input::Opened);
    assert_eq!(scene.take(), []);
}

#[test]
fn a_greeting_is_over_when_its_last_sample_was_heard() {
    let mut scene = Scene::ready();
    scene.say(Line::Greeting, "Hello!");
    scene.created_for("resp_1", "rc_2");
    scene.audio("resp_1", "item_1", 0, 100);
    scene.words("resp_1", "item_1", "Hello!");
    scene.done("resp_1", "completed");
    scene.hear(80);
    assert!(!scene.out.iter().any(|effect| matches!(effect, Effect::LineOver { .. })));
    scene.hear(20);
    let out = scene.take();
    assert_eq!(turns(&out), [(Speaker::Agent, "Hello!".to_owned(), false)]);
    assert_eq!(out.last(), Some(&Effect::LineOver { line: Line::Greeting, complete: true }));
    assert!(scene.session.is_quiet(&scene.playout));
}

#[test]
fn a_socket_that_stays_silent_is_given_up_after_three_seconds() {
    let mut scene = Scene::new(&openai());
    scene.input(Input::Opened);
    let opened = scene.now.mono;
    assert_eq!(scene.session.deadline(), Some((opened + Duration::from_secs(3), Timer::Created)));
    assert_eq!(scene.session.owes_event(), Some(opened));
    scene.out.clear();
    scene.pass(2999);
    scene.input(Input::Timer);
    assert_eq!(scene.take(), []);
    scene.pass(1);
    scene.input(Input::Timer);
    assert_eq!(scene.take(), [Effect::Failed(Failure::broken(Code::known("no_session_created")))]);
    assert!(scene.is_at_rest());
    assert_eq!(scene.session.owes_event(), None);
}

#[test]
fn a_refused_update_ends_the_session_as_it_has_no_instructions() {
    let mut scene = Scene::new(&openai());
    scene.input(Input::Opened);
    scene.event(json!({"type": "session.created", "session": {}}));
    scene.out.clear();
    scene.error("unknown_parameter", Some("up_1"));
    let out = scene.take();
    let failure = failure(&out).unwrap();
    assert_eq!((failure.loss, failure.code.as_str(), failure.retry), (Loss::Broken, "unknown_parameter", false));
}

#[test]
fn a_wrong_key_is_final_however_it_is_told() {
    let mut by_handshake = Scene::new(&openai());
    by_handshake.input(Input::NotOpened(Failure::from_handshake(401, Some("invalid_api_key"))));
    let mut by_close = Scene::new(&openai());
    by_close.input(Input::Opened);
    by_close.input(Input::Closed { code: Some(3000), reason: "invalid_request_error.invalid_api_key" });
    let mut by_error = Scene::new(&openai());
    by_error.input(Input::Opened);
    by_error.error("invalid_api_key", None);
    for mut scene in [by_handshake, by_close, by_error] {
        let out = scene.take();
        let failure = failure(&out).unwrap();
        assert_eq!((failure.loss, failure.code.as_str(), failure.retry), (Loss::Refused, "invalid_api_key", false));
    }
}

#[test]
fn an_update_that_met_a_busy_server_may_be_tried_again() {
    let mut scene = Scene::new(&openai());
    scene.input(Input::Opened);
    scene.event(json!({"type": "error", "error": {"type": "server_error", "code": null}}));
    assert!(failure(&scene.take()).unwrap().retry);
}

#[test]
fn the_server_owes_an_event_until_the_session_is_ready_and_then_none() {
    let mut scene = Scene::new(&openai());
    assert_eq!(scene.session.owes_event(), None, "the connect has a deadline of its own");
    scene.input(Input::Opened);
    scene.pass(1000);
    scene.event(json!({"type": "session.created", "session": {}}));
    assert_eq!(scene.session.owes_event(), Some(scene.now.mono), "each event starts the watch anew");
    scene.event(json!({"type": "session.updated", "session": {}}));
    assert_eq!(scene.session.owes_event(), None);
}

#[test]
fn a_session_that_was_opened_ahead_is_told_what_is_the_calls_own_and_is_ready_at_once() {
    let mut scene = Scene::new(&openai());
    scene.input(Input::Adopted);
    assert!(scene.session.is_ready() && scene.session.owes_event().is_none() && scene.is_at_rest());
    let effects = scene.take();
    assert_eq!(effects.len(), 2);
    assert_eq!(wire(&effects[0]).unwrap()["type"], "session.update");
    assert_eq!(effects[1], Effect::Ready);
    scene.say(Line::Greeting, "Hello!");
    assert_eq!(scene.sent()[0]["type"], "response.create");
    // The answer to the update comes in between and changes nothing.
    scene.event(json!({"type": "session.updated", "session": {}}));
    scene.input(Input::Adopted);
    scene.input(Input::Opened);
    assert_eq!(scene.take(), Vec::new());
    scene.created_for("resp_1", "rc_2");
    scene.audio("resp_1", "item_1", 0, 100);
    assert!(scene.out.contains(&Effect::Audio { first: true }));
}
