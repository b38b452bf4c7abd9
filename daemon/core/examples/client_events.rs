//! Prints every event that the daemon can send to the model, one a line after `> `, in all shapes that the
//! configuration can give them. An outside checker reads it: see `tests/interop`.

use std::io::Write as _;
use std::time::Duration;

use sauti_core::ai::client::{
    ClientEvent, ResponseCreate, ResponseMetadata, SessionUpdate, word_for_word, write_append,
};
use sauti_core::config::{Detection, Language, OpenAi, Turn};
use sauti_core::pii::Pii;
use secrecy::SecretString;

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut text = String::new();
    for event in events() {
        event.write_json(&mut text);
        writeln!(out, "> {text}")?;
    }
    for samples in [1, 2, 480, 4800] {
        write_append(&mut text, &vec![-7; samples]);
        writeln!(out, "> {text}")?;
    }
    Ok(())
}

fn events() -> Vec<ClientEvent> {
    let mut events: Vec<ClientEvent> = configurations().iter().map(update).collect();
    for instructions in [Some(word_for_word("Muraho! \"Bonjour\" \u{1F44B}\n")), None] {
        let metadata = ResponseMetadata { client_event_id: "rc_1".to_owned() };
        let response = ResponseCreate { instructions, metadata };
        events.push(ClientEvent::ResponseCreate { event_id: "rc_1".to_owned(), response });
    }
    let item_id = "item_1".to_owned();
    events.push(ClientEvent::ResponseCancel { event_id: "rx_1".to_owned(), response_id: "resp_1".to_owned() });
    events.push(ClientEvent::Truncate {
        event_id: "tr_1".to_owned(),
        item_id: item_id.clone(),
        content_index: 0,
        audio_end_ms: 1500,
    });
    events.push(ClientEvent::Delete { event_id: "dl_1".to_owned(), item_id });
    events
}

fn update(openai: &OpenAi) -> ClientEvent {
    let session = SessionUpdate::new(openai, Pii::new("Be kind."), Language::Rw, &Language::ALL);
    ClientEvent::SessionUpdate { event_id: "up_1".to_owned(), session: Box::new(session) }
}

/// The defaults, everything switched on, the other detector, an older transcription model, transcription off.
fn configurations() -> Vec<OpenAi> {
    let plain = OpenAi {
        url: "https://api.openai.com/v1".to_owned(),
        model: "gpt-realtime-2.1".to_owned(),
        voice: "marin".to_owned(),
        max_output_tokens: 1024,
        transcription: Some("gpt-transcribe".to_owned()),
        noise_reduction: None,
        idle_timeout: None,
        reasoning: None,
        organization: None,
        project: None,
        turn: Turn {
            detection: Detection::ServerVad {
                threshold: 0.5,
                prefix: Duration::from_millis(300),
                silence: Duration::from_millis(500),
            },
            create_response: true,
            interrupt_response: true,
            barge_in: sauti_core::media::floor::BargeIn::Normal,
        },
        warm: 0,
        fallback: Vec::new(),
        api_key: SecretString::from("canary-openai-key"),
    };
    let mut full = plain.clone();
    full.noise_reduction = Some("far_field".to_owned());
    full.idle_timeout = Some(Duration::from_secs(8));
    full.reasoning = Some("low".to_owned());
    full.max_output_tokens = 4096;
    let mut semantic = plain.clone();
    semantic.turn.detection = Detection::SemanticVad;
    semantic.transcription = Some("gpt-4o-transcribe".to_owned());
    let mut deaf = plain.clone();
    deaf.transcription = None;
    deaf.turn.interrupt_response = false;
    vec![plain, full, semantic, deaf]
}
