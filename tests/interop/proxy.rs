//! kamailio as a carrier before the daemon: it takes our registration, and brings us the call of a telephone.

use std::net::Ipv4Addr;
use std::time::Duration;

use sauti_core::media::frame::SAMPLE_RATE;

use crate::baresip::{Telephone, baresip};
use crate::carrier::Carrier;
use crate::ears::{self, Words};
use crate::outside;
use crate::stage::{self, Stage};

/// False, and counted as missing, on a machine without it.
pub(crate) fn is_there() -> bool {
    let there = std::path::Path::new("/usr/sbin/kamailio").exists();
    if !there {
        outside::missing("a call by a proxy", "/usr/sbin/kamailio is not there");
    }
    there
}

/// A telephone's line of `accounts` behind the proxy.
pub(crate) fn account(port: u16, user: &str, transport: &str, more: &str) -> String {
    format!(
        "<sip:{user}@127.0.0.1:{port};transport={transport}>;auth_user={user};auth_pass=canary-trunk-password;regint=60;\
         audio_codecs=PCMA/8000/1;ptime=20{more}\n"
    )
}

/// What a telephone behind the proxy calls to reach the box.
pub(crate) fn called(port: u16, transport: &str) -> String {
    format!("sip:35690000002@127.0.0.1:{port};transport={transport}")
}

pub(crate) fn trunk(port: u16, transport: &str) -> String {
    format!(
        r#"[sip]
udp = "127.0.0.1:0"
tcp = "127.0.0.1:0"
[[trunk]]
name = "carrier"
registrar = "127.0.0.1:{port}"
username = "kigali-edge"
transport = "{transport}"
options_every = "1s"
[[trunk.route]]
called = "kigali-edge"
"#
    )
}

/// Waits until the daemon says that its registration holds.
pub(crate) async fn until_registered(stage: &Stage) {
    let metrics = format!("http://{}/metrics", stage.listeners["admin"]);
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    for _ in 0..200 {
        let text = http.get(&metrics).send().await.expect("the daemon answers").text().await.expect("a text");
        if text.contains("sauti_sip_registered{trunk=\"carrier\"} 1") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the registration was not taken");
}

async fn a_call_by_the_proxy(transport: &str, algorithm: &str) {
    let _alone = outside::alone();
    if !is_there() {
        return;
    }
    let (Some(baresip), Some(python)) = (baresip(), outside::python("pystoi, soundfile")) else { return };
    let kamailio = Carrier::start(algorithm).await;
    let words = Words::load();
    let (name, more) = (format!("kamailio-{transport}"), trunk(kamailio.port, transport));
    let stage = Stage::open_with(&name, stage::model(words.script()), Ipv4Addr::LOCALHOST, &more).await;
    until_registered(&stage).await;
    let speech = stage.folder.path().join("call.wav");
    ears::whole_call(&python, &speech, &words).await;
    let home = tempfile::tempdir().expect("a folder");
    let port = kamailio.port;
    let telephone = Telephone {
        account: account(port, "other", transport, ""),
        speech: &speech,
        authority: None,
        control: None,
        port: 0,
        calls: Some(called(port, transport)),
    };
    let heard = telephone.call(&baresip, home.path(), words.seconds() + 4.0).await;
    let left = stage.close().await;
    ears::write_wav(&left.path("model.wav"), SAMPLE_RATE, left.one_good_call());
    assert_eq!(left.rows[0].door, "trunk", "{}", left.log.join("\n"));
    ears::both_understand(&python, &heard, &left.path("model.wav")).await;
}

#[tokio::test]
async fn a_carrier_that_wants_a_digest_brings_us_the_call_of_a_telephone_over_udp() {
    a_call_by_the_proxy("udp", "MD5").await;
}

#[tokio::test]
async fn a_carrier_that_wants_a_digest_brings_us_the_call_of_a_telephone_over_tcp() {
    // baresip 1.0 knows MD5 alone.
    a_call_by_the_proxy("tcp", "MD5").await;
}
