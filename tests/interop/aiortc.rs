//! aiortc calls, from a machine of its own.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use sauti_core::media::frame::SAMPLE_RATE;

use crate::ears::{self, SPEAK_AFTER, Words};
use crate::namespace::Namespace;
use crate::stage::Stage;
use crate::{desk, outside};

/// Fewest packets each way.
const FEWEST_PACKETS: u64 = 400;
const BOX: Ipv4Addr = Ipv4Addr::new(10, 77, 21, 1);
const CALLER: Ipv4Addr = Ipv4Addr::new(10, 77, 21, 2);

#[test]
fn aiortc_on_another_machine_and_the_model_understand_each_other() {
    let _alone = outside::alone();
    let Some(python) = outside::python("aiortc, pystoi, soundfile") else { return };
    let (Some(here), Some(there)) = (Namespace::new("box"), Namespace::new("caller")) else { return };
    here.cable(BOX, &there, CALLER);
    here.block_on(async || call(&python, &there).await);
}

async fn call(python: &Path, there: &Namespace) {
    let words = Words::load();
    let stage = Stage::open("aiortc", words.script(), BOX).await;
    let desk = desk::open(stage.emulators.meta.clone(), BOX).await;
    let microphone = ears::microphone(python, stage.folder.path()).await;
    let mut caller = outside::command(Path::new("ip"));
    caller.args(["netns", "exec", there.name()]).arg(python).arg("aiortc_caller.py");
    caller.args(["--signal", &format!("http://{desk}")]);
    caller.arg("--speech").arg(&microphone).arg("--out").arg(stage.folder.path().join("aiortc"));
    caller.args(["--seconds", &words.seconds().to_string()]);
    caller.args(["--speak-after", &SPEAK_AFTER.as_millis().to_string()]);
    let summary = outside::run(&mut caller, Duration::from_secs(90)).await.json();
    let left = stage.close().await;
    let appended = left.one_good_call();
    ears::write_wav(&left.path("model.wav"), SAMPLE_RATE, appended);
    for packets in ["packets_received", "packets_sent"] {
        assert!(summary[packets].as_u64() >= Some(FEWEST_PACKETS), "{packets}: {summary}");
    }
    assert_eq!(summary["packets_lost"], 0, "{summary}");
    ears::both_understand(python, &left.path("aiortc.wav"), &left.path("model.wav")).await;
}
