//! A scenario file as a value, and whether a world lives up to it.
//!
//! Who reads the file owns the format's text (TOML in `tests/scenarios`); unknown keys are refused. A scenario says what
//! the world is like, what the caller does, what is to be seen in which order, and how the call ends.

use std::time::{Duration, Instant};

use sauti_core::call::machine::{Action, DoorVerdict};
use sauti_core::call::outcome::{Fault, Outcome};
use serde::Deserialize;

use super::{Connection, End, GraphAnswer, Inject, Step, World, WorldSettings};
use crate::network::PathSettings;
use crate::openai::{BadResponse, Fault as ModelFault, Script, Trouble, When};

/// A call that has not ended by then never will.
const LONGEST: Duration = Duration::from_secs(5 * 3_600);

/// A scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub about: String,
    /// Keys of `[openai]`, as TOML.
    #[serde(default)]
    openai: String,
    #[serde(default)]
    limits: LimitsFile,
    /// The box has no recordings.
    #[serde(default)]
    without_clips: bool,
    /// `[agent] still_there_after`; 0 = never.
    still_there_after_ms: Option<u64>,
    /// From the pre-accept to ICE and DTLS.
    leg_up_ms: Option<u64>,
    /// ICE and DTLS never come up.
    #[serde(default)]
    leg_never_up: bool,
    /// The drain time is over.
    drain_at_ms: Option<u64>,
    #[serde(default)]
    up: PathSettings,
    #[serde(default)]
    down: PathSettings,
    #[serde(default)]
    model: ModelFile,
    #[serde(default)]
    graph: Vec<GraphFile>,
    /// What the caller does, from the accept on.
    #[serde(default)]
    caller: Vec<StepFile>,
    /// What is to be seen, in this order.
    #[serde(default)]
    expect: Vec<Expect>,
    end: EndFile,
    /// Longest silence that is right here, where nobody can speak.
    dead_air_ms: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitsFile {
    connect_within_ms: Option<u64>,
    no_media_ms: Option<u64>,
    model_silence_ms: Option<u64>,
    max_call_ms: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ModelFile {
    /// One way.
    delay_ms: Option<u64>,
    /// From the end of a turn to the first audio.
    first_delta_ms: Option<u64>,
    /// How long its answers are.
    answer_ms: Option<u64>,
    /// How old a session may become.
    session_limit_ms: Option<u64>,
    /// What happens to its connections, by number.
    connection: Vec<ConnectionFile>,
    /// Later connections meet what the last one in the list meets.
    repeat_last: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ConnectionFile {
    /// The handshake is answered with this status.
    refuse: Option<u16>,
    /// And this code in its body.
    refuse_code: Option<String>,
    wrong_key: bool,
    unreachable: bool,
    fault: Vec<FaultFile>,
    inject: Vec<InjectFile>,
    /// The response of this number fails with this code.
    fails: Vec<(u32, String)>,
    /// The response of this number is created, and nothing follows.
    hangs: Vec<u32>,
    /// The response of this number is done without having been created.
    not_created: Vec<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultFile {
    after_open_ms: Option<u64>,
    at_response: Option<u32>,
    at_delta: Option<u32>,
    trouble: TroubleFile,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TroubleFile {
    Close(u16),
    Abort,
    HalfOpen,
    StallMs(u64),
    Garbage,
    Huge(usize),
    Duplicate,
    Swap,
    OrphanDelta,
    Error(String),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct InjectFile {
    after_open_ms: u64,
    event: String,
    #[serde(default)]
    audio_bytes: usize,
    #[serde(default = "once")]
    times: u32,
}

const fn once() -> u32 {
    1
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct GraphFile {
    action: String,
    after_ms: u64,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Done,
    Unknown,
    SdpRefused,
    Refused,
    Forbidden,
    Ended,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum StepFile {
    Listen,
    PauseMs(u64),
    SayMs(u64),
    BreakIn { after_ms: u64, say_ms: u64 },
    Repeat { times: u32, steps: Vec<Self> },
    HangUp,
}

/// Something that is to be seen, or not.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    /// In the words of [`super::Seen`].
    see: String,
    /// Counted from what was seen before, the first time from the webhook.
    within_ms: u64,
    /// It must not be seen in that time.
    #[serde(default)]
    absent: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndFile {
    outcome: String,
    fault: String,
    text: bool,
    /// Since the webhook.
    within_ms: Option<u64>,
}

/// Where in a scenario something did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The whole file.
    File,
    /// The expectation of this number, from 0.
    Expect(usize),
    /// The end.
    End,
}

impl Place {
    /// The line of the file's text, from 1, on which it stands.
    #[must_use]
    pub fn line(self, text: &str) -> usize {
        let (table, number) = match self {
            Self::File => return 1,
            Self::Expect(number) => ("[[expect]]", number),
            Self::End => ("[end]", 0),
        };
        let mut lines = text.lines().enumerate().filter(|(_, line)| line.trim() == table);
        lines.nth(number).map_or(1, |(line, _)| line + 1)
    }
}

/// What did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Where.
    pub place: Place,
    /// What, and what was there instead.
    pub what: String,
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Scenario {
    /// What the world is like.
    ///
    /// # Errors
    /// A word that the format does not know.
    pub fn settings(&self) -> Result<WorldSettings, String> {
        let mut settings = WorldSettings {
            openai: self.openai.clone(),
            clips: !self.without_clips,
            up: self.up.clone(),
            down: self.down.clone(),
            drain_at: self.drain_at_ms.map(ms),
            script: self.caller.iter().flat_map(StepFile::steps).collect(),
            ..WorldSettings::default()
        };
        if let Some(after) = self.still_there_after_ms {
            settings.still_there_after = Some(ms(after)).filter(|after| !after.is_zero());
        }
        if self.leg_never_up {
            settings.leg_up_after = None;
        } else if let Some(after) = self.leg_up_ms {
            settings.leg_up_after = Some(ms(after));
        }
        let limits = &mut settings.limits;
        for (given, limit) in [
            (self.limits.connect_within_ms, &mut limits.connect_within),
            (self.limits.no_media_ms, &mut limits.no_media),
            (self.limits.model_silence_ms, &mut limits.model_silence),
            (self.limits.max_call_ms, &mut limits.max_call),
        ] {
            *limit = given.map_or(*limit, ms);
        }
        let model = &mut settings.model;
        model.delay = self.model.delay_ms.map_or(model.delay, ms);
        model.repeat_last = self.model.repeat_last;
        if let Some(first) = self.model.first_delta_ms {
            model.server.latency.first_delta = ms(first);
        }
        if let Some(limit) = self.model.session_limit_ms {
            model.server.session_limit = ms(limit);
        }
        if let Some(length) = self.model.answer_ms {
            model.server.script = Script::tones(4, ms(length));
        }
        model.connections = self.model.connection.iter().map(ConnectionFile::connection).collect::<Result<_, _>>()?;
        for answer in &self.graph {
            let action = Action::parse(&answer.action).ok_or_else(|| format!("graph: no action {}", answer.action))?;
            settings.graph.push(GraphAnswer { action, after: ms(answer.after_ms), verdict: answer.verdict.verdict() });
        }
        Ok(settings)
    }

    /// Runs the scenario and says what did not hold; `seed` decides what the file leaves to chance.
    ///
    /// # Errors
    /// Every expectation that did not hold, the first one first.
    pub fn run(&self, start: Instant, seed: u64) -> Result<World, (Vec<Broken>, Option<Box<World>>)> {
        let file = |what: String| vec![Broken { place: Place::File, what }];
        let settings = self.settings().map_err(|what| (file(what), None))?;
        let settings = WorldSettings { seed, ..settings };
        let mut world = World::new(settings, start).map_err(|what| (file(what), None))?;
        let over = world.run(LONGEST);
        let mut broken = Vec::new();
        if !over {
            broken.extend(file("the call did not end within an hour".to_owned()));
        }
        self.expectations(&world, &mut broken);
        self.judge_end(&world, &mut broken);
        let most = self.dead_air_ms.map(ms);
        for breach in world.breaches() {
            if most.is_none_or(|most| world.dead_air() > most) || !breach.starts_with("dead air") {
                broken.push(Broken { place: Place::File, what: breach.clone() });
            }
        }
        if broken.is_empty() { Ok(world) } else { Err((broken, Some(Box::new(world)))) }
    }

    fn expectations(&self, world: &World, broken: &mut Vec<Broken>) {
        let mut from = (Duration::ZERO, 0);
        for (number, expect) in self.expect.iter().enumerate() {
            let (since, first) = from;
            let until = since + ms(expect.within_ms);
            let mut later = world.seen().iter().enumerate().skip(first);
            let found = later.find(|(_, seen)| seen.what == expect.see && seen.at >= since);
            let place = Place::Expect(number);
            match found.filter(|(_, seen)| seen.at <= until) {
                Some((_, seen)) if expect.absent => {
                    broken.push(Broken { place, what: format!("\"{}\" was seen at {:.2?}", expect.see, seen.at) });
                    return;
                }
                Some((index, seen)) => from = (seen.at, index + 1),
                None if expect.absent => {
                    let passed = world.seen().iter().position(|seen| seen.at > until);
                    from = (until, passed.unwrap_or_else(|| world.seen().len()));
                }
                None => {
                    let instead = found.map_or_else(|| "never".to_owned(), |(_, seen)| format!("at {:.2?}", seen.at));
                    let what = format!(
                        "\"{}\" was to be seen from {since:.2?} to {until:.2?} and was seen {instead}",
                        expect.see
                    );
                    broken.push(Broken { place, what });
                    return;
                }
            }
        }
    }

    fn judge_end(&self, world: &World, broken: &mut Vec<Broken>) {
        let mut say = |what: String| broken.push(Broken { place: Place::End, what });
        let Some(end) = world.end() else {
            return say("there is no end".to_owned());
        };
        let End { outcome, fault, text, at } = end;
        match (Outcome::parse(&self.end.outcome), Fault::parse(&self.end.fault)) {
            (Some(wanted), Some(whose)) if (wanted, whose) == (outcome, fault) => {}
            (None, _) => say(format!("there is no outcome {}", self.end.outcome)),
            (_, None) => say(format!("there is no fault {}", self.end.fault)),
            _ => say(format!("it ended as {} by {} at {at:.2?}", outcome.label(), fault.label())),
        }
        if text != self.end.text {
            say(format!("a text is {}owed", if text { "" } else { "not " }));
        }
        if self.end.within_ms.is_some_and(|within| at > ms(within)) {
            say(format!("it ended at {at:.2?}"));
        }
    }
}

impl StepFile {
    fn steps(&self) -> Vec<Step> {
        vec![match self {
            Self::Listen => Step::Listen,
            Self::PauseMs(length) => Step::Pause(ms(*length)),
            Self::SayMs(length) => Step::Say(ms(*length)),
            Self::BreakIn { after_ms, say_ms } => Step::BreakIn { after: ms(*after_ms), say: ms(*say_ms) },
            Self::Repeat { times, steps } => {
                let once: Vec<Step> = steps.iter().flat_map(Self::steps).collect();
                return once.repeat(usize::try_from(*times).unwrap_or_default());
            }
            Self::HangUp => Step::HangUp,
        }]
    }
}

impl Verdict {
    const fn verdict(self) -> DoorVerdict {
        match self {
            Self::Done => DoorVerdict::Done,
            Self::Unknown => DoorVerdict::Unknown,
            Self::SdpRefused => DoorVerdict::SdpRefused,
            Self::Refused => DoorVerdict::Refused,
            Self::Forbidden => DoorVerdict::Forbidden,
            Self::Ended => DoorVerdict::Ended,
        }
    }
}

impl ConnectionFile {
    fn connection(&self) -> Result<Connection, String> {
        let failed = |code: &String| BadResponse::Failed {
            kind: "server_error".to_owned(),
            code: code.clone(),
            message: "The emulator was told to fail here.".to_owned(),
        };
        let mut bad: Vec<_> = self.fails.iter().map(|(number, code)| (*number, failed(code))).collect();
        bad.extend(self.hangs.iter().map(|number| (*number, BadResponse::Hangs)));
        bad.extend(self.not_created.iter().map(|number| (*number, BadResponse::NoCreated)));
        Ok(Connection {
            refuse: self.refuse.map(|status| (status, self.refuse_code.clone().unwrap_or_default())),
            wrong_key: self.wrong_key,
            unreachable: self.unreachable,
            faults: self.fault.iter().map(FaultFile::fault).collect::<Result<_, _>>()?,
            bad_responses: bad,
            injects: self.inject.iter().map(InjectFile::inject).collect(),
            ..Connection::default()
        })
    }
}

impl FaultFile {
    fn fault(&self) -> Result<ModelFault, String> {
        let when = match (self.after_open_ms, self.at_response, self.at_delta) {
            (Some(after), None, None) => When::AfterOpen(ms(after)),
            (None, Some(number), None) => When::AtResponse(number),
            (None, None, Some(number)) => When::AtDelta(number),
            _ => return Err("a fault has one of after_open_ms, at_response and at_delta".to_owned()),
        };
        let trouble = match &self.trouble {
            TroubleFile::Close(code) => Trouble::Close { code: *code, reason: String::new() },
            TroubleFile::Abort => Trouble::Abort,
            TroubleFile::HalfOpen => Trouble::HalfOpen,
            TroubleFile::StallMs(length) => Trouble::Stall(ms(*length)),
            TroubleFile::Garbage => Trouble::Garbage,
            TroubleFile::Huge(bytes) => Trouble::Huge(*bytes),
            TroubleFile::Duplicate => Trouble::Duplicate,
            TroubleFile::Swap => Trouble::Swap,
            TroubleFile::OrphanDelta => Trouble::OrphanDelta,
            TroubleFile::Error(code) => Trouble::Error {
                kind: code.clone(),
                code: Some(code.clone()),
                message: "The emulator was told to say so.".to_owned(),
            },
        };
        Ok(ModelFault { when, trouble })
    }
}

impl InjectFile {
    fn inject(&self) -> Inject {
        Inject {
            at: ms(self.after_open_ms),
            event: self.event.clone(),
            audio_bytes: self.audio_bytes,
            times: self.times,
        }
    }
}
