//! Sessions that reach the age at which a provider would end them.

use super::*;

const MINUTE: u64 = 60_000;

fn update() -> Box<SessionUpdate> {
    Box::new(SessionUpdate::new(&openai(), Pii::new("Be kind."), Language::En, &[Language::En]))
}

/// A conversation whose session was opened so many minutes ago, with a turn behind it.
fn after(minutes: u64) -> Scene {
    let mut scene = Scene::ready();
    scene.input(Input::OnAir);
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 1000);
    scene.words("resp_1", "item_1", "Good morning.");
    scene.done("resp_1", "completed");
    scene.hear(1000);
    scene.pass(minutes * MINUTE);
    scene.out.clear();
    scene
}

fn tick(scene: &mut Scene) -> Vec<Effect> {
    scene.pass(1_000);
    scene.hear(20);
    scene.take()
}

#[test]
fn an_old_session_is_replaced_in_a_quiet_moment_and_the_next_one_knows_the_conversation() {
    let mut scene = after(44);
    assert!(tick(&mut scene).is_empty(), "it is young enough");
    scene.pass(MINUTE);
    assert_eq!(failure(&tick(&mut scene)).unwrap().code.as_str(), "session_aged");
    scene.input(Input::Reopen(update()));
    scene.input(Input::Opened);
    scene.event(json!({"type": "session.created", "session": {}}));
    scene.event(json!({"type": "session.updated", "session": {}}));
    let out = scene.take();
    assert!(out.contains(&Effect::Resumed));
    let told: String = out.iter().filter_map(wire).map(|event| event.to_string()).collect();
    assert!(told.contains("Good morning.") && !told.contains("response.create"), "nobody waits for an answer: {told}");
    // It is heard afterwards, and is as young as any.
    scene.speech("item_2");
    scene.committed("item_2");
    scene.created("resp_2");
    scene.audio("resp_2", "item_3", 0, 400);
    assert_eq!(scene.playout.remaining_ms(), 400);
    scene.done("resp_2", "completed");
    scene.hear(400);
    scene.take();
    scene.pass(40 * MINUTE);
    assert!(tick(&mut scene).is_empty());
}

#[test]
fn an_old_session_is_kept_while_somebody_speaks_and_not_for_ever() {
    let mut scene = after(46);
    scene.speech("item_2");
    scene.out.clear();
    assert!(failure(&tick(&mut scene)).is_none(), "the caller speaks");
    scene.committed("item_2");
    assert!(failure(&tick(&mut scene)).is_none(), "she is owed an answer");
    scene.created("resp_2");
    scene.audio("resp_2", "item_3", 0, 1000);
    assert!(failure(&tick(&mut scene)).is_none(), "the model speaks");
    scene.done("resp_2", "completed");
    assert!(failure(&tick(&mut scene)).is_none(), "what it said is still to be heard");
    scene.pass(6 * MINUTE);
    scene.input(Input::Timer);
    while failure(&scene.out).is_none() {
        assert!(scene.session.deadline().is_some_and(|(due, _)| due <= scene.now.mono));
        scene.input(Input::Timer);
    }
    assert_eq!(failure(&scene.take()).unwrap().code.as_str(), "session_aged", "at 52 minutes whatever is said");
    assert!(scene.playout.remaining_ms() > 0, "what had come still plays");
}

#[test]
fn a_session_that_waited_for_its_call_is_as_old_as_it_is_to_the_call() {
    let mut scene = Scene::new(&openai());
    scene.input(Input::Adopted);
    scene.pass(44 * MINUTE);
    scene.out.clear();
    assert!(failure(&tick(&mut scene)).is_none());
    scene.pass(MINUTE);
    assert!(failure(&tick(&mut scene)).is_some());
}
