//! Callers who cannot be served, and a Graph that is not well: hung up on in Graph's words, and written to.

use std::sync::Arc;
use std::time::Duration;

use sauti::simulate::loopback::phones::Manner;
use sauti_core::pii::Pii;
use sauti_core::whatsapp::graph::Ask;
use sauti_sim::caller::person::Step;
use sauti_sim::openai::{ExpectedKey, Script};
use sauti_sim::whatsapp::calls::Cause;
use sauti_sim::whatsapp::graph::{Fault, FaultRule, SentText};
use sauti_sim::whatsapp::webhooks::Generation;

use super::world::{Options, World, listen_and_leave, model, stay, until, until_async};

const FRENCH: &str = "Désolé, nous n'avons pas pu prendre votre appel.";
const ENGLISH: &str = "Sorry, we could not take your call just now.";

async fn texts(world: &World, count: usize) -> Vec<SentText> {
    until_async("the texts are sent", async || world.far.meta.texts().await.len() >= count).await;
    let texts = world.far.meta.texts().await;
    assert_eq!(texts.len(), count, "at most one text a call");
    texts
}

const fn fault(on: Ask, times: u32, fault: Fault) -> FaultRule {
    FaultRule { on: Some(on), skip: 0, times, fault }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_too_many_is_rejected_and_gets_a_text_in_its_language() {
    let options =
        Options { languages: r#"["fr", "en"]"#, limits: "max_calls = 1\n", ..Options::named("refused-capacity") };
    let world = World::start(options).await;
    let first = world.call(0, stay());
    until("the first call is up", || world.tally.now().1 == 1).await;
    // The second caller hides the number: the text can only go to the business-scoped id.
    let manner = Manner { generation: Some(Generation::UsernameOnly), ..Manner::default() };
    let second = world.call_as(1, stay(), manner).await.expect("the phone lives");
    assert_eq!(second.over, Some(Cause::Rejected));
    let refused = second.wacid.expect("it rang");
    let row = world.ended(&refused).await;
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("refused_capacity"), Some("box")));
    let sent = texts(&world, 1).await.remove(0);
    assert!(sent.by_bsuid && sent.to == second.identity.bsuid, "it goes to recipient");
    assert!(sent.body.expose().starts_with(FRENCH));
    let state = || world.rows_of(&refused).remove(0).text_state;
    until("the ledger knows that it went", || state().as_deref() == Some("sent")).await;
    assert_eq!(world.asked(Ask::Reject).await, 1);
    assert!(!first.is_finished(), "the first call goes on");
    assert_eq!(world.rows().remove(0).outcome, None);
    first.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_valid_key_of_the_model_the_caller_is_rejected_and_written_to() {
    let options = Options {
        model: Arc::new(|facts| {
            let mut settings = model(Script::tones(1, Duration::from_secs(1)), facts);
            settings.expected_key = ExpectedKey::new("another key");
            settings
        }),
        ..Options::named("refused-model")
    };
    let world = World::start(options).await;
    let lived = world.call(0, stay()).await.expect("the phone lives");
    assert_eq!(lived.over, Some(Cause::Rejected));
    assert_eq!(lived.accepted, None);
    let row = world.ended(&lived.wacid.expect("it rang")).await;
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("model_refused"), Some("operator")));
    let sent = texts(&world, 1).await.remove(0);
    assert!(!sent.by_bsuid && !sent.without_plus, "a number is written to by its number, with +");
    assert!(sent.body.expose().starts_with(ENGLISH));
    assert_eq!(world.asked(Ask::Accept).await, 0);
    until("it is logged", || !world.daemon.entries("WA_VOICE_ERROR").is_empty()).await;
    world.until_tables_are_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_graph_could_not_do_at_first_is_tried_again() {
    let world = World::start(Options::named("graph-retries")).await;
    world.far.meta.inject(fault(Ask::PreAccept, 2, Fault::Status(503))).await;
    world.far.meta.inject(fault(Ask::Accept, 1, Fault::Code { http: 500, code: 131_000 })).await;
    let lived = world.call(0, listen_and_leave()).await.expect("the phone lives");
    assert_eq!((lived.trouble, lived.over), (None, Some(Cause::HungUp)));
    let row = world.ended(&lived.wacid.expect("it rang")).await;
    assert_eq!(row.outcome.as_deref(), Some("completed"));
    assert_eq!(world.asked(Ask::PreAccept).await, 3);
    assert_eq!(world.asked(Ask::Accept).await, 2);
    assert_eq!(world.metric(r#"sauti_graph_requests_total{action="pre_accept",result="retry"}"#).await, 2.0);
    assert!(world.far.meta.texts().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accept_that_was_done_but_never_answered_still_becomes_a_conversation() {
    let world = World::start(Options::named("graph-silence")).await;
    world.far.meta.inject(fault(Ask::Accept, 1, Fault::Silence { done: true })).await;
    let lived = world.call(0, vec![Step::Listen, Step::HangUp]).await.expect("the phone lives");
    assert_eq!((lived.trouble, lived.over), (None, Some(Cause::HungUp)));
    assert_eq!(lived.ear.early, 0);
    let row = world.ended(&lived.wacid.expect("it rang")).await;
    assert_eq!(row.outcome.as_deref(), Some("completed"), "{row:?}");
    assert_eq!(world.asked(Ask::Accept).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pre_accept_that_was_done_but_never_answered_is_not_taken_for_a_bad_answer_of_ours() {
    let world = World::start(Options::named("graph-doubt")).await;
    world.far.meta.inject(fault(Ask::PreAccept, 1, Fault::Silence { done: true })).await;
    // Graph has no code of its own for a call that is past this step.
    world.far.meta.inject(fault(Ask::PreAccept, 1, Fault::Code { http: 400, code: 100 })).await;
    let lived = world.call(0, vec![Step::Listen, Step::HangUp]).await.expect("the phone lives");
    assert_eq!((lived.trouble, lived.over), (None, Some(Cause::HungUp)));
    let row = world.ended(&lived.wacid.expect("it rang")).await;
    assert_eq!(row.outcome.as_deref(), Some("completed"), "{row:?}");
    assert_eq!(world.asked(Ask::PreAccept).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_token_ends_the_call_as_the_operators_fault_and_the_text_waits() {
    let world = World::start(Options::named("graph-token")).await;
    let dead = FaultRule { on: None, skip: 0, times: 3, fault: Fault::Code { http: 401, code: 190 } };
    world.far.meta.inject(dead).await;
    let call = world.call(0, stay());
    until("the call has an outcome", || world.rows().first().is_some_and(|row| row.outcome.is_some())).await;
    let row = world.rows().remove(0);
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("graph_failed"), Some("operator")));
    until("pre-accept, reject and text were refused", || {
        world.rows().first().is_some_and(|row| row.text_state.as_deref() == Some("owed"))
    })
    .await;
    until_async("all three were asked", async || world.far.meta.seen().await.len() >= 3).await;
    assert_eq!(world.asked(Ask::PreAccept).await, 1, "a dead token is not tried again");
    let told = world.daemon.entries("WA_VOICE_ERROR");
    assert!(told.iter().any(|entry| entry["CODE"] == 190 && entry["REMEDY"].is_string()), "{told:?}");
    assert!(told.iter().all(|entry| entry["TRACE"].as_str().is_some_and(|trace| trace.len() == 23)), "{told:?}");
    assert!(world.far.meta.texts().await.is_empty());
    call.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_may_have_gone_out_is_never_sent_again() {
    let options = Options { limits: "max_calls = 1\n", ..Options::named("text-once") };
    let world = World::start(options).await;
    let first = world.call(0, stay());
    until("the first call is up", || world.tally.now().1 == 1).await;
    world.far.meta.inject(fault(Ask::Text, 1, Fault::Silence { done: true })).await;
    let second = world.call(1, stay()).await.expect("the phone lives");
    let wacid = second.wacid.expect("it rang");
    // Graph's status webhook may tell what its answer did not.
    until("nobody waits for that text any more", || {
        let state = world.rows_of(&wacid).first().and_then(|row| row.text_state.clone());
        matches!(state.as_deref(), Some("unknown" | "sent"))
    })
    .await;
    assert_eq!(world.asked(Ask::Text).await, 1);
    assert_eq!(world.far.meta.texts().await.len(), 1);
    first.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_graph_could_not_take_at_the_calls_end_goes_out_later_and_once() {
    let options = Options { limits: "max_calls = 1\n", ..Options::named("text-later") };
    let world = World::start(options).await;
    let first = world.call(0, stay());
    until("the first call is up", || world.tally.now().1 == 1).await;
    // As often as one round tries it: Meta has an error of its own, and certainly sent nothing.
    let down = Fault::Code { http: 500, code: 131_016 };
    world.far.meta.inject(fault(Ask::Text, 3, down)).await;
    let second = world.call(1, stay()).await.expect("the phone lives").wacid.expect("it rang");
    until_async("it was tried", async || world.asked(Ask::Text).await == 3).await;
    let state = |wacid: &Pii| world.rows_of(wacid).first().and_then(|row| row.text_state.clone());
    until("it is owed as before", || state(&second).as_deref() == Some("owed")).await;
    assert!(world.far.meta.texts().await.is_empty());
    // Graph is well again, and the next text rings for all that are owed.
    let third = world.call(2, stay()).await.expect("the phone lives").wacid.expect("it rang");
    for wacid in [&second, &third] {
        until("it went out", || state(wacid).as_deref() == Some("sent")).await;
    }
    assert_eq!(world.far.meta.texts().await.len(), 2, "one each");
    first.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_whom_graph_will_not_reach_is_written_to_once_and_never_again() {
    let options = Options { limits: "max_calls = 1\n", ..Options::named("text-refused") };
    let world = World::start(options).await;
    let first = world.call(0, stay());
    until("the first call is up", || world.tally.now().1 == 1).await;
    // The window of 24 hours is closed; the person has blocked us or has no client that could take it.
    for (who, code) in [(1, 131_047), (2, 131_026)] {
        world.far.meta.inject(fault(Ask::Text, 1, Fault::Code { http: 400, code })).await;
        let refused = world.call(who, stay()).await.expect("the phone lives").wacid.expect("it rang");
        let state = || world.rows_of(&refused).first().and_then(|row| row.text_state.clone());
        until("it is given up", || state().as_deref() == Some("failed")).await;
    }
    assert_eq!(world.asked(Ask::Text).await, 2, "each was tried once");
    assert!(world.far.meta.texts().await.is_empty());
    first.abort();
}
