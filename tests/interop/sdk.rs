//! OpenAI's own packages: as readers of what the daemon sends, as clients of the emulated model.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::oneshot;

use crate::ears::{CALLER, Words};
use crate::{outside, stage};

#[tokio::test]
async fn openai_types_know_every_key_that_the_daemon_sends_in_a_whole_simulation() {
    let _alone = outside::alone();
    let Some(python) = outside::python("openai, pydantic") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let frames = folder.path().join("frames.jsonl");
    let mut simulate = Command::new(env!("CARGO_BIN_EXE_sauti"));
    simulate.args(["simulate", "--json", "--frames"]).arg(&frames);
    simulate.env("SAUTI_TEST_LOGS", outside::log_folder()).stdin(Stdio::null()).kill_on_drop(true);
    // How well the callers were heard is not for this test to say: a busy machine must not hide what was sent.
    let (_, said, complaints) = outside::attempt(&mut simulate, Duration::from_secs(150)).await;
    assert!(frames.exists(), "the simulation did not come to its end:\n{complaints}\n{}", said.stdout);
    let mut judge = outside::command(&python);
    judge.args(["sdk_strict.py", "--side", "client"]).arg(&frames);
    let verdict = outside::run(&mut judge, Duration::from_secs(60)).await;
    // A conversation with an interruption says more than one thing.
    for kind in ["session.update", "response.create", "input_audio_buffer.append", "conversation.item.truncate"] {
        assert!(verdict.stdout.contains(kind), "no {kind} among what was sent:\n{}", verdict.stdout);
    }
}

#[tokio::test]
async fn openais_own_clients_find_nothing_wrong_with_the_emulated_model() {
    let _alone = outside::alone();
    let Some(python) = outside::python("openai, agents, soundfile") else { return };
    let (_target, told) = oneshot::channel();
    let emulators = stage::far_ends(stage::model(Words::load().script()), told).await;
    let client = |script: &str, path: &str| {
        let mut client = outside::command(&python);
        client.args([script, "--url", &format!("ws://{}{path}", emulators.realtime), "--key", stage::API_KEY]);
        for name in CALLER {
            client.args(["--speech", &outside::speech(name)]);
        }
        client
    };
    let (mut sdk, mut agents) = (client("sdk_client.py", "/v1"), client("agents_client.py", "/v1/realtime"));
    let within = Duration::from_secs(120);
    let (sdk, agents) = tokio::join!(outside::run(&mut sdk, within), outside::run(&mut agents, within));
    for said in [sdk, agents] {
        assert_eq!(said.json()["findings"].as_array().map(Vec::len), Some(0), "{}", said.stdout);
    }
}
