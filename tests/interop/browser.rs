//! Headless Chromium calls.

use std::net::Ipv4Addr;
use std::time::Duration;

use sauti_core::media::frame::SAMPLE_RATE;

use crate::ears::{self, SPEAK_AFTER, Words};
use crate::stage::Stage;
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
