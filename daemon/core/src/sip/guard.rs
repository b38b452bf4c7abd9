//! How much a known far end may ask of us: calls a second, requests a second, failed digests.
//!
//! Strangers never get this far (see [`super::route`]); this is against far ends that run wild, and against whoever
//! guesses passwords from an address that a trunk names. Every table here has a bound, and empties by itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::route::Refused;

/// Sources remembered at one time, at about 100 bytes each; beyond it the one unseen for longest is forgotten.
pub const SOURCES: usize = 4_096;
/// Requests outside of dialogs a second and source; a proxy's OPTIONS for each of a dozen trunks fits.
const REQUESTS: u32 = 20;
/// Failed digests in a row that are answered.
const FAILURES: u32 = 5;
/// For how long a source is not answered after that; a scanner tries thousands a minute.
const BARRED: Duration = Duration::from_secs(300);
/// A source without anything against it is forgotten after this long.
const FORGET: Duration = Duration::from_secs(30);

/// A rate, kept as the time at which the bucket will be full again (GCRA).
#[derive(Debug, Clone, Copy, Default)]
struct Rate(Option<Instant>);

impl Rate {
    /// Takes one of `per_second`; a second's worth may come at once.
    fn take(&mut self, now: Instant, per_second: u32) -> bool {
        let each = Duration::from_secs(1) / per_second.max(1);
        let full = self.0.filter(|full| *full > now).unwrap_or(now);
        let next = full + each;
        let fits = next.saturating_duration_since(now) <= Duration::from_secs(1);
        if fits {
            self.0 = Some(next);
        }
        fits
    }
}

#[derive(Debug, Clone, Copy)]
struct Source {
    requests: Rate,
    failures: u32,
    barred_until: Option<Instant>,
    seen: Instant,
}

/// What known sources have asked for.
#[derive(Debug, Default)]
pub struct Guard {
    calls: BTreeMap<usize, Rate>,
    sources: BTreeMap<IpAddr, Source>,
}

impl Guard {
    /// An INVITE that opens a dialog; `per_second` is its trunk's.
    ///
    /// # Errors
    ///
    /// [`Refused::Rate`] when the trunk has used up this second's calls.
    pub fn call(&mut self, now: Instant, trunk: usize, per_second: u32) -> Result<(), Refused> {
        let rate = self.calls.entry(trunk).or_default();
        if rate.take(now, per_second) { Ok(()) } else { Err(Refused::Rate) }
    }

    /// Any request outside of a dialog. False = let it drop without a word.
    pub fn request(&mut self, now: Instant, source: IpAddr) -> bool {
        let source = self.source(now, source);
        source.barred_until.is_none_or(|until| until <= now) && source.requests.take(now, REQUESTS)
    }

    /// A digest that did not match. The challenge itself is none: everybody's first request lacks one.
    pub fn digest_failed(&mut self, now: Instant, source: IpAddr) {
        let source = self.source(now, source);
        source.failures += 1;
        if source.failures >= FAILURES {
            source.failures = 0;
            source.barred_until = Some(now + BARRED);
        }
    }

    /// A digest that matched: earlier ones were typing errors.
    pub fn digest_matched(&mut self, source: IpAddr) {
        if let Some(source) = self.sources.get_mut(&key(source)) {
            source.failures = 0;
        }
    }

    /// Whether a source is not answered at present.
    #[must_use]
    pub fn is_barred(&self, now: Instant, source: IpAddr) -> bool {
        self.sources.get(&key(source)).and_then(|source| source.barred_until).is_some_and(|until| until > now)
    }

    /// Forgets whom there is nothing against any more; call it every few seconds.
    pub fn tidy(&mut self, now: Instant) {
        self.sources.retain(|_, source| {
            source.barred_until.is_some_and(|until| until > now) || now.saturating_duration_since(source.seen) < FORGET
        });
        self.calls.retain(|_, rate| rate.0.is_some_and(|full| full > now));
    }

    /// Sources remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// True when nobody is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    fn source(&mut self, now: Instant, source: IpAddr) -> &mut Source {
        let source = key(source);
        if !self.sources.contains_key(&source) && self.sources.len() >= SOURCES {
            let oldest = self.sources.iter().min_by_key(|(_, source)| source.seen).map(|(address, _)| *address);
            oldest.and_then(|oldest| self.sources.remove(&oldest));
        }
        let fresh = Source { requests: Rate::default(), failures: 0, barred_until: None, seen: now };
        let entry = self.sources.entry(source).or_insert(fresh);
        entry.seen = now;
        entry
    }
}

/// One key for whatever one subscriber can choose freely: an IPv6 source has 2^64 addresses.
fn key(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::from((u128::from(address) & !u128::from(u64::MAX)).to_be_bytes()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs some first moment")]
    fn start() -> Instant {
        Instant::now()
    }

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_trunk_gets_its_calls_a_second_and_no_more() {
        let (mut guard, start) = (Guard::default(), start());
        let taken = |guard: &mut Guard, now| (0..30).filter(|_| guard.call(now, 0, 10).is_ok()).count();
        assert_eq!(taken(&mut guard, start), 10);
        assert_eq!(guard.call(start, 0, 10), Err(Refused::Rate));
        assert!(guard.call(start, 1, 10).is_ok(), "the other trunk has its own");
        assert_eq!(taken(&mut guard, at(start, 500)), 5);
        assert_eq!(taken(&mut guard, at(start, 5_000)), 10);
    }

    #[test]
    fn who_guesses_digests_is_silenced_for_five_minutes() {
        let (mut guard, start) = (Guard::default(), start());
        let source: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..FAILURES - 1 {
            guard.digest_failed(start, source);
        }
        assert!(!guard.is_barred(start, source));
        guard.digest_failed(start, source);
        assert!(guard.is_barred(start, source) && !guard.request(start, source));
        assert!(!guard.is_barred(start, "192.0.2.2".parse().unwrap()));
        let later = start + BARRED;
        assert!(!guard.is_barred(later, source) && guard.request(later, source));
    }

    #[test]
    fn a_right_digest_clears_the_wrong_ones_before() {
        let (mut guard, start) = (Guard::default(), start());
        let source: IpAddr = "2001:db8::1".parse().unwrap();
        for _ in 0..3 {
            for _ in 0..FAILURES - 1 {
                guard.digest_failed(start, source);
            }
            guard.digest_matched("2001:db8::2".parse().unwrap());
        }
        assert!(!guard.is_barred(start, source), "a /64 is one subscriber");
    }

    #[test]
    fn a_flood_of_requests_is_cut_and_the_tables_empty_again() {
        let (mut guard, start) = (Guard::default(), start());
        let source: IpAddr = "192.0.2.1".parse().unwrap();
        let let_in = (0..1_000).filter(|_| guard.request(start, source)).count();
        assert_eq!(u32::try_from(let_in).unwrap(), REQUESTS);
        guard.call(start, 0, 10).unwrap();
        assert_eq!(guard.len(), 1);
        guard.tidy(start + FORGET);
        assert!(guard.is_empty() && guard.calls.is_empty());
    }

    #[test]
    fn the_table_of_sources_has_a_bound() {
        let (mut guard, start) = (Guard::default(), start());
        for number in 0..u32::try_from(SOURCES).unwrap() + 100 {
            guard.request(at(start, u64::from(number)), IpAddr::from(number.to_be_bytes()));
        }
        assert_eq!(guard.len(), SOURCES);
        assert!(!guard.sources.contains_key(&IpAddr::from(0_u32.to_be_bytes())), "the oldest went");
    }
}
