//! Webhook bodies with their signature, call ids, and what Graph answers.

use std::hint::black_box;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sauti_core::pii::{BoxKey, CallerAddress, Pii};
use sauti_core::whatsapp::graph::{self, Ask, GraphError, Opaque, RetryPolicy, TextRequest};
use sauti_core::whatsapp::signature::{sign, verify};
use sauti_core::whatsapp::wacid::{same_call, wacid_tag};
use sauti_core::whatsapp::webhook::{self, WebhookEvent};
use sauti_core::whatsapp::{sdp, signature};
use secrecy::SecretString;

const OURS: &str = "100000000000002";

/// Reads the bytes as a webhook body, as a signature with a body, as a call id and as an answer of Graph.
///
/// Beside that nothing panics: reading twice gives the same, a body makes no more events than it has bytes, only the
/// right signature is believed, a tag is 32 hex digits, and a Graph answer that is not `success` is never taken for it.
pub(crate) fn webhook(data: &[u8]) {
    body(data);
    signed(data);
    call_id(data);
    graph_answer(data);
}

fn body(data: &[u8]) {
    let read = webhook::parse(data, OURS);
    assert_eq!(read, webhook::parse(data, OURS));
    let Ok(read) = read else { return };
    assert!(read.events.len() <= data.len());
    let key = BoxKey::new([7; 32]);
    for event in &read.events {
        assert_eq!(event.key(&key).is_some(), event.wacid().is_some());
        assert!(!format!("{event:?}").is_empty() && event.name().len() <= 128);
        if let Some(wacid) = event.wacid() {
            assert!(same_call(wacid, wacid));
            tag(wacid);
        }
        match event {
            WebhookEvent::Connect(connect) => {
                if let Some(offer) = &connect.offer {
                    let age = sdp::connect_age(jiff::Timestamp::UNIX_EPOCH, Some(offer.expose()), connect.timestamp);
                    black_box(sdp::is_stale(age, Duration::from_secs(5), true));
                }
                text_to(&connect.caller);
            }
            WebhookEvent::Message(message) => text_to(&message.from),
            WebhookEvent::Account(account) => {
                black_box(account.is_alarming());
            }
            _ => {}
        }
    }
}

/// A message to whoever the webhook named must be JSON, whatever the name.
fn text_to(caller: &CallerAddress) {
    let Some(opaque) = Opaque::new("call") else { return };
    let Some(message) = TextRequest::new(caller, "Muraho", &opaque) else { return };
    assert!(serde_json::from_slice::<serde_json::Value>(&message.to_json()).is_ok());
}

/// The first byte says how long the header is.
fn signed(data: &[u8]) {
    let secret = SecretString::from("canary-app-secret");
    let (header, body) = match data.split_first() {
        Some((length, rest)) => rest.split_at(usize::from(*length).min(rest.len())),
        None => (data, data),
    };
    let right = sign(&secret, body);
    let believed = verify(&secret, Some(header), body).is_ok();
    let same = std::str::from_utf8(header).is_ok_and(|header| header.trim().eq_ignore_ascii_case(&right));
    assert_eq!(believed, same);
    assert!(verify(&secret, Some(right.as_bytes()), body).is_ok());
    assert!(verify(&secret, None, body).is_err());
    let asked = std::str::from_utf8(header).ok();
    let asked = signature::Verification { mode: Some("subscribe"), token: asked, challenge: asked };
    assert!(signature::answer_verification(&SecretString::from("canary-verify-token"), asked).is_err());
}

fn call_id(data: &[u8]) {
    tag(&Pii::new(String::from_utf8_lossy(data)));
    tag(&Pii::new(format!("wacid.{}", STANDARD.encode(data))));
}

fn tag(wacid: &Pii) {
    if let Some(tag) = wacid_tag(wacid) {
        assert!(tag.len() == 32 && tag.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

fn graph_answer(data: &[u8]) {
    let said = serde_json::from_slice::<serde_json::Value>(data).ok();
    let success = said.is_some_and(|said| said.get("success") == Some(&serde_json::Value::Bool(true)));
    for http in [200, 400, 429, 500] {
        for ask in Ask::ALL.iter().copied() {
            match graph::read_action(ask, http, data) {
                Ok(()) => assert!(success && http == 200),
                Err(error) => judged(&error),
            }
        }
        if let Err(error) = graph::read_message(http, data) {
            judged(&error);
        }
    }
}

fn judged(error: &GraphError) {
    let again = RetryPolicy::of(error.ask).next(error, 0, Duration::ZERO);
    assert!(again.is_none_or(|wait| wait < Duration::from_secs(60)));
    assert!(!error.to_string().is_empty());
    let doubted = error.clone().after_doubt();
    assert!(!format!("{:?}", doubted.verdict()).is_empty());
}
