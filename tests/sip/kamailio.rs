//! kamailio (Debian) as the registrar and proxy of a carrier: it asks for a digest, and routes calls both ways.

use std::process::Stdio;
use std::time::{Duration, Instant};

use sauti::sip::{DialogEvent, Place};
use sauti_core::pii::Pii;
use tokio::process::{Child, Command};

use super::bench::{ANSWER, Bench, OFFER, event};

/// A carrier: users `kigali-edge` and `other` with the canary as their password.
const SCRIPT: &str = r#"
debug=1
log_stderror=no
fork=no
children=2
auto_aliases=no
listen=udp:127.0.0.1:PORT
listen=tcp:127.0.0.1:PORT
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "textops.so"
loadmodule "maxfwd.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "auth.so"
loadmodule "siputils.so"
modparam("usrloc", "db_mode", 0)
modparam("registrar", "max_expires", EXPIRES)
modparam("registrar", "min_expires", 1)
modparam("auth", "algorithm", "ALGORITHM")
request_route {
    if (!mf_process_maxfwd_header("10")) { sl_send_reply("483", "Too Many Hops"); exit; }
    if (is_method("OPTIONS") && uri == myself) { sl_send_reply("200", "OK"); exit; }
    if (is_method("REGISTER")) {
        if (!pv_auth_check("127.0.0.1", "canary-trunk-password", "0", "0")) { auth_challenge("127.0.0.1", "1"); exit; }
        save("location");
        exit;
    }
    if (has_totag()) {
        if (loose_route()) { t_relay(); exit; }
        if (is_method("ACK")) { if (t_check_trans()) { t_relay(); } exit; }
        sl_send_reply("404", "Not Here");
        exit;
    }
    if (is_method("CANCEL")) { if (t_check_trans()) { t_relay(); } exit; }
    t_check_trans();
    if (is_method("INVITE")) {
        if (!pv_proxy_authenticate("127.0.0.1", "canary-trunk-password", "0")) { proxy_challenge("127.0.0.1", "1"); exit; }
        consume_credentials();
        record_route();
        $rU = $(rU{re.subst,/^\+//});
        if ($rU == "35690000002") { $rU = "kigali-edge"; }
        if (!lookup("location")) { sl_send_reply("404", "Not Found"); exit; }
        t_relay();
        exit;
    }
    sl_send_reply("405", "Method Not Allowed");
}
"#;

/// Ends with its workers: the first process ends them when it is asked to, not when it is killed.
pub(super) struct Carrier(Child);

impl Carrier {
    pub(super) fn end(&self) {
        if let Some(pid) = self.0.id().and_then(|pid| i32::try_from(pid).ok()) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).ok();
        }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.end();
    }
}

pub(super) async fn carrier(algorithm: &str) -> (Carrier, u16, tempfile::TempDir) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (carrier, folder) = carrier_on(port, algorithm, 120).await;
    (carrier, port, folder)
}

/// One on this port that grants registrations of so many seconds at most.
async fn carrier_on(port: u16, algorithm: &str, expires: u32) -> (Carrier, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("carrier.cfg");
    let text = SCRIPT.replace("PORT", &port.to_string()).replace("ALGORITHM", algorithm);
    std::fs::write(&script, text.replace("EXPIRES", &expires.to_string())).unwrap();
    let mut kamailio = Command::new("kamailio");
    kamailio.args(["-f", &script.display().to_string(), "-DD", "-E", "-m", "32", "-M", "4", "-Y"]).arg(folder.path());
    kamailio.stdout(Stdio::null()).stderr(std::fs::File::create(folder.path().join("log")).unwrap());
    let child = Carrier(kamailio.spawn().expect("kamailio is installed by `.ci/setup tests`"));
    for _ in 0..100 {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return (child, folder);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{}", std::fs::read_to_string(folder.path().join("log")).unwrap_or_default());
}

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
    let (_kamailio, port, _folder) = carrier(algorithm).await;
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
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (kamailio, _folder) = carrier_on(port, "SHA-256", 6).await;
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
    let (_again, _other_folder) = carrier_on(port, "SHA-256", 6).await;
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
    let (kamailio, port, _folder) = carrier("MD5").await;
    let text = trunk(port, "kigali-edge", "udp")
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
