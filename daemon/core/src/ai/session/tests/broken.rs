//! Failed responses, lost sockets, and events that nobody should send.

use super::*;

#[test]
fn a_failed_answer_is_asked_for_once_more_and_then_the_session_is_given_up() {
    let mut scene = Scene::ready();
    scene.say(Line::Greeting, "Hello!");
    scene.created_for("resp_1", "rc_2");
    scene.failed("resp_1", "inference_rate_limit_exceeded");
    assert_eq!(scene.session.deadline().map(|(_, timer)| timer), Some(Timer::Retry));
    assert_eq!(scene.session.owes_event(), None);
    scene.out.clear();
    scene.pass(1000);
    scene.input(Input::Timer);
    let sent = scene.sent();
    assert!(sent[0]["response"]["instructions"].as_str().unwrap().ends_with("Hello!"), "the same words again");
    scene.created_for("resp_2", "rc_3");
    scene.failed("resp_2", "inference_rate_limit_exceeded");
    let out = scene.take();
    assert_eq!(failure(&out), Some(&Failure::broken(Code::known("inference_rate_limit_exceeded"))));
    assert_eq!(out.last(), Some(&Effect::LineOver { line: Line::Greeting, complete: false }));
}

#[test]
fn an_answer_between_two_failures_forgives_the_first() {
    let mut scene = Scene::ready();
    for response in ["resp_1", "resp_3"] {
        scene.created(response);
        scene.failed(response, "server_error");
        scene.pass(1000);
        scene.input(Input::Timer);
        scene.created("resp_2");
        scene.done("resp_2", "completed");
        scene.created("resp_4");
        scene.done("resp_4", "completed");
    }
    assert_eq!(failure(&scene.take()), None);
}

#[test]
fn an_empty_account_in_mid_call_is_final() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.failed("resp_1", "insufficient_quota");
    assert_eq!(failure(&scene.take()).unwrap().loss, Loss::Refused);
    let mut scene = Scene::ready();
    scene.event(json!({"type": "error", "error": {"type": "insufficient_quota", "code": null}}));
    assert_eq!(failure(&scene.take()).unwrap().loss, Loss::Refused);
}

#[test]
fn speech_makes_the_retry_of_an_answer_needless() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.failed("resp_1", "server_error");
    scene.speech("item_1");
    assert!(matches!(scene.session.deadline(), Some((_, Timer::Ask))), "nothing is asked for again");
}

#[test]
fn an_incomplete_answer_is_an_answer() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 40);
    scene.event(json!({"type": "response.done", "response": {"id": "resp_1", "status": "incomplete",
        "status_details": {"type": "incomplete", "reason": "max_output_tokens"}}}));
    let code = Some(Code::known("max_output_tokens"));
    assert!(scene.take().contains(&Effect::ResponseDone { status: ResponseStatus::Incomplete, code }));
    assert!(scene.session.is_ready());
}

#[test]
fn a_session_that_expires_or_breaks_is_broken_and_may_be_opened_again() {
    for break_it in [
        |scene: &mut Scene| scene.error("session_expired", None),
        |scene: &mut Scene| scene.input(Input::Closed { code: Some(1001), reason: "" }),
        |scene: &mut Scene| scene.input(Input::Closed { code: None, reason: "" }),
    ] {
        let mut scene = Scene::ready();
        break_it(&mut scene);
        let out = scene.take();
        let failure = failure(&out).unwrap();
        assert_eq!((failure.loss, failure.retry), (Loss::Broken, true));
        scene.created("resp_1");
        scene.input(Input::Timer);
        scene.say(Line::Goodbye, "Bye!");
        assert_eq!(scene.take(), [], "nothing is sent into a lost socket");
    }
}

#[test]
fn what_was_queued_when_the_socket_broke_is_still_heard_and_written_down() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 100);
    scene.words("resp_1", "item_1", "Hello there");
    scene.event(json!({"type": "response.output_item.done", "item": {"id": "item_1"}}));
    scene.input(Input::Closed { code: None, reason: "" });
    scene.out.clear();
    scene.hear(100);
    assert_eq!(turns(&scene.take()), [(Speaker::Agent, "Hello there".to_owned(), false)]);
}

#[test]
fn too_much_audio_is_cancelled_cut_and_counted_and_the_rest_still_plays() {
    let mut config = openai();
    config.max_output_tokens = 4;
    let mut scene = Scene::ready_with(&config);
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 150);
    scene.audio("resp_1", "item_1", 0, 150);
    scene.audio("resp_1", "item_1", 0, 150);
    scene.audio("resp_1", "item_2", 1, 150);
    let out = scene.take();
    assert_eq!(out.iter().filter(|effect| **effect == Effect::Odd(Odd::Overflow)).count(), 1);
    let sent: Vec<Value> = out.iter().filter_map(wire).collect();
    assert_eq!(sent[0]["type"], "response.cancel");
    assert_eq!((sent[1]["item_id"].as_str(), sent[1]["audio_end_ms"].as_u64()), (Some("item_1"), Some(150)));
    scene.words("resp_1", "item_1", "one two three four five six");
    scene.done("resp_1", "cancelled");
    let sent = scene.sent();
    assert_eq!((sent.len(), sent[0]["item_id"].as_str()), (1, Some("item_2")));
    scene.hear(200);
    assert_eq!(turns(&scene.take()), [(Speaker::Agent, "one two".to_owned(), true)]);
}

#[test]
fn ten_megabytes_in_one_delta_are_refused_and_the_session_lives() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 10 * 1024 * 1024 / 64);
    scene.done("resp_1", "completed");
    let out = scene.take();
    assert!(out.contains(&Effect::Odd(Odd::Overflow)));
    let kinds: Vec<Value> = out.iter().filter_map(wire).map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["response.cancel", "conversation.item.delete"]);
    assert!(scene.session.is_ready() && scene.playout.is_drained());
    assert!(scene.session.pcm.capacity() <= SCRATCH, "its buffer is not kept");
}

#[test]
fn garbage_is_counted_and_does_not_feed_the_silence_watch() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    let since = scene.session.owes_event();
    scene.out.clear();
    scene.pass(5000);
    for text in ["", "{", "[]", r#"{"type":"response.done"}"#, r#"{"type":"error","error":1}"#] {
        scene.input(Input::Message(text));
    }
    let mut negative = Scene::part("response.output_audio.delta", "resp_1", "item_1", 0);
    negative["delta"] = Value::from("AAAA");
    negative["content_index"] = Value::from(-1);
    scene.event(negative);
    let out = scene.take();
    assert_eq!(out.len(), 6);
    assert!(out.iter().all(|effect| matches!(effect, Effect::Odd(Odd::Event(_)))));
    assert_eq!(scene.session.owes_event(), since);
}

#[test]
fn audio_that_is_no_base64_is_counted() {
    let mut scene = Scene::ready();
    let mut delta = Scene::part("response.output_audio.delta", "resp_1", "item_1", 0);
    delta["delta"] = Value::from("no base64 at all");
    scene.event(delta);
    assert!(scene.take().contains(&Effect::Odd(Odd::Event(EventError::Base64))));
}

#[test]
fn events_about_unknown_items_and_responses_change_nothing() {
    let mut scene = Scene::ready();
    scene.event(Scene::part("response.output_audio.done", "resp_9", "item_9", 0));
    scene.event(json!({"type": "response.output_item.done", "item": {"id": "item_9"}}));
    scene.event(json!({"type": "conversation.item.truncated", "item_id": "item_9", "content_index": 0}));
    scene.event(json!({"type": "conversation.item.deleted", "item_id": "item_9"}));
    scene.event(json!({"type": "conversation.item.created", "item": {}}));
    scene.event(json!({"type": "input_audio_buffer.timeout_triggered", "item_id": "item_9"}));
    assert_eq!(scene.take(), []);
}

#[test]
fn a_flood_of_responses_and_items_is_held_within_bounds() {
    let mut scene = Scene::ready();
    for n in 0..2000_u32 {
        let (response, item) = (format!("resp_{n}"), format!("item_{n}"));
        scene.created(&response);
        scene.audio(&response, &item, 0, 1);
        scene.words(&response, &item, "word");
        scene.event(json!({"type": "input_audio_buffer.speech_stopped", "item_id": item}));
        scene.event(json!({"type": "conversation.item.input_audio_transcription.completed", "item_id": item,
            "content_index": 0, "transcript": "word"}));
    }
    assert!(scene.playout.depth_ms() <= 64);
    assert!(scene.session.is_ready());
}

#[test]
fn an_unknown_error_is_told_by_its_code_alone() {
    let mut scene = Scene::ready();
    scene.event(json!({"type": "error", "error": {"type": "invalid_request_error", "code": "unknown_parameter",
        "message": "canary-openai-key", "param": "session.audio", "event_id": null}}));
    let out = scene.take();
    assert_eq!(
        out,
        [Effect::Odd(Odd::Error {
            class: ErrorClass::Bug,
            code: Code::known("unknown_parameter"),
            param: Some(Code::known("session_audio")),
        })]
    );
}

#[test]
fn a_refused_create_of_ours_is_tried_once_more_and_then_given_up() {
    let mut scene = Scene::ready();
    scene.say(Line::Greeting, "Hello!");
    scene.error("rate_limit_exceeded", Some("rc_2"));
    scene.pass(1000);
    scene.input(Input::Timer);
    scene.error("rate_limit_exceeded", Some("rc_3"));
    assert_eq!(failure(&scene.take()).unwrap().code.as_str(), "rate_limit_exceeded");
}

#[test]
fn an_answer_that_the_server_could_not_begin_is_asked_for() {
    let mut scene = Scene::ready();
    scene.speech("item_1");
    scene.committed("item_1");
    scene.event(json!({"type": "error", "error": {"type": "server_error", "code": null}}));
    assert_eq!(scene.session.owes_event(), None);
    scene.pass(1000);
    scene.input(Input::Timer);
    assert_eq!(scene.sent()[0]["type"], "response.create");
}

proptest::proptest! {
    /// Known events in any order: no panic, never two creates without an answer between, and every truncation
    /// stays within what was received and consumed.
    #[test]
    fn events_in_any_order_keep_the_rules(steps in proptest::collection::vec((0_u8..14, 0_usize..4, 0_u64..300), 0..120)) {
        let mut scene = Scene::ready();
        let (mut received, mut open, mut asked) = ([0_u64; 4], 0_i32, scene.now.mono);
        for (what, which, amount) in steps {
            let (response, item) = (format!("resp_{which}"), format!("item_{which}"));
            match what {
                0 => scene.created(&response),
                1 | 2 => {
                    scene.audio(&response, &item, 0, usize::try_from(amount).unwrap());
                    received[which] += amount;
                }
                3 => scene.words(&response, &item, "some words that were said"),
                4 => scene.done(&response, "completed"),
                5 => scene.done(&response, "cancelled"),
                6 => scene.speech("item_caller"),
                7 => scene.committed("item_caller"),
                8 | 9 => scene.hear(amount),
                10 => scene.say(Line::Greeting, "Hello!"),
                11 => scene.say(Line::Goodbye, "Bye!"),
                12 => scene.error("conversation_already_has_active_response", None),
                _ => {
                    scene.pass(1000);
                    scene.played_restart(|scene| scene.input(Input::Timer));
                }
            }
            // A goodbye may flush at the created of another response.
            for effect in scene.take() {
                match &effect {
                    Effect::Flush { .. } => scene.played = 0,
                    Effect::ResponseStarted | Effect::ResponseDone { .. } | Effect::Odd(Odd::Error { .. }) => open = 0,
                    _ => {}
                }
                let Some(sent) = wire(&effect) else { continue };
                match sent["type"].as_str().unwrap() {
                    "response.create" => {
                        // One that stayed without any sign for 4 s is given up and asked for anew.
                        open = if scene.now.mono - asked >= Duration::from_secs(4) { 1 } else { open + 1 };
                        asked = scene.now.mono;
                        proptest::prop_assert!(open <= 1, "two creates at once");
                    }
                    "conversation.item.truncate" => {
                        let end = sent["audio_end_ms"].as_u64().unwrap();
                        let item: usize = sent["item_id"].as_str().unwrap()[5..].parse().unwrap();
                        proptest::prop_assert!(end > 0 && end <= received[item]);
                    }
                    _ => {}
                }
            }
        }
    }
}
