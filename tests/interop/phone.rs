//! The emulated caller, judged by another stack, and calling a box that nobody can reach from outside.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use sauti::simulate::loopback::meta::{MEDIA_EVERY, ToPhone};
use sauti_core::media::frame::SAMPLE_RATE;
use sauti_core::pii::Pii;
use sauti_media::webrtc::Certificate;
use sauti_media::webrtc_sdp::OfferShape;
use sauti_sim::caller::person::{Person, Step};
use sauti_sim::caller::phone::Phone;
use sauti_sim::whatsapp::person::Person as Identity;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::ears::{self, CALLER, Words};
use crate::handset::Handset;
use crate::namespace::Namespace;
use crate::outside;
use crate::stage::Stage;

const PHONE: Ipv4Addr = Ipv4Addr::new(10, 77, 22, 1);
const JUDGE: Ipv4Addr = Ipv4Addr::new(10, 77, 22, 2);
/// The box, its router's inside, its router's outside, and the relay.
const NAT: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 77, 23, 2),
    Ipv4Addr::new(10, 77, 23, 1),
    Ipv4Addr::new(10, 77, 24, 1),
    Ipv4Addr::new(10, 77, 24, 2),
];

fn ring(socket: &UdpSocket, script: Vec<Step>) -> (Phone, String) {
    let certificate = Certificate::generate().expect("a certificate");
    let local = socket.local_addr().expect("a bound socket");
    // A candidate that leads nowhere, before the one that works (RFC 3849).
    let dead: SocketAddr = "[2001:db8::3480]:3480".parse().expect("an address");
    let shape = OfferShape { extra_candidates: vec![dead], ..OfferShape::default() };
    Phone::dial(Instant::now(), local, &certificate, &shape, Person::new(script)).expect("the phone can dial")
}

fn caller_lines(words: &Words) -> Vec<Step> {
    let mut script = vec![Step::Pause(Duration::from_millis(500))];
    script.extend(CALLER.iter().map(|name| Step::Say(words.line(name).samples)));
    script
}

#[test]
fn aiortc_answers_the_emulated_caller_and_both_understand_each_other() {
    let _alone = outside::alone();
    let Some(python) = outside::python("aiortc, pystoi, soundfile") else { return };
    let (Some(here), Some(there)) = (Namespace::new("phone"), Namespace::new("judge")) else { return };
    here.cable(PHONE, &there, JUDGE);
    here.block_on(async || judged(&python, &there).await);
}

/// The desk's address, from the first line of the program that is one.
async fn desk_of(child: &mut tokio::process::Child) -> String {
    let stdout = child.stdout.take().expect("its standard output is a pipe");
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.expect("it says where it is");
    let line = line.expect("a line").expect("not the end");
    // What it says at the end must find an open pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    line.strip_prefix("desk ").expect("the line names its desk").to_owned()
}

async fn judged(python: &Path, there: &Namespace) {
    let words = Words::load();
    let folder = tempfile::tempdir().expect("a folder");
    let [_, answer @ ..] = ears::AGENT;
    let agent = folder.path().join("agent.wav");
    let mut make = outside::command(python);
    outside::run(make.arg("make_wav.py").arg(&agent).args(answer), Duration::from_secs(60)).await;
    let mut answerer = outside::command(Path::new("ip"));
    answerer.args(["netns", "exec", there.name()]).arg(python).arg("aiortc_answerer.py");
    answerer.args(["--listen", &format!("{JUDGE}:0"), "--speak-after", "500", "--seconds", "30"]);
    answerer.arg("--speech").arg(&agent).arg("--out").arg(folder.path().join("judge"));
    answerer.stdout(Stdio::piped());
    let mut answerer = answerer.spawn().expect("aiortc starts");
    let desk = desk_of(&mut answerer).await;

    let socket = UdpSocket::bind((PHONE, 0)).expect("a socket");
    let mut script = caller_lines(&words);
    script.extend([Step::Listen, Step::Pause(Duration::from_millis(500)), Step::HangUp]);
    let (phone, offer) = ring(&socket, script);
    let mut handset = Handset::new(phone, socket);
    rustls::crypto::ring::default_provider().install_default().ok();
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let body = serde_json::json!({"type": "offer", "sdp": offer});
    let posted = http.post(format!("{desk}/offer")).json(&body).send().await.expect("the desk hears");
    assert_eq!(posted.status(), 201);
    let answer = loop {
        let reply = http.get(format!("{desk}/answer?call=1")).send().await.expect("the desk answers");
        if reply.status() == 200 {
            break reply.json::<serde_json::Value>().await.expect("an answer");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let sdp = answer["sdp"].as_str().expect("an answer with SDP");
    handset.phone.answered(Instant::now(), sdp).expect("the phone takes it");
    handset.live(Duration::from_secs(15), |phone| phone.connected().is_some()).await;
    handset.phone.accepted(Instant::now(), Duration::from_secs(40));
    handset.live(Duration::from_secs(45), |phone| phone.person.is_over()).await;
    http.post(format!("{desk}/bye?call=1")).send().await.expect("the desk hears");
    let status = tokio::time::timeout(Duration::from_secs(20), answerer.wait()).await;
    assert!(status.expect("aiortc ends").expect("with a status").success());
    handset.hang_up().await;

    assert_eq!(handset.phone.ear.odd, 0, "{:?}", handset.phone);
    let heard = folder.path().join("phone.wav");
    ears::write_wav(&heard, SAMPLE_RATE, &handset.phone.person.heard);
    ears::understood(python, [(&heard, &answer_names()), (&folder.path().join("judge.wav"), &CALLER)]).await;
}

fn answer_names() -> [&'static str; 2] {
    let [_, first, second] = ears::AGENT;
    [first, second]
}

#[test]
fn a_box_that_only_its_own_checks_get_out_of_is_called_through_its_nat() {
    let _alone = outside::alone();
    let (Some(inner), Some(router), Some(relay)) =
        (Namespace::new("inner"), Namespace::new("router"), Namespace::new("relay"))
    else {
        return;
    };
    let [address, inside, outer, far] = NAT;
    inner.cable(address, &router, inside);
    router.cable(outer, &relay, far);
    inner.ip(&format!("route add default via {inside}"));
    // The relay knows no way to the box, and would find the door shut: only answers to what went out come in.
    router.inside(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("the router may pass packets on"));
    router.run(&format!("iptables -t nat -A POSTROUTING -s {address} -j MASQUERADE"));
    router.run("iptables -P FORWARD DROP");
    router.run(&format!("iptables -A FORWARD -s {address} -j ACCEPT"));
    router.run("iptables -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT");
    let socket = relay.inside(|| UdpSocket::bind((far, 0)).expect("a socket at the relay"));
    inner.block_on(async move || through_nat(address, socket).await);
}

async fn through_nat(address: Ipv4Addr, socket: UdpSocket) {
    let words = Words::load();
    let stage = Stage::open("nat", words.script(), address).await;
    let mut script = vec![Step::Listen];
    script.extend(caller_lines(&words));
    script.push(Step::HangUp);
    let (phone, offer) = ring(&socket, script);
    let mut handset = Handset::new(phone, socket);
    let meta = stage.emulators.meta.clone();
    let mut line = meta.ring(Identity::test_caller(), Pii::new(offer), None).await.expect("it rings");
    let wacid = line.wacid.clone();
    let (mut told, mut reported) = (None, None);
    while !handset.phone.person.is_over() {
        handset
            .live(Duration::from_secs(40), |phone| {
                told = line.news.try_recv().ok();
                let media =
                    phone.ear.first_packet.is_some() && reported.is_none_or(|at: Instant| at.elapsed() >= MEDIA_EVERY);
                told.is_some() || media || phone.person.is_over()
            })
            .await;
        match told.take() {
            Some(ToPhone::Answer(sdp)) => {
                handset.phone.answered(Instant::now(), sdp.expose()).expect("the phone takes the answer");
            }
            Some(ToPhone::Accepted) => handset.phone.accepted(Instant::now(), Duration::from_secs(30)),
            Some(ToPhone::Over(cause)) => panic!("the call ended early: {cause:?}"),
            None => {
                reported = Some(Instant::now());
                meta.media(&wacid).await;
            }
        }
    }
    meta.hung_up(&wacid).await;
    assert_eq!((handset.phone.ear.odd, handset.phone.ear.missing_frames), (0, 0), "{:?}", handset.phone);
    assert!(handset.phone.person.first_heard().is_some(), "nothing was heard: {:?}", handset.phone);
    let left = stage.close().await;
    handset.hang_up().await;
    let received = left.one_good_call();
    let loudest = received.iter().map(|sample| sample.unsigned_abs()).max();
    assert!(loudest > Some(2_000), "the model heard nothing: {loudest:?}");
}
