//! A connection that is lost and made again, a model that says nothing, and a caller who says nothing.

use super::*;

/// The configuration that a box would send again.
fn update() -> Box<SessionUpdate> {
    Box::new(SessionUpdate::new(&openai(), Pii::new("Be kind."), Language::En, &[Language::En]))
}

impl Scene {
    /// The connection is lost and made again.
    fn reconnect(&mut self) -> Vec<Effect> {
        self.input(Input::Closed { code: Some(1011), reason: "" });
        assert!(failure(&self.out).is_some());
        self.out.clear();
        self.open_again()
    }

    fn open_again(&mut self) -> Vec<Effect> {
        self.input(Input::Reopen(update()));
        self.input(Input::Opened);
        self.event(json!({"type": "session.created", "session": {}}));
        self.event(json!({"type": "session.updated", "session": {}}));
        self.take()
    }

    /// Lets a response of the server answer a caller's turn, with a second of audio.
    fn answered(&mut self, response: &str, item: &str, text: &str) {
        self.created(response);
        self.audio(response, item, 0, 1000);
        self.words(response, item, text);
    }

    fn caller_says(&mut self, item: &str, text: &str) {
        self.speech(item);
        self.committed(item);
        self.event(json!({"type": "conversation.item.input_audio_transcription.completed", "item_id": item,
            "content_index": 0, "transcript": text}));
    }

    /// Fires the deadline that is next, at its time.
    fn wait(&mut self) -> Timer {
        let (due, timer) = self.session.deadline().expect("something is due");
        self.pass(u64::try_from((due - self.now.mono).as_millis()).unwrap());
        self.input(Input::Timer);
        timer
    }
}

fn items(effects: &[Effect]) -> Vec<(String, String)> {
    let sent = effects.iter().filter_map(wire).filter(|event| event["type"] == "conversation.item.create");
    sent.map(|event| {
        let item = &event["item"];
        (item["role"].as_str().unwrap().to_owned(), item["content"][0]["text"].as_str().unwrap().to_owned())
    })
    .collect()
}

fn creates(effects: &[Effect]) -> usize {
    effects.iter().filter_map(wire).filter(|event| event["type"] == "response.create").count()
}

#[test]
fn a_new_connection_gets_the_whole_configuration_and_is_told_what_was_said_as_heard() {
    let mut scene = Scene::ready();
    scene.caller_says("item_1", "I need a ride to the airport.");
    scene.answered("resp_1", "item_2", "Of course, at what time do you need to be there tomorrow?");
    scene.done("resp_1", "completed");
    scene.hear(500);
    scene.caller_says("item_3", "At nine.");
    scene.take();
    let out = scene.reconnect();
    assert!(matches!(&out[0], Effect::Send(ClientEvent::SessionUpdate { .. })), "the settings are sent again");
    let items = items(&out);
    assert_eq!(items[0], ("user".to_owned(), "I need a ride to the airport.".to_owned()));
    assert_eq!(items[1].0, "assistant");
    assert_eq!(items[1].1, "Of course, at what time do", "no more than was heard");
    assert_eq!(items[2], ("user".to_owned(), "At nine.".to_owned()));
    assert_eq!(items[3].0, "system");
    assert!(items[3].1.contains("do not greet") || items[3].1.contains("not greet"), "{}", items[3].1);
    assert!(!items[3].1.contains("did not reach you"));
    assert_eq!(creates(&out), 1, "the caller's turn is owed an answer");
    assert!(out.contains(&Effect::Resumed) && !out.contains(&Effect::Ready));
}

#[test]
fn what_was_received_plays_on_and_is_not_cut_at_a_server_that_never_had_it() {
    let mut scene = Scene::ready();
    scene.caller_says("item_1", "Hello?");
    scene.answered("resp_1", "item_2", "Good morning, this is the taxi line.");
    scene.hear(200);
    scene.take();
    let out = scene.reconnect();
    assert_eq!(scene.playout.remaining_ms(), 800);
    assert_eq!(items(&out)[1].1, "Good morning, this is the taxi line.", "what is still to be heard is told as well");
    assert_eq!(creates(&out), 1, "the response was not done");
    scene.hear(200);
    scene.speech("item_9");
    let out = scene.take();
    assert!(out.iter().filter_map(wire).all(|event| event["type"] != "conversation.item.truncate"), "{out:?}");
    assert_eq!(turns(&out), [(Speaker::Agent, "Good morning,".to_owned(), true)]);
}

#[test]
fn words_that_never_became_text_are_asked_for_again() {
    let mut scene = Scene::ready();
    scene.speech("item_1");
    scene.committed("item_1");
    let out = scene.reconnect();
    assert!(items(&out)[0].1.contains("did not reach you"));
    assert_eq!(creates(&out), 1);
}

#[test]
fn a_connection_that_owed_nothing_is_not_asked_for_anything() {
    let mut scene = Scene::ready();
    scene.caller_says("item_1", "Thank you.");
    scene.answered("resp_1", "item_2", "You are welcome.");
    scene.done("resp_1", "completed");
    scene.hear(1000);
    let out = scene.reconnect();
    assert_eq!(creates(&out), 0, "nobody waits for an answer");
    scene.caller_says("item_5", "One more thing.");
    scene.answered("resp_1", "item_6", "Yes?");
    scene.hear(1000);
    assert!(scene.playout.is_drained(), "the new connection may use the old one's ids");
}

#[test]
fn a_greeting_that_was_not_heard_is_said_again_and_one_that_was_is_not() {
    let mut scene = Scene::ready();
    scene.say(Line::Greeting, "Hello!");
    let out = scene.reconnect();
    assert_eq!(creates(&out), 1);
    scene.created_for("resp_1", out.iter().filter_map(wire).next_back().unwrap()["event_id"].as_str().unwrap());
    scene.audio("resp_1", "item_1", 0, 400);
    scene.done("resp_1", "completed");
    let out = scene.reconnect();
    assert_eq!(creates(&out), 0, "all of it had come");
    scene.hear(400);
    assert!(scene.take().contains(&Effect::LineOver { line: Line::Greeting, complete: true }));
}

#[test]
fn a_second_loss_before_the_first_was_mended_forgets_nothing() {
    let mut scene = Scene::ready();
    scene.caller_says("item_1", "A taxi, please.");
    scene.input(Input::Closed { code: None, reason: "" });
    scene.input(Input::Reopen(update()));
    scene.input(Input::NotOpened(Failure::broken(Code::known("connect_timeout"))));
    scene.out.clear();
    let out = scene.open_again();
    assert_eq!(items(&out)[0].1, "A taxi, please.");
    assert_eq!(creates(&out), 1);
}

#[test]
fn reopening_what_is_not_lost_changes_nothing() {
    let mut scene = Scene::ready();
    scene.input(Input::Reopen(update()));
    assert!(scene.session.is_ready());
    scene.input(Input::End);
    scene.input(Input::Reopen(update()));
    assert!(scene.take().is_empty());
}

#[test]
fn a_response_without_audio_for_four_seconds_is_asked_for_once_more_and_then_the_connection_is_given_up() {
    let mut scene = Scene::ready();
    scene.say(Line::Greeting, "Hello!");
    scene.take();
    let begun = scene.now.mono;
    assert_eq!(scene.wait(), Timer::NoAudio);
    assert_eq!(scene.now.mono - begun, Duration::from_secs(4));
    assert_eq!(creates(&scene.take()), 1);
    assert_eq!(scene.wait(), Timer::NoAudio);
    assert_eq!(failure(&scene.take()).unwrap().code.as_str(), "no_audio");
}

#[test]
fn a_request_that_was_given_up_and_is_answered_late_is_cancelled() {
    let mut scene = Scene::ready();
    scene.say(Line::Greeting, "Hello!");
    scene.take();
    scene.wait();
    let again = scene.take().iter().filter_map(wire).next().unwrap()["event_id"].as_str().unwrap().to_owned();
    scene.created_for("resp_late", "rc_2");
    scene.audio("resp_late", "item_late", 0, 500);
    assert_eq!(scene.sent()[0]["type"], "response.cancel");
    scene.done("resp_late", "cancelled");
    scene.created_for("resp_1", &again);
    scene.audio("resp_1", "item_1", 0, 400);
    scene.done("resp_1", "completed");
    assert_eq!(scene.playout.remaining_ms(), 400, "one greeting, not two");
}

#[test]
fn a_greeting_that_two_responses_kept_silent_about_is_said_by_the_next_connection() {
    let mut scene = Scene::ready();
    scene.say(Line::Greeting, "Hello!");
    scene.created_for("resp_1", "rc_2");
    scene.take();
    assert_eq!(scene.wait(), Timer::NoAudio);
    scene.done("resp_1", "cancelled");
    assert!(!scene.take().iter().any(|effect| matches!(effect, Effect::LineOver { .. })), "it is asked for again");
    assert_eq!(scene.wait(), Timer::NoAudio);
    assert!(failure(&scene.take()).is_some());
    assert_eq!(creates(&scene.open_again()), 1);
}

#[test]
fn a_response_that_begins_and_says_nothing_is_cancelled_and_asked_for_again() {
    let mut scene = Scene::ready();
    scene.caller_says("item_1", "Hello?");
    scene.created("resp_1");
    scene.take();
    assert_eq!(scene.wait(), Timer::NoAudio);
    let sent = scene.sent();
    assert_eq!((sent[0]["type"].as_str(), sent.len()), (Some("response.cancel"), 1), "never two at once");
    scene.done("resp_1", "cancelled");
    assert_eq!(creates(&scene.take()), 1);
}

#[test]
fn a_turn_that_the_server_leaves_unanswered_is_asked_for() {
    let mut scene = Scene::ready();
    scene.caller_says("item_1", "Hello?");
    scene.take();
    assert_eq!(scene.wait(), Timer::NoAudio);
    assert_eq!(creates(&scene.take()), 1);
}

#[test]
fn a_caller_who_waits_for_an_answer_hears_one_moment() {
    let mut scene = Scene::ready();
    scene.input(Input::OnAir);
    scene.speech("item_1");
    scene.pass(1_500);
    scene.committed("item_1");
    scene.take();
    let asked = scene.now.mono;
    assert_eq!(scene.wait(), Timer::Silence);
    assert_eq!(scene.now.mono - asked, Duration::from_millis(2000), "2.5 s after her last word");
    assert_eq!(scene.take(), [Effect::OneMoment]);
    assert!(scene.playout.play_clip(&[1; 24_000]));
    assert_eq!(scene.wait(), Timer::NoAudio);
    scene.hear(1000);
    scene.take();
    scene.answered("resp_1", "item_2", "Good morning.");
    scene.done("resp_1", "completed");
    scene.hear(1000);
    assert!(scene.is_at_rest(), "nobody waits any more");
}

#[test]
fn a_lost_connection_is_a_wait_as_well() {
    let mut scene = Scene::ready();
    scene.input(Input::OnAir);
    scene.input(Input::Closed { code: None, reason: "" });
    scene.take();
    assert_eq!(scene.wait(), Timer::Silence);
    assert_eq!(scene.take(), [Effect::OneMoment]);
}

#[test]
fn nobody_speaking_is_asked_and_then_left() {
    let mut scene = Scene::ready();
    scene.session.patience.still_there_after = Some(Duration::from_secs(12));
    scene.input(Input::OnAir);
    assert_eq!(scene.wait(), Timer::Silence);
    assert_eq!(scene.take(), [Effect::Silence(Silence::Ask)]);
    assert_eq!(scene.wait(), Timer::Silence);
    assert_eq!(scene.take(), [Effect::Silence(Silence::Leave)]);
    assert!(scene.is_at_rest());
}

#[test]
fn a_caller_who_answers_the_last_words_is_not_left() {
    let mut scene = Scene::ready();
    scene.say(Line::NobodyThere, "I hang up now.");
    scene.created_for("resp_1", "rc_2");
    scene.audio("resp_1", "item_1", 0, 1000);
    scene.done("resp_1", "completed");
    scene.hear(200);
    scene.take();
    scene.speech("item_2");
    assert!(scene.take().contains(&Effect::LineOver { line: Line::NobodyThere, complete: false }));
}

#[test]
fn a_connection_lost_while_the_caller_speaks_is_a_wait_too() {
    let mut scene = Scene::ready();
    scene.input(Input::OnAir);
    scene.speech("item_1");
    scene.input(Input::Closed { code: None, reason: "" });
    scene.take();
    assert_eq!(scene.wait(), Timer::Silence, "nobody will say that she stopped");
    assert_eq!(scene.take(), [Effect::OneMoment]);
}
