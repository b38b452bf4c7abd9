//! Calls that are answered: heard both ways, logged in their order, written down once.

use std::collections::BTreeMap;
use std::sync::Arc;

use sauti::simulate::loopback::phones::{Lived, Manner};
use sauti::simulate::loopback::realtime::Finished;
use sauti_core::call::milestones::Milestone;
use sauti_core::pii::CallerAddress;
use sauti_core::whatsapp::graph::Ask;
use sauti_sim::audio::judge::{Judge, Utterance};
use sauti_sim::audio::speech::Speech;
use sauti_sim::caller::person::Said;
use sauti_sim::caller::person::Step;
use sauti_sim::openai::{Clip, Line, Script};
use sauti_sim::whatsapp::calls::Cause;
use sauti_sim::whatsapp::webhooks::Generation;
use serde_json::Value;

use super::world::{Options, World, model, printed, until, until_async};

/// Percent of voiced windows; simulate measures, a shared machine only has to show that they hear each other.
const HEARD: f64 = 90.0;
/// Lines of the log that every answered call has, in this order.
const STORY: [&str; 8] = [
    "WA_VOICE_WEBHOOK_RECEIVED",
    "WA_CALL_CONNECT",
    "MEDIA_BRIDGE_CREATE_REQUEST",
    "WEBRTC_CONNECTION_ESTABLISHED",
    "OPENAI_WEBSOCKET_CONNECTED",
    "AUDIO_BRIDGE_ACTIVE",
    "WA_CALL_ACCEPTED",
    "CONVERSATION_STARTED",
];

/// What the model says: a greeting, two answers.
pub(crate) fn script(speech: &Speech) -> Script {
    let mut lines = speech.agent().iter().map(|line| Line::clip(Clip::new(line.text, Arc::clone(&line.samples))));
    Script {
        greeting: lines.next().unwrap_or_default(),
        turns: lines.take(2).collect(),
        caller_lines: speech.caller("en").iter().map(|line| line.text.to_owned()).collect(),
        ..Script::default()
    }
}

/// How the caller is known when the webhook is written this way.
fn address(lived: &Lived, generation: Generation) -> CallerAddress {
    let mut address = lived.identity.address();
    match generation {
        Generation::Of2025 => address.bsuid = None,
        Generation::UsernameOnly => address.number = None,
        Generation::Of2026 | Generation::ContactsAbsent => {}
    }
    address
}

/// The caller said one line and heard a greeting and an answer.
pub(crate) fn judge_conversation(lived: &Lived, model: &Finished) {
    let mut judge = Judge::new();
    let said: Vec<_> = lived.person.said.iter().map(Said::utterance).collect();
    assert_eq!(said.len(), 1, "the caller said a line");
    let up = judge.heard(&said, &model.record.appended).percent();
    assert!(up.is_some_and(|percent| percent >= HEARD), "the model heard {up:?} %");
    let spoken: Vec<_> = model.record.spoken.iter().map(|item| Utterance::new(Arc::clone(&item.samples))).collect();
    assert_eq!(spoken.len(), 2, "greeting and answer");
    let down = judge.heard(&spoken, &lived.person.heard).percent();
    assert!(down.is_some_and(|percent| percent >= HEARD), "the caller heard {down:?} %");
    let faults = &model.record.client_faults;
    assert!(faults.is_empty(), "{faults:?}");
    assert_eq!((lived.ear.early, lived.ear.odd, lived.ear.sources.len()), (0, 0, 1));
}

pub(crate) fn check_log(world: &World, call_id: &str) {
    let events = world.daemon.events_of(call_id);
    let milestones: Vec<_> = events.iter().filter(|name| STORY.contains(&name.as_str())).collect();
    assert_eq!(milestones, STORY, "all events: {events:?}");
    assert_eq!(STORY.to_vec(), Milestone::ALL.iter().map(|milestone| milestone.label()).collect::<Vec<_>>());
    for name in ["WA_CALL_PRE_ACCEPTED", "WA_VOICE_CALL_ACCEPTED", "CALL_ENDED"] {
        assert_eq!(events.iter().filter(|event| *event == name).count(), 1, "{name}: {events:?}");
    }
    let place = |name: &str| events.iter().position(|event| event == name);
    assert!(place("WA_CALL_PRE_ACCEPTED") < place("WA_CALL_ACCEPTED"));
    assert!(place("CONVERSATION_STARTED") < place("CALL_ENDED"));
}

async fn check_command_line(world: &World, call_id: &str) {
    let list = printed(&world.calls(&["list", "--json"]).await);
    let rows: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).expect("JSON a line")).collect();
    assert_eq!(rows.len(), 4, "{list}");
    assert!(rows.iter().all(|row| row["outcome"] == "completed" && row["fault"] == "none"), "{list}");
    let table = printed(&world.calls(&["list"]).await);
    assert_eq!(table.lines().filter(|line| line.contains("completed")).count(), 4, "{table}");
    let page = printed(&world.calls(&["show", call_id]).await);
    for part in [call_id, "outcome", "completed", "first audio", "How can I help", "CONVERSATION_STARTED"] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let export = printed(&world.calls(&["export"]).await);
    assert_eq!(export.lines().count(), 4);
    assert!(!export.contains("How can I help"), "words are shown by show alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_every_payload_generation_are_answered_heard_logged_and_written_down() {
    let speech = Speech::load().expect("speech is embedded");
    let script = script(&speech);
    let options =
        Options { model: Arc::new(move |facts| model(script.clone(), facts)), ..Options::named("conversations") };
    let mut world = World::start(options).await;
    let line = Arc::clone(&speech.caller("en").first().expect("a line").samples);
    let says = vec![Step::Listen, Step::Say(line), Step::Listen, Step::HangUp];
    let mut calls = Vec::new();
    for (who, generation) in (0..).zip(Generation::ALL) {
        let manner = Manner { generation: Some(generation), ..Manner::default() };
        calls.push((generation, world.call_as(who, says.clone(), manner)));
    }
    until_async("all four are up", async || world.metric("sauti_calls_live").await == 4.0).await;
    until_async("their legs are counted", async || world.tables().await["sauti_table_legs"] == 4.0).await;
    let mut lived = Vec::new();
    for (generation, call) in calls {
        lived.push((generation, call.await.expect("the phone lives")));
    }
    let models = world.sessions().await;
    let models: BTreeMap<_, _> = models.into_iter().map(|model| (model.identifier.clone(), model)).collect();
    let mut ids = Vec::new();
    for (generation, lived) in &lived {
        assert_eq!((&lived.trouble, lived.over), (&None, Some(Cause::HungUp)), "{generation:?}");
        let row = world.ended(lived.wacid.as_ref().expect("it rang")).await;
        assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("completed"), Some("none")));
        let hash = world.hash_of(&address(lived, *generation));
        assert_eq!(row.caller_hash.as_ref(), Some(&hash), "{generation:?}");
        judge_conversation(lived, models.get(&hash).expect("the model met this caller"));
        assert!(row.seconds.is_some_and(|seconds| seconds > 3.0), "{row:?}");
        assert!(row.cost_micro_usd.is_some_and(|cost| cost > 0), "{row:?}");
        assert!(
            row.connect_at.is_some()
                && row.first_audio_at >= row.accepted_at
                && row.accepted_at >= Some(row.offered_at)
        );
        until("the end is logged", || world.daemon.entries("CALL_ENDED").len() == 4).await;
        check_log(&world, &row.call_id);
        ids.push(row.call_id);
    }
    check_command_line(&world, &ids[0]).await;
    assert_eq!(world.asked(Ask::Accept).await, 4);
    assert_eq!(world.asked(Ask::Terminate).await, 0, "the callers hung up themselves");
    assert!(world.far.meta.texts().await.is_empty());
    world.until_tables_are_empty().await;
    assert_eq!(world.metric(r#"sauti_calls_total{door="whatsapp",outcome="completed",fault="none"}"#).await, 4.0);
    assert!(world.stop().await.success());
    assert_eq!(world.rows().len(), 4);
}
