//! The canonical event sequences of the protocol, replayed: `tests/wire/openai`.

use super::*;

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("../../../../../../tests/wire/openai/", $name, ".jsonl"))
    };
}

const TURN: &str = golden!("01_connect_update_turn");
const BARGE_IN: &str = golden!("02_barge_in_ws");
const FUNCTION_CALL: &str = golden!("03_function_call");
const SUMMARY: &str = golden!("04_out_of_band_summary");
const ERRORS: &str = golden!("05_errors");
const IDLE: &str = golden!("06_idle_timeout");
const SIDEBAND: &str = golden!("07_sip_sideband");
const ALL: [&str; 7] = [TURN, BARGE_IN, FUNCTION_CALL, SUMMARY, ERRORS, IDLE, SIDEBAND];

fn lines(golden: &str) -> impl Iterator<Item = &str> {
    golden.lines().filter_map(|line| line.strip_prefix("< "))
}

/// Replays a sequence with deltas of 100 ms; `after` is called after each event of that type.
fn replay(scene: &mut Scene, golden: &str, mut after: impl FnMut(&mut Scene, &str)) {
    let audio = base64(&[1; 4800]);
    for line in lines(golden) {
        let line = line.replace("\"AAAA\"", &format!("\"{audio}\""));
        let event: Value = serde_json::from_str(&line).unwrap();
        scene.played_restart(|scene| scene.input(Input::Message(&line)));
        after(scene, event["type"].as_str().unwrap());
    }
}

#[test]
fn every_canonical_event_is_read_and_what_matters_is_not_taken_for_something_else() {
    let mut passed_over = std::collections::BTreeSet::new();
    for line in ALL.into_iter().flat_map(lines) {
        if events::read(line).unwrap() == ServerEvent::Other {
            let event: Value = serde_json::from_str(line).unwrap();
            passed_over.insert(event["type"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(
        passed_over.into_iter().collect::<Vec<_>>(),
        [
            "conversation.item.added",
            "conversation.item.done",
            "conversation.item.input_audio_transcription.delta",
            "conversation.item.truncated",
            "input_audio_buffer.dtmf_event_received",
            "input_audio_buffer.timeout_triggered",
            "output_audio_buffer.cleared",
            "output_audio_buffer.started",
            "output_audio_buffer.stopped",
            "rate_limits.updated",
            "response.content_part.added",
            "response.content_part.done",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.added",
            "response.output_text.delta",
            "response.output_text.done",
        ]
    );
}

#[test]
fn the_canonical_turn_is_heard_and_written_down() {
    let mut scene = Scene::new(&openai());
    scene.input(Input::Opened);
    replay(&mut scene, TURN, |_, _| ());
    scene.hear(400);
    let out = scene.take();
    assert_eq!(
        turns(&out),
        [
            (Speaker::Caller, "Muraho".to_owned(), false),
            (Speaker::Agent, "Muraho neza nagufasha iki".to_owned(), false)
        ]
    );
    assert!(out.contains(&Effect::Ready));
    assert_eq!(out.iter().filter(|effect| matches!(effect, Effect::Usage(..))).count(), 2);
    assert!(scene.session.is_quiet(&scene.playout));
}

#[test]
fn the_canonical_interruption_is_cut_to_what_was_heard() {
    let mut scene = Scene::ready();
    replay(&mut scene, BARGE_IN, |scene, event| {
        if event == "response.output_audio.delta" {
            scene.hear(60);
        }
    });
    let out = scene.take();
    let sent: Vec<Value> = out.iter().filter_map(wire).collect();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0]["type"], "conversation.item.truncate");
    assert_eq!((sent[0]["item_id"].as_str(), sent[0]["audio_end_ms"].as_u64()), (Some("item_0004"), Some(180)));
    assert_eq!(turns(&out), [(Speaker::Agent, "Je peux".to_owned(), true)]);
    assert!(scene.playout.is_drained());
}

#[test]
fn the_other_canonical_sequences_leave_nothing_behind() {
    for golden in [SUMMARY, IDLE, SIDEBAND] {
        let mut scene = Scene::ready();
        replay(&mut scene, golden, |_, _| ());
        scene.hear(1000);
        assert!(scene.session.is_ready() && scene.session.is_quiet(&scene.playout));
        assert_eq!(scene.session.owes_event(), None);
        assert_eq!(scene.sent(), [] as [Value; 0]);
    }
}

#[test]
fn the_canonical_tool_call_is_answered_once_and_one_response_is_asked_for() {
    let mut scene = Scene::ready();
    replay(&mut scene, FUNCTION_CALL, |_, _| ());
    let sent = scene.sent();
    let kinds: Vec<&str> = sent.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds, ["conversation.item.create", "response.create"]);
    assert_eq!(sent[0]["item"]["call_id"], "call_0001");
}

#[test]
fn the_canonical_errors_end_the_session_at_the_first_that_must() {
    let mut scene = Scene::ready();
    let mut harmless = 0;
    replay(&mut scene, ERRORS, |scene, _| harmless += usize::from(scene.session.is_ready()));
    assert_eq!(harmless, 6);
    assert_eq!(failure(&scene.take()).unwrap().code.as_str(), "session_expired");
}

proptest::proptest! {
    /// The canonical events, shuffled and with bytes changed: no panic, and the session still ends.
    #[test]
    fn damaged_events_in_any_order_never_panic(
        picks in proptest::collection::vec((0_usize..116, 0_usize..2000, 32_u8..127), 1..60),
    ) {
        let all: Vec<&str> = ALL.into_iter().flat_map(lines).collect();
        let mut scene = Scene::ready();
        for (line, place, byte) in picks {
            let mut bytes = all[line].as_bytes().to_vec();
            if let Some(spot) = bytes.get_mut(place) { *spot = byte; }
            let text = String::from_utf8_lossy(&bytes).into_owned();
            scene.played_restart(|scene| scene.input(Input::Message(&text)));
            scene.hear(20);
            scene.input(Input::Timer);
        }
        scene.input(Input::End);
        scene.out.clear();
        scene.input(Input::Message(all[4]));
        proptest::prop_assert!(scene.out.is_empty());
    }
}
