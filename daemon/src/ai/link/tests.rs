//! The socket against servers that this file plays itself, on loopback.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sauti_core::ai::verdict::{Failure, Loss};
use sauti_core::config::{Detection, OpenAi, Turn};
use sauti_core::pii::BoxKey;
use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::{accept_async, accept_hdr_async};

use super::*;
use crate::ai::dialer::{DialError, Dialer};

/// Longer than anything takes; a test that hangs fails instead.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn openai(url: String) -> OpenAi {
    OpenAi {
        url,
        model: "gpt-realtime-2.1".to_owned(),
        voice: "marin".to_owned(),
        max_output_tokens: 1024,
        transcription: None,
        noise_reduction: None,
        idle_timeout: None,
        reasoning: None,
        organization: Some("org-1".to_owned()),
        project: None,
        turn: Turn {
            detection: Detection::SemanticVad,
            create_response: true,
            interrupt_response: true,
            barge_in: sauti_core::media::floor::BargeIn::Normal,
        },
        warm: 0,
        fallback: Vec::new(),
        api_key: SecretString::from("canary-openai-key"),
    }
}

pub(crate) fn tls(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    config.with_root_certificates(roots).with_no_client_auth()
}

pub(super) fn dialer(url: String) -> Dialer {
    Dialer::new(&openai(url), &tls(RootCertStore::empty())).unwrap()
}

pub(super) async fn listen() -> (TcpListener, Dialer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, dialer(format!("http://127.0.0.1:{port}/v1")))
}

/// A link and the server's side of it.
pub(super) async fn pair_with(heartbeat: Heartbeat) -> (Link, WebSocketStream<TcpStream>) {
    let (listener, dialer) = listen().await;
    let dialer = dialer.with_heartbeat(heartbeat);
    let serve = async { accept_async(listener.accept().await.unwrap().0).await.unwrap() };
    let (link, server) = tokio::join!(dialer.connect(None, PATIENCE), serve);
    (link.unwrap(), server)
}

pub(super) async fn pair() -> (Link, WebSocketStream<TcpStream>) {
    pair_with(Heartbeat::default()).await
}

pub(super) async fn next(link: &mut Link) -> LinkEvent {
    timeout(PATIENCE, link.next()).await.unwrap()
}

/// What the server reads next.
pub(super) async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    server: &mut WebSocketStream<S>,
) -> Option<Result<Message, Error>> {
    timeout(PATIENCE, poll_fn(|cx| Pin::new(&mut *server).poll_next(cx))).await.unwrap()
}

pub(super) async fn write<S: AsyncRead + AsyncWrite + Unpin>(server: &mut WebSocketStream<S>, message: Message) {
    poll_fn(|cx| Pin::new(&mut *server).poll_ready(cx)).await.unwrap();
    Pin::new(&mut *server).start_send(message).unwrap();
    poll_fn(|cx| Pin::new(&mut *server).poll_flush(cx)).await.unwrap();
}

/// Answers one connection with raw bytes and returns why the dialer gave up.
async fn answered_with(answer: &str) -> Failure {
    let (listener, dialer) = listen().await;
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _length = stream.read(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        // Read to the end, so that the close does not overtake the answer.
        stream.read_to_end(&mut Vec::new()).await.unwrap_or_default();
    };
    let (link, ()) = tokio::join!(dialer.connect(None, PATIENCE), serve);
    link.unwrap_err()
}

#[tokio::test]
async fn a_far_end_that_is_asked_for_a_sign_of_life_gives_one_and_a_heartbeat_tells_nobody() {
    let every = Heartbeat { every: Duration::from_millis(20), within: Duration::from_secs(10) };
    let (mut link, mut server) = pair_with(every).await;
    let (beats, mut beat) = mpsc::channel(1);
    let serve = async {
        // Reading answers the pings; the text comes after the answer to the question.
        let mut heartbeats = 0;
        loop {
            match read(&mut server).await {
                Some(Ok(Message::Ping(asked))) if asked.is_empty() => {
                    heartbeats += 1;
                    beats.try_send(()).ok();
                }
                Some(Ok(Message::Ping(_))) => break,
                other => panic!("{other:?}"),
            }
        }
        write(&mut server, Message::text("{}")).await;
        // Reading sends what is still owed.
        tokio::select! {
            _ = read(&mut server) => {}
            () = sleep(Duration::from_millis(100)) => {}
        }
        heartbeats
    };
    let ask = beat.recv();
    let talk = async {
        tokio::select! {
            event = next(&mut link) => panic!("{event:?} came of a heartbeat"),
            first = ask => assert!(first.is_some()),
        }
        link.ask_alive();
        // Which of the two its socket writes first is the far end's affair.
        let events = [next(&mut link).await, next(&mut link).await];
        (events.contains(&LinkEvent::Alive), events.contains(&LinkEvent::Text("{}".into())))
    };
    let (events, heartbeats) = tokio::join!(talk, serve);
    assert_eq!(events, (true, true), "a sign of life, and the text");
    assert!(heartbeats > 0, "there was a heartbeat to be told from");
}

#[tokio::test]
async fn the_handshake_carries_key_organisation_caller_and_model_and_nothing_of_the_beta() {
    let (listener, dialer) = listen().await;
    let caller = BoxKey::new([1; 32]).hash("caller", "250780000001");
    let mut seen = None;
    #[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
    let serve = async {
        let stream = listener.accept().await.unwrap().0;
        accept_hdr_async(stream, |request: &Request, response: Response| {
            let headers = request.headers().iter();
            let headers: Vec<String> =
                headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
            seen = Some((request.uri().to_string(), headers));
            Ok(response)
        })
        .await
        .unwrap()
    };
    let (link, _server) = tokio::join!(dialer.connect(Some(caller), PATIENCE), serve);
    link.unwrap();
    let (uri, headers) = seen.unwrap();
    assert_eq!(uri, "/v1/realtime?model=gpt-realtime-2.1");
    for header in [
        "authorization: Bearer canary-openai-key".to_owned(),
        "openai-organization: org-1".to_owned(),
        format!("openai-safety-identifier: {caller}"),
        format!("user-agent: sauti/{}", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(headers.contains(&header), "{header}");
    }
    for absent in ["openai-beta", "openai-project", "sec-websocket-extensions", "sec-websocket-protocol"] {
        assert!(!headers.iter().any(|header| header.starts_with(absent)), "{absent}");
    }
}

#[tokio::test]
async fn events_go_both_ways_in_their_order() {
    let (mut link, mut server) = pair().await;
    link.send_text("one");
    link.send_audio("two");
    link.send_text("three");
    write(&mut server, Message::text("hello")).await;
    assert_eq!(next(&mut link).await, LinkEvent::Text("hello".into()));
    for expected in ["one", "two", "three"] {
        assert_eq!(read(&mut server).await.unwrap().unwrap(), Message::text(expected));
    }
    write(&mut server, Message::binary(vec![1, 2])).await;
    write(&mut server, Message::text("again")).await;
    assert_eq!(next(&mut link).await, LinkEvent::Text("again".into()), "binary messages are passed over");
}

#[tokio::test]
async fn a_close_tells_its_code_and_goes_on_telling_it() {
    let (mut link, mut server) = pair().await;
    let frame = CloseFrame { code: 3000.into(), reason: "invalid_request_error.invalid_api_key".into() };
    server.close(Some(frame)).await.unwrap();
    for _ in 0..2 {
        let event = next(&mut link).await;
        assert!(matches!(&event, LinkEvent::Closed { code: Some(3000), .. }));
        assert_eq!(format!("{event:?}"), "Closed(Some(3000))");
        let Input::Closed { code, reason } = event.input() else { panic!("not closed") };
        assert_eq!(Failure::from_close(code, reason).loss, Loss::Refused);
    }
    link.send_text("late");
    assert!(matches!(next(&mut link).await, LinkEvent::Closed { .. }));
}

#[tokio::test]
async fn a_stream_that_ends_without_a_close_is_lost() {
    let (mut link, server) = pair().await;
    drop(server);
    assert!(matches!(next(&mut link).await, LinkEvent::Lost(Lost::Ended | Lost::Io)));
}

#[tokio::test]
async fn our_close_sends_what_is_queued_first() {
    let (mut link, mut server) = pair().await;
    link.send_text("last");
    let serve = async {
        let first = read(&mut server).await.unwrap().unwrap();
        let second = read(&mut server).await.unwrap().unwrap();
        // Reading on answers the close.
        read(&mut server).await;
        (first, second)
    };
    let ((), (first, second)) = tokio::join!(link.close(PATIENCE), serve);
    assert_eq!(first, Message::text("last"));
    let Message::Close(Some(frame)) = second else { panic!("no close") };
    assert_eq!(u16::from(frame.code), 1000);
}

#[tokio::test]
async fn a_far_end_that_answers_no_ping_is_lost_and_one_that_does_is_not() {
    let quick = Heartbeat { every: Duration::from_millis(10), within: Duration::from_secs(1) };
    let (mut link, _mute) = pair_with(quick).await;
    assert_eq!(next(&mut link).await, LinkEvent::Lost(Lost::Silent));
    let (mut link, mut server) = pair_with(quick).await;
    let answering = async {
        for _ in 0..2 {
            assert!(matches!(read(&mut server).await, Some(Ok(Message::Ping(_)))));
        }
    };
    tokio::select! {
        event = link.next() => panic!("{event:?}"),
        () = answering => {}
    }
}

#[tokio::test]
async fn a_stalled_uplink_drops_the_oldest_audio_never_an_event_and_reading_goes_on() {
    let (mut link, mut server) = pair().await;
    let piece = "x".repeat(64 * 1024);
    link.send_text("event 1");
    // Far more than the buffers of a socket hold; the server reads nothing.
    for n in 0..400 {
        link.send_audio(&format!("{n} {piece}"));
        if n % 50 == 0 {
            write(&mut server, Message::text("speech")).await;
            assert_eq!(next(&mut link).await, LinkEvent::Text("speech".into()));
        }
    }
    link.send_text("event 2");
    assert!(link.dropped_audio() > 0);
    assert!(link.queued() <= MAX_AUDIO + 2);
    let mut texts = Vec::new();
    let drain = async {
        while let Some(Ok(message)) = read(&mut server).await {
            texts.push(message.into_text().unwrap().split(' ').take(2).collect::<Vec<_>>().join(" "));
            if texts.last().is_some_and(|text| text == "event 2") {
                break;
            }
        }
    };
    tokio::select! {
        event = link.next() => panic!("{event:?}"),
        () = drain => {}
    }
    assert_eq!(texts[0], "event 1");
    assert!(texts[texts.len() - 2].starts_with("399 "), "the freshest audio is kept");
}

#[tokio::test]
async fn a_far_end_that_takes_no_events_for_good_is_lost() {
    let (mut link, _server) = pair().await;
    let piece = "x".repeat(128 * 1024);
    for _ in 0..2 * MAX_EVENTS {
        link.send_text(&piece);
    }
    assert_eq!(next(&mut link).await, LinkEvent::Lost(Lost::Stalled));
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_link_and_one_below_does_not() {
    let (mut link, server) = pair().await;
    let mut server = server;
    let serve = async {
        write(&mut server, Message::text("x".repeat(MAX_MESSAGE))).await;
        let too_large = Message::text("x".repeat(MAX_MESSAGE + 1));
        Pin::new(&mut server).start_send(too_large).unwrap_or_default();
        poll_fn(|cx| Pin::new(&mut server).poll_flush(cx)).await.unwrap_or_default();
    };
    let client = async {
        assert!(matches!(next(&mut link).await, LinkEvent::Text(text) if text.len() == MAX_MESSAGE));
        let event = next(&mut link).await;
        drop(link);
        event
    };
    let (event, ()) = tokio::join!(client, serve);
    assert_eq!(event, LinkEvent::Lost(Lost::TooLarge));
}

#[tokio::test]
async fn a_refused_handshake_tells_status_and_cause_without_the_text() {
    let body = r#"{"error":{"message":"Incorrect API key provided: canary-openai-key","type":"invalid_request_error","code":"invalid_api_key"}}"#;
    let head = |status: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    let wrong_key = answered_with(&head("401 Unauthorized", body)).await;
    assert_eq!((wrong_key.loss, wrong_key.retry), (Loss::Refused, false));
    assert!(!format!("{wrong_key:?}").contains("canary"));
    let busy = answered_with(&head("429 Too Many Requests", "")).await;
    assert_eq!((busy.loss, busy.code.as_str(), busy.retry), (Loss::Broken, "http_429", true));
    let down = answered_with(&head("503 Service Unavailable", "")).await;
    assert_eq!((down.code.as_str(), down.retry), ("http_503", true));
    let garbage = answered_with("not http at all\r\n\r\n").await;
    assert_eq!((garbage.code.as_str(), garbage.retry), ("handshake_failed", true));
}

#[tokio::test]
async fn a_server_that_never_answers_and_a_port_where_nobody_listens_are_told_apart() {
    let (listener, dialer) = listen().await;
    let failure = dialer.connect(None, Duration::from_millis(50)).await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.retry), ("connect_timeout", true));
    drop(listener);
    let failure = dialer.connect(None, PATIENCE).await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.retry), ("connect_failed", true));
}

#[tokio::test]
async fn https_becomes_a_websocket_over_tls_that_trusts_only_the_given_roots() {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls_pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/v1", listener.local_addr().unwrap().port());
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let trusting = Dialer::new(&openai(url.clone()), &tls(roots)).unwrap();
    let serve = async {
        let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut server = accept_async(stream).await.unwrap();
        write(&mut server, Message::text("hello")).await;
        server
    };
    let (link, _server) = tokio::join!(trusting.connect(None, PATIENCE), serve);
    assert_eq!(next(&mut link.unwrap()).await, LinkEvent::Text("hello".into()));
    let stranger = dialer(url);
    let serve = async { acceptor.accept(listener.accept().await.unwrap().0).await.err() };
    let (link, _) = tokio::join!(stranger.connect(None, PATIENCE), serve);
    assert_eq!(link.unwrap_err().code.as_str(), "tls_failed");
}

#[test]
fn addresses_and_header_values_that_cannot_be_are_refused() {
    let roots = || tls(RootCertStore::empty());
    for url in ["", "api.openai.com/v1", "ftp://api.openai.com/v1", "https://", "https://me:canary@api.openai.com/v1"] {
        assert_eq!(Dialer::new(&openai(url.to_owned()), &roots()).unwrap_err(), DialError::Url, "{url}");
    }
    let mut config = openai("https://api.openai.com/v1".to_owned());
    config.api_key = SecretString::from("canary\nopenai-key");
    let error = Dialer::new(&config, &roots()).unwrap_err();
    assert_eq!(error, DialError::Header("api key"));
    assert!(!format!("{error} {error:?}").contains("canary"));
    let mut config = openai("wss://user.example/openai/v1/?api-version=1".to_owned());
    config.model = "my model/2".to_owned();
    let dialer = Dialer::new(&config, &roots()).unwrap();
    assert!(!format!("{dialer:?}").contains("canary"));
    assert_eq!(dialer.address(), "wss://user.example/openai/v1/realtime?api-version=1&model=my%20model%2F2");
}

#[test]
fn nothing_of_a_message_shows_in_debug_output() {
    let event = LinkEvent::Text("Hello Test Caller".into());
    assert_eq!(format!("{event:?}"), "Text(‹17 bytes›)");
}
