//! A far end of the trunk with sockets of its own, that does what no good telephone does.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use sauti_core::media::frame::FRAME;
use sauti_sim::audio::g711::Law;
use sauti_sim::caller::person::{Person as Speaker, Step};
use sauti_sim::trunk::caller::{CallEvent, Dial, Refers, Transport, TrunkCall};
use sauti_sim::trunk::message::Message;
use sauti_sim::trunk::phone::TrunkPhone;
use sauti_sim::whatsapp::person::Person;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UdpSocket};

use crate::world::{Options, SOON, World};

/// A trunk on this machine's own addresses.
pub(crate) const TRUNK: &str = r#"[sip]
udp = "127.0.0.1:0"
tcp = "127.0.0.1:0"
[[trunk]]
name = "carrier"
allow = ["127.0.0.1"]
calls = 5000
calls_per_second = 1000
options_every = "0s"
[[trunk.route]]
called = "100"
"#;

/// A world with that trunk.
pub(crate) fn options(name: &'static str) -> Options {
    Options { more: TRUNK.to_owned(), ..Options::named(name) }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where its messages go.
enum Line {
    Udp(UdpSocket),
    Stream(Box<dyn Stream>, Vec<u8>),
}

impl Line {
    async fn udp(target: SocketAddr) -> (Self, SocketAddr) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        socket.connect(target).await.expect("loopback");
        let local = socket.local_addr().expect("an address");
        (Self::Udp(socket), local)
    }

    /// A TLS stream to a box that has this certificate, from 127.0.0.2: a trunk is known by where it comes from.
    async fn tls(target: SocketAddr, certificate: &Path) -> (Self, SocketAddr) {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate).expect("a certificate")).expect("a root");
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).expect("an address of this machine");
        let stream = socket.connect(target).await.expect("the box listens");
        let local = stream.local_addr().expect("an address");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        (Self::Stream(Box::new(stream.expect("TLS with the box")), Vec::new()), local)
    }

    async fn send(&mut self, wire: &[u8]) {
        // What does not go is repeated or given up, as on any line.
        match self {
            Self::Udp(socket) => drop(socket.send(wire).await),
            Self::Stream(stream, _) => drop(stream.write_all(wire).await),
        }
    }

    async fn receive(&mut self) -> Vec<Message> {
        let mut buffer = [0; 8192];
        match self {
            Self::Udp(socket) => {
                let got = socket.recv(&mut buffer).await;
                let text = got.ok().and_then(|length| std::str::from_utf8(&buffer[..length]).ok());
                text.and_then(Message::parse).into_iter().collect()
            }
            Self::Stream(stream, held) => match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => std::future::pending().await,
                Ok(length) => {
                    held.extend_from_slice(&buffer[..length]);
                    std::iter::from_fn(|| Message::take(held)).collect()
                }
            },
        }
    }
}

/// One call of such a far end.
pub(crate) struct Peer {
    pub(crate) call: TrunkCall,
    pub(crate) phone: TrunkPhone,
    /// Where the box listens.
    target: SocketAddr,
    /// `None` once it is cut.
    line: Option<Line>,
    pub(crate) media: UdpSocket,
    /// Where the box wants audio; none is sent without.
    pub(crate) towards: Option<SocketAddr>,
    /// It sends nothing any more, neither SIP nor audio.
    pub(crate) gone: bool,
    /// It never acknowledges.
    pub(crate) no_ack: bool,
    /// It sends CANCEL as it gets the 200.
    pub(crate) crosses: bool,
    /// When the next 20 ms of audio are due.
    due: tokio::time::Instant,
}

impl Peer {
    /// Somebody calls over UDP; `offer` may change what the phone offers.
    pub(crate) async fn dial(world: &World, who: u32, called: &str, offer: impl Fn(String) -> String) -> Self {
        let target = world.daemon.bound("sip.udp");
        let (line, number) = (Line::udp(target).await, Person::numbered(who).number);
        Self::on(line, (target, Transport::Udp), (who, number.expose()), called, offer).await
    }

    /// The same with a From that says `caller`.
    pub(crate) async fn dial_as(world: &World, who: u32, caller: &str) -> Self {
        let target = world.daemon.bound("sip.udp");
        Self::on(Line::udp(target).await, (target, Transport::Udp), (who, caller), "100", |sdp| sdp).await
    }

    /// The same over TLS.
    pub(crate) async fn dial_secure(world: &World, who: u32, certificate: &Path) -> Self {
        let target = world.daemon.bound("sip.tls");
        let (line, number) = (Line::tls(target, certificate).await, Person::numbered(who).number);
        Self::on(line, (target, Transport::Tls), (who, number.expose()), "100", |sdp| sdp).await
    }

    async fn on(
        (line, local): (Line, SocketAddr),
        (target, transport): (SocketAddr, Transport),
        (who, caller): (u32, &str),
        called: &str,
        offer: impl Fn(String) -> String,
    ) -> Self {
        let media = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let phone = TrunkPhone::new(Law::A, who + 1, Speaker::new(vec![Step::Pause(Duration::from_secs(60))]));
        let dial = Dial {
            transport,
            local,
            target,
            caller: caller.to_owned(),
            called: called.to_owned(),
            sdp: offer(phone.offer(media.local_addr().expect("an address"))),
            refers: Refers::No,
        };
        let call = TrunkCall::dial(Instant::now(), dial, u64::from(who) + 77);
        let line = Some(line);
        let due = tokio::time::Instant::now();
        Self { call, phone, target, line, media, towards: None, gone: false, no_ack: false, crosses: false, due }
    }

    /// Its stream breaks.
    pub(crate) fn cut(&mut self) {
        self.line = None;
    }

    /// It has another stream from now on.
    pub(crate) async fn reconnect(&mut self, certificate: &Path) {
        self.line = Some(Line::tls(self.target, certificate).await.0);
    }

    /// Sends bytes that are none of the call's.
    pub(crate) async fn say(&mut self, wire: &[u8]) {
        if let Some(line) = &mut self.line {
            line.send(wire).await;
        }
    }

    /// Lives until an event that `wanted` says; `None` when the call was over before, or nothing came in time.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&CallEvent) -> bool) -> Option<CallEvent> {
        self.until_within(SOON, wanted).await
    }

    /// The same with another patience.
    pub(crate) async fn until_within(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&CallEvent) -> bool,
    ) -> Option<CallEvent> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            if let Some(event) = self.live(deadline).await {
                if wanted(&event) {
                    return Some(event);
                }
            } else if self.call.is_over() || tokio::time::Instant::now() >= deadline {
                return None;
            }
        }
    }

    /// Lives until it is answered.
    pub(crate) async fn answered(&mut self) {
        let answered = self.until(|event| matches!(event, CallEvent::Answered(_))).await;
        assert!(answered.is_some(), "it is answered; faults: {:?}", self.call.faults);
    }

    /// Lives for a while.
    pub(crate) async fn rest(&mut self, length: Duration) {
        let until = tokio::time::Instant::now() + length;
        while tokio::time::Instant::now() < until {
            self.live(until).await;
        }
    }

    /// Lives until it hears the box.
    pub(crate) async fn hears(&mut self) {
        let until = tokio::time::Instant::now() + SOON;
        while self.phone.person.first_heard().is_none() {
            assert!(tokio::time::Instant::now() < until, "it hears the box; faults: {:?}", self.call.faults);
            self.live(until).await;
        }
    }

    /// Hangs up, and sees it confirmed.
    pub(crate) async fn hang_up(&mut self) {
        self.call.hang_up(Instant::now());
        self.until(|event| *event == CallEvent::Over).await.expect("the BYE is answered");
    }

    /// One packet of its audio.
    pub(crate) async fn speak(&mut self) {
        if let (Some(towards), Some(packet)) = (self.towards, self.phone.tick(Instant::now())) {
            self.media.send_to(packet, towards).await.ok();
        }
    }

    /// One thing that happens, at most 20 ms of time.
    async fn live(&mut self, deadline: tokio::time::Instant) -> Option<CallEvent> {
        while let Some(wire) = self.call.poll_transmit() {
            if !(self.gone || self.no_ack && wire.starts_with(b"ACK ")) {
                self.say(&wire).await;
            }
        }
        if let Some(event) = self.call.poll_event() {
            if let CallEvent::Answered(sdp) = &event {
                let port = sdp.lines().find_map(|line| line.strip_prefix("m=audio ")?.split(' ').next()?.parse().ok());
                self.towards = port.map(|port: u16| (Ipv4Addr::LOCALHOST, port).into());
                self.phone.accepted(Instant::now(), Duration::from_secs(60));
            }
            return Some(event);
        }
        let mut packet = [0; 2048];
        tokio::select! {
            // A 200 and the packet behind it may both be there: the 200 came first.
            biased;
            messages = receive(&mut self.line) => for message in messages {
                // The port may have been another peer's, to whom the box still says BYE.
                if !self.call.owns(&message) {
                    continue;
                }
                if self.crosses && message.status() == Some(200) {
                    self.crosses = false;
                    self.call.hang_up(Instant::now());
                }
                self.call.receive(Instant::now(), &message);
            },
            Ok((length, _)) = self.media.recv_from(&mut packet) => self.phone.receive(Instant::now(), &packet[..length]),
            () = tokio::time::sleep_until(deadline.min(self.due)) => {
                let now = tokio::time::Instant::now();
                if now < self.due {
                    return None;
                }
                // What was missed is not made up.
                self.due = now.max(self.due + FRAME);
                if !self.gone {
                    self.speak().await;
                }
                if self.call.deadline().is_some_and(|due| due <= Instant::now()) {
                    self.call.handle_timeout(Instant::now());
                }
            }
        }
        None
    }
}

async fn receive(line: &mut Option<Line>) -> Vec<Message> {
    match line {
        Some(line) => line.receive().await,
        None => std::future::pending().await,
    }
}
