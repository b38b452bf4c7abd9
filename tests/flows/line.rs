//! A line to the model in virtual time: the session's machine and its playout on one side, the emulated server on
//! the other, a lane that plays a frame each 20 ms, and a caller who speaks when told to.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use sauti_core::ai::client::{SessionUpdate, write_append};
use sauti_core::ai::session::{Effect, Input, Line, Session};
use sauti_core::config::check::{Environment, read};
use sauti_core::media::frame::{FRAME, FRAME_SAMPLES, Frame};
use sauti_core::media::level::Tone;
use sauti_core::media::playout::{Consumed, Playout};
use sauti_core::now::Now;
use sauti_core::pii::Pii;
use sauti_sim::openai::{
    ClientFaultKind, ExpectedKey, Out, RealtimeServer, Record, RequestFacts, Script, ServerSettings,
};

/// Frames that the call task keeps in front of the lane.
const LEAD: u32 = 10;

/// One conversation.
pub(crate) struct Conversation {
    pub(crate) now: Now,
    began: Instant,
    server: RealtimeServer,
    out: Vec<Out>,
    pub(crate) session: Session,
    pub(crate) playout: Playout,
    /// What the session decided, with the time since the start.
    pub(crate) seen: Vec<(Duration, Effect)>,
    /// Frames between call task and lane.
    ring: std::collections::VecDeque<Frame>,
    epoch: u32,
    consumed: u32,
    /// Frames that the caller heard: all of them, and when.
    pub(crate) heard: Vec<(Duration, Frame)>,
    tone: Tone,
    closed: bool,
}

/// `[openai]` as a box has it that sets nothing.
pub(crate) fn openai() -> sauti_core::config::OpenAi {
    let text = "[whatsapp]\nphone_number_id = \"100000000000002\"\n[openai]\n";
    let environment = Environment {
        host_name: "flows",
        cores: 2,
        secrets: &|_| Some("canary-openai-key".to_owned()),
        read_file: &|_| Err("no files in a flow".to_owned()),
    };
    read(text, &environment).ok().and_then(|config| config.openai).expect("a minimal configuration is complete")
}

impl Conversation {
    pub(crate) fn new(change: impl FnOnce(&mut ServerSettings)) -> Self {
        let mut settings =
            ServerSettings::new(ExpectedKey::new("canary-openai-key"), Script::tones(6, Duration::from_secs(4)));
        change(&mut settings);
        let now = Now { mono: Instant::now(), wall: Timestamp::UNIX_EPOCH };
        let facts = RequestFacts {
            path: "/v1/realtime".to_owned(),
            query: "model=gpt-realtime-2.1".to_owned(),
            headers: vec![("authorization".to_owned(), "Bearer canary-openai-key".to_owned())],
            connection: 0,
        };
        let openai = openai();
        let languages = sauti_core::config::Language::ALL;
        let update = SessionUpdate::new(&openai, Pii::new("Be brief."), languages[0], &languages);
        let mut conversation = Self {
            now,
            began: now.mono,
            server: RealtimeServer::new(now.mono, settings.into(), &facts),
            out: Vec::new(),
            session: Session::new(update),
            playout: Playout::new(openai.max_output_tokens),
            seen: Vec::new(),
            ring: std::collections::VecDeque::new(),
            epoch: 1,
            consumed: 0,
            heard: Vec::new(),
            tone: Tone::new(300.0, 9_000.0),
            closed: false,
        };
        conversation.server.open(now.mono, &mut conversation.out);
        conversation.input(Input::Opened);
        conversation
    }

    pub(crate) fn since(&self) -> Duration {
        self.now.mono - self.began
    }

    pub(crate) fn input(&mut self, input: Input<'_>) {
        let mut effects = Vec::new();
        self.session.handle(self.now, input, &mut self.playout, &mut effects);
        for effect in effects {
            match &effect {
                Effect::Send(event) => {
                    let mut text = String::new();
                    event.write_json(&mut text);
                    self.server.receive(self.now.mono, &text, &mut self.out);
                }
                Effect::Ready => {
                    self.seen.push((self.since(), Effect::Ready));
                    self.input(Input::Say(Line::Greeting, Pii::new("Hello! How can I help you today?")));
                    continue;
                }
                Effect::Flush { epoch } => {
                    self.epoch = *epoch;
                    self.consumed = 0;
                }
                _ => {}
            }
            self.seen.push((self.since(), effect));
        }
    }

    fn deliver(&mut self) {
        while !self.out.is_empty() && !self.closed {
            for out in std::mem::take(&mut self.out) {
                match out {
                    Out::Text(text) => {
                        self.note_consumed();
                        self.input(Input::Message(&text));
                    }
                    Out::Close { code, reason } => {
                        self.closed = true;
                        self.input(Input::Closed { code: Some(code), reason: &reason });
                    }
                    Out::Abort | Out::HalfOpen => {
                        self.closed = true;
                        self.input(Input::Closed { code: None, reason: "" });
                    }
                }
            }
        }
    }

    fn note_consumed(&mut self) {
        self.input(Input::Consumed(Consumed { epoch: self.epoch, frames: self.consumed }));
    }

    /// One frame's time: the far end's deadlines, the caller's frame up, the lane's frame down.
    fn frame(&mut self, speaks: bool) {
        let end = self.now.after(FRAME);
        while let Some(due) = self.server.deadline().filter(|due| *due <= end.mono && !self.closed) {
            if due > self.now.mono {
                self.now = self.now.after(due - self.now.mono);
            }
            self.server.handle_timeout(self.now.mono, &mut self.out);
            self.deliver();
        }
        self.now = end;
        if self.session.deadline().is_some_and(|(due, _)| due <= self.now.mono) {
            self.input(Input::Timer);
        }
        let silence = [0; FRAME_SAMPLES];
        let samples = if speaks { self.tone.frame() } else { silence };
        if self.session.is_ready() && !self.closed {
            let mut text = String::new();
            write_append(&mut text, &samples);
            self.server.receive(self.now.mono, &text, &mut self.out);
        }
        self.deliver();
        let mut frame = Frame::SILENCE;
        while self.playout.ahead() < LEAD && self.playout.next_frame(&mut frame) {
            self.ring.push_back(frame);
        }
        while let Some(frame) = self.ring.pop_front() {
            if frame.epoch == self.epoch {
                self.consumed += 1;
                self.heard.push((self.since(), frame));
                break;
            }
        }
        self.note_consumed();
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, length: Duration, speaks: bool) -> &mut Self {
        let frames = length.as_millis() / FRAME.as_millis();
        for _ in 0..frames {
            self.frame(speaks);
        }
        self
    }

    /// What the far end kept, and that it found nothing to object to.
    pub(crate) fn record(&mut self) -> Record {
        self.server.disconnected(self.now.mono);
        self.server.take_record()
    }

    /// How often the session decided something like this.
    pub(crate) fn count(&self, like: impl Fn(&Effect) -> bool) -> usize {
        self.seen.iter().filter(|(_, effect)| like(effect)).count()
    }

    /// When it decided so first.
    pub(crate) fn first(&self, like: impl Fn(&Effect) -> bool) -> Option<Duration> {
        self.seen.iter().find(|(_, effect)| like(effect)).map(|(at, _)| *at)
    }
}

/// A record without objections.
pub(crate) fn assert_flawless(record: &Record) {
    let faults: Vec<(ClientFaultKind, &str)> =
        record.client_faults.iter().map(|fault| (fault.kind, fault.detail.as_str())).collect();
    assert!(faults.is_empty(), "the far end objects: {faults:?}");
}
