//! The endpoint under test, whoever answers its calls, and a peer that writes SIP by hand.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sauti::obs::metrics::Metrics;
use sauti::sip::{DialogEvent, Invite, Setup, Sip};
use sauti_core::config::check::{Environment, read};
use sauti_core::config::{Config, Transport};
use sauti_core::pii::{BoxKey, Pii};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// What the box answers calls with.
pub(crate) const ANSWER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                                 m=audio 40000 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n";
/// What peers offer.
pub(crate) const OFFER: &str = "v=0\r\no=- 7 7 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                                m=audio 23000 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n";
/// Longest wait for anything that is to come at once.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// A configuration from its text; secrets are the canaries.
pub(crate) fn config(text: &str) -> Config {
    let secrets = |_: &str| Some("canary-trunk-password".to_owned());
    let read_file = |_: &Path| Err("none".to_owned());
    let environment = Environment { host_name: "bench", cores: 1, secrets: &secrets, read_file: &read_file };
    read(&format!("[openai]\n{text}"), &environment).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// A trunk on this machine's own address.
pub(crate) const LOOPBACK: &str = "[sip]\nudp = \"127.0.0.1:0\"\ntcp = \"127.0.0.1:0\"\n[[trunk]]\nname = \"test\"\n\
                                   allow = [\"127.0.0.1\"]\noptions_every = \"0s\"\ncalls_per_second = 200\n\
                                   [[trunk.route]]\ncalled = \"+35690000002\"\n[[trunk.route]]\ncalled = \"service\"\n";

pub(crate) struct Bench {
    pub(crate) sip: Sip,
    pub(crate) calls: mpsc::Receiver<Invite>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Bench {
    pub(crate) async fn start(text: &str) -> Self {
        Self::with_roots(text, Vec::new()).await
    }

    pub(crate) async fn with_roots(text: &str, roots: Vec<u8>) -> Self {
        Self::with(text, roots, Vec::new()).await
    }

    /// An endpoint that asks these name servers.
    pub(crate) async fn with(text: &str, roots: Vec<u8>, nameservers: Vec<SocketAddr>) -> Self {
        // the first one wins; every test of this binary installs the same
        rustls::crypto::ring::default_provider().install_default().ok();
        let config = config(text);
        let metrics = Arc::new(Metrics::new());
        let key = BoxKey::new([7; 32]);
        let setup = Setup { config: &config, roots, key, metrics: Arc::clone(&metrics), nameservers };
        let (sip, calls) = Sip::start(setup).await.unwrap();
        Self { sip, calls, metrics }
    }

    pub(crate) fn udp(&self) -> SocketAddr {
        self.sip.address(Transport::Udp).unwrap()
    }

    /// The next call.
    pub(crate) async fn call(&mut self) -> Invite {
        tokio::time::timeout(SOON, self.calls.recv()).await.expect("a call").unwrap()
    }

    /// No call comes for a while that is long compared with loopback.
    pub(crate) async fn no_call(&mut self) {
        let call = tokio::time::timeout(Duration::from_millis(300), self.calls.recv()).await;
        assert!(call.is_err(), "{call:?}");
    }

    /// The value of a metric with its labels, 0 when it was never set.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.render();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// Waits until every table is empty again; returns how long that took.
    pub(crate) async fn idle(&self, patience: Duration) -> Duration {
        let begun = Instant::now();
        loop {
            let tables = self.sip.tables();
            if tables.dialogs + tables.transactions + tables.sources == 0 {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < patience, "{tables:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The next event of a dialog.
pub(crate) async fn event(events: &mut mpsc::Receiver<DialogEvent>) -> DialogEvent {
    tokio::time::timeout(SOON, events.recv()).await.expect("an event").expect("the dialog stands")
}

/// Answers every call and stays on until the caller hangs up; tells how each ended.
pub(crate) fn answer_all(mut calls: mpsc::Receiver<Invite>) -> mpsc::Receiver<&'static str> {
    let (told, endings) = mpsc::channel(4_096);
    tokio::spawn(async move {
        while let Some(invite) = calls.recv().await {
            let told = told.clone();
            tokio::spawn(async move {
                let ending = stay(invite).await;
                told.send(ending).await.ok();
            });
        }
    });
    endings
}

async fn stay(mut invite: Invite) -> &'static str {
    if invite.dialog.answer(ANSWER).await.is_err() {
        return "gone before the answer";
    }
    while let Some(event) = invite.events.recv().await {
        match event {
            DialogEvent::Bye => return "bye",
            DialogEvent::NoAck => return "no ack",
            DialogEvent::Cancelled => return "cancelled",
            DialogEvent::Reoffer { reply, .. } => reply.answer(ANSWER).await,
            _ => {}
        }
    }
    "nothing"
}

/// A SIP message that has come in.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) first: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Message {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers =
            headers.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned())).collect();
        Self { first, headers, body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn code(&self) -> u16 {
        self.first.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn to_tag(&self) -> String {
        self.header("To").and_then(|to| to.split_once("tag=")).map_or_else(String::new, |(_, tag)| tag.to_owned())
    }
}

/// A far end that writes each message by hand, over UDP.
pub(crate) struct Peer {
    socket: UdpSocket,
    far: SocketAddr,
    pub(crate) call_id: String,
    pub(crate) tag: String,
    /// What the last answer called our dialog.
    pub(crate) to_tag: String,
    branch: u32,
}

impl Peer {
    pub(crate) async fn at(address: &str, far: SocketAddr) -> Self {
        let address: IpAddr = address.parse().unwrap();
        Self::on(SocketAddr::new(address, 0), far).await
    }

    /// A peer on this port of 127.0.0.1.
    pub(crate) async fn bound(port: u16, far: SocketAddr) -> Self {
        Self::on(SocketAddr::from(([127, 0, 0, 1], port)), far).await
    }

    async fn on(own: SocketAddr, far: SocketAddr) -> Self {
        let socket = UdpSocket::bind(own).await.unwrap();
        let address = own.ip();
        let port = socket.local_addr().unwrap().port();
        let (call_id, tag) = (format!("call-{address}-{port}"), format!("t{port}"));
        Self { socket, far, call_id, tag, to_tag: String::new(), branch: 0 }
    }

    pub(crate) async fn new(bench: &Bench) -> Self {
        Self::at("127.0.0.1", bench.udp()).await
    }

    pub(crate) fn own(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    pub(crate) async fn send(&self, text: &str) {
        self.socket.send_to(text.as_bytes(), self.far).await.unwrap();
    }

    /// A request of this call. `headers` end with CRLF each; a Contact and the length are added.
    pub(crate) fn request(&mut self, method: &str, sequence: u32, headers: &str, body: &str) -> String {
        self.branch += 1;
        let branch = self.branch;
        self.request_in(method, sequence, branch, headers, body)
    }

    /// The same within a transaction that exists: CANCEL, the ACK of a refusal.
    pub(crate) fn request_in(&self, method: &str, sequence: u32, branch: u32, headers: &str, body: &str) -> String {
        let (own, call_id, tag) = (self.own(), &self.call_id, &self.tag);
        let to_tag = if self.to_tag.is_empty() { String::new() } else { format!(";tag={}", self.to_tag) };
        let kind =
            if body.is_empty() || headers.contains("Content-Type") { "" } else { "Content-Type: application/sdp\r\n" };
        let far = self.far;
        format!(
            "{method} sip:+35690000002@{far} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK-{tag}-{branch};rport\r\n\
             From: <sip:+250780000001@127.0.0.1>;tag={tag}\r\nTo: <sip:+35690000002@{far}>{to_tag}\r\n\
             Call-ID: {call_id}\r\nCSeq: {sequence} {method}\r\nContact: <sip:peer@{own}>\r\nMax-Forwards: 70\r\n\
             {headers}{kind}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    pub(crate) async fn receive(&self) -> Message {
        tokio::time::timeout(SOON, self.receive_any()).await.expect("a message")
    }

    /// The next message, however long it takes.
    pub(crate) async fn receive_any(&self) -> Message {
        let mut buffer = vec![0; 65_536];
        let (length, _) = self.socket.recv_from(&mut buffer).await.unwrap();
        Message::parse(&buffer[..length])
    }

    /// True when nothing comes for a while.
    pub(crate) async fn is_left_alone(&self) -> bool {
        let mut buffer = vec![0; 65_536];
        tokio::time::timeout(Duration::from_millis(400), self.socket.recv_from(&mut buffer)).await.is_err()
    }

    /// The next message whose code (for an answer) or method (for a request) is this.
    pub(crate) async fn until(&mut self, wanted: &str) -> Message {
        for _ in 0..50 {
            let message = self.receive().await;
            let is_it = message.first.starts_with(wanted) || message.first.starts_with(&format!("SIP/2.0 {wanted}"));
            if message.first.starts_with("SIP/2.0") && message.code() > 100 && !message.to_tag().is_empty() {
                self.to_tag = message.to_tag();
            }
            if is_it {
                return message;
            }
        }
        panic!("{wanted} never came")
    }

    /// Sends a request and waits for its final answer; repeats it as RFC 3261 §17.1.2 wants, since datagrams get lost.
    pub(crate) async fn ask(&mut self, method: &str, sequence: u32, headers: &str, body: &str) -> Message {
        let request = self.request(method, sequence, headers, body);
        for _ in 0..10 {
            self.send(&request).await;
            let again = tokio::time::sleep(Duration::from_secs(1));
            tokio::pin!(again);
            loop {
                let message = tokio::select! {
                    message = self.receive_any() => message,
                    () = &mut again => break,
                };
                let ours = message.header("CSeq") == Some(&format!("{sequence} {method}"));
                if ours && message.code() >= 200 {
                    if !message.to_tag().is_empty() {
                        self.to_tag = message.to_tag();
                    }
                    return message;
                }
            }
        }
        panic!("{method} was never answered")
    }

    pub(crate) async fn invite(&mut self, headers: &str, body: &str) {
        let invite = self.request("INVITE", 1, headers, body);
        self.send(&invite).await;
    }

    pub(crate) async fn ack(&mut self, sequence: u32, body: &str) {
        let ack = self.request("ACK", sequence, "", body);
        self.send(&ack).await;
    }

    /// A call that is up: INVITE, 200, ACK. `more` goes into the INVITE.
    pub(crate) async fn talk(&mut self, bench: &mut Bench, more: &str) -> (Invite, Message) {
        self.invite(more, OFFER).await;
        let mut invite = bench.call().await;
        invite.dialog.answer(ANSWER).await.unwrap();
        let answer = self.until("200").await;
        self.ack(1, "").await;
        let DialogEvent::Confirmed { sdp: None } = event(&mut invite.events).await else { panic!() };
        (invite, answer)
    }
}

/// A parameter list for failures: `what` → count.
pub(crate) fn tally(endings: impl IntoIterator<Item = &'static str>) -> BTreeMap<&'static str, usize> {
    let mut tally = BTreeMap::new();
    for ending in endings {
        *tally.entry(ending).or_default() += 1;
    }
    tally
}

/// A personal text, for comparisons.
pub(crate) fn shown(text: Option<&Pii>) -> Option<&str> {
    text.map(Pii::expose)
}
