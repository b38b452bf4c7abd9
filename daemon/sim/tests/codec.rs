//! Whole calls in virtual time with real speech through Opus and bad networks, judged by what arrived.
//!
//! A short list: whoever changes the ears or the mouth sees here what callers and the model would hear of it. How good it
//! sounds is judged from outside (`tests/interop/concealment.rs`); that stories hold, by tags (`scenarios.rs`).

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use sauti_core::call::outcome::Outcome;
use sauti_sim::audio::judge::{Judge, Utterance};
use sauti_sim::audio::speech::Speech;
use sauti_sim::network::{JitterShape, PathSettings, Percent, Window};
use sauti_sim::openai::{Clip, Line, Script};
use sauti_sim::world::{AudioSettings, Recordings, Step, World, WorldSettings};

/// Turns of each call.
const TURNS: usize = 5;

#[expect(clippy::disallowed_methods, reason = "virtual time needs some instant to count from")]
fn start() -> Instant {
    Instant::now()
}

/// A conversation of the embedded lines over this network, both ways.
fn conversation(network: &PathSettings, seed: u64) -> WorldSettings {
    let speech = Speech::load().unwrap();
    let clips: Vec<Clip> = speech.agent().iter().map(|line| Clip::new(line.text, Arc::clone(&line.samples))).collect();
    let lines: Vec<Arc<[i16]>> = speech.caller("sw").iter().take(TURNS).map(|line| Arc::clone(&line.samples)).collect();
    let turn = |line: &Arc<[i16]>| {
        let length = Duration::from_millis(u64::try_from(line.len() / 24).unwrap() + 20);
        [Step::Say(length), Step::Listen, Step::Pause(Duration::from_millis(400))]
    };
    let mut settings = WorldSettings {
        up: network.clone(),
        down: network.clone(),
        script: std::iter::once(Step::Listen).chain(lines.iter().flat_map(turn)).chain([Step::HangUp]).collect(),
        audio: Some(AudioSettings { lines, keys: 0 }),
        seed,
        ..WorldSettings::default()
    };
    settings.model.server.recording.audio = true;
    settings.model.server.script = Script {
        greeting: Line::clip(clips[0].clone()),
        turns: clips.iter().skip(1).take(TURNS).map(|clip| Line::clip(clip.clone())).collect(),
        caller_lines: vec!["canary".to_owned()],
        ..Script::default()
    };
    settings
}

/// What the model and the caller heard of each other, percent of the voiced windows.
struct Heard {
    up: f64,
    down: f64,
    recordings: Recordings,
}

#[expect(clippy::print_stdout, reason = "the figures are for whoever looks")]
fn call(name: &str, settings: WorldSettings) -> Heard {
    let mut world = World::new(settings, start()).unwrap();
    assert!(world.run(Duration::from_secs(300)), "{name}: it ends");
    assert_eq!(world.end().map(|end| end.outcome), Some(Outcome::Completed), "{name}: {:#?}", world.seen());
    assert!(world.breaches().is_empty(), "{name}: {:?}", world.breaches());
    assert_eq!(world.tables(), [0; 4], "{name}");
    let recordings = world.recordings().unwrap();
    let judge = |said: Vec<Utterance>, reached: &[i16]| Judge::new().heard(&said, reached).percent().unwrap();
    let up =
        judge(recordings.said.iter().map(|line| Utterance::new(Arc::clone(line))).collect(), &recordings.reached_model);
    let said = recordings.model_said.iter().filter(|item| !item.is_empty());
    let down = judge(said.map(|item| Utterance::new(item.clone())).collect(), &recordings.reached_caller);
    println!("{name}: heard up {up:.1} %, down {down:.1} %");
    assert_eq!(recordings.said.len(), TURNS, "{name}");
    Heard { up, down, recordings }
}

fn percent(figure: f64) -> Percent {
    Percent::new(figure).unwrap()
}

fn phone_network() -> PathSettings {
    PathSettings { delay_ms: 40, ..PathSettings::default() }
}

#[test]
fn what_is_said_over_a_good_network_is_heard() {
    let heard = call("clear", conversation(&phone_network(), 1));
    assert!(heard.up >= 99.0 && heard.down >= 99.0);
}

#[test]
fn five_percent_of_lost_packets_are_mended() {
    let network = PathSettings { loss: percent(5.0), ..phone_network() };
    let heard = call("loss 5 %", conversation(&network, 2));
    // A window has six packets: with none of them mended 73 % would be left.
    assert!(heard.up >= 90.0 && heard.down >= 90.0);
}

#[test]
fn bursts_that_take_a_tenth_of_the_packets_leave_most_of_it() {
    let network = PathSettings { loss: percent(10.0), burst_packets: 2, ..phone_network() };
    // Unmended, 53 %.
    let heard = call("bursts 10 %", conversation(&network, 3));
    assert!(heard.up >= 80.0 && heard.down >= 80.0);
}

#[test]
fn jitter_of_60_ms_is_heard_through() {
    let network = PathSettings { jitter_ms: 60, jitter_shape: JitterShape::Normal, ..phone_network() };
    let heard = call("jitter 60 ms", conversation(&network, 4));
    assert!(heard.up >= 95.0 && heard.down >= 95.0);
}

#[test]
fn clocks_that_drift_apart_are_not_heard() {
    for drift_ppm in [-200, 200] {
        let network = PathSettings { drift_ppm, ..phone_network() };
        let heard = call(&format!("drift {drift_ppm} ppm"), conversation(&network, 5));
        assert!(heard.up >= 98.0 && heard.down >= 98.0, "{drift_ppm} ppm");
    }
}

#[test]
fn an_outage_of_five_seconds_costs_what_was_said_in_it_and_nothing_after() {
    let outage = Window { from_ms: 12_000, for_ms: 5_000, every_ms: None };
    let network = PathSettings { outages: vec![outage], ..phone_network() };
    let heard = call("outage 5 s", conversation(&network, 6));
    let owed = |said: usize| 100.0 * (1.0 - 5.0 * 24_000.0 / f64::from(u32::try_from(said).unwrap())) - 5.0;
    let said = heard.recordings.said.iter().map(|line| line.len()).sum();
    let model_said = heard.recordings.model_said.iter().map(Vec::len).sum();
    assert!(heard.up >= owed(said) && heard.down >= owed(model_said), "{} {}", owed(said), owed(model_said));
}

#[test]
fn a_thousand_keys_a_second_take_nothing_from_the_speech_beside_them() {
    let mut settings = conversation(&phone_network(), 7);
    if let Some(audio) = &mut settings.audio {
        audio.keys = 20;
    }
    let heard = call("keys", settings);
    assert!(heard.up >= 98.0 && heard.down >= 98.0);
    let (told, refused) = heard.recordings.keys;
    assert!(told > 10 && refused > 10 * told, "{told} told, {refused} refused");
}
