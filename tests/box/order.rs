//! Webhooks that come twice, too late, or in the wrong order.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sauti_core::whatsapp::graph::Ask;
use sauti_sim::caller::person::Step;
use sauti_sim::whatsapp::calls::{Cause, Ending};
use sauti_sim::whatsapp::delivery::Habits;
use sauti_sim::whatsapp::person::Person;
use sauti_sim::whatsapp::webhooks::ErrorForm;

use super::world::{Options, World, listen_and_leave, until_async, wacid};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_webhooks_come_twice_and_among_forged_ones_is_answered_once() {
    let habits = Habits { duplicates: 100, forgeries: 100, ..Habits::prompt() };
    let mut world = World::start(Options { habits, ..Options::named("order-duplicates") }).await;
    let lived = world.call(0, listen_and_leave()).await.expect("the phone lives");
    assert_eq!(lived.trouble, None);
    assert_eq!(lived.over, Some(Cause::HungUp));
    let wacid = lived.wacid.expect("it rang");
    assert_eq!(world.ended(&wacid).await.outcome.as_deref(), Some("completed"));
    // Connect and terminate, each a second time within 5 s.
    let name = r#"sauti_webhooks_total{kind="duplicate"}"#;
    until_async("both come again", async || world.metric(name).await >= 2.0).await;
    assert_eq!(world.asked(Ask::PreAccept).await, 1);
    assert_eq!(world.asked(Ask::Accept).await, 1);
    assert_eq!(world.rows().len(), 1);
    assert_eq!(world.daemon.entries("CALL_ENDED").len(), 1);
    assert!(world.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminate_that_overtakes_its_connect_keeps_it_from_being_answered() {
    let world = World::start(Options::named("order-tombstone")).await;
    let (now, person, id) = (Timestamp::now(), Person::test_caller(), wacid(1));
    let ending = Ending { cause: Cause::HungUp, start: None, end: now };
    let terminate = world.webhooks().terminate(now, &id, &person, &ending, ErrorForm::Doubled, None);
    let connect = world.webhooks().connect(now, &id, &person, &world.offer(now));
    assert_eq!(world.post(std::slice::from_ref(&terminate)).await, 200);
    assert_eq!(world.post(std::slice::from_ref(&connect)).await, 200);
    let name = r#"sauti_webhooks_total{kind="connect_after_terminate"}"#;
    until_async("the tombstone is found", async || world.metric(name).await == 1.0).await;
    // In one body it is the same.
    let id = wacid(2);
    let terminate = world.webhooks().terminate(now, &id, &person, &ending, ErrorForm::Doubled, None);
    let connect = world.webhooks().connect(now, &id, &person, &world.offer(now));
    assert_eq!(world.post(&[terminate, connect]).await, 200);
    until_async("the tombstone is found", async || world.metric(name).await == 2.0).await;
    assert_eq!(world.asked(Ask::PreAccept).await, 0);
    assert!(world.far.meta.texts().await.is_empty(), "who hung up is owed nothing");
    world.until_tables_are_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_that_is_a_minute_old_is_noted_and_not_answered() {
    let world = World::start(Options::named("order-stale")).await;
    let old = Timestamp::now() - SignedDuration::from_secs(60);
    let id = wacid(1);
    let connect = world.webhooks().connect(Timestamp::now(), &id, &Person::test_caller(), &world.offer(old));
    assert_eq!(world.post(&[connect]).await, 200);
    let row = world.ended(&id).await;
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("stale"), Some("whatsapp")));
    assert_eq!(row.connect_at.map(|at| at.0.as_second()), Some(old.as_second()));
    assert_eq!(row.pre_accepted_at, None);
    assert_eq!(world.far.meta.seen().await, [], "Graph hears nothing of it");
    world.until_tables_are_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_two_seconds_late_still_make_a_call() {
    let lag = Duration::from_secs(2);
    let habits = Habits { lag: (lag, lag), ..Habits::prompt() };
    let world = World::start(Options { habits, ..Options::named("order-lag") }).await;
    let lived = world.call(0, vec![Step::Listen, Step::HangUp]).await.expect("the phone lives");
    let row = world.ended(&lived.wacid.expect("it rang")).await;
    assert_eq!(row.outcome.as_deref(), Some("completed"));
    let connect = row.connect_at.expect("the offer says when");
    assert!((1_900..6_000).contains(&row.offered_at.millis_after(connect)), "{row:?}");
}
