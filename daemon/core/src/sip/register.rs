//! One registration (RFC 3261 §10): when to register, where, and what the answers mean.
//!
//! The machine asks for two things: the registrar's addresses, in the order of RFC 3263 (SRV, then A and AAAA), and a
//! REGISTER to one of them. An address that does not answer, or with 5xx, is left for the next at once; only when all
//! have failed it waits, longer each time, so that a registrar that comes back is not run over by all its boxes.
//! Digests, sockets and DNS are the shell's.

use std::time::{Duration, Instant};

/// First wait after every address has failed.
const WAIT_FIRST: Duration = Duration::from_secs(5);
/// Longest wait; RFC 5626 §4.5 has 30 min, and a trunk that is down that long is a day's business lost.
const WAIT_LONGEST: Duration = Duration::from_secs(300);
/// Wait after wrong credentials: only a person can mend them, and each try looks like a guess.
const WAIT_REFUSED: Duration = Duration::from_secs(300);
/// A registrar that asks for less than this is not followed: it would be asked without end.
const SHORTEST: Duration = Duration::from_secs(30);

/// What the machine wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Look up the registrar's addresses, then [`Input::Resolved`].
    Resolve,
    /// Send REGISTER to the address with this index, then one of the other inputs.
    Register {
        /// Index into the addresses last looked up.
        server: usize,
        /// `Expires` to ask for.
        expires: Duration,
    },
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The look-up gave addresses.
    Resolved {
        /// How many; 0 = none, or it failed.
        servers: usize,
        /// The index of the one where the registration holds, if it is still among them: their order may have changed.
        holds_at: Option<usize>,
    },
    /// 200, with the lifetime that the registrar granted to our contact.
    Registered(Duration),
    /// A final refusal after credentials were given.
    Refused {
        /// Its status code.
        code: u16,
        /// `Retry-After`.
        retry_after: Option<Duration>,
        /// `Min-Expires` of a 423.
        min_expires: Option<Duration>,
    },
    /// No answer, or no connection.
    Unreachable,
}

/// How a registration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The first attempt runs.
    Trying,
    /// It holds.
    Registered,
    /// The registrar does not take us: user or password.
    Refused(u16),
    /// No address of it answers, or it has none.
    Unreachable,
    /// It answers with an error that may pass.
    Failing(u16),
}

impl State {
    /// The word for status, log and metric.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Trying => "trying",
            Self::Registered => "registered",
            Self::Refused(_) => "refused",
            Self::Unreachable => "unreachable",
            Self::Failing(_) => "failing",
        }
    }

    /// What to do about it, for a person.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Trying => "the registrar has not answered yet",
            Self::Registered => "calls can come in",
            Self::Refused(401 | 407) => "the password is wrong, or the username is not known there",
            Self::Refused(_) => "the registrar does not allow this account to register; ask the carrier",
            Self::Unreachable => "no address of the registrar answers; check its name, the firewall and the transport",
            Self::Failing(_) => "the registrar answers with an error of its own; it is tried again",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// An effect was handed out; its input is awaited.
    Asked,
    /// Nothing to do before this moment.
    Until(Instant, &'static str),
}

/// The machine.
#[derive(Debug)]
pub struct Registration {
    lifetime: Duration,
    state: State,
    phase: Phase,
    servers: usize,
    server: usize,
    failed: usize,
    rounds: u32,
    lots: u64,
    /// Until when the last 200 holds, whatever the refreshes do.
    held_until: Option<Instant>,
}

impl Registration {
    /// Begins at `now + offset`, so that several trunks do not register in one moment. `seed` draws the jitter.
    #[must_use]
    pub const fn new(first: Instant, lifetime: Duration, seed: u64) -> Self {
        Self {
            lifetime,
            state: State::Trying,
            phase: Phase::Until(first, "register"),
            servers: 0,
            server: 0,
            failed: 0,
            rounds: 0,
            lots: seed | 1,
            held_until: None,
        }
    }

    /// How it stands. A registration whose refresh fails still holds until its lifetime is over.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        match self.held_until {
            Some(until) if until > now => State::Registered,
            _ if self.state == State::Registered => State::Unreachable,
            _ => self.state,
        }
    }

    /// When a registration that holds is over, unless a refresh comes first: its state changes then by itself.
    #[must_use]
    pub fn ends(&self, now: Instant) -> Option<Instant> {
        self.held_until.filter(|until| *until > now)
    }

    /// When something is due, and what; `None` while an answer is awaited.
    #[must_use]
    pub const fn deadline(&self) -> Option<(Instant, &'static str)> {
        match self.phase {
            Phase::Until(when, what) => Some((when, what)),
            Phase::Asked => None,
        }
    }

    /// What is due at `now`.
    pub fn due(&mut self, now: Instant) -> Option<Effect> {
        let Phase::Until(when, _) = self.phase else { return None };
        if when > now {
            return None;
        }
        self.phase = Phase::Asked;
        // addresses are looked up anew each time: that is how a carrier moves its registrar
        Some(Effect::Resolve)
    }

    /// Takes in what has happened; the effect that follows at once, if one does.
    pub fn handle(&mut self, now: Instant, input: Input) -> Option<Effect> {
        match input {
            Input::Resolved { servers: 0, .. } => self.wait(now, State::Unreachable, None),
            Input::Resolved { servers, holds_at } => {
                // a refresh goes where the registration is, while that address is still there
                self.server = holds_at.filter(|server| *server < servers).unwrap_or(0);
                self.servers = servers;
                self.failed = 0;
                return self.ask();
            }
            Input::Registered(granted) => {
                self.state = State::Registered;
                self.rounds = 0;
                self.held_until = Some(now + granted);
                // early enough for a second and a third try: half of it, or a minute before the end
                let early = (granted / 2).max(granted.saturating_sub(Duration::from_secs(60)).min(granted * 9 / 10));
                self.phase = Phase::Until(now + early.max(Duration::from_secs(1)), "refresh");
            }
            Input::Unreachable => return self.next_server(now, State::Unreachable),
            Input::Refused { code: 423, min_expires: Some(least), .. }
                if self.servers > 0 && least > self.lifetime && least <= LONGEST =>
            {
                self.lifetime = least;
                return self.ask();
            }
            Input::Refused { code, retry_after, .. } if (500..600).contains(&code) => {
                if let Some(wait) = retry_after {
                    self.wait(now, State::Failing(code), Some(wait));
                } else {
                    return self.next_server(now, State::Failing(code));
                }
            }
            Input::Refused { code: code @ (401 | 403 | 404 | 407), retry_after, .. } => {
                let wait = retry_after.unwrap_or(WAIT_REFUSED);
                self.held_until = None;
                self.wait(now, State::Refused(code), Some(wait));
            }
            Input::Refused { code, retry_after, .. } => self.wait(now, State::Failing(code), retry_after),
        }
        None
    }

    fn ask(&mut self) -> Option<Effect> {
        self.phase = Phase::Asked;
        Some(Effect::Register { server: self.server, expires: self.lifetime.max(SHORTEST) })
    }

    fn next_server(&mut self, now: Instant, state: State) -> Option<Effect> {
        self.failed += 1;
        if self.failed < self.servers {
            self.server = (self.server + 1) % self.servers;
            return self.ask();
        }
        self.server = 0;
        self.wait(now, state, None);
        None
    }

    fn wait(&mut self, now: Instant, state: State, said: Option<Duration>) {
        self.state = state;
        let doubled = WAIT_FIRST.saturating_mul(1 << self.rounds.min(10));
        self.rounds = self.rounds.saturating_add(1);
        let wait = said.unwrap_or(doubled).clamp(Duration::from_secs(1), WAIT_LONGEST.max(said.unwrap_or_default()));
        // a quarter more or less: boxes that lost their registrar together do not come back together
        let wait = wait.min(LONGEST) * (750 + self.draw(501)) / 1_000;
        self.phase = Phase::Until(now + wait, "try again");
    }

    /// A number below `bound`, from the seed (xorshift64).
    fn draw(&mut self, bound: u32) -> u32 {
        self.lots ^= self.lots << 13;
        self.lots ^= self.lots >> 7;
        self.lots ^= self.lots << 17;
        u32::try_from((self.lots >> 33) % u64::from(bound)).unwrap_or(0)
    }
}

/// Longest time that a registrar may put us off, or make a registration last.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

#[cfg(test)]
#[path = "register_day.rs"]
mod day;

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(600);

    #[expect(clippy::disallowed_methods, reason = "a test needs some first moment")]
    fn start() -> Instant {
        Instant::now()
    }

    /// A machine that has just been asked to register at the first of `servers`.
    fn asked(now: Instant, servers: usize) -> Registration {
        let mut machine = Registration::new(now, LIFETIME, 7);
        assert_eq!(machine.due(now), Some(Effect::Resolve));
        assert_eq!(machine.handle(now, found(servers)), Some(Effect::Register { server: 0, expires: LIFETIME }));
        machine
    }

    fn found(servers: usize) -> Input {
        Input::Resolved { servers, holds_at: None }
    }

    fn refused(code: u16) -> Input {
        Input::Refused { code, retry_after: None, min_expires: None }
    }

    #[test]
    fn a_registration_is_renewed_before_it_ends() {
        let start = start();
        let mut machine = asked(start, 1);
        assert_eq!((machine.state(start), machine.deadline()), (State::Trying, None));
        assert_eq!(machine.handle(start, Input::Registered(LIFETIME)), None);
        let (refresh, what) = machine.deadline().unwrap();
        assert_eq!((refresh - start, what), (Duration::from_secs(540), "refresh"));
        assert_eq!(machine.due(refresh - Duration::from_millis(1)), None);
        assert_eq!(machine.due(refresh), Some(Effect::Resolve));
        machine.handle(refresh, found(1));
        machine.handle(refresh, Input::Registered(Duration::from_secs(40)));
        assert_eq!(machine.deadline().unwrap().0 - refresh, Duration::from_secs(20), "what was granted counts");
    }

    #[test]
    fn a_dead_address_is_left_for_the_next_at_once_and_a_refresh_stays_there() {
        let start = start();
        let mut machine = asked(start, 3);
        let second = machine.handle(start, Input::Unreachable);
        assert_eq!(second, Some(Effect::Register { server: 1, expires: LIFETIME }));
        assert_eq!(machine.handle(start, refused(503)), Some(Effect::Register { server: 2, expires: LIFETIME }));
        machine.handle(start, Input::Registered(LIFETIME));
        let refresh = machine.deadline().unwrap().0;
        machine.due(refresh);
        let again = machine.handle(refresh, Input::Resolved { servers: 3, holds_at: Some(1) });
        let there = Some(Effect::Register { server: 1, expires: LIFETIME });
        assert_eq!(again, there, "where it holds, wherever that stands in the list now");
        assert_eq!(machine.handle(refresh, found(2)), Some(Effect::Register { server: 0, expires: LIFETIME }));
        let beyond = Input::Resolved { servers: 2, holds_at: Some(2) };
        assert_eq!(machine.handle(refresh, beyond), Some(Effect::Register { server: 0, expires: LIFETIME }));
    }

    #[test]
    fn when_all_fail_it_waits_longer_each_time_with_jitter() {
        let (mut now, mut waits) = (start(), Vec::new());
        let mut machine = Registration::new(now, LIFETIME, 7);
        for _ in 0..9 {
            assert_eq!(machine.due(now), Some(Effect::Resolve));
            machine.handle(now, found(1));
            assert_eq!(machine.handle(now, Input::Unreachable), None);
            assert_eq!(machine.state(now), State::Unreachable);
            let next = machine.deadline().unwrap().0;
            waits.push(next - now);
            now = next;
        }
        for (wait, plain) in waits.iter().zip([5, 10, 20, 40, 80, 160, 300, 300, 300]) {
            let plain = Duration::from_secs(plain);
            assert!(*wait >= plain * 3 / 4 && *wait <= plain * 5 / 4, "{wait:?} for {plain:?}");
        }
        let other = Registration::new(now, LIFETIME, 8);
        assert_ne!(machine.lots, other.lots);
    }

    #[test]
    fn wrong_credentials_are_not_hammered_and_say_so() {
        let start = start();
        let mut machine = asked(start, 2);
        assert_eq!(machine.handle(start, refused(403)), None, "another address has the same passwords");
        assert_eq!(machine.state(start), State::Refused(403));
        assert!(machine.deadline().unwrap().0 - start >= WAIT_REFUSED * 3 / 4);
        assert!(State::Refused(401).words().contains("password"));
    }

    #[test]
    fn a_registration_holds_until_its_end_although_its_refresh_fails() {
        let start = start();
        let mut machine = asked(start, 1);
        machine.handle(start, Input::Registered(LIFETIME));
        let refresh = machine.deadline().unwrap().0;
        machine.due(refresh);
        machine.handle(refresh, found(0));
        assert_eq!(machine.state(refresh), State::Registered);
        assert_eq!(machine.ends(refresh), Some(start + LIFETIME));
        assert_eq!(machine.state(start + LIFETIME), State::Unreachable);
        assert_eq!(machine.ends(start + LIFETIME), None);
    }

    #[test]
    fn the_registrar_may_ask_for_longer_and_for_patience() {
        let start = start();
        let mut machine = asked(start, 1);
        let hour = Duration::from_secs(3600);
        let brief = Input::Refused { code: 423, retry_after: None, min_expires: Some(hour) };
        assert_eq!(machine.handle(start, brief), Some(Effect::Register { server: 0, expires: hour }));
        assert_eq!(machine.handle(start, brief), None, "asked for what it wants, it may not say so again");
        let mut machine = asked(start, 2);
        let busy = Input::Refused { code: 503, retry_after: Some(hour), min_expires: None };
        assert_eq!(machine.handle(start, busy), None);
        assert!(machine.deadline().unwrap().0 - start >= hour * 3 / 4);
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_there_is_always_a_next_step(steps in proptest::collection::vec((0_u8..6, 0_u16..700, 0_u64..100_000), 1..60)) {
            let mut now = start();
            let mut machine = Registration::new(now, LIFETIME, 3);
            for (kind, code, seconds) in steps {
                let some = Some(Duration::from_secs(seconds));
                let effect = machine.handle(now, match kind {
                    0 => Input::Resolved { servers: usize::from(code % 4), holds_at: Some(usize::from(code % 5)) },
                    1 => Input::Registered(Duration::from_secs(seconds)),
                    2 => Input::Refused { code, retry_after: some, min_expires: some },
                    3 => refused(code),
                    _ => Input::Unreachable,
                });
                if let Some(Effect::Register { server, .. }) = effect {
                    proptest::prop_assert!(server < machine.servers);
                }
                match machine.deadline() {
                    None => proptest::prop_assert!(effect.is_some()),
                    Some((when, _)) => {
                        proptest::prop_assert!(when > now && when - now <= LONGEST * 2);
                        now = when;
                        proptest::prop_assert_eq!(machine.due(now), Some(Effect::Resolve));
                    }
                }
            }
        }
    }
}
