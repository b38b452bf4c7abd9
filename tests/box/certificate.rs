//! The certificate of the SIP listener, renewed under a daemon that runs: SIGHUP rereads it, and calls go on.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use nix::sys::signal::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::carrier::Caller;
use super::world::{Options, World, until};

/// Writes a certificate for `name` and its key where the daemon reads them, and a copy of the certificate to trust.
fn certificate(folder: &Path, name: &str) -> CertificateDer<'static> {
    let made =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), name.to_owned()]).expect("a certificate");
    std::fs::write(folder.join("certificate.pem"), made.cert.pem()).expect("a folder");
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("a folder");
    CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).expect("PEM")
}

/// Whether the listener has the certificate that is trusted here.
async fn shows(listener: SocketAddr, trusted: &CertificateDer<'static>) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a root");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(listener).await.expect("the listener is there");
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_signal_rereads_the_certificate_of_sip_and_ends_no_call() {
    let folder = tempfile::tempdir().expect("a folder");
    let old = certificate(folder.path(), "one.example.org");
    let files = folder.path().display();
    let more = format!(
        "[sip]\nudp = \"127.0.0.1:0\"\ntls = \"127.0.0.1:0\"\ncertificate = \"{files}/certificate.pem\"\n\
         key = \"{files}/key.pem\"\n[[trunk]]\nname = \"carrier\"\nallow = [\"127.0.0.0/8\"]\noptions_every = \"0s\"\n\
         [[trunk.route]]\ncalled = \"100\"\n"
    );
    let mut world =
        World::start(Options { more, limits: "no_media = \"60s\"\n", ..Options::named("certificate") }).await;
    let (tls, udp) = (world.daemon.bound("sip.tls"), world.daemon.bound("sip.udp"));
    assert!(shows(tls, &old).await);
    let mut caller = Caller::new("UDP", 1, udp).await;
    caller.dial(udp, 200).await;

    let new = certificate(folder.path(), "two.example.org");
    assert!(shows(tls, &old).await, "nothing is reread by itself");
    world.daemon.signal(Signal::SIGHUP);
    until("it says that it has reread", || !world.daemon.entries("SERVICE_RELOADED").is_empty()).await;
    assert!(shows(tls, &new).await && !shows(tls, &old).await);
    assert_eq!(world.daemon.entries("SERVICE_RELOADED")[0]["STAGE"], "sip.certificate");

    std::fs::write(folder.path().join("key.pem"), "no key").expect("a folder");
    world.daemon.signal(Signal::SIGHUP);
    until("it says that it could not", || !world.daemon.entries("SERVICE_ERROR").is_empty()).await;
    assert!(shows(tls, &new).await, "a bad one leaves the old one in use");
    assert!(world.rows().iter().all(|row| row.outcome.is_none()), "nobody was hung up on");
    assert_eq!(caller.ask("BYE", "").await, 200);
    until("the call is over", || world.rows().iter().all(|row| row.outcome.is_some())).await;
    assert!(world.stop().await.success());
}
