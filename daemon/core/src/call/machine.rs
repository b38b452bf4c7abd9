//! The machine of one WhatsApp call: from the connect webhook to its single outcome.
//!
//! It decides, it performs nothing: effects come out of [`Call::handle`] at once and are carried out by the
//! call task. It knows no SDP, no audio and no socket; the conversation itself is [`crate::ai::session`].
//! Late and repeated inputs are normal and yield nothing; after the end nothing comes out.

use std::time::{Duration, Instant};

use super::milestones::{Milestone, Milestones};
use super::outcome::{Fault, Outcome, labels};

/// How much longer than `connect_within` an accepted caller may wait for the model (contract §7).
const MODEL_GRACE: Duration = Duration::from_secs(4);
/// How long media may take to prove an accept that Graph left in doubt (contract §7).
const ACCEPT_PROOF: Duration = Duration::from_secs(1);
/// How long before `max_call` the goodbye is spoken: a sentence and some air.
const GOODBYE_LEAD: Duration = Duration::from_secs(12);
/// Pauses before a broken session is opened again while the caller still rings.
const MODEL_RETRY: [Duration; 3] =
    [Duration::from_millis(150), Duration::from_millis(400), Duration::from_millis(1000)];

/// The limits that one call lives under.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the webhook to the accept.
    pub connect_within: Duration,
    /// Longest wait for media, at the start and later.
    pub no_media: Duration,
    /// Longest wait for an event that the model owes.
    pub model_silence: Duration,
    /// Length of the call, from the accept.
    pub max_call: Duration,
}

/// Something happened to the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The caller leg exists and its answer is known.
    LegAnswered,
    /// No leg could be made from the offer.
    LegRefused(Fault),
    /// ICE and DTLS are up.
    LegUp,
    /// The leg is lost for good (ICE failed, DTLS closed).
    LegLost,
    /// Media came from the caller since the last such input.
    MediaSeen,
    /// The peer said goodbye in RTCP.
    MediaBye,
    /// Graph answered, or did not.
    Graph(Action, GraphVerdict),
    /// The terminate webhook arrived; `failed` when Meta calls it a failure.
    Terminated {
        /// Meta's client or relay gave the call up.
        failed: bool,
    },
    /// The model's session is configured.
    ModelReady,
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
    /// What is asked of Graph.
    Action {
        /// `pre_accept`.
        PreAccept => "pre_accept",
        /// `accept`.
        Accept => "accept",
        /// `reject`.
        Reject => "reject",
        /// `terminate`.
        Terminate => "terminate",
    }
}

/// How Graph answered, after the retries that its error class allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphVerdict {
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
    /// The call is over on Meta's side.
    Ended,
}

/// What the call task has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Make the caller leg from the offer.
    OpenLeg,
    /// Open (or open again) the model's session.
    OpenModel,
    /// Ask Graph. The final `Reject` or `Terminate` comes right before [`Effect::End`].
    Graph(Action),
    /// Frames may go out from now on.
    OpenAudio,
    /// Have the goodbye spoken.
    SayGoodbye,
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
    /// An accepted caller waited long enough for the model.
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
}

/// The model's side as the machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Model {
    Opening { attempt: usize },
    Waiting { attempt: usize, until: Instant },
    Ready,
}

/// Where the call stands with Graph and the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The leg is being made; Graph knows nothing.
    Building,
    /// Pre-accept is on its way or done; the accept was not asked for.
    Ringing { pre_accepted: bool },
    /// The accept is on its way.
    Accepting { again: bool },
    /// Graph left the second accept in doubt; media decides.
    Doubtful { until: Instant },
    /// Both sides hear each other.
    Talking { since: Instant, goodbye_said: bool },
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
    leg_up: bool,
    media_seen: Instant,
    media_since_accept: bool,
    model_owes: Option<Instant>,
    milestones: Milestones,
}

impl Call {
    /// Starts a call whose webhook was read at `webhook_at`; the leg and the session are asked for at once.
    pub fn start(now: Instant, webhook_at: Instant, limits: Limits, out: &mut Vec<Effect>) -> Self {
        let mut call = Self {
            limits,
            began: webhook_at,
            phase: Phase::Building,
            model: Model::Opening { attempt: 0 },
            leg_up: false,
            media_seen: now,
            media_since_accept: false,
            model_owes: None,
            milestones: Milestones::default(),
        };
        call.milestones.reach(Milestone::WebhookReceived, webhook_at);
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
        match input {
            Input::LegAnswered => {
                if self.phase == Phase::Building {
                    self.phase = Phase::Ringing { pre_accepted: false };
                    out.push(Effect::Graph(Action::PreAccept));
                }
            }
            Input::LegRefused(fault) => self.give_up(Outcome::RefusedConfig, fault, out),
            Input::LegUp => {
                self.leg_up = true;
                self.media_seen = now;
                self.reach(Milestone::LegUp, now, out);
                self.bridge(now, out);
            }
            Input::LegLost => self.give_up(Outcome::NoMedia, Fault::Whatsapp, out),
            Input::MediaSeen => self.media_seen(now, out),
            Input::MediaBye => self.caller_gone(false, out),
            Input::Graph(action, verdict) => self.graph(now, action, verdict, out),
            Input::Terminated { failed } => self.caller_gone(failed, out),
            Input::ModelReady => {
                self.model = Model::Ready;
                self.reach(Milestone::ModelUp, now, out);
                self.bridge(now, out);
            }
            Input::ModelLost { refused } => self.model_lost(now, refused, out),
            Input::ModelOwes(since) => self.model_owes = since,
            Input::FirstAudio => self.reach(Milestone::ConversationStarted, now, out),
            Input::GoodbyePlayed => {
                if matches!(self.phase, Phase::Talking { goodbye_said: true, .. }) {
                    self.end_call(Outcome::Limit, Fault::None, false, out);
                }
            }
            Input::Drain => self.give_up(Outcome::Drained, Fault::Operator, out),
            Input::Broken => self.give_up(Outcome::Internal, Fault::Box, out),
            Input::HangUp => self.end_call(Outcome::Completed, Fault::Operator, false, out),
            Input::Timer => {
                if let Some((due, timer)) = self.deadline()
                    && due <= now
                {
                    self.timer(timer, out);
                }
            }
        }
    }

    /// The next deadline and what it is for; derived from the state alone.
    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, Timer)> {
        let retry = match self.model {
            Model::Waiting { until, .. } => Some((until, Timer::ModelRetry)),
            Model::Opening { .. } | Model::Ready => None,
        };
        let no_media_yet = Some((self.began + self.limits.no_media, Timer::NoMedia));
        let due = match self.phase {
            Phase::Ended => return None,
            Phase::Building => [no_media_yet, None, None, None],
            Phase::Ringing { .. } => {
                let connect = self.leg_up.then(|| (self.began + self.limits.connect_within, Timer::Connect));
                [no_media_yet, connect, None, None]
            }
            Phase::Accepting { .. } => [None; 4],
            Phase::Doubtful { until } => [Some((until, Timer::AcceptProof)), None, None, None],
            Phase::Talking { since, goodbye_said } => {
                let ready = self.model == Model::Ready;
                let lead = self.limits.max_call.saturating_sub(GOODBYE_LEAD);
                let model = if ready {
                    self.model_owes.map(|owed| (owed.max(since) + self.limits.model_silence, Timer::ModelSilence))
                } else {
                    Some((self.model_grace(since), Timer::ModelGrace))
                };
                [
                    Some((self.media_seen + self.limits.no_media, Timer::NoMedia)),
                    Some((since + self.limits.max_call, Timer::MaxCall)),
                    (ready && !goodbye_said).then(|| (since + lead, Timer::Goodbye)),
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

    /// Accepts as soon as both legs are there.
    fn bridge(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if !self.leg_up || self.model != Model::Ready {
            return;
        }
        self.reach(Milestone::BridgeActive, now, out);
        if self.phase == (Phase::Ringing { pre_accepted: true }) {
            self.accept(out);
        }
    }

    fn accept(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Accepting { again: false };
        out.push(Effect::Graph(Action::Accept));
    }

    fn graph(&mut self, now: Instant, action: Action, verdict: GraphVerdict, out: &mut Vec<Effect>) {
        match (action, self.phase) {
            (Action::PreAccept, Phase::Ringing { pre_accepted: false }) => match verdict {
                GraphVerdict::Done => {
                    self.phase = Phase::Ringing { pre_accepted: true };
                    self.bridge(now, out);
                }
                GraphVerdict::Ended => self.finish(Outcome::CallerLeftEarly, Fault::Caller, out),
                GraphVerdict::SdpRefused => self.give_up(Outcome::GraphFailed, Fault::Box, out),
                GraphVerdict::Forbidden => self.give_up(Outcome::GraphFailed, Fault::Operator, out),
                GraphVerdict::Unknown | GraphVerdict::Refused => {
                    self.give_up(Outcome::GraphFailed, Fault::Whatsapp, out);
                }
            },
            (Action::Accept, Phase::Accepting { again }) => match verdict {
                GraphVerdict::Done => self.talk(now, out),
                GraphVerdict::Ended => self.finish(Outcome::CallerLeftEarly, Fault::Caller, out),
                GraphVerdict::Unknown if !again => {
                    self.phase = Phase::Accepting { again: true };
                    out.push(Effect::Graph(Action::Accept));
                }
                GraphVerdict::Refused if again => {
                    if self.media_since_accept {
                        self.talk(now, out);
                    } else {
                        self.phase = Phase::Doubtful { until: now + ACCEPT_PROOF };
                    }
                }
                GraphVerdict::SdpRefused => self.give_up(Outcome::GraphFailed, Fault::Box, out),
                GraphVerdict::Forbidden => self.give_up(Outcome::GraphFailed, Fault::Operator, out),
                GraphVerdict::Unknown | GraphVerdict::Refused => {
                    self.give_up(Outcome::GraphFailed, Fault::Whatsapp, out);
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
            Phase::Building | Phase::Ringing { .. } | Phase::Talking { .. } | Phase::Ended => {}
        }
    }

    fn model_lost(&mut self, now: Instant, refused: bool, out: &mut Vec<Effect>) {
        if refused {
            self.give_up(Outcome::ModelRefused, Fault::Operator, out);
            return;
        }
        match self.model {
            Model::Opening { attempt } | Model::Waiting { attempt, .. } => match MODEL_RETRY.get(attempt) {
                Some(pause) => self.model = Model::Waiting { attempt: attempt + 1, until: now + *pause },
                None => self.give_up(Outcome::ModelFailed, Fault::Model, out),
            },
            Model::Ready => self.give_up(Outcome::ModelFailed, Fault::Model, out),
        }
    }

    fn caller_gone(&mut self, failed: bool, out: &mut Vec<Effect>) {
        let heard = self.milestones.has(Milestone::ConversationStarted);
        let (outcome, fault) = match (failed, heard) {
            (true, _) => (Outcome::NoMedia, Fault::Whatsapp),
            (false, true) => (Outcome::Completed, Fault::None),
            (false, false) => (Outcome::CallerLeftEarly, Fault::Caller),
        };
        self.finish(outcome, fault, out);
    }

    fn timer(&mut self, timer: Timer, out: &mut Vec<Effect>) {
        match timer {
            Timer::ModelRetry => {
                if let Model::Waiting { attempt, .. } = self.model {
                    self.model = Model::Opening { attempt };
                    out.push(Effect::OpenModel);
                }
            }
            // The leg is up (so Meta has our answer) and the model is not: the caller hears silence rather than
            // ringing on.
            Timer::Connect => self.accept(out),
            Timer::NoMedia => self.give_up(Outcome::NoMedia, Fault::Whatsapp, out),
            Timer::ModelGrace | Timer::ModelSilence => self.give_up(Outcome::ModelFailed, Fault::Model, out),
            Timer::AcceptProof => self.give_up(Outcome::GraphFailed, Fault::Whatsapp, out),
            Timer::Goodbye => {
                if let Phase::Talking { since, .. } = self.phase {
                    self.phase = Phase::Talking { since, goodbye_said: true };
                    out.push(Effect::SayGoodbye);
                }
            }
            Timer::MaxCall => self.end_call(Outcome::Limit, Fault::None, false, out),
        }
    }

    /// The caller could not be served, or not to the end: hang up in Graph's words and owe a text.
    fn give_up(&mut self, outcome: Outcome, fault: Fault, out: &mut Vec<Effect>) {
        self.end_call(outcome, fault, true, out);
    }

    fn end_call(&mut self, outcome: Outcome, fault: Fault, text: bool, out: &mut Vec<Effect>) {
        let action = match self.phase {
            Phase::Building | Phase::Ringing { .. } => Action::Reject,
            Phase::Accepting { .. } | Phase::Doubtful { .. } | Phase::Talking { .. } => Action::Terminate,
            Phase::Ended => return,
        };
        if text {
            out.push(Effect::OweText);
        }
        out.push(Effect::Graph(action));
        self.finish(outcome, fault, out);
    }

    /// Meta knows that it is over: nobody has to be told.
    fn finish(&mut self, outcome: Outcome, fault: Fault, out: &mut Vec<Effect>) {
        self.phase = Phase::Ended;
        out.push(Effect::End(outcome, fault));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        connect_within: Duration::from_secs(3),
        no_media: Duration::from_secs(20),
        model_silence: Duration::from_secs(10),
        max_call: Duration::from_secs(900),
    };

    /// One call in virtual time: sleeps exactly to the machine's deadline.
    struct World {
        call: Call,
        start: Instant,
        now: Instant,
        seen: Vec<Effect>,
    }

    impl World {
        #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
        fn new() -> Self {
            let start = Instant::now();
            let mut seen = Vec::new();
            let call = Call::start(start, start, LIMITS, &mut seen);
            Self { call, start, now: start, seen }
        }

        fn input(&mut self, input: Input) -> &mut Self {
            self.call.handle(self.now, input, &mut self.seen);
            self
        }

        /// Lets time pass up to `at` after the start, firing each deadline at its moment.
        fn until(&mut self, at: Duration) -> &mut Self {
            for _ in 0..1000 {
                match self.call.deadline() {
                    Some((due, _)) if due <= self.start + at => {
                        self.now = self.now.max(due);
                        self.input(Input::Timer);
                    }
                    _ => break,
                }
            }
            self.now = self.start + at;
            self
        }

        fn ringing() -> Self {
            let mut world = Self::new();
            world.input(Input::LegAnswered).input(Input::Graph(Action::PreAccept, GraphVerdict::Done));
            world
        }

        fn talking() -> Self {
            let mut world = Self::ringing();
            world.input(Input::LegUp).input(Input::ModelReady).input(Input::Graph(Action::Accept, GraphVerdict::Done));
            world
        }

        fn actions(&self) -> Vec<Action> {
            self.seen.iter().filter_map(|e| if let Effect::Graph(action) = e { Some(*action) } else { None }).collect()
        }

        fn outcome(&self) -> Option<(Outcome, Fault)> {
            let ends: Vec<_> = self
                .seen
                .iter()
                .filter_map(|e| if let Effect::End(outcome, fault) = e { Some((*outcome, *fault)) } else { None })
                .collect();
            assert!(ends.len() <= 1, "more than one outcome: {ends:?}");
            ends.first().copied()
        }

        fn owes_text(&self) -> bool {
            self.seen.contains(&Effect::OweText)
        }
    }

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_call_is_accepted_once_both_legs_are_up_and_audio_follows_the_accept() {
        let mut world = World::ringing();
        assert_eq!(world.actions(), [Action::PreAccept]);
        world.input(Input::LegUp);
        assert_eq!(world.actions(), [Action::PreAccept], "the model is not there yet");
        world.input(Input::ModelReady);
        assert_eq!(world.actions(), [Action::PreAccept, Action::Accept]);
        assert!(!world.seen.contains(&Effect::OpenAudio));
        world.input(Input::Graph(Action::Accept, GraphVerdict::Done));
        assert!(world.seen.contains(&Effect::OpenAudio));
        world.input(Input::FirstAudio).input(Input::Terminated { failed: false });
        assert_eq!(world.outcome(), Some((Outcome::Completed, Fault::None)));
        assert!(!world.owes_text());
    }

    #[test]
    fn milestones_stand_in_the_contracts_order_whatever_comes_first() {
        let mut world = World::new();
        world.input(Input::ModelReady).input(Input::LegAnswered).input(Input::LegUp);
        world.input(Input::Graph(Action::PreAccept, GraphVerdict::Done));
        world.input(Input::FirstAudio).input(Input::Graph(Action::Accept, GraphVerdict::Done));
        let order: Vec<_> =
            world.seen.iter().filter_map(|e| if let Effect::Milestone(m, _) = e { Some(*m) } else { None }).collect();
        assert_eq!(order, Milestone::ALL);
    }

    #[test]
    fn a_leg_without_a_model_is_accepted_at_connect_within_and_given_up_four_seconds_later() {
        let mut world = World::ringing();
        world.input(Input::LegUp).until(secs(3));
        assert_eq!(world.actions(), [Action::PreAccept, Action::Accept]);
        world.input(Input::Graph(Action::Accept, GraphVerdict::Done)).until(secs(6));
        assert_eq!(world.outcome(), None);
        world.until(secs(7));
        assert_eq!(world.outcome(), Some((Outcome::ModelFailed, Fault::Model)));
        assert_eq!(world.actions().last(), Some(&Action::Terminate));
        assert!(world.owes_text());
    }

    #[test]
    fn a_leg_that_never_comes_up_is_never_accepted_and_rejected_at_twenty_seconds() {
        let mut world = World::ringing();
        world.input(Input::ModelReady).until(secs(19));
        assert_eq!(world.outcome(), None);
        world.until(secs(20));
        assert_eq!(world.actions(), [Action::PreAccept, Action::Reject]);
        assert_eq!(world.outcome(), Some((Outcome::NoMedia, Fault::Whatsapp)));
        assert!(world.owes_text());
    }

    #[test]
    fn a_refused_key_rejects_at_once_with_a_text() {
        let mut world = World::ringing();
        world.input(Input::ModelLost { refused: true });
        assert_eq!(world.actions(), [Action::PreAccept, Action::Reject]);
        assert_eq!(world.outcome(), Some((Outcome::ModelRefused, Fault::Operator)));
        assert!(world.owes_text());
    }

    #[test]
    fn a_broken_session_is_opened_again_while_the_caller_rings_and_given_up_in_the_end() {
        let mut world = World::ringing();
        world.input(Input::ModelLost { refused: false }).until(Duration::from_millis(150));
        let opened = |world: &World| world.seen.iter().filter(|e| **e == Effect::OpenModel).count();
        assert_eq!(opened(&world), 2);
        world.input(Input::ModelReady).input(Input::LegUp);
        assert_eq!(world.actions(), [Action::PreAccept, Action::Accept]);

        let mut world = World::ringing();
        for step in 1..=3 {
            world.input(Input::ModelLost { refused: false }).until(secs(step));
        }
        assert_eq!(opened(&world), 4);
        world.input(Input::ModelLost { refused: false });
        assert_eq!(world.outcome(), Some((Outcome::ModelFailed, Fault::Model)));
    }

    #[test]
    fn an_accept_without_an_answer_is_tried_once_more_and_media_decides_a_400() {
        let doubtful = || {
            let mut world = World::ringing();
            world.input(Input::LegUp).input(Input::ModelReady);
            world.input(Input::Graph(Action::Accept, GraphVerdict::Unknown));
            world.input(Input::Graph(Action::Accept, GraphVerdict::Refused));
            world
        };
        let mut world = doubtful();
        assert_eq!(world.actions(), [Action::PreAccept, Action::Accept, Action::Accept]);
        world.input(Input::MediaSeen);
        assert!(world.seen.contains(&Effect::OpenAudio), "media within the second counts as accepted");

        let mut world = doubtful();
        world.until(secs(1));
        assert_eq!(world.actions().last(), Some(&Action::Terminate));
        assert_eq!(world.outcome(), Some((Outcome::GraphFailed, Fault::Whatsapp)));
    }

    #[test]
    fn a_first_400_to_the_accept_ends_the_call_with_a_text() {
        let mut world = World::ringing();
        world.input(Input::LegUp).input(Input::ModelReady);
        world.input(Input::Graph(Action::Accept, GraphVerdict::Refused));
        assert_eq!(world.outcome(), Some((Outcome::GraphFailed, Fault::Whatsapp)));
        assert!(world.owes_text());
    }

    #[test]
    fn a_caller_who_leaves_before_hearing_anything_left_early() {
        let mut world = World::ringing();
        world.input(Input::Terminated { failed: false });
        assert_eq!(world.outcome(), Some((Outcome::CallerLeftEarly, Fault::Caller)));
        assert_eq!(world.actions(), [Action::PreAccept], "Meta need not be told");
    }

    #[test]
    fn media_that_stops_ends_the_call_after_the_configured_silence() {
        let mut world = World::talking();
        world.until(secs(15)).input(Input::MediaSeen).until(secs(34));
        assert_eq!(world.outcome(), None);
        world.until(secs(35));
        assert_eq!(world.outcome(), Some((Outcome::NoMedia, Fault::Whatsapp)));
        assert_eq!(world.actions().last(), Some(&Action::Terminate));
    }

    #[test]
    fn a_model_that_owes_an_event_for_too_long_has_failed() {
        let mut world = World::talking();
        world.until(secs(5));
        let now = world.now;
        world.input(Input::MediaSeen).input(Input::ModelOwes(Some(now))).until(secs(14));
        assert_eq!(world.outcome(), None);
        world.until(secs(15));
        assert_eq!(world.outcome(), Some((Outcome::ModelFailed, Fault::Model)));
    }

    #[test]
    fn a_goodbye_is_spoken_before_the_limit_and_the_call_ends_when_it_was_played() {
        let mut world = World::talking();
        for second in (10..888).step_by(10) {
            world.until(secs(second)).input(Input::MediaSeen);
        }
        world.until(secs(888));
        assert!(world.seen.contains(&Effect::SayGoodbye));
        world.until(secs(891)).input(Input::GoodbyePlayed);
        assert_eq!(world.outcome(), Some((Outcome::Limit, Fault::None)));
        assert!(!world.owes_text());

        let mut world = World::talking();
        for second in (10..900).step_by(10) {
            world.until(secs(second)).input(Input::MediaSeen);
        }
        world.until(secs(900));
        assert_eq!(world.outcome(), Some((Outcome::Limit, Fault::None)), "the limit holds without a goodbye too");
    }

    #[test]
    fn nothing_comes_out_after_the_end() {
        let mut world = World::talking();
        world.input(Input::HangUp);
        let before = world.seen.len();
        for input in [
            Input::LegUp,
            Input::ModelReady,
            Input::Terminated { failed: true },
            Input::Graph(Action::Accept, GraphVerdict::Done),
            Input::Drain,
            Input::Timer,
            Input::LegLost,
        ] {
            world.input(input);
        }
        assert_eq!(world.seen.len(), before);
        assert_eq!(world.call.deadline(), None);
    }

    #[test]
    fn an_answer_that_meta_does_not_take_is_our_fault_and_a_dead_token_the_operators() {
        for (verdict, fault) in [
            (GraphVerdict::SdpRefused, Fault::Box),
            (GraphVerdict::Forbidden, Fault::Operator),
            (GraphVerdict::Unknown, Fault::Whatsapp),
        ] {
            let mut world = World::new();
            world.input(Input::LegAnswered).input(Input::Graph(Action::PreAccept, verdict));
            assert_eq!(world.outcome(), Some((Outcome::GraphFailed, fault)));
            assert!(world.owes_text());
        }
    }
}
