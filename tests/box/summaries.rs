//! What a call was about: asked when the caller has gone, kept without what would tell who she is.

use std::sync::Arc;
use std::time::Duration;

use sauti_sim::audio::speech::Speech;
use sauti_sim::caller::person::Step;
use sauti_sim::openai::Script;

use super::world::{Options, World, listen_and_leave, model, printed, until_async};

const SAID: &str = "0780 000 001";
const SPOKEN: &str = "zero seven eight zero";

fn options(name: &'static str) -> Options {
    let script = Script {
        summary: format!(
            r#"{{"intent":"call_back","summary":"The caller wants to be called at {SAID}.","language":"en","follow_up":"Call {SPOKEN}."}}"#
        ),
        ..Script::tones(2, Duration::from_secs(1))
    };
    Options { model: Arc::new(move |facts| model(script.clone(), facts)), ..Options::named(name) }
}

fn conversation() -> Vec<Step> {
    let line = Arc::clone(&Speech::load().expect("speech").caller("en")[0].samples);
    vec![Step::Listen, Step::Say(line), Step::Listen, Step::HangUp]
}

fn holds(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_summarised_when_the_caller_has_gone_and_the_number_in_it_is_kept_nowhere() {
    let mut world = World::start(options("summary")).await;
    let lived = world.call(0, conversation()).await.expect("the phone lives");
    let row = world.ended(&lived.wacid.expect("it rang")).await;
    assert_eq!(row.outcome.as_deref(), Some("completed"));
    until_async("the summary is written", async || {
        world.metrics().await.get(r#"sauti_summaries_total{kind="written"}"#).is_some_and(|count| *count > 0.0)
    })
    .await;
    assert_eq!(world.metric("sauti_summaries_owed").await, 0.0);
    let shown = printed(&world.calls(&["show", &row.call_id]).await);
    assert!(shown.contains("summary: call_back"), "{shown}");
    assert!(shown.contains("The caller wants to be called at [number].") && shown.contains("to do: Call [number]."));
    let json: serde_json::Value =
        serde_json::from_str(&printed(&world.calls(&["show", &row.call_id, "--json"]).await)).expect("JSON");
    assert_eq!(json["summary"]["primary_intent"], "whatsapp_voice_call");
    assert_eq!(json["summary"]["language"], "en");
    let session = world.sessions().await.remove(0);
    assert!(session.record.client_faults.is_empty(), "{:?}", session.record.client_faults);
    assert!(world.stop().await.success());
    for entry in world.daemon.log() {
        let entry = entry.to_string();
        assert!(!entry.contains(SAID) && !entry.contains(SPOKEN), "{entry}");
    }
    for file in std::fs::read_dir(world.folder.path()).expect("the folder") {
        let path = file.expect("its entries").path();
        let bytes = if path.is_file() { std::fs::read(&path).expect("a file") } else { Vec::new() };
        assert!(!holds(&bytes, SAID) && !holds(&bytes, SPOKEN), "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_summary_that_the_calls_own_session_did_not_give_is_made_from_the_transcript_after_a_restart() {
    let options = Options {
        model: Arc::new(|facts| {
            let mut script = Script::tones(2, Duration::from_secs(1));
            if facts.connection == 0 {
                script.summary = "I would rather not.".to_owned();
            }
            model(script, facts)
        }),
        ..Options::named("summary-later")
    };
    let mut world = World::start(options).await;
    let lived = world.call(0, conversation()).await.expect("the phone lives");
    let row = world.ended(&lived.wacid.expect("it rang")).await;
    until_async("the answer was no summary", async || {
        world.metrics().await.get(r#"sauti_summaries_total{kind="unreadable"}"#).is_some_and(|count| *count > 0.0)
    })
    .await;
    assert_eq!(world.metric("sauti_summaries_owed").await, 1.0);
    assert!(world.stop().await.success());
    // Half a minute later, without waiting for it.
    let ledger = rusqlite::Connection::open(world.folder.path().join("ledger.db")).expect("the ledger");
    ledger.execute("UPDATE owed_summaries SET due_at = 0", []).expect("it is owed");
    drop(ledger);
    world.restart().await;
    until_async("the summary is written", async || {
        world.metrics().await.get(r#"sauti_summaries_total{kind="written"}"#).is_some_and(|count| *count > 0.0)
    })
    .await;
    let shown = printed(&world.calls(&["show", &row.call_id]).await);
    assert!(shown.contains("summary: book_transport"), "{shown}");
    assert_eq!(world.metric("sauti_summaries_owed").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_which_the_caller_said_nothing_is_not_summarised() {
    let world = World::start(options("no-summary")).await;
    let lived = world.call(0, listen_and_leave()).await.expect("the phone lives");
    let row = world.ended(&lived.wacid.expect("it rang")).await;
    world.until_tables_are_empty().await;
    assert_eq!(world.metric("sauti_summaries_owed").await, 0.0);
    let shown = printed(&world.calls(&["show", &row.call_id]).await);
    assert!(!shown.contains("summary"), "{shown}");
}
