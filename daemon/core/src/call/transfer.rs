//! The machine of handing a caller to a person: from the moment at which she may be handed on to the one result.
//!
//! It decides and performs nothing: the call task sends the REFER, calls the person, joins the legs. The call itself, its
//! end and its outcome are [`super::machine`]'s; a caller who hangs up ends that machine, whatever stands here.
//! The caller's leg is kept until the far end has said for good that it serves her (peers §3, bug 77): 202 is a promise.

use std::time::{Duration, Instant};

use super::outcome::labels;

/// How long a far end may take to answer a REFER; the dialog gives it up after 10 s.
const ASK_WITHIN: Duration = Duration::from_secs(12);
/// How much longer than the person's telephone rings the news of a REFER may take.
const NEWS_AFTER: Duration = Duration::from_secs(5);
/// How long a person whose leg was taken over may be gone before the far end says that it was.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

labels! {
    /// How a caller gets to a person.
    Way {
        /// The caller's own trunk is asked to call on (RFC 3515); where it does not, as [`Way::Bridge`].
        Refer => "refer",
        /// The two are joined here; then the trunk is asked to join them without us (RFC 3891).
        Attended => "attended",
        /// The two are joined here until one of them hangs up.
        Bridge => "bridge",
    }
}

labels! {
    /// Why the caller was not handed on: the AI has her back.
    Miss {
        /// The person's telephone rang in vain.
        NobodyAnswered => "nobody_answered",
        /// The person speaks already, or declined.
        Busy => "busy",
        /// There is no way to the person: the trunk is down, the number is wrong, no media could be agreed on.
        Unreachable => "unreachable",
    }
}

impl Miss {
    /// What a refusal of a call means for whoever waits for it (RFC 3261 §21).
    const fn of(code: u16) -> Self {
        match code {
            486 | 600 | 603 => Self::Busy,
            408 | 480 | 487 => Self::NobodyAnswered,
            _ => Self::Unreachable,
        }
    }

    /// What the model is told.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::NobodyAnswered => "Nobody answered.",
            Self::Busy => "The person is busy.",
            Self::Unreachable => "The person cannot be reached at the moment.",
        }
    }
}

/// What became of a REFER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// 202: news of it will come.
    Taken,
    /// The far end does not do it, or nothing came.
    Not,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The REFER was answered, or not.
    Asked(Asked),
    /// News of the call that it asked for (RFC 3515 §2.4.5).
    News {
        /// Its status.
        code: u16,
        /// No other will come.
        is_final: bool,
    },
    /// The person's telephone rings.
    Rings,
    /// The person answered, and media was agreed on.
    Answered,
    /// The call to the person was refused.
    Refused {
        /// With which status.
        code: u16,
    },
    /// It could not be made, or broke before the person answered.
    Unreachable,
    /// The person hung up, or that leg is lost.
    PersonGone,
    /// [`Transfer::deadline`] has come.
    Timer,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Let the caller hear music, or no more.
    Music(bool),
    /// Ask the caller's far end to call the person.
    Refer,
    /// Call the person.
    CallPerson,
    /// Each hears the other from now on; the model is let go.
    Join,
    /// Ask the caller's far end to take our place in the call to the person.
    ReferAttended,
    /// Hang up on the person, or stop ringing.
    LetPersonGo,
    /// The model has the caller back.
    Back(Miss),
    /// The caller is served, or the person has gone: end the call.
    Done,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The REFER is on its way.
    Asking { until: Instant },
    /// It was taken: the far end calls the person.
    Promised { until: Instant },
    /// We call the person.
    Calling { until: Instant },
    /// They speak; `asked` while the far end may take our place.
    Joined { asked: bool },
    /// The person's leg ended while the far end was to take it over.
    Taken { until: Instant },
    /// Nothing comes out any more.
    Over,
}

/// One attempt to hand a caller on.
#[derive(Debug, Clone)]
pub struct Transfer {
    way: Way,
    answer_within: Duration,
    phase: Phase,
}

impl Transfer {
    /// Begins. `answer_within` is how long the person's telephone may ring.
    pub fn start(now: Instant, way: Way, answer_within: Duration, out: &mut Vec<Effect>) -> Self {
        let mut transfer = Self { way, answer_within, phase: Phase::Over };
        out.push(Effect::Music(true));
        if way == Way::Refer {
            transfer.phase = Phase::Asking { until: now + ASK_WITHIN };
            out.push(Effect::Refer);
        } else {
            transfer.call(now, out);
        }
        transfer
    }

    /// True while neither the model nor a person hears the caller.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Asking { .. } | Phase::Promised { .. } | Phase::Calling { .. })
    }

    /// True while caller and person hear each other through the box.
    #[must_use]
    pub const fn is_joined(&self) -> bool {
        matches!(self.phase, Phase::Joined { .. })
    }

    /// True once its result was given.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// When [`Input::Timer`] is due.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Asking { until } | Phase::Promised { until } | Phase::Calling { until } | Phase::Taken { until } => {
                Some(until)
            }
            Phase::Joined { .. } | Phase::Over => None,
        }
    }

    /// Takes one input and hands out what follows from it. What comes late or twice yields nothing.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Vec<Effect>) {
        match (self.phase, input) {
            (Phase::Asking { .. }, Input::Asked(Asked::Taken)) => {
                self.phase = Phase::Promised { until: now + self.answer_within + NEWS_AFTER };
            }
            // News may overtake the 202 (RFC 6665 §4.1.2.2).
            (Phase::Asking { .. } | Phase::Promised { .. }, Input::News { code, is_final: true }) => {
                self.news(now, code, out);
            }
            (Phase::Asking { .. }, Input::Asked(Asked::Not)) => self.call(now, out),
            (Phase::Calling { .. }, Input::Answered) => {
                out.push(Effect::Music(false));
                out.push(Effect::Join);
                let asked = self.way == Way::Attended;
                if asked {
                    out.push(Effect::ReferAttended);
                }
                self.phase = Phase::Joined { asked };
            }
            (Phase::Calling { .. }, Input::Refused { code }) => self.back(Miss::of(code), out),
            (Phase::Calling { .. }, Input::Unreachable | Input::PersonGone) => self.back(Miss::Unreachable, out),
            (Phase::Joined { asked: true }, Input::News { code, is_final: true }) => {
                if (200..300).contains(&code) {
                    self.done(out);
                } else {
                    self.phase = Phase::Joined { asked: false };
                }
            }
            (Phase::Joined { asked: true }, Input::Asked(Asked::Not)) => self.phase = Phase::Joined { asked: false },
            (Phase::Joined { asked: true }, Input::PersonGone) => {
                self.phase = Phase::Taken { until: now + TAKEN_WITHIN };
            }
            (Phase::Joined { asked: false }, Input::PersonGone)
            | (Phase::Taken { .. }, Input::News { is_final: true, .. }) => {
                self.done(out);
            }
            (_, Input::Timer) if self.deadline().is_some_and(|due| due <= now) => self.timer(now, out),
            _ => {}
        }
    }

    /// The last news of a REFER.
    fn news(&mut self, now: Instant, code: u16, out: &mut Vec<Effect>) {
        match code {
            // It has stopped telling, and not said how it ended: what is known now is that the caller is still here.
            ..200 => {}
            200..300 => self.done(out),
            _ => match Miss::of(code) {
                // The far end may not call there; we may.
                Miss::Unreachable => self.call(now, out),
                miss => self.back(miss, out),
            },
        }
    }

    fn timer(&mut self, now: Instant, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Asking { .. } | Phase::Promised { .. } => self.call(now, out),
            Phase::Calling { .. } => {
                out.push(Effect::LetPersonGo);
                self.back(Miss::NobodyAnswered, out);
            }
            Phase::Taken { .. } => self.done(out),
            Phase::Joined { .. } | Phase::Over => {}
        }
    }

    fn call(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.phase = Phase::Calling { until: now + self.answer_within };
        out.push(Effect::CallPerson);
    }

    fn back(&mut self, miss: Miss, out: &mut Vec<Effect>) {
        self.phase = Phase::Over;
        out.push(Effect::Music(false));
        out.push(Effect::Back(miss));
    }

    fn done(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Over;
        out.push(Effect::LetPersonGo);
        out.push(Effect::Done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: Duration = Duration::from_secs(30);

    struct Scene {
        now: Instant,
        transfer: Transfer,
    }

    impl Scene {
        #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
        fn start(way: Way) -> (Self, Vec<Effect>) {
            let (now, mut out) = (Instant::now(), Vec::new());
            let transfer = Transfer::start(now, way, RING, &mut out);
            (Self { now, transfer }, out)
        }

        fn take(&mut self, input: Input) -> Vec<Effect> {
            let mut out = Vec::new();
            self.transfer.handle(self.now, input, &mut out);
            out
        }

        /// Jumps to the deadline.
        fn expire(&mut self) -> Vec<Effect> {
            self.now = self.transfer.deadline().expect("something is waited for");
            self.take(Input::Timer)
        }
    }

    const fn news(code: u16) -> Input {
        Input::News { code, is_final: code >= 200 }
    }

    #[test]
    fn a_refer_is_done_when_the_far_end_says_so_and_not_when_it_promises() {
        let (mut scene, begun) = Scene::start(Way::Refer);
        assert_eq!(begun, [Effect::Music(true), Effect::Refer]);
        assert_eq!(scene.take(Input::Asked(Asked::Taken)), [], "a promise");
        for code in [100, 180, 183] {
            assert_eq!(scene.take(news(code)), []);
        }
        assert!(scene.transfer.is_waiting());
        assert_eq!(scene.take(news(200)), [Effect::LetPersonGo, Effect::Done]);
        assert!(scene.transfer.is_over());
        assert_eq!(scene.take(news(200)), [], "said once");
    }

    #[test]
    fn a_far_end_that_does_not_refer_makes_us_call_the_person() {
        let (mut refused, _) = Scene::start(Way::Refer);
        assert_eq!(refused.take(Input::Asked(Asked::Not)), [Effect::CallPerson]);
        let (mut silent, _) = Scene::start(Way::Refer);
        assert_eq!(silent.expire(), [Effect::CallPerson], "nothing came");
        let (mut forgetful, _) = Scene::start(Way::Refer);
        forgetful.take(Input::Asked(Asked::Taken));
        assert_eq!(forgetful.take(Input::News { code: 100, is_final: true }), [], "it tells no more");
        assert_eq!(forgetful.expire(), [Effect::CallPerson]);
        let (mut barred, _) = Scene::start(Way::Refer);
        barred.take(Input::Asked(Asked::Taken));
        assert_eq!(barred.take(news(403)), [Effect::CallPerson]);
    }

    #[test]
    fn news_that_overtake_the_202_count() {
        let (mut scene, _) = Scene::start(Way::Refer);
        assert_eq!(scene.take(news(200)), [Effect::LetPersonGo, Effect::Done]);
        assert_eq!(scene.take(Input::Asked(Asked::Taken)), []);
    }

    #[test]
    fn who_is_busy_or_does_not_answer_gives_the_caller_back() {
        for (code, miss) in [(486, Miss::Busy), (603, Miss::Busy), (480, Miss::NobodyAnswered)] {
            let (mut referred, _) = Scene::start(Way::Refer);
            referred.take(Input::Asked(Asked::Taken));
            assert_eq!(referred.take(news(code)), [Effect::Music(false), Effect::Back(miss)]);
            let (mut called, begun) = Scene::start(Way::Bridge);
            assert_eq!(begun, [Effect::Music(true), Effect::CallPerson]);
            assert_eq!(called.take(Input::Refused { code }), [Effect::Music(false), Effect::Back(miss)]);
        }
        let (mut vain, _) = Scene::start(Way::Bridge);
        assert_eq!(vain.take(Input::Rings), []);
        let over = [Effect::LetPersonGo, Effect::Music(false), Effect::Back(Miss::NobodyAnswered)];
        assert_eq!(vain.expire(), over);
        assert_eq!(vain.take(Input::Answered), [], "an answer that crosses the CANCEL joins nobody");
        let (mut down, _) = Scene::start(Way::Bridge);
        assert_eq!(down.take(Input::Unreachable), [Effect::Music(false), Effect::Back(Miss::Unreachable)]);
    }

    #[test]
    fn a_bridge_lasts_until_the_person_goes() {
        let (mut scene, _) = Scene::start(Way::Bridge);
        assert_eq!(scene.take(Input::Answered), [Effect::Music(false), Effect::Join]);
        assert!(scene.transfer.is_joined() && scene.transfer.deadline().is_none());
        assert_eq!(scene.take(news(200)), [], "nobody asked");
        assert_eq!(scene.take(Input::PersonGone), [Effect::LetPersonGo, Effect::Done]);
    }

    #[test]
    fn an_attended_transfer_speaks_at_once_and_leaves_when_the_far_end_has_both() {
        let joined = [Effect::Music(false), Effect::Join, Effect::ReferAttended];
        let (mut scene, _) = Scene::start(Way::Attended);
        assert_eq!(scene.take(Input::Answered), joined);
        scene.take(Input::Asked(Asked::Taken));
        assert_eq!(scene.take(news(180)), []);
        assert_eq!(scene.take(news(200)), [Effect::LetPersonGo, Effect::Done]);

        let (mut refused, _) = Scene::start(Way::Attended);
        refused.take(Input::Answered);
        refused.take(Input::Asked(Asked::Not));
        assert!(refused.transfer.is_joined(), "a far end that cannot leaves them joined here");
        assert_eq!(refused.take(Input::PersonGone), [Effect::LetPersonGo, Effect::Done]);

        // The new call ends the old one (RFC 3891 §3) before the far end tells.
        let (mut replaced, _) = Scene::start(Way::Attended);
        replaced.take(Input::Answered);
        replaced.take(Input::Asked(Asked::Taken));
        assert_eq!(replaced.take(Input::PersonGone), [], "taken over, or hung up: the news says which");
        assert_eq!(replaced.take(news(200)), [Effect::LetPersonGo, Effect::Done]);
        let (mut left, _) = Scene::start(Way::Attended);
        left.take(Input::Answered);
        left.take(Input::PersonGone);
        assert_eq!(left.expire(), [Effect::LetPersonGo, Effect::Done], "a caller is not left alone for ever");
    }

    #[test]
    fn whatever_comes_in_whichever_order_there_is_one_result() {
        let inputs = [
            Input::Asked(Asked::Taken),
            Input::Asked(Asked::Not),
            news(100),
            news(200),
            news(486),
            news(503),
            Input::Rings,
            Input::Answered,
            Input::Refused { code: 486 },
            Input::Unreachable,
            Input::PersonGone,
            Input::Timer,
        ];
        // All sequences of four, from each beginning.
        for way in Way::ALL {
            for number in 0..inputs.len().pow(4) {
                let (mut scene, _) = Scene::start(*way);
                let mut results = 0;
                for place in 0..4 {
                    let input = inputs[number / inputs.len().pow(place) % inputs.len()];
                    let out = if input == Input::Timer {
                        scene.transfer.deadline().map(|_| scene.expire()).unwrap_or_default()
                    } else {
                        scene.take(input)
                    };
                    results += out.iter().filter(|e| matches!(e, Effect::Done | Effect::Back(_))).count();
                }
                assert_eq!(results == 1, scene.transfer.is_over(), "{way:?} {number}: {results}");
                assert!(results < 2);
            }
        }
    }
}
