//! What no good peer of a trunk sends, and ports that are not to be had: calls that run go on, and the next one is served.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket as Plain};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use sauti::simulate::loopback::phones::Lived;
use sauti::simulate::loopback::trunk;
use sauti_sim::audio::speech::Speech;
use sauti_sim::caller::person::Step;
use sauti_sim::trunk::caller::{CallEvent, Transport};
use sauti_sim::trunk::message::Message;
use sauti_sim::whatsapp::calls::Cause;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};

use crate::conversations::{judge_conversation, script};
use crate::peer::{Peer, options};
use crate::trunk::{carrier, plan};
use crate::world::{Options, SOON, World, model, until, until_async};

/// Who does not answer within this does not: where an answer is due it has more time.
const QUIET: Duration = Duration::from_millis(300);

/// Below the ports that the kernel gives to others.
const FEW_PORTS: RangeInclusive<u16> = 28_000..=28_007;
const ONE_PAIR: RangeInclusive<u16> = 28_010..=28_011;
/// Longest drain of a port that packets still come to, and some time for a busy machine.
const DRAINED_WITHIN: Duration = Duration::from_secs(45);

/// A trunk that may send what it likes: the guard's patience is another test's.
fn talkative(name: &'static str, speech: &Speech) -> Options {
    let script = script(speech);
    Options { model: Arc::new(move |facts| model(script.clone(), facts)), ..options(name) }
}

/// A conversation over the trunk, of which every word is judged.
fn converse(world: &World, who: u32, speech: &Speech) -> JoinHandle<Lived> {
    let line = Arc::clone(&speech.caller("en").first().expect("a line").samples);
    let says = vec![Step::Listen, Step::Say(line), Step::Listen, Step::HangUp];
    let carrier = carrier(world, Transport::Udp);
    tokio::spawn(trunk::call(plan(who, says), carrier, Arc::clone(&world.tally)))
}

async fn judge(world: &World, lived: &Lived) {
    assert_eq!((&lived.trouble, lived.over), (&None, Some(Cause::HungUp)));
    let sessions = world.sessions().await;
    let spoken: Vec<_> = sessions.iter().filter(|session| !session.record.spoken.is_empty()).collect();
    let [session] = &*spoken else { panic!("{} sessions that spoke", spoken.len()) };
    judge_conversation(lived, session);
}

/// A packet of A-law that would be loud.
fn noise(ssrc: u32, number: u32) -> Vec<u8> {
    let [.., n2, n3] = number.to_be_bytes();
    let mut packet = vec![0x80, 8, n2, n3];
    packet.extend_from_slice(&number.wrapping_mul(160).to_be_bytes());
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend((0..160_u32).map(|n| (n.wrapping_mul(2_654_435_761).wrapping_add(number) >> 13).to_le_bytes()[0]));
    packet
}

/// Sends such packets to `ports`, 5 ms apart from each of its sockets, until it is dropped.
fn intruders(ports: Vec<u16>, ssrc: u32) -> JoinSet<()> {
    let mut intruders = JoinSet::new();
    for from in [[127, 0, 0, 1], [127, 0, 0, 3], [127, 0, 0, 4]] {
        let ports = ports.clone();
        intruders.spawn(async move {
            let socket = UdpSocket::bind(SocketAddr::from((from, 0))).await.expect("a socket");
            for number in 0.. {
                for port in &ports {
                    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
                    // its own source, that of the call, and what is no packet at all
                    for bytes in [noise(7, number), noise(ssrc, number), vec![0x80; 40], vec![0; 3]] {
                        socket.send_to(&bytes, to).await.ok();
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    intruders
}

/// Somebody known to the box who writes SIP by hand.
struct Writer {
    socket: UdpSocket,
    far: SocketAddr,
    count: u32,
}

impl Writer {
    async fn new(world: &World) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        Self { socket, far: world.daemon.bound("sip.udp"), count: 0 }
    }

    /// A request that nothing is wrong with.
    fn request(&mut self, method: &str, more: &str, body: &str) -> String {
        self.count += 1;
        let (own, far, count) = (self.socket.local_addr().expect("an address"), self.far, self.count);
        let number = "250780000001";
        format!(
            "{method} sip:100@{far} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK-{count};rport\r\n\
             From: <sip:{number}@127.0.0.1>;tag=t{count}\r\nTo: <sip:100@{far}>\r\nCall-ID: bad-{count}@{own}\r\n\
             CSeq: 1 {method}\r\nContact: <sip:{number}@{own}>\r\nMax-Forwards: 70\r\n{more}\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    async fn send(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.far).await.expect("loopback carries 64 KB");
    }

    /// The final answer to the last request, if one comes within [`QUIET`].
    async fn answer(&self) -> Option<u16> {
        self.answer_within(QUIET).await
    }

    /// The final answer to the last request; `None` when nothing comes for so long.
    async fn answer_within(&self, patience: Duration) -> Option<u16> {
        let (own, mut buffer) = (format!("bad-{}@", self.count), vec![0; 65_536]);
        loop {
            let got = tokio::time::timeout(patience, self.socket.recv(&mut buffer)).await;
            let length = got.ok()?.expect("loopback");
            let message = std::str::from_utf8(&buffer[..length]).ok().and_then(Message::parse)?;
            let ours = message.header("Call-ID").is_some_and(|id| id.starts_with(&own));
            if let Some(status) = message.status().filter(|status| ours && *status >= 200) {
                return Some(status);
            }
        }
    }

    /// The box still answers, after whatever is still on its way.
    async fn lives(&mut self, after: &str) {
        let options = self.request("OPTIONS", "", "");
        self.send(options.as_bytes()).await;
        let deadline = tokio::time::Instant::now() + SOON;
        while tokio::time::Instant::now() < deadline {
            if self.answer().await == Some(200) {
                return;
            }
            self.send(options.as_bytes()).await;
        }
        panic!("no answer to OPTIONS after {after}");
    }
}

const GOOD: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 23000 RTP/AVP 8\r\n\
                    a=rtpmap:8 PCMA/8000\r\n";

/// Descriptions that no call can come of: a word for what is wrong, and the text.
fn absurd() -> Vec<(&'static str, String)> {
    let with = |from: &str, to: &str| GOOD.replace(from, to);
    vec![
        ("no description", "hello".to_owned()),
        ("nothing but a version", "v=0\r\n".to_owned()),
        ("no audio", with("m=audio", "m=video")),
        ("audio switched off", with("audio 23000", "audio 0")),
        ("a port that is none", with("audio 23000", "audio 99999")),
        ("a negative port", with("audio 23000", "audio -5")),
        ("no formats", with("RTP/AVP 8", "RTP/AVP")),
        ("a format beyond a byte", with("RTP/AVP 8", "RTP/AVP 4096")),
        ("another profile", with("RTP/AVP 8", "TCP/MSRP *")),
        (
            "a codec of nobody",
            with("PCMA/8000", "X-NONE/8000").replace("AVP 8", "AVP 96").replace("rtpmap:8", "rtpmap:96"),
        ),
        ("a group's address", with("c=IN IP4 127.0.0.1", "c=IN IP4 224.0.0.1")),
        ("everybody's address", with("c=IN IP4 127.0.0.1", "c=IN IP4 255.255.255.255")),
        ("a name for an address", with("c=IN IP4 127.0.0.1", "c=IN IP4 media.example.org")),
        ("another family", with("c=IN IP4 127.0.0.1", "c=IN IP6 2001:db8::1")),
        ("no address", with("c=IN IP4 127.0.0.1\r\n", "")),
        ("a thousand sections", GOOD.to_owned() + &"m=audio 23000 RTP/AVP 8\r\n".repeat(1_000)),
        ("more than is read", GOOD.to_owned() + &"a=x\r\n".repeat(8_000)),
        ("bytes that are no text", GOOD.to_owned() + "a=\u{0}\u{1}\u{7f}\r\nm=\u{0}\r\n".repeat(100).as_str()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_comes_beside_it_a_call_that_runs_is_heard_to_its_end() {
    let speech = Speech::load().expect("speech is embedded");
    let options = Options { limits: "max_calls = 4\n", ports: FEW_PORTS, ..talkative("trunk-bad-input", &speech) };
    let world = World::start(options).await;
    let call = converse(&world, 1, &speech);
    until("they talk", || !world.daemon.entries("CONVERSATION_STARTED").is_empty()).await;
    let mut ports = Vec::new();
    until("RTCP shares its port, and the other one was let go", || {
        ports = world.daemon.udp_ports(&FEW_PORTS);
        ports.len() == 1
    })
    .await;
    // The phone's source, which its packets tell whoever sees them.
    let intruders = intruders(ports, 2 ^ 0x5A5A_1234);
    let mut writer = Writer::new(&world).await;
    let mut call_is_over = false;
    while !call_is_over {
        let invite = writer.request("INVITE", "", GOOD);
        // all that ends before the end of its body is cut short
        for length in (1..invite.len() - 1).step_by(41) {
            writer.send(&invite.as_bytes()[..length]).await;
        }
        writer.lives("a message cut short").await;
        let long = "x".repeat(40_000);
        let many: String = (0..900).map(|n| format!("Via: SIP/2.0/UDP 192.0.2.1:{n};branch=z9hG4bK{n}\r\n")).collect();
        for more in [format!("X-Long: {long}\r\n"), many, format!("Subject: {}\r\n", "\u{0}\u{ff}".repeat(900))] {
            let invite = writer.request("INVITE", &more, "hello");
            writer.send(invite.as_bytes()).await;
            assert_ne!(writer.answer().await, Some(200));
        }
        writer.send("A".repeat(60_000).as_bytes()).await;
        writer.send(&[0xff; 1_400]).await;
        writer.lives("oversized messages").await;
        call_is_over = call.is_finished();
    }
    drop(intruders);
    let lived = call.await.expect("the phone lives");
    judge(&world, &lived).await;
    let strangers = world.metric(r#"sauti_packets_total{kind="stranger"}"#).await;
    assert!(strangers > 1_000.0, "{strangers} packets of strangers");
    let rows = world.rows();
    // A box whose lanes are late beside a running call says 503 before it reads an offer.
    let unreadable = rows.iter().filter(|row| row.outcome.as_deref() == Some("refused_config")).count();
    assert!(unreadable > 0, "some were looked at");
    let refusals = [Some("refused_config"), Some("refused_capacity")];
    let refused = rows.iter().filter(|row| refusals.contains(&row.outcome.as_deref())).count();
    assert_eq!((rows.len() - refused, rows[0].outcome.as_deref()), (1, Some("completed")), "nothing of it was a call");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_descriptions_are_refused_and_a_stream_without_end_is_closed() {
    let world = World::start(options("trunk-absurd")).await;
    let mut writer = Writer::new(&world).await;
    for (what, sdp) in absurd() {
        let invite = writer.request("INVITE", "", &sdp);
        writer.send(invite.as_bytes()).await;
        let code = writer.answer_within(SOON).await;
        assert!(matches!(code, Some(400 | 413 | 415 | 488 | 513)), "{what}: {code:?}");
        writer.lives(what).await;
    }
    until_async("no call is left", async || world.metric("sauti_table_calls").await == 0.0).await;
    let rss = world.daemon.footprint().rss_kib;
    let head = writer.request("INVITE", "", "").replace("/UDP", "/TCP");
    let endless = [
        head.replace("Content-Length: 0\r\n\r\n", "X-Long: "),
        head.replace("Content-Length: 0", "Content-Length: 4294967295"),
        head.replace("Content-Length: 0", "Content-Length: -1"),
        "\u{0}".to_owned(),
    ];
    for start in endless {
        let mut stream = TcpStream::connect(world.daemon.bound("sip.tcp")).await.expect("the box listens");
        stream.write_all(start.as_bytes()).await.expect("it reads");
        let more = vec![b'x'; 64 * 1024];
        let flood = async {
            // 32 MB, or until it has had enough
            for _ in 0..512 {
                if stream.write_all(&more).await.is_err() {
                    return true;
                }
            }
            // Some word may come before the end.
            let mut buffer = [0; 4096];
            while let Ok(Ok(length)) = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut buffer)).await {
                if length == 0 {
                    return true;
                }
            }
            false
        };
        let closed = tokio::time::timeout(SOON, flood).await.unwrap_or(false);
        assert!(closed, "the stream is closed: {}", start.chars().take(40).collect::<String>());
        writer.lives("a stream without end").await;
    }
    let grown = world.daemon.footprint().rss_kib.saturating_sub(rss);
    assert!(grown < 16 * 1024, "memory grew by {grown} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_port_a_caller_is_told_when_to_try_again_and_then_is_served() {
    let ports = FEW_PORTS;
    let options = Options { limits: "max_calls = 4\n", ports: ports.clone(), ..options("trunk-no-ports") };
    let world = World::start(options).await;
    until("its own call is over", || world.daemon.udp_ports(&ports).is_empty()).await;
    let bind = |port| Plain::bind((Ipv4Addr::LOCALHOST, port)).expect("a port of the range");
    let mut taken: Vec<_> = ports.clone().map(bind).collect();
    let mut first = Peer::dial(&world, 1, "100", |sdp| sdp).await;
    let refused = first.until(|event| matches!(event, CallEvent::Refused { .. })).await;
    assert_eq!(refused, Some(CallEvent::Refused { status: 503, retry_after: Some(5) }));
    // Another program keeps every second one, and the next pair is whole (peers §3, bug 50).
    let mut number = 0;
    taken.retain(|_| {
        number += 1;
        number % 2 == 0 && number < 8
    });
    let mut second = Peer::dial(&world, 2, "100", |sdp| sdp).await;
    second.answered().await;
    second.hears().await;
    second.hang_up().await;
    assert_eq!(second.towards.map(|to| to.port()), Some(ports.end() - 1), "the only whole pair");
    drop(taken);
    until("both are written down", || world.rows().iter().filter(|row| row.outcome.is_some()).count() == 2).await;
    let ends: Vec<_> = world.rows().into_iter().filter_map(|row| Some((row.outcome?, row.fault?))).collect();
    let wanted = [("refused_config", "operator"), ("completed", "none")];
    assert_eq!(ends, wanted.map(|(outcome, fault)| (outcome.to_owned(), fault.to_owned())));
    for peer in [first, second] {
        assert_eq!(peer.call.faults, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_stops_sending_keeps_its_port_for_a_while_and_harms_nobody_after_it() {
    let speech = Speech::load().expect("speech is embedded");
    let options = Options { limits: "max_calls = 1\n", ports: ONE_PAIR, ..talkative("trunk-never-stops", &speech) };
    let world = World::start(options).await;
    until("its own call is over", || world.daemon.udp_ports(&ONE_PAIR).is_empty()).await;
    let mut first = Peer::dial(&world, 1, "100", |sdp| sdp).await;
    first.answered().await;
    first.rest(Duration::from_millis(500)).await;
    first.hang_up().await;
    assert_eq!(first.towards.map(|to| to.port()), Some(*ONE_PAIR.start()));
    // The other port of the pair was given back when the answer shared the first one; somebody else takes it.
    let _other = Plain::bind((Ipv4Addr::LOCALHOST, *ONE_PAIR.end())).expect("it is free");
    let going_on = intruders(vec![*ONE_PAIR.start()], 7);
    // Who calls meanwhile is refused: a port is not handed out while packets of another call come to it.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut second = Peer::dial(&world, 2, "100", |sdp| sdp).await;
    let refused = second.until(|event| matches!(event, CallEvent::Refused { .. })).await;
    assert_eq!(refused, Some(CallEvent::Refused { status: 503, retry_after: Some(5) }));
    let begun = tokio::time::Instant::now();
    until_async("the port is free though packets come", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(begun.elapsed() < DRAINED_WITHIN, "it drains for ever");
        // Patience of its own: `until` has less.
        world.daemon.udp_ports(&ONE_PAIR).is_empty() || begun.elapsed() > Duration::from_secs(18)
    })
    .await;
    until("the port is free though packets come", || world.daemon.udp_ports(&ONE_PAIR).is_empty()).await;
    world.sessions().await;
    let lived = converse(&world, 3, &speech).await.expect("the phone lives");
    drop(going_on);
    judge(&world, &lived).await;
    assert!(world.metric(r#"sauti_packets_total{kind="stranger"}"#).await > 500.0, "they came");
}
