//! Random clients against random servers: whatever happens, the stream keeps its own rules.

use std::{collections::BTreeSet, time::Duration};

use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::{
    super::{BadResponse, Clip, Fault, Line, Mode, Say, ServerSettings, Trouble, When},
    Rig, quiet, settings, voice,
};

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Say(bool, usize),
    Append(usize, usize),
    Create(bool, Option<u32>),
    Cancel,
    Commit,
    Clear,
    Truncate(usize, i64),
    TruncateNear(usize, i64),
    Delete(usize),
    Retrieve(usize),
    Type(String),
    Turns(Value),
    Result(usize),
    Raw(String),
}

fn step() -> impl Strategy<Value = Step> {
    let turns = prop_oneof![
        Just(json!(null)),
        Just(json!({"type": "semantic_vad", "eagerness": "high"})),
        (any::<bool>(), any::<bool>(), 0..600_u32).prop_map(|(create, interrupt, silence)| {
            json!({"type": "server_vad", "create_response": create, "interrupt_response": interrupt,
                "silence_duration_ms": silence, "idle_timeout_ms": 5_000})
        }),
    ];
    prop_oneof![
        4 => (0..3_000_u64).prop_map(Step::Wait),
        6 => (any::<bool>(), 0..900_usize).prop_map(|(loud, ms)| Step::Say(loud, ms)),
        2 => (0..60_000_usize, 0..3_usize).prop_map(|(bytes, odd)| Step::Append(bytes, odd)),
        3 => (any::<bool>(), proptest::option::of(1..80_u32)).prop_map(|(aside, most)| Step::Create(aside, most)),
        2 => Just(Step::Cancel),
        1 => Just(Step::Commit),
        1 => Just(Step::Clear),
        2 => (0..9_usize, -10..3_000_i64).prop_map(|(which, ms)| Step::Truncate(which, ms)),
        5 => (0..2_usize, -1..3_i64).prop_map(|(which, off)| Step::TruncateNear(which, off)),
        1 => (0..9_usize).prop_map(Step::Delete),
        1 => (0..9_usize).prop_map(Step::Retrieve),
        1 => "[a-c]{0,3}".prop_map(Step::Type),
        2 => turns.prop_map(Step::Turns),
        1 => (0..4_usize).prop_map(Step::Result),
        1 => "\\PC{0,40}".prop_map(Step::Raw),
    ]
}

fn server() -> impl Strategy<Value = ServerSettings> {
    let when = prop_oneof![
        (0..9_000_u64).prop_map(|ms| When::AfterOpen(Duration::from_millis(ms))),
        (0..4_u32).prop_map(When::AtResponse),
        (0..60_u32).prop_map(When::AtDelta),
    ];
    let trouble = prop_oneof![
        Just(Trouble::UnknownEvent),
        Just(Trouble::Close { code: 1_011, reason: "over".into() }),
        Just(Trouble::Abort),
        Just(Trouble::HalfOpen),
        (0..4_000_u64).prop_map(|ms| Trouble::Stall(Duration::from_millis(ms))),
    ];
    let fault = (when, trouble).prop_map(|(when, trouble)| Fault { when, trouble });
    let bad = prop_oneof![
        Just(BadResponse::rate_limited()),
        Just(BadResponse::Hangs),
        (0..900_u64).prop_map(|ms| BadResponse::ContentFilter { after: Duration::from_millis(ms) }),
    ];
    let mode = prop_oneof![
        6 => Just(Mode::Conversation),
        1 => Just(Mode::ECHO),
        1 => Just(Mode::Metronome { speak: Duration::from_millis(700), pause: Duration::from_millis(300) }),
    ];
    let bursts = (20..900_u32, 1..200_u64, vec(0..9_000_usize, 0..4));
    (mode, bursts, vec(fault, 0..2), vec((0..5_u32, bad), 0..3), 0..700_u64, any::<bool>()).prop_map(
        |(mode, (speed_percent, interval, chunk_bytes), faults, bad_responses, latency, batch_audio_done)| {
            let mut server = settings();
            let call = Say::Call { name: "book".into(), arguments: "{\"é\":1}".into(), pieces: 4 };
            let clip = Say::Clip(Clip::tone("two words", 300, Duration::from_millis(333)));
            server.script.turns.push(Line { items: vec![clip.clone(), call], after_tools: vec![clip] });
            server.burst.speed_percent = speed_percent;
            server.burst.interval = Duration::from_millis(interval);
            server.burst.chunk_bytes = chunk_bytes;
            server.latency.first_delta = Duration::from_millis(latency);
            ServerSettings { mode, faults, bad_responses, batch_audio_done, ..server }
        },
    )
}

fn perform(rig: &mut Rig, step: &Step) {
    let item = |rig: &Rig, which: &usize| {
        let known: Vec<Value> = rig.all("conversation.item.added").iter().map(|e| e["item"]["id"].clone()).collect();
        known.get(*which).cloned().unwrap_or_else(|| json!("item_unknown"))
    };
    match step {
        Step::Wait(ms) => rig.run_ms(*ms),
        Step::Say(loud, ms) => rig.say(&if *loud { voice(*ms) } else { quiet(*ms) }),
        Step::Append(bytes, odd) => {
            use base64::Engine as _;
            let audio = base64::engine::general_purpose::STANDARD.encode(vec![0x11_u8; bytes + odd]);
            rig.send(json!({"type": "input_audio_buffer.append", "audio": audio}));
        }
        Step::Create(aside, most) => {
            let conversation = if *aside { "none" } else { "auto" };
            rig.send(json!({"type": "response.create",
                "response": {"conversation": conversation, "max_output_tokens": most}}));
        }
        Step::Cancel => rig.send(json!({"type": "response.cancel"})),
        Step::Commit => rig.send(json!({"type": "input_audio_buffer.commit"})),
        Step::Clear => rig.send(json!({"type": "input_audio_buffer.clear"})),
        Step::Truncate(which, ms) => {
            let item = item(rig, which);
            rig.send(json!({"type": "conversation.item.truncate", "item_id": item, "content_index": 0,
                "audio_end_ms": ms}));
        }
        Step::TruncateNear(which, off) => {
            let spoken = rig.server.record().spoken.get(*which);
            let Some((id, sent)) = spoken.map(|item| (item.item_id.clone(), item.samples_sent / 24)) else { return };
            let end = i64::try_from(sent).unwrap() + off;
            rig.send(json!({"type": "conversation.item.truncate", "item_id": id, "content_index": 0,
                "audio_end_ms": end}));
        }
        Step::Delete(which) => {
            let item = item(rig, which);
            rig.send(json!({"type": "conversation.item.delete", "item_id": item}));
        }
        Step::Retrieve(which) => {
            let item = item(rig, which);
            rig.send(json!({"type": "conversation.item.retrieve", "item_id": item}));
        }
        Step::Type(id) => rig.send(json!({"type": "conversation.item.create", "item": {"id": id, "type": "message",
            "role": "user", "content": [{"type": "input_text", "text": "hello"}]}})),
        Step::Turns(turns) => rig.update(json!({"audio": {"input": {"turn_detection": turns}}})),
        Step::Result(which) => {
            let calls = rig.all("response.function_call_arguments.done");
            let call_id = calls.get(*which).map_or_else(|| json!("call_none"), |event| event["call_id"].clone());
            rig.send(json!({"type": "conversation.item.create",
                "item": {"type": "function_call_output", "call_id": call_id, "output": ""}}));
        }
        Step::Raw(text) => rig.send_text(text),
    }
}

/// The rules of a stream: created before done, done once, items inside responses, one default response at a time.
fn check_stream(rig: &Rig) {
    let (mut active, mut open_items, mut default) = (BTreeSet::new(), BTreeSet::new(), None);
    let mut event_ids = BTreeSet::new();
    for (_, event) in &rig.events {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        assert!(event_ids.insert(text("/event_id")), "event ids are unique: {event}");
        match text("/type").as_str() {
            "response.created" => {
                assert!(active.insert(text("/response/id")));
                if !event["response"]["conversation_id"].is_null() {
                    assert_eq!(default.replace(text("/response/id")), None, "one default response at a time");
                }
            }
            "response.output_item.added" => {
                assert!(active.contains(&text("/response_id")));
                assert!(open_items.insert(text("/item/id")));
            }
            "response.output_audio.delta" => assert!(open_items.contains(&text("/item_id"))),
            "response.output_item.done" => assert!(open_items.remove(&text("/item/id"))),
            "response.done" => {
                let id = text("/response/id");
                assert!(active.remove(&id), "done once, and after created");
                default.take_if(|running| *running == id);
                let output = event["response"]["output"].as_array().unwrap();
                assert!(output.iter().all(|item| !open_items.contains(item["id"].as_str().unwrap())));
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_client_on_any_server_sees_a_well_formed_stream(server in server(), steps in vec(step(), 1..40)) {
        let mut rig = Rig::new(server);
        for step in &steps {
            perform(&mut rig, step);
        }
        rig.run_ms(10_000);
        check_stream(&rig);
        prop_assert!(rig.ends.len() <= 1);
        for spoken in &rig.server.record().spoken {
            let planned = spoken.samples.len();
            prop_assert!(planned == 0 || spoken.samples_sent <= planned);
            let cut = spoken.truncated_at_ms.unwrap_or_default();
            prop_assert!(cut <= (spoken.samples_sent / 24) as u64, "no truncation beyond what was sent");
        }
        let (appended, appends) = (rig.server.record().appended.len(), &rig.server.record().appends);
        prop_assert_eq!(appended, appends.iter().map(|append| append.samples).sum::<usize>());
    }
}
