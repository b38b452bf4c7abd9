//! Calls that the box makes: SIPp answers them, or refuses, or challenges.

use std::process::Stdio;
use std::time::Duration;

use sauti::sip::{DialogError, DialogEvent, Place};
use sauti_core::pii::Pii;
use tokio::process::{Child, Command};

use super::bench::{ANSWER, Bench, OFFER, Peer, event, shown};
use super::calls::reply;

fn trunk(port: u16, more: &str) -> String {
    format!(
        "[sip]\nudp = \"127.0.0.1:0\"\n[[trunk]]\nname = \"out\"\noutbound_proxy = \"127.0.0.1:{port}\"\n\
         options_every = \"0s\"\n{more}"
    )
}

fn call() -> Place {
    Place { trunk: "out".into(), target: Pii::new("+250780000001"), offer: OFFER.to_owned(), from: None }
}

/// A free UDP port, for a program that takes one as an argument.
fn port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn sipp(port: u16) -> (Child, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut sipp = Command::new("sipp");
    sipp.args(["-sn", "uas", "-i", "127.0.0.1", "-mi", "127.0.0.1", "-p", &port.to_string(), "-nostdin"]);
    sipp.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    (sipp.spawn().expect("sipp is installed by `.ci/setup tests`"), folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sipp_picks_up_and_we_hang_up() {
    let port = port();
    let (_sipp, _folder) = sipp(port);
    let bench = Bench::start(&trunk(port, "")).await;
    // SIPp needs a moment to listen; the INVITE is repeated until it does
    let (dialog, mut events) = bench.sip.place(call()).await.unwrap();
    let rings = tokio::time::timeout(Duration::from_secs(20), events.recv()).await.expect("SIPp listens");
    assert!(matches!(rings, Some(DialogEvent::Ringing { sdp: None })));
    let DialogEvent::Confirmed { sdp } = event(&mut events).await else { panic!() };
    assert!(shown(sdp.as_ref()).unwrap().contains("m=audio"));
    dialog.bye().await.unwrap();
    drop(dialog);
    bench.idle(Duration::from_secs(75)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_is_answered_once_and_a_refusal_is_told() {
    let peer_socket = port();
    let mut bench = Bench::start(&trunk(peer_socket, "username = \"kigali-edge\"\n")).await;
    let mut peer = Peer::bound(peer_socket, bench.udp()).await;
    let (dialog, mut events) = bench.sip.place(call()).await.unwrap();
    let first = peer.until("INVITE").await;
    assert!(first.first.starts_with("INVITE sip:+250780000001@127.0.0.1"));
    assert!(first.header("From").unwrap().contains("kigali-edge@"), "{first:?}");
    assert!(first.header("Via").unwrap().contains(&format!("127.0.0.1:{}", bench.udp().port())), "{first:?}");
    let challenge =
        "Proxy-Authenticate: Digest realm=\"carrier\", nonce=\"abc\", opaque=\"def\", algorithm=MD5, qop=\"auth\"";
    peer.send(&reply(&first, 407, challenge)).await;
    peer.until("ACK").await;
    let second = peer.until("INVITE").await;
    let credentials = second.header("Proxy-Authorization").unwrap();
    assert!(
        credentials.contains("username=\"kigali-edge\"") && credentials.contains("opaque=\"def\""),
        "{credentials}"
    );
    assert!(!credentials.contains("canary"));
    peer.send(&reply(&second, 486, "Retry-After: 30")).await;
    peer.until("ACK").await;
    assert!(
        matches!(event(&mut events).await, DialogEvent::Refused { code: 486, retry_after: Some(after) } if after.as_secs() == 30)
    );
    assert!(dialog.bye().await.is_ok() && events.recv().await.is_none());
    // a challenge that nobody can read ends the call as well, and leaves nothing behind
    let (_dialog, mut events) = bench.sip.place(call()).await.unwrap();
    let third = peer.until("INVITE").await;
    peer.send(&reply(&third, 407, "Proxy-Authenticate: Digest realm=\"carrier\", what")).await;
    assert!(matches!(event(&mut events).await, DialogEvent::Broken(_)));
    assert!(events.recv().await.is_none() && bench.sip.tables().dialogs == 0);
    bench.calls.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_up_while_it_rings_is_a_cancel() {
    let peer_socket = port();
    let bench = Bench::start(&trunk(peer_socket, "")).await;
    let mut peer = Peer::bound(peer_socket, bench.udp()).await;
    let (dialog, mut events) = bench.sip.place(call()).await.unwrap();
    let invite = peer.until("INVITE").await;
    let own = peer.own();
    peer.send(&reply(
        &invite,
        183,
        &format!("Contact: <sip:x@{own}>\r\nContent-Type: application/sdp\r\n\r\n{ANSWER}"),
    ))
    .await;
    let DialogEvent::Ringing { sdp } = event(&mut events).await else { panic!() };
    assert_eq!(shown(sdp.as_ref()), Some(ANSWER), "early media is told");
    let ending = tokio::spawn(async move { dialog.bye().await });
    let cancel = peer.until("CANCEL").await;
    peer.send(&reply(&cancel, 200, "")).await;
    peer.send(&reply(&invite, 487, "")).await;
    peer.until("ACK").await;
    ending.await.unwrap().unwrap();
    assert!(matches!(event(&mut events).await, DialogEvent::Refused { code: 487, .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_called_is_an_error_at_once() {
    let bench = Bench::start(&trunk(5060, "")).await;
    let nobody = Place { trunk: "none".into(), ..call() };
    assert_eq!(bench.sip.place(nobody).await.map(|_| ()), Err(DialogError::Unsupported));
    let injected = Place { target: Pii::new("a>\r\nX: y"), ..call() };
    assert_eq!(bench.sip.place(injected).await.map(|_| ()), Err(DialogError::Unsupported));
    assert_eq!(bench.sip.tables().dialogs, 0);
}
