//! Which provider a new session goes to, and what its failures do to that: the ladder and a breaker for each rung.
//!
//! A rung is an address with a model, the best one first. A breaker opens when its rung fails again and again, and is
//! then passed over at once, so that no caller pays for a time-out that is known; later one call at a time tries it.
//! What a single call has met stands in its [`Climb`]. Nothing here connects, waits or draws lots: the shell has one
//! [`Ladder`] for all calls, tells it what became of each [`Pick`], and gives instants as arguments.

use std::time::{Duration, Instant};

use super::super::call::outcome::labels;
use super::verdict::{Failure, Loss};

/// The first one and four fallbacks: more would not be reached while a caller still waits.
pub const MAX_RUNGS: usize = 5;
/// Failures that open a breaker: a single call's bad luck does not, and three callers in a row are not made to wait.
const FAILURES: usize = 3;
/// How close together they must be, without a success between.
const WINDOW: Duration = Duration::from_secs(30);
/// First rest of a breaker that opened; doubled by each probe that fails.
const FIRST_REST: Duration = Duration::from_secs(10);
/// Longest rest: what a repaired provider has to wait for its first caller.
const LONGEST_REST: Duration = Duration::from_secs(120);
/// First rest after a refusal of key, quota or model: somebody has to act, which takes minutes.
const REFUSED_REST: Duration = Duration::from_secs(60);
/// A probe that nobody has spoken of for so long counts as given back.
const PROBE_LAPSES: Duration = Duration::from_secs(120);
/// How long a handshake may take while another rung stands ready: four round trips of 300 ms and some.
const BRIEF: Duration = Duration::from_millis(1500);
/// How long it may take where there is nothing better to do.
const PATIENT: Duration = Duration::from_secs(4);
/// After so long a call forgives a rung that it met trouble at.
const FORGIVES: Duration = Duration::from_secs(30);
/// Strikes after which a call tries elsewhere: a lost session is one, so it is opened again where it was.
const SPENT: u8 = 2;

/// What a rung shares with others: the same number is the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kin {
    /// The address: whoever cannot reach one rung there reaches none.
    pub place: usize,
    /// The key at that address: where one is refused for its key or quota, all are.
    pub account: usize,
}

labels! {
    /// What went wrong with a session, as far as choosing the next one goes.
    Mishap {
        /// Key, quota or account; true for all rungs of the account.
        Refused => "refused",
        /// This rung does not know the model, or does not take our configuration.
        Unfit => "unfit",
        /// Too much load, ours or everybody's; true for this rung.
        Busy => "busy",
        /// No handshake: address, network, TLS, time; true for all rungs at the place.
        Unreachable => "unreachable",
        /// It opened and broke.
        Lost => "lost",
        /// It reached the greatest age that sessions have: nobody's fault.
        Aged => "aged",
    }
}

impl Mishap {
    /// Sorts a failure; `opened` says whether the socket had been open.
    #[must_use]
    pub fn of(failure: &Failure, opened: bool) -> Self {
        let code = failure.code.as_str();
        match (failure.loss, code) {
            (Loss::Refused, "model_not_found" | "beta_api_shape_disabled") => Self::Unfit,
            (Loss::Refused, _) => Self::Refused,
            (Loss::Broken, _) if code == "session_expired" || failure.is_planned() => Self::Aged,
            (Loss::Broken, "http_429" | "http_503") => Self::Busy,
            (Loss::Broken, _) if code.contains("rate_limit") || code.contains("overloaded") => Self::Busy,
            (Loss::Broken, _) if !failure.retry => Self::Unfit,
            (Loss::Broken, "connect_timeout" | "connect_failed" | "dns_failed" | "tls_failed" | "handshake_failed")
                if !opened =>
            {
                Self::Unreachable
            }
            // Another refusal of the handshake (5xx): the place answers, this rung does not serve.
            (Loss::Broken, _) if !opened => Self::Busy,
            (Loss::Broken, _) => Self::Lost,
        }
    }
}

labels! {
    /// Where a breaker stands.
    State {
        /// Sessions go there.
        Closed => "closed",
        /// It rested; the next call tries it, or one does.
        HalfOpen => "half_open",
        /// It is passed over.
        Open => "open",
    }
}

/// The right to be the one call that tries a rung whose breaker rested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    rung: usize,
    number: u64,
}

/// Where a session goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// Index of the rung.
    pub rung: usize,
    /// Set when this call is the one that tries it: told in [`Ladder::failed`] or given back.
    pub probe: Option<Ticket>,
    /// How long its handshake may take.
    pub patience: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct Strikes {
    count: u8,
    last: Option<Instant>,
    /// No later attempt of this call helps.
    for_good: bool,
}

/// What one call has met on its way down. A fresh one is the default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Climb {
    strikes: [Strikes; MAX_RUNGS],
}

impl Climb {
    fn strike(&mut self, rung: usize, mishap: Mishap, now: Instant) {
        let forgiven = !self.is_recent(rung, now);
        let Some(strikes) = self.strikes.get_mut(rung) else { return };
        if forgiven {
            strikes.count = 0;
        }
        let weight = match mishap {
            Mishap::Aged => return,
            Mishap::Lost => 1,
            Mishap::Busy | Mishap::Unreachable => SPENT,
            Mishap::Refused | Mishap::Unfit => {
                strikes.for_good = true;
                SPENT
            }
        };
        strikes.count = strikes.count.saturating_add(weight);
        strikes.last = Some(now);
    }

    /// True until something went wrong.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.strikes.iter().all(|strikes| strikes.count == 0)
    }

    fn is_recent(&self, rung: usize, now: Instant) -> bool {
        let last = self.strikes.get(rung).and_then(|strikes| strikes.last);
        last.is_some_and(|last| now.saturating_duration_since(last) < FORGIVES)
    }

    /// True when this call should try elsewhere.
    fn is_spent(&self, rung: usize, now: Instant) -> bool {
        self.is_barred(rung) || (self.count(rung) >= SPENT && self.is_recent(rung, now))
    }

    fn is_barred(&self, rung: usize) -> bool {
        self.strikes.get(rung).is_none_or(|strikes| strikes.for_good)
    }

    fn count(&self, rung: usize) -> u8 {
        self.strikes.get(rung).map_or(0, |strikes| strikes.count)
    }
}

#[derive(Debug, Clone, Copy)]
enum Breaker {
    /// The last failures since the last success, oldest first.
    Closed { failures: [Option<Instant>; FAILURES] },
    /// Passed over until then.
    Open { until: Instant, rest: Duration, cause: Mishap },
    /// One call tries it.
    Probing { number: u64, since: Instant, rest: Duration, cause: Mishap },
}

impl Breaker {
    const CLOSED: Self = Self::Closed { failures: [None; FAILURES] };

    /// True when the next call may try it.
    fn is_due(&self, now: Instant) -> bool {
        match self {
            Self::Closed { .. } => false,
            Self::Open { until, .. } => *until <= now,
            Self::Probing { since, .. } => now.saturating_duration_since(*since) >= PROBE_LAPSES,
        }
    }

    /// How bad it is to go there all the same: refusals last, then by the time that it still rests.
    fn badness(&self, now: Instant) -> (bool, Duration) {
        match self {
            Self::Closed { .. } => (false, Duration::ZERO),
            Self::Open { until, cause, .. } => (is_refusal(*cause), until.saturating_duration_since(now)),
            Self::Probing { cause, .. } => (is_refusal(*cause), Duration::ZERO),
        }
    }

    fn count(&mut self, now: Instant, mishap: Mishap) {
        let refusal = is_refusal(mishap);
        match self {
            Self::Closed { failures } => {
                failures.rotate_left(1);
                if let Some(last) = failures.last_mut() {
                    *last = Some(now);
                }
                let full = failures.iter().flatten().count() == FAILURES;
                let near = failures.iter().flatten().all(|at| now.saturating_duration_since(*at) < WINDOW);
                if refusal || (full && near) {
                    let rest = if refusal { REFUSED_REST } else { FIRST_REST };
                    *self = Self::Open { until: now + rest, rest, cause: mishap };
                }
            }
            // What broke while it was open anyway says nothing new; that a key is dead does.
            Self::Open { cause, .. } if refusal && !is_refusal(*cause) => {
                *self = Self::Open { until: now + REFUSED_REST, rest: REFUSED_REST, cause: mishap };
            }
            Self::Open { .. } | Self::Probing { .. } => {}
        }
    }
}

const fn is_refusal(mishap: Mishap) -> bool {
    matches!(mishap, Mishap::Refused | Mishap::Unfit)
}

/// The rungs of a box, shared by all its calls.
#[derive(Debug, Clone)]
pub struct Ladder {
    kin: Vec<Kin>,
    breakers: Vec<Breaker>,
    tickets: u64,
}

impl Ladder {
    /// A ladder whose breakers are closed, the preferred rung first. Rungs beyond [`MAX_RUNGS`] are left out; without
    /// any there is one all the same.
    #[must_use]
    pub fn new(mut kin: Vec<Kin>) -> Self {
        kin.truncate(MAX_RUNGS);
        if kin.is_empty() {
            kin.push(Kin { place: 0, account: 0 });
        }
        Self { breakers: vec![Breaker::CLOSED; kin.len()], kin, tickets: 0 }
    }

    /// Number of rungs, at least one.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.kin.len()
    }

    /// Never: there is always a rung.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.kin.is_empty()
    }

    /// Where the call's next session goes: the first rung that is worth trying, else the least bad one.
    pub fn take(&mut self, now: Instant, climb: &Climb) -> Pick {
        self.next(now, climb).unwrap_or_else(|| {
            let rung = (0..self.len()).min_by_key(|rung| self.badness(*rung, now, climb)).unwrap_or(0);
            Pick { rung, probe: None, patience: PATIENT }
        })
    }

    /// The first rung that is worth trying at once: not spent for this call, its breaker closed or rested.
    pub fn next(&mut self, now: Instant, climb: &Climb) -> Option<Pick> {
        let rung = (0..self.len()).find(|rung| self.is_worth_it(*rung, now, climb))?;
        let place = self.kin.get(rung).map(|kin| kin.place);
        let others = (rung + 1..self.len()).filter(|other| self.kin.get(*other).map(|kin| kin.place) != place);
        let patience =
            if others.into_iter().any(|other| self.is_worth_it(other, now, climb)) { BRIEF } else { PATIENT };
        Some(Pick { rung, probe: self.begin_probe(rung, now), patience })
    }

    /// True when nothing that this call could still do gets it a session: every rung refused it for good.
    #[must_use]
    pub fn is_hopeless(&self, climb: &Climb) -> bool {
        (0..self.len()).all(|rung| climb.is_barred(rung))
    }

    /// Where a session may be kept ready for a call that is to come: where that call would go, if nothing is wrong.
    #[must_use]
    pub fn spare(&self, now: Instant) -> Option<usize> {
        let rung = (0..self.len()).find(|rung| self.is_worth_it(*rung, now, &Climb::default()))?;
        (self.state(rung, now) == State::Closed).then_some(rung)
    }

    /// The rung's session was heard to speak: all is well there, and its place can be reached.
    pub fn worked(&mut self, rung: usize) {
        let place = self.kin.get(rung).map(|kin| kin.place);
        for (other, (kin, breaker)) in self.kin.iter().zip(&mut self.breakers).enumerate() {
            let freed = matches!(breaker, Breaker::Open { cause: Mishap::Unreachable, .. });
            if other == rung || (freed && Some(kin.place) == place) {
                *breaker = Breaker::CLOSED;
            }
        }
    }

    /// The rung's session failed: it counts for the rung, for those that share what failed, and for the call.
    pub fn failed(&mut self, now: Instant, rung: usize, probe: Option<Ticket>, mishap: Mishap, climb: &mut Climb) {
        let Some(own) = self.kin.get(rung).copied() else { return };
        if mishap == Mishap::Aged {
            if let Some(ticket) = probe {
                self.give_back(now, ticket);
            }
            return;
        }
        if let Some(ticket) = probe {
            self.probe_failed(now, ticket, mishap);
        }
        for (other, (kin, breaker)) in self.kin.iter().zip(&mut self.breakers).enumerate() {
            let shared = match mishap {
                Mishap::Refused => *kin == own,
                Mishap::Unreachable => kin.place == own.place,
                Mishap::Unfit | Mishap::Busy | Mishap::Lost | Mishap::Aged => false,
            };
            if other == rung || shared {
                breaker.count(now, mishap);
                climb.strike(other, mishap, now);
            }
        }
    }

    /// The call that was to try a rung ended before it knew: the next one tries.
    pub fn give_back(&mut self, now: Instant, ticket: Ticket) {
        if let Some(breaker) = self.breakers.get_mut(ticket.rung)
            && let Breaker::Probing { number, rest, cause, .. } = *breaker
            && number == ticket.number
        {
            *breaker = Breaker::Open { until: now, rest, cause };
        }
    }

    /// Where a rung's breaker stands.
    #[must_use]
    pub fn state(&self, rung: usize, now: Instant) -> State {
        match self.breakers.get(rung) {
            Some(Breaker::Closed { .. }) => State::Closed,
            Some(Breaker::Probing { .. }) => State::HalfOpen,
            Some(open) if open.is_due(now) => State::HalfOpen,
            Some(Breaker::Open { .. }) | None => State::Open,
        }
    }

    fn is_worth_it(&self, rung: usize, now: Instant, climb: &Climb) -> bool {
        let Some(breaker) = self.breakers.get(rung) else { return false };
        !climb.is_spent(rung, now) && (matches!(breaker, Breaker::Closed { .. }) || breaker.is_due(now))
    }

    fn badness(&self, rung: usize, now: Instant, climb: &Climb) -> impl Ord + use<> {
        let breaker = self.breakers.get(rung).map_or((true, LONGEST_REST), |breaker| breaker.badness(now));
        (climb.is_barred(rung), breaker.0, climb.is_spent(rung, now), breaker.1, climb.count(rung), rung)
    }

    fn begin_probe(&mut self, rung: usize, now: Instant) -> Option<Ticket> {
        let breaker = self.breakers.get_mut(rung)?;
        let (Breaker::Open { rest, cause, .. } | Breaker::Probing { rest, cause, .. }) = *breaker else { return None };
        self.tickets += 1;
        *breaker = Breaker::Probing { number: self.tickets, since: now, rest, cause };
        Some(Ticket { rung, number: self.tickets })
    }

    fn probe_failed(&mut self, now: Instant, ticket: Ticket, mishap: Mishap) {
        if let Some(breaker) = self.breakers.get_mut(ticket.rung)
            && let Breaker::Probing { number, rest, .. } = *breaker
            && number == ticket.number
        {
            let least = if is_refusal(mishap) { REFUSED_REST } else { FIRST_REST };
            let rest = (rest * 2).clamp(least, LONGEST_REST);
            *breaker = Breaker::Open { until: now + rest, rest, cause: mishap };
        }
    }
}

#[cfg(test)]
#[path = "ladder_tests.rs"]
mod tests;
