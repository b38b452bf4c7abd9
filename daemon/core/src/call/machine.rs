//! The machine of one call: from its offer (a webhook, an INVITE) to its single outcome, whichever door it came by.
//!
//! It decides, it performs nothing: effects come out of [`Call::handle`] at once and are carried out by the
//! call task. It knows no SDP, no audio and no socket; the conversation itself is [`crate::ai::session`].
//! Late and repeated inputs are normal and yield nothing; after the end nothing comes out.

use std::time::{Duration, Instant};

use super::clip::ClipName;
use super::milestones::{Milestone, Milestones};
use super::outcome::{Door, Fault, Outcome, labels};

/// How much longer than `connect_within` an accepted caller may wait for the model (contract §7).
const MODEL_GRACE: Duration = Duration::from_secs(4);
/// How long media may take to prove an accept that the door left in doubt (contract §7).
const ACCEPT_PROOF: Duration = Duration::from_secs(1);
/// How long before `max_call` the goodbye is spoken: a sentence and some air.
const GOODBYE_LEAD: Duration = Duration::from_secs(12);
/// Pauses before a broken session is opened again while the caller still rings.
const MODEL_RETRY: [Duration; 3] =
    [Duration::from_millis(150), Duration::from_millis(400), Duration::from_millis(1000)];
/// Pauses before a session that broke in mid-call is opened again; a quarter of each is spread over the calls, which
/// may all have lost it at once.
const MODEL_AGAIN: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(2000),
    Duration::from_millis(4000),
];
/// Longest time without a session in mid-call: the caller has heard four words of patience by then.
const MODEL_OUTAGE: Duration = Duration::from_secs(15);
/// A session that held this long has earned all attempts anew.
const MODEL_STEADY: Duration = Duration::from_secs(10);
/// Longest wait for an apology to be played: the longest clip, and what may stand before it.
const LEAVE_WITHIN: Duration = Duration::from_secs(12);

/// The limits that one call lives under.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How the call reached the box.
    pub door: Door,
    /// From the offer to the accept.
    pub connect_within: Duration,
    /// Longest wait for media, at the start and later.
    pub no_media: Duration,
    /// Longest wait for an event that the model owes.
    pub model_silence: Duration,
    /// Length of the call, from the accept.
    pub max_call: Duration,
    /// 0 to 999, another one for each call: what is tried again by many calls is spread by it.
    pub spread: u16,
}

/// Something happened to the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The caller leg exists and its answer is known.
    LegAnswered,
    /// No leg could be made from the offer.
    LegRefused(Fault),
    /// Media can pass: ICE and DTLS are up, or nothing had to be set up.
    LegUp,
    /// The leg is lost for good (ICE failed, DTLS closed).
    LegLost,
    /// Media came from the caller since the last such input.
    MediaSeen,
    /// The peer said goodbye in RTCP.
    MediaBye,
    /// The far side put the call on hold, or took it off.
    Held(bool),
    /// The door did what was asked, or did not.
    Door(Action, DoorVerdict),
    /// The far side ended the call.
    Terminated {
        /// Whose fault it was, where the far side calls that a failure: the media never came up, or broke.
        failure: Option<Fault>,
    },
    /// The model's session is configured.
    ModelReady,
    /// A person has taken the model's place: no session is wanted any more.
    ModelOut,
    /// The model's session is gone or was never had.
    ModelLost {
        /// Key, quota or account: trying again is useless.
        refused: bool,
    },
    /// Since when the model owes an event; `None` when it owes nothing.
    ModelOwes(Option<Instant>),
    /// The first frame of the AI is on the wire.
    FirstAudio,
    /// The goodbye was played to its end.
    GoodbyePlayed,
    /// The clip that was asked for was played to its end, or there is none.
    ClipOver,
    /// The conversation came to its end: somebody took leave, or nobody is there (the caller's fault).
    Concluded(Fault),
    /// Hang up now: the drain time is over.
    Drain,
    /// Hang up now: somebody on this box said so.
    HangUp,
    /// A bug of ours took the leg away.
    Broken,
    /// [`Call::deadline`] has come.
    Timer,
}

labels! {
    /// What is asked of the door. The words are Graph's.
    Action {
        /// Take the call in hand, without answering it: `pre_accept`; 180.
        PreAccept => "pre_accept",
        /// Answer it: `accept`; 200.
        Accept => "accept",
        /// Do not answer it: `reject`; a final refusal.
        Reject => "reject",
        /// Hang up: `terminate`; BYE.
        Terminate => "terminate",
    }
}

/// What became of it, after the retries that the door allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorVerdict {
    /// Done.
    Done,
    /// No answer in time: it may or may not have happened.
    Unknown,
    /// Refused because of our SDP.
    SdpRefused,
    /// Refused with 400 or another final code.
    Refused,
    /// The token is dead, or the number may not be used.
    Forbidden,
    /// The call is over on the far side.
    Ended,
}

/// What the call task has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Make the caller leg from the offer.
    OpenLeg,
    /// Open (or open again) the model's session.
    OpenModel,
    /// Ask the door. The final `Reject` or `Terminate` comes right before [`Effect::End`].
    Door(Action),
    /// Frames may go out from now on.
    OpenAudio,
    /// Give the model's connection up; it is of no use any more.
    CloseModel,
    /// Have the goodbye spoken.
    SayGoodbye,
    /// Play a recording; [`Input::ClipOver`] follows.
    Clip(ClipName),
    /// Write a milestone with its true time.
    Milestone(Milestone, Instant),
    /// Owe the caller the apology as a text message.
    OweText,
    /// The call is over: close both legs, write the outcome, give the permit back.
    End(Outcome, Fault),
}

/// Which deadline is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// `connect_within` is over.
    Connect,
    /// Media did not come, or stopped.
    NoMedia,
    /// A caller waited long enough for the model, at the beginning or in mid-call.
    ModelGrace,
    /// The model owes an event.
    ModelSilence,
    /// A broken session is opened again.
    ModelRetry,
    /// Media has to prove an accept.
    AcceptProof,
    /// Time to say goodbye.
    Goodbye,
    /// `max_call` is over.
    MaxCall,
    /// The apology was to be heard by now.
    Leave,
}

/// The model's side as the machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Model {
    Opening {
        attempt: usize,
    },
    Waiting {
        attempt: usize,
        until: Instant,
    },
    Ready {
        since: Instant,
        attempt: usize,
    },
    /// Nothing is tried any more.
    GivenUp,
    /// None is wanted: the caller speaks with a person.
    Out,
}

/// Where the call stands with the door and the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The leg is being made; the far side knows nothing.
    Building,
    /// Pre-accept is on its way or done; the accept was not asked for.
    Ringing { pre_accepted: bool },
    /// The accept is on its way.
    Accepting { again: bool },
    /// The second accept is in doubt; media decides.
    Doubtful { until: Instant },
    /// Both sides hear each other.
    Talking { since: Instant, goodbye_said: bool },
    /// The call cannot go on: the caller is told, then it ends so.
    Leaving { outcome: Outcome, fault: Fault, until: Instant },
    /// Nothing comes out any more.
    Ended,
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    limits: Limits,
    began: Instant,
    phase: Phase,
    model: Model,
    /// Since when the conversation has been without a session.
    lost: Option<Instant>,
    leg_up: bool,
    held: bool,
    media_seen: Instant,
    media_since_accept: bool,
    model_owes: Option<Instant>,
    milestones: Milestones,
}

impl Call {
    /// Starts a call whose offer was read at `offered_at`; the leg and the session are asked for at once.
    pub fn start(now: Instant, offered_at: Instant, limits: Limits, out: &mut Vec<Effect>) -> Self {
        let mut call = Self {
            limits,
            began: offered_at,
            phase: Phase::Building,
            model: Model::Opening { attempt: 0 },
            lost: None,
            leg_up: false,
            held: false,
            media_seen: now,
            media_since_accept: false,
            model_owes: None,
            milestones: Milestones::default(),
        };
        call.milestones.reach(Milestone::WebhookReceived, offered_at);
        call.reach(Milestone::CallConnect, now, out);
        out.push(Effect::OpenLeg);
        out.push(Effect::OpenModel);
        call.reach(Milestone::BridgeRequested, now, out);
        call
    }

    /// True once the outcome was given.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Takes one input and hands out what follows from it.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Vec<Effect>) {
        if self.is_ended() {
            return;
        }
        if let Phase::Leaving { outcome, fault, .. } = self.phase {
            self.leaving(now, input, outcome, fault, out);
            return;
        }
        match input {
            Input::LegAnswered => {
                if self.phase == Phase::Building {
                    self.phase = Phase::Ringing { pre_accepted: false };
                    out.push(Effect::Door(Action::PreAccept));
                }
            }
            Input::LegRefused(fault) => self.give_up(now, Outcome::RefusedConfig, fault, out),
            Input::LegUp => {
                self.leg_up = true;
                self.media_seen = now;
                self.reach(Milestone::LegUp, now, out);
                self.bridge(now, out);
            }
            Input::LegLost => self.give_up(now, Outcome::NoMedia, self.far_side(), out),
            Input::MediaSeen => self.media_seen(now, out),
            Input::MediaBye => {
                if self.limits.door.ends_with_media() {
                    self.caller_gone(None, out);
                }
            }
            Input::Held(held) => {
                self.held = held;
                // Silence is counted from the end of the hold.
                self.media_seen = now;
            }
            Input::Door(action, verdict) => self.door(now, action, verdict, out),
            Input::Terminated { failure } => self.caller_gone(failure, out),
            Input::ModelReady => {
                let attempt = match self.model {
                    Model::Opening { attempt } | Model::Waiting { attempt, .. } => attempt,
                    Model::Ready { attempt, .. } => attempt,
                    Model::GivenUp | Model::Out => return,
                };
                self.model = Model::Ready { since: now, attempt };
                self.lost = None;
                self.model_owes = None;
                self.reach(Milestone::ModelUp, now, out);
                self.bridge(now, out);
            }
            Input::ModelLost { .. } if self.model == Model::Out => {}
            Input::ModelLost { refused } => self.model_lost(now, refused, out),
            Input::ModelOut => {
                if matches!(self.phase, Phase::Talking { .. }) {
                    (self.model, self.lost, self.model_owes) = (Model::Out, None, None);
                }
            }
            Input::ModelOwes(since) => self.model_owes = since,
            Input::FirstAudio => self.reach(Milestone::ConversationStarted, now, out),
            Input::GoodbyePlayed => {
                if matches!(self.phase, Phase::Talking { goodbye_said: true, .. }) {
                    self.end_call(Outcome::Limit, Fault::None, false, out);
                }
            }
            Input::ClipOver => {}
            Input::Concluded(fault) => self.end_call(Outcome::Completed, fault, false, out),
            Input::Drain => self.give_up(now, Outcome::Drained, Fault::Operator, out),
            Input::Broken => self.give_up(now, Outcome::Internal, Fault::Box, out),
            Input::HangUp => self.end_call(Outcome::Completed, Fault::Operator, false, out),
            Input::Timer => {
                if let Some((due, timer)) = self.deadline()
                    && due <= now
                {
                    self.timer(now, timer, out);
                }
            }
        }
    }

    /// The next deadline and what it is for; derived from the state alone.
    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, Timer)> {
        let retry = match self.model {
            Model::Waiting { until, .. } => Some((until, Timer::ModelRetry)),
            Model::Opening { .. } | Model::Ready { .. } | Model::GivenUp | Model::Out => None,
        };
        let no_media_yet = Some((self.began + self.limits.no_media, Timer::NoMedia));
        let due = match self.phase {
            Phase::Ended => return None,
            Phase::Building => [no_media_yet, None, None, None],
            Phase::Ringing { .. } => {
                let connect = self.may_answer().then(|| (self.began + self.limits.connect_within, Timer::Connect));
                [no_media_yet, connect, None, None]
            }
            Phase::Accepting { .. } => [None; 4],
            Phase::Doubtful { until } => [Some((until, Timer::AcceptProof)), None, None, None],
            Phase::Leaving { until, .. } => [Some((until, Timer::Leave)), None, None, None],
            Phase::Talking { since, goodbye_said } => {
                let ready = matches!(self.model, Model::Ready { .. });
                let lead = self.limits.max_call.saturating_sub(GOODBYE_LEAD);
                let model = if ready {
                    self.model_owes.map(|owed| (owed.max(since) + self.limits.model_silence, Timer::ModelSilence))
                } else if self.model == Model::Out {
                    None
                } else {
                    let patience = self.lost.map_or_else(|| self.model_grace(since), |lost| lost + MODEL_OUTAGE);
                    Some((patience, Timer::ModelGrace))
                };
                [
                    (!self.held).then(|| (self.media_seen + self.limits.no_media, Timer::NoMedia)),
                    Some((since + self.limits.max_call, Timer::MaxCall)),
                    (!goodbye_said && !matches!(self.model, Model::Out)).then(|| (since + lead, Timer::Goodbye)),
                    model,
                ]
            }
        };
        due.into_iter().chain([retry]).flatten().min_by_key(|(at, _)| *at)
    }

    fn model_grace(&self, accepted: Instant) -> Instant {
        (self.began + self.limits.connect_within).max(accepted) + MODEL_GRACE
    }

    fn reach(&mut self, milestone: Milestone, at: Instant, out: &mut Vec<Effect>) {
        self.milestones.reach(milestone, at);
        while let Some((milestone, at)) = self.milestones.release() {
            out.push(Effect::Milestone(milestone, at));
        }
    }

    const fn far_side(&self) -> Fault {
        self.limits.door.far_side()
    }

    /// True when nothing but the model is waited for.
    const fn may_answer(&self) -> bool {
        self.leg_up || (self.limits.door.media_follows_answer() && !matches!(self.phase, Phase::Building))
    }

    /// Accepts as soon as both legs are there.
    fn bridge(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if !self.may_answer() || !matches!(self.model, Model::Ready { .. }) {
            return;
        }
        self.reach(Milestone::BridgeActive, now, out);
        if self.phase == (Phase::Ringing { pre_accepted: true }) {
            self.accept(out);
        }
    }

    fn accept(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Accepting { again: false };
        out.push(Effect::Door(Action::Accept));
    }

    fn door(&mut self, now: Instant, action: Action, verdict: DoorVerdict, out: &mut Vec<Effect>) {
        let unanswered = self.limits.door.unanswered();
        match (action, self.phase) {
            (Action::PreAccept, Phase::Ringing { pre_accepted: false }) => match verdict {
                DoorVerdict::Done => {
                    self.phase = Phase::Ringing { pre_accepted: true };
                    self.bridge(now, out);
                }
                DoorVerdict::Ended => self.finish(Outcome::CallerLeftEarly, Fault::Caller, out),
                DoorVerdict::SdpRefused => self.give_up(now, unanswered, Fault::Box, out),
                DoorVerdict::Forbidden => self.give_up(now, unanswered, Fault::Operator, out),
                DoorVerdict::Unknown | DoorVerdict::Refused => {
                    self.give_up(now, unanswered, self.far_side(), out);
                }
            },
            (Action::Accept, Phase::Accepting { again }) => match verdict {
                DoorVerdict::Done => self.talk(now, out),
                DoorVerdict::Ended => self.finish(Outcome::CallerLeftEarly, Fault::Caller, out),
                DoorVerdict::Unknown if !again => {
                    self.phase = Phase::Accepting { again: true };
                    out.push(Effect::Door(Action::Accept));
                }
                DoorVerdict::Refused if again => {
                    if self.media_since_accept {
                        self.talk(now, out);
                    } else {
                        self.phase = Phase::Doubtful { until: now + ACCEPT_PROOF };
                    }
                }
                DoorVerdict::SdpRefused => self.give_up(now, unanswered, Fault::Box, out),
                DoorVerdict::Forbidden => self.give_up(now, unanswered, Fault::Operator, out),
                DoorVerdict::Unknown | DoorVerdict::Refused => {
                    self.give_up(now, unanswered, self.far_side(), out);
                }
            },
            _ => {}
        }
    }

    fn talk(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.phase = Phase::Talking { since: now, goodbye_said: false };
        self.media_seen = now;
        out.push(Effect::OpenAudio);
        self.reach(Milestone::Accepted, now, out);
    }

    fn media_seen(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.media_seen = now;
        match self.phase {
            Phase::Accepting { .. } => self.media_since_accept = true,
            Phase::Doubtful { .. } => self.talk(now, out),
            Phase::Building | Phase::Ringing { .. } | Phase::Talking { .. } | Phase::Leaving { .. } | Phase::Ended => {}
        }
    }

    fn model_lost(&mut self, now: Instant, refused: bool, out: &mut Vec<Effect>) {
        if refused {
            self.give_up(now, Outcome::ModelRefused, Fault::Operator, out);
            return;
        }
        let talking = matches!(self.phase, Phase::Talking { .. });
        let attempt = match self.model {
            Model::Opening { attempt } => attempt,
            Model::Ready { since, attempt } => {
                let steady = now.saturating_duration_since(since) >= MODEL_STEADY;
                if steady { 0 } else { attempt }
            }
            // There is no session that could be lost.
            Model::Waiting { .. } | Model::GivenUp | Model::Out => return,
        };
        if talking && matches!(self.model, Model::Ready { .. }) {
            self.lost = Some(now);
        }
        match self.pauses().get(attempt) {
            Some(pause) => self.model = Model::Waiting { attempt: attempt + 1, until: now + self.spread(*pause) },
            None => self.give_up(now, Outcome::ModelFailed, Fault::Model, out),
        }
    }

    /// The pauses between attempts to open a session; there are as many attempts.
    const fn pauses(&self) -> &'static [Duration] {
        match self.phase {
            Phase::Talking { .. } => &MODEL_AGAIN,
            _ => &MODEL_RETRY,
        }
    }

    /// Between three quarters of `pause` and the whole of it.
    fn spread(&self, pause: Duration) -> Duration {
        pause - pause / 4 * u32::from(self.limits.spread.min(999)) / 1000
    }

    /// The apology is being played; whatever else happens, the outcome stands.
    fn leaving(&mut self, now: Instant, input: Input, outcome: Outcome, fault: Fault, out: &mut Vec<Effect>) {
        match input {
            Input::ClipOver | Input::Drain | Input::HangUp | Input::Broken | Input::LegLost => {
                self.end_call(outcome, fault, true, out);
            }
            Input::Timer if self.deadline().is_some_and(|(due, _)| due <= now) => {
                self.end_call(outcome, fault, true, out);
            }
            Input::Terminated { .. } | Input::MediaBye => {
                out.push(Effect::OweText);
                self.finish(outcome, fault, out);
            }
            _ => {}
        }
    }

    fn caller_gone(&mut self, failure: Option<Fault>, out: &mut Vec<Effect>) {
        let heard = self.milestones.has(Milestone::ConversationStarted);
        let (outcome, fault) = match (failure, heard) {
            (Some(fault), _) => (Outcome::NoMedia, fault),
            (None, true) => (Outcome::Completed, Fault::None),
            (None, false) => (Outcome::CallerLeftEarly, Fault::Caller),
        };
        self.finish(outcome, fault, out);
    }

    fn timer(&mut self, now: Instant, timer: Timer, out: &mut Vec<Effect>) {
        match timer {
            Timer::ModelRetry => {
                if let Model::Waiting { attempt, .. } = self.model {
                    self.model = Model::Opening { attempt };
                    out.push(Effect::OpenModel);
                }
            }
            // Nothing but the model is missing: the caller hears silence rather than ringing on.
            Timer::Connect => self.accept(out),
            Timer::NoMedia => self.give_up(now, Outcome::NoMedia, self.far_side(), out),
            Timer::ModelGrace => self.give_up(now, Outcome::ModelFailed, Fault::Model, out),
            Timer::ModelSilence => {
                out.push(Effect::CloseModel);
                self.model_lost(now, false, out);
            }
            Timer::Leave => {}
            Timer::AcceptProof => self.give_up(now, self.limits.door.unanswered(), self.far_side(), out),
            Timer::Goodbye => {
                if let Phase::Talking { since, .. } = self.phase {
                    self.phase = Phase::Talking { since, goodbye_said: true };
                    // The model in its own voice; where it is away just then, the box.
                    let ready = matches!(self.model, Model::Ready { .. });
                    out.push(if ready { Effect::SayGoodbye } else { Effect::Clip(ClipName::Goodbye) });
                }
            }
            Timer::MaxCall => self.end_call(Outcome::Limit, Fault::None, false, out),
        }
    }

    /// The caller could not be served, or not to the end: hang up in the door's words and owe a text.
    ///
    /// A caller who is on the line hears why, as long as the line is not what broke.
    fn give_up(&mut self, now: Instant, outcome: Outcome, fault: Fault, out: &mut Vec<Effect>) {
        let heard = matches!(outcome, Outcome::ModelFailed | Outcome::ModelRefused);
        if heard && matches!(self.phase, Phase::Talking { .. }) {
            self.model = Model::GivenUp;
            self.phase = Phase::Leaving { outcome, fault, until: now + LEAVE_WITHIN };
            out.push(Effect::CloseModel);
            out.push(Effect::Clip(ClipName::Apology));
            return;
        }
        self.end_call(outcome, fault, true, out);
    }

    fn end_call(&mut self, outcome: Outcome, fault: Fault, text: bool, out: &mut Vec<Effect>) {
        let action = match self.phase {
            Phase::Building | Phase::Ringing { .. } => Action::Reject,
            Phase::Accepting { .. } | Phase::Doubtful { .. } | Phase::Talking { .. } | Phase::Leaving { .. } => {
                Action::Terminate
            }
            Phase::Ended => return,
        };
        if text {
            out.push(Effect::OweText);
        }
        out.push(Effect::Door(action));
        self.finish(outcome, fault, out);
    }

    /// The far side knows that it is over: nobody has to be told.
    fn finish(&mut self, outcome: Outcome, fault: Fault, out: &mut Vec<Effect>) {
        self.phase = Phase::Ended;
        out.push(Effect::End(outcome, fault));
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
