//! Keys of a telephone on a real call: the model is told and answers, and the digits stay nowhere.

use std::sync::Arc;
use std::time::Duration;

use sauti_sim::openai::{Clip, Line, Script};

use super::carrier::Caller;
use super::world::{Options, World, model, printed, until, until_async};

/// What is pressed: digits that stand nowhere else.
const PIN: &str = "90817263";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pressed_is_answered_by_the_model_and_written_down_as_a_number_of_keys() {
    let thanks = Line::clip(Clip::tone("Thank you, that is the right one.", 500, Duration::from_secs(1)));
    let script = move || Script {
        on_keyword: vec![(PIN.to_owned(), thanks.clone())],
        ..Script::tones(3, Duration::from_secs(2))
    };
    let more = "[sip]\nudp = \"127.0.0.1:0\"\n[[trunk]]\nname = \"carrier\"\nallow = [\"127.0.0.0/8\"]\n\
                options_every = \"0s\"\n[[trunk.route]]\ncalled = \"100\"\n";
    let limits = "no_media = \"60s\"\n";
    let options = Options {
        more: more.to_owned(),
        limits,
        model: Arc::new(move |facts| model(script(), facts)),
        ..Options::named("keys")
    };
    let mut world = World::start(options).await;
    let target = world.daemon.bound("sip.udp");
    let mut caller = Caller::new("UDP", 1, target).await;
    caller.dial(target, 200).await;
    until("the greeting is heard", || !world.daemon.entries("CONVERSATION_STARTED").is_empty()).await;
    // Into the greeting, as people do who know the menu.
    for key in PIN.chars().chain(['#']) {
        assert_eq!(caller.ask("INFO", &format!("Signal={key}\r\nDuration=160\r\n")).await, 200);
    }
    let call_id = world.rows().remove(0).call_id;
    until_async("the model answers", async || {
        printed(&world.calls(&["show", &call_id]).await).contains("that is the right one")
    })
    .await;
    assert_eq!(caller.ask("BYE", "").await, 200);
    until("the call is over", || world.rows().iter().all(|row| row.outcome.is_some())).await;
    let shown = printed(&world.calls(&["show", &call_id, "--json"]).await);
    let call: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let turns: Vec<(&str, &str)> = call["transcript"]
        .as_array()
        .expect("turns")
        .iter()
        .filter_map(|turn| Some((turn["speaker"].as_str()?, turn["text"].as_str()?)))
        .collect();
    assert!(turns.contains(&("caller", "[keys: 8]")), "{turns:?}");
    assert!(turns.contains(&("agent", "Thank you, that is the right one.")), "{turns:?}");
    assert_eq!(world.metric("sauti_packets_total{kind=\"dtmf_digit\"}").await, 9.0);
    assert!(world.stop().await.success());
    for line in world.daemon.log() {
        assert!(!line.to_string().contains(PIN), "in the log");
    }
    for file in std::fs::read_dir(world.folder.path()).expect("the folder").flatten() {
        let bytes = std::fs::read(file.path()).expect("a file");
        assert!(!bytes.windows(PIN.len()).any(|part| part == PIN.as_bytes()), "in {}", file.path().display());
    }
}
