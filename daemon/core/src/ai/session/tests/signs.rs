//! A server that hears the caller, and one of which nobody knows whether it does.

use crate::media::floor::Overlap;

use super::*;

/// A ready session on the air that judges with the lane, as it is in a call.
fn on_air(interrupts: bool) -> Scene {
    let mut config = openai();
    config.turn.interrupt_response = interrupts;
    let mut scene = Scene::ready_with(&config);
    scene.session.judge_with_lane(true);
    scene.input(Input::OnAir);
    scene.out.clear();
    scene
}

impl Scene {
    /// Fires the deadline that is next, at its time.
    fn next_timer(&mut self) -> Timer {
        let (due, timer) = self.session.deadline().expect("something is due");
        let wait = due.saturating_duration_since(self.now.mono);
        self.pass(u64::try_from(wait.as_millis()).unwrap());
        self.input(Input::Timer);
        timer
    }
}

#[test]
fn a_server_that_goes_deaf_in_the_callers_sentence_is_found_out_and_she_is_told_to_wait() {
    let mut scene = on_air(true);
    scene.pass(5_000);
    scene.speech("item_1");
    let began = scene.now.mono;
    scene.out.clear();
    assert_eq!(scene.next_timer(), Timer::Ask);
    assert_eq!(scene.take(), [Effect::AskAlive]);
    assert_eq!(scene.next_timer(), Timer::Deaf);
    assert_eq!(scene.next_timer(), Timer::Silence);
    assert_eq!(scene.take(), [Effect::OneMoment]);
    assert!(scene.now.mono - began < Duration::from_millis(2_500), "{:?}", scene.now.mono - began);
    // And again while it lasts, until the connection is given up.
    assert_eq!(scene.next_timer(), Timer::Silence);
    assert_eq!(scene.next_timer(), Timer::Gone);
    assert_eq!(failure(&scene.take()).unwrap().code.as_str(), "no_sign_of_life");
    let sent = scene.open_again_in_speech();
    assert!(sent.iter().any(|event| event["type"] == "response.create"), "her question is owed an answer");
    assert!(sent.iter().any(|event| event.to_string().contains("did not reach you")));
}

impl Scene {
    fn open_again_in_speech(&mut self) -> Vec<Value> {
        let update = SessionUpdate::new(&openai(), Pii::new("Be kind."), Language::En, &[Language::En]);
        self.input(Input::Reopen(Box::new(update)));
        self.input(Input::Opened);
        self.event(json!({"type": "session.created", "session": {}}));
        self.event(json!({"type": "session.updated", "session": {}}));
        self.sent()
    }
}

#[test]
fn a_server_that_answers_is_asked_again_and_nothing_is_said_into_a_long_sentence() {
    let mut scene = on_air(true);
    scene.speech("item_1");
    for _ in 0..40 {
        scene.out.clear();
        assert_eq!(scene.next_timer(), Timer::Ask);
        assert_eq!(scene.take(), [Effect::AskAlive]);
        scene.pass(500);
        scene.input(Input::Alive);
    }
    assert!(scene.take().is_empty());
    scene.committed("item_1");
    assert!(!matches!(scene.session.deadline(), Some((_, Timer::Ask))), "nobody speaks any more");
}

#[test]
fn a_server_that_was_slow_to_answer_is_heard_again() {
    let mut scene = on_air(true);
    scene.speech("item_1");
    scene.next_timer();
    assert_eq!(scene.next_timer(), Timer::Deaf);
    scene.input(Input::Alive);
    scene.out.clear();
    assert_eq!(scene.next_timer(), Timer::Ask, "she still speaks: no word of patience");
    scene.input(Input::Alive);
    scene.committed("item_1");
    let stopped = scene.now.mono;
    assert_eq!(scene.next_timer(), Timer::Silence);
    assert_eq!(scene.now.mono - stopped, Duration::from_millis(2_000), "2.5 s after her last word");
}

#[test]
fn words_that_only_the_lane_heard_make_the_server_asked() {
    let mut scene = on_air(false);
    scene.pass(9_000);
    scene.input(Input::Overlap(Overlap::Words));
    assert_eq!(scene.next_timer(), Timer::Ask);
    assert_eq!(scene.take(), [Effect::AskAlive]);
    scene.pass(600);
    scene.input(Input::Overlap(Overlap::Ended { voiced: Duration::from_millis(800) }));
    scene.out.clear();
    assert_eq!(scene.next_timer(), Timer::Deaf);
    assert_eq!(scene.next_timer(), Timer::Silence);
    assert_eq!(scene.take(), [Effect::OneMoment], "a dead socket heard nothing of her question");
    while scene.next_timer() != Timer::Gone {}
    assert!(failure(&scene.take()).is_some());
    assert!(scene.open_again_in_speech().iter().any(|event| event["type"] == "response.create"));
}

#[test]
fn words_that_a_living_server_takes_for_none_are_no_wait() {
    let mut scene = on_air(false);
    scene.input(Input::Overlap(Overlap::Words));
    scene.next_timer();
    scene.input(Input::Overlap(Overlap::Ended { voiced: Duration::from_millis(300) }));
    scene.input(Input::Alive);
    scene.out.clear();
    assert!(scene.is_at_rest(), "a television is not told to wait");
}

#[test]
fn a_turn_that_the_server_hears_late_does_not_begin_the_wait_anew() {
    let mut scene = on_air(true);
    scene.say(Line::Greeting, "Hello!");
    scene.pass(2_000);
    // What she said while there was no session comes all at once.
    scene.speech("item_1");
    scene.committed("item_1");
    scene.out.clear();
    assert_eq!(scene.next_timer(), Timer::Silence);
    assert!(scene.take().contains(&Effect::OneMoment), "2.5 s after the accept");
}
