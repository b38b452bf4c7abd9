//! The webhook's door: who is let in, and that nothing which comes through it hurts.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use sauti_core::whatsapp::graph::Ask;
use sauti_core::whatsapp::signature::sign;
use sauti_sim::whatsapp::calls::{Cause, Ending};
use sauti_sim::whatsapp::person::Person;
use sauti_sim::whatsapp::webhooks::{Change, ErrorForm, body};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::world::{APP_SECRET, Options, VERIFY_TOKEN, World, until, until_async, wacid};

fn signed_by(secret: &str, bytes: &[u8]) -> String {
    sign(&SecretString::from(secret.to_owned()), bytes)
}

fn terminate(world: &World, number: u32) -> Change {
    let ending = Ending { cause: Cause::HungUp, start: None, end: Timestamp::now() };
    world.webhooks().terminate(
        Timestamp::now(),
        &wacid(number),
        &Person::test_caller(),
        &ending,
        ErrorForm::Doubled,
        None,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_meta_is_let_in_and_the_verification_is_answered_to_who_knows_the_token() {
    let world = World::start(Options::named("door-signature")).await;
    let query =
        |token: &str| format!("/webhooks/whatsapp?hub.mode=subscribe&hub.verify_token={token}&hub.challenge=8-xY");
    assert_eq!(world.get(world.daemon.public, &query(VERIFY_TOKEN)).await, (200, "8-xY".to_owned()));
    for path in [query("wrong"), query(""), "/webhooks/whatsapp".to_owned()] {
        let (status, text) = world.get(world.daemon.public, &path).await;
        assert_eq!(status, 403, "{path}");
        assert!(!text.contains("8-xY"), "{text}");
    }
    let offer = world.offer(Timestamp::now());
    let connect = world.webhooks().connect(Timestamp::now(), &wacid(1), &Person::test_caller(), &offer);
    let bytes = body(&world.business, &[connect]);
    let good = signed_by(APP_SECRET, &bytes);
    let refused = [
        None,
        Some(String::new()),
        Some("sha256=".to_owned()),
        Some(signed_by("another secret", &bytes)),
        Some(good.replace("sha256=", "sha1=")),
        Some(good[..good.len() - 2].to_owned()),
        Some(signed_by(APP_SECRET, &bytes[..bytes.len() - 1])),
    ];
    for signature in refused {
        assert_eq!(world.post_raw(bytes.clone(), signature.clone()).await, 401, "{signature:?}");
    }
    assert!(world.rows().is_empty(), "what is forged is not read");
    assert!(world.daemon.entries("WA_VOICE_WEBHOOK_RECEIVED").is_empty());
    assert_eq!(world.get(world.daemon.public, "/metrics").await.0, 404, "the admin's routes are not the world's");
    assert_eq!(world.get(world.daemon.public, "/ready").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_good_signature_brings_is_acknowledged_and_hurts_nothing() {
    let world = World::start(Options::named("door-bodies")).await;
    assert_eq!(world.post_signed(vec![b' '; 4 * 1024 * 1024]).await, 413, "a body of 4 MiB is not read");
    let broken: [&[u8]; 8] =
        [b"", b"{", b"null", b"[]", b"\"text\"", b"{\"object\":1}", b"\xff\xfe{}", b"{\"entry\":[{\"changes\":{}}]}"];
    for bytes in broken {
        assert_eq!(world.post_signed(bytes.to_vec()).await, 200, "{}", String::from_utf8_lossy(bytes));
    }
    let person = Person::test_caller();
    let wall = Timestamp::now();
    let webhooks = world.webhooks();
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    assert_eq!(world.post_signed(deep.into_bytes()).await, 200);
    let strange = [
        webhooks.other_call_event(wall, &wacid(2), &person, "call_recording_available"),
        webhooks.other_call_event(wall, &wacid(2), &person, "something_new"),
        webhooks.text(wall, &wacid(3), &person, "hello"),
        webhooks.errors(131_044),
        webhooks.restriction(wall),
        Change::new("no_such_field", json!({"a": [1, {"b": null}]})),
        Change::new("calls", json!({"calls": "none"})),
        Change::new("calls", json!({"metadata": {"phone_number_id": 7}, "calls": [{"id": 1}, null, []]})),
        Change::new("calls", Value::Null),
    ];
    for change in strange.clone() {
        assert_eq!(world.post(&[change]).await, 200);
    }
    assert_eq!(world.post(&strange).await, 200, "all in one");
    assert_eq!(world.get(world.daemon.public, "/health").await.0, 200);
    assert!(world.rows().is_empty(), "none of that is a call");
    let unknown = world.metrics().await.into_iter().filter(|(name, _)| name.starts_with("sauti_webhooks_total"));
    let counted: Vec<_> = unknown.map(|(name, _)| name).collect();
    assert!(counted.iter().any(|name| name.contains("malformed")), "{counted:?}");
    assert!(world.daemon.entries("PANICKED").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_in_one_post_are_acknowledged_quickly_and_all_handled() {
    let world = World::start(Options::named("door-thousand")).await;
    let mut changes: Vec<Change> = (0..999).map(|number| terminate(&world, number)).collect();
    // The last one says that the others were handled too: it is stale, and has its row all the same.
    let long_ago = Timestamp::now() - jiff::SignedDuration::from_secs(120);
    let late = world.webhooks().connect(long_ago, &wacid(5_000), &Person::test_caller(), &world.offer(long_ago));
    changes.push(late);
    let asked = Instant::now();
    assert_eq!(world.post(&changes).await, 200);
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let row = world.ended(&wacid(5_000)).await;
    assert_eq!(row.outcome.as_deref(), Some("stale"));
    let name = r#"sauti_webhooks_total{kind="terminate_without_call"}"#;
    until_async("every change is handled", async || world.metric(name).await == 999.0).await;
    // The same body again: all of it is known.
    assert_eq!(world.post(&changes).await, 200);
    let name = r#"sauti_webhooks_total{kind="duplicate"}"#;
    until_async("every change is recognised", async || world.metric(name).await == 1000.0).await;
    until("the row is the only one", || world.rows().len() == 1).await;
    assert_eq!(world.asked(Ask::PreAccept).await, 0);
    world.until_tables_are_empty().await;
}
