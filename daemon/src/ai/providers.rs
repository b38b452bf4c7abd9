//! Where sessions are had: one dialer for each rung of the ladder, and the ladder that all calls share.
//!
//! [`Providers::connect`] goes down the ladder until a socket is open or nothing is left to try. What becomes of the
//! session afterwards is told to its [`Claim`]; dropped without a word, it gives a probe back. The decisions are
//! [`sauti_core::ai::ladder`]'s.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use sauti_core::ai::ladder::{Climb, Kin, Ladder, MAX_RUNGS, Mishap, Pick, State, Ticket};
use sauti_core::ai::verdict::{Code, Failure, Loss};
use sauti_core::config::OpenAi;
use sauti_core::pii::KeyedHash;

use super::dialer::{DialError, Dialer};
use super::link::Link;
use super::warm::Waiting;
use crate::obs::metrics::Metrics;

/// What the rungs are called in metrics and log: an address stays out of both.
pub const NAMES: [&str; MAX_RUNGS] = ["primary", "fallback1", "fallback2", "fallback3", "fallback4"];

/// Longest time that one attempt spends on its way down the ladder.
const WITHIN: Duration = Duration::from_secs(6);
/// How long a handshake may take for which no caller waits.
const UNHURRIED: Duration = Duration::from_secs(6);
/// With less left than this no other rung is begun: a handshake takes three round trips.
const WORTH_BEGINNING: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Provider {
    dialer: Dialer,
    model: String,
}

/// Every provider of a box.
#[derive(Debug)]
pub struct Providers {
    rungs: Vec<Provider>,
    /// Taken for some array look-ups a few times in the life of a session, never while anything is awaited; the media
    /// path does not know it. So a plain lock serves better than a task that every call would have to ask.
    ladder: Mutex<Ladder>,
    metrics: Arc<Metrics>,
    /// Where sessions are ready, when the box keeps some.
    warm: OnceLock<Waiting>,
}

/// A rung that did not give a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    /// Its name.
    pub provider: &'static str,
    /// Why.
    pub failure: Failure,
    /// How long that took to find out.
    pub took: Duration,
}

/// What came of an attempt.
#[derive(Debug)]
pub struct Dialled {
    /// What the call has met until now, this attempt included.
    pub climb: Climb,
    /// The socket and where it leads, or the failure that leaves the most hope.
    pub result: Result<(Link, Claim), Failure>,
    /// The rungs that were tried in vain on the way.
    pub misses: Vec<Miss>,
    /// The session was ready before: it is configured already.
    pub warm: bool,
}

impl Providers {
    /// Prepares a dialer for `[openai]` and for each of its fallbacks.
    ///
    /// # Errors
    /// [`DialError`] when one of them cannot be made an address or a header.
    pub fn new(openai: &OpenAi, tls: &ClientConfig, metrics: Arc<Metrics>) -> Result<Self, DialError> {
        let fallbacks = openai.fallback.iter().take(MAX_RUNGS - 1);
        let settings: Vec<(OpenAi, Option<&str>)> = std::iter::once((openai.clone(), None))
            .chain(fallbacks.map(|fallback| (openai.at(fallback), fallback.key.as_deref())))
            .collect();
        let mut places: Vec<&str> = Vec::new();
        let mut accounts: Vec<(&str, Option<&str>)> = Vec::new();
        let kin = settings.iter().map(|(own, key)| Kin {
            place: number(&mut places, own.url.as_str()),
            account: number(&mut accounts, (own.url.as_str(), *key)),
        });
        let ladder = Mutex::new(Ladder::new(kin.collect()));
        let dial = |(own, _): &(OpenAi, Option<&str>)| {
            Ok(Provider { dialer: Dialer::new(own, tls)?, model: own.model.clone() })
        };
        let rungs = settings.iter().map(dial).collect::<Result<Vec<_>, DialError>>()?;
        let providers = Self { rungs, ladder, metrics, warm: OnceLock::new() };
        providers.publish();
        Ok(providers)
    }

    /// Opens a session's socket: at the ladder's choice, and where that fails at once at the next one.
    ///
    /// # Errors
    /// In [`Dialled::result`]: refused by all that was tried, or broken and worth another attempt.
    pub async fn connect(self: &Arc<Self>, mut climb: Climb, caller: Option<KeyedHash>) -> Dialled {
        let deadline = Instant::now() + WITHIN;
        let mut misses: Vec<Miss> = Vec::new();
        let mut next = Some(self.with(|ladder, now| ladder.take(now, &climb)));
        while let Some(pick) = next {
            let begun = Instant::now();
            let claim = Claim::new(self, pick);
            let provider = claim.provider();
            self.metrics.model_session("opening", provider);
            // A probe is to find out whether sessions can be opened; a call that met trouble gets a new one.
            if climb.is_fresh()
                && pick.probe.is_none()
                && let Some(waiting) = self.warm.get()
                && let Some(ready) = waiting.take(pick.rung).await
            {
                return Dialled { climb, result: Ok(ready), misses, warm: true };
            }
            let patience = pick.patience.min(deadline.saturating_duration_since(begun));
            let failure = match self.open(&claim, caller, patience).await {
                Ok(link) => return Dialled { climb, result: Ok((link, claim)), misses, warm: false },
                Err(failure) => failure,
            };
            claim.failed(&failure, false, &mut climb);
            misses.push(Miss { provider, failure, took: begun.elapsed() });
            let worth = deadline.saturating_duration_since(Instant::now()) >= WORTH_BEGINNING;
            next = if worth { self.with(|ladder, now| ladder.next(now, &climb)) } else { None };
        }
        let hopeful = misses.iter().find(|miss| miss.failure.loss == Loss::Broken).or_else(|| misses.last());
        let failure = hopeful.map_or_else(|| Failure::broken(Code::known("no_provider")), |miss| miss.failure.clone());
        Dialled { climb, result: Err(failure), misses, warm: false }
    }

    /// Opens the socket of a session that nobody waits for.
    ///
    /// # Errors
    /// [`Failure`], which the claim is to be told.
    pub(super) async fn open_ahead(&self, claim: &Claim) -> Result<Link, Failure> {
        self.metrics.model_session("ahead", claim.provider());
        self.open(claim, None, UNHURRIED).await
    }

    async fn open(&self, claim: &Claim, caller: Option<KeyedHash>, patience: Duration) -> Result<Link, Failure> {
        let Some(rung) = self.rungs.get(claim.rung) else {
            return Err(Failure::broken(Code::known("no_provider")));
        };
        let link = rung.dialer.connect(caller, patience).await?;
        let times = link.times();
        self.metrics.model_handshake(claim.provider(), times.round_trip, times.whole);
        Ok(link)
    }

    /// Where a session may be kept ready; `None` while its breaker is not closed.
    pub(super) fn spare(self: &Arc<Self>) -> Option<Claim> {
        let rung = self.with(|ladder, now| ladder.spare(now))?;
        Some(Claim::new(self, Pick { rung, probe: None, patience: UNHURRIED }))
    }

    /// Says where sessions are ready; only the first pool of a process counts.
    pub(super) fn warm_from(&self, waiting: Waiting) {
        self.warm.set(waiting).ok();
    }

    /// True when every provider has refused this call for good.
    #[must_use]
    pub fn is_hopeless(&self, climb: &Climb) -> bool {
        self.with(|ladder, _| ladder.is_hopeless(climb))
    }

    /// Brings the gauges of the breakers up to date; some change by the mere passing of time.
    pub fn publish(&self) {
        let states: Vec<State> =
            self.with(|ladder, now| (0..ladder.len()).map(|rung| ladder.state(rung, now)).collect());
        for (name, state) in NAMES.into_iter().zip(states) {
            self.metrics.set_breaker(name, state);
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Ladder, Instant) -> T) -> T {
        // What a panic left behind is still a ladder: every operation leaves it whole.
        act(&mut self.ladder.lock().unwrap_or_else(std::sync::PoisonError::into_inner), Instant::now())
    }
}

/// The number of what is the same, given out in the order of first sight.
fn number<T: PartialEq>(seen: &mut Vec<T>, one: T) -> usize {
    seen.iter().position(|other| *other == one).unwrap_or_else(|| {
        seen.push(one);
        seen.len() - 1
    })
}

/// One session's place, and the duty to say what became of it.
#[derive(Debug)]
pub struct Claim {
    providers: Arc<Providers>,
    rung: usize,
    probe: Option<Ticket>,
    /// It was heard to speak, which is told once.
    spoke: bool,
    opened: Instant,
}

impl Claim {
    fn new(providers: &Arc<Providers>, pick: Pick) -> Self {
        let Pick { rung, probe, .. } = pick;
        Self { providers: Arc::clone(providers), rung, probe, spoke: false, opened: Instant::now() }
    }

    /// The index of its rung.
    pub(super) const fn rung(&self) -> usize {
        self.rung
    }

    /// The name of its provider.
    #[must_use]
    pub fn provider(&self) -> &'static str {
        NAMES.get(self.rung).copied().unwrap_or("other")
    }

    /// The model that speaks there.
    #[must_use]
    pub fn model(&self) -> &str {
        self.providers.rungs.get(self.rung).map_or("", |provider| &provider.model)
    }

    /// How long ago it was begun.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// The model was heard to speak: only that proves a provider, as a session that opens may still fail to answer.
    pub fn worked(&mut self) {
        if !self.spoke {
            self.spoke = true;
            self.probe = None;
            self.providers.with(|ladder, _| ladder.worked(self.rung));
            self.providers.publish();
        }
    }

    /// The session failed; `opened` says whether its socket had been open.
    pub fn failed(mut self, failure: &Failure, opened: bool, climb: &mut Climb) {
        let probe = self.probe.take();
        let mishap = Mishap::of(failure, opened);
        self.providers.with(|ladder, now| ladder.failed(now, self.rung, probe, mishap, climb));
        self.providers.publish();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(ticket) = self.probe.take() {
            self.providers.with(|ladder, now| ladder.give_back(now, ticket));
        }
    }
}

/// What a call tells of a session that it lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parting {
    /// Where it was.
    pub provider: &'static str,
    /// Its model.
    pub model: String,
    /// From the begin of its handshake to the loss: a back end that is killed after 9 s shows here, whatever the
    /// error says.
    pub age: Duration,
}

/// One call's way through the providers: where its session is, and what it has met before.
#[derive(Debug)]
pub struct Course {
    providers: Arc<Providers>,
    climb: Climb,
    claim: Option<Claim>,
    warm: bool,
}

impl Course {
    /// Of a call that has no session yet.
    #[must_use]
    pub fn new(providers: &Arc<Providers>) -> Self {
        Self { providers: Arc::clone(providers), climb: Climb::default(), claim: None, warm: false }
    }

    /// What the next attempt has to know. A session that is still held is given up for it: it had fallen silent.
    pub fn begin(&mut self) -> Climb {
        self.lost(&Failure::broken(Code::known("model_silent")));
        self.climb
    }

    /// Takes what an attempt brought.
    ///
    /// # Errors
    /// The failure of the attempt.
    pub fn arrived(&mut self, dialled: Dialled) -> Result<Link, Failure> {
        (self.climb, self.warm) = (dialled.climb, dialled.warm);
        let (link, claim) = dialled.result?;
        self.claim = Some(claim);
        Ok(link)
    }

    /// The session was heard to speak.
    pub fn worked(&mut self) {
        if let Some(claim) = &mut self.claim {
            claim.worked();
        }
    }

    /// The open session is lost; `None` when there was none.
    pub fn lost(&mut self, failure: &Failure) -> Option<Parting> {
        let claim = self.claim.take()?;
        let parting = Parting { provider: claim.provider(), model: claim.model().to_owned(), age: claim.age() };
        claim.failed(failure, true, &mut self.climb);
        Some(parting)
    }

    /// The name of the provider that the session is at.
    #[must_use]
    pub fn provider(&self) -> &'static str {
        self.claim.as_ref().map_or("none", Claim::provider)
    }

    /// The model that speaks; empty without a session.
    #[must_use]
    pub fn model(&self) -> &str {
        self.claim.as_ref().map_or("", Claim::model)
    }

    /// True when the latest session was ready before it was asked for.
    #[must_use]
    pub const fn is_warm(&self) -> bool {
        self.warm
    }

    /// True when a new attempt is useless: every provider has refused this call for good.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.providers.is_hopeless(&self.climb)
    }
}

#[cfg(test)]
mod tests;
