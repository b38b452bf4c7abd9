//! Headless Chromium calls.

use std::net::Ipv4Addr;
use std::time::Duration;

use sauti_core::media::frame::SAMPLE_RATE;
use sauti_core::media::level::rms_dbfs;
use sauti_sim::caller::person::AUDIBLE_DBFS;
use sauti_sim::openai::{Line, Say, Script};

use crate::ears::{self, SPEAK_AFTER, Words};
use crate::stage::{self, Stage};
use crate::{desk, outside};

/// Fewest packets each way: half of what the shortest direction amounts to at 20 ms a packet.
const FEWEST_PACKETS: u64 = 400;

#[tokio::test]
async fn a_real_browser_and_the_model_understand_each_other() {
    let _alone = outside::alone();
    let (Some(node), Some(python)) = (outside::node(), outside::python("pystoi, soundfile")) else { return };
    let words = Words::load();
    let stage = Stage::open("browser", words.script(), Ipv4Addr::LOCALHOST).await;
    let desk = desk::open(stage.emulators.meta.clone(), Ipv4Addr::LOCALHOST).await;
    let microphone = ears::microphone(&python, stage.folder.path()).await;
    let mut caller = outside::command(&node);
    caller.arg("browser_caller.js").args(["--signal", &format!("http://{desk}")]);
    caller.arg("--speech").arg(&microphone).arg("--out").arg(stage.folder.path().join("browser"));
    caller.args(["--seconds", &words.seconds().to_string()]);
    caller.args(["--speak-after", &SPEAK_AFTER.as_millis().to_string()]);
    let summary = outside::run(&mut caller, Duration::from_secs(90)).await.json();
    let left = stage.close().await;
    let appended = left.one_good_call();
    ears::write_wav(&left.path("model.wav"), SAMPLE_RATE, appended);
    // What getStats says.
    for packets in ["packets_received", "packets_sent"] {
        assert!(summary[packets].as_u64() >= Some(FEWEST_PACKETS), "{packets}: {summary}");
    }
    assert_eq!(summary["packets_lost"], 0, "{summary}");
    assert_eq!(summary["codec"], "audio/opus", "{summary}");
    ears::both_understand(&python, &left.path("browser.wav"), &left.path("model.wav")).await;
}

/// 10 ms of a recording of the browser's, 48 kHz.
const TENTH: usize = 480;
/// The caller's first voiced sound → silence, in the browser, median (issue: interruption).
const SILENT_WITHIN: Duration = Duration::from_millis(220);
/// What she says over the AI.
const LINES: [&str; 7] =
    ["caller-en-1", "caller-en-2", "caller-en-3", "caller-en-4", "caller-en-5", "caller-en-6", "caller-en-1"];
/// Seconds between two of her lines: the answer begins within 1.3 s of them.
const GAP: &str = "4.4";

/// Which tenths of a recording are audible, each 10 ms.
fn audible(recording: &[i16]) -> Vec<bool> {
    recording.chunks(TENTH).map(|tenth| rms_dbfs(tenth) >= AUDIBLE_DBFS).collect()
}

/// For each of her lines that begins while the AI is audible: how long it still is.
fn silences(said: &[bool], heard: &[bool]) -> Vec<Duration> {
    let any = |side: &[bool], from: usize, to: usize| side[from.min(side.len())..to.min(side.len())].contains(&true);
    let begins = (0..said.len()).filter(|at| said[*at] && !any(said, at.saturating_sub(150), *at));
    let over = begins.filter(|at| any(heard, at.saturating_sub(20), at + 5));
    // Her shortest line takes two seconds.
    let last = over.map(|at| (at, (at..heard.len().min(at + 200)).rev().find(|tenth| heard[*tenth]).unwrap_or(at)));
    last.map(|(at, last)| Duration::from_millis(10) * u32::try_from(last - at).expect("below two seconds")).collect()
}

#[tokio::test]
async fn in_a_browser_the_ai_falls_silent_within_220_ms_of_the_callers_voice() {
    let _alone = outside::alone();
    let (Some(node), Some(python)) = (outside::node(), outside::python("soundfile")) else { return };
    let words = Words::load();
    let long =
        Line { items: vec![Say::Lasting(words.clip("agent-en-9"), Duration::from_secs(12))], after_tools: Vec::new() };
    let mut model = stage::model(Script { greeting: long.clone(), turns: vec![long], ..Script::default() });
    model.one_way = Duration::from_millis(150);
    let turn = "[openai.turn]\ninterrupt_response = false\n";
    let stage = Stage::open_with("browser-interrupts", model, Ipv4Addr::LOCALHOST, turn).await;
    let desk = desk::open(stage.emulators.meta.clone(), Ipv4Addr::LOCALHOST).await;
    let microphone = ears::microphone_of(&python, stage.folder.path(), &LINES, GAP).await;
    let mut caller = outside::command(&node);
    caller.arg("browser_caller.js").args(["--signal", &format!("http://{desk}")]);
    caller.arg("--speech").arg(&microphone).arg("--out").arg(stage.folder.path().join("browser"));
    caller.args(["--seconds", "59", "--speak-after", "3300"]);
    outside::run(&mut caller, Duration::from_secs(90)).await;
    let left = stage.close().await;
    left.one_good_call();
    let cut = left.sessions[0].record.spoken.iter().filter(|item| item.truncated_at_ms.is_some()).count();
    let said = audible(&ears::read_wav(&left.path("browser.microphone.wav")));
    let heard = audible(&ears::read_wav(&left.path("browser.wav")));
    let mut silences = silences(&said, &heard);
    silences.sort_unstable();
    println!("in the browser, first voiced sound -> silence: {silences:?}, {cut} items cut");
    assert!(silences.len() >= 4 && cut >= silences.len(), "{silences:?}, {cut} items cut");
    assert!(silences[silences.len() / 2] <= SILENT_WITHIN, "{silences:?}");
}
