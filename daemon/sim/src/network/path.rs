//! One way with the packets that are on it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::settings::{JitterShape, PathSettings, Percent};
use crate::whatsapp::dice::Dice;

/// What became of the packets until now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Put in.
    pub sent: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost in an outage.
    pub cut_off: u64,
    /// Lost because too many were under way.
    pub overflowed: u64,
    /// Put in once and under way twice.
    pub duplicated: u64,
    /// Held back on purpose.
    pub held_back: u64,
    /// Taken out.
    pub delivered: u64,
}

/// One way.
#[derive(Debug, Clone)]
pub struct Path<T> {
    settings: PathSettings,
    start: Instant,
    dice: Dice,
    /// The chain's state.
    bad: bool,
    /// Probability to leave the good state, and the bad one, at a packet.
    turns: [f64; 2],
    /// By arrival; the number keeps those of one moment apart, in the order in which they were sent.
    under_way: BTreeMap<(Instant, u64), T>,
    number: u64,
    /// A packet that keeps its place arrives no earlier.
    no_earlier: Instant,
    counts: Counts,
}

impl<T: Clone> Path<T> {
    /// An empty way; windows of the settings count from `start`.
    #[must_use]
    pub fn new(settings: &PathSettings, seed: u64, start: Instant) -> Self {
        let turns = turns(settings);
        Self {
            settings: settings.clone(),
            start,
            dice: Dice::new(seed),
            bad: false,
            turns,
            under_way: BTreeMap::new(),
            number: 0,
            no_earlier: start,
            counts: Counts::default(),
        }
    }

    /// Puts a packet in at `now`.
    pub fn send(&mut self, now: Instant, packet: T) {
        self.counts.sent += 1;
        // The chain steps in an outage too, so that a packet's fate does not hang on the length of the outage before.
        let lost = self.is_lost();
        let wait = self.jitter();
        let since = now.saturating_duration_since(self.start);
        if self.settings.outages.iter().any(|outage| outage.end_of(since).is_some()) {
            self.counts.cut_off += 1;
            return;
        }
        if lost {
            self.counts.lost += 1;
            return;
        }
        let mut at = now + Duration::from_millis(u64::from(self.settings.delay_ms)) + wait;
        let held_back = self.happens(self.settings.reorder);
        if held_back {
            self.counts.held_back += 1;
            at += Duration::from_millis(u64::from(self.settings.reorder_ms));
        } else if self.settings.keeps_order {
            at = at.max(self.no_earlier);
        }
        at = self.after_stalls(at);
        if !held_back {
            self.no_earlier = self.no_earlier.max(at);
        }
        if self.happens(self.settings.duplicate) {
            self.counts.duplicated += 1;
            let longest = Duration::from_millis(u64::from(self.settings.jitter_ms) + 10);
            let later = self.dice.between(Duration::ZERO, longest);
            let again = self.after_stalls(at + later);
            self.deliver_at(at, packet.clone());
            self.deliver_at(again, packet);
        } else {
            self.deliver_at(at, packet);
        }
    }

    /// When the next packet arrives.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.under_way.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next packet that has arrived by `now`, in the order of arrival; ask until there is none.
    pub fn receive(&mut self, now: Instant) -> Option<T> {
        let entry = self.under_way.first_entry().filter(|entry| entry.key().0 <= now)?;
        self.counts.delivered += 1;
        Some(entry.remove())
    }

    /// Packets on the way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.under_way.len()
    }

    /// True when none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// What became of the packets until now.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    fn deliver_at(&mut self, at: Instant, packet: T) {
        if self.under_way.len() >= self.settings.capacity as usize {
            self.counts.overflowed += 1;
            return;
        }
        self.number += 1;
        self.under_way.insert((at, self.number), packet);
    }

    /// One step of the chain, then the draw of the state that it is in.
    fn is_lost(&mut self) -> bool {
        if self.settings.burst_packets == 0 {
            return self.happens(self.settings.loss);
        }
        let [leave_good, leave_bad] = self.turns;
        let turns = chance(&mut self.dice) < if self.bad { leave_bad } else { leave_good };
        self.bad ^= turns;
        self.happens(if self.bad { self.settings.loss_in_bad } else { self.settings.loss_in_good })
    }

    fn jitter(&mut self) -> Duration {
        if self.settings.jitter_ms == 0 {
            return Duration::ZERO;
        }
        let scale = match self.settings.jitter_shape {
            JitterShape::Uniform => chance(&mut self.dice),
            JitterShape::Exponential => (-(1.0 - chance(&mut self.dice)).ln()).min(8.0),
            JitterShape::Normal => {
                // Box and Muller; one of the pair is enough.
                let radius = (-2.0 * (1.0 - chance(&mut self.dice)).ln()).sqrt();
                let angle = std::f64::consts::TAU * chance(&mut self.dice);
                (radius * angle.cos()).abs().min(3.0)
            }
        };
        Duration::from_secs_f64(f64::from(self.settings.jitter_ms) / 1_000.0 * scale)
    }

    fn after_stalls(&self, at: Instant) -> Instant {
        let mut at = at;
        // Windows may touch; each pass gets beyond one of them.
        for _ in 0..=self.settings.stalls.len() {
            let since = at.saturating_duration_since(self.start);
            let Some(end) = self.settings.stalls.iter().find_map(|stall| stall.end_of(since)) else { break };
            at = self.start + end;
        }
        at
    }

    fn happens(&mut self, percent: Percent) -> bool {
        percent > Percent::default() && chance(&mut self.dice) < percent.share()
    }
}

/// Evenly from 0 up to and without 1.
#[expect(clippy::cast_precision_loss, reason = "53 bits are what such a number holds")]
fn chance(dice: &mut Dice) -> f64 {
    (dice.roll() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Probabilities to leave the good and the bad state, so that the loss in the long run is the one that was asked for.
fn turns(settings: &PathSettings) -> [f64; 2] {
    let [loss, good, bad] = [settings.loss, settings.loss_in_good, settings.loss_in_bad].map(Percent::share);
    let in_bad = if bad > good { ((loss - good) / (bad - good)).clamp(0.0, 1.0) } else { 0.0 };
    let leave_bad = 1.0 / f64::from(settings.burst_packets.max(1));
    if in_bad >= 1.0 { [1.0, 0.0] } else { [(leave_bad * in_bad / (1.0 - in_bad)).min(1.0), leave_bad] }
}
