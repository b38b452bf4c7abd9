//! How the daemon goes: killed in mid-call, or told to stop.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use sauti::simulate::loopback::phones::Manner;
use sauti_core::whatsapp::graph::Ask;
use sauti_sim::openai::Script;
use sauti_sim::whatsapp::calls::Cause;

use super::world::{Options, World, listen_and_leave, model, printed, stay, until, until_async};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_a_killed_daemon_left_is_closed_at_the_next_start_and_never_answered_again() {
    let mut world = World::start(Options::named("killed")).await;
    let call = world.call(0, stay());
    until_async("they talk", async || !world.daemon.entries("CONVERSATION_STARTED").is_empty()).await;
    let connect = world.far.meta.sent().await.remove(0);
    world.daemon.signal(Signal::SIGKILL);
    assert!(!world.daemon.ended().await.success());
    let left = world.rows();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].outcome, None);
    assert!(printed(&world.calls(&["list"]).await).contains("live"));

    world.restart().await;
    let lived = call.await.expect("the phone lives");
    assert_eq!(lived.over, Some(Cause::Terminated), "Graph was told");
    let wacid = lived.wacid.expect("it rang");
    let row = world.ended(&wacid).await;
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("restart"), Some("box")));
    assert_eq!(row.call_id, left[0].call_id);
    assert!(row.ended_at.is_some() && row.accepted_at.is_some());
    assert_eq!(world.asked(Ask::Terminate).await, 1);
    assert_eq!(world.daemon.entries("CALL_RECOVERED").len(), 1);
    let restarts = r#"sauti_calls_total{door="whatsapp",outcome="restart",fault="box"}"#;
    assert_eq!(world.metric(restarts).await, 1.0);
    let record = world.far.meta.record(&wacid).await.expect("Graph knows the call");
    assert_eq!((record.times(Ask::Accept), record.times(Ask::Terminate)), (1, 1));

    // Meta repeats what it sent before the crash, byte for byte.
    assert_eq!(world.post_raw(connect.body.to_vec(), connect.signature).await, 200);
    let name = r#"sauti_webhooks_total{kind="duplicate"}"#;
    until_async("the duplicate is recognised", async || world.metric(name).await >= 1.0).await;
    assert_eq!(world.asked(Ask::PreAccept).await, 1);
    assert!(world.daemon.entries("WA_VOICE_WEBHOOK_RECEIVED").is_empty());

    // The next caller is served; a second restart finds nothing to do.
    let next = world.call(1, listen_and_leave()).await.expect("the phone lives");
    assert_eq!(next.over, Some(Cause::HungUp));
    assert_eq!(world.ended(&next.wacid.expect("it rang")).await.outcome.as_deref(), Some("completed"));
    world.until_tables_are_empty().await;
    assert!(world.stop().await.success());
    world.restart().await;
    assert!(world.daemon.entries("CALL_RECOVERED").is_empty());
    assert_eq!(world.metric(restarts).await, 0.0);
    let outcomes: Vec<_> = world.rows().into_iter().filter_map(|row| row.outcome).collect();
    assert_eq!(outcomes, ["restart", "completed"]);
    assert_eq!(world.asked(Ask::Terminate).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_the_drain_time_then_hangs_up_with_a_text_and_ends_well() {
    let mut world = World::start(Options { limits: "drain = \"2s\"\n", ..Options::named("drained") }).await;
    assert_eq!(world.get(world.daemon.admin, "/ready").await, (200, r#"{"ready":true}"#.to_owned()));
    let call = world.call(0, stay());
    until("they talk", || !world.daemon.entries("CONVERSATION_STARTED").is_empty()).await;
    let told = std::time::Instant::now();
    world.daemon.signal(Signal::SIGTERM);
    until("it says so", || !world.daemon.entries("SERVICE_DRAINING").is_empty()).await;
    let (status, health) = world.get(world.daemon.public, "/health").await;
    assert_eq!(status, 503);
    assert!(health.contains(r#""status":"draining""#), "{health}");
    assert_eq!(world.get(world.daemon.admin, "/ready").await.0, 503);
    // Who calls now is refused at once.
    let late = world.call(1, stay()).await.expect("the phone lives");
    assert_eq!(late.over, Some(Cause::Rejected));
    assert!(!call.is_finished(), "the call that runs has its time");
    let status = world.daemon.ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(told.elapsed().as_secs() >= 2);
    let lived = call.await.expect("the phone lives");
    assert_eq!(lived.over, Some(Cause::Terminated));
    let row = world.ended(&lived.wacid.expect("it rang")).await;
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("drained"), Some("operator")));
    let row = world.ended(&late.wacid.expect("it rang")).await;
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("refused_capacity"), Some("operator")));
    let texts = world.far.meta.texts().await;
    assert_eq!(texts.len(), 2, "both are written to, each once");
    assert_eq!(world.daemon.entries("SERVICE_STOPPED").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_while_it_rings_left_early_and_makes_room_for_the_next() {
    let options = Options {
        limits: "max_calls = 1\n",
        model: Arc::new(|facts| {
            let mut settings = model(Script::tones(1, Duration::from_secs(1)), facts);
            // The first caller's session is not ready before she has lost patience; so her call is never accepted.
            if facts.connection == 0 {
                settings.latency.session_updated = Duration::from_secs(10);
            }
            settings
        }),
        ..Options::named("left-early")
    };
    let mut world = World::start(options).await;
    let manner = Manner { gives_up: Some(Duration::from_secs(1)), ..Manner::default() };
    let lived = world.call_as(0, stay(), manner).await.expect("the phone lives");
    assert_eq!((&lived.trouble, lived.over, lived.accepted), (&None, Some(Cause::HungUp), None));
    assert!(lived.connected.is_some(), "her phone is a good one");
    let wacid = lived.wacid.expect("it rang");
    let row = world.ended(&wacid).await;
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("caller_left_early"), Some("caller")));
    assert_eq!((row.accepted_at, row.first_audio_at), (None, None));
    assert_eq!((world.asked(Ask::Accept).await, world.asked(Ask::Reject).await), (0, 0));
    world.until_tables_are_empty().await;

    let next = world.call(1, listen_and_leave()).await.expect("the phone lives");
    assert_eq!(next.over, Some(Cause::HungUp));
    assert_eq!(world.ended(&next.wacid.expect("it rang")).await.outcome.as_deref(), Some("completed"));
    world.until_tables_are_empty().await;
    assert!(world.far.meta.texts().await.is_empty(), "who hung up is owed nothing");
    let name = r#"sauti_calls_total{door="whatsapp",outcome="caller_left_early",fault="caller"}"#;
    assert_eq!(world.metric(name).await, 1.0);
    assert!(world.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_that_cannot_hear_itself_does_not_become_ready() {
    let mut world = World::start(Options::named("self-test")).await;
    assert!(world.stop().await.success());
    let (code, said) = world.does_not_start("bind = \"127.0.0.1\"", "bind = \"192.0.2.1\"").await;
    assert_eq!(code, Some(70), "{said}");
    assert!(said.contains("self-test") && said.contains("media.bind") && said.contains("192.0.2.1"), "{said}");
    assert!(!said.contains("SERVICE_READY"), "{said}");
}
