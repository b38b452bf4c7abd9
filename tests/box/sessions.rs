//! The model's session breaks in mid-call: the conversation goes on, or the caller is told and written to.

use std::sync::Arc;
use std::time::Duration;

use sauti::simulate::loopback::phones::Lived;
use sauti_core::media::level::rms_dbfs;
use sauti_core::whatsapp::graph::Ask;
use sauti_sim::audio::judge::{Judge, Utterance};
use sauti_sim::audio::speech::Speech;
use sauti_sim::caller::person::Step;
use sauti_sim::openai::{Clip, Fault, HandshakeFault, Line, Script, Trouble, When};
use sauti_sim::whatsapp::calls::Cause;

use super::world::{Options, World, model, until_async};

/// How much of the lines has to be heard; the box is busy with other tests.
const HEARD: f64 = 90.0;
/// No caller sits before a dead line for longer than this (the measure of the issue, and a frame).
const DEAD_AIR: Duration = Duration::from_millis(4_020);

fn script(speech: &Speech) -> Script {
    let mut lines = speech.agent().iter().map(|line| Line::clip(Clip::new(line.text, Arc::clone(&line.samples))));
    Script {
        greeting: lines.next().unwrap_or_default(),
        turns: lines.take(3).collect(),
        caller_lines: speech.caller("en").iter().map(|line| line.text.to_owned()).collect(),
        ..Script::default()
    }
}

fn close(when: When) -> Fault {
    Fault { when, trouble: Trouble::Close { code: 1011, reason: "internal error".to_owned() } }
}

/// The longest time in which neither side was to be heard on the caller's phone, between first and last sound.
fn longest_silence(lived: &Lived) -> Duration {
    let loud = |samples: Option<&[i16]>| samples.is_some_and(|frame| rms_dbfs(frame) > -45.0);
    let (mut heard, mut said) = (lived.person.heard.chunks_exact(480), lived.person.timeline.chunks_exact(480));
    let frames = lived.person.heard.len() / 480;
    let sounds: Vec<usize> = (0..frames).filter(|_| loud(heard.next()) | loud(said.next())).collect();
    let longest = sounds.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    Duration::from_millis(longest as u64 * 20)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_breaks_in_mid_sentence_is_opened_again_and_the_turn_is_answered() {
    let speech = Speech::load().expect("speech is embedded");
    let lines = script(&speech);
    let options = Options {
        model: Arc::new(move |facts| {
            let mut settings = model(lines.clone(), facts);
            if facts.connection == 0 {
                // In the middle of the answer to the caller's first turn: the second response.
                settings.faults.push(close(When::AtResponse(1)));
            }
            settings
        }),
        ..Options::named("session-lost")
    };
    let mut world = World::start(options).await;
    let line = Arc::clone(&speech.caller("en").first().expect("a line").samples);
    let lived = world.call(0, vec![Step::Listen, Step::Say(line), Step::Listen, Step::HangUp]).await;
    let lived = lived.expect("the phone lives");
    assert_eq!((&lived.trouble, lived.over), (&None, Some(Cause::HungUp)));
    let row = world.ended(lived.wacid.as_ref().expect("it rang")).await;
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("completed"), Some("none")));
    let sessions = world.sessions().await;
    assert_eq!(sessions.len(), 2, "one that broke and one after it");
    for session in &sessions {
        assert!(session.record.client_faults.is_empty(), "{:?}", session.record.client_faults);
    }
    let again = &sessions[1].record;
    let spoken: Vec<_> = again.spoken.iter().map(|item| Utterance::new(Arc::clone(&item.samples))).collect();
    assert_eq!(spoken.len(), 1, "the turn is answered, and nobody is greeted twice");
    let heard = Judge::new().heard(&spoken, &lived.person.heard).percent();
    assert!(heard.is_some_and(|percent| percent >= HEARD), "{heard:?}");
    assert!(longest_silence(&lived) <= DEAD_AIR, "{:?}", longest_silence(&lived));
    assert!(world.far.meta.texts().await.is_empty());
    assert_eq!(world.metric(r#"sauti_model_sessions_total{kind="resumed",provider="primary"}"#).await, 1.0);
    world.until_tables_are_empty().await;
    assert!(world.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_never_comes_back_ends_in_words_a_hang_up_and_one_text() {
    let speech = Speech::load().expect("speech is embedded");
    let lines = script(&speech);
    let options = Options {
        model: Arc::new(move |facts| {
            let mut settings = model(lines.clone(), facts);
            if facts.connection == 0 {
                settings.faults.push(close(When::AfterOpen(Duration::from_secs(2))));
            } else {
                let code = "server_error".to_owned();
                settings.handshake_faults.push(HandshakeFault { connections: u64::MAX, status: 503, code });
            }
            settings
        }),
        ..Options::named("session-gone")
    };
    let mut world = World::start(options).await;
    let line = Arc::clone(&speech.caller("en").first().expect("a line").samples);
    let says = vec![Step::Listen, Step::Say(line), Step::Pause(Duration::from_secs(60))];
    let lived = world.call(0, says).await.expect("the phone lives");
    assert_eq!(lived.over, Some(Cause::Terminated), "the box hangs up");
    let row = world.ended(lived.wacid.as_ref().expect("it rang")).await;
    assert_eq!((row.outcome.as_deref(), row.fault.as_deref()), (Some("model_failed"), Some("model")));
    assert!(longest_silence(&lived) <= DEAD_AIR, "{:?}", longest_silence(&lived));
    until_async("the text is sent", async || world.far.meta.texts().await.len() == 1).await;
    assert_eq!(world.asked(Ask::Terminate).await, 1);
    assert!(world.metric("sauti_waits_filled_total").await >= 1.0);
    world.until_tables_are_empty().await;
    assert_eq!(world.far.meta.texts().await.len(), 1);
    assert!(world.stop().await.success());
}
