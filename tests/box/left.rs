//! Calls of a trunk that a killed daemon left: at the next start each that stood gets its BYE, once.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use sauti_sim::openai::Script;
use sauti_sim::trunk::message::{Message, parameter};
use sauti_sim::whatsapp::person::Person;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::world::{Options, SOON, World, model, until, until_async};

/// How messages travel between this carrier and the box.
enum Wire {
    Udp(UdpSocket, SocketAddr),
    Tcp { stream: TcpStream, listener: TcpListener, read: Vec<u8> },
}

/// A carrier's half of one call, written by hand.
struct Caller {
    wire: Wire,
    own: SocketAddr,
    transport: &'static str,
    tag: String,
    call_id: String,
    number: String,
    answer: Option<Message>,
}

impl Caller {
    async fn new(transport: &'static str, who: u32, target: SocketAddr) -> Self {
        let (wire, own) = if transport == "UDP" {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
            let own = socket.local_addr().expect("an address");
            (Wire::Udp(socket, target), own)
        } else {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            let own = listener.local_addr().expect("an address");
            let stream = TcpStream::connect(target).await.expect("the box listens");
            (Wire::Tcp { stream, listener, read: Vec::new() }, own)
        };
        let number = Person::numbered(who).number.expose().to_owned();
        Self {
            wire,
            own,
            transport,
            tag: format!("tag{who}"),
            call_id: format!("canary-call-{who}"),
            number,
            answer: None,
        }
    }

    fn uri(&self) -> String {
        let transport = if self.transport == "UDP" { "" } else { ";transport=tcp" };
        format!("sip:{}@{}{transport}", self.number, self.own)
    }

    fn router(&self) -> String {
        let transport = if self.transport == "UDP" { "" } else { ";transport=tcp" };
        format!("<sip:{}{transport};lr>", self.own)
    }

    fn request(&self, start: String, to: &str, cseq: &str) -> Message {
        Message::new(start)
            .with(
                "Via",
                format!("SIP/2.0/{} {};branch=z9hG4bK{}{};rport", self.transport, self.own, self.tag, cseq.len()),
            )
            .with("Max-Forwards", "70")
            .with("From", format!("<sip:{}@{}>;tag={}", self.number, self.own.ip(), self.tag))
            .with("To", to)
            .with("Call-ID", self.call_id.as_str())
            .with("CSeq", cseq)
            .with("Contact", format!("<{}>", self.uri()))
    }

    async fn send(&mut self, message: &Message) {
        let bytes = message.to_wire();
        match &mut self.wire {
            Wire::Udp(socket, target) => drop(socket.send_to(&bytes, *target).await.expect("loopback")),
            Wire::Tcp { stream, .. } => stream.write_all(&bytes).await.expect("the stream is open"),
        }
    }

    /// The next message of the box; after a crash it comes over a stream of its own.
    async fn receive(&mut self) -> Message {
        let receiving = async {
            let mut buffer = [0; 8192];
            loop {
                match &mut self.wire {
                    Wire::Udp(socket, target) => {
                        let (length, from) = socket.recv_from(&mut buffer).await.expect("loopback");
                        *target = from;
                        let text = std::str::from_utf8(&buffer[..length]).expect("text");
                        return Message::parse(text).expect("a message");
                    }
                    Wire::Tcp { stream, listener, read } => {
                        if let Some(message) = Message::take(read) {
                            return message;
                        }
                        match stream.read(&mut buffer).await {
                            Ok(length) if length > 0 => read.extend_from_slice(&buffer[..length]),
                            _ => *stream = listener.accept().await.expect("the box comes").0,
                        }
                    }
                }
            }
        };
        tokio::time::timeout(SOON, receiving).await.expect("a message in time")
    }

    /// Dials, and takes part until `wanted` has come.
    async fn dial(&mut self, target: SocketAddr, wanted: u16) {
        let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n";
        let to = format!("<sip:100@{}>", target.ip());
        let invite = self
            .request(format!("INVITE sip:100@{target} SIP/2.0"), &to, "7 INVITE")
            .with("Record-Route", self.router())
            .with_sdp(sdp);
        self.send(&invite).await;
        let answer = loop {
            let message = self.receive().await;
            if message.status() == Some(wanted) {
                break message;
            }
        };
        if wanted == 200 {
            let contact = answer.header("Contact").expect("a Contact").trim_matches(['<', '>']).to_owned();
            let ack = self.request(format!("ACK {contact} SIP/2.0"), answer.header("To").expect("a To"), "7 ACK");
            self.send(&ack).await;
            self.answer = Some(answer);
        }
    }

    /// The BYE of the next start: judged against the dialog, and confirmed.
    async fn is_told(&mut self) {
        let bye = loop {
            let message = self.receive().await;
            if message.method().is_some() {
                break message;
            }
        };
        let answer = self.answer.as_ref().expect("it was answered");
        let tag = |value: Option<&str>| value.and_then(|value| parameter(value, "tag")).map(str::to_owned);
        // The value of a parameter is the same in either case (RFC 3261 §19.1.4).
        let wanted = format!("BYE {} SIP/2.0", self.uri());
        assert!(bye.start.eq_ignore_ascii_case(&wanted), "to our Contact: {} is not {wanted}", bye.start);
        assert_eq!(tag(bye.header("From")), tag(answer.header("To")));
        assert_eq!(tag(bye.header("To")).as_ref(), Some(&self.tag));
        assert_eq!(bye.header("Call-ID"), Some(self.call_id.as_str()));
        assert_eq!(bye.all("Route").collect::<Vec<_>>(), [self.router()]);
        let (number, method) = bye.cseq().expect("a CSeq");
        assert!(number > 0 && method == "BYE");
        assert!(bye.header("Via").is_some_and(|via| via.contains(self.transport)));
        assert!(bye.header("Max-Forwards").is_some() && bye.header("Reason").is_some());
        self.send(&bye.reply("200 OK")).await;
    }

    async fn is_left_alone(&mut self) -> bool {
        tokio::time::timeout(Duration::from_secs(1), self.receive()).await.is_err()
    }
}

/// A port that is free for UDP and TCP: the daemon must have the same one after its crash.
async fn free_port() -> u16 {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let port = udp.local_addr().expect("an address").port();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            return port;
        }
    }
}

fn sealed(world: &World) -> i64 {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let ledger = rusqlite::Connection::open_with_flags(world.ledger(), flags).expect("a ledger");
    ledger.query_row("SELECT count(*) FROM live_dialogs", [], |row| row.get(0)).expect("a table")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_dialog_that_a_killed_daemon_left_gets_its_bye_once_at_the_next_start() {
    let port = free_port().await;
    let more = format!(
        "[sip]\nudp = \"127.0.0.1:{port}\"\ntcp = \"127.0.0.1:{port}\"\n[[trunk]]\nname = \"carrier\"\n\
         allow = [\"127.0.0.0/8\"]\noptions_every = \"0s\"\n[[trunk.route]]\ncalled = \"100\"\n"
    );
    // The fourth session is not configured before the crash, so that call still rings.
    let slow = |facts: &_| {
        let mut settings = model(Script::tones(3, Duration::from_secs(2)), facts);
        if facts.connection == 3 {
            settings.latency.session_updated = Duration::from_secs(60);
        }
        settings
    };
    let limits = "no_media = \"60s\"\nconnect_within = \"20s\"\n";
    let more: &'static str = Box::leak(more.into_boxed_str());
    let mut world = World::start(Options { more, limits, model: Arc::new(slow), ..Options::named("left") }).await;
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut callers = Vec::new();
    for (who, transport, wanted) in [(1, "UDP", 200), (2, "TCP", 200), (3, "UDP", 200), (4, "UDP", 180)] {
        let mut caller = Caller::new(transport, who, target).await;
        caller.dial(target, wanted).await;
        callers.push(caller);
    }
    until("three were accepted", || world.rows().iter().filter(|row| row.accepted_at.is_some()).count() == 3).await;
    assert_eq!(sealed(&world), 3, "the one that rings has no dialog that stands");
    world.daemon.signal(Signal::SIGKILL);
    assert!(!world.daemon.ended().await.success());
    for file in ["ledger.db", "ledger.db-wal"] {
        let bytes = std::fs::read(world.folder.path().join(file)).expect("a file");
        for caller in &callers {
            for canary in [&caller.call_id, &caller.number] {
                assert!(!bytes.windows(canary.len()).any(|part| part == canary.as_bytes()), "sealed in {file}");
            }
        }
    }
    // The third one's carrier is gone as well.
    let dead = callers.remove(2);
    drop(dead);
    world.restart().await;
    for caller in &mut callers[..2] {
        caller.is_told().await;
    }
    let count = |kind| format!("sauti_sip_farewells_total{{kind=\"{kind}\"}}");
    until_async("the dead one is given up", async || world.metric(&count("silent")).await >= 1.0).await;
    assert_eq!((world.metric(&count("confirmed")).await, world.metric(&count("silent")).await), (2.0, 1.0));
    let trouble = world.daemon.entries("TRUNK_CALL_ERROR");
    assert_eq!(trouble.len(), 1, "said once: {trouble:?}");
    assert_eq!((&trouble[0]["STAGE"], &trouble[0]["REASON"]), (&"farewell".into(), &"silent".into()));
    assert!(callers[2].is_left_alone().await, "a call that rings has no dialog to end");
    let ends: Vec<_> = world.rows().into_iter().map(|row| (row.outcome, row.fault)).collect();
    assert_eq!(ends, vec![(Some("restart".to_owned()), Some("box".to_owned())); 4]);
    until("nothing stays sealed", || sealed(&world) == 0).await;
    assert_eq!(world.metric("sauti_table_live_calls").await, 0.0);
    for caller in &mut callers {
        // A BYE that was repeated before it was answered.
        while !caller.is_left_alone().await {}
    }
    assert!(world.stop().await.success());
    world.restart().await;
    for caller in &mut callers {
        assert!(caller.is_left_alone().await, "told once");
    }
    assert!(world.stop().await.success());
}
