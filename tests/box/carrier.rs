//! A carrier's half of one call, written by hand: for what no good telephone does.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use sauti_sim::trunk::message::{Message, parameter};
use sauti_sim::whatsapp::person::Person;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::world::SOON;

/// How messages travel between this carrier and the box.
enum Wire {
    Udp(UdpSocket, SocketAddr),
    Tcp { stream: TcpStream, listener: TcpListener, read: Vec<u8> },
}

/// A carrier's half of one call, written by hand.
pub(crate) struct Caller {
    wire: Wire,
    /// Where audio may come to; it is not looked at.
    media: UdpSocket,
    own: SocketAddr,
    transport: &'static str,
    tag: String,
    pub(crate) call_id: String,
    pub(crate) number: String,
    sequence: u32,
    answer: Option<Message>,
}

impl Caller {
    pub(crate) async fn new(transport: &'static str, who: u32, target: SocketAddr) -> Self {
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
        let media = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        Self {
            wire,
            media,
            sequence: 7,
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
                format!(
                    "SIP/2.0/{} {};branch=z9hG4bK{}{};rport",
                    self.transport,
                    self.own,
                    self.tag,
                    cseq.replace(' ', "")
                ),
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
    pub(crate) async fn dial(&mut self, target: SocketAddr, wanted: u16) {
        let port = self.media.local_addr().expect("an address").port();
        let sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
             m=audio {port} RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n"
        );
        let to = format!("<sip:100@{}>", target.ip());
        let invite = self
            .request(format!("INVITE sip:100@{target} SIP/2.0"), &to, "7 INVITE")
            .with("Record-Route", self.router())
            .with_sdp(&sdp);
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

    /// A request within the dialog; its answer's status.
    pub(crate) async fn ask(&mut self, method: &str, body: &str) -> u16 {
        self.sequence += 1;
        let answer = self.answer.clone().expect("it was answered");
        let contact = answer.header("Contact").expect("a Contact").trim_matches(['<', '>']).to_owned();
        let (start, cseq) = (format!("{method} {contact} SIP/2.0"), format!("{} {method}", self.sequence));
        let mut request = self.request(start, answer.header("To").expect("a To"), &cseq);
        if !body.is_empty() {
            request = request.with("Content-Type", "application/dtmf-relay");
            body.clone_into(&mut request.body);
        }
        self.send(&request).await;
        loop {
            let message = self.receive().await;
            if let (Some(status), true) = (message.status(), message.header("CSeq") == Some(&cseq)) {
                return status;
            }
        }
    }

    /// The BYE of the next start: judged against the dialog, and confirmed.
    pub(crate) async fn is_told(&mut self) {
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

    pub(crate) async fn is_left_alone(&mut self) -> bool {
        tokio::time::timeout(Duration::from_secs(1), self.receive()).await.is_err()
    }
}
