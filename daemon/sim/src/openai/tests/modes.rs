//! Echo and metronome.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{
    super::{ClientFaultKind, Mode},
    Rig, quiet, settings, voice,
};

fn echoing() -> Rig {
    let mut settings = settings();
    settings.mode = Mode::ECHO;
    Rig::new(settings)
}

#[test]
fn every_append_comes_back_unchanged_after_the_fixed_delay_in_one_response() {
    let mut rig = echoing();
    rig.create();
    let audio = [voice(40), quiet(300), voice(40), quiet(300)].concat();
    rig.say(&audio);
    rig.run_ms(400);
    let deltas: Vec<_> =
        rig.events.iter().filter(|(_, event)| event["type"] == "response.output_audio.delta").cloned().collect();
    assert_eq!(deltas.len(), 34);
    let appends = rig.server.record().appends.clone();
    for ((at, _), append) in deltas.iter().zip(&appends) {
        assert_eq!(*at, append.at - rig.start + Duration::from_millis(200));
    }
    let back: Vec<u8> =
        deltas.iter().flat_map(|(_, event)| STANDARD.decode(event["delta"].as_str().unwrap()).unwrap()).collect();
    assert_eq!(back, audio.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<u8>>());
    assert_eq!(rig.all("response.created").len(), 1);
    assert!(rig.all("input_audio_buffer.speech_started").is_empty(), "a chirp interrupts nothing");
    assert_eq!(rig.server.record().spoken[0].deltas.len(), 34);
}

#[test]
fn an_append_before_the_create_starts_the_response_that_the_create_then_claims() {
    let mut rig = echoing();
    rig.say(&quiet(100));
    rig.create();
    rig.say(&quiet(300));
    assert!(rig.all("error").is_empty());
    assert_eq!(rig.all("response.created").len(), 1);
    rig.create();
    assert_eq!(rig.error_code(), "conversation_already_has_active_response");
    assert_eq!(rig.server.record().count(ClientFaultKind::CreateWhileActive), 1);
}

#[test]
fn a_cancelled_echo_starts_anew_and_can_be_truncated_to_what_was_returned() {
    let mut rig = echoing();
    rig.create();
    rig.say(&quiet(600));
    rig.send(json!({"type": "response.cancel"}));
    let done = rig.last("response.done")["response"].clone();
    assert_eq!(done["status"], "cancelled");
    rig.send(json!({"type": "conversation.item.truncate", "item_id": done["output"][0]["id"], "content_index": 0,
        "audio_end_ms": 10_000}));
    let message = rig.last("error")["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("Audio content of 420ms"), "{message}");
    rig.say(&quiet(300));
    assert_eq!(rig.all("response.created").len(), 2);
}

#[test]
fn the_metronome_speaks_half_the_time_whatever_the_caller_does() {
    let mut settings = settings();
    settings.mode = Mode::Metronome { speak: Duration::from_secs(5), pause: Duration::from_secs(5) };
    let mut rig = Rig::new(settings);
    rig.run_ms(2_000);
    assert!(rig.all("response.created").is_empty(), "the client starts the beat");
    rig.create();
    let begun = rig.now;
    for _ in 0..30 {
        rig.say(&voice(1_000));
    }
    rig.run_ms(29_900);
    let spoken: usize = rig.server.record().spoken.iter().map(|item| item.samples_sent).sum();
    let elapsed = (rig.now - begun).as_secs_f64();
    let share = f64::from(u32::try_from(spoken).unwrap()) / 24_000.0 / elapsed;
    assert!((0.49..0.51).contains(&share), "{share}");
    assert_eq!(rig.all("response.done").len(), 6);
}
