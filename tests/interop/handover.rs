//! A caller wants a person: two telephones of Debian's baresip, one calls the box and one stands on a desk; before the box
//! or behind kamailio, that brings it the one call and takes the other.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use sauti_sim::openai::{Clip, Line, Say, Script};

use crate::baresip::{Telephone, baresip};
use crate::carrier::Carrier;
use crate::ears::{self, Words};
use crate::outside;
use crate::proxy;
use crate::stage::{self, Left, Stage};

/// What the caller says to the AI, and what she says when she has a person.
pub(crate) const CALLER: [&str; 2] = ["caller-en-3", "caller-en-4"];
/// What the AI greets with, and what the person says.
pub(crate) const GREETING: &str = "agent-en-1";
pub(crate) const PERSON: &str = "agent-en-3";

/// Greets, says that it connects the caller, and does.
pub(crate) fn script(words: &Words) -> Script {
    let connects = Clip::tone("I will connect you.", 420, Duration::from_millis(900));
    let call = Say::Call { name: "transfer_to_human".to_owned(), arguments: "{}".to_owned(), pieces: 1 };
    Script {
        greeting: Line::clip(words.clip(GREETING)),
        turns: vec![Line { items: vec![Say::Clip(connects), call], after_tools: Vec::new() }],
        ..Script::default()
    }
}

/// The trunk of telephones on this machine's own addresses.
fn phones(desk: u16) -> String {
    format!(
        r#"[sip]
udp = "127.0.0.1:0"
[[trunk]]
name = "carrier"
allow = ["127.0.0.0/8"]
outbound_proxy = "127.0.0.1:{desk}"
options_every = "0s"
[[trunk.route]]
called = "100"
"#
    )
}

pub(crate) fn transfer(desk: u16, way: &str) -> String {
    format!("[transfer]\ntrunk = \"carrier\"\ntarget = \"desk@127.0.0.1:{desk}\"\nway = \"{way}\"\n")
}

/// The stages that the log tells.
pub(crate) fn stages(left: &Left) -> Vec<String> {
    let entries = left.log.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let entries = entries.filter(|entry| entry["EVENT"] == "CALL_TRANSFER");
    entries.map(|entry| entry["STAGE"].as_str().unwrap_or_default().to_owned()).collect()
}

/// What both say, as files for telephones: her second line comes when the person has answered and said the other. A
/// file's end ends a call.
pub(crate) async fn both_sides(python: &Path, hers: &Path, theirs: &Path) {
    ears::timed(python, hers, &CALLER, ["3.3", "10", "3"]).await;
    ears::timed(python, theirs, &[PERSON], ["1", "0", "40"]).await;
}

async fn hands_over(way: &str, proxied: bool, expected: &[&str]) {
    let _alone = outside::alone();
    if proxied && !proxy::is_there() {
        return;
    }
    let (Some(baresip), Some(python)) = (baresip(), outside::python("pystoi, soundfile")) else { return };
    let words = Words::load();
    let kamailio = if proxied { Some(Carrier::start("MD5").await) } else { None };
    let free = outside::free_ports(1);
    let desk = kamailio.as_ref().map_or(free, |kamailio| kamailio.port);
    let name = format!("handover-{way}-{proxied}");
    let carrier = kamailio.as_ref().map_or_else(|| phones(desk), |kamailio| proxy::trunk(kamailio.port, "udp"));
    let more = carrier + &transfer(desk, way);
    let stage = Stage::open_with(&name, stage::model(script(&words)), Ipv4Addr::LOCALHOST, &more).await;
    if proxied {
        proxy::until_registered(&stage).await;
    }
    let box_ = stage.listeners["sip.udp"];
    let (hers, theirs) = (stage.folder.path().join("hers.wav"), stage.folder.path().join("theirs.wav"));
    both_sides(&python, &hers, &theirs).await;
    let account = |user: &str, more: &str| match &kamailio {
        Some(kamailio) => proxy::account(kamailio.port, user, "udp", more),
        None => format!("<sip:{user}@127.0.0.1>;regint=0;audio_codecs=PCMA/8000/1;ptime=20{more}\n"),
    };
    let called = kamailio.as_ref().map_or_else(|| format!("sip:100@{box_}"), |it| proxy::called(it.port, "udp"));
    let caller = Telephone {
        account: account(if proxied { "other" } else { "250780000001" }, ""),
        port: 0,
        speech: &hers,
        authority: None,
        control: None,
        calls: Some(called),
    };
    let person = Telephone {
        account: account("desk", ";answermode=auto"),
        port: free,
        speech: &theirs,
        authority: None,
        control: None,
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
    hands_over("bridge", false, &["begun", "called", "joined"]).await;
}

#[tokio::test]
async fn a_telephone_that_is_referred_calls_the_person_itself_and_the_box_leaves() {
    hands_over("refer", false, &["begun", "done"]).await;
}

#[tokio::test]
async fn a_person_behind_the_carriers_proxy_is_called_through_it() {
    hands_over("bridge", true, &["begun", "called", "joined"]).await;
}
