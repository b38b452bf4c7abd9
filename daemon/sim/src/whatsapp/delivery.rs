//! Meta's way of delivering webhooks: late, twice, out of order, in batches, and again until somebody says 200.
//!
//! A queue in virtual time: changes are posted, deliveries come due, answers decide about retries. The driver does the
//! HTTP. Beside the real deliveries it can send forged ones, which must be refused and are never repeated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sauti_core::whatsapp::signature::sign;
use secrecy::SecretString;

use super::dice::Dice;
use super::person::Business;
use super::webhooks::{Change, body};

/// Meta's client gives up on a request after this long.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(20);

/// Meta forgets a delivery that nobody took for so long.
const GIVE_UP: Duration = Duration::from_secs(7 * 24 * 3600);

/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// How well the delivery works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Habits {
    /// From the event to its delivery, shortest and longest.
    pub lag: (Duration, Duration),
    /// Percent of changes that come late by up to [`Habits::late_by`], so that others overtake them.
    pub late: u8,
    /// How much later, at most.
    pub late_by: Duration,
    /// Percent of changes that come twice, the second one within 5 s.
    pub duplicates: u8,
    /// Percent of changes that come again ten minutes later.
    pub replays: u8,
    /// Percent of changes beside which a forged copy comes first.
    pub forgeries: u8,
    /// Most changes in one POST; those that are due together travel together.
    pub batch: usize,
}

impl Habits {
    /// At once, once, in order.
    #[must_use]
    pub const fn prompt() -> Self {
        Self {
            lag: (Duration::ZERO, Duration::ZERO),
            late: 0,
            late_by: Duration::ZERO,
            duplicates: 0,
            replays: 0,
            forgeries: 0,
            batch: 1,
        }
    }

    /// As measured: 1.5 to 2.5 s after the event; now and then twice.
    #[must_use]
    pub const fn real() -> Self {
        let lag = (Duration::from_millis(1_500), Duration::from_millis(2_500));
        Self { lag, duplicates: 2, ..Self::prompt() }
    }

    /// As bad as it is allowed to be.
    #[must_use]
    pub const fn hostile() -> Self {
        Self {
            late: 30,
            late_by: Duration::from_secs(20),
            duplicates: 50,
            replays: 20,
            forgeries: 30,
            batch: 8,
            ..Self::real()
        }
    }
}

/// What is wanted for one change beyond the habits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// Exactly this long after now, whatever the habits say; no copies, no forgeries.
    pub after: Option<Duration>,
    /// Is sent under this signature, and only so.
    pub signature: Signature,
}

/// The signature of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Signature {
    /// Meta's.
    #[default]
    Good,
    /// Well-formed, by somebody who has not the key.
    Forged,
    /// Absent.
    Missing,
}

/// One POST that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Names it in [`PostOffice::answered`].
    pub id: u64,
    /// When it was due.
    pub at: Instant,
    /// The exact bytes.
    pub body: Arc<[u8]>,
    /// The value of `X-Hub-Signature-256`.
    pub signature: Option<String>,
    /// 200 is expected; a forged one is to be refused with 401.
    pub genuine: bool,
    /// 0 for the first attempt.
    pub attempt: u32,
    /// How many changes it carries.
    pub changes: usize,
}

#[derive(Debug)]
enum Parcel {
    /// Not yet written: may still travel with others.
    Loose(Change, Signature),
    /// On its way again, byte for byte.
    Sealed(Delivery, Instant),
}

/// The queue of what is to be delivered.
#[derive(Debug)]
pub struct PostOffice {
    business: Business,
    app_secret: SecretString,
    habits: Habits,
    dice: Dice,
    next: u64,
    queue: BTreeMap<(Instant, u64), Parcel>,
    under_way: BTreeMap<u64, (Delivery, Instant)>,
    given_up: u64,
}

impl PostOffice {
    /// An empty queue.
    #[must_use]
    pub const fn new(business: Business, app_secret: SecretString, habits: Habits, seed: u64) -> Self {
        Self {
            business,
            app_secret,
            habits,
            dice: Dice::new(seed),
            next: 0,
            queue: BTreeMap::new(),
            under_way: BTreeMap::new(),
            given_up: 0,
        }
    }

    /// Something happened at `now`: it will be delivered as the habits have it.
    pub fn post(&mut self, now: Instant, change: Change) {
        let mut after = self.dice.between(self.habits.lag.0, self.habits.lag.1);
        if self.dice.chance(self.habits.late) {
            after += self.dice.between(Duration::ZERO, self.habits.late_by);
        }
        let at = now + after;
        if self.dice.chance(self.habits.forgeries) {
            let signature = if self.dice.chance(50) { Signature::Forged } else { Signature::Missing };
            self.enqueue(at, Parcel::Loose(change.clone(), signature));
        }
        if self.dice.chance(self.habits.duplicates) {
            let again = at + self.dice.between(Duration::ZERO, Duration::from_secs(5));
            self.enqueue(again, Parcel::Loose(change.clone(), Signature::Good));
        }
        if self.dice.chance(self.habits.replays) {
            let again = at + Duration::from_secs(600);
            self.enqueue(again, Parcel::Loose(change.clone(), Signature::Good));
        }
        self.enqueue(at, Parcel::Loose(change, Signature::Good));
    }

    /// Delivers a change exactly as wished: how a test puts a terminate before its connect, or forges one.
    pub fn post_as(&mut self, now: Instant, change: Change, wish: Wish) {
        let after = wish.after.unwrap_or_else(|| self.dice.between(self.habits.lag.0, self.habits.lag.1));
        self.enqueue(now + after, Parcel::Loose(change, wish.signature));
    }

    fn enqueue(&mut self, at: Instant, parcel: Parcel) {
        self.queue.insert((at, self.next), parcel);
        self.next += 1;
    }

    /// When [`PostOffice::due`] has the next delivery.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.queue.keys().next().map(|(at, _)| *at)
    }

    /// The next delivery that is due, if any; ask until there is none.
    pub fn due(&mut self, now: Instant) -> Option<Delivery> {
        let ((at, id), parcel) = self.pop(now, |_| true)?;
        let (delivery, since) = match parcel {
            Parcel::Sealed(delivery, since) => (delivery, since),
            Parcel::Loose(change, signature) => {
                let mut changes = vec![change];
                while signature == Signature::Good && changes.len() < self.habits.batch {
                    let loose = |parcel: &Parcel| matches!(parcel, Parcel::Loose(_, Signature::Good));
                    let Some((_, Parcel::Loose(change, _))) = self.pop(now, loose) else { break };
                    changes.push(change);
                }
                (self.seal(id, at, &changes, signature), now)
            }
        };
        if delivery.genuine {
            self.under_way.insert(delivery.id, (delivery.clone(), since));
        }
        Some(delivery)
    }

    /// Takes the first parcel out that is due, if it fits.
    fn pop(&mut self, now: Instant, fits: impl Fn(&Parcel) -> bool) -> Option<((Instant, u64), Parcel)> {
        let first = self.queue.first_entry()?;
        if first.key().0 > now || !fits(first.get()) {
            return None;
        }
        Some(first.remove_entry())
    }

    fn seal(&self, id: u64, at: Instant, changes: &[Change], signature: Signature) -> Delivery {
        let body: Arc<[u8]> = body(&self.business, changes).into();
        let genuine = signature == Signature::Good;
        let signature = match signature {
            Signature::Good => Some(sign(&self.app_secret, &body)),
            Signature::Forged => Some(sign(&SecretString::from("not the key".to_owned()), &body)),
            Signature::Missing => None,
        };
        Delivery { id, at, body, signature, genuine, attempt: 0, changes: changes.len() }
    }

    /// How a delivery went: its status, or `None` when there was no answer within [`CLIENT_TIMEOUT`].
    ///
    /// Anything but 200 is tried again: at once, then after 1 s, 2 s, 4 s and so on up to an hour, for seven days.
    pub fn answered(&mut self, now: Instant, id: u64, status: Option<u16>) {
        let Some((mut delivery, since)) = self.under_way.remove(&id) else { return };
        if status == Some(200) {
            return;
        }
        let wait = match delivery.attempt {
            0 => Duration::ZERO,
            attempt => Duration::from_secs(1_u64.checked_shl(attempt - 1).unwrap_or(u64::MAX)).min(LONGEST_WAIT),
        };
        if now.duration_since(since) + wait > GIVE_UP {
            self.given_up += 1;
            return;
        }
        delivery.attempt += 1;
        delivery.at = now + wait;
        self.enqueue(delivery.at, Parcel::Sealed(delivery, since));
    }

    /// True when nothing waits and nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_empty()
    }

    /// Deliveries that nobody took in seven days.
    #[must_use]
    pub const fn given_up(&self) -> u64 {
        self.given_up
    }
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
mod tests;
