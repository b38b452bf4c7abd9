//! Messages of the model, one by one and as a whole session.

use std::hint::black_box;
use std::time::Duration;

use jiff::Timestamp;
use sauti_core::ai::client::SessionUpdate;
use sauti_core::ai::events::{self, ServerEvent};
use sauti_core::ai::session::{Effect, Input, Line, Session};
use sauti_core::config::{Detection, Language, OpenAi, Turn};
use sauti_core::media::frame::Frame;
use sauti_core::media::playout::{Consumed, Playout};
use sauti_core::now::Now;
use sauti_core::pii::Pii;
use secrecy::SecretString;

use super::origin;

/// More lines of one input are not looked at.
const MOST_LINES: usize = 300;

/// Takes the bytes as one message, and line by line as the story of a session.
///
/// A line of the story is a message, `~` with a letter for something else that happens (see [`Story::happens`]), or as
/// in the recordings of `tests/wire` a message behind `< `; what those sent is passed over.
///
/// Beside that nothing panics: what the session sends is JSON with a type, it waits for nothing of the future, and
/// nothing comes out after the end.
pub(crate) fn model_events(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    one_message(&text);
    let mut story = Story::new(data.first().is_some_and(|first| *first == b'!'));
    for line in text.split('\n').take(MOST_LINES) {
        match line.as_bytes() {
            [b'~', what, ..] => story.happens(*what, line.get(2..).unwrap_or_default()),
            [b'>' | b'#', ..] | [] => {}
            [b'<', ..] => story.input(Input::Message(line.get(1..).unwrap_or_default().trim())),
            _ => story.input(Input::Message(line)),
        }
    }
    story.input(Input::End);
    story.out.clear();
    story.input(Input::Message(r#"{"type":"input_audio_buffer.speech_started","item_id":"late"}"#));
    assert!(story.out.is_empty(), "nothing comes out after the end");
}

fn one_message(text: &str) {
    let event = events::read(text);
    assert!(!format!("{event:?}").is_empty());
    match event {
        Ok(ServerEvent::Audio { delta, .. }) => {
            let mut pcm = Vec::new();
            if events::decode_audio(delta.expose(), &mut pcm).is_ok() {
                assert!(pcm.len() <= delta.expose().len());
            }
        }
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().is_empty() && !error.label().is_empty()),
    }
    let mut pcm = Vec::new();
    events::decode_audio(text.trim(), &mut pcm).ok();
}

fn openai(by_hand: bool) -> OpenAi {
    OpenAi {
        url: "https://api.openai.com/v1".to_owned(),
        model: "gpt-realtime".to_owned(),
        voice: "marin".to_owned(),
        max_output_tokens: 64,
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
            create_response: !by_hand,
            interrupt_response: !by_hand,
            barge_in: sauti_core::media::floor::BargeIn::Normal,
        },
        warm: 0,
        fallback: Vec::new(),
        api_key: SecretString::from("canary-openai-key"),
    }
}

/// A session, its reservoir, and a lane that plays what there is.
struct Story {
    session: Session,
    playout: Playout,
    now: Now,
    played: u32,
    out: Vec<Effect>,
}

impl Story {
    /// `by_hand`: the model neither answers nor interrupts by itself.
    fn new(by_hand: bool) -> Self {
        let config = openai(by_hand);
        let update = SessionUpdate::new(&config, Pii::new("Be kind."), Language::En, &[Language::En]);
        let mut story = Self {
            session: Session::new(update),
            playout: Playout::new(config.max_output_tokens),
            now: Now { mono: origin(), wall: Timestamp::UNIX_EPOCH },
            played: 0,
            out: Vec::new(),
        };
        story.input(Input::Opened);
        story
    }

    fn input(&mut self, input: Input<'_>) {
        let epoch = self.playout.epoch();
        let begin = self.out.len();
        self.session.handle(self.now, input, &mut self.playout, &mut self.out);
        if self.playout.epoch() != epoch {
            // A lane counts from zero in each epoch.
            self.played = 0;
        }
        for effect in &self.out[begin..] {
            if let Effect::Send(event) = effect {
                let mut text = String::new();
                event.write_json(&mut text);
                let sent: serde_json::Value = serde_json::from_str(&text).expect("what is sent is JSON");
                assert!(sent.get("type").is_some_and(serde_json::Value::is_string));
            }
        }
        assert!(!format!("{:?}", &self.out[begin..]).is_empty());
        self.out.clear();
        assert!(self.session.owes_event().is_none_or(|since| since <= self.now.mono));
        black_box((self.session.is_quiet(&self.playout), self.session.deadline()));
    }

    /// `g` greet, `b` say goodbye, `t` wait for the next deadline, `w` let 200 ms pass, `h` hear (as many frames as
    /// there are letters behind), `c` the socket closes for the reason behind, `e` the call ends.
    fn happens(&mut self, what: u8, rest: &str) {
        match what {
            b'g' => self.input(Input::Say(Line::Greeting, Pii::new("Muraho!"))),
            b'b' => self.input(Input::Say(Line::Goodbye, Pii::new(rest))),
            b't' => {
                if let Some((due, _)) = self.session.deadline() {
                    self.now = self.now.after(due.saturating_duration_since(self.now.mono));
                }
                self.input(Input::Timer);
            }
            b'w' => self.now = self.now.after(Duration::from_millis(200)),
            b'h' => self.hear(rest.len().clamp(1, 100)),
            b'c' => {
                let code = rest.split(' ').next().and_then(|code| code.parse().ok());
                self.input(Input::Closed { code, reason: rest });
            }
            b'e' => self.input(Input::End),
            _ => {}
        }
    }

    fn hear(&mut self, frames: usize) {
        let mut frame = Frame::SILENCE;
        for _ in 0..frames {
            if self.playout.next_frame(&mut frame) {
                self.played += 1;
            }
            self.now = self.now.after(Duration::from_millis(20));
        }
        self.input(Input::Consumed(Consumed { epoch: self.playout.epoch(), frames: self.played }));
    }
}
