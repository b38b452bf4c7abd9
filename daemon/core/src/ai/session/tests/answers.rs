//! Turns and responses that go as they should, and the races between two who may both ask.

use super::*;

fn usage() -> Value {
    json!({"input_token_details": {"text_tokens": 10, "audio_tokens": 20}, "output_token_details": {"audio_tokens": 30}})
}

#[test]
fn a_turn_of_the_caller_is_answered_and_both_sides_are_written_down() {
    let mut scene = Scene::ready();
    scene.speech("item_1");
    let began = scene.now;
    scene.pass(1500);
    scene.committed("item_1");
    assert_eq!(scene.session.owes_event(), Some(scene.now.mono));
    scene.created("resp_1");
    scene.event(json!({"type": "conversation.item.input_audio_transcription.completed", "item_id": "item_1",
        "content_index": 0, "transcript": " Muraho ", "usage": {"type": "duration", "seconds": 1.5}}));
    scene.audio("resp_1", "item_2", 0, 40);
    scene.words("resp_1", "item_2", "Muraho neza");
    let done = json!({"id": "resp_1", "status": "completed", "usage": usage()});
    scene.event(json!({"type": "response.done", "response": done}));
    assert_eq!(scene.session.owes_event(), None);
    scene.hear(40);
    let out = scene.take();
    assert_eq!(
        turns(&out),
        [(Speaker::Caller, "Muraho".to_owned(), false), (Speaker::Agent, "Muraho neza".to_owned(), false)]
    );
    let caller = out.iter().find_map(|effect| match effect {
        Effect::Turn(turn) if turn.who == Speaker::Caller => Some(turn.began),
        _ => None,
    });
    assert_eq!(caller, Some(began), "a turn began when the speech did, not when it was transcribed");
    let used: Vec<_> = out.iter().filter(|effect| matches!(effect, Effect::Usage(..))).collect();
    let time = Usage { duration: Duration::from_millis(1500), ..Usage::default() };
    let tokens = Usage { text_in: 10, audio_in: 20, audio_out: 30, ..Usage::default() };
    assert_eq!(used, [&Effect::Usage(Billed::Transcription, time), &Effect::Usage(Billed::Model, tokens)]);
    assert!(!out.iter().any(|effect| matches!(effect, Effect::Send(_))), "the server answers by itself");
}

#[test]
fn a_transcript_that_comes_twice_is_written_once_and_an_empty_one_never() {
    let mut scene = Scene::ready();
    for (item, text) in [("item_1", "Yego"), ("item_1", "Yego"), ("item_2", "  ")] {
        scene.event(json!({"type": "conversation.item.input_audio_transcription.completed", "item_id": item,
            "content_index": 0, "transcript": text}));
    }
    assert_eq!(turns(&scene.take()), [(Speaker::Caller, "Yego".to_owned(), false)]);
}

#[test]
fn several_items_of_one_response_play_one_after_the_other() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 30);
    scene.words("resp_1", "item_1", "Let me look.");
    scene.audio("resp_1", "item_2", 1, 40);
    scene.words("resp_1", "item_2", "Here it is.");
    scene.done("resp_1", "completed");
    scene.hear(40);
    assert_eq!(turns(&scene.take()), [(Speaker::Agent, "Let me look.".to_owned(), false)]);
    scene.hear(40);
    assert_eq!(turns(&scene.take()), [(Speaker::Agent, "Here it is.".to_owned(), false)]);
}

#[test]
fn only_the_first_audio_of_a_response_is_told_as_such() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 20);
    scene.audio("resp_1", "item_1", 0, 20);
    scene.audio("resp_1", "item_2", 1, 20);
    scene.audio("resp_2", "item_3", 0, 20);
    let first: Vec<bool> = scene
        .out
        .iter()
        .filter_map(|effect| match effect {
            Effect::Audio { first } => Some(*first),
            _ => None,
        })
        .collect();
    assert_eq!(first, [true, false, false, true]);
}

#[test]
fn a_response_that_is_done_without_having_been_created_is_done() {
    let mut scene = Scene::ready();
    scene.say(Line::Greeting, "Hello!");
    scene.done("resp_1", "completed");
    assert_eq!(scene.session.owes_event(), None);
    assert!(scene.take().contains(&Effect::LineOver { line: Line::Greeting, complete: true }));
    scene.done("resp_1", "completed");
    scene.created("resp_1");
    assert_eq!(scene.take(), []);
    assert_eq!(scene.session.owes_event(), None, "late and repeated events change nothing");
}

#[test]
fn never_two_responses_are_asked_for_at_once() {
    let mut scene = Scene::ready();
    scene.say(Line::Greeting, "Hello!");
    assert_eq!(scene.sent().len(), 1);
    scene.say(Line::Goodbye, "Bye!");
    assert_eq!(scene.sent(), [] as [Value; 0]);
    scene.created_for("resp_1", "rc_2");
    assert_eq!(scene.sent(), [] as [Value; 0]);
    scene.done("resp_1", "completed");
    let sent = scene.sent();
    assert_eq!(sent.len(), 1);
    assert!(sent[0]["response"]["instructions"].as_str().unwrap().ends_with("\n\nBye!"));
}

#[test]
fn a_create_that_lost_the_race_waits_for_the_winner() {
    let mut scene = Scene::ready();
    scene.say(Line::Goodbye, "Bye!");
    assert_eq!(scene.sent()[0]["event_id"], "rc_2");
    scene.error("conversation_already_has_active_response", Some("rc_2"));
    assert_eq!(scene.sent(), [] as [Value; 0], "the winner's name is not known yet");
    assert!(scene.session.deadline().is_some());
    scene.pass(1000);
    scene.input(Input::Timer);
    assert_eq!(scene.sent()[0]["event_id"], "rc_3");
}

#[test]
fn the_servers_own_answer_gives_way_to_a_goodbye() {
    let mut scene = Scene::ready();
    scene.speech("item_1");
    scene.committed("item_1");
    scene.say(Line::Goodbye, "Bye!");
    assert_eq!(scene.sent(), [] as [Value; 0], "the server is about to answer");
    scene.created("resp_1");
    let sent = scene.sent();
    assert_eq!((sent[0]["type"].as_str(), sent[0]["response_id"].as_str()), (Some("response.cancel"), Some("resp_1")));
    scene.audio("resp_1", "item_2", 0, 100);
    assert!(scene.playout.is_drained(), "what still comes of it is not played");
    scene.done("resp_1", "cancelled");
    let sent = scene.sent();
    assert_eq!(sent[0]["type"], "conversation.item.delete", "nor does the model believe it was heard");
    assert_eq!(sent[1]["type"], "response.create");
}

#[test]
fn a_goodbye_cuts_a_long_answer_and_waits_for_a_short_rest() {
    for (ms, cut) in [(1500, false), (5000, true)] {
        let mut scene = Scene::ready();
        scene.created("resp_1");
        scene.audio("resp_1", "item_1", 0, ms);
        scene.done("resp_1", "completed");
        scene.hear(100);
        scene.out.clear();
        scene.say(Line::Goodbye, "Bye!");
        let kinds: Vec<String> = scene.sent().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect();
        let all = ["conversation.item.truncate", "response.create"];
        assert_eq!(kinds, if cut { &all[..] } else { &all[1..] });
        assert_eq!(scene.playout.is_drained(), cut);
    }
}

#[test]
fn when_the_server_does_not_answer_by_itself_we_ask() {
    let mut config = openai();
    config.turn.create_response = false;
    let mut scene = Scene::ready_with(&config);
    scene.speech("item_1");
    scene.committed("item_1");
    let sent = scene.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0]["type"], "response.create");
    assert!(sent[0]["response"].get("instructions").is_none());
}

#[test]
fn a_server_without_echo_of_metadata_is_understood() {
    let mut scene = Scene::ready();
    scene.say(Line::Greeting, "Hello!");
    scene.created("resp_1");
    scene.done("resp_1", "completed");
    assert!(scene.take().contains(&Effect::LineOver { line: Line::Greeting, complete: true }));
}

#[test]
fn each_event_of_a_long_answer_starts_the_silence_watch_anew() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.pass(9000);
    scene.audio("resp_1", "item_1", 0, 20);
    assert_eq!(scene.session.owes_event(), Some(scene.now.mono));
}

fn called(response: &str, call: &str, name: &str, status: &str) -> Value {
    json!({"type": "response.output_item.done", "response_id": response, "output_index": 0,
        "item": {"id": format!("item_{call}"), "type": "function_call", "status": status, "call_id": call,
            "name": name, "arguments": "{}"}})
}

fn outputs(sent: &[Value]) -> Vec<(&str, &str)> {
    let items = sent.iter().filter(|event| event["type"] == "conversation.item.create").map(|event| &event["item"]);
    items.map(|item| (item["call_id"].as_str().unwrap(), item["output"].as_str().unwrap())).collect()
}

#[test]
fn two_tool_calls_get_two_results_and_one_create_when_the_response_is_done() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.event(called("resp_1", "call_1", "weather", "completed"));
    scene.event(called("resp_1", "call_2", "time", "completed"));
    scene.event(called("resp_1", "call_2", "time", "completed"));
    let sent = scene.sent();
    assert_eq!(outputs(&sent).iter().map(|(call, _)| *call).collect::<Vec<_>>(), ["call_1", "call_2"]);
    assert_eq!(sent.len(), 2, "nothing is asked for while the response runs: {sent:?}");
    scene.done("resp_1", "completed");
    let sent = scene.sent();
    assert_eq!((sent.len(), sent[0]["type"].as_str()), (1, Some("response.create")));
}

#[test]
fn a_call_with_half_of_its_arguments_is_not_acted_on() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.event(called("resp_1", "call_1", "end_call", "incomplete"));
    scene.done("resp_1", "cancelled");
    assert!(scene.sent().is_empty());
}

#[test]
fn the_model_hangs_up_when_its_goodbye_was_heard_and_not_when_it_was_sent() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 2000);
    scene.event(called("resp_1", "call_1", "end_call", "completed"));
    scene.done("resp_1", "completed");
    assert_eq!(outputs(&scene.sent()), [("call_1", r#"{"ok":true}"#)]);
    scene.hear(1900);
    assert!(scene.is_at_rest(), "response.done is not yet the end of the goodbye");
    scene.hear(100);
    let heard = scene.now.mono;
    assert_eq!(scene.session.deadline(), Some((heard + Duration::from_millis(300), Timer::Leave)));
    scene.pass(300);
    scene.input(Input::Timer);
    assert_eq!(scene.take(), [Effect::Concluded]);
}

#[test]
fn a_caller_who_speaks_into_the_goodbye_is_not_hung_up_on() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 2000);
    scene.event(called("resp_1", "call_1", "end_call", "completed"));
    scene.done("resp_1", "completed");
    scene.hear(500);
    scene.speech("item_9");
    scene.pass(5_000);
    scene.input(Input::Timer);
    assert!(!scene.take().contains(&Effect::Concluded));
}

#[test]
fn a_model_that_hangs_up_without_a_word_is_asked_for_one_once() {
    let mut scene = Scene::ready();
    scene.created("resp_1");
    scene.event(called("resp_1", "call_1", "end_call", "completed"));
    scene.done("resp_1", "completed");
    let sent = scene.sent();
    assert_eq!(sent.last().unwrap()["type"], "response.create");
    scene.created_for("resp_2", sent.last().unwrap()["event_id"].as_str().unwrap());
    scene.done("resp_2", "completed");
    scene.pass(300);
    scene.input(Input::Timer);
    assert!(scene.take().contains(&Effect::Concluded));
}

/// The model says something and calls the tool for a person.
fn wants_a_person(scene: &mut Scene) {
    scene.created("resp_1");
    scene.audio("resp_1", "item_1", 0, 1000);
    scene.event(called("resp_1", "call_1", "transfer_to_human", "completed"));
    scene.done("resp_1", "completed");
}

#[test]
fn a_caller_is_handed_on_when_the_words_before_it_were_heard() {
    let mut scene = Scene::ready();
    scene.session.tools.hand_over = HandOver::Possible;
    wants_a_person(&mut scene);
    assert_eq!(outputs(&scene.sent()), [("call_1", r#"{"ok":true}"#)]);
    scene.hear(1000);
    scene.pass(299);
    scene.input(Input::Timer);
    assert!(scene.take().is_empty(), "air");
    scene.pass(1);
    scene.input(Input::Timer);
    assert_eq!(scene.take(), [Effect::Transfer]);
    // Nobody is asked whether she is there, and nothing is said, while somebody is called.
    assert!(scene.is_at_rest());
    scene.input(Input::Say(Line::StillThere, Pii::new("there?")));
    assert!(scene.take().is_empty());
    scene.speech("item_9");
    scene.committed("item_9");
    scene.created("resp_2");
    assert_eq!(scene.sent()[0]["type"], "response.cancel", "nobody would hear it");
    scene.done("resp_2", "cancelled");
    assert!(scene.take().iter().all(|effect| !matches!(effect, Effect::Send(_))));
    scene.input(Input::TransferMissed("Nobody answered."));
    let sent = scene.sent();
    assert_eq!((sent.len(), sent[0]["item"]["role"].as_str()), (2, Some("system")));
    assert!(sent[0]["item"]["content"][0]["text"].as_str().unwrap().contains("Nobody answered."));
    assert_eq!(sent[1]["type"], "response.create", "the model has the caller back, and says so");
    scene.input(Input::TransferMissed("Nobody answered."));
    assert!(scene.take().is_empty(), "said once");
}

#[test]
fn a_caller_who_may_not_be_handed_on_is_not_and_the_model_is_told_why() {
    let mut scene = Scene::ready();
    scene.session.tools.hand_over = HandOver::Refused("not into the telephone network");
    wants_a_person(&mut scene);
    let effects = scene.take();
    assert!(effects.contains(&Effect::TransferRefused));
    scene.hear(1000);
    scene.pass(5_000);
    scene.input(Input::Timer);
    assert!(!scene.take().contains(&Effect::Transfer));

    let mut nobody = Scene::ready();
    wants_a_person(&mut nobody);
    assert_eq!(outputs(&nobody.sent()), [("call_1", r#"{"error":"there is no such tool"}"#)]);
}
