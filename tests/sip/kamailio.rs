//! Calls through kamailio, both ways, and what is told when it goes.

use std::time::{Duration, Instant};

use sauti::sip::{DialogEvent, Place};
use sauti_core::pii::Pii;

use super::bench::{ANSWER, Bench, OFFER, event};
use super::carrier::Carrier;

fn trunk(port: u16, user: &str, transport: &str) -> String {
    format!(
        "[sip]\nudp = \"127.0.0.1:0\"\ntcp = \"127.0.0.1:0\"\n[[trunk]]\nname = \"carrier\"\nregistrar = \"127.0.0.1:{port}\"\n\
         username = \"{user}\"\ntransport = \"{transport}\"\noptions_every = \"1s\"\n[[trunk.route]]\ncalled = \"{user}\"\n"
    )
}

pub(super) async fn until_registered(bench: &Bench) {
    for _ in 0..100 {
        let status = &bench.sip.statuses()[0];
        if status.registration == Some("registered") && status.options == "up" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?}", bench.sip.statuses());
}

async fn a_call_through(transport: &str, algorithm: &str) {
    let kamailio = Carrier::start(algorithm).await;
    let port = kamailio.port;
    let mut edge = Bench::start(&trunk(port, "kigali-edge", transport)).await;
    let other = Bench::start(&trunk(port, "other", transport)).await;
    until_registered(&edge).await;
    until_registered(&other).await;
    assert_eq!(edge.sip.tables().registrations, 1);
    assert_eq!(edge.metric("sauti_sip_registered{trunk=\"carrier\"}"), 1.0);
    assert!(edge.sip.conditions().is_empty());
    let call = Place { trunk: "carrier".into(), target: Pii::new("+35690000002"), offer: OFFER.to_owned(), from: None };
    let (dialog, mut events) = other.sip.place(call).await.unwrap();
    let mut invite = edge.call().await;
    assert!(invite.caller.is_some() && invite.offer.is_some());
    while !matches!(event(&mut events).await, DialogEvent::Ringing { .. }) {}
    invite.dialog.answer(ANSWER).await.unwrap();
    let DialogEvent::Confirmed { sdp: Some(sdp) } = event(&mut events).await else { panic!() };
    assert_eq!(sdp.expose(), ANSWER);
    assert!(
        matches!(event(&mut invite.events).await, DialogEvent::Confirmed { .. }),
        "the ACK came by the Record-Route"
    );
    dialog.bye().await.unwrap();
    assert!(matches!(event(&mut invite.events).await, DialogEvent::Bye), "and so did the BYE");
    edge.sip.clone().close().await;
    assert_eq!(edge.sip.tables().registrations, 0);
    let call = Place { trunk: "carrier".into(), target: Pii::new("+35690000002"), offer: OFFER.to_owned(), from: None };
    let (_dialog, mut events) = other.sip.place(call).await.unwrap();
    let gone = event(&mut events).await;
    assert!(matches!(gone, DialogEvent::Refused { code: 404, .. }), "the registration was taken back: {gone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_udp_with_md5() {
    a_call_through("udp", "MD5").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_tcp_with_sha_256() {
    a_call_through("tcp", "SHA-256").await;
}

/// A call of `other` reaches `edge` by the binding that the registrar has at this moment.
pub(super) async fn is_reached(edge: &mut Bench, other: &Bench) {
    let call = Place { trunk: "carrier".into(), target: Pii::new("+35690000002"), offer: OFFER.to_owned(), from: None };
    let (dialog, mut events) = other.sip.place(call).await.unwrap();
    let invite = edge.call().await;
    while !matches!(event(&mut events).await, DialogEvent::Ringing { .. }) {}
    dialog.bye().await.unwrap();
    drop(invite);
}

/// `SAUTI_REGISTER_SECONDS=60` is how it is run before a release.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_registration_is_renewed_in_time_and_made_again_when_its_registrar_comes_back() {
    let seconds = std::env::var("SAUTI_REGISTER_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(15);
    let kamailio = Carrier::with_expiry("SHA-256", 6).await;
    let port = kamailio.port;
    let mut edge = Bench::start(&trunk(port, "kigali-edge", "udp")).await;
    let other = Bench::start(&trunk(port, "other", "udp")).await;
    until_registered(&edge).await;
    until_registered(&other).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        assert_eq!(edge.sip.statuses()[0].registration, Some("registered"), "after {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The registrar forgets after 6 s: whom it still knows has told it again and again.
    is_reached(&mut edge, &other).await;
    kamailio.end();
    drop(kamailio);
    let lost = Instant::now();
    while edge.sip.statuses()[0].registration == Some("registered") {
        // Its 6 s, and an attempt that is under way.
        assert!(lost.elapsed() < Duration::from_secs(15), "it ran out");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(edge.sip.conditions().contains(&"trunk"));
    let _again = Carrier::start_on(port, "SHA-256", 6).await;
    // Longest: an attempt under way, 8 s, and the second wait, 10 s and a quarter.
    let back = Instant::now();
    while edge.sip.statuses()[0].registration != Some("registered") {
        assert!(back.elapsed() < Duration::from_secs(25), "{:?}", edge.sip.statuses());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_registered(&edge).await;
    is_reached(&mut edge, &other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_user_is_told_as_such_and_a_dead_registrar_as_another() {
    let kamailio = Carrier::start("MD5").await;
    let text = trunk(kamailio.port, "kigali-edge", "udp")
        .replace("username = \"kigali-edge\"", "username = \"kigali-edge\"\nregister_every = \"60s\"");
    let bench = Bench::start(&text).await;
    until_registered(&bench).await;
    kamailio.end();
    for _ in 0..300 {
        if bench.sip.statuses()[0].options == "down" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status = bench.sip.statuses().remove(0);
    assert_eq!((status.options, status.registration), ("down", Some("registered")), "it holds until its time is over");
    assert!(status.words.is_some_and(|words| words.contains("OPTIONS")), "{status:?}");
    assert_eq!(bench.sip.conditions(), ["trunk"]);
}
