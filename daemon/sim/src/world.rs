//! One whole call in virtual time: the daemon's own machines between an emulated model, a caller and a bad network.
//!
//! The machines are the real ones: `core::call::machine`, `core::ai::session`, `core::media::playout` and the jitter
//! buffer. What carries out their effects in the daemon (`daemon/src/call_task.rs`) is mirrored in [`task`], method by
//! method and under the same names; that file has to follow that one. No codec runs: towards the box a packet is a tag
//! that says whether somebody speaks, towards the caller one that says what is heard. The invariants are looked at after
//! every step; what breaks one is a [`World::breaches`]. Driven by `tests/scenarios`, from scenario files and from seeds.

mod caller;
mod codec;
mod lane;
mod model;
mod scenario;
mod task;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sauti_core::ai::client::SessionUpdate;
use sauti_core::ai::session::{self, Session};
use sauti_core::ai::verdict::Failure;
use sauti_core::call::machine::{Action, Call, DoorVerdict, Effect, Input, Limits};
use sauti_core::call::outcome::{Door, Fault, Outcome};
use sauti_core::config::check::{Environment, read};
use sauti_core::media::floor::BargeIn;
use sauti_core::media::frame::{FRAME, Frame};
use sauti_core::media::playout::Playout;
use sauti_core::media::preroll::Preroll;
use sauti_core::now::Now;
use sauti_core::pii::Pii;

use self::caller::{Caller, Heard};
pub use self::caller::{Hears, Step};
use self::codec::Codec;
pub use self::codec::{AudioSettings, Recordings};
pub use self::lane::numbered;
use self::lane::{Lane, Tag};
use self::model::ModelEnd;
pub use self::model::{Connection, Inject, ModelSettings};
pub use self::scenario::{Broken, Place, Scenario};
pub use self::watch::MOST_DEAD_AIR;
use self::watch::Watch;
use crate::network::{Path, PathSettings};
use crate::openai::Record;

/// From the webhook to the leg with its answer.
const LEG_AFTER: Duration = Duration::from_millis(2);
/// From the caller's hanging up to its webhook.
const WEBHOOK_AFTER: Duration = Duration::from_millis(300);

/// What Graph does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphAnswer {
    /// For which question; each answer serves once, in order.
    pub action: Action,
    /// After how long.
    pub after: Duration,
    /// What it says.
    pub verdict: DoorVerdict,
}

/// What a call is like, apart from the daemon.
#[derive(Debug, Clone)]
pub struct WorldSettings {
    /// `[limits]` of the box.
    pub limits: Limits,
    /// Keys of `[openai]`, as TOML.
    pub openai: String,
    /// `[agent] still_there_after`.
    pub still_there_after: Option<Duration>,
    /// The box has recordings.
    pub clips: bool,
    /// From the caller to the box.
    pub up: PathSettings,
    /// From the box to the caller.
    pub down: PathSettings,
    /// The model and the way to it.
    pub model: ModelSettings,
    /// Graph's answers; what is not listed is done after 80 ms.
    pub graph: Vec<GraphAnswer>,
    /// From the pre-accept to ICE and DTLS; `None` = they never come up.
    pub leg_up_after: Option<Duration>,
    /// The caller does these, from the accept on.
    pub script: Vec<Step>,
    /// The drain time of the box is over.
    pub drain_at: Option<Duration>,
    /// Real speech through the real codec both ways, instead of tags alone.
    pub audio: Option<AudioSettings>,
    /// Decides what chance decides.
    pub seed: u64,
}

impl Default for WorldSettings {
    fn default() -> Self {
        Self {
            limits: Limits {
                door: Door::Whatsapp,
                connect_within: Duration::from_secs(3),
                no_media: Duration::from_secs(20),
                model_silence: Duration::from_secs(10),
                max_call: Duration::from_secs(900),
                spread: 500,
            },
            openai: String::new(),
            still_there_after: Some(Duration::from_secs(15)),
            clips: true,
            up: PathSettings::default(),
            down: PathSettings::default(),
            model: ModelSettings::default(),
            graph: Vec::new(),
            leg_up_after: Some(Duration::from_millis(150)),
            script: vec![Step::Listen, Step::Say(Duration::from_millis(1_500)), Step::Listen, Step::HangUp],
            drain_at: None,
            audio: None,
            seed: 1,
        }
    }
}

/// Something that was noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Since the webhook.
    pub at: Duration,
    /// In words, as scenario files write it.
    pub what: String,
}

/// How the call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Since the webhook.
    pub at: Duration,
    /// The one outcome.
    pub outcome: Outcome,
    /// Whose matter it is.
    pub fault: Fault,
    /// A text message is owed.
    pub text: bool,
}

/// Something that happens later.
#[derive(Debug)]
enum Later {
    LegAnswered,
    LegUp,
    Graph(Action, DoorVerdict),
    ModelOpened(Box<Connection>),
    ModelNotOpened(Failure),
    Terminated,
    Drain,
}

/// One call and everything around it.
#[derive(Debug)]
pub struct World {
    settings: WorldSettings,
    update: SessionUpdate,
    barge_in: BargeIn,
    now: Now,
    began: Instant,
    next_tick: Instant,
    ticks: u64,
    agenda: BTreeMap<(Instant, u64), Later>,
    tickets: u64,
    // What a call task owns.
    call: Call,
    session: Session,
    playout: Playout,
    effects: Vec<Effect>,
    news: Vec<session::Effect>,
    owed: Option<Instant>,
    audible: bool,
    /// Appends that wait for a session.
    held: VecDeque<Arc<str>>,
    clip: bool,
    preroll: Preroll,
    openings: u32,
    farewell: Option<Action>,
    text: bool,
    ending: Option<End>,
    finished: bool,
    reported: u64,
    link: Option<u64>,
    frame: Box<Frame>,
    line: String,
    // Everybody else.
    lane: Option<Lane>,
    codec: Option<Box<Codec>>,
    model: ModelEnd,
    up: Path<Tag>,
    /// With the number that stands for the packet.
    down: Path<(u64, Heard)>,
    caller: Caller,
    graph: Vec<GraphAnswer>,
    watch: Watch,
    seen: Vec<Seen>,
}

/// The settings of a box that sets nothing but these keys of `[openai]`.
fn openai(keys: &str) -> Result<sauti_core::config::OpenAi, String> {
    let text = format!("[whatsapp]\nphone_number_id = \"100000000000002\"\n[openai]\n{keys}\n");
    let environment = Environment {
        host_name: "world",
        cores: 2,
        secrets: &|_| Some("canary-openai-key".to_owned()),
        read_file: &|_| Err("there are no files here".to_owned()),
    };
    match read(&text, &environment) {
        Ok(config) => config.openai.ok_or_else(|| "no [openai]".to_owned()),
        Err(problems) => Err(format!("openai keys: {problems:?}")),
    }
}

impl World {
    /// A call whose webhook is read at `start`.
    ///
    /// # Errors
    /// The keys of `[openai]` are no good.
    pub fn new(settings: WorldSettings, start: Instant) -> Result<Self, String> {
        let openai = openai(&settings.openai)?;
        let languages = sauti_core::config::Language::ALL;
        let update = SessionUpdate::new(&openai, Pii::new("Be brief."), languages[0], &languages);
        let mut effects = Vec::new();
        let call = Call::start(start, start, settings.limits, &mut effects);
        let mut session = Session::new(update.clone());
        session.judge_with_lane(true);
        let session = session.with_still_there_after(settings.still_there_after);
        let mut world = Self {
            now: Now { mono: start, wall: Timestamp::UNIX_EPOCH },
            began: start,
            next_tick: start + FRAME,
            ticks: 0,
            agenda: BTreeMap::new(),
            tickets: 0,
            call,
            session,
            playout: Playout::new(openai.max_output_tokens),
            effects,
            news: Vec::new(),
            owed: None,
            audible: false,
            held: VecDeque::new(),
            clip: false,
            preroll: Preroll::default(),
            openings: 0,
            farewell: None,
            text: false,
            ending: None,
            finished: false,
            reported: 0,
            link: None,
            frame: Box::new(Frame::SILENCE),
            line: String::new(),
            lane: None,
            codec: settings.audio.clone().map(Codec::new).transpose()?.map(Box::new),
            model: ModelEnd::new(&settings.model, settings.seed, start),
            up: Path::new(&settings.up, settings.seed, start),
            down: Path::new(&settings.down, !settings.seed, start),
            caller: Caller::new(settings.script.clone(), settings.up.clock(start), start),
            graph: settings.graph.clone(),
            watch: Watch::default(),
            seen: Vec::new(),
            update,
            barge_in: openai.turn.judged_here(),
            settings,
        };
        if let Some(at) = world.settings.drain_at {
            world.later(at, Later::Drain);
        }
        world.perform();
        Ok(world)
    }

    /// Time since the webhook.
    #[must_use]
    pub fn since(&self) -> Duration {
        self.now.mono - self.began
    }

    /// How the call ended, once it has.
    #[must_use]
    pub const fn end(&self) -> Option<End> {
        self.ending
    }

    /// What was noticed until now.
    #[must_use]
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// What the caller heard, run by run, since the webhook.
    #[must_use]
    pub fn heard(&self) -> &[Hears] {
        &self.caller.heard
    }

    /// Frames that the caller heard of each item of [`numbered`] speech, and how many of all came out of their turn.
    #[must_use]
    pub const fn numbered_heard(&self) -> (&BTreeMap<u16, u32>, u32) {
        (&self.caller.frames_of, self.caller.out_of_turn)
    }

    /// What the connections to the model that are over left behind.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.model.records
    }

    /// Invariants that did not hold.
    #[must_use]
    pub fn breaches(&self) -> &[String] {
        &self.watch.breaches
    }

    /// What was said and heard, where [`WorldSettings::audio`] was given; whole once the call is over.
    pub fn recordings(&mut self) -> Option<Recordings> {
        let mut recordings = self.codec.as_mut()?.recordings();
        for record in &self.model.records {
            recordings.reached_model.extend_from_slice(&record.appended);
            for item in record.spoken.iter().filter(|item| !item.deleted) {
                let cut = item.truncated_at_ms.and_then(|ms| usize::try_from(ms * 24).ok()).unwrap_or(usize::MAX);
                let end = item.samples.len().min(item.samples_sent).min(cut);
                recordings.model_said.push(item.samples[..end].to_vec());
            }
        }
        Some(recordings)
    }

    /// The longest silence in which the caller waited for something to be said.
    #[must_use]
    pub const fn dead_air(&self) -> Duration {
        self.watch.dead_air
    }

    /// Delay of the caller's words in the box at this moment, ms: jitter buffer and ring.
    #[must_use]
    pub fn latency_ms(&self) -> u32 {
        self.lane.as_ref().map_or(0, Lane::latency_ms)
    }

    /// True when the call is over and everything has been put away.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.finished
    }

    /// What is held for the call: legs, connections to the model, frames in the rings, milliseconds in the reservoir.
    #[must_use]
    pub fn tables(&self) -> [u64; 4] {
        let rings = self.lane.as_ref().map_or(0, |lane| lane.up.len() + lane.down.len()) + self.held.len();
        let connections = u64::from(self.link.is_some()).max(u64::from(self.model.is_connected()));
        [u64::from(self.lane.is_some()), connections, rings as u64, self.playout.remaining_ms()]
    }

    /// The most that each of them held.
    #[must_use]
    pub const fn most_in_tables(&self) -> [u64; 4] {
        self.watch.most
    }

    fn later(&mut self, after: Duration, what: Later) {
        self.tickets += 1;
        self.agenda.insert((self.now.mono + after, self.tickets), what);
    }

    fn note(&mut self, what: impl Into<String>) {
        let at = self.since();
        self.seen.push(Seen { at, what: what.into() });
    }

    /// Runs until the call is over and everything has been put away, at most for `longest`; true if it is over.
    pub fn run(&mut self, longest: Duration) -> bool {
        let until = self.began + longest;
        while !self.finished && self.now.mono < until {
            self.step();
        }
        self.finished
    }

    /// Goes on to the next moment at which something happens.
    pub fn step(&mut self) {
        let deadlines = [
            Some(self.next_tick),
            self.agenda.first_key_value().map(|((at, _), _)| *at),
            self.model.deadline(),
            self.up.deadline(),
            self.down.deadline(),
            self.caller.deadline(),
            self.call.deadline().map(|(at, _)| at),
            self.session.deadline().map(|(at, _)| at),
        ];
        let at = deadlines.into_iter().flatten().min().unwrap_or(self.next_tick).max(self.now.mono);
        self.now = self.now.after(at - self.now.mono);
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= at) {
            let what = entry.remove();
            self.happen(what);
        }
        self.model_speaks();
        self.caller_speaks();
        while let Some(tag) = self.up.receive(at) {
            if let Some(lane) = &mut self.lane {
                lane.receive(at, tag);
                if let Some(codec) = &mut self.codec {
                    codec.receive(at, tag);
                }
            }
        }
        while let Some((number, heard)) = self.down.receive(at) {
            if let Some(codec) = &mut self.codec {
                codec.arrived(at, number);
            }
            self.caller_hears(heard);
        }
        if self.next_tick <= at {
            self.next_tick += FRAME;
            self.ticks += 1;
            self.lane_ticks();
        }
        let due = |deadline: Option<Instant>| deadline.is_some_and(|due| due <= at);
        if due(self.call.deadline().map(|(at, _)| at)) || due(self.session.deadline().map(|(at, _)| at)) {
            self.input(Input::Timer);
            self.session_input(session::Input::Timer);
        }
        self.perform();
        self.look();
        if self.ending.is_some() && !self.finished {
            self.finish();
        }
    }

    fn happen(&mut self, what: Later) {
        match what {
            Later::LegAnswered => self.leg_answered(),
            Later::LegUp => {
                self.note("leg up");
                self.caller.connected = true;
                self.input(Input::LegUp);
            }
            Later::Graph(action, verdict) => self.graph_answered(action, verdict),
            Later::ModelOpened(connection) => self.model_opened(*connection),
            Later::ModelNotOpened(failure) => {
                self.note("model not opened");
                self.session_input(session::Input::NotOpened(failure));
            }
            Later::Terminated => self.input(Input::Terminated { failure: None }),
            Later::Drain => self.input(Input::Drain),
        }
        self.perform();
    }

    fn caller_speaks(&mut self) {
        let now = self.now.mono;
        while self.caller.deadline().is_some_and(|due| due <= now) {
            let was_over = self.caller.is_over();
            if let Some(tag) = self.caller.frame(now) {
                if let Some(codec) = &mut self.codec {
                    codec.speak(tag);
                    codec.listen(now);
                }
                self.up.send(now, tag);
            }
            if self.caller.is_over() && !was_over && self.ending.is_none() {
                self.note("caller hangs up");
                self.later(WEBHOOK_AFTER, Later::Terminated);
            }
        }
    }

    fn caller_hears(&mut self, heard: Heard) {
        if let Some(sound) = self.caller.hear(self.now.mono, self.began, heard) {
            self.note(format!("hears {sound}"));
        }
    }
}
