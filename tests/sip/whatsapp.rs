//! Meta's SIP as the emulator plays it: calls that we place there, and a call whose stream Meta has closed.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sauti::sip::{Dialog, DialogEvent, DialogEvents, Invite, Place};
use sauti_core::config::Transport;
use sauti_core::pii::Pii;
use sauti_sim::trunk::caller::CallEvent;
use sauti_sim::trunk::message::Message;
use sauti_sim::whatsapp::person::Person;
use sauti_sim::whatsapp_sip::callee::{Callee, CalleeEvent};
use sauti_sim::whatsapp_sip::caller::{Dial, WhatsAppCall};
use sauti_sim::whatsapp_sip::{Account, META};
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::bench::{Bench, SOON, event};

const HOSTNAME: &str = "edge.example.org";
const NUMBER: &str = "35690000002";
const PASSWORD: &str = "canary-trunk-password";
const SDP: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                   m=audio 40000 RTP/SAVP 111\r\na=rtpmap:111 opus/48000/2\r\n";

/// Somebody on a stream.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A stream that SIP goes over.
struct Line {
    stream: Box<dyn Stream>,
    held: Vec<u8>,
}

impl Line {
    fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), held: Vec::new() }
    }

    async fn send(&mut self, wire: &[u8]) {
        self.stream.write_all(wire).await.unwrap();
    }

    /// The next message, for as long as 20 ms.
    async fn receive(&mut self) -> Option<Message> {
        if let Some(message) = Message::take(&mut self.held) {
            return Some(message);
        }
        let mut buffer = [0; 8192];
        let read = tokio::time::timeout(Duration::from_millis(20), self.stream.read(&mut buffer)).await;
        if let Ok(read) = read {
            self.held.extend_from_slice(&buffer[..read.unwrap()]);
        }
        Message::take(&mut self.held)
    }
}

/// Meta, where the box finds it: certificate, listener, and the box beside it.
struct World {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    near: Bench,
    folder: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let folder = tempfile::tempdir().unwrap();
        let own = certificate(folder.path(), "own", &[HOSTNAME]);
        let meta = certificate(folder.path(), "meta", &["localhost", META]);
        let chain = vec![CertificateDer::from_pem_file(&meta.0).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&meta.1).unwrap();
        let server = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let text = format!(
            "[sip]\ntls = \"127.0.0.1:0\"\ncertificate = \"{}\"\nkey = \"{}\"\n[whatsapp]\nphone_number_id = \"7\"\n\
             signalling = \"sip\"\n[whatsapp.sip]\nhostname = \"{HOSTNAME}\"\nhost = \"localhost:{}\"\n\
             allow = [\"127.0.0.1\"]\nnumber = \"{NUMBER}\"\n",
            own.0,
            own.1,
            listener.local_addr().unwrap().port()
        );
        let near = Bench::with_roots(&text, std::fs::read(meta.0).unwrap()).await;
        Self { listener, acceptor: TlsAcceptor::from(Arc::new(server)), near, folder }
    }

    /// The next stream that the box opens to Meta.
    async fn accept(&self) -> Line {
        let (stream, _) = tokio::time::timeout(SOON, self.listener.accept()).await.expect("a stream").unwrap();
        Line::new(self.acceptor.accept(stream).await.expect("Meta is believed by its name"))
    }

    /// A stream that Meta opens to the box; and where it comes from.
    async fn connect(&self) -> (Line, SocketAddr) {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.folder.path().join("own.pem")).unwrap()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(self.near.sip.address(Transport::Tls).unwrap()).await.unwrap();
        let local = stream.local_addr().unwrap();
        let name = ServerName::try_from(HOSTNAME).unwrap();
        (Line::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()), local)
    }

    /// We call, and Meta is what it is asked to be.
    async fn place(&self, account: Account, from: Option<&str>) -> (Called, Dialog, DialogEvents) {
        let place = Place {
            trunk: "whatsapp".into(),
            target: Pii::new(format!("+250780000001@{META}")),
            offer: SDP.to_owned(),
            from: from.map(Pii::new),
        };
        let (placed, line) = tokio::join!(self.near.sip.place(place), self.accept());
        let (dialog, events) = placed.unwrap();
        (Called { callee: Callee::new(account, 3), line }, dialog, events)
    }
}

fn certificate(folder: &Path, name: &str, hosts: &[&str]) -> (String, String) {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(hosts).unwrap();
    let paths = [".pem", ".key"].map(|ending| folder.join(format!("{name}{ending}")));
    std::fs::write(&paths[0], made.cert.pem()).unwrap();
    std::fs::write(&paths[1], made.signing_key.serialize_pem()).unwrap();
    let [certificate, key] = paths.map(|path| path.display().to_string());
    (certificate, key)
}

fn account() -> Account {
    Account::new(&Pii::new(NUMBER), HOSTNAME, SecretString::from(PASSWORD))
}

/// Meta's side of a call that we place.
struct Called {
    callee: Callee,
    line: Line,
}

impl Called {
    /// Lives until something happens.
    async fn until(&mut self, wanted: impl Fn(&CalleeEvent) -> bool) -> CalleeEvent {
        let end = Instant::now() + SOON;
        loop {
            while let Some(wire) = self.callee.poll_transmit() {
                self.line.send(&wire).await;
            }
            if let Some(event) = self.callee.poll_event().filter(&wanted) {
                return event;
            }
            assert!(Instant::now() < end, "in vain; faults: {:?}", self.callee.faults);
            if let Some(message) = self.line.receive().await {
                self.callee.receive(Instant::now(), &message);
            }
            if self.callee.deadline().is_some_and(|due| due <= Instant::now()) {
                self.callee.handle_timeout(Instant::now());
            }
        }
    }

    /// Lives until she has answered.
    async fn answered(&mut self) {
        self.until(|event| matches!(event, CalleeEvent::Invited(_))).await;
        self.callee.ring();
        self.callee.pick_up(Instant::now(), SDP);
        self.until(|event| *event == CalleeEvent::Acknowledged).await;
    }

    /// Nothing was wrong.
    fn is_content(&self) {
        assert!(self.callee.faults.all().is_empty(), "{:?}", self.callee.faults);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_we_place_proves_itself_follows_its_route_and_ends_by_either_side() {
    let world = World::start().await;
    let (mut far, dialog, mut events) = world.place(account(), None).await;
    far.answered().await;
    assert!(matches!(event(&mut events).await, DialogEvent::Ringing { .. }));
    assert!(matches!(event(&mut events).await, DialogEvent::Confirmed { sdp: Some(_) }));
    let (ended, _) = tokio::join!(dialog.bye(), async {
        far.until(|event| *event == CalleeEvent::HungUp).await;
        // what answers the BYE goes out
        far.line.send(&far.callee.poll_transmit().unwrap_or_default()).await;
    });
    ended.unwrap();
    far.is_content();

    // The stream that stands is used again.
    let place = Place {
        trunk: "whatsapp".into(),
        target: Pii::new(format!("RW.13491208655302741918@{META}")),
        offer: SDP.to_owned(),
        from: Some(Pii::new(format!("+{NUMBER}@example.org"))),
    };
    let (_dialog, mut events) = world.near.sip.place(place).await.unwrap();
    far.callee = Callee::new(account(), 4);
    far.answered().await;
    // Before the box has noted that its call stands.
    far.callee.hang_up(Instant::now());
    far.until(|event| *event == CalleeEvent::Over).await;
    far.is_content();
    assert!(matches!(event(&mut events).await, DialogEvent::Ringing { .. }));
    assert!(matches!(event(&mut events).await, DialogEvent::Confirmed { .. }));
    assert!(matches!(event(&mut events).await, DialogEvent::Bye));
    far.is_content();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_meta_refuses_is_told_with_its_code() {
    let world = World::start().await;
    let (mut far, _dialog, mut events) = world.place(account(), None).await;
    far.until(|event| matches!(event, CalleeEvent::Invited(_))).await;
    far.callee.decline();
    let refused = tokio::select! {
        refused = event(&mut events) => refused,
        _ = far.until(|_| false) => unreachable!(),
    };
    assert!(matches!(refused, DialogEvent::Refused { code: 486, .. }), "{refused:?}");
    far.is_content();
    for (account, from) in [
        (Account { password: SecretString::from("another"), ..account() }, None),
        (account(), Some(format!("+{NUMBER}@elsewhere.example.com"))),
    ] {
        let place = Place {
            trunk: "whatsapp".into(),
            target: Pii::new(format!("+250780000001@{META}")),
            offer: SDP.to_owned(),
            from: from.map(Pii::new),
        };
        let (_dialog, mut events) = world.near.sip.place(place).await.unwrap();
        far.callee = Callee::new(account, 5);
        let refused = tokio::select! {
            refused = event(&mut events) => refused,
            _ = far.until(|_| false) => unreachable!(),
        };
        assert!(matches!(refused, DialogEvent::Refused { code: 403, .. }), "{refused:?}");
        assert_eq!(far.callee.faults.all().len(), 1, "{:?}", far.callee.faults);
    }
}

/// Calls that Meta brings over one stream.
struct Calls {
    line: Line,
    calls: Vec<WhatsAppCall>,
}

impl Calls {
    fn dial(line: Line, via: SocketAddr, count: usize) -> Self {
        let dial = |number: usize| Dial {
            person: Person::test_caller(),
            hides_number: false,
            wacid: Pii::new(format!("wacid.HBgMMjUw{number}==")),
            sdp: SDP.to_owned(),
            via: via.to_string(),
        };
        let new = |number| WhatsAppCall::dial(Instant::now(), account(), dial(number), number as u64 + 1);
        Self { line, calls: (0..count).map(new).collect() }
    }

    /// One thing that happens, at most 20 ms of time.
    async fn live(&mut self) -> Vec<CallEvent> {
        for call in &mut self.calls {
            while let Some(wire) = call.poll_transmit() {
                self.line.send(&wire).await;
            }
        }
        if let Some(message) = self.line.receive().await
            && let Some(call) = self.calls.iter_mut().find(|call| call.owns(&message))
        {
            call.receive(Instant::now(), &message);
        }
        let mut events = Vec::new();
        for call in &mut self.calls {
            events.extend(std::iter::from_fn(|| call.poll_event()));
            while let Some(wire) = call.poll_transmit() {
                self.line.send(&wire).await;
            }
        }
        events
    }

    /// Lives until every call has been answered by the box and acknowledged; the box's sides.
    async fn answered(&mut self, near: &mut Bench) -> Vec<Invite> {
        let (end, mut invites, mut up) = (Instant::now() + SOON, Vec::new(), 0);
        while up < self.calls.len() {
            assert!(Instant::now() < end, "in vain");
            for event in self.live().await {
                match event {
                    CallEvent::Ringing => {
                        let invite = near.call().await;
                        invite.dialog.answer(SDP).await.unwrap();
                        invites.push(invite);
                    }
                    CallEvent::Answered(_) => up += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        for invite in &mut invites {
            assert!(matches!(event(&mut invite.events).await, DialogEvent::Confirmed { .. }));
        }
        invites
    }

    fn are_content(&self) {
        for call in &self.calls {
            assert!(call.faults.all().is_empty(), "{:?}", call.faults);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_share_a_stream_and_each_ends_by_itself() {
    let mut world = World::start().await;
    let (line, via) = world.connect().await;
    let mut meta = Calls::dial(line, via, 5);
    let mut invites = meta.answered(&mut world.near).await;
    // Ours hang up on the first ones, she does on the last.
    let last = invites.len() - 1;
    let ours: Vec<_> = invites[..last].iter().map(|invite| invite.dialog.clone()).collect();
    let ours = tokio::spawn(async move {
        for dialog in ours {
            dialog.bye().await.unwrap();
        }
    });
    let wacid = invites[last].whatsapp.as_ref().unwrap().wacid.expose().to_owned();
    let hers = meta.calls.iter_mut().find(|call| call.wacid().expose() == wacid).unwrap();
    hers.hang_up(Instant::now());
    let (mut events, end) = (Vec::new(), Instant::now() + SOON);
    while events.len() < invites.len() {
        assert!(Instant::now() < end, "{events:?}");
        events.extend(meta.live().await);
    }
    ours.await.unwrap();
    assert_eq!(events.iter().filter(|event| **event == CallEvent::HungUp).count(), last);
    assert_eq!(events.iter().filter(|event| **event == CallEvent::Over).count(), 1);
    assert!(matches!(event(&mut invites[last].events).await, DialogEvent::Bye));
    meta.are_content();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_stream_meta_has_closed_is_hung_up_on_over_a_new_one() {
    let mut world = World::start().await;
    let (line, via) = world.connect().await;
    let mut meta = Calls::dial(line, via, 1);
    let invite = meta.answered(&mut world.near).await.remove(0);
    meta.line.stream.shutdown().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (ended, _) = tokio::join!(invite.dialog.bye(), async {
        meta.line = world.accept().await;
        while !meta.live().await.contains(&CallEvent::HungUp) {}
    });
    ended.unwrap();
    meta.are_content();
}
