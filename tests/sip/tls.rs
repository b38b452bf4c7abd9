//! TLS: no ALPN, a certificate that is reread, a trunk that is not believed over anything else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sauti::sip::{DialogEvent, Place, Verdict, judge};
use sauti_core::config::Transport;
use sauti_core::pii::Pii;
use sauti_core::sip::route::{Peers, Refused};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::bench::{ANSWER, Bench, Message, OFFER, SOON, config, event};

/// Writes a certificate for `name` and its key; returns where.
fn certificate(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), name.to_owned()]).unwrap();
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}

fn text(folder: &Path, trunk: &str) -> String {
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    format!(
        "[sip]\nudp = \"127.0.0.1:0\"\ntls = \"127.0.0.1:0\"\ncertificate = \"{}\"\nkey = \"{}\"\n{trunk}",
        certificate.display(),
        key.display()
    )
}

const TRUNK: &str = "[[trunk]]\nname = \"test\"\ntransport = \"tls\"\nallow = [\"127.0.0.1\"]\noptions_every = \"0s\"\n\
                     [[trunk.route]]\ncalled = \"*\"\n";

async fn connect(bench: &Bench, trusted: &Path, offers_alpn: bool) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    if offers_alpn {
        config.alpn_protocols = vec![b"sip".to_vec()];
    }
    let stream = TcpStream::connect(bench.sip.address(Transport::Tls).unwrap()).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A peer on a TLS stream.
struct Line {
    stream: TlsStream<TcpStream>,
    rest: Vec<u8>,
}

impl Line {
    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    async fn receive(&mut self) -> Message {
        loop {
            if let Some(end) = self.rest.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = Message::parse(&self.rest[..end + 4]);
                let length: usize = head.header("Content-Length").unwrap().parse().unwrap();
                if self.rest.len() >= end + 4 + length {
                    let whole: Vec<u8> = self.rest.drain(..end + 4 + length).collect();
                    return Message::parse(&whole);
                }
            }
            let mut buffer = vec![0; 16_384];
            let read = tokio::time::timeout(SOON, self.stream.read(&mut buffer)).await.expect("bytes").unwrap();
            assert!(read > 0, "the stream was closed");
            self.rest.extend_from_slice(&buffer[..read]);
        }
    }

    async fn until(&mut self, code: u16) -> Message {
        loop {
            let message = self.receive().await;
            if message.code() == code {
                return message;
            }
        }
    }
}

fn request(method: &str, sequence: u32, to_tag: &str, headers: &str, body: &str) -> String {
    let to_tag = if to_tag.is_empty() { String::new() } else { format!(";tag={to_tag}") };
    format!(
        "{method} sip:+35690000002@localhost;transport=tls SIP/2.0\r\n\
         Via: SIP/2.0/TLS 127.0.0.1:5061;branch=z9hG4bK-tls-{sequence}-{method}\r\n\
         From: <sip:+250780000001@wa.meta.vc>;tag=meta\r\nTo: <sip:+35690000002@localhost>{to_tag}\r\n\
         Call-ID: outgoing:wacid.HBgM\r\nCSeq: {sequence} {method}\r\n\
         Contact: <sip:+250780000001@127.0.0.1:5061;transport=tls;ob>;isfocus\r\nMax-Forwards: 70\r\n{headers}\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_tls_stays_on_its_stream_and_alpn_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (trusted, _) = certificate(folder.path(), "one.example.org");
    let mut bench = Bench::start(&text(folder.path(), TRUNK)).await;
    let stream = connect(&bench, &trusted, true).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), None, "offered \"sip\", answered nothing");
    let mut line = Line { stream, rest: Vec::new() };
    line.send(&request("OPTIONS", 1, "", "", "")).await;
    assert_eq!(line.receive().await.code(), 200);
    line.send(&request("INVITE", 2, "", "", OFFER)).await;
    let mut invite = bench.call().await;
    invite.dialog.answer(ANSWER).await.unwrap();
    let answer = line.until(200).await;
    let port = bench.sip.address(Transport::Tls).unwrap().port();
    let contact = answer.header("Contact").unwrap().to_ascii_lowercase();
    assert_eq!(contact, format!("<sip:sauti@127.0.0.1:{port};transport=tls>"), "sip:, not sips:");
    let tag = answer.to_tag();
    line.send(&request("ACK", 2, &tag, "", "")).await;
    assert!(matches!(event(&mut invite.events).await, DialogEvent::Confirmed { .. }));
    let dialog = invite.dialog.clone();
    let ending = tokio::spawn(async move { dialog.bye().await });
    let bye = line.receive().await;
    assert!(bye.first.starts_with("BYE sip:+250780000001@127.0.0.1:5061"), "on the stream that the call came by");
    line.send(&super::calls::reply(&bye, 200, "")).await;
    ending.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_used_after_a_reload_and_a_bad_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (old, _) = certificate(folder.path(), "one.example.org");
    let kept = folder.path().join("kept.pem");
    std::fs::copy(&old, &kept).unwrap();
    let bench = Bench::start(&text(folder.path(), TRUNK)).await;
    connect(&bench, &kept, false).await.unwrap();
    let (new, key) = certificate(folder.path(), "two.example.org");
    bench.sip.reload().await.unwrap();
    connect(&bench, &new, false).await.unwrap();
    connect(&bench, &kept, false).await.unwrap_err();
    let trusted = folder.path().join("new.pem");
    std::fs::copy(&new, &trusted).unwrap();
    std::fs::write(key, "no key").unwrap();
    let error = bench.sip.reload().await.unwrap_err().to_string();
    assert!(error.contains("sip.key"), "{error}");
    connect(&bench, &trusted, false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_out_over_tls_knows_whom_it_talks_to() {
    let folder = tempfile::tempdir().unwrap();
    let (trusted, _) = certificate(folder.path(), "localhost");
    let roots = std::fs::read(&trusted).unwrap();
    let mut far = Bench::start(&text(folder.path(), TRUNK)).await;
    let port = far.sip.address(Transport::Tls).unwrap().port();
    let trunk = |host: &str| {
        format!(
            "[[trunk]]\nname = \"out\"\ntransport = \"tls\"\noutbound_proxy = \"{host}:{port}\"\noptions_every = \"0s\"\n"
        )
    };
    let place = || Place { trunk: "out".into(), target: Pii::new("+35690000002"), offer: OFFER.to_owned(), from: None };
    // the certificate is for localhost, and nobody vouches for it
    let stranger = Bench::start(&text(folder.path(), &trunk("localhost"))).await;
    assert!(stranger.sip.place(place()).await.is_err());
    let near = Bench::with_roots(&text(folder.path(), &trunk("localhost")), roots).await;
    let (dialog, mut events) = near.sip.place(place()).await.unwrap();
    let mut invite = far.call().await;
    assert!(matches!(event(&mut events).await, DialogEvent::Ringing { .. }));
    invite.dialog.answer(ANSWER).await.unwrap();
    let DialogEvent::Confirmed { sdp } = event(&mut events).await else { panic!() };
    assert_eq!(sdp.unwrap().expose(), ANSWER);
    assert!(matches!(event(&mut invite.events).await, DialogEvent::Confirmed { .. }), "the ACK found its way");
    dialog.bye().await.unwrap();
    assert!(matches!(event(&mut invite.events).await, DialogEvent::Bye));
}

const WHATSAPP: &str = "[whatsapp]\nphone_number_id = \"7\"\nsignalling = \"sip\"\n[whatsapp.sip]\nhostname = \"localhost\"\n\
                        allow = [\"127.0.0.1\"]\nnumber = \"35690000002\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatsapp_is_challenged_and_is_never_asked_for_what_it_cannot_do() {
    let folder = tempfile::tempdir().unwrap();
    let (trusted, _) = certificate(folder.path(), "localhost");
    let mut bench = Bench::start(&text(folder.path(), WHATSAPP)).await;
    let mut line = Line { stream: connect(&bench, &trusted, false).await.unwrap(), rest: Vec::new() };
    line.send(&request("INVITE", 1, "", "", OFFER)).await;
    let challenge = line.until(407).await;
    let tag = challenge.to_tag();
    line.send(&request("ACK", 1, &tag, "", "").replace("tls-1-ACK", "tls-1-INVITE")).await;
    let nonce = challenge.header("Proxy-Authenticate").unwrap().split("nonce=\"").nth(1).unwrap();
    let nonce = nonce.split('"').next().unwrap();
    line.send(&request("INVITE", 2, "", &credentials(nonce, "guess"), OFFER)).await;
    line.until(403).await;
    assert_eq!(bench.metric("sauti_sip_refused_total{kind=\"digest\"}"), 1.0);
    let good = credentials(nonce, "canary-trunk-password");
    let more = format!("{good}Session-Expires: 1800\r\nSupported: timer\r\nx-wa-meta-wacid: wacid.HBgM\r\n");
    line.send(&request("INVITE", 3, "", &more, OFFER)).await;
    let invite = bench.call().await;
    assert_eq!((&*invite.trunk, invite.door.label()), ("whatsapp", "whatsapp-sip"));
    assert_eq!(invite.whatsapp.as_ref().unwrap().wacid.expose(), "wacid.HBgM");
    invite.dialog.answer(ANSWER).await.unwrap();
    let answer = line.until(200).await;
    assert!(answer.header("Session-Expires").is_none(), "no session timer: WhatsApp answers a refresh with 500");
    assert!(answer.header("Contact").unwrap().contains("@localhost"), "the name that Meta knows");
    assert_eq!(answer.header("Allow"), Some("INVITE, ACK, CANCEL, BYE, OPTIONS, NOTIFY"));
    assert!(invite.dialog.reinvite(ANSWER).await.is_err() && invite.dialog.refer(&Pii::new("sip:x@y")).await.is_err());
}

fn credentials(nonce: &str, password: &str) -> String {
    use rsipstack::sip::headers::auth::{Algorithm, AuthQop};
    let uri = "sip:+35690000002@localhost";
    let qop = AuthQop::Auth { cnonce: "0a4f113b".into(), nc: 1 };
    let method = rsipstack::sip::Method::Invite;
    let response = rsipstack::dialog::authenticate::compute_digest(
        "35690000002",
        password,
        "sauti",
        nonce,
        &method,
        uri,
        Algorithm::Md5,
        Some(&qop),
    );
    format!(
        "Proxy-Authorization: Digest username=\"35690000002\",realm=\"sauti\",nonce=\"{nonce}\",uri=\"{uri}\",\
         qop=auth,nc=00000001,cnonce=\"0a4f113b\",response=\"{response}\"\r\n"
    )
}

#[test]
fn a_tls_trunk_is_not_believed_over_udp() {
    let text = "[sip]\ntls = \"127.0.0.1:0\"\ncertificate = \"/c.pem\"\nkey = \"/k.pem\"\n";
    let peers = Peers::of(&config(&format!("{text}{TRUNK}")));
    let invite = request("INVITE", 1, "", "", OFFER);
    let source = "127.0.0.1".parse().unwrap();
    assert_eq!(judge(invite.as_bytes(), &peers, source, Transport::Udp), Verdict::Silent(Refused::WrongTransport));
    assert_eq!(judge(invite.as_bytes(), &peers, source, Transport::Tls), Verdict::Routed(0));
    assert!(Duration::from_secs(1) < SOON);
}
