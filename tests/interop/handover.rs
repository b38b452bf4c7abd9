//! A caller wants a person: two telephones of Debian's baresip, one calls the box and one stands on a desk.

use std::net::Ipv4Addr;
use std::time::Duration;

use sauti_sim::openai::{Clip, Line, Say, Script};

use crate::baresip::{Telephone, baresip};
use crate::ears::{self, Words};
use crate::outside;
use crate::stage::{self, Left, Stage};

/// What the caller says to the AI, and what she says when she has a person.
const CALLER: [&str; 2] = ["caller-en-3", "caller-en-4"];
/// What the AI greets with, and what the person says.
const GREETING: &str = "agent-en-1";
const PERSON: &str = "agent-en-3";

/// Greets, says that it connects the caller, and does.
fn script(words: &Words) -> Script {
    let connects = Clip::tone("I will connect you.", 420, Duration::from_millis(900));
    let call = Say::Call { name: "transfer_to_human".to_owned(), arguments: "{}".to_owned(), pieces: 1 };
    Script {
        greeting: Line::clip(words.clip(GREETING)),
        turns: vec![Line { items: vec![Say::Clip(connects), call], after_tools: Vec::new() }],
        ..Script::default()
    }
}

fn trunk(desk: u16, way: &str) -> String {
    format!(
        r#"[sip]
udp = "127.0.0.1:0"
[[trunk]]
name = "phones"
allow = ["127.0.0.0/8"]
outbound_proxy = "127.0.0.1:{desk}"
options_every = "0s"
[[trunk.route]]
called = "100"
[transfer]
trunk = "phones"
target = "desk@127.0.0.1:{desk}"
way = "{way}"
"#
    )
}

/// The stages that the log tells.
fn stages(left: &Left) -> Vec<String> {
    let entries = left.log.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let entries = entries.filter(|entry| entry["EVENT"] == "CALL_TRANSFER");
    entries.map(|entry| entry["STAGE"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn hands_over(way: &str, expected: &[&str]) {
    let _alone = outside::alone();
    let (Some(baresip), Some(python)) = (baresip(), outside::python("pystoi, soundfile")) else { return };
    let words = Words::load();
    let probe = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let desk = probe.local_addr().expect("an address").port();
    drop(probe);
    let name = format!("handover-{way}");
    let stage = Stage::open_with(&name, stage::model(script(&words)), Ipv4Addr::LOCALHOST, &trunk(desk, way)).await;
    let box_ = stage.listeners["sip.udp"];
    let (hers, theirs) = (stage.folder.path().join("hers.wav"), stage.folder.path().join("theirs.wav"));
    // The second line comes when the person has answered and said hers; a file's end ends the call.
    ears::timed(&python, &hers, &CALLER, ["3.3", "10", "3"]).await;
    ears::timed(&python, &theirs, &[PERSON], ["1", "0", "40"]).await;
    let telephone =
        |user: &str, more: &str| format!("<sip:{user}@127.0.0.1>;regint=0;audio_codecs=PCMA/8000/1;ptime=20{more}\n");
    let caller = Telephone {
        account: telephone("250780000001", ""),
        port: 0,
        speech: &hers,
        authority: None,
        calls: Some(format!("sip:100@{box_}")),
    };
    let person = Telephone {
        account: telephone("desk", ";answermode=auto"),
        port: desk,
        speech: &theirs,
        authority: None,
        calls: None,
    };
    let homes = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    // With a REFER her telephone plays its file anew to the person.
    let seconds = if way == "refer" { 36.0 } else { 25.0 };
    let (at_caller, at_person) = tokio::join!(
        caller.live(&baresip, homes[0].path(), seconds),
        person.live(&baresip, homes[1].path(), seconds + 3.0)
    );
    let left = stage.close().await;
    assert_eq!(stages(&left), expected, "{}", left.log.join("\n"));
    assert_eq!((left.rows.len(), left.rows[0].outcome.as_deref()), (1, Some("completed")));
    let (heard, said) = (at_caller.last().expect("a recording"), at_person.last().expect("a recording"));
    ears::understood(&python, [(heard, &[PERSON]), (said, &CALLER[1..])]).await;
}

#[tokio::test]
async fn two_telephones_are_joined_through_the_box_and_understand_each_other() {
    // It is she who hangs up.
    hands_over("bridge", &["begun", "called", "joined"]).await;
}

#[tokio::test]
async fn a_telephone_that_is_referred_calls_the_person_itself_and_the_box_leaves() {
    hands_over("refer", &["begun", "done"]).await;
}
