//! Keys of the telephone: one item when the last was pressed, one answer, and the digits nowhere else.

use super::*;

fn press(scene: &mut Scene, keys: &str, apart: u64) {
    for key in keys.chars() {
        scene.played_restart(|scene| scene.input(Input::Key(Pii::new(key))));
        scene.pass(apart);
    }
}

/// The clock goes to the next deadline, which is the end of the keys.
fn entered(scene: &mut Scene) {
    let (at, timer) = scene.session.deadline().unwrap();
    assert_eq!(timer, Timer::Keys);
    let wait = at.saturating_duration_since(scene.now.mono);
    scene.pass(u64::try_from(wait.as_millis()).unwrap());
    scene.input(Input::Timer);
}

/// A session on the air in which nothing is going on.
fn quiet() -> Scene {
    let mut scene = Scene::ready();
    scene.input(Input::OnAir);
    scene.out.clear();
    scene
}

/// A response of three seconds, done at the server, of which one was heard.
fn speaking(interrupts: bool) -> Scene {
    let mut config = openai();
    config.turn.interrupt_response = interrupts;
    let mut scene = Scene::ready_with(&config);
    scene.input(Input::OnAir);
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 3000);
    scene.done("resp_1", "completed");
    scene.hear(1000);
    scene.out.clear();
    scene
}

fn kinds(sent: &[Value]) -> Vec<&str> {
    sent.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

fn item_text(sent: &[Value]) -> String {
    let item = sent.iter().find(|event| event["type"] == "conversation.item.create").expect("an item");
    assert_eq!((&item["item"]["role"], &item["item"]["content"][0]["type"]), (&"user".into(), &"input_text".into()));
    item["item"]["content"][0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn keys_are_told_together_after_a_pause_and_answered_once() {
    let mut scene = quiet();
    press(&mut scene, "4711", 400);
    assert!(scene.sent().is_empty(), "she may not be done");
    entered(&mut scene);
    let out = scene.take();
    let sent: Vec<Value> = out.iter().filter_map(wire).collect();
    assert_eq!(kinds(&sent), ["conversation.item.create", "response.create"]);
    assert!(item_text(&sent).contains(" 4711 "));
    assert_eq!(turns(&out), [(Speaker::Caller, "[keys: 4]".to_owned(), false)]);
    assert!(!format!("{out:?}{:?}", scene.session).contains("4711"), "nothing that is printed shows them");
    scene.created("resp_1");
    scene.done("resp_1", "completed");
    assert!(scene.sent().is_empty());
}

#[test]
fn a_hash_ends_them_at_once_and_alone_it_is_a_key() {
    let mut scene = quiet();
    press(&mut scene, "12#", 100);
    let sent = scene.sent();
    assert!(item_text(&sent).contains(" 12 "), "{sent:?}");
    assert_eq!(kinds(&sent), ["conversation.item.create", "response.create"]);
    let mut scene = quiet();
    press(&mut scene, "#", 0);
    assert!(item_text(&scene.sent()).contains(" # "));
    let mut scene = quiet();
    press(&mut scene, &"7".repeat(500), 20);
    entered(&mut scene);
    let out = scene.take();
    assert_eq!(turns(&out)[0].1, "[keys: 32]", "a stuck key has its bound");
}

#[test]
fn a_key_cuts_the_ai_off_whoever_judges_and_is_answered_afterwards() {
    for interrupts in [true, false] {
        let mut scene = speaking(interrupts);
        press(&mut scene, "5", 0);
        let out = scene.take();
        assert!(out.iter().any(|effect| matches!(effect, Effect::Flush { .. })));
        let cut = out.iter().filter_map(wire).find(|event| event["type"] == "conversation.item.truncate").unwrap();
        assert_eq!(cut["audio_end_ms"], 1000);
        entered(&mut scene);
        assert_eq!(kinds(&scene.sent()), ["conversation.item.create", "response.create"]);
    }
}

#[test]
fn a_response_that_runs_is_cancelled_and_the_next_is_asked_for_when_it_is_done() {
    for interrupts in [true, false] {
        let mut config = openai();
        config.turn.interrupt_response = interrupts;
        let mut scene = Scene::ready_with(&config);
        scene.input(Input::OnAir);
        scene.created("resp_1");
        scene.audio("resp_1", "item_1", 0, 500);
        scene.hear(200);
        scene.out.clear();
        press(&mut scene, "5", 0);
        assert!(kinds(&scene.sent()).contains(&"response.cancel"), "the server does not know of the key");
        entered(&mut scene);
        assert_eq!(kinds(&scene.sent()), ["conversation.item.create"], "never two at one time");
        scene.done("resp_1", "cancelled");
        assert_eq!(kinds(&scene.sent()), ["response.create"]);
    }
}

#[test]
fn what_has_to_be_heard_out_is_and_a_goodbye_is_not_cut() {
    let mut scene = quiet();
    scene.input(Input::SayFirmly(Line::Greeting, Pii::new("This call is recorded.")));
    scene.created_for("resp_1", "rc_2");
    scene.audio("resp_1", "item_1", 0, 2000);
    scene.done("resp_1", "completed");
    scene.out.clear();
    press(&mut scene, "1", 0);
    entered(&mut scene);
    let out = scene.take();
    assert!(!out.iter().any(|effect| matches!(effect, Effect::Flush { .. })), "{out:?}");
    let mut scene = speaking(false);
    scene.say(Line::Goodbye, "Goodbye.");
    scene.out.clear();
    press(&mut scene, "1", 0);
    assert!(scene.take().is_empty());
    assert!(!matches!(scene.session.deadline(), Some((_, Timer::Keys))));
}

#[test]
fn while_she_speaks_the_answer_to_her_turn_answers_the_keys_too() {
    let mut scene = quiet();
    scene.speech("item_1");
    press(&mut scene, "5#", 100);
    assert_eq!(kinds(&scene.sent()), ["conversation.item.create"]);
    scene.committed("item_1");
    scene.created("resp_1");
    scene.done("resp_1", "completed");
    assert!(scene.sent().is_empty(), "the server answered by itself");
    // A turn that nobody answers: the keys are answered after all.
    scene.speech("item_2");
    press(&mut scene, "6#", 100);
    scene.event(json!({"type": "input_audio_buffer.speech_stopped", "item_id": "item_2"}));
    scene.out.clear();
    scene.pass(2_100);
    // A word of patience is due at the same time.
    scene.input(Input::Timer);
    scene.input(Input::Timer);
    assert_eq!(kinds(&scene.sent()), ["response.create"]);
}

#[test]
fn keys_without_a_session_wait_for_the_next_one_and_an_old_one_is_recapped() {
    let mut scene = quiet();
    press(&mut scene, "12#", 100);
    scene.created("resp_1");
    scene.done("resp_1", "completed");
    scene.input(Input::Closed { code: Some(1006), reason: "" });
    scene.out.clear();
    press(&mut scene, "34", 100);
    scene.pass(5_000);
    scene.input(Input::Timer);
    assert!(scene.sent().is_empty());
    let update = SessionUpdate::new(&openai(), Pii::new("Be kind."), Language::En, &[Language::En]);
    scene.input(Input::Reopen(Box::new(update)));
    scene.input(Input::Opened);
    scene.event(json!({"type": "session.created", "session": {}}));
    scene.event(json!({"type": "session.updated", "session": {}}));
    let recapped = scene.sent();
    assert!(item_text(&recapped).contains(" 12 "), "{recapped:?}");
    entered(&mut scene);
    assert!(item_text(&scene.sent()).contains(" 34 "));
}

#[test]
fn a_key_shows_that_she_is_there() {
    let mut config = openai();
    config.turn.interrupt_response = false;
    let mut scene = Scene::new(&config);
    scene.session = scene.session.with_still_there_after(Some(Duration::from_secs(12)));
    scene.input(Input::Opened);
    scene.event(json!({"type": "session.created", "session": {}}));
    scene.event(json!({"type": "session.updated", "session": {}}));
    scene.input(Input::OnAir);
    scene.pass(11_900);
    press(&mut scene, "#", 0);
    scene.created("resp_1");
    scene.done("resp_1", "completed");
    let (at, timer) = scene.session.deadline().unwrap();
    assert_eq!((timer, at - scene.now.mono), (Timer::Silence, Duration::from_secs(12)));
}
