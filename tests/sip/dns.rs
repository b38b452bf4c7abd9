//! A carrier by its name: dnsmasq (Debian) has its SRV and A records, and the address in front is dead.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sauti::sip::Place;
use sauti_core::pii::Pii;
use tokio::net::UdpSocket;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::bench::{Bench, Message, OFFER};
use super::carrier::Carrier;
use super::kamailio::{is_reached, until_registered};

/// A name server with these options, and its address.
async fn name_server(records: &[String]) -> (Child, SocketAddr) {
    let address = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut dnsmasq = Command::new("dnsmasq");
    dnsmasq.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv"]);
    dnsmasq.args(["--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1", "--local=/example.test/"]);
    dnsmasq.arg(format!("--port={}", address.port())).args(records).kill_on_drop(true);
    let child = dnsmasq.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.expect("dnsmasq is installed by `.ci/setup tests`");
    for _ in 0..100 {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return (child, address);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("dnsmasq never listened")
}

/// The records of a carrier: `dead` is wanted first, `alive` is there.
fn records(transport: &str, port: u16) -> Vec<String> {
    vec![
        format!("--srv-host=_sip._{transport}.carrier.example.test,dead.example.test,{port},10,100"),
        format!("--srv-host=_sip._{transport}.carrier.example.test,alive.example.test,{port},20,100"),
        "--host-record=dead.example.test,127.0.0.2".to_owned(),
        "--host-record=alive.example.test,127.0.0.1".to_owned(),
    ]
}

fn trunk(registrar: &str, user: &str, transport: &str) -> String {
    format!(
        "[sip]\nudp = \"127.0.0.1:0\"\ntcp = \"127.0.0.1:0\"\n[[trunk]]\nname = \"carrier\"\nregistrar = \"{registrar}\"\n\
         username = \"{user}\"\ntransport = \"{transport}\"\noptions_every = \"1s\"\n[[trunk.route]]\ncalled = \"{user}\"\n"
    )
}

/// An address that hears everything and, until it is told to, answers nothing.
async fn silent(address: SocketAddr) -> (mpsc::Receiver<String>, Arc<AtomicBool>) {
    let socket = UdpSocket::bind(address).await.unwrap();
    let (heard, methods) = mpsc::channel(4_096);
    let answers = Arc::new(AtomicBool::new(false));
    let awake = Arc::clone(&answers);
    tokio::spawn(async move {
        let mut buffer = [0; 8_192];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let message = Message::parse(&buffer[..length]);
            heard.try_send(message.first.split(' ').next().unwrap_or_default().to_owned()).ok();
            if awake.load(Ordering::Relaxed) {
                let mut reply = "SIP/2.0 200 OK\r\n".to_owned();
                for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
                    reply += &format!("{name}: {}\r\n", message.header(name).unwrap_or_default());
                }
                reply += "Content-Length: 0\r\n\r\n";
                socket.send_to(reply.as_bytes(), from).await.ok();
            }
        }
    });
    (methods, answers)
}

fn drained(methods: &mut mpsc::Receiver<String>) -> Vec<String> {
    std::iter::from_fn(|| methods.try_recv().ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_udp_a_silent_address_in_front_is_left_for_the_next_and_taken_again_when_it_answers() {
    let kamailio = Carrier::start("MD5").await;
    let port = kamailio.port;
    let (mut methods, answers) = silent(SocketAddr::from(([127, 0, 0, 2], port))).await;
    let (_dns, server) = name_server(&records("udp", port)).await;
    let mut edge = Bench::with(&trunk("carrier.example.test", "kigali-edge", "udp"), Vec::new(), vec![server]).await;
    let begun = Instant::now();
    // 8 s for the silent one.
    while edge.sip.statuses()[0].registration != Some("registered") || edge.sip.statuses()[0].options != "up" {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", edge.sip.statuses());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let asked = drained(&mut methods);
    assert!(asked.iter().any(|method| method == "REGISTER"), "the one in front was asked first: {asked:?}");
    let other = Bench::with(&trunk("carrier.example.test", "other", "udp"), Vec::new(), vec![server]).await;
    while other.sip.statuses()[0].registration != Some("registered") {
        assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", other.sip.statuses());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drained(&mut methods);
    is_reached(&mut edge, &other).await;
    let asked = drained(&mut methods);
    assert!(!asked.iter().any(|method| method == "INVITE"), "calls do not try what is known to be silent: {asked:?}");
    // It comes back: one question of OPTIONS finds out, and the next call goes where the carrier wants it.
    answers.store(true, Ordering::Relaxed);
    let back = Instant::now();
    loop {
        let call = Place { trunk: "carrier".into(), target: Pii::new("100"), offer: OFFER.to_owned(), from: None };
        drop(other.sip.place(call).await.unwrap());
        tokio::time::sleep(Duration::from_millis(300)).await;
        if drained(&mut methods).iter().any(|method| method == "INVITE") {
            break;
        }
        assert!(back.elapsed() < Duration::from_secs(15), "it is never taken again");
    }
    assert_eq!(edge.sip.statuses()[0].registration, Some("registered"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tcp_a_closed_port_is_left_for_the_next_at_once_by_srv_and_by_a_records() {
    let kamailio = Carrier::start("SHA-256").await;
    let port = kamailio.port;
    let mut all = records("tcp", port);
    all.extend(["127.0.0.2", "127.0.0.1"].map(|address| format!("--host-record=pair.example.test,{address}")));
    // A domain that says that it has no SIP over TCP is believed, whatever address it has.
    all.push("--srv-host=_sip._tcp.none.example.test,.,0,0,0".to_owned());
    all.push("--host-record=none.example.test,127.0.0.1".to_owned());
    let (_dns, server) = name_server(&all).await;
    for registrar in ["carrier.example.test".to_owned(), format!("pair.example.test:{port}")] {
        let mut edge = Bench::with(&trunk(&registrar, "kigali-edge", "tcp"), Vec::new(), vec![server]).await;
        let other = Bench::with(&trunk(&registrar, "other", "tcp"), Vec::new(), vec![server]).await;
        until_registered(&edge).await;
        until_registered(&other).await;
        is_reached(&mut edge, &other).await;
        edge.sip.close().await;
        other.sip.close().await;
    }
    let none = Bench::with(&trunk("none.example.test", "kigali-edge", "tcp"), Vec::new(), vec![server]).await;
    let begun = Instant::now();
    while none.sip.statuses()[0].registration != Some("unreachable") {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", none.sip.statuses());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
