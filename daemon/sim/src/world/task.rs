//! What `daemon/src/call_task.rs` does, in virtual time: inputs to the machines, their effects carried out.
//!
//! Method by method and under the same names as there, so that the two can be laid side by side: whoever changes one
//! changes the other. It leaves out the ledger, the log and the metrics.

use std::sync::{Arc, LazyLock};

use sauti_core::ai::client::write_append;
use sauti_core::ai::session::{self, Line, Silence};
use sauti_core::ai::verdict::{Code, Failure, Loss};
use sauti_core::call::clip::ClipName;
use sauti_core::call::machine::{Action, DoorVerdict, Effect, Input};
use sauti_core::call::outcome::Fault;
use sauti_core::media::frame::{FRAME, FRAME_SAMPLES};
use sauti_core::media::level::Tone;
use sauti_core::media::playout::Consumed;
use sauti_core::media::preroll::Supply;
use sauti_core::pii::Pii;

use super::lane::{self, DOWN_FRAMES, DOWN_TARGET, Lane};
use super::model::{Answer, Arrives};
use super::{Connection, End, LEG_AFTER, Later, World};

/// Graph's usual answer comes after this.
const GRAPH_AFTER: std::time::Duration = std::time::Duration::from_millis(80);
/// Frames of the caller that are kept while there is no session.
pub(super) const HELD: usize = 100;
/// A lane reports once a second.
const REPORT_EVERY: u64 = 50;

/// What the box says when told to; the emulated model knows them.
const GREETING: &str = "Hello! How can I help you today?";
const GOODBYE: &str = "Goodbye and thank you.";
const STILL_THERE: &str = "Are you still there?";
const NOBODY_THERE: &str = "I cannot hear you, so I will hang up now. Goodbye!";

/// One frame of the caller as the model gets it: silence, and speech.
static APPENDS: LazyLock<[Arc<str>; 2]> = LazyLock::new(|| {
    let mut text = String::new();
    write_append(&mut text, &[0; FRAME_SAMPLES]);
    let silence = Arc::from(text.as_str());
    // A whole number of periods, so that frames join.
    write_append(&mut text, &Tone::new(300.0, 9_000.0).frame());
    [silence, Arc::from(text.as_str())]
});

impl World {
    pub(super) fn input(&mut self, input: Input) {
        self.watch.after_end |= self.finished && !self.effects.is_empty();
        self.call.handle(self.now.mono, input, &mut self.effects);
    }

    pub(super) fn session_input(&mut self, input: session::Input<'_>) {
        self.session.handle(self.now, input, &mut self.playout, &mut self.news);
        self.session_news();
        let owed = self.session.owes_event();
        if owed != self.owed {
            self.owed = owed;
            self.input(Input::ModelOwes(owed));
        }
    }

    pub(super) fn leg_answered(&mut self) {
        let mut lane = Lane::new(self.barge_in.settings());
        lane.epoch = self.playout.epoch();
        self.lane = Some(lane);
        self.input(Input::LegAnswered);
    }

    pub(super) fn graph_answered(&mut self, action: Action, verdict: DoorVerdict) {
        if action == Action::PreAccept
            && verdict == DoorVerdict::Done
            && let Some(after) = self.settings.leg_up_after
        {
            self.later(after, Later::LegUp);
        }
        self.input(Input::Door(action, verdict));
    }

    pub(super) fn model_opened(&mut self, connection: Connection) {
        if self.ending.is_some() {
            return;
        }
        let number = self.model.open(self.now.mono, &connection);
        self.link = Some(number);
        self.note("model opened");
        self.session_input(session::Input::Opened);
    }

    /// Everything that has come from the model by now.
    pub(super) fn model_speaks(&mut self) {
        while let Some((number, arrives)) = self.model.work(self.now.mono) {
            if self.link == Some(number) {
                self.link_event(&arrives);
            }
            self.perform();
        }
    }

    fn link_event(&mut self, event: &Arrives) {
        if matches!(event, Arrives::Closed { .. }) {
            self.link = None;
            self.model.hang_up(self.now.mono);
        }
        // What was heard until now decides what an interruption cuts.
        self.note_consumed();
        match event {
            Arrives::Text(text) => self.session_input(session::Input::Message(text)),
            Arrives::Alive => self.session_input(session::Input::Alive),
            Arrives::Closed { code, reason } => self.session_input(session::Input::Closed { code: *code, reason }),
        }
        self.top_up();
    }

    /// A tick of the lane, and what the call task does when it is woken by it.
    pub(super) fn lane_ticks(&mut self) {
        let now = self.now.mono;
        let Some(lane) = &mut self.lane else { return };
        let out = lane.tick(now);
        let (packets, epoch) = (lane.packets, lane.epoch);
        let played = lane.played.as_ref().map(|frame| &frame.samples);
        let number = self.codec.as_mut().map_or(0, |codec| codec.tick(now, played, lane.open));
        if let Some((heard, of)) = out {
            self.watch.frame_out(of, epoch, self.playout.epoch());
            let cut_off = self.down.counts().cut_off;
            self.down.send(now, (number, heard));
            if heard.sound.is_some() && self.down.counts().cut_off > cut_off {
                self.watch.swallowed(now);
            }
        }
        while let Some(overlap) = self.lane.as_mut().and_then(Lane::poll_overlap) {
            self.note_consumed();
            self.session_input(session::Input::Overlap(overlap));
        }
        // The first packet is an event of its own, later ones are seen in the lane's reports.
        if (self.reported == 0 && packets > 0) || (self.ticks.is_multiple_of(REPORT_EVERY) && packets != self.reported)
        {
            self.reported = packets;
            self.input(Input::MediaSeen);
        }
        self.tick();
        self.perform();
    }

    fn tick(&mut self) {
        self.note_consumed();
        self.preroll.tick(Supply::of(&self.playout));
        self.top_up();
        let Some(lane) = self.lane.as_mut() else { return };
        let linked = self.session.is_ready() && self.link.is_some();
        if linked {
            for append in self.held.drain(..) {
                self.model.send(self.now.mono, append);
            }
        }
        while let Some(voiced) = lane.up.pop_front() {
            let append = match &mut self.codec {
                None => Arc::clone(&APPENDS[usize::from(voiced)]),
                Some(codec) => {
                    write_append(&mut self.line, &codec.take_heard());
                    Arc::from(self.line.as_str())
                }
            };
            if linked {
                self.model.send(self.now.mono, append);
            } else if lane.open {
                if self.held.len() >= HELD {
                    self.held.pop_front();
                }
                self.held.push_back(append);
            }
        }
    }

    fn play(&mut self, name: ClipName) -> bool {
        if !self.settings.clips {
            return false;
        }
        let plays = self.playout.play_clip(&lane::clip(name));
        self.top_up();
        plays
    }

    fn clip_over(&mut self) {
        if std::mem::take(&mut self.clip) {
            self.input(Input::ClipOver);
        }
    }

    fn note_consumed(&mut self) {
        let Some(lane) = self.lane.as_ref() else { return };
        let (epoch, frames) = lane.consumed();
        if frames > 0 && !self.audible {
            self.audible = true;
            self.input(Input::FirstAudio);
        }
        self.session_input(session::Input::Consumed(Consumed { epoch, frames }));
        if self.clip && self.playout.is_drained() {
            self.clip_over();
        }
    }

    fn top_up(&mut self) {
        let Some(lane) = self.lane.as_mut() else { return };
        while self.preroll.may_play(Supply::of(&self.playout))
            && (self.playout.ahead() as usize) < DOWN_TARGET
            && lane.down.len() < DOWN_FRAMES
            && self.playout.next_frame(&mut self.frame)
        {
            lane.down.push_back(*self.frame);
        }
    }

    pub(super) fn perform(&mut self) {
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                self.perform_one(effect);
            }
        }
    }

    fn perform_one(&mut self, effect: Effect) {
        self.watch.after_end |= self.ending.is_some();
        match effect {
            Effect::OpenLeg => self.later(LEG_AFTER, Later::LegAnswered),
            Effect::OpenModel => {
                self.openings += 1;
                if self.openings > 1 {
                    let update = Box::new(self.update.clone());
                    self.session_input(session::Input::Reopen(update));
                }
                self.note("model asked");
                match self.model.dial() {
                    Answer::Opens { after, connection } => self.later(after, Later::ModelOpened(Box::new(connection))),
                    Answer::Refused { after, status, code } => {
                        let failure = Failure::from_handshake(status, code.as_deref());
                        self.later(after, Later::ModelNotOpened(failure));
                    }
                    Answer::Nobody { after } => {
                        let failure = Failure::broken(Code::known("timed_out"));
                        self.later(after, Later::ModelNotOpened(failure));
                    }
                }
            }
            Effect::Door(action @ (Action::PreAccept | Action::Accept)) => {
                self.note(format!("asks {}", action.label()));
                let place = self.graph.iter().position(|answer| answer.action == action);
                let answer = place.map(|place| self.graph.remove(place));
                let (after, verdict) =
                    answer.map_or((GRAPH_AFTER, DoorVerdict::Done), |answer| (answer.after, answer.verdict));
                self.later(after, Later::Graph(action, verdict));
            }
            Effect::Door(action @ (Action::Reject | Action::Terminate)) => {
                self.note(format!("asks {}", action.label()));
                self.farewell = Some(action);
            }
            Effect::OpenAudio => {
                self.note("accepted");
                self.caller.accepted(self.now.mono);
                self.watch.accepted(self.now.mono);
                match self.lane.as_mut() {
                    Some(lane) => lane.open = true,
                    None => self.input(Input::Broken),
                }
                self.session_input(session::Input::OnAir);
            }
            Effect::CloseModel => {
                if self.link.take().is_some() {
                    self.model.hang_up(self.now.mono);
                    self.session_input(session::Input::Closed { code: None, reason: "" });
                }
            }
            Effect::Clip(name) => {
                self.clip = true;
                if !self.play(name) {
                    self.clip_over();
                }
            }
            Effect::SayGoodbye => self.session_input(session::Input::Say(Line::Goodbye, Pii::new(GOODBYE))),
            Effect::Milestone(..) => {}
            Effect::OweText => {
                self.watch.texts += 1;
                self.text = true;
                self.note("text owed");
            }
            Effect::End(outcome, fault) => {
                self.watch.ends += 1;
                self.ending.get_or_insert(End { at: self.now.mono - self.began, outcome, fault, text: self.text });
            }
        }
    }

    fn session_news(&mut self) {
        while !self.news.is_empty() {
            for effect in std::mem::take(&mut self.news) {
                self.session_effect(effect);
            }
        }
    }

    fn session_effect(&mut self, effect: session::Effect) {
        match effect {
            session::Effect::Send(event) => {
                let label = event.label();
                event.write_json(&mut self.line);
                self.watch.sent(self.now.mono, label, &self.line);
                if self.link.is_some() {
                    self.model.send(self.now.mono, Arc::from(self.line.as_str()));
                }
                self.note(format!("sends {label}"));
            }
            session::Effect::Ready => {
                self.note("model ready");
                self.watch.model_ready();
                self.input(Input::ModelReady);
                let say = session::Input::Say(Line::Greeting, Pii::new(GREETING));
                self.session.handle(self.now, say, &mut self.playout, &mut self.news);
            }
            session::Effect::Resumed => {
                self.note("model resumed");
                self.watch.model_ready();
                self.input(Input::ModelReady);
            }
            session::Effect::Flush { epoch } => {
                self.note("interruption");
                if let Some(lane) = self.lane.as_mut() {
                    self.watch.flushed(self.now.mono, lane.consumed());
                    lane.epoch = epoch;
                }
            }
            session::Effect::Turn(turn) => self.note(format!("turn {}", turn.who.label())),
            session::Effect::LineOver { line: Line::Goodbye, .. } => self.input(Input::GoodbyePlayed),
            session::Effect::LineOver { line: Line::NobodyThere, complete: true } => {
                self.input(Input::Concluded(Fault::Caller));
            }
            session::Effect::Concluded => self.input(Input::Concluded(Fault::None)),
            session::Effect::AskAlive => {
                self.note("asks for a sign of life");
                self.model.ping(self.now.mono);
            }
            session::Effect::OneMoment => {
                self.play(ClipName::OneMoment);
            }
            session::Effect::Silence(what) => {
                let (line, text) = match what {
                    Silence::Ask => (Line::StillThere, STILL_THERE),
                    Silence::Leave => (Line::NobodyThere, NOBODY_THERE),
                };
                let say = session::Input::Say(line, Pii::new(text));
                self.session.handle(self.now, say, &mut self.playout, &mut self.news);
            }
            // Nobody is there to be handed to: the model of this world has no such tool.
            session::Effect::Transfer | session::Effect::TransferRefused => {}
            session::Effect::SpeechStarted => self.watch.noticed(self.now.mono),
            session::Effect::Odd(odd) => self.note(format!("odd {}", odd.label())),
            session::Effect::Resume => {
                self.note("goes on");
                if let Some(lane) = self.lane.as_mut() {
                    lane.resume = true;
                }
            }
            session::Effect::LineOver { .. }
            | session::Effect::Usage(..)
            | session::Effect::Audio { .. }
            | session::Effect::SpeechStopped
            | session::Effect::ResponseStarted
            | session::Effect::ResponseDone { .. } => {}
            session::Effect::Failed(failure) => {
                self.note("model lost");
                self.watch.model_lost(self.now.mono);
                self.link = None;
                self.model.hang_up(self.now.mono);
                self.input(Input::ModelLost { refused: failure.loss == Loss::Refused });
            }
        }
    }

    /// The last words, then everything is put away.
    pub(super) fn finish(&mut self) {
        self.note_consumed();
        self.session_input(session::Input::End);
        self.effects.clear();
        self.lane = None;
        self.held.clear();
        self.link = None;
        self.model.hang_up(self.now.mono);
        self.finished = true;
        self.note("ended");
        self.look_at_the_end();
        // What comes late comes to nobody: a late webhook, a late answer, a late timer.
        self.now = self.now.after(FRAME);
        for late in [
            Input::Terminated { failure: Some(Fault::Whatsapp) },
            Input::MediaSeen,
            Input::ModelReady,
            Input::Drain,
            Input::Timer,
        ] {
            self.call.handle(self.now.mono, late, &mut self.effects);
        }
        self.watch.after_end |= !self.effects.is_empty();
        self.session.handle(self.now, session::Input::Timer, &mut self.playout, &mut self.news);
        self.watch.after_end |= !self.news.is_empty();
        self.look();
    }
}
