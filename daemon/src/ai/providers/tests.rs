//! The way down the ladder over real sockets, against servers that this file plays itself.

use rustls::RootCertStore;
use sauti_core::config::Fallback;
use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_tungstenite::accept_async;

use super::super::link::tests::{openai, tls};
use super::*;

fn fallback(url: &str, model: &str) -> Fallback {
    Fallback {
        url: url.to_owned(),
        model: model.to_owned(),
        key: None,
        api_key: SecretString::from("canary-openai-key"),
    }
}

/// A provider at `url` and its fallbacks.
fn providers(url: &str, fallback: Vec<Fallback>) -> Arc<Providers> {
    let settings = OpenAi { fallback, ..openai(url.to_owned()) };
    Arc::new(Providers::new(&settings, &tls(RootCertStore::empty()), Arc::new(Metrics::new())).unwrap())
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    (listener, url)
}

/// An address where nobody listens.
async fn nowhere() -> String {
    listen().await.1
}

/// Accepts every WebSocket and keeps it open.
fn serve(listener: TcpListener) {
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.extend(accept_async(stream).await);
        }
    });
}

/// Answers every request with this status and error code.
fn refuse(listener: TcpListener, status: &'static str, code: &'static str) {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            stream.read(&mut request).await.unwrap_or_default();
            let body = format!(r#"{{"error":{{"code":"{code}"}}}}"#);
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap_or_default();
            stream.shutdown().await.unwrap_or_default();
            stream.read_to_end(&mut Vec::new()).await.unwrap_or_default();
        }
    });
}

fn missed(dialled: &Dialled) -> Vec<(&'static str, &str)> {
    dialled.misses.iter().map(|miss| (miss.provider, miss.failure.code.as_str())).collect()
}

fn breaker(providers: &Providers, provider: &str) -> String {
    providers.publish();
    let text = providers.metrics.render();
    let name = format!("sauti_model_breaker{{provider=\"{provider}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or("absent").to_owned()
}

#[tokio::test]
async fn a_dead_address_costs_no_attempt_and_after_three_calls_nothing_at_all() {
    let (listener, url) = listen().await;
    serve(listener);
    let dead = nowhere().await;
    let smaller_there = fallback(&dead, "gpt-realtime-2.1-mini");
    let providers = providers(&dead, vec![smaller_there, fallback(&url, "gpt-realtime-2")]);
    for _ in 0..3 {
        assert_eq!(breaker(&providers, "primary"), "0");
        let dialled = providers.connect(Climb::default(), None).await;
        // The smaller model lives at the dead address: it is not even tried.
        assert_eq!(missed(&dialled), [("primary", "connect_failed")]);
        let (_link, claim) = dialled.result.unwrap();
        assert_eq!((claim.provider(), claim.model()), ("fallback2", "gpt-realtime-2"));
    }
    assert_eq!((breaker(&providers, "primary").as_str(), breaker(&providers, "fallback1").as_str()), ("2", "2"));
    let dialled = providers.connect(Climb::default(), None).await;
    assert_eq!((missed(&dialled).len(), dialled.result.unwrap().1.provider()), (0, "fallback2"));
    let text = providers.metrics.render();
    assert!(text.contains(r#"sauti_model_sessions_total{kind="opening",provider="fallback2"} 4"#), "{text}");
    assert!(text.contains(r#"sauti_model_round_trip_seconds_count{kind="fallback2"} 4"#), "{text}");
    assert!(!text.contains("127.0.0.1"), "no address in a label");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_left_while_the_caller_still_waits() {
    let (mute, silent_url) = listen().await;
    let (listener, url) = listen().await;
    serve(listener);
    let providers = providers(&silent_url, vec![fallback(&url, "gpt-realtime-2.1")]);
    let begun = Instant::now();
    let dialled = providers.connect(Climb::default(), None).await;
    assert_eq!(missed(&dialled), [("primary", "connect_timeout")]);
    assert!(dialled.misses[0].took < Duration::from_secs(2) && begun.elapsed() < Duration::from_secs(3));
    assert_eq!(dialled.result.unwrap().1.provider(), "fallback1");
    drop(mute);
}

#[tokio::test]
async fn a_key_refused_at_one_provider_may_be_good_at_another_and_is_final_at_all() {
    let (refusing, refusing_url) = listen().await;
    refuse(refusing, "401 Unauthorized", "invalid_api_key");
    let (listener, url) = listen().await;
    serve(listener);
    let there = providers(&refusing_url, vec![fallback(&url, "gpt-realtime-2.1")]);
    let mut course = Course::new(&there);
    let dialled = there.connect(course.begin(), None).await;
    assert_eq!(missed(&dialled), [("primary", "invalid_api_key")]);
    course.arrived(dialled).unwrap();
    assert!(!course.is_hopeless());
    assert_eq!(breaker(&there, "primary"), "2");
    let smaller = fallback(&refusing_url, "gpt-realtime-2.1-mini");
    let nobody = providers(&refusing_url, vec![smaller]);
    let mut course = Course::new(&nobody);
    let dialled = nobody.connect(course.begin(), None).await;
    assert_eq!(missed(&dialled), [("primary", "invalid_api_key")], "the same account is not asked twice");
    assert_eq!(course.arrived(dialled).unwrap_err().loss, Loss::Refused);
    assert!(course.is_hopeless());
}

#[tokio::test]
async fn too_many_requests_lead_to_the_smaller_model_at_the_same_address() {
    let (listener, url) = listen().await;
    // The first handshake is refused, the others are not.
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        stream.read(&mut request).await.unwrap_or_default();
        stream.write_all(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let second = listener.accept().await.unwrap().0;
        let _open = accept_async(second).await.unwrap();
        std::future::pending::<()>().await;
    });
    let providers = providers(&url, vec![fallback(&url, "gpt-realtime-2.1-mini")]);
    let dialled = providers.connect(Climb::default(), None).await;
    assert_eq!(missed(&dialled), [("primary", "http_429")]);
    assert_eq!(dialled.result.unwrap().1.model(), "gpt-realtime-2.1-mini");
    assert_eq!(breaker(&providers, "primary"), "0", "one busy moment opens nothing");
}

#[tokio::test]
async fn a_call_that_loses_its_session_twice_goes_elsewhere_and_says_where_it_was() {
    let (listener, url) = listen().await;
    serve(listener);
    let (second, second_url) = listen().await;
    serve(second);
    let providers = providers(&url, vec![fallback(&second_url, "gpt-realtime-2.1-mini")]);
    let mut course = Course::new(&providers);
    let lost = Failure::broken(Code::known("connection_lost"));
    let mut way = Vec::new();
    for _ in 0..3 {
        let dialled = providers.connect(course.begin(), None).await;
        course.arrived(dialled).unwrap();
        way.push(course.provider());
        // Other calls fare well, so the breakers stay closed.
        course.worked();
        let parting = course.lost(&lost).unwrap();
        assert_eq!(parting.provider, way[way.len() - 1]);
        assert!(!parting.model.is_empty() && course.lost(&lost).is_none() && course.model().is_empty());
    }
    assert_eq!(way, ["primary", "primary", "fallback1"]);
}

#[tokio::test]
async fn when_nothing_can_be_had_the_failure_that_leaves_hope_is_told() {
    let (refusing, refusing_url) = listen().await;
    refuse(refusing, "401 Unauthorized", "invalid_api_key");
    let dead = nowhere().await;
    let providers = providers(&refusing_url, vec![fallback(&dead, "gpt-realtime-2.1")]);
    let mut course = Course::new(&providers);
    let dialled = providers.connect(course.begin(), None).await;
    assert_eq!(missed(&dialled), [("primary", "invalid_api_key"), ("fallback1", "connect_failed")]);
    let failure = course.arrived(dialled).unwrap_err();
    assert_eq!((failure.loss, failure.code.as_str(), failure.retry), (Loss::Broken, "connect_failed", true));
    assert!(!course.is_hopeless());
}
