//! One task a call: it feeds the machines and performs their effects; it decides nothing.
//!
//! A single `select!` over signals, lane, model, finished effects and the next deadline. Every way out ends in
//! [`CallTask::finish`]; what a panic leaves behind is the switchboard's to clear up.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use sauti_core::ai::client::write_append_as;
use sauti_core::ai::session::{self, Line, Odd, Session, Silence};
use sauti_core::ai::verdict::{Code, Failure, Loss};
use sauti_core::call::answer_delay::AnswerDelay;
use sauti_core::call::clip::ClipName;
use sauti_core::call::machine::{Action, Call, Effect, Input};
use sauti_core::call::milestones::Milestone;
use sauti_core::call::outcome::{Door, Fault, Outcome};
use sauti_core::call::transfer::Input as ToTransfer;
use sauti_core::media::frame::{AudioFormat, Frame};
use sauti_core::media::playout::{Consumed, Playout};
use sauti_core::media::preroll::{Preroll, Supply};
use sauti_core::media::quality::CallQuality;
use sauti_core::now::Now;
use sauti_core::pii::Pii;
use sauti_core::record::{EndRow, EventRow, NewText, Stage, Turn};
use tokio::sync::mpsc;

use crate::ai::link::{Link, LinkEvent};
use crate::ai::providers::{Course, Dialled};
use crate::door::{DoorError, OpenLeg, door_verdict, fault_at, is_whatsapp, milestone_event, trouble_event};
use crate::house::{House, Setup};
use crate::lanes::{CallerLink, DOWN_TARGET, LaneEvent, LegReport, LinkNews, OpenError};
use crate::ledger_session::SessionLedger;
use crate::obs::logging::{EventName, Field, LogValue, SafeName, log_event};
use crate::sip::{DialogError, DialogEvent, DialogEvents};
use crate::summary;

use self::transfer::{Person, PersonError, Transfer, next_of_person};

mod dialog;
mod transfer;

use self::dialog::{KeyPath, Side};

/// Longest wait for the last word to the far side; the row is written afterwards in any case.
const FAREWELL_WITHIN: Duration = Duration::from_secs(15);

/// Frames of the caller that are kept while there is no session: the latest 2 s, half a sentence. What is older is
/// asked for again rather than answered late.
const HELD: usize = 100;

/// Longest wait for the model's side of a close.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// What the switchboard tells a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The terminate webhook came.
    Terminated {
        /// Whose fault it is, where Meta calls it a failure.
        failure: Option<Fault>,
    },
    /// The drain time is over.
    Drain,
}

/// An effect that took its time and is done.
enum Done {
    Leg(Box<Result<OpenLeg, OpenError>>),
    Model(Box<Dialled>),
    Door(Action, Result<(), DoorError>),
    /// A REFER was answered.
    Asked(Result<(), DialogError>),
    /// A re-INVITE of ours was answered.
    Reinvited(Side, Result<Pii, DialogError>),
    /// It is to be sent anew.
    Again(Side),
    /// A person is being called.
    Person(Box<Result<Person, PersonError>>),
}

type Pending = FuturesUnordered<Pin<Box<dyn Future<Output = Done> + Send>>>;

/// What a call ended with.
struct Ending {
    outcome: Outcome,
    fault: Fault,
    at: Timestamp,
}

/// Everything one call is made of.
struct CallTask {
    house: Arc<House>,
    setup: Arc<Setup>,
    call: Call,
    session: Session,
    playout: Playout,
    preroll: Preroll,
    quality: CallQuality,
    answer_delay: AnswerDelay,
    ledger: SessionLedger,
    course: Course,
    /// A leg that was made before the session, whose format follows from it.
    opened: Option<Result<OpenLeg, OpenError>>,
    /// Of the dialog, where the call came by SIP.
    events: Option<DialogEvents>,
    held_by_far_side: bool,
    /// By which of its ways the caller's keys come.
    keys_by: Option<KeyPath>,
    leg: Option<CallerLink>,
    link: Option<Link>,
    pending: Pending,
    answer: Option<Pii>,
    effects: Vec<Effect>,
    news: Vec<session::Effect>,
    owed: Option<Instant>,
    report: Option<LegReport>,
    audible: bool,
    /// What the caller said while there was no session, the latest [`HELD`] frames.
    held: VecDeque<Frame>,
    /// A recording plays whose end the machine wants to know.
    clip: bool,
    /// The caller is handed to a person.
    transfer: Option<Transfer>,
    accepted: Option<Instant>,
    /// When the first session was asked for.
    model_asked: Option<Instant>,
    /// How long that took to be ready.
    model_wait: Option<Duration>,
    farewell: Option<Action>,
    text: Option<NewText>,
    ending: Option<Ending>,
    turns: u32,
    caller_spoke: bool,
    line: String,
    frame: Box<Frame>,
}

/// Reads both clocks.
fn now() -> Now {
    Now { mono: Instant::now(), wall: Timestamp::now() }
}

/// Runs an admitted call to its outcome. `events` are those of its dialog, where it came by SIP.
pub async fn run(
    house: Arc<House>,
    setup: Arc<Setup>,
    mut signals: mpsc::Receiver<Signal>,
    events: Option<DialogEvents>,
) {
    let opened = match setup.far_side.decides_format() {
        true => Some(open_leg(Arc::clone(&house), Arc::clone(&setup)).await),
        false => None,
    };
    let mut task = CallTask::new(house, setup, opened, events);
    while task.ending.is_none() {
        task.step(&mut signals).await;
        task.perform();
    }
    task.finish().await;
}

async fn open_leg(house: Arc<House>, setup: Arc<Setup>) -> Result<OpenLeg, OpenError> {
    let work = tokio::task::spawn_blocking(move || setup.far_side.open_leg(&house.lanes, setup.offer.as_ref()));
    work.await.unwrap_or(Err(OpenError::Bug))
}

impl CallTask {
    fn new(
        house: Arc<House>,
        setup: Arc<Setup>,
        opened: Option<Result<OpenLeg, OpenError>>,
        events: Option<DialogEvents>,
    ) -> Self {
        let format =
            opened.as_ref().and_then(|leg| leg.as_ref().ok()).map_or(AudioFormat::Pcm24, |leg| leg.link.format());
        let mut effects = Vec::with_capacity(8);
        let limits = house.call_limits(&setup);
        let call = Call::start(Instant::now(), setup.received.mono, limits, &mut effects);
        let mut session = Session::new(house.session_update(setup.language, format));
        session.judge_with_lane(true);
        let hand_over = house.hand_over(setup.door());
        let mut task = Self {
            session: session.with_still_there_after(house.agent.still_there_after).with_hand_over(hand_over),
            playout: Playout::new(house.openai.max_output_tokens).in_format(format),
            preroll: Preroll::default(),
            quality: CallQuality::default(),
            answer_delay: AnswerDelay::default(),
            ledger: SessionLedger::new(Arc::clone(&house), setup.call_id),
            course: Course::new(&house.providers),
            house,
            setup,
            call,
            opened,
            events,
            held_by_far_side: false,
            keys_by: None,
            leg: None,
            link: None,
            pending: FuturesUnordered::new(),
            answer: None,
            effects,
            news: Vec::with_capacity(8),
            owed: None,
            report: None,
            audible: false,
            held: VecDeque::new(),
            clip: false,
            transfer: None,
            accepted: None,
            model_asked: None,
            model_wait: None,
            farewell: None,
            text: None,
            ending: None,
            turns: 0,
            caller_spoke: false,
            line: String::with_capacity(2048),
            frame: Box::new(Frame::SILENCE),
        };
        task.perform();
        task
    }

    /// Waits for one thing and takes it.
    async fn step(&mut self, signals: &mut mpsc::Receiver<Signal>) {
        let machines = [self.call.deadline().map(|(at, _)| at), self.session.deadline().map(|(at, _)| at)];
        let deadline =
            [machines[0], machines[1], self.transfer.as_ref().and_then(Transfer::deadline)].into_iter().flatten().min();
        let Self { leg, link, pending, events, transfer, .. } = self;
        tokio::select! {
            signal = signals.recv() => match signal {
                Some(Signal::Terminated { failure }) => {
                    // She may have heard something since the last tick.
                    self.note_consumed();
                    self.input(Input::Terminated { failure });
                }
                Some(Signal::Drain) | None => self.input(Input::Drain),
            },
            Some(done) = pending.next() => self.done(done),
            news = next_of_leg(leg) => match news {
                LinkNews::Tick => self.tick(),
                LinkNews::Event(event) => self.lane_event(event),
            },
            event = next_of_link(link) => self.link_event(&event),
            event = next_of_dialog(events) => self.dialog_event(event).await,
            news = next_of_person(transfer) => self.person_news(news).await,
            () = sleep_until(deadline) => {
                self.input(Input::Timer);
                self.session_input(session::Input::Timer);
                self.transfer_input(ToTransfer::Timer);
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.call.handle(Instant::now(), input, &mut self.effects);
    }

    fn session_input(&mut self, input: session::Input<'_>) {
        self.session.handle(now(), input, &mut self.playout, &mut self.news);
        self.session_news();
        let owed = self.session.owes_event();
        if owed != self.owed {
            self.owed = owed;
            self.input(Input::ModelOwes(owed));
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Leg(result) => match *result {
                Ok(OpenLeg { link: mut leg, sdp }) => {
                    leg.frames().set_epoch(self.playout.epoch());
                    self.leg = Some(leg);
                    self.answer = Some(sdp);
                    self.input(Input::LegAnswered);
                }
                Err(error) => {
                    self.leg_trouble(&error);
                    self.input(Input::LegRefused(fault_at(self.setup.door(), error.fault())));
                }
            },
            Done::Model(dialled) => self.dialled(*dialled),
            Done::Asked(answer) => self.asked(answer),
            Done::Reinvited(side, answer) => self.reinvited(side, answer),
            Done::Again(side) => self.refresh(side),
            Done::Person(called) => self.person_called(*called),
            Done::Door(action, result) => {
                if let Err(error) = &result {
                    self.door_trouble(error);
                }
                // Graph carries the answer with the pre-accept, SIP with the 200.
                let by_graph = self.setup.door() == Door::Whatsapp;
                let delivered = if by_graph { Action::PreAccept } else { Action::Accept };
                if action == delivered
                    && result.is_ok()
                    && let Some(leg) = &self.leg
                {
                    leg.answer_delivered();
                }
                if action == Action::PreAccept && result.is_ok() && is_whatsapp(self.setup.door()) {
                    self.stage(Stage::PreAccepted, EventName::WaCallPreAccepted);
                }
                self.input(Input::Door(action, door_verdict(&result)));
            }
        }
    }

    fn dialled(&mut self, dialled: Dialled) {
        for miss in &dialled.misses {
            self.house.metrics.model_session(miss.failure.loss.label(), miss.provider);
            self.model_trouble(&miss.failure, miss.provider, miss.took);
        }
        let warm = dialled.warm;
        match self.course.arrived(dialled) {
            Ok(link) => {
                self.link = Some(link);
                self.session_input(if warm { session::Input::Adopted } else { session::Input::Opened });
            }
            Err(failure) => self.session_input(session::Input::NotOpened(failure)),
        }
    }

    /// The code as the far end gave it, where, and after how long.
    fn model_trouble(&mut self, failure: &Failure, provider: &'static str, after: Duration) {
        self.trouble(
            "model",
            &[
                (Field::Reason, failure.loss.label().into()),
                (Field::Code, SafeName::new(failure.code.as_str()).into()),
                (Field::Provider, provider.into()),
                (Field::DurationMs, after.into()),
            ],
        );
    }

    fn lane_event(&mut self, event: Option<LaneEvent>) {
        match event {
            Some(LaneEvent::Up) => self.input(Input::LegUp),
            Some(LaneEvent::Lost) => self.input(Input::LegLost),
            Some(LaneEvent::Media) => self.input(Input::MediaSeen),
            Some(LaneEvent::Bye) => self.input(Input::MediaBye),
            Some(LaneEvent::Dtmf(key)) => self.key(KeyPath::Rtp, key),
            Some(LaneEvent::Overlap(overlap)) => {
                self.answer_delay.heard(Instant::now(), overlap);
                self.note_consumed();
                self.session_input(session::Input::Overlap(overlap));
            }
            Some(LaneEvent::Report(report)) => self.report(&report),
            Some(LaneEvent::Panicked) | None => {
                self.leg = None;
                self.input(Input::Broken);
            }
        }
    }

    fn report(&mut self, report: &LegReport) {
        if self.report.is_none_or(|before| before.media_packets != report.media_packets) {
            self.input(Input::MediaSeen);
        }
        let reservoir = Duration::from_millis(self.playout.depth_ms());
        report.count(self.report.as_ref(), &self.house.metrics, reservoir);
        self.quality.read(report.reading());
        self.report = Some(*report);
    }

    fn link_event(&mut self, event: &LinkEvent) {
        if let LinkEvent::Lost(lost) = event {
            self.house.metrics.model_oddity(lost.label());
        }
        if event.is_end() {
            self.link = None;
        }
        // What was heard until now decides what an interruption cuts.
        self.note_consumed();
        self.session_input(event.input());
        self.top_up();
    }

    /// A frame's time has passed on the lane.
    fn tick(&mut self) {
        self.note_consumed();
        if self.is_apart() {
            self.tick_apart();
            return;
        }
        let missing = self.preroll.tick(Supply::of(&self.playout));
        self.quality.underrun(missing);
        self.house.metrics.underruns(missing);
        self.top_up();
        let Some(leg) = self.leg.as_mut() else { return };
        let frames = leg.frames();
        let mut link = self.link.as_mut().filter(|_| self.session.is_ready());
        if let Some(link) = &mut link {
            // What she said while there was no session; older than that would be answered too late.
            for frame in self.held.drain(..) {
                write_append_as(self.playout.format(), &mut self.line, &frame);
                link.send_audio(&self.line);
            }
        }
        while let Some(frame) = frames.up.dequeue() {
            match &mut link {
                Some(link) => {
                    write_append_as(self.playout.format(), &mut self.line, &frame);
                    link.send_audio(&self.line);
                }
                None if self.accepted.is_some() => {
                    if self.held.len() >= HELD {
                        self.held.pop_front();
                    }
                    self.held.push_back(frame);
                }
                None => {}
            }
        }
    }

    /// Plays a recording after what is held; false when there is none for this call.
    fn play(&mut self, name: ClipName) -> bool {
        let Some(samples) = self.house.clips.get_in(self.setup.language, name, self.playout.format()) else {
            return false;
        };
        let plays = self.playout.play_clip(&samples);
        self.top_up();
        plays
    }

    /// Tells the machine once that the recording which it asked for is over.
    fn clip_over(&mut self) {
        if std::mem::take(&mut self.clip) {
            self.input(Input::ClipOver);
        }
    }

    fn note_consumed(&mut self) {
        let Some(leg) = self.leg.as_mut() else { return };
        let (epoch, frames) = leg.frames().consumed();
        if frames > 0 && !self.audible {
            self.audible = true;
            self.input(Input::FirstAudio);
        }
        self.session_input(session::Input::Consumed(Consumed { epoch, frames }));
        if self.clip && self.playout.is_drained() {
            self.clip_over();
        }
    }

    /// Keeps 200 ms in front of the lane, once enough was gathered.
    fn top_up(&mut self) {
        let Some(leg) = self.leg.as_mut().filter(|_| self.transfer.is_none()) else { return };
        let down = &mut leg.frames().down;
        while self.preroll.may_play(Supply::of(&self.playout))
            && (self.playout.ahead() as usize) < DOWN_TARGET
            && down.ready()
            && self.playout.next_frame(&mut self.frame)
        {
            // There is room: `ready` was asked, and nobody else puts frames in.
            down.enqueue(*self.frame).ok();
        }
    }

    /// Performs what the call machine decided.
    fn perform(&mut self) {
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                self.perform_one(effect);
            }
        }
    }

    fn perform_one(&mut self, effect: Effect) {
        match effect {
            Effect::OpenLeg => {
                let (opened, house) = (self.opened.take(), Arc::clone(&self.house));
                let setup = Arc::clone(&self.setup);
                self.pending.push(Box::pin(async move {
                    Done::Leg(Box::new(match opened {
                        Some(opened) => opened,
                        None => open_leg(house, setup).await,
                    }))
                }));
            }
            Effect::OpenModel => {
                self.model_asked.get_or_insert_with(Instant::now);
                if self.ledger.opening() > 1 {
                    let update = self.house.session_update(self.setup.language, self.playout.format());
                    self.session_input(session::Input::Reopen(Box::new(update)));
                }
                let (house, caller, climb) = (Arc::clone(&self.house), self.setup.caller_hash, self.course.begin());
                self.pending
                    .push(Box::pin(async move { Done::Model(Box::new(house.connect_model(climb, caller).await)) }));
            }
            Effect::Door(action @ (Action::PreAccept | Action::Accept)) => {
                if action == Action::Accept {
                    self.journal();
                }
                let (setup, answer) = (Arc::clone(&self.setup), self.answer.clone());
                self.pending.push(Box::pin(async move {
                    Done::Door(action, setup.far_side.act(&setup, action, answer.as_ref(), None).await)
                }));
            }
            Effect::Door(action @ (Action::Reject | Action::Terminate)) => self.farewell = Some(action),
            Effect::OpenAudio => {
                self.accepted = Some(Instant::now());
                if self.leg.as_ref().is_none_or(|leg| !leg.open_audio()) {
                    self.input(Input::Broken);
                }
                self.session_input(session::Input::OnAir);
            }
            Effect::CloseModel => {
                if self.link.take().is_some() {
                    self.session_input(session::Input::Closed { code: None, reason: "" });
                }
            }
            Effect::Clip(name) => {
                self.clip = true;
                if !self.play(name) {
                    self.clip_over();
                }
            }
            Effect::SayGoodbye => {
                let goodbye = self.house.texts_of(self.setup.language).goodbye.clone();
                self.session_input(session::Input::Say(Line::Goodbye, Pii::new(goodbye)));
            }
            Effect::Milestone(milestone, at) => self.milestone(milestone, at),
            Effect::OweText => {
                self.text = self.house.apology(&self.setup);
            }
            Effect::End(outcome, fault) => {
                if outcome == Outcome::ModelFailed {
                    // One that is still held has fallen silent.
                    self.course.lost(&Failure::broken(Code::known("model_silent")));
                }
                self.ending = Some(Ending { outcome, fault, at: Timestamp::now() });
            }
        }
    }

    /// Performs what the session decided.
    fn session_news(&mut self) {
        while !self.news.is_empty() {
            for effect in std::mem::take(&mut self.news) {
                self.session_effect(effect);
            }
        }
    }

    fn session_effect(&mut self, effect: session::Effect) {
        let metrics = Arc::clone(&self.house.metrics);
        match effect {
            session::Effect::Send(event) => {
                if matches!(event.label(), "conversation.item.truncate" | "conversation.item.delete") {
                    metrics.truncation();
                }
                event.write_json(&mut self.line);
                if let Some(link) = self.link.as_mut() {
                    link.send_text(&self.line);
                }
            }
            session::Effect::Ready => {
                self.model_wait = self.model_wait.or_else(|| self.model_asked.map(|asked| asked.elapsed()));
                metrics.model_session("ready", self.course.provider());
                self.ledger.opened(self.course.model());
                self.input(Input::ModelReady);
                let texts = self.house.texts_of(self.setup.language);
                let opening = match &texts.notice {
                    Some(notice) => {
                        session::Input::SayFirmly(Line::Greeting, Pii::new(format!("{notice} {}", texts.greeting)))
                    }
                    None => session::Input::Say(Line::Greeting, Pii::new(texts.greeting.clone())),
                };
                self.session.handle(now(), opening, &mut self.playout, &mut self.news);
            }
            session::Effect::Flush { epoch } => {
                metrics.interruption();
                if let Some(leg) = self.leg.as_mut() {
                    leg.frames().set_epoch(epoch);
                }
            }
            session::Effect::Resume => {
                if let Some(leg) = self.leg.as_mut() {
                    leg.frames().resume();
                }
            }
            session::Effect::Audio { first: true } => self.course.worked(),
            session::Effect::Turn(turn) => self.turn(turn),
            session::Effect::Usage(who, usage) => self.ledger.usage(who, usage),
            session::Effect::LineOver { line: Line::Goodbye, .. } => self.input(Input::GoodbyePlayed),
            session::Effect::LineOver { line: Line::NobodyThere, complete: true } => {
                self.input(Input::Concluded(Fault::Caller));
            }
            session::Effect::Concluded => self.input(Input::Concluded(Fault::None)),
            session::Effect::Resumed => {
                metrics.model_session("resumed", self.course.provider());
                self.ledger.opened(self.course.model());
                self.input(Input::ModelReady);
            }
            session::Effect::Transfer => self.begin_transfer(),
            session::Effect::TransferRefused => self.refuse_transfer(),
            session::Effect::AskAlive => {
                if let Some(link) = self.link.as_mut() {
                    link.ask_alive();
                }
            }
            session::Effect::OneMoment => {
                metrics.wait_filled();
                self.play(ClipName::OneMoment);
            }
            session::Effect::Silence(what) => {
                let texts = self.house.texts_of(self.setup.language);
                let (line, text) = match what {
                    Silence::Ask => (Line::StillThere, &texts.still_there),
                    Silence::Leave => (Line::NobodyThere, &texts.nobody_there),
                };
                let text = Pii::new(text.clone());
                self.session.handle(now(), session::Input::Say(line, text), &mut self.playout, &mut self.news);
            }
            session::Effect::LineOver { .. }
            | session::Effect::Audio { first: false }
            | session::Effect::SpeechStarted
            | session::Effect::SpeechStopped
            | session::Effect::ResponseStarted => {}
            session::Effect::ResponseDone { status, code } => {
                if let Some(code) = code {
                    self.trouble(
                        "response",
                        &[(Field::Reason, status.label().into()), (Field::Code, SafeName::new(code.as_str()).into())],
                    );
                }
            }
            session::Effect::Odd(odd) => self.odd(&odd),
            session::Effect::Failed(failure) => {
                if let Some(parting) = self.course.lost(&failure) {
                    metrics.model_session(failure.loss.label(), parting.provider);
                    if !failure.is_planned() {
                        self.model_trouble(&failure, parting.provider, parting.age);
                    }
                }
                self.link = None;
                self.ledger.closed();
                // What one provider refuses another may give.
                let refused = failure.loss == Loss::Refused && self.course.is_hopeless();
                self.input(Input::ModelLost { refused });
            }
        }
    }

    fn odd(&mut self, odd: &Odd) {
        self.house.metrics.model_oddity(odd.label());
        if *odd == Odd::Overflow {
            self.house.metrics.overflow();
        }
    }

    fn turn(&mut self, turn: session::Turn) {
        self.turns += 1;
        self.caller_spoke |= turn.who == session::Speaker::Caller;
        if turn.who == session::Speaker::Agent
            && let Some(delay) = self.answer_delay.answered(turn.began.mono)
        {
            self.house.metrics.answer_delay(delay);
        }
        let row = Turn {
            item: format!("{}-{}", turn.who.label(), self.turns),
            speaker: turn.who,
            began_at: turn.began.wall,
            heard: turn.heard,
            interrupted: turn.interrupted,
            text: turn.text,
        };
        self.house.store.turn(self.setup.call_id, row);
    }

    fn milestone(&mut self, milestone: Milestone, at: Instant) {
        let after = at.saturating_duration_since(self.setup.received.mono);
        let wall = self.setup.received.after(after).wall;
        let stage = match milestone {
            Milestone::LegUp => Some(Stage::MediaUp),
            Milestone::ModelUp => Some(Stage::ModelUp),
            Milestone::Accepted => Some(Stage::Accepted),
            Milestone::ConversationStarted => Some(Stage::FirstAudio),
            Milestone::WebhookReceived
            | Milestone::CallConnect
            | Milestone::BridgeRequested
            | Milestone::BridgeActive => None,
        };
        if let Some(stage) = stage {
            self.house.metrics.stage(stage.label(), after);
            self.house.store.stage(self.setup.call_id, stage, wall);
        }
        let times = [(Field::AtMs, wall.as_millisecond().into()), (Field::DurationMs, after.into())];
        let mut values = times.to_vec();
        if milestone == Milestone::WebhookReceived {
            values.extend(self.setup.far_side.fields());
        }
        if milestone == Milestone::ModelUp {
            values.extend([
                (Field::Provider, self.course.provider().into()),
                (Field::Model, SafeName::new(self.course.model()).into()),
                (Field::Warm, self.course.is_warm().into()),
            ]);
        }
        self.event(milestone_event(self.setup.door(), milestone), wall, &values);
        if milestone == Milestone::Accepted && is_whatsapp(self.setup.door()) {
            self.event(EventName::WaVoiceCallAccepted, wall, &times);
        }
    }

    fn stage(&mut self, stage: Stage, name: EventName) {
        let at = now();
        let after = at.mono.saturating_duration_since(self.setup.received.mono);
        self.house.metrics.stage(stage.label(), after);
        self.house.store.stage(self.setup.call_id, stage, at.wall);
        self.event(name, at.wall, &[(Field::AtMs, at.wall.as_millisecond().into()), (Field::DurationMs, after.into())]);
    }

    fn trouble(&mut self, stage: &'static str, values: &[(Field, LogValue)]) {
        let mut all = vec![(Field::Stage, stage.into())];
        all.extend_from_slice(values);
        self.event(trouble_event(self.setup.door()), Timestamp::now(), &all);
    }

    fn leg_trouble(&mut self, error: &OpenError) {
        let fault = fault_at(self.setup.door(), error.fault());
        let values = [(Field::Reason, error.label().into()), (Field::Fault, fault.label().into())];
        self.trouble("leg", &values);
    }

    fn door_trouble(&mut self, error: &DoorError) {
        if error.is_over() {
            return;
        }
        self.event(trouble_event(self.setup.door()), Timestamp::now(), &error.fields());
    }

    /// Writes one event to the log and to the ledger.
    fn event(&mut self, name: EventName, at: Timestamp, values: &[(Field, LogValue)]) {
        log_event(name, Some(self.setup.call_id), values);
        let fields = values.iter().map(|(field, value)| (field.as_str().to_owned(), value.to_json())).collect();
        self.house.store.event(self.setup.call_id, EventRow { at, event: name.as_str().to_owned(), fields });
    }

    /// Closes both legs, has the last word with the far side, and writes the outcome.
    async fn finish(mut self) {
        self.note_consumed();
        let has_session = self.session.is_ready();
        self.session_input(session::Input::End);
        self.effects.clear();
        self.leg = None;
        let summarise = self.house.agent.summary && self.caller_spoke;
        let mut link = self.link.take();
        if !(summarise && has_session) {
            if let Some(link) = link.take() {
                tokio::spawn(link.close(CLOSE_WITHIN));
            }
            self.ledger.closed();
        }
        let ending = self.ending.take().unwrap_or_else(|| Ending {
            outcome: Outcome::Internal,
            fault: Fault::Box,
            at: Timestamp::now(),
        });
        let person = self.transfer.take().and_then(Transfer::into_dialog);
        let let_go = person.map(|dialog| {
            let (house, call) = (Arc::clone(&self.house), self.setup.call_id);
            tokio::spawn(async move { transfer::let_go(&house, call, &dialog).await })
        });
        if let Some(action) = self.farewell {
            let setup = Arc::clone(&self.setup);
            let asked = setup.far_side.act(&setup, action, None, Some((ending.outcome, ending.fault)));
            match tokio::time::timeout(FAREWELL_WITHIN, asked).await {
                Ok(Err(error)) => self.door_trouble(&error),
                Ok(Ok(())) => {}
                Err(_) => self.trouble(action.label(), &[(Field::Reason, "timed_out".into())]),
            }
        }
        if let Some(let_go) = let_go {
            // Bounded by the dialog, and it began beside the farewell.
            let_go.await.ok();
        }
        if let Some(summary) = self.quality.summary() {
            self.house.metrics.quality(&summary);
            self.house.store.quality(self.setup.call_id, summary);
        }
        let talked = self.accepted.map(|at| at.elapsed());
        let owes_text = self.text.is_some();
        let row = EndRow {
            outcome: ending.outcome,
            fault: ending.fault,
            ended_at: ending.at,
            talked,
            text: self.text.take(),
        };
        self.event(
            EventName::CallEnded,
            ending.at,
            &[
                (Field::Outcome, ending.outcome.label().into()),
                (Field::Fault, ending.fault.label().into()),
                (Field::Door, self.setup.door().label().into()),
                (Field::DurationMs, talked.unwrap_or_default().into()),
            ],
        );
        if summarise {
            self.house.store.owe_summary(self.setup.call_id, ending.at);
        }
        self.house.end_call(&self.setup, row).await;
        if owes_text {
            self.house.texts_ring.notify_one();
        }
        match link {
            Some(link) => drop(tokio::spawn(summary::at_end(self.house, self.setup.call_id, link, self.ledger))),
            None => self.ledger.closed(),
        }
    }
}

async fn next_of_leg(leg: &mut Option<CallerLink>) -> LinkNews {
    match leg {
        Some(leg) => leg.next().await,
        None => std::future::pending().await,
    }
}

async fn next_of_dialog(events: &mut Option<DialogEvents>) -> Option<DialogEvent> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

async fn next_of_link(link: &mut Option<Link>) -> LinkEvent {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
