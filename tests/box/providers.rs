//! Where the model is had: a first provider that is dead, sessions that were ready before their calls.

use std::sync::Arc;
use std::time::Duration;

use sauti::store::read::Reader;
use sauti_sim::openai::{HandshakeFault, Script};
use serde_json::Value;

use super::world::{Options, World, listen_and_leave, model, until, until_async};

/// Nobody listens on a port that the kernel gives to nobody.
const DEAD: &str = "http://127.0.0.1:1/v1";

fn troubles(world: &World, call_id: &str) -> Vec<Value> {
    let mut entries = world.daemon.entries("WA_VOICE_ERROR");
    entries.retain(|entry| entry["CALL_ID"] == call_id && entry["STAGE"] == "model");
    entries
}

/// The models of a call's sessions.
fn models(world: &World, row: sauti::store::read::CallRow) -> Vec<String> {
    let reader = Reader::open(&world.ledger()).expect("a ledger");
    let detail = reader.detail(row, false).expect("it can be read");
    detail.sessions.into_iter().map(|session| session.model).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_first_provider_dead_callers_are_served_by_the_next_and_the_ledger_names_its_model() {
    let openai = |url: &str| {
        format!(
            "url = \"{DEAD}\"\ntranscription = \"\"\n[[openai.fallback]]\nmodel = \"gpt-realtime-2\"\n\
             [[openai.fallback]]\nurl = \"{url}\"\nmodel = \"gpt-realtime-2.1-mini\"\n"
        )
    };
    let world = World::start(Options { openai, ..Options::named("providers-dead") }).await;
    for who in 0..4 {
        let lived = world.call(who, listen_and_leave()).await.expect("the phone lives");
        let row = world.ended(&lived.wacid.expect("it rang")).await;
        assert_eq!(row.outcome.as_deref(), Some("completed"));
        let (model_up, offered) = (row.model_up_at.expect("it had a model"), row.offered_at);
        assert!(model_up.millis_after(offered) < 3_000, "within connect_within");
        let call_id = row.call_id.clone();
        // The breaker opens with the third failure: the fourth caller does not even meet the dead address.
        let met: Vec<_> = troubles(&world, &call_id)
            .into_iter()
            .map(|entry| [&entry["PROVIDER"], &entry["CODE"]].map(|value| value.as_str().unwrap_or("").to_owned()))
            .collect();
        let expected = if who < 3 { vec![["primary".to_owned(), "connect_failed".to_owned()]] } else { Vec::new() };
        assert_eq!(met, expected, "call {who}");
        assert!(troubles(&world, &call_id).iter().all(|entry| entry["DURATION_MS"].is_number()));
        assert_eq!(models(&world, row), ["gpt-realtime-2.1-mini"]);
    }
    let up = world.daemon.entries("OPENAI_WEBSOCKET_CONNECTED");
    assert!(up.iter().all(|entry| entry["PROVIDER"] == "fallback2" && entry["MODEL"] == "gpt-realtime-2.1-mini"));
    assert_eq!(world.metric(r#"sauti_model_breaker{provider="primary"}"#).await, 2.0);
    assert_eq!(world.metric(r#"sauti_model_breaker{provider="fallback1"}"#).await, 2.0, "it is at the dead address");
    assert_eq!(world.metric(r#"sauti_model_breaker{provider="fallback2"}"#).await, 0.0);
    assert_eq!(world.metric(r#"sauti_model_sessions_total{kind="ready",provider="fallback2"}"#).await, 4.0);
    assert_eq!(world.metric(r#"sauti_model_round_trip_seconds_count{kind="fallback2"}"#).await, 4.0);
    world.until_tables_are_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_provider_refuses_another_may_give() {
    // Both are the same server: it does not know the model of the first.
    let openai = |url: &str| format!("url = \"{url}\"\n[[openai.fallback]]\nurl = \"{url}/\"\nmodel = \"own\"\n");
    let options = Options {
        openai,
        model: Arc::new(|facts| {
            let mut settings = model(Script::tones(1, Duration::from_secs(1)), facts);
            if facts.query.contains("gpt-realtime") {
                let code = "model_not_found".to_owned();
                settings.handshake_faults = vec![HandshakeFault { connections: u64::MAX, status: 404, code }];
            }
            settings
        }),
        ..Options::named("providers-refused")
    };
    let world = World::start(options).await;
    let lived = world.call(0, listen_and_leave()).await.expect("the phone lives");
    let row = world.ended(&lived.wacid.expect("it rang")).await;
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("completed"), Some("none")));
    let met = troubles(&world, &row.call_id);
    assert_eq!(met.len(), 1, "{met:?}");
    assert_eq!((&met[0]["CODE"], &met[0]["REASON"]), (&"model_not_found".into(), &"refused".into()));
    assert_eq!(models(&world, row)[0], "own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_session_was_ready_waits_for_no_handshake() {
    let openai = |url: &str| format!("url = \"{url}\"\nwarm = 2\n");
    let options = Options {
        openai,
        model: Arc::new(|facts| {
            let mut settings = model(Script::tones(1, Duration::from_secs(1)), facts);
            settings.handshake_delay = Duration::from_millis(1_500);
            settings
        }),
        ..Options::named("providers-warm")
    };
    let mut world = World::start(options).await;
    until_async("two sessions wait", async || world.metric("sauti_table_warm").await == 2.0).await;
    let lived = world.call(0, listen_and_leave()).await.expect("the phone lives");
    let row = world.ended(&lived.wacid.expect("it rang")).await;
    assert_eq!(row.outcome.as_deref(), Some("completed"));
    let waited = row.model_up_at.expect("it had a model").millis_after(row.offered_at);
    assert!(waited < 1_000, "{waited} ms, and a handshake takes 1,500");
    let up = world.daemon.entries("OPENAI_WEBSOCKET_CONNECTED");
    assert_eq!((up.len(), &up[0]["WARM"]), (1, &true.into()));
    until_async("the one that was taken is replaced", async || world.metric("sauti_table_warm").await == 2.0).await;
    assert!(world.stop().await.success());
    until("nothing is left open", || world.far.sessions.open() == 0).await;
    let finished = world.far.sessions.take_finished();
    assert_eq!(finished.len(), 3);
    assert!(finished.iter().all(|session| session.record.client_faults.is_empty()), "nobody spoke too early");
    assert_eq!(finished.iter().filter(|session| !session.record.spoken.is_empty()).count(), 1);
}
